"""Benchmarks: the kernels against what they replace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidapt.datasets.street_world import render_video
from vidapt.errors import StorageError, UserError, VidaptError
from vidapt.jobs.files import write_json
from vidapt.jobs.progress import progress_bar
from vidapt.kernels.bench.chart import draw
from vidapt.kernels.bench.report import RowResult, environment, report_data
from vidapt.kernels.bench.rows import Row, Street
from vidapt.kernels.bench.run import run, settings_for
from vidapt.kernels.bench.suite import all_rows, scaled_rows, select
from vidapt.kernels.bench.table import header, lines, notes

WIDTH = 165
"""Columns of a table that goes to a file or a pipe."""
FIRST_SEED = 5000
WORLDS = 4
WORLD_FRAMES = 4
PART = (128, 256)
"""Height and width of each of the four worlds that make a street."""
MOST_IDS = 60


def bench_kernels(
    *,
    device: str | None = None,
    quick: bool = False,
    only: Sequence[str] = (),
    json: Path | None = None,
    chart: Path | None = None,
    command: str = "vidapt bench kernels",
) -> list[RowResult]:
    """Judge and time the kernels and what they replace, print a table for each group, write JSON and a chart.

    Args:
        device: ``cuda`` or None for the GPU, ``cpu`` for the PyTorch references on scaled-down problems.
        quick: Fewer repetitions; on the CPU smaller problems and no torch.compile.
        only: Ids or families of rows; all if empty.
        json: File to write; it is rewritten after every row, so that an interruption keeps what was measured.
        chart: PNG to write at the end.
        command: What the environment says was run.

    Returns:
        The results of the rows.

    Raises:
        UserError: If the device is missing or unknown, ``only`` names unknown rows, or ``chart`` is no PNG.
        StorageError: If a file cannot be written.
        VidaptError: If a result is wrong; everything else is measured and written before.
    """
    if chart is not None and chart.suffix != ".png":
        raise UserError(f"the chart is a PNG, but --chart names {chart}; end the name with .png")
    where = bench_device(device)
    rows = chosen_rows(only, where, quick)
    found = environment(where, command)
    console = _console()
    console.print(Text(", ".join(f"{name} {value}" for name, value in found.items() if value is not None)))
    results: list[RowResult] = []
    _write(json, results, found, quick=quick, finished=False)
    settings = settings_for(where, street_labels, quick)
    waiting: list[RowResult] = []
    try:
        with progress_bar("measuring", len(rows)) as advance, closing(run(rows, settings)) as running:
            for result in running:
                if waiting and waiting[-1].group != result.group:
                    _print_group(console, waiting)
                    waiting = []
                waiting.append(result)
                results.append(result)
                _write(json, results, found, quick=quick, finished=len(results) == len(rows))
                advance()
    finally:
        _print_group(console, waiting)
    if chart is not None:
        _draw(results, found, chart)
    _raise_red(results)
    return results


def tune_kernels(
    *, out: Path, device: str | None = None, only: Sequence[str] = (), command: str = "vidapt bench kernels --tune"
) -> None:
    """Time candidate tiles of every kernel on this GPU and write the fastest; see ``vidapt.kernels.bench.tuning``.

    Args:
        out: JSON file, rewritten after every entry of the tile tables.
        device: ``cuda`` or None; nothing is tuned on the CPU.
        only: Operations or kernels, such as ``paste`` or ``sum_rows``; all if empty.
        command: What the environment says was run.

    Raises:
        UserError: If there is no GPU, or ``only`` names unknown kernels.
        StorageError: If ``out`` cannot be written.
        VidaptError: If no candidate of an entry works.
    """
    if device == "cpu":
        raise UserError("tiles are tuned on the GPU that they are for; drop --device cpu")
    where = bench_device(device)
    from vidapt.kernels.bench.tuning import Place, Tile, Trial, tiles_data, trial_data, tunables, tune

    try:
        entries = tunables(only)
    except KeyError as error:
        allowed = ", ".join(dict.fromkeys(name for entry in tunables() for name in entry.place[:2]))
        raise UserError(f"--only names unknown kernels {', '.join(error.args)}; allowed: {allowed}") from error
    found, settings = environment(where, command), settings_for(where, street_labels, quick=False)
    chosen: dict[Place, Tile] = {}
    trials: list[Trial] = []
    for entry in entries:
        ordered = tune(entry, settings, chosen)
        if ordered[0].timing is None:
            raise VidaptError(f"no tile of {' '.join(entry.place)} works: {ordered[0].note}")
        chosen[entry.place] = ordered[0].tile
        trials += ordered
        print(f"{' '.join(entry.place)}: {ordered[0].tile}, {1e3 * ordered[0].timing.median:.4g} ms", flush=True)
        timings = [trial_data(trial) for trial in trials]
        write_json(out, {"environment": found, "tiles": tiles_data(chosen, found["device"]), "timings": timings})


KERNELS_ELSEWHERE = (
    "run vidapt bench kernels where there is one, or measure the PyTorch references on scaled-down problems with "
    "--device cpu"
)


def bench_device(name: str | None, otherwise: str = KERNELS_ELSEWHERE) -> torch.device:
    """Return the device to measure on; ``otherwise`` is what to do without a GPU.

    Raises:
        UserError: If it is unknown, or there is no GPU.
    """
    if name not in (None, "cpu", "cuda"):
        raise UserError(f"device {name!r} cannot be measured; use cuda or cpu")
    if name != "cpu" and not torch.cuda.is_available():
        raise UserError(f"the kernels run on a GPU, and there is none here; {otherwise}")
    return torch.device(name or "cuda")


def chosen_rows(only: Sequence[str], device: torch.device, quick: bool) -> list[Row]:
    """Return the rows that are named, at the size of the device.

    Raises:
        UserError: If a name is neither a row nor a family of rows.
    """
    rows = all_rows()
    try:
        chosen = select(rows, only)
    except KeyError as error:
        allowed = ", ".join(dict.fromkeys((*(row.family for row in rows), *(row.id for row in rows))))
        raise UserError(f"--only names unknown rows {', '.join(error.args)}; allowed: {allowed}") from error
    return chosen if device.type == "cuda" else scaled_rows(chosen, quick)


def street_labels(world: int, frames: int, height: int, width: int) -> Street:
    """Return labels of four street worlds side by side, resized by nearest neighbour, with their 60 largest instances.

    A few frames are repeated where more are wanted. The worlds are street_world's, so that ids have the shapes of cars,
    persons and houses.
    """
    semantic, ids = _street(world % WORLDS)
    time = np.arange(frames) % WORLD_FRAMES
    rows, columns = (np.arange(size) * full // size for size, full in ((height, 2 * PART[0]), (width, 2 * PART[1])))
    parts = (np.ascontiguousarray(labels[time][:, rows[:, None], columns]) for labels in (semantic, ids))
    return Street(*map(torch.from_numpy, parts))


@lru_cache(maxsize=WORLDS)
def _street(world: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Semantic and ids (T,2H,2W) of four worlds; ids are ranks by size, those beyond the most are 0."""
    parts = [_part(FIRST_SEED + 4 * world + number) for number in range(4)]
    semantic, ids = (np.block([[a, b], [c, d]]) for a, b, c, d in zip(*parts, strict=True))
    ids += np.kron(np.arange(4, dtype=np.int32).reshape(2, 2) * 100_000, np.ones(PART, np.int32)) * (ids > 0)
    numbers, counts = np.unique(ids[ids > 0], return_counts=True)
    largest = numbers[np.argsort(-counts, kind="stable")][:MOST_IDS]
    ranks = np.zeros(ids.max() + 1, np.int32)
    ranks[largest] = np.arange(1, len(largest) + 1)
    return semantic, ranks[ids]


