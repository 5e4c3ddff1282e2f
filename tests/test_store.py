"""What every store promises. A new store joins by one line in STORES."""

import random
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from llmguide.store import Chunk, LanceStore, Store, TextEncoder, fuse, labels_of, lexical_terms, make_chunk, may_see

STORES = {
    "lance": LanceStore,
}
ENCODER = SimpleNamespace(name="eight", dimension=8)  # no model: the vectors are drawn
HOSTILE = ["x' OR '1'='1", "x') OR 1=1 --", "'; DROP TABLE chunks; --", 'a"b', "a\\", "%", "_", "", " ", "null", "一'二",
           "报销。md", "🙂'🙂", "a\nb", "a\tb", "a\x00b", "é", "e\u0301", "{}", "[]", "x" * 5000]


@pytest.fixture(params=STORES)
def make(request, tmp_path):
    "Opens the store of this test; called again it opens the same one."
    opened = []

    def start(encoder=ENCODER, name="知识 库 #1 %20 'a'", **options):
        opened.append(STORES[request.param](tmp_path / name, encoder, **options))
        return opened[-1]

    yield start
    for store in opened: store.close()


@pytest.fixture
def store(make): return make()


def drawn(count, seed=0):
    "Random unit vectors."
    vectors = np.random.default_rng(seed).normal(size=(count, 8)).astype("float32")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fill(store, *chunks, seed=0):
    store.upsert(list(chunks), drawn(len(chunks), seed))
    return list(chunks)


def everything(store, **options):
    "Ids that a search for anything finds."
    return {hit.chunk.id for hit in store.search(drawn(1, 9)[0], k=1000, **options)}


def test_protocol(store):
    assert isinstance(store, Store)
    assert store.manifest["encoder"] == "eight" and store.manifest["dimension"] == 8
    assert {"format", "created"} <= set(store.manifest)


def test_empty_store(store):
    vector = drawn(1)[0]
    assert (store.count(), store.sources(), store.delete("nothing.md")) == (0, {}, 0)
    assert store.search(vector) == store.search(text="word") == store.search(vector, "word", 3, {"ann"}, {"page": 1}) == []
    store.upsert([], np.zeros((0, 8)))
    store.upsert([], [], replace=True)
    assert store.count() == 0


def test_same_chunks_twice_change_nothing(store):
    chunks = fill(store, *(make_chunk("a.md", f"word {i}", i) for i in range(7)))
    before = store.search(drawn(1)[0], "word 3", 7)
    fill(store, *chunks)
    fill(store, *chunks, *chunks)  # the same id twice in one batch; the last vector stands
    assert store.count() == 7 and store.sources() == {"a.md": 7}
    fill(store, *chunks)
    assert store.search(drawn(1)[0], "word 3", 7) == before


def test_chunks_come_back_as_they_went_in(store):
    chunk = make_chunk("报销.md", "第一 'text' 🙂\n\x00 end", 5, headings=("A", "二"), page=3, readers=("ann", "财务"),
                       metadata={"year": 2024, "tags": ["x", None], "share": 0.5, "ok": True, "名": "值"})
    fill(store, chunk)
    assert [hit.chunk for hit in store.search(text="text", principal={"财务"})] == [chunk]


def test_newer_readers_replace_older_ones(store):
    fill(store, make_chunk("pay.md", "secret pay"))
    assert store.search(text="secret")
    fill(store, make_chunk("pay.md", "secret pay", readers=("board",)))
    assert store.count() == 1 and store.search(text="secret") == [] and everything(store) == set()
    assert len(store.search(text="secret", principal=["board"])) == 1


def test_delete_is_final(make):
    store = make()
    fill(store, make_chunk("a.md", "apple pie"), make_chunk("a.md", "apple tart", 10), make_chunk("b.md", "apple juice"))
    assert store.delete("a.md") == 2
    for again in (store, make()):
        assert [hit.chunk.source for hit in again.search(drawn(1)[0], "apple pie tart", 10)] == ["b.md"]
        assert [hit.chunk.source for hit in again.search(text="apple")] == ["b.md"]
        assert again.search(text="pie") == [] and again.search(drawn(1)[0], where={"source": "a.md"}) == []
        assert (again.delete("a.md"), again.count(), again.sources()) == (0, 1, {"b.md": 1})


