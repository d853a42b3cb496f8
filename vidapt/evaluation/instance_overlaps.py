"""How the predicted instances of one frame overlap its target instances: what every average precision starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.clip import IGNORE, PanopticFrame
from vidapt.errors import UserError
from vidapt.evaluation.histogram import (
    VOID,
    FrameHistogram,
    category_of,
    compact,
    compress_runs,
    joint_histogram,
    predicted_codes,
    target_codes,
    track_of,
    unscored_codes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace


@dataclass(frozen=True)
class InstanceOverlaps:
    """Predicted against target instances of one frame, in pixels.

    The order of predictions and targets decides ties of score and of IoU, as the order of annotations does in COCOeval.

    Attributes:
        category: int64 (K,) train id of each prediction.
        score: float64 (K,) confidence of each prediction, finite.
        area: int64 (K,) pixels of each prediction.
        void: int64 (K,) pixels of each prediction on void.
        target_id: int64 (G,) track id of each target instance, 0 for crowd regions.
        target_category: int64 (G,) train id of each target instance.
        target_area: int64 (G,) pixels of each target instance.
        crowd: bool (G,) True for crowd (group) regions.
        shared: int64 (K,G) pixels that prediction and target have in common.

    Raises:
        UserError: If the lengths do not fit each other, or a score is not finite.
    """

    category: NDArray[np.int64]
    score: NDArray[np.float64]
    area: NDArray[np.int64]
    void: NDArray[np.int64]
    target_id: NDArray[np.int64]
    target_category: NDArray[np.int64]
    target_area: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    shared: NDArray[np.int64]

    def __post_init__(self) -> None:
        predictions, targets = self.shared.shape
        for name in ("category", "score", "area", "void"):
            _check_length(name, getattr(self, name), predictions, "prediction")
        for name in ("target_id", "target_category", "target_area", "crowd"):
            _check_length(name, getattr(self, name), targets, "target instance")
        if not np.isfinite(self.score).all():
            raise UserError(f"scores of instances must be finite, got {self.score[~np.isfinite(self.score)][0]}")

    @staticmethod
    def nothing() -> InstanceOverlaps:
        """The record of a frame without instances."""
        no_pixels = np.zeros(0, np.int64)
        targets = (no_pixels, no_pixels, no_pixels, np.zeros(0, bool))
        return InstanceOverlaps(no_pixels, np.zeros(0), no_pixels, no_pixels, *targets, np.zeros((0, 0), np.int64))

    def keep(self, chosen: NDArray[Any]) -> InstanceOverlaps:
        """The same frame with the chosen predictions only: bool (K,), or positions in the wanted order."""
        names = ("category", "score", "area", "void", "shared")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    @property
    def same_class(self) -> NDArray[np.bool_]:
        """bool (K,G): True where prediction and target are of one class."""
        return self.category[:, None] == self.target_category

    def iou(self, *, crowd_by_prediction: bool) -> NDArray[np.float64]:
        """float64 (K,G) intersection over union in 0..1, 0 where the classes differ.

        Args:
            crowd_by_prediction: Divide by the prediction's area alone where the target is a crowd region (COCO).
        """
        union = self.area[:, None] + self.target_area - self.shared
        if crowd_by_prediction:
            union = np.where(self.crowd, self.area[:, None], union)
        counts = self.same_class & (self.shared > 0)
        return np.divide(self.shared, union, out=np.zeros(self.shared.shape), where=counts)


def _check_length(name: str, values: NDArray[Any], length: int, of: str) -> None:
    if values.shape != (length,):
        raise UserError(f"{name} must have one entry for each {of}, shape ({length},), got {values.shape}")


def check_categories(categories: NDArray[Any], space: LabelSpace) -> NDArray[np.int64]:
    """The train ids (K,) as int64.

    Raises:
        UserError: If one is not in the label space.
    """
    ids = np.asarray(categories, np.int64)
    outside = ids[(ids < 0) | (ids >= len(space))]
    if outside.size:
        raise UserError(
            f"train id {outside[0]} of an instance is not in label space {space.name!r}; "
            f"allowed are 0..{len(space) - 1}; map the labels first"
        )
    return ids


def instance_codes(
    semantic: NDArray[np.uint8], instance: NDArray[Any], is_thing: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Segment codes of a labelled frame for average precision; arguments and errors as in ``target_codes``.

    Single instances of ignored classes (255 with an instance id: caravans and trailers of Cityscapes) are segments
    without a class here and no void, because the Cityscapes scorer excuses no prediction for lying on them. Where they
    shall be void, set their instance ids to 0.
    """
    codes = target_codes(semantic, instance, is_thing)
    hidden = (semantic == IGNORE) & (instance > 0)
    return np.where(hidden, unscored_codes(np.asarray(instance, np.int64)), codes)


