"""``vidapt data check``: every file of a data set read once, everything wrong listed by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidapt.config import StoredData
from vidapt.datasets.frame_index import Problem
from vidapt.datasets.integrity import examine
from vidapt.datasets.stored import StoredDataset
from vidapt.errors import InputError
from vidapt.jobs.data_open import open_named
from vidapt.jobs.files import write_json
from vidapt.jobs.parallel import in_processes, interruptible
from vidapt.labels import CITYSCAPES
from vidapt.mapping import find_mapping, unmapped_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

LISTED = 20
"""Problems that are printed; all are in the JSON file."""


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        name: Data set.
        split: Split.
        frames: Frames found.
        key_frames: Frames that the official release labels.
        labelled: Frames with labels at hand.
        expected: Official number of key frames, None if it is not certain or a selection of them was read.
        problems: Everything wrong; a frame may have several.
        pixels: Pixels by class name, "void" included.
        unmapped: Pixels of classes without a counterpart in Cityscapes, by class name.
        bare_keys: Key frames without labels at hand, 0 in splits that have none in the release.
    """

    name: str
    split: str
    frames: int
    key_frames: int
    labelled: int
    expected: int | None
    problems: tuple[Problem, ...]
    pixels: dict[str, int]
    unmapped: dict[str, int]
    bare_keys: int = 0

    @property
    def lacks_labels(self) -> bool:
        """True if no frame has labels at hand, though the split has labels in the release."""
        return self.labelled == 0 and self.bare_keys > 0

    @property
    def complete(self) -> bool:
        """True if the split has its official number of key frames, as far as that is certain."""
        return self.expected in (None, self.key_frames)


def check(section: StoredData, *, jobs: int | None = None) -> Checked:
    """Read every frame of a data set.

    Args:
        section: The data set.
        jobs: Processes; None takes one a core.

    Raises:
        InputError: If the folder cannot be opened as that data set at all.
    """
    dataset = open_named(section)
    frames = list(dataset.frames())
    counts = np.zeros(256, np.int64)
    problems = list(dataset.index_problems)
    for found in in_processes(examine, dataset, frames, jobs=jobs, title=f"reading {section.kind} {section.split}"):
        problems += found.problems
        if found.counts is not None:
            counts += found.counts
    return Checked(
        name=section.kind,
        split=section.split,
        frames=len(frames),
        key_frames=sum(frame.key for frame in frames),
        labelled=sum(bool(frame.labels) for frame in frames),
        expected=None if _is_selection(section) else dataset.card.splits[section.split],
        problems=tuple(problems),
        bare_keys=_bare_keys(dataset),
        **_pixels(dataset, counts),
    )


def _bare_keys(dataset: StoredDataset) -> int:
    if dataset.split in dataset.card.unlabelled:
        return 0
    return sum(frame.key and not frame.labels for frame in dataset.frames())


def _is_selection(section: StoredData) -> bool:
    """True if the options leave out frames, so that the official number says nothing."""
    return section.every > 1 or section.context is not None or section.videos is not None


def _pixels(dataset: StoredDataset, counts: NDArray[np.int64]) -> dict[str, Any]:
    space = dataset.label_space
    if space is None:
        return {"pixels": {}, "unmapped": {}}
    named = {name: int(count) for name, count in zip(space.names, counts, strict=False) if count}
    unmapped = unmapped_counts(find_mapping(space, CITYSCAPES), counts)
    return {"pixels": named | {"void": int(counts[255])}, "unmapped": unmapped}


def run_check(section: StoredData, *, jobs: int | None = None, json: Path | None = None) -> None:
    """Check, print and write the result.

    Raises:
        InputError: If anything is wrong; after everything was printed and written.
    """
    with interruptible("not all frames were read; run the command again"):
        result = check(section, jobs=jobs)
    show(result, Console())
    if json is not None:
        write_json(json, {**asdict(result), "complete": result.complete})
    wrong = [f"{len(result.problems)} damaged or missing files"] if result.problems else []
    if not result.complete:
        wrong.append(f"{result.key_frames} key frames instead of {result.expected}")
    if result.lacks_labels:
        wrong.append("the split has labels, but none are at hand")
    if wrong:
        raise InputError(f"{result.name} {result.split} in {section.root} is not as published: {'; '.join(wrong)}")


def show(result: Checked, console: Console) -> None:
    """Print the counts, the class shares and the problems."""
    official = "not certain" if result.expected is None else str(result.expected)
    console.print(
        f"{result.name} {result.split}: {result.frames} frames, {result.key_frames} key frames (official: {official}), "
        f"{result.labelled} with labels, {len(result.problems)} problems"
        + (f"; {result.bare_keys} key frames have no labels at hand" if result.bare_keys else ""),
        highlight=False,
        soft_wrap=True,
    )
    if result.pixels:
        console.print(_shares(result))
    _print_problems(result.problems, console)


def _shares(result: Checked) -> Table:
    total = max(1, sum(result.pixels.values()))
    table = Table("class", "pixels", "share", "in Cityscapes")
    for name, count in sorted(result.pixels.items(), key=lambda item: -item[1]):
        mapped = "no" if name in result.unmapped or name == "void" else "yes"
        table.add_row(Text(name), str(count), f"{100 * count / total:.3f} %", mapped)
    return table


def _print_problems(problems: Sequence[Problem], console: Console) -> None:
    for problem in problems[:LISTED]:
        console.print(Text(f"{problem.file}: {problem.reason}"), soft_wrap=True)
    if len(problems) > LISTED:
        console.print(f"and {len(problems) - LISTED} more; --json FILE writes all of them", highlight=False)
