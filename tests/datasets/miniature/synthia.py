"""SYNTHIA-RAND-CITYSCAPES: PNG pictures with 16-bit RGB labels that hold class and instance."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from tests.datasets.miniature.scene import Cast, draw_street
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth

THINGS = frozenset({8, 10, 11, 12, 17, 18, 19, 20})
_CAST = Cast(
    bands=(1, 2, 6, 5, 4, 3, 3, 22),
    columns=(7, 7),
    patches=(9, 15, 13),
    movers=tuple(
        (class_id, number and class_id << 16 | number)
        for class_id, number in ((8, 1), (8, 0), (10, 1), (11, 300), (12, 22), (17, 9), (19, 256))
    ),
    voids=(0, 14),
)
_WALL = 21


def build(
    root: Path, *, split: str = "train", seed: int = 0, size: tuple[int, int] = (48, 96), frames: int = 3
) -> Truth:
    """Write ``RAND_CITYSCAPES/{RGB,GT/LABELS,GT/COLOR,Depth}/{number:07d}.png`` below ``root``.

    The true root is the folder RAND_CITYSCAPES. The data set has no official split, so 'train' is all of it, and its
    pictures are no videos. A label is a 16-bit RGB PNG with the class in R, the instance in G and nothing in B.
    Instance numbers repeat in several classes and reach beyond 255. Stuff has number 0; of two cars one has number 0 as
    well: its true objects are 0, because the files do not say how many cars share that number. Class 21 (wall) occurs
    in the first picture only. GT/COLOR and Depth are there to complete the layout; their content is made up.
    """
    if split != "train":
        raise ValueError(f"SYNTHIA-RAND-CITYSCAPES has no splits, all pictures are 'train', not {split!r}")
    top = root / "RAND_CITYSCAPES"
    found: dict[str, TrueFrame] = {}
    for index in range(frames):
        cast = replace(_CAST, patches=(*_CAST.patches, _WALL)) if index == 0 else _CAST
        frame = draw_street(cast, seed=seed * 1000 + index, size=size)
        write_frame(top, f"{index:07d}.png", frame)
        found[f"RGB/{index:07d}.png"] = frame
    return Truth(top, found, [[key] for key in found], None)


def write_frame(top: Path, name: str, frame: LabelledFrame) -> None:
    """Write the four pictures of one frame below ``top``; the file number of an object is its number modulo 2^16."""
    label = np.stack((frame.classes, frame.objects & 0xFFFF, np.zeros_like(frame.classes)), -1).astype(np.uint16)
    colour = (label * 37 % 256).astype(np.uint8)
    depth = np.full(label.shape, 5000, np.uint16)
    for folder, rgb in (("RGB", frame.image), ("GT/LABELS", label), ("GT/COLOR", colour), ("Depth", depth)):
        path = top / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rgb[..., ::-1])
