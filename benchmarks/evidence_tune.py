"""Measure the schedules and the search of settings on the real model; no claim, three tables under results/.

`schedules`: LoRA with four schedules, three seeds each, accuracy on the same test rows.
`tune_trials`, `tune_gains`: a search with pruning and a random one of as many minutes around LoRA's own settings, and what
their winners gain over these settings on rows that no search saw. About ten minutes on a quiet machine; the searches go on
where they were when killed.
"""

import shutil
import sys
import tempfile

from llmguide.catalog import resolve
from llmguide.evidence import record_curve
from llmguide.finetuning.classify import Classifier
from llmguide.finetuning.evaluate import evaluate_model
from llmguide.finetuning.methods import apply, method
from llmguide.finetuning.prepare import encode_rows
from llmguide.finetuning.schedules import SCHEDULES
from llmguide.finetuning.train import train
from llmguide.finetuning.tune import Choice, Task, best_choice, differences, fit, told, tune
from llmguide.load import load_causal, load_rows, split_rows
from llmguide.settings import choose_runtime, get_settings

MODEL, SEEDS = "smollm2-135m-instruct", (0, 1, 2)
SCHEDULE_ROWS, SCHEDULE_TEST = 96, 150
SEARCH_ROWS, SEARCH_VALIDATION, SEARCH_TEST, MINUTES = 96, 48, 300, 2.0


def say(line):
    print(f"    {line}", flush=True)


def data():
    """Financial PhraseBank where it is to be had, else the packaged news snippets; training, validation and test rows."""
    try:
        rows = load_rows("financial-phrasebank")
    except FileNotFoundError:
        rows = load_rows("news-sentiment")
    return rows, split_rows(rows)


def accuracy_of(schedule, seed, learned, test):
    """Accuracy after one epoch with a schedule, and the last loss."""
    chosen, precision = method("lora"), choose_runtime().precision
    base, tokenizer = load_causal(MODEL, precision)
    model = apply(base, chosen, seed)
    with tempfile.TemporaryDirectory() as folder:
        run = train(model, encode_rows(learned, tokenizer), chosen, folder, tokenizer.pad_token_id, batch=8, seed=seed,
                    schedule=schedule, report=lambda line: None)
    labels = sorted({row["label"] for row in learned})
    return evaluate_model(Classifier(model, tokenizer, labels), test)["accuracy"], run.losses[-1]["loss"]


def schedules(rows, learned, test):
    """Each schedule with each seed, in turn."""
    measured = []
    for seed in SEEDS:
        for name in SCHEDULES[:4]:
            accuracy, loss = accuracy_of(name, seed, learned, test)
            say(f"{name}, seed {seed}: accuracy {accuracy:.3f}")
            measured.append({"schedule": name, "seed": seed, "accuracy": accuracy, "loss": loss})
    record_curve("schedules", measured, note=f"{MODEL}, LoRA, {len(learned)} rows, one epoch, {len(test)} test rows",
                 dataset=rows.name, dataset_source=rows.source, model=MODEL, seeds=list(SEEDS))


def searches(rows, learned, validation, test):
    """A search and a random one of as many minutes, then both winners against the start on untouched rows."""
    start, folder = Choice(method("lora")), get_settings().cache_dir / "searches" / f"{rows.name}-{len(learned)}"
    task, choices, found = Task(learned, validation, MODEL), {"as it was": start}, []
    for name in ("tpe", "random"):
        trials = tune(learned, validation, start, MODEL, folder / name, MINUTES, random_search=name == "random", seed=0,
                      report=say)
        found += [{"search": name, **trial} for trial in trials]
        choices[name] = best_choice(trials, start)
    about = {"dataset": rows.name, "dataset_source": rows.source, "model": MODEL, "minutes": MINUTES,
             "choices": {name: told(choice) for name, choice in choices.items()}}
    record_curve("tune_trials", found, note=f"{len(learned)} rows, loss on {len(validation)} validation rows", **about)
    answers = {name: evaluate_model(fit(task, choice)[0], test)["answers"] for name, choice in choices.items()}
    gains = differences(answers, [row["label"] for row in test])
    record_curve("tune_gains", gains, note=f"points of accuracy on {len(test)} test rows, paired 95 % interval", **about)
    for gain in gains:
        say(f"{gain['second']} minus {gain['first']}: {gain['value']:+.1f} points, {gain['verdict']}")
    shutil.rmtree(folder)


def main():
    resolve(MODEL)
    rows, (learned, validation, test) = data()
    schedules(rows, learned[:SCHEDULE_ROWS], test[:SCHEDULE_TEST])
    searches(rows, learned[:SEARCH_ROWS], validation[:SEARCH_VALIDATION], test[:SEARCH_TEST])
    return 0


if __name__ == "__main__":
    sys.exit(main())
