"""A finished adaptation that several tests read; none may change it."""

from pathlib import Path

import pytest

from tests.tiny_runs import tiny_recipe, write_weights
from vidapt.config import Recipe
from vidapt.jobs.adapt import adapt
from vidapt.jobs.train import RunResult


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file that segments on its own."""
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="session")
def finished_recipe() -> Recipe:
    """Warm start, upper bound and adaptation, two or three steps each."""
    recipe = tiny_recipe()
    return recipe.model_copy(update={"upper_bound": recipe.target})


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, finished_recipe: Recipe) -> RunResult:
    """That recipe run to its end."""
    return adapt(finished_recipe, out=tmp_path_factory.mktemp("finished") / "run", device="cpu")
