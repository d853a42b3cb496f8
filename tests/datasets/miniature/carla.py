"""CARLA recordings (tags of version 0.9.14 and later): picture, tags and instances as three PNG files per frame."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.datasets.miniature.scene import Cast, draw_street
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth
from tests.datasets.miniature.writing import write_png

THINGS = frozenset(range(12, 20))
BUILDING, VEGETATION = 3, 9
_STUFF_NUMBERS = {
    1: (15284, 16052),
    2: (7349, 1717),
    BUILDING: (608, 1120),
    6: (53082, 53594),
    7: (53082, 53594),
    8: (53082, 53594),
    VEGETATION: (30364, 33250),
    11: (11104, 11104),
    20: (33250, 2734),
    24: (32436, 512),
}
"""Instance number of each stuff tag in the left and in the right half; tags share numbers, as in real recordings."""

_CAST = Cast(
    bands=(11, VEGETATION, BUILDING, 2, 24, 1, 1),
    columns=(6, 6),
    patches=(7, 8),
    movers=tuple(
        (tag, tag << 16 | number) for tag, number in ((14, 11950), (14, 256), (12, 11950), (15, 44), (19, 65535))
    ),
    voids=(0,),
)
_ONCE = 20


def build(
    root: Path,
    *,
    split: str = "train",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    frames: int = 3,
    disagreeing: bool = False,
) -> Truth:
    """Write ``{town}_{frame:06d}_{tick}_{img,labelIds,instance}.png`` flat into ``root``.

    ``labelIds`` is 8-bit grey with the tag; ``instance`` is RGB with the tag in R and the number 256 G + B. As in the
    real recordings stuff has numbers too (tag 0 has none), one number occurs under several tags, and only tag and
    number together name an object; the true objects follow both, and their lower 16 bits are the number. Tag 20
    (static) occurs in the first frame only.

    In real recordings the two label pictures disagree on about 2 % of the pixels, mostly building against vegetation.
    With ``disagreeing`` a few building pixels of ``labelIds`` are vegetation in ``instance``; which of the two is right
    nobody has published, so the truth keeps the tag of ``labelIds`` and gives these pixels no object.
    """
    if split != "train":
        raise ValueError(f"CARLA recordings have no splits, all frames are 'train', not {split!r}")
    found: dict[str, TrueFrame] = {}
    for index in range(frames):
        frame = _number_stuff(_draw(index, seed, size))
        stem = f"Town10HD_{33 + 30 * index:06d}_{5026200 + 600 * index}"
        instances = _instance_picture(frame.classes, frame.objects)
        if disagreeing:
            disputed = _disputed(frame)
            instances[disputed] = VEGETATION, 30364 >> 8, 30364 & 255
            frame = replace(frame, objects=np.where(disputed, 0, frame.objects))
        write_png(root / f"{stem}_img.png", frame.image)
        write_png(root / f"{stem}_labelIds.png", frame.classes.astype(np.uint8))
        write_png(root / f"{stem}_instance.png", instances)
        found[f"{stem}_img.png"] = frame
    return Truth(root, found, [[key] for key in found], None)


def _draw(index: int, seed: int, size: tuple[int, int]) -> LabelledFrame:
    cast = replace(_CAST, patches=(*_CAST.patches, _ONCE)) if index == 0 else _CAST
    return draw_street(cast, seed=seed * 1000 + index, size=size)


def _number_stuff(frame: LabelledFrame) -> LabelledFrame:
    """The frame with numbers on stuff as well."""
    objects = frame.objects.copy()
    right = np.broadcast_to(np.arange(objects.shape[1]) >= objects.shape[1] // 2, objects.shape).astype(int)
    for tag, numbers in _STUFF_NUMBERS.items():
        here = (frame.classes == tag) & (objects == 0)
        objects[here] = tag << 16 | np.array(numbers)[right[here]]
    return replace(frame, objects=objects)


def _disputed(frame: LabelledFrame) -> np.ndarray:
    """Every 16th building pixel: bool (H,W)."""
    disputed = np.zeros(frame.classes.shape, bool)
    disputed.flat[np.flatnonzero(frame.classes == BUILDING)[::16]] = True
    return disputed


def _instance_picture(tags: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """R = tag, G and B = high and low byte of the number: uint8 (H,W,3)."""
    number = objects & 0xFFFF
    return np.stack((tags, number >> 8, number & 255), -1).astype(np.uint8)
