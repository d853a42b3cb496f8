"""Predictions to score: segmentation folders, or panoptic PNG and JSON of any program, in the space that is scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vidapt.clip import FIRST_THING_ID, IGNORE, PanopticFrame, Segment
from vidapt.errors import InputError
from vidapt.io.coco import ID_LIMIT, decode_ids, read_header
from vidapt.io.images import read_label
from vidapt.io.segmentation_folder import read_segmentation
from vidapt.labels import LabelSpace
from vidapt.mapping import ClassMapping, find_mapping

if TYPE_CHECKING:
    from numpy.typing import NDArray

Lookup = Callable[[int, str], PanopticFrame]
"""The prediction for a frame of a video, by its position and name; called with rising positions."""


class Predictions(Protocol):
    """Predictions for the videos of a data set."""

    def video(self, number: int) -> Lookup:
        """Open the predictions for video ``number``."""


def open_predictions(folder: Path, videos: Sequence[str], own: LabelSpace, scored: LabelSpace) -> Predictions:
    """Find out which kind of predictions lie in ``folder``.

    Args:
        folder: Segmentation folders named after the videos (or one itself), or panoptic PNG with one JSON file.
        videos: Names of the videos that are scored.
        own: Label space of the ground truth files, whose ids a JSON without categories uses.
        scored: Label space that is scored in.

    Raises:
        InputError: If nothing of the kind lies there, or a video has no predictions.
    """
    if not folder.exists():
        raise InputError(
            f"no predictions at {folder}; give a folder of segmentation folders or of panoptic PNG and JSON"
        )
    file = folder if folder.is_file() else _panoptic_json(folder)
    if file is not None:
        return PanopticFiles(file, own, scored)
    return SegmentationFolders(tuple(_folder_of(folder, name, len(videos)) for name in videos), scored)


def _panoptic_json(folder: Path) -> Path | None:
    """The JSON file of panoptic pictures from another program; None where ``segment`` wrote the folder."""
    files = sorted(folder.glob("*.json"))
    if [file.name for file in files if file.name != "summary.json"] == ["panoptic.json"] and _is_ours(files[0]):
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(f"{folder} holds several JSON files ({names}); give the panoptic one: --predictions FILE.json")
    return files[0] if files else None


def _is_ours(path: Path) -> bool:
    try:
        read_header(path)
    except InputError:
        return False
    return True


def _folder_of(folder: Path, name: str, count: int) -> Path:
    """The segmentation folder of the video ``name``, one of ``count``."""
    own = folder / name
    if own.is_dir() or count > 1 or not (folder / "panoptic.json").is_file():
        folder = own
    if not folder.is_dir():
        raise InputError(f"no segmentation of video {name!r}: {folder} does not exist; name folders after the videos")
    return folder


@dataclass(frozen=True)
class SegmentationFolders:
    """Folders that ``vidapt segment`` wrote, one for each video.

    Raises:
        InputError: If one is damaged, or they differ in their classes.
    """

    folders: tuple[Path, ...]
    scored: LabelSpace

    @cached_property
    def mapping(self) -> ClassMapping:
        """From the classes of the folders to those that are scored."""
        spaces = {space.names: space for space in map(_space_of, self.folders)}
        if len(spaces) > 1:
            where = self.folders[0].parent
            raise InputError(f"the segmentations below {where} have different classes; segment all with one network")
        (space,) = spaces.values()
        return find_mapping(space, self.scored)

    def video(self, number: int) -> Lookup:
        """Read the folder of a video frame by frame."""
        folder, mapping = self.folders[number], self.mapping
        frames = read_segmentation(folder)

        def find(position: int, name: str) -> PanopticFrame:
            frame = next((found for found in frames if found.index >= position), None)
            if frame is None or frame.index > position:
                raise InputError(f"{folder} has no prediction for frame {position} ({name}); segment all frames")
            return remap_frame(frame, mapping)

        return find


def _space_of(folder: Path) -> LabelSpace:
    """The label space that a segmentation folder was written in."""
    header = read_header(folder / "panoptic.json")
    return _space(header["info"]["label_space"], header["categories"])


def _space(name: str, categories: Sequence[Mapping[str, Any]]) -> LabelSpace:
    classes = [
        {"name": item["name"], "thing": bool(item.get("isthing", 0)), "colour": item.get("color")}
        for item in categories
    ]
    return LabelSpace.from_dict({"name": name, "classes": classes})


@dataclass(frozen=True)
class PanopticFiles:
    """Panoptic pictures and one JSON file in the COCO panoptic format, found by the names of the frames.

    A picture belongs to a frame if the annotation's ``image_id``, or its file name without ending (and without
    ``_panoptic``), is the frame's name. Categories are matched by name; without ``categories`` in the file, their ids
    are those of the ground truth files (label ids on Cityscapes). Segments may carry a ``score``; else it is 1.
    """

    file: Path
    own: LabelSpace
    scored: LabelSpace

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        try:
            data = json.loads(self.file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{self.file} cannot be read as JSON: {error}") from error
        if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
            raise InputError(f"{self.file} is no panoptic JSON: it needs a list 'annotations'")
        return data

    @cached_property
    def _records(self) -> Mapping[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        for record in self._content["annotations"]:
            stem = Path(str(record.get("file_name", ""))).stem
            for name in {str(record.get("image_id")), stem, stem.removesuffix("_panoptic")}:
                found[name] = record
        return found

    @cached_property
    def _classes(self) -> tuple[LabelSpace, Mapping[int, int]]:
        """The space of the predictions, and the position of each category id in it."""
        categories = self._content.get("categories")
        if not categories:
            return self.own, {index: index for index in range(len(self.own))}
        return _space(self.file.stem, categories), {int(item["id"]): n for n, item in enumerate(categories)}

    @cached_property
    def _mapping(self) -> ClassMapping:
        return find_mapping(self._classes[0], self.scored)

    @cached_property
    def _folder(self) -> Path:
        """The folder of the pictures: named like the JSON file, ``panoptic``, or the file's own."""
        names = [str(record.get("file_name")) for record in self._content["annotations"][:1]]
        beside = self.file.parent
        for folder in (beside / self.file.stem, beside / "panoptic", beside):
            if names and (folder / names[0]).is_file():
                return folder
        raise InputError(
            f"the pictures of {self.file} are not beside it; put them into {beside / self.file.stem}/ or {beside}/"
        )

    def video(self, number: int) -> Lookup:
        """Find the pictures of a video by the names of its frames."""
        del number
        return self._find

    def _find(self, position: int, name: str) -> PanopticFrame:
        record = self._records.get(name) or self._records.get(name.rpartition("/")[2])
        if record is None:
            raise InputError(f"{self.file} has no annotation for {name!r}; predict every frame of the split")
        path = self._folder / Path(str(record["file_name"])).name
        picture = read_label(path)
        ids = decode_ids(picture) if picture.ndim == 3 else picture
        return remap_frame(self._frame(ids, record, position, path), self._mapping)

    def _frame(self, ids: NDArray[np.int32], record: Mapping[str, Any], position: int, path: Path) -> PanopticFrame:
        space, places = self._classes
        segments = [_segment(item, places, space, path) for item in record.get("segments_info", ())]
        known = {segment.id for segment in segments}
        if len(known) < len(segments):
            raise InputError(f"{self.file} lists a segment of {path.name} twice")
        present = set(np.unique(ids).tolist()) - {0}
        if present - known:
            raise InputError(f"{path} has id {min(present - known)}, which {self.file.name} does not list")
        table = np.array([0, *sorted(known)])
        category = {segment.id: segment.category for segment in segments}
        classes = np.array([IGNORE, *(category[own] for own in sorted(known))], np.uint8)
        return PanopticFrame(position, 0.0, classes[np.searchsorted(table, ids)], ids, tuple(segments))


