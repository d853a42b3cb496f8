"""Video panoptic quality (VPQ) and segmentation and tracking quality (STQ), streamed frame by frame."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vidapt.errors import UserError
from vidapt.evaluation.histogram import VOID, FrameHistogram, category_of, join_frames, sum_by, track_of
from vidapt.evaluation.panoptic import PanopticCounts, count_matches
from vidapt.evaluation.semantic import ScoredClasses, iou_per_class

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace


class VideoPanopticQuality:
    """VPQ for any list of window lengths; window 1 is PQ.

    A window of n labelled frames slides over each video in steps of one frame; in it segments of one id are one tube,
    and tubes are counted by the rules of ``count_matches``. Windows longer than a video do not occur in it. Source: VPQ
    of Cityscapes-VPS (Kim et al., Video Panoptic Segmentation, 2020).

    The state between videos is four arrays per window; within a video, the histograms of the last max(windows) frames.

    >>> from vidapt.evaluation.histogram import joint_histogram
    >>> from vidapt.labels import CITYSCAPES
    >>> quality, car = VideoPanopticQuality(CITYSCAPES, (1, 2)), CITYSCAPES.index("car")
    >>> for panoptic_id in (300, 301):  # one car, whose id changes; codes are id * 256 + train id + 1
    ...     frame = np.array([[7 * 256 + car + 1]]), np.array([[panoptic_id * 256 + car + 1]])
    ...     quality.update(joint_histogram(*frame))
    >>> quality.end_video()
    >>> [(n, int(found.tp[car]), int(found.fp[car]), int(found.fn[car])) for n, found in quality.counts.items()]
    [(1, 2, 0, 0), (2, 0, 2, 1)]

    Args:
        space: Label space of target and prediction.
        windows: Window lengths in labelled frames, at least 1 each.
    """

    def __init__(self, space: LabelSpace, windows: Iterable[int] = (1, 2, 3, 4)) -> None:
        self.windows = tuple(sorted(set(windows)))
        if not self.windows or self.windows[0] < 1:
            raise UserError(f"VPQ windows must be one or more lengths of at least 1 frame, got {list(self.windows)}")
        self.counts = {length: PanopticCounts.zeros(len(space)) for length in self.windows}
        self.places = dict.fromkeys(self.windows, 0)
        self._is_thing = space.is_thing
        self._recent: deque[FrameHistogram] = deque(maxlen=self.windows[-1])

    def update(self, histogram: FrameHistogram) -> None:
        """Add the next labelled frame of the current video."""
        self._recent.append(histogram)
        # A longer window is its earlier frames joined to the shorter one, so that each frame is joined once.
        frames = list(self._recent)
        for length in self.windows:
            first = len(self._recent) - length
            if first < 0:
                break
            frames[first:] = [join_frames(frames[first:])]
            self.counts[length] += count_matches(frames[first], self._is_thing, self.counts[length].tp.size)
            self.places[length] += 1

    def end_video(self) -> None:
        """Close the current video: ids of the next one mean other objects."""
        self._recent.clear()

    def merge(self, other: VideoPanopticQuality) -> None:
        """Add what another process has counted on other videos."""
        for length in self.windows:
            self.counts[length] += other.counts[length]
            self.places[length] += other.places[length]


@dataclass(frozen=True)
class TrackingScores:
    """Segmentation and tracking quality.

    Attributes:
        stq: sqrt(aq · sq); NaN if either is undefined.
        aq: Association quality, mean over the tracks of scored things; NaN without tracks.
        sq: Segmentation quality, mean IoU over the scored classes.
        tracks: Number of tracks of scored things.
        classes: Train ids that sq averages.
        void: True if void was predicted on labelled pixels, which is one more class of IoU 0 in the mean of sq.
    """

    stq: float
    aq: float
    sq: float
    tracks: int
    classes: tuple[int, ...]
    void: bool


class TrackingQuality:
    """STQ, AQ and SQ of Weber et al., STEP (2021), equal to deeplab2's scorer.

    A predicted track is a pair of panoptic id and class, so a track that changes class is two. Predicted things on
    crowd regions do not count; on void and stuff they enlarge the track. Predicting nothing (void) on labelled pixels
    adds a class of IoU 0 to the mean of SQ, as the official scorer does.

    The state between videos is a confusion matrix and two arrays; within a video it grows with the number of tracks.

    >>> from vidapt.evaluation.histogram import joint_histogram
    >>> from vidapt.labels import CITYSCAPES
    >>> quality, car = TrackingQuality(CITYSCAPES), CITYSCAPES.index("car")
    >>> for panoptic_id in (300, 300, 301):  # one car, whose id changes; codes are id * 256 + train id + 1
    ...     frame = np.array([[7 * 256 + car + 1]]), np.array([[panoptic_id * 256 + car + 1]])
    ...     quality.update(joint_histogram(*frame))
    >>> quality.end_video()
    >>> scores = quality.result(ScoredClasses.of(CITYSCAPES))  # of 3 pixels 2 and 1 are associated: (2 * 2/3 + 1/3) / 3
    >>> round(scores.aq, 4), scores.sq, round(scores.stq, 4)
    (0.5556, 1.0, 0.7454)
    """

    def __init__(self, space: LabelSpace) -> None:
        classes = len(space)
        self.confusion = np.zeros((classes, classes + 1), np.int64)
        self.association = np.zeros(classes)
        self.tracks = np.zeros(classes, np.int64)
        self._is_thing = space.is_thing
        self._target: Counter[int] = Counter()
        self._predicted: Counter[int] = Counter()
        self._shared: Counter[tuple[int, int]] = Counter()

    def update(self, histogram: FrameHistogram) -> None:
        """Add the next labelled frame of the current video."""
        target, predicted = histogram.target[histogram.rows], histogram.predicted[histogram.columns]
        target_class, predicted_class = category_of(target), category_of(predicted)
        classes = len(self.confusion)
        labelled = target_class >= 0
        # Void predictions have class -1, which the modulus moves to the last column.
        cells = target_class[labelled] * (classes + 1) + predicted_class[labelled] % (classes + 1)
        self.confusion += sum_by(cells, histogram.counts[labelled], self.confusion.size).reshape(self.confusion.shape)

        target_thing = labelled & self._is_thing[target_class]
        crowd = target_thing & (track_of(target) == 0)
        is_track = target_thing & ~crowd
        is_predicted_track = (predicted != VOID) & self._is_thing[predicted_class] & ~crowd
        both = is_track & is_predicted_track
        _add(self._target, target[is_track].tolist(), histogram.counts[is_track])
        _add(self._predicted, predicted[is_predicted_track].tolist(), histogram.counts[is_predicted_track])
        _add(self._shared, zip(target[both].tolist(), predicted[both].tolist(), strict=True), histogram.counts[both])

    def end_video(self) -> None:
        """Close the current video: ids of the next one mean other objects."""
        for code in self._target:
            self.tracks[category_of(code)] += 1
        for (code, other), shared in self._shared.items():
            union = self._target[code] + self._predicted[other] - shared
            self.association[category_of(code)] += shared * shared / union / self._target[code]
        for counter in (self._target, self._predicted, self._shared):
            counter.clear()

    def merge(self, other: TrackingQuality) -> None:
        """Add what another process has counted on other videos; both must have ended theirs."""
        self.confusion += other.confusion
        self.association += other.association
        self.tracks += other.tracks

    def result(self, scored: ScoredClasses) -> TrackingScores:
        """Scores over all ended videos.

        Args:
            scored: Classes that SQ averages; AQ averages the tracks of those that are things.
        """
        things = list(scored.things)
        tracks = int(self.tracks[things].sum())
        aq = float(self.association[things].sum()) / tracks if tracks else float("nan")
        mean = scored.mean(iou_per_class(self.confusion))
        void = bool(self.confusion[:, -1].any())
        sq = mean.value * len(mean.classes) / (len(mean.classes) + void) if mean.classes else float("nan")
        return TrackingScores(float(np.sqrt(aq * sq)), aq, sq, tracks, mean.classes, void)


def _add(counter: Counter, keys: Iterable, counts: NDArray[np.int64]) -> None:
    for key, count in zip(keys, counts.tolist(), strict=True):
        counter[key] += count
