"""Augmentation that must not turn a label round, intervals that keep their promise, and labels bought from awkward pools."""

import numpy as np
import pytest

from llmguide.finetuning.augment import augment, fault, interval_over_seeds, linear_probe, swap_terms
from llmguide.finetuning.label import STRATEGIES, buying_curve, choose_next, pseudo_labels
from llmguide.load import load_rows

TURNED = [
    ("Profit did not fall.", "Profit fell."), ("The deal can't be closed.", "The deal can be closed."),
    ("Orders rose in May.", "Orders fell in May."), ("Margins declined again.", "Margins improved again."),
    ("利润没有减少。", "利润减少了。"), ("订单未增加。", "订单有所增加。"), ("销量上升。", "销量下滑。"),
    ("Sales were EUR 1.5 million.", "Sales were EUR 15 million."), ("增长１２%。", "增长21%。"),
    ("It fell by 3 % to 7.", "It fell by 3 %."),
]  # fmt: skip
SAME = [
    ("Profit did not fall.", "Profit didn't decline."), ("It paid EUR 1,200,000.", "EUR 1200000 was paid by it."),
    ("增长１２%。", "上升了12%。"), ("不仅订单增长。", "订单也增长了。"),
    ("The firm, founded in 1990.0", "Founded in 1990 was the firm."),
]  # fmt: skip


@pytest.mark.parametrize("before, after", TURNED)
def test_a_turned_meaning_is_dropped(before, after):
    assert fault(before, after)


@pytest.mark.parametrize("before, after", SAME)
def test_other_words_are_kept(before, after):
    assert fault(before, after) is None


@pytest.mark.parametrize("name", ["headlines", "tickets"])
def test_synonyms_never_turn_our_own_rows(name):
    for row in load_rows(name):
        for seed in range(3):
            assert fault(row["text"], swap_terms(row["text"], seed)) in (None, "unchanged"), row["text"]


def test_labels_stay_and_nothing_is_made_twice():
    rows = load_rows("headlines")
    new, report = augment(rows, swap_terms, copies=4, avoid=rows[:0])
    texts = [row["text"] for row in [*rows, *new]]
    assert len(set(texts)) == len(texts) and report["made"] == 4 * len(rows)
    assert report["made"] == report["kept"] + sum(report["dropped"].values())
    for seed in range(4):
        by_text = {swap_terms(row["text"], seed): row["label"] for row in rows}
        assert all(by_text.get(row["text"], row["label"]) == row["label"] for row in new)


def test_the_interval_over_seeds_keeps_its_promise():
    """No true difference, but seeds and rows both vary: most intervals hold zero (few seeds: a little under 95 %)."""
    luck, held = np.random.default_rng(0), 0
    for _ in range(200):
        gains = luck.normal(0, 0.1, (10, 1)) + luck.normal(0, 0.2, (1, 200)) + luck.normal(0, 0.3, (10, 200))
        found = interval_over_seeds(gains, draws=400)
        held += found.low <= 0 <= found.high
    assert held >= 170


def test_one_class_is_refused_by_the_probe_and_survived_by_the_curve():
    vectors = np.eye(6)
    with pytest.raises(ValueError, match="all 6 rows have the label 'a'"):
        linear_probe(vectors, ["a"] * 6)
    for strategy in STRATEGIES:
        right, order = buying_curve(vectors, ["a"] * 6, vectors, ["a"] * 5 + ["b"], strategy, budgets=(2, 4, 20))
        assert right.shape == (3, 6) and sorted(order) == list(range(6)) and right[-1].sum() == 5


def test_nothing_is_bought_twice_and_equal_rows_do_no_harm():
    vectors = np.repeat(np.eye(3), 5, axis=0)
    bought = {0: "a", 5: "b"}
    for strategy in STRATEGIES:
        chosen = choose_next(vectors, bought, 99, strategy)
        assert sorted([*chosen, *bought]) == list(range(15))
        assert choose_next(vectors, dict(enumerate("ab" * 7 + "a")), 3, strategy) == []


def test_pseudo_labels_of_nothing():
    assert pseudo_labels(np.zeros((0, 2)), ["a", "b"]) == {}
    assert pseudo_labels([[0.5, 0.5]], ["a", "b"], threshold=0.6) == {}
