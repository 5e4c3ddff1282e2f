"""Recall of retrieval on SQuAD and CMRC 2018, and of three splitters; run by `llmguide evidence retrieval`.

Every passage is a document of its own and every question goes through `retrieve` and a LanceStore, as a user's would.
Vectors and ranks are kept in the cache folder, so that a run that was stopped goes on where it was.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from llmguide.catalog import file_hash, resolve
from llmguide.enterprise.documents import Document
from llmguide.enterprise.retrieve import retrieve
from llmguide.enterprise.split import TOKEN_PATTERN, rough_tokens, split_document
from llmguide.enterprise.text import Block
from llmguide.evidence import Interval, record_curve, wilson_interval
from llmguide.passages import TextEncoder, make_chunk
from llmguide.settings import get_settings, write_atomically
from llmguide.store import LanceStore

CACHE = get_settings().cache_dir / "evidence" / "retrieval"
ENDS = re.compile(r"[.!?。！？；…][\"'”’)）」』》\]]*\s*$")  # a chunk that ends with a sentence
ARMS = ("BM25", "dense", "sum of scores", "with close reading")


class KeptVectors:
    """The embedded encoder with its vectors kept on disk, list by list, and looked up text by text."""

    def __init__(self, name="all-minilm-l6-v2"):
        self.name, self.dimension, self._known, self._encoder = name, 384, {}, None
        self._weights = file_hash(next(resolve(name).path.glob("*.safetensors")))[:12]

    def learn(self, texts, step=1000):
        """Vectors of a list of texts, computed where they aren't kept; a run that is stopped loses one step at most."""
        for place in range(0, len(texts), step):
            part = texts[place : place + step]
            file = CACHE / f"{hashlib.sha256(json.dumps([self._weights, *part]).encode()).hexdigest()[:20]}.npy"
            if not file.exists():
                self._encoder = self._encoder or TextEncoder(self.name)
                content = io.BytesIO()
                np.save(content, self._encoder.encode(part))
                write_atomically(file, content.getvalue())
                print(f"    {place + len(part)} of {len(texts)} texts encoded", flush=True)
            self._known |= zip(part, np.load(file, allow_pickle=False))
        return self.encode(texts)

    def encode(self, texts): return np.array([self._known[text] for text in texts])


