"""`vidapt bench gpu`: order, clock, crashes, continuing, targets and the report; the miniature on a CPU."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from vidapt import cli
from vidapt.errors import ConfigError, InputError, UserError, VidaptError
from vidapt.jobs import bench_gpu as job
from vidapt.jobs import bench_gpu_sections as sections
from vidapt.jobs.bench_gpu_files import Plan, read_items, section_data, write_item
from vidapt.jobs.bench_gpu_report import SEGMENTED, TRAINED, judge, write_gpu_report, wrong_results
from vidapt.jobs.bench_gpu_sections import SECTIONS, Section
from vidapt.jobs.processes import Task

HERE = {"device": "CPU (here)", "commit": "abc", "time": "now"}
LATER = 1e9


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path / "out", "cpu", HERE)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One section with items a to d, of which b raises; what was measured in order."""
    calls: list[str] = []

    def measure(plan: Plan, item: str, deadline: float) -> dict[str, Any]:
        calls.append(item)
        if item == "b":
            raise RuntimeError("no such luck\nsecond line")
        return {"value": item}

    monkeypatch.setattr(job, "SECTIONS", {"letters": Section("letters", lambda _: list("abcd"), measure)})
    return calls


def run_here(tasks: Sequence[Task], function: Callable[[Any], None], **options: Any) -> dict[str, str]:
    """What ``run_tasks`` does, in this process."""
    for task in tasks:
        function(task.argument)
    return {}


def run_items(plan: Plan, deadline: float = LATER) -> None:
    job._run_section(plan, "letters", deadline)


def statuses(plan: Plan) -> dict[str, str]:
    return {name: item["status"] for name, item in read_items(plan.out).get("letters", {}).items()}


def test_an_item_that_fails_is_noted_and_the_others_go_on(
    plan: Plan, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "run_tasks", run_here)
    run_items(plan)
    assert measured == list("abcd")
    assert statuses(plan) == {"a": "ok", "b": "failed", "c": "ok", "d": "ok"}
    failed = read_items(plan.out)["letters"]["b"]
    assert failed["reason"] == "RuntimeError: no such luck"
    assert failed["environment"] == HERE
    assert list(section_data(plan, "letters").items()) == [(name, {"value": name}) for name in "acd"]


def test_a_later_call_measures_what_is_missing_or_failed(
    plan: Plan, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "run_tasks", run_here)
    run_items(plan)
    measured.clear()
    again = Plan(plan.out, "cpu", HERE | {"time": "later"})
    run_items(again)
    assert measured == ["b"]
    run_items(again)
    assert measured == ["b", "b"]


def die_at_b(tasks: Sequence[Task], function: Callable[[Any], None], **options: Any) -> dict[str, str]:
    """What ``run_tasks`` tells of a process that ends in the middle of item b."""
    share: job.Share = tasks[0].argument
    for item in share.items:
        write_item(share.plan, share.section, item, {"status": "running"})
        if item == "b":
            return {share.section: "its process ended by signal 11"}
        write_item(share.plan, share.section, item, {"status": "ok", "data": {}})
    return {}


