"""KITTI-STEP: drives with a panoptic map per frame that holds class and track in one RGB PNG."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.datasets.miniature.scene import Cast, draw_street, hide_labels
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth
from tests.datasets.miniature.writing import write_png

PERSON, CAR, VOID = 11, 13, 255
SEQUENCES = {"train": (("0000", 4), ("0011", 3)), "val": (("0002", 4), ("0018", 3)), "test": (("0000", 3), ("0028", 2))}
STREET = Cast(
    bands=(10, 2, 8, 9, 1, 0),
    columns=(5, 4),
    patches=(7, 6, -1),
    crowds=(CAR, PERSON),
    movers=(
        (CAR, CAR * 65536 + 1),
        (PERSON, PERSON * 65536 + 1),
        (CAR, CAR * 65536 + 256),
        (PERSON, PERSON * 65536 + 300),
        (18, 0),
        (CAR, CAR * 65536 + 1000),
    ),
    voids=(-1,),
)


def build(
    root: Path,
    *,
    split: str = "val",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
) -> Truth:
    """Write two drives of a split; the second is one frame shorter and its frames are smaller.

    ``classes`` are train ids with -1 for void (255 in the files). Only persons and cars have tracks: the true number is
    65536 * class + track, as a person and a car may have the same track id. Track ids reach beyond 255; one of them
    has B = 0. A person or car with track 0 is crowd; other things, here a bicycle, are neither instance nor crowd. The
    class rider (12) occurs in the first frame of the first drive only. ``test`` has no panoptic maps.
    """
    frames: dict[str, TrueFrame] = {}
    videos = []
    for index, (sequence, count) in enumerate(SEQUENCES[split]):
        video = []
        for time in range(count):
            cast = replace(STREET, patches=(*STREET.patches, 12)) if index == time == 0 else STREET
            frame = draw_street(cast, seed=seed + index, time=time, size=(size[0] - 4 * index, size[1] - 8 * index))
            path = f"images/{split}/{sequence}/{time:06d}.png"
            write_png(root / path, frame.image)
            if split != "test":
                write_png(root / f"panoptic_maps/{split}/{sequence}/{time:06d}.png", panoptic_map(frame))
            frames[path] = hide_labels(frame) if split == "test" else frame
            video.append(path)
        videos.append(video)
    return Truth(root, frames, videos, None)


def panoptic_map(frame: LabelledFrame) -> np.ndarray:
    """R = class, G = track // 256, B = track % 256: uint8 (H,W,3)."""
    track = frame.objects % 65536
    return np.stack([np.where(frame.classes < 0, VOID, frame.classes), track // 256, track % 256], -1).astype(np.uint8)
