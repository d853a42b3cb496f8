"""Mixing over clips: ClassMix (source classes onto target clips) and IMix (target instances into source clips)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidapt.adaptation.pseudo_labels import PseudoLabels
from vidapt.clip import IGNORE, ClipBatch, PanopticTarget
from vidapt.kernels.paste import Pasted, paste_instances


@dataclass(frozen=True)
class MixedClips:
    """Clips put together from both domains.

    Attributes:
        frames: uint8 (B,T,3,H,W).
        target: Labels (B,T,H,W).
        weight: float32 (B,T,H,W) trust in each label, 0..1.
    """

    frames: Tensor
    target: PanopticTarget
    weight: Tensor


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

    Source pixels weigh 1, target pixels the clip's confidence. Things keep their ids, on source from the labels and on
    target from the verified pseudo-instances.
    """
    given = labels_of(source)
    weight = _trust(target, pseudo)
    pasted = paste_instances(
        target.frames,
        pseudo.semantic,
        pseudo.instance,
        source.frames,
        given.semantic,
        given.instance,
        selected_class=draw_classes(given.semantic, noise),
        weight=weight,
        donor_weight=torch.ones_like(weight),
    )
    labels = PanopticTarget(pasted.semantic, pasted.ids, torch.ones_like(given.labelled))
    return _mixed(pasted, labels)


def instance_mix(source: ClipBatch, target: ClipBatch, pseudo: PseudoLabels) -> MixedClips:
    """Paste verified target instances into the source clips with one id on all frames (IMix, LIDAPS, over time).

    Source labels are exhaustive, so pasting in this direction cannot create unlabelled objects. Pasted pixels weigh
    the target clip's confidence, source pixels 1. Clips that receive no instance count as unlabelled.
    """
    given = labels_of(source)
    weight = _trust(target, pseudo)
    pasted = paste_instances(
        source.frames,
        given.semantic,
        given.instance,
        target.frames,
        pseudo.semantic,
        pseudo.instance,
        pseudo.verified,
        weight=torch.ones_like(weight),
        donor_weight=weight,
    )
    labelled = given.labelled & pseudo.verified.any(1, keepdim=True)
    return _mixed(pasted, PanopticTarget(pasted.semantic, pasted.ids, labelled))


def _trust(target: ClipBatch, pseudo: PseudoLabels) -> Tensor:
    """float32 (B,T,H,W): the confidence of each clip, 0 where the data set says that pseudo-labels do not count."""
    weight = pseudo.confidence[:, None, None, None].expand(pseudo.semantic.shape)
    return weight.contiguous() if target.ignored is None else weight.masked_fill(target.ignored, 0.0)


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


def _mixed(pasted: Pasted, labels: PanopticTarget) -> MixedClips:
    if pasted.weight is None:
        raise ValueError("mixing needs pasted weights")
    return MixedClips(pasted.image, labels, pasted.weight)
