"""BDD100K: drives in the United States with semantic, panoptic or tracked instance labels (Yu et al., CVPR 2020).

Bitmasks have four channels: red is the category, green holds attributes (8 truncated, 4 occluded, 2 crowd, 1 ignore),
256 · blue + alpha is the number of the instance.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.frame_index import Frame, Video, files_below, still
from vidapt.datasets.listing import misnamed, missing_pictures, used_labels
from vidapt.datasets.panoptic_pictures import read_colours
from vidapt.datasets.stored import DatasetCard, StoredArguments, StoredDataset
from vidapt.errors import InputError
from vidapt.io.images import read_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

FPS = 5.0
"""Frames per second of the videos with tracked instances."""

FOLDERS = {
    "semantic": ("images/10k", "labels/sem_seg/masks"),
    "panoptic": ("images/10k", "labels/pan_seg/bitmasks"),
    "seg_track": ("images/seg_track_20", "labels/seg_track_20/bitmasks"),
}
"""Folders of pictures and labels by kind of labels."""

TRACKED = (0, 31, 32, 35, 40, 34, 39, 37, 33)
"""Label ids of the categories 0..8 of ``seg_track``: background, pedestrian, rider, car, truck, bus and so on."""

_CROWD_OR_IGNORE = 3
_VIDEO_FRAME = re.compile(r".*/([^/]+)/(\1-(\d{7}))\.jpg")


class Bdd100k(StoredDataset):
    """Images or videos of BDD100K; further arguments as in ``StoredDataset``.

    Crowds and ignored objects keep their class and have no instance.

    Args:
        labels: "semantic" reads the train ids of ``sem_seg``; "panoptic" the bitmasks of ``pan_seg``, where stuff has
            instances too, since they number it; "seg_track" the bitmasks of videos, in which all but eight classes of
            things is void.

    Raises:
        InputError: Also if there are no such labels.
    """

    card = DatasetCard(
        name="bdd100k",
        title="BDD100K",
        labels="panoptic",
        video=False,
        splits={"train": 7000, "val": 1000, "test": 2000},
        layout=(
            "images/10k/<split>/<name>.jpg\n"
            "labels/pan_seg/bitmasks/<split>/<name>.png (labels=semantic: labels/sem_seg/masks/<split>/<name>.png)\n"
            "labels=seg_track: images/seg_track_20/<split>/<video>/<video>-<frame>.jpg\n"
            "labels/seg_track_20/bitmasks/<split>/<video>/<video>-<frame>.png"
        ),
        licence="research and other non-profit use",
        home="https://www.vis.xyz/bdd100k",
        checked="on generated files only",
        unlabelled=("test",),
    )

    def __init__(
        self, root: str | Path, split: str = "train", *, labels: str = "panoptic", **arguments: Unpack[StoredArguments]
    ) -> None:
        if labels not in FOLDERS:
            raise InputError(f"BDD100K has no labels {labels!r}; allowed: {', '.join(FOLDERS)}")
        self.kind = labels
        self.has_instances = labels != "semantic"
        if labels == "semantic":
            self.card = replace(self.card, labels="semantic")
        if labels == "seg_track":
            self.card = replace(self.card, labels="panoptic video", video=True, splits=dict.fromkeys(self.card.splits))
        super().__init__(root, split, **arguments)

    def own_space(self) -> str:
        """The 19 classes of Cityscapes for semantic labels, else the 41 label ids of BDD100K."""
        return "cityscapes" if self.kind == "semantic" else "bdd100k"

    def find_videos(self) -> list[Video]:
        """List the pictures or videos of the split."""
        self.index_problems = ()
        folder, label_folder = (f"{folder}/{self.split}" for folder in FOLDERS[self.kind])
        videos = self._videos(folder, label_folder)
        if self.labelled and self.split != "test":
            labels = files_below(self.root, label_folder, ".png")
            missing = missing_pictures(
                labels,
                used_labels(videos),
                lambda label: (PurePosixPath(label).stem, f"{folder}{label.removeprefix(label_folder)[:-4]}.jpg"),
            )
            self.index_problems += tuple(missing)
        return videos

    def _videos(self, folder: str, label_folder: str) -> list[Video]:
        images = files_below(self.root, folder, ".jpg")
        labels = {image: f"{label_folder}{image.removeprefix(folder)[:-4]}.png" for image in images}
        files = {image: (label,) if self.split != "test" else () for image, label in labels.items()}
        if self.kind != "seg_track":
            return [still(image.rpartition("/")[2][:-4], image, label) for image, label in files.items()]
        videos: dict[str, list[Frame]] = {}
        for image, label in files.items():
            match = _VIDEO_FRAME.fullmatch(image)
            if match is None:
                self.index_problems += (misnamed(image, "<video>/<video>-<frame>.jpg, as pictures of BDD100K are"),)
            else:
                video, name, number = match.groups()
                videos.setdefault(video, []).append(Frame(name, image, label, int(number)))
        return [Video(video, tuple(frames), fps=FPS) for video, frames in videos.items()]

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a mask of train ids or a bitmask."""
        path = self.root / frame.labels[0]
        if self.kind == "semantic":
            semantic = read_ids(path)
            return semantic, np.zeros(semantic.shape, np.int32)
        bitmask = read_colours(path)
        if bitmask.shape[2] != 4:
            raise InputError(f"{path} has no alpha channel, which holds a part of the instance number in bitmasks")
        category, instance = split_bitmask(bitmask)
        return (category if self.kind == "panoptic" else tracked_classes(category, path)), instance

    def describe(self) -> tuple[object, ...]:
        """What the content of a read frame depends on besides its files."""
        return (*super().describe(), self.kind)


def split_bitmask(bitmask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Categories and instances of a bitmask.

    >>> bitmask = np.array([[[35, 8, 1, 44], [35, 2, 1, 44], [7, 0, 0, 0]]], np.uint8)
    >>> category, instance = split_bitmask(bitmask)
    >>> category.tolist(), instance.tolist()
    ([[35, 35, 7]], [[2294060, 0, 0]])

    Args:
        bitmask: uint8 (H,W,4) RGBA.

    Returns:
        uint8 (H,W) categories; int32 (H,W), below 2**24: category · 65536 + number, which is unique over classes; 0
        for crowds, ignored objects and where the number is 0.
    """
    category, attributes, high, low = np.moveaxis(bitmask, -1, 0)
    number = high.astype(np.int32) * 256 + low
    valid = ((attributes & _CROWD_OR_IGNORE) == 0) & (number > 0) & (category > 0)
    return category, np.where(valid, category.astype(np.int32) * 65536 + number, 0)


def tracked_classes(category: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """Label ids of the categories 0..8 of ``seg_track``; 0, which is nothing tracked, becomes 255.

    Raises:
        InputError: If there is another category; ``path`` is named.
    """
    if category.max(initial=0) >= len(TRACKED):
        wrong = np.unique(category[category >= len(TRACKED)]).tolist()
        raise InputError(f"{path} has categories {wrong[:5]}; allowed in bitmasks of seg_track: 0..{len(TRACKED) - 1}")
    return np.array([IGNORE, *TRACKED[1:]], np.uint8)[category]
