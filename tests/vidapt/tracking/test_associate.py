"""Overlaps against a plain loop, assignment against brute force, appearance."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from vidapt.tracking.associate import assign, cosines, duplicates, mask_iou, normalise, within_reach
from vidapt.tracking.tracks import Tracks, measure_shapes


def _from_labels(labels, count):
    shapes = measure_shapes(labels, count)
    empty = Tracks.empty(2).arrays()
    full = {name: np.zeros((count, *values.shape[1:]), values.dtype) for name, values in empty.items()}
    full |= {name: getattr(shapes, name) for name in ("boxes", "areas", "grids", "cells")}
    return Tracks(**(full | {"located": np.ones(count, bool)}))


def _blobs(rng, size, count):
    labels = np.zeros(size, np.int32)
    y, x = np.mgrid[: size[0], : size[1]]
    for k in range(1, count + 1):
        cy, cx, ry, rx = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(2, 14), rng.uniform(2, 14)
        labels[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = k
    return labels


def _iou_by_loop(before, after, tracks, boxes, count):
    result = np.zeros((len(tracks), count))
    for t in range(len(tracks)):
        dx, dy = (boxes[t, :2] - tracks.boxes[t, :2]).astype(int)
        moved = np.zeros(after.shape, bool)
        for y, x in zip(*np.nonzero(before == t + 1), strict=True):
            if 0 <= y + dy < after.shape[0] and 0 <= x + dx < after.shape[1]:
                moved[y + dy, x + dx] = True
        for k in range(count):
            union = (moved | (after == k + 1)).sum()
            result[t, k] = (moved & (after == k + 1)).sum() / union if union else 0
    return result


@pytest.mark.parametrize("seed", range(5))
def test_iou_equals_a_loop_over_pixels(seed):
    rng = np.random.default_rng(seed)
    before, after = _blobs(rng, (40, 50), 6), _blobs(rng, (40, 50), 7)
    tracks = _from_labels(before, 6)
    boxes = tracks.boxes + np.tile(rng.integers(-8, 9, (6, 2)), 2)
    iou = mask_iou(after, measure_shapes(after, 7).areas, tracks, boxes)
    assert np.allclose(iou, _iou_by_loop(before, after, tracks, boxes, 7))
    assert iou.max() > 0.1


def test_iou_of_large_and_scaled_masks_is_close():
    y, x = np.mgrid[:300, :400]
    inner = (((y - 150) / 60) ** 2 + ((x - 200) / 80) ** 2 < 1).astype(np.int32)
    outer = (((y - 150) / 90) ** 2 + ((x - 200) / 120) ** 2 < 1).astype(np.int32)
    tracks = _from_labels(inner, 1)
    areas = measure_shapes(outer, 1).areas
    assert mask_iou(outer, areas, tracks, tracks.boxes)[0, 0] == pytest.approx(inner.sum() / outer.sum(), abs=0.01)
    grown = np.array([[80.0, 60, 320, 240]])
    assert mask_iou(outer, areas, tracks, grown)[0, 0] > 0.97


def test_iou_edge_cases():
    labels = np.zeros((10, 10), np.int32)
    labels[2, 3] = 1
    one = _from_labels(labels, 1)
    area = np.ones(1)
    assert mask_iou(labels, area, one, one.boxes).tolist() == [[1.0]]
    assert mask_iou(labels, area, one, one.boxes + 1).tolist() == [[0.0]]
    assert mask_iou(labels, area, one, one.boxes - 50).tolist() == [[0.0]]
    assert mask_iou(labels, area, replace(one, located=np.array([False])), one.boxes).tolist() == [[0.0]]
    assert mask_iou(labels, area, Tracks.empty(2), np.zeros((0, 4))).shape == (0, 1)
    assert mask_iou(labels * 0, np.zeros(0), one, one.boxes).shape == (1, 0)


@pytest.mark.parametrize("seed", range(10))
def test_assignment_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.random((4, 4))
    allowed = rng.random((4, 4)) > 0.4
    rows, columns = assign(similarity, allowed)
    assert allowed[rows, columns].all()
    best = max(sum(similarity[r, c] * allowed[r, c] for r, c in enumerate(p)) for p in permutations(range(4)))
    assert similarity[rows, columns].sum() == pytest.approx(best)


def test_assignment_without_candidates():
    rows, columns = assign(np.ones((3, 2)), np.zeros((3, 2), bool))
    assert len(rows) == len(columns) == 0
    assert len(assign(np.ones((0, 2)), np.ones((0, 2), bool))[0]) == 0


def test_cosines_ignore_missing_vectors():
    left = normalise(np.array([[3.0, 4.0], [0, 0]], np.float32))
    right = normalise(np.array([[6.0, 8.0], [np.nan, 1], [-4, 3]], np.float32))
    assert cosines(left, right)[0] == pytest.approx([1, -np.inf, 0], abs=1e-6)
    assert np.isneginf(cosines(left, right)[1]).all()


def test_reach_grows_while_lost():
    box = np.array([[0.0, 0, 30, 40]])
    far = np.array([[60.0, 0, 90, 40]])
    assert not within_reach(box, far, np.array([0])).any()
    assert not within_reach(box, far, np.array([1])).any()
    assert within_reach(box, far, np.array([2])).all()


def test_duplicates_need_a_track_born_after_the_loss():
    tracks = replace(
        _from_labels(np.array([[1, 2, 3]], np.int32), 3), born=np.array([1, 1, 9]), seen=np.array([5, 9, 10])
    )
    iou = np.array([[0.9], [0.9], [1.0]])
    assert duplicates(iou, tracks, np.array([2]), 0.85).tolist() == [True, False, False]
    assert duplicates(iou, tracks, np.array([1]), 0.85).tolist() == [False, False, False]
    assert duplicates(iou, tracks, np.array([-1]), 0.85).tolist() == [False, False, False]
    assert duplicates(np.zeros((0, 1)), Tracks.empty(2), np.array([-1]), 0.85).shape == (0,)
