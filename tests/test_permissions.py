"""Who may see what, against a rule that is written down here a second time, without a line of the package.

A world of passages changes while users ask: rights are given and revoked, documents replaced and deleted. Every hit must be
a passage as it is now and one the user may read, and nothing the user may read may be missing.
"""

import json
import random
import uuid
from types import SimpleNamespace

import numpy as np
import pytest

from llmguide.enterprise.knowledge_base import EnterpriseKnowledgeBase
from llmguide.enterprise.retrieve import retrieve
from llmguide.enterprise.stores import open_store
from llmguide.store import Chunk, make_chunk, may_see

ENCODER = SimpleNamespace(name="eight", dimension=8)
# Names that look alike, that mean something elsewhere, or that no form would let in; each is a reader of its own.
NAMES = ["ann", "Ann", "ann ", " ann", "аnn", "a\u0301nn", "\u00e1nn", "ａｎｎ", "a\u200bnn", "ann,ben", "ann;ben", "a", "🙂",
         "财务", "财务部", "o'neil", 'o"neil', "o\\neil", "x' OR '1'='1", "'); DROP TABLE passages; --", "%", "_", "*",
         "", " ", "None", "null", "[]", "a\nb", "a\x00b", "everyone", "Everyone", "everyone ", "ｅｖｅｒｙｏｎｅ", "every",
         "x" * 5000, "x" * 4999 + "y"]
FILES = ["ann", "ann.md", "x' OR '1'='1", "财务.md", "", "a\x00b", "everyone", "%", "plans/2024.md", "plans/2024.md "]
WORDS = ["alpha", "beta", "gamma", "delta", "预算", "合同", "发票"]


def allowed(chunk, principal, where=None):
    "May a principal see a chunk?"
    if "everyone" not in chunk.readers and not any(name in chunk.readers for name in principal or ()): return False
    known = {"source": chunk.source, "page": chunk.page}
    for key, value in (where or {}).items():
        if key in known:
            if known[key] != value: return False
        elif key not in chunk.metadata or chunk.metadata[key] != value: return False
    return True


