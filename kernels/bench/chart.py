"""The chart: how many times faster than its baseline each provider is on each row, on a logarithmic axis."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vidapt.kernels.bench.report import RowResult
from vidapt.kernels.bench.rows import OURS

OURS_COLOUR = "#1b6ca8"
OTHER_COLOURS = ("#e08e45", "#7fb285", "#b07aa1", "#9c755f", "#76b7b2", "#59514a")
BAR_INCHES = 0.17
HEAD_INCHES = 0.9


def draw(rows: Sequence[RowResult], environment: dict[str, Any], path: Path) -> None:
    """Draw a PNG with a panel for each group of rows; rows without a time of the baseline are named without bars."""
    from matplotlib.figure import Figure

    groups = [list(found) for _, found in groupby(rows, key=lambda row: row.group)]
    heights = [BAR_INCHES * sum(len(_bars(row)) + 1 for row in found) + HEAD_INCHES for found in groups]
    figure = Figure(figsize=(9.5, sum(heights) + 0.6), dpi=120, layout="constrained")
    panels = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, found in zip(panels, groups, strict=True):
        _draw_group(panel, found)
    figure.suptitle(
        f"{environment['device']}, torch {environment['torch']}, triton {environment['triton']}", fontsize=10
    )
    figure.savefig(path, format="png")


def _draw_group(panel: Any, rows: Sequence[RowResult]) -> None:
    """Draw the rows of a group from top to bottom, a bar for each provider but the baseline."""
    from matplotlib.ticker import NullFormatter

    names = list(dict.fromkeys(name for row in rows for name, _ in _bars(row)))
    colours = _colours(names)
    place, ticks = 0.0, []
    for row in rows:
        bars = _bars(row)
        ticks.append((place + (len(bars) - 1) / 2, row.label))
        for name, faster in bars:
            label = name if name in colours and not panel.get_legend_handles_labels()[1].count(name) else None
            panel.barh(place, faster - 1, left=1, height=0.85, color=colours[name], label=label)
            panel.annotate(
                f"{faster:.3g}", (faster, place), xytext=(3 if faster >= 1 else -3, 0), textcoords="offset points",
                ha="left" if faster >= 1 else "right", va="center", fontsize=6,
            )  # fmt: skip
            place += 1
        if not bars:
            panel.annotate("not timed", (1, place), fontsize=6, va="center")
            place += 1
        place += 1
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("{x:g}" if _narrow(rows) else NullFormatter())
    panel.axvline(1, color="black", linewidth=0.8)
    panel.margins(x=0.12, y=0.01)
    panel.invert_yaxis()
    panel.set_yticks([at for at, _ in ticks], [label for _, label in ticks], fontsize=7)
    panel.tick_params(axis="x", which="both", labelsize=7)
    panel.grid(axis="x", alpha=0.3)
    panel.set_title(f"{rows[0].group}: {rows[0].modes[-1]}", fontsize=9, loc="left")
    panel.set_xlabel(f"times faster than {rows[0].baseline}", fontsize=8)
    if names:
        panel.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _narrow(rows: Sequence[RowResult]) -> bool:
    """Tell whether all bars lie within a factor of ten, where powers of ten alone would leave the axis bare."""
    ratios = [1.0, *(ratio for row in rows for _, ratio in _bars(row))]
    return max(ratios) / min(ratios) < 10


def _bars(row: RowResult) -> list[tuple[str, float]]:
    """Return the name and the ratio of every provider that was timed, but of the baseline."""
    ratios = [(found.name, row.speedup(found)) for found in row.providers if found.name != row.baseline]
    return [(name, ratio) for name, ratio in ratios if ratio is not None]


def _colours(names: Sequence[str]) -> dict[str, str]:
    others = [name for name in names if name != OURS]
    return {OURS: OURS_COLOUR} | {name: OTHER_COLOURS[at % len(OTHER_COLOURS)] for at, name in enumerate(others)}
