"""Confidence of pseudo-labels: trust in pixels, thresholds that follow the teacher, and the choice of hard pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from vidapt.adaptation.cells import at_cells
from vidapt.adaptation.pixels import to_pixels
from vidapt.config_method import ClassThresholdsConfig, PixelSamplingConfig
from vidapt.errors import CheckpointError

Trust = Literal["batch", "clip", "segment", "pixel"]

BINS = 4096
"""Steps in which confidence is counted; quantiles are rounded down to them."""


def confident_pixels(semantic: Tensor, confidence: Tensor, thresholds: Tensor) -> Tensor:
    """bool (...): where the confidence reaches the threshold of its class.

    Args:
        semantic: uint8 (...) classes, all below C.
        confidence: float (...) probability of that class.
        thresholds: float (C,).
    """
    return confidence >= thresholds.index_select(0, semantic.flatten().int()).view(semantic.shape)


def trust(
    semantic: Tensor,
    confidence: Tensor,
    thresholds: Tensor,
    kind: Trust,
    *,
    reduce: Callable[[Tensor], Tensor] = torch.clone,
    ignored: Tensor | None = None,
) -> Tensor:
    """Trust in every pseudo-label: a share of the confident pixels, see ``PseudoLabelConfig.weight``.

    All pixels count in the shares, the ignored ones too (DACS; DAFormer, whose crop of the target's margins only
    clears the weights).

    Args:
        semantic: uint8 (B,T,H,W) classes, all below C.
        confidence: float (B,T,H,W), 0..1.
        thresholds: float (C,).
        kind: ``batch``: share of all pixels, over the processes too (DACS); ``clip``: of the clip; ``segment``: of
            the clip's pixels of that class, on all frames (mask-wise loss scaling of MC-PanDA, section 3, with one
            mask per class); ``pixel``: 1 where the pixel itself is confident, else 0.
        reduce: Averages a tensor over processes, which hold equally many clips; ``batch`` calls it once. With
            ``training.accumulate`` above 1, every part of a batch has a share of its own.
        ignored: bool (B,T,H,W), where labels do not count, or None for nowhere.

    Returns:
        float32 (B,T,H,W) in 0..1, 0 where ignored.
    """
    confident = confident_pixels(semantic, confidence, thresholds).float()
    if kind == "batch":
        weight = reduce(confident.mean()).expand_as(confident)
    elif kind == "clip":
        weight = confident.mean((1, 2, 3), keepdim=True).expand_as(confident)
    elif kind == "segment":
        weight = _share_of_class(semantic, confident, len(thresholds))
    else:
        weight = confident
    return weight.contiguous() if ignored is None else weight.masked_fill(ignored, 0.0)


def _share_of_class(semantic: Tensor, confident: Tensor, classes: int) -> Tensor:
    """Share of the confident among the clip's pixels of the pixel's own class, float32 (B,T,H,W)."""
    category = semantic.flatten(1).long()
    # sums of whole numbers, because float32 stops counting at 2^24
    counts = torch.zeros(2, len(category), classes, dtype=torch.int64, device=category.device)
    sure = counts[0].scatter_add(1, category, confident.flatten(1).long())
    total = counts[1].scatter_add(1, category, torch.ones_like(category))
    share = sure.float() / total.clamp_min(1)
    return share.gather(1, category).view_as(confident)


class ClassThresholds:
    """One threshold per class that follows a quantile of the teacher's confidence in it (MC-PanDA++, section 3).

    ``value_k <- momentum · value_k + (1 - momentum) · quantile_k`` for the classes that occur, from 0 on. The paper
    takes the largest quantile among the teacher's masks of the class, this one that of all its pixels. Confidence is
    counted in ``BINS`` steps, so a quantile is exact to 1/4096, and over all processes, so it does not depend on how
    clips are spread over them.

    Args:
        classes: Number C of classes.
        config: Momentum and quantile.
        limit: Largest threshold that is handed out.
        device: Where the thresholds live.
    """

    def __init__(
        self, classes: int, config: ClassThresholdsConfig, limit: float, device: torch.device | str = "cpu"
    ) -> None:
        self._config = config
        self._limit = limit
        self._values = torch.zeros(classes, device=device)
        # float64, because float32 stops counting at 2^24 and whole numbers have no mean over processes
        self._counts = torch.zeros(classes, BINS, dtype=torch.float64, device=device)

    def thresholds(self) -> Tensor:
        """float32 (C,), never above the limit."""
        return self._values.clamp_max(self._limit)

    def stage(self, semantic: Tensor, confidence: Tensor, ignored: Tensor | None = None) -> None:
        """Count pseudo-labels for the next ``commit``.

        Args:
            semantic: uint8 (...) classes, all below C.
            confidence: float (...), 0..1.
            ignored: bool (...), pixels that are left out, or None.
        """
        level = (confidence.float() * BINS).long().clamp(0, BINS - 1)
        cell = (semantic.long() * BINS + level).flatten()
        counted = torch.ones_like(cell) if ignored is None else (~ignored).long().flatten()
        found = torch.zeros(self._counts.numel(), dtype=torch.int64, device=cell.device)
        self._counts += found.scatter_add_(0, cell, counted).view_as(self._counts)

    def commit(self, reduce: Callable[[Tensor], Tensor] = torch.clone) -> None:
        """Move the thresholds by what was staged, and forget it; every process calls it, whatever it staged.

        Args:
            reduce: Averages a tensor over processes.
        """
        counts = reduce(self._counts)
        present, quantiles = counts.sum(1) > 0, lower_quantiles(counts, self._config.quantile)
        moved = torch.lerp(quantiles, self._values, self._config.momentum)
        self._values = torch.where(present, moved, self._values)
        self.discard()

    def discard(self) -> None:
        """Forget what was staged: the update did not take place."""
        self._counts.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """The thresholds before the limit, on the CPU."""
        return {"values": self._values.detach().cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state_dict`` gave.

        Raises:
            CheckpointError: If it holds another number of classes.
        """
        values = state["values"]
        if values.shape != self._values.shape:
            raise CheckpointError(
                f"the checkpoint holds thresholds of {len(values)} classes, this recipe has {len(self._values)}; "
                "set labels to the checkpoint's"
            )
        self._values = values.to(self._values)
        self.discard()


