"""The compile-only gate: every shipped tile compiles for its chips within budgets.json, without a GPU."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
COMPILED = Path(__file__).parent / "compiled"
TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942")
MUST_HAVE_EVERY_KERNEL = ("sm_80", "sm_90", "sm_100", "gfx942")
# The gate disturbs no GPU, and must not: it finds what an architecture gets, not what this machine's GPU gets.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
ENVIRONMENT |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

Gate = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """Return what `python -m vidapt.kernels.bench.compile_only --json` wrote: kernels and violations."""
    path = tmp_path_factory.mktemp("gate") / "gate.json"
    command = [sys.executable, "-m", "vidapt.kernels.bench.compile_only", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=1700, check=False)
    assert path.exists(), f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    report: Gate = json.loads(path.read_text())
    assert done.returncode == (1 if report["violations"] else 0)
    return report


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TARGETS)
def test_every_tile_keeps_its_budget(gate: Gate, target: str) -> None:
    assert any(kernel["target"] == target for kernel in gate["kernels"])
    assert broken(gate, {target}) == []


@pytest.mark.timeout(1800)
def test_no_other_part_of_a_tile_table_breaks_a_limit(gate: Gate) -> None:
    assert broken(gate, {violation["target"] for violation in gate["violations"]} - set(TARGETS)) == []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", MUST_HAVE_EVERY_KERNEL)
def test_every_shipped_kernel_is_compiled(gate: Gate, target: str) -> None:
    assert {kernel["kernel"] for kernel in gate["kernels"] if kernel["target"] == target} == set(launched_kernels())


@pytest.mark.timeout(1800)
def test_hopper_multiplies_16_bit_operands_by_its_own_instruction(gate: Gate) -> None:
    for name in ("sum_rows", "sum_positives", "sum_gradients"):
        dots = [
            kernel["resources"]["dots"]
            for kernel in gate["kernels"]
            if (kernel["kernel"], kernel["target"]) == (name, "sm_90") and " fp16 " in f" {kernel['tile']} "
        ]
        assert dots
        assert all(set(found) == {"HGMMA"} for found in dots)


def test_every_launched_kernel_has_a_budget() -> None:
    budgets = json.loads((KERNELS / "bench" / "budgets.json").read_text())["kernels"]
    assert {name: limits["operation"] for name, limits in budgets.items()} == launched_kernels()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(path.name for path in COMPILED.glob("test_*.py")))
def test_in_a_process_of_its_own(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-W", "ignore:TRITON_DEFAULT_FP_FUSION", str(COMPILED / name)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=580, check=False)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_it_refuses_the_interpreter() -> None:
    command = [sys.executable, "-m", "vidapt.kernels.bench.compile_only", "--target", "sm_90", "--op", "paste"]
    environment = ENVIRONMENT | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode != 0
    assert "TRITON_INTERPRET=1 turns compilation off" in done.stderr


def broken(gate: Gate, targets: set[str]) -> list[str]:
    found = [violation for violation in gate["violations"] if violation["target"] in targets]
    return ["{kernel} on {target}, {tile}: {found}; allowed: {allowed}".format(**violation) for violation in found]


def launched_kernels() -> dict[str, str]:
    """Return the operation of every @triton.jit function that no other one calls, so that a launch must."""
    found: dict[str, str] = {}
    called: set[str] = set()
    for path in KERNELS.glob("*/kernel*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in jit_functions(tree):
            found[function.name] = path.parent.name
            called |= {name.id for name in nodes(function, ast.Name)}
    return {name: operation for name, operation in found.items() if name not in called}


def jit_functions(tree: ast.AST) -> list[ast.FunctionDef]:
    def is_jit(function: ast.FunctionDef) -> bool:
        return any("jit" in ast.unparse(decorator) for decorator in function.decorator_list)

    return [function for function in nodes(tree, ast.FunctionDef) if is_jit(function)]


def nodes(tree: ast.AST, kind: Callable[..., Any]) -> Iterator[Any]:
    return (node for node in ast.walk(tree) if isinstance(node, kind))  # type: ignore[arg-type]
