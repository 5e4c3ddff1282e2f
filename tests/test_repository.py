"""The repository keeps its own promises: light imports, clean files, obeyed notebook flags, a complete wheel."""

import json
import os
import random
import re
import subprocess
import sys
import time
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "datasets", "peft", "lancedb", "sentence_transformers", "matplotlib", "openai"}
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users)/\w")
SECRET = re.compile(
    r"\bsk-[A-Za-z0-9_-]{32,}|\bghp_[A-Za-z0-9]{36}|\bhf_[A-Za-z]{30,}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY"
)


def repository_files():
    """Every file that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git repository: an unpacked archive has no list of tracked files")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def texts():
    """(path, content) of the repository's text files."""
    for path in repository_files():
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            yield path.relative_to(ROOT).as_posix(), content.decode("utf-8")


def notebooks():
    """(path, notebook) of the repository's notebooks."""
    for path in repository_files():
        if path.suffix == ".ipynb":
            yield path.relative_to(ROOT).as_posix(), json.loads(path.read_text(encoding="utf-8"))


# ---- light imports


@pytest.mark.parametrize("module", ["llmguide", "llmguide.settings", "llmguide.catalog", "llmguide.cli"])
def test_import_is_light(module):
    """Importing the core must not load what only the extras need."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())


# ---- clean files


def test_no_machine_paths_and_no_secrets():
    """No committed text names a folder of somebody's machine or holds a key."""
    found = [
        f"{path}:{content[: hit.start()].count(chr(10)) + 1}: {hit[0][:12]}…"
        for path, content in texts()
        for pattern in (MACHINE_PATH, SECRET)
        for hit in pattern.finditer(content)
    ]
    assert not found, "\n".join(found)


def test_results_can_be_read_back():
    """results/ holds measurements that the scoreboard shows, and tables of plots, and nothing else."""
    from llmguide.evidence import load_curve, load_results, scoreboard

    claims = {measurement.claim for measurement in load_results(folder=ROOT / "results")}
    shown = set(scoreboard(folder=ROOT / "results")["id"])
    for path in sorted((ROOT / "results").glob("**/*.json")):
        if path.stem in claims:
            assert path.stem in shown, path.name
        else:
            assert load_curve(path.stem, folder=ROOT / "results"), path.name


def test_the_readme_shows_the_scoreboard_of_the_results():
    """A figure measured again is not left as it was on the first page: run nbs/index.ipynb, then `make export`."""
    from llmguide.evidence import scoreboard_markdown

    assert scoreboard_markdown(folder=ROOT / "results").strip() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_notebook_cells_have_ids():
    """Exported modules name their cells by id, so every cell needs one, and only once."""
    for path, notebook in notebooks():
        ids = [cell.get("id") for cell in notebook["cells"]]
        assert all(ids) and len(set(ids)) == len(ids), f"{path}: missing or repeated cell ids"


def test_notebook_outputs_are_small():
    """No cell's output is over 250 KB, so that pages open and diffs stay readable."""
    for path, notebook in notebooks():
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                assert len(json.dumps(output)) <= 250_000, f"{path}, cell {cell['id']}: an output over 250 KB"


def test_make_and_python_offer_the_same_targets():
    """The Makefile lists the targets of make.py, in the same order."""
    names = re.search(r"^TARGETS := (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    helped = subprocess.run([sys.executable, ROOT / "make.py"], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^make (\w+) +\S", helped, re.M) == [*names]


def test_constraints_pin_every_requirement():
    """Each requirement of settings.ini is pinned to one version in constraints.txt, and to nothing else."""
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    keys = [key for key in settings["DEFAULT"] if key == "requirements" or key.endswith("_requirements")]
    wanted = {re.match(r"[\w.-]+", line)[0] for key in keys for line in settings["DEFAULT"][key].split()}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "only NAME==VERSION lines"
    assert {comparable(name) for name in wanted} <= {comparable(line.split("==")[0]) for line in lines}


def comparable(name):
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


# ---- the bridge between nbdev's directives and nbmake (conftest.py)


def run_notebook(folder, *sources, timeout=60, **variables):
    """Run a notebook of these code cells by pytest --nbmake under conftest.py; returns the finished process."""
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
        for i, source in enumerate(sources)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "lesson.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    (folder / "conftest.py").write_bytes((ROOT / "conftest.py").read_bytes())
    options = ["--nbmake", f"--nbmake-timeout={timeout}", "--rootdir", folder, "-p", "no:cacheprovider", "-q"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "LLMGUIDE_RUN"))}
    environment["LLMGUIDE_COLD_KERNELS"] = "1"  # one kernel is not worth the imports for many
    command = [sys.executable, "-m", "pytest", *options, *variables.pop("extra", []), folder / "lesson.ipynb"]
    return subprocess.run(
        command, cwd=folder, env=environment | variables, capture_output=True, text=True, check=False, timeout=300
    )


