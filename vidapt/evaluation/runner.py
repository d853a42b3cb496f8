"""Scores a stream of panoptic frames against labels: every metric from one pass over each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vidapt.clip import IGNORE, PanopticFrame
from vidapt.errors import UserError
from vidapt.evaluation.boundary import CITYSCAPES_RATIO
from vidapt.evaluation.consistency import IdSwitches, TemporalConsistency
from vidapt.evaluation.extra_metrics import ExtraMetrics, has_groups
from vidapt.evaluation.frame_quality import FrameQuality, frame_quality
from vidapt.evaluation.frame_runs import FrameRuns, InstanceRuns
from vidapt.evaluation.histogram import FrameHistogram
from vidapt.evaluation.panoptic import (
    PanopticCounts,
    PanopticScores,
    count_matches,
    count_stuff_overlaps,
    dagger_counts,
    panoptic_scores,
)
from vidapt.evaluation.scores import Scores, check_names
from vidapt.evaluation.semantic import (
    CategoryScores,
    ClassMean,
    ScoredClasses,
    SemanticConfusion,
    category_scores,
    confusion_matrix,
)
from vidapt.evaluation.video import TrackingQuality, VideoPanopticQuality
from vidapt.flow import Preset, checked_dis_flow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace

    Image = NDArray[np.uint8]
    Flow = tuple[NDArray[np.float32], NDArray[np.bool_]]


class VideoEvaluator:
    """Takes panoptic frames and labels in the order of the videos and scores them in bounded memory.

    Call ``update`` for each frame, ``end_video`` after each video, ``result`` at the end. Processes that score
    different videos send their evaluator (it pickles) and ``merge`` adds it up; counts are the same as in one process.
    The average precisions alone keep something of every frame, a few bytes for each instance.

    >>> from vidapt.labels import CAMVID
    >>> evaluator = VideoEvaluator(CAMVID)
    >>> semantic = np.zeros((4, 8), np.uint8); semantic[2:] = 3
    >>> frame = PanopticFrame(0, 0.0, semantic, semantic.astype(np.int32) + 1, ())
    >>> evaluator.update(frame, semantic)
    FrameQuality(miou=1.0, pq=None)
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
            (the 16-class convention of EDAPS and MC-PanDA). "ignored": every metric sees them as void, except that in
            PQ, PQ-dagger, boundary PQ and VPQ they are neither void nor scored (convention of CVRN). So mIoU, iIoU and
            STQ leave them out, the AP of Cityscapes excuses predictions on them, that of COCO, which knows no void,
            does not, and to VC they are of one label. Id switches count objects of all classes either way.
        means: Further means of IoU by name, each over names or train ids of scored classes.
        metrics: Metrics that cost extra, some of ``vidapt.evaluation.extra_metrics.METRICS``. Those that need instances
            are None where the target has none.
        boundary_ratio: Width of the boundaries of boundary PQ relative to the image's diagonal.
        mapping: uint8 (256,), train ids of the predictions -> train ids of ``label_space``, 255 = no counterpart. It
            is applied to ``PanopticFrame.semantic``; panoptic scores need predictions in the target's space.
        flow_preset: DIS preset for frames that come with an image and without flow; the faster ones underestimate the
            motion of small objects.

    Raises:
        UserError: If a class, a window, a mean or a metric is not valid, or ``mapping`` is not uint8 (256,).
    """

    def __init__(
        self,
        label_space: LabelSpace,
        *,
        windows: Sequence[int] = (1, 2, 3, 4),
        long_windows: Sequence[int] = (1, 5, 10, 15),
        scored_classes: Sequence[str | int] | None = None,
        unscored: Literal["counted", "ignored"] = "counted",
        means: Mapping[str, Sequence[str | int]] | None = None,
        metrics: Sequence[str] = (),
        boundary_ratio: float = CITYSCAPES_RATIO,
        mapping: NDArray[np.uint8] | None = None,
        flow_preset: Preset = "medium",
    ) -> None:
        if mapping is not None and (mapping.shape != (256,) or mapping.dtype != np.uint8):
            raise UserError(f"mapping must be a uint8 table of 256 train ids, got {mapping.dtype} {mapping.shape}")
        if not windows:
            raise UserError("VPQ needs at least one window length in labelled frames, for example (1, 2, 3, 4)")
        self.scored = ScoredClasses.of(label_space, scored_classes)
        self.windows, self.long_windows = tuple(windows), tuple(long_windows)
        self.means = _means(self.scored, means or {})
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
        self._stuff_overlaps = PanopticCounts.zeros(len(label_space))
        self._tracking = TrackingQuality(label_space)
        self._switches = IdSwitches()
        self._consistency = TemporalConsistency(len(label_space))
        self._extra = ExtraMetrics(self.scored, metrics, boundary_ratio=boundary_ratio)
        self._open = False
        self._previous: tuple[NDArray[np.uint8], NDArray[np.uint8] | None] | None = None

    @property
    def settings(self) -> dict[str, object]:
        """What two evaluators must have in common to be merged, by name."""
        names = ("scored", "unscored", "windows", "long_windows", "means")
        return {name: getattr(self, name) for name in names} | {
            "metrics": self._extra.metrics,
            "boundary_ratio": self._extra.boundary_ratio,
            "mapping": None if self._mapping is None else self._mapping.tobytes(),
        }

    def update(
        self,
        frame: PanopticFrame,
        target_semantic: NDArray[np.uint8] | None = None,
        target_instance: NDArray[np.int32] | None = None,
        *,
        labelled: bool = True,
        flow: Flow | None = None,
        image: NDArray[np.uint8] | None = None,
        name: str | None = None,
    ) -> FrameQuality | None:
        """Add the next frame of the current video.

        Args:
            frame: The prediction.
            target_semantic: uint8 (H,W) train ids, 255 = ignore; not read if not ``labelled``.
            target_instance: int32 (H,W) track ids, things with 0 are crowd; None if the data set has no instances.
            labelled: False for frames without labels: they count for flicker and TC only. VPQ, STQ and id switches pass
                over them; VC takes the labelled frames before and after them for two videos.
            flow: Exact flow float32 (H,W,2) from the previous frame to this one, on the previous frame's grid, and bool
                (H,W), True where the point is visible in both. Ignored for the first frame of a video.
            image: uint8 (H,W,3) RGB of this frame, to compute DIS flow where ``flow`` is None. With neither, the frame
                does not count for flicker and TC.
            name: Name of the frame, unique in the data set: average precision joins the frames in the order of their
                names. None makes one of the numbers of video and frame, which is unique in one process only.

        Returns:
            How well this frame is segmented; None if it is not ``labelled``.

        Raises:
            UserError: If sizes or train ids do not fit, a thing of ``frame.ids`` is not among its segments, only some
                frames or things have instances or scores, or average precision has seen ``name`` before. The frame
                counts nowhere then.
        """
        semantic = _train_ids(frame.semantic, "prediction")
        semantic = semantic if self._mapping is None else self._mapping[semantic]
        self._check_sizes(semantic, flow, image)
        quality = None
        if labelled:
            if target_semantic is None:
                raise UserError(f"frame {frame.index} has no target; pass labelled=False for frames without labels")
            self._check_instances(target_instance is not None)
            name = name or f"video {self.videos:06d} frame {frame.index:06d}"
            target = _train_ids(np.asarray(target_semantic), "target")
            quality = self._score(name, self._runs(frame, semantic, target, target_instance))
            self._has_instances = target_instance is not None
        self._compare(semantic, flow, image)
        if not labelled:
            self._extra.end_stretch()
        self._open = True
        self.frames += 1
        self.labelled_frames += labelled
        return quality

    def _check_instances(self, given: bool) -> None:
        if self._has_instances not in (None, given):
            raise UserError("some frames have instance labels and some do not; score the two groups separately")
        if given and self._mapping is not None:
            raise UserError(
                "a class mapping covers mIoU only; for PQ, VPQ and STQ predict in the label space of the target, "
                "or pass target_instance=None"
            )

    def _check_sizes(self, semantic: NDArray[np.uint8], flow: Flow | None, image: Image | None) -> None:
        """Refuse what could not be compared with the frame before, before anything of this one is counted."""
        sizes = {semantic.shape}
        if self._previous is not None and flow is not None:
            sizes |= {self._previous[0].shape, flow[0].shape[:2], flow[1].shape}
        elif self._previous is not None and image is not None and self._previous[1] is not None:
            sizes |= {self._previous[0].shape, image.shape[:2], self._previous[1].shape[:2]}
        if len(sizes) > 1:
            named = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
            raise UserError(
                f"frames of a video, their pictures and their flow must be of one size, got {named}; resize them, or "
                "end_video() where another video starts"
            )

    def _runs(
        self,
        frame: PanopticFrame,
        semantic: NDArray[np.uint8],
        target_semantic: NDArray[np.uint8],
        target_instance: NDArray[np.int32] | None,
    ) -> FrameRuns:
        if target_instance is None:
            return FrameRuns.of(target_semantic, semantic, self._left_out)
        target = (target_semantic, np.asarray(target_instance))
        return InstanceRuns.of_instances(target, (semantic, frame.ids), frame.segments, self._left_out)

    def _score(self, name: str, runs: FrameRuns) -> FrameQuality:
        # What may refuse the frame comes before all that counts it.
        space = self.scored.space
        confusion = confusion_matrix(runs.labels, runs.predicted, len(space), runs.counts)
        histogram = runs.histogram(space) if isinstance(runs, InstanceRuns) else None
        self._extra.update(name, runs)
        self._semantic.confusion += confusion
        counts = None if histogram is None else self._score_segments(histogram)
        return frame_quality(confusion, counts, self.scored)

    def _score_segments(self, histogram: FrameHistogram) -> PanopticCounts:
        """Count the frame in all that reads segments; returns its counts for PQ."""
        space = self.scored.space
        self._stuff_overlaps += count_stuff_overlaps(histogram, space.is_thing, len(space))
        self._tubes.update(histogram)
        self._tracking.update(histogram)
        self._switches.update(histogram)
        return count_matches(histogram, space.is_thing, len(space))

    def _compare(self, semantic: NDArray[np.uint8], flow: Flow | None, image: Image | None) -> None:
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
        self._extra.end_stretch()

    def merge(self, other: VideoEvaluator) -> None:
        """Add what ``other`` has counted on other videos.

        Raises:
            UserError: If the two score differently (classes, windows, metrics, instances), one is within a video, or
                average precision has seen a frame of the same name in both; nothing is added then.
        """
        if self._open or other._open:
            raise UserError("an evaluator is still within a video; call end_video() on both before merge()")
        for name, own in self.settings.items():
            if own != other.settings[name]:
                raise UserError(f"evaluators with different {name} cannot be merged; give both the same arguments")
        if other._has_instances is not None:
            self._check_instances(other._has_instances)
        # The only part that may refuse comes first.
        self._extra.merge(other._extra)
        self._has_instances = other._has_instances if self._has_instances is None else self._has_instances
        self._semantic.merge(other._semantic)
        self._tubes.merge(other._tubes)
        self._stuff_overlaps += other._stuff_overlaps
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
        space, scored = self.scored.space, self.scored
        has_pairs, has_instances = bool(self._consistency.pairs.any()), bool(self._has_instances)
        extra = self._extra.result(has_instances=has_instances)
        by_window = {length: panoptic_scores(counts, scored) for length, counts in self._tubes.counts.items()}
        dagger_sums = dagger_counts(self._tubes.counts[1], self._stuff_overlaps, space.is_thing)
        dagger, tracking = panoptic_scores(dagger_sums, scored), self._tracking.result(scored)
        categories = category_scores(self._semantic.confusion, scored) if has_groups(space) else None
        iou = self._semantic.iou()
        means = {name: scored.mean(iou, ids) for name, ids in {"miou": scored.ids, **self.means}.items()}
        means["tc"] = scored.mean(self._consistency.iou())
        means["stq_sq"] = ClassMean(tracking.sq, tracking.classes)
        panoptic = {f"vpq_{length}": found for length, found in by_window.items()} | {"pq_dagger": dagger}
        return Scores(
            label_space=space.name,
            classes=scored.names(scored.ids),
            things=scored.names(space.things),
            frames=self.frames,
            labelled_frames=self.labelled_frames,
            videos=self.videos,
            miou=means["miou"].value,
            iou={label.name: float(iou[index]) for index, label in enumerate(space.classes) if not label.is_void},
            vpq_windows=by_window if has_instances else None,
            windows=self.windows,
            long_windows=self.long_windows,
            tracking=tracking if has_instances else None,
            flicker=self._consistency.flicker() if has_pairs else None,
            tc=means["tc"].value if has_pairs else None,
            id_switches=self._switches.count if has_instances else None,
            averaged=self._averaged(means, panoptic, categories) | extra.averaged,
            unscored=self.unscored,
            means={name: means[name].value for name in self.means},
            categories=categories,
            dagger=dagger if has_instances else None,
            extra=extra,
        )

    def _averaged(
        self, means: dict[str, ClassMean], panoptic: dict[str, PanopticScores], categories: CategoryScores | None
    ) -> dict[str, tuple[str, ...]]:
        """Names of the classes, or categories, that each mean averages."""
        names = {name: self.scored.names(mean.classes) for name, mean in means.items()}
        names |= {name: found.all.classes for name, found in panoptic.items()}
        return names if categories is None else names | {"miou_categories": categories.averaged}


def _train_ids(labels: NDArray[Any], what: str) -> NDArray[Any]:
    """Label map of a frame; one of another type than uint8 is checked for values that are no train ids."""
    if labels.dtype != np.uint8 and labels.size and (labels.min() < 0 or labels.max() > IGNORE):
        raise UserError(
            f"the {what} has label {labels.min() if labels.min() < 0 else labels.max()}; train ids are 0..254 and "
            f"{IGNORE} for ignore"
        )
    return labels


def _means(scored: ScoredClasses, means: Mapping[str, Sequence[str | int]]) -> dict[str, tuple[int, ...]]:
    """Train ids of further means by name, all of them scored."""
    check_names(means)
    ids = {name: ScoredClasses.of(scored.space, classes).ids for name, classes in means.items()}
    for chosen in ids.values():
        scored.mean(np.zeros(len(scored.space)), chosen)
    return ids
