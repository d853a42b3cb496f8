"""PQ and mIoU against the expected values of deeplab2, torchmetrics and bdd100k."""

import numpy as np
import pytest

from vidapt.evaluation.histogram import joint_histogram
from vidapt.evaluation.panoptic import count_matches, panoptic_scores
from vidapt.evaluation.semantic import ScoredClasses, iou_per_class
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


CATEGORIES = {0: 0, 1: 1, 6: 2, 7: 3}


def torchmetrics_codes(rows):
    """Rows of pairs category, instance; categories 0 and 1 are things, 6 and 7 are stuff."""
    pairs = np.array([[[int(c) for c in cell] for cell in row.split()] for row in rows.split("/")])
    category = np.vectorize(CATEGORIES.get)(pairs[..., 0])
    return np.where(category < 2, (pairs[..., 1] + 1) * 256, 0) + category + 1


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [
        (
            "60 00 60 60 01/00 00 60 01 01/00 00 60 01 10/00 70 60 10 10/00 70 70 70 70",
            "60 60 60 60 00/01 01 60 00 00/01 01 60 10 10/01 70 70 10 10/01 70 70 70 70",
            0.7753,
        ),
        (
            "60 00 60 60/00 00 60 01/00 00 60 01/00 70 60 10/00 70 70 70",
            "60 01 60 01/01 01 60 01/01 01 60 10/01 70 10 10/01 70 70 70",
            0.5463,
        ),
    ],
)
def test_torchmetrics_images(predicted, target, expected):
    """Without void and crowd its rules are those of panopticapi."""
    space = space_of([True, True, False, False])
    scores = scores_of(torchmetrics_codes(target), torchmetrics_codes(predicted), space)
    assert scores.all.pq == pytest.approx(expected, abs=5e-5)
    if expected == 0.5463:
        assert scores.all.sq == pytest.approx(0.6111, abs=5e-5)
        assert scores.all.rq == pytest.approx(0.6667, abs=5e-5)
        assert [c.pq for c in scores.per_class.values()] == pytest.approx([0.5185, 0, 0.6667, 1], abs=5e-5)


def test_torchmetrics_points():
    """Points instead of images; the instance of stuff (10, 123) does not count."""
    space = space_of([True, True, False])

    def codes(pairs):
        return np.array([3 if category == 10 else (instance + 1) * 256 + category + 1 for category, instance in pairs])

    predicted = codes([(10, 0), (10, 123), (0, 1), (10, 0), (1, 2)])
    target = codes([(10, 0), (10, 0), (0, 0), (0, 1), (1, 0)])
    assert scores_of(target, predicted, space).all.pq == pytest.approx((2 / 3 + 1 + 2 / 3) / 3, abs=1e-9)


def test_bdd100k_mean_iou():
    confusion = np.array([[93, 1, 0], [4, 2, 0]])
    assert 100 * iou_per_class(confusion).mean() == pytest.approx(61.73469387755102, abs=1e-9)
