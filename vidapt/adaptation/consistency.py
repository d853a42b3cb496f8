"""Temporal consistency of class probabilities along the optical flow (ETC, Liu et al., ECCV 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vidapt.adaptation.cells import at_cells, mean_over_clips
from vidapt.adaptation.pixels import mean_over_cells
from vidapt.clip import IGNORE
from vidapt.models.grid import Size, cell_scale

_WHOLE = 1 - 1e-3


def temporal_consistency(logits: Tensor, frames: Tensor, labels: Tensor, usable: Tensor, flow: Tensor | None) -> Tensor:
    """Squared distance between the probabilities of a place and of where it goes, gated by colour and by the teacher.

    Per stride-4 cell ``exp(-d) · |p_t - warp(p_t+1)|²`` (ETC, equation 3), with d the absolute difference of the warped
    colours, a mean over the channels in 0..1, and the square summed over classes, 0..2. A cell counts where the teacher
    gives both ends one class and all of its pixels, and all those that the warped value is interpolated from, are
    usable and inside the frame. Both frames get a gradient.

    Args:
        logits: (B,T,C,h,w) of the student.
        frames: uint8 (B,T,3,H,W) that show the motion, without augmentation of single frames.
        labels: uint8 (B,T,H,W) classes by the teacher, 255 = none.
        usable: bool (B,T,H,W).
        flow: float (B,T-1,2,H,W) pixels (x, y) from each frame to the next, or None for the same coordinates.

    Returns:
        float32 scalar: mean over clips of the mean over the clip's cells that count (0 without any); 0 for clips of one
        frame.
    """
    size = (logits.shape[-2], logits.shape[-1])
    if logits.shape[1] == 1:
        return logits[:, 1:].float().sum()
    probabilities = logits.float().softmax(2)
    colours, whole = _over_cells(frames.float() / 255, size), _over_cells(usable[:, :, None].float(), size) > _WHOLE
    classes = at_cells(labels, size)
    now = [rearrange(x[:, :-1], "b t ... -> (b t) ...") for x in (probabilities, colours, whole, classes)]
    later = [rearrange(x[:, 1:], "b t ... -> (b t) ...") for x in (probabilities, colours, whole, classes)]
    if flow is not None:
        later = _warped(later, target_cells(flow.flatten(0, 1), size))
    likeness = torch.exp(-(now[1] - later[1]).abs().mean(1))
    distance = (now[0] - later[0]).square().sum(1)
    counted = now[2][:, 0] & later[2][:, 0] & (now[3] == later[3]) & (now[3] != IGNORE)
    pairs = (len(logits), logits.shape[1] - 1)
    return mean_over_clips((likeness * distance).unflatten(0, pairs), counted.unflatten(0, pairs))


def target_cells(flow: Tensor, size: Size) -> Tensor:
    """Where the middle of every cell goes, in cells: float (P,2,H,W) pixels (x, y) to (P,h,w,2)."""
    steps = at_cells(flow.float(), size).movedim(1, -1)
    scale = [cell_scale(count, pixels) for count, pixels in zip(size, flow.shape[-2:], strict=True)]
    rows, columns = (torch.arange(count, device=flow.device, dtype=torch.float32) for count in size)
    return torch.stack(
        [columns + steps[..., 0] / scale[1], rows[:, None] + steps[..., 1] / scale[0]],
        dim=-1,
    )


def _over_cells(maps: Tensor, size: Size) -> Tensor:
    """Mean over the pixels of each cell, (B,T,C,H,W) to (B,T,C,h,w)."""
    return mean_over_cells(maps.flatten(0, 1), size).unflatten(0, maps.shape[:2])


def _warped(later: list[Tensor], places: Tensor) -> list[Tensor]:
    """Fetch probabilities, colours, usable cells and classes from ``places`` (P,h,w,2); unusable beyond the frame."""
    probabilities, colours, whole, classes = later
    height, width = classes.shape[-2:]
    x, y = places.unbind(-1)
    grid = torch.stack([(2 * x + 1) / width, (2 * y + 1) / height], dim=-1) - 1
    joint = F.grid_sample(torch.cat([probabilities, colours, whole.float()], 1), grid, align_corners=False)
    count = probabilities.shape[1]
    column, row = x.round().long().clamp(0, width - 1), y.round().long().clamp(0, height - 1)
    fetched = classes.flatten(1).gather(1, (row * width + column).flatten(1)).view_as(classes)
    return [joint[:, :count], joint[:, count:-1], joint[:, -1:] > _WHOLE, fetched]
