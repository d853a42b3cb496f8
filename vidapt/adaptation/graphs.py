"""The graphs of a self-training step: each function runs the student once and returns its weighted losses by name.

Which losses a graph has follows from the parts that the method lists; a graph without losses is not run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vidapt.adaptation.alignment import text_alignment
from vidapt.adaptation.colour import transfer_colours
from vidapt.adaptation.confidence import sample_pixels
from vidapt.adaptation.consistency import temporal_consistency
from vidapt.adaptation.contrast import clip_flow, pixel_contrast, temporal_contrast
from vidapt.adaptation.feature_distance import feature_distance
from vidapt.adaptation.identity import identity_contrast
from vidapt.adaptation.masking import mask_blocks
from vidapt.adaptation.memory import MemoryBank
from vidapt.adaptation.mixing import MixedClips, class_mix, instance_mix, labels_of, unmixed
from vidapt.adaptation.patches import cut_views, draw_windows, patch_contrast
from vidapt.adaptation.pseudo_labels import PseudoLabels
from vidapt.adaptation.sampling import Purpose, clip_generators, clip_rngs
from vidapt.adaptation.supervised import Labelled, forward, labelled_losses
from vidapt.clip import ClipBatch
from vidapt.config_method import MethodConfig
from vidapt.models.encoder import Encoder
from vidapt.models.network import NetworkOutput, PanopticNetwork
from vidapt.transforms import StrongAugment

Losses = dict[str, Tensor]


class Part(Protocol):
    """A part of a method with a weight."""

    @property
    def weight(self) -> float:
        """0 switches it off."""


@dataclass(frozen=True)
class Tools:
    """What the graphs work with.

    Attributes:
        network: The student.
        method: The parts and their weights.
        labelled: Seed, class weights and the augmentation of source clips.
        reference: Frozen pretrained encoder of the feature distance, or None.
        distant: bool (256,) classes whose features are compared with the reference's.
        table: float32 (C+1,D) text embeddings, or None.
        bank: Memory of the pixel contrast, or None.
    """

    network: PanopticNetwork
    method: MethodConfig
    labelled: Labelled
    reference: Encoder | None = None
    distant: Tensor | None = None
    table: Tensor | None = None
    bank: MemoryBank | None = None

    @cached_property
    def augment(self) -> StrongAugment:
        """Strong augmentation of target clips."""
        config = self.method.augment
        return StrongAugment(config.jitter, config.jitter_probability, config.blur_probability)

    def rngs(self, purpose: Purpose, batch: ClipBatch) -> list[np.random.Generator]:
        """One numpy generator per clip."""
        return clip_rngs(self.labelled.seed, purpose, batch.samples)

    def generators(self, purpose: Purpose, batch: ClipBatch) -> list[torch.Generator]:
        """One torch generator per clip, on the clips' device."""
        return list(clip_generators(self.labelled.seed, purpose, batch.samples, batch.frames.device))


@dataclass(frozen=True)
class Round:
    """The clips of one part of a step.

    Attributes:
        source: Labelled clips.
        target: Unlabelled clips.
        pseudo: The teacher's view of them.
        progress: Share of the steps that are done, 0..1.
    """

    source: ClipBatch
    target: ClipBatch
    pseudo: PseudoLabels
    progress: float

    def active(self, part: Part | None) -> bool:
        """Whether a part is used, has a weight and has begun."""
        return part is not None and part.weight > 0 and self.progress >= getattr(part, "start", 0.0)

    @cached_property
    def flow(self) -> Tensor:
        """Optical flow of the target clips, float32 (B,T-1,2,H,W) pixels."""
        return clip_flow(self.target.frames)


