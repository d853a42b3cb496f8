"""From the data sections of a recipe to data sets of clips and to whole labelled videos."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from glob import iglob
from pathlib import Path
from typing import Any, Protocol

import torch

from vidapt.clip import IGNORE, Clip
from vidapt.config import CamVidData, Data, LabelledFolderData, Recipe, StoredData, StreetWorldData, VideosData
from vidapt.datasets.frame_index import Problem
from vidapt.datasets.stored import ReadOptions, StoredDataset
from vidapt.datasets.views import IgnoredRows, Mixture, Relabelled, SkipDamaged, Unlabelled
from vidapt.engine.distributed import on_main, rank
from vidapt.errors import ConfigError, InputError
from vidapt.jobs.describe import sections_of as sections_of
from vidapt.jobs.progress import progress_bar
from vidapt.labels import CITYSCAPES, LabelSpace
from vidapt.mapping import find_mapping

MANY_FILES = 5000
"""Files from which looking at them before training shows a progress bar."""


class ClipDataset(Protocol):
    """What every data set offers."""

    label_space: LabelSpace | None

    def __len__(self) -> int:
        """Number of clips."""

    def __getitem__(self, index: int) -> Clip:
        """One clip."""


def build_dataset(data: Data, *, clip_length: int, interval: int, labelled: bool = True) -> Any:
    """Make the data set that a recipe's section describes, in its own label space.

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
    if isinstance(data, StoredData):
        return build_stored(data, **clips, labelled=labelled)
    return _videos(data, clips, labelled)


def build_stored(data: StoredData, *, clip_length: int = 1, interval: int = 1, labelled: bool = True) -> StoredDataset:
    """Open a published data set; arguments and errors as in ``build_dataset``."""
    from vidapt.datasets.catalogue import find_dataset

    names = ("height", "fit", "trim", "every", "context", "videos", "cache")
    options = ReadOptions(**{name: getattr(data, name) for name in names})
    clips: dict[str, Any] = {"clip_length": clip_length, "interval": interval, "labelled": labelled}
    return find_dataset(data.kind)(find_root(data.root), data.split, **clips, options=options, **data.own_options())


def _videos(data: VideosData, clips: dict[str, Any], labelled: bool) -> Any:
    if labelled:
        raise ConfigError(f"{data.root} is unlabelled footage (kind: videos); give kind: labelled_folder for labels")
    from vidapt.datasets.video_folder import VideoFolder

    return VideoFolder(find_root(data.root), height=data.height, **clips)


@lru_cache(maxsize=8)
def _street_world(data: StreetWorldData, clip_length: int, interval: int) -> Any:
    """One data set per section, kept, so that the stages of a run render each video once."""
    from vidapt.datasets.street_world import StreetWorld

    return StreetWorld(**data.own_options(), clip_length=clip_length, interval=interval)


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


def training_source(
    source: Data | Sequence[Data],
    space: LabelSpace,
    *,
    clip_length: int,
    interval: int,
    skipped: Path | None = None,
) -> Any:
    """The labelled clips that a recipe trains on, in its label space; several data sets become a ``Mixture``.

    Args:
        source: One data section or several.
        space: Label space of the recipe.
        clip_length: Frames per clip.
        interval: Distance of a clip's frames in the video.
        skipped: File that lists clips which turn out to be damaged, where a section says ``damaged: skip``.

    Raises:
        UserError: If files are missing, damaged ones are to be refused, or no class can be mapped.
    """
    sections = sections_of(source)
    clips: dict[str, Any] = {"clip_length": clip_length, "interval": interval}
    built = (_checked(data, build_dataset(data, **clips)) for data in sections)
    mapped = (in_space(dataset, space, data.mapping) for data, dataset in zip(sections, built, strict=True))
    datasets = [_skipping(data, dataset, skipped) for data, dataset in zip(sections, mapped, strict=True)]
    return datasets[0] if len(datasets) == 1 else Mixture(datasets, [data.weight for data in sections])


