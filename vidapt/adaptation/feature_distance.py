"""Thing-class feature distance: objects keep the features that pretraining gave them (DAFormer, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidapt.clip import IGNORE
from vidapt.errors import ConfigError
from vidapt.labels import LabelSpace
from vidapt.models.grid import cell_factor


def feature_distance(
    features: Tensor, reference: Tensor, semantic: Tensor, classes: Tensor, min_share: float
) -> Tensor:
    """Mean Euclidean distance to the reference features over the cells that a chosen class fills (DAFormer, eq. 7 - 9).

    The mean runs over all chosen cells of the batch, as in DAFormer; parts of a batch on several processes are
    averaged with equal weight, however many chosen cells each of them has.

    Args:
        features: (N,C,h,w) of the student, coarsest level.
        reference: (N,C,h,w) of the frozen encoder on the same frames; gets no gradient.
        semantic: uint8 (N,H,W) labels, 255 = ignore; h and w cover H and W at one power-of-two stride, rounded up.
        classes: bool (256,), True for the train ids that count.
        min_share: Share of a cell's pixels that its most frequent class must reach.

    Returns:
        Scalar float32; 0 with zero gradients where no cell is chosen.

    Raises:
        ValueError: If the cells do not cover the labels at one stride.
    """
    share, winner = cell_classes(semantic, (features.shape[-2], features.shape[-1]))
    chosen = classes[winner] & (share >= min_share)
    distance = torch.linalg.vector_norm(features.float() - reference.detach().float(), dim=1)
    return torch.where(chosen, distance, 0.0).sum() / chosen.sum().clamp_min(1)


def cell_classes(semantic: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The most frequent label of each cell and its share of the cell's pixels; ignore competes as a class of its own.

    Equals average pooling of one-hot labels; a last cell that reaches beyond the frame counts the pixels it has.

    Args:
        semantic: uint8 (N,H,W), 255 = ignore.
        grid: Rows h and columns w of the cells.

    Returns:
        Share float32 (N,h,w) and label int64 (N,h,w).

    Raises:
        ValueError: If the cells do not cover the labels at one stride.
    """
    frames, *size = semantic.shape
    factors = [cell_factor(cells, pixels) for cells, pixels in zip(grid, size, strict=True)]
    if None in factors:
        raise ValueError(f"{grid} cells do not cover labels of {tuple(size)} pixels at one power-of-two stride")
    rows, columns = (
        torch.arange(pixels, device=semantic.device) // factor
        for pixels, factor in zip(size, factors, strict=True)
        if factor
    )
    cell = rows[:, None] * grid[1] + columns
    counts = semantic.new_zeros(frames, grid[0] * grid[1] * (IGNORE + 1), dtype=torch.int32)
    place = (cell * (IGNORE + 1) + semantic).flatten(1)
    counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.int32))
    most, winner = counts.view(frames, *grid, IGNORE + 1).max(-1)
    pixels = torch.bincount(cell.flatten(), minlength=grid[0] * grid[1]).view(grid)
    return most / pixels, winner


def thing_table(space: LabelSpace, names: Sequence[str] | None = None) -> Tensor:
    """bool (256,), True for the train ids that count.

    Args:
        space: Classes of the labels.
        names: Class names or synonyms, those that ``space`` lacks left out; None takes all things.

    Raises:
        ConfigError: If nothing is left.
    """
    table = torch.from_numpy(space.is_thing.copy())
    if names is not None:
        known = [space.words[name] for name in names if name in space.words]
        table = torch.zeros(IGNORE + 1, dtype=torch.bool)
        table[known] = True
    if not table.any():
        asked = "things" if names is None else f"method.feature_distance.classes {', '.join(names) or '(empty)'}"
        raise ConfigError(
            f"label space {space.name!r} has no {asked}; choose from {', '.join(space.names)}, "
            "or set method.feature_distance to null"
        )
    return table
