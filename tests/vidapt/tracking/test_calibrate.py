"""The appearance threshold: midpoint, off when embeddings separate badly or pairs are few."""

import numpy as np
import pytest

from vidapt.tracking.calibrate import CosinePairs, calibrate_threshold


def test_midpoint_of_separated_cosines():
    rng = np.random.default_rng(0)
    same, other = rng.normal(0.72, 0.1, 500), rng.normal(0.2, 0.1, 5000)
    assert calibrate_threshold(same, other) == pytest.approx((same.mean() + other.mean()) / 2)


@pytest.mark.parametrize(("gap", "found"), [(0.9, False), (1.1, True), (-2.0, False)])
def test_off_below_one_pooled_deviation(gap, found):
    spread = np.tile([-0.1, 0.1], 50)
    assert (calibrate_threshold(0.1 * gap + spread, spread) is not None) == found


def test_off_with_few_or_equal_pairs():
    assert calibrate_threshold(np.full(19, 0.9), np.zeros(100)) is None
    assert calibrate_threshold(np.full(20, 0.9), np.zeros(100)) == pytest.approx(0.45)
    assert calibrate_threshold(np.zeros(0), np.zeros(0)) is None
    assert calibrate_threshold(np.full(50, 0.3), np.full(50, 0.3)) is None


def test_pairs_from_consecutive_frames():
    pairs = CosinePairs()
    pairs.add(np.array([[1.0, 0], [0, 2], [5, 5]]), np.array([1, 2, 0]))
    pairs.add(np.array([[0.0, 3], [1, 0]]), np.array([2, 3]))
    assert (pairs.same.count, pairs.other.count) == (1, 3)
    assert pairs.same.mean == pytest.approx(1)
    assert pairs.other.mean == pytest.approx(1 / 3)
    pairs.start_clip()
    pairs.add(np.array([[0.0, 3]]), np.array([2]))
    assert pairs.same.count == 1
    pairs.add(np.zeros((0, 2)), np.zeros(0, int))
    pairs.add(np.array([[0.0, 3]]), np.array([2]))
    assert pairs.same.count == 1


def test_pairs_check_their_lengths():
    with pytest.raises(ValueError, match=r"ids \(K,\)"):
        CosinePairs().add(np.zeros((2, 4)), np.array([1]))


@pytest.mark.parametrize("informative", [True, False])
def test_threshold_on_the_simulated_street(street, informative):
    world, pairs = street(7, informative=informative), CosinePairs()
    for _ in range(60):
        seen = world.frame()
        pairs.add(seen.detections.embeddings, seen.truth)
    assert (pairs.threshold() is not None) == informative
