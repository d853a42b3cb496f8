"""The operator `vidapt::sample_anchors` and the function that calls it in place of the reference."""

import torch
from torch import Tensor

from vidapt.kernels.contrast import launch_anchors

library = torch.library.Library("vidapt", "FRAGMENT")
library.define(
    "sample_anchors(Tensor labels, Tensor? prediction, Tensor noise, int per_class, int total, int min_pixels, "
    "int ignore_label) -> (Tensor, Tensor)"
)
for device in ("CUDA", "CPU"):
    library.impl("sample_anchors", launch_anchors.sample_anchors, device)


@torch.library.register_fake("vidapt::sample_anchors", lib=library)
def _fake(
    labels: Tensor,
    prediction: Tensor | None,
    noise: Tensor,
    per_class: int,
    total: int,
    min_pixels: int,
    ignore_label: int,
) -> tuple[Tensor, Tensor]:
    return labels.new_empty(total, dtype=torch.int64), labels.new_empty(total, dtype=torch.bool)


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
    """Return indices (total,) int64 into B·L and valid (total,) bool, equal to those of the reference."""
    return torch.ops.vidapt.sample_anchors(labels, prediction, noise, per_class, total, min_pixels, ignore_label)
