"""What the notebooks of fusion can't show: data that is absent or small, and that a note never tells the outcome."""

import numpy as np
import pytest

from llmguide.multimodal import fuse, pairs


def test_late_fusion_is_a_sum_of_two_votes():
    import torch

    puzzle = pairs.xor_pairs(40)
    network = fuse.train_fusion("late", puzzle, epochs=2)
    seen, said = (torch.as_tensor(view.summary) for view in (puzzle.seen, puzzle.said))
    with torch.no_grad():
        mixed = network(seen[:1], said[:1]) + network(seen[1:2], said[1:2]) - network(seen[:1], said[1:2]) - network(seen[1:2], said[:1])
    np.testing.assert_allclose(mixed.numpy(), 0, atol=1e-5)


@pytest.mark.parametrize("kind", list(fuse.KINDS))
def test_the_same_seed_gives_the_same_network(kind):
    puzzle = pairs.xor_pairs(80)
    first, second = (fuse.fusion_scores(kind, fuse.train_fusion(kind, puzzle, epochs=1, seed=3), puzzle) for _ in range(2))
    np.testing.assert_allclose(first, second, atol=1e-6)
    np.testing.assert_allclose(np.exp(first).sum(1), 1, atol=1e-5)


def test_padding_changes_nothing():
    puzzle = pairs.xor_pairs(20)
    network = fuse.train_fusion("middle", puzzle, epochs=1)
    padded = puzzle._replace(said=puzzle.said._replace(sequence=np.pad(puzzle.said.sequence, ((0, 0), (0, 3), (0, 0)))))
    np.testing.assert_allclose(fuse.fusion_scores("middle", network, padded), fuse.fusion_scores("middle", network, puzzle), atol=1e-5)


def test_scaling_is_learned_from_known_items_only():
    view = pairs.xor_pairs(30).seen
    strange = view._replace(summary=np.concatenate([view.summary, np.full((1, 2), 1e6, np.float32)]),
                            sequence=np.concatenate([view.sequence, np.full((1, 1, 2), 1e6, np.float32)]))
    np.testing.assert_allclose(fuse.scaled(strange, np.arange(30)).summary[:30], fuse.scaled(view, np.arange(30)).summary, rtol=1e-4)


def test_without_the_table_readings_are_made_by_its_rules(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMGUIDE_DATASETS_DIR", str(tmp_path))
    readings, source = pairs.maintenance_readings(made=2000)
    assert source == "made by the published rules" and len(readings) == 2000
    assert 0.005 < np.mean([row["Machine.failure"] for row in readings]) < 0.3


def test_a_note_is_the_same_whatever_became_of_the_part():
    readings = pairs.made_readings(30)
    turned = [row | {"Machine.failure": 1 - row["Machine.failure"]} for row in readings]
    first, second = pairs.maintenance_pairs(readings), pairs.maintenance_pairs(turned)
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.said.summary, second.said.summary)
    np.testing.assert_array_equal(first.seen.summary, second.seen.summary)
    assert (first.target != second.target).all()


@pytest.mark.parametrize("times", [(-1, 0), (2, 1), (0, 1, 0), (float("nan"), 1)])
def test_times_that_make_no_sense_are_refused(times):
    with pytest.raises(ValueError, match="start <= end"): fuse.frames_of(*times)
