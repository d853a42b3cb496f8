"""``vidapt bench gpu``: everything that only a GPU can tell, in order of worth, inside the minutes that are given."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vidapt.errors import ConfigError, UserError, VidaptError
from vidapt.jobs.bench import bench_device
from vidapt.jobs.bench_gpu_files import Plan, ended, forget, is_right, read_items, write_item
from vidapt.jobs.bench_gpu_report import write_gpu_report, wrong_results
from vidapt.jobs.bench_gpu_sections import SECTIONS
from vidapt.jobs.processes import Task, run_tasks
from vidapt.kernels.bench.report import environment
from vidapt.kernels.bench.run import first_line

MARGIN = 5.0
"""Seconds before the end at which a process stops itself, so that the report is written inside the minutes."""
MINIATURE = "--device cpu runs all of it in miniature, which shows that it works and nothing else"
OUT_OF_TIME, TOO_LONG, BROKEN_DEVICE = 75, 76, 77
"""Exit codes of a process: the minutes are over, an item took longer than it may, the GPU answers no more."""


@dataclass(frozen=True)
class Share:
    """What one process measures.

    Attributes:
        plan: Where and how.
        section: Name of the section.
        items: Names of what is measured, in order.
        deadline: ``time.monotonic()`` at which it stops, whatever it is doing.
    """

    plan: Plan
    section: str
    items: tuple[str, ...]
    deadline: float


def bench_gpu(
    out: Path,
    *,
    minutes: float = 30.0,
    device: str | None = None,
    only: Sequence[str] = (),
    command: str = "vidapt bench gpu",
) -> Path:
    """Measure section after section, each item into a file of its own, and write ``report.md``; run again to continue.

    Every section runs in a process of its own, which starts anew where an item ends it or takes too long: a broken
    kernel costs its own figure and no other. The next call measures what the clock ended, what failed and what was
    wrong; figures that stand are kept, whatever commit they are of.

    Args:
        out: Folder of the results.
        minutes: Time for all of it.
        device: ``cuda`` or None; ``cpu`` runs everything in miniature, which shows that it works and nothing else.
        only: Names of sections; all if empty.
        command: What the environment says was run.

    Returns:
        The report.

    Raises:
        UserError: If the device is missing or unknown, ``only`` names no section, or ``minutes`` are not positive.
        ConfigError: If ``out`` holds results of another device.
        VidaptError: If a kernel computes something wrong; everything else is measured and written before.
        Interrupted: After Ctrl-C or SIGTERM; what was measured is kept.
    """
    begin = time.monotonic()
    if minutes <= 0:
        raise UserError(f"--minutes {minutes:g}: give a positive number")
    if unknown := [name for name in only if name not in SECTIONS]:
        raise UserError(f"--only names unknown sections {', '.join(unknown)}; allowed: {', '.join(SECTIONS)}")
    where = bench_device(device, MINIATURE)
    found = environment(where, command)
    _claim(out, str(found["device"]))
    plan = Plan(out, where.type, found)
    deadline = begin + 60 * minutes - MARGIN
    try:
        for name in only or SECTIONS:
            share = SECTIONS[name].share * (deadline - time.monotonic())
            _run_section(plan, name, time.monotonic() + share)
            if time.monotonic() >= deadline - 1:
                print(f"{minutes:g} minutes are over; the same command continues", flush=True)
                break
    finally:
        report = write_gpu_report(plan, {name: section.items(plan) for name, section in SECTIONS.items()})
    print(f"report: {report}")
    if wrong := wrong_results(out):
        raise VidaptError(f"wrong results: {', '.join(wrong)}; {report} says by how much")
    return report


def _claim(out: Path, device: str) -> None:
    """Refuse a folder with results of another device, which would be mixed with those of this one."""
    known = {str(item["environment"]["device"]) for items in read_items(out).values() for item in items.values()}
    if other := known - {device}:
        raise ConfigError(f"{out} holds results of {', '.join(sorted(other))}; choose another --out for {device}")


class _Watch:
    """Says nothing: what happened is in the files of the items."""

    def started(self, key: str) -> None:
        """A process begins."""

    def finished(self, key: str) -> None:
        """A process is done."""

    def failed(self, key: str, reason: str) -> None:
        """A process has ended in another way."""

    def tick(self) -> None:
        """Some time has passed."""


def _run_section(plan: Plan, name: str, deadline: float) -> None:
    """Measure what a section still lacks, until ``deadline``; what was never measured comes first."""
    section, attempted = SECTIONS[name], set[str]()
    print(f"{name}: {section.title}", flush=True)
    while time.monotonic() < deadline - 1:
        found = read_items(plan.out).get(name, {})
        stands = {key for key, item in found.items() if is_right(item)}
        items = [item for item in section.items(plan) if item not in stands | attempted]
        if not items:
            return
        share = Share(plan, name, tuple(sorted(items, key=lambda item: item in found)), deadline)
        lost = run_tasks(
            [Task(name, share, plan.out / "logs" / f"{name}.log")],
            perform,
            jobs=1,
            watch=_Watch(),
            preload=("vidapt.jobs.bench_gpu_sections",),
        )
        attempted |= _settle(plan, name, items, lost.get(name, ""), over=time.monotonic() >= deadline - 1)


def _settle(plan: Plan, name: str, items: Sequence[str], reason: str, *, over: bool) -> set[str]:
    """Which items were attempted; one that its process ended with is failed, or forgotten if the clock ended it."""
    if f"exit code {TOO_LONG}" in reason:
        reason = f"took longer than {SECTIONS[name].limit:g} s"
    found = read_items(plan.out).get(name, {})
    running = [
        item
        for item in items
        if item in found and found[item]["status"] == "running" and found[item]["environment"] == plan.environment
    ]
    if over:
        for item in running:
            forget(plan, name, item)
        return set(items)
    attempted = {item for item in items if ended(plan, name, item)}
    # A process that dies before its first item would be started for ever.
    for item in running or (() if attempted else items):
        write_item(plan, name, item, {"status": "failed", "reason": reason or "its process ended"})
        attempted.add(item)
    return attempted


def perform(share: Share) -> None:
    """Body of a process: measure items until all are done or time is over."""
    section = SECTIONS[share.section]
    for item in share.items:
        begin = time.monotonic()
        timer = _alarm(min(section.limit, share.deadline - begin), share.deadline)
        write_item(share.plan, share.section, item, {"status": "running"})
        result = _attempt(section.measure, share, item)
        healthy = _is_healthy(share.plan)
        seconds = round(time.monotonic() - begin, 1)
        write_item(share.plan, share.section, item, {**result, "seconds": seconds})
        print(f"{item}: {result['status']}, {seconds} s", flush=True)
        timer.cancel()
        if not healthy:
            os._exit(BROKEN_DEVICE)


def _alarm(seconds: float, deadline: float) -> threading.Timer:
    """End this process after some seconds, whatever it is waiting for."""

    def leave() -> None:
        os._exit(OUT_OF_TIME if time.monotonic() >= deadline - 1 else TOO_LONG)

    timer = threading.Timer(max(0.0, seconds), leave)
    timer.daemon = True
    timer.start()
    return timer


def _attempt(measure: Callable[[Plan, str, float], dict[str, Any]], share: Share, item: str) -> Mapping[str, Any]:
    try:
        return {"status": "ok", "data": measure(share.plan, item, share.deadline)}
    except Exception as error:  # kernels, compilers and drivers raise anything
        return {"status": "failed", "reason": first_line(error)}


def _is_healthy(plan: Plan) -> bool:
    """Whether the GPU still answers; after an illegal access nothing in this process would."""
    if plan.device == "cpu":
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception:  # whatever it is, only another process can go on
        return False
    return True
