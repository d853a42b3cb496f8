"""Pseudo-labels of a target clip: classes, a confidence weight, and instances that the tracker follows.

An instance becomes a pseudo-instance only if its track lives in every frame of the clip, is confident in all of
them, and its class votes agree: a confidence without labels that single images cannot give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidapt.clip import Instances
from vidapt.config import InstanceMixConfig
from vidapt.labels import LabelSpace
from vidapt.models.fusion import fuse
from vidapt.models.network import PanopticNetwork
from vidapt.tracking.detections import Detections
from vidapt.tracking.tracker import OnlineTracker


@dataclass(frozen=True)
class PseudoLabels:
    """The teacher's view of B target clips.

    Attributes:
        semantic: uint8 (B,T,H,W) most probable class.
        instance: int32 (B,T,H,W) ids 1..K of verified instances, constant over the clip, 0 elsewhere; thing pixels
            with id 0 are unknown and count as crowd.
        confidence: float32 (B,) share of the clip's pixels whose probability reaches the threshold.
        verified: bool (B,K+1); column k says whether clip b has the verified instance k.
    """

    semantic: Tensor
    instance: Tensor
    confidence: Tensor
    verified: Tensor


@torch.no_grad()
def pseudo_labels(
    teacher: PanopticNetwork,
    frames: Tensor,
    *,
    threshold: float,
    instances: InstanceMixConfig,
    new_tracker: Callable[[], OnlineTracker],
) -> PseudoLabels:
    """Label uint8 (B,T,3,H,W) target frames with the teacher.

    Args:
        teacher: Network in evaluation mode.
        frames: Weakly augmented target clips.
        threshold: Probability from which a pixel counts as confident.
        instances: Score and agreement that a pseudo-instance must reach on every frame.
        new_tracker: Makes the tracker that runs over each clip.
    """
    clips, length, size = frames.shape[0], frames.shape[1], (frames.shape[-2], frames.shape[-1])
    output = teacher(frames.flatten(0, 1))
    probabilities = teacher.upsample(teacher.probabilities(output), size)
    top, semantic = probabilities.max(1)
    found = teacher.instances(output, probabilities)
    maps, ids = [], []
    for clip in range(clips):
        own = slice(clip * length, (clip + 1) * length)
        kept = _verified(probabilities[own], found[own], teacher.space, instances, new_tracker())
        maps.append(kept[0])
        ids.append(kept[1])
    verified = torch.zeros(clips, max(ids, default=0) + 1, dtype=torch.bool)
    for clip, count in enumerate(ids):
        verified[clip, 1 : count + 1] = True
    return PseudoLabels(
        semantic.to(torch.uint8).unflatten(0, (clips, length)),
        torch.from_numpy(np.stack(maps)).to(frames.device),
        (top >= threshold).float().unflatten(0, (clips, length)).mean((1, 2, 3)),
        verified.to(frames.device),
    )


def _verified(
    probabilities: Tensor, found: list[Instances], space: LabelSpace, limits: InstanceMixConfig, tracker: OnlineTracker
) -> tuple[np.ndarray, int]:
    """Instance map int32 (T,H,W) with ids 1..K of the verified tracks of one clip, and K."""
    labels, tracked = [], []
    for frame, instances in zip(probabilities, found, strict=True):
        fused = fuse(frame, instances, space.is_thing)
        detections = Detections.from_fused(fused)
        result = tracker.update(detections)
        good = (detections.scores >= limits.score) & (result.agreement >= limits.agreement)
        labels.append(detections.labels)
        tracked.append(np.where(good, result.ids, 0))
    alive = set(tracked[0].tolist()) - {0}
    for ids in tracked[1:]:
        alive &= set(ids.tolist())
    number = {track: k for k, track in enumerate(sorted(alive), 1)}
    out = np.zeros((len(labels), *probabilities.shape[-2:]), np.int32)
    for frame_map, label_map, ids in zip(out, labels, tracked, strict=True):
        table = np.array([0, *(number.get(int(track), 0) for track in ids)], np.int32)
        frame_map[:] = table[label_map]
    return out, len(number)
