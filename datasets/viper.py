"""VIPER, "Playing for Benchmarks": drives in a game with video panoptic labels (Richter et al., ICCV 2017).

``cls`` pictures are palette pictures whose index is the class id. ``inst`` pictures are colours: red is the class id,
256 · green + blue the number of the instance, constant over a sequence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import cv2
import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.frame_index import Frame, Video, files_below
from vidapt.datasets.instance_codes import tagged_instances
from vidapt.datasets.listing import misnamed, missing_pictures
from vidapt.datasets.stored import DatasetCard, StoredArguments, StoredDataset
from vidapt.errors import InputError
from vidapt.io.images import read_ids, read_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

FPS = 15.0
CAR = 24
_IMAGE = re.compile(r".*/(\d{3})/(\1_\d{5})\.(?:png|jpg)")


class Viper(StoredDataset):
    """Sequences of VIPER; further arguments as in ``StoredDataset``.

    Pictures and labels are released in parts, for example the labels of every tenth frame alone, so a frame without a
    ``cls`` picture is an unlabelled frame. Key frames are those whose labels are at hand, and all frames of a split
    that has none. A picture that is there as PNG and as JPEG is read as PNG. A label without a picture is a problem
    only where its part is at hand: its sequence, and pictures whose numbers end in the same digit.

    Args:
        ego_vehicle: "ignore" gives no label to the car that touches the middle of the lowest row, the hood of the
            recording car, as DA-VSN (Guan et al., ICCV 2021), TPS and CMOM do.
        instances: False reads no ``inst`` pictures and gives semantic labels only.

    Raises:
        InputError: Also if ``ego_vehicle`` is neither "keep" nor "ignore".
    """

    card = DatasetCard(
        name="viper",
        title="VIPER",
        labels="panoptic video",
        video=True,
        splits={"train": None, "val": None, "test": None},
        layout=(
            "<split>/img/<sequence>/<sequence>_<frame>.png or .jpg\n"
            "<split>/cls/<sequence>/<sequence>_<frame>.png\n"
            "<split>/inst/<sequence>/<sequence>_<frame>.png"
        ),
        licence="research only",
        home="https://playing-for-benchmarks.org",
        checked="on generated files only",
        unlabelled=("test",),
    )
    space = "viper"

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        ego_vehicle: Literal["keep", "ignore"] = "keep",
        instances: bool = True,
        **arguments: Unpack[StoredArguments],
    ) -> None:
        if ego_vehicle not in ("keep", "ignore"):
            raise InputError(f"ego_vehicle {ego_vehicle!r} is not known; allowed: keep, ignore")
        self.ego_vehicle = ego_vehicle
        self.has_instances = instances
        super().__init__(root, split, **arguments)

    def find_videos(self) -> list[Video]:
        """List ``img``, and ``cls`` to know which frames are labelled."""
        found, problems = {}, []
        for path in files_below(self.root, f"{self.split}/img", (".jpg", ".png")):
            if match := _IMAGE.fullmatch(path):
                found[match[2]] = (match[1], path)
            else:
                problems.append(misnamed(path, "<sequence>/<sequence>_<frame>, as pictures of VIPER are"))
        labels = set() if self.split == "test" else set(files_below(self.root, f"{self.split}/cls", ".png"))
        frames = [self._frame(name, *place, labels) for name, place in found.items()]
        if self.labelled:
            ending = next(iter(found.values()), ("", ".png"))[1][-4:]
            problems += missing_pictures(_of_parts(labels, found), _cls_files(frames), partial(self._picture, ending))
        self.index_problems = tuple(problems)
        return [
            Video(sequence, tuple(group), fps=FPS) for sequence, group in groupby(frames, lambda frame: frame.name[:3])
        ]

    def _frame(self, name: str, sequence: str, image: str, labels: set[str]) -> Frame:
        kinds = ("cls", "inst") if self.has_instances else ("cls",)
        files = tuple(f"{self.split}/{kind}/{sequence}/{name}.png" for kind in kinds)
        found = files[0] in labels
        return Frame(name, image, files if found else (), number=int(name[4:]), key=found or not labels)

    def _picture(self, ending: str, label: str) -> tuple[str, str]:
        name = label.rpartition("/")[2][:-4]
        return name, f"{self.split}/img/{name[:3]}/{name}{ending}"

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode ``cls`` and ``inst`` pictures."""
        semantic = read_ids(self.root / frame.labels[0])
        instance = np.zeros(semantic.shape, np.int32)
        if self.has_instances:
            path = self.root / frame.labels[1]
            instance = tagged_instances(read_label(path), semantic, path)
        if self.ego_vehicle == "ignore":
            hood = ego_vehicle_mask(semantic)
            semantic[hood], instance[hood] = IGNORE, 0
        return semantic, instance

    def describe(self) -> tuple[object, ...]:
        """What the content of a read frame depends on besides its files."""
        return (*super().describe(), self.ego_vehicle)


def _cls_files(frames: Iterable[Frame]) -> list[str]:
    return [frame.labels[0] for frame in frames if frame.labels]


def _of_parts(labels: Iterable[str], names: Iterable[str]) -> list[str]:
    """The label files whose sequence, and whose last digit anywhere, is among the names of pictures, in order."""
    known = list(names)
    sequences, digits = {name[:3] for name in known}, {name[-1] for name in known}
    matches = ((label, _IMAGE.fullmatch(label)) for label in sorted(labels))
    return [label for label, match in matches if match and match[1] in sequences and match[2][-1] in digits]


def ego_vehicle_mask(semantic: NDArray[np.int32]) -> NDArray[np.bool_]:
    """The car, connected over edges and corners, that covers the middle pixel of the lowest row; empty if none does.

    Args:
        semantic: int32 (H,W) class ids of VIPER.

    Returns:
        bool (H,W).
    """
    _, parts = cv2.connectedComponents((semantic == CAR).astype(np.uint8), connectivity=8)
    hood = parts[-1, parts.shape[1] // 2]
    return np.asarray((parts == hood) & (hood > 0))
