"""Cityscapes-VPS: video panoptic labels of every fifth frame of the Cityscapes validation snippets (Kim et al. 2020).

Read from ``panoptic_inst``, which the official tool makes for every split from the released ``cls`` and ``inst``
pictures. ``panoptic_video`` and its JSON are made from it in turn and say the same with random ids, but only where the
JSON is at hand. Values are 0..18 for stuff, train id · 1000 + number from 1000 up for single instances, the number the
same in all frames of a video, and 255 elsewhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.datasets.cityscapes import split_instance_ids
from vidapt.datasets.cityscapes_sequence import FPS
from vidapt.datasets.stored import DatasetCard, Frame, StoredDataset, Video, files_below
from vidapt.errors import InputError
from vidapt.io.images import read_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP = 5
"""Distance of the labelled frames in frames of the recording."""

LABEL_ENDINGS = {"newImg8bit": "final_mask", "leftImg8bit": "gtFine_color"}
"""Ending of the label file by that of the picture; the second kind is the 20th frame, labelled in Cityscapes."""


class CityscapesVps(StoredDataset):
    """The six labelled frames of each snippet; arguments as in ``StoredDataset``.

    The frames between them are those of ``CityscapesSequence``, under the same names but for the two leading numbers.
    """

    card = DatasetCard(
        name="cityscapes_vps",
        title="Cityscapes-VPS",
        labels="panoptic video",
        video=True,
        splits={"train": 2400, "val": None, "test": None},
        layout=(
            "<split>/img/<video>_<index>_<city>_<seq>_<frame>_newImg8bit.png (20th frame: _leftImg8bit.png)\n"
            "<split>/panoptic_inst/<video>_<index>_<city>_<seq>_<frame>_final_mask.png (20th frame: _gtFine_color.png)"
        ),
        licence="CC BY-NC-SA 4.0 and the Cityscapes terms",
        home="https://github.com/mcahny/vps",
        checked="on generated files only",
    )
    space = "cityscapes"
    has_instances = True

    def find_videos(self) -> list[Video]:
        """List the labelled frames, video by video."""
        labelled = (self.root / self.split / "panoptic_inst").is_dir()
        videos: dict[str, list[Frame]] = {}
        for image in files_below(self.root, f"{self.split}/img", ".png"):
            video, frame = self._frame(image, labelled)
            videos.setdefault(video, []).append(frame)
        return [
            Video(name, tuple(sorted(frames, key=lambda frame: frame.number)), fps=FPS, step=STEP)
            for name, frames in videos.items()
        ]

    def _frame(self, image: str, labelled: bool) -> tuple[str, Frame]:
        match = re.fullmatch(
            r"((\d{4})_\d{4}_.+_\d{6}_(\d{6}))_(newImg8bit|leftImg8bit)\.png", image.rpartition("/")[2]
        )
        if match is None:
            raise InputError(
                f"{image} is not named <video>_<index>_<city>_<seq>_<frame>_newImg8bit.png or _leftImg8bit.png, as "
                "pictures of Cityscapes-VPS are; remove it"
            )
        name, video, number, kind = match.groups()
        label = f"{self.split}/panoptic_inst/{name}_{LABEL_ENDINGS[kind]}.png"
        return video, Frame(name, image, (label,) if labelled else (), int(number))

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a ``panoptic_inst`` picture."""
        return split_instance_ids(read_label(self.root / frame.labels[0]))
