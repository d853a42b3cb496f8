"""The whole adaptation in two gloo processes equals one process at the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny_runs import MODEL, STATEFUL_METHOD, tiny_recipe, write_weights
from vidapt.config import Recipe
from vidapt.engine.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint
from vidapt.jobs import build
from vidapt.jobs.train import run_stage
from vidapt.recipe import dump_recipe

LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def printed_by(command: list[str]) -> str:
    """What a Python command prints that has to succeed."""
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line)["losses"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def adapt(recipe: Path, out: Path, processes: int) -> tuple[list[dict[str, float]], str]:
    """Losses of every step and what the command line printed."""
    launcher = [*LAUNCHER, str(processes)] if processes > 1 else []
    command = [*launcher, "-m", "vidapt.cli", "adapt", str(recipe), "--out", str(out), "--device", "cpu"]
    printed = printed_by(command)
    return [losses for stage in ("upper_bound", ".") for losses in losses_of(out / stage)], printed


@pytest.mark.timeout(400)
def test_two_processes_adapt_like_one(tmp_path: Path) -> None:
    """Layer and group normalisation only: batch normalisation sees each process's own share on CPUs."""
    model = {**MODEL, "encoder": {"name": "test_convnext"}}
    recipe = tiny_recipe(model=model, validation=None)
    start = {"initial": write_weights(tmp_path / "start.safetensors", model=model), "batch": 4}
    training = recipe.training.model_copy(update=start)
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(recipe.model_copy(update={"training": training, "upper_bound": recipe.target})))
    (one, _), (two, printed) = (adapt(path, tmp_path / f"run{count}", count) for count in (1, 2))
    assert len(one) == len(two) == 4
    for alone, shared in zip(one, two, strict=True):
        assert alone.keys() == shared.keys()
        assert shared == pytest.approx(alone, abs=1e-5, rel=1e-5)
    assert {"mixed/semantic", "mixed/temporal_contrast", "source/pixel_contrast", "pasted/center"} <= one[-1].keys()
    assert one[-1]["instances"] > 1, "no instance was verified, so that pasting was not compared"
    assert printed.count("mIoU") == printed.count("report:") == 1, "only the main process prints"
    scores = [json.loads((tmp_path / f"run{count}" / "scores.json").read_text())["teacher"] for count in (1, 2)]
    assert scores[0]["miou"] == pytest.approx(scores[1]["miou"], abs=1e-3)


# --- parts that keep state or share values over the processes


def stateful_recipe(folder: Path, encoder: str) -> Recipe:
    model = {**MODEL, "encoder": {"name": encoder}}
    recipe = tiny_recipe(method=STATEFUL_METHOD, model=model, validation=None, evaluation=None, warm_start=None)
    start = write_weights(folder / f"{encoder}_start.safetensors", model=model)
    training = recipe.training.model_copy(update={"steps": 4, "batch": 4, "initial": start})
    return recipe.model_copy(update={"training": training})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of two runs in two processes, with and without batch normalisation, and what was printed."""
    folder = tmp_path_factory.mktemp("shared")
    paths = [folder / f"{encoder}.yaml" for encoder in ("test_byobnet", "test_convnext")]
    for path in paths:
        path.write_text(dump_recipe(stateful_recipe(folder, path.stem)))
    script = Path(__file__).with_name("adapt_ranks.py")
    return folder, printed_by([*LAUNCHER, "2", str(script), *map(str, paths)])


def saved(run: Path) -> Checkpoint:
    found = latest_checkpoint(run)
    assert found is not None
    return load_checkpoint(found)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("encoder", ["test_byobnet", "test_convnext"])
def test_processes_hold_the_same_after_every_update(shared: tuple[Path, str], encoder: str) -> None:
    """Teacher with its own statistics of batch normalisation, thresholds, memory."""
    notes = [json.loads((shared[0] / encoder / f"notes_{rank}.json").read_text()) for rank in range(2)]
    assert notes[0] == notes[1]
    assert len(notes[0]) == 4
    assert len({(note["teacher"], note["bank"], *note["thresholds"]) for note in notes[0]}) == 4


@pytest.mark.timeout(400)
def test_stateful_parts_work_like_in_one_process(shared: tuple[Path, str], tmp_path: Path) -> None:
    """The whole batch's trust weighs the losses; thresholds and memory see the clips of all processes."""
    recipe = stateful_recipe(tmp_path, "test_convnext")
    run_stage(recipe, tmp_path / "run", resume=False, device="cpu", dry_run=False, command="train")
    alone, together = losses_of(tmp_path / "run"), losses_of(shared[0] / "test_convnext")
    assert len(alone) == len(together) == 4
    for one, two in zip(alone, together, strict=True):
        assert one.keys() == two.keys()
        assert two == pytest.approx(one, abs=1e-4, rel=1e-4)
    assert 0 < alone[-1]["confidence"] < 1, "pixels were all confident or none, so that trust was not compared"
    assert {"masked/semantic", "pasted/center", "source/pixel_contrast"} <= alone[-1].keys()
    one, two = saved(tmp_path / "run").state["method"], saved(shared[0] / "test_convnext").state["method"]
    torch.testing.assert_close(two["thresholds"]["values"], one["thresholds"]["values"], atol=1e-3, rtol=0)
    torch.testing.assert_close(two["bank"], one["bank"], atol=1e-4, rtol=0)


def test_a_plan_exchanges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the main process makes one: the others would never answer."""
    called = []
    for exchange in ("all_reduce_mean", "mean_in_losses", "gather_tensor"):
        monkeypatch.setattr(build, exchange, lambda value, name=exchange: called.append(name) or value)
    recipe = stateful_recipe(tmp_path, "test_byobnet")
    run_stage(recipe, tmp_path / "run", resume=False, device="cpu", dry_run=True, command="train")
    assert called == []


def test_the_main_process_plans_alone(shared: tuple[Path, str]) -> None:
    assert shared[1].count("nothing is trained") == 2
    assert shared[1].count("ETA ") >= 2
