"""What every store promises: one suite for LanceDB, FAISS, Qdrant and PostgreSQL."""

import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llmguide.enterprise.stores import open_store
from llmguide.store import Store, make_chunk

STORES = ("lance", "faiss", "qdrant", "postgres")  # Qdrant in its local mode: no server is to be had here
ENCODER = SimpleNamespace(name="eight", dimension=8)  # no model: the vectors are drawn
HOSTILE = ["x' OR '1'='1", "x') OR 1=1 --", "'; DROP TABLE passages; --", 'a"b', "a\\", "%", "_", "", " ", "null", "一'二",
           "报销。md", "🙂'🙂", "a\nb", "a\tb", "a\x00b", "é", "e\u0301", "{}", "[]", "x" * 5000]


@pytest.fixture(params=STORES)
def address(request, tmp_path):
    "Where a new store of this kind may be."
    if request.param == "postgres": return f"{request.getfixturevalue('postgres')}#t{uuid.uuid4().hex}"
    folder = tmp_path / "知识 库 #1 %20 'a'"
    return str(folder) if request.param == "lance" else f"{request.param}:{folder}"


@pytest.fixture
def make(address):
    "Opens the store of this test; called again it opens the same one. Qdrant's local mode needs the first one closed."
    opened = []

    def start(encoder=ENCODER):
        if address.startswith("qdrant:"):
            for store in opened: store.close()
        opened.append(open_store(address, encoder))
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
    for again in (lambda: store, make):
        again = again()
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
    chunks = fill(store, *(make_chunk("a.md", f"word {i}", i) for i in range(110)))
    for k in (1, 7, 110, 111, 5000):
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
    vectors = drawn(130)
    order = np.argsort(vectors @ vectors[0])  # the farthest passage holds the word
    store.upsert([make_chunk("a.md", "needle" if i == order[0] else "hay", i) for i in range(130)], vectors)
    hit = next(hit for hit in store.search(vectors[0], "needle", 5, weight=0.1) if hit.chunk.text == "needle")
    assert hit.why["dense"] == pytest.approx(float(vectors[0] @ vectors[order[0]]), abs=1e-5)


def test_chinese_words(store):
    texts = ["员工每周可以远程办公两天。", "保理融资又称应收账款保理。", "出差报销须提交发票。", "The factoring of invoices."]
    fill(store, *(make_chunk("zh.md", text, i) for i, text in enumerate(texts)))
    questions = {"远程办公": 0, "保理": 1, "发票的报销": 2, "税率和账款": 1, "票": 2, "ＦＡＣＴＯＲＩＮＧ": 3}
    for question, place in questions.items():
        assert store.search(text=question)[0].chunk.text == texts[place], question
    assert store.search(text="合同") == [] and store.search(text="？！'🙂") == []


def test_hidden_chunks_neither_crowd_out_nor_shorten(store):
    vector = drawn(1)[0]
    hidden = [make_chunk("hidden.md", "plan", i, readers=("board",)) for i in range(120)]
    store.upsert(hidden, np.tile(vector, (120, 1)))
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
    with pytest.raises(ValueError, match=rf"eight \(8 dim.*{other.name} \({other.dimension}\).*new (folder|store)"): make(other)
    assert make().count() == 1


@pytest.mark.parametrize("vectors", [np.ones((1, 9)), np.ones((2, 8)), np.ones(8), np.zeros((1, 8)),
                                     np.full((1, 8), np.nan), np.array([[np.inf] + [0] * 7])])
def test_bad_vectors_are_refused_and_nothing_is_written(store, vectors):
    with pytest.raises(ValueError, match="vector"): store.upsert([make_chunk("a.md", "word")], vectors)
    assert store.count() == 0
    with pytest.raises(ValueError, match="vector"): store.search(vectors[0] if vectors.shape == (1, 9) else np.zeros(8))


def test_no_store_and_no_encoder(make):
    with pytest.raises(FileNotFoundError, match="give an encoder"): make(None)


