"""VIPSeg: videos of all kinds of scenes with video panoptic labels of 124 classes (Miao et al., CVPR 2022).

Masks are 16-bit pictures: 0 is void, 1..124 a class (stuff), from 125 up ``class · 100 + number`` of an instance, the
number the same in all frames of a video. Classes count from 0 in ``label_space`` and from 1 in masks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from statistics import multimode
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.stored import DatasetCard, Frame, StoredDataset, Video, files_below
from vidapt.errors import InputError
from vidapt.io.images import read_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

FPS = 5.0
"""Frames per second: a third of the 15 of VSPW, from which the videos come."""

FIRST_INSTANCE = 125
"""Smallest mask value that holds a class and a number."""


class VipSeg(StoredDataset):
    """Videos of VIPSeg, every frame labelled; arguments as in ``StoredDataset``.

    The official splits have 2806, 343 and 387 videos. Papers score at 720 rows (``height``); the copy that the
    official script makes at that size, with ``images`` in place of ``imgs``, is read as well.
    """

    card = DatasetCard(
        name="vipseg",
        title="VIPSeg",
        labels="panoptic video",
        video=True,
        splits={"train": None, "val": None, "test": None},
        layout="<split>.txt: one video a line\nimgs/<video>/<frame>.jpg\npanomasks/<video>/<frame>.png",
        licence="non-commercial research",
        home="https://github.com/VIPSeg-Dataset/VIPSeg-Dataset",
        checked="on generated files only",
    )
    space = "vipseg"
    has_instances = True

    def find_videos(self) -> list[Video]:
        """List the pictures of the videos that ``<split>.txt`` names."""
        folder = "imgs" if (self.root / "imgs").is_dir() else "images"
        return [self._video(folder, name) for name in self._names()]

    def _names(self) -> list[str]:
        path = self.root / f"{self.split}.txt"
        try:
            names = path.read_text("utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise InputError(
                f"{path} cannot be read: {reason}; it lists the videos of the split, one a line"
            ) from error
        wrong = next((name for name in names if not re.fullmatch(r"[\w-]+", name)), None)
        if wrong is not None:
            raise InputError(f"{path} lists {wrong!r}, which is no name of a video (letters, digits, _ and -)")
        return list(dict.fromkeys(names))

    def _video(self, folder: str, name: str) -> Video:
        frames = [self._frame(name, image) for image in files_below(self.root, f"{folder}/{name}", (".jpg", ".png"))]
        if not frames:
            raise InputError(f"{self.root / folder / name} has no pictures, but {self.split}.txt lists the video")
        step = usual_step([frame.number for frame in frames])
        return Video(name, tuple(frames), fps=FPS * step, step=step)

    def _frame(self, video: str, image: str) -> Frame:
        number = image.rpartition("/")[2][:-4]
        if not number.isdecimal():
            raise InputError(f"{image} is not named by its frame number, as pictures of VIPSeg are; remove it")
        labels = (f"panomasks/{video}/{number}.png",) if self.split != "test" else ()
        return Frame(f"{video}_{number}", image, labels, int(number))

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a mask of ``panomasks``."""
        return split_codes(read_label(self.root / frame.labels[0]))


def usual_step(numbers: Sequence[int]) -> int:
    """The commonest distance of neighbours in rising numbers, the smallest of several; 1 for a single number.

    >>> usual_step([88, 91, 94, 100])
    3
    """
    return min(multimode(later - earlier for earlier, later in pairwise(numbers)), default=1)


def split_codes(mask: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Class ids from 0 and instances of a mask.

    >>> semantic, instance = split_codes(np.array([[0, 19, 6101]], np.int32))
    >>> semantic.tolist(), instance.tolist()
    ([[255, 18, 60]], [[0, 0, 6101]])

    Args:
        mask: int32 (H,W) mask values.
    """
    single = mask >= FIRST_INSTANCE
    category = np.where(single, mask // 100, mask)
    return np.where(category == 0, IGNORE, category - 1), np.where(single, mask, 0)
