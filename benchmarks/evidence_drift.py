"""How often the drift of questions raises a false alarm, and how soon a true one; run by `llmguide evidence drift`, about a minute.

The limit was chosen on the questions about the handbooks. Here it is tried on three public sets that had no part in it. As in the
service, two hundred first questions are the reference. A quiet day has other questions of the same set at random; on a loud one
they are of another set. And a day of SQuAD asks about one article after the other: no other questions, but in bursts.
"""

import csv
import json
import sys

import numpy as np

from llmguide.enterprise.drift import QuestionDrift
from llmguide.enterprise.encoder import open_encoder
from llmguide.evidence import record_curve, wilson_interval
from llmguide.settings import get_settings

FIRST, DAY, DAYS, QUESTIONS, WINDOW, LIMITS = 200, 500, 200, 1200, 40, (1.0, 1.5, 2.0)
ENCODER = "all-minilm-l6-v2-int8"


def texts():
    """Questions by set, as many of each, those of SQuAD with their articles in order."""
    folder, draw = get_settings().datasets_dir, np.random.default_rng(0)
    banking = [row["text"] for row in csv.DictReader(open(folder / "banking77" / "test.csv", encoding="utf-8"))]
    clinc = [text for text, _ in json.loads((folder / "clinc150" / "data_full.json").read_text(encoding="utf-8"))["test"]]
    return {name: [found[place] for place in np.sort(draw.permutation(len(found))[:QUESTIONS])]
            for name, found in {"BANKING77": banking, "CLINC150": clinc, "SQuAD": squad(folder)}.items()}


def squad(folder):
    """The questions of SQuAD in the order of their articles."""
    data = json.loads(next(folder.glob("squad/*dev*.json")).read_text(encoding="utf-8"))["data"]
    return [question["question"] for article in data for part in article["paragraphs"] for question in part["qas"]]


def drift(reference, asked, seed):
    """Drift after each question of a day."""
    watch = QuestionDrift(reference, seed=seed)
    return np.array([watch.add(vector) for vector in asked])


def quiet(own, seed):
    """A day of questions like the first ones, none of which is among them."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(own))
    return drift(own[order[:FIRST]], own[draw.choice(order[FIRST:], DAY)], seed)


def loud(own, other, seed):
    """A day that begins with questions of another set, after a full window of the old ones."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(own))
    asked = np.concatenate([own[order[FIRST : FIRST + WINDOW]], other[draw.integers(0, len(other), DAY)]])
    return drift(own[order[:FIRST]], asked, seed)[WINDOW:]


def in_order(own, seed):
    """A day that asks about one article after the other."""
    draw = np.random.default_rng(seed)
    start = draw.integers(0, len(own) - DAY)
    return drift(own[draw.permutation(len(own))[:FIRST]], own[start : start + DAY], seed)


def lines(name, kind, days):
    """How many days were above each limit at any time, for how much of it, and after how many questions at the latest in half of them."""
    found = []
    for limit in LIMITS:
        above = np.array(days) > limit
        share = wilson_interval(int(above.any(1).sum()), len(days))
        soon = [int(np.argmax(one)) + 1 for one in above if one.any()]
        found.append({"set": name, "day": kind, "limit": limit, "days": len(days), **share._asdict(),
                      "time_above": float(above.mean()), "questions_until": float(np.median(soon)) if soon else None})
        print("   ", found[-1], flush=True)
    return found


def main():
    encoder = open_encoder(ENCODER)
    vectors = {name: np.asarray(encoder.encode(found)) for name, found in texts().items()}
    rows = []
    for name, own in vectors.items():
        rows += lines(name, "quiet", [quiet(own, seed) for seed in range(DAYS)])
        for other in sorted(vectors.keys() - {name}):
            rows += lines(name, f"then {other}", [loud(own, vectors[other], seed) for seed in range(20)])
    rows += lines("SQuAD", "one article after the other", [in_order(vectors["SQuAD"], seed) for seed in range(20)])
    note = "days are drawn from the same questions, so their intervals are a little too narrow"
    record_curve("enterprise_drift", rows, note, first=FIRST, questions_a_day=DAY, questions=QUESTIONS, encoder=ENCODER)
    return 0


if __name__ == "__main__":
    sys.exit(main())
