"""Benchmarks of what surrounds the network, stage by stage."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidapt.errors import UserError
from vidapt.jobs.bench_adaptation import measure as measure_adaptation
from vidapt.jobs.bench_cache import measure as measure_cache
from vidapt.jobs.bench_metrics import measure as measure_metrics
from vidapt.jobs.bench_stage import StageResult
from vidapt.jobs.files import write_json
from vidapt.kernels.bench.report import environment, package_version

SCHEMA = 1
STAGES: dict[str, Callable[[bool], StageResult]] = {
    "metrics": measure_metrics,
    "cache": measure_cache,
    "adaptation": measure_adaptation,
}
"""By name what measures a stage; its argument is whether to be quick."""


def bench_pipeline(
    stage: str, *, quick: bool = False, json: Path | None = None, command: str = "vidapt bench pipeline"
) -> StageResult:
    """Judge and time one stage, print a table and which targets are met, write JSON.

    The JSON file holds ``schema``, ``stage``, ``finished`` (false while measuring), ``quick``, ``environment`` and what
    ``StageResult.data`` gives.

    Args:
        stage: Name of the stage, see ``STAGES``.
        quick: Fewer repetitions.
        json: File to write.
        command: What the environment says was run.

    Raises:
        UserError: If there is no such stage.
        StorageError: If ``json`` cannot be written.
        VidaptError: If a result is wrong; nothing is timed then.
    """
    if stage not in STAGES:
        raise UserError(f"--stage {stage} is no stage of the pipeline; allowed: {', '.join(STAGES)}")
    found = environment(torch.device("cpu"), command) | versions()
    head = {"schema": SCHEMA, "stage": stage, "quick": quick, "environment": found}
    _write(json, head | {"finished": False})
    console = Console()
    console.print(Text(", ".join(f"{name} {value}" for name, value in found.items() if value is not None)))
    result = STAGES[stage](quick)
    _print(console, result)
    _write(json, head | {"finished": True} | result.data())
    return result


def versions() -> dict[str, Any]:
    """What the numbers of a stage depend on beyond torch: the processor, numpy and OpenCV."""
    return {
        "device": f"{_processor()} ({platform.machine()})",
        "threads": 1,
        "numpy": package_version("numpy"),
        "opencv": package_version("opencv-python-headless") or package_version("opencv-python"),
    }


def _processor() -> str:
    """Name of the processor where Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "CPU"


def _print(console: Console, result: StageResult) -> None:
    sizes = ", ".join(f"{value} {name}" for name, value in result.about.items())
    console.print(Text(f"{result.title}: {sizes}"))
    console.print(Text(f"Checked, {result.checked}"))
    table = Table("", f"ms/{result.unit}", "p20", "p80", "samples", "speedup", box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in result.rows:
        times = (f"{value:.2f}" for value in (row.median_ms, row.p20_ms, row.p80_ms))
        table.add_row(Text(row.name), *times, str(row.samples), f"{result.speedup(row):.1f}x")
    console.print(table)
    console.print(Text(f"speedup: over {result.baseline}; p20, p80: of all samples, each one {result.unit}"))
    if result.shares:
        console.print(_shares(result))
    for target in result.targets:
        console.print(Text(str(target)))


def _shares(result: StageResult) -> Table:
    names = list(next(iter(result.shares.values())))
    table = Table("%", *names, box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for row, parts in result.shares.items():
        table.add_row(Text(row), *(f"{parts[name]:.1f}" for name in names))
    return table


def _write(path: Path | None, data: dict[str, Any]) -> None:
    if path is not None:
        write_json(path, data)
