import numpy as np
import pytest

from vidapt.errors import ConfigError, UserError
from vidapt.evaluation.semantic import ScoredClasses, SemanticConfusion, confusion_matrix, iou_per_class
from vidapt.labels import CITYSCAPES


def test_iou_by_hand():
    """Ignored pixels count nowhere; a prediction of 255 is a miss and no false alarm."""
    target = np.array([[0, 0, 0, 1, 1, 255]], np.uint8)
    predicted = np.array([[0, 0, 1, 1, 255, 1]], np.uint8)
    confusion = confusion_matrix(target, predicted, 3)
    assert confusion.tolist() == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    iou = iou_per_class(confusion)
    assert iou[:2].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert np.isnan(iou[2])


def test_class_that_is_only_predicted_scores_zero():
    iou = iou_per_class(confusion_matrix(np.array([0, 0], np.uint8), np.array([0, 1], np.uint8), 2))
    assert iou.tolist() == [0.5, 0.0]


@pytest.mark.parametrize("pixels", [[], [255, 255]])
def test_nothing_labelled_is_undefined(pixels):
    target = np.array(pixels, np.uint8)
    confusion = confusion_matrix(target, np.zeros_like(target), 19)
    assert np.isnan(iou_per_class(confusion)).all()
    mean = ScoredClasses.of(CITYSCAPES).mean(iou_per_class(confusion))
    assert np.isnan(mean.value)
    assert mean.classes == ()


def test_counts_stand_for_runs():
    rng = np.random.default_rng(0)
    target, predicted = rng.integers(0, 4, (2, 30)).astype(np.uint8)
    lengths = rng.integers(1, 9, 30)
    expected = confusion_matrix(target.repeat(lengths), predicted.repeat(lengths), 4)
    np.testing.assert_array_equal(confusion_matrix(target, predicted, 4, lengths), expected)


@pytest.mark.parametrize(("target", "predicted"), [(19, 0), (0, 19), (254, 0)])
def test_train_ids_outside_the_space(target, predicted):
    with pytest.raises(UserError, match=r"0\.\.18 and 255"):
        confusion_matrix(np.array([target], np.uint8), np.array([predicted], np.uint8), 19)


def test_merge_equals_one_process():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 5, (4, 2, 8, 8)).astype(np.uint8)
    single, first, second = (SemanticConfusion(5) for _ in range(3))
    for i, frame in enumerate(frames):
        single.update(*frame)
        (first if i % 2 else second).update(*frame)
    first.merge(second)
    np.testing.assert_array_equal(first.confusion, single.confusion)


def test_scored_classes_by_name_and_id():
    scored = ScoredClasses.of(CITYSCAPES, ["car", 0, "road"])
    assert scored.ids == (0, 13)
    assert (scored.stuff, scored.things) == ((0,), (13,))


def test_mean_says_what_it_averages():
    values = np.full(19, 0.25)
    values[[0, 5]] = 0.75, np.nan
    mean = ScoredClasses.of(CITYSCAPES, [0, 5, 13]).mean(values)
    assert mean.value == 0.5
    assert mean.classes == (0, 13)


def test_mean_refuses_classes_that_the_protocol_leaves_out():
    scored = ScoredClasses.of(CITYSCAPES, ["road", "car"])
    with pytest.raises(UserError, match="class train is not scored by this protocol; it averages over road, car"):
        scored.mean(np.ones(19), [0, CITYSCAPES.index("train")])


@pytest.mark.parametrize("classes", [[], [19], [-1]])
def test_bad_scored_classes(classes):
    with pytest.raises(UserError, match=r"0\.\.18"):
        ScoredClasses.of(CITYSCAPES, classes)


def test_unknown_class_name():
    with pytest.raises(ConfigError, match="spaceship"):
        ScoredClasses.of(CITYSCAPES, ["spaceship"])
