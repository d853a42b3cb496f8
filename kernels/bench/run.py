"""Run rows of the suite: judge first, then time what is right."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from vidapt.kernels.bench.contrast_rows import ContrastRow
from vidapt.kernels.bench.floors import CEILINGS, Ceiling, floor_seconds
from vidapt.kernels.bench.measure import (
    Effort,
    Ready,
    Timing,
    estimate,
    extra_bytes,
    free_bytes,
    host_synchronisations,
    interleaved,
    launches,
    replayed,
)
from vidapt.kernels.bench.peak_memory import extra_bytes_on_cpu
from vidapt.kernels.bench.report import Cost, ProviderResult, RowResult
from vidapt.kernels.bench.rows import Provider, Row, Streets

MIB = 2**20
SETS = 3
SEED = 1000
# Shorter calls of ours are timed in a CUDA graph too, and so are these rows, whose target is stated for one.
GRAPH_BELOW = 50e-6
GRAPH_ROWS = ("P0", "C0")


@dataclass(frozen=True)
class Settings:
    """How a suite is run.

    Attributes:
        device: where.
        streets: label maps for the rows that paste and measure instances.
        effort: how long every call is measured.
        compiled: mode of torch.compile, None to leave that baseline out.
        memory: whether peak memory is measured on the CPU, in a process for each number.
    """

    device: torch.device
    streets: Streets
    effort: Effort
    compiled: str | None
    memory: bool

    @property
    def ceiling(self) -> Ceiling | None:
        """What this GPU reaches; None for others than those of the table, and for the CPU."""
        return CEILINGS.get(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else None


def settings_for(device: torch.device, streets: Streets, quick: bool) -> Settings:
    """Return the usual settings of a device; quick ones time less, and compile without a search or not at all."""
    if device.type == "cuda":
        mode = "default" if quick else "max-autotune-no-cudagraphs"
        return Settings(device, streets, Effort(0.1 if quick else 0.3, 5, 300), mode, memory=True)
    if quick:
        return Settings(device, streets, Effort(0.03, 3, 15), None, memory=False)
    return Settings(device, streets, Effort(1.0, 5, 50), "default", memory=True)


def run(rows: Iterable[Row], settings: Settings) -> Generator[RowResult]:
    """Yield the result of each row as soon as it is known."""
    for row in rows:
        yield run_row(row, settings)
        if settings.device.type == "cuda":
            torch.cuda.empty_cache()


def run_row(row: Row, settings: Settings) -> RowResult:
    """Judge and, if ours are right, time one row."""
    if settings.compiled is not None:
        torch.compiler.reset()  # the limit of recompilations counts over all rows
    result = RowResult(
        id=row.id,
        label=row.id + ("@cpu" if settings.device.type == "cpu" else ""),
        family=row.family,
        group=row.group,
        about=row.about,
        shape=row.shape(),
        baseline=row.baseline,
        modes=list(row.modes),
    )
    providers = row.providers(settings.device, settings.compiled)
    found = {provider.name: ProviderResult(provider.name, provider.ours) for provider in providers}
    result.providers = list(found.values())
    _judge_all(row, providers, found, settings)
    if result.status == "ok":
        sets = [row.inputs(settings.device, SEED + number, settings.streets) for number in range(SETS)]
        result.shape |= row.measured(sets[0])
        right = [provider for provider in providers if found[provider.name].status == "ok"]
        _time_all(row, right, found, sets, settings)
    if result.status != "ok":
        for outcome in result.providers:
            outcome.modes.clear()
    return result


def _judge_all(row: Row, providers: list[Provider], found: dict[str, ProviderResult], settings: Settings) -> None:
    """Judge every provider on a small problem and on the row itself; the latter is its warm-up too."""
    small = row.small(settings.device)
    for name, problem in (("small", small), ("full", row)):
        if problem is None:
            continue
        inputs = problem.inputs(settings.device, SEED, settings.streets)
        judge = problem.judge(name, inputs)
        for provider in problem.providers(settings.device, settings.compiled) if problem is not row else providers:
            outcome = found[provider.name]
            if outcome.status == "ok" and not (provider.compiles and problem is not row):
                _judge_one(provider, outcome, partial(judge, provider), settings)
        row.clear(inputs)


def _judge_one(provider: Provider, outcome: ProviderResult, judge: Callable[[], Any], settings: Settings) -> None:
    free = free_bytes(settings.device)
    if provider.needs_bytes > free:
        outcome.status = "skipped"
        outcome.note = f"needs about {provider.needs_bytes / 2**30:.3g} GiB, {free / 2**30:.3g} GiB are free"
        return
    gate = _attempt(judge, outcome)
    if gate is not None:
        outcome.gates.append(gate)
        if not gate.passed:
            outcome.status, outcome.note = "failed", str(gate)


def _attempt(call: Callable[[], Any], outcome: ProviderResult) -> Any:
    """Return what a call gives; where it raises, note that and return None."""
    try:
        return call()
    except torch.OutOfMemoryError:
        outcome.status, outcome.note = "skipped", "does not fit into the memory of this GPU"
    except Exception as error:  # kernels and compilers raise anything
        outcome.status, outcome.note = "error", first_line(error)
    return None


def _time_all(
    row: Row, providers: list[Provider], found: dict[str, ProviderResult], sets: list[Any], settings: Settings
) -> None:
    """Time every mode of the providers in turns, then measure what else a call costs."""
    for mode in row.modes:
        calls = {provider.name: ready_call(row, provider, mode, sets) for provider in providers}
        repetitions = {}
        for name, ready in calls.items():
            seconds = _attempt(partial(_estimate, ready, settings.device), found[name])
            if seconds is not None:
                repetitions[name] = settings.effort.repetitions(seconds)
        calls = {name: calls[name] for name in repetitions}
        for name, timing in interleaved(calls, repetitions, settings.device, len(sets)).items():
            found[name].modes[mode] = _cost(row, mode, sets[0], timing, settings)
    for provider in providers:
        outcome = found[provider.name]
        for mode, cost in outcome.modes.items():
            try:
                _measure_rest(row, provider, mode, cost, sets, settings)
            except Exception as error:  # profilers and CUDA graphs raise anything; the times stand
                outcome.note = f"not all measured in mode {mode}: {first_line(error)}"


def _estimate(ready: Ready, device: torch.device) -> float:
    with ready(0) as call:
        return estimate(call, device)


def ready_call(row: Row, provider: Provider, mode: str, sets: Sequence[Any]) -> Ready:
    """Return what makes a call ready: gradients dropped, under the provider's conditions."""

    @contextmanager
    def ready(number: int) -> Iterator[Callable[[], object]]:
        row.clear(sets[number])
        with provider.conditions():
            yield partial(provider.calls[mode], sets[number])

    return ready


