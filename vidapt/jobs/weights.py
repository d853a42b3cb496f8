"""Finding weights and their calibration: a run folder, a checkpoint folder or a ``.safetensors`` file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from vidapt.config import InferenceConfig, Recipe, TrackingConfig
from vidapt.engine.checkpoint import latest_checkpoint, verify_weights
from vidapt.errors import CheckpointError
from vidapt.jobs.files import write_json
from vidapt.models.network import PanopticNetwork
from vidapt.models.network_file import load_network
from vidapt.models.weights import read_weights

Which = Literal["student", "teacher"]
S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True)
class FoundWeights:
    """A network with the settings that its file carries.

    Attributes:
        path: The file.
        network: The network with its weights.
        tracking: Tracker options.
        inference: Inference options.
        embedding_threshold: Calibrated cosine, or None where embeddings separate badly or nothing was calibrated.
    """

    path: Path
    network: PanopticNetwork
    tracking: TrackingConfig
    inference: InferenceConfig
    embedding_threshold: float | None


def weights_path(run: Path, weights: Which | None = None) -> Path:
    """The weights file that ``run`` names.

    Args:
        run: A run folder (its latest complete checkpoint), a checkpoint folder or a ``.safetensors`` file.
        weights: Which weights of a folder; None takes the student.

    Raises:
        CheckpointError: If there is none.
    """
    if run.is_file():
        return run
    if not run.is_dir():
        raise CheckpointError(f"no checkpoint at {run}: give a run folder, a checkpoint folder or a .safetensors file")
    folder = run if (run / "student.safetensors").is_file() else latest_checkpoint(run)
    if folder is None:
        raise CheckpointError(f"{run} holds no complete checkpoint; train or resume it first")
    path = folder / f"{weights or 'student'}.safetensors"
    if not path.is_file():
        have = ", ".join(sorted(file.stem for file in folder.glob("*.safetensors")))
        raise CheckpointError(f"{folder} has no {path.stem} weights; it has {have}")
    return path


def chosen_path(run: Path, weights: Which | None = None) -> Path:
    """``weights_path`` of the weights that the run's recipe prefers, where ``weights`` is None."""
    return weights_path(run, weights or (_preferred(run) if run.is_dir() else None))


def find_weights(run: Path, weights: Which | None = None) -> FoundWeights:
    """Load the network that ``run`` names with the settings of its header.

    Raises:
        CheckpointError: If the file is missing, truncated, changed or not ours.
    """
    path = chosen_path(run, weights)
    verify_weights(path)
    network, _, header = load_network(path)
    return FoundWeights(
        path,
        network,
        _section(TrackingConfig, header.get("tracking"), path),
        _section(InferenceConfig, header.get("inference"), path),
        _threshold(path),
    )


def _preferred(run: Path) -> Which:
    """The weights that the recipe of a run, kept in the header of its student, segments with."""
    path = weights_path(run)
    header = read_weights(path)[1]
    return _section(InferenceConfig, header.get("inference"), path).weights


def recipe_header(recipe: Recipe) -> dict[str, str]:
    """Header entries that make a weights file segment on its own."""
    return {"tracking": recipe.tracking.model_dump_json(), "inference": recipe.inference.model_dump_json()}


def write_calibration(folder: Path, thresholds: Mapping[str, float | None]) -> None:
    """Write the embedding thresholds of a checkpoint folder's weights, by weights name, beside them."""
    write_json(folder / "calibration.json", dict(thresholds))


def _threshold(path: Path) -> float | None:
    beside = path.with_name("calibration.json")
    if not beside.is_file():
        return None
    try:
        value = json.loads(beside.read_text("utf-8")).get(path.stem)
        return None if value is None else float(value)
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{beside} is damaged ({error}); delete it to segment without embeddings") from None


def _section(kind: type[S], text: str | None, path: Path) -> S:
    try:
        return kind.model_validate_json(text or "{}")
    except ValidationError as error:
        raise CheckpointError(f"{path}: its header does not fit this version: {error.errors()[0]['msg']}") from None
