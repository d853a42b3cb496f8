"""Which anchors and proposals count in the losses of the Mask R-CNN head, and what they should predict."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from vidapt.clip import PanopticTarget
from vidapt.models.instance.mask_rcnn_targets import DetectionTargets, box_means

_UNKNOWN_SHARE = 0.5
_WORD = 0xFFFFFFFF
_SEED_STRIDE = 4


@dataclass(frozen=True)
class Rule:
    """How boxes are matched to instances and drawn.

    Attributes:
        high: Least overlap (IoU) with an instance that makes a box positive.
        low: Overlap with all instances below which it is background.
        best_too: The boxes that overlap an instance the most are positive whatever their overlap.
        count: Largest number of boxes drawn per frame.
        share: Share of ``count`` that may be positive.
    """

    high: float
    low: float
    best_too: bool
    count: int
    share: float


@dataclass(frozen=True)
class Samples:
    """A boxes of a frame and what they should predict.

    Attributes:
        boxes: float32 (A,4).
        labels: int64 (A,) detector classes, 0 = background, -1 = neither.
        goals: float32 (A,4), the matched instance's box; the box itself where there is none.
        ids: int64 (A,), the matched instance's id, 0 where there is none.
        drawn: bool (A,), the boxes that count.
        weights: float32 (A,), 0 where not drawn.
    """

    boxes: Tensor
    labels: Tensor
    goals: Tensor
    ids: Tensor
    drawn: Tensor
    weights: Tensor

    @property
    def positive(self) -> Tensor:
        """bool (A,), drawn and matched to an instance."""
        return self.drawn & (self.labels > 0)

    def first(self, count: int) -> Samples:
        """The drawn ones, positives before background, filled up with others to ``count`` or to all there are."""
        rank = self.drawn.long() + self.positive
        order = rank.argsort(descending=True, stable=True)[:count]
        return Samples(*(getattr(self, name)[order] for name in self.__dataclass_fields__))


def draw_samples(boxes: Tensor, targets: DetectionTargets, frame: int, rule: Rule, seed: Tensor) -> Samples:
    """Match the boxes of a frame to its instances and draw those that count.

    A box that would be background but of whose pixels more than half are unknown (ignored or crowd) is neither.

    Args:
        boxes: float32 (A,4).
        targets: Of all frames.
        frame: Position of the frame.
        rule: Matching and numbers.
        seed: int64 scalar, decides the draw.
    """
    objects = targets.objects[frame]
    match = match_boxes(objects.boxes, boxes, rule)
    hidden = box_means(targets.unknown[frame], boxes) > _UNKNOWN_SHARE
    background = (match == -1) & ~hidden
    matched = match >= 0
    drawn = draw(matched, background, seed, rule)
    weights = box_means(targets.background[frame], boxes)
    labels, goals, ids = torch.where(background, 0, -1), boxes, torch.zeros_like(match)
    if len(objects.ids):
        index = match.clamp(min=0)
        labels = torch.where(matched, objects.labels[index], labels)
        goals = torch.where(matched[:, None], objects.boxes[index], goals)
        ids = torch.where(matched, objects.ids[index], ids)
        weights = torch.where(matched, objects.weights[index], weights)
    return Samples(boxes, labels, goals, ids, drawn, weights * drawn)


def match_boxes(objects: Tensor, boxes: Tensor, rule: Rule) -> Tensor:
    """Position int64 (A,) of the instance that each box belongs to, -1 = background, -2 = neither.

    The rule of Faster R-CNN (Ren et al. 2015, section 3.1.2), equal to torchvision's ``Matcher`` but for instances that
    no box overlaps: there that makes all boxes positive, here none.

    Args:
        objects: float (M,4).
        boxes: float (A,4).
        rule: Thresholds.
    """
    if not len(objects) or not len(boxes):
        return torch.full((len(boxes),), -1, device=boxes.device)
    overlap = box_iou(objects, boxes)
    value, best = overlap.max(0)
    positive = value >= rule.high
    if rule.best_too:
        largest = overlap.amax(1, keepdim=True)
        positive |= ((overlap == largest) & (largest > 0)).any(0)
    return torch.where(positive, best, torch.where(value < rule.low, -1, -2))


def draw(positive: Tensor, background: Tensor, seed: Tensor, rule: Rule) -> Tensor:
    """Draw positives up to their share and fill up with background; bool (A,).

    Args:
        positive: bool (A,).
        background: bool (A,), nowhere positive.
        seed: int64 scalar.
        rule: Numbers.
    """
    places = torch.arange(len(positive), device=positive.device)
    priority = scramble(seed ^ scramble(places))
    quota = int(rule.count * rule.share)
    chosen = _first(positive, priority, quota, positive.sum().clamp(max=quota))
    return chosen | _first(background, priority, rule.count, rule.count - chosen.sum())


def _first(candidates: Tensor, priority: Tensor, most: int, number: Tensor) -> Tensor:
    """The ``number`` candidates of the highest priority; ``most`` is an upper limit that the host knows."""
    order = torch.where(candidates, priority, -1).topk(min(most, len(candidates))).indices
    kept = torch.arange(len(order), device=order.device) < number
    return candidates & torch.zeros_like(candidates).scatter(0, order, kept)


def frame_seeds(target: PanopticTarget, weights: Tensor) -> Tensor:
    """Seeds int64 (N,) that follow from a frame's labels and from present weights of the network.

    So a draw changes from step to step, is the same however frames are spread over processes and after a resume, and
    needs neither a generator nor a counter.

    Args:
        target: Labels (N,H,W).
        weights: Any trained weights of the network.
    """
    step = _SEED_STRIDE
    labels = (target.instance.long() * 256 + target.semantic)[:, ::step, ::step].flatten(1)
    bits = weights.detach().float().flatten().view(torch.int32).long()
    return scramble(_digest(labels) + _digest(bits))


def _digest(values: Tensor) -> Tensor:
    """One number per row of int64 (...,L), which depends on the order of the values."""
    places = torch.arange(values.shape[-1], device=values.device)
    return scramble(values + scramble(places)).sum(-1)


def scramble(values: Tensor) -> Tensor:
    """Map the lower 32 bits of int64 values one to one to numbers 0..2^32-1 that look random (the hash lowbias32)."""
    values = values & _WORD
    values = (values ^ (values >> 16)) * 0x7FEB352D & _WORD
    values = (values ^ (values >> 15)) * 0x846CA68B & _WORD
    return values ^ (values >> 16)
