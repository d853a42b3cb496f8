"""Dark Zurich: drives through a city by night, twilight and day; some night pictures are labelled (ICCV 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from vidapt.datasets.acdc import check_choice, label_file
from vidapt.datasets.stored import DatasetCard, Frame, StoredArguments, StoredDataset, Video, files_below, still
from vidapt.io.images import read_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMES = ("night", "twilight", "day")

_ENDING = "_rgb_anon.png"


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
        super().__init__(root, split, **arguments)

    def find_videos(self) -> list[Video]:
        """List the pictures of the chosen times of day."""
        folders = (f"rgb_anon/{self.split}/{time}" for time in self.times)
        return [self._still(image) for folder in folders for image in files_below(self.root, folder, _ENDING)]

    def _still(self, image: str) -> Video:
        time, file = image.split("/")[2], image.rpartition("/")[2]
        labels = (label_file(image, _ENDING, "gt_labelTrainIds.png"),) if self.split == "val" else ()
        return still(f"{time}_{file.removesuffix(_ENDING)}", image, labels)

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a ``labelTrainIds`` picture."""
        semantic = read_label(self.root / frame.labels[0])
        return semantic, np.zeros(semantic.shape, np.int32)
