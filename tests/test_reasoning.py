"""Answers read off replies in two languages, votes, the reasoning rows and what the guide teaches with them."""

import ast
import importlib.util
import json
import random
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest

from llmguide.chat import ScriptedChat
from llmguide.prompting import reasoning
from llmguide.prompting.answers import FORMS, extract_answer, read_numbers, same_answer, vote
from llmguide.prompting.rationales import make_sums, rationale_records, worked_steps
from llmguide.prompting.reasoning import (
    EXAMPLES, accuracy_by_votes, ask_rows, gain_by_level, gsm8k_rows, question_messages, reasoning_rows, sample_answers,
)
from llmguide.replies import Reply

ROOT = Path(__file__).resolve().parents[1]
ROWS = [json.loads(line) for line in (ROOT / "data" / "reasoning.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("reply, answer", [
    # marked answers
    ("The answer is 42.", "42"),
    ("the final answer is -7", "-7"),
    ("Answer: 1,234", "1234"),
    ("**Answer:** 12", "12"),
    ("**The answer is: 36**", "36"),
    ("Answer = 5 apples", "5"),
    ("The answer to the problem is 9", "9"),
    ("5 + 3 = 8\n#### 8", "8"),
    (r"So $x$ is \boxed{17}.", "17"),
    (r"\boxed{\text{about } 3}", "3"),
    (r"\boxed{-\frac{1}{2}}", "-0.5"),
    (r"\boxed{ 1{,}000 }", "1000"),
    (r"\boxed{2\frac{1}{2}}", "2.5"),
    ("【答案】15", "15"),
    ("【答案】：一百零五元", "105"),
    ("【Answer】 7", "7"),
    ("答案是－１２。", "-12"),
    ("最后答案为：两千零二十六", "2026"),
    ("答案应该是负三点五", "-3.5"),
    ("答案：百分之二十", "20"),
    ("答案是四分之三。", "0.75"),
    # several answers
    ("The answer is 9. No, wait. The answer is 7.", "7"),
    (r"\boxed{3} The answer is 4.", "3"),
    ("【答案】5\nThe answer is 4.", "5"),
    ("The answer is 3 + 4 = 7. Checked in 2 ways.", "7"),
    ("The answer is 36, because 6 times 6.", "36"),
    ("The answer is unknown. There are 12.", "12"),
    # unmarked
    ("19 - 42 = -23. -23 + 59 = 36", "36"),
    ("It costs $1,250.50", "1250.5"),
    ("It costs €0.99!", "0.99"),
    ("10-4", "4"),
    ("７ ＋ ８ ＝ １５", "15"),
    ("面积是 36 cm²", "36"),
    ("about 1.5万 people", "15000"),
    ("The sum is −8", "-8"),
    ("1/3", "1/3"),
    ("2½", "2.5"),
    ("25%", "25"),
    ("十五", "15"),
    (".5", "0.5"),
    ("= - 6", "-6"),
    # nothing to read
    ("", None),
    ("   \n ", None),
    ("I don't know.", None),
    ("The answer is a number.", None),
    ("一共不知道", None),
    ("x1 and m2", None),
    ("9" * 5000, None),
])
def test_number_is_read(reply, answer):
    assert extract_answer(reply) == answer


@pytest.mark.parametrize("reply, answer", [
    ("Yes", "Yes"), ("no.", "No"), ("NO", "No"), ("The answer is **No**.", "No"), ("Answer: yes, it follows", "Yes"),
    ("Every cat is a dog, so yes. The answer is No.", "No"), ("It does not follow.", None), ("Nothing", None), ("", None),
    ("The answer is Yes or No.", None), ("Yes or No? Yes.", "Yes"),
    (r"\boxed{Yes}", "Yes"), (r"\boxed{\text{No}}", "No"), ("【答案】No", "No"),
    ("First yes. Then no.", "No"),
])
def test_choice_is_read(reply, answer):
    assert extract_answer(reply, choices=("Yes", "No")) == answer


@pytest.mark.parametrize("reply, answer", [("答案是否。", "否"), ("【答案】是", "是"), ("所以答案为：否", "否"), ("不知道", None)])
def test_chinese_choice_is_read(reply, answer):
    assert extract_answer(reply, choices=("是", "否")) == answer


def test_longer_choice_first():
    assert extract_answer("card lost abroad", choices=("card lost", "card lost abroad")) == "card lost abroad"


def test_one_form_only():
    reply = "【答案】1 \\boxed{2} The answer is 3. And 4"
    assert [extract_answer(reply, form=form) for form in FORMS] == ["1", "2", "3", "4"]
    assert extract_answer("only 4", form="boxed") is None
    with pytest.raises(ValueError, match="bracket, boxed, phrase, last"):
        extract_answer("4", form="roman")


