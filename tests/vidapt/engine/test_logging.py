import errno
import io
import json

import pytest
from rich.console import Console

import vidapt.engine.logging
from vidapt.engine.logging import RunLog, drop_records_after, duration
from vidapt.errors import StorageError


def record(step, **changes):
    return {
        "step": step, "seconds": 1.0, "lr": 1e-4, "loss": 0.5, "grad_norm": 2.0, "losses": {"semantic": 0.5},
        "skipped": 0, "samples_per_second": 8.0, "eta_seconds": 90.0, **changes,
    }  # fmt: skip


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_written_and_shown(tmp_path, capsys):
    with RunLog(tmp_path, steps=20, start=0, tensorboard=False) as log:
        log.advance(10)
        log.metrics(record(10))
        log.metrics(record(15))
        log.metrics(record(20))
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [10, 15, 20]
    assert lines(tmp_path / "metrics.jsonl")[0] == record(10)
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "step 10/20  loss 0.5000  lr 1.00e-04  8.0 clips/s  ETA 1m 30s"
    assert [line.split()[1] for line in shown] == ["10/20", "20/20"]


def test_values_that_are_not_finite_become_null(tmp_path):
    with RunLog(tmp_path, steps=20, start=0, tensorboard=False) as log:
        log.metrics(record(10, loss=float("nan"), losses={"a": float("inf")}))
    (line,) = lines(tmp_path / "metrics.jsonl")
    assert line["loss"] is None
    assert line["losses"] == {"a": None}


def test_continuing_drops_later_and_cut_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2}\n{"step": 4}\n{"step": 6}\n{"st\xff')
    drop_records_after(path, 4)
    assert lines(path) == [{"step": 2}, {"step": 4}]
    drop_records_after(tmp_path / "missing.jsonl", 4)


def test_skipped_steps_are_written_with_their_clips(tmp_path, capsys):
    with RunLog(tmp_path, steps=20, start=0, tensorboard=False) as log:
        log.skipped({"step": 3, "reason": "not finite: semantic", "clips": ["a", "b"]})
    assert lines(tmp_path / "skipped.jsonl")[0]["clips"] == ["a", "b"]
    assert "step 3: skipped, not finite: semantic; clips: a; b" in capsys.readouterr().err


def test_progress_bar_on_a_terminal(tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(vidapt.engine.logging, "Console", lambda stderr: console)
    with RunLog(tmp_path, steps=20, start=5, tensorboard=False) as log:
        log.advance(10)
        log.metrics(record(10))
        log.say("a [b]line[/b] as it is")
    shown = console.file.getvalue()
    assert "10/20" in shown
    assert "loss 0.500" in shown
    assert "a [b]line[/b] as it is" in shown


def test_full_disk_is_a_storage_error(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunLog(tmp_path, steps=20, start=0, tensorboard=False) as log:
        monkeypatch.setattr(vidapt.engine.logging.json, "dumps", full)
        with pytest.raises(StorageError, match=r"metrics\.jsonl failed"):
            log.metrics(record(10))


def test_tensorboard_events_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    with RunLog(tmp_path, steps=20, start=0) as log:
        log.metrics(record(10))
    (events,) = tmp_path.glob("events.out.tfevents*")
    assert b"loss/semantic" in events.read_bytes()


def test_missing_tensorboard_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with RunLog(tmp_path, steps=20, start=0) as log:
        log.metrics(record(10))
    assert not list(tmp_path.glob("events*"))


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "5s"), (0, "0s"), (245, "4m 05s"), (7380, "2h 03m")])
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text