def overlaps_of_histogram(
    histogram: FrameHistogram, scores: Mapping[int, float], space: LabelSpace
) -> InstanceOverlaps:
    """Overlaps of the things of a panoptic prediction with those of the target.

    Args:
        histogram: Joint histogram of segment codes; ``instance_codes`` makes those of the target.
        scores: Confidence of each predicted thing by panoptic id (``{segment.id: segment.score}``).
        space: Label space of both.

    Raises:
        UserError: If a predicted thing has no score.
    """
    target_class, predicted_class = category_of(histogram.target), category_of(histogram.predicted)
    rows = np.flatnonzero((target_class >= 0) & space.is_thing[target_class])
    thing = (predicted_class >= 0) & space.is_thing[predicted_class]
    columns = np.flatnonzero(thing & (track_of(histogram.predicted) > 0))
    ids = track_of(histogram.predicted)[columns].tolist()
    unrated = [panoptic_id for panoptic_id in ids if panoptic_id not in scores]
    if unrated:
        raise UserError(
            f"thing {unrated[0]} of the prediction has no score; average precision needs the confidence of every thing"
        )
    shared = np.zeros((histogram.predicted.size, histogram.target.size), np.int64)
    shared[histogram.columns, histogram.rows] = histogram.counts
    return _overlaps(
        (predicted_class[columns], np.asarray([scores[i] for i in ids], np.float64), histogram.predicted_area[columns]),
        (histogram.target, histogram.target_area),
        rows,
        shared[columns],
    )


def overlaps_of_frame(
    frame: PanopticFrame, semantic: NDArray[np.uint8], instance: NDArray[np.int32], space: LabelSpace
) -> InstanceOverlaps:
    """Overlaps of the things of a panoptic frame with the labels, scored by ``Segment.score``.

    >>> from vidapt.clip import Segment
    >>> from vidapt.labels import LabelClass, LabelSpace
    >>> space = LabelSpace("toy", (LabelClass("road", False, (0, 0, 0)), LabelClass("car", True, (0, 0, 142))))
    >>> semantic = np.array([[0, 1, 1, 1, 255, 255]], np.uint8)
    >>> instance = np.array([[0, 7, 7, 7, 0, 0]], np.int32)
    >>> ids = np.array([[1, 1, 256, 256, 256, 256]], np.int32)
    >>> car = Segment(256, 1, True, score=0.9, area=4, box=(2, 0, 6, 1))
    >>> overlaps = overlaps_of_frame(PanopticFrame(0, 0.0, semantic, ids, (car,)), semantic, instance, space)
    >>> overlaps.shared.tolist(), overlaps.area.tolist(), overlaps.target_area.tolist(), overlaps.void.tolist()
    ([[2]], [4], [3], [2])

    Args:
        frame: The prediction.
        semantic: uint8 (H,W) target train ids, 255 = ignore.
        instance: int32 (H,W) target track ids; things with 0 are crowd.
        space: Label space of both.

    Raises:
        UserError: If sizes differ, or a thing of ``frame.ids`` is not among its segments.
    """
    (labels, tracks, ids), counts = compress_runs(semantic, instance, frame.ids)
    categories = {segment.id: segment.category for segment in frame.segments}
    predicted = predicted_codes(ids, categories, len(space))
    histogram = joint_histogram(instance_codes(labels, tracks, space.is_thing), predicted, counts)
    return overlaps_of_histogram(histogram, {segment.id: segment.score for segment in frame.segments}, space)


def overlaps_of_masks(
    masks: NDArray[np.bool_],
    scores: NDArray[Any],
    categories: NDArray[Any],
    semantic: NDArray[np.uint8],
    instance: NDArray[Any],
    space: LabelSpace,
) -> InstanceOverlaps:
    """Overlaps of predicted masks, which may overlap each other and be empty, with the labels.

    Args:
        masks: bool (K,H,W), or (0,H,W) for no prediction.
        scores: float (K,) confidences.
        categories: int (K,) train ids.
        semantic: uint8 (H,W) target train ids, 255 = ignore.
        instance: int (H,W) target track ids; things with 0 are crowd.
        space: Label space of both.

    Raises:
        UserError: If shapes differ, the masks are not bool, a score is not finite or a train id is not in the space.
    """
    if masks.dtype != np.bool_ or masks.ndim != 3 or masks.shape[1:] != semantic.shape:
        height, width = semantic.shape
        raise UserError(
            f"masks must be bool (K,{height},{width}), the size of the labels, got {masks.dtype} {masks.shape}; "
            "compare with a threshold and resize to the labels first"
        )
    (labels, tracks), counts = compress_runs(semantic, instance)
    codes, position = compact(instance_codes(labels, tracks, space.is_thing))
    places = np.repeat(position, counts).reshape(semantic.shape)
    pixels = [np.bincount(places[mask], minlength=codes.size) for mask in masks]
    shared = np.asarray(pixels, np.int64).reshape(len(masks), codes.size)
    target_class = category_of(codes)
    return _overlaps(
        (check_categories(categories, space), np.asarray(scores, np.float64), shared.sum(1)),
        (codes, np.bincount(position, counts, codes.size).astype(np.int64)),
        np.flatnonzero((target_class >= 0) & space.is_thing[target_class]),
        shared,
    )


def _overlaps(
    predicted: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]],
    target: tuple[NDArray[np.int64], NDArray[np.int64]],
    things: NDArray[np.intp],
    shared: NDArray[np.int64],
) -> InstanceOverlaps:
    """Put a record together from (category, score, area), all target (codes, areas), and shared pixels (K, codes)."""
    category, score, area = predicted
    codes, target_area = target
    tracks = track_of(codes)[things]
    void = shared[:, codes == VOID].sum(1)
    return InstanceOverlaps(
        category,
        score,
        area,
        void,
        tracks,
        category_of(codes)[things],
        target_area[things],
        tracks == 0,
        shared[:, things],
    )
