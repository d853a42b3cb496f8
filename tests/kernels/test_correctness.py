"""The correctness checks on the CPU, where they judge the references: what is right passes and what is broken fails."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from math import inf, nan
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from vidapt.kernels import contrast, dispatch, paste
from vidapt.kernels.bench import correctness, correctness_running
from vidapt.kernels.bench.correctness import CheckResult, check, checks
from vidapt.kernels.bench.correctness_cases import Case, kernels_run, ours, poisoned
from vidapt.kernels.bench.gates import Gate

CPU = torch.device("cpu")
NOT_ON_THE_CPU = {"opcheck", "graphs", "compile", "waits", "memory"}
Results = tuple[Tensor, ...]


@pytest.fixture(autouse=True)
def _references_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDAPT_KERNELS", raising=False)


def add_check(monkeypatch: pytest.MonkeyPatch, *cases: Case) -> CheckResult:
    """Run a check of these cases."""
    entry = (lambda device, quick: cases), (lambda device, quick: "")
    monkeypatch.setitem(correctness.CHECKS, "made up", entry)
    return check("made up", CPU)


def gate(error: float, allowed: float = 1.0) -> Case:
    return Case(f"off by {error}", lambda: Gate(f"off by {error}", "loss", error, allowed))


@pytest.mark.parametrize("name", checks())
def test_the_references_are_right(name: str) -> None:
    result = check(name, CPU, quick=True)
    assert result.passed, json.dumps(result.data(), indent=1)
    assert bool(result.skipped) == (name in NOT_ON_THE_CPU)
    assert (result.cases > 0) != bool(result.skipped)
    json.dumps(result.data(), allow_nan=False)


def test_names() -> None:
    assert len(set(checks())) == len(checks())
    assert checks()[0] == "supervised.fp16"
    with pytest.raises(KeyError):
        check("supervised.fp8", CPU)


# --- what is broken must be seen


def replace_kernel(
    monkeypatch: pytest.MonkeyPatch, package: ModuleType, operation: str, spoil: Callable[[Results], Results]
) -> None:
    """Let dispatch choose a broken kernel where the references are not asked for."""
    choose = package.implementation

    def implementation(name: str, reference: Any, tensor: Tensor) -> Any:
        function = choose(name, reference, tensor)
        if name != operation or dispatch.requested() == "reference":
            return function
        return lambda *arguments, **options: spoil(function(*arguments, **options))

    monkeypatch.setattr(package, "implementation", implementation)


def scaled(results: Results) -> Results:
    return 1.01 * results[0], results[1]


def biased(results: Results) -> Results:
    """As one TF32 product would."""
    return results[0] + 1e-4 * results[0].detach(), results[1]


def with_nan(results: Results) -> Results:
    return torch.where(torch.arange(results[0].shape[-1]) == 3, nan, results[0]), results[1]


def last_unwritten(results: Results) -> Results:
    spoilt = torch.empty_like(results[0])
    spoilt.view(-1)[:-1] = results[0].flatten()[:-1]
    return spoilt, *results[1:]


def last_wrong(results: Results) -> Results:
    results[0].view(-1)[-1] += 1
    return results


def of_another_type(results: Results) -> Results:
    return results[0].double(), *results[1:]


def unrepeatable(results: Results) -> Results:
    return results[0] * (1 + 1e-6 * torch.rand(results[0].shape)), results[1]


@pytest.mark.parametrize(
    ("operation", "spoil", "name"),
    [
        ("supervised_contrast", scaled, "supervised.fp16"),
        ("supervised_contrast", biased, "supervised.exact"),
        ("supervised_contrast", with_nan, "supervised.bf16"),
        ("supervised_contrast", scaled, "self"),
        ("supervised_contrast", scaled, "bank"),
        ("supervised_contrast", with_nan, "labels"),
        ("supervised_contrast", scaled, "half_features"),
        ("supervised_contrast", scaled, "options"),
        ("supervised_contrast", with_nan, "views"),
        ("supervised_contrast", scaled, "depths.fp16"),
        ("supervised_contrast", unrepeatable, "repeat"),
        ("supervised_contrast", unrepeatable, "autocast"),
        ("paired_contrast", scaled, "paired.fp16"),
        ("paired_contrast", biased, "paired.exact"),
        ("sample_anchors", last_wrong, "anchors"),
        ("sample_anchors", last_unwritten, "anchors"),
        ("sample_anchors", of_another_type, "anchors"),
    ],
)
def test_a_broken_contrast_fails(
    monkeypatch: pytest.MonkeyPatch, operation: str, spoil: Callable[[Results], Results], name: str
) -> None:
    replace_kernel(monkeypatch, contrast, operation, spoil)
    result = check(name, CPU, quick=True)
    assert not result.passed
    assert result.worst[0]["passed"] is False
    json.dumps(result.data(), allow_nan=False)


@pytest.mark.parametrize("spoil", [last_wrong, last_unwritten, of_another_type])
@pytest.mark.parametrize(
    ("operation", "name"), [("paste_instances", "paste.fp32"), ("instance_stats", "stats")], ids=str
)
def test_a_broken_paste_fails(
    monkeypatch: pytest.MonkeyPatch, operation: str, name: str, spoil: Callable[[Results], Results]
) -> None:
    replace_kernel(monkeypatch, paste, operation, spoil)
    assert not check(name, CPU, quick=True).passed


def test_writing_beside_a_view_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def outside(results: Results) -> Results:
        whole = results[2]._base
        if whole is not None:
            whole.view(-1)[-1] += 1
        return results

    replace_kernel(monkeypatch, paste, "paste_instances", outside)
    result = check("paste.uint8", CPU, quick=True)
    assert "memory of ids" in {found["quantity"] for found in result.worst if not found["passed"]}


def test_what_raises_fails_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising() -> Gate:
        raise RuntimeError("out of shared memory\nsecond line")

    result = add_check(monkeypatch, gate(0.5), Case("too large", raising), gate(0.1))
    assert (result.cases, result.passed) == (3, False)
    assert result.worst[0]["case"] == "too large"
    assert result.worst[0]["quantity"] == "raised RuntimeError: out of shared memory"
    assert result.data()["worst"][0]["error"] is None


# --- what a result tells


def test_the_worst_cases_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    result = add_check(monkeypatch, *(gate(error) for error in (0.1, 2.0, 0.9, nan, 0.2, inf, 0.3)))
    assert [found["error"] for found in result.data()["worst"]] == [None, None, 2.0, 0.9, 0.3]
    assert result.cases == 7
    assert set(result.worst[0]) == {"case", "quantity", "error", "allowed", "passed"}
    assert add_check(monkeypatch, gate(0.1), gate(0.2)).passed


def test_no_cases_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not add_check(monkeypatch).passed
    assert not CheckResult("x", 0).passed
    assert CheckResult("x", 0, skipped="needs a GPU").passed


def test_references_on_a_gpu_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correctness, "kernels_run", lambda device: False)
    assert "the references run here" in check("self", torch.device("cuda")).skipped


def test_conditions() -> None:
    with ours(torch.device("cuda")):
        assert dispatch.requested() is None
    assert not kernels_run(CPU)
    before = torch.are_deterministic_algorithms_enabled()
    with poisoned():
        assert torch.empty(3).isnan().all()
        assert (torch.empty(3, dtype=torch.int32) == 2**31 - 1).all()
    assert torch.are_deterministic_algorithms_enabled() == before


# --- what runs on the CPU only in part


def test_compiled_operations() -> None:
    steps = correctness_running.exact_steps(CPU, True)
    assert set(steps) < {case.text for case in correctness_running.compile_cases(CPU, True)}
    for case in correctness_running.compile_cases(CPU, True):
        if case.text in ("self", *steps):
            assert case.judge().passed


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    counts = [1]
    monkeypatch.setattr(correctness_running, "host_synchronisations", lambda call: counts[0])
    return counts


def test_waits_and_memory_are_judged(monkeypatch: pytest.MonkeyPatch, waiting: list[int]) -> None:
    assert [case.judge().passed for case in correctness_running.wait_cases(CPU, True)] == [True] + 9 * [False]
    waiting[0] = 0
    assert [case.judge().passed for case in correctness_running.wait_cases(CPU, True)] == [False] + 9 * [True]
    for used, passed in ((2**20, True), (2**30, False)):
        monkeypatch.setattr(correctness_running, "extra_bytes", lambda call, kept, used=used: used)
        assert next(iter(correctness_running.memory_cases(CPU, True))).judge().passed == passed


@pytest.mark.timeout(600)
def test_operators_in_the_interpreter() -> None:
    """opcheck needs the kernels, and Triton's interpreter a process of its own."""
    code = (
        "import torch; from vidapt.kernels.bench.correctness import check;"
        "found = check('opcheck', torch.device('cpu'), quick=True);"
        "print(found); assert found.passed and found.cases == 6"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "VIDAPT_KERNELS": "triton", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=580, check=False)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
