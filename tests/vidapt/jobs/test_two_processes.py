"""The whole adaptation in two gloo processes equals one process at the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_runs import MODEL, tiny_recipe, write_weights
from vidapt.recipe import dump_recipe


def adapt(recipe: Path, out: Path, processes: int) -> tuple[list[dict[str, float]], str]:
    """Losses of every step and what the command line printed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*(launcher if processes > 1 else []), "-m", "vidapt.cli", "adapt", str(recipe), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, *command, "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [
        line for stage in ("upper_bound", ".") for line in (out / stage / "metrics.jsonl").read_text().splitlines()
    ]
    return [json.loads(line)["losses"] for line in lines], done.stdout


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
