"""Finding weights: damage shows before anything is segmented."""

from pathlib import Path

import pytest
import torch

from vidapt.config import ModelConfig
from vidapt.engine.checkpoint import save_checkpoint
from vidapt.errors import CheckpointError
from vidapt.jobs.weights import find_weights, weights_path, write_calibration
from vidapt.labels import CITYSCAPES
from vidapt.models.network import build_network, network_header

MODEL = ModelConfig.model_validate(
    {
        "encoder": {"name": "test_convnext"},
        "semantic": {"channels": 16, "dilations": [1], "norm": "group"},
        "instance": {"channels": 16, "norm": "group"},
        "projection": {"dim": 8, "hidden": 16},
    }
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = build_network(MODEL, CITYSCAPES)
    weights = {"student": network.state_dict(), "teacher": network.state_dict()}
    save_checkpoint(tmp_path, 3, weights, {"step": 3}, header=network_header(MODEL, CITYSCAPES), keep=1)
    return tmp_path


def test_run_folder_checkpoint_and_file_name_the_same_weights(run):
    file = weights_path(run)
    assert file.name == "student.safetensors"
    assert weights_path(file.parent) == weights_path(file) == file
    assert weights_path(run, "teacher").name == "teacher.safetensors"


def test_flipped_byte_is_refused(run):
    file = weights_path(run)
    data = bytearray(file.read_bytes())
    data[-5] ^= 255
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        find_weights(run)


def test_truncated_file_is_refused(run):
    file = weights_path(run)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        find_weights(run)


def test_calibration_belongs_to_the_weights(run):
    write_calibration(weights_path(run).parent, {"student": 0.4, "teacher": None})
    assert find_weights(run, "student").embedding_threshold == 0.4
    assert find_weights(run, "teacher").embedding_threshold is None


def test_no_checkpoint_is_one_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        find_weights(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        find_weights(tmp_path / "missing")
