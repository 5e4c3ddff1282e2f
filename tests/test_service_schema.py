"""Nonsense for every path of the service, made from its own OpenAPI document, with every role: no 500, nothing undocumented."""

import os

import pytest
from test_service import serving

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from llmguide.enterprise.access import ROLES
from llmguide.enterprise.configuration import ServiceSettings
from llmguide.enterprise.service import create_app
from llmguide.enterprise.tracing import open_logs

EXAMPLES = 300 if os.environ.get("LLMGUIDE_SOAK") else 20  # of each operation, for each role


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The address of a service with a small handbook, and one key for each role."""
    home = tmp_path_factory.mktemp("service")
    (home / "handbooks").mkdir()
    (home / "handbooks" / "remote.md").write_text("# Remote work\n\nYou may work from home on two days a week.\n")
    open_logs(level="error")
    app = create_app(ServiceSettings(service_dir=home, handbooks=home / "handbooks", rate=1e6, burst=10**6))
    keys = {role: str(app.state.parts.keys.create(role, [role])) for role in ROLES}
    app.state.parts.forget_keys()
    with serving(app) as address: yield address, keys


@pytest.mark.soak
@pytest.mark.parametrize("part", range(4))
def test_nonsense(service, part):
    """Right and wrong requests for every operation; each is sent with the key of every role."""
    address, keys = service
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    schema.config.generation.update(allow_x00=False)
    problems = []
    for operation in [found.ok() for found in schema.get_all_operations()][part::4]:
        try: check(operation, keys.values())
        except* Exception as group: problems.append((operation.label, group))
    assert not problems, "\n\n".join(f"{label}: {group.exceptions}" for label, group in problems)


def check(operation, keys):
    """Let hypothesis make requests for an operation; raises what schemathesis finds wrong."""
    kinds = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))

    @given(kinds)
    @hypothesis_settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 300, database=None,
                         suppress_health_check=list(HealthCheck))
    def send(case):
        # A form has only texts: it can't tell null from "null", or a list of one from one. So its types can't be wrong.
        without = [negative_data_rejection] if case.media_type == "multipart/form-data" else []
        for key in keys: case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, excluded_checks=without)

    send()
