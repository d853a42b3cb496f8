"""What both average precisions have in common: state, order of images, merging, and the classes they average."""

import pickle
import time
from dataclasses import asdict
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidapt.errors import UserError
from vidapt.evaluation.instance import CityscapesAveragePrecision, CocoAveragePrecision, overlaps_of_masks
from vidapt.evaluation.instance_matches import count_by_class, rank_by_score
from vidapt.labels import CITYSCAPES, LabelClass, LabelSpace

METRICS = (CocoAveragePrecision, CityscapesAveragePrecision)
PERSON, CAR, TRUCK = (CITYSCAPES.index(name) for name in ("person", "car", "truck"))
SIXTEEN = tuple(name for name in CITYSCAPES.names if name not in ("terrain", "truck", "train"))

both = pytest.mark.parametrize("metric", METRICS)


@lru_cache
def scene(seed, size=48):
    """Overlaps with few distinct scores, so that ties within and between images are common."""
    rng = np.random.default_rng(seed)
    semantic, instance = np.zeros((size, size), np.uint8), np.zeros((size, size), np.int32)
    masks, categories = [], []
    for track in range(1, 6):
        top, left = rng.integers(0, size - 16, 2)
        category = rng.choice([PERSON, CAR])
        semantic[top : top + 16, left : left + 16] = category
        instance[top : top + 16, left : left + 16] = track if rng.random() < 0.9 else 0
    for track in range(1, 6):
        masks.append(np.roll(instance == track, rng.integers(-4, 5), rng.integers(2)))
        categories.append(rng.choice([PERSON, CAR]))
    scores = rng.integers(1, 4, len(masks)) / 3
    return overlaps_of_masks(np.array(masks), scores, np.array(categories), semantic, instance, CITYSCAPES)


def exactly(scores):
    """The scores in a form that compares NaN and every bit."""
    return repr(asdict(scores))


def squares(category=CAR, predicted=CAR, score=0.5):
    """One instance of ``category`` over all of an image, found by one mask of class ``predicted``."""
    semantic = np.full((12, 12), category, np.uint8)
    return overlaps_of_masks(
        np.ones((1, 12, 12), bool), [score], [predicted], semantic, np.ones((12, 12), int), CITYSCAPES
    )


