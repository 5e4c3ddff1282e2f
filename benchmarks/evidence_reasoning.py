"""P3 and two tables of nbs/2_prompting/01_2_reasoning: direct answers against reasoned ones; run by `llmguide evidence reasoning`.

Two models answer sums and arguments of four levels with four prompts (direct or in steps, without examples or with two),
the larger one word problems of GSM8K besides, and both draw many attempts at sums for a vote. Every answer is kept in the
cache folder, so a run that was ended goes on where it stopped. A model or data set that isn't here is left out, and said.
"""

import sys

import numpy as np

from llmguide.chat import connect
from llmguide.evidence import Measurement, record, record_curve, relative_gain
from llmguide.prompting.cache import cached
from llmguide.prompting.reasoning import accuracy_by_votes, ask_rows, gsm8k_rows, reasoning_rows, sample_answers
from llmguide.settings import get_settings

SMALL, LARGE = "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"
PROMPTS = {"direct, examples": (False, True), "steps, examples": (True, True), "direct": (False, False), "steps": (True, False)}
EACH = {SMALL: 15, LARGE: 12}  # rows of a level: what half an hour of one core allows
PROBLEMS = 60  # of GSM8K
LONGEST = {"arithmetic": 100, "logic": 100, "gsm8k": 160}  # tokens of a reasoned answer
ATTEMPTS, COUNTS, VOTED = 7, (1, 2, 3, 5, 7), {SMALL: 3, LARGE: 4}  # samples of a row; sizes of a vote; rows of a level
NOTE = "greedy; right holds a 0 or 1 for each row, the same rows for every prompt; tokens: written for an answer, in the mean"


def quiet(line):
    """Progress of single rows is left out."""


def line(row):
    print("   ", {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items() if key != "right"}, flush=True)


def chats():
    """A chat with each model that is here; its answers are kept."""
    for model in (SMALL, LARGE):
        try:
            yield model, cached(connect(model), get_settings().cache_dir / "reasoning" / model)
        except FileNotFoundError as problem:
            print(f"  left out: {problem}", flush=True)


def questions(model, task):
    """The rows of a task for a model; none where it would solve hardly any, or where they aren't here."""
    if task != "gsm8k": return reasoning_rows(task, EACH[model])
    if model == SMALL: return []
    try:
        return gsm8k_rows("test", PROBLEMS)
    except FileNotFoundError as problem:
        print(f"  left out: {problem}", flush=True)
        return []


def by_level(model, task, prompt, rows, answers):
    """One line for each level: which rows were right, and what they cost."""
    level = [0 if task == "gsm8k" else row["level"] for row in rows]
    for number in sorted(set(level)):
        own = [answer for answer, at in zip(answers, level) if at == number]
        yield {"model": model, "task": task, "prompt": prompt, "level": number, "right": "".join(str(int(a["right"])) for a in own),
               "tokens": float(np.mean([a["tokens"] for a in own])), "cut": float(np.mean([a["cut"] for a in own])),
               "unread": float(np.mean([a["answer"] is None for a in own]))}


def compare(open_chats, tasks, prompts, table):
    """Tasks, models and prompts; the table and the claim are written after each task."""
    for task in tasks:
        for model, chat in open_chats:
            rows = questions(model, task)
            for prompt in prompts if rows else ():
                answers = ask_rows(chat, rows, *PROMPTS[prompt], LONGEST[task], quiet)
                table += (found := list(by_level(model, task, prompt, rows, answers)))
                for row in found: line(row)
                record_curve("prompting_reasoning", table, NOTE, rows_of_a_level=EACH, gsm8k_rows=PROBLEMS, longest=LONGEST)
    record_gains(table)


def record_gains(table):
    """P3 for each model and task: steps against the direct answer, with the same examples on both sides."""
    bits = {}
    for row in table: bits.setdefault((row["model"], row["task"], row["prompt"]), []).extend(int(c) for c in row["right"])
    for model, task, prompt in bits:
        other = prompt.replace("direct", "steps")
        if other == prompt or (model, task, other) not in bits: continue
        how = "examples on both sides" if "examples" in prompt else "no examples"
        first, second = bits[model, task, prompt], bits[model, task, other]
        try:
            gain = relative_gain(first, second)
        except ValueError as problem:
            print(f"    P3 {model} {task}, {how}: {problem}", flush=True)
            continue
        data, source = ("gsm8k", "data folder") if task == "gsm8k" else (f"reasoning, {task}", "sample")
        config = {"method": f"chain of thought, {task}, {how}", "before": float(np.mean(first)), "after": float(np.mean(second))}
        record(Measurement("P3", gain, dataset=data, dataset_source=source, model=model, rows=len(first), config=config,
                           note=f"{np.mean(first):.0%} right directly, {np.mean(second):.0%} in steps"))
        print(f"    P3 {model} {task}, {how}: {gain}", flush=True)


def voted(model, chat, rows):
    """A line for each size of the vote, after one greedy answer of each kind."""
    wanted, longest = [row["answer"] for row in rows], LONGEST["arithmetic"]
    about = {"model": model, "task": "arithmetic"}
    for prompt, steps in (("direct", False), ("steps", True)):
        alone = ask_rows(chat, rows, steps, True, longest, quiet)
        interval = accuracy_by_votes([[a["answer"]] for a in alone], wanted, 1)
        yield about | {"prompt": prompt, "count": 1, "tokens": float(np.mean([a["tokens"] for a in alone])), **interval._asdict()}
    tries = [sample_answers(chat, row, ATTEMPTS, longest=longest) for row in rows]
    each = float(np.mean([np.mean(tokens) for _, tokens in tries]))
    for count in COUNTS:
        interval = accuracy_by_votes([answers for answers, _ in tries], wanted, count)
        yield about | {"prompt": "vote", "count": count, "tokens": count * each, **interval._asdict()}


def votes(open_chats):
    """Accuracy and tokens by size of the vote."""
    table, note = [], "attempts with two worked examples; votes of fewer attempts are drawn from those made"
    for model, chat in reversed(open_chats):
        for row in voted(model, chat, reasoning_rows("arithmetic", VOTED[model])):
            table.append(row)
            line(row)
        record_curve("prompting_self_consistency", table, note, rows_of_a_level=VOTED, attempts=ATTEMPTS, temperature=0.7)


def main():
    open_chats, table, shown = list(chats()), [], ["direct, examples", "steps, examples"]
    compare(open_chats, ["arithmetic", "logic"], shown, table)
    votes(open_chats)
    compare(open_chats, ["gsm8k"], [*shown, "direct"], table)
    compare(open_chats, ["arithmetic", "logic"], ["direct"], table)
    compare(open_chats, ["arithmetic"], ["steps"], table)  # without examples steps are long, so they come last
    return 0


if __name__ == "__main__":
    sys.exit(main())
