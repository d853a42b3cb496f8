"""The whole adaptation in two gloo processes equals one process at the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_runs import MODEL, tiny_recipe
from vidapt.recipe import dump_recipe


def adapt(recipe: Path, out: Path, processes: int) -> list[dict[str, float]]:
    """Losses of every step of both stages, from the run folder of the command line."""
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
    stages = (out / "source_only" / "metrics.jsonl", out / "metrics.jsonl")
    lines = [line for path in stages for line in path.read_text().splitlines()]
    return [json.loads(line)["losses"] for line in lines]


@pytest.mark.timeout(400)
def test_two_processes_adapt_like_one(tmp_path: Path) -> None:
    """Layer and group normalisation only: batch normalisation sees each process's own share on CPUs."""
    model = {**MODEL, "encoder": {"name": "test_convnext"}}
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(dump_recipe(tiny_recipe(model=model, validation=None, evaluation=None)))
    one, two = (adapt(recipe, tmp_path / f"run{count}", count) for count in (1, 2))
    assert len(one) == len(two) == 4
    for alone, shared in zip(one, two, strict=True):
        assert alone.keys() == shared.keys()
        assert shared == pytest.approx(alone, abs=1e-5, rel=1e-5)
    assert {"mixed/semantic", "mixed/temporal_contrast", "source/pixel_contrast", "pasted/center"} <= one[-1].keys()
