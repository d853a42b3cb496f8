"""What the compile-only gate catches, on kernels that are bad on purpose and on tile tables that do not fit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from vidapt.kernels import tiles
from vidapt.kernels.bench import compile_only
from vidapt.kernels.bench.binaries import Resources, resources
from vidapt.kernels.bench.budgets import Budgets, Violation, load_budgets
from vidapt.kernels.bench.compile_only import Report, check_operation, check_problems, main
from vidapt.kernels.bench.compile_problems import Problem
from vidapt.kernels.bench.fake_driver import CHIPS, fake_driver

Limits = dict[str, Any]


@triton.jit
def copy(source, target, keep, size, masked: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)
    if masked:
        kept = tl.load(keep + place, mask=place < size, other=0) != 0
        tl.store(target + place, tl.load(source + place, mask=kept), mask=kept)
    else:
        tl.store(target + place, tl.load(source + place, mask=place < size), mask=place < size)


@triton.jit
def multiply(left, right, product, rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr):
    row, column, feature = tl.arange(0, rows), tl.arange(0, columns), tl.arange(0, depth)
    left_tile = tl.load(left + row[:, None] * depth + feature[None, :])
    right_tile = tl.load(right + feature[:, None] * columns + column[None, :])
    result = tl.dot(left_tile, right_tile, input_precision="ieee")
    tl.store(product + row[:, None] * columns + column[None, :], result)


@triton.jit
def accumulate(source, target, steps, block: tl.constexpr):
    place = tl.arange(0, block)
    total = tl.zeros((block,), tl.float32)
    for step in range(steps):
        total += tl.load(source + step * block + place)
    tl.store(target + place, total)


def copying(masked: bool = False, **settings: int) -> Problem:
    source, keep = torch.ones(4096), torch.ones(4096, dtype=torch.uint8)
    settings = {"block": 1024, "num_warps": 4, "num_stages": 1} | settings
    return Problem("copy", lambda: copy[(4,)](source, torch.zeros(4096), keep, 4096, masked=masked, **settings))


def multiplying(rows: int, columns: int, depth: int, warps: int = 4, dtype: torch.dtype = torch.float16) -> Problem:
    def launch() -> None:
        left, right = torch.zeros(rows, depth, dtype=dtype), torch.zeros(depth, columns, dtype=dtype)
        sizes = {"rows": rows, "columns": columns, "depth": depth}
        multiply[(1,)](left, right, torch.zeros(rows, columns), **sizes, num_warps=warps, num_stages=1)

    return Problem(f"multiply {dtype}", launch)


def spilling(target: str) -> Problem:
    chip = CHIPS[target].target
    block = {"cuda": 512, "hip": 1024}[chip.backend] * chip.warp_size  # twice the registers of one warp
    return Problem("sums", lambda: accumulate[(1,)](torch.zeros(4), torch.zeros(4), 3, block=block, num_warps=1))


def budgets_of(kernel: str, **limits: Any) -> Budgets:
    return load_budgets() | {"kernels": {kernel: {"operation": "toy"} | limits}}


def found(target: str, problem: Problem, budgets: Budgets) -> list[Violation]:
    return check_problems(target, [problem], budgets).violations


def measured(target: str, problem: Problem) -> Resources:
    with fake_driver(target) as recording:
        problem.launch()
    return resources(recording.launched[0])


TWO = {"cuda": 2, "hip": 1}  # AMD's warps have twice the threads
WIDE: Limits = {"at_most": {"narrow_loads": 0, "narrow_stores": 0}, "at_least": {"wide_loads": TWO, "wide_stores": TWO}}


@pytest.mark.parametrize("target", CHIPS)
def test_good_kernels_break_nothing(target: str) -> None:
    assert found(target, copying(), budgets_of("copy", **WIDE)) == []
    assert found(target, multiplying(64, 64, 64), budgets_of("multiply", dots=True)) == []


@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_120", "gfx90a", "gfx942"])
def test_a_tile_beyond_the_shared_memory_of_the_chip(target: str) -> None:
    (violation,) = found(target, multiplying(128, 128, 512), budgets_of("multiply"))
    assert violation.kernel == "multiply"
    assert violation.target == target
    assert "rows=128 columns=128 depth=512" in violation.tile
    assert "shared memory" in violation.found


def test_the_same_tile_fits_where_there_is_more_shared_memory() -> None:
    report = check_problems("sm_90", [multiplying(64, 64, 512)], budgets_of("multiply"))
    assert report.violations == []
    assert [row.resources.shared_bytes for row in report.rows] == [2 * 64 * 512 * 2]
    assert found("sm_89", multiplying(64, 64, 512), budgets_of("multiply"))[0].found.startswith("OutOfResources")


def test_a_tile_beyond_the_shared_memory_of_the_budget() -> None:
    budgets = budgets_of("multiply", at_most={"shared_bytes": {"sm_90": 65536, "hip": 1024}})
    (violation,) = found("sm_90", multiplying(64, 64, 512), budgets)
    assert (violation.found, violation.allowed) == ("131072 shared_bytes", "at most 65536")


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_a_kernel_that_spills(target: str) -> None:
    problem = spilling(target)
    broken = found(target, problem, budgets_of("accumulate"))
    assert [(violation.found.split()[1], violation.allowed) for violation in broken] == [("spill_bytes", "at most 0")]
    assert measured(target, problem).spills > 0


def test_a_kernel_with_too_many_registers() -> None:
    report = check_problems("sm_90", [copying()], budgets_of("copy", at_most={"registers": 1}))
    registers = report.rows[0].resources.registers
    assert [violation.found for violation in report.violations] == [f"{registers} registers"]


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_a_kernel_with_scalar_accesses(target: str) -> None:
    broken = found(target, copying(masked=True), budgets_of("copy", **WIDE))
    assert {violation.found.split()[1] for violation in broken} == WIDE["at_most"].keys() | WIDE["at_least"].keys()


def test_narrow_accesses_are_allowed_where_the_problem_is_not_aligned() -> None:
    problem = copying(masked=True)._replace(aligned=False)
    assert found("sm_90", problem, budgets_of("copy", **WIDE)) == []


def test_a_dot_without_the_tensor_cores_of_hopper() -> None:
    (violation,) = found("sm_90", multiplying(16, 16, 64), budgets_of("multiply", dots=True))
    assert violation.found.startswith("dots by ")
    assert violation.found.endswith(" HMMA")
    assert violation.allowed == "only HGMMA"


def test_exact_operands_need_no_tensor_cores() -> None:
    problem = multiplying(16, 16, 16, dtype=torch.float32)
    assert found("sm_90", problem, budgets_of("multiply", dots=True)) == []
    assert measured("sm_90", problem).dots == {}


DOTS = {"sm_80": "HMMA", "sm_89": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "sm_120": "HMMA"}


@pytest.mark.parametrize("target", CHIPS)
def test_resources_of_a_dot(target: str) -> None:
    taken = measured(target, multiplying(128, 64, 64))
    assert set(taken.dots) == {DOTS.get(target, "v_mfma")}
    assert taken.registers > 32
    assert 128 in taken.loads


@pytest.mark.parametrize("target", CHIPS)
def test_resources_of_a_copy(target: str) -> None:
    taken = measured(target, copying())
    threads = 4 * CHIPS[target].target.warp_size
    assert taken.loads == taken.stores == {128: 1024 // threads // 4}
    assert (taken.spills, taken.spill_bytes, taken.dots) == (0, 0, {})


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_resources_of_narrow_accesses(target: str) -> None:
    taken = measured(target, copying(masked=True))
    values = 1024 // (4 * CHIPS[target].target.warp_size)
    assert taken.stores == {32: values}
    assert taken.loads[32] >= values


def test_without_disassembly_spills_are_still_known() -> None:
    with fake_driver("sm_90") as recording:
        spilling("sm_90").launch()
    quick, whole = (resources(recording.launched[0], disassemble=whole) for whole in (False, True))
    assert quick.spill_bytes == whole.spill_bytes > 0
    assert (quick.registers, quick.shared_bytes) == (whole.registers, whole.shared_bytes)
    assert quick.loads == {}


def test_rows_name_the_problem_and_the_settings() -> None:
    (row,) = check_problems("sm_90", [multiplying(128, 64, 64)], budgets_of("multiply")).rows
    assert (row.kernel, row.target) == ("multiply", "sm_90")
    assert row.tile == "multiply torch.float16 rows=128 columns=64 depth=64 num_warps=4 num_stages=1"


def test_only_the_named_kernels_are_compiled() -> None:
    problem = copying()
    assert check_problems("sm_90", [problem._replace(kernels={"multiply"})], budgets_of("copy")).rows == []
    assert len(check_problems("sm_90", [problem._replace(kernels={"copy"})], budgets_of("copy")).rows) == 1


def test_a_kernel_is_measured_once() -> None:
    assert len(check_problems("sm_90", [copying(), copying()], budgets_of("copy")).rows) == 1


def test_a_kernel_without_a_budget() -> None:
    (violation,) = found("sm_90", copying(), budgets_of("multiply"))
    assert (violation.kernel, violation.found) == ("copy", "no budget")


def test_a_problem_that_raises_does_not_hide_the_next() -> None:
    def fail() -> None:
        raise KeyError("lists no tile")

    report = check_problems("sm_90", [Problem("broken", fail), copying()], budgets_of("copy"))
    assert [row.kernel for row in report.rows] == ["copy"]
    assert [str(violation) for violation in report.violations] == [
        "launch on sm_90, broken: KeyError: 'lists no tile'; allowed: a launch"
    ]


def test_a_failure_is_not_blamed_on_the_kernel_of_another_problem() -> None:
    def fail() -> None:
        raise KeyError("lists no tile")

    report = check_problems("sm_90", [copying(), Problem("broken", fail)], budgets_of("copy"))
    assert [(violation.kernel, violation.tile) for violation in report.violations] == [("launch", "broken")]


def test_a_kernel_that_does_not_compile() -> None:
    empty = Problem("nothing", lambda: copy[(1,)](None, None, None, 4, masked=False, block=64))
    (violation,) = found("sm_90", empty, budgets_of("copy"))
    assert violation.found.startswith(("CompilationError", "AttributeError", "ValueError", "TypeError"))


BLOCK = {"block": 1024, "num_warps": 4, "num_stages": 1}


@pytest.fixture
def operation(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """Return a function that runs the gate on an operation with this tile table, whose launch may change its tile."""

    def run(target: str, table: dict[str, Any], *, gpus: dict[str, str] | None = None, **changed: int) -> Report:
        def launch() -> None:
            copying(**tiles.tile("toy", "copy", "any") | changed).launch()

        budgets = budgets_of("copy") | {"gpus": gpus or {}}
        monkeypatch.setattr(tiles, "tile_table", lambda operation: {"toy": table}[operation])
        monkeypatch.setitem(compile_only.PROBLEMS, "toy", lambda classes, thorough: [Problem("copy", launch)])
        monkeypatch.setattr(compile_only, "load_budgets", lambda: budgets)
        return check_operation("toy", target)

    return run


def test_the_tile_of_the_architecture_wins_over_the_fallback(operation: Callable[..., Report]) -> None:
    table = {"cuda": {"copy": {"any": BLOCK}}, "sm_90": {"copy": {"any": BLOCK | {"num_warps": 2}}}}
    hopper, ampere = operation("sm_90", table), operation("sm_80", table)
    assert hopper.lookups == {("toy", "sm_90", "copy", "any")}
    assert ampere.lookups == {("toy", "cuda", "copy", "any")}
    assert [row.tile for row in hopper.rows] == ["copy block=1024 num_warps=2 num_stages=1"]
    assert [row.tile for row in ampere.rows] == ["copy block=1024 num_warps=4 num_stages=1"]
    assert hopper.violations == ampere.violations == []


def test_the_tiles_of_a_gpu_by_name_are_compiled_too(operation: Callable[..., Report]) -> None:
    table = {"cuda": {"copy": {"any": BLOCK}}, "NVIDIA H200": {"copy": {"any": BLOCK | {"num_warps": 8}}}}
    gpus = {"NVIDIA H200": "sm_90"}
    assert operation("sm_90", table, gpus=gpus).lookups == {
        ("toy", "cuda", "copy", "any"),
        ("toy", "NVIDIA H200", "copy", "any"),
    }
    assert operation("sm_80", table, gpus=gpus).lookups == {("toy", "cuda", "copy", "any")}


def test_a_tile_that_no_problem_looks_up(operation: Callable[..., Report]) -> None:
    broken = operation("sm_90", {"cuda": {"copy": {"any": BLOCK, "other": BLOCK}}}).violations
    assert [(violation.kernel, violation.tile) for violation in broken] == [("copy", "tile other of cuda")]


def test_a_tile_that_is_looked_up_but_launched_with_other_settings(operation: Callable[..., Report]) -> None:
    report = operation("sm_90", {"cuda": {"copy": {"any": BLOCK}}}, block=512)
    assert [violation.tile for violation in report.violations] == ["tile any of cuda"]
    assert report.lookups == set()


def test_a_chip_without_any_tile(operation: Callable[..., Report]) -> None:
    broken = operation("gfx942", {"cuda": {"copy": {"any": BLOCK}}}).violations
    assert [(violation.kernel, violation.found) for violation in broken] == [("copy", "never compiled")]


def test_a_chip_without_the_tile_of_a_problem(operation: Callable[..., Report]) -> None:
    broken = operation("gfx942", {"hip": {"other": {"any": BLOCK}}}).violations
    assert any("lists no copy for any" in violation.found for violation in broken)


def test_tiles_of_a_gpu_that_the_gate_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "tile_table", lambda _: {"NVIDIA Z9": {}, "sm_90": {}, "interpreter": {}, "hip": {}})
    monkeypatch.setattr(compile_only, "check_operation", lambda *_: Report())
    assert [violation.target for violation in compile_only.misplaced_tiles("toy")] == ["NVIDIA Z9"]


def test_a_stand_in_compiles_only_what_the_other_chip_does_not(operation: Callable[..., Report]) -> None:
    table = {"hip": {"copy": {"any": BLOCK}}}
    same = operation("gfx90a", table)
    assert (same.rows, same.violations, same.lookups) == ([], [], {("toy", "hip", "copy", "any")})
    table["gfx942"] = {"copy": {"any": BLOCK | {"num_warps": 2}}}
    assert [row.tile for row in operation("gfx90a", table).rows] == ["copy block=1024 num_warps=4 num_stages=1"]
    assert [row.tile for row in operation("gfx942", table).rows] == ["copy block=1024 num_warps=2 num_stages=1"]


def test_tiles_that_no_chip_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "tile_table", lambda _: {place: {"copy": {"any": BLOCK}} for place in ("cuda", "sm_90")})
    assert [v.target for v in compile_only.idle_tiles("toy", {("toy", "sm_90", "copy", "any")})] == ["cuda"]


@pytest.mark.parametrize(("targets", "operations"), [(["sm_13"], None), (["sm_90"], ["cut"])])
def test_unknown_names(targets: list[str], operations: list[str] | None) -> None:
    with pytest.raises(ValueError, match="unknown"):
        compile_only.gate(targets, operations)


@pytest.mark.parametrize("broken", [[], [Violation("copy", "sm_90", "BLOCK=1", "9 spills", "at most 0")]])
def test_exit_status(
    broken: list[Violation], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_only, "gate", lambda *_: Report(violations=broken))
    assert main(["--target", "sm_90", "--table"]) == len(broken)
    printed = capsys.readouterr().out
    assert "copy on sm_90, BLOCK=1: 9 spills; allowed: at most 0" in printed or not broken
    assert f"{len(broken)} limits broken" in printed