class Watch:
    "Notes what a reader must never see while `write_for` writes."

    def __init__(self, store):
        self.store, self.problems, self.searches, self.done = store, [], 0, threading.Event()

    def read(self, seed):
        vectors = drawn(20)
        while not self.done.is_set():
            hits = self.store.search(vectors[seed], "word moving", 100)
            moving = [hit.chunk.text for hit in hits if hit.chunk.source == "moving.md"]
            if sum(hit.chunk.source == "fixed.md" for hit in hits) != 20: self.problems.append("lost")
            if any(hit.chunk.source == "secret.md" for hit in hits): self.problems.append("leaked")
            if len(moving) != 3 or len(set(moving)) != 1: self.problems.append(f"neither old nor new: {moving}")
            self.searches += 1

    def run(self, seed):
        try:
            self.read(seed)
        except Exception as problem:  # whatever a reader meets fails the test
            self.problems.append(repr(problem))


def moving(version):
    return [make_chunk("moving.md", f"moving {version}", i) for i in range(3)]


def write_for(store, seconds):
    "Change a document again and again, and put a secret one in and out. Returns the number of versions."
    end, version, vectors = time.monotonic() + seconds, 0, drawn(20)
    while time.monotonic() < end:
        version += 1
        store.upsert(moving(version), vectors[:3], replace=True)
        store.upsert([make_chunk("secret.md", "word", readers=("ann",))], vectors[3:4])
        assert store.delete("secret.md") == 1
    return version


def test_readers_see_the_old_document_or_the_new_one(make):
    store = make()
    fill(store, *(make_chunk("fixed.md", f"word {i}", i) for i in range(20)), *moving(0))
    watch = Watch(store)
    readers = [threading.Thread(target=watch.run, args=(seed,)) for seed in (1, 2)]
    for reader in readers: reader.start()
    versions = write_for(store, 1.5)
    watch.done.set()
    for reader in readers: reader.join()
    assert watch.problems == [] and versions > 2 and watch.searches > 5


def test_two_threads_write(store):
    def write(name):
        for number in range(4):
            store.upsert([make_chunk(f"{name}{number}.md", f"word {place}", place) for place in range(3)], drawn(3), replace=True)

    writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for writer in writers: writer.start()
    for writer in writers: writer.join()
    assert store.sources() == {f"{name}{number}.md": 3 for name in "ab" for number in range(4)}
    assert len(everything(store)) == len(store.search(text="word", k=100)) == 24


READER = """
import sys, threading
from test_store_contract import Watch, open_store
watch = Watch(open_store(sys.argv[1]))
threading.Thread(target=lambda: (sys.stdin.read(), watch.done.set()), daemon=True).start()
print("ready", flush=True)
watch.run(1)
print(watch.searches, watch.problems[:3])
"""


def test_a_reader_in_another_process(make, address):
    if address.startswith("qdrant:"): pytest.skip("Qdrant's local mode serves one process")
    store = make()
    fill(store, *(make_chunk("fixed.md", f"word {i}", i) for i in range(20)), *moving(0))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", READER, address], cwd=Path(__file__).parent, **pipes) as reader:
        assert reader.stdout.readline() == "ready\n"
        versions = write_for(store, 1)
        searches, _, problems = reader.communicate()[0].partition(" ")
    assert problems == "[]\n" and versions > 2 and int(searches) > 5


def test_two_open_stores_see_each_other(make, address):
    first = make()
    if address.startswith("qdrant:"):
        with pytest.raises(RuntimeError, match="open elsewhere.*one store at a time"): open_store(address, ENCODER)
        return
    second = make()
    fill(first, make_chunk("a.md", "word"))
    assert len(second.search(text="word")) == 1
    second.delete("a.md")
    assert first.search(text="word") == [] and first.count() == 0


# --- addresses

@pytest.mark.parametrize("wrong, says", [("", "empty"), ("  ", "empty"), ("faiss:", "empty"), ("mysql://host/db", "faiss:FOLDER"),
                                         ("sqlite:x", "no address of a store"), ("postgresql://h/db#Robert'); DROP", "no name"),
                                         ("http://127.0.0.1:1", "no collection"), ("https://host", "no collection")])
