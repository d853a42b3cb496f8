"""A labelled frame beside its prediction as runs of equal pixels, which the metrics of single frames read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vidapt.clip import IGNORE, Segment
from vidapt.evaluation.histogram import (
    FrameHistogram,
    compress_runs,
    frame_histogram,
    predicted_codes,
    target_codes,
    unscored_codes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class FrameRuns:
    """A labelled frame without instances, each array with one entry for each of R runs.

    Attributes:
        shape: (H, W) of the frame.
        counts: int64 (R,) pixels.
        target: uint8 (R,) train ids, 255 = ignore.
        predicted: uint8 (R,) train ids, 255 = no class.
        is_left_out: bool (256,), True for train ids whose target pixels are ignored.
    """

    shape: tuple[int, ...]
    counts: NDArray[np.int64]
    target: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    is_left_out: NDArray[np.bool_]

    @staticmethod
    def of(target: NDArray[np.uint8], predicted: NDArray[np.uint8], is_left_out: NDArray[np.bool_]) -> FrameRuns:
        """Compress the label maps (H,W) of a frame.

        Raises:
            UserError: If their sizes differ.
        """
        (labels, found), counts = compress_runs(target, predicted)
        return FrameRuns(target.shape, counts, labels, found, is_left_out)

    @cached_property
    def left_out(self) -> NDArray[np.bool_]:
        """bool (R,), True where the target pixels are ignored because of their class."""
        return self.is_left_out[self.target]

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """uint8 (R,) target train ids, 255 also where they are left out."""
        if not self.is_left_out.any():
            return self.target
        return np.where(self.left_out, np.uint8(IGNORE), self.target)

    def pixels(self, values: NDArray[Value]) -> NDArray[Value]:
        """(H,W) map of values (R,)."""
        return np.repeat(values, self.counts).reshape(self.shape)


@dataclass(frozen=True)
class InstanceRuns(FrameRuns):
    """A labelled frame with instances.

    Attributes:
        instance: int (R,) target track ids; things with 0 are crowd.
        ids: int (R,) predicted panoptic ids.
        segments: The predicted segments.
    """

    instance: NDArray[Any]
    ids: NDArray[np.int32]
    segments: Sequence[Segment]

    @staticmethod
    def of_instances(
        target: tuple[NDArray[np.uint8], NDArray[Any]],
        predicted: tuple[NDArray[np.uint8], NDArray[np.int32]],
        segments: Sequence[Segment],
        is_left_out: NDArray[np.bool_],
    ) -> InstanceRuns:
        """Compress semantic and instance maps (H,W) of a frame.

        Raises:
            UserError: If their sizes differ.
        """
        (labels, instance, found, ids), counts = compress_runs(*target, *predicted)
        return InstanceRuns(target[0].shape, counts, labels, found, is_left_out, instance, ids, segments)

    @cached_property
    def categories(self) -> dict[int, int]:
        """Train id of each predicted id."""
        return {segment.id: segment.category for segment in self.segments}

    def histogram(self, space: LabelSpace) -> FrameHistogram:
        """Joint histogram of segments; those of classes that are left out are neither void nor scored.

        Raises:
            UserError: If a track id is negative, or a predicted id is unknown.
        """
        left_out = self.is_left_out if self.is_left_out.any() else None
        maps = (self.target, self.instance, self.ids)
        return frame_histogram(*maps, self.categories, space, counts=self.counts, left_out=left_out)

    def target_codes(self, space: LabelSpace) -> NDArray[np.int64]:
        """int64 (R,) segment codes of the target, as in ``histogram``."""
        codes = target_codes(self.target, self.instance, space.is_thing)
        return np.where(self.left_out, unscored_codes(codes), codes)

    def predicted_codes(self, space: LabelSpace) -> NDArray[np.int64]:
        """int64 (R,) segment codes of the prediction, as in ``histogram``."""
        return predicted_codes(self.ids, self.categories, len(space))
