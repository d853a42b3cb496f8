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

from vidapt.datasets.cityscapes_sequence import FPS
from vidapt.datasets.frame_index import Frame, Problem, Video, files_below
from vidapt.datasets.instance_codes import split_instance_ids
from vidapt.datasets.listing import misnamed, missing_pictures, used_labels
from vidapt.datasets.stored import DatasetCard, StoredDataset
from vidapt.io.images import read_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP = 5
"""Distance of the labelled frames in frames of the recording."""

LABEL_ENDINGS = {"newImg8bit": "final_mask", "leftImg8bit": "gtFine_color"}
"""Ending of the label file by that of the picture; the second kind is the 20th frame, labelled in Cityscapes."""


_IMAGE = re.compile(r".*/((\d{4})_\d{4}_[^/]+_\d{6}_(\d{6}))_(newImg8bit|leftImg8bit)\.png")
_RULE = "<video>_<index>_<city>_<seq>_<frame>_newImg8bit.png or _leftImg8bit.png, as pictures of Cityscapes-VPS are"


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
        unlabelled=("test",),
    )
    space = "cityscapes"
    has_instances = True

    def find_videos(self) -> list[Video]:
        """List the labelled frames, video by video."""
        labelled = (self.root / self.split / "panoptic_inst").is_dir()
        found: dict[str, list[Frame]] = {}
        problems = []
        for image in files_below(self.root, f"{self.split}/img", ".png"):
            match = _IMAGE.fullmatch(image)
            if match is None:
                problems.append(misnamed(image, _RULE))
            else:
                video, frame = self._frame(image, match, labelled)
                found.setdefault(video, []).append(frame)
        videos = [
            Video(name, tuple(sorted(frames, key=lambda frame: frame.number)), fps=FPS, step=STEP)
            for name, frames in found.items()
        ]
        self.index_problems = (*problems, *self._missing(videos))
        return videos

    def _missing(self, videos: list[Video]) -> list[Problem]:
        if not self.labelled:
            return []
        endings = tuple(f"_{ending}.png" for ending in LABEL_ENDINGS.values())
        labels = files_below(self.root, f"{self.split}/panoptic_inst", endings)
        return missing_pictures(labels, used_labels(videos), self._picture)

    def _picture(self, label: str) -> tuple[str, str]:
        file = label.rpartition("/")[2].removesuffix(".png")
        kind, ending = next(pair for pair in LABEL_ENDINGS.items() if file.endswith(f"_{pair[1]}"))
        name = file.removesuffix(f"_{ending}")
        return name, f"{self.split}/img/{name}_{kind}.png"

    def _frame(self, image: str, match: re.Match[str], labelled: bool) -> tuple[str, Frame]:
        name, video, number, kind = match.groups()
        label = f"{self.split}/panoptic_inst/{name}_{LABEL_ENDINGS[kind]}.png"
        return video, Frame(name, image, (label,) if labelled else (), int(number))

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a ``panoptic_inst`` picture."""
        return split_instance_ids(read_label(self.root / frame.labels[0]))
