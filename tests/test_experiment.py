"""The experiment engine when things go wrong: budgets under threads, killed runs, spoiled caches, bad files."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from llmguide.chat import connect
from llmguide.cli import main
from llmguide.prompting.budget import Budget, BudgetSpent, token_bound
from llmguide.prompting.cache import Answer, LabelReader, cached
from llmguide.prompting.decide import anytime_interval, anytime_p, holm, mcnemar, paired_p, rows_needed
from llmguide.prompting.experiment import compare
from llmguide.prompting.noise import FORMATS, NOISES, is_chinese, messages_of, noisy, reformat, robustness
from llmguide.prompting.prompt_file import PromptFileError, read_prompt_file
from llmguide.replies import Reply, ScriptedChat
from llmguide.templates import Template

ROWS = [{"text": f"订单{n}{'增加了' if n % 2 else '减少了'}。", "label": "好" if n % 2 else "坏"} for n in range(40)]
PROMPTS = {"plain": Template("plain", "评论：{text}"), "other": Template("other", "评论：{text}\n好还是坏？")}


def right(messages):
    return "好" if "增加" in messages[-1]["content"] else "坏"


# ---- budget


class Counting:
    """A server that counts what it gives and answers up to `most` tokens after a moment."""

    model, client, url = "counting", None, ""

    def __init__(self, most=50, hidden=0, fail=0.0):
        self.most, self.hidden, self.fail, self.calls, self.tokens = most, hidden, fail, 0, 0
        self.lock, self.dice = threading.Lock(), random.Random(0)

    def __call__(self, messages, **options):
        time.sleep(0.001)
        with self.lock:
            said = self.dice.randint(1, min(self.most, options["max_tokens"]))
            read = len(messages[-1]["content"].encode()) + self.hidden
            self.calls, self.tokens = self.calls + 1, self.tokens + read + said
            if self.dice.random() < self.fail: raise ConnectionError("the line went dead")
        return Reply("word " * said, {"prompt_tokens": read, "completion_tokens": said}, "stop")


@pytest.mark.parametrize("limits", [{"calls": 37}, {"tokens": 6000}, {"calls": 60, "tokens": 9000}, {"calls": 0}, {"tokens": 100}])
@pytest.mark.parametrize("fail", [0.0, 0.3])
def test_budget_is_never_passed_with_eight_threads(limits, fail):
    server, budget = Counting(fail=fail), Budget(**limits)
    chat = cached(server, budget=budget)
    chat.waits = (0.0, 0.0)
    ended = chat.ask_all([[{"role": "user", "content": f"第{n}个问题"}] for n in range(200)], workers=8, max_tokens=50)
    assert any(isinstance(each, (BudgetSpent, ConnectionError)) for each in ended)
    assert server.calls == budget.calls <= limits.get("calls", server.calls)
    assert server.tokens <= budget.tokens <= limits.get("tokens", budget.tokens)


def test_budget_is_used_as_far_as_it_goes():
    server, budget = Counting(most=5), Budget(tokens=5000)
    chat = cached(server, budget=budget)
    chat.ask_all([[{"role": "user", "content": str(n)}] for n in range(2000)], workers=8, max_tokens=50)
    assert 5000 - token_bound([{"role": "user", "content": "1999"}], {"max_tokens": 50}) < budget.tokens <= 5000


def test_a_hidden_prompt_can_surprise_only_once():
    server, budget = Counting(most=1, hidden=900), Budget(tokens=5000)
    chat = cached(server, budget=budget)
    chat.ask_all([[{"role": "user", "content": str(n)}] for n in range(20)], max_tokens=1)
    assert server.tokens == budget.tokens <= 5000


def test_bound_holds_for_any_text():
    for text in ("x" * 10_000, "汉字" * 500, "🙂" * 100, "\u200b" * 50, "a\x00b"):
        assert token_bound([{"role": "user", "content": text}], {}) > len(text.encode()) + 256
    with pytest.raises(ValueError, match="only bound text"):
        token_bound([{"role": "user", "content": [{"type": "image_url"}]}], {})


def test_an_interrupt_gives_back_the_place_but_not_the_tokens():
    def interrupted(messages): raise KeyboardInterrupt

    budget = Budget(calls=5, tokens=10_000)
    with pytest.raises(KeyboardInterrupt): cached(ScriptedChat(interrupted), budget=budget)("a question")
    assert budget.calls == 1 and 0 < budget.tokens
    assert cached(ScriptedChat("fine"), budget=budget)("a question").text == "fine"


# ---- a real server over HTTP


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.asked.append(body["messages"][-1]["content"])
            broken = len(self.server.asked) in self.server.broken
        time.sleep(self.server.delay)
        text = right(body["messages"])
        data = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "fake", "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}}).encode()  # fmt: skip
        self.send_response(503 if broken else 200)
        for name, value in (("content-type", "application/json"), ("content-length", str(len(data)))): self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_): "Say nothing."


@pytest.fixture
def server():
    """A fake model server that notes what it was asked."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.broken, made.delay, made.lock, made.daemon_threads = [], (), 0.0, threading.Lock(), True
    made.handle_error = lambda *_: None  # clients that are killed are part of the test
    made.base = f"http://127.0.0.1:{made.server_port}/v1"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_each_try_counts(server):
    server.broken = (1, 2)
    budget = Budget(calls=3)
    chat = cached(connect("fake", server.base), budget=budget)
    chat.waits = (0.0, 0.0)
    assert chat("订单增加了").text == "好"
    assert len(server.asked) == budget.calls == 3
    with pytest.raises(BudgetSpent, match="3 of 3 calls"): chat("订单减少了")


