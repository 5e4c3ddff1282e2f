"""Measure F10, the emissions of LoRA against full fine-tuning to the same accuracy; run by `llmguide evidence footprint`.

Both methods learn from the same rows in the same batches. Every few steps they are checked on validation rows, and
they stop as soon as the accuracy that is fixed below is reached, or after EPOCHS. What CodeCarbon estimates for
training and checks together is compared over three seeds, the methods in turn. About ten minutes on two cores.
"""

import gc
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from llmguide.catalog import resolve
from llmguide.evidence import Measurement, percent_lower, ratio_interval, record, record_curve
from llmguide.finetuning.classify import Classifier
from llmguide.finetuning.footprint import footprint
from llmguide.finetuning.methods import apply, method
from llmguide.finetuning.predict import sentiment_rows
from llmguide.finetuning.prepare import encode_rows
from llmguide.finetuning.train import train
from llmguide.load import Rows, load_causal, split_rows
from llmguide.settings import choose_runtime, require

MODEL, METHODS, SEEDS = "smollm2-135m-instruct", ("full", "lora"), (0, 1, 2)
ROWS, VALIDATION_ROWS, TEST_ROWS, EPOCHS, BATCH, CHECK_EVERY = 400, 120, 300, 2, 16, 5
TARGETS = {"financial-phrasebank": 0.70, "news-sentiment": 0.62}  # validation accuracy both methods must reach


def say(line):
    print(f"    {line}", flush=True)


def right_on(model, tokenizer, labels, rows):
    """The accuracy of a model as it is now; training may go on afterwards."""
    training = model.training
    probabilities = Classifier(model, tokenizer, labels).predict([row["text"] for row in rows])
    model.train(training)
    return float(np.mean([labels[i] == row["label"] for i, row in zip(probabilities.argmax(1), rows)]))


def stop_at(target, check, every):
    """A callback that ends the training once `check()` is at least the target."""

    class StopAt(require("transformers", "finetuning").TrainerCallback):
        reached, checks = False, []

        def on_step_end(self, args, state, control, **_):
            if state.global_step % every: return
            accuracy = check()
            self.checks = [*self.checks, {"step": state.global_step, "accuracy": accuracy}]
            self.reached = accuracy >= target
            control.should_training_stop = self.reached

    return StopAt()


def one_run(name, seed, parts, labels, target, folder):
    """Train with one method and seed until the target is reached; returns what it took."""
    training, validation, test = parts
    chosen, runtime = method(name), choose_runtime()
    model, tokenizer = load_causal(MODEL, runtime.precision if chosen.rank else "float32")
    model = apply(model, chosen, seed)
    watch = stop_at(target, lambda: right_on(model, tokenizer, labels, validation), CHECK_EVERY)
    examples = encode_rows(training, tokenizer)
    with footprint() as used:
        run = train(model, examples, chosen, folder, tokenizer.pad_token_id, epochs=EPOCHS, batch=BATCH, seed=seed,
                    report=say, callbacks=(watch,))
    found = {"dataset": training.name, "method": name, "seed": seed, "target": target, "reached": watch.reached,
             "steps": run.steps, "checks": watch.checks, "seconds": used.seconds, "energy_kwh": used.energy,
             "processor_kwh": used.processor, "memory_kwh": used.memory, "emissions_kg": used.emissions / 1000,
             "country": used.country, "how": used.how, "test_accuracy": right_on(model, tokenizer, labels, test)}
    say(f"{name}, seed {seed}: {'reached' if watch.reached else 'not reached'} in {run.steps} steps, {used}")
    return found


def note(runs):
    """What a reader of F10 should know: how it was estimated, and where a method did not get there."""
    failed = [f"{run['method']} seed {run['seed']} in {run['steps']} steps" for run in runs if not run["reached"]]
    bound = f"; not reached by {', '.join(failed)}, whose cost is a lower bound" if failed else ""
    first = runs[0]
    return f"until {first['target']:.0%} validation accuracy, checks every {CHECK_EVERY} steps included; {first['how']}{bound}"


def main():
    resolve(MODEL)
    rows, runtime = sentiment_rows(), choose_runtime()
    os.environ["LLMGUIDE_PRECISION"], os.environ["LLMGUIDE_DEVICE"] = runtime.precision, runtime.device
    sizes, runs = (ROWS, VALIDATION_ROWS, TEST_ROWS), []
    parts = [Rows(part[:size], rows.name, rows.source) for part, size in zip(split_rows(rows), sizes)]
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            for name in METHODS if seed % 2 == 0 else METHODS[::-1]:
                runs.append(one_run(name, seed, parts, rows.labels, TARGETS[rows.name], Path(folder) / f"{name}-{seed}"))
                gc.collect()
    spent = {name: [run["emissions_kg"] for run in runs if run["method"] == name] for name in METHODS}
    record_curve("finetuning_footprint", runs, note=note(runs), model=MODEL, training_rows=ROWS, batch=BATCH)
    if not all(run["reached"] for run in runs if run["method"] == "lora"):
        print("  F10 not recorded: LoRA did not reach the accuracy in every run", flush=True)
        return 1
    config = {"method": "lora with early stopping", "precision": runtime.precision, "device": runtime.device,
              "target": TARGETS[rows.name], "training_rows": ROWS, "batch": BATCH}
    record(Measurement("F10", percent_lower(ratio_interval(spent["lora"], spent["full"])), dataset=rows.name,
                       dataset_source=rows.source, model=MODEL, rows=len(SEEDS), seeds=SEEDS, config=config, note=note(runs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
