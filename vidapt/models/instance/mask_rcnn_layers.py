"""The layers of the Mask R-CNN head, put together from torchvision's, with the values of EDAPS."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from vidapt.config_model import MaskRCNNConfig
from vidapt.models.grid import norm_layer
from vidapt.models.instance.mask_rcnn_sampling import Rule

STRIDES = (4, 8, 16, 32, 64)
"""Pixels per cell of the pyramid's levels; regions are pooled from all but the last."""

_BOX_SIDE, _MASK_SIDE = 7, 14
_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_NMS = 0.7


def proposal_rule(config: MaskRCNNConfig) -> Rule:
    """How anchors are matched and drawn."""
    return Rule(high=0.7, low=0.3, best_too=True, count=config.rpn_samples, share=0.5)


def region_rule(config: MaskRCNNConfig) -> Rule:
    """How proposals are matched and drawn."""
    return Rule(high=0.5, low=0.5, best_too=False, count=config.roi_samples, share=config.positive_share)


def feature_pyramid(config: MaskRCNNConfig, channels: Sequence[int]) -> FeaturePyramidNetwork:
    """Five levels from four maps with ``channels``, strides 4 to 64."""
    norm = None if config.norm == "none" else partial(norm_layer, config.norm)
    return FeaturePyramidNetwork(list(channels), config.channels, LastLevelMaxPool(), norm)


def proposal_network(config: MaskRCNNConfig) -> RegionProposalNetwork:
    """Anchors of one size per level, their head, and the choice of proposals.

    Without training half as many per level enter the suppression of overlapping ones.
    """
    ratios, rule = tuple(config.aspect_ratios), proposal_rule(config)
    sizes = tuple((config.anchor_scale * stride,) for stride in STRIDES)
    before = config.proposals_before_nms
    return RegionProposalNetwork(
        AnchorGenerator(sizes, (ratios,) * len(STRIDES)),
        RPNHead(config.channels, len(ratios)),
        rule.high,
        rule.low,
        rule.count,
        rule.share,
        pre_nms_top_n={"training": before, "testing": max(1, before // 2)},
        post_nms_top_n={"training": config.proposals, "testing": config.proposals},
        nms_thresh=_NMS,
    )


def region_heads(config: MaskRCNNConfig, classes: int) -> RoIHeads:
    """Box and mask heads for ``classes`` detector classes, background included."""
    width, hidden, rule = config.box_channels, config.mask_channels, region_rule(config)
    return RoIHeads(
        _pooler(_BOX_SIDE),
        TwoMLPHead(config.channels * _BOX_SIDE**2, width),
        FastRCNNPredictor(width, classes),
        rule.high,
        rule.low,
        rule.count,
        rule.share,
        _BOX_WEIGHTS,
        config.score,
        config.nms,
        config.detections,
        mask_roi_pool=_pooler(_MASK_SIDE),
        mask_head=MaskRCNNHeads(config.channels, (hidden,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(hidden, hidden, classes),
    )


def _pooler(side: int) -> MultiScaleRoIAlign:
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], side, sampling_ratio=2)
    # torchvision would guess both from the size of the first frames, wrongly for frames below 32 pixels.
    pooler.scales = [1 / stride for stride in STRIDES[:-1]]
    pooler.map_levels = LevelMapper(2, 5)
    return pooler
