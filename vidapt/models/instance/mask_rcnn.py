"""Mask R-CNN instance head on a feature pyramid (He et al., ICCV 2017; Lin et al., CVPR 2017), as EDAPS uses it.

The layers are torchvision's; matching, drawing and losses are ours, because they weigh instances and pixels and treat
every frame on its own. Values are those of EDAPS (Saha et al., ICCV 2023).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers

from vidapt.clip import Instances, PanopticTarget
from vidapt.config_model import MaskRCNNConfig
from vidapt.labels import LabelSpace
from vidapt.models.grid import STRIDE, cell_scale
from vidapt.models.instance.mask_rcnn_layers import (
    STRIDES,
    feature_pyramid,
    proposal_network,
    proposal_rule,
    region_heads,
    region_rule,
)
from vidapt.models.instance.mask_rcnn_losses import box_losses, mask_loss, proposal_losses
from vidapt.models.instance.mask_rcnn_masks import paste_masks
from vidapt.models.instance.mask_rcnn_sampling import Samples, draw_samples, frame_seeds, scramble
from vidapt.models.instance.mask_rcnn_targets import DetectionTargets, detection_targets

LOSSES = ("proposal_class", "proposal_box", "box_class", "box", "mask")

Pyramid = OrderedDict[str, Tensor]


@dataclass(frozen=True)
class Proposals:
    """What the proposal network says about N frames.

    Attributes:
        anchors: float32 (A,4), the same in all frames.
        logits: float32 (N,A).
        codes: float32 (N,A,4), boxes relative to their anchors.
        boxes: The best boxes of each frame, float32 (P,4) without gradient.
    """

    anchors: Tensor
    logits: Tensor
    codes: Tensor
    boxes: list[Tensor]


class MaskRCNNHead(nn.Module):
    """Proposes boxes, classifies and refines them, and segments each.

    Boxes are x0, y0, x1, y1 in pixels of the network's input. Detector classes are the things of ``space`` in order
    from 1; 0 is background.

    Args:
        config: Widths, anchors, numbers of samples, and the limits of detections.
        channels: Channels of the four feature maps, strides 4, 8, 16 and 32.
        space: Says which classes are things.
    """

    label_of: Tensor
    category_of: Tensor

    def __init__(self, config: MaskRCNNConfig, channels: Sequence[int], space: LabelSpace) -> None:
        super().__init__()
        self.config = config
        self.pyramid = feature_pyramid(config, channels)
        self.proposals = proposal_network(config)
        self.regions = region_heads(config, len(space.things) + 1)
        label_of = torch.zeros(256, dtype=torch.int64)
        label_of[list(space.things)] = torch.arange(1, len(space.things) + 1)
        self.register_buffer("label_of", label_of, persistent=False)
        self.register_buffer("category_of", torch.tensor([0, *space.things]), persistent=False)

    def loss(
        self,
        features: Sequence[Tensor],
        target: PanopticTarget,
        *,
        instance_weight: Tensor | None = None,
        pixel_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The five losses of N frames, each times ``config.loss_weight``.

        Each is the mean over frames of a frame's own mean (over drawn anchors, drawn regions or positive regions), so
        it does not depend on which frames share a process. Weights scale an error and leave the number of samples
        alone. A frame without labels counts as 0; one without instances has background only.

        Which samples are drawn follows from labels and weights, see ``frame_seeds``. Besides torchvision's own waits
        the host waits for the instances (see ``find_objects``) and once for the numbers of positive regions.

        Args:
            features: Maps of the N frames.
            target: Labels (N,H,W).
            instance_weight: float (N,K+1) by instance id; weighs all errors of samples matched to the instance.
                Column 0 weighs background samples, ids beyond K weigh 1.
            pixel_weight: float (N,H,W); weighs a background sample by its mean in the box, and a mask pixel by pixel.

        Returns:
            float32 scalars by the names in ``LOSSES``.
        """
        targets = detection_targets(target, self.label_of, instance_weight=instance_weight, pixel_weight=pixel_weight)
        seeds = frame_seeds(target, self.proposals.head.cls_logits.bias).unbind()
        pyramid = self._encode(features)
        found = self._propose(pyramid, (target.semantic.shape[1], target.semantic.shape[2]))
        anchors = [self._draw_anchors(found.anchors, targets, frame, seed) for frame, seed in enumerate(seeds)]
        regions = [self._draw_regions(found.boxes[frame], targets, frame, seed) for frame, seed in enumerate(seeds)]
        numbers = torch.stack([frame.positive.sum() for frame in regions]).tolist()
        positives = [frame.first(number) for frame, number in zip(regions, numbers, strict=True)]
        outputs = self._classify(pyramid, [frame.boxes for frame in regions])
        labels = torch.cat([frame.labels for frame in positives])
        masks = self._segment(pyramid, [frame.boxes for frame in positives], labels)
        parts = (
            *proposal_losses(found.logits, found.codes, anchors, self.proposals.box_coder),
            *box_losses(*outputs, regions, self.regions.box_coder),
            mask_loss(masks, positives, targets.owner, pixel_weight),
        )
        return {name: self.config.loss_weight * value for name, value in zip(LOSSES, parts, strict=True)}

    @torch.no_grad()
    def predict(self, features: Sequence[Tensor], semantic: Tensor) -> list[Instances]:
        """Detect and segment instances, one result per frame.

        Args:
            features: Maps of N frames.
            semantic: float (N,C,H,W) class probabilities; masks have its size, which need not be the input's, and
                nothing else of it is used.

        Returns:
            N ``Instances`` without embeddings, sorted by score; masks may overlap and are not empty, the category is
            the detector's class.
        """
        size = (semantic.shape[-2], semantic.shape[-1])
        scale = [cell_scale(*pair) / STRIDE for pair in zip(features[0].shape[-2:], size, strict=True)]
        frame = (size[0] / scale[0], size[1] / scale[1])
        levels = self._encode(features)
        proposals = self._propose(levels, frame).boxes
        outputs = self._classify(levels, proposals)
        found = self.regions.postprocess_detections(*outputs, proposals, [frame] * len(proposals))
        boxes, scores, labels = found
        logits = self._segment(levels, boxes, torch.cat(labels)).split([len(part) for part in boxes])
        factor = logits[0].new_tensor([scale[1], scale[0]] * 2)
        masks = [paste_masks(part.sigmoid(), box * factor, size) for part, box in zip(logits, boxes, strict=True)]
        instances = (
            Instances(mask, self.category_of[label], score)
            for mask, label, score in zip(masks, labels, scores, strict=True)
        )
        return [found.select(found.masks.flatten(1).any(1)) for found in instances]

    def _encode(self, features: Sequence[Tensor]) -> Pyramid:
        """Levels by name, finest first; float32, because pooling of regions has no bfloat16 on CPUs."""
        named = OrderedDict((str(index), level) for index, level in enumerate(features))
        return OrderedDict((name, level.float()) for name, level in self.pyramid(named).items())

    def _propose(self, pyramid: Pyramid, size: tuple[float, float]) -> Proposals:
        """Rate the anchors, and choose boxes that do not reach beyond ``size``, rows and columns of the frames."""
        levels, network = list(pyramid.values()), self.proposals
        count, places = len(levels[0]), [list(level.shape[-2:]) for level in levels]
        network.anchor_generator.set_cell_anchors(torch.float32, levels[0].device)
        # torchvision would divide the frames' size by that of the maps, which is no stride where maps are cut
        grids = network.anchor_generator.grid_anchors(places, [[stride, stride] for stride in STRIDES])
        anchors = torch.cat(grids)
        logits, codes = (output.float() for output in concat_box_prediction_layers(*network.head(levels)))
        boxes = network.box_coder.decode(codes.detach(), [anchors] * count).view(count, -1, 4)
        kept, _ = network.filter_proposals(boxes, logits, [size] * count, [len(grid) for grid in grids])
        return Proposals(anchors, logits.view(count, -1), codes.view(count, -1, 4), kept)

    def _draw_anchors(self, anchors: Tensor, targets: DetectionTargets, frame: int, seed: Tensor) -> Samples:
        return draw_samples(anchors, targets, frame, proposal_rule(self.config), seed)

    def _draw_regions(self, proposals: Tensor, targets: DetectionTargets, frame: int, seed: Tensor) -> Samples:
        rule = region_rule(self.config)
        boxes = torch.cat([proposals, targets.objects[frame].boxes])
        return draw_samples(boxes, targets, frame, rule, scramble(seed + 1)).first(rule.count)

    def _classify(self, pyramid: Pyramid, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (R,L) and box codes (R,4·L) of the R boxes of all frames, float32."""
        heads = self.regions
        logits, codes = heads.box_predictor(heads.box_head(heads.box_roi_pool(pyramid, boxes, [])))
        return logits.float(), codes.float()

    def _segment(self, pyramid: Pyramid, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Mask logits (P,28,28) of the P boxes of all frames for their labels (P,), float32."""
        heads = self.regions
        logits: Tensor = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(pyramid, boxes, [])))
        return logits[torch.arange(len(labels), device=labels.device), labels].float()
