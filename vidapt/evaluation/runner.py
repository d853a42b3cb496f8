"""Scores a stream of panoptic frames against labels: every metric from one pass over each frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from vidapt.clip import IGNORE, PanopticFrame
from vidapt.errors import UserError
from vidapt.evaluation.consistency import IdSwitches, TemporalConsistency
from vidapt.evaluation.histogram import compress_runs, joint_histogram, predicted_codes, target_codes, unscored_codes
from vidapt.evaluation.panoptic import panoptic_scores
from vidapt.evaluation.scores import Scores
from vidapt.evaluation.semantic import ScoredClasses, SemanticConfusion
from vidapt.evaluation.video import TrackingQuality, VideoPanopticQuality
from vidapt.flow import Preset, checked_dis_flow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace

    Flow = tuple[NDArray[np.float32], NDArray[np.bool_]]


class VideoEvaluator:
    """Takes panoptic frames and labels in the order of the videos and scores them in bounded memory.

    Call ``update`` for each frame, ``end_video`` after each video, ``result`` at the end. Processes that score
    different videos send their evaluator (it pickles) and ``merge`` adds it up; counts are the same as in one process.

    >>> from vidapt.labels import CAMVID
    >>> evaluator = VideoEvaluator(CAMVID)
    >>> semantic = np.zeros((4, 8), np.uint8); semantic[2:] = 3
    >>> frame = PanopticFrame(0, 0.0, semantic, semantic.astype(np.int32) + 1, ())
    >>> evaluator.update(frame, semantic)
    >>> evaluator.end_video()
    >>> scores = evaluator.result()
    >>> scores.miou, scores.averaged["miou"], scores.pq
    (1.0, ('sky', 'road'), None)

    Args:
        label_space: Space of the labels, and of the predictions unless ``mapping`` is given.
        windows: Window lengths of VPQ in labelled frames.
        long_windows: Further window lengths, averaged separately; empty for none.
        scored_classes: Names or train ids that the protocol averages over; None for all.
        unscored: What target pixels of the other classes do. "counted": a scored class predicted there is an error
            (the 16-class convention of EDAPS and MC-PanDA). "ignored": they are ignored in mIoU and STQ, and neither
            void nor scored in PQ and VPQ (convention of CVRN).
        mapping: uint8 (256,), train ids of the predictions -> train ids of ``label_space``, 255 = no counterpart. It
            is applied to ``PanopticFrame.semantic``; panoptic scores need predictions in the target's space.
        flow_preset: DIS preset for frames that come with an image and without flow; the faster ones underestimate the
            motion of small objects.

    Raises:
        UserError: If a class or a window is not valid, or ``mapping`` is not uint8 (256,).
    """

    def __init__(
        self,
        label_space: LabelSpace,
        *,
        windows: Sequence[int] = (1, 2, 3, 4),
        long_windows: Sequence[int] = (1, 5, 10, 15),
        scored_classes: Sequence[str | int] | None = None,
        unscored: Literal["counted", "ignored"] = "counted",
        mapping: NDArray[np.uint8] | None = None,
        flow_preset: Preset = "medium",
    ) -> None:
        if mapping is not None and (mapping.shape != (256,) or mapping.dtype != np.uint8):
            raise UserError(f"mapping must be a uint8 table of 256 train ids, got {mapping.dtype} {mapping.shape}")
        if not windows:
            raise UserError("VPQ needs at least one window length in labelled frames, for example (1, 2, 3, 4)")
        self.scored = ScoredClasses.of(label_space, scored_classes)
        self.windows, self.long_windows = tuple(windows), tuple(long_windows)
        self.frames = self.labelled_frames = self.videos = 0
        self.unscored = unscored
        self._left_out = np.zeros(256, bool)
        if unscored == "ignored":
            self._left_out[: len(label_space)] = True
            self._left_out[list(self.scored.ids)] = False
        self._mapping = mapping
        self._preset = flow_preset
        self._has_instances: bool | None = None
        self._semantic = SemanticConfusion(len(label_space))
        # PQ is VPQ with a window of one frame.
        self._tubes = VideoPanopticQuality(label_space, {1, *windows, *long_windows})
        self._tracking = TrackingQuality(label_space)
        self._switches = IdSwitches()
        self._consistency = TemporalConsistency(len(label_space))
        self._open = False
        self._previous: tuple[NDArray[np.uint8], NDArray[np.uint8] | None] | None = None

    def update(
        self,
        frame: PanopticFrame,
        target_semantic: NDArray[np.uint8] | None = None,
        target_instance: NDArray[np.int32] | None = None,
        *,
        labelled: bool = True,
        flow: Flow | None = None,
        image: NDArray[np.uint8] | None = None,
    ) -> None:
        """Add the next frame of the current video.

        Args:
            frame: The prediction.
            target_semantic: uint8 (H,W) train ids, 255 = ignore; not read if not ``labelled``.
            target_instance: int32 (H,W) track ids, things with 0 are crowd; None if the data set has no instances.
            labelled: False for frames without labels: they count for flicker and TC only.
            flow: Exact flow float32 (H,W,2) from the previous frame to this one, on the previous frame's grid, and bool
                (H,W), True where the point is visible in both. Ignored for the first frame of a video.
            image: uint8 (H,W,3) RGB of this frame, to compute DIS flow where ``flow`` is None. With neither, the frame
                does not count for flicker and TC.

        Raises:
            UserError: If sizes or train ids do not fit, a thing of ``frame.ids`` is not among its segments, or only
                some frames have instances.
        """
        semantic = frame.semantic if self._mapping is None else self._mapping[frame.semantic]
        if labelled:
            if target_semantic is None:
                raise UserError(f"frame {frame.index} has no target; pass labelled=False for frames without labels")
            self._check_instances(target_instance is not None)
            self._score(frame, semantic, np.asarray(target_semantic), target_instance)
        self._compare(semantic, flow, image)
        self._open = True
        self.frames += 1
        self.labelled_frames += labelled

    def _check_instances(self, given: bool) -> None:
        if self._has_instances not in (None, given):
            raise UserError("some frames have instance labels and some do not; score the two groups separately")
        if given and self._mapping is not None:
            raise UserError(
                "a class mapping covers mIoU only; for PQ, VPQ and STQ predict in the label space of the target, "
                "or pass target_instance=None"
            )
        self._has_instances = given

    def _score(
        self,
        frame: PanopticFrame,
        semantic: NDArray[np.uint8],
        target_semantic: NDArray[np.uint8],
        target_instance: NDArray[np.int32] | None,
    ) -> None:
        if target_instance is None:
            (target, predicted), counts = compress_runs(target_semantic, semantic)
            self._semantic.update(self._without_left_out(target), predicted, counts)
            return
        maps = (target_semantic, semantic, np.asarray(target_instance), frame.ids)
        (target, predicted, instance, ids), counts = compress_runs(*maps)
        categories = {segment.id: segment.category for segment in frame.segments}
        space = self.scored.space
        codes = target_codes(target, instance, space.is_thing)
        codes = np.where(self._left_out[target], unscored_codes(codes), codes)
        histogram = joint_histogram(codes, predicted_codes(ids, categories, len(space)), counts)
        self._semantic.update(self._without_left_out(target), predicted, counts)
        self._tubes.update(histogram)
        self._tracking.update(histogram)
        self._switches.update(histogram)

    def _without_left_out(self, target: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.where(self._left_out[target], np.uint8(IGNORE), target)

    def _compare(self, semantic: NDArray[np.uint8], flow: Flow | None, image: NDArray[np.uint8] | None) -> None:
        if self._previous is not None:
            previous, previous_image = self._previous
            if flow is not None:
                self._consistency.update(previous, semantic, *flow)
            elif image is not None and previous_image is not None:
                self._consistency.update(semantic, previous, *checked_dis_flow(image, previous_image, self._preset))
        self._previous = (semantic, image)

    def end_video(self) -> None:
        """Close the current video: the next frame starts another one, in which ids mean other objects."""
        self.videos += self._open
        self._open = False
        self._previous = None
        for part in (self._tubes, self._tracking, self._switches):
            part.end_video()

    def merge(self, other: VideoEvaluator) -> None:
        """Add what ``other`` has counted on other videos.

        Raises:
            UserError: If the two score differently (classes, windows, instances) or one is within a video.
        """
        if self._open or other._open:
            raise UserError("an evaluator is still within a video; call end_video() on both before merge()")
        for name in ("scored", "unscored", "windows", "long_windows"):
            if getattr(self, name) != getattr(other, name):
                raise UserError(f"evaluators with different {name} cannot be merged; give both the same arguments")
        if other._has_instances is not None:
            self._check_instances(other._has_instances)
        self._semantic.merge(other._semantic)
        self._tubes.merge(other._tubes)
        self._tracking.merge(other._tracking)
        self._switches.merge(other._switches)
        self._consistency.merge(other._consistency)
        self.frames += other.frames
        self.labelled_frames += other.labelled_frames
        self.videos += other.videos

    def result(self) -> Scores:
        """Scores over all ended videos.

        Raises:
            UserError: If a video has not been ended.
        """
        if self._open:
            raise UserError("an evaluator is still within a video; call end_video() before result()")
        space, iou = self.scored.space, self._semantic.iou()
        miou, consistency = self.scored.mean(iou), self.scored.mean(self._consistency.iou())
        has_pairs, has_instances = bool(self._consistency.pairs.any()), bool(self._has_instances)
        by_window = {length: panoptic_scores(counts, self.scored) for length, counts in self._tubes.counts.items()}
        tracking = self._tracking.result(self.scored)
        averaged = {"miou": miou.classes, "tc": consistency.classes, "stq_sq": tracking.classes}
        names = {name: self.scored.names(classes) for name, classes in averaged.items()}
        return Scores(
            label_space=space.name,
            classes=self.scored.names(self.scored.ids),
            things=self.scored.names(space.things),
            frames=self.frames,
            labelled_frames=self.labelled_frames,
            videos=self.videos,
            miou=miou.value,
            iou=dict(zip(space.names, iou.tolist(), strict=True)),
            vpq_windows=by_window if has_instances else None,
            windows=self.windows,
            long_windows=self.long_windows,
            tracking=tracking if has_instances else None,
            flicker=self._consistency.flicker() if has_pairs else None,
            tc=consistency.value if has_pairs else None,
            id_switches=self._switches.count if has_instances else None,
            averaged=names | {f"vpq_{length}": scores.all.classes for length, scores in by_window.items()},
        )