def _segment(item: Mapping[str, Any], places: Mapping[int, int], space: LabelSpace, path: Path) -> Segment:
    try:
        panoptic_id, category = int(item["id"]), places[int(item["category_id"])]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"a segment of {path.name} has no id or an unknown category: {dict(item)}") from error
    if not 0 < panoptic_id < ID_LIMIT - FIRST_THING_ID:
        raise InputError(f"segment id {panoptic_id} of {path.name} is outside 1..{ID_LIMIT - FIRST_THING_ID - 1}")
    thing = bool(space.is_thing[category])
    return Segment(panoptic_id, category, thing, float(item.get("score", 1.0)), int(item.get("area", 0)), (0, 0, 0, 0))


def remap_frame(frame: PanopticFrame, mapping: ClassMapping) -> PanopticFrame:
    """The same segmentation with the classes of ``mapping.target``.

    Stuff segments get the id ``train id + 1``, things keep an id of their own from 256 up, the same in every frame;
    segments without a counterpart become void.

    Args:
        frame: Segments with unique ids, of any numbering; 0 is void.
        mapping: From the frame's classes.
    """
    is_thing = mapping.target.is_thing
    table = np.zeros(1 + len(frame.segments), np.int32)
    segments, order = [], sorted(frame.segments, key=lambda segment: segment.id)
    for place, segment in enumerate(order, 1):
        category = int(mapping.table[segment.category])
        if category == IGNORE:
            continue
        thing = bool(is_thing[category])
        # Ids of ours are from 256 up already; those of other programs may be any.
        own = segment.id if segment.id >= FIRST_THING_ID else ID_LIMIT - FIRST_THING_ID + segment.id
        table[place] = own if thing else category + 1
        segments.append(replace(segment, id=int(table[place]), category=category, is_thing=thing))
    known = np.array([0, *(segment.id for segment in order)])
    ids = table[np.searchsorted(known, frame.ids)]
    return PanopticFrame(frame.index, frame.time, mapping.table[frame.semantic], ids, _merged(segments))


def _merged(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """One segment for each id: stuff segments of one class become one."""
    found: dict[int, Segment] = {}
    for segment in segments:
        first = found.get(segment.id)
        found[segment.id] = segment if first is None else replace(first, area=first.area + segment.area)
    return tuple(found.values())
