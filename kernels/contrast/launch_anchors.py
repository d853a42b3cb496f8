"""Launch of the anchor sampling: one fill and four kernels, however many images and classes there are."""

import torch
import triton
from torch import Tensor

from vidapt.kernels import tiles
from vidapt.kernels.contrast import kernel_anchors
from vidapt.kernels.contrast.kernel_anchors import CLASSES, ROWS

# Positions are int32 inside the kernels, with room for the rest of a last block.
MOST_PIXELS = 2**31 - 2**16

Settings = dict[str, dict[str, int]]
GPU: Settings = {
    "bins": {"BINS": 256},
    "pixels": {"BLOCK": 2048, "num_warps": 4},
    "plan": {"GROUPS": 8, "BLOCK": 1024, "num_warps": 4},
    "place": {"BLOCK": 32, "WIDTH": 32, "num_warps": 4},
}
# Small, so that small problems have several blocks and several candidates in a bin.
INTERPRETER: Settings = {
    "bins": {"BINS": 8},
    "pixels": {"BLOCK": 64, "num_warps": 1},
    "plan": {"GROUPS": 256, "BLOCK": 256, "num_warps": 1},
    "place": {"BLOCK": 32, "WIDTH": 8, "num_warps": 1},
}
PLACING_PROGRAMS = 4  # per multiprocessor


def sample_anchors(
    labels: Tensor,
    prediction: Tensor | None,
    noise: Tensor,
    per_class: int,
    total: int,
    min_pixels: int,
    ignore_label: int,
) -> tuple[Tensor, Tensor]:
    """Return indices (total,) int64 into B·L and valid (total,) bool, as the reference of the same name defines them.

    Labels, prediction and noise are (B,L); those that are not contiguous are copied. Scratch memory: 0.52 MB per image
    and 4 bytes per pixel, of which only the candidates, about as many as the anchors, are touched.

    Raises:
        ValueError: B·L is above 2147418112.
    """
    if labels.numel() > MOST_PIXELS:
        raise ValueError(f"labels must have at most {MOST_PIXELS} pixels, got {labels.numel()}; split the batch")
    if labels.numel() == 0 or total == 0:
        return labels.new_zeros(total, dtype=torch.int64), labels.new_zeros(total, dtype=torch.bool)
    indices = labels.new_empty(total, dtype=torch.int64)
    valid = labels.new_empty(total, dtype=torch.bool)
    inputs = (labels.contiguous(), None if prediction is None else prediction.contiguous(), noise.contiguous())
    with tiles.on_device(labels):
        launch(inputs, indices, valid, per_class, total, min_pixels, ignore_label)
    return indices, valid


def launch(
    inputs: tuple[Tensor, Tensor | None, Tensor],
    indices: Tensor,
    valid: Tensor,
    per_class: int,
    total: int,
    min_pixels: int,
    ignore_label: int,
) -> None:
    """Run the four kernels on contiguous labels, prediction and noise (B,L), of which there is at least one pixel."""
    labels = inputs[0]
    settings = INTERPRETER if tiles.interpreted() else GPU
    bins = settings["bins"] | tiles.LAUNCH
    images, length = labels.shape
    parts = 2 * CLASSES.value * images
    zeros = torch.zeros(parts * (bins["BINS"] + ROWS.value) + 1, dtype=torch.int32, device=labels.device)
    state = zeros.split((parts * bins["BINS"], parts * ROWS.value + 1))
    candidates = torch.empty(labels.numel(), dtype=torch.int32, device=labels.device)

    blocks = triton.cdiv(length, settings["pixels"]["BLOCK"])
    kernel_anchors.count_pixels[(images * blocks,)](
        *inputs, *state, length, blocks, ignore_label, **bins, **settings["pixels"]
    )
    kernel_anchors.plan_parts[(triton.cdiv(CLASSES.value * images, settings["plan"]["GROUPS"]),)](
        *state, indices, valid, parts, per_class, total, min_pixels, **bins, **settings["plan"]
    )
    kernel_anchors.collect_candidates[(images * blocks,)](
        *inputs, *state, candidates, length, blocks, parts, ignore_label, **bins, **settings["pixels"]
    )
    programs = min(triton.cdiv(labels.numel(), settings["place"]["BLOCK"]), PLACING_PROGRAMS * tiles.multiprocessors())
    kernel_anchors.place_anchors[(programs,)](
        *inputs, *state, candidates, indices, length, parts, ignore_label, **bins, **settings["place"]
    )
