import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vidapt.errors import UserError
from vidapt.evaluation import histogram as histogram_module
from vidapt.evaluation.histogram import (
    category_of,
    compact,
    compress_runs,
    frame_histogram,
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


def assert_compacted(values):
    unique, position = compact(values)
    assert position.shape == values.shape
    np.testing.assert_array_equal(unique[position], values)
    assert unique.tolist() == sorted(set(values.ravel().tolist()))


LONG = (70, 90)
"""More elements than are sorted without trying a table."""


@pytest.mark.parametrize("offset", [0, -7, 2**40])
@pytest.mark.parametrize("repeats", [1, 2000])
def test_compact_with_and_without_table(offset, repeats):
    assert_compacted((np.array([[3, 9], [3, 0]]) + offset).repeat(repeats, 1))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-(2**40), 2**40) | st.integers(0, 2**24), min_size=1, max_size=400, unique=True),
    st.sampled_from([np.int32, np.int64]),
    st.integers(0, 2**32 - 1),
)
def test_compact_of_long_arrays(choices, dtype, seed):
    values = np.array(choices).astype(dtype)
    assert_compacted(np.random.default_rng(seed).choice(values, LONG))


@pytest.mark.parametrize("most", [2**18 - 1, 2**18])
def test_compact_at_the_edge_of_the_table(most):
    assert_compacted(np.resize([most, 0, 17], LONG))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_compact_of_small_integers(dtype):
    assert_compacted(np.random.default_rng(0).integers(0, 128, LONG).astype(dtype))


def test_compact_where_two_values_have_one_slot():
    candidates = np.arange(2**18, 2**20)
    slots = histogram_module._slots(candidates)
    slot = np.bincount(slots).argmax()
    same = candidates[slots == slot][:2]
    assert same.size == 2
    values = np.resize(same, LONG)
    assert histogram_module._compact_by_slot(values.ravel()) is None
    assert_compacted(values)


def test_long_maps_are_not_sorted(monkeypatch):
    """The street sizes of every data set's ids: class ids, class * 1000 + number, 24-bit colours."""
    rng = np.random.default_rng(3)
    maps = [rng.choice(ids, LONG) for ids in (np.arange(60), 11000 + np.arange(60), rng.integers(0, 2**24, 30))]
    monkeypatch.setattr(np, "searchsorted", None)
    for values in maps:
        assert_compacted(values)


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


THINGS = [index for index in range(len(CITYSCAPES)) if CITYSCAPES.is_thing[index]]
CATEGORIES = {256: CAR, 300: 11, 70_000: 18, 2**24 - 1: CAR}


def plain_counts(semantic, instance, ids, left_out=()):
    """{(target code, predicted code): pixels}, from np.unique over pixels and one code at a time."""
    pixels = np.stack([labels.ravel().astype(np.int64) for labels in (semantic, instance, ids)])
    found, counts = np.unique(pixels, axis=1, return_counts=True)
    expected = {}
    for train_id, track, panoptic_id, count in zip(*found.tolist(), counts.tolist(), strict=True):
        code = (track if train_id in THINGS else 0) * 256 + train_id + 1
        target = 0 if train_id == 255 else code * 256 if train_id in left_out else code
        thing = panoptic_id * 256 + CATEGORIES[panoptic_id] + 1 if panoptic_id >= 256 else panoptic_id
        expected[target, thing] = expected.get((target, thing), 0) + count
    return expected


@settings(max_examples=60, deadline=None)
@given(array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12), st.data())
def test_frame_histogram_counts_as_np_unique(shape, data):
    semantic = data.draw(arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 11, CAR, 18, 255])))
    instance = data.draw(arrays(np.int32, shape, elements=st.sampled_from([0, 1, 13_007, 2**24 - 1, 2**31 - 1])))
    ids = data.draw(arrays(np.int32, shape, elements=st.sampled_from([0, 1, 19, *CATEGORIES])))
    left_out = data.draw(st.sets(st.sampled_from([0, 11, CAR])))
    table = np.isin(np.arange(256), list(left_out))
    histogram = frame_histogram(semantic, instance, ids, CATEGORIES, CITYSCAPES, left_out=table)
    assert as_dict(histogram) == plain_counts(semantic, instance, ids, left_out)


