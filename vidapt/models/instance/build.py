"""Choosing the instance head that a recipe names.

All heads share one interface: ``loss(features, target, *, instance_weight, pixel_weight) -> dict`` and
``predict(features, semantic) -> list[Instances]``, as ``CenterOffsetHead`` documents them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vidapt.config_model import CenterOffsetConfig, InstanceHeadConfig
from vidapt.labels import LabelSpace
from vidapt.models.instance.center_offset import CenterOffsetHead

if TYPE_CHECKING:
    from vidapt.models.instance.mask_rcnn import MaskRCNNHead


def build_instance_head(
    config: InstanceHeadConfig, channels: Sequence[int], space: LabelSpace
) -> CenterOffsetHead | MaskRCNNHead:
    """Build the head that ``config.kind`` names.

    Args:
        config: Section ``model.instance``.
        channels: Channels of the four encoder maps, finest first.
        space: Says which classes are things.
    """
    if isinstance(config, CenterOffsetConfig):
        return CenterOffsetHead(config, channels, space)
    # torchvision's detection package takes a while to import and most recipes do not need it.
    from vidapt.models.instance.mask_rcnn import MaskRCNNHead

    return MaskRCNNHead(config, channels, space)
