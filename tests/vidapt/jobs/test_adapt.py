"""``vidapt adapt`` end to end in miniature: stages, run folders, interruption, refusals and the plan."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_runs import moving_frames, tiny_recipe, write_images, write_labelled, write_weights
from vidapt.adaptation.step import SelfTrainingStep
from vidapt.adaptation.supervised import SupervisedStep
from vidapt.config import Recipe
from vidapt.engine.checkpoint import latest_checkpoint
from vidapt.errors import CheckpointError, ConfigError, InputError, Interrupted, StorageError, UserError
from vidapt.io.encoder import write_video
from vidapt.jobs import adapt as adapt_job
from vidapt.jobs import train as train_job
from vidapt.jobs.adapt import adapt, recipe_for, resume_adapt, stages
from vidapt.jobs.train import RunResult
from vidapt.labels import CITYSCAPES
from vidapt.recipe import load_recipe


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def final_weights(run: Path, name: str = "teacher") -> dict[str, torch.Tensor]:
    folder = latest_checkpoint(run)
    assert folder is not None
    return load_file(folder / f"{name}.safetensors")


def assert_equal_weights(first: Path, second: Path) -> None:
    for name in ("student", "teacher"):
        one, other = final_weights(first, name), final_weights(second, name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


# --- what a finished run leaves


def test_a_run_folder_is_complete(finished: RunResult, finished_recipe: Recipe) -> None:
    run = finished.run
    assert load_recipe(run / "config.yaml") == finished_recipe
    environment = json.loads((run / "environment.json").read_text())
    assert environment["device"] == "cpu"
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert [record["step"] for record in records(run)] == [1, 2]
    assert list(run.glob("events.out.tfevents.*"))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_000002"]
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "comparison.mp4").is_file()
    assert not [name for name in tree(run) if "tmp" in name]
    for stage in ("source_only", "upper_bound"):
        assert {"config.yaml", "environment.json", "metrics.jsonl", "scores.json", "checkpoints"} <= {
            path.name for path in (run / stage).iterdir()
        }
        assert load_recipe(run / stage / "config.yaml").method is None


def test_scores_of_all_stages_are_kept_and_returned(finished: RunResult) -> None:
    comparison = json.loads((finished.run / "comparison.json").read_text())
    assert comparison["generated_test_bed"] is True
    assert list(comparison["stages"]) == list(finished.scores) == ["source_only", "upper_bound", "adapted"]
    assert comparison["stages"] == finished.scores
    own = json.loads((finished.run / "scores.json").read_text())
    assert {**own["teacher"], "weights": "teacher"} == comparison["stages"]["adapted"]
    assert comparison["stages"]["source_only"]["weights"] == "student"
    assert finished.scores["adapted"]["frames"] == 4
    calibration = json.loads((finished.run / "checkpoints/step_000002/calibration.json").read_text())
    assert calibration.keys() == {"student", "teacher"}


def test_the_stages_start_from_one_another(finished_recipe: Recipe, tmp_path: Path) -> None:
    made = {stage.name: stage for stage in stages(finished_recipe, tmp_path)}
    assert list(made) == ["source_only", "upper_bound", "adapted"]
    assert made["source_only"].recipe.training.initial is None
    assert made["upper_bound"].recipe.training.initial == tmp_path / "source_only"
    assert made["adapted"].recipe.training.initial == tmp_path / "source_only"
    assert made["upper_bound"].recipe.source == finished_recipe.upper_bound
    assert made["adapted"].run == tmp_path
    given = finished_recipe.training.model_copy(update={"initial": tmp_path / "weights"})
    names = [stage.name for stage in stages(finished_recipe.model_copy(update={"training": given}), tmp_path)]
    assert names == ["upper_bound", "adapted"]


def test_the_report_names_the_test_bed_and_the_next_command(finished: RunResult) -> None:
    text = (finished.run / "report.html").read_text()
    assert "test bed" in text
    assert f"vidapt segment YOUR_VIDEO.mp4 --checkpoint {finished.run}" in text
    assert text.count("<img") > 5
    assert "data:video/mp4;base64," in text


def test_the_report_says_what_was_trained(finished: RunResult) -> None:
    text = (finished.run / "report.html").read_text()
    for part in ("street_world fog seed 1, 1 generated videos of 4 frames (unlabelled)", "test_byobnet", "teacher"):
        assert part in text


# --- continuing


def test_finished_stages_are_not_run_again(
    finished: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.run, run)
    (run / "report.html").unlink()
    monkeypatch.setattr(adapt_job, "run_stage", lambda *_, **__: pytest.fail("a finished stage was run again"))
    again = resume_adapt(run, device="cpu")
    assert again.scores == finished.scores
    assert (run / "report.html").is_file()


class Stop:
    """Sends SIGTERM to this process after some updates of a kind of step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type, after: int) -> None:
        self.left = after
        plain = kind.after_update

        def after_update(step: Any) -> None:
            plain(step)
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(kind, "after_update", after_update)