class World:
    "A store, and beside it what ought to be in it."

    def __init__(self, store, seed):
        self.store, self.draw, self.numbers = store, random.Random(seed), np.random.default_rng(seed)
        self.here = {}  # id -> (chunk, vector)
        for source in FILES: self.write(source)

    def readers(self): return tuple(self.draw.sample(NAMES, self.draw.choice([0, 1, 1, 1, 2, 3])))

    def vectors(self, count):
        vectors = self.numbers.normal(size=(count, 8)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def passage(self, source, place):
        metadata = self.draw.choice([{}, {"year": self.draw.choice([2023, 2024, "2024"])}, {"team": self.draw.choice([None, *NAMES])}])
        return make_chunk(source, " ".join(self.draw.choices(WORDS, k=3)), place, readers=self.readers(),
                          page=self.draw.choice([None, 1, 2]), metadata=metadata)

    def put(self, chunks, replace):
        vectors = self.vectors(len(chunks))
        self.store.upsert(chunks, vectors, replace=replace)
        sources = {chunk.source for chunk in chunks} if replace else ()
        self.here = {id: row for id, row in self.here.items() if row[0].source not in sources}
        self.here |= {chunk.id: (chunk, vector) for chunk, vector in zip(chunks, vectors)}

    def write(self, source):
        "A new version of a document."
        self.put([self.passage(source, place) for place in range(self.draw.choice([1, 2, 4, 8]))], replace=True)

    def grant(self, source):
        "The same passages for other readers."
        old = [chunk for chunk, _ in self.here.values() if chunk.source == source]
        self.put([Chunk(**vars(chunk) | {"readers": self.readers()}) for chunk in old], replace=self.draw.random() < 0.5)

    def revoke(self, source):
        "One reader fewer for a passage."
        old = [chunk for chunk, _ in self.here.values() if chunk.source == source and chunk.readers][:1]
        self.put([Chunk(**vars(chunk) | {"readers": chunk.readers[1:]}) for chunk in old], replace=False)

    def delete(self, source):
        gone = [id for id, (chunk, _) in self.here.items() if chunk.source == source]
        assert self.store.delete(source) == len(gone)
        for id in gone: del self.here[id]

    def change(self):
        self.draw.choice([self.write, self.write, self.grant, self.grant, self.revoke, self.delete])(self.draw.choice(FILES))

    def principal(self):
        names = self.draw.sample(NAMES, self.draw.choice([1, 1, 2, 3, 5]))
        if self.here and self.draw.random() < 0.5:  # somebody who may read something
            names += self.draw.choice([*self.here.values()])[0].readers[:1]
        return self.draw.choice([None, (), set(names), tuple(names), names, frozenset(names)])

    def where(self):
        draw = self.draw
        return draw.choice([None, None, None, {}, {"page": draw.choice([None, 1, 2])}, {"source": draw.choice(FILES)},
                            {"year": draw.choice([2024, 2024.0, "2024"])}, {"team": draw.choice([None, *NAMES])},
                            {"year": 2024, "page": 1}, {"readers": "ann"}, {"nothing": 1}])

    def case(self):
        "One user asks, by meaning, by words or by both."
        principal, where, k = self.principal(), self.where(), self.draw.choice([1, 3, 200])
        query, words = self.vectors(1)[0], self.draw.sample(WORDS, 2)
        seen = {id: vector for id, (chunk, vector) in self.here.items() if allowed(chunk, principal, where)}
        assert seen.keys() == {id for id, (chunk, _) in self.here.items() if may_see(chunk, principal, where)}
        way = self.draw.choice(["meaning", "words", "both"])
        text = None if way == "meaning" else " ".join(words)
        found = self.found(None if way == "words" else query, text, k, principal, where)
        worded = {id for id in seen if set(words) & set(self.here[id][0].text.split())}
        if way == "meaning": assert found == sorted(seen, key=lambda id: -float(seen[id] @ query))[:k]
        if way == "words": assert set(found) <= worded and len(found) == min(k, len(worded))
        if way == "both": assert set(found) <= seen.keys() and len(found) == min(k, len(seen))

    def found(self, *question):
        hits = self.store.search(*question)
        for hit in hits: assert hit.chunk == self.here[hit.chunk.id][0]  # as it is now, readers and all
        return [hit.chunk.id for hit in hits]


def opened(kind, request, folder):
    place = f"{request.getfixturevalue('postgres')}#t{uuid.uuid4().hex}" if kind == "postgres" else folder / "store"
    return open_store(place if kind in ("lance", "postgres") else f"{kind}:{place}", ENCODER)


CASES = {"lance": (300, 10_000), "faiss": (300, 10_000), "postgres": (300, 10_000), "qdrant": (60, 1_000)}  # few, many


@pytest.mark.soak
@pytest.mark.parametrize("kind", CASES)
def test_a_store_against_the_oracle(kind, request, tmp_path, repetitions):
    with opened(kind, request, tmp_path) as store:
        world = World(store, seed=5)
        for number in range(repetitions(*CASES[kind])):
            if number % 5 == 0: world.change()
            world.case()
        assert store.count() == len(world.here)


def test_the_oracle_notices_a_leak(tmp_path, monkeypatch):
    "A store with one mistake: it takes the names of the reader before."
    from llmguide.enterprise import faiss
    right, last = faiss.allowed_labels, []

    def late(principal, where):
        last.append(principal)
        return right(last[-2] if len(last) > 1 else principal, where)

    with open_store(f"faiss:{tmp_path}", ENCODER) as store:
        world = World(store, seed=5)
        monkeypatch.setattr(faiss, "allowed_labels", late)
        with pytest.raises(AssertionError):
            for _ in range(100): world.case()


class LetterEncoder:
    "An encoder that counts letters; it stands for a real one where only permissions matter."

    name, dimension, max_tokens = "letters", 32, 256

    def encode(self, texts, batch_size=32):
        vectors = np.full((len(texts), 32), 0.01, np.float32)
        for row, text in enumerate(texts):
            for letter in text: vectors[row, ord(letter) % 32] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_retrieve_against_the_oracle(tmp_path):
    "The way from a question to its passages adds none and forgets no right."
    encoder, draw = LetterEncoder(), random.Random(7)
    with open_store(f"faiss:{tmp_path}", encoder) as store:
        chunks = [make_chunk(draw.choice(FILES), f"{' '.join(draw.choices(WORDS, k=4))}.", place, readers=draw.sample(NAMES, 2))
                  for place in range(80)]
        store.upsert(chunks, encoder.encode([chunk.text for chunk in chunks]))
        for _ in range(100):
            principal = set(draw.sample(NAMES, 2))
            hits = retrieve(store, encoder, " ".join(draw.sample(WORDS, 2)), 20, principal)
            assert len(hits) == min(20, sum(allowed(chunk, principal) for chunk in chunks))
            assert all(allowed(hit.chunk, principal) for hit in hits)


class Company:
    "A knowledge base whose documents each hold a secret word, and who may know it."

    def __init__(self, store, folder, seed):
        self.folder, self.draw, self.secrets = folder, random.Random(seed), {}  # path -> (word, readers)
        (folder / "files").mkdir()
        self.base = EnterpriseKnowledgeBase(store=store, encoder=LetterEncoder())
        for number in range(8): self.write(number)

    def path(self, number): return str(self.folder / "files" / f"{number}.txt")

    def write(self, number):
        word, readers = f"secret{self.draw.randrange(10**9)}", self.draw.sample(NAMES, self.draw.choice([1, 1, 2]))
        text = f"The code of department {number} is {word}. Ask for department {number} at the desk."
        (self.folder / "files" / f"{number}.txt").write_text(text)
        self.base.add([self.path(number)], readers)
        self.secrets[self.path(number)] = word, readers

    def grant(self, number):
        "The same file for other readers."
        if self.path(number) not in self.secrets: return self.write(number)
        readers = self.draw.sample(NAMES, 1)
        self.base.add([self.path(number)], readers)
        self.secrets[self.path(number)] = self.secrets[self.path(number)][0], readers

    def delete(self, number):
        self.base.delete_document(self.path(number))
        self.secrets.pop(self.path(number), None)

    def change(self): self.draw.choice([self.write, self.grant, self.grant, self.delete])(self.draw.randrange(8))

    def case(self, number):
        "The same question by several people, one after another: an answer that was kept for one must not reach the next."
        question = f"What is the code of department {number}?"
        names = self.draw.sample(NAMES, 2)
        readers = self.secrets.get(self.path(number), ("", ()))[1]
        for user in (set(names), names[0], None, {*names, *readers}, readers[0] if readers else None, None):
            may = {user} if isinstance(user, str) else user
            known = {path: word for path, (word, readers) in self.secrets.items()
                     if "everyone" in readers or any(name in readers for name in may or ())}
            hits = self.base.retrieve(question, 50, user)
            assert {hit.chunk.source for hit in hits} == set(known)
            asked, history = self.draw.choice([(question, ()), ("And what is it?", (question,))])
            said = self.base.query(asked, 3, user, history)
            assert {place["source"] for place in said["sources"] + said["nearest"]} <= set(known)
            words = set(json.dumps({**said, "question": ""}, ensure_ascii=False).replace(".", " ").replace('"', " ").split())
            assert {word for word in words if word.startswith("secret")} <= set(known.values()), (user, said)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["lance", "faiss"])
