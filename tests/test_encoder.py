"""The fast encoder: same interface, nearly the same vectors, a cache that is whole or not there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llmguide.enterprise import encoder as module
from llmguide.enterprise.encoder import FastEncoder, converted, open_encoder, read_card
from llmguide.store import LanceStore

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *"远程办公", "##a", "##b", "##c"]


def small_model(folder):
    "A random BERT encoder of two thin layers, as sentence-transformers keeps one."
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                        max_position_embeddings=64)
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A small model, and a cache folder in which it was converted."
    folder = tmp_path_factory.mktemp("encoder")
    model = small_model(folder / "small-model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMGUIDE_CACHE_DIR", str(folder / "cache"))
        kept = converted(model)
    return SimpleNamespace(folder=folder, model=model, kept=kept)


@pytest.fixture
def fast(home, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_CACHE_DIR", str(home.folder / "cache"))
    return FastEncoder(str(home.model), threads=2)


def exact(home, texts):
    "What the model itself says, without a line of the package."
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    model, tokenizer = AutoModel.from_pretrained(home.model).eval(), Tokenizer.from_file(str(home.model / "tokenizer.json"))
    vectors = []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text).ids[:48]])
        with torch.inference_mode(): mean = model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
        vectors.append(mean / np.linalg.norm(mean))
    return np.array(vectors)


def test_nearly_the_same_vectors(home, fast):
    texts = ["a", "abc def", "远程 办公 a b c", "z y x w v u t s r q", "hello there you"]
    found = fast.encode(texts)
    assert found.shape == (5, fast.dimension) == (5, 32) and found.dtype == np.float32
    assert (found * exact(home, texts)).sum(1).min() > 0.98
    assert np.abs(found @ found.T - exact(home, texts) @ exact(home, texts).T).max() < 0.1


def test_a_vector_depends_on_its_text_alone(fast):
    texts = [f"{'abcdefghij'[n % 10]} " * (n + 1) for n in range(20)]
    together = fast.encode(texts)
    assert all(np.array_equal(fast.encode([text])[0], vector) for text, vector in zip(texts, together))
    assert np.array_equal(fast.encode(texts[::-1])[::-1], together)


@pytest.mark.parametrize("text", ["", " ", "\ud800", "a\udce9b", "员工每周可以远程办公", "🙂", "a\x00b", "a " * 50_000, "w" * 100_000])
def test_odd_texts_have_a_vector_of_length_one(fast, text):
    found = fast.encode(["a b c", text])
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert np.array_equal(found[0], fast.encode(["a b c"])[0])  # and the neighbour is not disturbed


def test_no_texts_and_one_string(fast):
    assert fast.encode([]).shape == (0, 32) and fast.encode(()).dtype == np.float32
    with pytest.raises(TypeError, match="list of texts"): fast.encode("one")


def test_many_threads_at_once(fast):
    from concurrent.futures import ThreadPoolExecutor
    texts = [f"a b {letter}" for letter in "cdefghij"]
    wanted = fast.encode(texts)
    with ThreadPoolExecutor(6) as pool:
        assert all(np.array_equal(found, wanted) for found in pool.map(lambda _: fast.encode(texts), range(12)))


def test_a_store_of_one_refuses_the_other(fast, tmp_path):
    plain = SimpleNamespace(name="small-model", dimension=32)
    LanceStore(tmp_path / "exact", plain).close()
    with pytest.raises(ValueError, match="made with small-model .*not with small-model-int8"): LanceStore(tmp_path / "exact", fast)
    LanceStore(tmp_path / "fast", fast).close()
    with pytest.raises(ValueError, match="made with small-model-int8"): LanceStore(tmp_path / "fast", plain)


# --- the cache

def test_it_is_made_once_and_no_draft_is_left(home, fast):
    before = (home.kept / "model.onnx").stat().st_mtime_ns
    assert converted(home.model) == home.kept and (home.kept / "model.onnx").stat().st_mtime_ns == before
    assert [path.name for path in home.kept.parent.iterdir()] == [home.kept.name]
    assert sorted(path.name for path in home.kept.iterdir()) == ["card.json", "model.onnx", "tokenizer.json"]


def test_other_weights_are_another_folder(home, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_convert", lambda source, draft: (draft / "model.onnx").write_text(source.name))
    monkeypatch.setenv("LLMGUIDE_CACHE_DIR", str(tmp_path / "cache"))
    other = shutil.copytree(home.model, tmp_path / "small-model")
    first = converted(home.model)
    with open(other / "model.safetensors", "ab") as file: file.write(b"0")
    assert converted(other) != first and converted(home.model) == first


@pytest.mark.parametrize("damage", ["model.onnx", "tokenizer.json", "card.json"])
def test_a_damaged_file_is_named_with_the_remedy(home, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("LLMGUIDE_CACHE_DIR", str(tmp_path))
    shutil.copytree(home.kept, tmp_path / "artifacts" / home.kept.name)
    file = tmp_path / "artifacts" / home.kept.name / damage
    for content in (file.read_bytes()[:-20], b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"is damaged.*delete the folder"): FastEncoder(str(home.model))
    shutil.rmtree(file.parent)


def test_a_conversion_that_fails_leaves_nothing(home, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(module, "_write_rounded", lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"): converted(home.model)
    assert list((tmp_path / "artifacts").iterdir()) == []


START = "import sys; from pathlib import Path; from llmguide.enterprise.encoder import converted; print(converted(Path(sys.argv[1])))"


def test_two_processes_at_once(home, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_CACHE_DIR", str(tmp_path))
    started = [subprocess.Popen([sys.executable, "-c", START, str(home.model)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=120)[0].split()[-1] for process in started}
    assert [process.returncode for process in started] == [0, 0] and len(said) == 1
    assert read_card(Path(said.pop()))["dimension"] == 32 and len(list((tmp_path / "artifacts").iterdir())) == 1


@pytest.mark.parametrize("file, change", [("config.json", {"model_type": "mpnet"}),
                                          ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False})])
def test_another_kind_of_model_is_refused(home, tmp_path, monkeypatch, file, change):
    monkeypatch.setenv("LLMGUIDE_CACHE_DIR", str(tmp_path / "cache"))
    other = shutil.copytree(home.model, tmp_path / "other-model")
    (other / file).write_text(json.dumps(json.loads((other / file).read_text()) | change))
    with pytest.raises(ValueError, match=r"other-model.*use TextEncoder"): FastEncoder(str(other))
    assert list((tmp_path / "cache" / "artifacts").iterdir()) == []


def test_a_model_that_is_nowhere():
    with pytest.raises(ValueError, match="no-such-model"): FastEncoder("no-such-model")
    with pytest.raises(FileNotFoundError, match="no-such/model"): FastEncoder("no-such/model")


def test_an_encoder_by_the_name_in_a_manifest(monkeypatch):
    monkeypatch.setattr(module, "FastEncoder", lambda name: ("fast", name))
    monkeypatch.setattr(module, "TextEncoder", lambda name: ("exact", name))
    assert open_encoder("all-minilm-l6-v2-int8") == ("fast", "all-minilm-l6-v2") and open_encoder("bge") == ("exact", "bge")
