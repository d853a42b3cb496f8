"""What a stage of `vidapt bench pipeline` finds out: how long things take, and which targets that meets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np


@dataclass(frozen=True)
class Timing:
    """How long one way of doing it takes per frame, in milliseconds."""

    name: str
    median_ms: float
    p20_ms: float
    p80_ms: float
    samples: int

    @staticmethod
    def of(name: str, seconds: Sequence[float]) -> Timing:
        """Median and percentiles of single frames."""
        low, median, high = (float(value) for value in 1e3 * np.percentile(seconds, (20, 50, 80)))
        return Timing(name, median, low, high, len(seconds))


@dataclass(frozen=True)
class Target:
    """A number that was aimed at.

    Attributes:
        text: What it says and in which unit, such as "PQ counting, ms per frame".
        value: What was measured.
        limit: The most that is allowed, or the least if ``at_least``.
        at_least: Larger is better.
    """

    text: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the value is within the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        return f"{self.text}: {self.value:.3g}, target {bound} {self.limit:g}: {'met' if self.met else 'NOT MET'}"


@dataclass(frozen=True)
class StageResult:
    """Everything that a stage measured, after its results were found to be right.

    Attributes:
        title: Heading of the table.
        about: Sizes of the problem by name.
        checked: What was compared before anything was timed, one line.
        rows: Timings; the first is ours.
        baseline: Name of the row that ratios are taken over.
        targets: What was aimed at.
        unit: What a sample is the time of.
        shares: Percent of the time of rows by part, where they were looked at.
    """

    title: str
    about: dict[str, int]
    checked: str
    rows: tuple[Timing, ...]
    baseline: str
    targets: tuple[Target, ...]
    unit: str = "frame"
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def row(self, name: str) -> Timing:
        """The timing of that name."""
        return next(row for row in self.rows if row.name == name)

    def speedup(self, row: Timing) -> float:
        """How many times faster than the baseline a row is."""
        return self.row(self.baseline).median_ms / row.median_ms

    def data(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "title": self.title,
            "about": self.about,
            "checked": self.checked,
            "baseline": self.baseline,
            "unit": self.unit,
            "rows": [vars(row) | {"speedup": self.speedup(row)} for row in self.rows],
            "shares": {name: dict(parts) for name, parts in self.shares.items()},
            "targets": [vars(target) | {"met": target.met} for target in self.targets],
        }


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV to one thread; what numpy does here never uses more."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
