"""ACDC: the classes of Cityscapes in fog, at night, in rain and in snow (Sakaridis et al., ICCV 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.datasets.stored import DatasetCard, Frame, ReadOptions, StoredDataset, Video, files_below, still
from vidapt.errors import InputError
from vidapt.io.images import read_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONDITIONS = ("fog", "night", "rain", "snow")

SPACES = {"labelIds": "cityscapes_ids", "labelTrainIds": "cityscapes"}
"""Label space by kind of label picture; the first kind that is at hand is read."""


class Acdc(StoredDataset):
    """Still images of ACDC; further arguments as in ``StoredDataset``.

    The ``_ref`` splits show the same places under normal conditions; 1503 of their 4006 pictures have labels in the
    second release, the others stay unlabelled.

    Args:
        conditions: Conditions to take, of ``CONDITIONS``.

    Raises:
        InputError: Also if a condition does not exist.
    """

    card = DatasetCard(
        name="acdc",
        title="ACDC",
        labels="panoptic",
        video=False,
        splits={"train": 1600, "val": 406, "test": 2000, "train_ref": None, "val_ref": None, "test_ref": None},
        layout=(
            "rgb_anon/<condition>/<split>/<sequence>/<sequence>_frame_<number>_rgb_anon.png (_ref: _rgb_ref_anon.png)\n"
            "gt/<condition>/<split>/<sequence>/<sequence>_frame_<number>_gt_labelIds.png (or _gt_labelTrainIds.png; "
            "_ref: _gt_ref_)"
        ),
        licence="non-commercial use, see its licence file",
        home="https://acdc.vision.ee.ethz.ch",
        checked="on generated files only",
    )

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        clip_length: int = 1,
        interval: int = 1,
        labelled: bool = True,
        options: ReadOptions | None = None,
        conditions: Iterable[str] = CONDITIONS,
    ) -> None:
        self.conditions = check_choice("conditions", conditions, CONDITIONS)
        self._kind = next(iter(SPACES))
        super().__init__(root, split, clip_length=clip_length, interval=interval, labelled=labelled, options=options)

    def own_space(self) -> str:
        """The space of the label pictures that are at hand."""
        return SPACES[self._kind]

    def find_videos(self) -> list[Video]:
        """List the pictures of the chosen conditions."""
        images = self._below("rgb_anon", self._ending)
        present = {kind: set(self._below("gt", f"_{self._mark}_{kind}.png")) for kind in SPACES}
        self._kind = next((kind for kind, files in present.items() if files), self._kind)
        return [self._still(image, present[self._kind]) for image in images]

    def _below(self, folder: str, ending: str) -> list[str]:
        folders = (f"{folder}/{condition}/{self.split}" for condition in self.conditions)
        return [file for folder in folders for file in files_below(self.root, folder, ending)]

    @property
    def _is_reference(self) -> bool:
        return self.split.endswith("_ref")

    @property
    def _ending(self) -> str:
        return "_rgb_ref_anon.png" if self._is_reference else "_rgb_anon.png"

    @property
    def _mark(self) -> str:
        return "gt_ref" if self._is_reference else "gt"

    def _still(self, image: str, present: set[str]) -> Video:
        condition, file = image.split("/")[1], image.rpartition("/")[2]
        label = label_file(image, self._ending, f"{self._mark}_{self._kind}.png")
        expected = self.split in ("train", "val") or label in present
        return still(f"{condition}_{file.removesuffix(self._ending)}", image, (label,) if expected else ())

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a ``labelIds`` or ``labelTrainIds`` picture."""
        semantic = read_label(self.root / frame.labels[0])
        return semantic, np.zeros(semantic.shape, np.int32)


def label_file(image: str, ending: str, label: str) -> str:
    """The file below ``gt`` that mirrors a picture below ``rgb_anon``.

    >>> label_file("rgb_anon/fog/val/GOPR0476/GOPR0476_frame_000854_rgb_anon.png", "_rgb_anon.png", "gt_labelIds.png")
    'gt/fog/val/GOPR0476/GOPR0476_frame_000854_gt_labelIds.png'
    """
    return f"gt/{image.partition('/')[2].removesuffix(ending)}_{label}"


def check_choice(name: str, chosen: Iterable[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """Return ``chosen`` without repetition.

    Raises:
        InputError: If it is empty or has something that is not in ``allowed``.
    """
    found = tuple(dict.fromkeys([chosen] if isinstance(chosen, str) else chosen))
    if not found or not set(found) <= set(allowed):
        raise InputError(f"{name} {', '.join(found) or 'is empty'}: give one or more of {', '.join(allowed)}")
    return found
