"""COCO's average precision on cases that are worked out by hand."""

import numpy as np
import pytest

from vidapt.evaluation.instance import CocoAveragePrecision, InstanceOverlaps
from vidapt.evaluation.instance_coco import AREA_RANGES, IOU_THRESHOLDS, coco_outcomes, interpolated_precision
from vidapt.evaluation.instance_matches import HIT, IGNORED, WRONG, rank_by_score
from vidapt.labels import LabelClass, LabelSpace

SPACE = LabelSpace("toy", (LabelClass("car", True, (0, 0, 0)), LabelClass("bus", True, (0, 0, 1))))


def record(shared, area, target_area, *, score=None, crowd=None, category=None, target_category=None):
    shared = np.array(shared)
    predictions, targets = shared.shape
    score = np.linspace(1, 0.5, predictions) if score is None else np.array(score)
    return InstanceOverlaps(
        np.zeros(predictions, int) if category is None else np.array(category),
        score,
        np.array(area),
        np.zeros(predictions, int),
        np.arange(1, targets + 1),
        np.zeros(targets, int) if target_category is None else np.array(target_category),
        np.array(target_area),
        np.zeros(targets, bool) if crowd is None else np.array(crowd),
        shared,
    )


def outcomes(overlaps, size="all", threshold=0.5):
    found = coco_outcomes(overlaps, rank_by_score(overlaps.category, overlaps.score))
    assert found.shape == (4, 10, overlaps.score.size)
    return found[list(AREA_RANGES).index(size), np.argmin(abs(IOU_THRESHOLDS - threshold))].tolist()


def test_the_better_score_comes_first_and_takes_the_target():
    overlaps = record([[60], [100]], [60, 100], [100], score=[0.9, 0.8])
    assert outcomes(overlaps) == [HIT, WRONG]
    assert outcomes(overlaps, threshold=0.6) == [HIT, WRONG]
    assert outcomes(overlaps, threshold=0.65) == [WRONG, HIT]


def test_equal_scores_in_the_given_order():
    assert outcomes(record([[60], [100]], [60, 100], [100], score=[0.5, 0.5])) == [HIT, WRONG]


def test_threshold_includes_equality():
    overlaps = record([[75]], [75], [100])
    assert outcomes(overlaps, threshold=0.75) == [HIT]
    assert outcomes(overlaps, threshold=0.8) == [WRONG]


def test_highest_overlap_wins_and_a_taken_target_leaves_the_next():
    overlaps = record([[80, 90], [85, 95]], [100, 100], [100, 100])
    assert outcomes(overlaps, threshold=0.65) == [HIT, HIT]
    assert outcomes(overlaps, threshold=0.75) == [HIT, WRONG]


def test_later_target_is_taken_at_equal_overlap():
    """The second prediction fits the first target only."""
    assert outcomes(record([[50, 50], [50, 0]], [100, 50], [50, 50])) == [HIT, HIT]
    assert outcomes(record([[50, 50], [0, 50]], [100, 50], [50, 50])) == [HIT, WRONG]


def test_other_class_does_not_match():
    assert outcomes(record([[100]], [100], [100], category=[1])) == [WRONG]


def test_crowd_is_taken_by_many_and_only_when_nothing_else_is_left():
    overlaps = record([[80, 100], [0, 100], [0, 100]], [100, 100, 100], [100, 500], crowd=[False, True])
    assert outcomes(overlaps) == [HIT, IGNORED, IGNORED]


def test_target_outside_the_range_is_taken_once():
    overlaps = record([[900], [900]], [900, 1200], [1100], score=[0.9, 0.8])
    assert outcomes(overlaps, "all") == [HIT, WRONG]
    # The second is unmatched: ignored among the small ones, where it is too large, and wrong among the medium ones.
    assert outcomes(overlaps, "small") == [IGNORED, IGNORED]
    assert outcomes(overlaps, "medium") == [HIT, WRONG]
    assert outcomes(overlaps, "large") == [IGNORED, IGNORED]


@pytest.mark.parametrize(
    ("area", "ranges"),
    [
        (1023, {"all", "small"}),
        (1024, {"all", "small", "medium"}),
        (1025, {"all", "medium"}),
        (9216, {"all", "medium", "large"}),
        (9217, {"all", "large"}),
    ],
)
def test_borders_belong_to_both_ranges(area, ranges):
    overlaps = record([[area]], [area], [area])
    assert {size for size in AREA_RANGES if outcomes(overlaps, size) == [HIT]} == ranges
    metric = CocoAveragePrecision(SPACE)
    metric.update(0, overlaps)
    averaged = metric.result().averaged
    assert {size for size, classes in averaged.items() if classes == ("car",)} == ranges
    assert {size for size, classes in averaged.items() if not classes} == set(AREA_RANGES) - ranges


@pytest.mark.parametrize(
    ("row", "targets", "expected"),
    [
        ([HIT], 1, 1.0),
        ([HIT], 2, 51 / 101),
        ([WRONG, HIT], 1, 0.5),
        ([HIT, WRONG, HIT], 2, (51 + 50 * 2 / 3) / 101),
        ([IGNORED, HIT, IGNORED], 1, 1.0),
        ([WRONG], 3, 0.0),
        ([], 3, 0.0),
        ([HIT], 0, np.nan),
    ],
)
def test_interpolated_precision(row, targets, expected):
    outcome = np.array([row, row], np.int8).reshape(2, len(row))
    assert interpolated_precision(outcome, targets).tolist() == pytest.approx([expected] * 2, abs=1e-12, nan_ok=True)


def test_precision_never_falls_with_lower_recall():
    """Two mistakes come first; the precision of the last hit counts for all recalls below."""
    row = np.array([[WRONG, WRONG, HIT, HIT, HIT, HIT]], np.int8)
    assert interpolated_precision(row, 4).tolist() == pytest.approx([4 / 6], abs=1e-12)


def test_recall_by_number_of_predictions():
    """Twelve targets of one class, found by the predictions 1 to 12."""
    metric = CocoAveragePrecision(SPACE)
    metric.update(0, record(100 * np.eye(12, dtype=int), [100] * 12, [100] * 12))
    scores = metric.result().all
    assert (scores.ar_1, scores.ar_10, scores.ar_100) == pytest.approx((1 / 12, 10 / 12, 1))
    assert scores.ar_small == scores.ar_100
    assert np.isnan([scores.ar_medium, scores.ar_large, scores.ap_medium, scores.ap_large]).all()


def test_at_most_a_hundred_predictions_of_a_class_count():
    shared = np.zeros((102, 1), int)
    shared[[100, 101], 0] = 100
    category = np.zeros(102, int)
    metric = CocoAveragePrecision(SPACE)
    metric.update(0, record(shared, [100] * 102, [100], category=category))
    assert metric.result().ap == 0
    category[0] = 1
    metric = CocoAveragePrecision(SPACE)
    metric.update(0, record(shared, [100] * 102, [100], category=category))
    assert metric.result().ap == pytest.approx(1 / 100)


def test_empty_prediction_is_a_mistake():
    metric = CocoAveragePrecision(SPACE)
    metric.update(0, record([[0], [100]], [0, 100], [100]))
    assert metric.result().ap == pytest.approx(0.5)
