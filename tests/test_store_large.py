"""A LanceStore with its indices: what it finds may be approximate, who may see what never is."""

import random
from types import SimpleNamespace

import numpy as np
import pytest

from llmguide import table as module
from llmguide.store import LanceStore, make_chunk, may_see

ENCODER = SimpleNamespace(name="sixteen", dimension=16)
NAMES = ["ann", "ben", "财务", "board"]


def drawn(count, seed=0):
    "Random unit vectors."
    vectors = np.random.default_rng(seed).normal(size=(count, 16)).astype("float32")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def passages(count, first=0):
    "Passages of documents of ten, with readers, pages and years."
    draw = random.Random(first)
    return [make_chunk(f"{(first + place) // 10}.md", f"word{place % 7} number{first + place}", place % 10, page=draw.choice([None, 1, 2]),
                       readers=tuple(draw.sample([*NAMES, "everyone"], draw.choice([0, 1, 1, 2]))), metadata={"year": 2020 + place % 5})
            for place in range(count)]


@pytest.fixture
def make(tmp_path, monkeypatch):
    "Opens the store of this test, which calls 300 passages large and 20 a neighbourhood."
    monkeypatch.setattr(module, "LARGE", 300)
    monkeypatch.setattr(module, "NEIGHBOURHOOD", 20)
    monkeypatch.setattr(module, "OPENED", 2)
    opened = []

    def start(**options):
        opened.append(LanceStore(tmp_path / "store", ENCODER, **options))
        return opened[-1]

    yield start
    for store in opened: store.close()


def indices(store): return sorted(one.name for one in store._table.list_indices())


@pytest.fixture
def filled(make):
    "A store of 800 passages, 600 of them in the index, and what is in it: chunk and vector by id."
    store, chunks, vectors = make(), passages(800), drawn(800)
    store.upsert(chunks[:600], vectors[:600])
    store.compact()
    store.upsert(chunks[600:], vectors[600:])
    return store, {chunk.id: (chunk, vector) for chunk, vector in zip(chunks, vectors)}


def check(store, inside, cases=12, recall=0.5):
    "Every answer is full, allowed and in order; enough of the nearest are found."
    draw, shares = random.Random(1), []
    assert store.count() == len(inside)
    for case in range(cases):
        principal = draw.choice([None, {"ann"}, {"财务", "board"}, set(NAMES)])
        where = draw.choice([None, None, {"year": 2021}, {"page": None}, {"source": f"{draw.randrange(80)}.md"}, {"year": 1999}])
        k, query = draw.choice([1, 5, 30, 900]), drawn(1, 100 + case)[0]
        seen = {id: float(vector @ query) for id, (chunk, vector) in inside.items() if may_see(chunk, principal, where)}
        for text in (None, "word3 word5"):
            hits = store.search(query, text, k, principal, where)
            assert len(hits) == len({hit.chunk.id for hit in hits}) == min(k, len(seen)), (case, text)
            assert {hit.chunk.id for hit in hits} <= set(seen)
            assert all(inside[hit.chunk.id][0] == hit.chunk for hit in hits)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        found = {hit.chunk.id: hit.score for hit in store.search(query, None, k, principal, where)}
        assert found == pytest.approx({id: seen[id] for id in found}, abs=1e-5)
        best = sorted(seen, key=lambda id: -seen[id])[:k]
        if best: shares.append(len(found.keys() & set(best)) / len(best))
    assert np.mean(shares) >= recall


def test_a_small_store_has_no_index_and_is_exact(make):
    store, chunks, vectors = make(), passages(299), drawn(299)
    store.upsert(chunks, vectors)
    store.compact()
    assert indices(store) == ["terms_idx"]
    check(store, {chunk.id: (chunk, vector) for chunk, vector in zip(chunks, vectors)}, recall=1.0)


def test_filters_hold_with_the_index_and_beside_it(filled):
    store, inside = filled
    assert indices(store) == ["id_idx", "labels_idx", "terms_idx", "vector_600"]
    check(store, inside)


def test_replace_and_delete_hold_with_the_index(filled):
    store, inside = filled
    for source in ("3.md", "70.md"):  # one in the index, one beside it
        kept = [chunk for chunk, _ in inside.values() if chunk.source == source][4]
        new, vectors = [kept, make_chunk(source, "amended", 99)], drawn(2, 7)
        store.upsert(new, vectors, replace=True)
        inside = {id: pair for id, pair in inside.items() if pair[0].source != source}
        inside |= {chunk.id: (chunk, vector) for chunk, vector in zip(new, vectors)}
        assert store.sources()[source] == 2
    check(store, inside)
    assert store.delete("5.md") == 10 and store.delete("75.md") == 10 and store.delete("5.md") == 0
    inside = {id: pair for id, pair in inside.items() if pair[0].source not in ("5.md", "75.md")}
    check(store, inside)
    store.compact()
    check(store, inside)
    assert len(store.search(text="amended", k=9)) == 2


def test_the_index_is_made_anew_when_the_table_has_grown_fourfold(make):
    store = make(tidy_every=1)
    for first in range(0, 1500, 300): store.upsert(passages(300, first), drawn(300, first))
    assert [name for name in indices(store) if name.startswith("vector")] == ["vector_1200"]
    inside = {chunk.id: (chunk, vector) for first in range(0, 1500, 300)
              for chunk, vector in zip(passages(300, first), drawn(300, first))}
    check(store, inside, 5)


def test_a_death_between_the_merge_and_the_sweep_shows_nobody_anything(filled, make, monkeypatch):
    store, inside = filled
    monkeypatch.setattr(LanceStore, "_sweep", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    new, vectors = [make_chunk("3.md", "amended", 0)], drawn(1, 7)
    with pytest.raises(KeyboardInterrupt): store.upsert(new, vectors, replace=True)
    monkeypatch.undo()
    again = LanceStore(store.path)
    inside = {id: pair for id, pair in inside.items() if pair[0].source != "3.md"} | {new[0].id: (new[0], vectors[0])}
    assert again.sources()["3.md"] == 1 and again.count() == len(inside)
    check(again, inside, 5)
    again.compact()
    assert again._table.count_rows() == len(inside)
    again.close()


def test_an_index_of_a_death_in_the_middle_is_finished(make, monkeypatch):
    store = make()
    store.upsert(passages(600), drawn(600))
    store._table.create_index("labels", config=__import__("lancedb.index").index.LabelList())  # and then the process died
    store.compact()
    assert indices(store) == ["id_idx", "labels_idx", "terms_idx", "vector_600"]


def test_nothing_of_a_replaced_text_is_left_on_disk(filled):
    store, _ = filled
    store.upsert([make_chunk("9.md", "wordthatmustgo", 5)], drawn(1), replace=True)
    store.upsert([make_chunk("9.md", "stays", 6)], drawn(1), replace=True)
    store.compact()
    assert not any(b"wordthatmustgo" in file.read_bytes() for file in store.path.rglob("*") if file.is_file())


def test_hostile_sources_are_replaced_one_by_one(make):
    store, names = make(), ["x' OR '1'='1", "", "null", "NULL", "报销。md"]
    chunks = [make_chunk(name, f"old {place}", place) for name in names for place in range(2)]
    store.upsert(chunks, drawn(10))
    for left, name in enumerate(names, 1):
        store.upsert([make_chunk(name, "new", 9)], drawn(1), replace=True)
        assert store.count() == 10 - left and store.sources()[name] == 1
