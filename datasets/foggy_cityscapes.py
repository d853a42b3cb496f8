"""Foggy Cityscapes: Cityscapes with fog rendered at three densities (Sakaridis et al., IJCV 2018)."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from vidapt.datasets.cityscapes import LICENCE, Cityscapes
from vidapt.datasets.frame_index import Video
from vidapt.datasets.stored import DatasetCard, StoredArguments
from vidapt.errors import InputError

BETAS = (0.005, 0.01, 0.02)
"""Attenuation coefficients of the fog in 1/m; the visibility is about 600, 300 and 150 m."""


class FoggyCityscapes(Cityscapes):
    """Still images of one fog density with the fine labels of Cityscapes, which lie in the same root.

    Further arguments as in ``Cityscapes``.

    Args:
        beta: Fog density, one of ``BETAS``; adaptation papers use 0.02.

    Raises:
        InputError: Also if the density does not exist.
    """

    card = DatasetCard(
        name="foggy_cityscapes",
        title="Foggy Cityscapes",
        labels="panoptic",
        video=False,
        splits={"train": 2975, "val": 500, "test": 1525, "train_extra": 19997},
        layout=(
            "leftImg8bit_foggy/<split>/<city>/<city>_<seq>_<frame>_leftImg8bit_foggy_beta_<beta>.png\n"
            "gtFine/<split>/<city>/<city>_<seq>_<frame>_gtFine_instanceIds.png (semantic only: _labelIds.png)"
        ),
        licence=LICENCE,
        home="https://www.vision.ee.ethz.ch/~csakarid/SFSU_synthetic",
        checked="on generated files only",
        unlabelled=("test", "train_extra"),
    )

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        instances: bool = True,
        beta: float = 0.02,
        **arguments: Unpack[StoredArguments],
    ) -> None:
        if beta not in BETAS:
            raise InputError(f"Foggy Cityscapes has no beta {beta:g}; allowed: {', '.join(map(str, BETAS))}")
        self.beta = beta
        super().__init__(root, split, instances=instances, **arguments)

    def find_videos(self) -> list[Video]:
        """List the pictures of one density."""
        return self.stills("leftImg8bit_foggy", f"_leftImg8bit_foggy_beta_{self.beta}.png")
