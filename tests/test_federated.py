"""Federated averaging when clients fail, lie or are too few; and one search for what must never cross the wire."""

import numpy as np
import pytest

from llmguide.finetuning.epsilon import Privacy, privacy_spent
from llmguide.finetuning.federated import federated_average, skewed_split

PLACES = np.random.default_rng(1).normal(size=(5, 400)) * 0.5
START = [np.zeros(400)]


def half_way(client, arrays, number):
    return [arrays[0] + 0.5 * (PLACES[client] - arrays[0])]


def third_is_lost(client, arrays, number):
    if client == 2: raise ConnectionError("the line is dead")
    return half_way(client, arrays, number)


def test_masked_and_open_sums_agree():
    masked = federated_average(half_way, START, 4, 3)
    plain = federated_average(half_way, START, 4, 3, secure=False)
    assert np.abs(masked.arrays[0] - plain.arrays[0]).max() < 2e-5  # the steps of whole numbers


def test_the_others_go_on_without_a_lost_client():
    run = federated_average(third_is_lost, START, 4, 1)
    assert np.allclose(run.arrays[0], 0.5 * PLACES[[0, 1, 3]].mean(0), atol=1e-5)


def two_lost_from_round_two(client, arrays, number):
    if client in (1, 2) and number >= 2: raise ConnectionError("the line is dead")
    return half_way(client, arrays, number)


def test_too_few_answers_end_the_run():
    with pytest.raises(RuntimeError, match="only 1 of 3 rounds"):
        federated_average(two_lost_from_round_two, START, 4, 3)


def test_two_clients_cannot_hide_from_each_other():
    with pytest.raises(ValueError, match="three or more"): federated_average(half_way, START, 2, 1)


def test_a_weight_beyond_the_range_is_never_cut_silently():
    with pytest.raises(RuntimeError, match="0 of 1 rounds"):
        federated_average(lambda client, arrays, number: [arrays[0] + 100], START, 4, 1)


def test_a_diverged_client_is_never_averaged():
    with pytest.raises(RuntimeError, match="0 of 1 rounds"):
        federated_average(lambda client, arrays, number: [arrays[0] + np.nan], START, 4, 1)


def test_noise_of_all_clients_has_the_stated_strength():
    still = lambda client, arrays, number: arrays  # noqa: E731
    run = federated_average(still, [np.zeros(20_000)], 5, 1, Privacy(0.5, 0.8, seed=3))
    assert run.arrays[0].std() * 5 == pytest.approx(0.5 * 0.8, rel=0.03)
    assert run.epsilon == pytest.approx(privacy_spent(0.8, 1))


def test_unseeded_noise_never_repeats():
    runs = [federated_average(half_way, START, 4, 1, Privacy(1.0, 1.0)).arrays[0] for _ in range(2)]
    assert not np.array_equal(*runs)


def test_no_single_client_moves_the_average_by_more_than_the_bound():
    wild = lambda client, arrays, number: [arrays[0] + (3.0 if client == 0 else 0.0)]  # noqa: E731
    run = federated_average(wild, START, 4, 1, Privacy(1.0, 0.0))
    assert np.linalg.norm(run.arrays[0]) == pytest.approx(1.0 / 4, rel=1e-3)


def test_rows_run_out_without_losing_any():
    rows = [{"text": str(i), "label": "a" if i % 10 else "b"} for i in range(53)]
    parts = skewed_split(rows, 4, 0.05)
    assert sorted(int(row["text"]) for part in parts for row in part) == list(range(53))
    assert max(map(len, parts)) - min(map(len, parts)) == 1
