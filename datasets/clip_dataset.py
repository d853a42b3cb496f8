"""What all data sets of stored frames share: numbering clips, and turning frames into ``Clip`` objects."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from vidapt.clip import IGNORE, Clip, PanopticTarget
from vidapt.errors import InputError, SingleImagesError
from vidapt.labels import LabelSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Labels:
    """Labels of one frame.

    Attributes:
        semantic: uint8 (H,W) train ids, 255 = ignore.
        instance: int32 (H,W) track ids, 0 = none.
    """

    semantic: NDArray[np.uint8]
    instance: NDArray[np.int32]


@dataclass(frozen=True)
class Sample:
    """One frame: its picture uint8 (H,W,3) RGB and, where the data set has them, its labels."""

    image: NDArray[np.uint8]
    labels: Labels | None = None


@dataclass(frozen=True)
class VideoTimes:
    """The frames of a video in time.

    Attributes:
        name: Name of the video.
        times: float64 (n,) seconds of each frame since the first.
        breaks: bool (n-1,), True where no clip may reach from a frame to the next.
    """

    name: str
    times: NDArray[np.float64]
    breaks: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.times)


def clip_starts(breaks: NDArray[np.bool_], count: int, length: int, interval: int) -> NDArray[np.int64]:
    """First frames of all clips of ``length`` frames, ``interval`` apart, that cross no break.

    Args:
        breaks: bool (count-1,), True between two frames that do not follow each other.
        count: Number of frames.
        length: Frames of a clip.
        interval: Distance between the frames of a clip.
    """
    span = (length - 1) * interval
    if count <= span:
        return np.zeros(0, np.int64)
    broken = np.concatenate([[0], np.cumsum(breaks)])
    starts = np.arange(count - span, dtype=np.int64)
    return starts[broken[starts + span] == broken[starts]]


class ClipDataset:
    """Clips from stored videos; a subclass reads single frames with ``_read``.

    Item k is a clip of ``clip_length`` frames; all places in all videos where a clip fits are numbered video by video.

    Attributes:
        videos: Names of the videos.
        label_space: Classes of the labels, None for unlabelled footage.
        clip_length: Frames of a clip.
        interval: Distance between its frames.
        has_instances: True if the labels number single instances.

    Raises:
        InputError: If the length or the interval is below 1, or no clip fits into any video.
    """

    has_instances: bool = False

    def __init__(
        self, tables: Sequence[VideoTimes], *, clip_length: int, interval: int, label_space: LabelSpace | None
    ) -> None:
        if clip_length < 1 or interval < 1:
            raise InputError(f"clip_length={clip_length} and interval={interval} must be 1 or more")
        self.clip_length = clip_length
        self.interval = interval
        self.label_space = label_space
        self.videos = [table.name for table in tables]
        self._tables = list(tables)
        fitting = (clip_starts(table.breaks, len(table), clip_length, interval) for table in tables)
        self._starts = [self._clip_starts(video, starts) for video, starts in enumerate(fitting)]
        self._ends = list(accumulate(len(starts) for starts in self._starts))
        if not len(self):
            longest = max((len(table) for table in tables), default=0)
            raise (SingleImagesError if longest == 1 else InputError)(
                f"no clip of {clip_length} frames, {interval} apart, fits into any of {len(tables)} videos "
                f"(the longest has {longest} frames); use a smaller clip_length or interval"
            )

    def _clip_starts(self, video: int, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first frames of the clips of a video that are offered, among those where a clip fits."""
        del video
        return starts

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, item: int) -> Clip:
        return self._clip(*self._place(item))

    def clip_frames(self, item: int) -> tuple[int, list[int]]:
        """The video of a clip and the positions of its frames in it, without reading them."""
        video, start = self._place(item)
        return video, self._positions(start)

    def _place(self, item: int) -> tuple[int, int]:
        """Video and first frame of a clip."""
        if not -len(self) <= item < len(self):
            raise IndexError(f"clip {item} of {len(self)}")
        item %= len(self)
        video = bisect_right(self._ends, item)
        return video, int(self._starts[video][item - (self._ends[video - 1] if video else 0)])

    def _positions(self, start: int) -> list[int]:
        return [start + step * self.interval for step in range(self.clip_length)]

    def _clip(self, video: int, start: int) -> Clip:
        positions = self._positions(start)
        return self._assemble(video, positions, [self._read(video, position) for position in positions])

    def _assemble(self, video: int, positions: Sequence[int], samples: Sequence[Sample]) -> Clip:
        table = self._tables[video]
        return Clip(
            frames=torch.from_numpy(_planes([sample.image for sample in samples])),
            video=table.name,
            indices=torch.tensor(positions, dtype=torch.int64),
            times=torch.from_numpy(table.times[list(positions)]),
            target=make_target([sample.labels for sample in samples]),
        )

    def frame_count(self, video: int) -> int:
        """Number of frames of video ``video``, damaged ones included."""
        return len(self._tables[video])

    def frame_name(self, video: int, position: int) -> str:
        """Name under which predictions of a frame are stored and reported."""
        return f"{self.videos[video]}/{position:06d}"

    def video_clip(self, video: int) -> Clip:
        """All readable frames of a video as one clip; it holds the whole video in memory."""
        pairs = list(self._samples(video))
        return self._assemble(video, [position for position, _ in pairs], [sample for _, sample in pairs])

    def iterate_video(self, video: int) -> Iterator[tuple[NDArray[np.uint8], PanopticTarget | None]]:
        """All readable frames of a video in order, one at a time.

        Yields:
            The picture uint8 (H,W,3) RGB and its target with T = 1, or None for a frame without labels.
        """
        for _, sample in self._samples(video):
            yield sample.image, make_target([sample.labels])

    def _samples(self, video: int) -> Iterator[tuple[int, Sample]]:
        for position in range(self.frame_count(video)):
            yield position, self._read(video, position)

    def _read(self, video: int, position: int) -> Sample:
        """Read one frame."""
        raise NotImplementedError


def _planes(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures (H,W,3) of one size as (T,3,H,W); OpenCV splits channels ten times as fast as a transposed copy."""
    if any(image.shape != images[0].shape for image in images):
        sizes = ", ".join(f"{image.shape[1]}x{image.shape[0]}" for image in images)
        raise InputError(f"the frames of a clip have different sizes ({sizes}); scale the footage to one size")
    planes = np.empty((len(images), 3, *images[0].shape[:2]), np.uint8)
    for image, out in zip(images, planes, strict=True):
        cv2.split(image, list(out))
    return planes


def make_target(labels: Sequence[Labels | None]) -> PanopticTarget | None:
    """Stack the labels of T frames; frames without labels are 255 and 0 and not ``labelled``; None if none has any."""
    known = [label for label in labels if label is not None]
    if not known:
        return None
    empty = Labels(np.full_like(known[0].semantic, IGNORE), np.zeros_like(known[0].instance))
    filled = [empty if label is None else label for label in labels]
    return PanopticTarget(
        semantic=torch.from_numpy(np.stack([label.semantic for label in filled])),
        instance=torch.from_numpy(np.stack([label.instance for label in filled])),
        labelled=torch.tensor([label is not None for label in labels]),
    )


def steady(count: int, fps: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Times and breaks of ``count`` frames that follow each other at ``fps``."""
    return np.arange(count) / fps, np.zeros(max(count - 1, 0), bool)
