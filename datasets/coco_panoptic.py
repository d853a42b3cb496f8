"""Any data set in the COCO panoptic format: pictures, pictures of segment ids and one JSON (``panoptic_json``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from vidapt.clip import IGNORE
from vidapt.datasets.frame_index import Frame, Video, stamp
from vidapt.datasets.listing import usual_step
from vidapt.datasets.panoptic_json import Category, Id, ImageEntry, PanopticIndex, read_index
from vidapt.datasets.panoptic_pictures import decode, read_segment_ids
from vidapt.datasets.stored import DatasetCard, StoredArguments, StoredDataset
from vidapt.errors import ConfigError, InputError
from vidapt.labels import LabelSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AS_LISTED = np.arange(IGNORE, dtype=np.uint8)
"""The class of a category is its position."""


class CocoPanoptic(StoredDataset):
    """Pictures that a COCO panoptic JSON lists; further arguments as in ``StoredDataset``.

    Class ids are the positions of the categories in the JSON. Images with the same ``video_id`` form a video, ordered
    by the number at the end of their names, or as they are listed where those are no distinct numbers; its rate is not
    known, one number counts as a second. The others are stills. Stuff segments have instances too, since the format
    numbers them. Images without annotation are unlabelled.

    Args:
        split: Any name; it only fills in the three that follow.
        json_file: JSON file below the root; None is ``annotations/panoptic_<split>.json``.
        images: Folder of the pictures below the root; None is ``<split>``.
        panoptic: Folder of the id pictures below the root; None is the JSON's name without ending.

    Raises:
        InputError: Also if the JSON is missing or is not in the format.
    """

    card = DatasetCard(
        name="coco_panoptic",
        title="COCO panoptic format",
        labels="panoptic",
        video=False,
        splits={"train2017": None, "val2017": None},
        layout=(
            "annotations/panoptic_<split>.json (option json_file)\n"
            "<split>/<file_name of the image> (option images)\n"
            "annotations/panoptic_<split>/<file_name of the annotation> (option panoptic)"
        ),
        licence="that of the data set; COCO: annotations CC BY 4.0, pictures under the terms of Flickr",
        home="https://cocodataset.org/#format-data",
        checked="checked on real files",
    )
    space = "coco_panoptic"
    has_instances = True

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        *,
        json_file: str | Path | None = None,
        images: str | Path | None = None,
        panoptic: str | Path | None = None,
        **arguments: Unpack[StoredArguments],
    ) -> None:
        file = Path(json_file or f"annotations/panoptic_{split}.json")
        self.json_file = file.as_posix()
        self.image_folder = Path(images or split).as_posix()
        self.panoptic_folder = Path(panoptic or file.with_suffix("")).as_posix()
        self.card = replace(self.card, splits={split: None})
        self._segments: dict[str, NDArray[np.int32]] = {}
        super().__init__(root, split, **arguments)

    def find_videos(self) -> list[Video]:
        """List the images of the JSON."""
        index = self._read_json()
        self.index_problems = index.problems
        self._space = category_space(index.categories, self.root / self.json_file)
        self._segments = {index.images[found].name: entry.segments for found, entry in index.annotations.items()}
        videos: dict[tuple[str, Id], list[Id]] = {}
        for image_id, image in index.images.items():
            key = ("still", image_id) if image.video is None else ("video", image.video)
            videos.setdefault(key, []).append(image_id)
        unlabelled = () if index.annotations or index.problems else (self.split,)
        video = any(kind == "video" for kind, _ in videos)
        self.card = replace(self.card, video=video, unlabelled=unlabelled)
        return [self._video(index, *key, image_ids) for key, image_ids in videos.items()]

    def _read_json(self) -> PanopticIndex:
        path = self.root / self.json_file
        if not path.is_file():
            raise InputError(f"{path} does not exist; give json_file, or expected are:\n{self.card.layout}")
        return read_index(self.root, self.json_file)

    def _video(self, index: PanopticIndex, kind: str, name: Id, image_ids: Sequence[Id]) -> Video:
        numbers = frame_numbers([index.images[image_id] for image_id in image_ids])
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        frames = tuple(self._frame(index, image_ids[place], numbers[place]) for place in order)
        step = usual_step([frame.number for frame in frames])
        return Video(frames[0].name if kind == "still" else str(name), frames, step=step)

    def _frame(self, index: PanopticIndex, image_id: Id, number: int) -> Frame:
        image, entry = index.images[image_id], index.annotations.get(image_id)
        labels = () if entry is None else (f"{self.panoptic_folder}/{entry.file_name}",)
        key = bool(labels) or not index.annotations
        return Frame(image.name, f"{self.image_folder}/{image.file_name}", labels, number, key)

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode a picture of segment ids."""
        path = self.root / frame.labels[0]
        return decode(read_segment_ids(path), self._segments[frame.name], _AS_LISTED, path)

    def own_label_space(self) -> LabelSpace:
        """The categories of the JSON."""
        return self._space

    def describe(self) -> tuple[object, ...]:
        """What the content of a read frame depends on besides its files."""
        return (*super().describe(), stamp(self.root / self.json_file))


def category_space(categories: Sequence[Category], path: Path) -> LabelSpace:
    """The label space whose ids are the positions of the categories.

    Args:
        categories: Categories of a JSON.
        path: The JSON, named in errors.

    Raises:
        InputError: If there are none, too many for a label space, or two of one name.
    """
    classes = [{"name": found.name, "thing": found.is_thing, "colour": found.colour} for found in categories]
    try:
        return LabelSpace.from_dict({"name": CocoPanoptic.space, "classes": classes})
    except ConfigError as error:
        raise InputError(f"{path}: its categories form no label space: {error}") from error


def frame_numbers(images: Sequence[ImageEntry]) -> list[int]:
    """Frame numbers of the images of a video: at the end of their names, or their places in the JSON.

    >>> frame_numbers([ImageEntry("a/f_09.jpg", 2, 2, 1, 4), ImageEntry("a/f_07.jpg", 2, 2, 1, 5)])
    [9, 7]
    """
    found = [re.search(r"(?<![0-9])[0-9]{1,18}$", PurePosixPath(image.file_name).stem) for image in images]
    numbers = [int(match[0]) for match in found if match]
    return numbers if len(set(numbers)) == len(images) else [image.position for image in images]
