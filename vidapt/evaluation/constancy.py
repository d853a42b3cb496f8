"""Video consistency (VC): how constant the prediction is where the labels are constant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from vidapt.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def window_constancy(target: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Share of the pixels with one label throughout a window whose prediction is one class throughout, right or not.

    >>> target = np.array([[[0, 0, 1]], [[0, 0, 0]]])  # two frames of three pixels; the last one changes its label
    >>> window_constancy(target, predicted=np.array([[[5, 0, 0]], [[5, 1, 0]]]))
    0.5

    Args:
        target: int (n,H,W) labels of n neighbouring frames; ignored pixels are a label like any other.
        predicted: int (n,H,W) predicted classes.

    Returns:
        VC of the window in 0..1; NaN if no pixel keeps its label.

    Raises:
        UserError: If the shapes differ.
    """
    _check_sizes(target.shape, predicted.shape)
    steady = (target == target[:1]).all(0)
    constant = (predicted == predicted[:1]).all(0) & steady
    total = int(steady.sum())
    return int(constant.sum()) / total if total else float("nan")


class VideoConstancy:
    """VC of any window lengths: the mean of ``window_constancy`` over all windows of all videos.

    Rule of VSPW's scorer (Miao et al., VSPW, 2021): a window of n frames starts at every frame that at least n more
    follow, so the last window of each video is left out, and a video of n frames or fewer has none. Windows without a
    constant label do not count.

    Within a video the state is two label maps and two maps of run lengths, however long the windows are.

    >>> constancy = VideoConstancy(windows=[2])
    >>> labels = np.zeros((1, 4), np.uint8)
    >>> for flips in (0, 0, 1, 0):  # pixels that the prediction of each frame gets wrong; windows start at 0 and 1
    ...     constancy.update(labels, (np.arange(4) < flips)[None].astype(np.uint8))
    >>> constancy.end_video()
    >>> constancy.result(), constancy.count
    ({2: 0.875}, {2: 2})

    Args:
        windows: Window lengths n in frames, 2..255.

    Raises:
        UserError: If there is no window length or one is out of range.
    """

    def __init__(self, windows: Iterable[int] = (8, 16)) -> None:
        self.windows = tuple(sorted(set(windows)))
        if not self.windows or self.windows[0] < 2 or self.windows[-1] > 255:
            raise UserError(f"VC windows must be one or more lengths of 2..255 frames, got {list(self.windows)}")
        self.total = dict.fromkeys(self.windows, 0.0)
        self.count = dict.fromkeys(self.windows, 0)
        self._previous: tuple[NDArray[Any], NDArray[Any]] | None = None
        self._runs: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None

    def update(self, target: NDArray[Any], predicted: NDArray[Any]) -> None:
        """Add the next labelled frame of the current video.

        Args:
            target: int (H,W) labels, 255 = ignore, a label like any other here.
            predicted: int (H,W) predicted classes.

        Raises:
            UserError: If the two, or the frames of a video, differ in size.
        """
        _check_sizes(target.shape, predicted.shape)
        self.check_size(target.shape)
        if self._previous is None or self._runs is None:
            self._runs = (np.ones(target.shape, np.uint8), np.ones(target.shape, np.uint8))
        else:
            # A window counts once a frame follows it, which leaves out the last one of the video.
            self._count_windows(*self._runs)
            for runs, before, now in zip(self._runs, self._previous, (target, predicted), strict=True):
                _extend_runs(runs, before == now)
        self._previous = (target.copy(), predicted.copy())

    def check_size(self, shape: tuple[int, ...]) -> None:
        """Refuse a frame of another size (H, W) than the last one of the current video.

        Raises:
            UserError: If the sizes differ.
        """
        if self._previous is not None:
            _check_sizes(self._previous[0].shape, shape)

    def _count_windows(self, target_runs: NDArray[np.uint8], predicted_runs: NDArray[np.uint8]) -> None:
        for length in self.windows:
            steady = target_runs >= length
            total = int(np.count_nonzero(steady))
            if total:
                self.total[length] += int(np.count_nonzero(steady & (predicted_runs >= length))) / total
                self.count[length] += 1

    def end_video(self) -> None:
        """Close the current video."""
        self._previous = self._runs = None

    def merge(self, other: VideoConstancy) -> None:
        """Add what another process has counted on other videos.

        Raises:
            UserError: If the window lengths differ.
        """
        if self.windows != other.windows:
            raise UserError(f"VC of windows {self.windows} and {other.windows} cannot be merged; use the same lengths")
        for length in self.windows:
            self.total[length] += other.total[length]
            self.count[length] += other.count[length]

    def result(self) -> dict[int, float]:
        """VC in 0..1 by window length; NaN if no window of that length counts."""
        return {n: self.total[n] / self.count[n] if self.count[n] else float("nan") for n in self.windows}


def _check_sizes(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    if first != second:
        raise UserError(f"VC compares label maps of one size, got {first} and {second}; resize prediction to target")


def _extend_runs(runs: NDArray[np.uint8], same: NDArray[np.bool_]) -> None:
    """Lengthen the runs of pixels that stay the same, up to 255, and start the others anew, in place."""
    np.minimum(runs, 254, out=runs)
    np.multiply(runs, same, out=runs)
    np.add(runs, 1, out=runs)
