"""Records of predicted against target instances, counted pixel by pixel."""

import numpy as np
import pytest

from vidapt.clip import PanopticFrame, Segment
from vidapt.errors import UserError
from vidapt.evaluation.histogram import category_of, joint_histogram, predicted_codes
from vidapt.evaluation.instance import (
    InstanceOverlaps,
    instance_codes,
    overlaps_of_frame,
    overlaps_of_histogram,
    overlaps_of_masks,
)
from vidapt.labels import LabelClass, LabelSpace

SPACE = LabelSpace("toy", tuple(LabelClass(name, name in "xy", (0, 0, i)) for i, name in enumerate("abxy")))
X, Y = 2, 3


def labels(rng, height=12, width=18):
    """Semantic and instance maps in blocks, with void, crowds, instances of void and of stuff."""

    def blocks(values):
        return rng.choice(values, (height // 3, width // 3)).repeat(3, 0).repeat(3, 1)

    return blocks([0, 1, X, Y, Y, 255]).astype(np.uint8), blocks([0, 1, 2, 7]).astype(np.int32)


def counted(masks, semantic, instance):
    """The record's pixel counts by comparing masks one by one: areas, void, targets and shared pixels."""
    void = (semantic == 255) & (instance == 0)
    keys = sorted({(int(t), int(c)) for t, c in zip(instance.flat, semantic.flat, strict=True) if c in (X, Y)})
    targets = [(semantic == c) & (instance == t) for t, c in keys]
    shared = [[int((mask & target).sum()) for target in targets] for mask in masks]
    return {
        "area": [int(mask.sum()) for mask in masks],
        "void": [int((mask & void).sum()) for mask in masks],
        "target_id": [t for t, _ in keys],
        "target_category": [c for _, c in keys],
        "target_area": [int(target.sum()) for target in targets],
        "crowd": [t == 0 for t, _ in keys],
        "shared": shared,
    }


def assert_record(record, expected):
    for name, values in expected.items():
        assert getattr(record, name).tolist() == values, name


@pytest.mark.parametrize("seed", range(20))
def test_masks_are_counted_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    semantic, instance = labels(rng)
    masks = rng.random((5, 12, 18)) < rng.random((5, 1, 1))
    masks[2] = False
    record = overlaps_of_masks(masks, [0.5] * 5, [X, Y, X, X, 0], semantic, instance, SPACE)
    assert_record(record, counted(masks, semantic, instance))
    assert record.category.tolist() == [X, Y, X, X, 0]
    assert record.score.dtype == np.float64
    for name in ("category", "area", "void", "target_id", "target_category", "target_area", "shared"):
        assert getattr(record, name).dtype == np.int64


@pytest.mark.parametrize("seed", range(20))
def test_panoptic_frame_equals_its_masks(seed):
    rng = np.random.default_rng(seed)
    semantic, instance = labels(rng)
    ids = rng.choice([0, 1, 2, 256, 300, 301], (4, 6)).repeat(3, 0).repeat(3, 1).astype(np.int32)
    category = {256: X, 300: Y, 301: Y}
    segments = tuple(Segment(i, c, True, i / 1000, 0, (0, 0, 0, 0)) for i, c in category.items())
    record = overlaps_of_frame(PanopticFrame(0, 0.0, semantic, ids, segments), semantic, instance, SPACE)
    present = [i for i in category if (ids == i).any()]
    masks = np.array([ids == i for i in present])
    assert_record(record, counted(masks, semantic, instance))
    assert record.score.tolist() == [i / 1000 for i in present]
    assert record.category.tolist() == [category[i] for i in present]


def test_stuff_void_and_unnumbered_things_are_no_predictions():
    """A thing class as one region for the whole class (train id + 1) is no instance."""
    ids = np.array([[0, 1, X + 1, 256]], np.int32)
    histogram = joint_histogram(np.zeros((1, 4), np.int64), predicted_codes(ids, {256: X}, 4))
    record = overlaps_of_histogram(histogram, {256: 0.25, 999: 0.5}, SPACE)
    assert record.category.tolist() == [X]
    assert record.score.tolist() == [0.25]
    assert record.void.tolist() == [1]
    assert record.shared.shape == (1, 0)


def test_instances_of_ignored_classes_are_not_void():
    semantic, instance = np.array([255, 255, X, X, 0], np.uint8), np.array([0, 9, 0, 9, 9])
    codes = instance_codes(semantic, instance, SPACE.is_thing)
    assert category_of(codes).tolist() == [-1, -1, X, X, 0]
    assert (codes == 0).tolist() == [True, False, False, False, False]
    assert len(set(codes.tolist())) == 5


def test_one_track_id_in_two_classes_is_two_targets():
    semantic = np.array([[X, X, Y]], np.uint8)
    record = overlaps_of_masks(np.ones((1, 1, 3), bool), [1.0], [X], semantic, np.full((1, 3), 4), SPACE)
    assert record.shared.tolist() == [[2, 1]]
    assert record.same_class.tolist() == [[True, False]]


@pytest.mark.parametrize(("predictions", "thing"), [(0, True), (2, False), (0, False)])
def test_nothing_predicted_or_nothing_there(predictions, thing):
    semantic = np.full((4, 4), X if thing else 0, np.uint8)
    masks = np.ones((predictions, 4, 4), bool)
    record = overlaps_of_masks(masks, [0.5] * predictions, [X] * predictions, semantic, np.ones((4, 4), int), SPACE)
    assert record.shared.shape == (predictions, int(thing))
    assert record.area.tolist() == [16] * predictions


def test_iou():
    record = InstanceOverlaps(
        np.array([X, X, Y]),
        np.array([0.9, 0.8, 0.7]),
        np.array([10, 4, 0]),
        np.zeros(3, int),
        np.array([1, 0, 2]),
        np.array([X, X, Y]),
        np.array([10, 6, 0]),
        np.array([False, True, False]),
        np.array([[5, 3, 2], [4, 2, 0], [0, 0, 0]]),
    )
    assert record.iou(crowd_by_prediction=False).tolist() == [[5 / 15, 3 / 13, 0], [4 / 10, 2 / 8, 0], [0, 0, 0]]
    assert record.iou(crowd_by_prediction=True).tolist() == [[5 / 15, 3 / 10, 0], [4 / 10, 2 / 4, 0], [0, 0, 0]]


def test_keep_by_flag_and_by_position():
    semantic, instance = labels(np.random.default_rng(1))
    masks = np.random.default_rng(2).random((3, 12, 18)) < 0.5
    record = overlaps_of_masks(masks, [0.1, 0.2, 0.3], [X, Y, X], semantic, instance, SPACE)
    by_flag = record.keep(np.array([True, False, True]))
    by_position = record.keep(np.array([2, 0]))
    assert by_flag.score.tolist() == [0.1, 0.3]
    assert by_position.score.tolist() == [0.3, 0.1]
    assert by_position.shared.tolist() == record.shared[[2, 0]].tolist()
    assert by_position.target_area is record.target_area


def test_nothing():
    record = InstanceOverlaps.nothing()
    assert record.shared.shape == (0, 0)
    assert record.iou(crowd_by_prediction=True).shape == (0, 0)


def one(**changes):
    fields = {name: np.ones(1, int) for name in ("category", "area", "void", "target_id", "target_category")}
    fields |= {"target_area": np.ones(1, int), "crowd": np.zeros(1, bool), "score": np.ones(1)}
    return InstanceOverlaps(**(fields | {"shared": np.ones((1, 1), int)} | changes))


@pytest.mark.parametrize("name", ["category", "score", "area", "void"])
def test_lengths_of_predictions_are_checked(name):
    with pytest.raises(UserError, match=rf"{name} must have one entry for each prediction, shape \(1,\), got \(2,\)"):
        one(**{name: np.ones(2)})


@pytest.mark.parametrize("name", ["target_id", "target_category", "target_area", "crowd"])
def test_lengths_of_targets_are_checked(name):
    with pytest.raises(UserError, match=rf"{name} must have one entry for each target instance"):
        one(**{name: np.ones(2)})


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_scores_must_be_finite(score):
    with pytest.raises(UserError, match=f"scores of instances must be finite, got {score}"):
        one(score=np.array([score]))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((1, 4, 4), np.uint8), r"masks must be bool \(K,4,4\), the size of the labels, got uint8 \(1, 4, 4\)"),
        (np.zeros((1, 4, 5), bool), r"got bool \(1, 4, 5\)"),
        (np.zeros((4, 4), bool), r"got bool \(4, 4\)"),
    ],
)
def test_masks_must_fit_the_labels(masks, message):
    with pytest.raises(UserError, match=message):
        overlaps_of_masks(masks, [1.0], [X], np.zeros((4, 4), np.uint8), np.zeros((4, 4), int), SPACE)


