"""Shapes read from label maps, and the track arrays."""

import numpy as np
import pytest

from vidapt.tracking.tracks import GRID, Tracks, measure_shapes


def test_small_masks_keep_every_pixel():
    labels = np.zeros((20, 30), np.int32)
    labels[3:8, 4:10] = 1
    labels[4, 5] = 2
    shapes = measure_shapes(labels, 2)
    assert shapes.boxes.tolist() == [[4, 3, 10, 8], [5, 4, 6, 5]]
    assert shapes.areas.tolist() == [29, 1]
    assert shapes.cells.tolist() == [[5, 6], [1, 1]]
    assert np.array_equal(shapes.grids[0, :5, :6], labels[3:8, 4:10] == 1)
    assert shapes.grids.sum((1, 2)).tolist() == [29, 1]


def test_large_masks_are_sampled_on_the_grid():
    labels = np.zeros((300, 500), np.int32)
    y, x = np.mgrid[:300, :500]
    labels[((y - 150) / 120) ** 2 + ((x - 250) / 200) ** 2 < 1] = 1
    shapes = measure_shapes(labels, 1)
    assert shapes.cells.tolist() == [[GRID, GRID]]
    box = (shapes.boxes[0, 2] - shapes.boxes[0, 0]) * (shapes.boxes[0, 3] - shapes.boxes[0, 1])
    assert shapes.grids.mean() == pytest.approx(shapes.areas[0] / box, abs=0.01)


def test_thin_diagonal_keeps_cells():
    labels = np.zeros((400, 400), np.int32)
    labels[[0, 399], [3, 399]] = 1
    assert measure_shapes(labels, 1).grids.sum() == 2


def test_edges_along_the_border_or_another_detection_are_cut():
    labels = np.zeros((40, 40), np.int32)
    labels[0:10, 5:15] = 1
    labels[20:30, 10:20] = 2
    labels[22:36, 20:30] = 3
    labels[20:22, 28:40] = 4
    assert measure_shapes(labels, 4).cut.tolist() == [
        [False, True, False, False],
        [False, False, True, False],
        [True, False, False, False],
        [False, False, True, False],
    ]


def test_detection_without_pixels_and_empty_map():
    shapes = measure_shapes(np.zeros((5, 5), np.int32), 2)
    assert shapes.areas.tolist() == [0, 0]
    assert not shapes.grids.any()
    assert len(measure_shapes(np.zeros((5, 5), np.int32), 0).areas) == 0


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_count_are_refused(label):
    with pytest.raises(ValueError, match=r"labels must be 0\.\.2"):
        measure_shapes(np.full((4, 4), label, np.int32), 2)


def test_empty_select_and_join():
    tracks = Tracks.empty(3, 8)
    assert len(tracks) == 0
    assert tracks.votes.shape == (0, 3)
    assert tracks.embeddings.shape == (0, 8)
    assert len(tracks.join(Tracks.empty(3, 8)).select(np.zeros(0, bool))) == 0