def test_replace_drops_what_the_new_version_lacks(store):
    fill(store, *(make_chunk("a.md", f"old {i}", i) for i in range(3)), make_chunk("b.md", "old"))
    kept = make_chunk("a.md", "old 1", 1)
    store.upsert([kept, make_chunk("a.md", "new", 2)], drawn(2), replace=True)
    assert store.sources() == {"a.md": 2, "b.md": 1}
    assert {hit.chunk.text for hit in store.search(text="old new", where={"source": "a.md"})} == {"old 1", "new"}


def test_k(store):
    chunks = fill(store, *(make_chunk("a.md", f"word {i}", i) for i in range(150)))
    for k in (1, 7, 150, 151, 5000):
        hits = store.search(drawn(1)[0], "word", k)
        assert len(hits) == len({hit.chunk.id for hit in hits}) == min(k, len(chunks))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for wrong in ({"k": 0}, {"k": -1}):
        with pytest.raises(ValueError, match="k"): store.search(drawn(1)[0], **wrong)
    with pytest.raises(ValueError, match="a vector or a text"): store.search()


def test_why(store):
    vectors, chunks = drawn(3), [make_chunk("a.md", text, i) for i, text in enumerate(["red apple", "red car", "blue sky"])]
    store.upsert(chunks, vectors)
    hits = store.search(vectors[2], "apple", 3)
    assert {hit.chunk.id: hit.why["dense"] for hit in hits} == pytest.approx(
        {chunk.id: float(vector @ vectors[2]) for chunk, vector in zip(chunks, vectors)}, abs=1e-5)
    assert {hit.chunk.text: hit.why["lexical"] > 0 for hit in hits} == {"red apple": True, "red car": False, "blue sky": False}
    assert [set(hit.why) for hit in store.search(vectors[0], k=1) + store.search(text="sky")] == [{"dense"}, {"lexical"}]
    assert store.search(vectors[2], "apple", 1, weight=1.0)[0].chunk.text == "blue sky"
    assert store.search(vectors[2], "apple", 1, weight=0.0)[0].chunk.text == "red apple"


def test_a_word_alone_finds_beyond_the_dense_candidates(store):
    vectors = drawn(400)
    order = np.argsort(vectors @ vectors[0])  # the farthest passage holds the word
    store.upsert([make_chunk("a.md", "needle" if i == order[0] else "hay", i) for i in range(400)], vectors)
    hit = next(hit for hit in store.search(vectors[0], "needle", 5, weight=0.1) if hit.chunk.text == "needle")
    assert hit.why["dense"] == pytest.approx(float(vectors[0] @ vectors[order[0]]), abs=1e-5)


def test_chinese_words(store):
    texts = ["员工每周可以远程办公两天。", "保理融资又称应收账款保理。", "出差报销须提交发票。", "The factoring of invoices."]
    fill(store, *(make_chunk("zh.md", text, i) for i, text in enumerate(texts)))
    questions = {"远程办公": 0, "保理": 1, "发票的报销": 2, "税率和账款": 1, "票": 2, "ＦＡＣＴＯＲＩＮＧ": 3}
    for question, place in questions.items():
        assert store.search(text=question)[0].chunk.text == texts[place], question
    assert store.search(text="合同") == [] and store.search(text="？！'🙂") == []


# --- permissions and filters, against a rule written down a second time

def allowed(chunk, principal, where):
    "Who may see what, without a line of the package."
    names = ["everyone"] + list(principal or [])
    if not any(reader in names for reader in chunk.readers): return False
    for key, value in (where or {}).items():
        if key == "source": found = chunk.source == value
        elif key == "page": found = chunk.page == value
        else: found = key in chunk.metadata and chunk.metadata[key] == value
        if not found: return False
    return True


