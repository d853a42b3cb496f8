"""The rows of the suite, at the sizes of a GPU or scaled down for the CPU."""

from collections.abc import Iterable, Sequence

from vidapt.kernels.bench.anchor_rows import AnchorRow, anchor_rows
from vidapt.kernels.bench.contrast_rows import ContrastRow, contrast_rows
from vidapt.kernels.bench.paste_rows import PasteRow, paste_rows
from vidapt.kernels.bench.rows import Row
from vidapt.kernels.bench.stats_rows import StatsRow, stats_rows

# What a row may cost on the CPU: logits of a contrast (P·N·M), pixels of the others; by size and quick size.
CPU_LIMITS: dict[type[Row], tuple[int, int]] = {
    ContrastRow: (2**22, 2**20),
    AnchorRow: (2**16, 2**15),
    PasteRow: (2**22, 2**18),
    StatsRow: (2**20, 2**17),
}


def all_rows() -> list[Row]:
    """Return every row at the size that a GPU is measured at."""
    return [*contrast_rows(), *anchor_rows(), *paste_rows(), *stats_rows()]


def scaled_rows(rows: Iterable[Row], quick: bool) -> list[Row]:
    """Return rows scaled down for the CPU; a row that is small enough stays as it is."""
    return [row.scaled(CPU_LIMITS[type(row)][quick]) for row in rows]


def select(rows: Sequence[Row], only: Iterable[str]) -> list[Row]:
    """Return the rows that `only` names by id or by family, in the order of the suite; all if it names none.

    Raises:
        KeyError: it names something else; the arguments are the unknown names.
    """
    wanted = set(only)
    unknown = wanted - {name for row in rows for name in (row.id, row.family)}
    if unknown:
        raise KeyError(*sorted(unknown))
    return [row for row in rows if not wanted or {row.id, row.family} & wanted]
