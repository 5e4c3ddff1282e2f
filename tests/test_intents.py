"""Intents: bad input, saving, damage, and the built-in desks."""

import json
import threading

import numpy as np
import pytest

from llmguide.enterprise import intents
from llmguide.enterprise.intents import DESKS, OUT_OF_SCOPE, IntentModel, choose_threshold, desk_scores, detect_intent, rule_intent
from llmguide.load import read_table
from llmguide.settings import assets
from llmguide.stories import project_folder


def desk_rows(part):
    return [row for row in read_table(project_folder() / "data" / "intents.csv") if row["part"] == part]


@pytest.fixture(scope="module")
def model():
    return IntentModel.train(desk_rows("train"), desk_rows("validation"), "words")


@pytest.mark.parametrize("language,least", [("en", 0.85), ("zh", 0.9)])
def test_tickets_reach_their_desk_and_more_often_than_by_rules(language, least):
    rows = [row for row in read_table(project_folder() / "data" / "tickets.csv") if row["language"] == language]
    share = lambda answer: np.mean([answer(row["text"]) == row["label"] for row in rows])  # noqa: E731
    assert share(detect_intent) >= max(least, share(rule_intent))


@pytest.mark.parametrize("text", ["", "  \n", "?!", "\x00", "🙂", "\ud800", "a" * 1_000_000, "账" * 500_000, "ＲＥＦＵＮＤ", "1234567890"])
def test_any_text_gets_a_desk(text):
    assert detect_intent(text) in DESKS
    scores = desk_scores(text)
    assert set(scores) == set(DESKS) and abs(sum(scores.values()) - 1) < 1e-6


@pytest.mark.parametrize("text", [None, 3, b"refund", ["refund"]])
def test_what_is_no_text_is_refused(text, model):
    with pytest.raises(TypeError, match="string"): detect_intent(text)
    with pytest.raises(TypeError, match="string"): model.predict(text)


def test_an_encoder_of_another_kind_is_not_asked():
    class Other:
        name = "other"

        def encode(self, texts): raise AssertionError("asked")

    assert detect_intent("Why was I charged twice?", Other()) == "bill"


def test_saved_models_answer_the_same_and_hold_no_pickle(model, tmp_path):
    again = IntentModel.load(model.save(tmp_path / "kept"))
    texts = [row["text"] for row in desk_rows("validation")]
    assert again.best([])[0] == [] and again.best(texts)[0] == model.best(texts)[0] and again.threshold == model.threshold
    assert np.allclose(again.best(texts)[1], model.best(texts)[1], atol=0.01)
    assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".json", ".safetensors"}


def test_damage_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no intent model"): IntentModel.load(tmp_path / "nowhere")
    folder = model.save(tmp_path / "kept")
    data = bytearray((folder / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "head.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"): IntentModel.load(folder)
    (folder / "intents.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"): IntentModel.load(folder)


def test_rows_that_cannot_teach(model):
    with pytest.raises(ValueError, match="fewer than two"): IntentModel.train([])
    with pytest.raises(ValueError, match="fewer than two"): IntentModel.train([{"text": "a", "label": "x"}, {"text": "b", "label": "oos"}])
    rows = desk_rows("train")
    with pytest.raises(ValueError, match="none of the intents"): IntentModel.train(rows, [{"text": "a", "label": "other"}], "words")
    with pytest.raises(ValueError, match="choose words"): IntentModel.train(rows, None, "smell")


def test_two_labels_and_rows_out_of_scope():
    texts = {"yes": "yes please do", "no": "no never stop", "oos": "where is the moon"}
    words = ("now", "today", "friend", "thanks", "again")
    rows = [{"text": f"{text} {word}", "label": label} for label, text in texts.items() for word in words]
    two = IntentModel.train([row for row in rows if row["label"] != "oos"], rows, "words")
    three = IntentModel.train(rows, rows, "words")
    assert two.labels == three.labels == ["no", "yes"]
    assert two.predict("yes please do")[0] == three.predict("yes please do")[0] == "yes"
    assert three.predict("where is the moon now")[0] == OUT_OF_SCOPE


def test_the_threshold_loses_what_was_allowed():
    chance = np.random.default_rng(0)
    sure, wanted = chance.random(1000), ["a"] * 1000
    limit = choose_threshold(wanted, sure, wanted, 0.03)
    assert 0.02 < (sure < limit).mean() < 0.04


def test_many_threads_get_the_same_answers(model):
    texts, found = [row["text"] for row in desk_rows("validation")][:20], []
    run = lambda: found.append([model.predict(text)[0] for text in texts] + [detect_intent(text) for text in texts])  # noqa: E731
    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(found) == 8 and all(each == found[0] for each in found)


def test_the_heads_are_small_and_need_no_torch():
    import subprocess
    import sys

    files = list((assets() / "intents").rglob("*.safetensors"))
    assert files and sum(file.stat().st_size for file in files) < 1_000_000
    code = "import sys; from llmguide.enterprise.intents import detect_intent; detect_intent('refund'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    for name in ("words", "meaning"):
        assert set(json.loads((assets() / "intents" / name / "head.json").read_text())["labels"]) == set(DESKS)
    assert intents.built_in("meaning").encoder == "all-minilm-l6-v2-int8"


@pytest.mark.parametrize("text", ["I want a human", "how many days off do I get", "drop table users", "我要找真人", "年假有几天"])
def test_what_no_word_of_a_desk_speaks_for_is_general(text):
    assert detect_intent(text) == "general"
