"""GTA5 (Playing for Data): PNG pictures with palette labels, whose index is the Cityscapes label id."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.datasets.miniature.scene import Cast, draw_street
from tests.datasets.miniature.truth import TrueFrame, Truth
from tests.datasets.miniature.writing import write_png

PLATE = 34
_CAST = Cast(
    bands=(23, 11, 21, 13, 22, 8, 7, 7),
    columns=(17, 12),
    patches=(19, 20, 15),
    movers=((26, 0), (26, 0), (24, 0), (27, 0), (28, 0), (32, 0)),
    voids=(1, 0, 4),
)
_ONCE = (PLATE, 33)
PALETTE = (
    *((0, 0, 0),) * 5,
    *((111, 74, 0), (81, 0, 81), (128, 64, 128), (244, 35, 232), (250, 170, 160), (230, 150, 140), (70, 70, 70)),
    *((102, 102, 156), (190, 153, 153), (180, 165, 180), (150, 100, 100), (150, 120, 90), (153, 153, 153)),
    *((153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180)),
    *((220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 0, 90), (0, 0, 110), (0, 80, 100)),
    *((0, 0, 230), (119, 11, 32), (0, 0, 142)),
)
"""Colours of the label ids 0..33 and the licence plate; ids 0..4, 17 and 18, and 26 and 34 share a colour."""


def build(
    root: Path,
    *,
    split: str = "train",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    frames: int = 3,
    mismatch: bool = False,
) -> Truth:
    """Write ``images/{number:05d}.png`` (RGB) and ``labels/{number:05d}.png`` (palette), counted from 00001.

    Domain adaptation takes all pictures as training data, so 'train' is the only split here (the official ``split.mat``
    is not written). Index 34 is taken for the licence plate, which the sources state without proof. Several ids share a
    palette colour, so that only the index tells them apart. The format knows no instances. Index 34 and class 33 occur
    in the first picture only.

    With ``mismatch`` one more picture, 20801, has a label of half its height and width, as 60 official pictures
    (20801..20860) have another size than their label; its true classes have the size of the label.
    """
    if split != "train":
        raise ValueError(f"GTA5 is used whole, as split 'train', not {split!r}")
    found: dict[str, TrueFrame] = {}
    for number in [*range(1, frames + 1), *([20801] if mismatch else [])]:
        cast = replace(_CAST, patches=(*_CAST.patches, *_ONCE)) if number == 1 else _CAST
        street = draw_street(cast, seed=seed * 100000 + number, size=size)
        classes = street.classes[::2, ::2] if number == 20801 else street.classes
        write_png(root / f"images/{number:05d}.png", street.image)
        write_png(
            root / f"labels/{number:05d}.png", classes.astype(np.uint8), [v for colour in PALETTE for v in colour]
        )
        found[f"images/{number:05d}.png"] = TrueFrame(street.image, classes, None, None)
    return Truth(root, found, [[key] for key in found], None)
