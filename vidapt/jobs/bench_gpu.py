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
from vidapt.jobs.bench_gpu_files import Plan, ended, forget, read_items, write_item
from vidapt.jobs.bench_gpu_report import write_gpu_report, wrong_results
from vidapt.jobs.bench_gpu_sections import SECTIONS
from vidapt.jobs.processes import Task, run_tasks
from vidapt.kernels.bench.report import environment
from vidapt.kernels.bench.run import first_line

MARGIN = 5.0
"""Seconds before the end at which a process stops itself, so that the report is written inside the minutes."""
OUT_OF_TIME = 75
"""Exit code of a process that the clock ended."""


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

    Every section runs in a process of its own, which starts anew where an item ends it: a broken kernel costs its own
    figure and no other. An item that the clock ends is measured the next time; one that failed, too.

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
    deadline = time.monotonic() + 60 * minutes - MARGIN
    if minutes <= 0:
        raise UserError(f"--minutes {minutes:g}: give a positive number")
    if unknown := [name for name in only if name not in SECTIONS]:
        raise UserError(f"--only names unknown sections {', '.join(unknown)}; allowed: {', '.join(SECTIONS)}")
    plan = Plan(out, find_gpu(device))
    found = environment(torch.device(plan.device), command)
    _claim(out, str(found["device"]))
    plan = Plan(out, plan.device, found)
    try:
        for name in only or SECTIONS:
            if not _run_section(plan, name, deadline):
                print(f"{minutes:g} minutes are over; the same command continues", flush=True)
                break
    finally:
        report = write_gpu_report(plan)
    print(f"report: {report}")
    if wrong := wrong_results(out):
        raise VidaptError(f"wrong results: {', '.join(wrong)}; {report} says by how much")
    return report


def find_gpu(name: str | None) -> str:
    """``cuda`` or ``cpu``.

    Raises:
        UserError: If the name is another, or there is no GPU.
    """
    if name not in (None, "cpu", "cuda"):
        raise UserError(f"device {name!r} cannot be measured; use cuda or cpu")
    if name != "cpu" and not torch.cuda.is_available():
        raise UserError(
            "vidapt bench gpu needs a GPU, and torch sees none here; --device cpu runs all of it in miniature, which "
            "shows that it works and nothing else"
        )
    return name or "cuda"


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


def _run_section(plan: Plan, name: str, deadline: float) -> bool:
    """Measure what a section still lacks; False if time is over before it is done."""
    section, attempted = SECTIONS[name], set[str]()
    print(f"{name}: {section.title}", flush=True)
    while True:
        done = {key for key, item in read_items(plan.out).get(name, {}).items() if item["status"] == "ok"}
        items = [item for item in section.items(plan) if item not in done | attempted]
        if not items:
            return True
        if time.monotonic() >= deadline:
            return False
        share = Share(plan, name, tuple(items), deadline)
        lost = run_tasks(
            [Task(name, share, plan.out / "logs" / f"{name}.log")],
            perform,
            jobs=1,
            watch=_Watch(),
            preload=("vidapt.jobs.bench_gpu_sections",),
        )
        over = time.monotonic() >= deadline - 1
        attempted |= _settle(plan, name, items, "" if over else lost.get(name, ""), over=over)


def _settle(plan: Plan, name: str, items: Sequence[str], reason: str, *, over: bool) -> set[str]:
    """Which items were attempted; one that its process ended with is failed, or forgotten if the clock ended it."""
    found = read_items(plan.out).get(name, {})
    for item in items:
        if found.get(item, {}).get("status") != "running":
            continue
        if over:
            forget(plan, name, item)
        else:
            write_item(plan, name, item, {"status": "failed", "reason": reason or "its process ended"})
    attempted = {item for item in items if ended(plan, name, item)}
    # A process that dies before its first item would be started for ever.
    return attempted or (set() if over else set(items))


def perform(share: Share) -> None:
    """Body of a process: measure items until all are done or time is over."""
    timer = threading.Timer(max(0.0, share.deadline - time.monotonic()), os._exit, [OUT_OF_TIME])
    timer.daemon = True
    timer.start()
    section = SECTIONS[share.section]
    for item in share.items:
        begin = time.monotonic()
        write_item(share.plan, share.section, item, {"status": "running"})
        result = _attempt(section.measure, share, item)
        seconds = round(time.monotonic() - begin, 1)
        write_item(share.plan, share.section, item, {**result, "seconds": seconds})
        print(f"{item}: {result['status']}, {seconds} s", flush=True)
    timer.cancel()


def _attempt(measure: Callable[[Plan, str, float], dict[str, Any]], share: Share, item: str) -> Mapping[str, Any]:
    try:
        return {"status": "ok", "data": measure(share.plan, item, share.deadline)}
    except Exception as error:  # kernels, compilers and drivers raise anything
        return {"status": "failed", "reason": first_line(error)}
    finally:
        if share.plan.device == "cuda":
            torch.cuda.empty_cache()
