"""The report of a comparison: one HTML file, and the same numbers as CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidapt.config_suite import Suite
from vidapt.io.charts import spread_curve
from vidapt.io.report import Picture, ReportContent, ReportSection, Table, write_report
from vidapt.jobs.compare_cells import START, Cell, sweep_text
from vidapt.jobs.compare_facts import facts, lines_about
from vidapt.jobs.compare_plan import TUNING_WORLDS, Choice
from vidapt.jobs.compare_remarks import remarks
from vidapt.jobs.compare_sections import both_weights, charts, class_table, further_table, gain_table, main_table
from vidapt.jobs.compare_statistics import RULE
from vidapt.jobs.compare_table import GAPS, MAIN, SOURCE_ONLY, Row, comparison_data, find_row, gain, rows_of, scores_csv
from vidapt.jobs.files import write_json, write_text
from vidapt.jobs.scored_videos import is_generated
from vidapt.jobs.table import TEST_BED

Results = Sequence[tuple[Cell, Mapping[str, Any]]]


def write_comparison(
    suite: Suite,
    choice: Choice,
    results: Results,
    missing: Sequence[str],
    failed: Mapping[str, str],
    out: Path,
    command: str,
) -> Path:
    """Write ``report.html``, ``scores.csv`` and ``scores.json`` into ``out``.

    Args:
        suite: The suite.
        choice: What of it was wanted.
        results: Finished cells with the content of their files.
        missing: Names of cells that the suite has and that are not finished.
        failed: Reasons by the names of cells that failed.
        out: Folder of the comparison.
        command: What the user typed.

    Returns:
        The path of the report.
    """
    groups = {one.title: _results(results, one.title, swept=False) for one in suite.comparisons}
    groups = {title: group for title, group in groups.items() if group}
    sections = [_section(title, group) for title, group in groups.items()]
    axis = _axis_section(suite, groups)
    swept = _sweep_sections(suite, results)
    content = ReportContent(
        title=f"vidapt compare: {suite.title}",
        notice=" ".join(_notices(results, choice)) or None,
        facts=facts(results, missing, failed, out, command),
        summary=None,
        classes=None,
        sections=[*axis, *sections, *swept, _rules(suite)],
    )
    write_report(out / "report.html", content)
    write_text(out / "scores.csv", scores_csv(results))
    write_json(out / "scores.json", _data(suite, choice, groups, results, missing, failed))
    return out / "report.html"


def _results(results: Results, comparison: str, *, swept: bool) -> Results:
    return [
        (cell, data) for cell, data in results if cell.comparison == comparison and (cell.sweep is not None) == swept
    ]


def _notices(results: Results, choice: Choice) -> list[str]:
    generated = [is_generated(cell.recipe.evaluation) for cell, _ in results]
    found = []
    if any(generated):
        which = "All scores" if all(generated) else "The scores on street_world"
        found.append(f"{which} here are from the {TEST_BED}.")
    if choice.first_world >= TUNING_WORLDS:
        found.append(f"Worlds {choice.first_world} and up: a tuning run, not for reported results.")
    if choice.overrides:
        found.append(f"Changed for all recipes: {', '.join(choice.overrides)}.")
    return found


def _section(title: str, results: Results) -> ReportSection:
    rows = rows_of(results)
    tables = [main_table(rows), gain_table(rows), further_table(rows), both_weights(rows), class_table(rows, results)]
    return ReportSection(
        title=title,
        lines=lines_about(results),
        tables=[table for table in tables if table is not None],
        pictures=charts(rows),
        remarks=remarks(rows),
    )


def _axis_section(suite: Suite, groups: Mapping[str, Results]) -> list[ReportSection]:
    """Gain over source only against the place of the comparisons on the suite's axis."""
    if not suite.axis or not groups:
        return []
    places = {one.title: one.at for one in suite.comparisons if one.at is not None}
    tables = {places[title]: rows_of(group) for title, group in groups.items()}
    found = dict.fromkeys(row.name for rows in tables.values() for row in rows)
    names = [name for name in found if name not in (START, SOURCE_ONLY)]
    pictures = []
    for metric in (metric for metric in MAIN if metric.key in GAPS):
        series = {name: {at: _gains(rows, name, metric.key) for at, rows in tables.items()} for name in names}
        series = {name: found for name, found in series.items() if any(found.values())}
        if series:
            title = f"gain in {metric.title} over {SOURCE_ONLY}"
            pictures.append(spread_curve(title, series, suite.axis, "points"))
    return [ReportSection(f"Gain against {suite.axis}", pictures=pictures)] if pictures else []