def test_retries_stop_at_the_budget(server):
    server.broken = range(100)
    chat = cached(connect("fake", server.base), budget=Budget(calls=2))
    chat.waits = (0.0, 0.0)
    with pytest.raises((ConnectionError, BudgetSpent)): chat("订单增加了")
    assert len(server.asked) == 2


RUN = """
import sys
from llmguide.chat import connect
from llmguide.prompting.experiment import Budget, compare
from llmguide.templates import Template

rows = [{"text": f"order {n} \u589e\u52a0", "label": "\u597d"} for n in range(40)]
prompts = {name: Template(name, name + " {text}") for name in ("a", "b")}
found = compare(prompts, rows, connect("fake", sys.argv[1]), folder=sys.argv[2], workers=4, batch=10,
                budget=Budget(calls=int(sys.argv[3]), ledger=sys.argv[2] + "/ledger.json"))
print(len(found.rows), found.spent)
"""


def start(server, folder, calls=200):
    return subprocess.Popen([sys.executable, "-c", RUN, server.base, str(folder), str(calls)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=os.environ | {"LLMGUIDE_SCALE": "smoke"})  # fmt: skip


def test_a_killed_run_goes_on_without_asking_again(server, tmp_path):
    server.delay = 0.02
    first = start(server, tmp_path)
    end = time.monotonic() + 60
    while len(server.asked) < 30 and time.monotonic() < end: time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(0.1)  # what was under way arrives
    kept = (tmp_path / "answers.jsonl").read_bytes().count(b"\n")
    asked, under_way = len(server.asked), len(server.asked) - kept
    assert kept >= 20 and 0 <= under_way <= 4
    out, err = start(server, tmp_path).communicate(timeout=120)
    assert out.startswith("40 "), err
    assert len(server.asked) == asked + 80 - kept
    again = [question for question in set(server.asked) if server.asked.count(question) > 1]
    assert len(again) <= under_way
    out, _ = start(server, tmp_path).communicate(timeout=120)
    assert out.startswith("40 ") and len(server.asked) == asked + 80 - kept, "the third run is free"


def test_killed_again_and_again_the_ledger_holds(server, tmp_path):
    server.delay = 0.01
    for _ in range(3):
        run, before = start(server, tmp_path, calls=50), len(server.asked)
        end = time.monotonic() + 60
        while len(server.asked) < before + 10 and run.poll() is None and time.monotonic() < end: time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        run.wait()
    time.sleep(0.1)
    out, _ = start(server, tmp_path, calls=50).communicate(timeout=120)
    assert len(server.asked) <= 50, out


# ---- cache


def test_key_has_model_messages_and_options(tmp_path):
    counting = Counting()
    chat = cached(counting, tmp_path)
    ask = [dict(messages="a"), dict(messages="b"), dict(messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "a"}])]
    ask += [dict(messages="a", max_tokens=9), dict(messages="a", temperature=0.5), dict(messages="a", seed=1), dict(messages="a", stop=".")]
    for each in ask: chat(each.pop("messages"), **{"max_tokens": 50} | each)
    assert counting.calls == len(ask) == len(chat)
    chat("a", max_tokens=50, temperature=0.0)  # an option at its default is the same question
    assert counting.calls == len(ask)
    assert len(cached(Counting(), tmp_path, name="another")._answers) == len(ask)
    other = Counting()
    cached(other, tmp_path, name="another")("a", max_tokens=50)
    assert other.calls == 1


