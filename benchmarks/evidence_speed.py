"""Training speed, step by step and beside TRL's SFTTrainer; run by `llmguide evidence speed` on a quiet machine.

Every arm runs in a process of its own, all arms in turn, the round repeated. Speed counts tokens of the rows, not
their filling. TRL gets the fastest of its settings, chosen in a trial before. Both are then measured on test rows.
"""

import json
import os
import sys
import tempfile
import time

from llmguide.evidence import hardware, record_curve, results_folder
from llmguide.finetuning.classify import Classifier
from llmguide.finetuning.evaluate import evaluate_model
from llmguide.finetuning.faster import ladder, timed_loop
from llmguide.finetuning.methods import METHODS, apply, merge
from llmguide.finetuning.prepare import CLASSIFY, clean_rows, encode_rows
from llmguide.finetuning.train import in_own_process, train
from llmguide.load import load_causal, load_rows, split_rows
from llmguide.settings import choose_runtime, require

MODEL, BATCH, EPOCHS, ROUNDS, STEP_ROUNDS = "smollm2-135m-instruct", 16, 2, 1, 1
COMPILED = "llmguide compiled"
STEP_ROWS, ROWS, TEST = 80, 320, 720


def quiet(line):
    """Progress of single steps is left out."""


def clock():
    """A callback of transformers that keeps the seconds of a run's first step, in which a compiler works."""
    transformers = require("transformers", "finetuning")

    class Clock(transformers.TrainerCallback):
        first_step = None

        def on_step_begin(self, *_, **__): self.start = time.perf_counter()

        def on_step_end(self, *_, **__): self.first_step = self.first_step or time.perf_counter() - self.start

    return Clock()


def parts(name):
    training, validation, test = split_rows(load_rows(name))
    return clean_rows(training)[0][:ROWS], (validation + test)[:TEST]


def step_arm(data, arm, report=quiet):
    """One step of the ladder on a few rows."""
    tokenizer = load_causal(MODEL, "bfloat16")[1]
    return timed_loop(encode_rows(parts(data)[0][:STEP_ROWS], tokenizer), ladder()[arm], MODEL, BATCH)


