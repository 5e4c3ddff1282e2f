"""Explaining and auditing: odd texts, long texts, broken models, the tables of pairs, and no file left behind."""
import random
import re

import numpy as np
import pytest

from llmguide.finetuning.explain import LinearClassifier, explain, explanation_html, faithfulness, pieces
from llmguide.finetuning.fairness import Swap, alarms, audit, holm, swap_pairs, swap_words, template_swaps
from llmguide.finetuning.footprint import footprint
from llmguide.finetuning.poison import out_of_fold, suspects, trigger_phrases


class Counting:
    """Positive by the number of times "up" is read; remembers how many texts it was asked about."""

    labels = ["no", "yes"]

    def __init__(self):
        self.asked = 0

    def predict(self, texts):
        self.asked += len(texts)
        yes = np.array([min(0.9, 0.1 + 0.2 * text.count("up")) for text in texts])
        return np.stack([1 - yes, yes], 1)


def test_pieces_join_to_the_text_whatever_it_holds():
    chance = random.Random(0)
    for _ in range(300):
        text = "".join(chance.choice("ab 中文，。\n\t1％é🙂<&かな한") for _ in range(chance.randint(1, 30)))
        if text.strip(): assert "".join(pieces(text)) == text, repr(text)


@pytest.mark.parametrize("text", ["one\ntwo\t up  three", "up", "，", "升 up 级，up！", "<script>up</script> & 'up'"])
def test_the_parts_add_up_for_odd_texts(text):
    found = explain(Counting(), text)
    assert found.base + found.values.sum() == pytest.approx(found.probability, abs=1e-6)
    assert "<script>" not in explanation_html(found)


def test_a_long_text_does_not_cost_more_than_was_allowed():
    model = Counting()
    found = explain(model, "word " * 600 + "up", evaluations=60)
    assert model.asked < 150 and found.evaluations <= model.asked
    assert found.base + found.values.sum() == pytest.approx(found.probability, abs=1e-6)


def test_a_model_that_answers_no_numbers_is_refused():
    class Broken(Counting):
        def predict(self, texts): return super().predict(texts) * np.nan

    with pytest.raises(ValueError, match="not numbers"): explain(Broken(), "up and down")


def test_one_text_gives_no_interval():
    with pytest.raises(ValueError, match="at least two"): faithfulness(Counting(), [explain(Counting(), "up and down")])


def test_the_tables_of_pairs_are_in_order():
    for language in ("en", "zh"):
        for use in ("template", "text"):
            pairs = [(pair["kind"], pair["first"], pair["second"]) for pair in swap_pairs(language, use)]
            assert len(set(pairs)) == len(pairs) and all(all(pair) for pair in pairs)
        kinds = {swap.kind for swap in template_swaps(language)}
        assert "control" in kinds and len(kinds) >= 5
        assert all(swap.before != swap.after and "{" not in swap.before + swap.after for swap in template_swaps(language))


@pytest.mark.parametrize("language, text", [
    ("en", "HE, he and He; she's Mr. Smith-Man's"), ("zh", "其他人说她们的儿子和他的吉他")])
def test_swapping_twice_restores_a_text(language, text):
    assert swap_words(text, language) != text
    assert swap_words(swap_words(text, language), language) == text


def test_an_audit_of_a_model_that_never_moves_passes_and_of_one_that_flips_does_not():
    class Flips(Counting):
        def predict(self, texts): return np.array([[0.1, 0.9] if re.search("Mary|Jennifer", t) else [0.9, 0.1] for t in texts])

    swaps = template_swaps("en", ("gender", "age"))
    assert alarms(audit(Counting(), swaps, "yes")) == []
    assert [line.split(":")[0] for line in alarms(audit(Flips(), swaps, "yes"))] == ["gender"]


def test_an_audit_by_kind_with_a_single_swap_of_a_kind_says_so():
    swaps = [Swap("a", "x → y", "up", "down"), Swap("b", "x → y", "up", "down"), Swap("b", "x → y", "up up", "down")]
    with pytest.raises(ValueError, match="one swap only"): audit(Counting(), swaps, "yes")


def test_holm_of_nothing_and_of_ties():
    assert holm([]).tolist() == [] and holm([0.5, 0.5]).tolist() == [1.0, 1.0]


def test_rows_that_cannot_be_judged_are_refused():
    rows = [{"text": f"text {i}", "label": "a"} for i in range(8)]
    with pytest.raises(ValueError, match="only one class"): out_of_fold(rows)
    with pytest.raises(ValueError, match="'b' has fewer than 5"): suspects([*rows, {"text": "other", "label": "b"}])


def test_clean_rows_have_no_trigger():
    chance = random.Random(1)
    words = {"a": "rose climbed gained higher".split(), "b": "fell dropped lost lower".split()}
    rows = [{"text": " ".join(chance.choices("sales profit orders cash".split(), k=4) + chance.choices(words[label], k=3)),
             "label": label} for label in "ab" * 40]
    assert trigger_phrases(rows) == []
    assert LinearClassifier(rows).labels == ["a", "b"]


def test_two_footprints_at_once_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with footprint() as outer:
        with footprint("CHN", every=0.5) as inner: sum(i * i for i in range(3_000_000))
    assert outer.seconds >= inner.seconds > 0 and inner.emissions > 0
    assert list(tmp_path.iterdir()) == []