def test_an_address_that_is_none(wrong, says):
    with pytest.raises(ValueError, match=says): open_store(wrong, ENCODER)


@pytest.mark.parametrize("kind", ["", "faiss:", "qdrant:"])
def test_a_file_is_no_folder(tmp_path, kind):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(NotADirectoryError, match="notes.txt is a file"): open_store(f"{kind}{tmp_path / 'notes.txt'}", ENCODER)


def test_a_folder_of_faiss_is_not_opened_as_another(tmp_path):
    open_store(f"faiss:{tmp_path}", ENCODER).close()
    with pytest.raises(ValueError, match="holds a store of faiss: write faiss:"): open_store(tmp_path, ENCODER)


@pytest.mark.parametrize("away", ["postgresql://ann:topsecret@127.0.0.1:1/db", "http://127.0.0.1:1/passages"])
def test_a_server_that_is_away(away):
    with pytest.raises(ConnectionError, match="start it") as problem: open_store(away, ENCODER)
    assert "topsecret" not in str(problem.value) and "\n" not in str(problem.value)


@pytest.mark.parametrize("kind, module", [("faiss:", "faiss"), ("qdrant:", "qdrant_client"), ("postgresql://h/d", "psycopg")])
def test_a_missing_library_is_named_with_the_command(tmp_path, monkeypatch, kind, module):
    for name in [name for name in sys.modules if name.split(".")[0] == module]: monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(module), *sys.meta_path])
    place = kind if kind.endswith("d") else f"{kind}{tmp_path}"
    with pytest.raises(ImportError, match=rf'{module}.*pip install "llmguide\[enterprise\]"'): open_store(place, ENCODER)


class Missing:
    "Makes Python believe that a library is not installed."

    def __init__(self, module): self.module = module

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.module: raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# --- what is one store's own

def test_faiss_passages_survive_a_broken_write(tmp_path):
    with open_store(f"faiss:{tmp_path}", ENCODER) as store:
        chunks = fill(store, *(make_chunk("a.md", f"word {i}", i) for i in range(5)))
        store._writer.execute("CREATE TRIGGER full BEFORE INSERT ON labels BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        with pytest.raises(Exception, match="disk full"):
            store.upsert([make_chunk("a.md", "new")], drawn(1), replace=True)
        assert everything(store) == {chunk.id for chunk in chunks} and store.count() == 5


def test_faiss_forgets_deleted_vectors(tmp_path):
    with open_store(f"faiss:{tmp_path}", ENCODER) as store:
        kept = fill(store, make_chunk("kept.md", "kept"))
        for version in range(4):
            fill(store, *(make_chunk("a.md", f"{version} {i}", i) for i in range(600)), seed=version)
            assert len(everything(store, where={"source": "a.md"})) == 600
            store.delete("a.md")
            assert everything(store) == {kept[0].id}
        assert len(store._numbers) <= 1 + 600


def test_faiss_never_gives_a_number_twice(tmp_path):
    "A new passage must not be searched by the vector of the one that was deleted before it."
    vectors = drawn(140)
    with open_store(f"faiss:{tmp_path}", ENCODER) as store:
        store.upsert([make_chunk("many.md", "word", number) for number in range(139)], vectors[:139])
        for name, vector in (("old.md", vectors[139]), ("new.md", -vectors[139])):
            store.upsert([make_chunk(name, "word")], [vector])
            assert store.search(vector, k=1)[0].chunk.source == name
            store.delete("old.md")


def test_faiss_wipes_deleted_text(tmp_path):
    with open_store(f"faiss:{tmp_path}", ENCODER) as store:
        fill(store, make_chunk("a.md", "wordthatmustgo"), make_chunk("b.md", "stays"))
        store.delete("a.md")
        store.compact()
        assert not any(b"wordthatmustgo" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        assert [hit.chunk.source for hit in store.search(text="stays")] == ["b.md"]


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 99])
def test_faiss_file_that_is_broken(tmp_path, damage):
    open_store(f"faiss:{tmp_path}", ENCODER).close()
    (tmp_path / "faiss.sqlite").write_bytes(damage)
    if not damage: return open_store(f"faiss:{tmp_path}", ENCODER).close()  # an empty file is a new store
    with pytest.raises(ValueError, match="faiss.sqlite.*restore it"): open_store(f"faiss:{tmp_path}", ENCODER)


