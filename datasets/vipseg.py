"""VIPSeg: videos of all kinds of scenes with video panoptic labels of 124 classes (Miao et al., CVPR 2022).

Masks are 16-bit pictures: 0 is void, 1..124 a class (stuff), from 125 up ``class · 100 + number`` of an instance, the
number the same in all frames of a video. Classes count from 0 in ``label_space`` and from 1 in masks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.frame_index import Frame, Problem, Video, files_below
from vidapt.datasets.listing import misnamed, missing_pictures, usual_step
from vidapt.datasets.stored import DatasetCard, StoredDataset
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
        unlabelled=("test",),
    )
    space = "vipseg"
    has_instances = True

    def find_videos(self) -> list[Video]:
        """List the pictures of the videos that ``<split>.txt`` names."""
        folder = "imgs" if (self.root / "imgs").is_dir() else "images"
        self._problems: list[Problem] = []
        videos = [video for name in self._names() if (video := self._video(folder, name))]
        self.index_problems = tuple(self._problems)
        return videos

    def _names(self) -> list[str]:
        """The videos of the split; what is no name of a video is left out and becomes a problem."""
        path = self.root / f"{self.split}.txt"
        try:
            names = path.read_text("utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise InputError(
                f"{path} cannot be read: {reason}; it lists the videos of the split, one a line"
            ) from error
        wrong = [name for name in dict.fromkeys(names) if not re.fullmatch(r"[\w-]+", name)]
        reason = "lists {!r}, which is no name of a video (letters, digits, _ and -)"
        self._problems += [Problem("", path.name, reason.format(name)) for name in wrong]
        return [name for name in dict.fromkeys(names) if name not in wrong]

    def _video(self, folder: str, name: str) -> Video | None:
        images = files_below(self.root, f"{folder}/{name}", (".jpg", ".png"))
        strange = [image for image in images if not _number(image).isdecimal()]
        self._problems += [misnamed(image, "by its frame number, as pictures of VIPSeg are") for image in strange]
        frames = [self._frame(name, image) for image in images if image not in strange]
        if not images:
            reason = f"has no pictures, but {self.split}.txt lists the video"
            self._problems.append(Problem(name, f"{folder}/{name}", reason))
        elif self.labelled and self.split != "test":
            self._problems += self._missing(name, images[0], frames)
        if not frames:
            return None
        step = usual_step([frame.number for frame in frames])
        return Video(name, tuple(frames), fps=FPS * step, step=step)

    def _missing(self, video: str, image: str, frames: Sequence[Frame]) -> list[Problem]:
        """Problems of the masks of a video without a picture, which would be named like ``image``."""
        labels = files_below(self.root, f"panomasks/{video}", ".png")
        used = {label for frame in frames for label in frame.labels}
        folder = image.rpartition("/")[0]
        return missing_pictures(
            labels, used, lambda label: (f"{video}_{_number(label)}", f"{folder}/{_number(label)}{image[-4:]}")
        )

    def _frame(self, video: str, image: str) -> Frame:
        number = _number(image)
        labels = (f"panomasks/{video}/{number}.png",) if self.split != "test" else ()
        return Frame(f"{video}_{number}", image, labels, int(number))

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a mask of ``panomasks``."""
        return split_codes(read_label(self.root / frame.labels[0]))


def _number(file: str) -> str:
    """The stem of a file, which should be its frame number."""
    return file.rpartition("/")[2][:-4]


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
