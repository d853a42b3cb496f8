import json
import logging
import os
import shutil
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vidapt.engine.checkpoint import (
    checkpoint_path,
    is_complete,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    newest_loadable,
    remove_unfinished,
    save_checkpoint,
    set_aside_after,
)
from vidapt.errors import CheckpointError

FILES = ["student.safetensors", "teacher.safetensors", "state/state.json", "state/tensors.safetensors",
         "state/manifest.json"]  # fmt: skip


def save(run, step, *, keep=2, value=None):
    value = float(step) if value is None else value
    weights = {"student": {"w": torch.full((3,), value)}, "teacher": {"w": torch.full((3,), value / 2)}}
    state = {"memory": [torch.arange(4), 1.5], "step": step}
    return save_checkpoint(run, step, weights, state, header={"version": "1"}, keep=keep)


def test_everything_comes_back(tmp_path):
    folder = save(tmp_path, 7)
    assert folder == checkpoint_path(tmp_path, 7) == latest_checkpoint(tmp_path)
    assert folder.name == "step_000007"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == sorted(FILES)
    loaded = load_checkpoint(folder)
    assert loaded.step == 7
    assert loaded.weights["student"]["w"].tolist() == [7.0] * 3
    assert loaded.weights["teacher"]["w"].tolist() == [3.5] * 3
    assert torch.equal(loaded.state["memory"][0], torch.arange(4))
    assert loaded.state["memory"][1] == 1.5


def test_header_names_the_weights(tmp_path):
    with safe_open(save(tmp_path, 7) / "teacher.safetensors", framework="pt") as file:
        assert file.metadata() == {"version": "1", "weights": "teacher", "step": "7"}


def test_files_follow_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        folder = save(tmp_path, 1)
    finally:
        os.umask(previous)
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in FILES} == {0o640}


def test_state_without_tensors_and_weights_without_entries_load(tmp_path):
    folder = save_checkpoint(tmp_path, 1, {"student": {}}, {"a": 1}, header={}, keep=1)
    assert load_checkpoint(folder).weights == {"student": {}}


def test_tied_and_strided_weights_are_saved(tmp_path):
    weight = torch.arange(6.0).view(2, 3)
    tensors = {"a": weight, "b": weight, "c": weight.t(), "d": torch.tensor(3), "e": weight.bfloat16()}
    folder = save_checkpoint(tmp_path, 1, {"student": tensors}, {}, header={}, keep=1)
    loaded = load_checkpoint(folder).weights["student"]
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_only_the_newest_are_kept(tmp_path):
    for step in (2, 10, 9, 100):
        save(tmp_path, step, keep=2)
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step_000010", "step_000100"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_000010", "step_000100"]


def test_steps_beyond_six_digits_sort_by_number(tmp_path):
    for step in (999_999, 1_000_000):
        save(tmp_path, step)
    assert latest_checkpoint(tmp_path).name == "step_1000000"


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3, value=1.0)
    save(tmp_path, 3, value=2.0)
    assert load_checkpoint(latest_checkpoint(tmp_path)).weights["student"]["w"][0] == 2.0


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert newest_loadable(tmp_path) is None
    remove_unfinished(tmp_path)


def test_incomplete_folders_do_not_count(tmp_path):
    good = save(tmp_path, 1)
    save(tmp_path, 2)
    (checkpoint_path(tmp_path, 2) / "teacher.safetensors").unlink()
    checkpoint_path(tmp_path, 3).mkdir()
    (tmp_path / "checkpoints" / "step_later").mkdir()
    assert latest_checkpoint(tmp_path) == good
    assert not is_complete(checkpoint_path(tmp_path, 3))


def test_leftovers_of_an_interrupted_save_are_removed(tmp_path):
    save(tmp_path, 1)
    shutil.copytree(checkpoint_path(tmp_path, 1), tmp_path / "checkpoints" / ".unfinished_step_000002")
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step_000001"]
    remove_unfinished(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000001"]


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.999])
def test_one_flipped_bit_is_noticed(tmp_path, name, place):
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    path = folder / name
    flip(path, int(place * path.stat().st_size))
    with pytest.raises(CheckpointError, match=str(folder)) as caught:
        load_checkpoint(folder)
    if name != "state/manifest.json":
        assert str(path) in str(caught.value)
    assert newest_loadable(tmp_path).step == 1


def test_every_bit_of_the_manifest_matters(tmp_path):
    folder = save(tmp_path, 2)
    path = folder / "state/manifest.json"
    content = path.read_bytes()
    for position in range(len(content)):
        flip(path, position)
        with pytest.raises(CheckpointError):
            load_checkpoint(folder)
        path.write_bytes(content)
    load_checkpoint(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_file_is_named(tmp_path, name, share):
    folder = save(tmp_path, 2)
    path = folder / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert not is_complete(folder)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path, name):
    folder = save(tmp_path, 2)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_another_format_is_refused(tmp_path):
    path = save(tmp_path, 2) / "state/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="has format 99; this version reads format 1"):
        load_checkpoint(path.parents[1])


def test_going_back_says_so_and_sets_the_damaged_one_aside(tmp_path, caplog):
    save(tmp_path, 1)
    flip(save(tmp_path, 2) / "student.safetensors", -1)
    with caplog.at_level(logging.WARNING):
        assert newest_loadable(tmp_path).step == 1
    assert "student.safetensors is damaged" in caplog.text
    assert "step_000001 instead" in caplog.text
    set_aside_after(tmp_path, 1)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["damaged_step_000002", "step_000001"]


def test_only_damaged_checkpoints_are_an_error(tmp_path):
    flip(save(tmp_path, 2) / "student.safetensors", -1)
    with pytest.raises(CheckpointError, match=r"no usable checkpoint under .*student\.safetensors is damaged"):
        newest_loadable(tmp_path)


def test_saving_where_weights_are_memory_mapped_leaves_them(tmp_path):
    folder = save(tmp_path, 3, value=1.0)
    mapped = load_file(folder / "student.safetensors")
    loaded, _ = load_weights(folder)
    save(tmp_path, 3, value=2.0)
    assert mapped["w"].tolist() == loaded["w"].tolist() == [1.0] * 3


def test_weights_load_from_a_run_a_folder_and_a_file(tmp_path):
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    for path in (tmp_path, folder):
        tensors, header = load_weights(path, "teacher")
        assert tensors["w"].tolist() == [1.0] * 3
        assert header["weights"] == "teacher"
    assert load_weights(folder / "student.safetensors")[0]["w"].tolist() == [2.0] * 3


def test_foreign_weights_load_without_a_manifest(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "student.safetensors")
    assert load_weights(tmp_path)[0]["w"].tolist() == [1.0, 1.0]


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        load_weights(tmp_path)
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"has no other weights \(it has: student, teacher\)"):
        load_weights(tmp_path, "other")


def test_a_damaged_weight_file_is_named(tmp_path):
    folder = save(tmp_path, 1)
    path = folder / "student.safetensors"
    flip(path, -1)
    with pytest.raises(CheckpointError, match=r"student\.safetensors is damaged"):
        load_weights(tmp_path)
    path.write_text("not weights")
    with pytest.raises(CheckpointError, match=r"student\.safetensors is not a readable safetensors file"):
        load_weights(path)
