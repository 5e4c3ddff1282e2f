"""P1 to P5: every prompting technique on every task with two models; run by `llmguide evidence techniques`.

One scorer for all techniques of a task: the likelihood of the labels where a task has labels (thoughts are written
by llama.cpp, then the labels are scored behind them), the exact parser of the task elsewhere. Techniques are measured
in the order of JOBS, on the first rows of each task, and what is done is kept; written answers lie in out/answers.
"""

import sys
import time
from functools import lru_cache

import numpy as np

from llmguide.catalog import resolve
from llmguide.chat import connect
from llmguide.evidence import Measurement, bootstrap_interval, load_curve, paired_difference, record, record_curve, relative_gain
from llmguide.load import read_table, load_rows
from llmguide.prompting.cache import cached
from llmguide.prompting.scoring import Scorer, blank_prompts, calibrated, prompt_ids
from llmguide.prompting.tasks import load_task
from llmguide.prompting.techniques import (
    ExampleIndex, by_label, chain_of_thought, conclude, decomposition, domain_terms, few_shot, format_constraint, guided_context,
    keywords, most_agreed, negative_exclusion, random_examples, role_task_example_output, self_consistency, telling_words, zero_shot,
)
from llmguide.settings import choose_runtime

SMALL, LARGER, RESULT = "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "prompting_techniques"
CORE = ("zero-shot", "few-shot, random", "guided context")
FORMS = ("role form", "format constraint", "key words", "negative exclusion", "domain terms")
SHOTS = ("few-shot, by label", "few-shot, diverse", "few-shot, nearest")
THINK = ("chain of thought", "decomposition")
JOBS = (  # model, task, rows, techniques: the most important first; what must be written out takes longest and has fewer rows
    (SMALL, "sentiment", 200, CORE), (SMALL, "chinese", 200, CORE), (SMALL, "intents", 200, CORE), (SMALL, "logic", 200, CORE),
    (LARGER, "sentiment", 200, CORE), (LARGER, "chinese", 200, CORE), (LARGER, "logic", 200, CORE), (LARGER, "intents", 200, CORE),
    (SMALL, "arithmetic", 100, ("format constraint", *CORE)),
    (LARGER, "arithmetic", 100, ("format constraint", "few-shot, random", "zero-shot")),
    (SMALL, "sentiment", 200, (*SHOTS, *FORMS)), (SMALL, "extraction", 40, (*CORE, "format constraint")),
    (SMALL, "sentiment", 100, ("chain of thought",)), (SMALL, "logic", 60, ("chain of thought",)),
    (SMALL, "arithmetic", 40, ("chain of thought",)), (LARGER, "arithmetic", 40, ("chain of thought",)),
    (LARGER, "sentiment", 40, ("chain of thought",)), (LARGER, "logic", 40, ("chain of thought",)),
    (LARGER, "sentiment", 200, (*SHOTS, *FORMS)),
    (SMALL, "intents", 200, (*SHOTS, *FORMS)), (SMALL, "logic", 200, (*SHOTS, *FORMS)), (SMALL, "chinese", 200, (*SHOTS, *FORMS)),
    (LARGER, "extraction", 30, (*CORE, "format constraint")), (SMALL, "arithmetic", 40, ("self-consistency",)),
    (SMALL, "sentiment", 60, ("decomposition",)), (SMALL, "logic", 60, ("decomposition",)),
    (LARGER, "chinese", 200, (*SHOTS, *FORMS)), (LARGER, "logic", 200, (*SHOTS, *FORMS)),
    (SMALL, "arithmetic", 100, ("role form", "key words", "negative exclusion")), (LARGER, "arithmetic", 100, ("guided context",)),
    (SMALL, "chinese", 60, ("chain of thought",)), (LARGER, "chinese", 60, ("chain of thought",)),
    (LARGER, "intents", 200, ("few-shot, by label", "few-shot, diverse", "format constraint", "role form")),
)
SAMPLES, TEMPERATURE, SHOWN = 5, 0.7, 4  # of self-consistency; examples shown
WRITTEN = {"arithmetic": 80, "extraction": 110}  # tokens that an answer may have
NOTE = ("labels by likelihood in the precision that a point names, other answers by exact parser; seconds a row with one thread, in "
        "batches, on a machine busy with other work; points without a precision are of an older one. Measured in float32 there and in "
        "bfloat16 here, 36 arms were right or wrong on the same rows in 5,884 of 6,000; an arm's accuracy moved by 0.8 points on "
        "average, by 4 at most")
