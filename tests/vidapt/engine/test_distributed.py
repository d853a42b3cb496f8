import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_training import Job, ToyStep

from vidapt.engine.checkpoint import checkpoint_path, latest_checkpoint, load_weights
from vidapt.engine.distributed import (
    all_reduce_max,
    all_reduce_mean,
    average_gradients,
    digest,
    from_main,
    gather_objects,
    make_accelerator,
    on_main,
    rank,
    world_size,
)
from vidapt.errors import TrainingError, UserError

SETTINGS = {"steps": 6, "batch": 4, "max_grad_norm": 0.5}


@pytest.fixture(scope="module")
def outcome(run_jobs, tmp_path_factory):
    """Run every multi-process scenario once: folder of the runs and exit codes by name."""
    home = tmp_path_factory.mktemp("runs")
    jobs = {
        "one": Job("", settings=SETTINGS),
        "two": Job("", world=2, settings=SETTINGS),
        "parts": Job("", world=2, settings={**SETTINGS, "accumulate": 2}),
        "rare one": Job("", settings={**SETTINGS, "batch": 2}),
        "rare two": Job("", world=2, settings={**SETTINGS, "batch": 2}),
        "healthy": Job("", world=2, settings=SETTINGS, stop_after=3),
        "nan": Job("", world=2, settings=SETTINGS, stop_after=4, rank_step={"poison": {14: "semantic"}}),
        "gradient": Job("", world=2, settings=SETTINGS, stop_after=4, rank_step={"poison": {14: "gradient"}}),
        "failing": Job("", world=2, settings=SETTINGS, rank_step={"fail_on": 10}),
        "dying": Job("", world=2, settings=SETTINGS, rank_step={"die_on": 10}),
        "refused": Job("", world=2, settings={**SETTINGS, "batch": 3}),
        "stopped": Job("", world=2, settings=SETTINGS, signals=1, signal_at=2),
        "twice": Job("", settings=SETTINGS, signals=2, signal_at=2),
        "batch norm": Job("", world=2, settings={**SETTINGS, "steps": 2}, step={"norm": "batch"}),
        "growing": Job("", settings=SETTINGS, stop_after=2),
    }
    jobs = {name: replace(job, run=str(home / name)) for name, job in jobs.items()}
    jobs["grown"] = Job(str(home / "growing"), world=2, resume=True, settings=SETTINGS)
    jobs["continued"] = Job(str(home / "stopped"), resume=True, settings=SETTINGS)
    codes = run_jobs(list(jobs.values()))
    return home, dict(zip(jobs, codes, strict=True))


def result(home: Path, name: str, rank: int = 0):
    return json.loads((home / name / f"result_{rank}.json").read_text())


def assert_close_weights(first: Path, second: Path) -> None:
    for name in ("student", "teacher"):
        expected, found = load_weights(first, name)[0], load_weights(second, name)[0]
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("first", "second"), [("one", "two"), ("one", "parts"), ("rare one", "rare two")])
def test_two_processes_equal_one(outcome, first, second):
    home, codes = outcome
    assert codes[second] == [0, 0]
    assert_close_weights(home / first, home / second)
    metrics = [
        [json.loads(line) for line in (home / name / "metrics.jsonl").read_text().splitlines()]
        for name in (first, second)
    ]
    assert [line["step"] for line in metrics[0]] == [line["step"] for line in metrics[1]] == [4, 6]
    for expected, found in zip(*metrics, strict=True):
        for name in ("loss", "grad_norm", "lr"):
            assert found[name] == pytest.approx(expected[name], abs=1e-5)
        assert found["losses"]["semantic"] == pytest.approx(expected["losses"]["semantic"], abs=1e-5)


def test_losses_of_each_step_equal_one_process(outcome):
    home, _ = outcome
    expected = [losses["semantic"] for losses in result(home, "one")["losses"]]
    shares = [[losses["semantic"] for losses in result(home, "two", rank)["losses"]] for rank in range(2)]
    assert [(a + b) / 2 for a, b in zip(*shares, strict=True)] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["two", "parts"])
def test_every_sample_is_seen_once(outcome, name):
    home, _ = outcome
    seen = result(home, name, 0)["seen"] + result(home, name, 1)["seen"]
    assert sorted(seen) == list(range(24)) == sorted(result(home, "one")["seen"])


@pytest.mark.parametrize("name", ["two", "parts", "rare two", "nan", "grown"])
def test_processes_end_with_the_same_weights(outcome, name):
    home, _ = outcome
    run = "growing" if name == "grown" else name
    assert result(home, run, 0)["digest"] == result(home, run, 1)["digest"]


