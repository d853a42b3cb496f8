"""BDD100K: JPEG pictures with train id masks, panoptic bitmasks or bitmasks of tracked objects."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.datasets.miniature.scene import Cast, draw_street, hide_labels
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth
from tests.datasets.miniature.writing import write_jpeg, write_png

THINGS = frozenset(range(31, 41))
"""Label ids with single instances, of kinds panoptic and seg_track."""
TRACK_CATEGORIES = {1: 31, 2: 32, 3: 35, 4: 40, 5: 34, 6: 39, 7: 37, 8: 33}
"""Category ids of the tracked objects -> label ids: pedestrian, rider, car, truck, bus, train, motorcycle, bicycle."""
FRAMES_PER_SECOND = 5
BUS, OCCLUDED_CAR, IGNORED_CAR = 34 << 16 | 256, 35 << 16 | 300, 35 << 16 | 41
"""Objects of kinds panoptic and seg_track with attributes: truncated, truncated and occluded, ignored."""
_TRAIN_ID, _TRAIN = 16, 39 << 16 | 999
_CROWD = 42
_OBJECTS = (35 << 16 | 31, IGNORED_CAR, OCCLUDED_CAR, 31 << 16 | 32, 32 << 16 | 33, 33 << 16 | 34, BUS, 31 << 16 | 257)
_MOVERS = tuple((number >> 16, number) for number in _OBJECTS)
_PANOPTIC = Cast(
    bands=(30, 10, 29, 11, 28, 8, 7, 18),
    columns=(20, 22),
    patches=(25, 26, 17),
    crowds=(31, 35),
    movers=_MOVERS,
    voids=(0, 1, 4),
)
_TRACKED = Cast(bands=(-1,), crowds=(31, 35), movers=_MOVERS)
_SEMANTIC = Cast(
    bands=(10, 2, 8, 4, 9, 1, 0),
    columns=(5,),
    patches=(6, 7),
    movers=tuple((train_id, 0) for train_id in (13, 11, 12, 18, 15, 14)),
    voids=(-1, -1),
)


class _Picture(NamedTuple):
    key: str
    label: str
    frame: LabelledFrame


def build(
    root: Path,
    *,
    split: str = "train",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    frames: int = 3,
    kind: str = "panoptic",
) -> Truth:
    """Write one of the label sets of BDD100K and its pictures; ``root`` holds ``images`` and ``labels``.

    kind 'semantic': images/10k/{split}/*.jpg, labels/sem_seg/masks/{split}/*.png, 8-bit grey train ids and 255. The
    true classes are train ids, -1 where the mask says 255, without objects.

    kind 'panoptic': the same pictures, labels/pan_seg/bitmasks/{split}/*.png. R is the label id (0: not labelled) and
    the number of stuff is its label id, things count from 31, as the official converter does it. Stuff so has true
    objects.

    kind 'seg_track': images/seg_track_20/{split}/{video}/{video}-{frame:07d}.jpg, two videos at 5 Hz that count from
    frame 1, labels/seg_track_20/bitmasks/... with the category ids 1..8 in R and track ids that stay over a video. The
    true classes are the label ids of ``TRACK_CATEGORIES``, -1 on the background.

    Bitmasks are RGBA: category, attribute bits, high and low byte of the number; alpha is data and may be 0. Crowds and
    the ignored car (``IGNORED_CAR`` in the files) have numbers, but are no valid objects: the true object is 0 and
    ``crowd`` is set for both, as the official converter to COCO counts ignored objects as crowd. Truncated and occluded
    objects are valid. Label id 39 (train) occurs in the first frame only. The split test has pictures only. Colour
    maps, polygons and RLE files are left out.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"BDD100K has the splits train, val and test, not {split!r}")
    found: dict[str, TrueFrame] = {}
    videos = []
    for video in _videos(kind, split, seed, size, frames):
        for picture in video:
            write_jpeg(root / picture.key, picture.frame.image)
            found[picture.key] = hide_labels(picture.frame)
            if split != "test":
                write_png(root / picture.label, _encode(kind, picture.frame))
                found[picture.key] = _truth(kind, picture.frame)
        videos.append([picture.key for picture in video])
    rate = FRAMES_PER_SECOND
    times = [[time / rate for time in range(len(keys))] for keys in videos] if kind == "seg_track" else None
    return Truth(root, found, videos, times)


def bitmask_pixel(
    category: int,
    number: int,
    *,
    truncated: bool = False,
    occluded: bool = False,
    crowd: bool = False,
    ignored: bool = False,
) -> tuple[int, int, int, int]:
    """The RGBA value of one object."""
    return category, truncated << 3 | occluded << 2 | crowd << 1 | ignored, number >> 8, number & 255


def _videos(kind: str, split: str, seed: int, size: tuple[int, int], frames: int) -> Iterator[list[_Picture]]:
    if kind == "seg_track":
        for number, name in enumerate(("b1c66a42-6f7d68ca", "00091078-84635cf2")):
            stems = [f"{split}/{name}/{name}-{time + 1:07d}" for time in range(frames)]
            yield [
                _Picture(
                    f"images/seg_track_20/{stem}.jpg",
                    f"labels/seg_track_20/bitmasks/{stem}.png",
                    _draw(kind, _TRACKED, seed * 1000 + number, time, size),
                )
                for time, stem in enumerate(stems)
            ]
        return
    cast, folder = {"semantic": (_SEMANTIC, "sem_seg/masks"), "panoptic": (_PANOPTIC, "pan_seg/bitmasks")}[kind]
    for index in range(frames):
        stem = f"{split}/{0x7D128593 + index * 0x1234567:08x}-{0x0CCFEA4C + index:08x}"
        frame = _draw(kind, cast, seed * 1000 + index, 0, size)
        yield [_Picture(f"images/10k/{stem}.jpg", f"labels/{folder}/{stem}.png", frame)]


def _draw(kind: str, cast: Cast, street: int, time: int, size: tuple[int, int]) -> LabelledFrame:
    """A street with a train in the upper left corner of the first frame."""
    frame = draw_street(cast, seed=street, time=time, size=size)
    if street % 1000 == 0 and time == 0:
        corner = slice(0, 2), slice(4, 12)
        frame.classes[corner] = _TRAIN_ID if kind == "semantic" else _TRAIN >> 16
        frame.objects[corner] = 0 if kind == "semantic" else _TRAIN
    return frame


def _encode(kind: str, frame: LabelledFrame) -> np.ndarray:
    """The label picture of a frame: uint8 (H,W) of kind semantic, else (H,W,4)."""
    if kind == "semantic":
        return np.where(frame.classes < 0, 255, frame.classes).astype(np.uint8)
    categories = {label: category for category, label in TRACK_CATEGORIES.items()}
    picture = np.zeros((*frame.classes.shape, 4), np.uint8)
    for label in np.unique(frame.classes[frame.classes > 0]):
        category = int(label) if kind == "panoptic" else categories[int(label)]
        for number in np.unique(frame.objects[frame.classes == label]):
            here = (frame.classes == label) & (frame.objects == number)
            picture[here] = _pixel(category, int(number), crowd=bool(frame.crowd[here].all()))
    return picture


def _pixel(category: int, number: int, crowd: bool) -> tuple[int, int, int, int]:
    """The RGBA value of an object by its number in the street; stuff and crowds have none there."""
    if number == 0:
        return bitmask_pixel(category, _CROWD + category if crowd else category, crowd=crowd)
    truncated, occluded, ignored = number in (BUS, OCCLUDED_CAR), number == OCCLUDED_CAR, number == IGNORED_CAR
    return bitmask_pixel(category, number & 0xFFFF, truncated=truncated, occluded=occluded, ignored=ignored)


def _truth(kind: str, frame: LabelledFrame) -> TrueFrame:
    """The frame as its files tell it: no instances, or numbers on stuff and none on what is crowd or ignored."""
    if kind == "semantic":
        return TrueFrame(frame.image, frame.classes, None, None)
    crowd = frame.crowd | (frame.objects == IGNORED_CAR)
    stuff = np.where(
        (frame.classes > 0) & ~np.isin(frame.classes, list(THINGS)), frame.classes << 16 | frame.classes, 0
    )
    return replace(frame, objects=np.where(crowd, 0, frame.objects + stuff), crowd=crowd)
