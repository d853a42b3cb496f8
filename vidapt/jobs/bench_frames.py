"""Generated street video for benchmarks of scoring: label maps with noise at the borders, and wrong predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from vidapt.clip import FIRST_THING_ID, IGNORE, PanopticFrame, Segment
from vidapt.labels import find_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace

    Maps = tuple[NDArray[np.uint8], NDArray[np.int32]]

THINGS = 45


@dataclass(frozen=True)
class LabelledFrame:
    """A frame's target, semantic uint8 (H,W) and instance int32 (H,W), and its prediction."""

    semantic: NDArray[np.uint8]
    instance: NDArray[np.int32]
    prediction: PanopticFrame

    @property
    def categories(self) -> dict[int, int]:
        """Train id of each predicted id."""
        return {segment.id: segment.category for segment in self.prediction.segments}


def street_frame(seed: int, index: int, size: tuple[int, int]) -> LabelledFrame:
    """Draw one frame of a video of Cityscapes classes: about 50 segments with noise at the borders.

    Houses, trees, poles and a road that pass by, and things that move; the lowest rows have no label. The prediction
    is the same street some pixels aside; its uppermost rows are void, some things have the wrong class, and tracks get
    a new id after every fourth frame.

    Args:
        seed: Seed of the video.
        index: Number of the frame.
        size: Height and width.
    """
    semantic, instance = _draw(np.random.default_rng(seed), index, size)
    rng = np.random.default_rng((seed, index))
    target, track = _blur(rng, (semantic, instance), 1)
    target[-size[0] // 12 :] = IGNORE
    found, thing = _blur(rng, (np.roll(semantic, 3, 1), np.roll(instance, 3, 1)), 2)
    space = find_space("cityscapes")
    ids = np.where(thing > 0, FIRST_THING_ID + thing + 1000 * (index // 4), found.astype(np.int32) + 1)
    ids[: size[0] // 50] = 0
    segments = [_segment(number, found[ids == number], space) for number in np.unique(ids[ids > 0]).tolist()]
    prediction = PanopticFrame(index, index / 10, found, ids.astype(np.int32), tuple(segments))
    return LabelledFrame(target, track, prediction)


def _segment(number: int, classes: NDArray[np.uint8], space: LabelSpace) -> Segment:
    """Segment of panoptic id ``number``; every seventh thing is taken for the thing class before its own."""
    if number < FIRST_THING_ID:
        return Segment(number, number - 1, False, 1.0, classes.size, (0, 0, 1, 1))
    category = int(np.bincount(classes).argmax())
    wrong = number % 7 == 0 and category - 1 in space.things
    return Segment(number, category - wrong, True, 1.0, classes.size, (0, 0, 1, 1))


def _draw(rng: np.random.Generator, index: int, size: tuple[int, int]) -> Maps:
    """Semantic and instance of the street without noise; the same ``rng`` gives the same street."""
    height, width = size
    horizon, passed = height * 2 // 5, 3 * index
    semantic, instance = np.full(size, 10, np.uint8), np.zeros(size, np.int32)
    semantic[horizon:] = 9
    for left in range(0, width, max(width // 10, 1)):
        box = (left - passed, int(rng.integers(height // 20, horizon)))
        cv2.rectangle(semantic, box, (box[0] + width // 9, horizon + height // 8), int(rng.choice((2, 3, 4, 8))), -1)
    for label, left, right in ((1, 0, width), (0, width // 8, width * 7 // 8)):
        corners = ((left, height), (width // 2 - 8, horizon), (width // 2 + 8, horizon), (right, height))
        cv2.fillPoly(semantic, [np.array(corners, np.int32)], label)
    for left in rng.integers(0, width, 8).tolist():
        x, top = left - passed, horizon // 2
        cv2.rectangle(semantic, (x, top), (x + width // 300, height * 6 // 10), 5, -1)
        cv2.rectangle(semantic, (x, top), (x + width // 60, top + height // 30), 7, -1)
    for number in range(1, THINGS + 1):
        near, speed = rng.random(), int(rng.integers(-12, 13))
        centre = (int(rng.integers(0, width)) + index * speed, int(horizon + near * height * 0.45))
        radius = 2 + height * (0.01 + 0.09 * near * rng.random())
        outline = cv2.ellipse2Poly(centre, (int(1.6 * radius), int(radius)), int(rng.integers(0, 30)), 0, 360, 15)
        cv2.fillPoly(semantic, [outline], int(rng.choice((11, 12, 13, 13, 13, 14, 18))))
        cv2.fillPoly(instance, [outline], number)
    return semantic, instance


def _blur(rng: np.random.Generator, maps: Maps, reach: int) -> Maps:
    """Give each pixel the labels of one at most ``reach`` rows and columns away."""
    height, width = maps[0].shape
    rows, columns = rng.integers(-reach, reach + 1, (2, height, width), np.int8)
    y = np.clip(np.arange(height)[:, None] + rows, 0, height - 1)
    x = np.clip(np.arange(width) + columns, 0, width - 1)
    return maps[0][y, x], maps[1][y, x]
