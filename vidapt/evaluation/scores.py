"""The scores of a data set: what every metric gives, and over which classes it averages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vidapt.evaluation.panoptic import PanopticScores, QualityMean
from vidapt.evaluation.video import TrackingScores

HEADLINE = ("miou", "pq", "sq", "rq", "vpq", "vpq_long", "stq", "aq", "stq_sq", "flicker", "tc", "id_switches")
"""Names of the single numbers of ``Scores``, in the order of tables."""


@dataclass(frozen=True)
class Scores:
    """All scores of a data set, as fractions 0..1; NaN where undefined, None where not measured.

    Attributes:
        label_space: Name of the label space that was scored in.
        classes: Names of the classes that the protocol averages over.
        things: Names of the things among all classes.
        frames: Frames seen, labelled or not.
        labelled_frames: Frames with labels.
        videos: Videos seen.
        miou: Mean IoU of ``PanopticFrame.semantic`` over the scored classes.
        iou: IoU of every class of the space by name.
        vpq_windows: Panoptic quality by window length in labelled frames, 1 always among them; None if the target has
            no instances, like all that needs them.
        windows: Window lengths that ``vpq`` averages.
        long_windows: Window lengths that ``vpq_long`` averages.
        tracking: STQ, AQ and the SQ of STQ.
        flicker: Share of pixels with valid flow whose class differs from the one they had in the frame before.
        tc: Temporal consistency, mean IoU along the flow over the scored classes.
        id_switches: Number of times that an object was taken over by another id.
        averaged: For each mean that can be formed, the names of the classes that it averages: "miou", "tc", "stq_sq"
            and "vpq_1", "vpq_2" and so on by window (PQ is "vpq_1").
    """

    label_space: str
    classes: tuple[str, ...]
    things: tuple[str, ...]
    frames: int
    labelled_frames: int
    videos: int
    miou: float
    iou: dict[str, float]
    vpq_windows: dict[int, PanopticScores] | None
    windows: tuple[int, ...]
    long_windows: tuple[int, ...]
    tracking: TrackingScores | None
    flicker: float | None
    tc: float | None
    id_switches: int | None
    averaged: dict[str, tuple[str, ...]]

    @property
    def panoptic(self) -> PanopticScores | None:
        """PQ, SQ and RQ of single frames."""
        return None if self.vpq_windows is None else self.vpq_windows[1]

    @property
    def pq(self) -> float | None:
        """Panoptic quality over the scored classes."""
        return None if self.panoptic is None else self.panoptic.all.pq

    @property
    def sq(self) -> float | None:
        """Segmentation quality of PQ over the scored classes."""
        return None if self.panoptic is None else self.panoptic.all.sq

    @property
    def rq(self) -> float | None:
        """Recognition quality over the scored classes."""
        return None if self.panoptic is None else self.panoptic.all.rq

    @property
    def vpq(self) -> float | None:
        """Video panoptic quality, mean over ``windows``; NaN if one of them is longer than every video."""
        return self.mean_vpq(self.windows)

    @property
    def vpq_long(self) -> float | None:
        """Video panoptic quality, mean over ``long_windows``; NaN if one of them is longer than every video."""
        return self.mean_vpq(self.long_windows)

    @property
    def stq(self) -> float | None:
        """Segmentation and tracking quality."""
        return None if self.tracking is None else self.tracking.stq

    @property
    def aq(self) -> float | None:
        """Association quality."""
        return None if self.tracking is None else self.tracking.aq

    @property
    def stq_sq(self) -> float | None:
        """Segmentation quality of STQ: mean IoU of the panoptic maps."""
        return None if self.tracking is None else self.tracking.sq

    def mean_vpq(self, windows: Sequence[int], part: str = "all") -> float | None:
        """VPQ averaged over window lengths, for "all", "things" or "stuff"."""
        if self.vpq_windows is None or not windows:
            return None
        qualities: list[QualityMean] = [getattr(self.vpq_windows[length], part) for length in windows]
        return float(np.mean([quality.pq for quality in qualities]))

    def headline(self) -> dict[str, float | int | None]:
        """The numbers of a one-line summary by name, None where undefined or not measured."""
        values: dict[str, float | int | None] = {name: getattr(self, name) for name in HEADLINE}
        for part in ("things", "stuff"):
            values[f"pq_{part}"] = self.mean_vpq((1,), part)
            values[f"vpq_{part}"] = self.mean_vpq(self.windows, part)
        return {name: _plain(value) for name, value in values.items()}

    def rows(self) -> list[dict[str, Any]]:
        """One row per class for tables: class, kind, scored, iou, pq, sq, rq, vpq (mean over ``windows``)."""
        return [self._row(name) for name in self.iou]

    def _row(self, name: str) -> dict[str, Any]:
        row: dict[str, Any] = {
            "class": name,
            "kind": "thing" if name in self.things else "stuff",
            "scored": name in self.classes,
            "iou": self.iou[name],
        }
        if self.panoptic is not None and self.vpq_windows is not None:
            quality = self.panoptic.per_class[name]
            row |= {"pq": quality.pq, "sq": quality.sq, "rq": quality.rq}
            row["vpq"] = float(np.mean([self.vpq_windows[length].per_class[name].pq for length in self.windows]))
        return {key: _plain(value) for key, value in row.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data that ``json.dumps`` takes: the headline, the class rows and all details."""
        details = {key: _plain(value) for key, value in asdict(self).items()}
        return details | self.headline() | {"rows": self.rows()}


def _plain(value: Any) -> Any:
    """Copy nested data with NaN as None and with string keys."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