def with_trl(data, seed, settings, rows=ROWS, epochs=EPOCHS):
    """Train by TRL's SFTTrainer; the model, the tokenizer, tokens, seconds, and those of the first step."""
    datasets, trl = require("datasets", "finetuning"), require("trl", "dev")
    runtime, settings = choose_runtime(), dict(settings)
    base, tokenizer = load_causal(MODEL, runtime.precision)
    base.get_output_embeddings()._forward_pre_hooks.clear()  # our hook is not TRL's
    base.config._attn_implementation = settings.pop("attention")
    model, learned = apply(base, METHODS["lora"], seed), parts(data)[0][:rows]
    pairs = [{"prompt": f"{row['text']}\nLabel:", "completion": f" {row['label']}"} for row in learned]
    table = datasets.Dataset.from_list(pairs)
    steps = -(-len(learned) // BATCH) * epochs
    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.SFTConfig(
            output_dir=folder, num_train_epochs=epochs, per_device_train_batch_size=BATCH, learning_rate=1e-3,
            lr_scheduler_type="linear", warmup_steps=max(1, round(0.06 * steps)), completion_only_loss=True, packing=False,
            bf16=runtime.precision == "bfloat16", activation_checkpointing=False, use_cpu=runtime.device == "cpu", seed=seed,
            train_sampling_strategy="group_by_length", report_to="none", save_strategy="no", disable_tqdm=True,
            dataloader_pin_memory=False, logging_steps=1000, **settings)
        trainer = trl.SFTTrainer(model=model, args=arguments, train_dataset=table, processing_class=tokenizer)
        trainer.add_callback(first := clock())
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"): vars(model).pop(name, None)
    tokens = epochs * sum(len(e["input_ids"]) for e in encode_rows(learned, tokenizer, CLASSIFY))
    return model, tokenizer, tokens, seconds, first.first_step


def with_ours(data, seed, compile):
    """Train by `train`; the model, the tokenizer, tokens, seconds, and those of the first step."""
    base, tokenizer = load_causal(MODEL, choose_runtime().precision)
    model, rows = apply(base, METHODS["lora"], seed), encode_rows(parts(data)[0], tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        run = train(model, rows, METHODS["lora"], folder, tokenizer.pad_token_id, EPOCHS, BATCH, seed, report=quiet,
                    callbacks=(first := clock(),), compile=compile)
    return model, tokenizer, run.tokens, run.seconds, first.first_step


def arm(data, name, seed, settings, report=quiet):
    """Speed of a whole training run, and what it learned."""
    trained = with_trl(data, seed, settings) if name == "TRL" else with_ours(data, seed, compile=name == COMPILED)
    model, tokenizer, tokens, seconds, first = trained
    model, test = merge(model, METHODS["lora"]).eval(), parts(data)[1]
    measured = evaluate_model(Classifier(model, tokenizer, sorted({row["label"] for row in test})), test)
    right = "".join(str(int(answer == row["label"])) for answer, row in zip(measured["answers"], test))
    return {"arm": name, "tokens_per_second": tokens / seconds, "tokens": tokens, "seconds": seconds, "first_step": first, "right": right,
            "accuracy": measured["accuracy"], "macro_f1": measured["macro_f1"], "gflops": choose_runtime().gflops}


def trl_trial(data, settings, report=quiet):
    """Tokens a second of a short TRL run."""
    _, _, tokens, seconds, _ = with_trl(data, 0, settings, rows=48, epochs=1)
    return tokens / seconds


def best_settings(data):
    """The faster of two kinds of attention; TRL's default loss leaves out the logits it doesn't need by itself."""
    speeds = {}
    for attention in ("sdpa", "eager"):
        speeds[attention], _ = in_own_process(trl_trial, report=quiet, data=data, settings={"attention": attention})
        print(f"    TRL {attention}: {speeds[attention]:.0f} tokens/s", flush=True)
    return {"attention": max(speeds, key=speeds.get)}, {key: round(speed, 1) for key, speed in speeds.items()}


def so_far(name):
    """Rows that were measured on this very machine; others are measured again."""
    try: known = json.loads((results_folder() / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError: return []
    return known["rows"] if known["hardware"] == hardware() else []


def whole_runs(data, about):
    """Whole training runs of all arms in turn; what is done is kept."""
    runs = so_far("finetuning_speed")
    missing = [(number, name) for number in range(ROUNDS) for name in ("TRL", "llmguide", COMPILED)
               if not any((run["round"], run["arm"]) == (number, name) for run in runs)]
    settings, tried = best_settings(data) if missing else ({}, {})
    for number, name in missing:
        run, _ = in_own_process(arm, report=quiet, data=data, name=name, seed=number, settings=settings)
        runs.append(run | {"round": number})
        print("   ", {k: v for k, v in runs[-1].items() if k != "right"}, flush=True)
        record_curve("finetuning_speed", runs, note="whole training runs in turn, LoRA rank 16", training_rows=ROWS,
                     epochs=EPOCHS, test_rows=TEST, trl_settings=settings, trl_trials=tried, **about)


def single_steps(data, about):
    """The ladder, one step of it after another; what is done is kept."""
    steps = so_far("finetuning_speed_steps")
    for number in range(STEP_ROUNDS):
        for name in ladder():
            if any((step["round"], step["arm"]) == (number, name) for step in steps): continue
            run, _ = in_own_process(step_arm, report=quiet, data=data, arm=name)
            steps.append({"arm": name, "round": number} | {key: run[key] for key in ("tokens_per_second", "first_step")})
            print("   ", steps[-1], flush=True)
            note = "one epoch, the first step not counted"
            record_curve("finetuning_speed_steps", steps, note=note, rows_trained=STEP_ROWS, **about)


def main():
    os.environ["LLMGUIDE_PRECISION"], os.environ["LLMGUIDE_DEVICE"] = choose_runtime().precision, choose_runtime().device
    data = "financial-phrasebank"
    try: load_rows(data)
    except FileNotFoundError: data = "news-sentiment"
    about = {"data": data, "model": MODEL, "batch": BATCH, "precision": choose_runtime().precision}
    whole_runs(data, about)
    single_steps(data, about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
