"""Predicted boxes and measured motion."""

from dataclasses import replace

import numpy as np

from vidapt.tracking.motion import blend_motion, measure_motion, outside, predict_boxes
from vidapt.tracking.tracks import Tracks, measure_shapes


def _tracks(boxes, **fields):
    boxes = np.asarray(boxes, float)
    count = len(boxes)
    empty = Tracks.empty(2)
    full = {name: np.zeros((count, *values.shape[1:]), values.dtype) for name, values in empty.arrays().items()}
    full |= {"boxes": boxes, "located": np.ones(count, bool), "hits": np.ones(count, np.int32)}
    return replace(Tracks(**full), **fields)


def test_prediction_moves_and_grows():
    tracks = _tracks([[10, 10, 20, 30]], velocities=np.array([[2.0, -1.0]]), rates=np.array([0.1]))
    assert np.array_equal(predict_boxes(tracks, np.array([0])), tracks.boxes)
    box = predict_boxes(tracks, np.array([3]))[0]
    assert np.allclose((box[:2] + box[2:]) / 2, [21, 17])
    assert np.allclose(box[2:] - box[:2], np.array([10, 20]) * np.exp(0.3))


def test_predicted_growth_is_limited():
    box = predict_boxes(_tracks([[0, 0, 10, 10]], rates=np.array([0.5])), np.array([30]))[0]
    assert np.allclose(box[2:] - box[:2], 15)


FREE = np.ones((1, 4), bool)


def test_motion_between_boxes():
    before, after = np.array([[20.0, 20, 30, 30]]), np.array([[24.0, 22, 34, 32]])
    velocity, rate = measure_motion(before, after, FREE, np.array([2]))
    assert velocity.tolist() == [[2, 1]]
    assert rate.tolist() == [0]
    _, rate = measure_motion(before, np.array([[15.0, 15, 35, 35]]), FREE, np.array([1]))
    assert np.allclose(rate, np.log(2))


def test_edges_where_the_object_is_cut_off_do_not_count():
    # The object leaves to the left: only its right edge shows how fast it is.
    before, after = np.array([[0.0, 20, 20, 30]]), np.array([[0.0, 20, 14, 30]])
    velocity, rate = measure_motion(before, after, np.array([[False, True, True, True]]), np.array([1]))
    assert velocity.tolist() == [[-6, 0]]
    assert np.isnan(rate).all()
    velocity, _ = measure_motion(before, after, np.array([[False, True, False, False]]), np.array([1]))
    assert np.isnan(velocity).tolist() == [[True, False]]


def test_first_measurement_counts_whole_then_momentum_takes_over():
    tracks = _tracks([[20, 20, 30, 30]])
    labels = np.zeros((60, 60), np.int32)
    labels[20:30, 24:34] = 1
    shapes, row = measure_shapes(labels, 1), np.array([0])
    velocity, _ = blend_motion(tracks, shapes, row, 1, 0.7)
    assert velocity.tolist() == [[4, 0]]
    old = replace(tracks, hits=np.array([50], np.int32), velocities=np.array([[1.0, 0]]))
    velocity, _ = blend_motion(old, shapes, row, 1, 0.7)
    assert np.allclose(velocity, [[1.9, 0]])
    for unmeasured in (replace(old, located=np.array([False])), replace(old, cut=np.ones((1, 4), bool))):
        velocity, rate = blend_motion(unmeasured, shapes, row, 1, 0.7)
        assert (velocity.tolist(), rate.tolist()) == ([[1, 0]], [0])


def test_outside():
    boxes = np.array([[-5.0, 0, 0, 5], [-5, 0, 1, 5], [0, 40, 5, 50], [60, 0, 70, 5], [0, -9, 5, -1]])
    assert outside(boxes, (40, 60)).tolist() == [True, False, True, True, True]