NAMES = ["ann", "ben", "财务", "board", "o'neil", "everyone", "every", "one"]
WORDS = ["alpha", "beta", "gamma", "delta", "预算", "合同", "发票"]


def draw_chunk(draw, number):
    readers = tuple(draw.sample(NAMES, draw.choice([0, 1, 1, 2, 3])))
    metadata = draw.choice([{}, {"year": draw.choice([2023, 2024, "2024"])}, {"team": draw.choice([None, *NAMES])}])
    return make_chunk(f"{draw.choice(NAMES)}.md", " ".join(draw.choices(WORDS, k=4)), number, readers=readers,
                      page=draw.choice([None, 1, 2]), metadata=metadata)


def draw_where(draw):
    return draw.choice([None, None, None, {}, {"page": draw.choice([None, 1, 2])}, {"source": f"{draw.choice(NAMES)}.md"},
                        {"year": draw.choice([2024, 2024.0, "2024"])}, {"team": draw.choice([None, *NAMES])},
                        {"year": 2024, "page": 1}, {"nothing": 1}])


def test_filters_against_a_brute_force_oracle(store):
    draw = random.Random(3)
    chunks, vectors = [draw_chunk(draw, number) for number in range(160)], drawn(160)
    store.upsert(chunks[:100], vectors[:100])
    store.upsert(chunks[100:], vectors[100:])
    gone = chunks[0].source
    store.delete(gone)
    for case in range(60):
        principal = draw.choice([None, (), set(draw.sample(NAMES, 1)), tuple(draw.sample(NAMES, 2)), draw.sample(NAMES, 3)])
        where, k, query, words = draw_where(draw), draw.choice([1, 5, 200]), drawn(1, case)[0], draw.sample(WORDS, 2)
        seen = [i for i, chunk in enumerate(chunks) if chunk.source != gone and allowed(chunk, principal, where)]
        assert seen == [i for i in range(160) if chunks[i].source != gone and may_see(chunks[i], principal, where)]
        nearest = [chunks[i].id for i in sorted(seen, key=lambda i: -float(vectors[i] @ query))][:k]
        assert [hit.chunk.id for hit in store.search(query, None, k, principal, where)] == nearest, case
        worded = {chunks[i].id for i in seen if set(words) & set(chunks[i].text.split())}
        found = {hit.chunk.id for hit in store.search(None, " ".join(words), k, principal, where)}
        assert found <= worded and len(found) == min(k, len(worded)), case
        both = {hit.chunk.id for hit in store.search(query, " ".join(words), k, principal, where)}
        assert both <= {chunks[i].id for i in seen} and len(both) == min(k, len(seen)), case


def test_hidden_chunks_neither_crowd_out_nor_shorten(store):
    vector = drawn(1)[0]
    hidden = [make_chunk("hidden.md", "plan", i, readers=("board",)) for i in range(500)]
    store.upsert(hidden, np.tile(vector, (500, 1)))
    public = fill(store, *(make_chunk("open.md", "plan for all", i) for i in range(3)), seed=5)
    for search in ({"vector": vector}, {"text": "plan"}, {"vector": vector, "text": "plan"}):
        assert {hit.chunk.id for hit in store.search(**search, k=3)} == {chunk.id for chunk in public}


def test_hostile_strings(store):
    chunks = fill(store, *(make_chunk(text, f"text {text} end", readers=(text,), metadata={text: text}) for text in HOSTILE))
    assert store.count() == len(HOSTILE)
    assert store.sources() == {text: 1 for text in HOSTILE}
    for chunk, text in zip(chunks, HOSTILE):
        assert everything(store, principal={text}) == everything(store, principal=[text], where={text: text}) == {chunk.id}
        assert everything(store, principal=set(HOSTILE), where={"source": text}) == {chunk.id}
        assert everything(store, where={text: text}) == set()
        assert len(store.search(drawn(1)[0], text, 100, set(HOSTILE))) == len(HOSTILE)  # a hostile question
    assert store.search(drawn(1)[0], "\ud800", principal={"\ud800"}, where={"\ud800": "\ud800"}) == []
    for left, text in reversed(list(enumerate(HOSTILE))):
        assert store.delete(text) == 1 and store.count() == left


