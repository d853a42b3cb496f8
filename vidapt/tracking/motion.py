"""Where a track is expected next, and what a new detection says about its motion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.tracking.tracks import Shapes, Tracks

MAX_SCALE = np.log(1.5)
"""Largest change of the log size that a prediction may make, however long the track was lost."""


def predict_boxes(tracks: Tracks, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Boxes float64 (T,4) after ``steps`` (T,) frames of constant velocity and constant rate of the log size."""
    centres = (tracks.boxes[:, :2] + tracks.boxes[:, 2:]) / 2 + tracks.velocities * steps[:, None]
    scale = np.exp(np.clip(tracks.rates * steps, -MAX_SCALE, MAX_SCALE))
    half = (tracks.boxes[:, 2:] - tracks.boxes[:, :2]) / 2 * scale[:, None]
    return np.concatenate([centres - half, centres + half], axis=1)


def measure_motion(
    before: NDArray[np.float64], after: NDArray[np.float64], free: NDArray[np.bool_], steps: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Velocity float64 (M,2) in pixels and rate of the log size (M,), both per frame, between two sets of boxes.

    An edge where the object is cut off (by the image border or by another object) says nothing about its motion: only
    the free edges count. What no free edge shows is NaN; the size needs all four.

    Args:
        before: float64 (M,4) boxes.
        after: float64 (M,4) boxes, ``steps`` frames later.
        free: bool (M,4), edges left, top, right, bottom that are cut off in neither.
        steps: int64 (M,), at least 1.
    """
    moved = np.where(free, after - before, 0.0)
    count = free[:, :2].astype(int) + free[:, 2:]
    velocity = (moved[:, :2] + moved[:, 2:]) / np.maximum(count, 1) / steps[:, None]
    sides = np.maximum(np.stack([before[:, 2:] - before[:, :2], after[:, 2:] - after[:, :2]]), 1e-6)
    growth = np.log(sides[1] / sides[0]).mean(1) / steps
    return np.where(count > 0, velocity, np.nan), np.where(free.all(1), growth, np.nan)


def outside(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """bool (T,): True where a box lies wholly outside an image of ``size`` (height, width)."""
    height, width = size
    return (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0) | (boxes[:, 0] >= width) | (boxes[:, 1] >= height)


def blend_motion(
    tracks: Tracks, shapes: Shapes, rows: NDArray[np.int64], frame: int, momentum: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Running means of velocity (M,2) and size rate (M,) after M tracks were found in frame ``frame``.

    The first measurements enter with equal weight, so that a young track does not start at rest. What cannot be
    measured stays as it was; nothing can for a track that is found again after a scene cut.

    Args:
        tracks: M tracks before this frame.
        shapes: Shapes of the detections of the frame.
        rows: int64 (M,), the detection of each track.
        frame: Frame count of the detections.
        momentum: Share of the old value.
    """
    free = ~(tracks.cut | shapes.cut[rows]) & tracks.located[:, None]
    velocity, rate = measure_motion(tracks.boxes, shapes.boxes[rows], free, frame - tracks.seen)
    weight = np.maximum(1 - momentum, 1 / tracks.hits)
    velocity = tracks.velocities + np.nan_to_num(weight[:, None] * (velocity - tracks.velocities))
    return velocity, tracks.rates + np.nan_to_num(weight * (rate - tracks.rates))
