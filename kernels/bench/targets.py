"""How fast the kernels shall be on an H200, judged on rows as `RowResult.data()` or the JSON of the suite holds them.

Targets are stated for the provider `OURS` alone. What was not measured is unknown, neither met nor missed: everything
of a row that failed or ran on the CPU, and shares of the floor on GPUs without one in `floors.CEILINGS`. A target over
a baseline is stated where that baseline was timed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vidapt.kernels.bench.contrast_rows import BOTH, FORWARD, ContrastRow
from vidapt.kernels.bench.paste_rows import DTYPES, INPLACE, NEW, PasteRow
from vidapt.kernels.bench.rows import CALL, OURS, Row
from vidapt.kernels.bench.run import GRAPH_ROWS, MIB
from vidapt.kernels.bench.suite import all_rows, select
from vidapt.kernels.bench.tuning import Tunable, tunables

GRAPH_US = 60.0
FORWARD_SHARE, BOTH_SHARE = 0.6, 0.5
SHALLOW, SHALLOW_SHARE = 64, 0.55  # at this depth and below, the forward pass is bound by its exponentials
CONTRAST_TIMES = {"eager": 8.0, "compiled": 3.0}
# Of a contrast beyond its outputs: a tenth of them, vectors of the rows, and partial sums beside the operands.
OUTPUT_SHARE, ROW_VECTORS, PARTIAL_MIB = 0.1, 20, 8.0
PASTE_SHARE, LARGE_CLIP_BYTES = 0.8, 100e6
PASTE_TIMES, SPARSE_PERCENT = 3.0, 20
STATS_SHARE, STATS_TIMES = 0.6, 30.0

Shape = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """What one number of a row shall be.

    Attributes:
        row: id of the row.
        text: what is measured, and its unit.
        value: what was measured, or None.
        limit: what it shall reach, or stay below.
        at_least: whether more is better.
        by_tiles: whether it is about time alone, which other tiles may change.
    """

    row: str
    text: str
    value: float | None
    limit: float
    at_least: bool
    by_tiles: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if that is unknown."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def targets(row: Mapping[str, Any]) -> list[Target]:
    """Return the targets of a row as plain data, with what was measured."""
    return [*_TARGETS.get(row["group"], _no_targets)(row), _no_waits(row)]


def slow(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the ids of the rows of which a target that tiles can help with was measured and is not met."""
    return [row["id"] for row in rows if any(target.by_tiles and target.met is False for target in targets(row))]


def tunables_of(row_ids: Iterable[str]) -> list[Tunable]:
    """Return the entries of the tile tables that rows of the suite launch, by their ids.

    The rows that tuning times are not those of the suite, so that entries are found by what they are for: dtype of the
    image, or length of the features and which sides get gradients. Statistics have entries for all sizes, anchors none.

    Raises:
        KeyError: a row is not of the suite.
    """
    wanted = list(row_ids)
    rows = select(all_rows(), wanted) if wanted else []
    return [tunable for tunable in tunables() if any(_launches(row, tunable) for row in rows)] if rows else []


def _launches(row: Row, tunable: Tunable) -> bool:
    """Tell whether our default operation launches an entry of the tile tables in a row."""
    timed = tunable.row
    if isinstance(row, ContrastRow) and isinstance(timed, ContrastRow):
        same = tunable.provider == OURS and timed.features == row.features
        gradient = tunable.place[1].startswith("sum_gradients")
        return same and (not gradient or (timed.gradients == "self") == (row.gradients == "self"))
    if isinstance(row, PasteRow) and isinstance(timed, PasteRow):
        return timed.dtype == row.dtype
    return type(row) is type(timed)


def _contrast(row: Mapping[str, Any]) -> Iterator[Target]:
    if row["id"] in GRAPH_ROWS:
        milliseconds = _cost(row, BOTH, "graph_ms")
        graph = _at_most(row, "forward+backward in a CUDA graph, µs", _scaled(milliseconds, 1e3), GRAPH_US)
        yield replace(graph, by_tiles=True)
        return
    forward = SHALLOW_SHARE if row["shape"]["D"] <= SHALLOW else FORWARD_SHARE
    yield _share(row, "forward, share of the floor", _cost(row, FORWARD, "floor_share"), forward)
    yield _share(row, "forward+backward, share of the floor", _cost(row, BOTH, "floor_share"), BOTH_SHARE)
    for baseline, times in CONTRAST_TIMES.items():
        yield from _faster(row, baseline, BOTH, times)
    extra = _cost(row, BOTH, "extra_mib")
    yield _at_most(row, "memory beyond outputs and gradients, MiB", extra, contrast_mib(row["shape"]))


