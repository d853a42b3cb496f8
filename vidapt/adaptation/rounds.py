"""The clips of a self-training step, the parts that have begun by then, and single frames for the student."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from vidapt.adaptation.contrast import clip_flow
from vidapt.adaptation.pseudo_labels import PseudoLabels
from vidapt.adaptation.sampling import Purpose, clip_rngs
from vidapt.clip import ClipBatch, PanopticTarget
from vidapt.config_method import MethodConfig, WeightedPart

P = TypeVar("P", bound=WeightedPart)


def begun(part: P | None, progress: float) -> P | None:
    """The part if the method has it and it begins by ``progress``, the share of the steps that are done; else None."""
    return part if part is not None and progress >= part.start else None


def active(part: P | None, progress: float) -> P | None:
    """The part if it has begun and one of its weights is above 0; else None."""
    part = begun(part, progress)
    return part if part is not None and part.used else None


def needs_instances(method: MethodConfig, progress: float) -> bool:
    """Whether some part of a method trains on pseudo-instances at ``progress``, 0..1."""
    mix, identity = begun(method.class_mix, progress), active(method.identity_contrast, progress)
    return (
        active(method.instance_mix, progress) is not None
        or (mix is not None and mix.instance_weight > 0)
        or (identity is not None and identity.target)
    )


@dataclass(frozen=True)
class Round:
    """The clips of one step.

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

    def begun(self, part: P | None) -> P | None:
        """The part if it has begun, see ``begun``."""
        return begun(part, self.progress)

    def active(self, part: P | None) -> P | None:
        """The part if it has begun and has a weight, see ``active``."""
        return active(part, self.progress)

    @cached_property
    def flow(self) -> Tensor:
        """Optical flow of the target clips, float32 (B,T-1,2,H,W) pixels."""
        return clip_flow(self.target.frames)


def single_frames(clips: Round, seed: int) -> Round:
    """The same round with one frame of each clip: what the student sees while the teacher's tracker sees whole clips.

    Source and target frames are drawn apart. Source frames are drawn among those with labels, among all if a clip has
    none. An instance keeps what the clip says of it (its class and weight); one that the frame does not show is not
    verified.

    Args:
        clips: Clips of any length.
        seed: Seed of the run.
    """
    given, pseudo = clips.source.target, clips.pseudo
    place = _draw_frames(clips.source, "source_frame", seed, None if given is None else given.labelled)
    source = _pick_clips(clips.source, place)
    place = _draw_frames(clips.target, "student_frame", seed)
    instance = _pick(pseudo.instance, place)
    shown = torch.zeros_like(pseudo.verified).scatter_(1, instance.flatten(1).long(), True)
    picked = {name: _pick(getattr(pseudo, name), place) for name in ("semantic", "confidence", "weight")}
    pseudo = replace(pseudo, **picked, instance=instance, verified=pseudo.verified & shown)
    return replace(clips, source=source, target=_pick_clips(clips.target, place), pseudo=pseudo)


def _draw_frames(batch: ClipBatch, purpose: Purpose, seed: int, allowed: Tensor | None = None) -> Tensor:
    """int64 (B,) on the clips' device: a frame of each clip, one of the ``allowed`` bool (B,T) if the clip has any."""
    frames = torch.ones(batch.frames.shape[:2], dtype=torch.bool, device=batch.frames.device)
    if allowed is not None:
        frames = allowed | ~allowed.any(1, keepdim=True)
    draws = torch.tensor([rng.random() for rng in clip_rngs(seed, purpose, batch.samples)], dtype=torch.float64)
    counted = frames.cumsum(1)
    rank = (draws.to(frames.device, non_blocking=True) * counted[:, -1]).long()
    return (counted <= rank[:, None]).sum(1)


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
