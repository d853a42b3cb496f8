"""Finding damaged, missing and mismatched files of a data set, by their heads and tails or by reading them whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from vidapt.datasets.frame_index import Frame, Problem
from vidapt.datasets.stored import StoredDataset
from vidapt.errors import InputError
from vidapt.io.images import upright_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_PNG_DEPTH = 24
"""Place of the bits per channel in a PNG file."""

_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_TAIL = 1024
_THREADS = 16


_damaged_before: dict[tuple[object, ...], frozenset[str]] = {}
"""Names of the damaged frames by data set, of those that this process has looked at."""


def quick_problems(
    dataset: StoredDataset, frames: Iterable[Frame] | None = None, *, advance: Callable[[], None] | None = None
) -> list[Problem]:
    """Problems that show without decoding: in the index, missing, empty and cut files, 16-bit pictures, label sizes.

    Reads the first and last kilobyte of each file, in parallel.

    Args:
        dataset: The data set.
        frames: The frames to look at; None takes all.
        advance: Called after each frame.
    """
    problems = list(dataset.index_problems)
    with ThreadPoolExecutor(_THREADS) as pool:
        chosen = dataset.frames() if frames is None else frames
        for found in pool.map(lambda frame: _quick_frame(dataset, frame), chosen):
            problems += found
            if advance is not None:
                advance()
    return problems


def _problems_once(dataset: StoredDataset, advance: Callable[[], None] | None) -> list[Problem]:
    """``quick_problems``; a second time in this process only of the frames that were damaged, which may be mended."""
    key = (type(dataset), os.path.realpath(dataset.root), dataset.describe(), hash(tuple(dataset.frames())))
    before = _damaged_before.get(key)
    frames = None if before is None else [frame for frame in dataset.frames() if frame.name in before]
    problems = quick_problems(dataset, frames, advance=advance)
    _damaged_before[key] = frozenset(problem.frame for problem in problems)
    return problems


def forget_checks() -> None:
    """Look at every file again when training starts the next time in this process."""
    _damaged_before.clear()


def _quick_frame(dataset: StoredDataset, frame: Frame) -> list[Problem]:
    sizes, problems = {}, []
    for file in (frame.image, *frame.labels):
        try:
            sizes[file] = check_ends(dataset.root / file, deep=file != frame.image)
        except InputError as error:
            problems.append(Problem(frame.name, file, str(error)))
    shown = sizes.get(frame.image)
    for file in frame.labels:
        size = sizes.get(file, shown)
        if shown is not None and size is not None and size != shown and not dataset.scales_label(frame):
            reason = f"is {size[1]}x{size[0]} but its image is {shown[1]}x{shown[0]}"
            problems.append(Problem(frame.name, file, reason))
    return problems


def check_ends(path: Path, *, deep: bool = True) -> tuple[int, int]:
    """Size (H, W) of a picture file whose head and tail are as its format wants them.

    Args:
        path: The file.
        deep: False refuses more than 8 bits per channel, of which a picture would lose the lower ones.

    Raises:
        InputError: With the reason alone ("is missing", "is cut: ...").
    """
    try:
        with path.open("rb") as file:
            return _checked_size(file, deep)
    except FileNotFoundError:
        raise InputError("is missing") from None
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot be read: {error}") from error


def _checked_size(file: BinaryIO, deep: bool) -> tuple[int, int]:
    """Size (H, W) of an open picture file; arguments and errors as in ``check_ends``."""
    head = file.read(_PNG_DEPTH + 1)
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - _TAIL))
    tail = file.read()
    if not head:
        raise InputError("is empty")
    is_png = head.startswith(_PNG)
    if is_png and not tail.endswith(_PNG_END):
        raise InputError("is cut: the end of a PNG file is missing")
    if head.startswith(_JPEG) and _JPEG_END not in tail:
        raise InputError("is cut: the end of a JPEG file is missing")
    file.seek(0)
    with Image.open(file) as picture:
        if not deep and (picture.mode[0] in "IF" or (is_png and head[_PNG_DEPTH] > 8)):
            raise InputError("has more than 8 bits per channel; pictures must have 8")
        return upright_size(picture)


@dataclass(frozen=True)
class Examined:
    """A frame that was read whole.

    Attributes:
        problems: Everything wrong with it.
        counts: int64 (256,) pixels by id of the data set's own label space, 255 = void; None without labels.
    """

    problems: tuple[Problem, ...]
    counts: NDArray[np.int64] | None = None


def examine(dataset: StoredDataset, frame: Frame) -> Examined:
    """Read a frame whole, which also finds damaged contents and ids outside the table."""
    quick = _quick_frame(dataset, frame)
    if quick:
        return Examined(tuple(quick))
    try:
        labels = dataset.read_frame(frame).labels
    except InputError as error:
        return Examined(tuple(_contents(dataset, frame, error)))
    return Examined((), None if labels is None else np.bincount(labels.semantic.reshape(-1), minlength=256))


def _contents(dataset: StoredDataset, frame: Frame, error: InputError) -> Iterator[Problem]:
    """What is wrong inside the files of a frame; reading it stopped at ``error``."""
    first = problem_of(dataset, frame, error)
    yield first
    if frame.labels and first.file == frame.image:
        try:
            dataset.read_checked(frame, check_ends(dataset.root / frame.image))
        except InputError as wrong:
            yield problem_of(dataset, frame, wrong)


def problem_of(dataset: StoredDataset, frame: Frame, error: InputError) -> Problem:
    """The file that an error names at its beginning, and the rest of the message."""
    text = str(error)
    for file in (frame.image, *frame.labels):
        if text.startswith(str(dataset.root / file)):
            return Problem(frame.name, file, text.removeprefix(str(dataset.root / file)).strip())
    return Problem(frame.name, frame.image, text)


def refuse_or_skip(dataset: StoredDataset, policy: str, *, advance: Callable[[], None] | None = None) -> list[Problem]:
    """Apply the policy for damaged frames before training.

    A data set that this process has looked at before is not looked at again, except for its damaged frames.

    Args:
        dataset: Loses its damaged frames where they are to be left out.
        policy: "refuse" or "skip".
        advance: Called after each frame.

    Returns:
        The problems of the frames that were left out; a frame may have several.

    Raises:
        InputError: If the policy is "refuse" and a frame is damaged, or if nothing is left.
    """
    problems = _problems_once(dataset, advance)
    if problems and policy == "refuse":
        first, damaged = problems[0], len({problem.frame for problem in problems})
        raise InputError(
            f"{damaged} of {sum(1 for _ in dataset.frames())} frames of {dataset.card.title} in {dataset.root} "
            f"are damaged, the first: {first.file} {first.reason}; list them with 'vidapt data check', mend them, or "
            "set damaged: skip"
        )
    if problems:
        dataset.without(problem.frame for problem in problems)
    return problems


def describe_skipped(problems: list[Problem], limit: int = 3) -> str:
    """One line that counts the frames that were left out and names their files."""
    names = ", ".join(f"{problem.file} ({problem.reason})" for problem in problems[:limit])
    more = f" and {len(problems) - limit} more" if len(problems) > limit else ""
    return f"left out {len({problem.frame for problem in problems})} damaged frames: {names}{more}"
