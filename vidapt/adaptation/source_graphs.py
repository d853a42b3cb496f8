"""The student's passes over source clips: as they are, and with instances of the other domain pasted in (IMix)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vidapt.adaptation.colour import transfer_colours
from vidapt.adaptation.contrast import pixel_contrast
from vidapt.adaptation.feature_distance import feature_distance
from vidapt.adaptation.graph_losses import Losses, as_clips, mixed_instance_losses, second_view, text_loss
from vidapt.adaptation.identity import identity_contrast
from vidapt.adaptation.ingredients import Ingredients
from vidapt.adaptation.mixing import instance_mix, labels_of
from vidapt.adaptation.rounds import Round
from vidapt.adaptation.supervised import forward, labelled_losses
from vidapt.clip import ClipBatch, PanopticTarget
from vidapt.config_method import FeatureDistanceConfig, IdentityContrastConfig, PixelContrastConfig
from vidapt.models.encoder import Encoder
from vidapt.models.network import NetworkOutput


def source_graph(ingredients: Ingredients, clips: Round) -> Losses:
    """Labelled losses on source clips; on the same pass everything else that needs labels."""
    method, source = ingredients.method, clips.source
    if method.colour_transfer is not None:
        rngs = ingredients.rngs("colour_transfer", source)
        moved = transfer_colours(source.frames, clips.target.frames, method.colour_transfer, rngs)
        source = replace(source, frames=moved)
    frames, labels = ingredients.labelled.frames(source), labels_of(source)
    output = forward(ingredients.network, frames, ingredients.labelled.seed, source.samples)
    flat = labels.flatten()
    parts = labelled_losses(ingredients.network, output, flat, ingredients.labelled.class_weight)
    if (contrast := clips.active(method.pixel_contrast)) is not None:
        parts["pixel_contrast"] = _pixel_contrast(ingredients, contrast, output, source, labels.semantic)
    distance, reference = clips.active(method.feature_distance), ingredients.reference
    if distance is not None and reference is not None and ingredients.distant is not None:
        original = _reference_map(ingredients, reference, frames)
        parts["feature_distance"] = _feature_distance(distance, output, original, flat.semantic, ingredients.distant)
    if (align := clips.active(method.text_alignment)) is not None:
        parts["text_alignment"] = text_loss(ingredients, align, output, flat.semantic, labelled=flat.labelled)
    identity = clips.active(method.identity_contrast)
    if identity is not None and identity.source:
        parts["identity_contrast"] = _identity_contrast(ingredients, identity, output, frames, source, labels)
    return parts


def pasted_graph(ingredients: Ingredients, clips: Round) -> Losses:
    """Instance losses, and semantic ones if they have a weight, on clips into which instances are pasted."""
    config = clips.active(ingredients.method.instance_mix)
    if config is None:
        return {}
    mixed = instance_mix(clips.source, clips.target, clips.pseudo, config.direction)
    output = forward(ingredients.network, mixed.frames, ingredients.labelled.seed, clips.source.samples)
    parts: Losses = {}
    if config.weight > 0:
        parts |= mixed_instance_losses(ingredients, output, mixed, config.weight)
    if config.semantic_weight > 0:
        trust = (mixed.weight * mixed.target.labelled[:, :, None, None]).flatten(0, 1)
        labels = mixed.target.semantic.flatten(0, 1)
        loss = ingredients.network.semantic_loss(output, labels, trust, ingredients.labelled.class_weight)
        parts["semantic"] = config.semantic_weight * loss
    return parts


def _pixel_contrast(
    ingredients: Ingredients, config: PixelContrastConfig, output: NetworkOutput, source: ClipBatch, semantic: Tensor
) -> Tensor:
    embedding, logits = as_clips(ingredients.network.project_pixels(output), source), as_clips(output.logits, source)
    generators = ingredients.generators("pixel_contrast", source)
    loss = pixel_contrast(embedding, logits, semantic, config, generators, ingredients.bank)
    if ingredients.bank is not None:
        ingredients.bank.stage(embedding.detach(), semantic, ingredients.generators("memory", source))
    return config.weight * loss


@torch.no_grad()
def _reference_map(ingredients: Ingredients, reference: Encoder, frames: Tensor) -> Tensor:
    """Last map of the frozen encoder (B·T,C,h,w)."""
    last: Tensor = reference(ingredients.network.encoder_input(frames.flatten(0, 1)))[-1]
    return last


def _feature_distance(
    config: FeatureDistanceConfig, output: NetworkOutput, reference: Tensor, semantic: Tensor, distant: Tensor
) -> Tensor:
    return config.weight * feature_distance(output.features[-1], reference, semantic, distant, config.min_share)


def _identity_contrast(
    ingredients: Ingredients,
    config: IdentityContrastConfig,
    output: NetworkOutput,
    frames: Tensor,
    source: ClipBatch,
    labels: PanopticTarget,
) -> Tensor:
    loss = identity_contrast(
        as_clips(ingredients.network.project(output), source),
        labels.instance,
        temperature=config.temperature,
        second=second_view(ingredients, frames, source),
    )
    return config.weight * loss
