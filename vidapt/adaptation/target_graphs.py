"""The student's passes over target clips: mixed with source classes, seen in part (MIC), and as two crops (PiPa)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vidapt.adaptation.confidence import sample_pixels
from vidapt.adaptation.consistency import temporal_consistency
from vidapt.adaptation.contrast import temporal_contrast
from vidapt.adaptation.identity import identity_contrast
from vidapt.adaptation.masking import mask_blocks
from vidapt.adaptation.mixing import MixedClips, class_mix, unmixed
from vidapt.adaptation.patches import cut_views, draw_windows, patch_contrast
from vidapt.adaptation.supervised import forward
from vidapt.adaptation.tools import Losses, Round, Tools, as_clips, mixed_instance_losses, second_view, text_loss
from vidapt.clip import ClipBatch
from vidapt.models.network import NetworkOutput


def mixed_graph(tools: Tools, clips: Round) -> Losses:
    """Semantic and instance losses on mixed clips; on the same pass CDA and everything that compares target frames."""
    method, target = tools.method, clips.target
    riders = (method.temporal_contrast, method.temporal_consistency, method.identity_contrast)
    mix = method.class_mix
    if mix is None and not any(clips.active(part) for part in riders):
        return {}
    mixed = unmixed(target, clips.pseudo) if mix is None else _mix(tools, clips)
    frames = tools.augment(mixed.frames, tools.rngs("augment", target))
    output = forward(tools.network, frames, tools.labelled.seed, target.samples)
    parts: Losses = {}
    if mix is not None and mix.weight > 0:
        parts["semantic"] = mix.weight * _mixed_semantic(tools, clips, mixed, output)
    if mix is not None and mix.instance_weight > 0:
        parts |= mixed_instance_losses(tools, output, mixed, mix.instance_weight)
    align = method.text_alignment
    if mix is not None and align is not None and align.mixed and clips.active(align):
        trust = mixed.weight.flatten(0, 1) if align.weighted else None
        parts["text_alignment"] = text_loss(tools, output, mixed.target.semantic.flatten(0, 1), weight=trust)
    parts |= _temporal_losses(tools, clips, mixed, output)
    if method.identity_contrast is not None and method.identity_contrast.target:
        parts |= _identity_contrast(tools, clips, mixed, output)
    return parts


def masked_graph(tools: Tools, clips: Round) -> Losses:
    """Semantic loss on target clips that the student sees in part (MIC)."""
    config, target = tools.method.masked_consistency, clips.target
    if config is None or not clips.active(config):
        return {}
    frames = tools.augment(target.frames, tools.rngs("mask_augment", target))
    frames = mask_blocks(frames, config, tools.rngs("masking", target))
    output = forward(tools.network, frames, tools.labelled.seed, target.samples)
    labels, weight = clips.pseudo.semantic.flatten(0, 1), clips.pseudo.weight.flatten(0, 1)
    loss = tools.network.semantic_loss(output, labels, weight, tools.labelled.class_weight)
    return {"semantic": config.weight * loss}


def patch_graph(tools: Tools, clips: Round) -> Losses:
    """Patch contrast between two overlapping crops of the target clips, both seen by the student (PiPa)."""
    config, target = tools.method.patch_contrast, clips.target
    if config is None or not clips.active(config):
        return {}
    size = (target.frames.shape[-2], target.frames.shape[-1])
    windows = draw_windows(size, config, tools.rngs("patches", target), stride=tools.network.stride)
    first_view, second_view = cut_views(target.frames, windows)
    first_view = tools.augment(first_view, tools.rngs("first_patch_augment", target))
    second_view = tools.augment(second_view, tools.rngs("second_patch_augment", target))
    views = torch.cat([first_view, second_view])
    output = forward(tools.network, views, tools.labelled.seed, target.samples)
    first, second = as_clips(tools.network.project_pixels(output), target, 2).chunk(2)
    logits_first, logits_second = as_clips(output.logits, target, 2).detach().chunk(2)
    loss = patch_contrast(
        first,
        second,
        windows,
        logits_first=logits_first,
        logits_second=logits_second,
        config=config,
        generators=tools.generators("patch_contrast", target),
        ignored=target.ignored,
    )
    return {"contrast": config.weight * loss}


def _mix(tools: Tools, clips: Round) -> MixedClips:
    rngs = tools.rngs("class_mix", clips.target)
    noise = torch.from_numpy(np.stack([rng.random(len(tools.network.space)) for rng in rngs]))
    noise = noise.to(clips.target.frames.device, torch.float32)
    return class_mix(clips.source, clips.target, clips.pseudo, noise)


def _mixed_semantic(tools: Tools, clips: Round, mixed: MixedClips, output: NetworkOutput) -> Tensor:
    """Cross-entropy on mixed clips, on all pixels or on sampled ones (MC-PanDA)."""
    weight, mix = mixed.weight.flatten(0, 1), tools.method.class_mix
    if mix is not None and mix.sampling is not None:
        confidence = torch.where(mixed.from_source, 1.0, clips.pseudo.confidence).flatten(0, 1)
        generators = tools.generators("pixel_sampling", clips.target)
        weight = weight * sample_pixels(output.logits, confidence, weight, mix.sampling, generators)
    labels = mixed.target.semantic.flatten(0, 1)
    return tools.network.semantic_loss(output, labels, weight, tools.labelled.class_weight)


def _temporal_losses(tools: Tools, clips: Round, mixed: MixedClips, output: NetworkOutput) -> Losses:
    """Losses between neighbouring target frames, on the pixels that nothing was pasted over."""
    target, pseudo, usable, parts = clips.target, clips.pseudo, _usable(mixed, clips.target), Losses()
    contrast, consistency = tools.method.temporal_contrast, tools.method.temporal_consistency
    if contrast is not None and clips.active(contrast):
        embedding = as_clips(tools.network.project_pixels(output), target)
        flow = clips.flow if contrast.warp else None
        generators = tools.generators("temporal_contrast", target)
        loss = temporal_contrast(embedding, pseudo.semantic, usable, flow, contrast, generators)
        parts["temporal_contrast"] = contrast.weight * loss
    if consistency is not None and clips.active(consistency):
        flow = clips.flow if consistency.warp else None
        loss = temporal_consistency(as_clips(output.logits, target), target.frames, pseudo.semantic, usable, flow)
        parts["temporal_consistency"] = consistency.weight * loss
    return parts


def _identity_contrast(tools: Tools, clips: Round, mixed: MixedClips, output: NetworkOutput) -> Losses:
    config = tools.method.identity_contrast
    if config is None or not clips.active(config):
        return {}
    loss = identity_contrast(
        as_clips(tools.network.project(output), clips.target),
        mixed.target.instance,
        temperature=config.temperature,
        instance_weight=mixed.instance_weight,
        second=second_view(tools, mixed.frames, clips.target),
    )
    return {"identity_contrast": config.weight * loss}


def _usable(mixed: MixedClips, target: ClipBatch) -> Tensor:
    """bool (B,T,H,W): target pixels that nothing was pasted over and whose pseudo-labels count."""
    own = ~mixed.from_source
    return own if target.ignored is None else own & ~target.ignored
