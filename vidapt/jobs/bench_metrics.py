"""Stage ``metrics`` of `vidapt bench pipeline`: scoring generated street video, ours beside np.unique."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from time import thread_time
from typing import TYPE_CHECKING

import numpy as np

from vidapt.errors import VidaptError
from vidapt.evaluation.histogram import FrameHistogram, compress_runs, frame_histogram, track_of
from vidapt.evaluation.panoptic import PanopticCounts, count_matches
from vidapt.evaluation.runner import VideoEvaluator
from vidapt.evaluation.video import VideoPanopticQuality
from vidapt.jobs.bench_frames import LabelledFrame, street_frame
from vidapt.jobs.bench_stage import StageResult, Target, Timing, one_thread
from vidapt.jobs.bench_unique import (
    Overlaps,
    UniqueCounts,
    count_by_unique,
    miou_by_unique,
    overlaps_by_unique,
    stq_by_unique,
    target_ids,
)
from vidapt.jobs.progress import progress_bar
from vidapt.labels import find_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.labels import LabelSpace

    Step = Callable[[int], object]

SIZE = (1024, 2048)
"""Height and width of the frames, those of Cityscapes."""
WINDOWS = (1, 2, 3, 4)
FRAMES = 8
SEED = 4
PQ, BASELINE, VPQ, EVERYTHING = "PQ", "PQ by np.unique", "PQ, VPQ(1,2,3,4)", "PQ, VPQ, STQ, mIoU"
PQ_LIMIT_MS = 8.0
VPQ_LIMIT = 1.3
TOLERANCE = 1e-9


def measure(quick: bool) -> StageResult:
    """Compare our counts with those of np.unique, then time both on one thread.

    A sample is one frame, among those that all windows end at, and the time that a core works on it: what it works for
    other processes does not count. The ways take turns, so that what else disturbs the machine hits them alike.

    Args:
        quick: Fewer repetitions.

    Raises:
        VidaptError: If a count or score differs; nothing is timed then.
    """
    space = find_space("cityscapes")
    frames = [street_frame(SEED, index, SIZE) for index in range(FRAMES)]
    targets = [target_ids(frame.semantic, frame.instance, space) for frame in frames]
    with one_thread():
        check(frames, targets, space)
        rows = _time(frames, targets, space, *((10, 1) if quick else (20, 3)))
    milliseconds = {row.name: row.median_ms for row in rows}
    return StageResult(
        title=f"Scoring frames of {SIZE[0]}x{SIZE[1]}, time of one core",
        about=_about(frames, space),
        checked=f"equal to np.unique: pixels of all pairs, counts of PQ and VPQ{WINDOWS}, mIoU, STQ",
        rows=rows,
        baseline=BASELINE,
        targets=(
            Target("PQ counting, ms per frame", milliseconds[PQ], PQ_LIMIT_MS),
            Target("PQ and VPQ together, times the cost of PQ", milliseconds[VPQ] / milliseconds[PQ], VPQ_LIMIT),
        ),
    )


def _about(frames: Sequence[LabelledFrame], space: LabelSpace) -> dict[str, int]:
    """Sizes of the problem; what differs from frame to frame is the median."""
    histograms = [_histogram(frame, space) for frame in frames]
    runs = [compress_runs(frame.semantic, frame.instance, frame.prediction.ids)[1].size for frame in frames]
    sizes = {
        "target segments": [found.target.size for found in histograms],
        "predicted segments": [found.predicted.size for found in histograms],
        "overlapping pairs": [found.counts.size for found in histograms],
        "runs of equal pixels": runs,
    }
    return {"frames": len(frames)} | {name: int(np.median(values)) for name, values in sizes.items()}


def _histogram(frame: LabelledFrame, space: LabelSpace) -> FrameHistogram:
    return frame_histogram(frame.semantic, frame.instance, frame.prediction.ids, frame.categories, space)


def _evaluator(space: LabelSpace) -> VideoEvaluator:
    return VideoEvaluator(space, windows=WINDOWS, long_windows=())


def check(frames: Sequence[LabelledFrame], targets: Sequence[NDArray[np.uint32]], space: LabelSpace) -> None:
    """Compare everything that is timed with np.unique.

    Raises:
        VidaptError: If pixels or counts differ at all, or IoU sums or scores by more than 1e-9.
    """
    found = [_overlaps(frame, target) for frame, target in zip(frames, targets, strict=True)]
    evaluator, tubes = _evaluator(space), VideoPanopticQuality(space, WINDOWS)
    for index, frame in enumerate(frames):
        histogram = _histogram(frame, space)
        _check_pairs(index, histogram, found[index])
        _check_counts(
            f"PQ of frame {index}",
            count_matches(histogram, space.is_thing, len(space)),
            count_by_unique(found[index], space),
        )
        tubes.update(histogram)
        evaluator.update(frame.prediction, frame.semantic, frame.instance)
    for length in WINDOWS:
        expected = [count_by_unique(window, space) for window in _windows(found, length)]
        *_, total = accumulate(expected)
        _check_counts(f"VPQ over {length} frames", tubes.counts[length], total)
    evaluator.end_video()
    scores = evaluator.result()
    _check_score("mIoU", scores.miou, miou_by_unique((frame.semantic, frame.prediction.semantic) for frame in frames))
    stq = float("nan") if scores.tracking is None else scores.tracking.stq
    _check_score("STQ", stq, stq_by_unique(found, space))


def _overlaps(frame: LabelledFrame, target: NDArray[np.uint32]) -> Overlaps:
    return overlaps_by_unique(target, frame.prediction.ids, frame.categories)


def _windows(found: Sequence[Overlaps], length: int) -> Iterator[Overlaps]:
    for first in range(len(found) - length + 1):
        *_, window = accumulate(found[first : first + length])
        yield window


def _check_pairs(index: int, histogram: FrameHistogram, expected: Overlaps) -> None:
    """Raise if a pair of segments does not share the pixels that it should; stuff has its code as its id."""
    ids = np.where(track_of(histogram.predicted) > 0, track_of(histogram.predicted), histogram.predicted)
    pairs = zip(histogram.target[histogram.rows].tolist(), ids[histogram.columns].tolist(), strict=True)
    if dict(zip(pairs, histogram.counts.tolist(), strict=True)) != expected.shared:
        raise VidaptError(f"the joint histogram of frame {index} differs from that of np.unique; no speed is shown")


def _check_counts(name: str, ours: PanopticCounts, expected: UniqueCounts) -> None:
    for kind, allowed in (("tp", 0.0), ("fp", 0.0), ("fn", 0.0), ("iou", TOLERANCE)):
        got, wanted = getattr(ours, kind), getattr(expected, kind)
        wrong = np.flatnonzero(np.abs(got - wanted) > allowed)
        if wrong.size:
            at = int(wrong[0])
            raise VidaptError(
                f"{kind} of class {at} in {name} is {got[at]}, by np.unique {wanted[at]}; no speed is shown"
            )


def _check_score(name: str, ours: float, expected: float) -> None:
    if not abs(ours - expected) <= TOLERANCE:
        raise VidaptError(f"{name} is {ours}, by np.unique {expected}; no speed is shown")


def _time(
    frames: Sequence[LabelledFrame], targets: Sequence[NDArray[np.uint32]], space: LabelSpace, rounds: int, slow: int
) -> tuple[Timing, ...]:
    """Time the ways in turns: ours in ``rounds``, np.unique in the first ``slow`` of them."""
    ways = _ways(frames, targets, space)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with progress_bar("measuring", rounds) as advance:
        for number in range(rounds):
            for name, start in ways.items():
                if name != BASELINE or number < slow:
                    seconds[name] += _one_pass(start(), len(frames))[max(WINDOWS) - 1 :]
            advance()
    return tuple(Timing.of(name, samples) for name, samples in seconds.items())


def _one_pass(step: Step, frames: int) -> list[float]:
    """Seconds that this thread runs for each frame of the video."""
    seconds = []
    for index in range(frames):
        start = thread_time()
        step(index)
        seconds.append(thread_time() - start)
    return seconds


def _ways(
    frames: Sequence[LabelledFrame], targets: Sequence[NDArray[np.uint32]], space: LabelSpace
) -> dict[str, Callable[[], Step]]:
    """By name a function that starts a video and returns what takes the number of its next frame."""

    def tubes(windows: Sequence[int]) -> Step:
        quality = VideoPanopticQuality(space, windows)
        return lambda index: quality.update(_histogram(frames[index], space))

    def everything() -> Step:
        evaluator = _evaluator(space)
        return lambda index: evaluator.update(frames[index].prediction, frames[index].semantic, frames[index].instance)

    def unique() -> Step:
        return lambda index: count_by_unique(_overlaps(frames[index], targets[index]), space)

    return {PQ: lambda: tubes((1,)), BASELINE: unique, VPQ: lambda: tubes(WINDOWS), EVERYTHING: everything}
