"""What the notebooks of visual question answering can't show: a build that is killed, damaged artefacts, bad pictures and questions."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from llmguide.catalog import resolve
from llmguide.multimodal import questions, two_stages, vqa

BUILD = """
import sys
from llmguide.finetuning.methods import method
from llmguide.multimodal.questions import drawn_quiz
from llmguide.multimodal.two_stages import STAGES
from llmguide.multimodal.vqa import build_visual

stages = tuple(stage._replace(rows=160) for stage in STAGES)
build_visual(drawn_quiz(30), sys.argv[2], sys.argv[1], stages, held=4, every=2, adapter=method("lora", rank=4, alpha=8),
             report=lambda line: print(line, flush=True))
"""
ENVIRONMENT = os.environ | {"LLMGUIDE_PRECISION": "float32", "LLMGUIDE_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a random language model of two layers and the small model's real tokenizer."""
    try:
        resolve("smollm2-135m-instruct"), resolve("efficientnet-lite0")
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    from transformers import AutoTokenizer

    from llmguide.finetuning.train import tiny_model
    from llmguide.load import causal_source

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(causal_source("smollm2-135m-instruct"))
    tiny_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build(tiny, output, stop_after=None):
    """Build in a process of its own; with stop_after, kill it after so many lines. Returns its lines."""
    process = subprocess.Popen([sys.executable, "-c", BUILD, str(tiny), str(output)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if stop_after and sum("step" in each for each in lines) == stop_after: process.send_signal(signal.SIGKILL)
    assert process.wait() == (-signal.SIGKILL if stop_after else 0)
    return lines


@pytest.fixture(scope="module")
def built(tiny, tmp_path_factory):
    output = tmp_path_factory.mktemp("built") / "visual"
    build(tiny, output)
    return output


def learned(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "projector.safetensors") | load_file(folder / "adapter" / "adapter_model.safetensors")


def test_a_killed_build_goes_on_to_the_same_weights(tiny, built, tmp_path):
    output = tmp_path / "visual"
    build(tiny, output, stop_after=2)
    assert not output.exists() and (tmp_path / ".visual.pt").exists()
    build(tiny, output, stop_after=3)  # in the second part of the run, which began after a kill
    assert build(tiny, output)[0].startswith("going on after step")
    first, second = learned(built), learned(output)
    assert first.keys() == second.keys()
    for name in first: np.testing.assert_allclose(first[name], second[name], atol=1e-6)
    assert not (tmp_path / ".visual.pt").exists()


def test_a_checkpoint_of_another_run_is_left_aside(tiny, built, tmp_path):
    from llmguide.finetuning.methods import method
    from llmguide.multimodal.two_stages import STAGES

    lines, few = [], tuple(stage._replace(rows=32) for stage in STAGES)
    (tmp_path / ".visual.pt").write_bytes(b"")
    with pytest.raises((EOFError, RuntimeError, ValueError)):
        vqa.build_visual(questions.drawn_quiz(20), tmp_path / "visual", str(tiny), few, 4, adapter=method("lora", rank=4, alpha=8))
    (tmp_path / ".visual.pt").unlink()
    build(tiny, tmp_path / "visual", stop_after=2)
    vqa.build_visual(questions.drawn_quiz(20), tmp_path / "visual", str(tiny), few, 4, adapter=method("lora", rank=4, alpha=8),
                     report=lines.append)
    assert not lines[0].startswith("going on")


@pytest.fixture(scope="module")
def seer(built): return vqa.VisualQuestionAnswering(built)


@pytest.fixture(scope="module")
def picture(): return questions.drawn_quiz(1).pictures[0]


def test_an_answer_is_one_of_the_answers(seer, picture, tmp_path):
    picture.save(tmp_path / "shape.png")
    for image in (picture, tmp_path / "shape.png", str(tmp_path / "shape.png"), (tmp_path / "shape.png").read_bytes()):
        assert seer.generate_answer(image, "what shape is it?") in questions.ANSWERS
    assert seer.generate_answer(picture, "图中是什么形状？") in questions.IN_CHINESE.values()
    assert seer.generate_answer(picture, "WHAT  shape\nis it") == seer.generate_answer(picture, "what shape is it?")


@pytest.mark.parametrize("question, words", [
    ("", "is empty"), (" \n?!", "is empty"), ("why " * 5000, "the limit is"), ("今天天气怎么样？", "ask like"),
    ("円はありますか？", "ask like"), ("есть ли круг?", "neither English")])
def test_a_question_that_cannot_be_answered_is_refused_with_a_remedy(seer, picture, question, words):
    with pytest.raises(ValueError, match=words): seer.generate_answer(picture, question)


def test_no_question_and_no_picture(seer, picture, tmp_path):
    with pytest.raises(TypeError, match="is text"): seer.generate_answer(picture, None)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    with pytest.raises(ValueError, match="broken.png"): seer.generate_answer(tmp_path / "broken.png", "is there a circle?")
    with pytest.raises(FileNotFoundError, match="gone.png"): seer.generate_answer(tmp_path / "gone.png", "is there a circle?")


@pytest.mark.parametrize("name", ["visual.json", "projector.safetensors"])
def test_an_artefact_that_lacks_a_file_names_it_and_the_command(built, tmp_path, name):
    import shutil

    shutil.copytree(built, tmp_path / "visual")
    (tmp_path / "visual" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}.*llmguide build vqa"): vqa.load_visual(tmp_path / "visual")


def test_without_the_model_the_command_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMGUIDE_CACHE_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="llmguide build vqa"): vqa.VisualQuestionAnswering()


def test_the_card_tells_what_was_done(built):
    card = json.loads((built / vqa.CARD).read_text(encoding="utf-8"))
    assert card["data"] == "drawn here" and [stage["name"] for stage in card["stages"]] == [stage.name for stage in two_stages.STAGES]
    assert card["history"][-1]["stage"] == two_stages.STAGES[-1].name and card["seconds"] > 0


def test_the_module_comes_without_the_large_libraries():
    code = ("import sys, llmguide.multimodal.vqa, llmguide.multimodal.fuse;"
            "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT).returncode == 0


def test_many_at_once_get_the_same_answers(seer):
    from concurrent.futures import ThreadPoolExecutor

    quiz = questions.drawn_quiz(6)
    alone = [seer.generate_answer(quiz.pictures[q.picture], q.text) for q in quiz.questions]
    start = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda q: seer.generate_answer(quiz.pictures[q.picture], q.text), quiz.questions))
    assert together == alone and time.monotonic() - start < 60
