"""``vidapt train``: one stage, its folder, its report, its refusals; and the pieces that it is put together from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_runs import tiny_recipe, write_labelled, write_weights
from vidapt.config import Recipe
from vidapt.engine.checkpoint import latest_checkpoint
from vidapt.errors import CheckpointError, ConfigError, UserError
from vidapt.jobs.train import RunResult, open_data, prepare_run, resume, train
from vidapt.jobs.weights import find_weights
from vidapt.recipe import load_recipe


@pytest.fixture(scope="module")
def supervised() -> Recipe:
    """Source-only training whose recipe still names the teacher, as ``methods/vidapt`` with ``method: null`` does."""
    return tiny_recipe(method=None, target=None, warm_start=None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, supervised: Recipe) -> RunResult:
    return train(supervised, out=tmp_path_factory.mktemp("train") / "run", device="cpu")


def weights_of(run: Path, name: str = "student") -> dict[str, torch.Tensor]:
    folder = latest_checkpoint(run)
    assert folder is not None
    return load_file(folder / f"{name}.safetensors")


def test_a_supervised_run_scores_and_segments_with_its_student(trained: RunResult) -> None:
    assert list(trained.scores) == ["student"]
    assert trained.steps == 2
    folder = latest_checkpoint(trained.run)
    assert folder is not None
    assert sorted(path.name for path in folder.iterdir()) == ["calibration.json", "state", "student.safetensors"]
    found = find_weights(trained.run)
    assert (found.path.name, found.inference.weights) == ("student.safetensors", "student")
    assert found.tracking.birth_score == 0.05


def test_a_single_stage_has_a_report(trained: RunResult) -> None:
    text = (trained.run / "report.html").read_text()
    assert "trained (student)" in text
    assert "source/semantic" in text


def test_the_run_is_reproducible(trained: RunResult, supervised: Recipe, tmp_path: Path) -> None:
    again = train(supervised, out=tmp_path / "run", device="cpu")
    first, second = weights_of(trained.run), weights_of(again.run)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert again.scores == trained.scores


def test_resume_of_a_finished_run_only_scores(trained: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidapt.adaptation.supervised import SupervisedStep

    monkeypatch.setattr(SupervisedStep, "losses", lambda *_: pytest.fail("a finished run was trained"))
    before = (trained.run / "metrics.jsonl").read_text()
    again = resume(trained.run, device="cpu")
    assert again.scores == trained.scores
    assert (trained.run / "metrics.jsonl").read_text() == before


def test_train_runs_an_adapting_recipe_from_given_weights(tmp_path: Path) -> None:
    recipe = tiny_recipe(evaluation=None, validation=None)
    start = write_weights(tmp_path / "start.safetensors")
    training = recipe.training.model_copy(update={"initial": start, "steps": 1, "lr": 1e-12})
    result = train(recipe.model_copy(update={"training": training}), out=tmp_path / "run", device="cpu")
    assert result.scores == {}
    given, student = load_file(start), weights_of(tmp_path / "run")
    learned = [name for name in given if "running" not in name and "num_batches" not in name]
    assert all(torch.allclose(given[name], student[name], atol=1e-6) for name in learned)
    assert not (tmp_path / "run" / "source_only").exists()
    metrics = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert {"source", "mixed", "confidence"} <= metrics["losses"].keys()


def test_class_balance_weighs_the_semantic_loss(supervised: Recipe, tmp_path: Path) -> None:
    plain = supervised.model_copy(update={"evaluation": None, "validation": None})
    losses = []
    for power in (0.0, 0.5):
        training = plain.training.model_copy(update={"class_balance": power, "steps": 1})
        run = tmp_path / str(power)
        train(plain.model_copy(update={"training": training}), out=run, device="cpu")
        losses.append(json.loads((run / "metrics.jsonl").read_text())["losses"]["source/semantic"])
    assert losses[0] != losses[1]


def test_an_existing_run_is_refused(trained: RunResult, supervised: Recipe) -> None:
    before = weights_of(trained.run)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(supervised, out=trained.run, device="cpu")
    after = weights_of(trained.run)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_stale_score_does_not_mark_a_new_run_as_finished(supervised: Recipe, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text("{}")
    prepare_run(supervised, tmp_path, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert load_recipe(tmp_path / "config.yaml") == supervised


@pytest.mark.parametrize("device", ["tpu", "cuda:0", ""])
def test_an_unknown_device_is_refused_before_anything_is_written(
    supervised: Recipe, tmp_path: Path, device: str
) -> None:
    with pytest.raises(UserError, match="is not known to training; use cpu, cuda or auto"):
        train(supervised, out=tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


def test_auto_is_a_device(supervised: Recipe, tmp_path: Path) -> None:
    train(supervised, out=tmp_path / "run", device="auto", dry_run=True)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def on_single_images(tmp_path: Path) -> Recipe:
    """An adaptation that asks for clips of two frames where the target holds single images."""
    root = write_labelled(tmp_path / "images", ["road", "car"])
    for kind in ("images", "semantic"):
        for path in (root / kind / "a").iterdir():
            path.rename(root / kind / path.name)
        (root / kind / "a").rmdir()
    recipe = tiny_recipe(target={"kind": "labelled_folder", "root": str(root)}, evaluation=None, validation=None)
    assert recipe.training.clip_length == 2
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 1})})


def test_where_a_domain_holds_single_images_all_clips_have_one_frame(
    on_single_images: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = open_data(on_single_images)
    assert [len(clips[0].frames) for clips in (source, target)] == [1, 1]
    run = train(on_single_images, out=tmp_path / "run", device="cpu").run
    assert capsys.readouterr().err.splitlines()[0] == "the data hold single images: every clip has one frame"
    losses = json.loads((run / "metrics.jsonl").read_text())["losses"]
    assert losses["mixed/temporal_contrast"] == 0
    assert losses["source/pixel_contrast"] > 0
    resumed = resume(run, device="cpu")
    assert resumed.steps == 1


def test_a_plan_shows_the_length_that_clips_have(
    on_single_images: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(on_single_images, out=tmp_path / "run", device="cpu", dry_run=True)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "2 clips of 1 frames" in printed.out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": "kitchen"}, "no label space 'kitchen'"),
        ({"training": {"clip_length": 9}}, "a clip of 9 frames, 1 apart, spans 9 frames"),
        ({"training": {"batch": 3, "accumulate": 2}}, "batch is 3"),
        ({"model": {"encoder": {"name": "resnet19"}}}, "encoder 'resnet19' is not known to timm; nearest names:"),
        ({"labels": "camvid", "source": {"kind": "street_world", "size": [16, 16]}}, "at least 32 pixels"),
    ],
)
def test_what_does_not_fit_is_one_line(supervised: Recipe, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    data = supervised.model_dump(mode="json")
    recipe = Recipe.model_validate({**data, **{key: merged(data[key], value) for key, value in change.items()}})
    with pytest.raises(UserError, match=words) as caught:
        train(recipe, out=tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value)


def merged(old: Any, new: Any) -> Any:
    return {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new


def test_initial_weights_of_another_label_space(supervised: Recipe, tmp_path: Path) -> None:
    start = write_weights(tmp_path / "start.safetensors")
    training = supervised.training.model_copy(update={"initial": start})
    recipe = supervised.model_copy(update={"labels": "camvid", "training": training})
    with pytest.raises(CheckpointError, match=r"predicts 19 classes \(cityscapes\), the recipe 11 \(camvid\)"):
        train(recipe, out=tmp_path / "run", device="cpu")
