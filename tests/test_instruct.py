"""Self-Instruct killed at any moment, and sheets as people really hand them back."""

import csv
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmguide.chat import Reply
from llmguide.finetuning.instruct import SHEET, read_judged, read_tasks, self_instruct, write_task_sheet

SEEDS = [{"language": "en", "subject": "towels", "instruction": "Name three uses of an old towel.", "output": "Rag, mat, rope."},
         {"language": "zh", "subject": "备份", "instruction": "用一句话解释什么是备份。", "output": "备份就是多存一份。"}]
PROGRAM = """
import sys, time
from test_instruct import SEEDS, scripted
from llmguide.finetuning.instruct import self_instruct
def slow(messages, **options):
    time.sleep(0.01)
    return scripted(messages, **options)
self_instruct(SEEDS, slow, sys.argv[1], wanted=40, report=lambda line: None)
"""


def scripted(messages, seed=0, **options):
    """A new task each time, every fifth about a picture; the answer depends on nothing but the question and the seed."""
    text = messages[-1]["content"]
    if seed % 5 == 4 and "office assistant" in text:
        return Reply("Describe this picture in two words.")
    if "office assistant" in text:
        return Reply(f"Explain w{seed} q{seed} r{seed} t{seed} briefly.")
    if "办公助手" in text:
        return Reply("请说明" + "".join(chr(0x4E00 + 500 * place + seed) for place in range(5)) + "。")
    return Reply(f"answer {random.Random(text + str(seed)).random()} after {len(messages)}", finish_reason="stop")


@pytest.mark.soak
def test_killed_runs_end_as_an_undisturbed_one(tmp_path, repetitions):
    whole = self_instruct(SEEDS, scripted, tmp_path / "whole.jsonl", wanted=40, report=lambda line: None)
    chance = random.Random(3)
    for number in range(repetitions(2, 20)):
        path = tmp_path / f"killed{number}.jsonl"
        command = [sys.executable, "-c", PROGRAM, str(path)]
        for _ in range(2):
            process = subprocess.Popen(command, cwd=Path(__file__).parent)
            end, before = time.monotonic() + 60, path.stat().st_size if path.exists() else 0
            while (not path.exists() or path.stat().st_size == before) and process.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
            time.sleep(chance.random() * 0.2)
            process.send_signal(signal.SIGKILL)
            process.wait()
        lines = path.read_bytes()
        assert lines, "nothing was kept of a killed run"
        path.write_bytes(lines + b'{"language": "zh", "subj')  # what a kill in the middle of a write leaves
        assert self_instruct(SEEDS, scripted, path, wanted=40, report=lambda line: None) == whole
        assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_finished_run_asks_nothing(tmp_path):
    self_instruct(SEEDS, scripted, tmp_path / "t.jsonl", wanted=4, report=lambda line: None)

    def never(messages, **options):
        raise AssertionError("asked again")

    assert len(self_instruct(SEEDS, never, tmp_path / "t.jsonl", wanted=4)) >= 4


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"dropped": null}\n{broken}\n{"dropped": null}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="t.jsonl line 2"):
        read_tasks(path)


def sheet(path, rows, header=SHEET, encoding="utf-8-sig", separator=","):
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows])
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_sheets_as_spreadsheets_save_them(tmp_path, separator, encoding):
    rows = [(1, "en", "Count; to, two.", "one\ntwo", " ACCEPT "), (2, "zh", "数到二。", "一，二", "拒绝")]
    rows.append((3, "en", "a", "b", ""))
    accepted, counts = read_judged(sheet(tmp_path / "s.csv", rows, encoding=encoding, separator=separator))
    assert counts == {"accepted": 1, "rejected": 1, "not judged": 1}
    said = [tuple(message.values()) for message in accepted[0]["messages"]]
    assert said == [("user", "Count; to, two."), ("assistant", "one\ntwo")]


def test_bad_sheets_are_refused_with_the_row(tmp_path):
    with pytest.raises(ValueError, match="GB18030"):
        read_judged(sheet(tmp_path / "a.csv", [(1, "zh", "请把下面这句话翻译成英文。", "好", "接受")], encoding="gb18030"))
    with pytest.raises(ValueError, match="no column 'judgement'"):
        read_judged(sheet(tmp_path / "b.csv", [(1, "en", "a", "b")], header=SHEET[:4]))
    with pytest.raises(ValueError, match="row 1 is accepted but has no instruction or no output"):
        read_judged(sheet(tmp_path / "c.csv", [(1, "en", "Count.", " ", "accept")]))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_judged(tmp_path / "none.csv")


def test_formulas_come_back_as_they_were(tmp_path):
    tasks = [{"language": "en", "instruction": f"{start}1 is what?", "output": f"{start}cmd"} for start in "=+-@"]
    tasks.append({"language": "en", "instruction": "'quoted' text", "output": "it's fine"})
    path = write_task_sheet(tasks, tmp_path / "s.csv")
    text = path.read_text(encoding="utf-8-sig")
    assert not any(cell.startswith(tuple("=+-@")) for row in csv.reader(text.splitlines()) for cell in row)
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = [{**row, "judgement": "accept"} for row in csv.DictReader(file)]
    sheet(path, [list(row.values()) for row in rows])
    read = [[message["content"] for message in row["messages"]] for row in read_judged(path)[0]]
    assert read == [[task["instruction"], task["output"]] for task in tasks]
    assert json.dumps(read_judged(path)[0])
