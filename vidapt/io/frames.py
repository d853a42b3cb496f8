"""What every reader yields and reports: frames, holes and truncation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from vidapt.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ASSUMED_FPS = 25.0
"""Frame rate of images and arrays whose rate nobody gave."""

MAX_PROBLEMS = 100
"""Problem lines that a reader keeps, so that a long damaged video does not fill the memory."""


@dataclass(frozen=True, slots=True)
class ReadFrame:
    """One frame of a video, or the hole that a damaged frame leaves.

    Attributes:
        index: Frame number in the video, counted from 0 in display order; a hole keeps its number.
        time: Seconds since the first frame.
        image: uint8 (H,W,3) RGB, or None for a hole.
        ok: False for a hole.
    """

    index: int
    time: float
    image: NDArray[np.uint8] | None
    ok: bool


@dataclass(frozen=True, slots=True)
class Truncation:
    """A video that ends before the end its header announces.

    Attributes:
        decoded: Frames that were read of the selection.
        expected: Frames that the selection would have had.
    """

    decoded: int
    expected: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which frame numbers to read: ``range(start, stop, stride)`` with an open end.

    Raises:
        InputError: If a bound is negative, the stride is not positive or the range is empty.
    """

    start: int = 0
    stop: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if self.start < 0 or self.stride < 1 or (self.stop is not None and self.stop <= self.start):
            raise InputError(
                f"frames start={self.start} stop={self.stop} stride={self.stride} select nothing; "
                "give 0 <= start < stop and stride >= 1"
            )

    def __contains__(self, index: int) -> bool:
        return (
            index >= self.start and (self.stop is None or index < self.stop) and (index - self.start) % self.stride == 0
        )

    def count(self, total: int) -> int:
        """Number of selected frames in a video of ``total`` frames."""
        return len(range(self.start, self.end(total), self.stride))

    def end(self, total: int) -> int:
        """First frame number past the selection in a video of ``total`` frames."""
        return total if self.stop is None else min(self.stop, total)


class Reader:
    """Frames of one source in order, one at a time; iterating again starts from the beginning.

    Attributes:
        name: Name of the source for output and messages.
        size: (H, W) of the frames, or None where it is not known before the first frame.
        fps: Frames per second of the source (before ``stride``).
        expected_frames: Number of frames the selection should yield, or None where the source has no length.
        decoded: Frames yielded with an image so far.
        holes: Numbers of the frames reported as holes so far.
        truncated: What is missing at the end, known after the last frame; None if nothing is.
        problems: One line per kind of damage met, at most ``MAX_PROBLEMS``.
    """

    def __init__(self, name: str, selection: Selection, *, fps: float, size: tuple[int, int] | None = None) -> None:
        self.name = name
        self.selection = selection
        self.fps = fps
        self.size = size
        self.expected_frames: int | None = None
        self._active: Iterator[ReadFrame] | None = None
        self._reset()

    def __iter__(self) -> Iterator[ReadFrame]:
        self.close()
        self._reset()
        self._active = self._account()
        return self._active

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End a running iteration and release its files; calling it twice is harmless."""
        active, self._active = self._active, None
        if active is not None:
            active.close()  # type: ignore[attr-defined]

    def _reset(self) -> None:
        self.decoded = 0
        self.holes: list[int] = []
        self.truncated: Truncation | None = None
        self.problems: list[str] = []

    def _account(self) -> Iterator[ReadFrame]:
        for frame in self._frames():
            if frame.ok:
                self.decoded += 1
            else:
                self.holes.append(frame.index)
            yield frame
        self.truncated = self._truncation()
        if not self.decoded:
            raise InputError(f"{self.name}: {self._why_nothing()}")

    def _note(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def _frames(self) -> Iterator[ReadFrame]:
        """Yield the selected frames and holes in order."""
        raise NotImplementedError

    def _truncation(self) -> Truncation | None:
        return None

    def _why_nothing(self) -> str:
        if self.holes:
            return f"none of its {len(self.holes)} selected frames can be decoded; the file is damaged"
        return "it has no frame to read; check start, stop and the source"
