"""What the graphs of a self-training step share: the student, the parts of the method, and the clips of the step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vidapt.adaptation.alignment import text_alignment
from vidapt.adaptation.contrast import clip_flow
from vidapt.adaptation.memory import MemoryBank
from vidapt.adaptation.mixing import MixedClips
from vidapt.adaptation.pseudo_labels import PseudoLabels
from vidapt.adaptation.sampling import Purpose, clip_generators, clip_rngs
from vidapt.adaptation.supervised import Labelled, forward
from vidapt.clip import ClipBatch, PanopticTarget
from vidapt.config_method import MethodConfig
from vidapt.models.encoder import Encoder
from vidapt.models.network import NetworkOutput, PanopticNetwork
from vidapt.transforms import StrongAugment

Losses = dict[str, Tensor]
"""Weighted losses of one graph by name."""


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


def single_frames(clips: Round, seed: int) -> Round:
    """The same round with one frame of each clip, drawn for source and target apart; instances keep what is known."""
    pseudo, place = clips.pseudo, _draw_frames(clips.target, seed)
    instance = _pick(pseudo.instance, place)
    shown = torch.zeros_like(pseudo.verified).scatter_(1, instance.flatten(1).long(), True)
    shown[:, 0] = False
    picked = {name: _pick(getattr(pseudo, name), place) for name in ("semantic", "confidence", "weight")}
    pseudo = replace(pseudo, **picked, instance=instance, verified=pseudo.verified & shown)
    source = _pick_clips(clips.source, _draw_frames(clips.source, seed))
    return replace(clips, source=source, target=_pick_clips(clips.target, place), pseudo=pseudo)


def _draw_frames(batch: ClipBatch, seed: int) -> Tensor:
    """int64 (B,) on the clips' device: a frame of each clip."""
    length = batch.frames.shape[1]
    places = [int(rng.integers(length)) for rng in clip_rngs(seed, "student_frame", batch.samples)]
    return torch.tensor(places, device=batch.frames.device)


def _pick(maps: Tensor, place: Tensor) -> Tensor:
    """Frame ``place`` (B,) of (B,T,...) maps as (B,1,...)."""
    return maps[torch.arange(len(place), device=maps.device), place.to(maps.device)][:, None]


def _pick_clips(batch: ClipBatch, place: Tensor) -> ClipBatch:
    target = batch.target
    if target is not None:
        target = PanopticTarget(*(_pick(maps, place) for maps in (target.semantic, target.instance, target.labelled)))
    return replace(
        batch,
        frames=_pick(batch.frames, place),
        indices=_pick(batch.indices, place),
        times=_pick(batch.times, place),
        target=target,
        ignored=None if batch.ignored is None else _pick(batch.ignored, place),
    )


def second_view(tools: Tools, frames: Tensor, batch: ClipBatch) -> Tensor | None:
    """Embeddings (B,1,D,h,w) of single frames, augmented differently: their only other sight of an instance."""
    if frames.shape[1] > 1:
        return None
    again = tools.augment(frames, tools.rngs("second_view", batch))
    return as_clips(tools.network.project(forward(tools.network, again, tools.labelled.seed, batch.samples)), batch)


def mixed_instance_losses(tools: Tools, output: NetworkOutput, mixed: MixedClips, weight: float) -> Losses:
    """Losses of the instance head on a pass over mixed clips, trusted as far as their instances and pixels are."""
    length, table = mixed.frames.shape[1], mixed.instance_weight
    losses = tools.network.instance_loss(
        output,
        mixed.target.flatten(),
        instance_weight=None if table is None else table.repeat_interleave(length, 0),
        pixel_weight=mixed.weight.flatten(0, 1),
    )
    return {name: weight * loss for name, loss in losses.items()}


def text_loss(tools: Tools, output: NetworkOutput, semantic: Tensor, **trust: Tensor | None) -> Tensor:
    """CDA on a pass over uint8 (N,H,W) labels; ``trust`` is what ``text_alignment`` takes of it.

    Raises:
        ValueError: If the method has no text alignment, or no table was given.
    """
    config = tools.method.text_alignment
    if tools.table is None or config is None:
        raise ValueError("text alignment needs a text table")
    features = tools.network.project_text(output)
    return config.weight * text_alignment(features, semantic, tools.table, temperature=config.temperature, **trust)


def as_clips(maps: Tensor, batch: ClipBatch, views: int = 1) -> Tensor:
    """Maps (views·B·T,D,h,w) of a pass as clips (views·B,T,D,h,w)."""
    return rearrange(maps, "(b t) d h w -> b t d h w", b=views * batch.frames.shape[0])