def load_squad(name, file):
    """Articles of a data set in SQuAD's format: title, passages; and questions: text, passage number, answers, title."""
    passages, questions = [], []
    for article in json.loads((resolve(name).path / file).read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            passages.append((article["title"], paragraph["context"]))
            questions += [(each["question"], len(passages) - 1, [a["text"] for a in each["answers"]], article["title"])
                          for each in paragraph["qas"]]
    return passages, questions


class Listening:
    """A store that remembers what the last search gave, so that two arms share one search."""

    def __init__(self, store): self.store, self.last = store, []

    def search(self, *given):
        self.last = self.store.search(*given)
        return self.last


def rank(hits, source):
    """Place of a document among the hits, counted from 1; 0 where it isn't."""
    return next((place for place, hit in enumerate(hits, 1) if hit.chunk.source == source), 0)


def ranks_of(store, encoder, vectors, question, place):
    """Rank of the right passage by each arm; the encoder alone is exact and needs no store, its ranks are counted from the vectors."""
    listening, source = Listening(store), f"{place}"
    found = retrieve(listening, encoder, question, top_k=20)
    cosines = vectors @ encoder.encode([question])[0]
    return [rank(store.search(text=question, k=20), source), int((cosines > cosines[place]).sum()) + 1,
            rank(listening.last[:20], source), rank(found, source)]


@contextmanager
def filled_store(passages, encoder):
    """A LanceStore with every passage as a document of its own, named by its number."""
    texts = [text for _, text in passages]
    with tempfile.TemporaryDirectory() as folder, LanceStore(Path(folder) / "store", encoder) as store:
        store.upsert([make_chunk(f"{number}", text) for number, text in enumerate(texts)], encoder.learn(texts))
        store.compact()
        yield store


def kept_list(name, items, measure, step=200):
    """What `measure` gives for each item, kept on disk step by step; a run that is stopped goes on from there."""
    file = CACHE / f"{name}.json"
    kept = json.loads(file.read_text()) if file.exists() else []
    for item in items[len(kept) :]:
        kept.append(measure(item))
        if len(kept) % step == 0 or len(kept) == len(items):
            write_atomically(file, json.dumps(kept))
            print(f"    {name}: {len(kept)} of {len(items)}", flush=True)
    return kept


def clustered(values, titles, draws=2000, seed=0):
    """Mean with a 95 % interval by drawing whole articles: questions about one article share its luck."""
    names = sorted(set(titles))
    at = {name: number for number, name in enumerate(names)}
    groups = np.array([at[title] for title in titles])
    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    drawn = np.random.default_rng(seed).integers(0, len(names), (draws, len(names)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    return Interval(float(np.mean(values)), *map(float, np.quantile(means, (0.025, 0.975))))


def chosen_on(titles):
    """Half of the articles, drawn with a seed: weights were chosen on these."""
    names = sorted(set(titles))
    return set(np.random.default_rng(0).permutation(names)[: len(names) // 2])


def rows_of(name, ranks, titles):
    """Recall at 1 and 5 of every arm, and the gain of the last over the others, on all articles and on those not chosen on."""
    chosen, rows = chosen_on(titles), []
    for part in ("all articles", "articles chosen on", "other articles"):
        rows_in = np.array([part == "all articles" or (title in chosen) == (part == "articles chosen on") for title in titles])
        own = [title for title, kept in zip(titles, rows_in) if kept]
        for k in (1, 5):
            right = ((ranks > 0) & (ranks <= k))[rows_in].astype(float)
            about = {"data": name, "articles": part, "questions": len(own), "k": k}
            rows += [about | {"figure": "recall", "arm": arm, **clustered(right[:, n], own)._asdict()} for n, arm in enumerate(ARMS)]
            rows += [about | {"figure": "gain over", "arm": arm, **clustered(right[:, -1] - right[:, n], own)._asdict()}
                     for n, arm in enumerate(ARMS[:-1])]
    return rows


def recall_trials(encoder):
    """Both public sets through the real path, recorded as they are done."""
    rows = []
    for name, card, file, every in (("SQuAD 1.1 dev", "squad", "dev-v1.1.json", 1), ("CMRC 2018 dev", "cmrc2018", "cmrc2018_dev.json", 2)):
        passages, questions = load_squad(card, file)
        questions = questions[::every]  # all passages are in the store; of the Chinese questions every second one is asked
        encoder.learn([question for question, *_ in questions])
        with filled_store(passages, encoder) as store:
            vectors = encoder.encode([text for _, text in passages])
            ranks = kept_list(f"ranks-{card}", questions, lambda q, v=vectors: ranks_of(store, encoder, v, *q[:2]))
        rows += rows_of(name, np.array(ranks), [title for *_, title in questions])
        record_recall(rows)


def record_recall(rows):
    """The table of recall, as far as it is measured."""
    for row in rows: print(row, flush=True)
    record_curve("enterprise_retrieval", rows, note="every passage a document, every question through `retrieve`; intervals by drawing"
                 " whole articles; settings chosen on half of the SQuAD articles", model="all-minilm-l6-v2")


TOKENS, READ, TOGETHER = 160, 500, 12  # tokens of a chunk; tokens that are read of the hits; Chinese paragraphs joined to a document


def documents_of(passages, size=None):
    """Texts of whole articles, or of `size` passages joined, and for each passage its document and its span there."""
    texts, places = [], []
    for number, (title, text) in enumerate(passages):
        new = not texts or (title != passages[number - 1][0] if size is None else number % size == 0)
        if new: texts.append("")
        start = len(texts[-1]) + (0 if new else 2)
        texts[-1] += ("" if new else "\n\n") + text
        places.append((len(texts) - 1, start, start + len(text)))
    return texts, places


def our_chunks(texts, tokens):
    """Our splitter on the same texts."""
    documents = [Document(f"{n}", tuple(Block(part, "paragraph") for part in text.split("\n\n"))) for n, text in enumerate(texts)]
    start = time.perf_counter()
    chunks = [[[chunk.start, chunk.text] for chunk in split_document(document, tokens)] for document in documents]
    return {"seconds": time.perf_counter() - start, "chunks": chunks}


def their_chunks(texts):
    """LangChain's and LlamaIndex's splitters, in their own Python; nothing, and how to get them, where there is none."""
    python = os.environ.get("LLMGUIDE_PEERS_PYTHON")
    if not python:
        print("    LangChain and LlamaIndex left out: LLMGUIDE_PEERS_PYTHON names no Python that has them; get them with\n"
              "    python -m venv peers && peers/bin/pip install langchain-text-splitters==1.1.3 llama-index-core==0.14.25")
        return {}
    asked = json.dumps({"texts": texts, "tokens": TOKENS, "pattern": TOKEN_PATTERN})
    done = subprocess.run([python, str(Path(__file__).with_name("peer_splitters.py"))], input=asked, capture_output=True, text=True)
    if done.returncode: raise RuntimeError(f"peer_splitters.py failed: {done.stderr[-300:]}")
    return json.loads(done.stdout)


def tells(hits, answers, place):
    """Does what is read of the hits hold an answer where the right paragraph stands?"""
    left = READ
    for hit in hits:
        ends = [0, *(found.end() for found in re.finditer(TOKEN_PATTERN, hit.chunk.text))]
        text, number = hit.chunk.text[: ends[min(left, len(ends) - 1)]], int(hit.chunk.source)
        right = number == place[0] and hit.chunk.start < place[2] and hit.chunk.start + len(text) > place[1]
        if right and any(answer in text for answer in answers): return 1.0
        left -= len(ends) - 1
        if left <= 0: return 0.0
    return 0.0


def chunks_of(texts, made):
    """What a splitter made, as chunks; LangChain misplaces some of its own, so each is looked for."""
    return [make_chunk(f"{n}", text, start if texts[n].startswith(text, max(start, 0)) else texts[n].find(text))
            for n, parts in enumerate(made["chunks"]) for start, text in parts]


def ends_inside(chunk, text):
    """Does a chunk end neither with a sentence nor with a paragraph?"""
    rest = text[chunk.start + len(chunk.text.rstrip()) :].lstrip(" ")
    return bool(rest) and not rest.startswith("\n") and not ENDS.search(chunk.text)


def form_rows(name, texts, arms):
    """For each splitter: how many chunks, how long, how many end inside a sentence, how fast."""
    for arm, made in arms.items():
        chunks = chunks_of(texts, made)
        inside = wilson_interval(sum(ends_inside(chunk, texts[int(chunk.source)]) for chunk in chunks), len(chunks))
        yield {"data": name, "arm": arm, "figure": "ends inside a sentence", "chunks": len(chunks), **inside._asdict(),
               "tokens": float(np.mean([rough_tokens(chunk.text) for chunk in chunks])),
               "characters_a_second": sum(map(len, texts)) / made["seconds"]}


def reading_rows(name, texts, places, questions, encoder, arms):
    """For each splitter: questions with an answer in what is read of the hits."""
    encoder.learn([question for question, *_ in questions])
    for arm, made in arms.items():
        chunks = chunks_of(texts, made)
        with tempfile.TemporaryDirectory() as folder, LanceStore(Path(folder) / "store", encoder) as store:
            store.upsert(chunks, encoder.learn([chunk.text for chunk in chunks]))
            found = kept_list(f"split-{name}-{arm}".replace(", ", "-").replace(" ", "-"), questions, lambda q, s=store: tells(
                retrieve(s, encoder, q[0], top_k=20), q[2], places[q[1]]))
        yield {"data": name, "arm": arm, "figure": "answer read", "questions": len(questions),
               **clustered(np.array(found), [title for *_, title in questions])._asdict()}


def split_trials():
    """Whole articles and joined Chinese paragraphs that no setting was chosen on, cut by each splitter."""
    for name, card, file, size in (("SQuAD", "squad", "dev-v1.1.json", None), ("CMRC 2018", "cmrc2018", "cmrc2018_dev.json", TOGETHER)):
        passages, questions = load_squad(card, file)
        titles = sorted({title for title, _ in passages} - chosen_on([title for title, _ in passages]))[::4]
        wanted = [number for number, (title, _) in enumerate(passages) if title in titles]
        new = {number: place for place, number in enumerate(wanted)}
        questions = [(q, new[place], answers, title) for q, place, answers, title in questions if place in new][::3]
        texts, places = documents_of([passages[number] for number in wanted], size)
        arms = {"ours": our_chunks(texts, TOKENS), "ours, half the size": our_chunks(texts, TOKENS // 2), **their_chunks(texts)}
        yield name, texts, places, questions, arms


def record_splitters(rows):
    """The table of the splitters, as far as it is measured."""
    for row in rows: print(row, flush=True)
    record_curve("enterprise_splitters", rows, note=f"answer read: an answer, in the right paragraph, among the first {READ} tokens of the"
                 " hits; articles that no setting was chosen on", tokens=TOKENS, model="all-minilm-l6-v2")


def main():
    encoder, trials = KeptVectors(), list(split_trials())
    forms = [row for name, texts, _, _, arms in trials for row in form_rows(name, texts, arms)]
    record_splitters(forms)
    recall_trials(encoder)
    readings = [row for name, texts, places, questions, arms in trials
                for row in reading_rows(name, texts, places, questions, encoder, arms)]
    record_splitters(forms + readings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
