"""Evidence: who may write results, what survives a kill and two writers, the verdict's edges, what reaches a page."""
import json
import platform
import signal
import subprocess
import sys
from html import escape

import pytest

from llmguide.evidence import (
    NO_EFFECT,
    Interval,
    Measurement,
    Section,
    as_plain,
    bootstrap_interval,
    claim,
    claims,
    hardware,
    load_curve,
    load_results,
    paired_difference,
    ratio_interval,
    record,
    record_curve,
    relative_gain,
    results_folder,
    scoreboard,
    scoreboard_markdown,
    section_from_notebook,
    verdict,
    wilson_interval,
    write_report,
)

PLAIN = {"versions": {"python": "3"}, "hardware": {"cpu": "test", "cores": 1}, "date": "2026-01-01"}


def made_up(model="no-model", value=0.5, claim_id="F2", **more):
    about = PLAIN | {"dataset": "demonstration", "dataset_source": "made up", "rows": 10} | more
    return Measurement(claim_id, Interval(value, value, value), model=model, **about)


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setenv("LLMGUIDE_EVIDENCE", "1")
    monkeypatch.setenv("LLMGUIDE_SCALE", "laptop")


# --- who may write ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", [None, "", "0", "yes"])
def test_refuses_without_the_variable(tmp_path, monkeypatch, wish):
    monkeypatch.setenv("LLMGUIDE_SCALE", "laptop")
    monkeypatch.delenv("LLMGUIDE_EVIDENCE", raising=False)
    if wish is not None:
        monkeypatch.setenv("LLMGUIDE_EVIDENCE", wish)
    with pytest.raises(RuntimeError, match="F2.*make evidence"):
        record(made_up(), tmp_path)
    with pytest.raises(RuntimeError, match="curve_one.*make evidence"):
        record_curve("curve_one", [], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_refuses_at_smoke_scale(tmp_path, allowed, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_SCALE", "smoke")
    with pytest.raises(RuntimeError, match="smoke.*laptop"):
        record(made_up(), tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- what is kept ----------------------------------------------------------------------------------------------


def test_same_key_replaces_and_other_keys_stay(tmp_path, allowed):
    lora, qlora = made_up(config={"method": "lora"}), made_up(config={"method": "qlora"})
    again = made_up(config={"method": "lora", "rank": 8}, value=0.7)
    for measurement in (lora, qlora, made_up("other"), again):
        record(measurement, tmp_path)
    assert sorted(map(str, load_results("F2", tmp_path))) == sorted(map(str, [again, qlora, made_up("other")]))


def test_a_file_does_not_depend_on_the_order_of_recording(tmp_path, allowed):
    names = ["c", "a", "b"]
    for order in (names, sorted(names)):
        for name in order:
            path = record(made_up(name), tmp_path / "".join(order))
    assert (tmp_path / "cab" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_no_measurement(value):
    with pytest.raises(ValueError, match="F2"):
        made_up(value=value)


def test_a_damaged_file_is_named_and_left_alone(tmp_path, allowed):
    path = tmp_path / "F2.json"
    path.write_text('[{"claim": "F2", ')
    with pytest.raises(ValueError, match=r"F2\.json.*git checkout"):
        record(made_up(), tmp_path)
    assert path.read_text() == '[{"claim": "F2", '
    path.write_text('[{"claim": "F2", "value": 1}]')
    with pytest.raises(ValueError, match="lacks.*dataset"):
        load_results(folder=tmp_path)


def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path, allowed):
    path = record(made_up(), tmp_path)
    before = path.read_bytes()
    program = f"""
import os, signal
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from llmguide.evidence import record, load_results, from_plain, as_plain
first = load_results("F2", {str(tmp_path)!r})[0]
record(from_plain(as_plain(first) | {{"model": "killed"}}), {str(tmp_path)!r})
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    record(made_up("after"), tmp_path)  # and the lock of the dead process is gone
    assert [known.model for known in load_results(folder=tmp_path)] == ["after", "no-model"]


def test_two_writers_lose_nothing(tmp_path, allowed):
    first = json.dumps(as_plain(made_up()))
    program = f"""
import json, sys
from llmguide.evidence import record, from_plain
plain = json.loads({first!r})
for number in range(20): record(from_plain(plain | {{"model": sys.argv[1] + str(number)}}), {str(tmp_path)!r})
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, name]) for name in "ab"]
    assert [writer.wait(timeout=30) for writer in writers] == [0, 0]
    assert len(load_results("F2", tmp_path)) == 40


