"""Measure what rewriting and back-translation add to few labelled rows; run by `llmguide evidence augment`.

For each sentiment data set: 80 rows are changed by each way once, and a linear probe on MiniLM vectors is trained on 40 of
them with and without their changed copies, and with as many further real rows, 20 draws, the same test rows for all.
What a model answered is kept in the cache folder until the result is recorded, so a stopped run doesn't ask again.
"""

import random
import sys

from llmguide.chat import connect, record, replay
from llmguide.evidence import record_curve
from llmguide.finetuning.augment import (
    augment, back_translate, interval_over_seeds, rewrite, right_answers, swap_terms, writing_model,
)  # fmt: skip
from llmguide.load import load_rows
from llmguide.settings import get_settings
from llmguide.store import TextEncoder

DATASETS, SMALL = ("financial-phrasebank", "news-sentiment"), "smollm2-135m-instruct"
CHANGED_ROWS, BASE_ROWS, REAL_ROWS, TEST_ROWS, SEEDS = 80, 40, 600, 600, 20


def kept_answers(model):
    """The file with the answers of a model."""
    return get_settings().cache_dir / "evidence" / f"augment_{model}.jsonl"


def remembering(model):
    """A chat that asks each question once, whatever happens to the process."""
    asking = record(connect(model), kept_answers(model))
    known = replay(kept_answers(model))

    def chat(messages, **options):
        try:
            return known(messages, **options)
        except LookupError:
            return asking(messages, **options)

    return chat


def ways(models):
    """Name of an arm -> function of a text and a seed."""
    found = {"synonyms": swap_terms}
    for model in models:
        chat = remembering(model)
        found[f"rewriting, {model}"] = lambda text, seed, chat=chat: rewrite(text, chat, seed)
        if model != SMALL:  # it knows one language
            found[f"back-translation, {model}"] = lambda text, seed, chat=chat: back_translate(text, chat, seed)
    return found


def measure(rows, name, change, encode):
    """One line of the table: the gain of the changed copies and of as many real rows over the base rows."""
    drawn = random.Random(0).sample(rows, len(rows))
    changed, rest = drawn[:CHANGED_ROWS], drawn[CHANGED_ROWS:]
    test, real = rest[:TEST_ROWS], rest[TEST_ROWS:][:REAL_ROWS]
    copies, kept = {}, 0
    for row in changed:
        new, _ = augment([row], change, avoid=[*test, *changed])
        copies[row["text"]], kept = new, kept + len(new)
    print(f"    {rows.name}, {name}: {kept} of {len(changed)} copies kept", flush=True)
    bases = [random.Random(seed).sample(changed, BASE_ROWS) for seed in range(SEEDS)]
    added = [[copy for row in base for copy in copies[row["text"]]] for base in bases]
    further = [random.Random(1000 + seed).sample(real, len(new)) for seed, new in enumerate(added)]
    right = right_answers({"base": bases, "copies": [b + a for b, a in zip(bases, added)],
                           "real": [b + f for b, f in zip(bases, further)]}, test, encode)  # fmt: skip
    gains = {arm: interval_over_seeds(right[arm] * 1.0 - right["base"]) for arm in ("copies", "real")}
    return {"data": rows.name, "added": name, "copies kept (%)": 100 * kept / len(changed),
            "accuracy before (%)": 100 * float(right["base"].mean()),
            **{f"gain{end}": value for end, value in zip(("", " low", " high"), gains["copies"])},
            **{f"real rows{end}": value for end, value in zip(("", " low", " high"), gains["real"])}}  # fmt: skip


def main():
    """Measure what is here, record one table."""
    models, table, encode = list(dict.fromkeys((SMALL, writing_model()))), [], TextEncoder().encode
    for dataset in DATASETS:
        try:
            rows = load_rows(dataset)
        except FileNotFoundError as missing:
            print(f"  {dataset} left out: {missing}", flush=True)
            continue
        table += [measure(rows, name, change, encode) for name, change in ways(models).items()]
    if not table:
        return 1
    record_curve("augmentation", table, note="gains in points over the base rows, 95 % intervals over draws and test rows",
                 learner="logistic regression on all-minilm-l6-v2 vectors", base_rows=BASE_ROWS, test_rows=TEST_ROWS, seeds=SEEDS)
    for model in models:
        kept_answers(model).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
