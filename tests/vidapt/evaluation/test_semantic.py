import numpy as np
import pytest

from vidapt.errors import ConfigError, UserError
from vidapt.evaluation.semantic import (
    ScoredClasses,
    SemanticConfusion,
    categories_of,
    category_scores,
    confusion_matrix,
    iou_per_class,
)
from vidapt.labels import CITYSCAPES, LabelClass, LabelSpace


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


GROUPED = LabelSpace(
    "grouped",
    (
        LabelClass("road", False, (0, 0, 1), group="flat"),
        LabelClass("sidewalk", False, (0, 0, 2), group="flat"),
        LabelClass("parking", False, (0, 0, 3), is_void=True, group="flat"),
        LabelClass("car", True, (0, 0, 4), group="vehicle"),
        LabelClass("sky", False, (0, 0, 5)),
    ),
)


def category_iou(target, predicted, classes=None):
    confusion = confusion_matrix(np.array(target, np.uint8), np.array(predicted, np.uint8), len(GROUPED))
    return category_scores(confusion, ScoredClasses.of(GROUPED, classes))


def test_classes_of_a_group_may_be_taken_for_each_other():
    scores = category_iou([0, 0, 1, 3, 3], [1, 0, 0, 3, 0])
    assert scores.iou == pytest.approx({"flat": 3 / 4, "vehicle": 1 / 2})
    assert scores.mean == pytest.approx(5 / 8)
    assert scores.averaged == ("flat", "vehicle")


def test_void_classes_and_no_class_are_misses_of_a_group():
    """Parking belongs to the group but is not scored, so predicting it on road is a miss (Cityscapes scorer)."""
    assert category_iou([0, 0, 0, 0], [0, 2, 255, 1]).iou["flat"] == pytest.approx(2 / 4)


def test_classes_without_a_group_are_no_category_but_false_positives_of_others():
    scores = category_iou([4, 4, 0], [0, 4, 0])
    assert set(scores.iou) == {"flat", "vehicle"}
    assert scores.iou["flat"] == pytest.approx(1 / 2)
    assert scores.averaged == ("flat",)


def test_ignored_pixels_count_in_no_category():
    scores = category_iou([255, 255, 3], [0, 3, 3])
    assert scores.averaged == ("vehicle",)
    assert scores.iou["vehicle"] == 1


def test_protocol_leaves_classes_out_of_their_category():
    """Without the sidewalk: its pixels are neither asked for nor, within the group, false positives."""
    scores = category_iou([0, 0, 1, 1], [0, 1, 0, 3], ["road", "car"])
    assert scores.iou == pytest.approx({"flat": 1 / 2, "vehicle": 0})
    assert category_iou([3], [3], ["car"]).iou == {"vehicle": 1.0}


def test_no_category_at_all():
    scores = category_iou([], [])
    assert np.isnan(scores.mean)
    assert scores.averaged == ()


def test_spaces_without_groups_are_refused():
    space = LabelSpace("plain", (LabelClass("road", False, (0, 0, 1)),))
    with pytest.raises(UserError, match=r"label space 'plain' has no groups.*add 'group'"):
        category_scores(np.zeros((1, 2), np.int64), ScoredClasses.of(space))


def test_cityscapes_categories():
    categories = {category.name: category.members for category in categories_of(ScoredClasses.of(CITYSCAPES))}
    assert categories == {
        "flat": (0, 1),
        "construction": (2, 3, 4),
        "object": (5, 6, 7),
        "nature": (8, 9),
        "sky": (10,),
        "human": (11, 12),
        "vehicle": (13, 14, 15, 16, 17, 18),
    }


def test_void_classes_are_never_scored():
    assert ScoredClasses.of(GROUPED).ids == (0, 1, 3, 4)
    with pytest.raises(UserError, match="class parking of 'grouped' is void"):
        ScoredClasses.of(GROUPED, ["road", "parking"])


def test_a_space_of_void_classes_has_nothing_to_score():
    space = LabelSpace("void", (LabelClass("nothing", False, (0, 0, 1), is_void=True),))
    with pytest.raises(UserError, match="must be one or more"):
        ScoredClasses.of(space)
