"""KITTI-STEP: drives with video panoptic labels, persons and cars tracked (Weber et al., NeurIPS 2021).

Label pictures are RGB: red is the Cityscapes train id, 255 for void; 256 · green + blue is the track.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.datasets.frame_index import Frame, Video, files_below
from vidapt.datasets.listing import misnamed, missing_pictures, used_labels
from vidapt.datasets.stored import DatasetCard, StoredDataset
from vidapt.io.images import read_deep_colours

if TYPE_CHECKING:
    from numpy.typing import NDArray

FPS = 10.0
"""Frames per second."""

PERSON, CAR = 11, 13
"""Train ids of the classes whose instances are tracked; track 0 of these is a crowd region."""


class KittiStep(StoredDataset):
    """Videos of KITTI-STEP, every frame labelled; arguments as in ``StoredDataset``.

    Other things than persons and cars carry no instances.
    """

    card = DatasetCard(
        name="kitti_step",
        title="KITTI-STEP",
        labels="panoptic video",
        video=True,
        splits={"train": 5027, "val": 2981, "test": 11095},
        layout="images/<split>/<video>/<frame>.png\npanoptic_maps/<split>/<video>/<frame>.png",
        licence="CC BY-NC-SA 3.0",
        home="https://www.cvlibs.net/datasets/kitti/eval_step.php",
        checked="on generated files only",
        unlabelled=("test",),
    )
    space = "kitti_step"
    has_instances = True

    def find_videos(self) -> list[Video]:
        """List the drives of the split."""
        found: dict[str, list[Frame]] = {}
        problems = []
        for image in files_below(self.root, f"images/{self.split}", ".png"):
            video, name = _place(image)
            if name.isdecimal():
                found.setdefault(video, []).append(self._frame(image, video, name))
            else:
                problems.append(misnamed(image, "by its frame number, as pictures of KITTI-STEP are"))
        videos = [Video(name, tuple(frames), fps=FPS) for name, frames in found.items()]
        if self.labelled and self.split != "test":
            labels = files_below(self.root, f"panoptic_maps/{self.split}", ".png")
            problems += missing_pictures(labels, used_labels(videos), self._picture)
        self.index_problems = tuple(problems)
        return videos

    def _picture(self, label: str) -> tuple[str, str]:
        video, name = _place(label)
        return f"{video}_{name}", f"images/{self.split}/{video}/{name}.png"

    def _frame(self, image: str, video: str, number: str) -> Frame:
        labels = (f"panoptic_maps/{self.split}/{video}/{number}.png",) if self.split != "test" else ()
        return Frame(f"{video}_{number}", image, labels, int(number))

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a picture of ``panoptic_maps``."""
        return split_tracks(read_deep_colours(self.root / frame.labels[0]))


def _place(file: str) -> tuple[str, str]:
    """Folder and stem of a file."""
    video, name = file.split("/")[-2:]
    return video, name.removesuffix(".png")


def split_tracks(picture: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Train ids and instances of a label picture.

    >>> semantic, instance = split_tracks(np.array([[[13, 1, 2], [13, 0, 0], [7, 0, 0]]], np.int32))
    >>> semantic.tolist(), instance.tolist()
    ([[13, 13, 7]], [[852226, 0, 0]])

    Args:
        picture: int32 (H,W,3) RGB.

    Returns:
        int32 (H,W) train ids; int32 (H,W) train id · 65536 + track for tracked persons and cars, else 0.
    """
    semantic = picture[..., 0]
    track = picture[..., 1] * 256 + picture[..., 2]
    single = (track > 0) & ((semantic == PERSON) | (semantic == CAR))
    return semantic, np.where(single, semantic * 65536 + track, 0)