def test_qdrant_write_that_died_half_way(tmp_path, monkeypatch):
    from llmguide.enterprise.qdrant import QdrantStore
    with open_store(f"qdrant:{tmp_path}", ENCODER) as store:
        fill(store, *moving(0))
        ask = QdrantStore._ask

        def die(self, method, *arguments, **options):
            if options.get("points") == [0]: raise KeyboardInterrupt  # the turn to the next state
            return ask(self, method, *arguments, **options)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(QdrantStore, "_ask", die)
            store.upsert(moving(1), drawn(3), replace=True)
        assert {hit.chunk.text for hit in store.search(text="moving")} == {"moving 0"} and store.count() == 3
        store.upsert(moving(2), drawn(3), replace=True)
        assert {hit.chunk.text for hit in store.search(text="moving")} == {"moving 2"} and store.count() == 3


def test_qdrant_reader_in_the_middle_of_writes(tmp_path, monkeypatch):
    "Between the state and the passages of one search: a whole write and the beginning of the next, or three whole ones."
    from llmguide.enterprise.qdrant import QdrantStore
    ask, meanwhile, dying = QdrantStore._ask, [], []

    def interrupted(self, method, *arguments, **options):
        if dying and options.get("points") == [0]: raise dying.pop()
        while method == "query_points" and meanwhile: meanwhile.pop(0)()
        return ask(self, method, *arguments, **options)

    with open_store(f"qdrant:{tmp_path}", ENCODER) as store:
        def write(version): return lambda: store.upsert(moving(version), drawn(3), replace=True)
        def begin(version):
            dying.append(KeyboardInterrupt)
            with pytest.raises(KeyboardInterrupt): write(version)()
        def found(): return sorted(hit.chunk.text for hit in store.search(drawn(1)[0], "moving", 9))
        write(0)()
        monkeypatch.setattr(QdrantStore, "_ask", interrupted)
        meanwhile += [write(1), lambda: begin(2)]
        assert found() == ["moving 0"] * 3
        meanwhile += [write(2), write(3), write(4)]
        assert found() == ["moving 4"] * 3


def test_postgres_hides_the_rarity_of_hidden_words(postgres):
    "Scores are those of a store without the hidden passages: nothing of them shows, not even in a number."
    scores = []
    for hidden in (0, 40):
        with open_store(f"{postgres}#t{uuid.uuid4().hex}", ENCODER) as store:
            fill(store, make_chunk("a.md", "merger of the two firms"), make_chunk("b.md", "lunch of the day"))
            if hidden: fill(store, *(make_chunk("s.md", f"merger {i}", i, readers=("board",)) for i in range(hidden)))
            scores.append([hit.score for hit in store.search(text="merger of firms")])
    assert scores[0] == pytest.approx(scores[1]) and len(scores[0]) == 2


def test_postgres_names_stores_apart(postgres):
    name = f"t{uuid.uuid4().hex}"
    with open_store(f"{postgres}#{name}", ENCODER) as one, open_store(f"{postgres}#{name}x", ENCODER) as other:
        fill(one, make_chunk("a.md", "word"))
        assert (one.count(), other.count()) == (1, 0)


def test_postgres_goes_on_after_a_broken_connection(postgres):
    with open_store(f"{postgres}#t{uuid.uuid4().hex}", ENCODER) as store:
        fill(store, make_chunk("a.md", "word"))
        store._free[0].execute("SELECT 1").fetchone()
        import psycopg
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [store._free[0].info.backend_pid])
        with pytest.raises(ConnectionError, match="nothing was changed: try again"): store.count()
        assert store.count() == 1