def test_a_knowledge_base_against_the_oracle(kind, tmp_path, repetitions):
    store = tmp_path / "store" if kind == "lance" else f"{kind}:{tmp_path / 'store'}"
    company = Company(store, tmp_path, seed=11)
    with company.base:
        for _ in range(repetitions(3, 60)):
            company.change()
            company.case(company.draw.randrange(8))


def test_a_hidden_document_leaves_no_trace(tmp_path):
    "Whoever may not read a document gets the words of a company that never had it."
    (tmp_path / "layoffs.txt").write_text("The office in Hangzhou closes in spring, and forty jobs are cut.")
    (tmp_path / "lunch.txt").write_text("Lunch is served at noon in the hall. The hall opens at eight.")
    said = []
    for hidden in (True, False):
        with EnterpriseKnowledgeBase(store=tmp_path / f"store{hidden}", encoder=LetterEncoder()) as base:
            if hidden: base.add([tmp_path / "layoffs.txt"], ["board"])
            base.add([tmp_path / "lunch.txt"])
            if hidden: assert "Hangzhou closes" in json.dumps(base.query("When does the office in Hangzhou close?", user="board"))
            answers = [base.query(asked, user="ben") for asked in ("When does the office close?", "When is lunch served?")]
            said.append([{**answer, "confidence": round(answer["confidence"], 3)} for answer in answers])
    assert said[0] == said[1]
