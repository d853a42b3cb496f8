"""What a reader of a comparison must know beside the scores: data, protocol, commands, devices and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidapt.config import CamVidData, Data, StreetWorldData
from vidapt.jobs.compare_cells import Cell
from vidapt.jobs.describe import describe, describe_all
from vidapt.jobs.scored_videos import is_generated
from vidapt.jobs.table import TEST_BED, protocol_line

Results = Sequence[tuple[Cell, Mapping[str, Any]]]
SHOWN = 8
"""Names that a line lists at most."""


def lines_about(results: Results) -> list[str]:
    """Data and protocol of one benchmark."""
    cell, data = results[0]
    targets = [one.recipe.target for one, _ in results if one.recipe.target is not None]
    scored = cell.recipe.evaluation
    kind = f"These numbers are from the {TEST_BED}." if is_generated(scored) else "Scored on real footage."
    protocol = cell.recipe.scoring.protocol
    scores = next(iter(data["scores"].values()), None)
    means = f" {protocol_line(scores)}." if scores else ""
    return [
        f"{kind} Seed {cell.seed}: labelled {describe_all(cell.recipe.source)}; "
        f"unlabelled {_described(targets[0]) if targets else 'target: none'}; scored on {_described(scored)}.",
        f"Protocol: {protocol + ';' if protocol else ''}{means}".strip(),
    ]


def _described(data: Data | None) -> str:
    """A data section in a phrase, with the strength of its style or its split."""
    if isinstance(data, StreetWorldData) and data.strength < 1:
        return f"{describe(data)} at strength {data.strength:g}"
    return f"{describe(data)} ({data.split})" if isinstance(data, CamVidData) else describe(data)


def facts(
    results: Results, missing: Sequence[str], failed: Mapping[str, str], out: Path, command: str
) -> list[tuple[str, str]]:
    """Names and values for the end of the report."""
    cells = [data for _, data in results]
    dates = sorted(data["date"] for data in cells)
    found = [
        ("cells", f"{len(cells)} finished, {len(missing)} missing" + (f": {_some(missing)}" if missing else "")),
        ("command", command),
        ("cells by", _some(_distinct(data["command"] for data in cells))),
        ("shared start", _starts(results)),
        ("seeds", ", ".join(map(str, sorted({cell.seed for cell, _ in results})))),
        ("device", _some(_distinct(f"{data['device_name']}, {data['threads']} thread(s)" for data in cells))),
        ("machine", _some(_distinct(data["platform"] for data in cells))),
        ("versions", _some(_distinct(_versions(data) for data in cells))),
        ("commit", _some(_distinct(data["commit"] or "not in a checkout" for data in cells))),
        ("date", f"{dates[0]} to {dates[-1]}" if dates else "-"),
        ("files", f"{out / 'cells'}, scores.csv, scores.json"),
    ]
    if failed:
        found.insert(1, ("failed", _some([f"{key}: {reason}" for key, reason in failed.items()])))
    return found


def _starts(results: Results) -> str:
    """What cells started from, and a warning where cells of one start had other weights."""
    weights: dict[str, set[str]] = {}
    for cell, data in results:
        weights.setdefault(data.get("start", cell.start.key), set()).add(str(data.get("start_weights")))
    steps = _distinct(f"{cell.start.recipe.training.steps} steps" for cell, _ in results)
    mixed = sorted(key for key, found in weights.items() if len(found) > 1)
    warning = f"; cells of {_some(mixed)} started from different weights, run them again" if mixed else ""
    starts = len({cell.start.key for cell, _ in results})
    return f"source labels alone, {', '.join(steps)}, {starts} in all{warning}"


def _versions(data: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in data["packages"].items() if version)
    return f"Python {data['python']}, {packages}" if packages else f"Python {data['python']}"


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _some(values: Sequence[str]) -> str:
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return "; ".join(values[:SHOWN]) + more