REASONED, THOUGHT = 240, 64  # tokens of a chain of thought to a free answer; of thoughts before a label


def here(model):
    """Whether a model can be used on this machine."""
    try: return resolve(model).path is not None
    except FileNotFoundError: return False


@lru_cache(maxsize=1)
def scorer_of(model): return Scorer(model)


@lru_cache(maxsize=2)
def chat_of(model): return cached(connect(model), "out/answers", name=model)


@lru_cache(maxsize=12)
def prompts_of(name, rows):
    """A task, and for each technique a function text -> messages."""
    task = load_task(name, rows=rows)
    drawn, index = random_examples(task, 2 if name == "extraction" else SHOWN), ExampleIndex(task.examples)
    words, spread = telling_words(task.examples) if task.labels else None, index.diverse(SHOWN)
    return task, {
        "zero-shot": lambda text: zero_shot(task, text),
        "few-shot, random": lambda text: few_shot(task, text, drawn),
        "few-shot, by label": lambda text: few_shot(task, text, by_label(drawn)),
        "few-shot, nearest": lambda text: few_shot(task, text, index.nearest(text, SHOWN)),
        "few-shot, diverse": lambda text: few_shot(task, text, spread),
        "guided context": lambda text: guided_context(task, text),
        "domain terms": lambda text: domain_terms(task, text),
        "key words": lambda text: keywords(task, text, words),
        "role form": lambda text: role_task_example_output(task, text, drawn[0]),
        "negative exclusion": lambda text: negative_exclusion(task, text),
        "format constraint": lambda text: format_constraint(task, text),
        "chain of thought": lambda text: chain_of_thought(task, text),
        "self-consistency": lambda text: self_consistency(task, text),
        "decomposition": lambda text: decomposition(task, text),
    }


def write(chat, messages, **options):
    """A cached answer with its tokens and seconds."""
    answer = chat.ask(messages, **options)
    usage = answer.reply.usage
    return answer.reply.text, usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), answer.seconds


def think(chat, task, technique, messages):
    """Let a model write its thoughts: the messages that end with the question, and what it took."""
    limit = {"max_tokens": THOUGHT}
    if technique == "chain of thought":
        text, *cost = write(chat, messages, **limit)
        return conclude(task, messages, text), np.array(cost)
    answers, spent, text = (), np.zeros(3), messages[0]["content"]
    while len(answers) < len(task.steps):
        said, *cost = write(chat, messages, **limit)
        answers, spent = (*answers, said), spent + cost
        following = task.steps[len(answers)] if len(answers) < len(task.steps) else task.instruction
        messages = [*messages, {"role": "assistant", "content": said.strip() or "…"}, {"role": "user", "content": following}]
    return messages, spent


def by_likelihood(model, task, technique, prompts):
    """Right or not for each row, as the labels are scored and calibrated; and the cost a row."""
    scorer, spent = scorer_of(model), np.zeros((len(prompts), 3))
    if technique in THINK:
        thought = [think(chat_of(model), task, technique, messages) for messages in prompts]
        prompts, spent = [messages for messages, _ in thought], np.array([cost for _, cost in thought])
    start = time.perf_counter()
    scores = scorer.scores(prompts, task.labels)
    seconds = (time.perf_counter() - start) / len(prompts) + spent[:, 2].mean()
    even = calibrated(scores, scorer.scores(blank_prompts(prompts), task.labels)) if technique not in THINK else None
    read = spent[:, 0].mean() + np.mean([len(prompt_ids(scorer.tokenizer, messages)) for messages in prompts])
    for way, found in ((False, scores), (True, even)):
        if found is None: continue
        answers = [task.labels[place] for place in found.argmax(1)]
        yield {"calibrated": way, "scorer": scorer.how, "read_tokens": read, "written_tokens": spent[:, 1].mean(),
               "seconds": seconds}, answers


