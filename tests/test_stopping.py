"""Early stopping, steps left out, and searches: killed at every check, on every method, out of time."""

import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest

ENVIRONMENT = os.environ | {"LLMGUIDE_PRECISION": "float32", "LLMGUIDE_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}
SUBJECTS = ("sales", "orders", "profit", "cash", "exports", "margins", "订单", "利润")
ROWS = [{"text": f"{subject} {verb} {place}", "label": label} for subject in SUBJECTS
        for verb, label in (("rose", "up"), ("fell", "down")) for place in ("Oslo", "Lyon", "Kyoto", "Lima", "Accra")]


@pytest.fixture(scope="module")
def tokenizer():
    """The small model's tokenizer."""
    from transformers import AutoTokenizer

    from llmguide.load import causal_source

    try:
        return AutoTokenizer.from_pretrained(causal_source("smollm2-135m-instruct"))
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def parts(tokenizer):
    """Encoded rows to learn from and to check on."""
    from llmguide.finetuning.prepare import encode_rows
    from llmguide.load import split_rows

    return [encode_rows(rows, tokenizer) for rows in split_rows(ROWS, (0.7, 0.3))]


@pytest.fixture
def fitted(tokenizer, parts, tmp_path):
    """Train a tiny model by a method; returns it and its run."""
    from llmguide.finetuning.methods import apply, method
    from llmguide.finetuning.stopping import Stopping
    from llmguide.finetuning.train import tiny_model, train

    def fit(folder, name="full", learning_rate=2e-2, patience=2, **options):
        changes = {"unfrozen": 1} if name == "mixed" else {}  # the model has but two layers
        chosen = method(name, learning_rate=learning_rate, **changes)
        model = apply(tiny_model(tokenizer), chosen, seed=0)
        settings = {"epochs": 8, "batch": 8, "precision": "float32", "report": lambda line: None,
                    "stopping": Stopping(parts[1], patience=patience, every=5), **options}
        return model, train(model, parts[0], chosen, tmp_path / folder, tokenizer.pad_token_id, **settings)

    return fit


def same(first, second):
    import torch

    return all(torch.equal(weight, second.get_parameter(name)) for name, weight in first.named_parameters())


def test_killed_at_each_check_it_stops_at_the_same_step(fitted):
    model, run = fitted("undisturbed", learning_rate=8e-2)
    assert run.steps < 56, "this training was to be stopped early"
    for number, check in enumerate(run.checks):
        def kill(line, step=check["step"]):
            if line.startswith(f"step {step}/") and "validation" in line:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fitted(f"killed{number}", report=kill, learning_rate=8e-2)
        resumed, again = fitted(f"killed{number}", resume=True, learning_rate=8e-2)
        assert (again.steps, again.checks) == (run.steps, run.checks)
        assert same(model, resumed)


def test_killed_after_the_stop_it_stops_again(fitted, tmp_path):
    model, run = fitted("stopped")
    resumed, again = fitted("stopped", resume=True)
    assert (again.steps, again.checks) == (run.steps, run.checks)
    assert same(model, resumed)


@pytest.mark.parametrize("name", ["lora", "mixed", "dora", "ia3", "houlsby", "pfeiffer", "prefix", "prompt"])
def test_the_best_comes_back_for_every_method(fitted, parts, tokenizer, name):
    import torch
    from transformers import TrainerCallback

    from llmguide.finetuning.prepare import collate
    from llmguide.finetuning.train import label_loss

    class Ruin(TrainerCallback):
        """Behind the second check, all that was trained is lost."""

        def on_step_end(self, args, state, control, model=None, **_):
            if state.global_step > 10:
                torch.manual_seed(state.global_step)
                for weight in (p for p in model.parameters() if p.requires_grad):
                    weight.data.normal_(std=30)

    model, run = fitted(name, name, callbacks=(Ruin(),))
    best = min(run.checks, key=lambda check: check["loss"])
    assert run.steps == best["step"] + 10  # two checks without a gain
    with torch.no_grad():
        now = label_loss(model, collate(parts[1], tokenizer.pad_token_id)).item()
    assert now == pytest.approx(best["loss"], rel=1e-3)


def test_a_step_left_out_changes_nothing(fitted):
    import torch
    from transformers import TrainerCallback

    class Spoil(TrainerCallback):
        """In some steps a gradient becomes NaN; keeps the weights after each step."""

        def __init__(self, steps):
            self.steps, self.seen = steps, {}

        def on_step_begin(self, args, state, control, model=None, **_):
            if state.global_step + 1 in self.steps:
                self.handle = next(p for p in model.parameters() if p.requires_grad).register_hook(lambda g: g * math.nan)

        def on_step_end(self, args, state, control, model=None, **_):
            self.seen[state.global_step] = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
            if state.global_step in self.steps:
                self.handle.remove()

    spoil, lines = Spoil({3, 4}), []
    _, run = fitted("spoiled", callbacks=(spoil,), report=lines.append, stopping=None)
    assert run.skipped == (3, 4)
    assert torch.equal(spoil.seen[2], spoil.seen[3]) and torch.equal(spoil.seen[2], spoil.seen[4])
    assert not torch.equal(spoil.seen[4], spoil.seen[5])
    assert sum("left out" in line for line in lines) == 2
    assert all(math.isfinite(entry["loss"]) for entry in run.losses)


def test_a_run_that_breaks_ends_with_a_good_checkpoint(fitted, tmp_path):
    import torch
    from safetensors.torch import load_file
    from transformers import TrainerCallback

    from llmguide.finetuning.stopping import Diverged
    from llmguide.finetuning.train import last_checkpoint

    class Break(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **_):
            if state.global_step == 11:
                next(p for p in model.parameters() if p.requires_grad).register_hook(lambda g: g * math.inf)

    with pytest.raises(Diverged, match="10 steps in a row"):
        fitted("broken", callbacks=(Break(),), patience=100)
    weights = load_file(last_checkpoint(tmp_path / "broken") / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_a_row_without_labels_and_an_unknown_schedule_are_refused(fitted, parts):
    from llmguide.finetuning.stopping import Stopping

    empty = {**parts[1][0], "labels": [-100] * len(parts[1][0]["labels"])}
    with pytest.raises(ValueError, match="no token to learn"):
        fitted("empty", stopping=Stopping([empty]))
    with pytest.raises(ValueError, match="no schedule is called 'cosin'"):
        fitted("schedule", schedule="cosin")


SEARCH = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_stopping import ROWS
from llmguide.finetuning.methods import method
from llmguide.finetuning.tune import Choice, tune
start = Choice(method("full", learning_rate=3e-3), 2)
trials = tune(ROWS[::2], ROWS[1::4], start, model=sys.argv[1], folder=sys.argv[2], trials=6, seed=0,
              report=lambda line: print(line, flush=True))
drop = ("number", "seconds", "minutes")
print(json.dumps([{{k: v for k, v in row.items() if k not in drop}} for row in trials if row["state"] != "cut"]))
"""


@pytest.fixture(scope="module")
def tiny(tokenizer, tmp_path_factory):
    """A folder with a tiny model."""
    from llmguide.finetuning.train import tiny_model

    folder = tmp_path_factory.mktemp("model") / "tiny"
    for part in (tiny_model(tokenizer), tokenizer):
        part.save_pretrained(folder)
    return folder


def test_a_killed_search_goes_on_as_if_nothing_had_happened(tiny, tmp_path):
    pytest.importorskip("optuna")

    def search(folder):
        script = SEARCH.format(tests=os.path.dirname(__file__))
        return subprocess.Popen([sys.executable, "-c", script, str(tiny), str(tmp_path / folder)], env=ENVIRONMENT,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    whole = search("whole")
    output, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors[-2000:]
    killed = search("killed")
    for line in killed.stdout:
        if re.match("trial 2 ", line):
            break
    time.sleep(0.3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    resumed = search("killed")
    again, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors[-2000:]
    assert "trial 1 " not in again, "the search was started anew"
    assert again.splitlines()[-1] == output.splitlines()[-1]


def test_a_search_keeps_to_its_minutes(tiny, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    from llmguide.finetuning.methods import method
    from llmguide.finetuning.tune import Choice, best_choice, tune

    monkeypatch.setattr("llmguide.finetuning.train.worth_compiling", lambda *_: False)  # a compiler takes longer than the search
    start, began = Choice(method("full"), epochs=200, batch=8), time.monotonic()
    trials = tune(ROWS[::2], ROWS[1::4], start, model=str(tiny), folder=tmp_path, minutes=0.08, seed=0, report=lambda line: None)
    assert time.monotonic() - began < 4.8 + 3  # a step here takes far less; the rest is for a busy machine
    assert [trial["state"] for trial in trials] == ["cut"]
    with pytest.raises(ValueError, match="more minutes"):
        best_choice(trials, start)
    again = tune(ROWS[::2], ROWS[1::4], start, model=str(tiny), folder=tmp_path, minutes=0.08, seed=0)
    assert again == trials, "the minutes of the first start were forgotten"
