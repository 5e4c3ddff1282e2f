"""Several processes: the same loss, one writer, and a killed worker that costs nothing but time."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file
from test_finetune import ENVIRONMENT, same, table, tiny, weights  # noqa: F401 (two of them are fixtures)

CONFIGS = Path(__file__).parents[1] / "deploy" / "accelerate"
ACCELERATE = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "two_cpu.yaml"), "-m"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2", "-m"]


@pytest.fixture(scope="module")
def start(tiny, table):  # noqa: F811
    """start(output, how): the ordinary command, by itself or behind a launcher."""

    def begin(output, how=("-m",), *more):
        command = [sys.executable, *how, "llmguide.cli", "finetune", "--data", str(table), "--model", str(tiny), "--output",
                   str(output), "--seed", "3", "--epochs", "6", "--json", *more]
        environment = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    return begin


def finish(process):
    out, problems = process.communicate(timeout=300)
    assert process.returncode == 0, problems[-2000:]
    return out


def losses(output):
    return [entry["loss"] for entry in json.loads((output / "artifact.json").read_text(encoding="utf-8"))["training"]["losses"]]


@pytest.fixture(scope="module")
def shared(start, tmp_path_factory):
    """An undisturbed run of two processes, and what it printed."""
    output = tmp_path_factory.mktemp("undisturbed") / "shared"
    return output, finish(start(output, ACCELERATE))


def test_two_processes_follow_one(start, shared, tmp_path):
    finish(start(tmp_path / "alone"))
    output, out = shared
    one, two = losses(tmp_path / "alone"), losses(output)
    assert len(one) == len(two) and max(abs(a - b) for a, b in zip(one, two)) < 1e-4
    assert json.loads(out)["artifact"] == str(output)  # one JSON object: the other process keeps quiet
    assert not list(output.parent.glob(".*")), "something half-written is left"


def worker(launcher, rank):
    """The process id of a launcher's worker."""
    return next(child.pid for child in psutil.Process(launcher.pid).children() if child.environ().get("RANK") == str(rank))


@pytest.mark.soak
@pytest.mark.skipif(not os.environ.get("LLMGUIDE_SOAK"), reason="the restarted workers sometimes wait for each other for ever; see LOG.md")
def test_a_killed_worker_costs_nothing_but_time(start, shared, tmp_path):
    launcher, told, killed = start(tmp_path / "killed", TORCHRUN, "--resume"), [], False
    for line in launcher.stderr:
        told.append(line)
        if line.startswith("step 10/") and not killed:
            os.kill(worker(launcher, 1), signal.SIGKILL)
            killed = True
    launcher.wait(timeout=300)
    assert launcher.returncode == 0, "".join(told[-60:])
    starts = [number for number, line in enumerate(told) if " parameters (" in line]
    first = next(line for line in told[starts[-1] :] if line.startswith("step "))
    assert len(starts) == 2 and not first.startswith("step 1/"), f"it was to resume from a checkpoint: {first}"
    assert same(weights(shared[0]), weights(tmp_path / "killed"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_understood(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import FullyShardedDataParallelPlugin

    config = load_config_from_file(str(path))
    assert config.num_processes % config.num_machines == 0
    known = {*FullyShardedDataParallelPlugin.__dataclass_fields__, "version", "offload_params"}
    assert {name.removeprefix("fsdp_") for name in config.fsdp_config} <= known


SHARDED = """
import os, sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer
from llmguide.finetuning.methods import METHODS, apply
from llmguide.finetuning.prepare import collate, encode_rows
from llmguide.finetuning.scale import gather
from llmguide.finetuning.train import label_loss

rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
rows = encode_rows([{"text": f"{s} {v}.", "label": l} for s in ("Sales", "Cash flow of the year") for v, l in
                    (("rose", "up, and up again"), ("fell", "down"))], tokenizer)
model = apply(AutoModelForCausalLM.from_pretrained(sys.argv[1]), METHODS["lora"], seed=0)
if count > 1:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (count,))
    for layer in model.base_model.model.model.layers: fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
learned = sum(label >= 0 for row in rows for label in row["labels"])
for _ in range(4):
    loss = label_loss(model, collate(rows[rank * len(rows) // count : (rank + 1) * len(rows) // count], 0), learned / count)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    shown = loss.detach() / count
    if count > 1: dist.all_reduce(shown)
    if rank == 0: print("loss", shown.item(), type(next(model.parameters())).__name__)
cut = gather(model)
assert cut == (count > 1)
if rank == 0: model.save_pretrained(sys.argv[2])
if count > 1: dist.destroy_process_group()
"""


def test_loss_and_adapter_survive_sharding(tiny, tmp_path):  # noqa: F811
    """Accelerate drops FSDP silently on a CPU, so PyTorch's own `fully_shard` stands in for it."""
    script, told = tmp_path / "sharded.py", {}
    script.write_text(SHARDED)
    for name, launcher in (("alone", []), ("shared", TORCHRUN[:-3])):
        command = [sys.executable, *launcher, str(script), str(tiny), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"}, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        told[name] = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("loss")]
    assert [kind for _, kind in told["shared"]] == ["DTensor"] * 4
    assert max(abs(float(a) - float(b)) for (a, _), (b, _) in zip(told["alone"], told["shared"], strict=True)) < 1e-4
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in told)
    assert one.keys() == two.keys()  # Adam turns rounding of a gradient near zero into a step: weights agree less than losses
    assert max(np.abs(one[name] - two[name]).max() for name in one) < 1e-3
    assert max(np.abs(one[name]).max() for name in one if "lora_B" in name) > 1e-3, "nothing was learned"
