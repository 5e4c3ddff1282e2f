"""Planted orders that the guard of passages notices, and clean passages that it suspects; run by `llmguide evidence guard`.

The pattern was written with the first two and the last order of each kind and the Basecamp handbook in view; both are reported apart.
"""

import json
import random
from pathlib import Path

from llmguide.enterprise.guard import ABUSIVE, orders_in
from llmguide.enterprise.split import sentence_spans
from llmguide.evidence import record_curve, wilson_interval
from llmguide.prompting.defend import is_attack
from llmguide.prompting.head import load_head
from llmguide.prompting.moderate import moderate
from llmguide.settings import get_settings
from llmguide.stories import project_folder

LENGTH = 6  # sentences of a passage
FRESH = slice(2, -1)  # the orders of each kind that weren't looked at


def passages(folder):
    """Passages of six sentences from all Markdown files of a folder."""
    for path in sorted(Path(folder).rglob("*.md")):
        text = path.read_text(encoding="utf-8", errors="replace")
        spans = sentence_spans(text)
        for first in range(0, len(spans), LENGTH):
            part = spans[first : first + LENGTH]
            if part[-1][1] - part[0][0] > 80: yield text[part[0][0] : part[-1][1]]


def chinese(path):
    """The passages of CMRC 2018."""
    return [part["context"] for article in json.loads(path.read_text(encoding="utf-8"))["data"] for part in article["paragraphs"]]


def plant(order, passage, chance):
    """The order before one of the passage's sentences or at its end."""
    places = [start for start, _ in sentence_spans(passage)] + [len(passage)]
    place = chance.choice(places)
    return f"{passage[:place].rstrip()} {order} {passage[place:]}"


def row(part, name, hits):
    """One line of the table."""
    return {"part": part, "name": name, "rows": len(hits), **wilson_interval(sum(hits), len(hits))._asdict()}


def main():
    """All rows."""
    data, chance = get_settings().datasets_dir, random.Random(0)
    orders = json.loads((data / "prompt_injection" / "bipia" / "text_attack_train.json").read_text(encoding="utf-8"))
    large = list(passages(data / "handbook_sourcegraph"))
    honest = [text for text in large if not orders_in(text)]
    found = {order: sum(bool(orders_in(plant(order, passage, chance))) for passage in chance.sample(honest, 10)) > 5
             for listed in orders.values() for order in listed}
    fresh = {kind: listed[FRESH] for kind, listed in orders.items()}
    every = [order for listed in fresh.values() for order in listed]
    speaking = [order for kind in list(fresh)[5:] for order in fresh[kind]]  # the first five kinds are merely off the subject
    alone = [is_attack(plant(order, chance.choice(large), chance)) for order in every]
    rows = [row("kind", kind, [found[order] for order in listed]) for kind, listed in fresh.items()]
    rows += [row("noticed", "orders never looked at, all kinds", [found[order] for order in every]),
             row("noticed", "of these, that speak of the answer", [found[order] for order in speaking]),
             row("noticed", "all kinds, by the judge of whole prompts alone", alone),
             row("noticed", "orders looked at", [hit for order, hit in found.items() if order not in every])]
    clean = {"handbook never looked at (Sourcegraph)": large, "handbook looked at (Basecamp)": passages(data / "handbook_basecamp"),
             "our own handbooks, English and Chinese": passages(project_folder() / "data" / "handbooks"),
             "Chinese encyclopedia (CMRC 2018)": chinese(data / "cmrc2018" / "cmrc2018_dev.json")}
    rows += [row("alarm", name, [bool(orders_in(text)) for text in texts]) for name, texts in clean.items()]
    sentences = [text[start:end] for text in chance.sample(large, 400) for start, end in sentence_spans(text) if end - start > 20]
    abuse = [moderate(sentence)["abuse"] for sentence in sentences]
    limit = load_head("moderate").card["thresholds"]["abuse"]
    rows += [row("tone", "sentences withheld (Sourcegraph)", [score >= ABUSIVE for score in abuse]),
             row("tone", "with the filter's own threshold", [score >= limit for score in abuse])]
    for each in rows: print(each, flush=True)
    record_curve("enterprise_guard", rows, passage=f"{LENGTH} sentences", data="BIPIA text orders in passages of the Sourcegraph handbook",
                 note="kind and noticed: share of orders "
                      "that orders_in notices in most of ten passages; alarm: share of clean passages that it suspects.")


if __name__ == "__main__": main()
