"""Plain prompt, random search, successive halving and DSPy at the same budget of calls; run by `llmguide evidence optimize`.

Every arm may ask the small model as often as the others, on rows that a task sets apart, and is then judged on the same test rows,
which no search has seen. Ours reads answers by the likelihood of the labels, DSPy's programs write them. DSPy takes part where
LLMGUIDE_DSPY_PYTHON names a Python that has it (see `peer_dspy.py`). What is done is kept, so that a stopped run goes on.
"""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np

from llmguide.engine import start_engine
from llmguide.evidence import load_curve, paired_difference, record_curve, wilson_interval
from llmguide.load import Rows, group_key
from llmguide.prompting.candidates import build, in_turn, plain_candidate
from llmguide.prompting.optimize import Round, ask, evened, judge, optimize
from llmguide.prompting.scoring import Scorer
from llmguide.prompting.tasks import Task, load_task
from llmguide.settings import choose_runtime, get_settings, write_atomically

MODEL, TASKS, BUDGET, TEST, PEER_TEST = "smollm2-135m-instruct", ("requests", "intents", "sentiment", "chinese"), 200, 200, 100
MORE = 600  # calls of the one longer search
LONGEST = {"sentiment": (120, 10_000), "intents": (120, 10_000), "chinese": (40, 50),
           "requests": (120, 10_000)}  # characters of an example, of a test row
REQUESTS = ("pay_bill", "credit_score", "recipe", "play_music", "tire_change", "book_flight", "weather", "meeting_schedule",
            "tell_joke", "change_volume")  # one intent from each of the ten domains of CLINC150, chosen before anything was measured
RANDOM = [Round(10, 20)]  # random search: as many calls in a single round
PEERS = (("random search", "json"), ("MIPROv2", "json"), ("none", "json"), ("none", "chat"))  # DSPy's optimiser and adapter
KEPT = get_settings().cache_dir / "evidence" / "optimize.json"
SCORES = KEPT.with_suffix(".jsonl")


class Remembering:
    """A scorer that writes every score down, so that a stopped run asks nothing twice."""

    def __init__(self, path, model=MODEL):
        self.path, self.model, self.scorer, self.known = path, model, None, {}
        if path.exists(): self.known = dict(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())

    def scores(self, prompts, labels):
        """As the scorer's; what is not known yet is asked in parts and written down after each."""
        keys = [sha256(json.dumps([self.model, prompt, labels]).encode()).hexdigest()[:24] for prompt in prompts]
        new = [place for place, key in enumerate(keys) if key not in self.known]
        for part in (new[start : start + 50] for start in range(0, len(new), 50)):
            self.scorer = self.scorer or Scorer(self.model)
            found = {keys[place]: [round(float(each), 4) for each in row]
                     for place, row in zip(part, self.scorer.scores([prompts[place] for place in part], labels))}  # fmt: skip
            self.known |= found
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file: file.write("".join(json.dumps(each) + "\n" for each in found.items()).encode())
        return np.array([self.known[key] for key in keys])


def line(right):
    """Right or wrong by row, as a text of digits that is small in JSON."""
    return "".join(str(int(each)) for each in right)


