"""Fine-tuning from the command line: killed and resumed, repeated, reloaded, in any language."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llmguide.catalog import resolve

ROWS = [(f"{subject} {verb} in {place}.", label) for subject in ("Sales", "Orders", "Profit", "Cash flow", "Exports", "Margins")
        for verb, label in (("rose", "up"), ("fell", "down")) for place in ("Oslo", "Lyon", "Kyoto", "Lima", "Accra", "Quito")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a random model of two layers and the small model's real tokenizer."""
    try:
        resolve("smollm2-135m-instruct")
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from llmguide.load import causal_source

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(causal_source("smollm2-135m-instruct"))
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "news.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *ROWS])
    return path


def command(tiny, table, output, *more):
    return [sys.executable, "-m", "llmguide.cli", "finetune", "--data", str(table), "--model", str(tiny), "--output", str(output),
            "--seed", "3", "--epochs", "20", "--json", *more]


ENVIRONMENT = os.environ | {"LLMGUIDE_PRECISION": "float32", "LLMGUIDE_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}


def run(*arguments, lines=None):
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    if lines is not None:
        lines.extend(line for line in done.stderr.splitlines() if line.startswith("step "))
    return json.loads(done.stdout)


def weights(output):
    from safetensors.numpy import load_file

    return load_file(output / "adapter" / "adapter_model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def undisturbed(tiny, table, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "artifact"
    return output, run(*command(tiny, table, output))


@pytest.mark.soak
def test_killed_and_resumed_ends_with_the_same_weights(tiny, table, undisturbed, tmp_path, repetitions):
    chance = random.Random(7)
    for number in range(repetitions(1, 20)):
        output = tmp_path / f"killed{number}"
        checkpoints = output.parent / f".{output.name}.checkpoints"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command(tiny, table, output), env=ENVIRONMENT, **quiet)
        end = time.monotonic() + 120
        while process.poll() is None and not list(checkpoints.glob("*/complete")) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(chance.random() * 0.5)
        assert process.poll() is None, "the run was over before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not output.exists(), "a killed run left an artefact"
        marks = [int(mark.parent.name.split("-")[1]) for mark in checkpoints.glob("*/complete")]
        assert marks, "no complete checkpoint after two minutes"
        reached = []
        measured = run(*command(tiny, table, output, "--resume"), lines=reached)
        first = int(re.search(r"step (\d+)/", reached[0])[1])
        assert first > max(marks), "the run was started again, not resumed"
        assert same(weights(output), weights(undisturbed[0]))
        assert measured["accuracy"] == undisturbed[1]["accuracy"]
        assert not checkpoints.exists()


def test_half_a_checkpoint_is_not_trusted(tiny, table, undisturbed, tmp_path):
    output = tmp_path / "artifact"
    broken = output.parent / f".{output.name}.checkpoints" / "checkpoint-9999"
    broken.mkdir(parents=True)
    (broken / "trainer_state.json").write_text("{")
    run(*command(tiny, table, output, "--resume"))
    assert same(weights(output), weights(undisturbed[0]))


def test_same_seed_same_metrics_other_seed_other_weights(tiny, table, undisturbed, tmp_path):
    again = run(*command(tiny, table, tmp_path / "again"))
    assert same(weights(tmp_path / "again"), weights(undisturbed[0]))
    drop = {"seconds", "artifact"}
    assert {k: v for k, v in again.items() if k not in drop} == {k: v for k, v in undisturbed[1].items() if k not in drop}
    run(*command(tiny, table, tmp_path / "other", "--seed", "4"))
    assert not same(weights(tmp_path / "other"), weights(undisturbed[0]))


def test_predict_keeps_the_order(undisturbed, table, tmp_path):
    rows = [text for text, _ in ROWS] + ["a very much longer line of news, " * 20 + "about sales"]
    random.Random(1).shuffle(rows)
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    with open(source, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text",), *((row,) for row in rows)])
    run(sys.executable, "-m", "llmguide.cli", "predict", "--artifact", str(undisturbed[0]), "--data", str(source),
        "--text", "text", "--output", str(target), "--json")
    with open(target, encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == ["label", "down", "up"]
    from llmguide.finetuning.predict import Artifact

    artifact = Artifact.load(undisturbed[0])
    expected = artifact.predict(rows)
    assert np.allclose([[float(row["down"]), float(row["up"])] for row in written], expected, atol=1e-5)
    assert [row["label"] for row in written] == [artifact.labels[i] for i in expected.argmax(1)]


def test_full_fine_tuning_and_chinese_labels(tiny, tmp_path):
    from llmguide.finetuning.predict import Artifact, finetune

    verbs = {"增加": "利好 消息", "下降": "利好 不是", "公布": "中性"}  # two labels begin alike
    subjects = ("订单", "利润", "销量", "出口", "现金")
    rows = [{"text": f"{subject}{verb}。", "label": label} for subject in subjects for verb, label in verbs.items()]
    made = finetune(rows, rows[:3], method="full", model=str(tiny), output=tmp_path / "zh", epochs=1, report=lambda line: None)
    loaded = Artifact.load(tmp_path / "zh")
    texts = [row["text"] for row in rows]
    assert np.array_equal(loaded.predict(texts), made.predict(texts))
    assert np.allclose(loaded.predict(texts).sum(1), 1, atol=1e-4)
    assert Path(tmp_path / "zh" / "model" / "model.safetensors").exists()


def test_a_changed_base_is_noticed(tiny, undisturbed, tmp_path):
    import shutil

    from llmguide.finetuning.predict import Artifact

    moved, other = tmp_path / "artifact", tmp_path / "tiny"
    shutil.copytree(undisturbed[0], moved)
    shutil.copytree(tiny, other)
    card = json.loads((moved / "artifact.json").read_text(encoding="utf-8"))
    card["base"] = str(other)
    (moved / "artifact.json").write_text(json.dumps(card), encoding="utf-8")
    Artifact.load(moved)
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="other weights"):
        Artifact.load(moved)
