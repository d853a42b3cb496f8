"""Training on labelled clips: what every method does with its source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vidapt.adaptation.mixing import labels_of
from vidapt.adaptation.sampling import clip_rngs
from vidapt.clip import ClipBatch, PanopticTarget
from vidapt.models.network import NetworkOutput, PanopticNetwork
from vidapt.transforms import StrongAugment

Loss = tuple[str, Tensor]


@dataclass(frozen=True)
class Labelled:
    """How labelled clips are trained on, by all steps.

    Attributes:
        seed: Seed of the random choices.
        class_weight: float (C,) weight of each class in the semantic losses, or None for 1.
        augment: Photometric distortion of the labelled clips, or None.
    """

    seed: int = 0
    class_weight: Tensor | None = None
    augment: StrongAugment | None = None

    def frames(self, batch: ClipBatch) -> Tensor:
        """The batch's frames uint8 (B,T,3,H,W), distorted."""
        if self.augment is None:
            return batch.frames
        return self.augment(batch.frames, clip_rngs(self.seed, "source_augment", batch.samples))


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

    def begin_step(self) -> None:
        """Nothing is kept between steps."""

    def losses(self, source: ClipBatch, target: ClipBatch | None) -> Iterator[Loss]:
        """Yield the losses of the source clips; ``target`` is not used."""
        output = forward(self._network, self._labelled.frames(source), self._labelled.seed, source.samples)
        labels, weight = labels_of(source).flatten(), self._labelled.class_weight
        yield from summed("source", labelled_losses(self._network, output, labels, weight))

    def after_update(self) -> None:
        """Nothing follows an update."""

    def state_dict(self) -> dict[str, Any]:
        """No state besides the weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


def forward(network: PanopticNetwork, frames: Tensor, seed: int, samples: Tensor) -> NetworkOutput:
    """Run a network in training mode on uint8 (B,T,3,H,W) frames as a flat list of B·T frames.

    A multi-resolution network looks at one detail crop, drawn for the first of the ``samples`` (B,).
    """
    (rng,) = clip_rngs(seed, "window", samples[:1])
    size = (frames.shape[-2], frames.shape[-1])
    return network(frames.flatten(0, 1), window=network.draw_window(size, rng))


def labelled_losses(
    network: PanopticNetwork, output: NetworkOutput, target: PanopticTarget, class_weight: Tensor | None
) -> dict[str, Tensor]:
    """Semantic and instance losses of frames with trusted labels (N,H,W)."""
    loss = network.semantic_loss(output, target.semantic, class_weight=class_weight)
    return {"semantic": loss} | network.instance_loss(output, target)


def summed(graph: str, parts: dict[str, Tensor]) -> Iterator[Loss]:
    """Yield the parts detached, for the log, and their sum, whose graph the engine runs backward."""
    if not parts:
        return
    for name, value in parts.items():
        yield f"{graph}/{name}", value.detach()
    total: Tensor = sum(parts.values(), start=next(iter(parts.values())).new_zeros(()))
    yield graph, total
