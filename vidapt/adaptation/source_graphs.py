"""The student's passes over source clips: as they are, and with instances of the other domain pasted in (IMix)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vidapt.adaptation.colour import transfer_colours
from vidapt.adaptation.contrast import pixel_contrast
from vidapt.adaptation.feature_distance import feature_distance
from vidapt.adaptation.identity import identity_contrast
from vidapt.adaptation.mixing import instance_mix, labels_of
from vidapt.adaptation.supervised import forward, labelled_losses
from vidapt.adaptation.tools import Losses, Round, Tools, as_clips, mixed_instance_losses, second_view, text_loss
from vidapt.clip import ClipBatch, PanopticTarget
from vidapt.models.network import NetworkOutput


def source_graph(tools: Tools, clips: Round) -> Losses:
    """Labelled losses on source clips; on the same pass everything else that needs labels."""
    method, source = tools.method, clips.source
    if method.colour_transfer is not None:
        rngs = tools.rngs("colour_transfer", source)
        moved = transfer_colours(source.frames, clips.target.frames, method.colour_transfer, rngs)
        source = replace(source, frames=moved)
    frames, labels = tools.labelled.frames(source), labels_of(source)
    output = forward(tools.network, frames, tools.labelled.seed, source.samples)
    flat = labels.flatten()
    parts = labelled_losses(tools.network, output, flat, tools.labelled.class_weight)
    if clips.active(method.pixel_contrast):
        parts["pixel_contrast"] = _pixel_contrast(tools, output, source, labels.semantic)
    if tools.reference is not None and clips.active(method.feature_distance):
        parts["feature_distance"] = _feature_distance(tools, output, frames, flat.semantic)
    if clips.active(method.text_alignment):
        parts["text_alignment"] = text_loss(tools, output, flat.semantic, labelled=flat.labelled)
    if method.identity_contrast is not None and method.identity_contrast.source:
        parts |= _identity_contrast(tools, clips, output, frames, labels)
    return parts


def pasted_graph(tools: Tools, clips: Round) -> Losses:
    """Instance losses on clips into which instances of the other domain are pasted."""
    config = tools.method.instance_mix
    if config is None or not clips.active(config):
        return {}
    mixed = instance_mix(clips.source, clips.target, clips.pseudo, config.direction)
    output = forward(tools.network, mixed.frames, tools.labelled.seed, clips.source.samples)
    parts = mixed_instance_losses(tools, output, mixed, config.weight)
    if config.semantic_weight > 0:
        trust = (mixed.weight * mixed.target.labelled[:, :, None, None]).flatten(0, 1)
        labels = mixed.target.semantic.flatten(0, 1)
        loss = tools.network.semantic_loss(output, labels, trust, tools.labelled.class_weight)
        parts["semantic"] = config.semantic_weight * loss
    return parts


def _pixel_contrast(tools: Tools, output: NetworkOutput, source: ClipBatch, semantic: Tensor) -> Tensor:
    config = tools.method.pixel_contrast
    if config is None:
        raise ValueError("the method has no pixel contrast")
    embedding, logits = as_clips(tools.network.project_pixels(output), source), as_clips(output.logits, source)
    generators = tools.generators("pixel_contrast", source)
    loss = pixel_contrast(embedding, logits, semantic, config, generators, tools.bank)
    if tools.bank is not None:
        tools.bank.stage(embedding.detach(), semantic, tools.generators("memory", source))
    return config.weight * loss


def _feature_distance(tools: Tools, output: NetworkOutput, frames: Tensor, semantic: Tensor) -> Tensor:
    config = tools.method.feature_distance
    if config is None or tools.reference is None or tools.distant is None:
        raise ValueError("feature distance needs a reference and its classes")
    with torch.no_grad():
        reference = tools.reference(tools.network.encoder_input(frames.flatten(0, 1)))[-1]
    return config.weight * feature_distance(output.features[-1], reference, semantic, tools.distant, config.min_share)


def _identity_contrast(
    tools: Tools, clips: Round, output: NetworkOutput, frames: Tensor, labels: PanopticTarget
) -> Losses:
    config = tools.method.identity_contrast
    if config is None or not clips.active(config):
        return {}
    loss = identity_contrast(
        as_clips(tools.network.project(output), clips.source),
        labels.instance,
        temperature=config.temperature,
        second=second_view(tools, frames, clips.source),
    )
    return {"identity_contrast": config.weight * loss}
