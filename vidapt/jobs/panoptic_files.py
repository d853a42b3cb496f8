"""Predictions as panoptic pictures and one JSON file, as any program may write them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.clip import IGNORE, PanopticFrame, Segment
from vidapt.datasets.panoptic_json import leaves_folder
from vidapt.errors import InputError
from vidapt.evaluation.histogram import compact
from vidapt.io.coco import ID_LIMIT, decode_ids
from vidapt.io.images import read_label
from vidapt.jobs.predicted_frames import (
    ClassPixels,
    Lookup,
    VideoFrames,
    check_size,
    mapping_to_scored,
    remap_frame,
    some_names,
    space_of_categories,
)
from vidapt.labels import LabelSpace
from vidapt.mapping import ClassMapping

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENDINGS = ("", "_panoptic", "_gtFine_panoptic", "_leftImg8bit", "_gtFine_leftImg8bit")
"""What may follow the name of a frame in that of a picture: nothing, or what Cityscapes and its tools append."""


@dataclass(frozen=True)
class PanopticFiles:
    """Panoptic pictures and one JSON file in the COCO panoptic format, found by the names of the frames.

    A picture belongs to a frame if the annotation's ``image_id``, its file name without ending, or that of the image
    listed under this id is the frame's name (``ENDINGS`` may follow it; the parts of a path may be joined by ``_``).
    Categories are matched by name; without ``categories`` in the file, their ids are those of the ground truth's label
    space (label ids on Cityscapes). Segments may carry a ``score``; else it is NaN. Stuff of one class in a picture is
    one segment, as the format asks for, even if the file lists several.

    Attributes:
        file: The JSON file.
        own: From the label space of the ground truth to the one that is scored.
        one_video: True if all frames are of one video, so that a picture may be named by the frame's number alone.
        first_category: Id of the first class where the file lists no categories.
    """

    file: Path
    own: ClassMapping
    one_video: bool = False
    first_category: int = 0

    @property
    def names_classes(self) -> bool:
        """True if the file lists categories."""
        return bool(self._content.get("categories"))

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        try:
            data = json.loads(self.file.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.file} cannot be read as JSON: {error}") from error
        if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
            raise InputError(f"{self.file} is no panoptic JSON: it needs a list 'annotations'")
        for place, record in enumerate(data["annotations"]):
            if not isinstance(record, dict) or not isinstance(record.get("file_name"), str):
                raise InputError(f"{self.file}: annotations[{place}] has no 'file_name', the picture of its segments")
        for key in ("images", "categories"):
            if not isinstance(data.get(key) or [], list):
                raise InputError(f"{self.file}: {key!r} is {str(data[key])[:40]}, but must be a list; mend or drop it")
        return data

    @cached_property
    def _records(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Annotations by each name that they may stand for."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        images = {
            str(item.get("id")): str(item.get("file_name"))
            for item in self._content.get("images") or ()
            if isinstance(item, dict)
        }
        for record in self._content["annotations"]:
            image_id = str(record.get("image_id"))
            files = (record["file_name"], images.get(image_id, ""))
            for name in {image_id, *(form for file in files for form in _frame_names(file))}:
                found.setdefault(name, []).append(record)
        return found

    @cached_property
    def _classes(self) -> tuple[LabelSpace, Mapping[int, int]]:
        """The space of the predictions, and the position of each category id in it."""
        categories = self._content.get("categories")
        if not categories:
            ids = range(self.first_category, self.first_category + len(self.own.source))
            return self.own.source, {category: place for place, category in enumerate(ids)}
        info = self._content.get("info")
        name = info.get("label_space") if isinstance(info, dict) else None
        space = space_of_categories(str(name or self.file.stem), categories, self.file)
        try:
            own_ids = [int(item["id"]) for item in categories]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.file} has a category without a number as its id: {error}") from error
        twice = [(own, item["name"]) for own, item in zip(own_ids, categories, strict=True) if own_ids.count(own) > 1]
        if twice:
            (own, first), (_, second) = twice[0], twice[1]
            raise InputError(f"{self.file}: categories {first} and {second} both have id {own}; give each its own")
        return space, {own: place for place, own in enumerate(own_ids)}

    @cached_property
    def mapping(self) -> ClassMapping:
        """From the classes of the predictions to those that are scored."""
        return mapping_to_scored(self._classes[0], self.own, self.file)

    def video(self, number: int, pixels: ClassPixels | None = None) -> Lookup:
        """Find the pictures of a video by the names of its frames."""
        del number
        return partial(self._find, pixels)

    def refuse_missing(self, videos: Sequence[VideoFrames]) -> None:
        """Compare the names in the file with those of the frames.

        Raises:
            InputError: If frames have no annotation, or an annotation has no picture.
        """
        names = [name for frames in videos for name in frames.read]
        missing = [name for name in names if not self._found(name)]
        if len(missing) > 1:
            raise InputError(
                f"{self.file} has no annotation for {len(missing)} of {len(names)} frames: {some_names(missing)}; "
                "it needs one for every frame that is scored"
            )
        pictures = [self._record(name)["file_name"] for name in names]
        lost = [file_name for file_name in pictures if self._picture_or_none(file_name) is None]
        if len(lost) > 1:
            raise InputError(f"{len(lost)} of {len(names)} pictures of {self.file} are missing: {some_names(lost)}")
        for file_name in lost:
            self._picture(file_name)

    def _found(self, name: str) -> Sequence[Mapping[str, Any]]:
        found = self._records.get(name) or ()
        return found or (self._records.get(name.rpartition("/")[2], ()) if self.one_video else ())

    def _record(self, name: str) -> Mapping[str, Any]:
        found = self._found(name)
        if len(found) != 1:
            many = f"has {len(found)} annotations" if found else "has no annotation"
            raise InputError(f"{self.file} {many} for {name!r}; it needs one for every frame that is scored")
        return found[0]

    def _find(self, pixels: ClassPixels | None, position: int, name: str, size: tuple[int, int]) -> PanopticFrame:
        record = self._record(name)
        path = self._picture(record["file_name"])
        picture = read_label(path)
        ids = decode_ids(picture) if picture.ndim == 3 else picture
        check_size(ids, size, str(path), name)
        frame = self._frame(ids, record, position, path)
        if pixels is not None:
            pixels.add(frame)
        return remap_frame(frame, self.mapping)

    def _picture(self, file_name: str) -> Path:
        """The picture, in a folder beside the JSON file that is named like it or ``panoptic``, or beside it itself."""
        found = self._picture_or_none(file_name)
        if found is None:
            folders = " or ".join(map(str, self._folders))
            raise InputError(f"the picture {file_name} of {self.file} is not in {folders}")
        return found

    def _picture_or_none(self, file_name: str) -> Path | None:
        if leaves_folder(file_name):
            raise InputError(f"{self.file} has the file_name {file_name!r}, which leads out of its folder")
        places = (folder / file_name for folder in self._folders)
        return next((path for path in places if path.is_file()), None)

    @cached_property
    def _folders(self) -> list[Path]:
        beside = self.file.parent
        return [folder for folder in (beside / self.file.stem, beside / "panoptic", beside) if folder.is_dir()]

    def _frame(self, ids: NDArray[np.int32], record: Mapping[str, Any], position: int, path: Path) -> PanopticFrame:
        space, places = self._classes
        items = record.get("segments_info")
        if not isinstance(items, list):
            raise InputError(f"{self.file} has no list 'segments_info' for {path.name}")
        segments = [_segment(item, places, space, self.file, path) for item in items]
        category = {segment.id: segment.category for segment in segments}
        if len(category) < len(segments):
            raise InputError(f"{self.file} lists a segment of {path.name} twice")
        present, place = compact(ids)
        unlisted = set(present.tolist()) - {0, *category}
        if unlisted:
            raise InputError(f"{path} has id {min(unlisted)}, which {self.file.name} does not list")
        unseen = set(category) - set(present.tolist())
        if unseen:
            raise InputError(f"{self.file} lists segment {min(unseen)} of {path.name}, which has no pixel there")
        classes = np.array([category.get(own, IGNORE) for own in present.tolist()], np.uint8)
        return PanopticFrame(position, 0.0, classes[place], ids, tuple(segments))


def _frame_names(file_name: str) -> Iterator[str]:
    """Names of frames that a picture of this name may show.

    >>> sorted(set(_frame_names("a/0_panoptic.png")))
    ['0', '0_panoptic', 'a/0', 'a/0_panoptic', 'a_0', 'a_0_panoptic']
    """
    path = Path(file_name).with_suffix("") if Path(file_name).name else Path()
    for form in (path.as_posix(), "_".join(path.parts), path.name):
        yield from (form.removesuffix(ending) for ending in ENDINGS)


def _segment(item: Any, places: Mapping[int, int], space: LabelSpace, file: Path, path: Path) -> Segment:
    try:
        panoptic_id, category = int(item["id"]), places[int(item["category_id"])]
        score, area = float(item["score"]) if "score" in item else math.nan, int(item.get("area") or 0)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file}: a segment of {path.name} has no id, an unknown category or a score that is no number: {item}"
        ) from error
    if not 0 < panoptic_id < ID_LIMIT or ("score" in item and not math.isfinite(score)):
        raise InputError(
            f"{file}: a segment of {path.name} has id {panoptic_id} and score {score}; ids are 1..{ID_LIMIT - 1}"
        )
    return Segment(panoptic_id, category, bool(space.is_thing[category]), score, area, (0, 0, 0, 0))
