"""LanceDB's own files, and the functions that all stores share; what every store promises is in test_store_contract.py."""

from types import SimpleNamespace

import numpy as np
import pytest

from llmguide.passages import fuse, lexical_terms
from llmguide.store import Chunk, LanceStore, TextEncoder, labels_of, make_chunk

ENCODER = SimpleNamespace(name="eight", dimension=8)  # no model: any vector will do


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"format": 99, "encoder": "x", "dimension": 8, "created": ""}'])
def test_damaged_manifest(tmp_path, damage):
    LanceStore(tmp_path, ENCODER).close()
    (tmp_path / "manifest.json").write_text(damage)
    with pytest.raises(ValueError, match=r"manifest\.json"): LanceStore(tmp_path, ENCODER)


def test_compact_wipes_deleted_text(tmp_path):
    with LanceStore(tmp_path, ENCODER) as store:
        store.upsert([make_chunk("a.md", "wordthatmustgo"), make_chunk("b.md", "stays")], np.eye(8)[:2])
        store.delete("a.md")
        store.compact()
        assert not any(b"wordthatmustgo" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        assert [hit.chunk.source for hit in store.search(text="stays")] == ["b.md"]


# --- the functions that all stores share

@pytest.mark.parametrize("wrong", [{"readers": "ann"}, {"metadata": {"x": float("nan")}}, {"metadata": {"x": object()}},
                                   {"readers": ("\ud800",)}, {"source": "\udce9.md"}])
def test_chunks_that_no_store_could_hold(wrong):
    with pytest.raises((ValueError, TypeError), match="readers of|can't be stored"):
        make_chunk(**{"source": "a.md", "text": "word"} | wrong)


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
