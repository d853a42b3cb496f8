"""PQ, PQ-dagger and mIoU against the expected values in the tests of deeplab2, torchmetrics, scalabel and bdd100k.

Ours are the rules of panopticapi. Others differ where a target has crowds or a prediction has void (torchmetrics), in
unions with void (bdd100k and scalabel) and for instances of the ignored class (deeplab2); the cases here are those in
which the difference does not show or can be written down in segment codes.
"""

import numpy as np
import pytest

from vidapt.evaluation.histogram import joint_histogram
from vidapt.evaluation.panoptic import (
    PanopticCounts,
    count_matches,
    count_stuff_overlaps,
    dagger_counts,
    panoptic_scores,
)
from vidapt.evaluation.semantic import ScoredClasses, SemanticConfusion, confusion_matrix, iou_per_class
from vidapt.labels import LabelClass, LabelSpace


def space_of(things):
    """A label space with one class per entry, True for things."""
    return LabelSpace("oracle", tuple(LabelClass(str(i), thing, (0, 0, i)) for i, thing in enumerate(things)))


def scores_of(target, predicted, space):
    counts = count_matches(joint_histogram(target, predicted), space.is_thing, len(space))
    return panoptic_scores(counts, ScoredClasses.of(space))


def test_deeplab2_ignored_label_between_instances():
    """A target segment of the ignored class with an instance is neither void nor scored."""
    space = space_of([True, True, True])

    def codes(category, instance):
        category, instance = np.array(category), np.array(instance)
        scored = (instance + 1) * 256 + category + 1
        return np.where(category != 9, scored, np.where(instance == 0, 0, instance * 256))

    target = codes([[0, 9, 9], [1, 2, 2], [1, 9, 9]], [[0, 2, 2], [1, 0, 0], [1, 0, 0]])
    predicted = codes([[0, 0, 9], [1, 1, 1], [1, 9, 9]], [[0, 0, 0], [0, 1, 1], [0, 1, 1]])
    scores = scores_of(target, predicted, space)
    assert scores.all.pq == pytest.approx(2 / 9, abs=1e-9)
    assert scores.all.sq == pytest.approx(1 / 3, abs=1e-9)
    assert scores.all.rq == pytest.approx(2 / 9, abs=1e-9)
    counts = list(scores.per_class.values())
    assert [c.tp for c in counts] == [0, 1, 0]
    assert [c.fn for c in counts] == [1, 0, 1]
    assert [c.fp for c in counts] == [1, 1, 0]


def codes_of(pairs, order, things):
    """Segment codes of pairs category, instance (..., 2); categories outside of ``order`` are void."""
    category, instance = np.moveaxis(np.asarray(pairs), -1, 0)
    train_id = np.full(256, -1)
    train_id[list(order)] = np.arange(len(order))
    thing = np.isin(category, things)
    return np.where(np.isin(category, order), np.where(thing, (instance + 1) * 256, 0) + train_id[category] + 1, 0)


def pairs_of(rows):
    """Pairs of digits: "60 01/70 10" is 2x2 with categories 6, 0, 7, 1."""
    return np.array([[[int(digit) for digit in cell] for cell in row.split()] for row in rows.split("/")])


def torchmetrics_scores(predicted, target, order, things, dagger=False):
    space = space_of([category in things for category in order])
    histogram = joint_histogram(codes_of(target, order, things), codes_of(predicted, order, things))
    counts = count_matches(histogram, space.is_thing, len(space))
    if dagger:
        counts = dagger_counts(counts, count_stuff_overlaps(histogram, space.is_thing, len(space)), space.is_thing)
    return panoptic_scores(counts, ScoredClasses.of(space))


FIVE_BY_FIVE = (
    pairs_of("60 00 60 60 01/00 00 60 01 01/00 00 60 01 10/00 70 60 10 10/00 70 70 70 70"),
    pairs_of("60 60 60 60 00/01 01 60 00 00/01 01 60 10 10/01 70 70 10 10/01 70 70 70 70"),
)
FIVE_BY_FOUR = (
    pairs_of("60 00 60 60/00 00 60 01/00 00 60 01/00 70 60 10/00 70 70 70"),
    pairs_of("60 01 60 01/01 01 60 01/01 01 60 10/01 70 10 10/01 70 70 70"),
)
POINTS = (
    [(10, 0), (10, 123), (0, 1), (10, 0), (1, 2)],
    [(10, 0), (10, 0), (0, 0), (0, 1), (1, 0)],
)
DAGGER_POINTS = (
    [(0, 0), (0, 1), (6, 0), (7, 0), (0, 2), (1, 0)],
    [(0, 1), (0, 0), (6, 0), (7, 0), (6, 0), (255, 0)],
)


def test_torchmetrics_images():
    scores = torchmetrics_scores(*FIVE_BY_FIVE, (0, 1, 6, 7), (0, 1))
    assert scores.all.pq == pytest.approx(0.7753, abs=5e-5)


def test_torchmetrics_docstring():
    scores = torchmetrics_scores(*FIVE_BY_FOUR, (0, 1, 6, 7), (0, 1))
    assert scores.all.pq == pytest.approx(0.5463, abs=5e-5)
    assert scores.all.sq == pytest.approx(0.6111, abs=5e-5)
    assert scores.all.rq == pytest.approx(0.6667, abs=5e-5)
    per_class = np.array([(c.pq, c.sq, c.rq) for c in scores.per_class.values()])
    expected = [(0.5185, 0.7778, 0.6667), (0, 0, 0), (0.6667, 0.6667, 1), (1, 1, 1)]
    np.testing.assert_allclose(per_class, expected, atol=5e-5)


