"""Pseudo-labels of target clips: classes with their trust, and instances that the tracker verifies over the clip.

An instance becomes a pseudo-instance only if its track is found on enough frames of the clip, is confident there, and
its class votes agree: a check without labels that single images cannot give.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from vidapt.adaptation.confidence import confident_pixels, trust
from vidapt.adaptation.ensembling import mean_over_neighbours
from vidapt.clip import ClipBatch, Instances
from vidapt.config_method import MethodConfig, PseudoInstanceConfig
from vidapt.labels import LabelSpace
from vidapt.models.fusion import classes_of_ranks, rank_classes, resolve_things
from vidapt.models.grid import STRIDE
from vidapt.models.network import PanopticNetwork
from vidapt.tracking.detections import Detections
from vidapt.tracking.tracker import OnlineTracker


@dataclass(frozen=True)
class PseudoLabels:
    """The teacher's view of B target clips.

    Attributes:
        semantic: uint8 (B,T,H,W) most probable class.
        confidence: float32 (B,T,H,W) probability of that class.
        weight: float32 (B,T,H,W) trust in the class, 0..1, 0 where pseudo-labels do not count.
        confident: float32 (B,) share of the clip's pixels that reach the threshold of their class.
        instance: int32 (B,T,H,W) ids 1..K of verified instances, constant over the clip, 0 elsewhere; thing pixels
            with id 0 are unknown and count as crowd.
        verified: bool (B,K+1); column k says whether clip b has the verified instance k.
        instance_weight: float32 (B,K+1) trust in each instance, 0..1; 1 in column 0 and where clip b has no instance k.
        category: uint8 (B,K+1) class that the track of each instance voted for on its last good frame; 0 in column 0
            and where clip b has no instance k.
    """

    semantic: Tensor
    confidence: Tensor
    weight: Tensor
    confident: Tensor
    instance: Tensor
    verified: Tensor
    instance_weight: Tensor
    category: Tensor

    def voted_semantic(self) -> Tensor:
        """uint8 (B,T,H,W): ``semantic`` with one class under each verified instance, that of its track.

        The instance losses train on it. The semantic losses keep ``semantic``, the per-pixel classes of the papers:
        ``confidence`` and ``weight`` are about those.
        """
        voted = self.category.gather(1, self.instance.flatten(1).long()).view_as(self.instance)
        return torch.where(self.instance > 0, voted, self.semantic)


@torch.no_grad()
def pseudo_labels(
    teacher: PanopticNetwork,
    target: ClipBatch,
    config: MethodConfig,
    *,
    thresholds: Tensor,
    new_tracker: Callable[[], OnlineTracker] | None,
    reduce: Callable[[Tensor], Tensor] = torch.clone,
) -> PseudoLabels:
    """Label target clips with the teacher.

    Args:
        teacher: Network in evaluation mode.
        target: Weakly augmented clips; where they are ``ignored``, labels are given but weigh 0.
        config: How far classes and instances are trusted.
        thresholds: float (C,) probability from which a pixel of each class counts as confident.
        new_tracker: Makes the tracker that runs over each clip; None looks for no instances (K = 0). An instance below
            its birth score never gets a track, so that should not be above ``config.pseudo_instances.score``.
        reduce: Averages a tensor over processes, see ``trust``.
    """
    frames, shape = target.frames.flatten(0, 1), target.frames.shape
    output = teacher(frames)
    probabilities = teacher.probabilities(output)
    if config.pseudo_labels.mirrored:
        probabilities = (probabilities + mirrored_probabilities(teacher, frames)) / 2
    if config.pseudo_labels.neighbours:
        clips = probabilities.unflatten(0, shape[:2])
        probabilities = mean_over_neighbours(clips, target.frames).flatten(0, 1)
    probabilities = teacher.upsample(probabilities, (shape[-2], shape[-1]))
    top, rank = rank_classes(probabilities)
    best = (probabilities.shape[1] - rank.clamp_min(1)).to(torch.uint8)
    confidence, semantic = (rearrange(x, "(b t) h w -> b t h w", b=shape[0]) for x in (top, best))
    confident = confident_pixels(semantic, confidence, thresholds)
    instance, category = torch.zeros_like(semantic, dtype=torch.int32), semantic.new_zeros(shape[0], 1)
    verified = category.bool()
    if new_tracker is None:
        teacher.observe(output)
    else:
        found = teacher.instances(output, probabilities)
        trackers = [new_tracker() for _ in range(shape[0])]
        instance, verified, category = _verified(
            probabilities, rank, found, teacher.space, config.pseudo_instances, trackers, target.ignored
        )
    weights = verified.new_ones(verified.shape, dtype=torch.float32)
    if config.pseudo_instances.weight == "confident":
        weights = confident_share(instance, confident, verified.shape[1])
    return PseudoLabels(
        semantic=semantic,
        confidence=confidence,
        weight=trust(
            semantic, confidence, thresholds, config.pseudo_labels.weight, reduce=reduce, ignored=target.ignored
        ),
        confident=confident.float().mean((1, 2, 3)),
        instance=instance,
        verified=verified,
        instance_weight=weights,
        category=category,
    )


@torch.no_grad()
def mirrored_probabilities(network: PanopticNetwork, frames: Tensor) -> Tensor:
    """Class probabilities of the mirrored frames, mirrored back, float32 (N,C,h,w) on the frames' own grid.

    The grid begins at the left edge. So that its cells cover the same pixels after mirroring, frames whose width is no
    multiple of four repeat their last column up to the next one; other frames are mirrored as they are.

    Args:
        network: What predicts.
        frames: uint8 or float (N,3,H,W).
    """
    missing = -frames.shape[-1] % STRIDE
    full = torch.cat([frames, frames[..., -1:].expand(*frames.shape[:-1], missing)], dim=-1)
    return network.probabilities(network(full.flip(-1))).flip(-1)


def confident_share(instance: Tensor, confident: Tensor, count: int) -> Tensor:
    """Share of confident pixels of every instance on the worst frame that shows it (loss scaling of MC-PanDA).

    Args:
        instance: int32 (B,T,H,W) ids below ``count``, 0 = none.
        confident: bool (B,T,H,W).
        count: K + 1.

    Returns:
        float32 (B,K+1); 1 in column 0 and for ids that the clip does not show.
    """
    ids = instance.flatten(2).long()
    zeros = torch.zeros(*ids.shape[:2], count, dtype=torch.int64, device=ids.device)
    area = zeros.scatter_add(2, ids, torch.ones_like(ids))
    sure = zeros.scatter_add(2, ids, confident.flatten(2).long())
    share = torch.where(area > 0, sure.float() / area.clamp_min(1), 1.0).amin(1)
    share[:, 0] = 1.0
    return share


def _verified(
    probabilities: Tensor,
    rank: Tensor,
    found: list[Instances],
    space: LabelSpace,
    limits: PseudoInstanceConfig,
    trackers: list[OnlineTracker],
    ignored: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Map int32 (B,T,H,W) of the verified instances of B·T frames, bool (B,K+1) which of them each clip has, classes.

    Tracking runs on the host, as it does on videos: classes (``rank`` of ``rank_classes``) are copied there at once,
    and of every frame its instances and the probabilities under them; one stacked map comes back.
    """
    semantic = classes_of_ranks(rank.to(torch.uint8).cpu().numpy(), probabilities.shape[1])
    length, size = len(found) // len(trackers), probabilities.shape[-2:]
    hidden = np.zeros((len(found), *size), bool) if ignored is None else ignored.flatten(0, 1).cpu().numpy()
    maps, votes = [], []
    for clip, tracker in enumerate(trackers):
        own = slice(clip * length, (clip + 1) * length)
        painted, categories = _verify_clip(
            probabilities[own], semantic[own], found[own], space, limits, tracker, hidden[own]
        )
        maps.append(painted)
        votes.append(categories)
    counts = np.array([len(categories) for categories in votes])
    columns = np.arange(counts.max() + 1)
    verified = (columns > 0) & (columns <= counts[:, None])
    category = np.zeros(verified.shape, np.uint8)
    category[verified] = np.concatenate(votes)
    instance, known, classes = (torch.from_numpy(part) for part in (np.stack(maps), verified, category))
    device = probabilities.device
    instance, known, classes = (part.to(device, non_blocking=True) for part in (instance, known, classes))
    return instance, known, classes


