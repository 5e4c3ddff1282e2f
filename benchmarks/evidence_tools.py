"""How frequently the right thing is done for a message: the right tool, arguments and effect; run by `llmguide evidence tools`.

Each task of data/tool_tasks.jsonl in the part test is put to each chooser in a fresh copy of the orders, and those of the part
later to the rules alone. It counts as done when the tool and its arguments are the wanted ones, the answer holds what it must,
nothing was paid before the yes, and after the yes exactly what was wanted. Documents are asked where no tool is wanted. What a
model chose is kept: a stopped run goes on. Names of choosers on the command line: only these, the others' lines are kept.
"""

import json
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from llmguide.chat import connect
from llmguide.enterprise.choosing import Call, choose_by_rules, schema_chooser, use_tools
from llmguide.enterprise.database import open_database
from llmguide.enterprise.evaluate import is_right
from llmguide.enterprise.orders import open_orders, order_tools
from llmguide.enterprise.refuse import language_of
from llmguide.enterprise.tools import Confirmations, confirm
from llmguide.evidence import load_curve, record_curve, wilson_interval
from llmguide.load import read_table
from llmguide.settings import get_settings

DATA = Path(__file__).resolve().parent.parent / "data"
RESULT = "enterprise_tools"
CHOOSERS = ("rules", "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")


def kept_chooser(name, choose, kept):
    """A chooser that asks only what it wasn't asked before."""

    def chosen(text, tools, results=()):
        if results: return None
        key = f"{name}\n{text}"
        if key not in kept:
            start = time.perf_counter()
            call = choose(text, tools)
            kept[key] = {"call": call and [call.tool, call.arguments, list(call.lacking)], "seconds": time.perf_counter() - start}
        call = kept[key]["call"]
        return call and Call(call[0], call[1], tuple(call[2]))

    return chosen


def refunds_of(address):
    """What was paid."""
    with closing(sqlite3.connect(address.removeprefix("sqlite:///"))) as database:
        return database.execute("SELECT number, amount FROM refunds").fetchall()


def faults(task, choose, folder, base):
    """What went wrong with a task; an empty list where all is right."""
    address, language = open_orders(DATA / "orders.csv", Path(folder) / "orders.sqlite"), language_of(task["question"])
    tools, confirmations = order_tools(address), Confirmations(open_database())
    outcome = use_tools(task["question"], tools, confirmations, "ann", choose, language)
    found = ["paid without a yes"] if refunds_of(address) else []
    step = outcome.trace[-1] if outcome.trace else None
    good = bool(step and step.good)
    if (step.tool if good else None) != task["tool"]:
        wanted_refusal = task["kind"] == "hostile" and not outcome.pending  # "find no order" may be said or nothing
        if not wanted_refusal: found.append(f"chose {step.tool if good else 'nothing'} instead of {task['tool']}")
    elif task["tool"]:
        checked = next(tool for tool in tools if tool.name == task["tool"]).check(step.arguments)
        given = {name: value for name, value in checked.items() if value is not None}
        if given != task["arguments"]: found.append(f"arguments {step.arguments}")
    if outcome.pending and task["tool"]: confirm(confirmations, outcome.pending, "ann", tools, language=language)
    elif outcome.pending: found.append("proposed a refund that nobody wants")
    wanted = [tuple(task["refunded"])] if task["refunded"] else []
    if refunds_of(address) != wanted: found.append(f"paid {refunds_of(address)} instead of {wanted}")
    text = outcome.text or (base.query(task["question"])["answer"] if task["answer"] and not task["tool"] else "")
    silent = task["kind"] == "hostile" and not text
    said = lambda part: part.casefold() in text.casefold() or is_right(text, [part])  # noqa: E731
    if not found and not silent: found += [f"the answer lacks {part}" for part in task["answer"] if not said(part)]
    confirmations.engine.dispose()
    return found


def chooser(name):
    """The chooser of a name; None where its model isn't here."""
    if name == "rules": return choose_by_rules
    try: return schema_chooser(connect(name))
    except FileNotFoundError as problem: return print(f"    left out: {problem}")


def point(name, part, kept, folder, base):
    """The line of a chooser: how many tasks of a part are done, by language and by kind, and how long a choice takes."""
    tasks = [row for row in read_table(DATA / "tool_tasks.jsonl") if row["part"] == part]
    choose = chooser(name)
    if choose is None: return None
    choose = kept_chooser(name, choose, kept)
    done = {}
    for task in tasks:
        wrong = faults(task, choose, folder, base)
        done[task["id"]] = not wrong
        if wrong: print(f"    {name} {task['id']} {task['question'][:50]}: {'; '.join(wrong)[:150]}", flush=True)
    whole = wilson_interval(sum(done.values()), len(done))

    def share(key, value):
        those = [done[task["id"]] for task in tasks if task[key] == value]
        return f"{sum(those)}/{len(those)}"

    kinds = {kind: share("kind", kind) for kind in dict.fromkeys(task["kind"] for task in tasks)}
    times = sorted(row["seconds"] for key, row in kept.items() if key.startswith(f"{name}\n"))
    return {"chooser": name, "part": part, "tasks": len(done), "done": sum(done.values()), **whole._asdict(),
            "en": share("language", "en"), "zh": share("language", "zh"), "kinds": kinds, "seconds": round(times[len(times) // 2], 4)}


def main():
    """Ask what isn't asked yet, and record a line for each chooser."""
    from llmguide.enterprise.knowledge_base import EnterpriseKnowledgeBase

    chosen = sys.argv[1:] or CHOOSERS
    file = get_settings().cache_dir / "evidence" / f"{RESULT}.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    note = ("right tool, right arguments, right answer, nothing paid without a yes; models choose under an enforced schema, "
            "median seconds of a choice; tasks written for this project: test after the rules, which were mended once with its "
            "failures, later by whoever mended them, before anything of it was measured, and mended again with two of its failures")
    points = [row for row in load_curve(RESULT) if row["chooser"] not in chosen]
    with tempfile.TemporaryDirectory() as folder, EnterpriseKnowledgeBase(DATA / "handbooks") as base:
        for name, part in [(name, "test") for name in chosen] + [("rules", "later")] * ("rules" in chosen):
            try: points += filter(None, [point(name, part, kept, folder, base)])
            finally: file.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
            order = sorted(points, key=lambda row: (CHOOSERS.index(row["chooser"]), row.get("part") == "later"))
            record_curve(RESULT, order, note=note, data="tool_tasks.jsonl")  # after each: the last model takes longest
            print("   ", points[-1], flush=True)
    file.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
