"""Plain PyTorch definition of class-balanced anchor sampling: two sorts instead of loops over images and classes."""

import torch
from torch import Tensor

CLASSES = 256


def sample_anchors(
    labels: Tensor,
    prediction: Tensor | None,
    noise: Tensor,
    *,
    per_class: int,
    total: int,
    min_pixels: int,
    ignore_label: int,
) -> tuple[Tensor, Tensor]:
    """Return indices (total,) int64 into B·L and valid (total,) bool; the pixels of least `noise` (B,L) are drawn.

    The anchors are ordered by image, class, easy before hard, noise and position; invalid places hold index 0.
    """
    part = part_of_pixel(labels, prediction, ignore_label)
    parts = labels.shape[0] * CLASSES * 2 + 1
    size = torch.zeros(parts, dtype=torch.int64, device=labels.device).scatter_add_(0, part, torch.ones_like(part))
    quota = part_quota(size[:-1].view(-1, 2), per_class, total, min_pixels)
    order = noise.flatten().sort(stable=True).indices
    order = order[part[order].sort(stable=True).indices]
    part = part[order]
    rank = torch.arange(part.numel(), device=part.device) - (size.cumsum(0) - size)[part]
    return compact(order, rank < quota[part], total)


def part_of_pixel(labels: Tensor, prediction: Tensor | None, ignore_label: int) -> Tensor:
    """Return (B·L,) int64: 2 * (256 * image + class) + (1 if hard), or one past the last such number if not sampled."""
    classes = labels.long()
    image = torch.arange(labels.shape[0], device=labels.device)[:, None]
    hard = torch.zeros_like(classes) if prediction is None else (prediction.long() != classes).long()
    part = 2 * (CLASSES * image + classes) + hard
    usable = (classes != ignore_label) & (classes >= 0) & (classes < CLASSES)
    return torch.where(usable, part, 2 * CLASSES * labels.shape[0]).flatten()


def part_quota(size: Tensor, per_class: int, total: int, min_pixels: int) -> Tensor:
    """Return how many anchors each part gives, (2·groups+1,), from the sizes of the easy and hard parts (groups,2).

    A group of more than `min_pixels` pixels gives n = min(total // groups, per_class) anchors, n // 2 of them hard;
    what one part lacks the other gives.
    """
    easy, hard = size.unbind(1)
    sampled = easy + hard > min_pixels
    wanted = (total // sampled.sum().clamp(min=1)).clamp(max=per_class) * sampled
    from_hard = torch.minimum(hard, torch.maximum(wanted // 2, wanted - easy))
    from_easy = torch.minimum(easy, wanted - from_hard)
    return torch.nn.functional.pad(torch.stack([from_easy, from_hard], 1).flatten(), (0, 1))


def compact(values: Tensor, keep: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return the kept values in order in a tensor (total,) padded with 0, and which of its places are filled."""
    place = torch.where(keep, keep.cumsum(0) - 1, total)
    result = values.new_zeros(total + 1).scatter_(0, place, torch.where(keep, values, 0))
    return result[:total], torch.arange(total, device=values.device) < keep.sum()
