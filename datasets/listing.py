"""What readers share when they list files: options that select, label files without a picture, badly named files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from statistics import multimode

from vidapt.datasets.frame_index import Problem, Video
from vidapt.errors import InputError


def used_labels(videos: Iterable[Video]) -> set[str]:
    """Label files of all frames."""
    return {label for video in videos for frame in video.frames for label in frame.labels}


def missing_pictures(
    labels: Iterable[str], used: Iterable[str], picture: Callable[[str], tuple[str, str]]
) -> list[Problem]:
    """A problem for each label file that belongs to no frame, since its picture is missing; none without any frame.

    >>> missing_pictures(["gt/1.png", "gt/2.png"], ["gt/1.png"], lambda label: (label[3:-4], f"rgb/{label[3:]}"))
    [Problem(frame='2', file='rgb/2.png', reason='is missing, but its label gt/2.png is there')]

    Args:
        labels: Label files at hand, relative to the root.
        used: Label files of the frames that were found; if there are none, the pictures are not at hand at all, which
            opening an empty split tells.
        picture: Gives the name and the picture of the frame that a label file belongs to.
    """
    known = set(used)
    if not known:
        return []
    return [
        Problem(*picture(label), f"is missing, but its label {label} is there")
        for label in labels
        if label not in known
    ]


def missing_picture_count(pictures: Sequence[str], source: str) -> list[Problem]:
    """One problem that counts the pictures that ``source`` labels and that are not at hand; none if there are none.

    For releases of which many keep a part of the pictures only.
    """
    if not pictures:
        return []
    count = f"and {len(pictures) - 1} more are" if len(pictures) > 1 else "is"
    return [Problem("", pictures[0], f"{count} missing, but {source} labels {'them' if pictures[1:] else 'it'}")]


def misnamed(file: str, rule: str) -> Problem:
    """The problem of a file whose name tells no frame; ``rule`` goes on after "is not named"."""
    return Problem("_".join(PurePosixPath(file).with_suffix("").parts), file, f"is not named {rule}; remove it")


def label_file(image: str, ending: str, label: str, folder: str = "gt") -> str:
    """The file below ``folder`` that mirrors a picture below ``rgb_anon``.

    >>> label_file("rgb_anon/fog/val/GOPR0476/GOPR0476_frame_000854_rgb_anon.png", "_rgb_anon.png", "gt_labelIds.png")
    'gt/fog/val/GOPR0476/GOPR0476_frame_000854_gt_labelIds.png'
    """
    return f"{folder}/{image.partition('/')[2].removesuffix(ending)}_{label}"


def check_choice(name: str, chosen: Iterable[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """Return ``chosen`` without repetition.

    Raises:
        InputError: If it is empty or has something that is not in ``allowed``.
    """
    found = tuple(dict.fromkeys([chosen] if isinstance(chosen, str) else chosen))
    if not found or not set(found) <= set(allowed):
        raise InputError(f"{name} {', '.join(found) or 'is empty'}: give one or more of {', '.join(allowed)}")
    return found


def usual_step(numbers: Sequence[int]) -> int:
    """The commonest distance of neighbours in rising numbers, the smallest of several; 1 for a single number.

    >>> usual_step([88, 91, 94, 100])
    3
    """
    return min(multimode(later - earlier for earlier, later in pairwise(numbers)), default=1)