@pytest.fixture(scope="module")
def short_recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = tiny_recipe(evaluation=None, validation=None)
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 3})})


@pytest.fixture(scope="module")
def straight(short_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapt(short_recipe, out=tmp_path_factory.mktemp("straight") / "run", device="cpu").run


@pytest.mark.parametrize(("kind", "after"), [(SupervisedStep, 1), (SelfTrainingStep, 2)])
def test_an_interrupted_run_resumes_to_the_same_weights(
    short_recipe: Recipe, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, after: int
) -> None:
    run = tmp_path / "my run"
    Stop(monkeypatch, kind, after)
    with pytest.raises(Interrupted, match="stopped by SIGTERM") as stopped:
        adapt(short_recipe, out=run, device="cpu")
    assert stopped.value.exit_code == 143
    assert str(stopped.value).endswith(f"continue with: vidapt adapt --resume '{run}'")
    assert not (run / "scores.json").exists()
    monkeypatch.undo()
    result = resume_adapt(run, device="cpu")
    assert result.steps == 3
    assert_equal_weights(run, straight)
    losses = [[(record["step"], record["losses"]) for record in records(place)] for place in (run, straight)]
    assert losses[0] == losses[1]


def test_a_run_is_not_overwritten(short_recipe: Recipe, straight: Path, tmp_path: Path) -> None:
    before = tree(straight)
    with pytest.raises(ConfigError, match=r"already holds a run; choose another --out, or continue it with --resume"):
        adapt(short_recipe, out=straight, device="cpu")
    assert tree(straight) == before
    (tmp_path / "half").mkdir()
    shutil.copytree(straight / "source_only", tmp_path / "half" / "source_only")
    with pytest.raises(ConfigError, match="already holds a run"):
        adapt(short_recipe, out=tmp_path / "half", device="cpu")
    assert not (tmp_path / "half" / "config.yaml").exists()


def test_resume_needs_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run folder: it has no config\.yaml"):
        resume_adapt(tmp_path)


def test_resume_of_a_run_that_never_saved_starts_it(short_recipe: Recipe, straight: Path, tmp_path: Path) -> None:
    """Killed before the first checkpoint: only config.yaml is there."""
    (tmp_path / "run").mkdir()
    shutil.copy(straight / "config.yaml", tmp_path / "run")
    resume_adapt(tmp_path / "run", device="cpu")
    assert_equal_weights(tmp_path / "run", straight)


# --- refused before anything is trained or written


def refused(recipe: Recipe, out: Path, error: type[Exception], words: str, **options: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        adapt(recipe, out=out, **{"device": "cpu", **options})
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_a_supervised_recipe_names_train(tmp_path: Path) -> None:
    refused(tiny_recipe(method=None), tmp_path / "run", ConfigError, r"purely supervised .*: vidapt train")


def test_an_unknown_device(tmp_path: Path) -> None:
    refused(tiny_recipe(), tmp_path / "run", UserError, "device 'tpu' is not known", device="tpu")


@pytest.mark.parametrize("part", ["source", "target", "validation", "evaluation", "upper_bound"])
def test_missing_data_of_any_stage(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDAPT_DATA", raising=False)
    kind = "videos" if part == "target" else "camvid"
    recipe = tiny_recipe(**{part: {"kind": kind, "root": str(tmp_path / "nowhere")}})
    refused(recipe, tmp_path / "run", InputError, r"no data at .*nowhere; give an existing path")


def test_unlabelled_footage_where_labels_are_needed(tmp_path: Path) -> None:
    write_images(moving_frames(3), tmp_path / "frames")
    recipe = tiny_recipe(evaluation={"kind": "videos", "root": str(tmp_path / "frames")})
    refused(recipe, tmp_path / "run", ConfigError, "is unlabelled footage")


def test_evaluation_without_a_common_class(tmp_path: Path) -> None:
    labelled = write_labelled(tmp_path / "kitchen", ["spoon", "table"])
    recipe = tiny_recipe(evaluation={"kind": "labelled_folder", "root": str(labelled)})
    expected = r"no class of the data \(spoon, table\) is one of label space 'cityscapes'"
    refused(recipe, tmp_path / "run", ConfigError, expected)


def test_initial_weights_of_another_architecture(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors")
    recipe = tiny_recipe()
    model = recipe.model.model_copy(update={"projection": recipe.model.projection.model_copy(update={"dim": 4})})
    training = recipe.training.model_copy(update={"initial": tmp_path / "w.safetensors"})
    changed = recipe.model_copy(update={"model": model, "training": training})
    with pytest.raises(
        CheckpointError, match=r"w\.safetensors belong to another architecture \(.*projection"
    ) as caught:
        adapt(changed, out=tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value)
    assert latest_checkpoint(tmp_path / "run") is None


def test_initial_weights_that_are_missing(tmp_path: Path) -> None:
    training = tiny_recipe().training.model_copy(update={"initial": tmp_path / "none"})
    recipe = tiny_recipe().model_copy(update={"training": training})
    refused(recipe, tmp_path / "run", CheckpointError, "no checkpoint at .*none")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"config\.yaml cannot be written \(Not a directory\)"):
        adapt(tiny_recipe(), out=tmp_path / "file" / "run", device="cpu")


# --- the plan


def test_dry_run_prints_every_stage_and_writes_nothing(
    finished_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run [1]"
    adapt(finished_recipe, out=out, device="cpu", dry_run=True)
    printed = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert printed.count("nothing is trained") == 3
    rows = ("run folder", "source", "target", "classes", "source classes", "evaluation", "evaluation classes",
            "network", "batch", "steps", "memory", "disk", "one step", "ETA")  # fmt: skip
    for row in rows:
        assert len(re.findall(f"│ {row} +│", printed)) == 3
    assert "unlabelled" not in printed
    assert "run [1]" in printed
    assert "things person, rider, car" in printed


# --- own data


SHRINK = (
    "model.encoder.name=test_byobnet", "model.encoder.pretrained=false", "model.semantic.channels=8",
    "model.instance.channels=8", "source.height=64", "target.height=64", "inference.height=64",
    "training.crop=[64, 64]", "training.steps=1", "warm_start.steps=1", "training.workers=0",
)  # fmt: skip


def test_own_folders_need_no_recipe(tmp_path: Path) -> None:
    from vidapt.recipe import override_recipe

    labelled = write_labelled(tmp_path / "labelled", ["road", "car"])
    video = write_video(moving_frames(6, (64, 96)), tmp_path / "drive.mp4", fps=10)
    assert video is not None
    recipe = override_recipe(recipe_for(labelled, video, None), SHRINK)
    result = adapt(recipe, out=tmp_path / "run", device="cpu")
    assert result.scores == {}
    assert not (tmp_path / "run" / "comparison.json").exists()
    assert load_recipe(tmp_path / "run" / "config.yaml").labels == str(labelled / "classes.yaml")
    text = (tmp_path / "run" / "report.html").read_text()
    assert "first target video" in text
    assert "<h2>Scores</h2>" not in text
    found = train_job.load(tmp_path / "run", device="cpu")
    assert found.space.names == ("road", "car")
    assert len(list(found.segment(video))) == 6


def test_own_folders_are_checked(tmp_path: Path) -> None:
    labelled = write_labelled(tmp_path / "labelled", ["road", "car"])
    target = tmp_path / "drive.mp4"
    with pytest.raises(InputError, match=r"no labelled folder at .*none"):
        recipe_for(tmp_path / "none", target, None)
    with pytest.raises(ConfigError, match=r"no class table at .*other\.yaml"):
        recipe_for(labelled, target, tmp_path / "other.yaml")
    (labelled / "classes.yaml").rename(tmp_path / "moved.yaml")
    with pytest.raises(ConfigError, match=r"no class table at .*labelled.classes\.yaml"):
        recipe_for(labelled, target, None)


def test_a_class_table_of_its_own_chooses_the_classes(tmp_path: Path) -> None:
    """--classes is the space to predict in; labels are mapped by name, the rest is ignored."""
    labelled = write_labelled(tmp_path / "labelled", ["road", "car"])
    (tmp_path / "classes.yaml").write_text("name: few\nclasses:\n- {name: car, thing: true}\n- {name: sky}\n")
    recipe = recipe_for(labelled, write_images(moving_frames(3), tmp_path / "frames"), tmp_path / "classes.yaml")
    source, target = train_job.open_data(recipe)
    semantic = source[0].target.semantic
    assert set(semantic.unique().tolist()) <= {0, 255}
    assert (semantic == 0).any()
    assert target[0].target is None


def test_weights_that_cannot_be_downloaded_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    plain = timm.create_model

    def offline(name: str, *, pretrained: bool, **options: Any) -> Any:
        if pretrained:
            raise ConnectionError("no network")
        return plain(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    encoder = {"name": "test_byobnet", "pretrained": True}
    recipe = tiny_recipe(model={**tiny_recipe().model.model_dump(), "encoder": encoder})
    with pytest.raises(CheckpointError, match=r"cannot be downloaded \(no network\); .* or to false") as caught:
        adapt(recipe, out=tmp_path / "run", device="cpu")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_the_placeholders_of_own_data_load_alone() -> None:
    recipe = load_recipe("own_data")
    assert recipe.method is not None
    assert recipe.training.crop[0] == recipe.inference.height == 512
    assert CITYSCAPES.name == recipe.labels
