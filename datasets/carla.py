"""Frames recorded in the simulator CARLA: panoptic as CarlaScapes stores them, or clips with semantic colours.

``labelIds`` pictures hold the semantic tag. ``instance`` pictures are colours: red is the tag, 256 · green + blue the
number of the instance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.datasets.frame_index import Frame, Problem, Video, files_below
from vidapt.datasets.instance_codes import tagged_instances
from vidapt.datasets.listing import misnamed, missing_pictures, used_labels
from vidapt.datasets.stored import DatasetCard, StoredDataset
from vidapt.errors import InputError
from vidapt.io.images import read_ids, read_label
from vidapt.labels import find_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

FPS = 20.0
"""Simulator frames a second in CarlaScapes, by the time stamps of its files; nominal for other recordings."""

OTHER, OTHER_COLOUR = 22, (250, 170, 160)
"""Up to CARLA 0.9.5 this tag has another colour; all further colours mean the same in old and new versions."""

_SCAPES = re.compile(r"((.+)_(\d+)_(\d+))_img\.png")
_LABEL = re.compile(r".+_\d+_\d+_(?:labelIds|instance)\.png")


class Carla(StoredDataset):
    """Recordings of CARLA in one of two layouts, told apart by their files; arguments as in ``StoredDataset``.

    A root without folders for the splits is read whole as ``train``. Frames at most a second apart (by the time
    stamp in the name), or numbered in succession, form a video; all others are stills.

    Clips with semantic colours have no instances. Where an old version of CARLA drew the colours, car means any
    vehicle, and black, which is no label, holds the sky.
    """

    card = DatasetCard(
        name="carla",
        title="CARLA",
        labels="panoptic",
        video=True,
        splits={"train": None, "test": None},
        layout=(
            "[<split>/<town>/]<town>_<seconds>_<frame>_img.png\n"
            "[<split>/<town>/]<town>_<seconds>_<frame>_labelIds.png\n"
            "[<split>/<town>/]<town>_<seconds>_<frame>_instance.png\n"
            "or [<split>/<clip>/]rgb/<frame>.png and [<split>/<clip>/]semantic/<frame>.png in semantic colours"
        ),
        licence="assets of CARLA: CC BY; recordings: the terms of who made them",
        home="https://carla.org; https://github.com/yjzhai-cs/CarlaScapes",
        checked="checked on real files",
    )
    space = "carla"

    def find_videos(self) -> list[Video]:
        """List the files of the layout that is there, ``*_img.png`` before ``rgb``."""
        divided = any((self.root / split).is_dir() for split in self.card.splits)
        folder = self.split if divided or self.split != "train" else ""
        paths = [PurePosixPath(path) for path in files_below(self.root, folder)]
        scapes = [found for path in paths if (found := _scapes_frame(path, folder))]
        self.has_instances = bool(scapes)
        frames = scapes or [found for path in paths if (found := _clip_frame(path, folder))]
        videos = [video for _, group in groupby(sorted(frames, key=_order), _source) for video in _videos(group)]
        find_problems = _scapes_problems if scapes else _clip_problems
        self.index_problems = tuple(find_problems(paths, used_labels(videos), self.labelled))
        return videos

    def read_labels(self, frame: Frame) -> tuple[NDArray[np.integer[Any]], NDArray[np.int32]]:
        """Decode ``labelIds`` and ``instance``, or ``semantic`` colours."""
        paths = [self.root / label for label in frame.labels]
        if self.has_instances:
            semantic = read_ids(paths[0])
            return semantic, tagged_instances(read_label(paths[1]), semantic, paths[1])
        semantic = tags_of_colours(read_label(paths[0]), paths[0])
        return semantic, np.zeros(semantic.shape, np.int32)


@dataclass(frozen=True)
class _Found:
    """A frame, where it was recorded (folder and town) and a clock that goes up by 1 at most within a video."""

    source: tuple[str, str]
    clock: int
    frame: Frame


def _source(found: _Found) -> tuple[str, str]:
    return found.source


def _order(found: _Found) -> tuple[tuple[str, str], int]:
    return found.source, found.frame.number


def _scapes_frame(image: PurePosixPath, folder: str) -> _Found | None:
    match = _SCAPES.fullmatch(image.name)
    if match is None:
        return None
    stem, town, seconds, number = match.groups()
    labels = tuple(str(image.with_name(f"{stem}_{kind}.png")) for kind in ("labelIds", "instance"))
    name = _name(image, folder, stem, town)
    return _Found((str(image.parent), town), int(seconds), Frame(name, str(image), labels, number=int(number)))


def _clip_frame(image: PurePosixPath, folder: str) -> _Found | None:
    if image.parent.name != "rgb" or not image.stem.isdecimal():
        return None
    label = str(image.parent.with_name("semantic") / f"{image.stem}.png")
    frame = Frame(_name(image, folder, image.stem, "rgb"), str(image), (label,), number=int(image.stem))
    return _Found((str(image.parent), ""), frame.number, frame)


def _scapes_problems(paths: Iterable[PurePosixPath], used: set[str], labelled: bool) -> list[Problem]:
    """Badly named pictures, and missing ones, each once though it has two label files."""
    files = [(str(path), _LABEL.fullmatch(path.name)) for path in paths]
    strange = [
        file for file, match in files if file.endswith("_img.png") and not _SCAPES.fullmatch(file.rpartition("/")[2])
    ]
    rule = "<town>_<seconds>_<frame>_img.png, as pictures of CarlaScapes are"
    labels = [file for file, match in files if match] if labelled else []
    missing = missing_pictures(_one_each(labels), used, lambda label: (_img_name(label), _img_file(label)))
    return [*(misnamed(file, rule) for file in strange), *missing]


def _one_each(labels: Iterable[str]) -> list[str]:
    """One label file of each frame."""
    return list({_img_file(label): label for label in labels}.values())


def _img_file(label: str) -> str:
    return f"{label.rpartition('_')[0]}_img.png"


def _img_name(label: str) -> str:
    return "_".join(PurePosixPath(label.rpartition("_")[0]).parts)


def _clip_problems(paths: Iterable[PurePosixPath], used: set[str], labelled: bool) -> list[Problem]:
    """Badly named pictures and missing ones of the layout with semantic colours."""
    files = list(paths)
    strange = [str(path) for path in files if path.parent.name == "rgb" and not path.stem.isdecimal()]
    labels = [str(path) for path in files if labelled and path.parent.name == "semantic" and path.stem.isdecimal()]
    return [
        *(misnamed(file, "by its frame number, as pictures of clips are") for file in strange),
        *missing_pictures(labels, used, _rgb_file),
    ]


def _rgb_file(label: str) -> tuple[str, str]:
    path = PurePosixPath(label)
    image = str(path.parent.with_name("rgb") / path.name)
    return "_".join(PurePosixPath(image).with_suffix("").parts), image


def _name(image: PurePosixPath, folder: str, stem: str, plain: str) -> str:
    """The stem after the names of the folders below the split, without the one that every file shares."""
    parts = image.parent.relative_to(folder).parts
    return "_".join([*(part for part in parts if part != plain), stem])


def _videos(group: Iterable[_Found]) -> list[Video]:
    frames = list(group)
    starts = [place for place, (a, b) in enumerate(pairwise(frames), 1) if b.clock - a.clock > 1]
    bounds = pairwise([0, *starts, len(frames)])
    return [_video(tuple(found.frame for found in frames[start:end])) for start, end in bounds]


def _video(frames: tuple[Frame, ...]) -> Video:
    step = min((b.number - a.number for a, b in pairwise(frames)), default=1)
    return Video(frames[0].name, frames, fps=FPS, step=step)


def tags_of_colours(picture: NDArray[np.int32], path: Path) -> NDArray[np.int32]:
    """Semantic tags of a picture in the colours of CARLA's CityScapesPalette, old or new.

    Args:
        picture: int32 (H,W,3) RGB.
        path: Named in errors.

    Returns:
        int32 (H,W) tags of CARLA 0.9.14 and later.

    Raises:
        InputError: If the picture is not in colours or has one that the palettes lack.
    """
    if picture.ndim != 3:
        raise InputError(f"{path} has one channel per pixel; semantic/ must hold pictures in CARLA's colours")
    space = find_space(Carla.space)
    colours = np.array([*space.palette[: len(space)], OTHER_COLOUR], np.int32)
    tags = np.array([*range(len(space)), OTHER], np.int32)
    codes, order = np.unique(_packed(colours), return_index=True)
    packed = _packed(picture)
    places = np.minimum(np.searchsorted(codes, packed), len(codes) - 1)
    unknown = codes[places] != packed
    if unknown.any():
        raise InputError(f"{path} has the colour {picture[unknown][0].tolist()}, which no tag of CARLA has")
    return tags[order][places]


def _packed(colours: NDArray[np.int32]) -> NDArray[np.int32]:
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
