"""Steps: what one training iteration computes. Supervised training, and self-training composed from the ideas here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from vidapt.adaptation.contrast import clip_flow, pixel_contrast, temporal_contrast
from vidapt.adaptation.mixing import MixedClips, class_mix, instance_mix, labels_of
from vidapt.adaptation.pseudo_labels import PseudoLabels, pseudo_labels
from vidapt.adaptation.sampling import clip_generators, clip_rngs
from vidapt.adaptation.teacher import ema_momentum, ema_update, make_teacher, own_statistics, statistics_names
from vidapt.clip import ClipBatch, PanopticTarget
from vidapt.config import MethodConfig
from vidapt.models.losses import semantic_loss
from vidapt.models.network import NetworkOutput, PanopticNetwork
from vidapt.tracking.tracker import OnlineTracker
from vidapt.transforms import StrongAugment

Loss = tuple[str, Tensor]


@dataclass(frozen=True)
class Labelled:
    """How labelled clips are trained on, by both steps.

    Attributes:
        seed: Seed of the random choices.
        class_weight: float (C,) weight of each class in the semantic losses, or None for 1.
        augment: Photometric distortion of the labelled clips, or None.
    """

    seed: int = 0
    class_weight: Tensor | None = None
    augment: StrongAugment | None = None

    def frames(self, batch: ClipBatch) -> Tensor:
        """The batch's frames (B·T,3,H,W), distorted."""
        frames = batch.frames
        if self.augment is not None:
            frames = self.augment(frames, clip_rngs(self.seed, "source_augment", batch.samples))
        return frames.flatten(0, 1)


