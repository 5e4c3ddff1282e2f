"""How many audit events a second are safe on the disk, and how long the event loop stands still; run by `llmguide evidence audit`.

Each worker is a process with an event loop, in which tasks wait until their event is safe and then record the next.
"""

import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from llmguide.enterprise.audit import AuditLog
from llmguide.enterprise.encryption import KeyRing
from llmguide.evidence import bootstrap_interval, record_curve
from llmguide.stories import project_folder

TASKS, SECONDS, ROUNDS = 300, 4.0, 5  # tasks of a worker, seconds of a round, rounds of a method


class OneByOne:
    """The naive way: the worker writes each event itself and waits for the disk."""

    def __init__(self, path, _): self.file = open(path, "ab")

    async def safe(self, **event):
        self.file.write(json.dumps(event).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        await asyncio.sleep(0)

    def close(self): self.file.close()


class Grouped(AuditLog):
    """Our log, awaited."""

    async def safe(self, what, who, **details): await asyncio.wrap_future(self.record(what, who, **details))


async def busy(log, seconds):
    """Milliseconds of every event until it was safe, and the longest pause of the loop in milliseconds."""
    end, waits, pauses = time.perf_counter() + seconds, [], []

    async def task(number):
        while (start := time.perf_counter()) < end:
            await log.safe(what="answer", who=f"user {number}", conversation="18f3a9", passages=3, milliseconds=212)
            waits.append(1000 * (time.perf_counter() - start))

    async def watch():
        while (start := time.perf_counter()) < end:
            await asyncio.sleep(0.001)
            pauses.append(1000 * (time.perf_counter() - start) - 1)

    await asyncio.gather(watch(), *map(task, range(TASKS)))
    return waits, max(pauses)


def work(kind, path, keys, ready, told):
    """One worker process."""
    log = kind(path, keys)
    ready.wait()
    waits, pause = asyncio.run(busy(log, SECONDS))
    log.close()
    told.put((len(waits), median(waits), pause))


def one_round(kind, processes):
    """Events a second of all workers, the median wait and the longest pause; the log is verified."""
    context, keys = multiprocessing.get_context("spawn"), KeyRing.generate()
    with tempfile.TemporaryDirectory(dir=project_folder() / "out") as folder:
        path, ready, told = Path(folder) / "audit.jsonl", context.Barrier(processes), context.Queue()
        workers = [context.Process(target=work, args=(kind, path, keys, ready, told)) for _ in range(processes)]
        for worker in workers: worker.start()
        done = [told.get(timeout=120) for _ in workers]
        for worker in workers: worker.join()
        if kind is Grouped:
            report = AuditLog(path, keys).verify()
            assert report and report.events == sum(count for count, _, _ in done), report
    return sum(count for count, _, _ in done) / SECONDS, max(wait for _, wait, _ in done), max(pause for _, _, pause in done)


def main():
    """All methods, round by round in turn, so that a busy minute hits them all."""
    (project_folder() / "out").mkdir(exist_ok=True)
    methods = [("one by one", OneByOne, 1), ("group commit", Grouped, 1), ("group commit", Grouped, 2), ("group commit", Grouped, 4)]
    rounds = {method: [] for method in methods}
    for number in range(ROUNDS):
        for method in methods: rounds[method].append(one_round(*method[1:]))
        print(f"round {number + 1} of {ROUNDS}: " + ", ".join(f"{rounds[method][-1][0]:,.0f}" for method in methods), flush=True)
    rows = []
    for (name, _, processes), found in rounds.items():
        rates, waits, pauses = zip(*found, strict=True)
        interval = bootstrap_interval(rates, statistic=lambda values: float(median(values)))
        rows.append({"method": name, "processes": processes, **interval._asdict(), "half_ms": median(waits), "pause_ms": max(pauses)})
    record_curve("enterprise_audit", rows, tasks=TASKS, seconds=SECONDS, rounds=ROUNDS,
                 note="Events a second that were safe on the disk (fsync), median of the rounds; half_ms: median wait of an event "
                      "until it was safe; pause_ms: the longest pause of a worker's event loop in any round. Every grouped log was "
                      "verified, and held every event.")


if __name__ == "__main__": main()
