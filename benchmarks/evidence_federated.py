"""Federated LoRA against all rows in one place and each client alone: accuracy on the same test rows, bytes sent, ε.

Started by `llmguide evidence federated`. Writes results/federated.json. About eight minutes on two quiet cores.
"""

import math
import sys
import tempfile

import numpy as np

from llmguide.evidence import record_curve
from llmguide.finetuning.classify import Classifier
from llmguide.finetuning.epsilon import Privacy, noise_for
from llmguide.finetuning.evaluate import evaluate_model
from llmguide.finetuning.federated import SHARED, arrive, federate, federated_adapter, skewed_split, travelling
from llmguide.finetuning.predict import sentiment_rows
from llmguide.finetuning.prepare import CLASSIFY, encode_rows
from llmguide.finetuning.train import train
from llmguide.load import load_causal, split_rows
from llmguide.settings import choose_runtime

MODEL, CLIENTS, ROUNDS, BATCH, CONCENTRATION = "smollm2-135m-instruct", 4, 4, 16, 0.3
TRAIN_ROWS, TEST_ROWS = 480, 400
CLIPPING, DELTA, PROMISE, USEFUL = 1.0, 1e-5, 8.0, 0.01  # the last two: an ε worth having, and a noise the model survives


def say(line):
    print(f"  {line}", file=sys.stderr, flush=True)


def lengths(wire, start):
    """How long the clients' changes were, from the messages of an open run."""
    sent = [message.arrays for message in wire if message.upward and len(message.arrays) == len(start)]
    return [math.sqrt(sum(float(((new - old) ** 2).sum()) for new, old in zip(arrays, start))) for arrays in sent[:CLIENTS]]


def main():
    rows = sentiment_rows()
    training, _, test = split_rows(rows)
    training, test = training[:TRAIN_ROWS], test[:TEST_ROWS]
    base, tokenizer = load_causal(MODEL, precision=choose_runtime().precision)
    model = federated_adapter(base)
    start = [array.copy() for array in travelling(model).values()]
    parts = skewed_split(training, CLIENTS, CONCENTRATION)
    encoded = [encode_rows(part, tokenizer) for part in parts]
    table = []

    def measure(arm, sent=0, epsilon=None, **facts):
        found = evaluate_model(Classifier(model, tokenizer, rows.labels, CLASSIFY), test)
        value, low, high = found["accuracy_interval"].scale(100)
        table.append({"arm": arm, "value": value, "low": low, "high": high, "macro_f1": round(found["macro_f1"], 4),
                      "sent_mb": round(sent / 1e6, 2), "epsilon": epsilon and round(epsilon, 2), **facts})
        say(f"{arm}: {value:.1f} %")

    def central(arm, examples):
        arrive(model, start)
        with tempfile.TemporaryDirectory() as folder:
            train(model, examples, SHARED, folder, tokenizer.pad_token_id, ROUNDS, BATCH, report=lambda _: None, schedule="constant")
        measure(arm, rows=len(examples))

    def federated(arm, privacy=None, secure=True):
        arrive(model, start)
        result = federate(model, encoded, tokenizer.pad_token_id, ROUNDS, 1, BATCH, privacy=privacy, secure=secure, report=say)
        epsilon = result.epsilon if math.isfinite(result.epsilon) else None
        extra = {"first_changes": np.round(lengths(result.wire, start), 3).tolist()} if not secure else {}
        measure(arm, sum(message.size for message in result.wire), epsilon, rows=len(training), **extra)

    measure("before", rows=0)
    central("all rows in one place", sum(encoded, []))
    for number, examples in enumerate(encoded, 1): central(f"client {number} alone", examples)
    federated("federated, masked sums")
    federated("federated, no masks", secure=False)
    federated(f"federated, clipped to {CLIPPING:g}", Privacy(CLIPPING, 0.0, DELTA))
    federated(f"federated, clipped, noise {USEFUL:g}", Privacy(CLIPPING, USEFUL, DELTA))
    strong = noise_for(PROMISE, ROUNDS, DELTA)
    federated(f"federated, clipped, noise {strong:.1f}", Privacy(CLIPPING, strong, DELTA))
    note = "accuracy with Wilson intervals on the same test rows; ε for a whole client at δ 1e-5, all take part in all rounds"
    record_curve("federated", table, note=note,
                 dataset=rows.name, model=MODEL, clients=CLIENTS, rounds=ROUNDS, concentration=CONCENTRATION, batch=BATCH,
                 labels=[[sum(row["label"] == label for row in part) for label in rows.labels] for part in parts],
                 precision=choose_runtime().precision, numbers_sent=int(sum(array.size for array in start)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