@pytest.mark.parametrize("wrong", [{"readers": "ann"}, {"metadata": {"x": float("nan")}}, {"metadata": {"x": object()}},
                                   {"readers": ("\ud800",)}, {"source": "\udce9.md"}])
def test_chunks_that_no_store_could_hold(wrong):
    with pytest.raises((ValueError, TypeError), match="readers of|can't be stored"):
        make_chunk(**{"source": "a.md", "text": "word"} | wrong)


def test_a_principal_is_not_a_string(store):
    fill(store, make_chunk("a.md", "word", readers=("a", "n")))
    with pytest.raises(TypeError, match="not one string"): store.search(text="word", principal="ann")


# --- files

def test_reopen(make):
    store = make()
    chunks = fill(store, *(make_chunk("a.md", f"word {i}", i, readers=("ann",)) for i in range(9)))
    before = store.search(drawn(1)[0], "word 4", 5, {"ann"})
    store.close()
    with pytest.raises(ValueError, match="closed"): store.count()
    for encoder in (ENCODER, None):
        again = make(encoder)
        assert (again.count(), again.manifest) == (len(chunks), store.manifest)
        assert again.search(drawn(1)[0], "word 4", 5, {"ann"}) == before and again.search(text="word") == []


@pytest.mark.parametrize("other", [SimpleNamespace(name="nine", dimension=8), SimpleNamespace(name="eight", dimension=9)])
def test_another_encoder_is_refused(make, other):
    fill(make(), make_chunk("a.md", "word"))
    with pytest.raises(ValueError, match=rf"eight \(8 dim.*{other.name} \({other.dimension}\).*new folder"): make(other)
    assert make().count() == 1


@pytest.mark.parametrize("vectors", [np.ones((1, 9)), np.ones((2, 8)), np.ones(8), np.zeros((1, 8)),
                                     np.full((1, 8), np.nan), np.array([[np.inf] + [0] * 7])])
def test_bad_vectors_are_refused_and_nothing_is_written(store, vectors):
    with pytest.raises(ValueError, match="vector"): store.upsert([make_chunk("a.md", "word")], vectors)
    assert store.count() == 0
    with pytest.raises(ValueError, match="vector"): store.search(vectors[0] if vectors.shape == (1, 9) else np.zeros(8))


def test_no_store_and_no_encoder(make):
    with pytest.raises(FileNotFoundError, match="give an encoder"): make(None)


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"format": 99, "encoder": "x", "dimension": 8, "created": ""}'])
def test_damaged_manifest(make, damage):
    store = make()
    (store.path / "manifest.json").write_text(damage)
    with pytest.raises(ValueError, match=r"manifest\.json"): make()


def test_one_writes_while_two_read(make):
    store, problems, done = make(tidy_every=5), [], threading.Event()
    vectors = drawn(20)
    fixed = [make_chunk("fixed.md", f"word {i}", i) for i in range(20)]
    store.upsert(fixed, vectors)

    def read(seed):
        while not done.is_set():
            try:
                hits = store.search(vectors[seed], "word moving", 100)
                moving = [hit.chunk.text for hit in hits if hit.chunk.source == "moving.md"]
                if sum(hit.chunk.source == "fixed.md" for hit in hits) != 20: problems.append("lost")
                if any(hit.chunk.source == "secret.md" for hit in hits): problems.append("leaked")
                if len(set(moving)) not in (0, 1, 2): problems.append(f"half: {moving}")
            except Exception as problem:  # whatever a reader meets fails the test below
                problems.append(repr(problem))

    readers = [threading.Thread(target=read, args=(seed,)) for seed in (1, 2)]
    for reader in readers: reader.start()
    start, version = time.monotonic(), 0
    while time.monotonic() - start < 1.5:
        version += 1
        store.upsert([make_chunk("moving.md", f"moving {version}", i) for i in range(3)], vectors[:3], replace=True)
        store.upsert([make_chunk("secret.md", "word", readers=("ann",))], vectors[3:4])
        store.delete("secret.md")
        if version % 7 == 0: store.delete("moving.md")
    done.set()
    for reader in readers: reader.join()
    assert problems == [] and version > 5