def requests_task():
    """What people say to a voice assistant, ten intents of CLINC150; examples from its training part, rows from test and validation."""
    parts = json.loads((get_settings().datasets_dir / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    rows = [Rows([{"text": text, "label": label.replace("_", " ")} for name in names for text, label in parts[name] if label in REQUESTS],
                 "clinc150", "data folder") for names in (("train",), ("test", "val"))]  # fmt: skip
    seen, labels = {group_key(row["text"]) for row in rows[0]}, tuple(sorted(label.replace("_", " ") for label in REQUESTS))
    untouched = in_turn([row for row in rows[1] if group_key(row["text"]) not in seen], random.Random(0))
    said = f"What does this person want from a voice assistant? Choose one of: {', '.join(labels)}."
    return Task("requests", said, labels, rows[0], Rows(untouched, "clinc150", "data folder"))


def tasks_here():
    """The tasks with their short texts; those whose data isn't here are left out."""
    for name in TASKS:
        try: task = requests_task() if name == "requests" else load_task(name, rows=10_000)
        except FileNotFoundError as problem: print(f"    {name} left out: {problem}")
        else: yield narrowed(task, *LONGEST[name])


def recorded():
    """The arms that the table has already, for a machine that didn't measure them."""
    columns = ("task", "arm", "value", "low", "high", "gain", "gain low", "gain high", "rows")
    try: table = load_curve("prompting_optimize")
    except FileNotFoundError: return {}
    return {f"{row['task']} | {row['arm']}": {key: value for key, value in row.items() if key not in columns} for row in table}


def narrowed(task, example, row):
    """The task with short texts only and, of labels whose first words are the same, one: both make all arms' calls cheaper."""
    labels = tuple({label.split()[0]: label for label in reversed(task.labels)}.values())[::-1]
    said = task.instruction.replace(", ".join(task.labels), ", ".join(labels))
    parts = [Rows([row for row in rows if row["label"] in labels and len(row["text"]) <= most], rows.name, rows.source)
             for rows, most in ((task.examples, example), (task.rows, row))]  # fmt: skip
    return replace(task, labels=labels, instruction=said, examples=parts[0], rows=Rows(parts[1][:TEST], task.rows.name, task.rows.source))


def ours(task, scorer, rounds, budget=BUDGET, seed=0):
    """One of our searches, judged on the test rows."""
    result = optimize(task, scorer, budget, rounds=rounds, seed=seed, report=lambda text: print("   ", text, flush=True))
    right, _ = judge(result.prompt, task.rows, ask(result.prompt, task.rows, scorer))
    return {"right": line(right), "calls": result.calls, "search": result.search.value, "prompt": shape(result),
            "precision": choose_runtime().precision}  # fmt: skip


def plain(task, scorer):
    """The plain prompt, as it is and with what each answer has on average taken off."""
    prompt = build(plain_candidate(task), task.language)
    scores = ask(prompt, task.rows, scorer)
    return {name: {"right": line(judge(each, task.rows, scores)[0]), "precision": choose_runtime().precision}
            for name, each in (("plain", prompt), ("plain, evened", evened(prompt, scores)))}  # fmt: skip


def shape(result):
    """What a prompt consists of, without the rows it shows: they may not be published."""
    return {"messages": len(result.prompt.messages), "characters": len(str(result.prompt)), "answers": result.prompt.answers,
            "take off": result.prompt.liking}  # fmt: skip


def dspy(python, task, method, adapter, engine):
    """One of DSPy's searches in its own Python."""
    job = {"base_url": engine.base_url, "api_key": engine.api_key, "model": engine.model, "instruction": task.instruction,
           "labels": task.labels, "examples": task.examples, "rows": task.rows[:PEER_TEST], "method": method, "adapter": adapter,
           "budget": BUDGET, "seed": 0}  # fmt: skip
    script = Path(__file__).parent / "peer_dspy.py"
    done = subprocess.run([python, str(script)], input=json.dumps(job), capture_output=True, text=True, timeout=1800)
    if done.returncode: raise RuntimeError(f"DSPy's {method} failed: {done.stderr[-300:]}")
    found = json.loads(done.stdout)
    right = [answer == row["label"] for answer, row in zip(found["answers"], task.rows)]
    return {"right": line(right), "calls": found["calls"], "unread": found["unread"], "version": found["dspy"]}


def entry(name, arm, kept):
    """One line of the table: accuracy on the test rows, and the gain over the plain prompt."""
    right, plain = ([int(each) for each in kept[f"{name} | {which}"]["right"]] for which in (arm, "plain"))
    share, gain = wilson_interval(sum(right), len(right)).scale(100), paired_difference(plain[: len(right)], right).scale(100)
    rest = {key: value for key, value in kept[f"{name} | {arm}"].items()}
    return {"task": name, "arm": arm, "value": share.value, "low": share.low, "high": share.high, "gain": gain.value, "gain low": gain.low,
            "gain high": gain.high, "rows": len(right), **rest}


def keep(kept, name, arms):
    """Write down what is done, and the table as far as it goes."""
    kept |= {f"{name} | {arm}": value for arm, value in arms.items()}
    write_atomically(KEPT, json.dumps(kept))
    write_table(kept)
    for arm, value in arms.items(): print(f"    {name}, {arm}: {100 * np.mean([int(each) for each in value['right']]):.1f} %", flush=True)


def write_table(kept):
    """The table of all arms that are done."""
    table = sorted((entry(*key.split(" | "), kept) for key in kept), key=lambda row: TASKS.index(row["task"]))
    record_curve("prompting_optimize", table, note="accuracy on untouched rows, gain over the plain prompt in points, paired; "
                 "scored in the precision that an arm names, float32 where none is named",
                 model=MODEL, budget=BUDGET, test_rows=TEST, longest_example=LONGEST,
                 ours_reads=Scorer.how, dspy_reads="written answers")  # fmt: skip


def peers(tasks, kept):
    """DSPy's arms, those that are not done yet."""
    engine, python = None, os.environ.get("LLMGUIDE_DSPY_PYTHON")
    if not python: return print("    DSPy left out: LLMGUIDE_DSPY_PYTHON names no Python that has it (see benchmarks/peer_dspy.py)")
    for (method, adapter), task in product(PEERS, tasks):
        arm = f"DSPy, {method}, {adapter}"
        if f"{task.name} | {arm}" in kept: continue
        engine = engine or start_engine(MODEL)
        keep(kept, task.name, {arm: dspy(python, task, method, adapter, engine)})


def main():
    """Run what is not yet done, record one table."""
    kept, scorer = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else recorded(), Remembering(SCORES)
    tasks = list(tasks_here())
    for task in tasks:
        if f"{task.name} | plain" not in kept: keep(kept, task.name, plain(task, scorer))
    for arm, rounds in (("successive halving", None), ("random search", RANDOM)):
        for task in tasks:
            if f"{task.name} | {arm}" not in kept: keep(kept, task.name, {arm: ours(task, scorer, rounds)})
    if f"sentiment | {MORE} calls" not in kept:  # is it the budget that is short? Three times the calls, examples of any length
        task = narrowed(load_task("sentiment", rows=10_000), 10_000, 10_000)
        keep(kept, "sentiment", {f"{MORE} calls": ours(task, scorer, None, MORE)})
    peers(tasks, kept)
    if len(kept) == 1 + len(TASKS) * (4 + len(PEERS)):  # else a later run adds what is missing
        for file in (KEPT, SCORES): file.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
