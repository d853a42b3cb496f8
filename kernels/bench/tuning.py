"""Find the best tile of every kernel on this GPU: `vidapt bench kernels --tune FILE`.

For each problem class that an operation's `tiles.json` lists, candidate tiles are launched in the row of the suite that
uses them, judged by the gate, timed, and the fastest is kept. FILE holds `{"tiles": {operation: {device: {kernel:
{problem: tile}}}}, "timings": [...], "environment": {...}}`. To ship it, copy each `tiles[operation][device]` into
`kernels/<operation>/tiles.json` under `targets`, name the GPU's chip in `gpus` of `kernels/bench/budgets.json`, run the
compile-only gate and commit FILE with it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

import torch

from vidapt.kernels.bench.contrast_rows import BOTH, FORWARD, ContrastRow
from vidapt.kernels.bench.gates import Gate
from vidapt.kernels.bench.measure import Effort, Ready, Timing, estimate, interleaved
from vidapt.kernels.bench.paste_rows import INPLACE, PasteRow
from vidapt.kernels.bench.rows import CALL, OURS, Provider, Row
from vidapt.kernels.bench.run import SETS, Settings, first_line, ready_call
from vidapt.kernels.bench.stats_rows import StatsRow

Tile = dict[str, int]
Place = tuple[str, str, str]  # operation, kernel, problem class

EFFORT = Effort(0.1, 5, 100)
IMAGES = {"8bit": "uint8", "16bit": "bf16", "32bit": "fp32"}


@dataclass(frozen=True)
class Tunable:
    """One entry of a tile table, and the row, provider and mode that it is timed in."""

    place: Place
    row: Row
    provider: str
    mode: str


@dataclass(frozen=True)
class Trial:
    """What one candidate did: its time, or why it has none."""

    place: Place
    tile: Tile
    timing: Timing | None
    note: str = ""


def tunables(only: Iterable[str] = ()) -> list[Tunable]:
    """Return the entries of all tile tables, or of those operations and kernels that `only` names.

    Raises:
        KeyError: it names something else; the arguments are the unknown names.
    """
    found = [_tunable(place) for operation in ("paste", "contrast") for place in _places(operation)]
    wanted = set(only)
    unknown = wanted - {name for tunable in found for name in tunable.place[:2]}
    if unknown:
        raise KeyError(*sorted(unknown))
    return [tunable for tunable in found if not wanted or wanted & set(tunable.place[:2])]


def candidates(kernel: str, problem: str, shipped: Tile) -> list[Tile]:
    """Return the tiles to try, the shipped one first: the list of the kernel in `CANDIDATES`, or its neighbours."""
    listed = CANDIDATES.get(kernel, lambda _: neighbours(shipped))(problem)
    return [shipped, *(tile for tile in listed if tile != shipped)]


def neighbours(tile: Tile) -> list[Tile]:
    """Return the tiles that differ from `tile` in one value, halved or doubled, or by one pipeline stage."""
    changed = []
    for name, value in tile.items():
        values = (value - 1, value + 1) if name == "num_stages" else (value // 2, value * 2)
        changed += [tile | {name: other} for other in values if other >= 1]
    return changed


def tune(tunable: Tunable, settings: Settings, chosen: Mapping[Place, Tile]) -> list[Trial]:
    """Judge and time every candidate of an entry with the tiles `chosen` so far; the fastest comes first."""
    from vidapt.kernels import tiles

    with overridden(chosen):
        launched = tiles.tile(*tunable.place)
    shipped = {name: value for name, value in launched.items() if name not in tiles.LAUNCH}
    small = tunable.row.small(settings.device) or tunable.row
    inputs = small.inputs(settings.device, 0, settings.streets)
    judge = small.judge("small", inputs)
    sets = [tunable.row.inputs(settings.device, 1 + number, settings.streets) for number in range(SETS)]
    judged = partial(judge, _provider(tunable, small, settings))
    timed = ready_call(tunable.row, _provider(tunable, tunable.row, settings), tunable.mode, sets)
    trials = []
    for tile in candidates(tunable.place[1], tunable.place[2], shipped):
        with overridden({**chosen, tunable.place: tile}):
            trials.append(_try(tunable.place, tile, judged, timed, settings.device))
        small.clear(inputs)
    return sorted(trials, key=lambda trial: trial.timing.median if trial.timing else float("inf"))


@contextmanager
def overridden(chosen: Mapping[Place, Tile]) -> Iterator[None]:
    """Let `tiles.tile` give these tiles on the current device, whatever its tables say."""
    from vidapt.kernels import tiles

    read, target = tiles.tile_table, tiles.targets()[0]

    def table(operation: str) -> dict[str, dict[str, dict[str, Tile]]]:
        found = read(operation)
        own = {kernel: dict(problems) for kernel, problems in found.get(target, {}).items()}
        for (owner, kernel, problem), tile in chosen.items():
            if owner == operation:
                own.setdefault(kernel, {})[problem] = tile
        return {**found, target: own}

    tiles.tile_table = table  # type: ignore[assignment]
    try:
        yield
    finally:
        tiles.tile_table = read


def tiles_data(chosen: Mapping[Place, Tile], device: str) -> dict[str, dict[str, dict[str, dict[str, Tile]]]]:
    """Return the chosen tiles as `{operation: {device: {kernel: {problem: tile}}}}`."""
    data: dict[str, dict[str, dict[str, dict[str, Tile]]]] = {}
    for (operation, kernel, problem), tile in chosen.items():
        data.setdefault(operation, {}).setdefault(device, {}).setdefault(kernel, {})[problem] = tile
    return data


def trial_data(trial: Trial) -> dict[str, object]:
    """Return a trial as plain data."""
    operation, kernel, problem = trial.place
    median = None if trial.timing is None else 1e3 * trial.timing.median
    named = {"operation": operation, "kernel": kernel, "problem": problem}
    return named | {"tile": trial.tile, "median_ms": median, "note": trial.note}


def _try(place: Place, tile: Tile, judge: Callable[[], Gate], timed: Ready, device: torch.device) -> Trial:
    """Judge and time one candidate under the tiles that are set."""
    try:
        gate = judge()
        if not gate.passed:
            return Trial(place, tile, None, str(gate))
        with timed(0) as call:
            repetitions = EFFORT.repetitions(estimate(call, device))
        return Trial(place, tile, interleaved({0: timed}, {0: repetitions}, device, SETS)[0])
    except Exception as error:  # a tile may not compile, or ask for more shared memory than there is
        return Trial(place, tile, None, first_line(error))


def _places(operation: str) -> list[Place]:
    """Return kernel and problem class of everything that any target of a tile table lists."""
    from vidapt.kernels.tiles import tile_table

    names = [
        (kernel, problem) for found in tile_table(operation).values() for kernel in found for problem in found[kernel]
    ]
    return [(operation, kernel, problem) for kernel, problem in dict.fromkeys(names)]


def _tunable(place: Place) -> Tunable:
    """Return the entry with the row that launches it."""
    operation, kernel, problem = place
    if operation == "contrast":
        return _contrast_tunable(place)
    if kernel == "paste":
        return Tunable(place, PasteRow("tune", "", 1024, 1024, 8, IMAGES[problem], 20), OURS, INPLACE)
    return Tunable(place, StatsRow("tune", "", 1024, 1024, 8), OURS, CALL)


def _contrast_tunable(place: Place) -> Tunable:
    """Return dense self-contrast for all kernels but the gradients of one side, which detached keys launch."""
    _, kernel, problem = place
    bits, _, features = problem.partition("_d")
    count = 16384 if bits == "16bit" else 4096
    gradients: Literal["self", "query"] = "query" if kernel == "sum_gradients" else "self"
    row = ContrastRow("tune", "", 1, count, count, int(features), gradients)
    mode = BOTH if kernel.startswith("sum_gradients") else FORWARD
    return Tunable(place, row, OURS if bits == "16bit" else f"{OURS} exact", mode)


def _provider(tunable: Tunable, row: Row, settings: Settings) -> Provider:
    return next(found for found in row.providers(settings.device, None) if found.name == tunable.provider)


def _paste_candidates(problem: str) -> list[Tile]:
    sizes = product((4, 8, 16, 32), (64, 128, 256), (1, 2, 4))
    return [{"BLOCK_H": high, "BLOCK_W": wide, "num_warps": warps, "num_stages": 1} for high, wide, warps in sizes]


def _sums_candidates(problem: str) -> list[Tile]:
    sizes = product((16, 32, 64), (32, 64, 128), (1, 2, 4))
    return [{"BLOCK_H": high, "BLOCK_W": wide, "num_warps": warps, "num_stages": 1} for high, wide, warps in sizes]


def _dot_candidates(problem: str) -> list[Tile]:
    bits, _, depth = problem.partition("_d")
    if bits == "32bit":
        sizes = [(64, 64, 8), (64, 32, 8), (64, 32, 4), (32, 32, 4)]
        widths, stages = {min(int(depth), 64), 32}, (1, 2, 3)
    else:
        sizes = [(128, 128, 8), (128, 64, 8), (128, 64, 4), (64, 128, 8), (64, 64, 8), (64, 64, 4)]
        widths, stages = {min(int(depth), 256), min(int(depth), 128)}, (2, 3, 4)
    return [
        {"BLOCK_M": rows, "BLOCK_N": columns, "WIDTH": width, "num_warps": warps, "num_stages": stage}
        for (rows, columns, warps), width, stage in product(sizes, sorted(widths), stages)
    ]


CANDIDATES: dict[str, Callable[[str], list[Tile]]] = {
    "paste": _paste_candidates,
    "instance_sums": _sums_candidates,
    **dict.fromkeys(("sum_rows", "sum_positives", "sum_gradients", "sum_gradients_symmetric"), _dot_candidates),
}
"""Kernels with a list of candidates of their own, by problem class; the others try the neighbours of what ships."""