class SupervisedStep:
    """Semantic and instance losses on labelled clips.

    Args:
        network: What is trained.
        labelled: Class weights and augmentation.
    """

    def __init__(self, network: PanopticNetwork, labelled: Labelled | None = None) -> None:
        self._network = network
        self._labelled = labelled or Labelled()

    @property
    def network(self) -> nn.Module:
        """The network that is optimised."""
        return self._network

    def weights(self) -> dict[str, nn.Module]:
        """Modules that a checkpoint saves, by name."""
        return {"student": self._network}

    def losses(self, source: ClipBatch, target: ClipBatch | None) -> Iterator[Loss]:
        """Yield the losses of the source clips; ``target`` is not used."""
        output = self._network(self._labelled.frames(source))
        labels, weight = labels_of(source).flatten(), self._labelled.class_weight
        yield from _summed("source", _labelled_losses(self._network, output, labels, weight))

    def after_update(self) -> None:
        """Nothing follows an update."""

    def state_dict(self) -> dict[str, Any]:
        """No state besides the weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


class SelfTrainingStep:
    """Mean-teacher adaptation on clips: ClassMix, IMix over tracked instances, pixel and temporal contrast.

    Args:
        network: The student.
        method: The parts and their weights.
        labelled: Seed, class weights and the augmentation of source clips.
        new_tracker: Makes the tracker that verifies pseudo-instances over a clip.
        reduce: Averages a tensor over processes; the default is for one process.
    """

    def __init__(
        self,
        network: PanopticNetwork,
        method: MethodConfig,
        *,
        labelled: Labelled,
        new_tracker: Callable[[], OnlineTracker],
        reduce: Callable[[Tensor], Tensor] = torch.clone,
    ) -> None:
        self._network = network
        self._reduce = reduce
        self._teacher = make_teacher(network)
        self._method = method
        self._labelled = labelled
        self._seed = labelled.seed
        self._new_tracker = new_tracker
        self._class_weight = labelled.class_weight
        self._updates = 0
        augment = method.augment
        self._augment = StrongAugment(augment.jitter, augment.jitter_probability, augment.blur_probability)

    @property
    def network(self) -> nn.Module:
        """The student, which is optimised."""
        return self._network

    def weights(self) -> dict[str, nn.Module]:
        """Modules that a checkpoint saves, by name."""
        return {"student": self._network, "teacher": self._teacher}

    def losses(self, source: ClipBatch, target: ClipBatch | None) -> Iterator[Loss]:
        """Yield source, mixed and pasted losses, one graph at a time; detached entries are only logged."""
        if target is None:
            raise ValueError("SelfTrainingStep.losses needs target clips")
        yield from self._source(source)
        with own_statistics(self._teacher) if self._method.target_statistics else nullcontext():
            pseudo = pseudo_labels(
                self._teacher,
                target.frames,
                threshold=self._method.threshold,
                instances=self._method.instance_mix,
                new_tracker=self._new_tracker,
            )
        yield "confidence", pseudo.confidence.mean()
        yield "instances", pseudo.verified.sum(1).float().mean()
        mix = self._method.class_mix
        if max(mix.weight, mix.instance_weight, self._method.temporal_contrast.weight) > 0:
            yield from self._mixed(source, target, pseudo)
        if self._method.instance_mix.weight > 0:
            yield from self._pasted(source, target, pseudo)

    def after_update(self) -> None:
        """Move the teacher towards the student; statistics of its own are averaged over the processes."""
        own = self._method.target_statistics
        momentum = ema_momentum(self._updates, self._method.alpha)
        ema_update(self._teacher, self._network, momentum, statistics=not own)
        if own:
            buffers = self._teacher.state_dict(keep_vars=True)
            for name in sorted(statistics_names(self._teacher)):
                if buffers[name].is_floating_point():
                    buffers[name].copy_(self._reduce(buffers[name]))
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The counter of the teacher's ramp; the teacher's weights are among ``weights()``."""
        return {"updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._updates = int(state["updates"])

    def _source(self, source: ClipBatch) -> Iterator[Loss]:
        output = self._network(self._labelled.frames(source))
        target = labels_of(source).flatten()
        parts = _labelled_losses(self._network, output, target, self._class_weight)
        contrast = self._method.pixel_contrast
        if contrast.weight > 0 and self._updates >= contrast.start_step:
            shape = {"b": source.frames.shape[0]}
            parts["pixel_contrast"] = contrast.weight * pixel_contrast(
                rearrange(self._network.project(output), "(b t) d h w -> b t d h w", **shape),
                rearrange(output.logits, "(b t) c h w -> b t c h w", **shape),
                rearrange(target.semantic, "(b t) h w -> b t h w", **shape),
                contrast,
                clip_generators(self._seed, "pixel_contrast", source.samples, source.frames.device),
            )
        yield from _summed("source", parts)

    def _mixed(self, source: ClipBatch, target: ClipBatch, pseudo: PseudoLabels) -> Iterator[Loss]:
        rngs = clip_rngs(self._seed, "class_mix", target.samples)
        noise = torch.from_numpy(np.stack([rng.random(len(self._network.space)) for rng in rngs]))
        mixed = class_mix(source, target, pseudo, noise.to(target.frames.device, torch.float32))
        frames = self._augment(mixed.frames, clip_rngs(self._seed, "augment", target.samples))
        output = self._network(frames.flatten(0, 1))
        config, weight = self._method.class_mix, mixed.weight.flatten(0, 1)
        semantic = semantic_loss(output.logits, mixed.target.semantic.flatten(0, 1), weight, self._class_weight)
        parts = {"semantic": config.weight * semantic}
        parts |= self._instance_losses(output, mixed, config.instance_weight)
        contrast = self._method.temporal_contrast
        if contrast.weight > 0 and self._updates >= contrast.start_step:
            parts["temporal_contrast"] = contrast.weight * temporal_contrast(
                rearrange(self._network.project(output), "(b t) d h w -> b t d h w", b=target.frames.shape[0]),
                pseudo.semantic,
                _unchanged(mixed, target),
                clip_flow(target.frames) if contrast.warp else None,
                contrast,
                clip_generators(self._seed, "temporal_contrast", target.samples, target.frames.device),
            )
        yield from _summed("mixed", parts)

    def _pasted(self, source: ClipBatch, target: ClipBatch, pseudo: PseudoLabels) -> Iterator[Loss]:
        config = self._method.instance_mix
        mixed = instance_mix(source, target, pseudo)
        output = self._network(mixed.frames.flatten(0, 1))
        parts = self._instance_losses(output, mixed, config.weight)
        if config.semantic_weight > 0:
            trust = (mixed.weight * mixed.target.labelled[:, :, None, None]).flatten(0, 1)
            labels = mixed.target.semantic.flatten(0, 1)
            semantic = semantic_loss(output.logits, labels, trust, self._class_weight)
            parts["semantic"] = config.semantic_weight * semantic
        yield from _summed("pasted", parts)

    def _instance_losses(self, output: NetworkOutput, mixed: MixedClips, weight: float) -> dict[str, Tensor]:
        if weight == 0:
            return {}
        losses = self._network.instance_loss(output, mixed.target.flatten(), pixel_weight=mixed.weight.flatten(0, 1))
        return {name: weight * loss for name, loss in losses.items()}


def _unchanged(mixed: MixedClips, target: ClipBatch) -> Tensor:
    """bool (B,T,H,W): target pixels that nothing was pasted over and whose pseudo-labels count."""
    same = (mixed.frames == target.frames).all(2)
    return same if target.ignored is None else same & ~target.ignored


def _labelled_losses(
    network: PanopticNetwork, output: NetworkOutput, target: PanopticTarget, class_weight: Tensor | None
) -> dict[str, Tensor]:
    loss = semantic_loss(output.logits, target.semantic, class_weight=class_weight)
    return {"semantic": loss} | network.instance_loss(output, target)


def _summed(graph: str, parts: dict[str, Tensor]) -> Iterator[Loss]:
    """Yield the parts detached, for the log, and their sum, whose graph the engine runs backward."""
    if not parts:
        return
    for name, value in parts.items():
        yield f"{graph}/{name}", value.detach()
    yield graph, torch.stack(list(parts.values())).sum()