@pytest.mark.parametrize("columns", [1, 40])
def test_frame_histogram_equals_codes_per_pixel(columns):
    """Large enough for every table, with more than 255 segments on either side."""
    rng = np.random.default_rng(4)
    semantic = rng.choice([0, 1, 2, 11, CAR, 255], (60, 80)).astype(np.uint8).repeat(columns, 1)
    instance = rng.integers(0, 300, (60, 80)).astype(np.int32).repeat(columns, 1) * 55_000
    ids = rng.integers(256, 2**24, 400)[rng.integers(0, 400, (60, 80))].astype(np.int32).repeat(columns, 1)
    categories = dict.fromkeys(ids.ravel().tolist(), CAR)
    histogram = frame_histogram(semantic, instance, ids, categories, CITYSCAPES)
    codes = target_codes(semantic, instance, CITYSCAPES.is_thing)
    expected = joint_histogram(codes, predicted_codes(ids, categories, len(CITYSCAPES)))
    for name in ("target", "predicted", "rows", "columns", "counts"):
        np.testing.assert_array_equal(getattr(histogram, name), getattr(expected, name))
    assert min(histogram.target.size, histogram.predicted.size) > 255
    assert as_dict(histogram) == counted(codes, predicted_codes(ids, categories, len(CITYSCAPES)))


def test_frame_histogram_of_runs_and_of_views_that_are_not_contiguous():
    rng = np.random.default_rng(5)
    semantic = rng.choice([0, CAR, 255], (30, 20)).astype(np.uint8)
    instance, ids = rng.integers(0, 3, (30, 20)).astype(np.int32), rng.choice([0, 1, 256], (30, 20)).astype(np.int32)
    expected = plain_counts(semantic, instance, ids)
    (*maps,), counts = compress_runs(semantic, instance, ids)
    assert as_dict(frame_histogram(*maps, CATEGORIES, CITYSCAPES, counts=counts)) == expected
    views = (semantic.T, np.asfortranarray(instance).T, ids[::-1, ::-1][::-1, ::-1].T)
    assert not views[2].flags["C_CONTIGUOUS"]
    assert as_dict(frame_histogram(*views, CATEGORIES, CITYSCAPES)) == expected


def test_numbered_stuff_is_one_segment_and_void_has_no_track():
    semantic = np.array([[1, 1, 255, 255]], np.uint8)
    histogram = frame_histogram(semantic, np.array([[7, 8, 9, 0]]), np.array([[2, 2, 2, 2]]), {}, CITYSCAPES)
    assert as_dict(histogram) == {(2, 2): 2, (0, 2): 2}


def test_one_pixel_and_no_pixel():
    maps = np.array([[CAR]], np.uint8), np.array([[5]]), np.array([[300]])
    assert as_dict(frame_histogram(*maps, {300: 11}, CITYSCAPES)) == {(5 * 256 + CAR + 1, 300 * 256 + 12): 1}
    histogram = frame_histogram(*(labels[:0] for labels in maps), {}, CITYSCAPES)
    assert histogram.target.size == histogram.predicted.size == histogram.counts.size == 0


def test_frame_histogram_refuses_what_the_codes_refuse():
    car, one = np.array([[CAR]], np.uint8), np.array([[1]])
    with pytest.raises(UserError, match="must not be negative, got -3"):
        frame_histogram(car, np.array([[-3]]), one, {}, CITYSCAPES)
    with pytest.raises(UserError, match="panoptic id 300 is neither"):
        frame_histogram(car, one, np.array([[300]]), {256: CAR}, CITYSCAPES)
    with pytest.raises(UserError, match=r"one size, got \(1, 1\), \(1, 1\), \(1, 2\)"):
        frame_histogram(car, one, np.array([[1, 1]]), {}, CITYSCAPES)
    assert as_dict(frame_histogram(np.array([[1]], np.uint8), np.array([[-3]]), one, {}, CITYSCAPES)) == {(2, 1): 1}


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


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_joining_joined_frames_equals_joining_all(data):
    """Tracks 256 and 257 change their class from frame to frame; frames differ in their segments."""
    size = data.draw(st.integers(1, 6))
    targets = data.draw(arrays(np.int64, (4, size), elements=st.sampled_from([0, 1, 2, 7 * 256 + 14, 9 * 256 + 14])))
    tracks = data.draw(arrays(np.int64, (4, size), elements=st.sampled_from([0, 1, 256 * 256, 257 * 256])))
    classes = data.draw(arrays(np.int64, (4, 2), elements=st.sampled_from([12, 14, 15])))
    codes = np.where(tracks < 256, tracks, tracks + classes[np.arange(4)[:, None], tracks // 256 % 2])
    frames = [joint_histogram(*maps) for maps in zip(targets, codes, strict=True)]
    first_class = {}
    for code in codes[codes >= 256].tolist():
        first_class.setdefault(code // 256, code)
    expected = counted(targets, np.vectorize(lambda code: first_class.get(code // 256, code), otypes=[int])(codes))
    assert as_dict(join_frames(frames)) == expected
    assert as_dict(join_frames([frames[0], join_frames(frames[1:])])) == expected
    assert as_dict(join_frames([*frames[:2], join_frames(frames[2:])])) == expected