def test_flagged_cells_are_left_out(tmp_path):
    """A cell whose directives name a flag does not run, also in xdist's workers."""
    flagged = [f"#| {flag}\nraise RuntimeError" for flag in ("cuda", "slow", "notest", "eval: false")]
    done = run_notebook(tmp_path, "1", *flagged, "#| export\n#| cuda\nraise RuntimeError", extra=["-n", "1"])
    assert done.returncode == 0, done.stdout


def test_a_lifted_flag_runs_its_cells(tmp_path):
    """LLMGUIDE_RUN_FLAGS lifts the flags it names and no others."""
    cells = "#| slow\nraise RuntimeError('slow ran')", "#| cuda\nraise RuntimeError('cuda ran')"
    done = run_notebook(tmp_path, *cells, LLMGUIDE_RUN_FLAGS="cuda")
    assert done.returncode == 1, done.stdout
    assert "cuda ran" in done.stdout and "slow ran" not in done.stdout


def test_timeout_is_for_the_whole_notebook(tmp_path):
    """Cells share --nbmake-timeout: two of three seconds each do not fit into four."""
    nap = "import time; time.sleep(3)"
    done = run_notebook(tmp_path, "#| cuda\n1", nap, nap, timeout=4)
    assert done.returncode == 1, done.stdout
    assert "timed out" in done.stdout and "INTERNAL ERROR" not in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every kernel starts from nothing")
def test_forked_kernels_are_warm_and_share_nothing(monkeypatch, tmp_path):
    """A kernel finds the large libraries imported, and nothing that another kernel or pytest left behind."""
    from jupyter_client.provisioning import local_provisioner
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    from nbformat.v4 import new_code_cell, new_notebook
    from warm_kernels import ForkedKernel

    def run(source):
        NotebookClient(new_notebook(cells=[new_code_cell(source)]), timeout=60).execute(cwd=tmp_path)

    monkeypatch.setattr(local_provisioner, "launch_kernel", ForkedKernel)
    monkeypatch.setattr(json, "left_behind", 1, raising=False)
    run("import json; json.left_behind = 1")
    run("import json, sys; assert 'torch' in sys.modules and not hasattr(json, 'left_behind')")
    run(f"import os; assert os.getcwd() == {str(tmp_path)!r} and os.getpgid(0) == os.getpid()")
    run("import atexit, pathlib; atexit.register(pathlib.Path('ended').touch)")
    assert (tmp_path / "ended").exists()
    with pytest.raises(CellExecutionError): run("1 / 0")
    with pytest.raises(DeadKernelError): run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


# ---- nothing is half-written


@pytest.mark.soak
def test_a_killed_writer_leaves_the_old_file_or_the_new(tmp_path, repetitions):
    """SIGKILL at any moment of write_atomically never leaves a part of a file under its name."""
    target = tmp_path / "artifact.bin"
    size = 4_000_000
    code = (
        "import itertools, sys; from llmguide.settings import write_atomically; print(flush=True)\n"
        f"for i in itertools.count(): write_atomically(sys.argv[1], bytes([i % 256]) * {size})"
    )
    chance = random.Random(0)
    for _ in range(repetitions(10, 500)):
        writer = subprocess.Popen([sys.executable, "-c", code, target], stdout=subprocess.PIPE)
        writer.stdout.readline()  # the imports are done, writing begins
        time.sleep(0.02 + 0.05 * chance.random())
        writer.kill()
        writer.communicate()
        if target.exists():
            content = target.read_bytes()
            assert len(content) == size and len(set(content)) == 1


# ---- the package


def test_wheel_holds_modules_and_data(tmp_path):
    """An installed wheel has every module and every file under assets/ and web/, and the command."""
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", tmp_path / "wheel"]
    source = tmp_path / "source"
    for path in repository_files():
        name = path.relative_to(ROOT)
        if name.parts[0] in ("llmguide", "setup.py", "settings.ini", "pyproject.toml", "LICENSE", "README.md"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(path.read_bytes())
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True)
    (wheel,) = (tmp_path / "wheel").glob("llmguide-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("llmguide/")}
        entry_points = archive.read(next(name for name in archive.namelist() if name.endswith("entry_points.txt")))
    assert packed == {path.relative_to(source).as_posix() for path in source.glob("llmguide/**/*") if path.is_file()}
    assert b"llmguide.cli:main" in re.sub(rb"\s", b"", entry_points)