def test_address_and_model_are_in_the_name_but_no_password():
    names = {cached(connect(model, base)).name for model in ("m", "n") for base in ("http://a:1/v1", "http://b:1/v1")}
    assert len(names) == 4
    assert "secret" not in cached(connect("m", "http://user:secret@a:1/v1")).name


def test_random_answers_without_a_seed_are_not_kept():
    counting = Counting()
    chat = cached(counting)
    for _ in range(3): chat("a", temperature=1.0, seed=None, max_tokens=5)
    assert counting.calls == 3 and len(chat) == 0


@pytest.mark.parametrize("spoil", [b"{", b"null", b"[]", b"\xff\xfe", b'{"model": 1}', b'{"reply": {"text": 3}}', b"x" * 100_000])
def test_damaged_lines_are_left_out(tmp_path, spoil):
    chat = cached(ScriptedChat(right), tmp_path)
    for row in ROWS[:3]: chat(row["text"])
    file = tmp_path / "answers.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], spoil, lines[1][: len(lines[1]) // 2], lines[2][:-9]]))
    with pytest.warns(UserWarning, match="3 of its lines can't be read"): again = cached(ScriptedChat(right), tmp_path)
    assert len(again) == 1
    for row in ROWS[:3]: assert again(row["text"]).text == row["label"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(cached(ScriptedChat([]), tmp_path)) == 3


def test_many_threads_write_whole_lines(tmp_path):
    chat = cached(ScriptedChat(lambda messages: messages[-1]["content"] * 200), tmp_path)
    with ThreadPoolExecutor(8) as pool: list(pool.map(lambda n: chat(f"问题{n % 50}"), range(400)))
    assert len(chat.chat.calls) == 50
    lines = (tmp_path / "answers.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 50 and all(json.loads(line) for line in lines)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError): cached(ScriptedChat("a"), tmp_path / "file")


# ---- statistics


def test_mcnemar_by_hand():
    first, second = [1] * 50 + [0] * 12 + [1] * 3, [1] * 50 + [1] * 12 + [0] * 3
    ways = sum([1, 15, 105, 455])  # 15 rows differ; 3 or fewer heads of 15
    assert mcnemar(first, second) == pytest.approx(2 * ways / 2**15, abs=1e-12)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert paired_p(first, second) == mcnemar(first, second)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.02, 0.5]) == pytest.approx([0.08, 0.04, 0.06, 0.5])
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]), "a larger p-value never becomes the smaller one"


def test_rows_needed_against_the_textbook():
    # Connor (1987) with 20 % and 10 % discordant: psi 0.3, difference 0.1, power 0.8
    assert rows_needed(10, 0.3) == 234
    with pytest.raises(ValueError, match="can't be"): rows_needed(31, 0.3)


def test_looking_after_every_row_keeps_the_promise():
    dice, false = np.random.default_rng(3), 0
    for _ in range(200):
        rows = dice.choice([1, 0, -1], p=[0.2, 0.6, 0.2], size=150)
        false += any(anytime_p(rows[:n]) < 0.05 for n in range(5, 151, 5))
    assert false / 200 < 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_interval_holds_the_truth_for_scores_between():
    dice = np.random.default_rng(4)
    missed = 0
    for _ in range(100):
        found = anytime_interval(np.clip(dice.normal(0.2, 0.3, 80), -1, 1))
        missed += not found.low <= 0.197 <= found.high
    assert missed <= 10


# ---- compare


