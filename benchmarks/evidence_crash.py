"""Two hundred kills of a process that adds, changes and deletes documents; run by `llmguide evidence crash`.

LanceDB and FAISS stores in turn. What is done is kept in out/evidence_crash.json, so the run can be stopped and goes on;
the store of an interrupted run starts anew, since only its seeds say what it must hold.
"""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from llmguide.enterprise.crash import kill_once, nursery
from llmguide.evidence import record_curve, wilson_interval
from llmguide.settings import write_atomically
from llmguide.stories import project_folder

KILLS, ROUND = {"lancedb": 200, "faiss": 50}, 25  # of a store; kills of the same store before it is kept
KIND = {"lancedb": "", "faiss": "faiss:"}


def one_round(name, first):
    """A store that is killed again and again, and what each kill showed."""
    with tempfile.TemporaryDirectory() as folder, nursery() as nurse:
        versions = {}
        return [asdict(kill_once(nurse, Path(folder), seed, versions, KIND[name])) for seed in range(first, first + ROUND)]


def row(name, kills):
    """One line of the table: how many kills, when, and how many promises were broken."""
    broken = sum(bool(kill["problems"]) for kill in kills)
    interval = wilson_interval(broken, len(kills))
    during = {what: sum(kill["during"] == what for kill in kills) for what in ("opening", "adding", "deleting", "nothing")}
    return {"store": name, "kills": len(kills), "acknowledged": sum(kill["acknowledged"] for kill in kills), **during,
            "open_intentions": sum(bool(kill["left"]) for kill in kills), "broken": broken, "value": interval.value,
            "low": interval.low, "high": interval.high}


def write_table(done):
    """The table of what is done so far."""
    record_curve("enterprise_crash", [row(name, kills) for name, kills in done.items() if kills], seeds="0 to the number of kills",
                 note="A process adds, changes and deletes documents and is killed by SIGKILL; broken counts kills after which "
                      "an acknowledged change was missing, a deleted document was back, a document was there by half, or "
                      "the store did not open. Power failure is not tried: that is up to the disk.")


def main():
    """All kills that are not done yet, round by round, and the table after each."""
    kept = project_folder() / "out" / "evidence_crash.json"
    done = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {name: [] for name in KILLS}
    if any(done.values()): write_table(done)
    for name, count in KILLS.items():
        while len(done[name]) < count:
            done[name] += one_round(name, len(done[name]))
            write_atomically(kept, json.dumps(done))
            write_table(done)
            print(f"{name}: {len(done[name])} of {count} kills, {sum(bool(kill['problems']) for kill in done[name])} broken", flush=True)
    for kill in (each for kills in done.values() for each in kills if each["problems"]): print(kill)
    kept.unlink()


if __name__ == "__main__": main()
