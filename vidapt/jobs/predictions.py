"""Predictions to score: segmentation folders, or panoptic PNG and JSON of any program, in the space that is scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vidapt.clip import PanopticFrame
from vidapt.errors import InputError
from vidapt.io.coco import iterate_annotations, read_header
from vidapt.io.segmentation_folder import read_segmentation
from vidapt.jobs.panoptic_files import PanopticFiles
from vidapt.jobs.predicted_frames import (
    ClassPixels,
    Lookup,
    Predictions,
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
    pass


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
        what = f"video {missing[0]!r}" if len(missing) == 1 else f"{len(missing)} videos ({some_names(missing)})"
        raise InputError(
            f"no segmentation of {what}: {folder / missing[0]} does not exist; name folders after the videos, or put "
            "one panoptic JSON there"
        )
    return tuple(folder / name for name in videos)


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
        return mapping_to_scored(space, self.own, where)

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
            check_size(frame.ids, size, f"frame {place} of {folder}", name)
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
                f"{' and others' if len(folders) > 3 else ''}: {some_names([name for _, _, name in missing])}; "
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
    return space_of_categories(header["info"]["label_space"], header["categories"], path)
