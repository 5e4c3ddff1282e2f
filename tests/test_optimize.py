"""The optimiser keeps its promises (calls, seeds, untouched rows) on any scorer, and the rubric its arithmetic, without a model."""

import json
import random
import re

import numpy as np
import pytest

from llmguide.chat import ScriptedChat
from llmguide.load import Rows
from llmguide.prompting.candidates import LAYOUTS, Candidate, Prompt, build, draw_examples, in_turn, wordings
from llmguide.prompting.optimize import (
    Counter, Round, evened, evidence, halve, judge, mistakes, optimize, plan, promised, rewrite, save_prompt,
)  # fmt: skip
from llmguide.prompting.rubric import CHECKS, PARTS, score_prompt
from llmguide.prompting.tasks import Task

NUMBERS = Rows([{"text": f"number {n}", "label": ("even", "odd")[n % 2]} for n in range(100, 220)])
PARITY = Task("parity", "Is the number even or odd?", ("even", "odd"), NUMBERS[:80], NUMBERS[80:])
REVIEWS = Rows([{"text": f"房间{'干净' if n % 2 else '太吵'}，第{n}晚。", "label": ("差评", "好评")[n % 2]} for n in range(60)])
CHINESE = Task("hotel", "这条酒店评论是好评还是差评？", ("好评", "差评"), REVIEWS[:40], REVIEWS[40:], "zh")


class Learner:
    """Right about a row as far as the prompt shows examples; otherwise it always says its first answer."""

    def __init__(self): self.seen = []

    def scores(self, prompts, labels):
        self.seen += prompts
        texts = ["\n".join(message["content"] for message in messages) for messages in prompts]
        numbers = [re.findall(r"\d+", text) for text in texts]
        return np.array([[(int(found[-1]) % 2 == place % 2) * (len(found) - 1) - place / 4 for place, _ in enumerate(labels)]
                         for found in numbers], float)  # fmt: skip


@pytest.mark.parametrize("budget", [12, 13, 50, 99, 240, 401, 5000])
@pytest.mark.parametrize("candidates", [2, 3, 6])
def test_a_plan_spends_its_budget_and_never_more(budget, candidates):
    rounds = plan(budget, 10_000, candidates)
    assert budget - 2 <= promised(rounds) <= budget
    sizes = [each.candidates for each in rounds]
    assert sizes[0] == candidates and sizes == sorted(sizes, reverse=True)
    assert all(each.rows >= 1 for each in rounds)


@pytest.mark.parametrize("rows", [1, 2, 5, 30])
def test_a_plan_never_asks_about_rows_that_are_not_there(rows):
    assert sum(each.rows for each in plan(1000, rows)) <= rows


@pytest.mark.parametrize(("budget", "candidates"), [(0, None), (1, None), (5, 6), (100, 60)])
def test_a_budget_too_small_is_named_with_a_remedy(budget, candidates):
    with pytest.raises(ValueError, match=f"a budget of {budget} calls is too small"): plan(budget, 100, candidates)


