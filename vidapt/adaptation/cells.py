"""What losses on feature maps share: maps of pixels read at the cells, features of places, and means over clips."""

from __future__ import annotations

import torch
from torch import Tensor

from vidapt.models.fusion import rank_classes
from vidapt.models.grid import Size, cell_scale


def at_cells(maps: Tensor, grid: Size) -> Tensor:
    """Read the pixel in the middle of every cell of a feature map.

    Where the feature map pads the frame to whole cells (130 pixels are 33 cells of 4), cell c stands for the pixels
    4c .. 4c+3 as in ``models.grid.enlarge``; a last cell whose middle lies outside the frame reads the last pixel.

    Args:
        maps: (...,H,W) of any type: labels, masks, flow, or maps of a finer feature map.
        grid: h and w of the feature map.

    Returns:
        (...,h,w) of the same type, exact.
    """
    rows, columns = (
        ((torch.arange(count, device=maps.device) + 0.5) * cell_scale(count, length)).long().clamp_max(length - 1)
        for count, length in zip(grid, maps.shape[-2:], strict=True)
    )
    return maps[..., rows[:, None], columns]


def rows_at(rows: Tensor, place: Tensor) -> Tensor:
    """Pick the rows (...,N,D) that ``place``, int64 (...,N), names from (...,L,D); the leading axes are equal."""
    length, width = rows.shape[-2:]
    if not rows.is_contiguous():
        return rows.gather(-2, place[..., None].expand(*place.shape, width))
    # whole rows are copied several times faster than single values, and their gradients added
    first = length * torch.arange(place.shape[:-1].numel(), device=place.device).view(*place.shape[:-1], 1)
    return rows.flatten(0, -2).index_select(0, (place + first).flatten()).view(*place.shape, width)


def best_classes(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of the scores (B,T,C,h,w), C <= 255, and its class, uint8, of a tie the lower one: both (B,T,h,w)."""
    best, rank = rank_classes(scores.flatten(0, 1).contiguous())
    category = (scores.shape[2] - rank.clamp_min(1)).to(torch.uint8)
    return best.unflatten(0, scores.shape[:2]), category.unflatten(0, scores.shape[:2])


def mean_over_clips(losses: Tensor, counted: Tensor) -> Tensor:
    """Mean over B clips of the mean of the losses (B,...) that count, bool (B,...); 0 for a clip in which none does."""
    share = counted.to(losses.dtype).flatten(1)
    return ((losses.flatten(1) * share).sum(1) / share.sum(1).clamp(min=1)).mean()
