"""A process that fails while others wait in a reduction within their losses ends them all, with one line each."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_training import Job, ToyNetwork

from vidapt.engine.agreement import Status, agree, mean_in_losses, waits_in_forward

SETTINGS = {"steps": 4, "batch": 4}
ELSEWHERE = r"TrainingError: another process failed in step (\d); its message says why\n"


@pytest.fixture(scope="module")
def outcome(run_jobs, tmp_path_factory):
    """Folder of the runs and exit codes by name."""
    home = tmp_path_factory.mktemp("runs")
    shares = {"shares": True}
    jobs = {
        "one": Job("", settings=SETTINGS, step=shares),
        "two": Job("", world=2, settings=SETTINGS, step=shares),
        "losses": Job("", world=2, settings=SETTINGS, step=shares, rank_step={"fail_on": 10}),
        "main": Job("", world=2, settings=SETTINGS, step=shares, rank_step={"fail_on": 8}, rank=0),
        "three": Job("", world=3, settings={**SETTINGS, "batch": 6}, step=shares, rank_step={"fail_on": 9}),
        "loader": Job("", world=2, settings=SETTINGS, step=shares, rank_broken=4),
        "dying": Job("", world=2, settings=SETTINGS, step=shares, rank_step={"die_on": 10}),
        "forward": Job("", world=2, settings=SETTINGS, step={"norm": "synchronised"}, rank_step={"fail_on": 10}),
    }
    jobs = {name: replace(job, run=str(home / name)) for name, job in jobs.items()}
    return home, dict(zip(jobs, run_jobs(list(jobs.values())), strict=True))


def stderr(home: Path, name: str, rank: int) -> str:
    return (home / f"{name}_stderr_{rank}.txt").read_text()


def brightness(home: Path, name: str, rank: int = 0) -> list[float]:
    return [losses["brightness"] for losses in json.loads((home / name / f"result_{rank}.json").read_text())["losses"]]


def test_a_value_within_the_losses_is_that_of_all_processes(outcome):
    home, codes = outcome
    assert codes["two"] == [0, 0]
    assert brightness(home, "two", 0) == brightness(home, "two", 1) == pytest.approx(brightness(home, "one"))
    assert len(set(brightness(home, "one"))) > 1


@pytest.mark.parametrize(("name", "world", "failing", "sample"), [
    ("losses", 2, 1, 10), ("main", 2, 0, 8), ("three", 3, 1, 9),
])  # fmt: skip
def test_a_failure_reaches_those_that_wait_within_their_losses(outcome, name, world, failing, sample):
    home, codes = outcome
    assert codes[name] == [1] * world
    assert f"ValueError: cannot digest sample {sample}" in stderr(home, name, failing)
    step = 1 + sample // (2 * world)
    for rank in set(range(world)) - {failing}:
        assert re.fullmatch(ELSEWHERE, stderr(home, name, rank))[1] == str(step)


def test_a_loader_that_fails_ends_the_others_before_they_compute(outcome):
    home, codes = outcome
    assert codes["loader"] == [1, 2]
    assert stderr(home, "loader", 1) == "InputError: clip 4 is unreadable\n"
    step = int(re.fullmatch(ELSEWHERE, stderr(home, "loader", 0))[1])
    seen = [json.loads((home / "loader" / f"result_{rank}.json").read_text())["seen"] for rank in range(2)]
    assert [len(samples) for samples in seen] == [2 * (step - 1)] * 2


def test_a_process_that_dies_within_its_losses_ends_the_others(outcome):
    home, codes = outcome
    assert codes["dying"] == [1, 9]
    assert "process 0 has no contact with another process" in stderr(home, "dying", 0)


def test_where_forward_passes_are_shared_the_failing_process_leaves_at_once(outcome):
    home, codes = outcome
    assert codes["forward"] == [1, 1]
    assert "ValueError: cannot digest sample 10" in stderr(home, "forward", 1)
    assert "process 0 has no contact with another process" in stderr(home, "forward", 0)


def test_which_networks_share_their_forward_passes():
    assert waits_in_forward(ToyNetwork("synchronised"))
    assert not waits_in_forward(ToyNetwork("batch"))


def test_one_process_agrees_with_itself():
    status = Status(broken=True, stop=15, save=True, failed=True)
    assert agree(status, torch.device("cpu")) == status
    assert agree(Status(), torch.device("cpu")) == Status()
    value = torch.tensor(3.0)
    assert mean_in_losses(value) == value
    assert mean_in_losses(value) is not value