def by_parsing(model, task, technique, prompts):
    """What a model writes for each row, and the cost a row."""
    reasons = technique in ("chain of thought", "self-consistency")
    chat, limit = chat_of(model), {"max_tokens": REASONED if reasons else WRITTEN[task.name]}
    if technique == "self-consistency":
        tries = [[write(chat, m, temperature=TEMPERATURE, seed=n, **limit) for n in range(SAMPLES)] for m in prompts]
        texts = [most_agreed(task, [text for text, *_ in row]) for row in tries]
        cost = np.array([[found[1:] for found in row] for row in tries]).sum(1).mean(0)
    else:
        found = [write(chat, messages, **limit) for messages in prompts]
        texts, cost = [text for text, *_ in found], np.array([row[1:] for row in found]).mean(0)
    read, written, seconds = cost
    yield {"calibrated": False, "scorer": "exact parser", "read_tokens": read, "written_tokens": written, "seconds": seconds}, texts


def measure(model, name, rows, technique):
    """The points of one technique."""
    task, ways = prompts_of(name, rows)
    prompts = [ways[technique](row["text"]) for row in task.rows]
    for about, answers in (by_likelihood if task.labels else by_parsing)(model, task, technique, prompts):
        right = "".join("01"[task.right(answer, row)] for answer, row in zip(answers, task.rows))
        about |= {key: round(float(about[key]), 3) for key in ("read_tokens", "written_tokens", "seconds")}
        if task.labels: about["precision"] = choose_runtime().precision
        if name == "extraction":
            fields = [task.field_scores(answer, row) for answer, row in zip(answers, task.rows)]
            about["fields"] = round(float(np.mean([list(found.values()) for found in fields])), 4)
        yield {"model": model, "task": name, "data": task.rows.name, "technique": technique, **about, "rows": len(right), "right": right}


def marks(point): return np.array([int(mark) for mark in point["right"]])


def crossed_choice(points):
    """Right or not with the technique that was best on the other half of the rows, and which these were."""
    table = np.array([marks(point) for point in points])  # (techniques, rows)
    rows = table.shape[1]
    halves, chosen, taken = np.arange(rows) < rows // 2, np.zeros(rows, int), []  # labels take turns: every other row has one label
    for half in (halves, ~halves):
        best = int(table[:, ~half].mean(1).argmax())
        chosen[half] = table[best, half]
        taken.append(points[best]["technique"] + (", calibrated" if points[best]["calibrated"] else ""))
    return chosen, " and ".join(dict.fromkeys(taken))


def claim(id, plain, other, source, method, note=""):
    """Record a paired relative gain where the plain prompt is right often enough."""
    shared = min(len(plain["right"]), len(other))  # the same first rows
    first, second = marks(plain)[:shared], np.asarray(other)[:shared]
    if first.sum() < 5: return
    points = paired_difference(first, second).scale(100)
    gained = f"{plain['task']}; {points.value:+.1f} points ({points.low:.1f} to {points.high:.1f}) from {100 * first.mean():.1f} %"
    record(Measurement(id, relative_gain(first, second), dataset=plain["data"], dataset_source=source, model=plain["model"],
                       rows=len(first), config={"method": f"{method}, {plain['task']}", "scorer": plain["scorer"]},
                       note=f"{gained}{note}"))


def record_claims(points):
    """P1 to P4 for each model and task that has the techniques."""
    for model, name in sorted({(point["model"], point["task"]) for point in points}):
        mine = [point for point in points if (point["model"], point["task"]) == (model, name)]
        plain = next((p for p in mine if p["technique"] == "zero-shot" and not p["calibrated"]), None)
        if plain is None: continue
        source, found = load_task(name, rows=1).rows.source, {p["technique"]: p for p in mine if not p["calibrated"]}
        direct = plain if plain["scorer"] == Scorer.how else found.get("format constraint", plain)  # unasked, a chat may think aloud
        pairs = (("P2", plain, "few-shot, random"), ("P3", direct, "chain of thought"), ("P4", plain, "guided context"))
        for id, first, technique in pairs:
            if technique in found: claim(id, first, marks(found[technique]), source, technique)
        same = [point for point in mine if point["rows"] == plain["rows"]]
        if len(same) > 3:
            right, which = crossed_choice(same)
            claim("P1", plain, right, source, "best on the other half of the rows", f"; chosen among {len(same)}: {which}")


