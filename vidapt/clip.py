"""Clips of frames with panoptic targets, and the panoptic frames that segmentation returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORE = 255
"""Train id of pixels without a label."""

FIRST_THING_ID = 256
"""Smallest panoptic id of a thing; stuff segments use train id + 1 and 0 is void."""


@dataclass(frozen=True)
class PanopticTarget:
    """Panoptic labels of a clip (T,H,W), of a batch of clips (B,T,H,W) or of a flat list of frames (N,H,W).

    Attributes:
        semantic: uint8 (...,H,W) train ids, 255 = ignore.
        instance: int32 (...,H,W) track ids, constant over the frames of a clip, 0 = none; a thing class with id 0
            is a crowd or group region.
        labelled: bool (...), False for frames that carry no labels.
    """

    semantic: Tensor
    instance: Tensor
    labelled: Tensor

    def to(self, device: torch.device | str) -> PanopticTarget:
        """Return the same target on ``device``."""
        return PanopticTarget(*(getattr(self, name).to(device, non_blocking=True) for name in _TARGET_FIELDS))

    def flatten(self) -> PanopticTarget:
        """Merge the batch and time axes: (B,T,H,W) becomes (B·T,H,W)."""
        return PanopticTarget(self.semantic.flatten(0, 1), self.instance.flatten(0, 1), self.labelled.flatten())


_TARGET_FIELDS = ("semantic", "instance", "labelled")


@dataclass(frozen=True)
class Clip:
    """T frames of one video; a single image is a clip with T = 1.

    Attributes:
        frames: uint8 (T,3,H,W) RGB.
        video: Name of the video the frames come from.
        indices: int64 (T,) frame numbers in the video.
        times: float64 (T,) seconds.
        target: Labels, or None for unlabelled footage.
        ignored: bool (T,H,W), True where pseudo-labels do not count (margins, the bonnet); None for nowhere.
    """

    frames: Tensor
    video: str
    indices: Tensor
    times: Tensor
    target: PanopticTarget | None = None
    ignored: Tensor | None = None

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[1] != 3 or self.frames.dtype != torch.uint8:
            raise ValueError(f"Clip.frames must be uint8 (T,3,H,W), got {self.frames.dtype} {tuple(self.frames.shape)}")

    def without_target(self) -> Clip:
        """Return the same frames without labels."""
        return replace(self, target=None)


@dataclass(frozen=True)
class ClipBatch:
    """B clips of equal length and size.

    Attributes:
        frames: uint8 (B,T,3,H,W) RGB.
        videos: B names.
        indices: int64 (B,T).
        times: float64 (B,T) seconds.
        samples: int64 (B,), the position of each clip in the global order of the run; every random choice that is
            made for a clip is seeded by it, so results do not depend on how clips are spread over processes.
        target: Labels with shape (B,T,H,W), or None.
        ignored: bool (B,T,H,W), True where pseudo-labels do not count; None for nowhere.
    """

    frames: Tensor
    videos: tuple[str, ...]
    indices: Tensor
    times: Tensor
    samples: Tensor
    target: PanopticTarget | None = None
    ignored: Tensor | None = None

    def to(self, device: torch.device | str) -> ClipBatch:
        """Return the same batch on ``device`` (names, indices and times stay on the host)."""
        target = None if self.target is None else self.target.to(device)
        ignored = None if self.ignored is None else self.ignored.to(device, non_blocking=True)
        return replace(self, frames=self.frames.to(device, non_blocking=True), target=target, ignored=ignored)


def collate(clips: Sequence[Clip], samples: Sequence[int]) -> ClipBatch:
    """Stack clips of equal length and size into a batch.

    Args:
        clips: B clips; either all or none carry a target. Those without ``ignored`` ignore nothing.
        samples: Global sample number of each clip.
    """
    targets = [clip.target for clip in clips if clip.target is not None]
    if targets and len(targets) != len(clips):
        raise ValueError(f"collate: {len(targets)} of {len(clips)} clips carry a target; all or none must")
    return ClipBatch(
        frames=torch.stack([clip.frames for clip in clips]),
        videos=tuple(clip.video for clip in clips),
        indices=torch.stack([clip.indices for clip in clips]),
        times=torch.stack([clip.times for clip in clips]),
        samples=torch.as_tensor(samples, dtype=torch.int64),
        target=_stack_targets(targets) if targets else None,
        ignored=_stack_ignored(clips),
    )


def _stack_ignored(clips: Sequence[Clip]) -> Tensor | None:
    if all(clip.ignored is None for clip in clips):
        return None
    nowhere = torch.zeros(clips[0].frames[:, 0].shape, dtype=torch.bool)
    return torch.stack([nowhere if clip.ignored is None else clip.ignored for clip in clips])


def _stack_targets(targets: list[PanopticTarget]) -> PanopticTarget:
    return PanopticTarget(*(torch.stack([getattr(target, name) for target in targets]) for name in _TARGET_FIELDS))


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic frame.

    Attributes:
        id: Panoptic id (``train id + 1`` for stuff, from 256 up for things).
        category: Train id; for things the track's class vote so far.
        is_thing: True for things.
        score: Confidence in 0..1.
        area: Number of pixels.
        box: x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
    """

    id: int
    category: int
    is_thing: bool
    score: float
    area: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class PanopticFrame:
    """The segmentation of one video frame.

    Attributes:
        index: Frame number in the source video.
        time: Seconds.
        semantic: uint8 (H,W) train ids, stabilised argmax, never 255; mIoU reads it.
        ids: int32 (H,W): 0 = void, stuff = train id + 1, things from 256 up, below 2^24; PQ, VPQ and STQ read it.
        segments: The segments that occur in ``ids``.
    """

    index: int
    time: float
    semantic: NDArray[np.uint8]
    ids: NDArray[np.int32]
    segments: tuple[Segment, ...]

    def overlay(self, image: NDArray[np.uint8], alpha: float = 0.55) -> NDArray[np.uint8]:
        """Draw segments and outlines over ``image`` (H,W,3 RGB uint8) and return the picture."""
        from vidapt.io.overlay import draw_overlay

        return draw_overlay(image, self, alpha=alpha)


@dataclass(frozen=True)
class Instances:
    """Instance predictions of one frame, sorted by falling score; masks may overlap.

    Attributes:
        masks: bool (K,h,w).
        categories: int64 (K,) train ids.
        scores: float32 (K,) in 0..1.
        embeddings: float32 (K,D), L2-normalised mean projected feature under each mask, or None before the network
            has filled them.
    """

    masks: Tensor
    categories: Tensor
    scores: Tensor
    embeddings: Tensor | None = None

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def select(self, keep: Tensor) -> Instances:
        """Return the instances that ``keep`` (bool (K,) or index tensor) names, in that order."""
        embeddings = None if self.embeddings is None else self.embeddings[keep]
        return Instances(self.masks[keep], self.categories[keep], self.scores[keep], embeddings)
