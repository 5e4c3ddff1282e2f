"""The knowledge base as people treat it: twice, moved, renamed, broken, in a hurry, and with the wrong folder."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmguide.cli import main
from llmguide.enterprise import knowledge_base, ledger, respond
from llmguide.enterprise.answer import Answer
from llmguide.enterprise.crash import WordBoxes
from llmguide.enterprise.documents import read_document
from llmguide.enterprise.knowledge_base import EnterpriseKnowledgeBase
from llmguide.enterprise.repair import repair_store

PAGES = {"book/remote.md": "# Remote work\n\nTwo days a week from home.\n",
         "book/travel.md": "# Travel\n\n## Trains\n\nSecond class.\n\n## Flights\n\nA manager approves.\n",
         "book/报销.md": "# 报销\n\n出差报销须在返回后十四天内提交发票。\n"}


class Counting(WordBoxes):
    """An encoder that remembers what it was asked."""

    def __init__(self): self.texts = []

    def encode(self, texts):
        self.texts += texts
        return super().encode(texts)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder with a small handbook in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMGUIDE_STORE", raising=False)
    for name, text in PAGES.items(): write(name, text)
    return tmp_path


@pytest.fixture
def kb(folder):
    with EnterpriseKnowledgeBase(store="store", encoder=Counting()) as base: yield base


def write(name, content):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


def said(kb, question="home class manager 发票 remote travel", **options):
    """Everything that a question can bring to light."""
    return {hit.chunk.text for hit in kb.retrieve(question, 100, **options)}


def listed(kb): return {each["source"]: each for each in kb.list()}


# ---- adding


def test_a_folder(kb):
    done = kb.add("book")
    assert done.added == sorted(PAGES) and not done.unread and done.chunks == 4
    assert listed(kb)["book/travel.md"] == {
        "source": "book/travel.md", "chunks": 2, "status": "indexed", "reason": "", "readers": ["everyone"]}
    assert kb.check() == []


def test_the_same_file_twice_changes_nothing(kb):
    kb.add("book")
    before, texts = kb.store.sources(), len(kb.encoder.texts)
    for paths in ("book", ["./book/travel.md", "book/../book/travel.md"], [os.path.abspath("book")], [Path("book")]):
        done = kb.add(paths)
        assert not done.added and not done.changed and done.unchanged
    assert kb.store.sources() == before and len(kb.encoder.texts) == texts


def test_a_link_is_the_same_document(kb):
    kb.add("book")
    os.symlink("travel.md", "book/z-link.md")
    os.symlink("nowhere.md", "book/broken.md")
    os.symlink("..", "book/loop")
    done = kb.add("book")
    assert len(done.unchanged) == 3 and [*done.unread] == ["book/broken.md", "book/loop"] and done.gone == []
    assert set(kb.store.sources()) == set(PAGES)


def test_a_changed_file_replaces_its_passages(kb):
    kb.add("book")
    write("book/travel.md", "# Travel\n\nFirst class for everybody.\n")
    assert kb.add("book").changed == ["book/travel.md"]
    assert not {"Second class.", "A manager approves."} & said(kb, "class manager")
    assert kb.store.sources()["book/travel.md"] == 1 and kb.check() == []


def test_a_file_that_can_be_read_no_more_says_nothing_more(kb):
    kb.add("book")
    write("book/travel.md", b"")
    write("book/remote.md", bytes(range(7)) * 99)
    done = kb.add("book")
    assert sorted(done.unread) == ["book/remote.md", "book/travel.md"]
    assert set(kb.store.sources()) == {"book/报销.md"}
    assert {each["status"] for each in kb.list() if each["reason"]} == {"not indexed"}
    write("book/travel.md", PAGES["book/travel.md"])
    assert kb.add("book").added == ["book/travel.md"]


def test_strange_names(kb):
    names = ["two\nlines.md", "tab\there.md", " blank .md", "'; DROP TABLE documents; --.md", "制度：差旅.md", "a%b_c.md", "🙂.md"]
    for number, name in enumerate(names): write(f"odd/{name}", f"Rule {number} of an odd name.")
    assert sorted(kb.add("odd").added) == sorted(f"odd/{name}" for name in names)
    assert kb.check() == []
    for name in names: assert kb.delete_document(f"odd/{name}") == 1
    assert kb.list() == [] and kb.store.count() == 0


def test_a_name_that_is_no_text(kb):
    try: Path(os.fsdecode(b"book/caf\xe9.md")).write_text("A name from another system.")
    except OSError: pytest.skip("this file system knows only names in UTF-8")
    done = kb.add("book")
    assert len(done.added) == 3 and len(done.unread) == 1
    assert json.dumps(kb.list(), ensure_ascii=False).encode("utf-8")


def test_the_store_is_not_its_own_document(folder):
    with EnterpriseKnowledgeBase(store="book/store", encoder=WordBoxes()) as base:
        assert base.add(".").added == sorted(PAGES)
        assert len(base.add(".").unchanged) == 3


def test_a_missing_path_changes_nothing(kb):
    with pytest.raises(FileNotFoundError, match="no 'bok'"): kb.add(["book", "bok"])
    with pytest.raises(FileNotFoundError): kb.add("")
    os.mkdir("empty")
    with pytest.raises(ValueError, match="no file in empty"): kb.add("empty", sync=True)
    assert kb.list() == []


def test_a_bad_file_alone(kb):
    write("bad.md", b"")
    with pytest.raises(ValueError, match="empty"): kb.add_document("bad.md")
    assert listed(kb)["bad.md"]["status"] == "not indexed"


@pytest.mark.parametrize("kind", ["lance", "faiss", "qdrant", "postgres"])
def test_the_same_on_every_store(folder, kind, request, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_CACHE_DIR", str(folder / "cache"))
    where = f"{request.getfixturevalue('postgres')}#t{uuid.uuid4().hex}" if kind == "postgres" else f"{kind}:store"
    with EnterpriseKnowledgeBase(store=where.removeprefix("lance:"), encoder=WordBoxes()) as base:
        assert base.add("book").added == sorted(PAGES) and base.add("book").unchanged == sorted(PAGES)
        write("book/travel.md", "# Travel\n\nFirst class.\n")
        assert base.add("book").changed == ["book/travel.md"] and base.add("book/remote.md", readers=["ann"]).changed
        assert said(base) == {"First class.", "出差报销须在返回后十四天内提交发票。"} and len(said(base, user="ann")) == 3
        assert base.delete_document("book/报销.md") == 1 and base.check() == []
    with EnterpriseKnowledgeBase(store=where.removeprefix("lance:"), encoder=WordBoxes(), create=False) as base:
        assert set(listed(base)) == set(base.store.sources()) == {"book/travel.md", "book/remote.md"}
        base.store.delete("book/travel.md")
        assert base.repair() == ["book/travel.md: written again"] and said(base) == {"First class."}


# ---- gone, renamed, kept in step


def test_renamed_and_gone(kb):
    kb.add("book")
    os.rename("book/travel.md", "book/trips.md")
    done = kb.add("book")
    assert (done.added, done.gone) == (["book/trips.md"], ["book/travel.md"])
    assert "book/travel.md" in listed(kb)
    assert kb.add("book", sync=True).gone == ["book/travel.md"]
    assert set(listed(kb)) == set(kb.store.sources()) == {"book/remote.md", "book/trips.md", "book/报销.md"}


def test_data_dir_is_kept_in_step(folder):
    options = {"data_dir": "book", "store": "store", "encoder": WordBoxes()}
    with EnterpriseKnowledgeBase(**options) as base: assert len(base.list()) == 3
    os.remove("book/remote.md")
    with EnterpriseKnowledgeBase(**options) as base: assert set(listed(base)) == {"book/travel.md", "book/报销.md"}
    for name in list(PAGES): Path(name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="no file in book"): EnterpriseKnowledgeBase(**options)  # as if not mounted
    with EnterpriseKnowledgeBase(store="store", encoder=WordBoxes()) as base: assert len(base.list()) == 2


def test_without_a_store_it_lives_as_long_as_the_object(folder):
    base = EnterpriseKnowledgeBase(encoder=WordBoxes())
    base.add("book")
    where = base.folder
    base.close()
    assert not where.exists()


# ---- deleting


@pytest.mark.parametrize("name", ["book/travel.md", "./book/travel.md", "absolute"])
def test_deleted_is_deleted(kb, name):
    kb.add("book")
    assert kb.delete_document(os.path.abspath("book/travel.md") if name == "absolute" else name) == 2
    assert kb.delete_document("book/travel.md") == 0
    assert not {"Second class.", "A manager approves."} & said(kb)
    assert "book/travel.md" not in listed(kb)


def test_a_history_cannot_quote_what_was_deleted(kb, monkeypatch):
    seen = []
    monkeypatch.setattr(respond, "stream_answer",
                        lambda question, hits, *rest: seen.append((question, [hit.chunk.text for hit in hits], rest))
                        or [SimpleNamespace(question=question, text="", sources=(), refused=True, confidence=0.0, reason="", removed=())])
    kb.add("book")
    kb.query("Which class are trips by train?")
    kb.delete_document("book/travel.md")
    kb.query("And flights?", history=["Which class are trips by train?"])
    assert "Second class." in str(seen[0]) and "Second class." not in str(seen[1])


# ---- readers


def test_readers_stay_until_others_are_stated(kb):
    kb.add("book/travel.md", readers=["ann", "staff"])
    for _ in range(2):
        assert said(kb) == set() and said(kb, user="ben") == set()
        assert len(said(kb, user="ann")) == len(said(kb, user={"ben", "staff"})) == 2
        write("book/travel.md", PAGES["book/travel.md"].replace("Second", "Third"))
        kb.add("book/travel.md")
    assert kb.add("book/travel.md", readers=["everyone"]).changed == ["book/travel.md"]
    assert len(said(kb)) == 2


def test_readers_alone_change(kb):
    kb.add("book")
    assert kb.add("book", readers=["board"]).changed == sorted(PAGES)
    assert said(kb) == set() and len(said(kb, user="board")) == 4 and kb.check() == []


def test_readers_are_a_list(kb):
    with pytest.raises(TypeError, match="list of names"): kb.add("book", readers="board")


# ---- interruptions


def test_an_interrupted_run_goes_on(kb, monkeypatch):
    monkeypatch.setattr("llmguide.enterprise.ingest.GROUP", 2)
    for number in range(6): write(f"more/{number}.md", f"Rule {number}.")
    encode, left = kb.encoder.encode, [2]

    def interrupted(texts):
        left[0] -= 1
        if left[0] < 0: raise KeyboardInterrupt
        return encode(texts)

    kb.encoder.encode = interrupted
    with pytest.raises(KeyboardInterrupt): kb.add("more")
    assert len(kb.store.sources()) == 4 and kb.check() == []
    kb.encoder.encode = encode
    before = len(kb.encoder.texts)
    done = kb.add("more")
    assert (len(done.unchanged), len(done.added), len(kb.encoder.texts) - before) == (4, 2, 2)


def test_a_writing_that_failed_is_done_again(kb, monkeypatch):
    kb.add("book")
    write("book/remote.md", "Three days.")

    def full(*_, **__): raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(type(kb.store), "upsert", full)
        with pytest.raises(OSError, match="book/remote.md .*No space left.*run the same command again"): kb.add("book")
    assert "Two days a week from home." in said(kb)
    assert listed(kb)["book/remote.md"]["status"] == "writing"
    assert kb.add("book").changed == ["book/remote.md"] and "Three days." in said(kb)


def test_threads_add_and_ask_at_once(kb):
    for number in range(12): write(f"more/{number}.md", f"Rule {number} of the week.")
    problems, stop = [], threading.Event()

    def add(number):
        try: kb.add([f"more/{n}.md" for n in range(number, 12, 3)])
        except Exception as problem: problems.append(problem)

    def ask():
        while not stop.is_set(): kb.retrieve("rule of the week", 20)

    workers = [threading.Thread(target=add, args=(number,)) for number in range(3)]
    reader = threading.Thread(target=ask)
    for each in (reader, *workers): each.start()
    for each in workers: each.join()
    stop.set()
    reader.join()
    assert problems == [] and kb.store.count() == 12 and kb.check() == []


# ---- asking


def test_a_topic_is_answered_by_its_section(kb, monkeypatch):
    monkeypatch.setattr(respond, "stream_answer", lambda question, *_: [Answer(question, "I don't know.", refused=True, reason="no")])
    kb.add("book/travel.md", readers=["ann"])
    kb.add("book/remote.md")
    found = kb.query("What is the policy on remote work?")
    assert (found["answer"], found["refused"], found["nearest"]) == ("Two days a week from home.", False, [])
    source = found["sources"][0]
    text = read_document(source["source"]).text
    assert text[source["start"] : source["end"]] == source["quote"] == "Two days a week from home."
    assert kb.query("What are the rules for travel?")["refused"] is True, "not for the public"
    assert kb.query("What are the rules for travel?", user="ann")["answer"].startswith("Second class.")
    refused = kb.query("Who won the world cup?")
    assert refused["refused"] and refused["sources"] == []
    assert {"source", "page", "headings", "text", "start", "end"} == set(refused["nearest"][0])
    assert 0 < len(refused["nearest"][0]["text"]) <= 300


def test_a_table_is_computed(kb):
    rows = [f"| LL-{number} | {number % 41} |" for number in range(100, 160)]
    write("lamps.md", "\n".join(["# Lamps", "", "| Lamp | Power (W) |", "| --- | --- |", *rows]))
    kb.add("lamps.md")
    found = kb.query("Which lamp has the largest power?")
    assert "40" in found["answer"] and found["reason"].startswith("computed")
    text = read_document("lamps.md").text
    assert [text[each["start"] : each["end"]] for each in found["sources"]] == [each["quote"] for each in found["sources"]]
    assert found["sources"][0]["quote"] == "| LL-122 | 40 |", "all rows are looked at, also those of other passages"


# ---- other processes


def test_a_second_writer_is_told_who_writes(kb, monkeypatch):
    kb.add("book")
    code = ("import sys; from pathlib import Path; from llmguide.enterprise.ledger import only_writer\n"
            "with only_writer(Path('store')): print('mine', flush=True); sys.stdin.read()")
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "mine\n"
    monkeypatch.setattr(ledger.only_writer.__wrapped__, "__defaults__", (0.1,))
    with pytest.raises(RuntimeError, match=f"process {other.pid} since .*: wait for its end, or stop it"): kb.add("book")
    assert len(said(kb)) == 4, "readers are not blocked"
    with EnterpriseKnowledgeBase(store="store", encoder=WordBoxes()) as second: assert len(said(second)) == 4
    other.communicate("")
    assert len(kb.add("book").unchanged) == 3


def test_another_process_sees_changes_at_once(kb, folder):
    kb.add("book")
    with EnterpriseKnowledgeBase(store="store", encoder=WordBoxes()) as second:
        kb.delete_document("book/travel.md")
        assert said(second) == said(kb) and len(said(second)) == 2


# ---- opening


def test_the_wrong_folder(folder):
    with pytest.raises(FileNotFoundError, match="no knowledge base in nowhere: llmguide kb add"):
        EnterpriseKnowledgeBase(store="nowhere", create=False)
    with pytest.raises(ValueError, match="book holds other files"): EnterpriseKnowledgeBase(store="book", encoder=WordBoxes())
    with pytest.raises(NotADirectoryError): EnterpriseKnowledgeBase(store="book/remote.md", encoder=WordBoxes())
    assert sorted(os.listdir("book")) == sorted(name.split("/")[1] for name in PAGES) and os.listdir(".") == ["book"]


def test_another_encoder_is_refused(kb):
    kb.add("book")
    other = SimpleNamespace(name="other", dimension=16, encode=WordBoxes().encode)
    with pytest.raises(ValueError, match="was made with word-boxes .*index the documents into a new"):
        EnterpriseKnowledgeBase(store="store", encoder=other)


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_a_folder_that_may_only_be_read(kb, folder):
    kb.add("book")
    kb.close()
    code = ("import os, filelock, lancedb, lancedb.index, pyarrow.compute, llmguide.enterprise.worker\n"
            "from llmguide.enterprise.crash import WordBoxes\n"
            "from llmguide.enterprise.knowledge_base import EnterpriseKnowledgeBase as KB\n"
            "if os.geteuid() == 0: os.setuid(65534)\n"
            "with KB(store='store', encoder=WordBoxes(), create=False) as kb:\n"
            "    print(len(kb.retrieve('home class', 9)), len(kb.list()))\n"
            "    try: kb.add('book')\n"
            "    except OSError as problem: print(problem)\n")
    home = tempfile.mkdtemp()  # pytest's own folders are closed to others
    try:
        shutil.copytree(folder, home, dirs_exist_ok=True)
        for path in [Path(home), *Path(home).rglob("*")]: path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=False)
    finally:
        for path in [Path(home), *Path(home).rglob("*")]: path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(home)
    assert done.stdout.startswith("4 3\n"), done.stderr
    assert "store" in done.stdout.splitlines()[1]


# ---- damage


def repaired(store="store"): return repair_store(store, lambda name: WordBoxes())


def test_a_lost_ledger(kb):
    kb.add("book")
    kb.add("book/travel.md", readers=["board"])
    kb.close()
    for path in Path("store").glob("ledger*"): path.unlink()
    assert len(repaired()) == 3
    with EnterpriseKnowledgeBase(store="store", encoder=WordBoxes()) as base:
        assert {each["status"] for each in base.list()} == {"outdated"}
        done = base.add("book")
        assert len(done.unread) == 3 and "--readers" in done.unread["book/travel.md"]
        assert base.retrieve("class manager", 9) == [], "nobody made it public"


def test_readers_hold_when_the_ledger_is_lost(kb):
    kb.add("book/travel.md", readers=["board"])
    kb.close()
    for path in Path("store").glob("ledger*"): path.unlink()
    repaired()
    with EnterpriseKnowledgeBase(store="store", encoder=WordBoxes()) as base:
        assert said(base) == set() and len(said(base, user="board")) == 2


@pytest.mark.parametrize("harm", ["data", "manifest", "ledger", "versions"])
def test_truncated_files(kb, harm):
    kb.add("book")
    kb.add("book/travel.md", readers=["board"])
    kb.close()
    there = {"data": "chunks.lance/data/*", "manifest": "manifest.json", "ledger": "ledger.sqlite",
             "versions": "chunks.lance/_versions/*"}[harm]
    for path in Path("store").glob(there): path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        with EnterpriseKnowledgeBase(store="store", encoder=WordBoxes()) as base: assert base.check() != []
    except (ValueError, OSError, RuntimeError) as problem: assert "\n" not in str(problem)[:20]
    assert repaired()
    with EnterpriseKnowledgeBase(store="store", encoder=WordBoxes()) as base:
        if harm == "ledger": base.add("book/remote.md", readers=["everyone"])
        else: assert base.check() == [] and set(listed(base)) == set(PAGES)
        assert "Second class." not in said(base) and "Two days a week from home." in said(base)
        assert "Second class." in said(base, user="board")
        assert len(list(Path("store").glob("damaged-*"))) == 1, "what was damaged is kept"


def test_passages_behind_the_ledgers_back(kb):
    kb.add("book")
    kb.store.delete("book/travel.md")
    os.remove("book/remote.md")
    kb.store.delete("book/remote.md")
    assert {finding.source for finding in kb.check()} == {"book/remote.md", "book/travel.md"}
    kb.repair()
    assert "Second class." in said(kb)
    assert listed(kb)["book/remote.md"]["status"] == "not indexed"
    assert [finding.source for finding in kb.check()] == ["book/remote.md"], "named until it is added or deleted"


# ---- the command line


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run a command with the small encoder; returns exit code, output and error lines."""
    monkeypatch.setattr(knowledge_base, "load_encoder", lambda name=None: WordBoxes())

    def command(*arguments):
        code = main(["kb", *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err.splitlines()

    return command


def test_add_list_delete(run):
    write("book/broken.md", b"")
    code, out, errors = run("add", "book", "--json")
    assert code == 0 and [line for line in errors if line.startswith("llmguide: book/broken.md: ")]
    assert json.loads(out)["added"] == sorted(PAGES)
    assert run("add", "book/broken.md", "book")[0] == 1  # named itself
    code, out, _ = run("list", "--json")
    rows = json.loads(out)
    assert code == 0 and {*rows[0]} == {"source", "chunks", "status", "reason", "readers"} and len(rows) == 4
    assert run("delete", "./book/travel.md")[0] == 0
    code, _, errors = run("delete", "book/travel.md")
    assert code == 1 and errors == ["llmguide: there is no book/travel.md in knowledge_base: llmguide kb list shows what there is"]
    assert run("check")[:2] == (0, "all is well: 3 documents, every passage was read\n")


def test_nothing_that_can_be_read_is_a_failure(run):
    write("bad/broken.pdf", b"")
    code, _, errors = run("add", "bad")
    assert code == 1 and "bad/broken.pdf" in errors[-1]


def locked_pdf(text, password):
    """One page of text that opens with a password only."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer, stream = PdfWriter(), DecodedStreamObject()
    font = DictionaryObject({NameObject(f"/{key}"): NameObject(f"/{value}") for key, value in
                             (("Type", "Font"), ("Subtype", "Type1"), ("BaseFont", "Helvetica"))})
    page = writer.add_blank_page(400, 400)
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F"): font})})
    stream.set_data(f"BT /F 12 Tf 40 300 Td ({text}) Tj ET".encode())
    page[NameObject("/Contents")] = writer._add_object(stream)
    writer.encrypt(password, algorithm="AES-256")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def locked_zip(text, password):
    """An archive with an open member and one that is encrypted as zip programs have done since 1990 (APPNOTE 6.1)."""
    from zlib import crc32

    step = lambda crc, byte: crc32(bytes([byte]), crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF  # noqa: E731
    keys = [0x12345678, 0x23456789, 0x34567890]

    def stir(byte):
        keys[0] = step(keys[0], byte)
        keys[1] = ((keys[1] + (keys[0] & 255)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = step(keys[2], keys[1] >> 24)

    def hidden(byte):
        mask = keys[2] | 2
        stir(byte)
        return byte ^ (mask * (mask ^ 1) >> 8 & 255)

    for byte in password.encode(): stir(byte)
    body = bytes(map(hidden, bytes(11) + bytes([crc32(text.encode()) >> 24]) + text.encode()))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("open.txt", "The canteen opens at noon.")
        archive.writestr("locked.txt", body)
    data = bytearray(file.getvalue())
    for mark, flags, crc in ((b"PK\x03\x04", 6, 14), (b"PK\x01\x02", 8, 16)):
        place = data.rindex(mark)
        data[place + flags] |= 1
        size = place + crc + 8
        data[place + crc : place + crc + 4] = crc32(text.encode()).to_bytes(4, "little")
        data[size : size + 4] = len(text).to_bytes(4, "little")
    return bytes(data)


def test_a_password_opens_what_is_locked(run, monkeypatch):
    write("safe/locked.pdf", locked_pdf("Bonus is paid in May", "plum"))
    write("safe/partly.zip", locked_zip("The vault opens at nine.", "plum"))
    _, _, errors = run("add", "safe")
    assert any("locked.pdf: encrypted: it needs a password: give it (password=… or --password)" in line for line in errors)
    assert "locked.txt" in json.loads(run("list", "--json")[1])[1]["reason"]
    assert any("the password doesn't open it" in line for line in run("add", "safe", "--password", "pear")[2])
    monkeypatch.setenv("LLMGUIDE_FILE_PASSWORD", "plum")
    assert json.loads(run("add", "safe", "--json")[1])["unread"] == {}
    assert [row["reason"] for row in json.loads(run("list", "--json")[1])] == ["", ""]
    monkeypatch.delenv("LLMGUIDE_FILE_PASSWORD")
    assert json.loads(run("add", "safe", "--json")[1])["unchanged"] == ["safe/locked.pdf", "safe/partly.zip"]
    assert not any(b"plum" in file.read_bytes() for file in Path("knowledge_base").rglob("*") if file.is_file())


def test_an_answer_that_is_not_certain_says_so(run, monkeypatch):
    run("add", "book")
    for sure in (0.4, 0.6):
        monkeypatch.setattr(respond, "stream_answer", lambda question, *_, sure=sure: [Answer(question, "Perhaps.", confidence=sure)])
        shown = run("ask", "Which class are trains?")[1]
        assert ("(confidence 0.40: not certain, read the source)" in shown) == ("Second class." in shown) == (sure < 0.5)


def test_another_judge_orders_the_passages(run, monkeypatch):
    run("add", "book")
    judge = lambda question, texts: [float("Flights" in text) for text in texts]  # noqa: E731
    monkeypatch.setattr("llmguide.enterprise.retrieve.cross_encoder", lambda name: {"mine": judge}[name])
    found = json.loads(run("ask", "Who won the cup in Berlin?", "--rerank", "mine", "--json")[1])
    assert found["nearest"][0]["headings"] == ["Travel", "Flights"]


def test_an_evaluation_says_how_long_it_will_take(run):
    run("add", "book")
    write("asked.csv", "question,answer\n" + "How many days from home?,Two days a week\n" * 12)
    lines = run("evaluate", "asked.csv")[2]
    assert lines[0].startswith("10 of 12 questions, ") and lines[0].endswith(" left") and lines[1].startswith("12 of 12")


def test_a_glossary_widens_the_search(run, kb):
    write("names.csv", "names\ntravel|journeys\n")
    write("bad.csv", "english\ntravel\n")
    kb.add("book")
    with EnterpriseKnowledgeBase(store="store", encoder=Counting(), glossary="names.csv") as base:
        assert base.retrieve("Which journeys?", 1)[0].chunk.source == "book/travel.md"
    assert run("ask", "Which journeys?", "--store", "store", "--glossary", "bad.csv")[2] == [
        "llmguide: bad.csv: row 1 has 1 name: it needs two or more, divided by |"]


def test_the_query_is_json(run, monkeypatch):
    run("add", "book")
    monkeypatch.setattr(respond, "stream_answer", lambda question, hits, *_: [SimpleNamespace(
        text=hits[0].chunk.text, refused=False, confidence=0.5, reason="", removed=(),
        sources=(SimpleNamespace(source=hits[0].chunk.source, quote="x", headings=("A",), page=None, start=0, end=1),))])
    code, out, errors = run("ask", "From home, how many days a week?", "--json")
    found = json.loads(out)
    assert code == 0 and errors == [] and found["question"] and found["answer"] and found["refused"] is False
    assert set(found["sources"][0]) == {"source", "page", "headings", "quote", "start", "end"} and found["nearest"] == []


@pytest.mark.parametrize("arguments,problem", [
    (["ask", ""], "the question is empty"),
    (["ask", " \n"], "the question is empty"),
    (["ask", "why " * 25_600], "102,400 characters"),
    (["ask", "Why?", "--store", "nowhere"], "no knowledge base in nowhere: llmguide kb add makes one"),
    (["list", "--store", ""], "empty"),
    (["list", "--store", "book/remote.md"], "book/remote.md is a file"),
    (["add", "nothing.md"], "there is no 'nothing.md'"),
    (["add", "book", "--store", "book"], "book holds other files"),
    (["add", "book", "--readers", " , "], "--readers names nobody"),
    (["add", "book", "--store", "mysql://host/x"], "is no address of a store"),
    (["repair", "--store", "book"], "no knowledge base in book"),
    (["evaluate", "nothing.csv"], "nothing.csv"),
], ids=str)
def test_refused_in_one_line(run, arguments, problem):
    run("add", "book")
    code, out, errors = run(*arguments)
    assert (code, out, len(errors)) == (2, "", 1), errors
    assert errors[0].startswith("llmguide: ") and problem in errors[0]


def test_help_is_light():
    code = "import sys; from llmguide.cli import main; main(['kb', 'ask', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "lancedb", "pyarrow", "pandas"} & set(done.stdout.split())


def test_a_restricted_document_never_becomes_public_by_accident(tmp_path):
    folder = tmp_path / "my"
    folder.mkdir()
    secret = folder / "salaries.md"
    secret.write_text("The director earns 412,000 euros a year.", encoding="utf-8")
    with EnterpriseKnowledgeBase(store=tmp_path / "store") as base:
        base.add(secret, readers=["board"])
        base.delete_document(secret)
        assert base.list() == []
        base.add(folder)  # as every night
        assert [row["readers"] for row in base.list()] == [["board"]]
        assert base.retrieve("What does the director earn?") == []
        (tmp_path / "other").mkdir()
        secret.rename(tmp_path / "other" / "moved.md")
        base.add(tmp_path / "other")
        assert all(row["readers"] == ["board"] for row in base.list())
        base.add(tmp_path / "other", readers=["everyone"])  # on purpose it can be
        assert len(base.retrieve("What does the director earn?")) == 1


def test_a_damaged_word_index_is_found_and_mended(tmp_path):
    page = tmp_path / "leave.md"
    page.write_text("# Leave\n\nEverybody gets 25 days of leave a year.", encoding="utf-8")
    with EnterpriseKnowledgeBase(store=tmp_path / "store") as base: base.add(page)
    for file in (tmp_path / "store" / "chunks.lance" / "_indices").rglob("*.lance"): file.write_bytes(b"damaged" * 9)
    with EnterpriseKnowledgeBase(store=tmp_path / "store") as base:
        found = base.check()
        assert found and found[0].damaged and "repair" in found[0].remedy
        base.repair()
        assert base.check() == []
        assert "25 days" in base.retrieve("How many days of leave?")[0].chunk.text