def lower_quantiles(counts: Tensor, quantile: float) -> Tensor:
    """Lower edge of the bin that holds the quantile of each row of ``counts`` (C,BINS), float32 (C,).

    It is the first bin up to which the counts reach the share ``quantile``, so at least the rest lies above its edge.
    """
    reached = counts.double().cumsum(1)
    below = (reached < quantile * reached[:, -1:]) | (reached == 0)
    return (below.sum(1) / counts.shape[1]).float()


def sample_pixels(
    logits: Tensor,
    confidence: Tensor,
    weight: Tensor,
    config: PixelSamplingConfig,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Choose pixels to train on: random ones, and the hardest for the student among the confident (MC-PanDA, CBPF).

    Every frame keeps the share ``config.share`` of its stride-4 cells. A part ``config.random_share`` of them is drawn
    from all cells, whatever their confidence; the others are those where the student's largest probability is lowest
    among the cells whose confidence reaches ``config.confidence`` and whose weight is not 0. A chosen pixel gets the
    inverse of the kept share, which leaves the expected size of a loss over evenly hard pixels as it is; a frame with
    fewer confident cells than places for them keeps fewer and counts less.

    Args:
        logits: (N,C,h,w) of the student; no gradient flows.
        confidence: float (N,H,W) or (N,h,w) trust in single pixels, 1 where labels are given.
        weight: float (N,H,W).
        config: Shares and the lowest confidence.
        generators: G generators on the device of ``logits``, one per clip of N/G successive frames.

    Returns:
        float32 (N,H,W): 0, or the same factor for all chosen pixels of all frames.
    """
    size = (logits.shape[-2], logits.shape[-1])
    uncertainty = 1 - logits.detach().float().softmax(1).amax(1).flatten(1)
    frames, places = uncertainty.shape
    kept = max(1, round(config.share * places))
    random = round(config.random_share * kept)
    noise = _noise(frames, places, generators)
    chosen = torch.zeros_like(noise).scatter(1, noise.topk(random).indices, 1.0)
    sure = (at_cells(confidence, size) >= config.confidence) & (at_cells(weight, size) > 0)
    # the noise breaks ties, which are many where the student is certain
    hardness = torch.where(sure.flatten(1) & (chosen == 0), uncertainty + 1e-6 * noise, -1.0)
    hardest = hardness.topk(kept - random)
    chosen = chosen.scatter_add(1, hardest.indices, (hardest.values >= 0).float())
    factor = places / kept
    return to_pixels(chosen.view(frames, *size) * factor, (weight.shape[-2], weight.shape[-1]))


def _noise(frames: int, places: int, generators: Sequence[torch.Generator]) -> Tensor:
    """float32 (frames, places) in 0..1, equally many rows from each generator."""
    share = frames // len(generators)
    return torch.cat([torch.rand(share, places, generator=g, device=g.device) for g in generators])
