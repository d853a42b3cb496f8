import pickle

import numpy as np
import pytest

from vidapt.errors import UserError
from vidapt.evaluation.histogram import compress_runs
from vidapt.evaluation.instance_weighted import (
    CITYSCAPES_AVERAGE_SIZES,
    InstanceWeightedIou,
    instance_weighted_iou,
    size_table,
    weighted_confusion,
)
from vidapt.evaluation.semantic import ScoredClasses
from vidapt.labels import CITYSCAPES, LabelClass, LabelSpace, find_space

SPACE = LabelSpace(
    "toy",
    (
        LabelClass("road", False, (0, 0, 1), group="flat"),
        LabelClass("person", True, (0, 0, 2), group="human"),
        LabelClass("rider", True, (0, 0, 3), group="human"),
        LabelClass("car", True, (0, 0, 4), group="vehicle"),
        LabelClass("caravan", True, (0, 0, 5), is_void=True, group="vehicle"),
        LabelClass("plate", False, (0, 0, 6), is_void=True, group="vehicle"),
        LabelClass("fence", False, (0, 0, 7), group="mixed"),
        LabelClass("cone", True, (0, 0, 8), group="mixed"),
    ),
)
ROAD, PERSON, RIDER, CAR, CARAVAN, PLATE, FENCE, CONE = range(8)
SIZES = {"person": 6.0, "rider": 10.0, "car": 12.0, "cone": 1.0}


def quality_of(*pixels, space=SPACE):
    """iIoU of a row of (target class, instance, predicted class, pixels)."""
    quality = InstanceWeightedIou(space, SIZES)
    target, instance, predicted = (
        np.concatenate([np.full(run[-1], run[i], dtype) for run in pixels])[None]
        for i, dtype in enumerate((np.uint8, np.int32, np.uint8))
    )
    quality.update(target, instance, predicted)
    return quality


def test_small_instances_weigh_as_much_as_large_ones():
    """Two persons of 12 and 3 pixels, average 6: weights 1/2 and 2, so 12 hits weigh as much as 3 misses."""
    quality = quality_of((PERSON, 1, PERSON, 12), (PERSON, 2, ROAD, 3))
    assert quality.iou()[PERSON] == pytest.approx(0.5)


def test_false_positives_are_not_weighted():
    """4 plain pixels of road beside 6 weighted pixels of the person."""
    quality = quality_of((PERSON, 1, PERSON, 12), (ROAD, 0, PERSON, 4))
    assert quality.iou()[PERSON] == pytest.approx(6 / 10)


def test_ignored_pixels_are_no_false_positives_and_void_predictions_are_misses():
    quality = quality_of((PERSON, 1, PERSON, 3), (PERSON, 1, 255, 3), (255, 0, PERSON, 5))
    assert quality.iou()[PERSON] == pytest.approx(0.5)


def test_group_regions_neither_hit_nor_miss():
    """A group counts with no weight, and as another class's false positives."""
    quality = quality_of((PERSON, 0, PERSON, 9), (PERSON, 0, RIDER, 2), (RIDER, 1, RIDER, 5), (PERSON, 1, ROAD, 1))
    assert quality.iou()[RIDER] == pytest.approx(10 / 12)
    assert quality.iou()[PERSON] == 0


def test_one_instance_in_two_parts_has_one_size():
    parts = quality_of((PERSON, 1, PERSON, 2), (ROAD, 0, ROAD, 1), (PERSON, 1, ROAD, 4))
    assert parts.weighted[PERSON].sum() == pytest.approx(6)
    assert parts.iou()[PERSON] == pytest.approx(1 / 3)


def test_equal_numbers_of_two_classes_are_two_instances():
    quality = quality_of((PERSON, 1, PERSON, 2), (CAR, 1, CAR, 4))
    assert quality.weighted[[PERSON, CAR], [PERSON, CAR]].tolist() == [6, 12]


def test_instances_of_stuff_do_not_count():
    quality = quality_of((ROAD, 3, ROAD, 2), (ROAD, 4, PERSON, 2))
    assert quality.weighted.sum() == 0
    assert np.isnan(quality.iou()[ROAD])


def test_undefined_and_zero():
    """No instance and no false positive is undefined; a false positive alone is 0; stuff is undefined always."""
    iou = quality_of((ROAD, 0, RIDER, 2), (ROAD, 0, ROAD, 5)).iou()
    assert np.isnan(iou[[ROAD, PERSON, CAR]]).all()
    assert iou[RIDER] == 0


def test_categories_take_classes_for_each_other():
    """The persons' weighted pixels are 6 and 6; one is taken for a rider, which is the same category."""
    quality = quality_of((PERSON, 1, RIDER, 3), (PERSON, 2, PERSON, 1), (PERSON, 2, ROAD, 1), (ROAD, 0, RIDER, 3))
    assert quality.iou()[PERSON] == pytest.approx(3 / 12)
    scores = quality.categories(ScoredClasses.of(SPACE))
    assert scores.iou["human"] == pytest.approx(9 / 15)


def test_category_masks_include_void_things():
    """A car taken for a caravan is a vehicle, though caravans are not scored; a plate is none."""
    quality = quality_of((CAR, 1, CARAVAN, 2), (CAR, 1, PLATE, 2), (ROAD, 0, CARAVAN, 3))
    assert quality.categories(ScoredClasses.of(SPACE)).iou["vehicle"] == pytest.approx(6 / 15)
    assert quality.iou()[CAR] == 0


