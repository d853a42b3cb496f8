"""A run that was interrupted before or after a part began ends like one that was not, to the last bit of its state."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_runs import MASK_RCNN, MODEL, STATEFUL_METHOD, tiny_recipe, write_weights
from vidapt.adaptation.step import SelfTrainingStep
from vidapt.config import Recipe
from vidapt.engine.checkpoint import latest_checkpoint, load_checkpoint
from vidapt.errors import Interrupted
from vidapt.jobs.train import run_stage

MODELS: dict[str, dict[str, Any]] = {
    "one resolution": MODEL,
    "two resolutions": {**MODEL, "multi_resolution": {"attention_channels": 8}},
    "mask_rcnn": {**MODEL, "instance": MASK_RCNN},
}


@pytest.fixture(scope="module", params=list(MODELS))
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Four steps; pasting begins with the third."""
    model, changes = MODELS[request.param], {}
    if request.param != "mask_rcnn":
        changes["initial"] = write_weights(tmp_path_factory.mktemp("start") / "start.safetensors", model=model)
    plain = tiny_recipe(method=STATEFUL_METHOD, model=model, validation=None, evaluation=None, warm_start=None)
    training = plain.training.model_copy(update={"steps": 4, **changes})
    return plain.model_copy(update={"training": training})


def run(recipe: Recipe, folder: Path, *, resume: bool = False) -> Path:
    run_stage(recipe, folder, resume=resume, device="cpu", dry_run=False, command="train")
    return folder


@pytest.fixture(scope="module")
def straight(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(recipe, tmp_path_factory.mktemp("straight") / "run")


def final_state(folder: Path) -> dict[str, Any]:
    found = latest_checkpoint(folder)
    assert found is not None
    saved = load_checkpoint(found)
    return {"weights": saved.weights, **{name: saved.state[name] for name in ("method", "optimizer", "random")}}


def flat(state: Any, name: str = "") -> dict[str, Any]:
    """Tensors and plain values of nested dicts and lists by their path."""
    if not isinstance(state, dict | list | tuple):
        return {name: state}
    items = state.items() if isinstance(state, dict) else enumerate(state)
    return {path: value for key, inner in items for path, value in flat(inner, f"{name}/{key}").items()}


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line)["losses"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stop_in(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send SIGTERM to this process in the middle of a step."""
    plain, begun = SelfTrainingStep.begin_step, []

    def begin_step(step: SelfTrainingStep) -> None:
        plain(step)
        begun.append(step)
        if len(begun) == number:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(SelfTrainingStep, "begin_step", begin_step)


def test_every_part_has_left_its_state(straight: Path) -> None:
    method, losses = final_state(straight)["method"], metrics(straight)
    assert method["updates"] == 4
    assert (method["thresholds"]["values"] > 0).any()
    assert (method["bank"]["filled"] > 0).any()
    assert ["pasted" in step for step in losses] == [False, False, True, True]
    assert losses[0]["confidence"] == 1 > losses[3]["confidence"] > 0


@pytest.mark.parametrize("number", [1, 3])
def test_an_interrupted_run_ends_in_the_same_state(
    recipe: Recipe, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    stop_in(number, monkeypatch)
    with pytest.raises(Interrupted, match=f"after step {number} of 4"):
        run(recipe, tmp_path / "run")
    monkeypatch.undo()
    run(recipe, tmp_path / "run", resume=True)
    expected, found = flat(final_state(straight)), flat(final_state(tmp_path / "run"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        same = torch.equal(value, found[name]) if isinstance(value, torch.Tensor) else value == found[name]
        assert same, name
    assert metrics(tmp_path / "run") == metrics(straight)
