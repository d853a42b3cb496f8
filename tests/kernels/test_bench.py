"""The benchmark suite: its gate, its numbers and what it prints, on tiny problems on the CPU."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.tiny_bench import CPU, SETTINGS, TINY, streets
from vidapt.kernels.bench import peak_memory
from vidapt.kernels.bench import run as running
from vidapt.kernels.bench.chart import draw
from vidapt.kernels.bench.contrast_rows import BOTH, ContrastRow
from vidapt.kernels.bench.gates import Gate, exact_gate, floating_gate, relative_error, worst
from vidapt.kernels.bench.measure import (
    Effort,
    estimate,
    extra_bytes,
    host_synchronisations,
    interleaved,
    launches,
    replayed,
    timing,
)
from vidapt.kernels.bench.paste_rows import NEW
from vidapt.kernels.bench.report import RowResult, commit, environment, report_data
from vidapt.kernels.bench.rows import CALL, OURS, Provider, Row, conditions
from vidapt.kernels.bench.suite import all_rows
from vidapt.kernels.bench.table import header, lines, notes, problem


def measured(row: Row) -> RowResult:
    return running.run_row(row, SETTINGS)


@pytest.fixture(scope="module")
def tiny() -> list[RowResult]:
    return list(running.run(TINY, SETTINGS))


# --- the gate


def test_relative_error() -> None:
    truth = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(torch.tensor([3.0, 4.5]), truth) == pytest.approx(0.1)
    assert relative_error(torch.tensor([0.0, 2.0]), torch.zeros(2)) == 2
    assert not Gate("full", "x", relative_error(torch.tensor([3.0]), truth), 1.0).passed
    assert not Gate("full", "x", nan, 1.0).passed


def test_floating_gate_allows_the_plain_error_and_a_little_more() -> None:
    truth = {"loss": torch.ones(1, dtype=torch.float64)}
    plain = {"loss": torch.full((1,), 1 + 2e-4)}
    allowed = floating_gate("full", plain, truth, plain, "fp16").allowed
    assert allowed == pytest.approx(2e-4 + 1e-3 / 3, rel=1e-2)
    assert floating_gate("full", plain, truth, {"loss": torch.full((1,), 2.0)}, "fp16").allowed == 1e-3
    assert floating_gate("full", plain, truth, None, "bf16").allowed == 5e-3
    assert not floating_gate("full", plain, truth, None, "exact").passed


def test_exact_gate_counts_differences() -> None:
    truth = {"ids": torch.tensor([1, 2, 3])}
    assert exact_gate("full", truth, truth).passed
    wrong = exact_gate("full", {"ids": torch.tensor([1, 5, 6])}, truth)
    assert (wrong.error, wrong.passed) == (2, False)
    assert not exact_gate("full", {"ids": torch.tensor([1, 2, 3], dtype=torch.int32)}, truth).passed


def test_worst_prefers_what_fails() -> None:
    gates = [Gate("a", "x", 0.9, 1.0), Gate("a", "y", 2e-5, 1e-5), Gate("a", "z", nan, 0.0)]
    assert worst(gates[:2]).quantity == "y"
    assert not worst([gates[0], gates[2]]).passed


def with_wrong(name: str, spoil: Callable[[Provider], Provider]) -> type[ContrastRow]:
    class Spoiled(ContrastRow):
        def providers(self, device: torch.device, compiled: str | None) -> list[Provider]:
            found = super().providers(device, compiled)
            return [spoil(provider) if provider.name == name else provider for provider in found]

    return Spoiled


def slightly_wrong(provider: Provider) -> Provider:
    def answer(inputs: Any) -> dict[str, Tensor]:
        return {name: 1.0001 * value for name, value in provider.answer(inputs).items()}

    return replace(provider, answer=answer)


def raising(provider: Provider) -> Provider:
    def answer(inputs: Any) -> dict[str, Tensor]:
        raise RuntimeError("no compiler\nsecond line")

    return replace(provider, answer=answer)


def test_red_gate_of_ours_fails_the_row_and_times_nothing() -> None:
    row = with_wrong(OURS, slightly_wrong)("P9", "", 1, 64, 64, 16, "self")
    result = measured(row)
    assert result.status == "failed"
    assert [found.name for found in result.red] == [OURS]
    assert all(found.modes == {} for found in result.providers)
    assert result.providers[0].gates[-1].error == pytest.approx(1e-4, rel=0.05)
    cells = lines(result, [result])
    assert "FAILED 0.0001 > " in cells[0][2]
    assert all(cell == "-" for line in cells for cell in line[3:] if cell)
    assert notes([result])[0].startswith("P9@cpu vidapt: FAILED, ")


def test_red_gate_of_a_baseline_costs_only_its_own_times() -> None:
    result = measured(with_wrong("chunked", slightly_wrong)("P9", "", 1, 64, 64, 16, "self"))
    assert result.status == "ok"
    assert [found.name for found in result.red] == ["chunked"]
    assert {found.name for found in result.providers if found.modes} == {OURS, "eager"}


def test_raising_baseline_is_reported() -> None:
    result = measured(with_wrong("chunked", raising)("P9", "", 1, 64, 64, 16, "self"))
    assert (result.status, result.red) == ("ok", [])
    assert notes([result]) == ["P9@cpu chunked: raised RuntimeError: no compiler"]
    assert lines(result, [result])[2][2] == "error"


def test_raising_kernel_fails_the_row() -> None:
    result = measured(with_wrong(OURS, raising)("P9", "", 1, 64, 64, 16, "self"))
    assert result.status == "failed"
    assert [found.name for found in result.red] == [OURS]


def test_what_does_not_fit_is_skipped() -> None:
    def too_large(provider: Provider) -> Provider:
        return replace(provider, needs_bytes=2**60)

    result = measured(with_wrong("eager", too_large)("P9", "", 1, 64, 64, 16, "self"))
    eager = result.providers[1]
    assert (eager.status, eager.modes, result.status) == ("skipped", {}, "ok")
    assert "1.07e+09 GiB" in eager.note
    assert all(result.speedup(found) is None for found in result.providers)


@pytest.mark.parametrize("row", TINY[1:], ids=lambda row: row.id)
def test_wrong_results_of_exact_operations_are_caught(row: Row) -> None:
    inputs = row.inputs(CPU, 0, streets)
    ours = row.providers(CPU, None)[0]
    judge = row.judge("full", inputs)

    def answer(given: Any) -> dict[str, Tensor]:
        found = {name: value.clone() for name, value in ours.answer(given).items()}
        last = found[list(found)[-1]].view(-1)
        last[-1] = ~last[-1] if last.dtype == torch.bool else last[-1] + 1
        return found

    assert judge(ours).passed
    assert not judge(replace(ours, answer=answer)).passed


# --- measuring


def test_timing() -> None:
    found = timing([5.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    assert (found.median, found.low, found.high, found.repetitions) == (3.5, 2.0, 5.0, 6)
    assert timing([2.0]).high == 2.0


def test_effort_bounds_repetitions() -> None:
    effort = Effort(1.0, 3, 50)
    assert [effort.repetitions(seconds) for seconds in (10.0, 0.1, 1e-6, 0.0)] == [3, 10, 50, 50]


def test_calls_take_turns_and_rotate_their_inputs() -> None:
    seen: list[str] = []

    def ready(name: str) -> Any:
        @contextmanager
        def make(number: int) -> Iterator[Callable[[], None]]:
            yield lambda: seen.append(f"{name}{number}")

        return make

    found = interleaved({"a": ready("a"), "b": ready("b")}, {"a": 4, "b": 2}, CPU, 3)
    assert seen == ["a0", "b0", "a1", "b1", "a2", "a0"]
    assert [found[name].repetitions for name in "ab"] == [4, 2]


def test_estimate_runs_the_call() -> None:
    assert 0 <= estimate(lambda: None, CPU) < 1


def test_conditions_are_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDAPT_KERNELS", "triton")
    with conditions("reference", "high"):
        assert os.environ["VIDAPT_KERNELS"] == "reference"
        assert torch.get_float32_matmul_precision() == "high"
    assert os.environ["VIDAPT_KERNELS"] == "triton"
    assert torch.get_float32_matmul_precision() == "highest"
    monkeypatch.delenv("VIDAPT_KERNELS")
    with pytest.raises(ZeroDivisionError), conditions("reference", "highest"):
        raise ZeroDivisionError
    assert "VIDAPT_KERNELS" not in os.environ


def test_gradients_do_not_pile_up() -> None:
    row = TINY[0]
    sets = [row.inputs(CPU, 0, streets)]
    ready = running.ready_call(row, row.providers(CPU, None)[0], BOTH, sets)
    gradients = []
    for _ in range(2):
        with ready(0) as call:
            call()
        gradients.append(sets[0].query.grad.clone())
    assert torch.equal(*gradients)


def test_peak_memory_of_the_plain_form_is_that_of_its_matrices() -> None:
    row = ContrastRow("x", "", 1, 1024, 1024, 16, "self")
    found = peak_memory.measure(row, "eager", BOTH, torch.get_num_threads())
    if found is None:
        pytest.skip("the kernel does not let a process reset its memory high-water mark")
    assert 8 * 2**20 < found < 100 * 2**20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_a_call_costs_on_a_gpu() -> None:
    values = torch.rand(2**20, device="cuda")
    assert launches(lambda: values + 1) == 1
    assert host_synchronisations(lambda: values + 1) == 0
    assert host_synchronisations(values.nonzero) >= 1
    assert extra_bytes(lambda: (values + 1).sum(), kept=0) == pytest.approx(2**22, rel=0.01)
    assert extra_bytes(lambda: values + 1, kept=2**22) == 0
    assert 0 < replayed(lambda: values + 1, lambda: None, Effort(0.01, 3, 9)).median < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_row_on_a_gpu() -> None:
    settings = replace(running.settings_for(torch.device("cuda"), streets, quick=True), compiled=None)
    result = running.run_row(ContrastRow("P0", "", 1, 512, 512, 64, "self"), settings)
    assert result.red == [], notes([result])
    cost = result.providers[0].modes[BOTH]
    assert cost.host_syncs == 0
    assert cost.launches is not None
    assert cost.launches > 0
    assert cost.graph_ms is not None


def test_settings() -> None:
    quick, full = (running.settings_for(CPU, streets, quick) for quick in (True, False))
    assert (quick.compiled, full.compiled) == (None, "default")
    assert quick.effort.seconds < full.effort.seconds
    gpu = running.settings_for(torch.device("cuda"), streets, quick=False)
    assert gpu.compiled == "max-autotune-no-cudagraphs"


def test_providers_on_a_gpu() -> None:
    for row in all_rows():
        found = row.providers(torch.device("cuda"), None)
        assert found[0].name == OURS
        assert {provider.kernels for provider in found if provider.ours} == {"triton"}
        assert {provider.kernels for provider in found if not provider.ours} == {"reference"}
        assert "reference" in {provider.name for provider in found}


# --- results


def test_one_tiny_row_of_each_group(tiny: list[RowResult]) -> None:
    assert [row.status for row in tiny] == ["ok"] * 4
    assert {row.group for row in tiny} == {"Contrast", "Paste", "Instance statistics", "Anchor sampling"}
    for row in tiny:
        assert len(row.providers) >= 2
        for found in row.providers:
            assert found.status == "ok", found.note
            assert found.gates
            assert set(found.modes) == set(row.modes)
            for cost in found.modes.values():
                assert 0 < cost.p20_ms <= cost.median_ms <= cost.p80_ms
                assert cost.repetitions == 2
        baseline = next(found for found in row.providers if found.name == row.baseline)
        assert row.speedup(baseline) == 1
    assert tiny[1].shape["taken"] > 0
    assert tiny[0].providers[0].modes[BOTH].tflops is not None
    assert tiny[1].providers[0].modes[NEW].gbps is not None
    assert tiny[3].providers[0].modes[CALL].gbps is None


def test_json_schema(tiny: list[RowResult]) -> None:
    found = environment(CPU, "vidapt bench kernels --device cpu")
    report = json.loads(json.dumps(report_data(tiny, found, quick=True, finished=False), allow_nan=False))
    assert set(report) == {"schema", "finished", "quick", "environment", "rows"}
    assert (report["schema"], report["finished"], report["quick"]) == (1, False, True)
    assert report["environment"]["torch"] == torch.__version__
    assert report["environment"]["command"] == "vidapt bench kernels --device cpu"
    for row in report["rows"]:
        assert set(row) == {
            "id", "label", "family", "group", "about", "shape", "baseline", "modes", "status", "providers",
        }  # fmt: skip
        for provider in row["providers"]:
            assert set(provider) == {"name", "ours", "status", "note", "gates", "modes"}
            for gate in provider["gates"]:
                assert set(gate) == {"problem", "quantity", "error", "allowed", "passed"}
            for cost in provider["modes"].values():
                assert set(cost) == {
                    "median_ms", "p20_ms", "p80_ms", "repetitions", "graph_ms", "tflops", "gbps", "floor_ms",
                    "floor_share", "extra_mib", "launches", "host_syncs",
                }  # fmt: skip


def test_json_of_a_result_that_is_not_a_number(tiny: list[RowResult]) -> None:
    provider = replace(tiny[0].providers[0], gates=[Gate("full", "loss", nan, 1e-5)], status="failed")
    data = replace(tiny[0], providers=[provider]).data()
    assert data["providers"][0]["gates"][0]["error"] is None
    assert data["providers"][0]["gates"][0]["passed"] is False
    json.dumps(data, allow_nan=False)


def test_commit_of_a_folder_without_git(tmp_path: Path) -> None:
    assert commit(tmp_path) is None


def test_table_has_a_line_for_each_provider(tiny: list[RowResult]) -> None:
    row = tiny[0]
    titles = header([row])
    assert titles[:5] == ["row", "provider", "error", "forward ms", "forward+backward ms"]
    found = lines(row, [row])
    assert [line[:2] for line in found] == [["P0@cpu", OURS], ["N=96 M=96 D=16 Q=K", "eager"], ["", "chunked"]]
    assert all(len(line) == len(titles) for line in found)
    assert found[1][titles.index("x eager")] == "1"
    assert found[0][titles.index("of floor")] == "-"
    assert problem(replace(row, shape={"P": 7, "N": 2, "taken": 21.0, "dtype": "fp32"})) == "P=7 N=2 taken=21.0 fp32"


def test_long_problems_take_lines_of_their_own(tiny: list[RowResult]) -> None:
    row = replace(tiny[3], shape={name: 123456 for name in ("first", "second", "third", "fourth", "fifth")})
    found = lines(row, [row])
    assert len(found) > len(row.providers)
    assert " ".join(line[0] for line in found[1:]).split() == [f"{name}=123456" for name in row.shape]


def test_graph_times_get_a_column(tiny: list[RowResult]) -> None:
    provider = tiny[0].providers[0]
    modes = {mode: replace(cost, graph_ms=0.05) for mode, cost in provider.modes.items()}
    row = replace(tiny[0], providers=[replace(provider, modes=modes), *tiny[0].providers[1:]])
    titles = header([row])
    cells = lines(row, [row])
    assert cells[0][titles.index("graph ms")] == "0.05/0.05"
    assert cells[1][titles.index("graph ms")] == "-"


def test_chart_is_a_picture_even_of_a_row_without_times(tiny: list[RowResult], tmp_path: Path) -> None:
    bare = replace(tiny[0], label="P9@cpu", providers=[replace(found, modes={}) for found in tiny[0].providers])
    draw([tiny[0], bare, *tiny[1:]], environment(CPU, ""), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
