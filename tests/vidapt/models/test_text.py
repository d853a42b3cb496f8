"""The text table: its file, rows by class name, the orthonormal stand-in, and what bad files say."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from vidapt.config_method import TextAlignmentConfig
from vidapt.config_model import TextProjectionConfig
from vidapt.errors import ConfigError
from vidapt.labels import CITYSCAPES, LabelClass, LabelSpace
from vidapt.models.projection import TextProjection
from vidapt.models.text import (
    TextTable,
    find_table,
    load_text_table,
    orthonormal_table,
    read_text_table,
    save_text_table,
)


def space(*names: str) -> LabelSpace:
    return LabelSpace("streets", tuple(LabelClass(name, False, (0, 0, 0)) for name in names))


def table(names: Sequence[str] = ("road", "sky", "car")) -> TextTable:
    """Row i is filled with i; void comes last."""
    rows = torch.arange(len(names) + 1.0)[:, None].expand(-1, 4).contiguous()
    return TextTable(rows, tuple(names), "by hand", "abc")


def written(path: Path, **changes: str) -> Path:
    """A table whose header says something else."""
    header = {"text_table": "1", "names": json.dumps(["road", "sky", "car"]), "source": "s", "hash": "h"}
    save_file({"embeddings": table().embeddings}, path, header | changes)
    return path


# --- the file


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.safetensors"
    save_text_table(table(), path, {"model": "ViT"})
    found = read_text_table(path)
    assert torch.equal(found.embeddings, table().embeddings)
    assert (found.names, found.source, found.hash) == (("road", "sky", "car"), "by hand", "abc")


def test_header_of_the_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "table.safetensors"
    save_text_table(table(), path, {"model": "ViT", "hash": "not this one"})
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header.keys() == {"vidapt", "text_table", "names", "source", "hash", "model"}
    assert (header["model"], header["hash"], json.loads(header["names"])) == ("ViT", "abc", ["road", "sky", "car"])


def test_rows_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    save_text_table(table(), path)
    found = load_text_table(path, space("car", "road"))
    assert found.names == ("car", "road")
    assert found.embeddings[:, 0].tolist() == [2, 0, 3]
    assert found.hash == "abc"


def test_a_class_without_a_row(tmp_path: Path) -> None:
    path = tmp_path / "my table.safetensors"
    save_text_table(table(), path)
    with pytest.raises(ConfigError) as raised:
        load_text_table(path, space("road", "pole", "tram"))
    assert "has no row for pole, tram; build it: vidapt text build --labels classes.yaml" in str(raised.value)
    assert f"--out '{path}'" in str(raised.value)


def test_a_missing_file_says_how_to_build_it(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    with pytest.raises(ConfigError) as raised:
        find_table(path, CITYSCAPES)
    command = f"vidapt text build --labels cityscapes --model ViT-L-14-quickgelu --pretrained openai --out {path}"
    assert str(raised.value).startswith(f"text table {path} does not exist; build it: {command} (")


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    save_text_table(table(), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="truncated or no safetensors file"):
        load_text_table(path, space("road"))
    path.write_text("no tensors at all")
    with pytest.raises(ConfigError, match="truncated or no safetensors file"):
        load_text_table(path, space("road"))
    save_file({"weight": torch.zeros(3)}, path, {"model": "{}", "labels": "{}"})
    with pytest.raises(ConfigError, match="is no text table of this version"):
        load_text_table(path, space("road"))
    with pytest.raises(ConfigError, match="is no text table of this version"):
        read_text_table(written(path, text_table="2"))


@pytest.mark.parametrize("names", ['["road", "sky"]', "[]", "{}", "road, sky, car", "3"])
def test_names_that_do_not_fit_the_rows(tmp_path: Path, names: str) -> None:
    with pytest.raises(ConfigError, match="is damaged: its rows do not fit"):
        read_text_table(written(tmp_path / "table.safetensors", names=names))


@pytest.mark.parametrize(
    "rows", [torch.zeros(4, 2, dtype=torch.float16), torch.zeros(4), torch.full((4, 2), torch.nan), None]
)
def test_tensors_that_are_no_rows(tmp_path: Path, rows: torch.Tensor | None) -> None:
    path = written(tmp_path / "table.safetensors")
    header = {"text_table": "1", "names": '["a", "b", "c"]', "source": "s", "hash": "h"}
    save_file({"other": torch.zeros(1)} if rows is None else {"embeddings": rows}, path, header)
    with pytest.raises(ConfigError, match="is damaged"):
        read_text_table(path)


def test_what_is_stored_is_what_was_given(tmp_path: Path) -> None:
    save_text_table(table(), tmp_path / "t.safetensors")
    assert torch.equal(load_file(tmp_path / "t.safetensors")["embeddings"], table().embeddings)


# --- the stand-in


@pytest.mark.parametrize(("dim", "width"), [(None, 32), (20, 20), (24, 24)])
def test_orthonormal_rows(dim: int | None, width: int) -> None:
    found = orthonormal_table(CITYSCAPES, dim)
    assert found.embeddings.shape == (20, width)
    assert found.embeddings.dtype == torch.float32
    assert torch.allclose(found.embeddings @ found.embeddings.T, torch.eye(20), atol=1e-6)
    assert found.names == CITYSCAPES.names
    assert found.source == "orthonormal, seed 0: no meaning, for tests and the embedded test bed"


def test_default_width_grows_with_the_classes() -> None:
    many = space(*map(str, range(32)))
    assert orthonormal_table(many).embeddings.shape == (33, 64)
    assert orthonormal_table(space(*map(str, range(31)))).embeddings.shape == (32, 32)


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    first = orthonormal_table(CITYSCAPES, seed=3)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = orthonormal_table(CITYSCAPES, seed=3)
    assert torch.equal(first.embeddings, again.embeddings)
    assert torch.equal(state, torch.get_rng_state())
    assert first.hash == again.hash
    other = orthonormal_table(CITYSCAPES, seed=4)
    assert not torch.allclose(first.embeddings, other.embeddings, atol=0.1)
    assert len({first.hash, other.hash, orthonormal_table(CITYSCAPES, 64, seed=3).hash}) == 3


def test_orthonormal_rows_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"20 orthonormal rows \(19 classes and void\) do not fit into 19 values"):
        orthonormal_table(CITYSCAPES, 19)


# --- what a recipe names


def test_find_table(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    save_text_table(table(), path)
    read = TypeAdapter(TextAlignmentConfig).validate_python
    assert find_table(read({"table": str(path)}).table, space("sky")).embeddings[:, 0].tolist() == [1, 3]
    assert find_table(read({"table": "orthonormal"}).table, space("sky")).source.startswith("orthonormal, seed 0")


def test_projection_to_another_width() -> None:
    as_it_is = TextProjectionConfig(dim=32, project=False)
    wide = "model.semantic.channels to the width of the embeddings"
    with pytest.raises(
        ConfigError, match=rf"text embeddings have 32 values and the decoder map 16 channels; set .* true, or {wide}$"
    ):
        TextProjection(as_it_is, 16, 32)
    with pytest.raises(ConfigError, match=r"the encoder map 64 channels; set .* true, or .*alignment.at to decoder"):
        TextProjection(as_it_is.model_copy(update={"at": "encoder"}), 32, 64)
    fused, last = torch.rand(1, 32, 4, 4), torch.rand(1, 64, 1, 1)
    assert torch.equal(TextProjection(as_it_is, 32, 64)(fused, last), fused)
    projected = TextProjection(TextProjectionConfig(dim=5, at="encoder"), 32, 64)
    assert projected(fused, last).shape == (1, 5, 1, 1)