def training_target(
    data: Data, *, clip_length: int, interval: int, skipped: Path | None = None, alone: bool = False
) -> Any:
    """The unlabelled clips that a recipe adapts to.

    Args:
        data: The data section.
        clip_length: Frames per clip.
        interval: Distance of a clip's frames in the video.
        skipped: File that lists clips which turn out to be damaged, where the section says ``damaged: skip``.
        alone: True if only this one of several processes calls.

    Raises:
        UserError: If files are missing or damaged ones are to be refused.
    """
    built = build_dataset(data, clip_length=clip_length, interval=interval, labelled=False)
    dataset = _checked(data, built, alone=alone)
    dataset = _skipping(data, dataset, skipped)
    return IgnoredRows(dataset, *data.ignored_rows) if any(data.ignored_rows) else dataset


def _checked(data: Data, dataset: Any, *, alone: bool = False) -> Any:
    """Refuse or leave out damaged frames before training, as the section says, and say how many.

    The main process looks at the files and tells the others, unless it is ``alone`` in calling this.
    """
    if not isinstance(data, StoredData):
        return dataset
    from vidapt.datasets.integrity import describe_skipped

    problems = _damaged(data, dataset) if alone else on_main(lambda: _damaged(data, dataset))
    if rank() == 0 and problems:
        print(f"{dataset.card.title}: {describe_skipped(problems)}", file=sys.stderr)
    if rank() != 0 and problems:
        dataset.without(problem.frame for problem in problems)
    return dataset


def _damaged(data: StoredData, dataset: StoredDataset) -> list[Problem]:
    """The problems of the frames that were left out, found with a progress bar where there are many files."""
    from vidapt.datasets.integrity import refuse_or_skip

    files = sum(1 + len(frame.labels) for frame in dataset.frames())
    frames = sum(1 for _ in dataset.frames())
    bar = progress_bar(f"looking at {data.kind} {data.split}", frames) if files > MANY_FILES else nullcontext()
    with bar as advance:
        return refuse_or_skip(dataset, data.damaged, advance=advance)


def _skipping(data: Data, dataset: Any, record: Path | None) -> Any:
    wanted = isinstance(data, StoredData) and data.damaged == "skip"
    return SkipDamaged(dataset, record) if wanted else dataset


def with_cache(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with ``cache: folder`` in the published data sets that it trains on.

    What is scored is read from the original files: kept pictures are compressed.
    """

    def cached(data: Any) -> Any:
        if isinstance(data, tuple):
            return tuple(cached(entry) for entry in data)
        return data.model_copy(update={"cache": folder.absolute()}) if isinstance(data, StoredData) else data

    names = ("source", "target", "upper_bound")
    return recipe.model_copy(update={name: cached(getattr(recipe, name)) for name in names})


def in_space(dataset: Any, space: LabelSpace, mapping: str | None = None) -> Any:
    """The data set with labels in ``space``.

    Args:
        dataset: A labelled data set.
        space: The label space.
        mapping: Name or file of a class mapping; None finds it.

    Raises:
        ConfigError: If the mapping does not fit or maps no class.
    """
    own = getattr(dataset, "label_space", None) or CITYSCAPES
    if own == space and mapping is None:
        return dataset
    return Relabelled(dataset, find_mapping(own, space, mapping))


def class_counts(dataset: Any, classes: int, *, clips: int = 500) -> torch.Tensor:
    """Labelled pixels per class, int64 (classes,), over at most ``clips`` clips spread evenly over the data set."""
    count = min(clips, len(dataset))
    counts = torch.zeros(IGNORE + 1, dtype=torch.int64)
    for position in range(count):
        clip = dataset[position * len(dataset) // count]
        counts += torch.bincount(clip.target.semantic.flatten().long(), minlength=IGNORE + 1)
    return counts[:classes]
