"""Intents by rules, letters, vectors, both, and a fine-tuned encoder on CLINC150 and BANKING77; run by `llmguide evidence intents`.

What is done is kept in the cache folder under evidence/intents: remove it to measure again.

CLINC150: train and oos_train for training, val for the threshold, test and oos_test for the report.
BANKING77: a tenth of train for the threshold; out of scope are CLINC150's own out-of-scope questions, which are easy to tell.
"""

import csv
import json
import re
import sys
import time

import numpy as np

from build_intents import parts, right
from llmguide.enterprise.encoder import open_encoder
from llmguide.enterprise.intents import OUT_OF_SCOPE, IntentModel, desk_scores, detect_intent, rule_intent
from llmguide.evidence import bootstrap_interval, record_curve, wilson_interval
from llmguide.load import read_table, split_rows
from llmguide.settings import get_settings, write_atomically
from llmguide.stories import project_folder

CACHE = get_settings().cache_dir / "evidence" / "intents"
METHODS, POINTS, EPOCHS = ("names", "words", "meaning", "both", "tuned"), 30, 2


class ByName:
    """Rules that need no rows: a label whose words are all in the question, the one with most words first."""

    def __init__(self, labels):
        self.labels = sorted({label for label in labels if label != OUT_OF_SCOPE})
        self.words = {label: set(re.findall(r"[a-z]{3,}", label.lower())) or {label} for label in self.labels}
        self.threshold = 0.5

    def best(self, texts):
        """The label found in each text, with 1, or any label with 0."""
        found = []
        for text in texts:
            said = set(re.findall(r"[a-z]{3,}", text.lower()))
            fits = [label for label in self.labels if self.words[label] <= said]
            found.append((max(fits, key=lambda label: len(self.words[label])), 1.0) if fits else (self.labels[0], 0.0))
        return [name for name, _ in found], np.array([sure for _, sure in found])


def clinc():
    """Rows to train on, to choose the threshold with, to test on, and questions out of scope for the report."""
    file = get_settings().datasets_dir / "clinc150" / "data_full.json"
    data = {part: [{"text": text, "label": OUT_OF_SCOPE if label == "oos" else label} for text, label in rows]
            for part, rows in json.loads(file.read_text(encoding="utf-8")).items()}
    return data["train"] + data["oos_train"], data["val"], data["test"], data["oos_test"]


def banking(outside):
    """The same for BANKING77."""
    folder = get_settings().datasets_dir / "banking77"
    train, test = ([{"text": row["text"], "label": row["category"]} for row in csv.DictReader(open(folder / name, encoding="utf-8"))]
                   for name in ("train.csv", "test.csv"))
    train, validation = split_rows(train, (0.9, 0.1))
    return train, validation, test, outside


def answers(model, rows):
    """Label and confidence of each row, before the threshold."""
    names, sure = model.best([row["text"] for row in rows])
    return np.array(names), np.asarray(sure)


def kept(data, method, *given):
    """What `measured` finds, kept so that a run that was cut goes on where it was."""
    file = CACHE / f"{data}-{method}.json"
    if not file.exists(): write_atomically(file, json.dumps(measured(data, method, *given)))
    return json.loads(file.read_text())


def measured(data, method, train, validation, test, outside):
    """One method on one data set: figures at its threshold, the curve, and what is confused most."""
    options = {"epochs": EPOCHS} if method == "tuned" else {}
    start = time.perf_counter()
    model = ByName(row["label"] for row in train) if method == "names" else IntentModel.train(train, validation, method, **options)
    trained, start = time.perf_counter() - start, time.perf_counter()
    names, sure = answers(model, test)
    asked = time.perf_counter() - start
    refused, wanted = answers(model, outside)[1], np.array([row["label"] for row in test])
    good, sent, about = names == wanted, sure >= model.threshold, {"set": data, "method": method}
    accuracy, recall = bootstrap_interval(good & sent), wilson_interval(int((refused < model.threshold).sum()), len(refused))
    figures = {"threshold": model.threshold, "always_answered": float(good.mean()), "rows": len(test), "outside": len(refused),
               "seconds_training": round(trained, 1), "milliseconds": round(1000 * asked / len(test), 2)}
    print(data, method, f"in scope {accuracy:.3f}, out of scope {recall:.3f}", figures, file=sys.stderr, flush=True)
    rows = [{**about, "kind": "figures", "measure": "accuracy", **accuracy._asdict(), **figures},
            {**about, "kind": "figures", "measure": "recall", **recall._asdict(), **figures}]
    return rows + curve(about, good, sure, refused) + confusions(about, names, wanted, sent)


def curve(about, good, sure, refused):
    """Accuracy in scope and recall out of scope at thresholds over the whole range."""
    limits = np.unique(np.quantile(np.r_[sure, refused], np.linspace(0, 0.6, POINTS)))
    return [{**about, "kind": "curve", "threshold": float(each), "accuracy": float((good & (sure >= each)).mean()),
             "recall": float((refused < each).mean())} for each in limits]


def confusions(about, names, wanted, sent, most=6):
    """The pairs that are taken for each other most often, refused rows left out."""
    wrong = [tuple(pair) for pair in np.stack([wanted, names], 1)[sent & (names != wanted)]]
    counted = sorted({pair: wrong.count(pair) for pair in set(wrong)}.items(), key=lambda item: -item[1])[:most]
    return [{**about, "kind": "confusion", "wanted": str(a), "given": str(b), "rows": n} for (a, b), n in counted]


def desks():
    """The four desks, by language: validation rows, tickets written at another time, what no other desk is for, fresh messages."""
    encoder, found = open_encoder("all-minilm-l6-v2-int8"), []
    ways = {"rules": rule_intent, "words": letters, "words and rules": detect_intent,
            "meaning and rules": lambda text: detect_intent(text, encoder)}
    folder = project_folder() / "data"
    files = {"tickets": "tickets.csv", "general": "general_messages.csv", "messages": "desk_messages.csv"}
    sets = {"validation": parts()[1]} | {name: read_table(folder / file) for name, file in files.items()}
    for name, rows in sets.items():
        for language in ("en", "zh"):
            for method, answer in ways.items():
                own = right(rows, language, answer)
                found.append({"set": name, "language": language, "method": method, "kind": "desks", "rows": len(own),
                              **wilson_interval(sum(own), len(own))._asdict()})
    return found


def letters(text):
    """The desk of a text by letters and words alone."""
    scores = desk_scores(text, vote=0.0)
    return max(scores, key=scores.get)


if __name__ == "__main__":
    clinc_parts = clinc()
    rows = desks()
    for data, given in (("CLINC150", clinc_parts), ("BANKING77", banking(clinc_parts[3]))):
        for method in METHODS: rows += kept(data, method, *given)
    note = "Times on shared cores: compare them with each other only."
    record_curve("enterprise_intents", rows, note, epochs=EPOCHS, refuse=0.03, encoder="all-minilm-l6-v2", seeds=[0])