def test_categories_with_stuff_have_no_instance_score():
    scores = quality_of((CONE, 1, CONE, 2)).categories(ScoredClasses.of(SPACE))
    assert set(scores.iou) == {"human", "vehicle"}
    assert scores.averaged == ()
    assert np.isnan(scores.mean)


def test_only_scored_classes_give_instances():
    quality = quality_of((PERSON, 1, PERSON, 2), (RIDER, 1, ROAD, 2))
    assert quality.categories(ScoredClasses.of(SPACE)).iou["human"] == pytest.approx(6 / 16)
    without_riders = quality.categories(ScoredClasses.of(SPACE, ["person", "car"]))
    assert without_riders.iou["human"] == 1
    assert without_riders.averaged == ("human",)


def test_cityscapes_has_a_size_for_every_thing():
    table = size_table(CITYSCAPES, CITYSCAPES_AVERAGE_SIZES)
    assert np.flatnonzero(~np.isnan(table)).tolist() == list(CITYSCAPES.things)
    assert table[CITYSCAPES.index("motorcycle")] == 6298.7200839748


@pytest.mark.parametrize("sizes", [{"person": 6.0}, {"person": 6.0, "rider": 0.0, "cone": 1.0}])
def test_missing_sizes_are_named(sizes):
    with pytest.raises(UserError, match=r"rider, car.* of 'toy' has none: pass average_sizes"):
        InstanceWeightedIou(SPACE, sizes)


def test_pure_functions_by_hand():
    confusion, weighted = np.array([[8, 2, 0], [1, 3, 1]]), np.array([[0.0, 0, 0], [1.0, 6.0, 1.0]])
    assert instance_weighted_iou(confusion, weighted)[1] == pytest.approx(6 / (8 + 2))
    assert np.isnan(instance_weighted_iou(np.zeros((2, 3), int), np.zeros((2, 3)))).all()


def random_maps(seed, shape=(12, 18)):
    rng = np.random.default_rng(seed)
    target = rng.choice([0, 1, 2, 3, 6, 7, 255], shape).astype(np.uint8)
    instance = rng.integers(0, 3, shape).astype(np.uint16)
    predicted = np.where(rng.random(shape) < 0.5, target, rng.choice([0, 1, 2, 3, 4, 255], shape)).astype(np.uint8)
    return target, instance, predicted


def test_weights_of_every_pixel():
    target, instance, predicted = random_maps(0)
    sizes = size_table(SPACE, SIZES)
    expected = np.zeros((8, 9))
    for label, number, guess in zip(target.ravel(), instance.ravel(), predicted.ravel(), strict=True):
        if label in (PERSON, RIDER, CAR, CONE) and number:
            expected[label, min(guess, 8)] += sizes[label] / ((target == label) & (instance == number)).sum()
    np.testing.assert_allclose(weighted_confusion(target, instance, predicted, sizes), expected, atol=1e-12)


def test_runs_stand_for_pixels():
    maps = [label_map.repeat(5, axis=1) for label_map in random_maps(1)]
    quality, by_runs = InstanceWeightedIou(SPACE, SIZES), InstanceWeightedIou(SPACE, SIZES)
    quality.update(*maps)
    runs, counts = compress_runs(*maps)
    assert counts.size < maps[0].size
    by_runs.update(*runs, counts)
    np.testing.assert_array_equal(by_runs.confusion, quality.confusion)
    np.testing.assert_allclose(by_runs.weighted, quality.weighted, atol=1e-12)


def test_merge_equals_one_process():
    single, first, second = (InstanceWeightedIou(SPACE, SIZES) for _ in range(3))
    for seed in range(4):
        single.update(*random_maps(seed))
        (first if seed % 2 else second).update(*random_maps(seed))
    first.merge(pickle.loads(pickle.dumps(second)))
    np.testing.assert_allclose(first.iou(), single.iou(), atol=1e-12)
    assert first.categories(ScoredClasses.of(SPACE)).mean == pytest.approx(
        single.categories(ScoredClasses.of(SPACE)).mean
    )


def test_bad_maps():
    quality = InstanceWeightedIou(SPACE, SIZES)
    with pytest.raises(UserError, match="resize prediction to target"):
        quality.update(np.zeros((1, 2), np.uint8), np.zeros((1, 2), int), np.zeros((2, 1), np.uint8))
    with pytest.raises(UserError, match=r"0\.\.7 and 255"):
        quality.update(np.zeros((1, 2), np.uint8), np.zeros((1, 2), int), np.full((1, 2), 8, np.uint8))
    assert quality.confusion.sum() == 0


def test_empty_frame():
    quality = InstanceWeightedIou(SPACE, SIZES)
    quality.update(np.zeros((0, 4), np.uint8), np.zeros((0, 4), int), np.zeros((0, 4), np.uint8))
    assert np.isnan(quality.iou()).all()


def test_spaces_without_groups_have_no_categories():
    space = LabelSpace("plain", (LabelClass("person", True, (0, 0, 1)),))
    with pytest.raises(UserError, match="'plain' has no groups"):
        InstanceWeightedIou(space).categories(ScoredClasses.of(space))


def test_raw_cityscapes_space_scores_the_same_categories():
    """The class table of raw ids has a license plate among the vehicles, which must not make them no category."""
    space = find_space("cityscapes_ids")
    scored = ScoredClasses.of(space, CITYSCAPES.names)
    assert set(InstanceWeightedIou(space).categories(scored).iou) == {"human", "vehicle"}