def test_two_open_stores_see_each_other(make):
    first, second = make(), make()
    fill(first, make_chunk("a.md", "word"))
    assert len(second.search(text="word")) == 1
    second.delete("a.md")
    assert first.search(text="word") == [] and first.count() == 0


def test_compact_wipes_deleted_text(make):
    store = make()
    if not hasattr(store, "compact"): pytest.skip("this store leaves no old versions")
    fill(store, make_chunk("a.md", "wordthatmustgo"), make_chunk("b.md", "stays"))
    store.delete("a.md")
    store.compact()
    assert not any(b"wordthatmustgo" in file.read_bytes() for file in store.path.rglob("*") if file.is_file())
    assert [hit.chunk.source for hit in store.search(text="stays")] == ["b.md"]


# --- the functions that all stores share

def test_labels_agree_with_the_rule():
    chunk = make_chunk("a.md", "word", page=2, readers=("ann",), metadata={"flag": True, "year": 2024})
    assert len(labels_of(chunk)) == len(set(labels_of(chunk))) == 5
    assert all(set(label) <= set("0123456789abcdef") for label in labels_of(chunk))


def test_reader_and_field_labels_never_meet():
    one, other = make_chunk("ann", "t", readers=("b",)), make_chunk("b", "t", readers=("ann",), page=1)
    assert not set(labels_of(one)) & set(labels_of(other))


def test_ids_do_not_depend_on_where_the_parts_meet():
    assert make_chunk("a", "1b", 1).id != make_chunk("a1", "b", 1).id != make_chunk("a", "b", 11).id


def test_chunks_are_hashable_and_frozen():
    chunk = make_chunk("a.md", "word", metadata={"x": [1]})
    assert len({chunk, make_chunk("a.md", "word", metadata={"x": [1]})}) == 1
    with pytest.raises(AttributeError): chunk.readers = ("everyone",)


def test_terms():
    assert lexical_terms("ÉTÉ étés_x2") == ["été", "étés", "x2"]
    assert lexical_terms("𠀀𠀁", question=True) == ["𠀀𠀁"]
    assert lexical_terms("ﾃﾞｰﾀ テスト", question=True)[:2] == ["デー", "ータ"]
    assert lexical_terms("") == lexical_terms("—…\ud800") == []


def test_fuse_handles_sameness_and_emptiness():
    assert fuse([], []).shape == (0,)
    assert list(fuse([0.5, 0.5], [0, 3])) == pytest.approx([-0.3, 0.3])


def test_an_encoder_takes_no_single_string():
    with pytest.raises(TypeError, match="list of texts"): TextEncoder.encode(SimpleNamespace(), "one")


def test_an_encoder_is_called_by_its_folder_not_by_its_path(tmp_path, monkeypatch):
    "A store made on one machine must open on another."
    from llmguide import passages
    model = SimpleNamespace(get_embedding_dimension=lambda: 8, max_seq_length=16)
    monkeypatch.setattr(passages, "require", lambda *_, **__: SimpleNamespace(SentenceTransformer=lambda *_, **__: model))
    (tmp_path / "my-encoder").mkdir()
    assert TextEncoder(str(tmp_path / "my-encoder")).name == "my-encoder"


def test_chunk_by_hand():
    assert Chunk("1", "a.md", "word").readers == ("everyone",) and Chunk("1", "a", "t", readers=["x"]).readers == ("x",)