@pytest.mark.parametrize("text", ["\\boxed{" * 3000, "answer is " * 20000, "9 " * 50000, "1/" * 30000, "【答案】" * 20000,
                                  "\\boxed{{{", "一" * 5000])
def test_odd_replies_end_soon(text):
    extract_answer(text)


@pytest.mark.parametrize("text, value", [
    ("零", 0), ("十", 10), ("十一", 11), ("二十", 20), ("二十三", 23), ("一百", 100), ("一百零五", 105), ("一百一十", 110), ("一百五", 150),
    ("两千五", 2500), ("一千零一", 1001), ("两万三千", 23000), ("十二万", 120000), ("一亿二千万", 120_000_000), ("一万亿", 10**12),
    ("二〇二六", 2026), ("负七", -7), ("三点一四", Fraction("3.14")), ("三分之一", Fraction(1, 3)), ("百分之五", 5),
])
def test_chinese_numerals(text, value):
    assert read_numbers(text) == [value]


def test_numbers_are_exact():
    assert read_numbers("0.1 and 0.2") == [Fraction(1, 10), Fraction(1, 5)]
    assert read_numbers("1,23,456") == [1, 23456]
    assert read_numbers("5/0") == [] and read_numbers("2\n1/2") == [2, Fraction(1, 2)]


def test_same_answer():
    assert same_answer("36.0", "36") and same_answer("YES", "Yes") and same_answer("1/2", "0.5")
    assert not any(same_answer(*pair) for pair in [(None, "1"), ("", "1"), ("-1", "1"), ("Yes", "No"), ("1", "1.0000001")])


@pytest.mark.parametrize("answers, winner", [
    ([], None), ([None], None), (["3"], "3"), (["3", "4", "4"], "4"), (["3", "4"], "3"), (["4", "3", "3", "4"], "4"),
    ([None, None, "5"], "5"),
])
def test_vote(answers, winner):
    assert vote(answers) == winner


def value_of(node):
    """Arithmetic by a second road: exact fractions, no code of the guide."""
    if isinstance(node, ast.Constant): return Fraction(node.value)
    if isinstance(node, ast.UnaryOp): return -value_of(node.operand)
    left, right = value_of(node.left), value_of(node.right)
    return {"Add": left + right, "Sub": left - right, "Mult": left * right}[type(node.op).__name__]


def test_arithmetic_answers_are_right():
    rows = [row for row in ROWS if row["task"] == "arithmetic"]
    assert len(rows) >= 320
    for row in rows:
        expression = row["question"].removeprefix("Calculate ").removesuffix(".")
        assert Fraction(row["answer"]) == value_of(ast.parse(expression, mode="eval").body), row


def test_syllogisms_are_right():
    """Every sentence as a rule about which of the eight kinds of things may or must exist; each term names something."""
    rows = [row for row in ROWS if row["name"] == "syllogism"]
    for row in rows:
        lines = row["question"].rstrip("?").split("\n")
        sentences = [lines[1][3:], lines[2][3:], lines[-1]]
        assert (row["answer"] == "Yes") == entailed(sentences[:2], sentences[2]), row


def entailed(premises, conclusion):
    words = [sentence.split() for sentence in [*premises, conclusion]]
    terms = sorted({word[1] for word in words} | {word[-1] for word in words})
    kinds = list(product([False, True], repeat=len(terms)))
    at = {term: place for place, term in enumerate(terms)}

    def true(word, there):
        first = [kind for kind in there if kind[at[word[1]]]]
        inside = [kind for kind in first if kind[at[word[-1]]]]
        if word[0] == "All": return len(inside) == len(first)
        if word[0] == "No": return not inside
        return len(inside) < len(first) if "not" in word else bool(inside)

    for chosen in product([False, True], repeat=len(kinds)):
        there = [kind for kind, is_there in zip(kinds, chosen) if is_there]
        if not all(any(kind[place] for kind in there) for place in range(len(terms))): continue
        if true(words[0], there) and true(words[1], there) and not true(words[2], there): return False
    return True


def test_rows_are_as_described():
    assert len(ROWS) == 880 and len({row["question"] for row in ROWS}) == 880
    assert all(set(row) == {"task", "name", "level", "question", "answer", "seed"} for row in ROWS)
    assert all(len(row["question"]) <= 330 for row in ROWS)
    for task in ("arithmetic", "logic"):
        levels = [row["level"] for row in ROWS if row["task"] == task]
        assert set(levels) == {1, 2, 3, 4} and min(map(levels.count, set(levels))) >= 80
    logic = [row["answer"] for row in ROWS if row["task"] == "logic"]
    assert logic.count("Yes") == logic.count("No") == len(logic) // 2