def test_chinese_rows_and_a_page_that_runs_nothing(tmp_path):
    rows = [row | {"text": row["text"] + "<script>alert(1)</script>"} for row in ROWS]
    names = {"<b>甲</b>": PROMPTS["plain"], "乙 & \"c\"": lambda row: f"<img src=x onerror=alert(2)> {row['text']}"}
    wrong = ScriptedChat(lambda messages: "<svg/onload=alert(3)>" if messages[-1]["content"].startswith("<img") else right(messages))
    found = compare(names, rows, wrong)
    page = found.report(tmp_path / "page.html", title="<title>").read_text("utf-8")
    for bad in ("<script", "<img", "<svg/", "<b>甲", "<title>&lt;title&gt;</h1>"): assert bad not in page
    for good in ("&lt;script&gt;alert(1)", "&lt;b&gt;甲&lt;/b&gt;", "订单", "&lt;svg/onload"): assert good in page
    assert found.verdict("乙 & \"c\"") == "worse" and found.verdict("<b>甲</b>") == "the first"
    assert "<script" not in found._repr_html_() and "&lt;b&gt;" in found._repr_html_()


def test_what_is_shown_of_a_comparison_holds_no_rows():
    found = compare(PROMPTS, ROWS, ScriptedChat(right))
    assert "订单" not in repr(found) + found._repr_html_() and "other" in repr(found)


def test_a_run_is_the_same_with_many_workers():
    one, eight = (compare(PROMPTS, ROWS, ScriptedChat(right), workers=workers) for workers in (1, 8))
    assert [row["text"] for row in one.rows] == [row["text"] for row in eight.rows]
    assert (one.scores["exact"]["plain"] == eight.scores["exact"]["plain"]).all()


def test_rows_and_scores_belong_together():
    odd = ScriptedChat(lambda messages: right(messages) if "订单1" in messages[-1]["content"] else "?")
    found = compare(PROMPTS, ROWS, odd, budget=Budget(calls=57), workers=3, batch=7)
    assert 0 < len(found.rows) < 40
    for row, score in zip(found.rows, found.scores["exact"]["other"]): assert score == float("订单1" in row["text"])


def test_nothing_to_keep_raises():
    def gone(messages): raise ConnectionError("nobody there")

    chat = cached(ScriptedChat(gone))
    chat.waits = (0.0, 0.0)
    with pytest.raises(ConnectionError, match="nobody there"): compare(PROMPTS, ROWS, chat)


@pytest.mark.parametrize("rows", [[], ROWS[:1], [{"label": "好"}] * 3])
def test_bad_rows_are_named_before_a_call(rows):
    silent = ScriptedChat([])
    with pytest.raises(ValueError): compare(PROMPTS, rows, silent)
    assert silent.calls == []


class ByLength:
    name = "length"

    def __init__(self): self.batches = []

    def choose(self, prompts, labels, calibrate=False):
        self.batches.append(len(prompts))
        return [labels[len(messages[-1]["content"]) % len(labels)] for messages in prompts]


def test_a_label_scorer_answers_in_batches_and_is_kept(tmp_path):
    scorer = ByLength()
    chat = cached(LabelReader(scorer, ["好", "坏"]), tmp_path)
    found = compare(PROMPTS, ROWS, chat, batch=20)
    assert scorer.batches == [20, 20, 20, 20] and chat.budget.calls == 80
    again = ByLength()
    second = compare(PROMPTS, ROWS, cached(LabelReader(again, ["好", "坏"]), tmp_path))
    assert again.batches == [] and (second.scores["exact"]["plain"] == found.scores["exact"]["plain"]).all()
    limited = cached(LabelReader(ByLength(), ["好", "坏"]), budget=Budget(calls=50))
    assert len(compare(PROMPTS, ROWS, limited, batch=10).rows) == 20 and limited.budget.calls <= 50


# ---- noise


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("text", ["", " ", "1", "ok", "的", "Profit rose 12.5 %.", "价格 320 元，很干净。", "🙂" * 9, "word " * 20_000])
def test_noise_is_the_same_each_time_and_keeps_numbers(noise, text):
    changed = noisy({"text": text, "label": "x"}, noise)
    assert changed == noisy({"text": text, "label": "x"}, noise) and changed["label"] == "x"
    digits = lambda value: [c for c in value.translate({0xFF10 + n: 48 + n for n in range(10)}) if c.isdigit()]  # noqa: E731
    assert digits(changed["text"]) == digits(text)
    if is_chinese(text) and len(text) > 5 and noise != "aside": assert len(changed["text"]) == len(text)


