"""Weights files of networks: their tensors, with the architecture and the classes in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from vidapt import __version__
from vidapt.config import ModelConfig
from vidapt.errors import CheckpointError, ConfigError
from vidapt.labels import LabelSpace
from vidapt.models.network import PanopticNetwork
from vidapt.models.weights import load_strictly, read_weights, write_weights

OPTIONAL_PARTS = ("pixel_projection.", "text.", "attention.")
"""Modules that a method may add to a trained network; weights without them fit, and the other way round."""


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
