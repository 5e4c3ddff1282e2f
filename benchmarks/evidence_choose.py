"""Measure peak memory and seconds a step for every method; run by `llmguide evidence choose`.

Each point is a process of its own that trains three steps on rows of equal length, twice: the first round warms up,
the second is timed. `finetuning.choose` is compared with these points; a model of another shape, with random
weights, and other batches are in it to see whether the estimate travels. What is done already is kept.
"""

import random
import sys
import tempfile
from pathlib import Path

from llmguide.evidence import load_curve, record_curve
from llmguide.finetuning.choose import SHAPES
from llmguide.finetuning.methods import METHODS, apply
from llmguide.finetuning.train import idle, in_own_process, peak_memory, train
from llmguide.load import load_causal
from llmguide.settings import choose_runtime

MODEL, RESULT, STEPS = "smollm2-135m-instruct", "finetuning_estimates", 3
SOME = ("full", "lora", "qlora", "houlsby", "prefix")
POINTS = [(MODEL, name, 16, 40, repeat) for repeat in range(2) for name in METHODS]  # this size is measured twice
POINTS += [(MODEL, name, 16, 128, 0) for name in METHODS] + [(MODEL, name, 4, 256, 0) for name in SOME]
POINTS += [(shape, name, 8, 64, 0) for shape in SHAPES for name in SOME[:3]]


def quiet(line):
    """Progress of single steps is left out."""


def random_model(name, folder, report=quiet):
    """Write a model of another shape with random weights; in a process of its own, whose peak is nobody's."""
    import torch
    import transformers

    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**SHAPES[name]), dtype=torch.bfloat16)
    made.save_pretrained(folder)
    load_causal(MODEL, "bfloat16")[1].save_pretrained(folder)


def point(source, model, method, batch, tokens, repeat, report=quiet):
    """Peak memory (MiB) and seconds a step of one method at one size."""
    chosen, chance = METHODS[method], random.Random(0)
    rows = [[chance.randrange(1000, 20000) for _ in range(tokens)] for _ in range(batch * STEPS)]
    examples = [{"input_ids": row, "labels": [-100] * (tokens - 2) + row[-2:]} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        precision = "float32" if chosen.whole else choose_runtime().precision
        base, tokenizer = load_causal(source, precision, chosen.four_bit)
        adapted = apply(base, chosen, 0)
        pad = tokenizer.pad_token_id
        train(adapted, examples, chosen, Path(folder) / "warm", pad, batch=batch, report=quiet)
        run = train(adapted, examples, chosen, Path(folder) / "timed", pad, batch=batch, report=quiet)
    return {"model": model, "method": method, "batch": batch, "tokens": tokens, "repeat": repeat,
            "step_seconds": run.seconds / run.steps, "peak_memory_mib": peak_memory()}


def main():
    try: rows = load_curve(RESULT)
    except FileNotFoundError: rows = []
    key = ("model", "method", "batch", "tokens", "repeat")
    base, _ = in_own_process(idle, report=quiet)
    for wanted in POINTS:
        if any(tuple(row[k] for k in key) == wanted for row in rows): continue
        with tempfile.TemporaryDirectory() as folder:
            source = MODEL if wanted[0] == MODEL else folder
            if wanted[0] != MODEL: in_own_process(random_model, report=quiet, name=wanted[0], folder=folder)
            row, _ = in_own_process(point, report=quiet, source=source, **dict(zip(key, wanted)))
        rows.append(row | {"idle_mib": base})
        record_curve(RESULT, rows, note="training rows of equal length; three steps after three that warm up", steps=STEPS,
                     precision=choose_runtime().precision, gflops=choose_runtime().gflops)
        print("   ", row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
