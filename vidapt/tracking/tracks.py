"""Tracks and the shapes of detections, as arrays of bounded size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

GRID = 64
"""Rows and columns of the cell grid that holds a mask; objects up to this size keep every pixel."""

MIN_CONTACT = 0.25
"""Share of a box side along which another detection must run to count as cutting the object off there."""


@dataclass(frozen=True)
class Tracks:
    """T tracks, sorted by id; every field has T rows.

    Attributes:
        ids: int32 (T,).
        born: int64 (T,), frame count of the first detection.
        seen: int64 (T,), frame count of the latest detection.
        hits: int32 (T,), number of detections.
        located: bool (T,), False after a scene cut until the track is found again.
        boxes: float64 (T,4) x0, y0, x1, y1 of the latest detection in pixels, x1 and y1 exclusive.
        cut: bool (T,4), edges of that box where the object goes on behind another one or outside the image.
        velocities: float64 (T,2), pixels per frame along x and y.
        rates: float64 (T,), log size per frame.
        areas: float64 (T,), pixels of the latest detection.
        grids: bool (T,64,64), the latest mask inside its box.
        cells: int16 (T,2), rows and columns of ``grids`` that are in use.
        votes: float32 (T,C), class votes with decay.
        embeddings: float32 (T,D), unit length, or zero where no detection carried one.
    """

    ids: NDArray[np.int32]
    born: NDArray[np.int64]
    seen: NDArray[np.int64]
    hits: NDArray[np.int32]
    located: NDArray[np.bool_]
    boxes: NDArray[np.float64]
    cut: NDArray[np.bool_]
    velocities: NDArray[np.float64]
    rates: NDArray[np.float64]
    areas: NDArray[np.float64]
    grids: NDArray[np.bool_]
    cells: NDArray[np.int16]
    votes: NDArray[np.float32]
    embeddings: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def empty(classes: int, dimensions: int = 0) -> Tracks:
        """No tracks, for ``classes`` classes and embeddings of ``dimensions`` values."""
        sizes = {"C": classes, "D": dimensions}
        return Tracks(
            **{
                name: np.zeros((0, *(sizes.get(axis, 0) if isinstance(axis, str) else axis for axis in shape)), dtype)
                for name, (shape, dtype) in _LAYOUT.items()
            }
        )

    def arrays(self) -> dict[str, NDArray]:
        """The fields by name; not copied."""
        return dict(vars(self))

    def select(self, rows: NDArray) -> Tracks:
        """The tracks that ``rows`` (bool (T,) or positions) names."""
        return Tracks(**{name: values[rows] for name, values in self.arrays().items()})

    def join(self, others: Tracks) -> Tracks:
        """These tracks followed by ``others``."""
        mine, theirs = self.arrays(), others.arrays()
        return Tracks(**{name: np.concatenate([mine[name], theirs[name]]) for name in mine})


_LAYOUT: Mapping[str, tuple[tuple[int | str, ...], type]] = {
    "ids": ((), np.int32),
    "born": ((), np.int64),
    "seen": ((), np.int64),
    "hits": ((), np.int32),
    "located": ((), np.bool_),
    "boxes": ((4,), np.float64),
    "cut": ((4,), np.bool_),
    "velocities": ((2,), np.float64),
    "rates": ((), np.float64),
    "areas": ((), np.float64),
    "grids": ((GRID, GRID), np.bool_),
    "cells": ((2,), np.int16),
    "votes": (("C",), np.float32),
    "embeddings": (("D",), np.float32),
}


@dataclass(frozen=True)
class Shapes:
    """What the label map of one frame shows of its K detections.

    Attributes:
        boxes: float64 (K,4) x0, y0, x1, y1 in pixels, x1 and y1 exclusive; zeros without pixels.
        cut: bool (K,4), edges that lie on the border of the image or run along another detection.
        areas: float64 (K,) pixels.
        grids: bool (K,64,64).
        cells: int16 (K,2).
    """

    boxes: NDArray[np.float64]
    cut: NDArray[np.bool_]
    areas: NDArray[np.float64]
    grids: NDArray[np.bool_]
    cells: NDArray[np.int16]


def measure_shapes(labels: NDArray[np.int32], count: int) -> Shapes:
    """Read boxes, areas and cell grids of the detections from a label map.

    Args:
        labels: int32 (h,w): 0 = none, k + 1 = detection k.
        count: K.

    Raises:
        ValueError: If a label is negative or above ``count``.
    """
    covered = labels[labels != 0]
    if covered.size and (covered.min() < 0 or covered.max() > count):
        raise ValueError(f"labels must be 0..{count}, got {covered.min()}..{covered.max()}")
    boxes, cells = np.zeros((count, 4)), np.zeros((count, 2), np.int16)
    grids = np.zeros((count, GRID, GRID), bool)
    for k, region in enumerate(ndimage.find_objects(labels, count) if count else ()):
        if region is None:
            continue
        rows, columns = region
        grid = _sample_grid(labels[region] == k + 1)
        boxes[k] = columns.start, rows.start, columns.stop, rows.stop
        cells[k] = grid.shape
        grids[k, : grid.shape[0], : grid.shape[1]] = grid
    areas = np.bincount(covered, minlength=count + 1)[1:].astype(np.float64)
    return Shapes(boxes, _cut_edges(labels, boxes), areas, grids, cells)


def _cut_edges(labels: NDArray[np.int32], boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool (K,4): left, top, right and bottom edges at which a detection may be cut off."""
    height, width = labels.shape
    left, right = _touching(labels, boxes[:, 0], boxes[:, 2], axis=1)
    top, bottom = _touching(labels, boxes[:, 1], boxes[:, 3], axis=0)
    touching = np.stack([left, top, right, bottom], axis=1)
    sides = (boxes[:, 2:] - boxes[:, :2])[:, [1, 0, 1, 0]]
    border = np.concatenate([boxes[:, :2] <= 0, boxes[:, 2:] >= (width, height)], axis=1)
    return border | (touching > MIN_CONTACT * sides)


def _touching(
    labels: NDArray[np.int32], starts: NDArray[np.float64], stops: NDArray[np.float64], axis: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of each detection's first and last line along ``axis`` that border on another one outside the box."""
    before, after = (labels[:-1], labels[1:]) if axis == 0 else (labels[:, :-1], labels[:, 1:])
    index = np.flatnonzero((before != after) & (before != 0) & (after != 0))
    place = np.unravel_index(index, before.shape)
    ending, starting, position = before[place] - 1, after[place] - 1, place[axis] + 1
    first, last = starting[starts[starting] == position], ending[stops[ending] == position]
    return np.bincount(first, minlength=len(starts)), np.bincount(last, minlength=len(starts))


def _sample_grid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    height, width = mask.shape
    if height <= GRID and width <= GRID:
        return mask
    rows, columns = min(height, GRID), min(width, GRID)
    sampled = mask[np.ix_(_centres(height, rows), _centres(width, columns))]
    if sampled.any():
        return sampled
    # A thin diagonal can miss every sample point: mark the cells that hold a pixel.
    y, x = np.nonzero(mask)
    sampled[y * rows // height, x * columns // width] = True
    return sampled


def _centres(length: int, cells: int) -> NDArray[np.int64]:
    return ((np.arange(cells) + 0.5) * length / cells).astype(np.int64)
