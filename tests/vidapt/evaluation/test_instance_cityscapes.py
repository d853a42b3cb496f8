"""The average precision of Cityscapes on cases that are worked out by hand."""

import numpy as np
import pytest

from vidapt.errors import UserError
from vidapt.evaluation.instance import CityscapesAveragePrecision, InstanceOverlaps
from vidapt.evaluation.instance_cityscapes import OVERLAPS, cityscapes_outcomes, step_precision
from vidapt.evaluation.instance_matches import HIT, IGNORED, WRONG, rank_by_score
from vidapt.labels import LabelClass, LabelSpace

SPACE = LabelSpace("toy", (LabelClass("car", True, (0, 0, 0)), LabelClass("bus", True, (0, 0, 1))))


def record(shared, area, target_area, *, score=None, crowd=None, category=None, void=None):
    shared = np.array(shared)
    predictions, targets = shared.shape
    return InstanceOverlaps(
        np.zeros(predictions, int) if category is None else np.array(category),
        np.linspace(1, 0.5, predictions) if score is None else np.array(score),
        np.array(area),
        np.zeros(predictions, int) if void is None else np.array(void),
        np.arange(1, targets + 1),
        np.zeros(targets, int),
        np.array(target_area),
        np.zeros(targets, bool) if crowd is None else np.array(crowd),
        shared,
    )


def outcomes(overlaps, threshold=0.5, min_area=100):
    found = cityscapes_outcomes(overlaps, rank_by_score(overlaps.category, overlaps.score), min_area)
    assert found.shape == (10, overlaps.score.size)
    return found[np.argmin(abs(OVERLAPS - threshold))].tolist()


def test_the_best_score_on_a_target_is_the_hit_whatever_its_overlap():
    overlaps = record([[100], [60], [80]], [100, 60, 80], [100], score=[0.3, 0.9, 0.5])
    assert outcomes(overlaps) == [WRONG, HIT, WRONG]
    assert outcomes(overlaps, 0.7) == [WRONG, WRONG, HIT]
    assert outcomes(overlaps, 0.95) == [HIT, WRONG, WRONG]


def test_one_of_two_equal_scores_is_the_hit():
    overlaps = record([[100], [100]], [100, 100], [100], score=[0.5, 0.5])
    assert sorted(outcomes(overlaps)) == [HIT, WRONG]


def test_threshold_excludes_equality():
    overlaps = record([[100]], [100], [200])
    assert outcomes(overlaps, 0.5) == [WRONG]
    assert outcomes(record([[101]], [101], [200]), 0.5) == [HIT]


def test_other_class_does_not_match():
    assert outcomes(record([[100]], [100], [100], category=[1])) == [WRONG]


@pytest.mark.parametrize(("void", "expected"), [(60, WRONG), (61, IGNORED), (100, IGNORED), (0, WRONG)])
def test_void_excuses_above_the_threshold_only(void, expected):
    """The threshold 0.6 is 0.6000000000000001 in the official script, so the share of 0.6 is below it."""
    assert outcomes(record([[0]], [100], [500], void=[void]), 0.6) == [expected]


def test_void_at_exactly_one_half_does_not_excuse():
    assert outcomes(record([[0]], [100], [500], void=[50])) == [WRONG]


@pytest.mark.parametrize(
    ("shared", "target_area", "crowd", "expected"),
    [
        (51, 5000, True, IGNORED),
        (50, 5000, True, WRONG),
        (51, 99, False, IGNORED),
        (26, 99, True, IGNORED),
        (25, 99, True, WRONG),
        (26, 100, True, WRONG),
        (51, 5000, False, WRONG),
    ],
)
def test_groups_and_small_targets_excuse(shared, target_area, crowd, expected):
    """Pixels on a group region that is small count twice."""
    assert outcomes(record([[shared]], [100], [target_area], crowd=[crowd])) == [expected]


@pytest.mark.parametrize("crowd", [True, False])
def test_match_with_a_group_or_a_small_target_is_ignored(crowd):
    overlaps = record([[90], [90]], [99, 99], [99 if not crowd else 100], crowd=[crowd])
    assert outcomes(overlaps) == [IGNORED, IGNORED]


def test_pixels_on_other_classes_do_not_excuse():
    assert outcomes(record([[100]], [100], [5000], crowd=[True], category=[1])) == [WRONG]


def test_least_area():
    overlaps = record([[100]], [100], [100])
    assert outcomes(overlaps) == [HIT]
    assert outcomes(overlaps, min_area=101) == [IGNORED]


@pytest.mark.parametrize(
    ("score", "is_hit", "targets", "expected"),
    [
        ([0.9], [True], 1, 1.0),
        ([0.9], [True], 2, 0.5),
        ([0.9, 0.8], [False, True], 1, 0.25),
        ([0.9, 0.8], [True, False], 1, 1.0),
        ([0.9, 0.9], [True, False], 1, 0.75),
        ([0.9, 0.8, 0.7], [True, False, True], 2, (2 / 3 + 1 / 2 + 1 + 1) / 4),
        ([0.9], [False], 1, 0.0),
        ([], [], 4, 0.0),
    ],
)
def test_step_precision(score, is_hit, targets, expected):
    value = step_precision(np.array(score), np.array(is_hit, bool), targets)
    assert value == pytest.approx(expected, abs=1e-12)
    backwards = step_precision(np.array(score[::-1]), np.array(is_hit[::-1], bool), targets)
    assert backwards == value


def test_thresholds_keep_their_rounding():
    assert OVERLAPS.tolist() == [0.5 + (0.55 - 0.5) * step for step in range(10)]
    assert OVERLAPS[2] != 0.6


def test_score_by_overlap():
    metric = CityscapesAveragePrecision(SPACE)
    metric.update(0, record([[78]], [78], [100]))
    quality = metric.result().per_class["car"]
    assert quality.by_overlap == (1.0,) * 6 + (0.0,) * 4
    assert (quality.ap, quality.ap50) == (pytest.approx(0.6), 1.0)
    assert metric.result().all == quality


def test_empty_predictions_do_not_exist():
    metric = CityscapesAveragePrecision(SPACE)
    metric.update(0, record([[0], [100]], [0, 100], [100]))
    assert metric.result().ap == 1.0


def test_class_whose_predictions_are_all_ignored_is_zero():
    metric = CityscapesAveragePrecision(SPACE)
    metric.update(0, record([[0]], [100], [500], void=[100]))
    assert metric.result().ap == 0.0
    assert metric.result().classes == ("car",)


def test_class_with_small_and_group_targets_only_is_undefined():
    metric = CityscapesAveragePrecision(SPACE)
    metric.update(0, record([[99, 0]], [99], [99, 5000], crowd=[False, True]))
    assert np.isnan(metric.result().ap)
    assert np.isnan(metric.result().per_class["car"].by_overlap).all()
    small = CityscapesAveragePrecision(SPACE, min_area=99)
    small.update(0, record([[99, 0]], [99], [99, 5000], crowd=[False, True]))
    assert small.result().ap == 1.0


@pytest.mark.parametrize("min_area", [0, -5])
def test_least_area_must_be_positive(min_area):
    with pytest.raises(UserError, match=f"min_area must be at least 1 pixel, got {min_area}; the benchmark uses 100"):
        CityscapesAveragePrecision(SPACE, min_area=min_area)
