"""Predictions to score: segmentation folders, or panoptic PNG and JSON of any program, in the space that is scored."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from vidapt.clip import FIRST_THING_ID, IGNORE, PanopticFrame, Segment
from vidapt.datasets.panoptic_json import leaves_folder
from vidapt.errors import ConfigError, InputError
from vidapt.evaluation.histogram import compact
from vidapt.io.coco import ID_LIMIT, decode_ids, iterate_annotations, read_header
from vidapt.io.images import read_label
from vidapt.io.segmentation_folder import read_segmentation
from vidapt.labels import LabelSpace
from vidapt.mapping import ClassMapping, find_mapping

if TYPE_CHECKING:
    from numpy.typing import NDArray

Lookup = Callable[[int, str, tuple[int, int]], PanopticFrame]
"""The prediction for a frame of a video, by its position, name and size (H, W); called with rising positions."""

ENDINGS = ("", "_panoptic", "_gtFine_panoptic", "_leftImg8bit", "_gtFine_leftImg8bit")
"""What may follow the name of a frame in that of a picture: nothing, or what Cityscapes and its tools append."""


@dataclass(frozen=True)
class VideoFrames:
    """Names of the frames of a video.

    Attributes:
        read: Those that are scored, in order.
        whole: All of the recording; the same where none is left out.
    """

    read: tuple[str, ...]
    whole: tuple[str, ...]


class ClassPixels:
    """Counts predicted pixels by class, before the classes are mapped; the state is int64 (256,), void last."""

    def __init__(self) -> None:
        self.counts = np.zeros(IGNORE + 1, np.int64)

    def add(self, frame: PanopticFrame) -> None:
        """Count a frame."""
        self.counts += np.bincount(frame.semantic.reshape(-1), minlength=IGNORE + 1)


class Predictions(Protocol):
    """Predictions for the videos of a data set.

    Attributes:
        mapping: From the classes of the predictions to those that are scored.
        names_classes: True if the predictions say which classes theirs are.
    """

    @property
    def mapping(self) -> ClassMapping:
        """From the classes of the predictions to those that are scored."""

    @property
    def names_classes(self) -> bool:
        """True if the predictions say which classes theirs are."""

    def video(self, number: int, pixels: ClassPixels | None = None) -> Lookup:
        """Open the predictions for video ``number``; ``pixels`` counts what is looked up."""

    def refuse_missing(self, videos: Sequence[VideoFrames]) -> None:
        """Look whether every frame has a prediction.

        Raises:
            InputError: If some have none; it names them.
        """


def open_predictions(
    folder: Path,
    videos: Sequence[str],
    own: ClassMapping,
    first_category: int = 0,
    *,
    frames: Sequence[VideoFrames] = (),
) -> Predictions:
    """Find out which kind of predictions lie in ``folder``.

    Args:
        folder: Segmentation folders named after the videos (or one itself), or panoptic PNG with one JSON file.
        videos: Names of the videos that are scored.
        own: From the label space of the ground truth files, whose ids a JSON without categories uses, to the one that
            is scored.
        first_category: Id of the first class in a JSON without categories.
        frames: Frames of each video, so that the frames of segmentation folders are found where only some are scored;
            without them, a frame is found by its position among those that are scored.

    Raises:
        InputError: If nothing of the kind lies there, or videos have no predictions.
    """
    if not folder.exists():
        raise InputError(
            f"no predictions at {folder}; give a folder of segmentation folders or of panoptic PNG and JSON"
        )
    # A file of scores beside segmentation folders is no prediction.
    by_video = any((folder / video / "panoptic.json").is_file() for video in videos)
    file = folder if folder.is_file() else None if by_video else _panoptic_json(folder)
    if file is not None:
        return PanopticFiles(file, own, one_video=len(videos) == 1, first_category=first_category)
    return SegmentationFolders(_folders_of(folder, videos), own, tuple(frames))


def _panoptic_json(folder: Path) -> Path | None:
    """The JSON file of panoptic pictures from another program; None where ``segment`` wrote the folder."""
    files = sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))
    # Scores and summaries may lie beside it.
    found = files if len(files) < 2 else [file for file in files if _has_annotations(file)]
    if [file.name for file in found] == ["panoptic.json"] and _is_ours(found[0]):
        return None
    if len(found) != 1 and files:
        names = ", ".join(file.name for file in found or files)
        raise InputError(f"{folder} holds several JSON files ({names}); give the panoptic one: --predictions FILE.json")
    return found[0] if found else None


def _has_annotations(path: Path) -> bool:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and isinstance(data.get("annotations"), list)


def _is_ours(path: Path) -> bool:
    try:
        read_header(path)
    except InputError:
        return False
    return True


def _folders_of(folder: Path, videos: Sequence[str]) -> tuple[Path, ...]:
    """The segmentation folder of each video; that of a single one may be ``folder`` itself."""
    if len(videos) == 1 and not (folder / videos[0]).is_dir() and (folder / "panoptic.json").is_file():
        return (folder,)
    missing = [name for name in videos if not (folder / name).is_dir()]
    if missing:
        what = f"video {missing[0]!r}" if len(missing) == 1 else f"{len(missing)} videos ({_some(missing)})"
        raise InputError(
            f"no segmentation of {what}: {folder / missing[0]} does not exist; name folders after the videos, or put "
            "one panoptic JSON there"
        )
    return tuple(folder / name for name in videos)


def _some(names: Sequence[str], most: int = 10) -> str:
    """The first names, quoted.

    >>> _some(["a", "b", "c"], most=2)
    "'a', 'b', ..."
    """
    return ", ".join(repr(name) for name in names[:most]) + (", ..." if len(names) > most else "")


@dataclass(frozen=True)
class SegmentationFolders:
    """Folders that ``vidapt segment`` wrote, one for each video.

    A folder holds either exactly the frames that are scored, numbered from 0, or those of the whole recording by their
    numbers there.

    Attributes:
        folders: One for each video.
        own: From the label space of the ground truth to the one that is scored.
        frames: Frames of each video; empty where nothing is left out.

    Raises:
        InputError: If one is damaged, they differ in their classes, or none of these is scored.
    """

    folders: tuple[Path, ...]
    own: ClassMapping
    frames: tuple[VideoFrames, ...] = ()
    names_classes: ClassVar[bool] = True

    @cached_property
    def mapping(self) -> ClassMapping:
        """From the classes of the folders to those that are scored."""
        spaces = {space.names: space for space in map(_space_of, self.folders)}
        where = self.folders[0].parent
        if len(spaces) > 1:
            raise InputError(f"the segmentations below {where} have different classes; segment all with one network")
        (space,) = spaces.values()
        return _mapping(space, self.own, where)

    def video(self, number: int, pixels: ClassPixels | None = None) -> Lookup:
        """Read the folder of a video frame by frame."""
        folder, mapping = self.folders[number], self.mapping
        frames = read_segmentation(folder)
        places = _places(folder, self.frames[number]) if self.frames else None

        def find(position: int, name: str, size: tuple[int, int]) -> PanopticFrame:
            place = position if places is None else places[position]
            frame = next((found for found in frames if found.index >= place), None)
            if frame is None or frame.index > place:
                raise InputError(f"{folder} has no prediction for frame {place} ({name}); segment all frames")
            _check_size(frame.ids, size, f"frame {place} of {folder}", name)
            if pixels is not None:
                pixels.add(frame)
            return remap_frame(frame, mapping)

        return find

    def refuse_missing(self, videos: Sequence[VideoFrames]) -> None:
        """Compare the frame numbers of the folders with those that are needed.

        Raises:
            InputError: If some are missing, or it cannot be told which frames a folder holds.
        """
        missing = []
        for folder, frames in zip(self.folders, videos, strict=True):
            held = set(_indices(folder))
            pairs = zip(_places(folder, frames), frames.read, strict=True)
            missing += [(folder, place, name) for place, name in pairs if place not in held]
        if len(missing) == 1:
            folder, place, name = missing[0]
            raise InputError(f"{folder} has no prediction for frame {place} ({name}); segment all frames")
        if missing:
            folders = dict.fromkeys(str(folder) for folder, _, _ in missing)
            raise InputError(
                f"{len(missing)} frames have no prediction in {', '.join([*folders][:3])}"
                f"{' and others' if len(folders) > 3 else ''}: {_some([name for _, _, name in missing])}; "
                "segment all frames"
            )


def _indices(folder: Path) -> list[int]:
    """Numbers of the frames of a segmentation folder."""
    return [int(record["image_id"]) for record in iterate_annotations(folder / "panoptic.json")]


def _places(folder: Path, frames: VideoFrames) -> list[int]:
    """The numbers that the scored frames have in a segmentation folder.

    Raises:
        InputError: If the folder holds neither the scored frames alone nor those of the whole recording.
    """
    read, whole = len(frames.read), len(frames.whole)
    if read == whole:
        return list(range(read))
    held = _indices(folder)
    counted = held == list(range(len(held)))
    if counted and len(held) == read:
        return held
    if counted and len(held) < whole:
        raise InputError(
            f"{folder} holds {len(held)} frames numbered from 0, but the video has {whole}, of which {read} are "
            "scored, so it is not clear which they are; segment all frames of the video, or just those that are scored"
        )
    number = {name: place for place, name in enumerate(frames.whole)}
    return [number[name] for name in frames.read]


def _space_of(folder: Path) -> LabelSpace:
    """The label space that a segmentation folder was written in."""
    path = folder / "panoptic.json"
    header = read_header(path)
    return _space(header["info"]["label_space"], header["categories"], path)


def _space(name: str, categories: Sequence[Mapping[str, Any]], path: Path) -> LabelSpace:
    try:
        classes = [
            {"name": item["name"], "thing": bool(item.get("isthing", 0)), "colour": item.get("color")}
            for item in categories
        ]
        return LabelSpace.from_dict({"name": name, "classes": classes})
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise InputError(f"the categories of {path} are not a list of {{id, name, isthing}}: {error}") from error


def _mapping(space: LabelSpace, own: ClassMapping, path: Path) -> ClassMapping:
    """From the classes of predictions to those that are scored; the classes of the ground truth go where it goes."""
    mapping = own if space.names == own.source.names else find_mapping(space, own.target)
    if not mapping.names:
        some = ", ".join(space.names[:5]) + (", ..." if len(space) > 5 else "")
        raise InputError(
            f"no class of {path} ({some}) is one of label space {own.target.name!r} ({', '.join(own.target.names)}); "
            "name the classes of predictions as the label space does"
        )
    return mapping


def _check_size(ids: NDArray[np.int32], size: tuple[int, int], what: str, name: str) -> None:
    if ids.shape != size:
        raise InputError(
            f"{what} is {ids.shape[1]}x{ids.shape[0]}, but {name} is scored at {size[1]}x{size[0]}; resize predictions "
            "to that (nearest neighbour), or predict at that size"
        )


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
        space = _space(str(name or self.file.stem), categories, self.file)
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
        return _mapping(self._classes[0], self.own, self.file)

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
                f"{self.file} has no annotation for {len(missing)} of {len(names)} frames: {_some(missing)}; it needs "
                "one for every frame that is scored"
            )
        pictures = [self._record(name)["file_name"] for name in names]
        lost = [file_name for file_name in pictures if self._picture_or_none(file_name) is None]
        if len(lost) > 1:
            raise InputError(f"{len(lost)} of {len(names)} pictures of {self.file} are missing: {_some(lost)}")
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
        _check_size(ids, size, str(path), name)
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


def remap_frame(frame: PanopticFrame, mapping: ClassMapping) -> PanopticFrame:
    """The same segmentation with the classes of ``mapping.target``.

    Stuff segments get the id ``train id + 1``, things keep an id of their own, the same in every frame: from 256 up
    theirs, and those below 256 above all that a picture can hold. Segments without a counterpart become void.

    Args:
        frame: Segments with unique ids, of any numbering; 0 is void.
        mapping: From the frame's classes.
    """
    is_thing = mapping.target.is_thing
    table, segments = {0: 0}, []
    for segment in frame.segments:
        category = int(mapping.table[segment.category])
        if category == IGNORE:
            table[segment.id] = 0
            continue
        thing = bool(is_thing[category])
        single = segment.id if segment.id >= FIRST_THING_ID else ID_LIMIT + segment.id
        table[segment.id] = single if thing else category + 1
        segments.append(replace(segment, id=table[segment.id], category=category, is_thing=thing))
    present, place = compact(frame.ids)
    ids = np.array([table[own] for own in present.tolist()], np.int32)[place]
    return PanopticFrame(frame.index, frame.time, mapping.table[frame.semantic], ids, _merged(segments))


def _merged(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """One segment for each id: stuff segments of one class become one."""
    found: dict[int, Segment] = {}
    for segment in segments:
        first = found.get(segment.id)
        found[segment.id] = segment if first is None else replace(first, area=first.area + segment.area)
    return tuple(found.values())
