"""Early, middle and late fusion on easy-VQA and on machine parts; run by `llmguide evidence fusion`.

Three seeds on the same rows; easy-VQA is tested on its official test part, parts on the later ones. What is done is kept.
"""

import json
import sys

import numpy as np

from llmguide.evidence import bootstrap_interval, load_curve, record_curve
from llmguide.multimodal.fuse import compare_fusions
from llmguide.multimodal.pairs import Pairs, View, maintenance_pairs, maintenance_readings, question_pairs
from llmguide.multimodal.questions import TYPES, interval_by_picture, load_questions, question_type

SEEDS, PICTURES, ROWS, EPOCHS, RESULT = (0, 1, 2), 1500, 8000, 10, "fusion"


def whole_quiz():
    """Questions about some training pictures and the whole test part over one set of items, and where the test begins."""
    train, test = load_questions("train"), load_questions("test", drawn=150)
    known = [q for q in train.questions if q.picture < PICTURES]
    train = train._replace(questions=known, pictures=train.pictures[:PICTURES])
    shift = len(train.pictures)
    questions = [*train.questions, *(q._replace(picture=q.picture + shift) for q in test.questions)]
    pairs = question_pairs(train._replace(questions=questions, pictures=[*train.pictures, *test.pictures]))
    return pairs, questions, len(train.questions), train.source


def question_rows():
    """Accuracy by kind of fusion and type of question, all seeds together."""
    pairs, questions, cut, source = whole_quiz()
    learned = np.random.default_rng(0).permutation(cut)[:ROWS]
    runs = compare_fusions(pairs.take(learned), pairs.take(slice(cut, None)), SEEDS, EPOCHS)
    tested, target, rows = questions[cut:], pairs.target[cut:], []
    types = [question_type(q.text) for q in tested]
    for kind in dict.fromkeys(run["kind"] for run in runs):
        own = [run for run in runs if run["kind"] == kind]
        for name in ("all", *TYPES):
            chosen = [n for n, each in enumerate(types) if name in ("all", each)]
            right = [run["scores"][n].argmax() == target[n] for run in own for n in chosen]
            interval = interval_by_picture(right, [tested[n].picture for n in chosen] * len(own))
            rows.append({"task": "easy-VQA", "kind": kind, "type": name, "rows": len(chosen), **interval._asdict(), **costs(own)})
    return rows, source


def costs(runs):
    """Parameters and mean seconds of the runs of one kind, and the accuracies seed by seed are left to the interval."""
    return {"parameters": runs[0]["parameters"], "seconds": round(float(np.mean([run["seconds"] for run in runs])), 1)}


def one_sided(pairs, side):
    """The pairs with one of the two views emptied of everything it says."""
    view = getattr(pairs, side)
    return pairs._replace(**{side: View(np.zeros_like(view.summary), np.ones_like(view.sequence))})


def part_rows():
    """Area under the ROC curve for failures of later parts, by kind of fusion and for each half alone."""
    from sklearn.metrics import roc_auc_score

    readings, source = maintenance_readings()
    pairs: Pairs = maintenance_pairs(readings)
    cut = len(pairs.rows) * 7 // 10
    halves = {"sensors only": one_sided(pairs, "said"), "note only": one_sided(pairs, "seen"), "both": pairs}
    target, rows = pairs.target[cut:], []
    for half, data in halves.items():
        runs = compare_fusions(data.take(slice(0, cut)), data.take(slice(cut, None)), SEEDS, EPOCHS)
        for kind in dict.fromkeys(run["kind"] for run in runs):
            if half != "both" and kind != "early": continue
            own = [run for run in runs if run["kind"] == kind]
            scores = np.mean([run["scores"][:, 1] for run in own], 0)  # the seeds vote together
            interval = bootstrap_interval(target, scores, statistic=lambda a, b: roc_auc_score(a, b) if a.any() else 0.5, draws=500)
            rows.append({"task": "maintenance", "kind": kind if half == "both" else half, "type": "failures", "rows": len(target),
                         **interval._asdict(), **costs(own)})
    return rows, source


def main():
    try: done = load_curve(RESULT)
    except FileNotFoundError: done = []
    for task, measure in (("easy-VQA", question_rows), ("maintenance", part_rows)):
        if any(row["task"] == task for row in done): continue
        rows, source = measure()
        done += rows
        record_curve(RESULT, done, note="intervals over test pictures or parts, all seeds; for maintenance: area under the ROC curve",
                     seeds=list(SEEDS), training_questions=ROWS, epochs=EPOCHS, source=source)
        print(json.dumps(rows, indent=1), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
