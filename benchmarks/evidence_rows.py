"""F13: accuracy against the number of training rows, for five methods; run by `llmguide evidence rows`.

Each method learns from 60 and 240 rows for two epochs, with the learning rate that
`llmguide evidence methods` chose on validation rows; the larger sets contain the smaller. What is done is kept.
"""

import math
import os
import sys
import tempfile

from llmguide.evidence import Interval, Measurement, load_curve, record, record_curve, wilson_interval
from llmguide.finetuning.classify import Classifier
from llmguide.finetuning.evaluate import evaluate_model
from llmguide.finetuning.methods import apply, merge, method
from llmguide.finetuning.prepare import clean_rows, encode_rows
from llmguide.finetuning.train import in_own_process, train
from llmguide.load import load_causal, load_rows, split_rows
from llmguide.settings import choose_runtime

MODEL, RESULT, TEST, EPOCHS = "smollm2-135m-instruct", "finetuning_rows", 300, 2
TARGET, NAMES, ROWS = 0.7, ("full", "houlsby", "lora", "qlora", "prefix"), (60, 240)


def quiet(line):
    """Progress of single steps is left out."""


def chosen_rates():
    """Of each method, the learning rate with the best macro-F1 on validation rows."""
    trials = load_curve("finetuning_learning_rates")
    return {name: max((t for t in trials if t["method"] == name), key=lambda t: t["macro_f1"])["learning_rate"] for name in NAMES}


def from_the_matrix():
    """The runs with most rows are those of `llmguide evidence methods`, seed 0."""
    for run in load_curve("finetuning_methods"):
        if run["method"] not in NAMES or run["seed"]: continue
        interval = wilson_interval(run["right"].count("1"), len(run["right"]))
        yield {"method": run["method"], "rows": ROWS[-1], "learning_rate": run["learning_rate"], "value": interval.value,
               "low": interval.low, "high": interval.high, "macro_f1": run["macro_f1"]}


def one_run(name, data, rate, rows, report=quiet):
    """Accuracy after training on so many rows."""
    training, _, test = split_rows(load_rows(data))
    training, test = clean_rows(training)[0][:rows], test[:TEST]
    chosen = method(name, learning_rate=rate)
    base, tokenizer = load_causal(MODEL, "float32" if chosen.whole else choose_runtime().precision, chosen.four_bit)
    adapted = apply(base, chosen, 0)
    with tempfile.TemporaryDirectory() as folder:
        pad = tokenizer.pad_token_id
        train(adapted, encode_rows(training, tokenizer), chosen, folder, pad, epochs=EPOCHS, report=quiet)
    labels = sorted({row["label"] for row in test})
    measured = evaluate_model(Classifier(merge(adapted, chosen).eval(), tokenizer, labels), test)
    interval = wilson_interval(round(measured["accuracy"] * len(test)), len(test))
    return {"method": name, "rows": rows, "learning_rate": rate, "value": interval.value, "low": interval.low,
            "high": interval.high, "macro_f1": measured["macro_f1"]}


def rows_needed(points, target):
    """Rows at which a curve crosses the target, on a logarithmic scale; None where it never does."""
    for before, after in zip(points, points[1:]):
        if before[1] < target <= after[1]:
            part = (target - before[1]) / (after[1] - before[1])
            return math.exp(math.log(before[0]) + part * (math.log(after[0]) - math.log(before[0])))
    return points[0][0] if points[0][1] >= target else None


def record_needs(done, data, source):
    """F13: rows until the target is reached, between the crossings of the curve's upper and lower bounds."""
    for name in NAMES:
        curve = sorted((point for point in done if point["method"] == name), key=lambda point: point["rows"])
        value, low, high = (rows_needed([(p["rows"], p[key]) for p in curve], TARGET) for key in ("value", "high", "low"))
        if value is None: continue
        record(Measurement("F13", Interval(value, min(low, value), max(high or ROWS[-1], value)), dataset=data,
                           dataset_source=source, model=MODEL, rows=TEST, config={"method": name, "target": TARGET},
                           note=f"rows until {TARGET:.0%} accuracy, between {ROWS[0]} and {ROWS[-1]}; one seed"))


def main():
    os.environ["LLMGUIDE_PRECISION"], os.environ["LLMGUIDE_DEVICE"] = choose_runtime().precision, choose_runtime().device
    data, rates = "financial-phrasebank", chosen_rates()
    try: load_rows(data)
    except FileNotFoundError: data = "news-sentiment"
    try: done = load_curve(RESULT)
    except FileNotFoundError: done = list(from_the_matrix())
    for rows in ROWS:
        for name in NAMES:
            if any((point["method"], point["rows"]) == (name, rows) for point in done): continue
            point, _ = in_own_process(one_run, report=quiet, name=name, data=data, rate=rates[name], rows=rows)
            done.append(point)
            note = "one seed; two epochs, so more rows also mean more steps; the largest sets are those of the method matrix"
            record_curve(RESULT, done, note=note, data=data, model=MODEL,
                         epochs=EPOCHS, test_rows=TEST, precision=choose_runtime().precision)
            print("   ", point, flush=True)
    record_needs(done, data, load_rows(data).source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
