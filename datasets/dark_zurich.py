"""Dark Zurich: drives through a city by night, twilight and day; some night pictures are labelled (ICCV 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from vidapt.datasets.frame_index import Frame, Video, files_below, still
from vidapt.datasets.listing import check_choice, label_file, missing_pictures, used_labels
from vidapt.datasets.stored import DatasetCard, StoredArguments, StoredDataset
from vidapt.io.images import read_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAIN_COUNTS = {"night": 2416, "twilight": 2920, "day": 3041}
"""Pictures of the split ``train`` by time of day."""

TIMES = tuple(TRAIN_COUNTS)

_ENDING = "_rgb_anon.png"
_LABEL = "gt_labelTrainIds.png"


class DarkZurich(StoredDataset):
    """Still images of Dark Zurich; only ``val`` has labels, which are semantic. Further arguments as in StoredDataset.

    Args:
        times: Times of day to take, of ``TIMES``; all splits but ``train`` have night alone.

    Raises:
        InputError: Also if a time of day does not exist.
    """

    card = DatasetCard(
        name="dark_zurich",
        title="Dark Zurich",
        labels="semantic",
        video=False,
        splits={"train": 2416, "val": 50, "test": 151},
        layout=(
            "rgb_anon/<split>/<time>/<sequence>/<sequence>_frame_<number>_rgb_anon.png (train: night, twilight, day)\n"
            "gt/val/night/<sequence>/<sequence>_frame_<number>_gt_labelTrainIds.png"
        ),
        licence="non-commercial use, see its licence file",
        home="https://www.trace.ethz.ch/publications/2019/GCMA_UIoU",
        checked="on generated files only",
        unlabelled=("train", "test"),
    )
    space = "cityscapes"

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        times: Iterable[str] = ("night",),
        **arguments: Unpack[StoredArguments],
    ) -> None:
        self.times = check_choice("times", times, TIMES)
        night = "night" in self.times
        counts: dict[str, int | None] = {"train": sum(TRAIN_COUNTS[time] for time in self.times)}
        counts |= {split: count if night else 0 for split, count in DarkZurich.card.splits.items() if split != "train"}
        self.card = replace(self.card, splits=counts)
        super().__init__(root, split, **arguments)

    def find_videos(self) -> list[Video]:
        """List the pictures of the chosen times of day."""
        folders = (f"rgb_anon/{self.split}/{time}" for time in self.times)
        videos = [self._still(image) for folder in folders for image in files_below(self.root, folder, _ENDING)]
        if self.labelled and self.split == "val":
            labels = (f for time in self.times for f in files_below(self.root, f"gt/val/{time}", f"_{_LABEL}"))
            self.index_problems = tuple(missing_pictures(labels, used_labels(videos), _picture))
        return videos

    def _still(self, image: str) -> Video:
        time, file = image.split("/")[2], image.rpartition("/")[2]
        labels = (label_file(image, _ENDING, _LABEL),) if self.split == "val" else ()
        return still(_name(time, file.removesuffix(_ENDING)), image, labels)

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a ``labelTrainIds`` picture."""
        semantic = read_label(self.root / frame.labels[0])
        return semantic, np.zeros(semantic.shape, np.int32)


def _name(time: str, stem: str) -> str:
    return f"{time}_{stem}"


def _picture(label: str) -> tuple[str, str]:
    """Name and picture of the frame of a label file."""
    stem = label.partition("/")[2].removesuffix(f"_{_LABEL}")
    return _name(stem.split("/")[1], stem.rpartition("/")[2]), f"rgb_anon/{stem}{_ENDING}"
