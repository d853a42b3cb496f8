"""The index of a stored data set: its videos and frames, their files, and which of them are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vidapt.datasets.clip_dataset import VideoTimes
from vidapt.errors import InputError
from vidapt.io.images import IMAGE_SUFFIXES, natural_key

STILL_FPS = 1.0
"""Nominal rate of data sets of single images."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Files of one frame.

    Attributes:
        name: Name of the frame, unique in the data set; predictions are stored and reported under it.
        image: Picture, relative to the root, with forward slashes.
        labels: Label files, relative to the root, in the order that the reader decodes; empty for unlabelled frames.
        number: Frame number in the recording.
        key: True for the frames that the official release labels, whether or not the labels are at hand.
    """

    name: str
    image: str
    labels: tuple[str, ...] = ()
    number: int = 0
    key: bool = True


@dataclass(frozen=True)
class Video:
    """Frames of one video in order; a still image is a video of one frame.

    Attributes:
        name: Name, unique in the data set.
        frames: Its frames, their numbers rising.
        fps: Rate at which ``Frame.number`` counts.
        step: Difference of the numbers of frames that follow each other.
    """

    name: str
    frames: tuple[Frame, ...]
    fps: float = STILL_FPS
    step: int = 1


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file of a data set.

    Attributes:
        frame: Name of the frame, or "" where the problem concerns the whole split.
        file: The file to look at, relative to the root.
        reason: One line.
    """

    frame: str
    file: str
    reason: str


def select_frames(video: Video, every: int, context: int | None) -> Video:
    """Keep the key frames whose number is a multiple of ``every``, and the frames that ``context`` asks for.

    Args:
        video: Frames with rising numbers.
        every: 1 keeps all key frames.
        context: Frames kept, unlabelled, before each key frame; None keeps all frames where ``every`` is 1, else key
            frames only.
    """
    if every == 1 and context is None:
        return video
    keys = [place for place, frame in enumerate(video.frames) if frame.key and frame.number % every == 0]
    before = context or 0
    kept = sorted({place for key in keys for place in range(max(0, key - before), key + 1)})
    step = video.step * every if context is None else video.step
    wanted = set(keys)
    frames = [video.frames[place] for place in kept]
    return replace(video, frames=tuple(map(_as_chosen, frames, (place in wanted for place in kept))), step=step)


def _as_chosen(frame: Frame, key: bool) -> Frame:
    return frame if key else replace(frame, key=False, labels=())


def refuse_same_names(videos: list[Video]) -> None:
    """Raise InputError if two frames have one name, under which predictions are stored."""
    seen: dict[str, str] = {}
    for frame in (frame for video in videos for frame in video.frames):
        other = seen.setdefault(frame.name, frame.image)
        if other != frame.image:
            raise InputError(f"{other} and {frame.image} are both frame {frame.name!r}; remove or rename one")


def spread_videos(videos: list[Video], count: int | None) -> list[Video]:
    """``count`` of the videos, spread evenly; None takes all."""
    if count is None or count >= len(videos):
        return videos
    return [videos[number * len(videos) // count] for number in range(count)]


def video_times(video: Video) -> VideoTimes:
    """Seconds of the frames since the first, and the gaps that no clip reaches across."""
    numbers = np.array([frame.number for frame in video.frames], np.int64)
    return VideoTimes(video.name, (numbers - numbers[0]) / video.fps, np.diff(numbers) != video.step)


def without_labels(video: Video) -> Video:
    """The same frames without their label files."""
    return replace(video, frames=tuple(replace(frame, labels=()) for frame in video.frames))


def stamp(path: Path) -> tuple[str, int, int]:
    """Real path, size in bytes and time of change of a file; (path, -1, -1) if it is missing."""
    name = os.path.realpath(path)
    try:
        status = path.stat()
    except OSError:
        return (name, -1, -1)
    return (name, status.st_size, status.st_mtime_ns)


def files_below(root: Path, folder: str, ending: str | tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Files below ``root/folder`` whose name ends in ``ending``, relative to ``root``, in natural order.

    Returns:
        Paths with forward slashes; nothing if the folder does not exist. Hidden files are left out.
    """
    found = []
    for place, _, names in os.walk(root / folder, followlinks=True):
        relative = Path(place).relative_to(root).as_posix()
        found += [f"{relative}/{name}" for name in names if name.endswith(ending) and not name.startswith(".")]
    return sorted(found, key=natural_key)


def still(name: str, image: str, labels: Sequence[str] = ()) -> Video:
    """A video of one still image."""
    return Video(name, (Frame(name, image, tuple(labels)),))
