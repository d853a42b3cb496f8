"""Foggy Cityscapes: each picture of Cityscapes in fog of several densities, with the labels of the clear one."""

from pathlib import Path

import numpy as np

from tests.datasets.miniature.cityscapes import STEMS, true_frame, write_labels
from tests.datasets.miniature.truth import TrueFrame, Truth
from tests.datasets.miniature.writing import write_png

BETAS = ("0.005", "0.01", "0.02")
_AIRLIGHT = 225.0


def build(
    root: Path,
    *,
    split: str = "train",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    betas: tuple[str, ...] = BETAS,
) -> Truth:
    """Write a split with one picture per scene and density, and one set of gtFine labels per scene.

    The labels lie under the same root; the files of all densities lie side by side in one folder. Classes and objects
    are those of the clear data set. ``betas`` are written into the names as they are.
    """
    frames = {}
    for index, stem in enumerate(STEMS[split]):
        clear = true_frame(split, index, seed=seed, size=size)
        write_labels(root, split, stem, clear)
        for beta in betas:
            foggy = TrueFrame(_fog(clear.image, float(beta)), clear.classes, clear.objects, clear.crowd)
            path = f"leftImg8bit_foggy/{split}/{stem.split('_')[0]}/{stem}_leftImg8bit_foggy_beta_{beta}.png"
            write_png(root / path, foggy.image)
            frames[path] = foggy
    return Truth(root, frames, [[path] for path in frames], None)


def _fog(image: np.ndarray, beta: float) -> np.ndarray:
    """Light that reaches the camera through ``beta`` per metre, from 400 m at the top row to 5 m at the bottom."""
    distance = np.geomspace(400, 5, len(image))[:, None, None]
    share = np.exp(-beta * distance)
    return (image * share + _AIRLIGHT * (1 - share)).astype(np.uint8)
