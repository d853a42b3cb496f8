"""Deterministic street-like pictures with known classes and objects, to be written in any data set's format."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tests.datasets.miniature.truth import LabelledFrame, TrueFrame

_COLOURS = np.random.default_rng(2026).integers(30, 226, (4093, 3))


@dataclass(frozen=True)
class Cast:
    """Which raw class ids play which part in a street; -1 stands for void without an id.

    ``bands`` are stuff layers from top to bottom. ``columns`` are thin upright strips such as poles and ``patches``
    small blocks such as signs; both pass by as the camera pans. ``crowds`` are regions of a thing class without single
    instances. ``movers`` are (class id, object number) pairs of boxes that move over the road, the later in front;
    number 0 makes a box without identity. ``voids`` are up to three class ids: a strip along the bottom, one along the
    left edge and a block in the upper right corner.
    """

    bands: tuple[int, ...]
    columns: tuple[int, ...] = ()
    patches: tuple[int, ...] = ()
    crowds: tuple[int, ...] = ()
    movers: tuple[tuple[int, int], ...] = ()
    voids: tuple[int, ...] = ()


class _Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int
    class_id: int
    number: int = 0
    crowd: bool = False


def draw_street(cast: Cast, *, seed: int = 0, time: int = 0, size: tuple[int, int] = (48, 96)) -> LabelledFrame:
    """The street number ``seed`` in frame ``time``, as image, classes, objects and crowd of ``size`` (H,W).

    The same arguments give the same picture. H must be at least 24 and W at least 48.
    """
    if size[0] < 24 or size[1] < 48:
        raise ValueError(f"a street of {size} is too small to show all of its parts; take at least (24, 48)")
    classes = _draw_bands(cast.bands, seed, time, size)
    objects = np.zeros(size, np.int32)
    crowd = np.zeros(size, bool)
    for box in _boxes(cast, seed, time, size):
        rows = slice(max(box.top, 0), max(box.top + box.height, 0))
        area = rows, slice(max(box.left, 0), max(box.left + box.width, 0))
        classes[area], objects[area], crowd[area] = box.class_id, box.number, box.crowd
    return LabelledFrame(_paint(classes, objects, seed, time), classes, objects, crowd)


def hide_labels(frame: TrueFrame) -> TrueFrame:
    """The same picture without annotation."""
    return TrueFrame(frame.image, None, None, None)


def _draw_bands(bands: tuple[int, ...], seed: int, time: int, size: tuple[int, int]) -> np.ndarray:
    """Layers with wavy borders that pan over time: int32 (H,W)."""
    height, width = size
    wave = height / (4 * len(bands)) * np.sin(2 * np.pi * (np.arange(width) + time) / width * 2 + seed)
    layer = (np.arange(height)[:, None] + wave) * len(bands) / height
    return np.array(bands, np.int32)[np.clip(layer.astype(int), 0, len(bands) - 1)]


def _boxes(cast: Cast, seed: int, time: int, size: tuple[int, int]) -> Iterator[_Box]:
    """All rectangles of the street, from the furthest to the nearest."""
    height, width = size
    rng = np.random.default_rng(seed)
    for index, class_id in enumerate(cast.columns):
        left = (_spread(index, len(cast.columns), width, rng) + time) % width
        yield _Box(height // 6, left, height // 2, max(width // 48, 1), class_id)
    for index, class_id in enumerate(cast.patches):
        left = (_spread(index, len(cast.patches), width, rng) + time) % width
        yield _Box(height // 8 + index % 2 * height // 8, left, height // 8, width // 16, class_id)
    for index, class_id in enumerate(cast.crowds):
        left = _spread(index, len(cast.crowds), width, rng)
        yield _Box(height // 2, left, height // 6, width // 8, class_id, crowd=True)
    for index, (class_id, number) in enumerate(cast.movers):
        yield _mover(index, len(cast.movers), time, size, rng)._replace(class_id=class_id, number=number)
    for class_id, box in zip(
        cast.voids,
        ((height - height // 12, 0, height, width), (0, 0, height, width // 48), (0, width - width // 12, 3, width)),
        strict=False,
    ):
        yield _Box(*box, class_id)


def _spread(index: int, count: int, extent: int, rng: np.random.Generator) -> int:
    """A random place in the ``index``-th of ``count`` equal parts of ``extent`` pixels."""
    return int((index + rng.uniform(0.2, 0.6)) * extent / count)


def _mover(index: int, count: int, time: int, size: tuple[int, int], rng: np.random.Generator) -> _Box:
    """A box on its lane; it leaves the picture at one side and comes back at the other."""
    height, width = size
    box = height // 5, width // 8 + index % 2 * width // 24
    speed = (1 + index % 3) * (-1) ** index * width / 96
    way = width + 2 * box[1]
    left = (_spread(index, count, width, rng) + box[1] + speed * time) % way - box[1]
    return _Box(height // 2 + index * height // (4 * count), round(left), *box, class_id=0)


def _paint(classes: np.ndarray, objects: np.ndarray, seed: int, time: int) -> np.ndarray:
    """One colour per class and object with a slope over the picture and noise: uint8 (H,W,3)."""
    slope = np.linspace(-12, 12, classes.shape[1])[:, None]
    noise = np.random.default_rng((seed, time)).integers(-6, 7, (*classes.shape, 3))
    picture = _COLOURS[(classes * 31 + objects * 17) % len(_COLOURS)] + slope + noise
    return picture.clip(0, 255).astype(np.uint8)
