import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vidapt.errors import UserError
from vidapt.evaluation.histogram import (
    category_of,
    compact,
    compress_runs,
    join_frames,
    joint_histogram,
    predicted_codes,
    target_codes,
    track_of,
    unscored_codes,
)
from vidapt.labels import CITYSCAPES

CAR = CITYSCAPES.index("car")


def as_dict(histogram):
    """{(target code, predicted code): pixels}."""
    pairs = zip(histogram.target[histogram.rows], histogram.predicted[histogram.columns], strict=True)
    return {
        (int(target), int(predicted)): int(count)
        for (target, predicted), count in zip(pairs, histogram.counts, strict=True)
    }


def counted(target, predicted):
    expected = {}
    for pair in zip(target.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        expected[pair] = expected.get(pair, 0) + 1
    return expected


@settings(max_examples=50)
@given(array_shapes(min_dims=2, max_dims=2, max_side=12), st.data())
def test_counts_every_pixel_once(shape, data):
    values = st.sampled_from([0, 1, 2, 300, 70_000, 2**40])
    target, predicted = (data.draw(arrays(np.int64, shape, elements=values)) for _ in range(2))
    histogram = joint_histogram(target, predicted)
    assert as_dict(histogram) == counted(target, predicted)
    assert histogram.target_area.sum() == histogram.predicted_area.sum() == target.size
    assert (histogram.counts > 0).all()


def test_noise_that_needs_a_sparse_table():
    rng = np.random.default_rng(0)
    target, predicted = (rng.integers(0, 3000, (60, 100)) for _ in range(2))
    assert as_dict(joint_histogram(target, predicted)) == counted(target, predicted)


def test_areas():
    histogram = joint_histogram(np.array([[1, 1, 1, 2]]), np.array([[7, 7, 8, 8]]))
    assert histogram.target.tolist() == [1, 2]
    assert histogram.target_area.tolist() == [3, 1]
    assert histogram.predicted_area.tolist() == [2, 2]


def test_empty_maps():
    histogram = joint_histogram(np.zeros((0, 5), int), np.zeros((0, 5), int))
    assert histogram.counts.size == histogram.target.size == histogram.predicted_area.size == 0


def test_one_pixel():
    assert as_dict(joint_histogram(np.array([[5]]), np.array([[0]]))) == {(5, 0): 1}


def test_sizes_must_agree():
    with pytest.raises(UserError, match=r"one size, got \(2, 3\), \(3, 2\)"):
        joint_histogram(np.zeros((2, 3), int), np.zeros((3, 2), int))


def test_runs_restore_the_maps():
    rng = np.random.default_rng(1)
    maps = [rng.integers(0, 3, (6, 9)).repeat(3, 1).astype(dtype) for dtype in (np.uint8, np.int32)]
    values, counts = compress_runs(*maps)
    for run_values, label_map in zip(values, maps, strict=True):
        assert run_values.dtype == label_map.dtype
        np.testing.assert_array_equal(run_values.repeat(counts).reshape(label_map.shape), label_map)
    assert counts.size < maps[0].size / 2


def test_runs_of_a_view_that_is_not_contiguous():
    label_map = np.arange(12).reshape(3, 4) // 6
    values, counts = compress_runs(label_map.T)
    np.testing.assert_array_equal(values[0].repeat(counts), label_map.T.ravel())


@pytest.mark.parametrize("offset", [0, -7, 2**40])
def test_compact_with_and_without_table(offset):
    values = np.array([[3, 9], [3, 0]]) + offset
    unique, position = compact(values)
    np.testing.assert_array_equal(unique[position], values)
    assert unique.tolist() == sorted(set(values.ravel().tolist()))


def test_target_codes_separate_classes_tracks_and_crowd():
    semantic = np.array([0, 0, CAR, CAR, CAR + 1, CAR, 255], np.uint8)
    instance = np.array([0, 9, 4, 5, 4, 0, 4], np.int32)
    codes = target_codes(semantic, instance, CITYSCAPES.is_thing)
    assert codes[0] == codes[1], "instances of stuff do not count"
    assert len(set(codes.tolist())) == 6
    assert codes[-1] == 0
    assert category_of(codes).tolist() == [0, 0, CAR, CAR, CAR + 1, CAR, -1]
    assert track_of(codes).tolist() == [0, 0, 4, 5, 4, 0, 0]


def test_target_codes_refuse_negative_tracks():
    with pytest.raises(UserError, match="-3"):
        target_codes(np.array([CAR], np.uint8), np.array([-3], np.int32), CITYSCAPES.is_thing)


def test_largest_ids_do_not_overflow():
    largest = 2**31 - 1
    codes = target_codes(np.array([CAR], np.uint8), np.array([largest], np.int32), CITYSCAPES.is_thing)
    assert (track_of(codes)[0], category_of(codes)[0]) == (largest, CAR)
    codes = predicted_codes(np.array([2**24 - 1], np.int32), {2**24 - 1: CAR}, len(CITYSCAPES))
    assert (track_of(codes)[0], category_of(codes)[0]) == (2**24 - 1, CAR)


def test_predicted_codes():
    codes = predicted_codes(np.array([[0, 1], [300, 256]], np.int32), {300: CAR, 256: 11}, len(CITYSCAPES))
    assert category_of(codes).tolist() == [[-1, 0], [CAR, 11]]
    assert track_of(codes).tolist() == [[0, 0], [300, 256]]


@pytest.mark.parametrize(("panoptic_id", "categories"), [(300, {}), (-1, {}), (20, {20: 3}), (300, {300: 19})])
def test_predicted_codes_refuse_unknown_ids(panoptic_id, categories):
    with pytest.raises(UserError, match=f"panoptic id {panoptic_id} is neither"):
        predicted_codes(np.array([panoptic_id], np.int32), categories, len(CITYSCAPES))


def test_unscored_codes_have_no_class_and_are_not_void():
    codes = unscored_codes(np.array([0, 3, 5 * 256 + 14]))
    assert category_of(codes).tolist() == [-1, -1, -1]
    assert codes[0] == 0
    assert (codes[1:] != 0).all()
    assert len(set(codes.tolist())) == 3


def test_window_adds_frames():
    rng = np.random.default_rng(2)
    targets, predictions = rng.integers(0, 4, (2, 3, 5, 5))
    window = join_frames([joint_histogram(t, p) for t, p in zip(targets, predictions, strict=True)])
    assert as_dict(window) == counted(targets, predictions)


def test_window_keeps_the_first_class_of_a_track():
    car, bus, stuff = 300 * 256 + CAR + 1, 300 * 256 + CAR + 3, 4
    frames = [np.array([[stuff, 0]]), np.array([[bus, stuff]]), np.array([[car, car]])]
    window = join_frames([joint_histogram(np.zeros((1, 2), int), frame) for frame in frames])
    assert dict(zip(window.predicted.tolist(), window.predicted_area.tolist(), strict=True)) == {0: 1, stuff: 2, bus: 3}