def test_a_process_that_dies_costs_one_item(plan: Plan, measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def watched(tasks: Sequence[Task], function: Callable[[Any], None], **options: Any) -> dict[str, str]:
        started.append(list(tasks[0].argument.items))
        return die_at_b(tasks, function)

    monkeypatch.setattr(job, "run_tasks", watched)
    run_items(plan)
    assert started == [list("abcd"), list("cd")]
    assert statuses(plan) == {"a": "ok", "b": "failed", "c": "ok", "d": "ok"}
    assert read_items(plan.out)["letters"]["b"]["reason"] == "its process ended by signal 11"


def test_a_process_that_never_begins_is_not_started_for_ever(
    plan: Plan, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def never(tasks: Sequence[Task], function: Callable[[Any], None], **options: Any) -> dict[str, str]:
        calls.append(1)
        return {"letters": "its process ended with exit code 1"}

    monkeypatch.setattr(job, "run_tasks", never)
    run_items(plan)
    assert len(calls) == 1
    assert {item["reason"] for item in read_items(plan.out)["letters"].values()} == {
        "its process ended with exit code 1"
    }


def test_what_is_wrong_is_measured_again_and_after_what_is_missing(
    plan: Plan, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "run_tasks", run_here)
    earlier = Plan(plan.out, "cpu", HERE | {"time": "before"})
    write_item(earlier, "letters", "a", {"status": "ok", "data": {"passed": False}})
    write_item(earlier, "letters", "c", {"status": "ok", "data": {"status": "failed"}})
    write_item(earlier, "letters", "d", {"status": "ok", "data": {"passed": True, "status": "ok"}})
    run_items(plan)
    assert measured == ["b", "a", "c"]


def test_a_file_that_an_earlier_call_left_open_takes_no_blame(
    plan: Plan, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_item(Plan(plan.out, "cpu", HERE | {"time": "before"}), "letters", "d", {"status": "running"})
    monkeypatch.setattr(job, "run_tasks", die_at_b)
    run_items(plan)
    assert statuses(plan) == {"a": "ok", "b": "failed", "c": "ok", "d": "ok"}


def test_an_item_that_takes_too_long_says_so(plan: Plan, measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "run_tasks", lambda tasks, function, **options: leave_running(tasks[0].argument))

    def leave_running(share: job.Share) -> dict[str, str]:
        write_item(share.plan, share.section, share.items[0], {"status": "running"})
        return {share.section: f"its process ended with exit code {job.TOO_LONG}; a log has its output"}

    run_items(plan)
    assert {item["reason"] for item in read_items(plan.out)["letters"].values()} == {"took longer than 180 s"}


def test_a_gpu_that_answers_no_more_ends_the_process_with_what_was_found(
    plan: Plan, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(job, "_is_healthy", lambda plan: False)
    monkeypatch.setattr(job.os, "_exit", codes.append)
    job.perform(job.Share(plan, "letters", ("a",), time.monotonic() + 100))
    assert codes == [job.BROKEN_DEVICE]
    assert statuses(plan) == {"a": "ok"}


def test_what_the_clock_ends_is_measured_the_next_time(
    plan: Plan, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline = time.monotonic() + 0.2

    def too_slow(tasks: Sequence[Task], function: Callable[[Any], None], **options: Any) -> dict[str, str]:
        share: job.Share = tasks[0].argument
        write_item(share.plan, share.section, "a", {"status": "running"})
        time.sleep(max(0.0, deadline - time.monotonic()))
        return {"letters": "its process ended with exit code 75"}

    monkeypatch.setattr(job, "run_tasks", too_slow)
    run_items(plan, deadline)
    assert statuses(plan) == {}


def test_a_process_ends_itself_in_time(plan: Plan, tmp_path: Path) -> None:
    """For real: the clock runs while the item hangs, and the command returns inside its minutes."""
    begin = time.monotonic()
    deadline = begin + 6
    share = job.Share(plan, "correctness", ("supervised.exact",) * 10000, deadline)
    lost = job.run_tasks([Task("it", share, tmp_path / "log")], job.perform, jobs=1, watch=job._Watch())
    assert time.monotonic() - begin < 60
    assert f"exit code {job.OUT_OF_TIME}" in lost["it"]


def test_order_and_names_of_the_sections() -> None:
    order = ["correctness", "kernels", "tiles", "tuned", "training", "inference", "compare"]
    assert list(SECTIONS) == order


def test_sections_and_their_order_in_one_call(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {name: Section(f"about {name}", lambda _: [], lambda *_: {}) for name in ("first", "second")}
    monkeypatch.setattr(job, "SECTIONS", known)
    report = job.bench_gpu(plan.out, device="cpu", minutes=1)
    assert capsys.readouterr().out.splitlines()[:-1] == ["first: about first", "second: about second"]
    job.bench_gpu(plan.out, device="cpu", minutes=1, only=["second"])
    assert capsys.readouterr().out.splitlines() == ["second: about second", f"report: {report}"]
    assert report.read_text("utf-8").startswith("# Measured by vidapt bench gpu\n\nIn miniature on a CPU")


# --- refusals


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is none here; --device cpu runs all of it in miniature"):
        job.bench_gpu(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"minutes": 0}, "--minutes 0: give a positive number"),
        ({"minutes": -1.5}, "--minutes -1.5: give a positive number"),
        ({"only": ["speed", "tiles"]}, "unknown sections speed; allowed: correctness, kernels, tiles"),
        ({"device": "mps"}, "device 'mps' cannot be measured; use cuda or cpu"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        job.bench_gpu(tmp_path / "out", **{"device": "cpu", **options})
    assert not (tmp_path / "out").exists()


def test_results_of_another_device_are_not_mixed(plan: Plan) -> None:
    write_item(Plan(plan.out, "cuda", {"device": "NVIDIA H200"}), "training", "it", {"status": "ok", "data": {}})
    with pytest.raises(ConfigError, match="holds results of NVIDIA H200; choose another --out for CPU"):
        job.bench_gpu(plan.out, device="cpu")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"item": "x"}', '{"section": "training", "item": "x", "status": "ok"}']
)
def test_a_damaged_file_is_named(plan: Plan, text: str) -> None:
    path = plan.out / "results" / "training" / "it.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(InputError, match=r"it.json is damaged \(.*\); delete it to measure it again"):
        read_items(plan.out)


# --- tiles


def test_tiles_are_searched_where_a_row_misses_a_target(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Plan(plan.out, "cuda", HERE)
    monkeypatch.setattr(sections, "slow", lambda rows: [row["id"] for row in rows if row["late"]])
    for name, late in (("P2", True), ("P1", False)):
        write_item(gpu, "kernels", name, {"status": "ok", "data": {"id": name, "late": late}})
    assert sections.missed_rows(gpu) == ["P2"]
    entries = list(SECTIONS["tiles"].items(gpu))
    assert entries
    assert all(len(name.split(".")) == 3 for name in entries)
    assert SECTIONS["tiles"].items(plan) == []
    assert SECTIONS["tuned"].items(gpu) == []
    write_item(gpu, "tiles", entries[0], {"status": "failed", "reason": "no tile works"})
    assert SECTIONS["tuned"].items(gpu) == []
    for name in entries[1:]:
        write_item(gpu, "tiles", name, {"status": "ok", "data": {"tile": {"BLOCK_M": 64}, "trials": []}})
    assert SECTIONS["tuned"].items(gpu) == ["P2"]
    assert set(sections.chosen_tiles(gpu)) == {tuple(name.split(".")) for name in entries[1:]}


# --- targets and report


def training(rate: float, share: float | None) -> dict[str, Any]:
    rest = {"slowest": 1.0, "fastest": 9.0, "frames": 2, "instances": 1.5, "peak_mib": 100.0, "host_syncs": 2}
    return {"steps_per_second": rate, "kernel_share": share, **rest}


def segmentation(rate: float, wall: float, network: float) -> dict[str, Any]:
    run = {"frames_per_second": rate, "wall_ms": wall, "network_ms": network, "peak_mib": None}
    return {"weights": "random", "instances": 3.0, "tracks": 4, "batches": {"4": run}}


def test_targets_of_training_and_segmentation(plan: Plan) -> None:
    write_item(plan, "training", TRAINED, {"status": "ok", "data": training(8.0, 0.1)})
    write_item(plan, "training", TRAINED.replace("bf16", "fp32"), {"status": "ok", "data": training(4.0, 0.5)})
    write_item(plan, "inference", SEGMENTED, {"status": "ok", "data": segmentation(25.0, 40.0, 38.0)})
    write_item(plan, "inference", f"{SEGMENTED}-compiled", {"status": "ok", "data": segmentation(35.0, 28.0, 20.0)})
    found = {one["text"]: (one["value"], one["met"]) for one in judge(read_items(plan.out))}
    assert found == {
        f"{TRAINED}, steps per second": (8.0, True),
        f"{TRAINED}, % of a step in our kernels": (10.0, False),
        f"{SEGMENTED}-compiled, 4 frames a call: frames per second": (35.0, True),
        f"{SEGMENTED}-compiled, 4 frames a call: wall time over the network's": (1.4, False),
    }


def test_what_was_not_measured_has_no_verdict(plan: Plan) -> None:
    assert [(one["value"], one["met"]) for one in judge({})] == [(None, None)] * 3


def test_the_report_shows_everything_and_what_is_missing(plan: Plan) -> None:
    gpu = Plan(plan.out, "cuda", {"device": "Some GPU", "torch": "2.11", "triton": None, "time": "now"})
    write_item(gpu, "training", TRAINED, {"status": "ok", "data": training(8.0, 0.05)})
    write_item(gpu, "training", TRAINED.replace("bf16", "fp32"), {"status": "ok", "data": training(4.0, None)})
    write_item(gpu, "inference", SEGMENTED, {"status": "failed", "reason": "OutOfMemoryError: no room"})
    write_item(gpu, "compare", "suite", {"status": "running"})
    expected = {"training": [TRAINED, "another"], "inference": [SEGMENTED]}
    lines = write_gpu_report(gpu, expected).read_text("utf-8").splitlines()
    assert "- device Some GPU, torch 2.11" in lines
    assert f"| {TRAINED}, steps per second | 8 | at least 7 | met |" in lines
    assert f"| {SEGMENTED}: frames per second | - | at least 30 | not measured |" in lines
    assert "| training another | no time was left |" in lines
    assert f"| {TRAINED} | 8 | 100 | 5 | 2 | 1.5 | 2 |" in lines
    assert f"| inference {SEGMENTED} | OutOfMemoryError: no room |" in lines
    assert "| compare suite | not finished |" in lines
    assert json.loads((plan.out / "targets.json").read_text("utf-8"))[0]["met"] is True


def test_wrong_results_are_an_error_after_everything_is_written(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    check = {"name": "paste.uint8", "cases": 3, "worst": [], "skipped": "", "passed": False}
    other = {"name": "graphs", "cases": 0, "worst": [], "skipped": "needs a GPU", "passed": True}
    environment = {"device": job.environment(torch.device("cpu"), "it")["device"]}
    here = Plan(plan.out, "cpu", environment)
    for data in (check, other):
        write_item(here, "correctness", data["name"], {"status": "ok", "data": data})
    write_item(here, "kernels", "P2", {"status": "failed", "reason": "AcceleratorError: illegal address"})
    write_item(here, "training", "it", {"status": "failed", "reason": "OutOfMemoryError"})
    assert wrong_results(plan.out) == ["correctness paste.uint8", "kernels P2"]
    monkeypatch.setattr(job, "SECTIONS", {})
    with pytest.raises(VidaptError, match=r"wrong results: correctness paste\.uint8, kernels P2"):
        job.bench_gpu(plan.out, device="cpu", minutes=1)
    text = (plan.out / "report.md").read_text("utf-8")
    assert "| paste.uint8 | 3 | - | **FAILED** |" in text
    assert "| graphs | 0 | - | skipped: needs a GPU |" in text


# --- the miniature


@pytest.mark.slow
def test_the_miniature_measures_every_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["vidapt", "bench", "gpu", "--device", "cpu", "--out", "it", "--minutes", "20"])
    with pytest.raises(SystemExit) as outcome:
        cli.app()
    assert outcome.value.code == 0
    found = read_items(tmp_path / "it")
    assert set(found) == {"correctness", "kernels", "training", "inference", "compare"}
    assert {item["status"] for items in found.values() for item in items.values()} == {"ok"}
    assert (tmp_path / "it" / found["compare"]["street_world_gpu"]["data"]["report"]).is_file()
    assert "report: it/report.md" in capsys.readouterr().out
