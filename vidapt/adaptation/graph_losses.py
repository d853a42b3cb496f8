"""Losses that the graphs of source clips and of target clips share."""

from __future__ import annotations

from dataclasses import replace

from einops import rearrange
from torch import Tensor

from vidapt.adaptation.alignment import text_alignment
from vidapt.adaptation.ingredients import Ingredients
from vidapt.adaptation.mixing import MixedClips
from vidapt.adaptation.supervised import forward
from vidapt.clip import ClipBatch
from vidapt.config_method import TextAlignmentConfig
from vidapt.models.network import NetworkOutput

Losses = dict[str, Tensor]
"""Weighted losses of one graph by name."""


def second_view(ingredients: Ingredients, frames: Tensor, batch: ClipBatch) -> Tensor | None:
    """Embeddings (B,1,D,h,w) of single frames, augmented differently: their only other sight of an instance."""
    if frames.shape[1] > 1:
        return None
    network = ingredients.network
    again = ingredients.augment(frames, ingredients.rngs("second_view", batch))
    return as_clips(network.project(forward(network, again, ingredients.labelled.seed, batch.samples)), batch)


def mixed_instance_losses(ingredients: Ingredients, output: NetworkOutput, mixed: MixedClips, weight: float) -> Losses:
    """Losses of the instance head on a pass over mixed clips.

    Verified instances have the class that their track voted for and are trusted as ``instance_weight`` says; only
    target pixels without an instance are trusted as their class is.
    """
    losses = ingredients.network.instance_loss(
        output,
        replace(mixed.target, semantic=mixed.voted).flatten(),
        instance_weight=mixed.instance_weight.repeat_interleave(mixed.frames.shape[1], 0),
        pixel_weight=mixed.instance_trust.flatten(0, 1),
    )
    return {name: weight * loss for name, loss in losses.items()}


def text_loss(
    ingredients: Ingredients,
    config: TextAlignmentConfig,
    output: NetworkOutput,
    semantic: Tensor,
    **trust: Tensor | None,
) -> Tensor:
    """CDA on a pass over uint8 (N,H,W) labels; ``trust`` is what ``text_alignment`` takes of it.

    Raises:
        ValueError: If there is no text table.
    """
    if ingredients.table is None:
        raise ValueError("text alignment needs a text table")
    features = ingredients.network.project_text(output)
    loss = text_alignment(features, semantic, ingredients.table, temperature=config.temperature, **trust)
    return config.weight * loss


def as_clips(maps: Tensor, batch: ClipBatch, views: int = 1) -> Tensor:
    """Maps (views·B·T,D,h,w) of a pass as clips (views·B,T,D,h,w)."""
    return rearrange(maps, "(b t) d h w -> b t d h w", b=views * batch.frames.shape[0])