def _verify_clip(
    probabilities: Tensor,
    semantic: NDArray[np.uint8],
    found: list[Instances],
    space: LabelSpace,
    limits: PseudoInstanceConfig,
    tracker: OnlineTracker,
    ignored: NDArray[np.bool_],
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Map int32 (T,H,W) with ids 1..K of the verified tracks of one clip where they are good, and their classes (K,).

    A detection that lies more than half in ``ignored`` pixels (T,H,W) is not good, and no ignored pixel gets an id.
    """
    labels, tracks, votes = [], [], []
    least = min(tracker.low_score, limits.score)
    for frame, classes, instances, hidden in zip(probabilities, semantic, found, ignored, strict=True):
        detections = Detections.from_fused(resolve_things(frame, classes, instances, space.is_thing, min_score=least))
        result = tracker.update(detections)
        good = (detections.scores >= limits.score) & (result.agreement >= limits.agreement)
        good &= ~_mostly_hidden(detections, hidden)
        labels.append(np.where(hidden, 0, detections.labels))
        tracks.append(np.where(good, result.ids, 0))
        votes.append(result.categories)
    ids, hits = np.unique(np.concatenate(tracks), return_counts=True)
    kept = ids[(ids > 0) & (hits >= needed_hits(limits.hits, len(found)))]
    painted = np.zeros((len(labels), *probabilities.shape[-2:]), np.int32)
    categories = np.zeros(len(kept), np.uint8)
    for frame_map, label_map, track, vote in zip(painted, labels, tracks, votes, strict=True):
        known, number = np.isin(track, kept), np.searchsorted(kept, track)
        frame_map[:] = np.concatenate([[0], np.where(known, number + 1, 0)])[label_map]
        categories[number[known]] = vote[known]
    return painted, categories


def _mostly_hidden(detections: Detections, hidden: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (K,): detections that lie more than half in ``hidden`` pixels (h,w)."""
    count = len(detections) + 1
    area = np.bincount(detections.labels.ravel(), minlength=count)[1:]
    return 2 * np.bincount(detections.labels[hidden], minlength=count)[1:] > area


def needed_hits(share: float, length: int) -> int:
    """Frames of a clip of ``length`` on which a track must be found: ``share`` of them, rounded up, at least one."""
    rounding_error = 1e-9
    return max(1, math.ceil(share * length - rounding_error))
