import numpy as np
import pytest

from vidapt.evaluation.histogram import joint_histogram, unscored_codes
from vidapt.evaluation.panoptic import (
    PanopticCounts,
    SegmentMatches,
    count_matches,
    count_outcomes,
    count_stuff_overlaps,
    dagger_counts,
    match_segments,
    matchable_pairs,
    panoptic_scores,
)
from vidapt.evaluation.semantic import ScoredClasses
from vidapt.labels import LabelClass, LabelSpace

SPACE = LabelSpace(
    "toy", (LabelClass("sky", False, (0, 0, 1)), LabelClass("car", True, (0, 0, 2)), LabelClass("bus", True, (0, 0, 3)))
)
VOID, SKY, CROWD = 0, 1, 2


def car(track):
    return track * 256 + 2


def bus(track):
    return track * 256 + 3


def count(target, predicted):
    """Count a row of (code, pixels) pairs against another."""
    maps = [np.concatenate([np.full(pixels, code) for code, pixels in row]) for row in (target, predicted)]
    return count_matches(joint_histogram(*maps), SPACE.is_thing, len(SPACE))


def as_lists(counts):
    return counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()


def test_half_overlap_is_no_match():
    """IoU must exceed 0.5."""
    counts = count([(car(1), 4), (SKY, 4)], [(car(300), 2), (SKY, 6)])
    assert as_lists(counts) == ([1, 0, 0], [0, 1, 0], [0, 1, 0])
    assert counts.iou.tolist() == pytest.approx([4 / 6, 0, 0])


def test_other_class_does_not_match():
    assert as_lists(count([(car(1), 4)], [(bus(300), 4)])) == ([0, 0, 0], [0, 0, 1], [0, 1, 0])


def test_same_track_id_of_two_classes_is_two_segments():
    counts = count([(car(1), 4), (bus(1), 4)], [(car(300), 4), (bus(301), 4)])
    assert as_lists(counts) == ([0, 1, 1], [0, 0, 0], [0, 0, 0])


def test_void_leaves_the_union():
    """Four of ten pixels hit, the other six on void: IoU 4 / (10 + 4 - 4 - 6)."""
    counts = count([(car(1), 4), (VOID, 6)], [(car(300), 10)])
    assert counts.iou[1] == 1.0


@pytest.mark.parametrize(("on_void", "false_positives"), [(5, 1), (6, 0)])
def test_prediction_mostly_on_void_is_excused(on_void, false_positives):
    counts = count([(VOID, on_void), (SKY, 10 - on_void)], [(car(300), 10)])
    assert counts.fp[1] == false_positives


@pytest.mark.parametrize(("code", "false_positives"), [(car(300), 0), (bus(300), 1)])
def test_crowd_excuses_its_own_class_only(code, false_positives):
    counts = count([(CROWD, 6), (SKY, 4)], [(code, 10)])
    assert counts.fp.sum() == false_positives
    assert counts.fn.tolist() == [1, 0, 0], "the crowd is not missed"


def test_crowd_and_void_add_up():
    assert count([(CROWD, 3), (VOID, 3), (SKY, 4)], [(car(300), 10)]).fp[1] == 0


def test_crowd_never_matches():
    assert as_lists(count([(CROWD, 6)], [(car(300), 6)])) == ([0, 0, 0], [0, 0, 0], [0, 0, 0])


def test_predicted_void_is_uncovered():
    """Void in the prediction is not discounted: IoU 4 / 10."""
    assert as_lists(count([(car(1), 10)], [(car(300), 4), (VOID, 6)])) == ([0, 0, 0], [0, 1, 0], [0, 1, 0])


def test_segments_without_a_class_only_take_space():
    """They excuse nothing, leave the union as it is, and are not missed."""
    removed = int(unscored_codes(np.array([bus(1)]))[0])
    counts = count([(removed, 6), (SKY, 4)], [(car(300), 6), (SKY, 4)])
    assert as_lists(counts) == ([1, 0, 0], [0, 1, 0], [0, 0, 0])
    assert count([(removed, 6), (SKY, 4)], [(SKY, 10)]).fp[0] == 1


def test_empty_prediction_and_empty_target():
    assert as_lists(count([(car(1), 3), (SKY, 3)], [(VOID, 6)])) == ([0, 0, 0], [0, 0, 0], [1, 1, 0])
    assert as_lists(count([(VOID, 6)], [(car(300), 3), (SKY, 3)])) == ([0, 0, 0], [0, 0, 0], [0, 0, 0])


def test_scores_by_hand():
    counts = PanopticCounts(np.array([1.6, 0.0, 0.0]), np.array([2, 0, 0]), np.array([1, 0, 0]), np.array([1, 2, 0]))
    scores = panoptic_scores(counts, ScoredClasses.of(SPACE))
    sky, missed, absent = scores.per_class.values()
    assert (sky.pq, sky.sq, sky.rq) == pytest.approx((1.6 / 3, 0.8, 2 / 3))
    assert (missed.pq, missed.sq, missed.rq, missed.fn) == (0, 0, 0, 2)
    assert np.isnan([absent.pq, absent.sq, absent.rq]).all()
    assert scores.all.pq == pytest.approx(1.6 / 6)
    assert scores.all.classes == ("sky", "car")
    assert (scores.things.pq, scores.things.classes) == (0, ("car",))
    assert scores.stuff.pq == pytest.approx(1.6 / 3)


