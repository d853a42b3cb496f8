"""``vidapt demo`` in miniature: what it leaves, what it prints last, how it continues."""

import json
import sys
from pathlib import Path

import pytest

from tests.tiny_runs import tiny_recipe
from vidapt import cli
from vidapt.errors import ConfigError
from vidapt.io.reader import open_video
from vidapt.jobs import demo as job
from vidapt.jobs.demo import run_demo, write_example
from vidapt.jobs.worlds import seeded
from vidapt.recipe import load_recipe


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo recipe is the tiny one."""
    plain = load_recipe
    monkeypatch.setattr(job, "load_recipe", lambda name: tiny_recipe() if name == "demo" else plain(name))


@pytest.mark.usefixtures("small")
def test_the_demo_leaves_a_run_that_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "my demo"
    run_demo(out=run, seed=2, device="cpu")
    printed = capsys.readouterr().out.rstrip().splitlines()
    assert printed[-1] == f"vidapt segment YOUR_VIDEO.mp4 --checkpoint '{run}' --out segmented"
    assert any("mIoU" in line and "flicker" in line for line in printed)
    assert {"report.html", "comparison.json", "example.mp4", "example_segmented"} <= {p.name for p in run.iterdir()}
    assert json.loads((run / "example_segmented" / "summary.json").read_text())["frames"] == 4
    recipe = load_recipe(run / "config.yaml")
    assert recipe.training.seed == 2
    before = (run / "metrics.jsonl").read_bytes()
    run_demo(out=run, seed=2, device="cpu")
    assert (run / "metrics.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="already holds a run"):
        run_demo(out=run, seed=3, device="cpu")


@pytest.mark.parametrize("seed", [0, 3])
def test_seeds_share_no_world(seed: int) -> None:
    recipe = seeded(load_recipe("demo"), seed)
    seeds = [getattr(recipe, name).seed for name in ("source", "target", "validation", "evaluation", "upper_bound")]
    assert seeds == [10 * seed, 10 * seed + 1, 10 * seed + 2, 10 * seed + 3, 10 * seed + 1]
    assert recipe.training.seed == seed


def test_an_unknown_device_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vidapt", "demo", "--device", "tpu", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: device 'tpu' is not known")
    assert list(tmp_path.iterdir()) == []


def test_the_example_is_a_folder_of_images_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "write_video", lambda *_, **__: None)
    path = write_example(tiny_recipe(), tmp_path / "example.mp4")
    assert path == tmp_path / "example"
    with open_video(str(path)) as reader:
        assert [frame.image.shape for frame in reader if frame.image is not None] == [(64, 128, 3)] * 4


def test_an_example_needs_evaluation_videos(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no evaluation videos"):
        write_example(tiny_recipe(evaluation=None), tmp_path / "x.mp4")
