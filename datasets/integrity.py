"""Finding damaged, missing and mismatched files of a data set, by their heads and tails or by reading them whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vidapt.datasets.stored import Frame, Problem, StoredDataset
from vidapt.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_TAIL = 1024
_THREADS = 16


def quick_problems(dataset: StoredDataset) -> list[Problem]:
    """Problems that show without decoding: in the index, missing, empty and cut files, labels of another size.

    Reads the first and last kilobyte of each file, in parallel.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda frame: _quick_frame(dataset, frame), dataset.frames())
        return [*dataset.index_problems, *(problem for problem in found if problem is not None)]


def _quick_frame(dataset: StoredDataset, frame: Frame) -> Problem | None:
    sizes = []
    for file in (frame.image, *frame.labels):
        try:
            sizes.append(check_ends(dataset.root / file))
        except InputError as error:
            return Problem(frame.name, file, str(error))
    for file, size in zip(frame.labels, sizes[1:], strict=True):
        if size != sizes[0] and not dataset.scales_label(frame):
            return Problem(frame.name, file, f"is {size[1]}x{size[0]} but its image is {sizes[0][1]}x{sizes[0][0]}")
    return None


def check_ends(path: Path) -> tuple[int, int]:
    """Size (H, W) of a picture file whose head and tail are as its format wants them.

    Raises:
        InputError: With the reason alone ("is missing", "is cut: ...").
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_PNG))
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            tail = file.read()
        if not head:
            raise InputError("is empty")
        if head == _PNG and not tail.endswith(_PNG_END):
            raise InputError("is cut: the end of a PNG file is missing")
        if head.startswith(_JPEG) and _JPEG_END not in tail:
            raise InputError("is cut: the end of a JPEG file is missing")
        with Image.open(path) as picture:
            return picture.height, picture.width
    except FileNotFoundError:
        raise InputError("is missing") from None
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"cannot be read: {error}") from error


@dataclass(frozen=True)
class Examined:
    """A frame that was read whole.

    Attributes:
        problem: The first thing wrong with it, or None.
        counts: int64 (256,) pixels by id of the data set's own label space, 255 = void; None without labels.
    """

    problem: Problem | None
    counts: NDArray[np.int64] | None = None


def examine(dataset: StoredDataset, frame: Frame) -> Examined:
    """Read a frame whole, which also finds damaged contents and ids outside the table."""
    quick = _quick_frame(dataset, frame)
    if quick is not None:
        return Examined(quick)
    try:
        labels = dataset.read_frame(frame).labels
    except InputError as error:
        return Examined(Problem(frame.name, frame.labels[0] if frame.labels else frame.image, str(error)))
    return Examined(None, None if labels is None else np.bincount(labels.semantic.reshape(-1), minlength=256))


def refuse_or_skip(dataset: StoredDataset, policy: str) -> list[Problem]:
    """Apply the policy for damaged frames before training: "refuse" or "skip".

    Returns:
        The problems of the frames that were left out.

    Raises:
        InputError: If the policy is "refuse" and a frame is damaged, or if nothing is left.
    """
    problems = quick_problems(dataset)
    if problems and policy == "refuse":
        first = problems[0]
        raise InputError(
            f"{len(problems)} of {sum(1 for _ in dataset.frames())} frames of {dataset.card.title} in {dataset.root} "
            f"are damaged, the first: {first.file} {first.reason}; list them with 'vidapt data check', mend them, or "
            "set damaged: skip"
        )
    if problems:
        dataset.without(problem.frame for problem in problems)
    return problems


def describe_skipped(problems: list[Problem], limit: int = 3) -> str:
    """One line that counts and names frames that were left out."""
    names = ", ".join(f"{problem.file} ({problem.reason})" for problem in problems[:limit])
    more = f" and {len(problems) - limit} more" if len(problems) > limit else ""
    return f"left out {len(problems)} damaged frames: {names}{more}"