def test_only_scored_classes_are_averaged():
    counts = PanopticCounts(np.array([1.0, 0.0, 0.6]), np.array([1, 0, 1]), np.zeros(3, int), np.array([0, 1, 0]))
    scores = panoptic_scores(counts, ScoredClasses.of(SPACE, ["sky", "bus"]))
    assert scores.all.pq == pytest.approx(0.8)
    assert scores.all.classes == ("sky", "bus")
    assert scores.things.classes == ("bus",)
    assert scores.per_class["car"].fn == 1


def test_no_class_at_all():
    scores = panoptic_scores(PanopticCounts.zeros(3), ScoredClasses.of(SPACE))
    assert np.isnan(scores.all.pq)
    assert scores.all.classes == ()


def overlaps_of(target, predicted):
    maps = [np.concatenate([np.full(pixels, code) for code, pixels in row]) for row in (target, predicted)]
    return count_stuff_overlaps(joint_histogram(*maps), SPACE.is_thing, len(SPACE))


def test_stuff_overlaps_count_below_one_half():
    overlaps = overlaps_of([(SKY, 4), (car(1), 4)], [(SKY, 1), (car(300), 7)])
    assert overlaps.iou.tolist() == [0.25, 0, 0]
    assert as_lists(overlaps) == ([1, 0, 0], [0, 0, 0], [0, 0, 0])


def test_stuff_overlaps_leave_out_void_and_crowd():
    """Two sky pixels on void leave the union; the crowd of cars is no stuff and matches nothing."""
    overlaps = overlaps_of([(SKY, 4), (VOID, 2), (CROWD, 3)], [(SKY, 7), (CROWD, 2)])
    assert overlaps.iou.tolist() == [4 / 5, 0, 0]
    assert overlaps.tp.tolist() == [1, 0, 0]


def test_missed_stuff_is_a_segment_and_invented_stuff_is_none():
    assert overlaps_of([(SKY, 4)], [(car(300), 4)]).tp.tolist() == [1, 0, 0]
    assert overlaps_of([(car(1), 4)], [(SKY, 4)]).tp.tolist() == [0, 0, 0]


def test_unscored_targets_are_no_stuff():
    removed = int(unscored_codes(np.array([SKY]))[0])
    overlaps = overlaps_of([(removed, 4), (SKY, 2)], [(SKY, 6)])
    assert overlaps.tp.tolist() == [1, 0, 0]
    assert overlaps.iou[0] == pytest.approx(2 / 6)


def test_dagger_by_hand():
    """Over two frames: sky has IoU 0.25 and 1 over two segments; cars count as in PQ."""
    frames = [
        ([(SKY, 4), (car(1), 4)], [(SKY, 1), (car(300), 4), (car(301), 3)]),
        ([(SKY, 4), (car(1), 4)], [(SKY, 4), (car(300), 3), (car(301), 1)]),
    ]
    counts, overlaps = PanopticCounts.zeros(3), PanopticCounts.zeros(3)
    for frame in frames:
        counts += count(*frame)
        overlaps += overlaps_of(*frame)
    dagger = dagger_counts(counts, overlaps, SPACE.is_thing)
    assert (counts.fp.tolist(), counts.fn.tolist()) == ([1, 2, 0], [1, 0, 0])
    assert as_lists(dagger) == ([2, 2, 0], [0, 2, 0], [0, 0, 0])
    scores = panoptic_scores(dagger, ScoredClasses.of(SPACE))
    assert scores.stuff.pq == pytest.approx(1.25 / 2)
    assert scores.things.pq == pytest.approx(1.5 / 3)
    assert scores.all.pq == pytest.approx((1.25 / 2 + 1.5 / 3) / 2)


def test_dagger_leaves_out_stuff_that_no_target_has():
    frame = ([(car(1), 4)], [(SKY, 1), (car(300), 3)])
    dagger = dagger_counts(count(*frame), overlaps_of(*frame), SPACE.is_thing)
    assert count(*frame).fp.tolist() == [1, 0, 0]
    assert panoptic_scores(dagger, ScoredClasses.of(SPACE)).all.classes == ("car",)


def test_dagger_of_things_alone_is_pq():
    frame = ([(car(1), 4), (bus(2), 3)], [(car(300), 3), (bus(301), 4)])
    dagger = dagger_counts(count(*frame), overlaps_of(*frame), SPACE.is_thing)
    np.testing.assert_array_equal(dagger.iou, count(*frame).iou)
    assert as_lists(dagger) == as_lists(count(*frame))


def test_matchable_pairs():
    """Void, crowds, unscored segments and other classes match nothing."""
    removed = int(unscored_codes(np.array([SKY]))[0])
    target = np.array([VOID, SKY, CROWD, car(1), car(1), removed])
    predicted = np.array([SKY, SKY, car(300), car(300), bus(301), SKY])
    histogram = joint_histogram(target, predicted)
    pairs = np.flatnonzero(matchable_pairs(histogram, SPACE.is_thing))
    found = {(int(histogram.target[histogram.rows[i]]), int(histogram.predicted[histogram.columns[i]])) for i in pairs}
    assert found == {(SKY, SKY), (car(1), car(300))}


def test_outcomes_of_other_matches():
    """A match that another rule rejects leaves a missed target and a false positive behind."""
    histogram = joint_histogram(np.full(4, car(1)), np.full(4, car(300)))
    none = SegmentMatches(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0))
    assert as_lists(count_outcomes(histogram, none, SPACE.is_thing, 3)) == ([0, 0, 0], [0, 1, 0], [0, 1, 0])
    matches = match_segments(histogram, matchable_pairs(histogram, SPACE.is_thing))
    assert as_lists(count_outcomes(histogram, matches, SPACE.is_thing, 3)) == ([0, 1, 0], [0, 0, 0], [0, 0, 0])
