"""Valid objects of a nested schema, free and enforced; run by `llmguide evidence structured`.

Messages about invoices are turned into objects in three ways: the schema in words, the schema in words with a worked
example, and the example with the schema enforced while the object is written. A valid object needn't be right, so the
fields are compared with the truth, too. What is done is kept in the cache folder: a stopped run goes on.
"""

import json
import sys
import time

from llmguide.chat import DEFAULT_MODEL, connect
from llmguide.evidence import bootstrap_interval, record_curve, wilson_interval
from llmguide.prompting.structured import ask_json, extract_json, find_faults
from llmguide.prompting.tasks import load_task
from llmguide.settings import get_settings

BLOCK, MOST_TOKENS, TRIES, RESULT = 50, 256, 3, "prompting_structured"
WAYS = {"example, enforced": 200, "example, in words": 25, "in words": 8}  # rows of each way: the free ones are slow
CURRENCIES = ["EUR", "USD", "GBP", "CHF"]


def strict(**properties):
    """An object that has these keys and no other."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


AMOUNT = strict(total={"type": "number"}, currency={"enum": CURRENCIES})
DUE = {"anyOf": [{"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}, {"type": "null"}]}
SCHEMA = strict(
    supplier={"type": "string", "minLength": 1, "maxLength": 48},
    number={"type": "string", "minLength": 1, "maxLength": 16},
    payments={"type": "array", "items": strict(amount=AMOUNT, due=DUE), "minItems": 1, "maxItems": 2},
)
QUESTION = ("Give the invoice in this message as JSON: the supplier, the number of the invoice, and its payments, each with "
            "the amount and the day it is due (YYYY-MM-DD, or null where the message doesn't say).\n\n{text}")  # fmt: skip


def nested(label):
    """The truth of a row as an object of the schema."""
    truth = json.loads(label)
    amount = {"total": truth["total"], "currency": truth["currency"]}
    return {"supplier": truth["supplier"], "number": truth["number"], "payments": [{"amount": amount, "due": truth["due"]}]}


def flat(value):
    """A valid object as the task's scorer reads it."""
    payment = value["payments"][0]
    return json.dumps({"supplier": value["supplier"], "number": value["number"], **payment["amount"], "due": payment["due"]})


def conversation(way, row, example):
    """The messages of a way: the question, after a worked example where there is one."""
    ask = lambda text: {"role": "user", "content": QUESTION.replace("{text}", text)}  # noqa: E731
    shown = [ask(example["text"]), {"role": "assistant", "content": json.dumps(nested(example["label"]))}]
    return [*(shown if "example" in way else []), ask(row["text"])]


def one_row(chat, way, row, example):
    """All replies of a row, with what they cost, and the value that came out."""
    replies = []

    def timed(messages, **options):
        start = time.perf_counter()
        reply = chat(messages, **options)
        replies.append({"text": reply.text, "finish": reply.finish_reason, "tokens": reply.usage["completion_tokens"],
                        "seconds": round(time.perf_counter() - start, 3)})  # fmt: skip
        return reply

    messages, value, fault = conversation(way, row, example), None, None
    try:
        value = ask_json(timed, messages, SCHEMA, TRIES, enforce="enforced" in way, max_tokens=MOST_TOKENS)
    except ValueError as problem:
        fault = str(problem)
    return {"replies": replies, "value": value, "fault": fault}


def first_reply(done, read):
    """The value of a row's first reply as a reader finds it, or None when it isn't valid."""
    try:
        value = read(done["replies"][0]["text"])
    except ValueError:
        return None
    return None if find_faults(value, SCHEMA) else value


def point(way, step, done, values, task):
    """A line of the table: how many are valid, how many fields are right, and what it took."""
    valid = wilson_interval(sum(value is not None for value in values), len(values))
    shares = []
    for value, row in zip(values, task.rows):
        scores = task.field_scores(flat(value) if value is not None else "", row)
        shares.append(sum(scores.values()) / len(scores))
    fields = bootstrap_interval(shares)
    asked = [row["replies"] if step == "asked again" else row["replies"][:1] for row in done]
    mean = lambda key: sum(reply[key] for replies in asked for reply in replies) / len(done)  # noqa: E731
    return {"way": way, "step": step, "rows": len(done), "valid": sum(value is not None for value in values),
            "value": valid.value, "low": valid.low, "high": valid.high,
            "fields": fields.value, "fields_low": fields.low, "fields_high": fields.high, "all_right": sum(s == 1 for s in shares),
            "seconds": round(mean("seconds"), 2), "tokens": round(mean("tokens"), 1),
            "cut": sum(reply["finish"] == "length" for replies in asked for reply in replies),
            "longest": max(reply["tokens"] for replies in asked for reply in replies)}  # fmt: skip


def table(done, task):
    """The lines of all ways and steps."""
    lines = []
    for way, count in WAYS.items():
        rows = [done[way, number] for number in range(count)]
        for step, read in (("as it came", json.loads), ("mended", extract_json)):
            lines.append(point(way, step, rows, [first_reply(row, read) for row in rows], task))
        lines.append(point(way, "asked again", rows, [row["value"] for row in rows], task))
    return lines


def main():
    """Ask what isn't asked yet, block by block so that all ways meet the same machine, and record the table."""
    kept = get_settings().cache_dir / "evidence" / f"{RESULT}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    done = {(row["way"], row["row"]): row for row in map(json.loads, lines)}
    most = max(WAYS.values())
    task, chat = load_task("extraction", rows=most), connect()
    example = task.examples[0]
    with kept.open("ab", buffering=0) as file:  # one write a row: it is there whole or not at all
        for start in range(0, most, BLOCK):
            for way, count in WAYS.items():
                for number in range(start, min(start + BLOCK, count)):
                    if (way, number) in done: continue
                    done[way, number] = {"way": way, "row": number, **one_row(chat, way, task.rows[number], example)}
                    file.write((json.dumps(done[way, number], ensure_ascii=False) + "\n").encode("utf-8"))
                print(f"    {min(start + BLOCK, count)} of {count} rows, {way}", flush=True)
    points = table(done, task)
    record_curve(RESULT, points, note="one thread; seconds and tokens are of all replies of a row; an invalid object has no right field",
                 data=task.rows.name, model=DEFAULT_MODEL, max_tokens=MOST_TOKENS, tries=TRIES, schema=SCHEMA)  # fmt: skip
    for line in points: print("   ", {key: line[key] for key in ("way", "step", "valid", "rows", "fields", "seconds", "tokens", "cut")})
    kept.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
