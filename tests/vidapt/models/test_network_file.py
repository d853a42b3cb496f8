import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import vidapt
from tests.vidapt.models.small_network import SMALL, frames, seeded
from vidapt.config import EncoderConfig, ProjectionConfig, SemanticConfig
from vidapt.errors import CheckpointError, StorageError
from vidapt.labels import CAMVID, CITYSCAPES
from vidapt.models import weights
from vidapt.models.network import build_network
from vidapt.models.network_file import load_network, load_weights, network_header, save_network


@pytest.fixture
def network():
    return seeded()


def test_weights_file_gives_the_same_network(network, tmp_path):
    network.eval()
    path = tmp_path / "run" / "student.safetensors"
    save_network(network, path, {"step": "12"})
    loaded, space, header = load_network(path)
    assert torch.equal(loaded(frames()).logits, network(frames()).logits)
    assert not loaded.training
    assert (space, loaded.config, header["step"]) == (CITYSCAPES, SMALL, "12")
    assert header["vidapt"] == vidapt.__version__
    assert json.loads(header["model"])["semantic"]["channels"] == 16
    assert [entry.name for entry in path.parent.iterdir()] == ["student.safetensors"]


def test_batch_norm_statistics_are_saved(tmp_path):
    config = SMALL.model_copy(
        update={"encoder": EncoderConfig(name="test_resnet"), "semantic": SemanticConfig(channels=8)}
    )
    network = seeded(config)
    network(frames())
    save_network(network, tmp_path / "a.safetensors")
    loaded, _, _ = load_network(tmp_path / "a.safetensors")
    assert torch.equal(loaded(frames()).logits, network.eval()(frames()).logits)


def test_the_header_holds_no_path_to_pretrained_weights(tmp_path):
    encoder = EncoderConfig(name="test_convnext", pretrained=tmp_path / "gone.pth")
    header = network_header(SMALL.model_copy(update={"encoder": encoder}), CAMVID)
    assert "gone" not in header["model"]
    assert json.loads(header["labels"])["name"] == "camvid"


@pytest.fixture
def saved(network, tmp_path):
    save_network(network, tmp_path / "good.safetensors")
    return tmp_path / "good.safetensors"


@pytest.mark.parametrize("damage", ["missing", "empty", "header cut", "tail cut", "text", "folder"])
def test_damaged_files_give_one_clear_error(saved, tmp_path, damage):
    content, path = saved.read_bytes(), tmp_path / "bad.safetensors"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        parts = {
            "empty": b"",
            "header cut": content[:50],
            "tail cut": content[:-100],
            "text": b"no weights at all, sorry",
        }
        path.write_bytes(parts[damage])
    with pytest.raises(CheckpointError, match=r"bad\.safetensors") as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: {}, "no vidapt checkpoint"),
        (lambda header: header | {"model": '{"wings": 2}'}, "does not fit"),
        (lambda header: header | {"model": "{"}, "does not fit"),
        (lambda header: header | {"labels": "[]"}, "does not fit"),
        (lambda header: header | {"labels": '{"classes": []}'}, "does not fit"),
    ],
)
def test_headers_that_do_not_fit(saved, tmp_path, change, message):
    save_file(load_file(saved), tmp_path / "odd.safetensors", change(network_header(SMALL, CITYSCAPES)))
    with pytest.raises(CheckpointError, match=message):
        load_network(tmp_path / "odd.safetensors")


def test_another_architecture_is_named(saved, tmp_path):
    wider = SMALL.model_copy(update={"projection": ProjectionConfig(dim=6, hidden=9)})
    with pytest.raises(CheckpointError, match=r"another architecture.*projection\.0\.weight \(8, 16, 1, 1\) instead"):
        load_weights(seeded(wider), saved)
    state = load_file(saved)
    state["wings.weight"] = state.pop("semantic.classify.bias")
    save_file(state, tmp_path / "odd.safetensors", network_header(SMALL, CITYSCAPES))
    with pytest.raises(CheckpointError, match=r"1 missing: semantic.classify.bias; 1 unexpected: wings.weight"):
        load_network(tmp_path / "odd.safetensors")


def test_loading_into_a_network(saved, network):
    other = build_network(SMALL, CITYSCAPES)
    assert not torch.equal(other.semantic.classify.weight, network.semantic.classify.weight)
    assert load_weights(other, saved)["vidapt"] == vidapt.__version__
    assert torch.equal(other.semantic.classify.weight, network.semantic.classify.weight)
    with pytest.raises(CheckpointError, match=r"predicts 19 classes \(cityscapes\), the recipe 11 \(camvid\)"):
        load_weights(seeded(space=CAMVID), saved)


def test_a_failed_write_keeps_the_old_file(saved, network, monkeypatch):
    before = saved.read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        save_network(network, saved)
    assert saved.read_bytes() == before
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_a_full_disk_is_a_storage_error(tmp_path):
    """The limit on file size stands in for a full disk; it holds for a whole process, so this one is its own."""
    script = """
import resource, sys, torch
from vidapt.errors import StorageError
from vidapt.models.weights import write_weights
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_weights({"a": torch.zeros(100_000)}, Path(sys.argv[1]) / "a.safetensors", {})
except StorageError as error:
    print("refused", error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.startswith("refused"), done.stderr
    assert list(tmp_path.iterdir()) == []