def long_texts(name):
    """Rows whose text has 200 characters and more."""
    if name == "sentiment": rows = load_rows("financial-phrasebank")
    else:
        table = read_table(resolve("chnsenticorp").path)
        rows = [{"text": row["review"].strip(), "label": "好评" if row["label"] == "1" else "差评"} for row in table]
    return [row for row in rows if len(row["text"]) >= 200]


def shorter_input(model, name, rows=30, lengths=(200, 80)):
    """P5: seconds, tokens and accuracy with texts cut to 200 and to 80 characters."""
    try: texts = long_texts(name)[-rows:]
    except FileNotFoundError: return None
    task, chat, costs = load_task(name, rows=1), connect(model), {length: [] for length in lengths}
    ask = lambda row, length: zero_shot(task, row["text"][:length])  # noqa: E731
    chat(ask(texts[0], 80), max_tokens=1)
    for place, row in enumerate(texts):  # never the same text twice in a row: llama.cpp would remember its beginning
        for length, asked in zip(lengths, (row, texts[(place + rows // 2) % rows])):
            start = time.perf_counter()
            reply = chat(ask(asked, length), max_tokens=8)
            costs[length].append((time.perf_counter() - start, reply.usage["prompt_tokens"]))
    right = {length: [label == row["label"] for label, row in zip(
        scorer_of(model).choose([ask(row, length) for row in texts], task.labels), texts)] for length in lengths}
    slow, fast = (np.array([seconds for seconds, _ in costs[length]]) for length in lengths)
    faster = bootstrap_interval(slow, fast, statistic=lambda a, b: 100 * (a.mean() / b.mean() - 1))
    read = [np.mean([tokens for _, tokens in costs[length]]) for length in lengths]
    share = [100 * np.mean(right[length]) for length in lengths]
    record(Measurement("P5", faster, dataset=load_task(name, rows=1).rows.name, dataset_source="data folder", model=model, rows=len(texts),
                       config={"method": f"zero-shot, {name}, 8 tokens written"},
                       note=f"{slow.mean():.2f} and {fast.mean():.2f} s, {read[0]:.0f} and {read[1]:.0f} tokens read, "
                            f"accuracy {share[0]:.0f} and {share[1]:.0f} %"))
    return {"model": model, "task": name, "faster": faster.value, "low": faster.low, "high": faster.high, "rows": len(texts),
            "seconds": [round(float(slow.mean()), 3), round(float(fast.mean()), 3)], "tokens": [float(x) for x in read],
            "accuracy": [float(x) for x in share]}


def keep(points):
    record_curve(RESULT, points, note=NOTE, examples=SHOWN, samples=SAMPLES, temperature=TEMPERATURE)


def shorter_inputs():
    """P5 for each model and task that has long texts; what is measured is kept."""
    try: done = load_curve("prompting_shorter_input")
    except FileNotFoundError: done = []
    for model, name in ((SMALL, "sentiment"), (LARGER, "chinese"), (LARGER, "sentiment"), (SMALL, "chinese")):
        if not here(model) or any((p["model"], p["task"]) == (model, name) for p in done): continue
        if point := shorter_input(model, name): done.append(point)
        if done: record_curve("prompting_shorter_input", done, note="texts cut to 200 and to 80 characters; seconds of a whole answer")


def is_done(point, model, name, rows, technique):
    """Whether a point is what a job would measure; scores of another precision may differ in a label of a hundred and are measured anew."""
    same = (point["model"], point["task"], point["technique"]) == (model, name, technique) and point["rows"] >= rows
    return same and (point["written_tokens"] > 0 or point.get("precision") == choose_runtime().precision)


def main():
    try: points = load_curve(RESULT)
    except FileNotFoundError: points = []
    for model, name, rows, techniques in JOBS:
        if not here(model): continue
        for technique in techniques:
            if any(is_done(point, model, name, rows, technique) for point in points): continue
            new = list(measure(model, name, rows, technique))
            points = [p for p in points if (p["model"], p["task"], p["technique"]) != (model, name, technique)] + new
            keep(points)
            record_claims(points)  # a run that is stopped has its verdicts, too
            print(f"   {model} {name} {technique}: {marks(points[-1]).mean():.3f}", flush=True)
    shorter_inputs()
    return 0


if __name__ == "__main__":
    sys.exit(main())
