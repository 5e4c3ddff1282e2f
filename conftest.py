"""How pytest runs this repository: small, offline, and with the notebooks' own directives obeyed.

nbmake runs every cell of a notebook; nbdev marks the cells that need a GPU or much time with a first line such as
`#| cuda`. The bridge below makes nbmake leave those cells out. LLMGUIDE_RUN_FLAGS=cuda,slow lets some of them run.
On Linux the kernels come from warm_kernels.py; LLMGUIDE_COLD_KERNELS=1 starts each from nothing, as a reader does.
"""

import os
import re
import sys
import time
from types import SimpleNamespace

import pytest

FLAG = re.compile(r"^#\|\s*(eval:\s*false|slow|cuda|notest)\s*$")

os.environ.setdefault("IN_TEST", "1")  # a closing nbdev_export() cell must not export during tests
os.environ.setdefault("LLMGUIDE_SCALE", "smoke")
if os.environ["LLMGUIDE_SCALE"] != "full":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure(config):
    """Put the bridge into nbmake, in this process and so in each of xdist's workers."""
    if config.getoption("nbmake", False):
        from nbmake import nb_run

        nb_run.nbformat = SimpleNamespace(read=read_tagged)
        nb_run.NotebookClient = client_with_deadline
        if sys.platform == "linux" and not os.environ.get("LLMGUIDE_COLD_KERNELS"):
            from jupyter_client.provisioning import local_provisioner
            from warm_kernels import ForkedKernel

            local_provisioner.launch_kernel = ForkedKernel


def read_tagged(path, version):
    """Read a notebook and tag the cells that are not to run."""
    import nbformat

    notebook = nbformat.read(path, version)
    lifted = {flag.strip() for flag in os.environ.get("LLMGUIDE_RUN_FLAGS", "").split(",")}
    for cell in notebook.cells:
        if cell.cell_type == "code" and flags_of(cell.source) - lifted:
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "skip-execution"]
            cell.metadata["execution"] = {"shell.execute_reply": ""}  # nbmake's search for a timed-out cell reads it
    return notebook


def flags_of(source):
    """The flags among a cell's leading `#|` lines: a set of "cuda", "slow", "notest", "eval:false"."""
    found = set()
    for line in source.splitlines():
        if not line.startswith("#|"):
            break
        if match := FLAG.match(line):
            found.add(match[1].replace(" ", ""))
    return found


def client_with_deadline(notebook, timeout, **options):
    """nbclient's runner, with --nbmake-timeout as the seconds of a whole notebook instead of each cell."""
    from nbclient import NotebookClient

    end = time.monotonic() + timeout
    return NotebookClient(notebook, timeout_func=lambda cell: max(1, end - time.monotonic()), **options)


@pytest.fixture
def repetitions():
    """repetitions(few, many): few in `make test`, many in `make soak`; its tests carry the mark `soak`."""
    return lambda few, many: many if os.environ.get("LLMGUIDE_SOAK") else few