def test_the_script_knows_a_fallacy():
    spec = importlib.util.spec_from_file_location("make_reasoning", ROOT / "benchmarks" / "make_reasoning.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.follows(("All poets are runners", "All runners are swimmers"), "Some poets are swimmers")
    assert not script.follows(("All poets are runners", "Some runners are swimmers"), "Some poets are swimmers")


def test_rows_by_level():
    few, many = reasoning_rows("arithmetic", 3), reasoning_rows("arithmetic", 30)
    assert [row["level"] for row in few] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert {row["question"] for row in few} <= {row["question"] for row in many}
    with pytest.raises(ValueError, match="chess"): reasoning_rows("chess")


def test_gsm8k_says_where_it_should_be(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_DATASETS_DIR", str(tmp_path))
    reasoning.get_settings.cache_clear() if hasattr(reasoning.get_settings, "cache_clear") else None
    with pytest.raises(FileNotFoundError, match="LLMGUIDE_DATASETS_DIR"): gsm8k_rows()
    (tmp_path / "gsm8k").mkdir()
    row = {"question": "Two boxes of 600?", "answer": "2 * 600 = <<2*600=1200>>1200\n#### 1,200"}
    (tmp_path / "gsm8k" / "test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = gsm8k_rows()[0]
    assert (found["answer"], found["level"], found["worked"]) == ("1200", 1, "2 * 600 = 1200")


def test_examples_are_right_and_not_tested():
    questions = {row["question"] for row in ROWS}
    for task, shown in EXAMPLES.items():
        assert not {question for question, _, _ in shown} & questions
        if task == "logic": continue
        for _, worked, answer in shown: assert same_answer(extract_answer(worked), answer)
    for question, worked, answer in EXAMPLES["arithmetic"]:
        steps, result = worked_steps(question.removeprefix("Calculate ").removesuffix("."))
        assert worked == " ".join(f"{step}." for step in steps) and answer == str(result)


def test_empty_and_cut_replies_are_wrong():
    row = reasoning_rows("arithmetic", 1)[0]
    chat = ScriptedChat([Reply("", {"completion_tokens": 0}, "stop"), Reply("First, we", {"completion_tokens": 3}, "length")])
    found = ask_rows(chat, [row, row], steps=True)
    assert [(one["right"], one["cut"]) for one in found] == [(False, False), (False, True)]
    assert chat.calls[0]["options"]["max_tokens"] == 160


def test_direct_and_reasoned_examples_are_the_same_questions():
    row = reasoning_rows("logic", 1)[0]
    direct, steps = question_messages(row, False, True), question_messages(row, True, True)
    assert [m["content"].rpartition("\n")[0] for m in direct[::2]] == [m["content"].rpartition("\n")[0] for m in steps[::2]]
    assert [m["content"] for m in direct[1::2]] == ["Yes", "No"]


def test_samples_differ_by_seed():
    row, chat = reasoning_rows("arithmetic", 1)[0], ScriptedChat(["The answer is 1.", "", "2"])
    answers, tokens = sample_answers(chat, row, 3)
    assert answers == ["1", None, "2"] and len(tokens) == 3
    assert [call["options"]["seed"] for call in chat.calls] == [0, 1, 2]


def test_votes_of_all_and_of_one():
    answers = [["1", "2", "1"], [None, None, None]]
    assert accuracy_by_votes(answers, ["1", "1"], 3).value == 0.5
    assert 0.25 < accuracy_by_votes(answers, ["1", "1"], 1, draws=500).value < 0.4
    with pytest.raises(ValueError, match="between 1 and the 3"): accuracy_by_votes(answers, ["1", "1"], 0)


def test_gain_by_level_needs_the_same_rows():
    assert gain_by_level([1, 1], [0, 1], [1, 1])[1].value == 50
    with pytest.raises(ValueError, match="not the same rows"): gain_by_level([1, 1], [0, 1], [1])


def test_steps_by_rule_agree_with_exact_fractions():
    chance = random.Random(3)
    for _ in range(200):
        expression = " ".join(f"{chance.randrange(-99, 100)} {chance.choice('+-*')}" for _ in range(4)) + " ( 7 - 9 )"
        steps, result = worked_steps(expression)
        assert result == value_of(ast.parse(expression, mode="eval").body)
        assert steps[-1].endswith(f"= {result}") and len(steps) == 5


@pytest.mark.parametrize("expression", ["", "3 +", "a + 1", "2 ** 9", "1 / 2", "True + 1", "1.5 + 1", "f(1)", "1 + " * 400 + "1"])
def test_what_is_no_sum_is_refused(expression):
    with pytest.raises(ValueError): worked_steps(expression)


def test_training_sums_avoid_the_test():
    avoid = {row["question"] for row in ROWS}
    sums = make_sums(300, avoid, seed=1)
    assert not {row["question"] for row in sums} & avoid and len({row["question"] for row in sums}) == 300
    for record, row in zip(rationale_records(sums, True), sums):
        assert extract_answer(record["completion"][0]["content"]) == row["answer"]
    with pytest.raises(ValueError, match="ask for fewer"): make_sums(1000, set())