def _gains(rows: Sequence[Row], name: str, key: str) -> list[float]:
    """Gains of one recipe over source only by seed, in points."""
    row, base = find_row(rows, name), find_row(rows, SOURCE_ONLY)
    if row is None or base is None or gain(row, rows, key) is None:
        return []
    own, other = row.values(key), base.values(key)
    return [100 * (own[seed] - other[seed]) for seed in sorted(own.keys() & other.keys())]


def _sweep_sections(suite: Suite, results: Results) -> list[ReportSection]:
    """A table for each recipe and key that was swept, with the recipe as the suite has it as first row."""
    sections = []
    for one in suite.comparisons:
        plain = rows_of(_results(results, one.title, swept=False))
        rows = rows_of(_results(results, one.title, swept=True))
        for name, key in dict.fromkeys((row.name, row.sweep[0]) for row in rows if row.sweep is not None):
            swept = [row for row in rows if row.name == name and row.sweep is not None and row.sweep[0] == key]
            base = find_row(plain, name)
            table = main_table([*([base] if base else []), *swept], titles=[*(["as in the suite"] if base else [])])
            sections.append(
                ReportSection(
                    f"Sweep: {key} of {name} on {one.title}", tables=[table], pictures=_sweep_curves(swept, key)
                )
            )
    return sections


def _sweep_curves(rows: Sequence[Row], key: str) -> list[Picture]:
    places = {row.sweep[1]: row for row in rows if row.sweep is not None}
    if len(places) < 2 or not all(isinstance(place, int | float) for place in places):
        return []
    pictures = []
    for metric in MAIN:
        found = {place: [100 * value for value in row.values(metric.key).values()] for place, row in places.items()}
        if any(found.values()):
            pictures.append(spread_curve(metric.title, {rows[0].name: found}, key, f"{metric.title} in percent"))
    return pictures


def _rules(suite: Suite) -> ReportSection:
    """How tables are to be read, and how hyper-parameters were chosen."""
    lines = [
        "Scores are in percent, mean ± standard deviation over seeds; bold is the best recipe, the start and the "
        "oracle aside. AP is COCO's, flicker the share of pixels that change their class along the flow, less is "
        "better. The start is the seed's shared checkpoint, scored as it is; source_only is trained as many further "
        "steps as the others, on source labels; the oracle on the labels of the target.",
        "Gains are differences to source_only by seed, mean ± standard deviation; ≈ marks those within the spread. "
        "The gap is the share of the distance from source_only to the oracle that a recipe closes, of the means. "
        "Time per step includes reading the data; memory is the peak of the process, on a GPU of what was allocated.",
        RULE,
    ]
    lines += [f"Hyper-parameters: {suite.tuning.note}"] if suite.tuning.note else []
    runs = [(name, str(count)) for name, count in suite.tuning.runs.items()]
    return ReportSection("How to read this", lines, [Table(("recipe", "tuning runs"), runs)] if runs else [])


def _data(
    suite: Suite,
    choice: Choice,
    groups: Mapping[str, Results],
    results: Results,
    missing: Sequence[str],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    comparisons = {}
    for title, group in groups.items():
        rows = rows_of(group)
        generated = is_generated(group[0][0].recipe.evaluation)
        found = {"generated_test_bed": generated, "recipes": comparison_data(rows), "remarks": remarks(rows)}
        comparisons[title] = found
    swept = [
        {"comparison": one.title, "recipe": row.name, "key": row.sweep[0], "value": sweep_text(row.sweep[1])}
        | row.data(MAIN)
        for one in suite.comparisons
        for row in rows_of(_results(results, one.title, swept=True))
        if row.sweep is not None
    ]
    return {
        "suite": suite.title,
        "first_world": choice.first_world,
        "rule": RULE,
        "comparisons": comparisons,
        "sweeps": swept,
        "tuning": suite.tuning.model_dump(mode="json"),
        "missing": list(missing),
        "failed": dict(failed),
    }
