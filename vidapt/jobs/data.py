"""From the data sections of a recipe to data sets of clips and to whole labelled videos."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from glob import iglob
from pathlib import Path
from typing import Any, Protocol

import torch

from vidapt.clip import IGNORE, Clip, PanopticTarget
from vidapt.config import CamVidData, Data, LabelledFolderData, StreetWorldData, VideosData
from vidapt.errors import ConfigError, InputError
from vidapt.labels import CITYSCAPES, LabelSpace, space_map


class ClipDataset(Protocol):
    """What every data set offers."""

    label_space: LabelSpace | None

    def __len__(self) -> int:
        """Number of clips."""

    def __getitem__(self, index: int) -> Clip:
        """One clip."""


def build_dataset(data: Data, *, clip_length: int, interval: int, labelled: bool = True) -> Any:
    """Make the data set that a recipe's section describes.

    Args:
        data: The section.
        clip_length: Frames per clip.
        interval: Distance of a clip's frames in the video.
        labelled: False leaves the labels out (an unlabelled target).

    Raises:
        InputError: If files are missing or damaged.
        ConfigError: If labels are asked of footage that has none.
    """
    clips: dict[str, Any] = {"clip_length": clip_length, "interval": interval}
    if isinstance(data, StreetWorldData):
        world = _street_world(data, clip_length, interval)
        return world if labelled else Unlabelled(world)
    if isinstance(data, CamVidData):
        from vidapt.datasets.camvid import CamVid

        return CamVid(find_root(data.root), split=data.split, height=data.height, **clips, labelled=labelled)
    if isinstance(data, LabelledFolderData):
        from vidapt.datasets.labelled_folder import LabelledFolder

        dataset = LabelledFolder(find_root(data.root), height=data.height, **clips)
        return dataset if labelled else Unlabelled(dataset)
    return _videos(data, clips, labelled)


def _videos(data: VideosData, clips: dict[str, Any], labelled: bool) -> Any:
    if labelled:
        raise ConfigError(f"{data.root} is unlabelled footage (kind: videos); give kind: labelled_folder for labels")
    from vidapt.datasets.video_folder import VideoFolder

    return VideoFolder(find_root(data.root), height=data.height, **clips)


@lru_cache(maxsize=8)
def _street_world(data: StreetWorldData, clip_length: int, interval: int) -> Any:
    """One data set per section, kept, so that the stages of a run render each video once."""
    from vidapt.datasets.street_world import StreetWorld

    return StreetWorld(**data.model_dump(exclude={"kind"}), clip_length=clip_length, interval=interval)


def find_root(root: Path) -> Path:
    """``root`` itself, or below the folder that the environment variable VIDAPT_DATA names.

    Args:
        root: A path or a glob pattern; ``~`` is the home folder.

    Raises:
        InputError: If neither exists.
    """
    root = root.expanduser()
    base = os.environ.get("VIDAPT_DATA")
    candidates = [root] if not base or root.is_absolute() else [root, Path(base).expanduser() / root]
    for candidate in candidates:
        if candidate.exists() or next(iglob(str(candidate), recursive=True), None) is not None:
            return candidate
    hint = "give an existing path" if base else "give an existing path, or set VIDAPT_DATA to the folder that holds it"
    raise InputError(f"no data at {' or '.join(map(str, candidates))}; {hint}")


class Unlabelled:
    """A data set without its labels."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.label_space: LabelSpace | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Clip:
        return self.dataset[index].without_target()


class Relabelled:
    """A data set whose classes are mapped by name into another label space; the rest becomes 255.

    Raises:
        ConfigError: If no class of the data set is one of the space.
    """

    def __init__(self, dataset: Any, space: LabelSpace) -> None:
        own: LabelSpace = dataset.label_space
        self.dataset = dataset
        self.own_space = own
        self.label_space: LabelSpace | None = space
        table = space_map(own, space)[: len(own)]
        if (table == IGNORE).all():
            raise ConfigError(
                f"no class of the data ({', '.join(own.names)}) is one of label space {space.name!r} "
                f"({', '.join(space.names)}); set 'labels' to the classes of the source"
            )
        self._table = torch.full((IGNORE + 1,), IGNORE, dtype=torch.uint8)
        self._table[: len(own)] = torch.from_numpy(table)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Clip:
        clip = self.dataset[index]
        semantic = self._table[clip.target.semantic.long()]
        return replace(clip, target=PanopticTarget(semantic, clip.target.instance, clip.target.labelled))


def in_space(dataset: Any, space: LabelSpace) -> Any:
    """The data set with labels in ``space``."""
    own = getattr(dataset, "label_space", None) or CITYSCAPES
    return dataset if own == space else Relabelled(dataset, space)


def class_counts(dataset: Any, classes: int, *, clips: int = 500) -> torch.Tensor:
    """Labelled pixels per class, int64 (classes,), over at most ``clips`` clips spread evenly over the data set."""
    count = min(clips, len(dataset))
    counts = torch.zeros(IGNORE + 1, dtype=torch.int64)
    for position in range(count):
        clip = dataset[position * len(dataset) // count]
        counts += torch.bincount(clip.target.semantic.flatten().long(), minlength=IGNORE + 1)
    return counts[:classes]
