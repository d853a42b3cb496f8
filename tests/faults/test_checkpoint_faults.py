"""What happens to checkpoints when the process is killed, the disk is full or a run is stopped from outside."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch

import vidapt.engine.checkpoint
from vidapt.engine.checkpoint import load_checkpoint, newest_loadable, save_checkpoint
from vidapt.errors import StorageError

ROOT = Path(__file__).parents[2]
TOY = ROOT / "tests" / "vidapt" / "engine" / "toy_training.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("kills", [12, pytest.param(80, marks=pytest.mark.slow)])
def test_killing_a_save_never_loses_the_last_checkpoint(tmp_path, kills):
    command = [sys.executable, str(ROOT / "tests" / "faults" / "saving_loop.py"), str(tmp_path), str(kills)]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stderr
    outcomes = json.loads(finished.stdout)
    assert len(outcomes) == kills
    for outcome in outcomes:
        # A save may have been renamed into place without its child having had the time to say so.
        assert outcome["found"] in {outcome["finished"], outcome["finished"] + 1}
        assert outcome["whole"]
        assert not [name for name in outcome["after"] if not name.startswith("step_")]
    assert outcomes[-1]["found"] > 0
    assert any(outcome["before"] != outcome["after"] for outcome in outcomes), "no kill hit a save; save more"


def save(run: Path, step: int, entries: int = 200_000) -> Path:
    weights = {name: {"w": torch.full((entries,), float(step))} for name in ("student", "teacher")}
    return save_checkpoint(run, step, weights, {"memory": torch.zeros(entries)}, header={}, keep=1)


def assert_only_step_one(run: Path) -> None:
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_000001"]
    loaded = newest_loadable(run)
    assert loaded is not None
    assert loaded.weights["teacher"]["w"].eq(1).all()


@pytest.mark.parametrize("file", ["student.safetensors", "teacher.safetensors", "tensors.safetensors"])
def test_full_disk_while_writing_tensors_keeps_the_old_checkpoint(tmp_path, monkeypatch, file):
    save(tmp_path, 1)
    write = vidapt.engine.checkpoint.save_file

    def full(tensors, path, metadata):
        write(tensors, path, metadata)
        if path.name == file:
            os.truncate(path, 100)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(vidapt.engine.checkpoint, "save_file", full)
    with pytest.raises(StorageError, match=r"step_000002 failed .*the disk is full; free some space, then resume"):
        save(tmp_path, 2)
    assert_only_step_one(tmp_path)


@pytest.mark.parametrize("function", ["_write_text", "_flush", "_sha256"])
def test_full_disk_in_the_small_files_keeps_the_old_checkpoint(tmp_path, monkeypatch, function):
    save(tmp_path, 1)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(vidapt.engine.checkpoint, function, full)
    with pytest.raises(StorageError):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert_only_step_one(tmp_path)


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """Let no file of this process grow beyond 100 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_write_that_the_system_refuses_keeps_the_old_checkpoint(tmp_path, small_files_only):
    save(tmp_path, 1, entries=1000)
    with pytest.raises(StorageError, match="File too large"):
        save(tmp_path, 2)
    assert_only_step_one(tmp_path)


def test_a_folder_that_refuses_writing_is_a_storage_error(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(StorageError, match="check the folder's disk and permissions"):
        save(tmp_path, 1)


def test_a_removal_that_fails_does_not_fail_the_save(tmp_path, monkeypatch, caplog):
    save(tmp_path, 1)

    def refuse(folder):
        raise PermissionError("not allowed")

    monkeypatch.setattr(vidapt.engine.checkpoint, "_discard", refuse)
    assert load_checkpoint(save(tmp_path, 2)).step == 2
    assert "could not remove the old checkpoint" in caplog.text


def toy_command(folder: Path, jobs: list[dict[str, Any]]) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    return [sys.executable, str(TOY), str(folder / "jobs.json")]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_from_outside_saves_and_the_run_resumes_to_the_same_weights(tmp_path, number, code):
    job = {"run": str(tmp_path / "run"), "settings": {"steps": 60}, "step": {"norm": "batch", "dropout": 0.3}}
    command = toy_command(tmp_path / "stopped", [{**job, "pause": 0.02}])
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=PIPE, stderr=PIPE, text=True) as stopped:
        assert stopped.stdout is not None
        assert "step 7\n" in stopped.stdout
        stopped.send_signal(number)
        _, errors = stopped.communicate(timeout=120)
    assert stopped.returncode == code, errors
    assert errors.splitlines()[-1].startswith(f"Interrupted: stopped by {number.name} after step")
    reached = newest_loadable(tmp_path / "run")
    assert reached is not None
    assert 7 <= reached.step < 60

    straight = {**job, "run": str(tmp_path / "straight")}
    command = toy_command(tmp_path / "resumed", [{**job, "resume": True}, straight])
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert finished.stdout.splitlines()[-1] == "[[0], [0]]", finished.stderr
    digests = [json.loads((tmp_path / name / "result_0.json").read_text())["digest"] for name in ("run", "straight")]
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_torchrun_restarts_from_the_last_checkpoint_after_a_process_died(tmp_path):
    job = {"run": str(tmp_path / "run"), "settings": {"steps": 6, "checkpoint_every": 1}, "rank_step": {"die_on": 14}}
    command = toy_command(tmp_path / "jobs", [job])[1:]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    environment = {**ENVIRONMENT, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    finished = subprocess.run(
        [sys.executable, *launcher, *command], env=environment, capture_output=True, text=True, timeout=200
    )
    assert finished.returncode == 0, finished.stderr
    results = [json.loads((tmp_path / "run" / f"result_{rank}.json").read_text()) for rank in range(2)]
    assert sorted(results[0]["seen"] + results[1]["seen"]) == list(range(12, 24))

    straight = {"run": str(tmp_path / "straight"), "world": 2, "settings": job["settings"]}
    command = toy_command(
        tmp_path / "other", [straight, {**straight, "run": str(tmp_path / "unused"), "stop_after": 1}]
    )
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=120)
    undisturbed = json.loads((tmp_path / "straight" / "result_0.json").read_text())
    assert results[0]["digest"] == results[1]["digest"] == undisturbed["digest"]