@both
@given(order=st.permutations(range(8)), owner=st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_neither_order_nor_processes_change_a_bit(metric, order, owner):
    alone = metric(CITYSCAPES)
    for number in range(8):
        alone.update(number, scene(number))
    parts = [metric(CITYSCAPES) for _ in range(3)]
    for number in order:
        parts[owner[number]].update(number, scene(number))
    first, *others = (pickle.loads(pickle.dumps(part)) for part in parts)
    for part in others:
        first.merge(part)
    assert len(first) == 8
    assert exactly(first.result()) == exactly(alone.result())


def test_the_name_of_an_image_decides_between_equal_scores():
    """COCO orders equal scores by image, so hits before mistakes score higher than mistakes before hits."""

    def precision(names):
        metric = CocoAveragePrecision(CITYSCAPES)
        for name, truth in zip(names, (CAR, PERSON), strict=True):
            metric.update(name, squares(category=truth, predicted=CAR))
        return metric.result().per_class["car"].ap

    assert precision((0, 1)) == precision(("a", "b")) == precision((7, "a")) == pytest.approx(1, abs=1e-9)
    assert precision((1, 0)) == precision(("b", "a")) == precision(("a", 7)) == pytest.approx(0.5, abs=1e-9)
    # Numbers come in their own order, before names.
    assert precision((2, 10)) == precision((10, "2")) == pytest.approx(1, abs=1e-9)


def test_cityscapes_takes_equal_scores_together():
    for names in ((0, 1), (1, 0)):
        metric = CityscapesAveragePrecision(CITYSCAPES)
        for name, truth in zip(names, (CAR, PERSON), strict=True):
            metric.update(name, squares(category=truth, predicted=CAR))
        assert metric.result().per_class["car"].ap == pytest.approx(0.75, abs=1e-9)


@both
def test_perfect_prediction(metric):
    precision = metric(CITYSCAPES)
    precision.update("a", squares())
    scores = precision.result()
    assert (scores.ap, scores.ap50, scores.classes) == (pytest.approx(1), pytest.approx(1), ("car",))
    assert scores.all.ap == scores.ap
    assert scores.per_class["car"].ap50 == scores.ap50
    assert tuple(scores.per_class) == tuple(CITYSCAPES.names[index] for index in CITYSCAPES.things)


@both
def test_no_image_and_no_instance(metric):
    precision = metric(CITYSCAPES)
    assert np.isnan(precision.result().ap)
    assert precision.result().classes == ()
    precision.update("a", squares(category=0, predicted=0))
    scores = precision.result()
    assert len(precision) == 1
    assert np.isnan([scores.ap, scores.ap50]).all()
    assert np.isnan([quality.ap for quality in scores.per_class.values()]).all()


@both
def test_class_without_instances_is_undefined_and_class_without_predictions_is_zero(metric):
    precision = metric(CITYSCAPES)
    precision.update("a", squares(category=PERSON, predicted=CAR))
    scores = precision.result()
    assert scores.per_class["person"].ap == 0
    assert np.isnan(scores.per_class["car"].ap)
    assert (scores.ap, scores.classes) == (0, ("person",))


@both
def test_predicted_stuff_has_no_effect(metric):
    precision = metric(CITYSCAPES)
    precision.update("a", squares(category=0, predicted=0))
    precision.update("b", squares(predicted=0))
    precision.update("c", squares())
    scores = precision.result()
    assert scores.classes == ("car",)
    assert "road" not in scores.per_class
    assert scores.ap == pytest.approx(51 / 101 if metric is CocoAveragePrecision else 0.5)


@both
def test_only_scored_things_are_averaged(metric):
    precision = metric(CITYSCAPES, SIXTEEN)
    precision.update("a", squares())
    precision.update("b", squares(category=TRUCK, predicted=PERSON))
    scores = precision.result()
    assert (scores.ap, scores.classes) == (pytest.approx(1), ("car",))
    assert scores.per_class["truck"].ap == 0
    all_classes = metric(CITYSCAPES)
    all_classes.update("a", squares())
    all_classes.update("b", squares(category=TRUCK, predicted=PERSON))
    assert all_classes.result().ap == pytest.approx(0.5)
    assert all_classes.result().classes == ("car", "truck")


@both
def test_average_over_some_classes(metric):
    precision = metric(CITYSCAPES)
    precision.update("a", squares())
    precision.update("b", squares(category=PERSON, score=0.2))
    assert precision.result().ap == pytest.approx(0.5)
    assert precision.result(["car"]).ap == pytest.approx(1)
    assert precision.result([PERSON]).classes == ("person",)


@both
@pytest.mark.parametrize("left_out", ["truck", "road"])
def test_classes_that_the_protocol_leaves_out_are_refused(metric, left_out):
    """Stuff is left out even where the protocol scores it in other metrics."""
    precision = metric(CITYSCAPES, SIXTEEN)
    message = f"class {left_out} is not scored by this protocol; it averages over person, rider, car, bus"
    with pytest.raises(UserError, match=message):
        precision.result(["car", left_out])


@both
def test_protocol_without_things(metric):
    with pytest.raises(UserError, match="average precision is for things, and road, sky are none; the things of"):
        metric(CITYSCAPES, ["road", "sky"])
    flat = LabelSpace("flat", (LabelClass("road", False, (0, 0, 0)),))
    with pytest.raises(UserError, match="the things of 'flat' are none"):
        metric(flat)


@both
def test_an_image_counts_once(metric):
    first, second = metric(CITYSCAPES), metric(CITYSCAPES)
    first.update("a", squares())
    with pytest.raises(UserError, match="image 'a' has been added before"):
        first.update("a", squares())
    second.update("a", squares())
    with pytest.raises(UserError, match="image 'a' has been added before"):
        first.merge(second)
    assert len(first) == 1


@both
def test_numbers_of_numpy_name_images_too(metric):
    precision = metric(CITYSCAPES)
    precision.update(np.int64(3), squares())
    with pytest.raises(UserError, match="has been added before"):
        precision.update(3, squares())


@both
def test_different_settings_do_not_merge(metric):
    others = [metric(CITYSCAPES, SIXTEEN), next(other for other in METRICS if other is not metric)(CITYSCAPES)]
    if metric is CityscapesAveragePrecision:
        others.append(metric(CITYSCAPES, min_area=1))
    for other in others:
        with pytest.raises(UserError, match="average precisions of different settings cannot be merged"):
            metric(CITYSCAPES).merge(other)


@both
def test_labels_of_another_space_are_refused(metric):
    narrow = LabelSpace("narrow", (LabelClass("car", True, (0, 0, 0)),))
    with pytest.raises(UserError, match="train id 13 of an instance is not in label space 'narrow'"):
        metric(narrow).update("a", squares())


@both
def test_hundred_predictions_take_milliseconds(metric):
    rng = np.random.default_rng(0)
    semantic, instance = np.zeros((200, 200), np.uint8), np.zeros((200, 200), np.int32)
    for track in range(100):
        top, left = (20 * part for part in divmod(track, 10))
        semantic[top : top + 20, left : left + 20] = rng.choice([PERSON, CAR])
        instance[top : top + 20, left : left + 20] = track + 1
    masks = np.array([np.roll(instance == track + 1, 1, 0) for track in range(100)])
    categories = [semantic[instance == track + 1][0] for track in range(100)]
    overlaps = overlaps_of_masks(masks, rng.random(100), categories, semantic, instance, CITYSCAPES)
    seconds = []
    for name in range(5):
        precision = metric(CITYSCAPES)
        start = time.perf_counter()
        precision.update(name, overlaps)
        seconds.append(time.perf_counter() - start)
    assert precision.result().ap50 == pytest.approx(1)
    assert min(seconds) < 0.05


@both
def test_state_is_small(metric):
    precision = metric(CITYSCAPES)
    for number in range(20):
        precision.update(number, scene(number, size=200))
    empty = len(pickle.dumps(metric(CITYSCAPES)))
    assert (len(pickle.dumps(precision)) - empty) / 20 < 2500


def test_rank_within_class():
    category, score = np.array([5, 1, 5, 5, 1]), np.array([0.2, 0.9, 0.7, 0.2, 0.9])
    assert rank_by_score(category, score).tolist() == [1, 0, 0, 2, 1]
    assert rank_by_score(np.zeros(0, int), np.zeros(0)).tolist() == []


def test_count_by_class():
    counted = np.array([[True, True, False], [False, True, True]])
    assert count_by_class(np.array([2, 0, 2]), counted, 3).tolist() == [[1, 0, 1], [1, 0, 1]]