def test_results_folder(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = llmguide\n")
    inner = tmp_path / "nbs" / "0_foundations"
    inner.mkdir(parents=True)
    monkeypatch.delenv("LLMGUIDE_RESULTS_DIR", raising=False)
    monkeypatch.chdir(inner)
    assert results_folder() == tmp_path / "results"
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = another\n")
    with pytest.raises(FileNotFoundError, match="LLMGUIDE_RESULTS_DIR"):
        results_folder()
    monkeypatch.setenv("LLMGUIDE_RESULTS_DIR", str(tmp_path / "mine"))
    assert results_folder() == tmp_path / "mine"


def test_curves(tmp_path, allowed):
    rows = [{"rows": 10, "value": 0.5}, {"rows": 20, "value": None}]
    record_curve("accuracy_by_rows", rows, folder=tmp_path, model="no-model")
    assert load_curve("accuracy_by_rows", tmp_path) == rows
    assert load_results(folder=tmp_path) == []
    for name in ("f2", "F2", "../up", "a b", ""):
        with pytest.raises(ValueError, match="small letters"):
            record_curve(name, rows, folder=tmp_path)


def test_hardware_tells_no_host_and_no_path():
    assert "/" not in json.dumps(hardware()) and platform.node() not in hardware().values()


# --- the rule --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim_id", "interval", "expected"),
    [
        ("F1", (70, 70, 70), "reproduced"),  # at least 70 % lower: the bound belongs to it
        ("F1", (70, 1, 99), "reproduced"),
        ("F1", (70, 0, 99), "not reproduced"),  # can't be told from no effect
        ("F1", (69.99, 60, 80), "partly"),
        ("F1", (5, 0.01, 9), "partly"),
        ("F1", (5, 0, 9), "not reproduced"),  # the interval must exclude zero, not touch it
        ("F1", (-5, -9, -1), "not reproduced"),
        ("F1", (80, 60, 65), "partly"),  # the interval lies wholly on the other side
        ("F3", (24, 20, 28), "reproduced"),  # at most 24 GB
        ("F3", (24.01, 20, 28), "not reproduced"),
        ("F3", (1, 1, 1), "reproduced"),
        ("F2", (0.1, 0.1, 0.1), "reproduced"),  # 0.1 to 1 %
        ("F2", (1, 1, 1), "reproduced"),
        ("F2", (0.0999, 0.0999, 0.0999), "not reproduced"),
        ("F2", (1.001, 1, 1.1), "not reproduced"),
        ("P1", (60, 40, 80), "reproduced"),  # 30 to 50 % claimed, but the direction is at_least
        ("C3", (4, 4, 4), "reproduced"),  # times smaller: no effect is one
        ("C3", (3.9, 1.01, 5), "partly"),
        ("C3", (3.9, 1, 5), "not reproduced"),
        ("E1", (1199, 1100, 1300), "not reproduced"),  # a rate is no effect: no "partly"
        ("M1", (2.1, 0, 6), "reproduced"),
        ("F13", (1, 1, 1), "no verdict: figure only"),
        ("F13", None, "not measured here"),
        ("F1", None, "not measured here"),
    ],
)
def test_verdict(claim_id, interval, expected):
    assert verdict(claim_id, interval and Interval(*interval)) == expected
    assert verdict(claim(claim_id), interval and Interval(*interval)) == expected


def test_every_effect_is_known():
    table = claims()
    effects = table[(table.baseline != "") & (table.id != "M1")]
    assert set(effects.unit) == set(NO_EFFECT)


def test_unknown_claims_name_the_known_ones():
    with pytest.raises(ValueError, match="X9.*F1, F2"):
        claim("X9")


# --- intervals -------------------------------------------------------------------------------------------------


def test_intervals_against_known_values():
    assert wilson_interval(8, 10)[1:] == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson (1927) by hand
    gains = paired_difference([0, 0, 1, 1] * 25, [1, 0, 1, 1] * 25)
    assert gains.value == 0.25 and 0.15 < gains.low < 0.2 and 0.3 < gains.high < 0.35  # sd 0.0433
    ratio = ratio_interval([1, 2, 4], [10, 20, 40])
    assert ratio.value == pytest.approx(0.1) and ratio.low < 0.03 and ratio.high > 0.3


@pytest.mark.parametrize("call", [
    lambda: wilson_interval(1, 0), lambda: wilson_interval(-1, 5), lambda: bootstrap_interval([]),
    lambda: bootstrap_interval([1.0, float("nan")]), lambda: paired_difference([1, 0], [1]),
    lambda: ratio_interval([1], [1, 2]), lambda: ratio_interval([-1, 1], [1, 2]), lambda: relative_gain([0, 0], [1, 1]),
])  # fmt: skip
def test_senseless_input_is_refused(call):
    with pytest.raises(ValueError, match=r"."):
        call()


# --- pages -----------------------------------------------------------------------------------------------------

NASTY = '<script>alert("x")</script>'


def test_the_report_escapes_everything(tmp_path, allowed):
    nasty = made_up(NASTY, dataset=NASTY, dataset_source=NASTY, note=NASTY, config={"method": NASTY})
    record(nasty, tmp_path)
    # a table brings its text escaped once, and the reader's cell must stay text when it is written again
    table = f"<table><td>{NASTY}{escape(NASTY)}</td></table>"
    section = Section(NASTY, NASTY, [table], [(NASTY, b"png")], [(NASTY, f"a?{NASTY}")])
    page = write_report(tmp_path / "report.html", [section], title=NASTY, folder=tmp_path).read_text("utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http://" not in page and "https://" not in page  # nothing is loaded from elsewhere
    for entry in claims().itertuples():
        assert f">{entry.id}<" in page


def test_the_markdown_table_keeps_its_columns(tmp_path, allowed):
    record(made_up("a|b\nc"), tmp_path)
    row = next(line for line in scoreboard_markdown(tmp_path).splitlines() if line.startswith("| F2"))
    assert row.replace("\\|", "").count("|") == 7


def test_the_scoreboard_leaves_business_out(tmp_path):
    board = scoreboard(tmp_path)
    assert set(board.verdict) == {"not measured here"} and not set(board.id) & {f"B{number}" for number in range(1, 9)}


def test_a_notebook_without_outputs_is_a_section(tmp_path):
    (tmp_path / "empty.ipynb").write_text('{"cells": []}')
    assert section_from_notebook(tmp_path / "empty.ipynb") == Section("empty", tables=[], figures=[])
