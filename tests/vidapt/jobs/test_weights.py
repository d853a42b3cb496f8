"""Finding weights: run folders, checkpoint folders, single files, and which of a folder's weights are meant."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.tiny_runs import tiny_recipe, write_weights
from vidapt.engine.checkpoint import latest_checkpoint
from vidapt.errors import CheckpointError
from vidapt.jobs.train import RunResult
from vidapt.jobs.weights import find_weights, weights_path, write_calibration
from vidapt.segmenter import load


def checkpoint_of(run: Path) -> Path:
    folder = latest_checkpoint(run)
    assert folder is not None
    return folder


def test_a_run_a_checkpoint_and_a_file_are_the_same_weights(finished: RunResult) -> None:
    folder = checkpoint_of(finished.run)
    found = [find_weights(place) for place in (finished.run, folder, folder / "teacher.safetensors")]
    assert {one.path for one in found} == {folder / "teacher.safetensors"}
    expected = load_file(folder / "teacher.safetensors")
    for one in found:
        state = one.network.state_dict()
        assert all(torch.equal(state[name], value) for name, value in expected.items())
        assert one.tracking.birth_score == 0.05
        assert one.inference.weights == "teacher"


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_the_caller_may_choose(finished: RunResult, name: str) -> None:
    assert find_weights(finished.run, name).path.stem == name  # type: ignore[arg-type]
    assert weights_path(finished.run, name).stem == name  # type: ignore[arg-type]


def test_the_student_alone_is_found_where_the_recipe_says_student(finished: RunResult) -> None:
    assert find_weights(finished.run / "source_only").path.stem == "student"
    with pytest.raises(CheckpointError, match="has no teacher weights; it has student"):
        find_weights(finished.run / "source_only", "teacher")


def test_the_calibration_beside_the_weights_counts(weights: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(weights, tmp_path / "student.safetensors"))
    assert find_weights(path).embedding_threshold is None
    for value in (0.625, None):
        write_calibration(tmp_path, {"student": value, "teacher": 0.1})
        assert find_weights(path).embedding_threshold == value
        assert load(path, device="cpu").embedding_threshold == value


@pytest.mark.parametrize("text", ["no json", "[1]", '{"student": "high"}'])
def test_a_damaged_calibration_is_named(weights: Path, tmp_path: Path, text: str) -> None:
    path = Path(shutil.copy(weights, tmp_path / "student.safetensors"))
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"calibration\.json is damaged"):
        find_weights(path)


def test_the_settings_of_the_recipe_travel_with_the_file(tmp_path: Path) -> None:
    recipe = tiny_recipe(inference={"height": 40, "smoothing": 0.25}, tracking={"memory": 7})
    found = load(write_weights(tmp_path / "w.safetensors", recipe), device="cpu")
    assert (found.inference.height, found.inference.smoothing, found.tracking.memory) == (40, 0.25, 7)
    assert found.space.name == "cityscapes"


def test_what_holds_no_weights(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*: give a run folder"):
        find_weights(tmp_path / "none")
    with pytest.raises(CheckpointError, match="holds no complete checkpoint; train or resume it first"):
        find_weights(tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="is no vidapt checkpoint"):
        find_weights(tmp_path / "foreign.safetensors")


def test_a_header_of_another_version_is_refused(weights: Path, tmp_path: Path) -> None:
    with safe_open(weights, "pt") as file:
        header = dict(file.metadata())
    header["tracking"] = json.dumps({"iou_treshold": 0.3})
    save_file(load_file(weights), tmp_path / "w.safetensors", header)
    with pytest.raises(CheckpointError, match="its header does not fit this version"):
        find_weights(tmp_path / "w.safetensors")


def test_changed_weights_of_a_run_are_not_used(finished: RunResult, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.run, tmp_path / "run"))
    path = checkpoint_of(run) / "teacher.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"teacher\.safetensors is damaged"):
        find_weights(run)
    assert find_weights(run, "student").path.stem == "student"
