"""``vidapt data stats``: class frequencies of a data set, counted once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidapt.config import StoredData
from vidapt.datasets.frame_index import Frame
from vidapt.datasets.statistics import (
    FrameStatistics,
    labelled_frames,
    load_statistics,
    save_statistics,
    statistics_key,
)
from vidapt.datasets.stored import StoredDataset
from vidapt.errors import InputError
from vidapt.jobs.data import build_stored
from vidapt.jobs.files import write_json
from vidapt.jobs.parallel import in_processes, interruptible
from vidapt.labels import LabelSpace, find_space
from vidapt.mapping import find_mapping

if TYPE_CHECKING:
    from numpy.typing import NDArray

RARE_PIXELS = 3000
"""Pixels from which a frame counts as showing a class (rare class sampling, DAFormer)."""


@dataclass(frozen=True)
class Counted:
    """Statistics and where they come from.

    Attributes:
        statistics: Pixels per class of every labelled frame.
        known: True if they are from an earlier count.
        written: The file they were just written to; None if they were known or no folder can be written.
    """

    statistics: FrameStatistics
    known: bool
    written: Path | None = None


def statistics_of(dataset: StoredDataset, *, jobs: int | None = None, skip_damaged: bool = False) -> Counted:
    """Pixels per class of every labelled frame, from an earlier count if no file has changed since.

    Args:
        dataset: A labelled data set.
        jobs: Processes; None takes one a core.
        skip_damaged: Damaged frames count as showing nothing; what is counted so is not kept.

    Raises:
        InputError: If a frame is damaged or the index of the data set has problems, unless they are skipped.
    """
    if dataset.index_problems and not skip_damaged:
        first, count = dataset.index_problems[0], len(dataset.index_problems)
        raise InputError(
            f"the index of {dataset.card.title} {dataset.split} in {dataset.root} has {count} problems, the first: "
            f"{first.file} {first.reason}; list them with 'vidapt data check' and mend them"
        )
    frames = labelled_frames(dataset)
    key = statistics_key(dataset, frames)
    known = load_statistics(dataset.root, key)
    if known is not None:
        return Counted(known, known=True)
    read = _count_if_readable if skip_damaged else _count
    rows = list(in_processes(read, dataset, frames, jobs=jobs, title="counting classes"))
    whole = all(row.any() for row in rows)
    statistics = FrameStatistics(tuple(frame.name for frame in frames), np.stack(rows))
    return Counted(statistics, known=False, written=save_statistics(dataset.root, key, statistics) if whole else None)


def _count(dataset: StoredDataset, frame: Frame) -> NDArray[np.int64]:
    """int64 (256,) pixels of a frame by id."""
    try:
        semantic = dataset.read_frame_labels(frame).semantic
    except InputError as error:
        raise InputError(f"{error}; list everything that is wrong with 'vidapt data check'") from error
    return np.bincount(semantic.reshape(-1), minlength=256)


def _count_if_readable(dataset: StoredDataset, frame: Frame) -> NDArray[np.int64]:
    """``_count``; zeros for a damaged frame."""
    try:
        return _count(dataset, frame)
    except InputError:
        return np.zeros(256, np.int64)


def run_stats(
    section: StoredData, *, labels: str | None = None, jobs: int | None = None, json: Path | None = None
) -> None:
    """Count, print a table and write the numbers.

    Args:
        section: The data set.
        labels: Label space to count in; None is the data set's own.
        jobs: Processes; None takes one a core.
        json: File for the numbers.
    """
    dataset = build_stored(section)
    with interruptible("nothing was kept; run the command again"):
        counted = statistics_of(dataset, jobs=jobs)
    statistics = counted.statistics
    own = dataset.label_space
    if own is None:
        raise InputError(f"{section.kind} {section.split} has no labels to count")
    space = own if labels is None else find_space(labels)
    if space != own:
        statistics = statistics.mapped(find_mapping(own, space, section.mapping).table)
    console = Console()
    console.print(_table(statistics, space))
    console.print(_origin(counted), highlight=False, soft_wrap=True)
    if json is not None:
        write_json(json, _numbers(statistics, space) | {"data_set": section.kind, "split": section.split})


def _origin(counted: Counted) -> str:
    if counted.known:
        return "known from an earlier count"
    if counted.written is None:
        return "not kept: neither the data folder nor the cache folder can be written"
    return f"kept in {counted.written}"


def _numbers(statistics: FrameStatistics, space: LabelSpace) -> dict[str, object]:
    shares = statistics.frequencies(len(space))
    classes = {
        name: {
            "pixels": int(statistics.counts[:, index].sum()),
            "share": float(shares[index]),
            "frames": len(statistics.frames_with(index, 0)),
            f"frames_above_{RARE_PIXELS}": len(statistics.frames_with(index, RARE_PIXELS)),
        }
        for index, name in enumerate(space.names)
    }
    return {"label_space": space.name, "frames": len(statistics.names), "classes": classes}


def _table(statistics: FrameStatistics, space: LabelSpace) -> Table:
    title = Text(f"{len(statistics.names)} labelled frames in {space.name}")
    table = Table("class", "share", "frames", f"with > {RARE_PIXELS} pixels", title=title, title_justify="left")
    shares = statistics.frequencies(len(space))
    for index in np.argsort(-shares, kind="stable").tolist():
        frames, many = (len(statistics.frames_with(index, limit)) for limit in (0, RARE_PIXELS))
        table.add_row(Text(space.names[index]), f"{100 * shares[index]:.3f} %", str(frames), str(many))
    return table
