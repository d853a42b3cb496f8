"""What a miniature data set really shows, independent of how its files encode it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class TrueFrame:
    """What one picture of a miniature data set really shows.

    ``classes`` is None for an unlabelled frame, ``objects`` and ``crowd`` are None as well where the format tells no
    instances apart.
    """

    image: np.ndarray
    """uint8 (H,W,3): RGB as written; of a JPEG, the picture before compression."""
    classes: np.ndarray | None
    """int32 (H,W): raw class ids of the data set's own table, -1 for void that has no id."""
    objects: np.ndarray | None
    """int32 (H,W): one positive number for all pixels of a single instance, the same in all frames of a video and
    unique over classes; 0 for stuff without number, void and crowd."""
    crowd: np.ndarray | None
    """bool (H,W): crowd and group regions of thing classes."""


@dataclass(frozen=True)
class LabelledFrame(TrueFrame):
    """A true frame whose classes, objects and crowd are all there."""

    classes: np.ndarray
    objects: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class Truth:
    """A written miniature data set and what its pictures show."""

    root: Path
    frames: dict[str, TrueFrame]
    """By the path of the picture file relative to ``root``, with forward slashes; in temporal order within a video."""
    videos: list[list[str]]
    """The keys of ``frames`` grouped by video, each in temporal order; a still image is a video of one frame."""
    times: list[list[float]] | None
    """Seconds since the first frame of each video, where the format has a known frame rate, else None."""
