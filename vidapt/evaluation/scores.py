"""The scores of a data set: what every metric gives, and over which classes it averages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from vidapt.errors import UserError
from vidapt.evaluation.extra_metrics import ExtraScores
from vidapt.evaluation.panoptic import PanopticScores
from vidapt.evaluation.semantic import CategoryScores
from vidapt.evaluation.video import TrackingScores

HEADLINE = (
    *("miou", "miou_categories", "iiou", "iiou_categories"),
    *("pq", "sq", "rq", "pq_dagger", "boundary_pq"),
    *("ap_coco", "ap50_coco", "ap_cityscapes", "ap50_cityscapes"),
    *("vpq", "vpq_long", "stq", "aq", "stq_sq", "flicker", "tc", "id_switches"),
)
"""Names of the single numbers of ``Scores``, in the order of tables."""

BY_PART = ("pq", "sq", "rq", "pq_dagger", "boundary_pq", "vpq")
"""Those of them that ``headline`` also gives for things and for stuff, as ``pq_things`` and so on."""

ROW_HEAD = ("class", "kind", "scored")
"""What the rows of classes start with."""


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
        iou: IoU of every class of the space by name, void classes aside.
        vpq_windows: Panoptic quality by window length in labelled frames, 1 always among them; None if the target has
            no instances, like all that needs them.
        windows: Window lengths that ``vpq`` averages.
        long_windows: Window lengths that ``vpq_long`` averages.
        tracking: STQ, AQ and the SQ of STQ.
        flicker: Share of pixels with valid flow whose class differs from the one they had in the frame before.
        tc: Temporal consistency, mean IoU along the flow over the scored classes.
        id_switches: Number of times that an object was taken over by another id.
        averaged: For each mean that can be formed, the names of the classes (or categories) that it averages, by its
            name in ``headline``; for VPQ by window, "vpq_1", "vpq_2" and so on (PQ is "vpq_1").
        unscored: What target pixels of the other classes did, "counted" or "ignored".
        means: Further means of IoU by name.
        categories: IoU of the categories; None if the label space has no groups.
        dagger: PQ-dagger: the IoU of stuff counts however small it is. None without instances.
        extra: The scores that cost extra, where they were asked for.
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
    unscored: str
    means: dict[str, float]
    categories: CategoryScores | None
    dagger: PanopticScores | None
    extra: ExtraScores

    @property
    def panoptic(self) -> PanopticScores | None:
        """PQ, SQ and RQ of single frames."""
        return None if self.vpq_windows is None else self.vpq_windows[1]

    @property
    def miou_categories(self) -> float | None:
        """Mean IoU over the categories."""
        return None if self.categories is None else self.categories.mean

    @property
    def iiou(self) -> float | None:
        """Instance-weighted IoU, mean over the scored classes with instances."""
        return None if self.extra.instance_weighted is None else self.extra.instance_weighted.mean

    @property
    def iiou_categories(self) -> float | None:
        """Instance-weighted IoU, mean over the categories of things."""
        weighted = self.extra.instance_weighted
        return None if weighted is None or weighted.categories is None else weighted.categories.mean

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
    def pq_dagger(self) -> float | None:
        """PQ-dagger over the scored classes."""
        return None if self.dagger is None else self.dagger.all.pq

    @property
    def boundary_pq(self) -> float | None:
        """Boundary PQ over the scored classes."""
        return None if self.extra.boundary is None else self.extra.boundary.all.pq

    @property
    def ap_coco(self) -> float | None:
        """Average precision by COCO's definition over the scored things."""
        return None if self.extra.coco is None else self.extra.coco.ap

    @property
    def ap50_coco(self) -> float | None:
        """The same at IoU 0.50."""
        return None if self.extra.coco is None else self.extra.coco.ap50

    @property
    def ap_cityscapes(self) -> float | None:
        """Average precision by the definition of Cityscapes over the scored things."""
        return None if self.extra.cityscapes is None else self.extra.cityscapes.ap

    @property
    def ap50_cityscapes(self) -> float | None:
        """The same at overlap 0.5."""
        return None if self.extra.cityscapes is None else self.extra.cityscapes.ap50

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
        return float(np.mean([getattr(self.vpq_windows[length], part).pq for length in windows]))

    def headline(self) -> dict[str, float | int | None]:
        """The single numbers by name, None where undefined or not measured.

        ``HEADLINE``, the further means by their names, VC as ``vc8`` and so on, and ``BY_PART`` for things and stuff.
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in HEADLINE}
        values |= self.means | {f"vc{length}": value for length, value in (self.extra.constancy or {}).items()}
        for part in ("things", "stuff"):
            values |= {f"{name}_{part}": self._part_mean(name, part) for name in BY_PART}
        return {name: _plain(value) for name, value in values.items()}

    def _part_mean(self, name: str, part: str) -> float | None:
        if name == "vpq":
            return self.mean_vpq(self.windows, part)
        other = {"pq_dagger": self.dagger, "boundary_pq": self.extra.boundary}
        scores, kind = (other[name], "pq") if name in other else (self.panoptic, name)
        return None if scores is None else getattr(getattr(scores, part), kind)

    def columns(self) -> tuple[str, ...]:
        """Names of what ``rows`` gives for each class beside its name and kind: what was measured."""
        return tuple(self.rows()[0])[len(ROW_HEAD) :]

    def rows(self) -> list[dict[str, Any]]:
        """One row per class for tables: ``ROW_HEAD`` (class, kind, scored or not), then what was measured of it.

        That is some of iou, iiou, pq, sq, rq, vpq (mean over ``windows``), pq_dagger, boundary_pq, ap_coco, ap50_coco,
        ap_cityscapes and ap50_cityscapes; None where undefined, as AP of stuff is, and for classes that are ignored.
        """
        return [self._row(name) for name in self.iou]

    def _row(self, name: str) -> dict[str, Any]:
        head = (name, "thing" if name in self.things else "stuff", name in self.classes)
        row: dict[str, Any] = {**dict(zip(ROW_HEAD, head, strict=True)), "iou": self.iou[name]}
        if self.extra.instance_weighted is not None:
            row["iiou"] = self.extra.instance_weighted.iou[name]
        if self.panoptic is not None and self.vpq_windows is not None:
            quality = self.panoptic.per_class[name]
            row |= {"pq": quality.pq, "sq": quality.sq, "rq": quality.rq}
            row["vpq"] = float(np.mean([self.vpq_windows[length].per_class[name].pq for length in self.windows]))
        for key, scores in (("pq_dagger", self.dagger), ("boundary_pq", self.extra.boundary)):
            if scores is not None:
                row[key] = scores.per_class[name].pq
        for key, precision in (("coco", self.extra.coco), ("cityscapes", self.extra.cityscapes)):
            if precision is not None:
                found = precision.per_class.get(name)
                values = (None, None) if found is None else (found.ap, found.ap50)
                row |= dict(zip((f"ap_{key}", f"ap50_{key}"), values, strict=True))
        ignored = self.unscored == "ignored" and name not in self.classes
        return {key: None if ignored and key not in ROW_HEAD else _plain(value) for key, value in row.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data that ``json.dumps`` takes: the headline, the class rows and all details."""
        details = {key: _plain(value) for key, value in asdict(self).items()}
        return details | self.headline() | {"rows": self.rows()}


def check_names(names: Iterable[str]) -> None:
    """Refuse names of further means that ``Scores.to_dict`` uses for something else.

    >>> check_names(["miou13"])

    Raises:
        UserError: If a name is taken.
    """
    parts = {f"{name}_{part}" for name in BY_PART for part in ("things", "stuff")}
    taken = {*HEADLINE, *parts, *(field.name for field in fields(Scores)), "rows"}
    for name in names:
        if name in taken or name.startswith(("vc", "vpq")):
            raise UserError(f"a mean over classes cannot be called {name!r}, another score's name; try miou13")


def _plain(value: Any) -> Any:
    """Copy nested data with NaN as None and with string keys."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
