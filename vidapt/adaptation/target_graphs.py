"""The student's passes over target clips: mixed with source classes, seen in part (MIC), and as two crops (PiPa)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidapt.adaptation.confidence import sample_pixels
from vidapt.adaptation.consistency import temporal_consistency
from vidapt.adaptation.contrast import temporal_contrast
from vidapt.adaptation.graph_losses import Losses, as_clips, mixed_instance_losses, second_view, text_loss
from vidapt.adaptation.identity import identity_contrast
from vidapt.adaptation.ingredients import Ingredients
from vidapt.adaptation.masking import mask_blocks
from vidapt.adaptation.mixing import MixedClips, class_mix, unmixed
from vidapt.adaptation.patches import cut_views, draw_windows, patch_contrast
from vidapt.adaptation.rounds import Round
from vidapt.adaptation.supervised import forward
from vidapt.clip import ClipBatch
from vidapt.config_method import (
    ClassMixConfig,
    IdentityContrastConfig,
    MethodConfig,
    PixelSamplingConfig,
    TemporalConsistencyConfig,
    TemporalContrastConfig,
    TextAlignmentConfig,
)
from vidapt.models.network import NetworkOutput


@dataclass(frozen=True)
class MixedLosses:
    """Parts of a method that have a loss on the mixed graph in one step, each None if it has none there.

    Attributes:
        semantic: Cross-entropy on mixed clips.
        instance: Losses of the instance head on mixed clips.
        text: Text alignment of mixed clips.
        contrast: Contrast between neighbouring frames.
        consistency: Equal probabilities in neighbouring frames.
        identity: Contrast between instances.
    """

    semantic: ClassMixConfig | None
    instance: ClassMixConfig | None
    text: TextAlignmentConfig | None
    contrast: TemporalContrastConfig | None
    consistency: TemporalConsistencyConfig | None
    identity: IdentityContrastConfig | None

    @property
    def any(self) -> bool:
        """Whether there is a loss at all, without which the student need not see mixed clips."""
        return any(part is not None for part in vars(self).values())


def mixed_losses(clips: Round, method: MethodConfig) -> MixedLosses:
    """The losses of the mixed graph in a step; text alignment needs clips that something is pasted over."""
    mix, align = clips.begun(method.class_mix), clips.active(method.text_alignment)
    identity = clips.active(method.identity_contrast)
    return MixedLosses(
        semantic=mix if mix is not None and mix.weight > 0 else None,
        instance=mix if mix is not None and mix.instance_weight > 0 else None,
        text=align if align is not None and align.mixed and mix is not None else None,
        contrast=clips.active(method.temporal_contrast),
        consistency=clips.active(method.temporal_consistency),
        identity=identity if identity is not None and identity.target else None,
    )


def mixed_graph(ingredients: Ingredients, clips: Round) -> Losses:
    """Semantic and instance losses on mixed clips; on the same pass CDA and everything that compares target frames."""
    target, losses = clips.target, mixed_losses(clips, ingredients.method)
    if not losses.any:
        return {}
    mix = clips.begun(ingredients.method.class_mix)
    mixed = unmixed(target, clips.pseudo) if mix is None else _mix(ingredients, clips)
    frames = ingredients.augment(mixed.frames, ingredients.rngs("augment", target))
    output = forward(ingredients.network, frames, ingredients.labelled.seed, target.samples)
    parts: Losses = {}
    if losses.semantic is not None:
        loss = _mixed_semantic(ingredients, losses.semantic.sampling, clips, mixed, output)
        parts["semantic"] = losses.semantic.weight * loss
    if losses.instance is not None:
        parts |= mixed_instance_losses(ingredients, output, mixed, losses.instance.instance_weight)
    if losses.text is not None:
        trust = mixed.weight.flatten(0, 1) if losses.text.weighted else None
        labels = mixed.target.semantic.flatten(0, 1)
        parts["text_alignment"] = text_loss(ingredients, losses.text, output, labels, weight=trust)
    if losses.contrast is not None:
        parts["temporal_contrast"] = _temporal_contrast(ingredients, losses.contrast, clips, mixed, output)
    if losses.consistency is not None:
        parts["temporal_consistency"] = _temporal_consistency(losses.consistency, clips, mixed, output)
    if losses.identity is not None:
        parts["identity_contrast"] = _identity_contrast(ingredients, losses.identity, clips, mixed, output)
    return parts


def masked_graph(ingredients: Ingredients, clips: Round) -> Losses:
    """Semantic loss on target clips that the student sees in part (MIC)."""
    config, target = clips.active(ingredients.method.masked_consistency), clips.target
    if config is None:
        return {}
    frames = ingredients.augment(target.frames, ingredients.rngs("mask_augment", target))
    frames = mask_blocks(frames, config, ingredients.rngs("masking", target))
    output = forward(ingredients.network, frames, ingredients.labelled.seed, target.samples)
    labels, weight = clips.pseudo.semantic.flatten(0, 1), clips.pseudo.weight.flatten(0, 1)
    loss = ingredients.network.semantic_loss(output, labels, weight, ingredients.labelled.class_weight)
    return {"semantic": config.weight * loss}


def patch_graph(ingredients: Ingredients, clips: Round) -> Losses:
    """Patch contrast between two overlapping crops of the target clips, both seen by the student (PiPa)."""
    config, target = clips.active(ingredients.method.patch_contrast), clips.target
    if config is None:
        return {}
    size = (target.frames.shape[-2], target.frames.shape[-1])
    windows = draw_windows(size, config, ingredients.rngs("patches", target), stride=ingredients.network.stride)
    first_view, second_view = cut_views(target.frames, windows)
    first_view = ingredients.augment(first_view, ingredients.rngs("first_patch_augment", target))
    second_view = ingredients.augment(second_view, ingredients.rngs("second_patch_augment", target))
    views = torch.cat([first_view, second_view])
    output = forward(ingredients.network, views, ingredients.labelled.seed, target.samples)
    first, second = as_clips(ingredients.network.project_pixels(output), target, 2).chunk(2)
    logits_first, logits_second = as_clips(output.logits, target, 2).detach().chunk(2)
    loss = patch_contrast(
        first,
        second,
        windows,
        logits_first=logits_first,
        logits_second=logits_second,
        config=config,
        generators=ingredients.generators("patch_contrast", target),
        ignored=target.ignored,
    )
    return {"contrast": config.weight * loss}


def _mix(ingredients: Ingredients, clips: Round) -> MixedClips:
    rngs = ingredients.rngs("class_mix", clips.target)
    noise = torch.from_numpy(np.stack([rng.random(len(ingredients.network.space)) for rng in rngs]))
    noise = noise.to(clips.target.frames.device, torch.float32, non_blocking=True)
    return class_mix(clips.source, clips.target, clips.pseudo, noise)


def _mixed_semantic(
    ingredients: Ingredients,
    sampling: PixelSamplingConfig | None,
    clips: Round,
    mixed: MixedClips,
    output: NetworkOutput,
) -> Tensor:
    """Cross-entropy on mixed clips, on all pixels or on sampled ones (MC-PanDA)."""
    weight = mixed.weight.flatten(0, 1)
    if sampling is not None:
        confidence = torch.where(mixed.from_source, 1.0, clips.pseudo.confidence).flatten(0, 1)
        generators = ingredients.generators("pixel_sampling", clips.target)
        weight = weight * sample_pixels(output.logits, confidence, weight, sampling, generators)
    labels = mixed.target.semantic.flatten(0, 1)
    return ingredients.network.semantic_loss(output, labels, weight, ingredients.labelled.class_weight)


def _temporal_contrast(
    ingredients: Ingredients, config: TemporalContrastConfig, clips: Round, mixed: MixedClips, output: NetworkOutput
) -> Tensor:
    target = clips.target
    embedding = as_clips(ingredients.network.project_pixels(output), target)
    flow = clips.flow if config.warp else None
    generators = ingredients.generators("temporal_contrast", target)
    usable = _usable(mixed, target)
    return config.weight * temporal_contrast(embedding, clips.pseudo.semantic, usable, flow, config, generators)


def _temporal_consistency(
    config: TemporalConsistencyConfig, clips: Round, mixed: MixedClips, output: NetworkOutput
) -> Tensor:
    target, logits = clips.target, as_clips(output.logits, clips.target)
    flow = clips.flow if config.warp else None
    usable = _usable(mixed, target)
    return config.weight * temporal_consistency(logits, target.frames, clips.pseudo.semantic, usable, flow)


def _identity_contrast(
    ingredients: Ingredients, config: IdentityContrastConfig, clips: Round, mixed: MixedClips, output: NetworkOutput
) -> Tensor:
    loss = identity_contrast(
        as_clips(ingredients.network.project(output), clips.target),
        mixed.target.instance,
        temperature=config.temperature,
        instance_weight=mixed.instance_weight,
        second=second_view(ingredients, mixed.frames, clips.target),
    )
    return config.weight * loss


def _usable(mixed: MixedClips, target: ClipBatch) -> Tensor:
    """bool (B,T,H,W): target pixels that nothing was pasted over and whose pseudo-labels count."""
    own = ~mixed.from_source
    return own if target.ignored is None else own & ~target.ignored
