"""The command line: one line for every mistake a reader can mend, nothing half-written, JSON that parses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import typer

from llmguide import __version__, catalog
from llmguide.cli import app, error_line, main
from llmguide.inputs import check_artifact_output, labelled_parts
from llmguide.stories import only_one, run_evidence

COMMANDS = sorted(typer.main.get_command(app).commands)
GOOD = [f"the orders of week {n} {'rose' if n % 2 else 'fell'},{'up' if n % 2 else 'down'}" for n in range(40)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder with a good file in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMGUIDE_DEBUG", raising=False)
    table("good.csv", GOOD)
    return tmp_path


def table(name, rows, header="text,label", encoding="utf-8"):
    Path(name).write_bytes("\n".join([header, *rows, ""]).encode(encoding))


def everything(folder):
    """{path: content} of all that is in a folder."""
    return {path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def refused(capsys, *arguments):
    """Run a command that must be refused with one line and exit code 2; returns the line."""
    before = everything(Path.cwd())
    assert main(list(arguments)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("llmguide: ") and shown.err.count("\n") == 1 and shown.err.endswith("\n")
    assert everything(Path.cwd()) == before, "something was left behind"
    return shown.err


def program(*arguments, **variables):
    """The program in a process of its own."""
    command = [sys.executable, "-m", "llmguide.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)


# ---- help


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help(command, capsys):
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr()
    assert "Usage: llmguide" in shown.out and shown.err == ""


def test_the_promised_commands_are_there():
    promised = "run doctor prefetch models data build evidence finetune predict report scoreboard"
    assert set(promised.split()) <= set(COMMANDS)


def test_help_is_light():
    code = "import sys; from llmguide.cli import main; main(['finetune', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "matplotlib", "transformers"} & set(done.stdout.split())


def test_version_and_bare_name(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert main([]) == 0
    assert "Usage" in capsys.readouterr().out


# ---- bad input, before any model is loaded

BAD_TABLES = {  # what is wrong: (header, rows, encoding, words of the message)
    "no text column": ("sentence,label", GOOD, "utf-8", ["bad.csv", "'text'", "sentence, label"]),
    "no label column": ("text,mood", GOOD, "utf-8", ["bad.csv", "'label'", "text, mood"]),
    "only a header": ("text,label", [], "utf-8", ["bad.csv", "no rows", "add rows"]),
    "one class": ("text,label", ["a b,up", "c d,up"], "utf-8", ["bad.csv", "'label'", "one class", "'up'"]),
    "a class of one row": ("text,label", [*GOOD, "x,flat"], "utf-8", ["bad.csv", "'label'", "'flat'", "add rows"]),
    "too few rows": ("text,label", GOOD[:4], "utf-8", ["bad.csv", "4 rows are too few", "--test"]),
    "copies of two texts": ("text,label", ["a,up", "b,down"] * 20, "utf-8", ["bad.csv", "too alike"]),
    "empty texts": ("text,label", [*GOOD, ",up", "  ,down"], "utf-8", ["bad.csv", "'text'", "2 of 42", "row 41, 42"]),
    "an empty label": ("text,label", [*GOOD, "some text,"], "utf-8", ["bad.csv", "'label'", "row 41"]),
    "a text of signs": ("text,label", [*GOOD, "...,up"], "utf-8", ["bad.csv", "'text'", "row 41"]),
    "latin-1": ("text,label", ["The café is full,up"], "latin-1", ["bad.csv", "not UTF-8", "LATIN1", "iconv"]),
    "GB18030": ("text,label", ["公司利润大幅上升，超出预期,利好"], "gb18030", ["bad.csv", "not UTF-8", "GB18030", "iconv"]),
    "50,000 characters": ("text,label", [*GOOD, "word " * 10_000 + ",up"], "utf-8", ["bad.csv", "'text'", "row 41", "shorten"]),
    "short rows": ("text,label", [*GOOD, "no label at all"], "utf-8", ["bad.csv", "'label'", "row 41"]),
}


@pytest.mark.parametrize("wrong", BAD_TABLES)
def test_bad_tables(wrong, folder, capsys):
    header, rows, encoding, words = BAD_TABLES[wrong]
    table("bad.csv", rows, header, encoding)
    line = refused(capsys, "finetune", "--data", "bad.csv", "--output", "new")
    assert all(word in line for word in words), line


def test_empty_file(folder, capsys):
    Path("bad.csv").touch()
    assert "bad.csv is empty" in refused(capsys, "finetune", "--data", "bad.csv", "--output", "new")


@pytest.mark.parametrize(("name", "words"), [
    ("nowhere.csv", "there is no file nowhere.csv"), ("sheet.xlsx", "save the table as CSV"),
    (".", "there is no file"), ("phrasbank", "did you mean"),
])  # fmt: skip
def test_data_that_is_no_table(name, words, folder, capsys):
    Path("sheet.xlsx").touch()
    assert words in refused(capsys, "finetune", "--data", name, "--output", "new")


def test_bad_validation_and_test_files(folder, capsys):
    table("strange.csv", [*GOOD, "sideways,flat"])
    table("latin.csv", ["The café is full,up"], encoding="latin-1")
    base = ("finetune", "--data", "good.csv", "--output", "new")
    assert "strange.csv has the class 'flat'" in refused(capsys, *base, "--test", "strange.csv")
    assert "latin.csv is not UTF-8" in refused(capsys, *base, "--validation", "latin.csv")
    assert "there is no file gone.csv" in refused(capsys, *base, "--validation", "gone.csv")


def test_bad_models(folder, capsys):
    base = ("finetune", "--data", "good.csv", "--output", "new", "--model")
    assert "did you mean smollm2-135m-instruct" in refused(capsys, *base, "smollm3-135m-instruct")
    assert "is for text embedding" in refused(capsys, *base, "all-minilm-l6-v2")


def test_wrong_hash(folder, capsys, monkeypatch):
    fake = folder / "models" / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    fake.parent.mkdir(parents=True)
    fake.write_bytes(b"not the model")
    monkeypatch.setenv("LLMGUIDE_MODELS_DIR", str(folder / "models"))
    line = refused(capsys, "finetune", "--data", "good.csv", "--output", "new")
    assert "is not the smollm2-135m-instruct we know" in line and "llmguide prefetch smollm2-135m-instruct" in line


def test_missing_model_offline(folder, capsys, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_MODELS_DIR", str(folder / "none"))
    monkeypatch.setenv("LLMGUIDE_OFFLINE", "1")
    assert "llmguide prefetch" in refused(capsys, "finetune", "--data", "good.csv", "--output", "new")


# ---- bad output


def test_output_that_is_in_the_way(folder, capsys):
    Path("photos").mkdir()
    Path("photos/cat.jpg").touch()
    base = ("finetune", "--data", "good.csv", "--output")
    assert "photos holds other files (cat.jpg): name a new or empty folder" in refused(capsys, *base, "photos")
    assert "good.csv is a file: name a folder" in refused(capsys, *base, "good.csv")
    assert "good.csv is a file; choose another --output" in refused(capsys, *base, "good.csv/new")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
@pytest.mark.parametrize("path", ["/proc/new", "/proc/new/deep"])
def test_output_that_nobody_can_write(path, folder, capsys):
    line = refused(capsys, "finetune", "--data", "good.csv", "--output", path)
    assert f"can't write {path}" in line and "choose another --output" in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is permitted to root")
def test_output_in_a_read_only_folder(folder, capsys):
    Path("locked").mkdir(mode=0o555)
    assert "can't write locked/new" in refused(capsys, "finetune", "--data", "good.csv", "--output", "locked/new")


def test_output_comes_first(folder, capsys):
    assert "is a file" in refused(capsys, "finetune", "--data", "nowhere.csv", "--model", "none", "--output", "good.csv")


def test_an_older_artefact_may_be_replaced(folder):
    Path("old", "adapter").mkdir(parents=True)
    Path("old", "artifact.json").touch()
    check_artifact_output(Path("old"))
    Path("old", "predictions.csv").touch()
    with pytest.raises(ValueError, match="predictions.csv"):
        check_artifact_output(Path("old"))


# ---- prediction


def test_predict_refuses(folder, capsys):
    Path("artefact").mkdir()
    base = ("predict", "--artifact", "artefact", "--data")
    gone = ("predict", "--artifact", "gone", "--data", "good.csv", "--output", "o.csv")
    assert "there is no artefact folder gone" in refused(capsys, *gone)
    assert "is the file to be read" in refused(capsys, *base, "good.csv", "--output", "./good.csv")
    assert "is a folder: name a file" in refused(capsys, *base, "good.csv", "--output", "artefact")
    assert "good.csv is a file; choose another" in refused(capsys, *base, "good.csv", "--output", "good.csv/o.csv")
    assert "no column 'headline'" in refused(capsys, *base, "good.csv", "--text", "headline", "--output", "o.csv")
    assert "there is no file new.csv" in refused(capsys, *base, "new.csv", "--output", "o.csv")
    table("holes.csv", [*GOOD, ",up"])
    assert "row 41" in refused(capsys, *base, "holes.csv", "--output", "o.csv")


def test_predict_refuses_a_folder_that_is_no_artefact(folder, capsys):
    pytest.importorskip("llmguide.finetuning.predict")
    Path("artefact").mkdir()
    assert "artefact" in refused(capsys, "predict", "--artifact", "artefact", "--data", "good.csv", "--output", "o.csv")


# ---- mistyped commands, and how errors look


@pytest.mark.parametrize(("arguments", "words"), [
    (["finetun"], "Did you mean 'finetune'"), (["finetune"], "--data"), (["finetune", "--metod", "lora"], "--metod"),
    (["finetune", "--data", "good.csv", "--output", "new", "--method", "loora"], "lora"),
    (["finetune", "--data", "good.csv", "--output", "new", "--epochs", "0"], "--epochs"),
    (["build", "poetry"], "choose sentiment"), (["prefetch", "gpt-5"], "did you mean"),
    (["prefetch", "financial-phrasebank"], "does not travel as a package"),
])  # fmt: skip
def test_mistyped(arguments, words, folder, capsys):
    assert words in refused(capsys, *arguments)


def test_the_line_is_never_wrapped(folder):
    table("one.csv", ["a,up", "b,up"])
    done = program("finetune", "--data", "one.csv", "--output", "new", COLUMNS="30")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["--debug before", "--debug behind", "variable"])
def test_debug_shows_the_traceback(how, folder, monkeypatch):
    arguments = ["build", "poetry"]
    if how == "variable": monkeypatch.setenv("LLMGUIDE_DEBUG", "1")
    else: arguments = ["--debug", *arguments] if how.endswith("before") else [*arguments, "--debug"]
    with pytest.raises(ValueError, match="poetry"): main(arguments)


def test_errors_of_several_lines_become_one():
    assert error_line(OSError("first\n  second")) == "llmguide: first second"
    assert error_line(FileNotFoundError(2, "No such file or directory", "x")) == "llmguide: x: No such file or directory"
    assert error_line(ValueError()) == "llmguide: ValueError"


def test_a_bug_is_not_hidden(folder, monkeypatch):
    def broken(names, report): raise ZeroDivisionError

    monkeypatch.setattr(catalog, "prefetch", broken)
    with pytest.raises(ZeroDivisionError): main(["prefetch"])


def test_interrupted(folder, capsys, monkeypatch):
    def interrupted(names, report): raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "prefetch", interrupted)
    assert main(["prefetch"]) == 130
    assert capsys.readouterr().err.strip().splitlines() == ["llmguide: interrupted; finetune goes on with --resume"]


# ---- JSON


@pytest.mark.parametrize(("command", "key"), [("models", "models"), ("data", "data"), ("scoreboard", "scoreboard")])
def test_json(command, key, folder, capsys, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_RESULTS_DIR", str(folder))
    assert main([command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [key] and found[key]


def test_errors_leave_the_json_channel_empty(folder, capsys):
    refused(capsys, "finetune", "--data", "nowhere.csv", "--output", "new", "--json")


def test_doctor_finds_missing_models(folder, capsys, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_MODELS_DIR", str(folder / "none"))
    assert main(["doctor", "--json"]) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert sorted(found) == ["catalog", "extras", "machine", "problems"]
    assert len(found["problems"]) == shown.err.count("llmguide: ") == 4
    assert all("llmguide prefetch" in problem for problem in found["problems"])


def test_doctor_names_a_device_that_is_not_there(folder, capsys, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_DEVICE", "cuda:99")
    assert main(["doctor"]) == 1
    assert "LLMGUIDE_DEVICE" in capsys.readouterr().err


def test_bad_settings(folder, capsys, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_SCALE", "huge")
    assert "LLMGUIDE_SCALE='huge'" in refused(capsys, "doctor")


# ---- stories and evidence


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with a story that fails and one that doesn't."""
    for name, code in {"1_bad": "1 / 0", "2_good": "print('done')"}.items():
        path = tmp_path / "nbs" / name / "00_story.ipynb"
        path.parent.mkdir(parents=True)
        skipped = nbformat.v4.new_code_cell("#| cuda\nraise RuntimeError('needs a GPU')")
        cells = [nbformat.v4.new_markdown_cell(f"# {name}"), skipped, nbformat.v4.new_code_cell(code)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    for name in ("results", "benchmarks"): (tmp_path / name).mkdir()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = llmguide\n")
    (tmp_path / "benchmarks" / "evidence_bad.py").write_text("raise SystemExit(4)")
    (tmp_path / "benchmarks" / "evidence_good.py").write_text("open('measured', 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMGUIDE_RUN_FLAGS", raising=False)
    monkeypatch.delenv("LLMGUIDE_RESULTS_DIR", raising=False)
    return tmp_path


def test_a_failing_story_is_named_and_the_others_run(project, capsys):
    assert main(["run", "--json"]) == 1
    shown = capsys.readouterr()
    bad, good = json.loads(shown.out)["stories"]
    assert (bad["chapter"], bad["failed_cell"], good["failed_cell"]) == ("1_bad", 3, None)
    assert "1_bad: cell 3 of 3 failed: ZeroDivisionError: division by zero in '1 / 0'" in shown.err
    assert all((project / "out" / name / "00_story.html").exists() for name in ("1_bad", "2_good"))
    assert "2_good/00_story.html" in (project / "out" / "report.html").read_text(encoding="utf-8")


def test_one_chapter(project, capsys):
    assert main(["run", "good"]) == 0
    shown = capsys.readouterr()
    assert "claims measured" in shown.out and "report.html" in shown.err
    assert not (project / "out" / "1_bad").exists()
    assert "there are 1_bad, 2_good" in refused(capsys, "run", "ugly")


def test_outside_of_a_repository(folder, capsys):
    for command in ("run", "report", "evidence"): assert "clone the repository" in refused(capsys, command)


def test_report_and_scoreboard(project, capsys):
    assert main(["report", "--output", "page.html"]) == 0
    assert (project / "page.html").exists() and capsys.readouterr().out.strip().endswith("page.html")
    assert main(["scoreboard"]) == 0
    assert "claims measured" in capsys.readouterr().out


def test_evidence_goes_on_after_a_failure(project, capsys, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_SCALE", "laptop")
    assert main(["evidence", "--list"]) == 0
    assert capsys.readouterr().out.split() == ["bad", "good"]
    assert main(["evidence"]) == 1
    assert "failed: bad; the others are done" in capsys.readouterr().err
    assert (project / "measured").exists()


def test_evidence_refuses(project, capsys, monkeypatch):
    assert "there are bad, good" in refused(capsys, "evidence", "ugly")
    monkeypatch.setenv("LLMGUIDE_SCALE", "smoke")
    with pytest.raises(ValueError, match="too few rows"): run_evidence({})


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such lock on Windows")
def test_evidence_runs_once_at_a_time(project, capsys):
    with only_one(project / "out" / "evidence.lock", "a measurement"):
        done = program("evidence", "good")
    assert done.returncode == 2 and f"process {os.getpid()}" in done.stderr
    assert not (project / "measured").exists()


# ---- the rows behind a fine-tuning


def test_parts_are_the_same_for_the_same_seed(folder):
    first, second, other = (labelled_parts("good.csv", seed=seed) for seed in (1, 1, 2))
    assert first == second != other
    assert [len(part) for part in first[:3]] == [32, 4, 4] and first.copies == 0
    assert sorted(row["text"] for part in first[:3] for row in part) == sorted(line.split(",")[0] for line in GOOD)


def test_files_of_your_own_are_taken_whole(folder):
    shutil.copy("good.csv", "mine.csv")
    parts = labelled_parts("good.csv", test="mine.csv")
    assert (len(parts.train), len(parts.validation), len(parts.test), parts.copies) == (36, 4, 40, 40)
    parts = labelled_parts("good.csv", validation="mine.csv", test="mine.csv")
    assert [len(part) for part in parts[:3]] == [40, 40, 40]


def test_any_labels_in_any_language(folder):
    rows = [f"第{n}周订单{'上升' if n % 2 else '下降'}\t{'利好' if n % 2 else '利空'}" for n in range(40)]
    table("zh.csv", rows, "标题\t情绪")
    parts = labelled_parts("zh.csv", "标题", "情绪")
    assert parts.train.labels == ["利好", "利空"]


def test_finetune_knows_every_method():
    from typing import get_args

    from llmguide.commands import TrainingMethod
    from llmguide.finetuning.methods import METHODS

    assert get_args(TrainingMethod) == tuple(METHODS)


def test_check_reports_and_trains_nothing(folder, capsys):
    shutil.copy("good.csv", "mine.csv")
    command = ["finetune", "--data", "good.csv", "--output", "out", "--check", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and {"memory", "forecast", "end token"} <= {each["check"] for each in found["findings"]}
    assert main([*command, "--test", "mine.csv"]) == 1  # the test rows are the training rows
    assert "test leak" in [each["check"] for each in json.loads(capsys.readouterr().out)["findings"] if each["level"] == "error"]
    assert not Path("out").exists()


def test_inspect_trains_and_looks_at_parts(folder, capsys, monkeypatch):
    from llmguide.multimodal.inspection import QualityInspector
    from llmguide.multimodal.tiles import draw_tiles

    parts, train = draw_tiles(folder / "零件 parts", parts=8, exposures=1), QualityInspector.train
    monkeypatch.setattr(QualityInspector, "train", lambda *given, report: train(*given, steps=1, report=report))  # one step is quick
    for form in ([], ["--json"]):
        assert main(["inspect", "train", str(parts), "--output", "inspector.safetensors", *form]) == 0
        said = capsys.readouterr().out
    assert json.loads(said)["pictures"] == 8 and len(json.loads(said)["auroc"]) == 3
    (parts / "images" / "broken.png").write_bytes(b"no picture")
    assert main(["inspect", "look", str(parts / "images"), "--inspector", "inspector.safetensors", "--output", "page.html", "--json"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["pictures"], found["unreadable"]) == (9, 1) and "broken.png" in err and "broken.png" in Path("page.html").read_text()


def test_inspect_names_what_is_missing(folder, capsys):
    for words, said in ((["train", "nowhere", "--output", "i.safetensors"], "no folder nowhere"),
                        (["look", "nowhere", "--inspector", "i.safetensors"], "no inspector i.safetensors")):  # fmt: skip
        assert main(["inspect", *words]) == 2
        assert said in (line := capsys.readouterr().err) and line.count("\n") == 1, line
