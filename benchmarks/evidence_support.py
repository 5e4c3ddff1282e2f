"""How many spoilt sentences the checks of a generated answer stop, and what becomes of a model's own; run by `llmguide evidence support`.

Real sentences of SQuAD's report articles and of CMRC 2018 are spoilt by rule: another number, another name, a "not" put in or
taken out, an opposite. The sentence itself and a shortened form of it must pass.
"""

import json
import random
import sys

from build_reader import load_squad
from evidence_answers import CACHE, drawn, english_hits, judged, read_all

from llmguide.catalog import resolve
from llmguide.chat import connect
from llmguide.enterprise.evaluate import holds_answer
from llmguide.enterprise.answer import answer, answer_messages, passages_within
from llmguide.enterprise.refuse import language_of, load_confidence, weigh
from llmguide.enterprise.facts import quotable_spans
from llmguide.enterprise.support import corruptions, support
from llmguide.evidence import record_curve, wilson_interval
from llmguide.replies import ScriptedChat
from llmguide.settings import write_atomically

ASKED, MODELS = 20, ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")


def support_rows(sentences, language, count=150):
    """How many spoilt sentences the checks stop, by kind of damage, and how many sound ones."""
    rng = random.Random(0)
    rng.shuffle(sentences)
    stopped = {}
    for number, (sentence, passage) in enumerate(sentences[:count]):
        others = [sentences[(number + step) % len(sentences)][0] for step in range(1, 30)]
        tries = corruptions(sentence, others) | {"itself": sentence} | shortened(sentence)
        for kind, said in tries.items(): stopped.setdefault(kind, []).append(bool(support(said, [passage]).reasons))
    return [{"language": language, "kind": kind, "rows": len(flags), **wilson_interval(sum(flags), len(flags))._asdict()}
            for kind, flags in stopped.items()]


def shortened(sentence):
    """The sentence without what stands behind its last comma, if enough remains: true where the passage is."""
    head, _, tail = sentence.rstrip(".。").rpartition("，" if "，" in sentence else ", ")
    end = "。" if sentence.endswith("。") else "."
    return {"shortened": head + end} if len(head) > 30 or ("，" in sentence and len(head) > 10) else {}


def true_sentences(passages, longest=200):
    """Whole sentences of passages, with their passage."""
    spans = [(text, span) for text in passages for span in quotable_spans(text)]
    return [(text[start:end], text) for text, (start, end) in spans if (12 if language_of(text) == "zh" else 30) < end - start < longest]


def generated(model, rows, hits):
    """What a model's sentences become, for questions that pass the threshold: as they were said, and after the checks."""
    file = CACHE / f"generated-{model}.json"
    kept = json.loads(file.read_text()) if file.exists() else []
    chat = connect(model) if len(kept) < len(rows) else None
    for row, found in zip(rows[len(kept) :], hits[len(kept) :]):
        quoted = answer(row["question"], found, None, 0.0)
        raw = chat(answer_messages(row["question"], passages_within(found, row["place"])), max_tokens=120).text
        told = answer(row["question"], found, ScriptedChat([raw]), 0.0)
        texts = {"as said": raw, "checked": told.text, "quoted": quoted.text}
        right = {name: holds_answer(text, row["golds"]) for name, text in texts.items()}
        kept.append({"question": row["question"], "golds": row["golds"], "raw": raw, "text": told.text, "reason": told.reason,
                     "removed": list(told.removed), **right})
        write_atomically(file, json.dumps(kept, ensure_ascii=False, indent=1))
    return kept


def asked():
    """Questions of the report articles that pass the threshold, with their passages."""
    passages, questions, parts = load_squad()
    own = drawn(questions, parts, "report")
    hits = english_hits("report", own, passages, own)
    readings = read_all(own, hits, "report")
    head = load_confidence()["en"]
    rows = [{**row, "hits": found, "place": each[0].place} for row, found, each in zip(judged(own, hits, readings), hits, readings)]
    passed = [row for row in rows if weigh(head, row["signs"]) >= head["threshold"]]
    return random.Random(1).sample(passed, min(ASKED, len(passed)))


def texts():
    """Passages in English (report articles of SQuAD) and Chinese (CMRC 2018)."""
    passages, _, parts = load_squad()
    data = json.loads((resolve("cmrc2018").path / "cmrc2018_dev.json").read_text(encoding="utf-8"))["data"]
    chinese = [paragraph["context"] for article in data for paragraph in article["paragraphs"]]
    return {"en": [passage["text"] for passage in passages if parts[passage["title"]] == "report"], "zh": chinese}


def measure_checks():
    """The table of the checks, recorded and printed."""
    table = [row for language, own in texts().items() for row in support_rows(true_sentences(own), language)]
    record_curve("enterprise_support", table, note="share of sentences that the checks stop; real sentences, spoilt by rule")
    for row in table: print(f"{row['language']} {row['kind']:10} {row['value']:.3f} of {row['rows']}", flush=True)


def main():
    measure_checks()
    chosen, said = asked(), []
    for model in MODELS:
        try: kept = generated(model, chosen, [row["hits"] for row in chosen])
        except FileNotFoundError as problem:
            print(f"{model} is left out: {problem}")
            continue
        for figure in ("as said", "checked", "quoted"):
            interval = wilson_interval(sum(each[figure] for each in kept), len(kept))
            said.append({"model": model, "figure": figure, "rows": len(kept), **interval._asdict()})
        counts = {"sentences removed": sum(len(each["removed"]) for each in kept),
                  "not quoted": sum(each["reason"] == "generated" for each in kept)}
        plain = {"model": model, "rows": len(kept), "low": None, "high": None}
        said += [{**plain, "figure": name, "value": count} for name, count in counts.items()]
    note = "questions of the report articles that pass the threshold; right: the text holds a reference answer"
    record_curve("enterprise_generated", said, note=note)
    for row in said: print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