def test_a_part_that_only_one_process_uses_learns_and_an_unused_one_stays(outcome):
    home, _ = outcome
    assert {"rare" in losses for losses in result(home, "rare two", 1)["losses"]} == {False}
    weights, initial = load_weights(home / "rare two")[0], ToyStep().student.state_dict()
    assert not torch.equal(weights["rare.weight"], initial["rare.weight"])
    assert torch.equal(weights["never.weight"], initial["never.weight"])


@pytest.mark.parametrize("name", ["nan", "gradient"])
def test_a_nan_on_one_process_stops_the_step_on_all(outcome, name):
    home, codes = outcome
    assert codes[name] == [0, 0]
    assert [result(home, name, rank)["updates"] for rank in range(2)] == [3, 3]
    for weights in ("student", "teacher"):
        before, after = load_weights(home / "healthy", weights)[0], load_weights(home / name, weights)[0]
        assert all(torch.equal(before[key], after[key]) for key in before)
    skipped = json.loads((home / name / "skipped.jsonl").read_text())
    assert skipped["step"] == 4
    assert [clip for clip in skipped["clips"] if clip.startswith("source") and "(sample 14)" in clip]
    assert len(skipped["clips"]) == 8


def stderr(home, name, rank):
    return (home / f"{name}_stderr_{rank}.txt").read_text()


def test_a_process_that_fails_ends_the_others_with_one_line(outcome):
    home, codes = outcome
    assert codes["failing"] == [1, 1]
    assert "ValueError: cannot digest sample 10" in stderr(home, "failing", 1)
    assert stderr(home, "failing", 0).splitlines() == [
        "TrainingError: another process failed in step 3; its message says why"
    ]


def test_a_process_that_dies_ends_the_others_with_one_line(outcome):
    home, codes = outcome
    assert codes["dying"] == [1, 9]
    (line,) = [line for line in stderr(home, "dying", 0).splitlines() if line.startswith("TrainingError")]
    assert "process 0 has no contact with another process" in line


def test_a_batch_that_cannot_be_shared_is_refused(outcome):
    home, codes = outcome
    assert codes["refused"] == [2, 2]
    assert "training.batch is 3" in stderr(home, "refused", 0)


def test_a_signal_to_one_process_stops_all_after_the_same_step(outcome):
    home, codes = outcome
    assert codes["stopped"] == [143, 143]
    assert all("stopped by SIGTERM after step 3 of 6" in stderr(home, "stopped", rank) for rank in range(2))
    assert codes["continued"] == [0]
    assert_close_weights(home / "one", home / "stopped")


def test_a_second_signal_ends_the_process_at_once(outcome):
    home, codes = outcome
    assert codes["twice"] == [143]
    assert latest_checkpoint(home / "twice") is None


def test_more_processes_can_continue_a_run(outcome):
    home, codes = outcome
    assert codes["grown"] == [0, 0]
    seen = result(home, "growing", 0)["seen"] + result(home, "growing", 1)["seen"]
    assert sorted(seen) == list(range(8, 24))
    assert latest_checkpoint(home / "growing") == checkpoint_path(home / "growing", 6)
    assert_close_weights(home / "one", home / "growing")


def test_batch_norm_over_processes_without_gpus_warns_once(outcome):
    home, codes = outcome
    assert codes["batch norm"] == [0, 0]
    assert stderr(home, "batch norm", 0).count("batch normalisation uses each process's own 1/2 share") == 1
    assert "batch normalisation" not in stderr(home, "batch norm", 1)


def test_one_process_needs_no_group():
    value = torch.tensor([1.0, 2.0])
    assert torch.equal(all_reduce_mean(value), value)
    assert all_reduce_mean(value) is not value
    assert all_reduce_max([1, 2], torch.device("cpu")) == [1, 2]
    assert gather_objects("a") == ["a"]
    assert from_main("a") == on_main(lambda: "a") == "a"
    assert (rank(), world_size()) == (0, 1)
    parameter = torch.nn.Parameter(torch.zeros(2))
    average_gradients([parameter])
    assert parameter.grad is None


def test_errors_on_the_main_process_reach_everyone():
    def fail():
        raise TrainingError("no")

    with pytest.raises(TrainingError, match="no"):
        on_main(fail)


def test_digest_sees_every_bit():
    tensors = [torch.zeros(3), torch.tensor(True), torch.ones(2, dtype=torch.bfloat16)]
    changed = [tensors[0].clone(), *tensors[1:]]
    changed[0][2] = -0.0
    assert digest(tensors) == digest([tensor.clone() for tensor in tensors])
    assert digest(tensors) != digest(changed)


def test_accelerators_of_different_precision_can_follow_each_other():
    assert [make_accelerator(precision, "cpu").mixed_precision for precision in ("fp32", "bf16", "auto")] == [
        "no", "bf16", "no",
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="torch sees no GPU; use cpu or auto"):
        make_accelerator(device="cuda")