@pytest.mark.parametrize("name", FORMATS)
def test_formats_leave_the_text_alone(name):
    row = {"text": "a: b\n\nc，d: {x}"}
    for prompt in (Template("p", "评论：{text}\n\n情感："), Template("q", "News: {text}\nAnswer:")):
        assert row["text"] in reformat(messages_of(prompt, row), row["text"], name)[0]["content"]


def test_robustness_counts_changed_answers():
    def hangs_on_a_colon(messages): return right(messages) if "：" in messages[-1]["content"] else "不知道"

    found = robustness({"plain": PROMPTS["plain"]}, ROWS[:10], ScriptedChat(hangs_on_a_colon))
    lines = {line["change"]: line for line in found.table()}
    assert lines["dashes"]["changed_value"] == lines["width"]["changed_value"] == 100 and lines["dashes"]["gain_value"] == -100
    assert lines["synonyms"]["changed_value"] == 0 and lines["as it is"]["value"] == 100
    assert found.spread("plain")[0] == 100


def test_robustness_stops_when_the_budget_does():
    with pytest.raises(BudgetSpent): robustness(PROMPTS, ROWS, cached(ScriptedChat(right), budget=Budget(calls=10)))


# ---- prompt files

GOOD = """prompts:
  - "Say {{word}}"
  - "Please say {{word}}"
providers: [echo]
tests:
  - vars: {word: [hello, 你好]}
    assert:
      - {type: contains, value: '{{word}}'}
"""

