"""The table of nbs/2_prompting/07_prompt_or_tune: prompts, examples and LoRA on one task; run by `llmguide evidence prompt_or_tune`.

Sentiment of financial news with the small model. The prompts were measured by `llmguide evidence techniques` and `optimize`,
on the first 200 test rows of the task; here LoRA learns from rows of the task's examples and answers the same test rows.
What is done stands in results/prompting_prompt_or_tune.json, and a run that was ended goes on from there.
"""

import sys
import tempfile
import time
from collections import Counter

from llmguide.evidence import load_curve, record_curve
from llmguide.finetuning.classify import Classifier
from llmguide.finetuning.methods import apply, merge, method
from llmguide.finetuning.prepare import encode_rows
from llmguide.finetuning.train import train
from llmguide.load import load_causal
from llmguide.prompting.optimize import plan
from llmguide.prompting.tasks import load_task
from llmguide.settings import choose_runtime

MODEL, RESULT, TEST, EPOCHS, TUNED = "smollm2-135m-instruct", "prompting_prompt_or_tune", 200, 2, (30, 60, 120)
SHOWN, CALLS = 4, 200  # examples of the few-shot prompt; calls of the search


def option(name, kind, rows, minutes, milliseconds, right, **more):
    """A line of the table."""
    return {"name": name, "kind": kind, "rows": rows, "minutes": minutes, "milliseconds": milliseconds, "right": right, **more}


def curve(name):
    """The rows of a table for this model and task; none where it was not measured."""
    try:
        return [row for row in load_curve(name) if row["task"] == "sentiment" and row.get("model", MODEL) == MODEL]
    except FileNotFoundError as problem:
        print(f"  left out: {problem}", flush=True)
        return []


def without_training(task):
    """The commonest answer, each prompt and the prompt found by search, as they were measured."""
    usual = Counter(row["label"] for row in task.rows).most_common(1)[0][0]
    yield option("no model", "guess", 0, 0.0, 0.0, "".join(str(int(row["label"] == usual)) for row in task.rows))
    plain = 167.0
    for row in curve("prompting_techniques"):
        shown = row["technique"].startswith("few-shot")
        name = f"{row['technique']}{', calibrated' if row['calibrated'] else ''}"
        if name == "zero-shot": plain = 1000 * row["seconds"]
        yield option(name, "examples" if shown else "prompt", SHOWN * shown, 0.0, 1000 * row["seconds"], row["right"])
    for row in curve("prompting_optimize"):
        if row["arm"] != "successive halving": continue
        rows = sum(each.rows for each in plan(CALLS, 1000))
        yield option("prompt by search", "prompt", rows, CALLS * plain / 60_000, plain, row["right"])


def tuned(task, count):
    """LoRA on so many rows: right or not, milliseconds an answer, minutes of training."""
    rates = [trial for trial in load_curve("finetuning_learning_rates") if trial["method"] == "lora"]
    chosen = method("lora", learning_rate=max(rates, key=lambda trial: trial["macro_f1"])["learning_rate"])
    model, tokenizer = load_causal(MODEL, choose_runtime().precision)
    with tempfile.TemporaryDirectory() as folder:
        examples = encode_rows(list(task.examples[:count]), tokenizer)
        run = train(adapted := apply(model, chosen, 0), examples, chosen, folder, tokenizer.pad_token_id, epochs=EPOCHS)
    classifier = Classifier(merge(adapted, chosen).eval(), tokenizer, list(task.labels))
    start = time.perf_counter()
    answers = classifier.predict([row["text"] for row in task.rows]).argmax(1)
    milliseconds = 1000 * (time.perf_counter() - start) / len(task.rows)
    right = "".join(str(int(task.labels[place] == row["label"])) for place, row in zip(answers, task.rows))
    return right, milliseconds, run.seconds / 60


def main():
    try: trained = [row for row in load_curve(RESULT) if row["kind"] == "tuned"]
    except FileNotFoundError: trained = []
    task = load_task("sentiment", TEST)
    table = [*without_training(task), *trained]
    keep = lambda: record_curve(  # noqa: E731
        RESULT, table, "one seed; the same test rows for all; minutes and milliseconds of one core that was not alone",
        model=MODEL, data=task.rows.name, source=task.rows.source, test_rows=TEST, epochs=EPOCHS)
    keep()
    for count in TUNED:
        if any(row["rows"] == count for row in trained): continue
        right, milliseconds, minutes = tuned(task, count)
        table.append(option(f"LoRA, {count} rows", "tuned", count, minutes, milliseconds, right))
        print("   ", f"LoRA, {count} rows", right.count("1") / TEST, f"{minutes:.1f} min", flush=True)
        keep()
    return 0


if __name__ == "__main__":
    sys.exit(main())