def _part(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    frames = list(render_video(seed, frames=WORLD_FRAMES, size=PART))
    return np.stack([frame.semantic for frame in frames]), np.stack([frame.instance for frame in frames])


def _console() -> Console:
    """Standard output; wide where it is no terminal and nothing says how wide it is."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=WIDTH)


def _print_group(console: Console, rows: Sequence[RowResult]) -> None:
    if not rows:
        return
    table = Table(title=Text(rows[0].group), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header(rows)):
        table.add_column(name, justify="left" if number < 2 else "right", overflow="fold")
    for row in rows:
        for cells in lines(row, rows):
            table.add_row(*map(Text, cells))
        table.add_section()
    console.print(table)
    for note in notes(rows):
        console.print(Text(note))


def _write(
    path: Path | None, results: list[RowResult], found: dict[str, object], *, quick: bool, finished: bool
) -> None:
    if path is not None:
        write_json(path, report_data(results, found, quick=quick, finished=finished))


def _draw(results: list[RowResult], found: dict[str, object], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(results, found, path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error}); choose another file") from error


def _raise_red(results: list[RowResult]) -> None:
    """Raise if the gate was red anywhere."""
    red = [f"{row.label} {found.name}" for row in results for found in row.red]
    if red:
        raise VidaptError(f"wrong results, for which no speed is shown: {', '.join(red)}")