def source_graph(tools: Tools, clips: Round) -> Losses:
    """Labelled losses on the source clips; on the same pass pixel contrast, feature distance, CDA, identity contrast."""
    method, network, source = tools.method, tools.network, clips.source
    if method.colour_transfer is not None:
        rngs = tools.rngs("colour_transfer", source)
        moved = transfer_colours(source.frames, clips.target.frames, method.colour_transfer, rngs)
        source = replace(source, frames=moved)
    frames, labels = tools.labelled.frames(source), labels_of(source)
    output = forward(network, frames, tools.labelled.seed, source.samples)
    parts = labelled_losses(network, output, labels.flatten(), tools.labelled.class_weight)
    if method.pixel_contrast is not None and clips.active(method.pixel_contrast):
        embedding = _clips(network.project_pixels(output), source)
        generators = tools.generators("pixel_contrast", source)
        loss = pixel_contrast(
            embedding, _clips(output.logits, source), labels.semantic, method.pixel_contrast, generators, tools.bank
        )
        if tools.bank is not None:
            tools.bank.stage(embedding.detach(), labels.semantic, tools.generators("memory", source))
        parts["pixel_contrast"] = method.pixel_contrast.weight * loss
    if tools.reference is not None and tools.distant is not None and method.feature_distance is not None:
        with torch.no_grad():
            reference = tools.reference(network.encoder_input(frames.flatten(0, 1)))[-1]
        config, semantic = method.feature_distance, labels.semantic.flatten(0, 1)
        distance = feature_distance(output.features[-1], reference, semantic, tools.distant, config.min_share)
        parts["feature_distance"] = config.weight * distance
    if method.text_alignment is not None and clips.active(method.text_alignment):
        known = labels.labelled.flatten()
        parts["text_alignment"] = _text(tools, output, labels.semantic.flatten(0, 1), labelled=known)
    identity = method.identity_contrast
    if identity is not None and identity.source and clips.active(identity):
        second = _second_view(tools, frames, source)
        embedding = _clips(network.project(output), source)
        loss = identity_contrast(
            embedding, labels.instance, temperature=identity.temperature, instance_weight=None, second=second
        )
        parts["identity_contrast"] = identity.weight * loss
    return parts


def mixed_graph(tools: Tools, clips: Round) -> Losses:
    """Semantic and instance losses on mixed clips; on the same pass CDA and everything that compares target frames."""
    method, target, pseudo = tools.method, clips.target, clips.pseudo
    riders = (method.temporal_contrast, method.temporal_consistency, method.identity_contrast)
    mix, mixes = method.class_mix, method.class_mix is not None
    if not mixes and not any(clips.active(part) for part in riders):
        return {}
    mixed = _mix(tools, clips) if mixes else unmixed(target, pseudo)
    frames = tools.augment(mixed.frames, tools.rngs("augment", target))
    output = forward(tools.network, frames, tools.labelled.seed, target.samples)
    parts: Losses = {}
    semantic, weight = mixed.target.semantic.flatten(0, 1), mixed.weight.flatten(0, 1)
    if mix is not None and mix.weight > 0:
        counted = weight
        if mix.sampling is not None:
            confidence = torch.where(_unchanged(mixed, target), pseudo.confidence, 1.0)
            generators = tools.generators("pixel_sampling", target)
            chosen = sample_pixels(output.logits, confidence.flatten(0, 1), weight, mix.sampling, generators)
            counted = weight * chosen
        parts["semantic"] = mix.weight * tools.network.semantic_loss(
            output, semantic, counted, tools.labelled.class_weight
        )
    if mix is not None and mix.instance_weight > 0:
        parts |= _instance_losses(tools, output, mixed, mix.instance_weight)
    align = method.text_alignment
    if mixes and align is not None and align.mixed and clips.active(align):
        parts["text_alignment"] = _text(tools, output, semantic, weight=weight if align.weighted else None)
    return parts | _target_losses(tools, clips, mixed, frames, output)


