"""Contrast over pixels and time (PiPa, PiPa++): the same class inside a clip, the same place in the next frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vidapt.clip import IGNORE
from vidapt.config import PixelContrastConfig, TemporalContrastConfig
from vidapt.flow import dis_flow
from vidapt.kernels.contrast import paired_contrast, sample_anchors, supervised_contrast
from vidapt.transforms import resize_nearest


def pixel_contrast(
    embedding: Tensor,
    logits: Tensor,
    semantic: Tensor,
    config: PixelContrastConfig,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Supervised pixel contrast inside each clip: neighbouring frames supply the further samples (PiPa++ for video).

    Args:
        embedding: (B,T,D,h,w) projected features, not normalised.
        logits: (B,T,C,h,w); a pixel that is predicted wrongly is a hard anchor.
        semantic: uint8 (B,T,H,W) labels, 255 = ignore.
        config: Temperature and anchor counts.
        generators: One per clip, on the embedding's device.

    Returns:
        Mean over the clips of the clip's loss (0 for a clip without anchors).
    """
    labels = resize_nearest(semantic, (embedding.shape[-2], embedding.shape[-1]))
    predicted = logits.detach().argmax(2)
    losses = []
    for features, label, guess, generator in zip(embedding, labels, predicted, generators, strict=True):
        rows = rearrange(features, "t d h w -> (t h w) d")
        flat = label.reshape(1, -1)
        index, valid = sample_anchors(
            flat,
            guess.reshape(1, -1),
            per_class=config.per_class,
            total=config.total,
            min_pixels=config.min_pixels,
            generator=generator,
        )
        anchor_label = torch.where(valid, flat.flatten()[index].long(), IGNORE)
        anchors = rows[index]
        losses.append(
            supervised_contrast(
                anchors,
                anchors,
                anchor_label,
                anchor_label,
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
        labels: uint8 (B,T,H,W) teacher classes.
        usable: bool (B,T,H,W), False where a paste covers the target frame.
        flow: float32 (B,T-1,2,H,W) forward flow in pixels (x,y), or None to compare equal coordinates.
        config: Temperature and number of places.
        generators: One per clip, on the embedding's device.

    Returns:
        Mean over the clips of the clip's loss; 0 for clips of one frame.
    """
    if embedding.shape[1] < 2:
        return embedding.sum() * 0
    height, width = embedding.shape[-2:]
    label = resize_nearest(labels, (height, width)).flatten(2).long()
    free = resize_nearest(usable, (height, width)).flatten(2)
    losses = []
    for clip, generator in enumerate(generators):
        place = _draw_places(embedding.shape[1] - 1, height * width, config.total, generator)
        moved, inside = _follow(place, None if flow is None else flow[clip], (height, width))
        rows = rearrange(embedding[clip], "t d h w -> t (h w) d")
        now, later = label[clip][:-1].gather(1, place), label[clip][1:].gather(1, moved)
        shown = inside & free[clip][1:].gather(1, moved)
        gate = shown & (now == later) & free[clip][:-1].gather(1, place)
        pairs = torch.arange(place.shape[1], device=place.device).expand_as(place)
        losses.append(
            paired_contrast(
                rows[:-1].gather(1, place[..., None].expand(-1, -1, rows.shape[-1])),
                rows[1:].gather(1, moved[..., None].expand(-1, -1, rows.shape[-1])),
                pairs,
                temperature=config.temperature,
                query_label=now,
                key_label=torch.where(shown, later, IGNORE),
                negatives="different_label",
                gate=gate,
                normalize=True,
            )
        )
    return torch.stack(losses).mean()


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


def _draw_places(pairs: int, places: int, count: int, generator: torch.Generator) -> Tensor:
    """int64 (pairs, min(count, places)) distinct places per frame pair."""
    noise = torch.rand(pairs, places, generator=generator, device=generator.device)
    return noise.argsort(1)[:, :count]


def _follow(place: Tensor, flow: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Places (P,N) moved by the flow (P,2,H,W), and whether they stay inside the frame."""
    if flow is None:
        return place, torch.ones_like(place, dtype=torch.bool)
    height, width = size
    step = resize_nearest(flow, size).flatten(2).gather(2, place[:, None].expand(-1, 2, -1))
    x = (place % width + step[:, 0] * (width / flow.shape[-1])).round().long()
    y = (place // width + step[:, 1] * (height / flow.shape[-2])).round().long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return y.clamp(0, height - 1) * width + x.clamp(0, width - 1), inside
