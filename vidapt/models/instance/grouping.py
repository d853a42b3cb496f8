"""From centre heat and offsets to instance masks (Panoptic-DeepLab, Cheng et al., CVPR 2020, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vidapt.clip import Instances

_POINTS_AT_ONCE = 1 << 16


def find_peaks(heat: Tensor, *, threshold: float, kernel: int, top_k: int) -> tuple[Tensor, Tensor]:
    """Find local maxima of (h,w) heat, at most ``top_k``, by falling score.

    Args:
        heat: float (h,w).
        threshold: Only larger values count.
        kernel: Odd side of the window in which a peak is the largest; of equal values the first is taken.
        top_k: Largest number of peaks.

    Returns:
        int64 (K,2) rows and columns, and float (K,) scores clamped to 0..1.
    """
    _, largest = F.max_pool2d(heat[None, None], kernel, stride=1, padding=kernel // 2, return_indices=True)
    places = torch.arange(heat.numel(), device=heat.device).view_as(heat)
    peaks = ((largest[0, 0] == places) & (heat > threshold)).nonzero()
    scores, order = heat[peaks[:, 0], peaks[:, 1]].sort(descending=True, stable=True)
    return peaks[order[:top_k]], scores[:top_k].clamp(0.0, 1.0)


def nearest_center(points: Tensor, centers: Tensor) -> Tensor:
    """Index (P,) of the centre (K,2) nearest to each point (P,2)."""
    rows, columns = centers[:, :1], centers[:, 1:]
    parts = [
        ((rows - part[:, 0]) ** 2 + (columns - part[:, 1]) ** 2).min(0).indices
        for part in points.split(_POINTS_AT_ONCE)
    ]
    return torch.cat(parts)


def group_pixels(centers: Tensor, scores: Tensor, offset: Tensor, probabilities: Tensor, is_thing: Tensor) -> Instances:
    """Give every thing pixel of a frame to the centre nearest to where its offset points.

    Args:
        centers: float (K,2) rows and columns in pixels, by falling score.
        scores: float (K,).
        offset: float (2,H,W) in pixels.
        probabilities: float (C,H,W); a pixel is a thing if some thing is more probable than all stuff.
        is_thing: bool (C,), on the host, or a GPU waits for it.

    Returns:
        The instances that received a pixel; the category is the thing class of the largest mean probability.
    """
    things, stuff = (
        table.nonzero()[:, 0].to(probabilities.device, non_blocking=True) for table in (is_thing, ~is_thing)
    )
    likely = probabilities.index_select(0, things)
    pixels = _thing_pixels(likely, probabilities.index_select(0, stuff))
    if not len(centers) or not len(pixels):
        return _none(probabilities)
    height, width = probabilities.shape[1:]
    places = torch.stack([pixels // width, pixels % width], dim=1)
    owner = nearest_center(places + offset.flatten(1).index_select(1, pixels).T, centers)
    masks = torch.zeros(len(centers), height, width, dtype=torch.bool, device=offset.device)
    masks.view(-1).index_fill_(0, owner * (height * width) + pixels, True)
    votes = torch.zeros(len(things), len(centers), device=offset.device)
    votes.index_add_(1, owner, likely.flatten(1).index_select(1, pixels).float())
    owned = torch.zeros_like(scores, dtype=torch.bool).index_fill_(0, owner, True)
    return Instances(masks, things[votes.argmax(0)], scores.float()).select(owned.nonzero()[:, 0])


def _thing_pixels(things: Tensor, stuff: Tensor) -> Tensor:
    """Numbers (P,) of the pixels where the largest of ``things`` (C1,H,W) exceeds that of ``stuff`` (C2,H,W).

    This is argmax over all classes up to ties; argmax along the first axis is 100 times slower on a CPU.
    """
    if not len(things):
        return torch.zeros(0, dtype=torch.int64, device=things.device)
    best = things.amax(0)
    more = best > stuff.amax(0) if len(stuff) else torch.ones_like(best, dtype=torch.bool)
    return more.flatten().nonzero()[:, 0]


def _none(probabilities: Tensor) -> Instances:
    device = probabilities.device
    return Instances(
        torch.zeros(0, *probabilities.shape[1:], dtype=torch.bool, device=device),
        torch.zeros(0, dtype=torch.int64, device=device),
        torch.zeros(0, device=device),
    )