MANY = list(range(200))
BAD = {
    "empty": ("", "line 1", "empty"),
    "not yaml": (GOOD.replace("[echo]", "[echo"), "line", "not YAML"),
    "tab": ("prompts:\n\t- a", "line 2", "indentation"),
    "unknown key": (GOOD.replace("tests:", "test:"), "line 5", "did you mean 'tests'"),
    "twice": (GOOD + "prompts: [a]\n", "line 9", "twice"),
    "no tests": (GOOD[: GOOD.index("  - vars")], "line 5", "add at least one"),
    "unquoted": (GOOD.replace('"Say {{word}}"', "{{word}}"), "line 2", "quote"),
    "misspelt assertion": (GOOD.replace("type: contains", "type: contans"), "line 8", "did you mean 'contains'"),
    "javascript": (GOOD.replace("type: contains", "type: javascript"), "line 8", "code in a test file is not run"),
    "pattern": (GOOD.replace("type: contains, value: '{{word}}'", "type: regex, value: '['"), "line 8", "the pattern"),
    "schema": (GOOD.replace("type: contains, value: '{{word}}'", "type: is-json, value: {type: 3}"), "line 8", "no JSON schema"),
    "missing value": (GOOD.replace("{word: [", "{words: ["), "line 6", "add it to vars"),
    "provider": (GOOD.replace("echo", "'anthropic:claude'"), "line 4", "is not known"),
    "number": (GOOD.replace("[echo]", "[{id: echo, config: {max_tokens: -1}}]"), "line 4", "max_tokens"),
    "filter": (GOOD.replace("Say {{word}}", "Say {{ word | upper }}"), "line 2", "filters"),
    "code": (GOOD.replace("Say {{word}}", "file://prompts.py"), "line 2", "code is not run"),
    "missing file": (GOOD.replace("Say {{word}}", "file://no.txt"), "line 2", "check the path"),
    "object": (GOOD + "tags: !!python/object/apply:os.system [ls]\n", "line 9", "not YAML"),
    "threshold": (GOOD + "    threshold: 3\n", "line 6", "from 0 to 1"),
    "cost": (GOOD.replace("type: contains, value: '{{word}}'", "type: cost, threshold: 1"), "line 8", "inputCost"),
    "combinations": (GOOD.replace("[hello, 你好]", f"{MANY}, other: {MANY}"), "line 6", "40,000"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder, and a cache folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMGUIDE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_and_code_2(folder, capsys, name):
    text, line, remedy = BAD[name]
    Path("bad.yaml").write_text(text, encoding="utf-8")
    assert main(["prompt-test", "bad.yaml"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert shown.err.startswith("llmguide: bad.yaml " + line) and remedy in shown.err, shown.err
    assert not Path("cache").exists(), "nothing is asked before the file is right"


def test_not_utf8_and_not_there(folder, capsys):
    Path("latin.yaml").write_bytes(b"prompts:\n  - caf\xe9\n")
    assert main(["prompt-test", "latin.yaml"]) == 2
    assert "latin.yaml line 2: not UTF-8" in capsys.readouterr().err
    assert main(["prompt-test", "nowhere.yaml"]) == 2
    assert "no file nowhere.yaml" in capsys.readouterr().err


def test_exit_codes_json_and_page(folder, capsys):
    Path("good.yaml").write_text(GOOD, encoding="utf-8")
    assert main(["prompt-test", "good.yaml", "--json", "--output", "page.html"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["passed"], found["failed"], found["spent"]) == (4, 0, "4 calls, " + found["spent"].split(", ")[1])
    assert "你好" in Path("page.html").read_text("utf-8")
    Path("good.yaml").write_text(GOOD.replace("contains", "not-contains"), encoding="utf-8")
    assert main(["prompt-test", "good.yaml", "--calls", "0"]) == 1, "the answers were kept, so it costs no call"
    shown = capsys.readouterr()
    assert shown.err.count("good.yaml line 6") == 4 and "0 of 2" in shown.out


def test_a_budget_that_is_too_small(folder, capsys):
    Path("good.yaml").write_text(GOOD, encoding="utf-8")
    assert main(["prompt-test", "good.yaml", "--calls", "1"]) == 2
    assert "the budget is spent (1 of 1 calls" in capsys.readouterr().err
    assert main(["prompt-test", "good.yaml", "--calls", "3"]) == 0


def test_output_that_would_replace_the_file(folder, capsys):
    Path("good.yaml").write_text(GOOD, encoding="utf-8")
    assert main(["prompt-test", "good.yaml", "--output", "good.yaml"]) == 2
    assert "name another one in --output" in capsys.readouterr().err and Path("good.yaml").read_text("utf-8") == GOOD


def test_a_server_that_is_down_keeps_what_there_is(folder, capsys, server, monkeypatch):
    monkeypatch.setattr("llmguide.prompting.cache.CachedChat.waits", (0.0, 0.0))
    provider = f"[{{id: 'openai:chat:fake', config: {{apiBaseUrl: '{server.base}'}}}}]"
    Path("good.yaml").write_text(GOOD.replace("[echo]", provider), encoding="utf-8")
    server.broken = range(3, 100)
    assert main(["prompt-test", "good.yaml"]) == 2
    assert "HTTP 503" in capsys.readouterr().err
    asked, server.broken = len(server.asked), ()
    assert main(["prompt-test", "good.yaml"]) == 1  # the fake server says nothing of the word
    assert len(server.asked) == asked + 2, "two of the four answers were kept"


def test_a_test_that_cannot_fail_is_named(folder, capsys):
    Path("idle.yaml").write_text("prompts: ['Say {{word}}']\nproviders: [echo]\ntests:\n  - vars: {word: hello}\n", encoding="utf-8")
    assert main(["prompt-test", "idle.yaml"]) == 0
    assert "idle.yaml line 4" in (said := capsys.readouterr().err) and "can't fail" in said


def test_values_go_in_as_they_are(folder):
    Path("good.yaml").write_text(GOOD.replace("[hello, 你好]", "['{{word}}', '\\\\1 {0} %s']"), encoding="utf-8")
    found = read_prompt_file("good.yaml")
    assert [case.values["word"] for case in found.cases] == ["{{word}}", "\\\\1 {0} %s"]
    assert main(["prompt-test", "good.yaml"]) == 0


def test_a_bomb_is_refused_quickly(folder):
    letters = "abcdefghijklmnop"
    bomb = "tags:\n  a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"  {b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in zip(letters, letters[1:]))
    Path("bomb.yaml").write_text(GOOD + bomb, encoding="utf-8")
    start = time.monotonic()
    with pytest.raises(PromptFileError, match="too much"): read_prompt_file("bomb.yaml")
    assert time.monotonic() - start < 2


def test_an_answer_is_an_answer():
    assert Answer(Reply("a"), 0.1).fresh is True
