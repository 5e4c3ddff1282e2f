"""Kills, full disks and readers in the middle: what was acknowledged stays, what was deleted stays away."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmguide.enterprise.crash import NAMES, WordBoxes, found_versions, kill_once, nursery, write_page
from llmguide.enterprise.knowledge_base import EnterpriseKnowledgeBase


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(): return EnterpriseKnowledgeBase(store="store", encoder=WordBoxes())


# ---- kills


@pytest.mark.soak
@pytest.mark.parametrize("kind,few,many", [("", 10, 200), ("faiss:", 4, 50)], ids=["lance", "faiss"])
def test_kills(folder, repetitions, kind, few, many):
    """Every seed can be replayed with kill_once; a store goes on through 25 deaths, then a new one is made."""
    seen = []
    with nursery() as nurse:
        for seed in range(repetitions(few, many)):
            if seed % 25 == 0: versions, home = {}, folder / str(seed)
            home.mkdir(exist_ok=True)
            seen.append(kill_once(nurse, home, seed, versions, kind))
    assert [kill for kill in seen if kill.problems] == []
    assert sum(kill.acknowledged for kill in seen) >= 2, "nothing was ever done: the kills come too early"
    assert "adding" in {kill.during for kill in seen}


def test_the_same_seed_dies_at_the_same_line(folder):
    """The odd seeds count lines of Python, so they end in the same step."""
    with nursery() as nurse:
        first, second = (kill_once(nurse, made, 3, {}) for made in (folder / "a", folder / "b") if not made.mkdir())
    assert (first.acknowledged, first.during) == (second.acknowledged, second.during)


def test_a_broken_promise_is_noticed(folder):
    write_page("rules/0.md", 1004)
    with opened() as kb:
        kb.add("rules")
        chunks = [hit.chunk for hit in kb.store.search(text="part version", k=9)]
        kb.store.upsert(chunks[1:], kb.encoder.encode(["x"] * (len(chunks) - 1)), replace=True)
        with pytest.raises(AssertionError, match="not one whole version"): found_versions(kb)
        assert len(kb.check()) == 1


# ---- a full disk

FULL = """
import resource, sys
from llmguide.enterprise.crash import WordBoxes
from llmguide.enterprise.knowledge_base import EnterpriseKnowledgeBase
kb = EnterpriseKnowledgeBase(store="store", encoder=WordBoxes())
kb.ledger.entries()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
try: print(kb.add(sys.argv[2:]))
except Exception as problem: print(type(problem).__name__, problem)
"""


@pytest.mark.parametrize("limit", [0, 300, 5_000, 60_000], ids=str)
def test_a_full_disk(folder, limit):
    """No file may grow beyond a limit: an error with the remedy, and everything as it was."""
    pytest.importorskip("resource")
    for number, name in enumerate(NAMES): write_page(name, 1000 + number)
    with opened() as kb:
        kb.add("rules")
        before = found_versions(kb)
    write_page(NAMES[0], 2004)
    Path("rules/long.md").write_text("\n\n".join(f"## {n}\n\nRule {n} of a long list." for n in range(2000)))
    done = subprocess.run([sys.executable, "-c", FULL, str(limit), "rules"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("OSError") and "run the same command again" in done.stdout, done.stdout
    with opened() as kb:
        assert found_versions(kb) == before and kb.check() == []
        kb.add("rules")
        assert found_versions(kb)[NAMES[0]] == 2004 and kb.check() == []
        assert kb.store.sources()["rules/long.md"] >= 2000


# ---- readers meanwhile

READER = """
import json, time
from llmguide.enterprise.crash import WordBoxes, found_versions
from llmguide.enterprise.knowledge_base import EnterpriseKnowledgeBase
kb = EnterpriseKnowledgeBase(store="store", encoder=WordBoxes(), create=False)
print("ready", flush=True)
seen, end = [], time.monotonic() + 4
while time.monotonic() < end: seen.append(found_versions(kb).get("rules/0.md"))
print(json.dumps(seen))
"""


def test_a_reader_never_sees_half(folder):
    """Another process asks while documents change: each time a whole version, and never an older one than before."""
    write_page("rules/0.md", 1)
    with opened() as kb:
        kb.add("rules")
        reader = subprocess.Popen([sys.executable, "-c", READER], stdout=subprocess.PIPE, text=True)
        assert reader.stdout.readline() == "ready\n"
        version = 1
        while reader.poll() is None:
            version += 1
            write_page("rules/0.md", version)
            kb.add("rules")
        seen = json.loads(reader.stdout.read())
    assert reader.returncode == 0 and seen == sorted(seen) and len(set(seen)) > 1


def test_word_boxes_are_unit_vectors():
    vectors = WordBoxes().encode(["one two", "", "报销"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1) and len({*map(bytes, vectors)}) == 3