def pasted_graph(tools: Tools, clips: Round) -> Losses:
    """Instance losses on clips into which instances of the other domain are pasted (IMix)."""
    config = tools.method.instance_mix
    if config is None or not clips.active(config):
        return {}
    mixed = instance_mix(clips.source, clips.target, clips.pseudo, config.direction)
    output = forward(tools.network, mixed.frames, tools.labelled.seed, clips.source.samples)
    parts = _instance_losses(tools, output, mixed, config.weight)
    if config.semantic_weight > 0:
        trust = (mixed.weight * mixed.target.labelled[:, :, None, None]).flatten(0, 1)
        labels = mixed.target.semantic.flatten(0, 1)
        loss = tools.network.semantic_loss(output, labels, trust, tools.labelled.class_weight)
        parts["semantic"] = config.semantic_weight * loss
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
    first, second = _clips(tools.network.project_pixels(output), target, 2).chunk(2)
    logits_first, logits_second = _clips(output.logits, target, 2).detach().chunk(2)
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


def _target_losses(
    tools: Tools, clips: Round, mixed: MixedClips, frames: Tensor, output: NetworkOutput
) -> Losses:
    """Losses that compare frames of the target with each other, on the mixed pass."""
    method, target, pseudo, parts = tools.method, clips.target, clips.pseudo, dict[str, Tensor]()
    contrast, consistency, identity = method.temporal_contrast, method.temporal_consistency, method.identity_contrast
    if contrast is not None and clips.active(contrast):
        loss = temporal_contrast(
            _clips(tools.network.project_pixels(output), target),
            pseudo.semantic,
            _unchanged(mixed, target),
            clips.flow if contrast.warp else None,
            contrast,
            tools.generators("temporal_contrast", target),
        )
        parts["temporal_contrast"] = contrast.weight * loss
    if consistency is not None and clips.active(consistency):
        flow = clips.flow if consistency.warp else None
        usable = _unchanged(mixed, target)
        loss = temporal_consistency(_clips(output.logits, target), target.frames, pseudo.semantic, usable, flow)
        parts["temporal_consistency"] = consistency.weight * loss
    if identity is not None and identity.target and clips.active(identity):
        loss = identity_contrast(
            _clips(tools.network.project(output), target),
            mixed.target.instance,
            temperature=identity.temperature,
            instance_weight=mixed.instance_weight,
            second=_second_view(tools, mixed.frames, target),
        )
        parts["identity_contrast"] = identity.weight * loss
    return parts


def _second_view(tools: Tools, frames: Tensor, batch: ClipBatch) -> Tensor | None:
    """Embeddings (B,1,D,h,w) of single frames, augmented differently: their only other sight of an instance."""
    if frames.shape[1] > 1:
        return None
    again = tools.augment(frames, tools.rngs("second_view", batch))
    return _clips(tools.network.project(forward(tools.network, again, tools.labelled.seed, batch.samples)), batch)


def _instance_losses(tools: Tools, output: NetworkOutput, mixed: MixedClips, weight: float) -> Losses:
    length, table = mixed.frames.shape[1], mixed.instance_weight
    losses = tools.network.instance_loss(
        output,
        mixed.target.flatten(),
        instance_weight=None if table is None else table.repeat_interleave(length, 0),
        pixel_weight=mixed.weight.flatten(0, 1),
    )
    return {name: weight * loss for name, loss in losses.items()}


def _text(tools: Tools, output: NetworkOutput, semantic: Tensor, **trust: Tensor | None) -> Tensor:
    config = tools.method.text_alignment
    if tools.table is None or config is None:
        raise ValueError("text alignment needs a text table")
    features = tools.network.project_text(output)
    return config.weight * text_alignment(features, semantic, tools.table, temperature=config.temperature, **trust)


def _unchanged(mixed: MixedClips, target: ClipBatch) -> Tensor:
    """bool (B,T,H,W): target pixels that nothing was pasted over and whose pseudo-labels count."""
    same = ~mixed.from_source
    return same if target.ignored is None else same & ~target.ignored


def _clips(maps: Tensor, batch: ClipBatch, views: int = 1) -> Tensor:
    """Maps (views·B·T,D,h,w) of a pass as clips (views·B,T,D,h,w)."""
    return rearrange(maps, "(b t) d h w -> b t d h w", b=views * batch.frames.shape[0])
