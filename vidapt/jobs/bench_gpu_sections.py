"""The sections of `vidapt bench gpu`, in order of worth: what each measures, item by item."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from vidapt.errors import UserError
from vidapt.jobs.bench import street_labels
from vidapt.jobs.bench_gpu_files import Plan, section_data
from vidapt.jobs.bench_inference import inference_cases, measure_inference
from vidapt.jobs.bench_training import measure_training, training_cases
from vidapt.jobs.compare import compare
from vidapt.jobs.files import write_text
from vidapt.kernels.bench.correctness import check, checks
from vidapt.kernels.bench.rows import Row
from vidapt.kernels.bench.run import Settings, run_row, settings_for
from vidapt.kernels.bench.suite import all_rows, scaled_rows
from vidapt.kernels.bench.targets import slow, tunables_of
from vidapt.kernels.bench.tuning import Place, Tile, Tunable, overridden, trial_data, tune

SUITE = "street_world_gpu"
SAVING = 45.0
"""Seconds before the end at which a comparison is told to save and stop."""
LEAST = 120.0
"""Seconds below which a comparison is not begun."""
MINIATURE = """# What vidapt bench gpu --device cpu compares.
extends: [suites/street_world]
title: the miniature of vidapt bench gpu
start: {settings: {training: {steps: 2}}}
settings: {training: {steps: 2}, validation: {videos: 1}}
comparisons:
  - benchmark: benchmarks/street_world_fog
    recipes: [source_only, vidapt]
    settings: {source: {videos: 2}, target: {videos: 2}, evaluation: {videos: 1}, upper_bound: {videos: 2}}
sweeps: null
quick: null
"""


@dataclass(frozen=True)
class Section:
    """One part of the measurements.

    Attributes:
        title: What it is, one line.
        items: Names of what it measures, in order; may depend on what was measured before.
        measure: Measures one item, and returns plain data; the last argument is the ``time.monotonic()`` of the end.
        limit: Seconds that one item may take.
        share: Largest share of the minutes that are left when its turn comes.
    """

    title: str
    items: Callable[[Plan], list[str]]
    measure: Callable[[Plan, str, float], dict[str, Any]]
    limit: float = 180.0
    share: float = 1.0


def _check(plan: Plan, item: str, deadline: float) -> dict[str, Any]:
    return check(item, torch.device(plan.device), quick=plan.quick).data()


def kernel_rows(plan: Plan) -> dict[str, Row]:
    """Rows of the kernel benchmark by id; on the CPU the first of each family, scaled down."""
    rows = all_rows()
    if plan.quick:
        families = {row.family: row for row in reversed(rows)}
        rows = scaled_rows([row for row in rows if families[row.family] is row], quick=True)
    return {row.id: row for row in rows}


def _settings(plan: Plan) -> Settings:
    """As `vidapt bench kernels` measures, but torch.compile does not search, which takes minutes for every row."""
    settings = settings_for(torch.device(plan.device), street_labels, plan.quick)
    return settings if settings.compiled is None else replace(settings, compiled="default")


def _time_row(plan: Plan, item: str, deadline: float) -> dict[str, Any]:
    return run_row(kernel_rows(plan)[item], _settings(plan)).data()


def missed_rows(plan: Plan) -> list[str]:
    """Rows of the kernel benchmark that miss a target that tiles can help with, in its order."""
    late = slow(section_data(plan, "kernels").values())
    return [name for name in kernel_rows(plan) if name in late]


def _entries(plan: Plan) -> dict[str, Tunable]:
    """Entries of the tile tables that rows with a missed target use; nothing is tuned on the CPU."""
    found = [] if plan.quick else tunables_of(missed_rows(plan))
    return {".".join(entry.place): entry for entry in found}


def chosen_tiles(plan: Plan) -> dict[Place, Tile]:
    """The fastest tile of every entry that was searched."""
    found = section_data(plan, "tiles")
    return {
        (operation, kernel, problem): found[name]["tile"]
        for name in found
        for operation, kernel, problem in [name.split(".")]
    }


def _search(plan: Plan, item: str, deadline: float) -> dict[str, Any]:
    trials = tune(_entries(plan)[item], _settings(plan), chosen_tiles(plan))
    best = trials[0]
    if best.timing is None:
        raise UserError(f"no tile of {item} works: {best.note}")
    return {"tile": best.tile, "trials": [trial_data(trial) for trial in trials]}


def _tuned_rows(plan: Plan) -> list[str]:
    """Rows with a missed target for which some tile was searched."""
    searched = section_data(plan, "tiles").keys()
    return [row for row in missed_rows(plan) if any(".".join(one.place) in searched for one in tunables_of([row]))]


def _time_tuned(plan: Plan, item: str, deadline: float) -> dict[str, Any]:
    with overridden(chosen_tiles(plan)):
        return _time_row(plan, item, deadline)


def _train(plan: Plan, item: str, deadline: float) -> dict[str, Any]:
    case = training_cases(quick=plan.quick)[item]
    return measure_training(case, device=torch.device(plan.device), weights=plan.weights, quick=plan.quick)


def _infer(plan: Plan, item: str, deadline: float) -> dict[str, Any]:
    case = inference_cases(quick=plan.quick)[item]
    return measure_inference(case, device=torch.device(plan.device), weights=plan.weights, quick=plan.quick)


def _compare(plan: Plan, item: str, deadline: float) -> dict[str, Any]:
    """Train the suite's recipes on fog; saved and stopped before time is over, and continued by the next call.

    Raises:
        Interrupted: If time was too short.
        UserError: If it was too short to begin.
    """
    if deadline - time.monotonic() < LEAST and not plan.quick:
        raise UserError(f"less than {LEAST:g} s are left")
    timer = threading.Timer(max(0.0, deadline - SAVING - time.monotonic()), os.kill, [os.getpid(), signal.SIGTERM])
    timer.daemon = True
    timer.start()
    folder = plan.out / "compare"
    try:
        if plan.quick:
            suite = plan.out / "miniature.yaml"
            write_text(suite, MINIATURE)
            compare(str(suite), out=folder, device="cpu", command=f"vidapt compare {suite} --out {folder}")
        else:
            compare(SUITE, out=folder, jobs=2, device="cuda", command=f"vidapt compare {SUITE} --out {folder}")
    finally:
        timer.cancel()
    return {"report": str((folder / "report.html").relative_to(plan.out))}


SECTIONS = {
    "correctness": Section("kernels against float64", lambda _: checks(), _check),
    "kernels": Section("speed of the kernels", lambda plan: list(kernel_rows(plan)), _time_row),
    "tiles": Section(
        "tiles of the kernels that miss a target", lambda plan: list(_entries(plan)), _search, limit=300, share=0.3
    ),
    "tuned": Section("these kernels with the tiles that were found", _tuned_rows, _time_tuned, share=0.5),
    "training": Section("training steps", lambda plan: list(training_cases(quick=plan.quick)), _train, limit=240),
    "inference": Section("segmentation", lambda plan: list(inference_cases(quick=plan.quick)), _infer, limit=420),
    "compare": Section("methods on fog", lambda _: [SUITE], _compare, limit=86400),
}
"""By name, in the order in which they are measured."""
