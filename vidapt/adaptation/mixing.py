"""Mixing over clips: ClassMix (source classes onto target clips) and IMix (target instances into source clips)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vidapt.adaptation.pseudo_labels import PseudoLabels
from vidapt.clip import IGNORE, ClipBatch, PanopticTarget
from vidapt.kernels.paste import Pasted, paste_instances

Direction = Literal["target_to_source", "source_to_target"]

_SOURCE = 2.0
"""Weight that marks source pixels on their way through a paste; trust in target pixels is 1 at most."""


@dataclass(frozen=True)
class MixedClips:
    """Clips put together from both domains.

    Attributes:
        frames: uint8 (B,T,3,H,W).
        target: Labels (B,T,H,W). Ids 1..K are the pseudo-instances, with their numbers; source id i became i + K.
        weight: float32 (B,T,H,W) trust in each label, 0..1.
        instance_weight: float32 (B,K+1) trust in each instance by id; ids above K are the source's and weigh 1.
        from_source: bool (B,T,H,W), the pixels that show the source clip.
        voted: uint8 (B,T,H,W) classes for the instance losses: ``target.semantic``, but under each pseudo-instance the
            class that its track voted for.
        instance_trust: float32 (B,T,H,W) trust in each pixel for the instance losses, 0..1. Pixels of the source and of
            pseudo-instances weigh 1, because ``instance_weight`` alone says how far a pseudo-instance is trusted; other
            target pixels (background) weigh what their class does, and ignored ones 0.
    """

    frames: Tensor
    target: PanopticTarget
    weight: Tensor
    instance_weight: Tensor
    from_source: Tensor
    voted: Tensor
    instance_trust: Tensor


def draw_classes(semantic: Tensor, noise: Tensor) -> Tensor:
    """Choose half (rounded up) of the classes that occur in each clip; the same set for all of its frames.

    Args:
        semantic: uint8 (B,T,H,W) train ids, 255 = ignore.
        noise: float (B,C) random numbers that rank the C classes of each clip.

    Returns:
        bool (B,C).
    """
    clips, classes = noise.shape
    counts = semantic.new_zeros(clips, IGNORE + 1, dtype=torch.int32)
    flat = semantic.flatten(1).long()
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.int32))
    present = counts[:, :classes] > 0
    rank = torch.where(present, noise, 2.0).argsort(1).argsort(1)
    return present & (rank < (present.sum(1, keepdim=True) + 1) // 2)


def class_mix(source: ClipBatch, target: ClipBatch, pseudo: PseudoLabels, noise: Tensor) -> MixedClips:
    """Paste half of the source classes over the target clips, frame by frame (ClassMix; DACS, CMOM).

    Source pixels weigh 1, target pixels what their pseudo-label does. Instances are those of the source labels and the
    verified pseudo-instances.

    Args:
        source: Labelled clips.
        target: As many clips of the same size.
        pseudo: Their pseudo-labels.
        noise: float (B,C), see ``draw_classes``.
    """
    given = labels_of(source)
    chosen = draw_classes(given.semantic, noise)
    return _paste_source(given, source.frames, target, pseudo, given.semantic, chosen)


def instance_mix(
    source: ClipBatch, target: ClipBatch, pseudo: PseudoLabels, direction: Direction = "target_to_source"
) -> MixedClips:
    """Paste instances into the clips of the other domain with one id on all frames (IMix, LIDAPS 3.2, over time).

    Source labels are exhaustive, so pasting verified target instances into them cannot create unlabelled objects. The
    other way round all source instances are pasted over the target clip, whose own things without a verified instance
    stay crowd. Source pixels weigh 1, target pixels what their pseudo-label does. Clips that receive no instance count
    as unlabelled.

    Args:
        source: Labelled clips.
        target: As many clips of the same size.
        pseudo: Their pseudo-labels.
        direction: What is pasted where.
    """
    given = labels_of(source)
    if direction == "target_to_source":
        mixed = _paste_target(given, source.frames, target, pseudo)
        received = given.labelled & pseudo.verified.any(1, keepdim=True)
    else:
        shown = given.semantic.masked_fill(given.instance == 0, IGNORE)
        every = shown.new_ones(len(shown), IGNORE, dtype=torch.bool)
        mixed = _paste_source(given, source.frames, target, pseudo, shown, every)
        received = (shown != IGNORE).flatten(1).any(1, keepdim=True).expand_as(given.labelled)
    return replace(mixed, target=replace(mixed.target, labelled=received))


def unmixed(target: ClipBatch, pseudo: PseudoLabels) -> MixedClips:
    """The target clips as they are, with their pseudo-labels, in the form of mixed clips."""
    labelled = torch.ones(target.frames.shape[:2], dtype=torch.bool, device=target.frames.device)
    return MixedClips(
        frames=target.frames,
        target=PanopticTarget(pseudo.semantic, pseudo.instance, labelled),
        weight=pseudo.weight,
        instance_weight=pseudo.instance_weight,
        from_source=torch.zeros_like(pseudo.semantic, dtype=torch.bool),
        voted=pseudo.voted_semantic(),
        instance_trust=_instance_trust(target, pseudo),
    )


def _paste_source(
    given: PanopticTarget, frames: Tensor, target: ClipBatch, pseudo: PseudoLabels, shown: Tensor, chosen: Tensor
) -> MixedClips:
    """Paste the source over the target where ``shown`` uint8 (B,T,H,W) is one of the ``chosen`` (B,C) classes."""
    pasted = paste_instances(
        target.frames,
        pseudo.semantic,
        pseudo.instance,
        frames,
        shown,
        given.instance,
        selected_class=chosen,
        id_offset=_highest(pseudo),
        weight=pseudo.weight,
        donor_weight=torch.full_like(pseudo.weight, _SOURCE),
    )
    return _mixed(pasted, torch.ones_like(given.labelled), target, pseudo)


def _paste_target(given: PanopticTarget, frames: Tensor, target: ClipBatch, pseudo: PseudoLabels) -> MixedClips:
    """Paste the verified instances over the source.

    Source ids make room for them, instead of following the pasted ones: then the table of weights needs no width that
    only the device knows.
    """
    pasted = paste_instances(
        frames,
        given.semantic,
        (given.instance + _highest(pseudo)).masked_fill_(given.instance == 0, 0),
        target.frames,
        pseudo.semantic,
        pseudo.instance,
        pseudo.verified,
        id_offset=0,
        weight=torch.full_like(pseudo.weight, _SOURCE),
        donor_weight=pseudo.weight,
    )
    return _mixed(pasted, given.labelled, target, pseudo)


def _highest(pseudo: PseudoLabels) -> int:
    """K, the highest id of a pseudo-instance in the batch."""
    return pseudo.verified.shape[1] - 1


def _mixed(pasted: Pasted, labelled: Tensor, target: ClipBatch, pseudo: PseudoLabels) -> MixedClips:
    if pasted.weight is None:
        raise ValueError("mixing needs pasted weights")
    from_source = pasted.weight == _SOURCE
    return MixedClips(
        frames=pasted.image,
        target=PanopticTarget(pasted.semantic, pasted.ids, labelled),
        weight=pasted.weight.clamp_max(1.0),
        instance_weight=pseudo.instance_weight,
        from_source=from_source,
        voted=torch.where(from_source, pasted.semantic, pseudo.voted_semantic()),
        instance_trust=torch.where(from_source, 1.0, _instance_trust(target, pseudo)),
    )


def _instance_trust(target: ClipBatch, pseudo: PseudoLabels) -> Tensor:
    """``MixedClips.instance_trust`` of target clips that nothing is pasted over."""
    trust = torch.where(pseudo.instance > 0, 1.0, pseudo.weight)
    return trust if target.ignored is None else trust.masked_fill(target.ignored, 0.0)


def labels_of(batch: ClipBatch) -> PanopticTarget:
    """The labels of a batch; frames without labels are all ignored.

    Raises:
        ValueError: If it has none.
    """
    if batch.target is None:
        raise ValueError("source clips carry no labels; a source data set must be labelled")
    target = batch.target
    bare = ~target.labelled[..., None, None]
    semantic, instance = target.semantic.masked_fill(bare, IGNORE), target.instance.masked_fill(bare, 0)
    return PanopticTarget(semantic, instance, target.labelled)
