"""``vidapt compare`` in miniature: cells, files, what is run again and what is not, failures, interruptions."""

import csv
import json
import os
import shutil
import signal
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.vidapt.jobs.tiny_suite import write_suite
from vidapt.errors import ConfigError, InputError, Interrupted, UserError
from vidapt.jobs import compare_run
from vidapt.jobs.compare import compare
from vidapt.jobs.compare_plan import Choice
from vidapt.jobs.compare_progress import last_step
from vidapt.jobs.compare_run import commit

BROKEN = {"extends": ["methods/source_only"], "labels": "kitchen"}
TWIN = {"extends": ["methods/source_only"], "name": "other"}


def suite_with(folder: Path, recipes: list[str], seeds: list[int], **changes: Any) -> str:
    folder.mkdir(exist_ok=True)
    for name, data in (("broken", BROKEN), ("twin", TWIN)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(data))
    paths = [str(folder / f"{name}.yaml") if name in ("broken", "twin") else name for name in recipes]
    one = {"benchmark": str(folder / "tiny_fog.yaml"), "recipes": paths, "seeds": seeds}
    return str(write_suite(folder, **{"comparisons": [one], **changes}))


def cells(out: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> str:
    return suite_with(tmp_path_factory.mktemp("suite"), ["source_only", "twin", "oracle"], [0, 1])


@pytest.fixture(scope="module")
def finished(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole suite, run to its end; no test may change it."""
    out = tmp_path_factory.mktemp("finished") / "out"
    compare(suite, out=out, jobs=2, device="cpu", command="vidapt compare tiny --jobs 2")
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the tasks of each call; they are not run."""
    calls: list[list[str]] = []
    monkeypatch.setattr(compare_run, "run_tasks", lambda tasks, *_, **__: calls.append([t.key for t in tasks]) or {})
    return calls


# --- a finished comparison


def test_what_a_comparison_leaves(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "cells", "logs", "report.html", "runs", "scores.csv", "scores.json", "suite.json"
    }  # fmt: skip
    assert list((finished / "runs").iterdir()) == [], "checkpoints are removed"
    names = {f"tiny_fog-{name}-{seed}" for name in ("start", "source_only", "twin", "oracle") for seed in (0, 1)}
    starts = cells(finished).keys() - names
    assert cells(finished).keys() >= names
    assert len(starts) == 2
    assert all(name.startswith("start-") for name in starts)


def test_what_a_cell_says(finished: Path) -> None:
    cell = cells(finished)["tiny_fog-source_only-1"]
    assert (cell["comparison"], cell["recipe"], cell["seed"], cell["weights"]) == (
        "tiny_fog",
        "source_only",
        1,
        "student",
    )
    assert (cell["steps"], cell["frames"], cell["threads"], cell["device"]) == (2, {"source": 4, "target": 0}, 1, "cpu")
    assert cell["command"] == "vidapt compare tiny --jobs 2"
    assert cell["seconds_per_step"] > 0
    assert cell["peak_memory"]["process"] > 2**26
    assert cell["peak_memory"]["gpu"] is None
    assert cell["packages"]["torch"]
    assert cell["commit"] == commit()
    assert cell["config"]["training"]["seed"] == 1
    scores = cell["scores"]["student"]
    assert {"miou", "pq", "pq_things", "sq", "rq", "vpq", "stq", "aq", "ap_coco", "flicker", "tc"} <= scores.keys()
    assert [row["class"] for row in scores["rows"]] == list(scores["iou"])
    assert (finished / "cells" / "tiny_fog-source_only-1.json").stat().st_size < 30_000


def test_all_cells_of_a_seed_start_from_the_same_weights(finished: Path) -> None:
    weights = {(cell["seed"], cell["start_weights"]) for cell in cells(finished).values() if cell["comparison"]}
    assert len(weights) == 2


def test_the_start_is_scored_without_training(finished: Path) -> None:
    start, further = (cells(finished)[f"tiny_fog-{name}-0"] for name in ("start", "source_only"))
    assert (start["steps"], start["seconds_per_step"]) == (0, None)
    assert start["scores"] != further["scores"]
    assert start["start"] == further["start"]


def test_equal_recipes_are_one_training(finished: Path) -> None:
    plain, twin = (cells(finished)[f"tiny_fog-{name}-0"] for name in ("source_only", "twin"))
    assert (plain["same_as"], twin["same_as"]) == (None, "tiny_fog-source_only-0")
    assert twin["scores"] == plain["scores"]
    assert not (finished / "logs" / "tiny_fog-twin-0.log").exists()
    assert (finished / "logs" / "tiny_fog-source_only-0.log").exists()


def test_files_agree_with_the_cells(finished: Path) -> None:
    table = json.loads((finished / "scores.json").read_text())["comparisons"]["tiny_fog"]
    assert table["generated_test_bed"] is True
    with (finished / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    for name in ("start", "source_only", "oracle"):
        values = [cells(finished)[f"tiny_fog-{name}-{seed}"]["scores"]["student"]["miou"] for seed in (0, 1)]
        mean, half = sum(values) / 2, abs(values[0] - values[1]) / 2
        found = table["recipes"][name]["scores"]["miou"]
        assert found["mean"] == pytest.approx(mean)
        assert found["deviation"] == pytest.approx(half * 2**0.5) == pytest.approx(statistics.stdev(values))
        assert [float(line["miou"]) for line in lines if line["recipe"] == name] == values
        text = (finished / "report.html").read_text()
        assert f"{100 * mean:.1f} ± {100 * found['deviation']:.1f}" in text


def test_the_report_says_what_it_must(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    for words in (
        "embedded test bed: generated street video, not a benchmark", "source_only (student)", "Gain over source_only",
        "within the spread of the seeds", "IoU by class", "mean over all 19 classes of cityscapes",
        "vidapt compare tiny --jobs 2", "cpu, 1 thread(s)", "8 finished, 0 missing", "torch ",
    ):  # fmt: skip
        assert words in text, words
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


# --- run again


def test_a_second_run_trains_nothing(suite: str, copied: Path, trained: list[list[str]]) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*.json")}
    compare(suite, out=copied, device="cpu", command="vidapt compare tiny --jobs 2")
    assert trained == [[]]
    assert {path: path.read_bytes() for path in copied.rglob("*.json")} == before


def test_a_changed_recipe_is_run_again_and_said(
    suite: str, copied: Path, trained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    compare(suite, out=copied, choice=Choice(overrides=("training.lr=5e-4",), seeds=(1,)), device="cpu")
    start = next(path.stem for path in (copied / "cells").glob("start-*-1.json"))
    assert trained == [[start, "tiny_fog-source_only-1", "tiny_fog-oracle-1"]]
    printed = capsys.readouterr().out
    changed = ", ".join(f"tiny_fog-{name}-1" for name in ("source_only", "twin", "oracle"))
    assert f"run with other settings before, run again: {changed}\n" in printed


def test_a_missing_cell_is_run_and_a_copy_is_taken_from_its_file(
    suite: str, copied: Path, trained: list[list[str]]
) -> None:
    for name in ("oracle", "twin"):
        (copied / "cells" / f"tiny_fog-{name}-0.json").unlink()
    compare(suite, out=copied, device="cpu")
    assert trained[0][1:] == ["tiny_fog-oracle-0"]
    assert cells(copied)["tiny_fog-twin-0"]["same_as"] == "tiny_fog-source_only-0"


def test_another_comparison_in_the_folder_is_refused(suite: str, copied: Path, trained: list[list[str]]) -> None:
    with pytest.raises(ConfigError, match=r"holds a comparison with first_world 0; choose another --out"):
        compare(suite, out=copied, choice=Choice(first_world=100), device="cpu")
    other = shutil.copy(suite, Path(suite).with_name("other.yaml"))
    with pytest.raises(ConfigError, match=r"holds a comparison with suite 'tiny'; choose another --out"):
        compare(str(other), out=copied, device="cpu")
    assert trained == []


def test_a_damaged_cell_stops_everything_in_one_line(suite: str, copied: Path, trained: list[list[str]]) -> None:
    path = copied / "cells" / "tiny_fog-oracle-1.json"
    path.write_text(path.read_text()[:99])
    with pytest.raises(InputError, match=r"tiny_fog-oracle-1.json is damaged .* delete it to run it again"):
        compare(suite, out=copied, device="cpu")
    assert trained == []


def test_a_dry_run_lists_cells_and_writes_nothing(
    suite: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: list[list[str]]
) -> None:
    compare(suite, out=tmp_path / "none", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "none").exists()
    assert lines[0].endswith("-0: shared start, 2 steps")
    assert "tiny_fog-twin-1: the same training as tiny_fog-source_only-1" in lines
    assert lines[-1] == "8 cells: 0 finished, 6 to run, 2 copies"
    compare(suite, out=finished, dry_run=True)
    assert capsys.readouterr().out.splitlines()[-1] == "8 cells: 8 finished, 0 to run, 0 copies"
    assert trained == []


def test_an_unknown_device_is_refused_before_anything_is_written(suite: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device 'tpu' is not known"):
        compare(suite, out=tmp_path / "out", device="tpu")
    assert not (tmp_path / "out").exists()


# --- failures and interruptions


def test_a_failing_cell_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    suite = suite_with(tmp_path / "suite", ["broken", "dacs"], [0])
    with pytest.raises(UserError, match=r"failed: tiny_fog-broken-0; .*failed.jsonl says why; the same command"):
        compare(suite, out=out, device="cpu", keep_runs=True)
    assert {"tiny_fog-dacs-0", "tiny_fog-start-0"} <= cells(out).keys()
    adapted = cells(out)["tiny_fog-dacs-0"]
    assert (list(adapted["scores"]), adapted["weights"]) == (["student", "teacher"], "student")
    assert adapted["frames"] == {"source": 4, "target": 4}
    (line,) = (out / "failed.jsonl").read_text().splitlines()
    failure = json.loads(line)
    assert failure["cell"] == "tiny_fog-broken-0"
    assert failure["error"].startswith("no label space 'kitchen'")
    assert "Traceback" in Path(failure["log"]).read_text()
    report = (out / "report.html").read_text()
    assert "tiny_fog-broken-0: no label space" in report
    assert "1 missing: tiny_fog-broken-0" in report
    assert {path.name for path in (out / "runs").iterdir()} >= {"tiny_fog-dacs-0"}, "--keep-runs"
    printed = capsys.readouterr().out
    assert "[1/3] tiny_fog-start-0: mIoU" in printed
    assert "tiny_fog-broken-0: failed: no label space" in printed


STEPS = 30


def test_an_interrupted_cell_goes_on_where_it_was(tmp_path: Path) -> None:
    settings = {"start": {"settings": {"training": {"steps": 1}}}}
    suite, out = suite_with(tmp_path / "suite", ["source_only"], [0], **settings), tmp_path / "out"
    choice, run = Choice(overrides=(f"training.steps={STEPS}",)), out / "runs" / "tiny_fog-source_only-0"
    threading.Thread(target=stop_at, args=(run, 3), daemon=True).start()
    with pytest.raises(
        Interrupted, match=r"stopped with 1 of 2 cells finished .*continue with: vidapt compare x"
    ) as caught:
        compare(suite, out=out, choice=choice, device="cpu", command="vidapt compare x")
    assert caught.value.exit_code == 130
    done = last_step(run)
    assert done is not None
    assert 3 <= done < STEPS
    compare(suite, out=out, choice=choice, device="cpu", keep_runs=True)
    assert cells(out)["tiny_fog-source_only-0"]["steps"] == STEPS
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    log = (out / "logs" / "tiny_fog-source_only-0.log").read_text()
    assert f"step {done + 1}/{STEPS} " in log
    assert log.count(f"step 1/{STEPS} ") == 1


def stop_at(run: Path, step: int) -> None:
    while (last_step(run) or 0) < step:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def test_last_step(tmp_path: Path) -> None:
    assert last_step(tmp_path) is None
    path = tmp_path / "metrics.jsonl"
    for text, step in (("", None), ('{"step": 1}\n{"ste', None), ('{"step": 1}\n{"step": 20}\n', 20)):
        path.write_text(text)
        assert last_step(tmp_path) == step
    path.write_text('{"step": 1, "text": "' + "x" * 9000 + '"}\n{"step": 2}\n')
    assert last_step(tmp_path) == 2
