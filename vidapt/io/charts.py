"""Charts of repeated measurements: every measurement is a point, so that their spread is seen."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vidapt.io.report import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#2f6fdb", "#d1495b", "#2a9d6f", "#c77f1b", "#7b4fb5", "#3a9fb5", "#8a8a2a", "#b5508f")
_GREY = "#888888"


def dot_chart(title: str, series: Mapping[str, Sequence[float]], unit: str, pale: Sequence[str] = ()) -> Picture:
    """Draw one line of points for each name, from top to bottom, with a bar at their mean.

    Args:
        title: Caption.
        series: Values by name; a name without values keeps its line.
        unit: What the horizontal axis shows.
        pale: Names that are drawn in grey, such as bounds.
    """
    figure = _figure(3.9, 0.7 + 0.25 * len(series))
    axes = figure.subplots()
    for place, (name, values) in enumerate(series.items()):
        colour = _GREY if name in pale else _COLOURS[0]
        axes.scatter(list(values), [place] * len(values), s=16, color=colour, alpha=0.65, linewidths=0, zorder=3)
        if values:
            mean = sum(values) / len(values)
            axes.plot([mean, mean], [place - 0.32, place + 0.32], color=colour, linewidth=2, zorder=2)
    axes.set_yticks(range(len(series)), list(series), fontsize=8)
    axes.set_ylim(len(series) - 0.4, -0.6)
    axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="both", alpha=0.25)
    return _picture(title, figure)


def spread_curve(
    title: str, series: Mapping[str, Mapping[float, Sequence[float]]], horizontal: str, vertical: str
) -> Picture:
    """Draw the mean of each name along an axis as a line, with every measurement as a point.

    Args:
        title: Caption.
        series: Measurements by name and place on the axis.
        horizontal: Name of the axis.
        vertical: What was measured.
    """
    figure = _figure(3.9, 2.6)
    axes = figure.subplots()
    for number, (name, places) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        known = {place: values for place, values in sorted(places.items()) if values}
        axes.plot(list(known), [sum(v) / len(v) for v in known.values()], color=colour, label=name, linewidth=1.5)
        points = [(place, value) for place, values in known.items() for value in values]
        horizontals, verticals = [place for place, _ in points], [value for _, value in points]
        axes.scatter(horizontals, verticals, s=14, color=colour, alpha=0.6, linewidths=0)
    low, high = axes.get_ylim()
    if low < 0 < high:
        axes.axhline(0, color=_GREY, linewidth=0.8)
    axes.set_xlabel(horizontal, fontsize=8)
    axes.set_ylabel(vertical, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    if series:
        axes.legend(fontsize=7, frameon=False)
    return _picture(title, figure)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def _picture(title: str, figure: Figure) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Picture(title, buffer.getvalue())
