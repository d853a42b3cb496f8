"""Between masks of a frame and the small square masks of boxes, in both directions."""

from __future__ import annotations

import torch
from torch import Tensor

from vidapt.models.grid import Size

_PIXELS_AT_ONCE = 1 << 24


def crop_maps(maps: Tensor, boxes: Tensor, frames: Tensor, side: int) -> Tensor:
    """Divide every box into side × side cells and take the pixel under the middle of each: (P,side,side).

    Args:
        maps: (N,H,W) of any type.
        boxes: float (P,4) x0, y0, x1, y1 in pixels.
        frames: int64 (P,), which of the maps each box is in.
        side: Number of cells.
    """
    middles = (torch.arange(side, device=boxes.device) + 0.5) / side
    column, row = (
        torch.lerp(boxes[:, axis, None], boxes[:, axis + 2, None], middles).long().clamp(0, limit - 1)
        for axis, limit in ((0, maps.shape[2]), (1, maps.shape[1]))
    )
    return maps[frames[:, None, None], row[:, :, None], column[:, None, :]]


def paste_masks(masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Stretch square masks over their boxes: True where the bilinear value at a pixel's middle exceeds 0.5.

    Outside its box a mask is 0, as in Detectron2 and mmdetection; torchvision's ``paste_masks_in_image`` rounds boxes
    to whole pixels, which moves the outlines of small objects.

    Args:
        masks: float (K,side,side) in 0..1.
        boxes: float32 (K,4) x0, y0, x1, y1 in pixels; they may reach beyond the frame.
        size: Rows and columns of the frame.

    Returns:
        bool (K,rows,columns).
    """
    side = masks.shape[-1]
    rows = _interpolation(boxes[:, 1], boxes[:, 3], size[0], side)
    columns = _interpolation(boxes[:, 0], boxes[:, 2], size[1], side)
    together = max(1, _PIXELS_AT_ONCE // (size[0] * size[1]))
    with torch.autocast(masks.device.type, enabled=False):
        parts = zip(rows.split(together), masks.float().split(together), columns.split(together), strict=True)
        return torch.cat([row @ mask @ column.mT > 0.5 for row, mask, column in parts])


def _interpolation(start: Tensor, end: Tensor, length: int, side: int) -> Tensor:
    """Weight (K,length,side) of each cell of a box's side, from start to end, at the middle of each pixel of a line."""
    middles = torch.arange(length, device=start.device) + 0.5
    place = (middles - start[:, None]) / (end - start)[:, None] * side - 0.5
    cells = torch.arange(side, device=start.device)
    return (1.0 - (place[:, :, None] - cells).abs()).clamp(min=0.0)
