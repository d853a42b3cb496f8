"""Which cell of a feature map a pixel lies in: spreading cells over pixels and averaging pixels over cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vidapt.models.grid import Size, cell_factor


def cell_of_pixel(pixels: int, count: int, device: torch.device) -> Tensor:
    """Cell that each of ``pixels`` rows (or columns) lies in, int64 (pixels,), with ``count`` cells along the axis.

    Cells have a side of a power of two, the last one cut, where that gives ``count`` (as ``models.grid.enlarge`` has
    it); else they are stretched.
    """
    factor = cell_factor(count, pixels)
    place = torch.arange(pixels, device=device)
    return place // factor if factor else (2 * place + 1) * count // (2 * pixels)


def to_pixels(maps: Tensor, size: Size) -> Tensor:
    """Give every pixel of an H×W frame the value of its cell in (...,h,w): (...,H,W) of the same type."""
    rows, columns = (
        cell_of_pixel(pixels, count, maps.device) for pixels, count in zip(size, maps.shape[-2:], strict=True)
    )
    return maps[..., rows[:, None], columns]


def mean_over_cells(maps: Tensor, size: Size) -> Tensor:
    """Mean over the pixels of each of the h×w cells that lie in the frame, float (N,C,H,W) to (N,C,h,w)."""
    rows, columns = (cell_factor(count, pixels) for count, pixels in zip(size, maps.shape[-2:], strict=True))
    if rows is None or columns is None:
        return F.interpolate(maps, size, mode="area")
    return F.avg_pool2d(maps, (rows, columns), ceil_mode=True)