def test_torchmetrics_points():
    """Points instead of images; the instance of stuff (10, 123) does not count, and class 11 never occurs."""
    scores = torchmetrics_scores(*POINTS, (0, 1, 10, 11), (0, 1))
    assert scores.all.pq == pytest.approx((2 / 3 + 1 + 2 / 3) / 3, abs=1e-9)
    assert len(scores.all.classes) == 3


@pytest.mark.parametrize("order", [(0, 2, 1), (0, 3, 2), (0, 10, 2)])
@pytest.mark.parametrize("things", [True, False])
def test_torchmetrics_class_order(order, things):
    """Two points each of three classes, one predicted as the class before it: PQ by class is 1, 2/3 and 0."""
    a, b, c = ((category, 0) for category in order)
    scores = torchmetrics_scores([a, a, b, b, b, c], [a, a, b, b, c, c], order, order if things else ())
    assert [quality.pq for quality in scores.per_class.values()] == pytest.approx([1, 2 / 3, 0], abs=1e-9)


def test_torchmetrics_nothing_known():
    """With other classes everything is void, and the mean over no class is undefined."""
    assert np.isnan(torchmetrics_scores(*FIVE_BY_FIVE, (2, 3), (2,)).all.pq)


@pytest.mark.parametrize("dagger", [True, False])
@pytest.mark.parametrize("case", [FIVE_BY_FIVE, FIVE_BY_FOUR, DAGGER_POINTS])
def test_torchmetrics_ignored_regions_change_nothing(case, dagger):
    """The same prediction once more beside it, on void target pixels."""
    predicted, target = (np.asarray(pairs) for pairs in case)
    unknown = np.zeros_like(target)
    unknown[..., 0] = 255
    widened = np.concatenate([predicted, predicted]), np.concatenate([target, unknown])
    arguments = ((0, 1, 6, 7), (0, 1), dagger)
    plain, wide = torchmetrics_scores(predicted, target, *arguments), torchmetrics_scores(*widened, *arguments)
    assert wide.all == plain.all
    assert [(c.tp, c.fp, c.fn) for c in wide.per_class.values()] == [
        (c.tp, c.fp, c.fn) for c in plain.per_class.values()
    ]


@pytest.mark.parametrize(("case", "expected"), [(FIVE_BY_FIVE, 0.7753), (DAGGER_POINTS, 23 / 30)])
def test_torchmetrics_modified(case, expected):
    """PQ-dagger; in the second case the IoU of stuff 6 is exactly 0.5, which PQ does not count."""
    scores = torchmetrics_scores(*case, (0, 1, 6, 7), (0, 1), dagger=True)
    assert scores.all.pq == pytest.approx(expected, abs=5e-5)
    if expected == 23 / 30:
        assert scores.all.pq == pytest.approx(expected, abs=1e-9)
        assert torchmetrics_scores(*case, (0, 1, 6, 7), (0, 1)).all.pq == pytest.approx((0.8 + 1) / 3, abs=1e-9)


@pytest.mark.parametrize("dagger", [True, False])
def test_torchmetrics_extremes(dagger):
    _, target = FIVE_BY_FIVE
    arguments = ((0, 1, 6, 7), (0, 1), dagger)
    assert torchmetrics_scores(target, target, *arguments).all.pq == 1
    assert torchmetrics_scores(target, target + 1, *arguments).all.pq == 0


@pytest.mark.parametrize("things", [True, False])
def test_scalabel_averages(things):
    """One match of IoU 0.9 and one false positive, counted in two parts that are added."""
    one, none = np.ones(1, np.int64), np.zeros(1, np.int64)
    counts = PanopticCounts(np.array([0.9]), one, none, none) + PanopticCounts(np.zeros(1), none, one, none)
    mean = panoptic_scores(counts, ScoredClasses.of(space_of([things]))).all
    assert 100 * np.array([mean.pq, mean.sq, mean.rq]) == pytest.approx([60, 90, 66.6666666666])


def test_bdd100k_histogram():
    target, predicted = np.zeros((10, 10), np.uint8), np.ones((10, 10), np.uint8)
    target[4:, 4:] = 1
    predicted[:7, :7] = 0
    assert confusion_matrix(target, predicted, 2)[:, :2].tolist() == [[40, 24], [9, 27]]
    predicted[predicted == 1] = 255
    assert confusion_matrix(target, predicted, 2).tolist() == [[40, 0, 24], [9, 0, 27]]


def picture_of(confusion):
    """A target and a prediction with given numbers of pixels; the last column is "no class"."""
    cells = np.array([(row, column) for row in range(2) for column in (0, 1, 255)]).repeat(np.ravel(confusion), 0)
    return cells[:, 0].astype(np.uint8), cells[:, 1].astype(np.uint8)


def test_bdd100k_mean_iou():
    quality = SemanticConfusion(2)
    quality.update(*picture_of([[93, 1, 0], [4, 2, 0]]))
    assert 100 * quality.iou().mean() == pytest.approx(61.73469387755102, abs=1e-9)
    assert 100 * np.trace(quality.confusion) / quality.confusion.sum() == 95.0


def test_bdd100k_mean_iou_with_a_missing_prediction():
    """A picture without prediction is one that predicts no class anywhere."""
    quality = SemanticConfusion(2)
    quality.update(*picture_of([[93, 1, 0], [4, 2, 0]]))
    quality.update(*picture_of([[0, 0, 94], [0, 0, 6]]))
    assert quality.confusion.tolist() == [[93, 1, 94], [4, 2, 6]]
    assert 100 * iou_per_class(quality.confusion).mean() == pytest.approx(31.911057692307693, abs=1e-9)
