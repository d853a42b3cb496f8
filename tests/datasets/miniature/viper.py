"""VIPER: videos at about 15 Hz with indexed class labels and RGB instance labels."""

from pathlib import Path

import numpy as np

from tests.datasets.miniature.scene import Cast, draw_street, hide_labels
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth
from tests.datasets.miniature.writing import write_jpeg, write_png

THINGS = frozenset({13, 16, 17, 19, 20, 22, 23, 24, 25, 26, 27})
FRAMES_PER_SECOND = 15
FIRST_FRAME = 8
CAR = 24
HOOD = CAR << 16 | 1
"""The true object number of the car that the camera sits in; the file has the lower 16 bits of such numbers."""
_SKY, _ONCE = 2, 16
_CAST = Cast(
    bands=(_SKY, 9, 7, 8, 6, 4, 3, 3),
    columns=(10, 11),
    patches=(14, 12),
    movers=tuple(
        (class_id, class_id << 16 | number)
        for class_id, number in ((13, 258), (CAR, 7), (CAR, 300), (20, 7), (23, 65535), (25, 256), (22, 9))
    ),
    voids=(-1, 0, 1),
)
_PALETTE = [value for index in range(32) for value in (5 * index, 255 - 7 * index, 11 * index % 256)]


def build(
    root: Path,
    *,
    split: str = "train",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    frames: int = 4,
    image_format: str = "jpg",
) -> Truth:
    """Write ``{split}/{img,cls,inst}/{sequence:03d}/{sequence:03d}_{frame:05d}.{jpg|png}`` with two sequences.

    Splits are train, val and test; test has pictures only. The second sequence has one frame less than the first;
    frames count from 00008, so that 00010, the first of every tenth frame, has a predecessor. cls is an 8-bit indexed
    PNG, inst an RGB PNG with the class in R and the instance 256 G + B. Stuff has the instance 0, which the format does
    not say. Object numbers repeat in several classes and in both sequences. Class 16 (fire hydrant) occurs in one frame
    only.

    The hood of the ego car, class 24 like other cars, touches the bottom centre and no other car; it has an instance
    number here, which is not published. ``HOOD`` is its true object number. The truth is that of the files: what
    ignores the hood must take it out. instcs, flow, camera and bb are left out; the colours of the palette are made up.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"VIPER has the splits train, val and test, not {split!r}")
    found: dict[str, TrueFrame] = {}
    videos = []
    for sequence, count in ((1, frames), (2, frames - 1)):
        stems = [f"{sequence:03d}/{sequence:03d}_{FIRST_FRAME + time:05d}" for time in range(count)]
        for time, stem in enumerate(stems):
            key = f"{split}/img/{stem}.{image_format}"
            frame = _draw(time, sequence, seed, size)
            (write_jpeg if image_format == "jpg" else write_png)(root / key, frame.image)
            found[key] = hide_labels(frame) if split == "test" else frame
            if split != "test":
                _write_labels(root / split, stem, frame)
        videos.append([f"{split}/img/{stem}.{image_format}" for stem in stems])
    return Truth(root, found, videos, [[time / FRAMES_PER_SECOND for time in range(len(keys))] for keys in videos])


def _draw(time: int, sequence: int, seed: int, size: tuple[int, int]) -> LabelledFrame:
    """A street with the hood at the bottom centre; it once has a fire hydrant in the sky."""
    frame = draw_street(_CAST, seed=seed * 1000 + sequence, time=time, size=size)
    height, width = size
    hood = slice(height - height // 12, height), slice(width // 4, width - width // 4)
    frame.classes[frame.classes == -1] = 3
    frame.classes[hood], frame.objects[hood], frame.image[hood] = CAR, HOOD, 20
    if (time, sequence) == (0, 1):
        hydrant = slice(0, 2), slice(width // 2, width // 2 + 3)
        frame.classes[hydrant], frame.objects[hydrant] = _ONCE, _ONCE << 16 | 1
    return frame


def _write_labels(top: Path, stem: str, frame: LabelledFrame) -> None:
    number = frame.objects & 0xFFFF
    write_png(top / f"cls/{stem}.png", frame.classes.astype(np.uint8), _PALETTE)
    write_png(top / f"inst/{stem}.png", np.stack((frame.classes, number >> 8, number & 255), -1).astype(np.uint8))
