"""Contrast over pixels and time (PiPa, PiPa++): the same class inside a clip, the same place in the next frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vidapt.adaptation.cells import at_cells, best_classes, mean_over_clips, rows_at
from vidapt.adaptation.memory import MemoryBank
from vidapt.clip import IGNORE
from vidapt.config_method import PixelContrastConfig, TemporalContrastConfig
from vidapt.flow import dis_flow
from vidapt.kernels.contrast import paired_contrast, sample_anchors, supervised_contrast
from vidapt.models.grid import Size, cell_scale


def pixel_contrast(
    embedding: Tensor,
    logits: Tensor,
    semantic: Tensor,
    config: PixelContrastConfig,
    generators: Sequence[torch.Generator],
    bank: MemoryBank | None = None,
) -> Tensor:
    """Supervised pixel contrast inside each clip; neighbouring frames or a memory supply further samples (PiPa++).

    Args:
        embedding: (B,T,D,h,w) projected features, not normalised.
        logits: (B,T,C,h',w') of the trained classifier; a cell that it gets wrong is a hard anchor. No gradient.
        semantic: uint8 (B,T,H,W) labels, 255 = ignore.
        config: Temperature and anchor counts.
        generators: One per clip, on the embedding's device.
        bank: Memory whose rows are further keys of every anchor; they get no gradient.

    Returns:
        Mean over the clips of the clip's loss, a scalar of at least float32; 0 for a clip without anchors.
    """
    grid = (embedding.shape[-2], embedding.shape[-1])
    labels = at_cells(semantic, grid).flatten(1)
    predicted = at_cells(best_classes(logits.detach())[1], grid).flatten(1)
    rows = rearrange(embedding, "b t d h w -> b (t h w) d")
    stored = None if bank is None else bank.rows()
    losses = []
    for features, label, guess, generator in zip(rows, labels, predicted, generators, strict=True):
        index, valid = sample_anchors(
            label[None],
            guess[None],
            per_class=config.per_class,
            total=config.total,
            min_pixels=config.min_pixels,
            generator=generator,
        )
        anchors, anchor_label = rows_at(features, index), torch.where(valid, label[index].long(), IGNORE)
        keys, key_label = anchors, anchor_label
        if stored is not None:
            keys = torch.cat([anchors, stored[0].to(anchors.dtype)])
            key_label = torch.cat([anchor_label, stored[1]])
        losses.append(
            supervised_contrast(
                anchors,
                keys,
                anchor_label,
                key_label,
                temperature=config.temperature,
                exclude_self=True,
                normalize=True,
            )
        )
    return torch.stack(losses).mean()


def temporal_contrast(
    embedding: Tensor,
    labels: Tensor,
    usable: Tensor,
    flow: Tensor | None,
    config: TemporalContrastConfig,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Contrast between a place and the same place in the next frame (PiPa++ temporal term).

    A pair counts only where both places are usable and the teacher gives them one class; negatives are the drawn,
    usable places of the next frame with another class.

    Args:
        embedding: (B,T,D,h,w) projected features, not normalised.
        labels: uint8 (B,T,H,W) teacher classes, 255 = ignore.
        usable: bool (B,T,H,W), False where a paste covers the target frame.
        flow: float32 (B,T-1,2,H,W) forward flow in pixels (x,y), or None to compare equal coordinates.
        config: Temperature and number of places.
        generators: One per clip, on the embedding's device.

    Returns:
        Mean over the clips of the clip's loss, a scalar of at least float32; 0 for clips of one frame.
    """
    if embedding.shape[1] < 2:
        return embedding.float().sum() * 0
    grid = (embedding.shape[-2], embedding.shape[-1])
    label = at_cells(labels, grid).flatten(2).long()
    free = at_cells(usable, grid).flatten(2)
    place = _draw_places(embedding.shape[1] - 1, grid[0] * grid[1], config.total, generators)
    moved, inside = _follow(place, flow, grid)
    now, later = label[:, :-1].gather(2, place), label[:, 1:].gather(2, moved)
    shown = inside & free[:, 1:].gather(2, moved)
    counted = shown & free[:, :-1].gather(2, place) & (now == later) & (now != IGNORE)
    rows = rearrange(embedding, "b t d h w -> b t (h w) d")
    losses = paired_contrast(
        rows_at(rows[:, :-1], place).flatten(0, 1),
        rows_at(rows[:, 1:], moved).flatten(0, 1),
        torch.arange(place.shape[2], device=place.device).expand_as(place).flatten(0, 1),
        temperature=config.temperature,
        query_label=now.flatten(0, 1),
        key_label=torch.where(shown, later, IGNORE).flatten(0, 1),
        negatives="different_label",
        gate=counted.flatten(0, 1),
        normalize=True,
        reduction="none",
    )
    return mean_over_clips(losses.view(counted.shape), counted)


def clip_flow(frames: Tensor) -> Tensor:
    """DIS optical flow from each frame to the next: uint8 (B,T,3,H,W) to float32 (B,T-1,2,H,W) pixels (x,y).

    Clips of one frame have no pair: the result is empty.
    """
    host = frames.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
    pairs = [(a, b) for clip in host for a, b in pairwise(clip)]
    flows = np.zeros((len(pairs), *host.shape[2:4], 2), np.float32)
    for flow, (first, second) in zip(flows, pairs, strict=True):
        flow[:] = dis_flow(first, second)
    found = torch.from_numpy(flows).unflatten(0, (frames.shape[0], frames.shape[1] - 1))
    return found.permute(0, 1, 4, 2, 3).contiguous().to(frames.device)


def _draw_places(pairs: int, places: int, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """int64 (B,pairs,min(count, places)) distinct places per frame pair."""
    noise = [torch.rand(pairs, places, generator=generator, device=generator.device) for generator in generators]
    return torch.stack(noise).argsort(2)[..., :count]


def _follow(place: Tensor, flow: Tensor | None, grid: Size) -> tuple[Tensor, Tensor]:
    """Places (B,P,N) moved by the flow (B,P,2,H,W), and whether they stay inside the frame."""
    if flow is None:
        return place, torch.ones_like(place, dtype=torch.bool)
    height, width = grid
    steps = rearrange(at_cells(flow, grid), "b p xy h w -> b p (h w) xy")
    step_x, step_y = rows_at(steps, place).unbind(-1)
    x = (place % width + step_x / cell_scale(width, flow.shape[-1])).round().long()
    y = (place // width + step_y / cell_scale(height, flow.shape[-2])).round().long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return y.clamp(0, height - 1) * width + x.clamp(0, width - 1), inside
