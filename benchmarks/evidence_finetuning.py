"""Measure F1, F2, F7 and F9 on both sentiment data sets; run by `llmguide evidence finetuning`.

For each data set: zero-shot with the best of five prompts (F9), LoRA on 2,000 rows and more against it (F7),
the share of parameters trained (F2), and the cost of LoRA and QLoRA against full fine-tuning on the same
300 rows, twice each and in turn (F1). What is in results/ already is measured again and replaced.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from llmguide.catalog import resolve
from llmguide.evidence import Interval, Measurement, paired_difference, percent_lower, ratio_interval, record, record_curve
from llmguide.finetuning.classify import Classifier
from llmguide.finetuning.evaluate import evaluate_model, macro_f1
from llmguide.finetuning.predict import Artifact, finetune_measured
from llmguide.load import load_causal, load_rows, split_rows
from llmguide.settings import choose_runtime
from llmguide.templates import Template

MODEL = "smollm2-135m-instruct"
COST_ROWS, REPEATS, FULL_ROWS, TEST_ROWS = 300, 2, {"financial-phrasebank": 3000, "news-sentiment": 2000}, 600
PROMPTS = [
    Template("plain", "Is this news positive, neutral or negative?\n{text}"),
    Template("analyst", "You are a financial analyst. Label the sentiment of the news for an investor as positive, neutral or "
             "negative.\n\nNews: {text}\nSentiment:", plain=True),
    Template("tone", "{text}\n\nThe tone of this text is", plain=True),
    Template("feeling", "{text}\nSentiment (positive, neutral or negative):", plain=True),
    Template("examples", "News: Profit fell sharply.\nSentiment: negative\n\nNews: The report appears on Tuesday.\n"
             "Sentiment: neutral\n\nNews: Orders rose.\nSentiment: positive\n\nNews: {text}\nSentiment:", plain=True),
]


def say(line):
    print(f"    {line}", flush=True)


def about(rows, method, count, **config):
    """What every measurement on a data set says of itself."""
    config = {"method": method, "precision": choose_runtime().precision, "device": choose_runtime().device, **config}
    return {"dataset": rows.name, "dataset_source": rows.source, "model": MODEL, "rows": count, "config": config}


def best_prompt(rows, validation, labels):
    """The prompt with the best macro-F1 on rows that are not the test rows."""
    model, tokenizer = load_causal(MODEL, precision=choose_runtime().precision)
    gold, texts = [row["label"] for row in validation], [row["text"] for row in validation]
    scored = []
    for prompt in PROMPTS:
        answers = [labels[i] for i in Classifier(model, tokenizer, labels, prompt).predict(texts).argmax(1)]
        scored.append((macro_f1(gold, answers), prompt.name, prompt))
        say(f"{prompt.name}: macro-F1 {scored[-1][0]:.3f} on validation rows")
    best = max(scored)[2]
    return Classifier(model, tokenizer, labels, best), best.name


def quality(name, folder):
    """F9, F7 and F2: before, after, and how much was trained for it."""
    rows = load_rows(name)
    training, validation, test = split_rows(rows)
    training, validation, test = training[:FULL_ROWS[name]], validation[:200], test[:TEST_ROWS]
    gold = [row["label"] for row in test]
    classifier, prompt = best_prompt(rows, validation, rows.labels)
    before = evaluate_model(classifier, test)
    record(Measurement("F9", before["accuracy_interval"].scale(100), **about(rows, f"zero-shot, best of {len(PROMPTS)} prompts",
           len(test), prompt=prompt, macro_f1=round(before["macro_f1"], 4))))
    card, _ = finetune_measured(report=say, rows=training, validation=validation, output=folder / name, epochs=1, seed=0)
    after = evaluate_model(Artifact.load(folder / name), test)
    right = [[answer == label for answer, label in zip(measured["answers"], gold)] for measured in (before, after)]
    facts = {"before": round(before["accuracy"], 4), "after": round(after["accuracy"], 4),
             "macro_f1_before": round(before["macro_f1"], 4), "macro_f1_after": round(after["macro_f1"], 4),
             "calibration_error": round(after["calibration_error"], 4),
             "training_rows": len(training), "epochs": 1}
    record(Measurement("F7", paired_difference(*right).scale(100), **about(rows, "lora", len(test), **facts),
           note="sentiment of news instead of diagnosis: same test rows before and after"))
    share = 100 * card["parameters"]["trained"] / card["parameters"]["all"]
    record(Measurement("F2", Interval(share, share, share), **about(rows, "lora rank 16, all linear layers", len(training))))


def costs(name, folder):
    """F1: peak memory times seconds of each method, in turn, on the same rows."""
    rows = load_rows(name)
    training, validation, test = split_rows(rows)
    training, test, runs = training[:COST_ROWS], test[:TEST_ROWS], []
    for repeat in range(REPEATS):
        for method in ("full", "lora", "qlora"):
            say(f"{rows.name}, {method}, run {repeat + 1} of {REPEATS}")
            output = folder / f"{name}-{method}"
            card, cost = finetune_measured(report=say, rows=training, validation=validation[:30], method=method,
                                           output=output, epochs=1, seed=repeat)
            measured = evaluate_model(Artifact.load(output), test[:300])
            seconds = card["training"]["seconds"]
            runs.append({"dataset": name, "method": method, "repeat": repeat, "train_seconds": seconds,
                         "seconds": cost.seconds, "peak_memory_mib": cost.peak_memory, "cost": cost.peak_memory * seconds,
                         "accuracy": measured["accuracy"], "macro_f1": measured["macro_f1"]})
    note = f"{COST_ROWS} rows, one epoch, {MODEL}, {choose_runtime().precision}"
    record_curve(f"finetuning_costs_{name.replace('-', '_')}", runs, note=note)
    spent = {method: [run["cost"] for run in runs if run["method"] == method] for method in ("full", "lora", "qlora")}
    reached = {method: round(sum(run["accuracy"] for run in runs if run["method"] == method) / REPEATS, 4) for method in spent}
    for method in ("lora", "qlora"):
        record(Measurement("F1", percent_lower(ratio_interval(spent[method], spent["full"])), seeds=tuple(range(REPEATS)),
               **about(rows, method, len(training), accuracy=reached[method], accuracy_full=reached["full"]),
               note=f"peak memory of the whole process times seconds of training, {COST_ROWS} rows, one epoch; accuracy and "
               "accuracy_full (300 test rows, mean of the runs) differ, so the quality was not equal"))


def main():
    resolve(MODEL)  # a missing model ends the run; a missing data set is only left out
    os.environ["LLMGUIDE_PRECISION"], os.environ["LLMGUIDE_DEVICE"] = choose_runtime().precision, choose_runtime().device
    folder, measured = Path(tempfile.mkdtemp()), 0
    try:
        for step in (quality, costs):
            for name in FULL_ROWS:
                try:
                    load_rows(name)
                except FileNotFoundError as missing:
                    print(f"  {name} left out: {missing}", flush=True)
                    continue
                step(name, folder)
                measured += 1
    finally:
        shutil.rmtree(folder)
    return int(not measured)


if __name__ == "__main__":
    sys.exit(main())