def _cost(row: Row, mode: str, inputs: Any, timing: Timing, settings: Settings) -> Cost:
    passes = row.work(mode, inputs)
    cost = Cost(1e3 * timing.median, 1e3 * timing.low, 1e3 * timing.high, timing.repetitions)
    operations, moved = sum(work.operations for work in passes), sum(work.bytes for work in passes)
    cost.tflops = operations / timing.median / 1e12 if operations else None
    cost.gbps = moved / timing.median / 1e9 if moved else None
    if passes and settings.ceiling is not None:
        floor = floor_seconds(passes, settings.ceiling)
        cost.floor_ms, cost.floor_share = 1e3 * floor, floor / timing.median
    return cost


def _measure_rest(row: Row, provider: Provider, mode: str, cost: Cost, sets: list[Any], settings: Settings) -> None:
    """Measure memory, and on a GPU launches, waits of the host and replay in a CUDA graph."""
    if settings.device.type == "cpu":
        if settings.memory and isinstance(row, ContrastRow) and not provider.compiles:
            extra = extra_bytes_on_cpu(row, provider.name, mode)
            cost.extra_mib = None if extra is None else extra / MIB
        return
    ready = ready_call(row, provider, mode, sets)
    with ready(0) as call:
        cost.extra_mib = extra_bytes(call, row.kept_bytes(mode, sets[0])) / MIB
    with ready(0) as call:
        cost.host_syncs = host_synchronisations(call)
    with ready(0) as call:
        cost.launches = launches(call)
    if provider.ours and (row.id in GRAPH_ROWS or cost.median_ms < 1e3 * GRAPH_BELOW):
        with ready(0) as call:
            cost.graph_ms = 1e3 * replayed(call, partial(row.clear, sets[0]), settings.effort).median


def first_line(error: Exception) -> str:
    """Return an error as one line: its type and how its message begins."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
