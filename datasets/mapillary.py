"""Mapillary Vistas: street scenes from all over the world with panoptic labels (Neuhold et al., ICCV 2017).

The panoptic release (pictures of segment ids and one JSON) is what papers score against and alone says which segments
are crowds, so it is read where it is at hand. Else ``instances`` pictures are: class id · 256 + number, 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.frame_index import Frame, Problem, Video, files_below, stamp, still
from vidapt.datasets.listing import missing_picture_count
from vidapt.datasets.panoptic_json import Category, read_index
from vidapt.datasets.panoptic_pictures import decode, read_segment_ids
from vidapt.datasets.stored import DatasetCard, StoredArguments, StoredDataset
from vidapt.errors import InputError
from vidapt.io.images import read_ids as read_grey
from vidapt.labels import LabelSpace, find_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

JSON_FILES = {"v1.2": "panoptic_2018.json", "v2.0": "panoptic_2020.json"}
"""Panoptic JSON by version of the labels."""


class Mapillary(StoredDataset):
    """Still images of Mapillary Vistas in many sizes; further arguments as in ``StoredDataset``.

    Stuff segments have instances too, since the files number them. Pictures that the panoptic JSON does not annotate
    are left out and reported; pictures that it or ``instances`` label but that are not at hand are counted in one
    problem. ``instances`` pictures do not tell crowds from single things.

    Args:
        version: Version of the labels: "v1.2" (66 classes) or "v2.0" (124 classes).

    Raises:
        InputError: Also if there is no such version or the panoptic JSON is damaged.
    """

    card = DatasetCard(
        name="mapillary",
        title="Mapillary Vistas",
        labels="panoptic",
        video=False,
        splits={"training": 18000, "validation": 2000, "testing": 5000},
        layout=(
            "<split>/images/<key>.jpg\n"
            "<split>/<version>/panoptic/<key>.png and panoptic_2018.json (v2.0: panoptic_2020.json)\n"
            "or <split>/<version>/instances/<key>.png; the folder v1.2 may be left out"
        ),
        licence="Mapillary Vistas research use licence",
        home="https://www.mapillary.com/dataset/vistas",
        checked="on generated files only",
        unlabelled=("testing",),
    )
    first_category = 1
    version = 2
    has_instances = True

    def __init__(
        self, root: str | Path, split: str = "training", *, version: str = "v1.2", **arguments: Unpack[StoredArguments]
    ) -> None:
        if version not in JSON_FILES:
            raise InputError(f"Mapillary Vistas has no version {version!r}; allowed: {', '.join(JSON_FILES)}")
        self.label_version = version
        self._json = ""
        self._segments: dict[str, NDArray[np.int32]] = {}
        super().__init__(root, split, **arguments)

    def own_space(self) -> str:
        """The label space of the version."""
        return f"mapillary_{self.label_version}"

    def find_videos(self) -> list[Video]:
        """List the pictures of the split."""
        images = {PurePosixPath(path).stem: path for path in files_below(self.root, f"{self.split}/images", ".jpg")}
        folder, self._json = self._labels_at_hand()
        if self._json and self.labelled:
            labels = self._read_json(images, folder)
        else:
            labels = {key: (f"{folder}/{key}.png",) if folder else () for key in images}
            files = files_below(self.root, folder, ".png") if folder and self.labelled else []
            self.index_problems = self._missing((PurePosixPath(file).stem for file in files), images, folder)
        return [still(key, images[key], files) for key, files in labels.items()]

    def _missing(self, keys: Iterable[str], images: Mapping[str, str], source: str) -> tuple[Problem, ...]:
        """The problem of the ``keys`` that ``source`` labels and that have no picture."""
        pictures = [f"{self.split}/images/{key}.jpg" for key in keys if images and key not in images]
        return tuple(missing_picture_count(pictures, source))

    def _labels_at_hand(self) -> tuple[str, str]:
        """Folder of the label pictures and the JSON that belongs to them; "" for what is not there."""
        bases = [f"{self.split}/{self.label_version}", *([self.split] if self.label_version == "v1.2" else [])]
        for base in bases:
            file = f"{base}/panoptic/{JSON_FILES[self.label_version]}"
            if (self.root / file).is_file():
                return f"{base}/panoptic", file
        return next((f"{base}/instances" for base in bases if (self.root / base / "instances").is_dir()), ""), ""

    def _read_json(self, images: Mapping[str, str], folder: str) -> dict[str, tuple[str, ...]]:
        """Label files of the pictures that the JSON annotates; notes their segments, and the others as problems."""
        index = read_index(self.root, self._json)
        self._table = class_table(index.categories, find_space(self.own_space()), self.root / self._json)
        entries = {index.images[image_id].name: entry for image_id, entry in index.annotations.items()}
        known = [problem for problem in index.problems if not problem.frame or problem.frame in images]
        unlisted = set(images) - set(entries) - {problem.frame for problem in known}
        reasons = [Problem(key, images[key], f"is not annotated in {self._json}") for key in images if key in unlisted]
        listed = dict.fromkeys([*entries, *(problem.frame for problem in index.problems if problem.frame)])
        self.index_problems = (*known, *reasons, *self._missing(listed, images, self._json))
        self._segments = {key: entries[key].segments for key in images if key in entries}
        return {key: (f"{folder}/{entries[key].file_name}",) for key in self._segments}

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a picture of segment ids or an ``instances`` picture."""
        path = self.root / frame.labels[0]
        if self._json:
            return decode(read_segment_ids(path), self._segments[frame.name], self._table, path)
        return split_codes(read_grey(path))

    def describe(self) -> tuple[object, ...]:
        """What the content of a read frame depends on besides its files."""
        return (*super().describe(), stamp(self.root / self._json) if self._json else "")


def class_table(categories: Sequence[Category], space: LabelSpace, path: Path) -> NDArray[np.uint8]:
    """Class id of each category of a JSON, whose ids count from 1: uint8 (categories,), 255 for void classes.

    Args:
        categories: Categories of the JSON.
        space: Classes of the version.
        path: The JSON, named in errors.

    Raises:
        InputError: If a category id is not 1..number of classes.
    """
    wrong = [found.id for found in categories if found.id not in range(1, len(space) + 1)]
    if wrong:
        raise InputError(
            f"{path} has categories {wrong[:5]} that label space {space.name} does not define; allowed: "
            f"1..{len(space)}; is it of another version?"
        )
    classes = [int(found.id) - 1 for found in categories]
    return np.array([IGNORE if space.classes[index].is_void else index for index in classes], np.uint8)


def split_codes(picture: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Class ids and instances of an ``instances`` picture.

    >>> semantic, instance = split_codes(np.array([[0, 3394, 14081]], np.int32))
    >>> semantic.tolist(), instance.tolist()
    ([[0, 13, 55]], [[1, 3395, 14082]])

    Args:
        picture: int32 (H,W) class id · 256 + number; the numbers of each class count from 0.

    Returns:
        int32 (H,W) class ids; int32 (H,W) the picture's value + 1, which is never 0. Stuff is numbered as well, so
        that one of its classes can be a thing of the classes that it is mapped to: on rails is a train of Cityscapes.
    """
    return picture // 256, picture + 1
