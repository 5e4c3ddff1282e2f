"""How many spoilt sentences the checks of a generated answer stop, and what becomes of a model's own; run by `llmguide evidence support`.

Real sentences of SQuAD's report articles and of CMRC 2018 are spoilt by rule: another number, another name, a "not" put in or
taken out, an opposite. The sentence itself and a shortened form of it must pass.
"""

import json
import random
import sys
import time

from build_reader import load_squad
from evidence_answers import CACHE, chosen, drawn, english_hits, judged, read_all

from llmguide.catalog import resolve
from llmguide.chat import connect
from llmguide.enterprise.evaluate import holds_answer
from llmguide.enterprise.answer import MOST_SAID, answer, answer_messages, passages_within, quote_answer, sentences_of
from llmguide.enterprise.refuse import language_of, load_confidence, weigh
from llmguide.enterprise.facts import quotable_spans
from llmguide.enterprise.support import corruptions, support
from llmguide.evidence import record_curve, wilson_interval
from llmguide.replies import ScriptedChat
from llmguide.settings import write_atomically

ASKED, MODELS = 30, ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")


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


def generated(model, rows):
    """What a model says to questions that pass the threshold; kept, so that a run that was stopped goes on."""
    file = CACHE / f"generated-{model}.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    chat = connect(model) if len(kept) < len(rows) else None
    for row in rows[len(kept) :]:
        begun, (_, best) = time.monotonic(), quote_answer(row["question"], row["hits"], 0.0)
        raw = chat(answer_messages(row["question"], passages_within(row["hits"], best.place)), max_tokens=MOST_SAID).text
        kept.append({"question": row["question"], "raw": raw})
        write_atomically(file, json.dumps(kept, ensure_ascii=False, indent=1))
        print(f"{model}: {len(kept)} of {len(rows)}, {time.monotonic() - begun:.0f} s", flush=True)
    return [judged_reply(row, each["raw"]) for row, each in zip(rows, kept)]


def judged_reply(row, raw):
    """What becomes of a reply, and whether it is right: as it was said, after the checks, and as the plain quotation."""
    told, quoted = (answer(row["question"], row["hits"], chat, 0.0) for chat in (ScriptedChat([raw]), None))
    right = {name: row["kind"] == "answerable" and holds_answer(text, row["golds"])
             for name, text in {"as said": raw, "checked": told.text, "quoted": quoted.text}.items()}
    sentences = len([*sentences_of(iter([raw]))])
    return {"sentences": sentences, "removed": len(told.removed), "worded": told.reason == "generated", "text": told.text} | right


def generated_rows(model, kept):
    """Shares of a model's sentences and of its answers, with intervals."""
    said, removed = (sum(row[name] for row in kept) for name in ("sentences", "removed"))
    counts = {"sentences borne out": (said - removed, said), "sentences removed": (removed, said),
              "worded by the model": (sum(row["worded"] for row in kept), len(kept))}
    counts |= {f"right, {name}": (sum(row[name] for row in kept), len(kept)) for name in ("as said", "checked", "quoted")}
    return [{"model": model, "figure": name, "rows": among, **wilson_interval(count, among)._asdict()}
            for name, (count, among) in counts.items()]


def asked():
    """Questions of the report articles that pass the threshold, with their passages."""
    passages, questions, parts = load_squad()
    own = drawn(questions, parts, "report")
    hits, head = english_hits("report", own, passages, own), load_confidence()["en"]
    rows = chosen(judged(own, hits, read_all(own, hits, "report")), lambda signs: weigh(head, signs))
    passed = [{**row, "hits": found} for row, found in zip(rows, hits) if row["score"] >= head["threshold"]]
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
    rows, said = asked(), []
    for model in MODELS:
        try: said += generated_rows(model, generated(model, rows))
        except FileNotFoundError as problem: print(f"{model} is left out: {problem}")
    note = "questions of the report articles that pass the threshold, trick questions among them; right: the text holds a reference answer"
    record_curve("enterprise_generated", said, note=note)
    for row in said: print(f"{row['model']} {row['figure']:20} {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f}) of {row['rows']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
