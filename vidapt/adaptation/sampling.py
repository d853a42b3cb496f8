"""Random choices that belong to a clip: seeded by its place in the run, not by process or batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Purpose = Literal[
    "class_mix",
    "augment",
    "pixel_contrast",
    "temporal_contrast",
    "source_augment",
    "window",
    "colour_transfer",
    "memory",
    "second_view",
    "mask_augment",
    "masking",
    "patches",
    "first_patch_augment",
    "second_patch_augment",
    "patch_contrast",
    "pixel_sampling",
    "student_frame",
    "source_frame",
]
_STREAM: dict[str, int] = {purpose: number for number, purpose in enumerate(get_args(Purpose), 1)}


def clip_rngs(seed: int, purpose: Purpose, samples: Tensor) -> list[np.random.Generator]:
    """One numpy generator per clip; ``samples`` int64 (B,) are the clips' global sample numbers."""
    return [np.random.default_rng((seed, _STREAM[purpose], sample)) for sample in samples.tolist()]


def clip_generators(
    seed: int, purpose: Purpose, samples: Tensor, device: torch.device | str
) -> Sequence[torch.Generator]:
    """One torch generator per clip on ``device``."""
    rngs = clip_rngs(seed, purpose, samples)
    return [torch.Generator(device).manual_seed(int(rng.integers(2**62))) for rng in rngs]