@pytest.mark.parametrize("category", [-1, 4, 255])
def test_unknown_class_of_a_mask(category):
    with pytest.raises(UserError, match=rf"train id {category} of an instance is not in label space 'toy'.*0\.\.3"):
        overlaps_of_masks(
            np.ones((1, 2, 2), bool), [1.0], [category], np.zeros((2, 2), np.uint8), np.zeros((2, 2), int), SPACE
        )


def test_fewer_scores_than_masks():
    with pytest.raises(UserError, match=r"score must have one entry for each prediction, shape \(2,\), got \(1,\)"):
        overlaps_of_masks(
            np.ones((2, 2, 2), bool), [1.0], [X, X], np.zeros((2, 2), np.uint8), np.zeros((2, 2), int), SPACE
        )


def test_label_maps_of_two_sizes():
    with pytest.raises(UserError, match="label maps of one frame must have one size"):
        overlaps_of_masks(np.ones((0, 2, 2), bool), [], [], np.zeros((2, 2), np.uint8), np.zeros((3, 2), int), SPACE)


def test_thing_without_score():
    histogram = joint_histogram(np.zeros(2, np.int64), predicted_codes(np.array([256, 257]), {256: X, 257: Y}, 4))
    with pytest.raises(UserError, match="thing 257 of the prediction has no score"):
        overlaps_of_histogram(histogram, {256: 0.5}, SPACE)
