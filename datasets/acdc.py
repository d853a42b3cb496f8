"""ACDC: the classes of Cityscapes in fog, at night, in rain and in snow (Sakaridis et al., ICCV 2021).

Folders and names as in the README of the second release, which adds panoptic labels and labels of reference pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from vidapt.datasets.frame_index import Frame, Problem, Video, files_below, stamp, still
from vidapt.datasets.listing import check_choice, label_file, missing_pictures
from vidapt.datasets.panoptic_json import PanopticIndex, frame_name, read_index
from vidapt.datasets.panoptic_pictures import decode, read_segment_ids
from vidapt.datasets.stored import DatasetCard, StoredArguments, StoredDataset
from vidapt.errors import InputError
from vidapt.io.images import read_label
from vidapt.labels import LabelSpace, find_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = {"train": 400, "val": 100, "test": 500, "train_ref": None, "val_ref": None, "test_ref": None}
"""Pictures of each split in each condition, None where the number is not certain; ``val`` has six more by night."""

CONDITIONS = ("fog", "night", "rain", "snow")

SPACES = {"labelIds": "cityscapes_ids", "labelTrainIds": "cityscapes"}
"""Label space by kind of semantic label picture; the first kind that is at hand is read."""


def _counts(conditions: Sequence[str]) -> dict[str, int | None]:
    """Official numbers of pictures by split in some conditions."""
    counts = {split: None if count is None else count * len(conditions) for split, count in SPLITS.items()}
    return counts | {"val": 100 * len(conditions) + 6 * ("night" in conditions)}


class Acdc(StoredDataset):
    """Still images of ACDC; further arguments as in ``StoredDataset``.

    The ``_ref`` splits show the same places under normal conditions; 1503 of their 4006 pictures have labels in the
    second release, the others stay unlabelled.

    Args:
        conditions: Conditions to take, of ``CONDITIONS``.
        panoptic: COCO panoptic JSON of the split below the root, such as ``gt_panoptic/train_gt_panoptic.json``, for
            classes and instances from the panoptic pictures; None gives semantic labels. Pictures that it does not
            list are left out and among the ``index_problems``, in the ``_ref`` splits they are unlabelled.

    Raises:
        InputError: Also if a condition does not exist or the JSON is none or has other classes.
    """

    card = DatasetCard(
        name="acdc",
        title="ACDC",
        labels="panoptic",
        video=False,
        splits=_counts(CONDITIONS),
        layout=(
            "rgb_anon/<condition>/<split>/<sequence>/<sequence>_frame_<number>_rgb_anon.png (_ref: _rgb_ref_anon.png)\n"
            "gt/<condition>/<split>/<sequence>/<sequence>_frame_<number>_gt_labelIds.png (or _gt_labelTrainIds.png; "
            "_ref: _gt_ref_)\n"
            "panoptic: gt_panoptic/<split>_gt_panoptic.json (_ref: train_gt_ref_panoptic.json)\n"
            "gt_panoptic/<condition>/<split>/<sequence>/<sequence>_frame_<number>_gt_panoptic.png (_ref: _gt_ref_)"
        ),
        licence="non-commercial use, see its licence file",
        home="https://acdc.vision.ee.ethz.ch",
        checked="on generated files only",
        unlabelled=("test", "test_ref"),
    )

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        conditions: Iterable[str] = CONDITIONS,
        panoptic: str | Path | None = None,
        **arguments: Unpack[StoredArguments],
    ) -> None:
        self.conditions = check_choice("conditions", conditions, CONDITIONS)
        self.card = replace(self.card, splits=_counts(self.conditions))
        self.panoptic = None if panoptic is None else str(panoptic)
        self.has_instances = panoptic is not None
        self._kind = next(iter(SPACES))
        self._segments: dict[str, NDArray[np.int32]] = {}
        self._classes = np.zeros(0, np.uint8)
        self._is_reference = split.endswith("_ref")
        super().__init__(root, split, **arguments)

    def own_space(self) -> str:
        """The space of the label pictures that are at hand."""
        return SPACES[self._kind]

    def describe(self) -> tuple[object, ...]:
        """What the content of a read frame depends on besides its files."""
        return (*super().describe(), None if self.panoptic is None else stamp(self.root / self.panoptic))

    def find_videos(self) -> list[Video]:
        """List the pictures of the chosen conditions."""
        self.index_problems = ()
        images = self._below("rgb_anon", self._ending)
        if self.panoptic is None or not self.labelled:
            labels = self._semantic_labels(images)
        else:
            labels = self._panoptic_labels(images, self.panoptic)
        videos = [still(self._name(image), image, labels[image]) for image in images if image in labels]
        if self.labelled and self.split != "test":
            self.index_problems += tuple(self._missing(images))
        return videos

    def _missing(self, images: Sequence[str]) -> list[Problem]:
        """Problems of the label files whose pictures are not among ``images``."""
        folder, kind = ("gt", self._kind) if self.panoptic is None else ("gt_panoptic", "panoptic")
        ending = f"_{self._mark}_{kind}.png"
        used = [label_file(image, self._ending, ending[1:], folder) for image in images]

        def picture(label: str) -> tuple[str, str]:
            image = f"rgb_anon/{label.partition('/')[2].removesuffix(ending)}{self._ending}"
            return self._name(image), image

        return missing_pictures(self._below(folder, ending), used, picture)

    def _below(self, folder: str, ending: str) -> list[str]:
        folders = (f"{folder}/{condition}/{self.split}" for condition in self.conditions)
        return [file for folder in folders for file in files_below(self.root, folder, ending)]

    @property
    def _ending(self) -> str:
        return "_rgb_ref_anon.png" if self._is_reference else "_rgb_anon.png"

    @property
    def _mark(self) -> str:
        return "gt_ref" if self._is_reference else "gt"

    def _name(self, image: str) -> str:
        """Name of a frame; it begins with the condition, as sequences are named after the files of a camera."""
        return f"{image.split('/')[1]}_{image.rpartition('/')[2].removesuffix(self._ending)}"

    def _semantic_labels(self, images: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Label files of each picture: in train and val all of the release, elsewhere those at hand."""
        present = {kind: set(self._below("gt", f"_{self._mark}_{kind}.png")) for kind in SPACES}
        self._kind = next((kind for kind, files in present.items() if files), self._kind)
        files = [label_file(image, self._ending, f"{self._mark}_{self._kind}.png") for image in images]
        at_hand = set(files) if self.split in ("train", "val") else present[self._kind]
        return {image: (file,) if file in at_hand else () for image, file in zip(images, files, strict=True)}

    def _panoptic_labels(self, images: Sequence[str], file: str) -> dict[str, tuple[str, ...]]:
        """Label files of the pictures that the JSON ``file`` lists; of the others too in the ``_ref`` splits."""
        index = read_index(self.root, file)
        self._classes = class_table(index, find_space(self.own_space()), self.root / file)
        listed = {found.file_name.rpartition("/")[2]: found.segments for found in index.annotations.values()}
        reasons = {problem.frame: problem.reason for problem in index.problems}
        labels: dict[str, tuple[str, ...]] = {}
        problems = []
        for image in images:
            label = label_file(image, self._ending, f"{self._mark}_panoptic.png", "gt_panoptic")
            segments = listed.get(label.rpartition("/")[2])
            reason = reasons.get(frame_name(image.partition("/")[2]))
            if segments is not None:
                labels[image] = (label,)
                self._segments[self._name(image)] = segments
            elif self._is_reference and reason is None:
                labels[image] = ()
            else:
                problems.append(Problem(self._name(image), file, reason or f"does not list {image}"))
        if not self._segments:
            raise InputError(f"{self.root / file} lists no picture of ACDC split {self.split!r}; give its own JSON")
        self.index_problems = tuple(problems)
        return labels

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a ``labelIds``, ``labelTrainIds`` or ``panoptic`` picture."""
        path = self.root / frame.labels[0]
        if self.panoptic is None:
            semantic = read_label(path)
            return semantic, np.zeros(semantic.shape, np.int32)
        classes, instance = decode(read_segment_ids(path), self._segments[frame.name], self._classes, path)
        return classes, np.where(find_space(self.own_space()).is_thing[classes], instance, 0)


def class_table(index: PanopticIndex, space: LabelSpace, path: Path) -> NDArray[np.uint8]:
    """uint8 (categories,): class in ``space`` of each category of a JSON, found by its name.

    Raises:
        InputError: If a category is no class of ``space``.
    """
    names = [category.name for category in index.categories]
    unknown = [name for name in names if name not in space.words]
    if unknown:
        raise InputError(f"{path} has the category {unknown[0]!r}; allowed: {', '.join(space.names)}")
    return np.array([space.words[name] for name in names], np.uint8)
