"""``vidapt compare``: train the recipes of a suite side by side, cell by cell, and report them in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidapt.config_suite import Suite
from vidapt.errors import ConfigError, InputError, UserError
from vidapt.jobs.compare_cells import fits, read_cells
from vidapt.jobs.compare_plan import Choice, plan_cells, sweep_cell
from vidapt.jobs.compare_run import ComparisonRun
from vidapt.jobs.files import write_json
from vidapt.suite import load_suite

DEVICES = (None, "auto", "cpu", "cuda")
NAMED = 5
"""Failed cells that the last line names."""


def compare(
    suite: str,
    *,
    out: str | Path,
    choice: Choice | None = None,
    quick: bool = False,
    jobs: int = 1,
    device: str | None = None,
    dry_run: bool = False,
    keep_runs: bool = False,
    command: str = "vidapt compare",
) -> None:
    """Run the cells of a suite that are not finished yet, then write their report.

    The report is ``report.html``, ``scores.csv`` and ``scores.json``, over all finished cells of the suite. A finished
    cell is a file below ``out/cells``; it is run again if its recipe has changed since.

    Args:
        suite: Path or shipped name.
        out: Folder of the comparison.
        choice: What of the suite is wanted; None is all but its sweeps.
        quick: The suite's quick form.
        jobs: Cells at once, each in a process with one thread.
        device: ``cpu`` or ``cuda``; None picks a GPU if there is one.
        dry_run: List the cells and stop.
        keep_runs: Keep run folders of finished cells, checkpoints and all.
        command: What the user typed, for the cells and for the line that says how to continue.

    Raises:
        ConfigError: If the suite does not fit, or ``out`` holds another comparison; nothing is trained then.
        InputError: If the file of a cell is damaged.
        UserError: If cells have failed, once the others are done.
        Interrupted: After Ctrl-C or SIGTERM, with running cells saved.
    """
    choice, folder = choice or Choice(), Path(out)
    if device not in DEVICES:
        raise ConfigError(f"device {device!r} is not known to training; use cpu, cuda or auto")
    read = load_suite(suite, quick=quick)
    cells = plan_cells(read, choice)
    _claim(folder, {"suite": Path(suite).stem, "quick": quick, "first_world": choice.first_world}, write=not dry_run)
    run = ComparisonRun(folder, cells, read_cells(folder), device=device, keep_runs=keep_runs, command=command)
    for line in run.notes(planned=dry_run):
        print(line)
    if dry_run:
        return
    failed = run.run(jobs)
    report = report_cells(read, choice, folder, failed, command)
    print(f"report: {report}")
    if failed:
        names = ", ".join(list(failed)[:NAMED]) + (f" and {len(failed) - NAMED} more" if len(failed) > NAMED else "")
        raise UserError(f"failed: {names}; {folder / 'failed.jsonl'} says why; the same command runs them again")


def report_cells(suite: Suite, choice: Choice, out: Path, failed: Mapping[str, str], command: str) -> Path:
    """Write the report over all finished cells of ``out`` that fit the suite as it is now; returns its path."""
    from vidapt.jobs.compare_report import write_comparison

    found = read_cells(out)
    everything = replace(choice, comparisons=(), recipes=(), seeds=(), sweeps=())
    planned = plan_cells(suite, everything) + plan_cells(suite, replace(choice, sweeps=()))
    swept = [sweep_cell(suite, choice, data) for data in found.values() if data["sweep"]]
    cells = {cell.key: cell for cell in (*planned, *swept) if cell is not None}
    fitting = [(cell, found[key]) for key, cell in cells.items() if fits(found.get(key), cell.digest)]
    missing = [key for key, cell in cells.items() if not fits(found.get(key), cell.digest)]
    return write_comparison(suite, choice, fitting, missing, failed, out, command)


def _claim(out: Path, identity: Mapping[str, Any], *, write: bool) -> None:
    """Refuse a folder that holds another comparison, whose cells would be replaced."""
    path = out / "suite.json"
    if path.is_file():
        try:
            known = json.loads(path.read_text("utf-8"))
        except ValueError:
            raise InputError(f"{path} is damaged; delete it if {out} holds the comparison that you mean") from None
        other = [f"{name} {known.get(name)!r}" for name, value in identity.items() if known.get(name) != value]
        if other:
            raise ConfigError(f"{out} holds a comparison with {', '.join(other)}; choose another --out")
    elif write:
        write_json(path, dict(identity))