@pytest.mark.parametrize("budget", [20, 63, 150])
@pytest.mark.parametrize("task", [PARITY, CHINESE])
def test_the_model_is_asked_exactly_as_often_as_promised(budget, task):
    learner = Learner()
    result = optimize(task, learner, budget)
    assert result.calls == len(learner.seen) == promised(plan(budget, len(task.examples) // 2)) <= budget


def test_a_counter_refuses_before_it_asks():
    learner = Learner()
    counter = Counter(learner, 3)
    with pytest.raises(RuntimeError, match="0 of 3 calls are spent, 4 more"):
        counter.scores([[{"role": "user", "content": "1"}]] * 4, ["a"])
    assert learner.seen == [] and counter.calls == 0


def test_rounds_beyond_budget_or_rows_are_refused_before_the_first_call():
    learner = Learner()
    with pytest.raises(ValueError, match="take 100 calls"): optimize(PARITY, learner, 99, rounds=[Round(10, 10)])
    with pytest.raises(ValueError, match="on 50 rows"): optimize(PARITY, learner, 9999, rounds=[Round(2, 50)])
    assert learner.seen == []


def test_the_same_seed_gives_the_same_prompt_and_another_seed_other_candidates():
    first, again, other = (optimize(PARITY, Learner(), 120, seed=seed) for seed in (0, 0, 1))
    assert first == again and str(first.prompt) == str(again.prompt)
    assert first.history != other.history or first.prompt != other.prompt


def test_no_test_row_is_asked_about_or_shown():
    learner = Learner()
    result = optimize(PARITY, learner, 150)
    asked = "\n".join(message["content"] for messages in learner.seen for message in messages)
    assert not any(row["text"] in asked.split("\n") or f" {row['text']}" in asked for row in PARITY.rows)
    assert not any(row["text"] in str(result.prompt) for row in PARITY.rows)


def test_it_finds_the_better_prompt_and_says_so():
    found = evidence(optimize(PARITY, Learner(), 120), PARITY, Learner())
    assert found["plain"].value == 50 and found["found"].value == 100
    assert found["gain"].low > 20 and found["test calls"] == 2 * len(PARITY.rows)


@pytest.mark.parametrize(("labels", "examples", "said"), [
    ((), NUMBERS, "0 labels"), (("even",), NUMBERS, "1 labels"), (("even", "odd"), Rows(), "0 rows"),
    (("even", "odd"), NUMBERS[:3], "3 rows")])  # fmt: skip
def test_tasks_it_can_not_work_on_are_named(labels, examples, said):
    task = Task("small", "Say it.", labels, examples, NUMBERS[90:])
    with pytest.raises(ValueError, match=said): optimize(task, Learner())


def test_more_candidates_than_there_can_be_is_an_error():
    with pytest.raises(ValueError, match="different prompts can be made"):
        optimize(Task("few", "Odd?", ("even", "odd"), NUMBERS[:4], NUMBERS[90:]), Learner(), 10**6, candidates=150)


def test_rows_that_were_seen_can_not_be_tested_on():
    result = optimize(PARITY, Learner(), 60)
    with pytest.raises(ValueError, match="stand among the examples"):
        evidence(result, Task("seen", "?", ("even", "odd"), NUMBERS[:80], [{"text": "NUMBER 101!", "label": "odd"}]), Learner())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("text", ["{text}", "{0} {name} {{x}}", "a\nText: b\nLabel:", "房间 => 好评", "\\1 %s $text"])
def test_a_text_goes_in_as_it_is(layout, text):
    prompt = build(Candidate("Say {yes} or no.", (("{text} shown", "a"),), layout, {"a": "yes", "b": "no"}))
    filled, mark = prompt.fill(text), prompt.fill("\0")
    assert filled[:-1] == mark[:-1] and filled[-1]["content"] == mark[-1]["content"].replace("\0", text)
    assert "{text} shown" in "".join(message["content"] for message in filled) and json.loads(json.dumps(filled)) == filled


def test_an_instruction_that_holds_the_place_of_the_text_is_refused():
    with pytest.raises(ValueError, match="must not hold {text}"): build(Candidate("Judge {text}.", (), LAYOUTS[0], {"a": "a"}))


def test_examples_take_the_labels_in_turn():
    rows = [{"text": str(n), "label": "rare" if n < 3 else "common"} for n in range(40)]
    assert [label for _, label in draw_examples(rows, 6, random.Random(0))].count("rare") == 3
    assert {row["label"] for row in in_turn(rows, random.Random(0))[:2]} == {"rare", "common"}
    assert [row["label"] for row in in_turn(NUMBERS, random.Random(0))].count("odd") == len(NUMBERS) // 2
    assert sorted(row["text"] for row in in_turn(rows, random.Random(0))) == sorted(row["text"] for row in rows)


def test_wordings_that_mix_labels_up_are_refused():
    assert wordings(("x", "y"), [{"x": "1", "y": "2"}])[-1] == {"x": "1", "y": "2"}
    for wrong in ({"x": "1"}, {"x": "1", "y": "1"}, {"x": "1", "z": "2"}):
        with pytest.raises(ValueError, match="a word of its own"): wordings(("x", "y"), [wrong])


def test_an_even_prompt_has_no_favourite():
    prompt = Prompt(({"role": "user", "content": "{text}"},), {"a": "a", "b": "b"})
    rows = [{"text": str(n), "label": "ab"[n % 2]} for n in range(20)]
    scores = np.log([[0.9, 0.1] if n % 2 == 0 else [0.8, 0.2] for n in range(20)])
    assert judge(prompt, rows, scores)[0].mean() == 0.5 and judge(evened(prompt, scores), rows, scores)[0].all()


class Leaning:
    """Says `even` of everything, but less surely of odd numbers."""

    def scores(self, prompts, labels):
        """In the order of the labels, `even` first."""
        odd = [int(re.findall(r"\d+", messages[-1]["content"])[-1]) % 2 for messages in prompts]
        return np.log([[0.7, 0.3] if each else [0.9, 0.1] for each in odd])


def test_a_prompt_competes_with_and_without_its_favourites():
    prompts = [build(Candidate("?", (), LAYOUTS[0], {"even": "even", "odd": "odd"}))]
    (plain, left), (fair, right) = (halve(prompts, NUMBERS[:20], Leaning(), [Round(1, 20)], even) for even in (False, True))
    assert (left[0]["right"], right[0]["right"]) == (10, 20) and plain.liking == () and len(fair.liking) == 2


def test_survivors_keep_what_they_have_answered():
    prompts = [build(Candidate("?", draw_examples(NUMBERS[:40], 2 * n, random.Random(0)), LAYOUTS[0], {"even": "even", "odd": "odd"}))
               for n in range(4)]  # fmt: skip
    learner = Learner()
    best, history = halve(prompts, NUMBERS[40:80], learner, [Round(4, 5), Round(2, 7)])
    assert len(learner.seen) == 4 * 5 + 2 * 7
    assert [each["rows"] for each in history] == [5] * 4 + [12] * 2
    assert str(best).startswith(str(prompts[3]).split("[answers]")[0])


def test_a_saved_prompt_needs_no_library(tmp_path):
    result = optimize(CHINESE, Learner(), 60)
    found = evidence(result, CHINESE, Learner())
    content = json.loads(save_prompt(result, found, tmp_path / "prompt.json").read_text(encoding="utf-8"))
    assert set(content["answers"].values()) == {"好评", "差评"} and "{text}" in content["messages"][-1]["content"]
    assert content["evidence"]["search calls"] == result.calls and content["difference"] == result.diff
    assert [path.name for path in tmp_path.iterdir()] == ["prompt.json"]


def test_mistakes_hold_the_answer_that_was_given():
    prompt = build(Candidate("?", (), LAYOUTS[0], {"even": "E", "odd": "O"}))
    assert mistakes(prompt, NUMBERS[:4], Learner()) == [{**NUMBERS[n], "answer": "even"} for n in (1, 3)]


@pytest.mark.parametrize("reply", ["", "  \n", "```\n```", "word " * 500, 'Use "{text}" here', "Instruction:"])
def test_a_reply_that_holds_no_instruction_is_an_error(reply):
    with pytest.raises(ValueError, match="another seed"):
        rewrite(ScriptedChat([reply]), "Judge.", [{"text": "x", "label": "a", "answer": "b"}])


def test_a_rewritten_instruction_can_take_part():
    said = rewrite(ScriptedChat(["“看最后两位数字再回答。”"]), PARITY.instruction, mistakes_of_a_huge_text())
    assert said == "看最后两位数字再回答。"
    learner = Learner()
    optimize(PARITY, learner, 200, said=[said])
    assert any(said in message["content"] for messages in learner.seen for message in messages)


def mistakes_of_a_huge_text():
    """One mistake on a text of a million characters."""
    return [{"text": "x" * 10**6, "label": "a", "answer": "b"}] * 50


# the rubric

BASES = ("", "What about this? {text}", "Classify the review as good or bad.\n\n{text}", "判断情感：{text}", "答案", "x" * 100_000)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("part", "more"), [
    ("examples", "Text: It rose.\nLabel: good\n\nText: It fell.\nLabel: bad\n\n"),
    ("constraints", "Answer only one of these, never explain.\n\n"), ("clarity", "Classify the review.\n\n"),
    ("structure", "### Task\n\nText:\n\n"), ("constraints", "只回答其中之一，不要解释。\n\n"),
    ("examples", "太吵 => 差评\n干净 => 好评\n\n")])  # fmt: skip
def test_adding_what_a_part_asks_for_never_costs_points_in_it(base, part, more):
    if part == "clarity" and not base.strip(): base = "x"
    assert score_prompt(more + base)["parts"][part] >= score_prompt(base)["parts"][part]


@pytest.mark.parametrize("text", [*BASES, "\ud800", "\0" * 50, "=> " * 5000, "{" * 9000, ("？" * 5000), "a:\n" * 20_000])
def test_any_text_gets_a_mark_between_0_and_100(text):
    found = score_prompt(text)
    assert 0 <= found["total"] <= 100 and found["total"] == pytest.approx(sum(found["parts"].values()), abs=0.06)
    assert all(0 <= found["parts"][part] <= PARTS[part] for part in PARTS) and len(found["reasons"]) == len(CHECKS)


def test_examples_that_differ_are_worth_more():
    same, different = (score_prompt(f"Text: up\nLabel: good\n\nText: down\nLabel: {word}\n") for word in ("good", "bad"))
    assert 0 < same["parts"]["examples"] < different["parts"]["examples"] == 15


def test_points_and_advice_add_up():
    found = score_prompt("Classify the review as good or bad.\n\n{text}")
    earned = sum(float(re.search(r"([\d.]+) of \d+$", reason)[1]) for reason in found["reasons"])
    missing = sum(float(re.search(r"\(\+([\d.]+)\)$", advice)[1]) for advice in found["suggestions"])
    assert earned == pytest.approx(found["total"], abs=0.5) and earned + missing == pytest.approx(100, abs=0.5)


def test_a_careful_chinese_prompt_beats_a_careless_one():
    careful = ("请判断这条酒店评论是好评还是差评，只回答其中一个，不要解释。\n\n评论：干净\n答案：好评\n\n"
               "评论：太吵\n答案：差评\n\n评论：{text}\n答案：")
    assert score_prompt(careful, CHINESE)["total"] > 85 > 40 > score_prompt("看看这个 {text}", CHINESE)["total"]


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", [{"role": "user", "content": "x"}]])
def test_what_is_no_text_is_refused(wrong):
    with pytest.raises(TypeError, match="join its messages"): score_prompt(wrong)