def contrast_mib(shape: Shape) -> float:
    """Return the memory that a contrast may take beyond inputs, outputs and gradients, in MiB.

    That is a tenth of its outputs (the gradients), row vectors in float32, one copy of query and key in 16 bits, and
    8 MiB. Rows of features count where they get gradients; positives are not copied.
    """
    itself, both = shape["gradients"] == "Q=K", shape["gradients"] == "Q,K"
    rows = shape["P"] * (shape["N"] + (0 if itself else shape["M"]))
    differentiated = shape["P"] * (shape["N"] + (shape["M"] if both else 0))
    outputs = 4 * differentiated * shape["D"]
    vectors = 4 * ROW_VECTORS * rows
    copies = 2 * rows * shape["D"]
    return PARTIAL_MIB + ((1 + OUTPUT_SHARE) * vectors + OUTPUT_SHARE * outputs + copies) / MIB


def _paste(row: Mapping[str, Any]) -> Iterator[Target]:
    if clip_bytes(row["shape"]) > LARGE_CLIP_BYTES:
        for mode in (NEW, INPLACE):
            yield _share(row, f"{mode}, share of the copy bandwidth", _cost(row, mode, "floor_share"), PASTE_SHARE)
    percent = int(row["id"].rpartition(".")[2])
    if row["shape"]["dtype"] == "fp32" and percent <= SPARSE_PERCENT:
        yield from _faster(row, "compiled where", INPLACE, PASTE_TIMES)


def clip_bytes(shape: Shape) -> float:
    """Return the size of a clip: three channels of the image, semantic, ids and float32 weights."""
    return float(shape["T"] * shape["H"] * shape["W"] * (3 * DTYPES[shape["dtype"]].itemsize + 1 + 4 + 4))


def _stats(row: Mapping[str, Any]) -> Iterator[Target]:
    yield _share(row, "share of the copy bandwidth", _cost(row, CALL, "floor_share"), STATS_SHARE)
    yield from _faster(row, "loop", CALL, STATS_TIMES)


def _no_targets(row: Mapping[str, Any]) -> Iterator[Target]:
    yield from ()


_TARGETS: dict[str, Callable[[Mapping[str, Any]], Iterator[Target]]] = {
    ContrastRow.group: _contrast,
    PasteRow.group: _paste,
    "Instance statistics": _stats,
}


def _no_waits(row: Mapping[str, Any]) -> Target:
    waits = [_cost(row, mode, "host_syncs") for mode in row["modes"]]
    known = [count for count in waits if count is not None]
    return _at_most(row, "waits of the host", max(known) if len(known) == len(waits) else None, 0)


def _faster(row: Mapping[str, Any], baseline: str, mode: str, times: float) -> Iterator[Target]:
    """Yield the target over a baseline, if that was timed."""
    theirs = _cost(row, mode, "median_ms", baseline)
    if theirs is not None:
        own = _cost(row, mode, "median_ms")
        yield _at_least(row, f"{mode}, times faster than {baseline}", theirs / own if own else None, times)


def _cost(row: Mapping[str, Any], mode: str, what: str, provider: str = OURS) -> float | None:
    """Return one number of a provider, None if it was not measured or not on a GPU."""
    if row["label"].endswith("@cpu"):
        return None
    costs = [found["modes"].get(mode, {}) for found in row["providers"] if found["name"] == provider]
    value = costs[0].get(what) if costs else None
    return None if value is None else float(value)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _share(row: Mapping[str, Any], text: str, value: float | None, limit: float) -> Target:
    return replace(_at_least(row, text, value, limit), by_tiles=True)


def _at_least(row: Mapping[str, Any], text: str, value: float | None, limit: float) -> Target:
    return Target(row["id"], text, value, limit, at_least=True)


def _at_most(row: Mapping[str, Any], text: str, value: float | None, limit: float) -> Target:
    return Target(row["id"], text, value, limit, at_least=False)
