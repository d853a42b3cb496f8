"""The panoptic network: one encoder, a semantic, an instance and a projection head; and its weights file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vidapt import __version__
from vidapt.clip import Instances, PanopticTarget
from vidapt.config import ModelConfig
from vidapt.errors import CheckpointError, ConfigError
from vidapt.labels import LabelSpace
from vidapt.models.encoder import build_encoder
from vidapt.models.grid import Size, enlarge
from vidapt.models.instance.build import build_instance_head
from vidapt.models.losses import semantic_loss
from vidapt.models.projection import ProjectionHead, TextProjection, pool_masks
from vidapt.models.semantic import SemanticHead
from vidapt.models.weights import load_strictly, read_weights, write_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

OPTIONAL_PARTS = ("pixel_projection.", "text.", "attention.")
"""Modules that a method may add to a trained network; weights of a network without them fit, and the other way round."""


@dataclass(frozen=True)
class NetworkOutput:
    """What one pass over N frames gives; heads run on it on demand.

    Attributes:
        features: Four maps (N,channels,ceil(H/stride),ceil(W/stride)), finest (stride 4) first.
        fused: (N,channels,h,w), the semantic head's map before classification; h = ceil(H/4), w = ceil(W/4).
        logits: (N,C,h,w).
        size: H and W of the frames.
    """

    features: list[Tensor]
    fused: Tensor
    logits: Tensor
    size: Size


class PanopticNetwork(nn.Module):
    """Encoder and heads; frames of any size.

    Args:
        config: Architecture.
        space: Classes to predict.

    Raises:
        ConfigError: If the encoder does not exist or gives no feature pyramid.
        CheckpointError: If pretrained encoder weights cannot be loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, space: LabelSpace) -> None:
        super().__init__()
        self.config = config
        self.space = space
        self.encoder = build_encoder(config.encoder)
        channels = self.encoder.channels
        self.semantic = SemanticHead(config.semantic, channels, len(space))
        self.instance = build_instance_head(config.instance, channels, space)
        self.projection = ProjectionHead(config.projection, self.semantic.channels)
        pixels, text = config.pixel_projection, config.text
        self.pixel_projection = None if pixels is None else ProjectionHead(pixels, self.semantic.channels)
        self.text = None if text is None else TextProjection(text, self.semantic.channels, channels[-1])
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> NetworkOutput:
        """Encode frames and classify every stride-4 cell.

        Args:
            frames: (N,3,H,W) RGB, uint8 or float in 0..1.
        """
        values = frames / 255.0 if frames.dtype == torch.uint8 else frames
        # a third faster on CPUs than the default layout, and what tensor cores want
        normalised = ((values - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.encoder(normalised)
        fused, logits = self.semantic(features)
        return NetworkOutput(features, fused, logits, (frames.shape[-2], frames.shape[-1]))

    def project(self, output: NetworkOutput) -> Tensor:
        """Embedding (N,dim,h,w) of every stride-4 cell that tells instances apart, not normalised."""
        return self.projection(output.fused)

    def project_pixels(self, output: NetworkOutput) -> Tensor:
        """Embedding (N,dim,h,w) of every stride-4 cell that tells classes apart, not normalised.

        Raises:
            ValueError: If the network has no such projection.
        """
        if self.pixel_projection is None:
            raise ValueError("the network has no pixel projection: set model.pixel_projection")
        return self.pixel_projection(output.fused)

    def project_text(self, output: NetworkOutput) -> Tensor:
        """Features (N,dim,h,w) in the space of text embeddings, not normalised; see ``model.text``.

        Raises:
            ValueError: If the network has no such projection.
        """
        if self.text is None:
            raise ValueError("the network has no text projection: set model.text")
        return self.text(output.fused, output.features[-1])

    def semantic_loss(
        self,
        output: NetworkOutput,
        semantic: Tensor,
        weight: Tensor | None = None,
        class_weight: Tensor | None = None,
    ) -> Tensor:
        """Loss of the semantic head on uint8 (N,H,W) labels; see ``models.losses.semantic_loss``."""
        return semantic_loss(output.logits, semantic, weight, class_weight)

    def instance_loss(
        self,
        output: NetworkOutput,
        target: PanopticTarget,
        *,
        instance_weight: Tensor | None = None,
        pixel_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the instance head by name, see its ``loss``; ``target`` is flat (N,H,W)."""
        return self.instance.loss(output.features, target, instance_weight=instance_weight, pixel_weight=pixel_weight)

    def probabilities(self, output: NetworkOutput) -> Tensor:
        """Class probabilities of every stride-4 cell, float32 (N,C,h,w)."""
        return output.logits.float().softmax(1)

    def upsample(self, probabilities: Tensor, size: Size) -> Tensor:
        """Interpolate stride-4 probabilities (N,C,h,w) to ``size``: that of the frames, or any other."""
        return enlarge(probabilities, size)

    @torch.no_grad()
    def instances(self, output: NetworkOutput, probabilities: Tensor) -> list[Instances]:
        """Instances of every frame, with embeddings.

        Args:
            output: The pass over N frames.
            probabilities: float (N,C,H,W) at the size that the masks shall have.
        """
        found = self.instance.predict(output.features, probabilities)
        return self._with_embeddings(found, self.project(output))

    def _with_embeddings(self, found: Sequence[Instances], embedding: Tensor) -> list[Instances]:
        pooled = [pool_masks(place, frame.masks) for place, frame in zip(embedding, found, strict=True)]
        return [replace(frame, embeddings=mean) for frame, mean in zip(found, pooled, strict=True)]


def build_network(config: ModelConfig, space: LabelSpace) -> PanopticNetwork:
    """Build the network on the CPU in training mode."""
    return PanopticNetwork(config, space)


def network_header(config: ModelConfig, space: LabelSpace) -> dict[str, str]:
    """Header of a weights file: architecture and label space as JSON, and the version of this package."""
    return {
        "vidapt": __version__,
        "model": _without_pretrained(config).model_dump_json(),
        "labels": json.dumps(space.to_dict()),
    }


def save_network(network: PanopticNetwork, path: Path | str, header: Mapping[str, str] | None = None) -> None:
    """Write the weights as safetensors with ``network_header`` and further header entries, atomically.

    Raises:
        StorageError: If writing fails; an older file at ``path`` is intact.
    """
    entries = {**(header or {}), **network_header(network.config, network.space)}
    write_weights(network.state_dict(), Path(path), entries)


def load_network(path: Path | str) -> tuple[PanopticNetwork, LabelSpace, dict[str, str]]:
    """Rebuild the network that ``save_network`` wrote, on the CPU in evaluation mode.

    Returns:
        The network, its label space, and all header entries.

    Raises:
        CheckpointError: If the file is missing, truncated, no vidapt checkpoint or of another architecture.
    """
    state, header = read_weights(Path(path))
    config, space = read_header(header, path)
    network = PanopticNetwork(config, space)
    load_strictly(network, state, str(path))
    return network.eval(), space, header


def load_weights(network: PanopticNetwork, path: Path | str) -> dict[str, str]:
    """Load a weights file into a network of the same architecture and return the file's header.

    What only one of the two has may differ in ``OPTIONAL_PARTS``: the network's own keep their values.

    Raises:
        CheckpointError: If the file cannot be read, or the architecture or the classes differ.
    """
    state, header = read_weights(Path(path))
    _, space = read_header(header, path)
    if space.names != network.space.names:
        raise CheckpointError(
            f"checkpoint {path} predicts {len(space)} classes ({space.name}), the recipe "
            f"{len(network.space)} ({network.space.name}); set labels to the checkpoint's"
        )
    load_strictly(network, state, str(path), optional=OPTIONAL_PARTS)
    return header


def read_header(header: Mapping[str, str], path: Path | str) -> tuple[ModelConfig, LabelSpace]:
    """Architecture and label space of a weights file.

    Raises:
        CheckpointError: If the header is not one of ours or of a version that this one cannot read.
    """
    if not {"model", "labels"} <= header.keys():
        raise CheckpointError(f"{path} is no vidapt checkpoint: its header names no architecture and classes")
    try:
        labels = json.loads(header["labels"])
        if not isinstance(labels, dict):
            raise ValueError("labels are no table")
        return ModelConfig.model_validate_json(header["model"]), LabelSpace.from_dict(labels)
    except (ValidationError, ValueError, ConfigError) as error:
        raise CheckpointError(
            f"checkpoint {path} of vidapt {header.get('vidapt', '?')} cannot be read by {__version__}: "
            f"its header does not fit ({str(error).splitlines()[0]})"
        ) from error


def _without_pretrained(config: ModelConfig) -> ModelConfig:
    return config.model_copy(update={"encoder": config.encoder.model_copy(update={"pretrained": False})})
