"""The report of a comparison from made-up cells, whose means, gains and statements are worked out by hand."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.vidapt.jobs.tiny_suite import write_suite
from vidapt.config_suite import Suite
from vidapt.jobs.compare import report_cells
from vidapt.jobs.compare_cells import Cell, cell_head, cell_path
from vidapt.jobs.compare_plan import Choice, plan_cells
from vidapt.jobs.files import write_json
from vidapt.suite import load_suite

BROWSERS = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
SWEEP = {"key": "method.pseudo_instances.score", "values": [0.25, 0.5], "recipes": ["lidaps"]}

MIOU = {
    "start": [0.20, 0.20, 0.20],
    "source_only": [0.20, 0.30, 0.40],
    "dacs": [0.22, 0.33, 0.41],
    "lidaps": [0.50, 0.61, 0.69],
    "vidapt": [0.52, 0.60, 0.71],
    "oracle": [0.80, 0.90, 1.00],
}
"""Means: 20, 30, 32, 60, 61, 90; the first two recipes differ by 2 and the best two by 1, both within the spread."""


def fake(cell: Cell, miou: float, **scores: float | None) -> dict[str, Any]:
    """The file of a cell with a given mIoU; the teacher, where there is one, is a tenth better."""
    numbers: dict[str, Any] = {
        "miou": miou,
        "stq": miou / 2,
        "flicker": (1 - miou) / 10,
        "iou": {"road": miou, "car": None},
    }
    numbers |= {"classes": ["road", "car"], "label_space": "cityscapes", "unscored": "counted", **scores}
    teacher = {} if cell.recipe.method is None else {"teacher": {**numbers, "miou": miou + 0.1}}
    if cell.recipe.inference.weights == "teacher":
        teacher["teacher"]["miou"], numbers["miou"] = miou, miou - 0.1
    return {
        **cell_head(cell), "command": "vidapt compare it", "commit": "abc", "config": {},
        "weights": cell.recipe.inference.weights,
        "scores": {"student": numbers, **teacher}, "steps": 0 if cell.name == "start" else 5,
        "seconds_per_step": None if cell.name == "start" else 0.25, "start_weights": f"w{cell.seed}",
        "peak_memory": {"process": 3 * 2**29, "gpu": None}, "device_name": "cpu", "threads": 1, "python": "3.11",
        "platform": "Linux", "packages": {"torch": "2.15"}, "date": f"2026-01-0{cell.seed + 1}T00:00:00+00:00",
    }  # fmt: skip


def tiny(folder: Path, seeds: list[int], **changes: Any) -> Suite:
    one = {"benchmark": str(folder / "tiny_fog.yaml"), "recipes": [*MIOU][1:], "seeds": seeds}
    return load_suite(str(write_suite(folder, **{"comparisons": [one], "sweeps": {"score": SWEEP}, **changes})))


def write_all(suite: Suite, out: Path, **choice: Any) -> None:
    for cell in plan_cells(suite, Choice(**choice)):
        shift = 0.0 if cell.sweep is None else float(cell.sweep[1]) - 0.25
        write_json(cell_path(out, cell.key), fake(cell, MIOU[cell.name][cell.seed] + shift))


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    suite = tiny(folder, [0, 1, 2], tuning={"runs": {"dacs": 4, "vidapt": 4}, "note": "chosen on night"})
    write_all(suite, folder)
    write_all(suite, folder, sweeps=("score",))
    assert report_cells(suite, Choice(), folder, {}, "vidapt compare it") == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(reported: Path) -> str:
    return (reported / "report.html").read_text()


def table_of(page: str, caption: str) -> dict[str, list[str]]:
    """Cells of the table that follows a text, by the first cell."""
    table = page[page.index(caption) :]
    table = table[: table.index("</table>")]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
    cells = [
        [re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", row, re.S)] for row in rows
    ]
    return {row[0]: row[1:] for row in cells}


def test_means_and_deviations_in_the_page(page: str) -> None:
    table = table_of(page, "<h2>tiny_fog</h2>")
    assert table["recipe (weights)"] == ["seeds", "mIoU", "STQ", "flicker", "ms per step", "GiB"]
    assert table["source_only (student)"] == ["3", "30.0 ± 10.0", "15.0 ± 5.0", "7.0 ± 1.0", "250", "1.50"]
    assert table["dacs (student)"][1] == "32.0 ± 9.5"
    assert table["vidapt (teacher)"][1] == "61.0 ± 9.5"
    assert table["start (student)"] == ["3", "20.0 ± 0.0", "10.0 ± 0.0", "8.0 ± 0.0", "-", "-"]


def test_the_best_recipe_is_bold_and_the_oracle_is_not(page: str) -> None:
    assert "<b>61.0 ± 9.5</b>" in page
    assert "<td>90.0 ± 10.0</td>" in page


def test_gains_are_paired_and_gaps_are_of_the_means(page: str) -> None:
    table = table_of(page, "Gain over source_only")
    assert table["recipe (weights)"][-2:] == ["mIoU gap", "STQ gap"]
    assert table["dacs (student)"] == ["+2.0 ± 1.0 ≈", "+1.0 ± 0.5 ≈", "-0.2 ± 0.1 ≈", "3 %", "3 %"]
    assert table["lidaps (student)"] == ["+30.0 ± 1.0", "+15.0 ± 0.5", "-3.0 ± 0.1", "50 %", "50 %"]
    assert table["oracle (student)"] == ["+60.0 ± 0.0", "+30.0 ± 0.0", "-6.0 ± 0.0", "-", "-"]
    assert "start (student)" not in table


def test_statements_about_the_spread(page: str) -> None:
    remarks = re.findall(r"<li>(.*?)</li>", page)
    assert remarks == [
        "mIoU: vidapt is ahead of lidaps by 1.0, within the spread of the seeds",
        "STQ: vidapt is ahead of lidaps by 0.5, within the spread of the seeds",
        "flicker: vidapt is ahead of lidaps by 0.1, within the spread of the seeds",
        "dacs and source_only: within the spread of the seeds in mIoU (+2.0), STQ (+1.0), flicker (-0.2)",
    ]


def test_both_weights_are_shown_and_which_one_counts(page: str) -> None:
    table = table_of(page, "Both weights")
    assert table["dacs"][:3] == ["student", "32.0 ± 9.5", "42.0 ± 9.5"]
    assert table["vidapt"][:3] == ["teacher", "51.0 ± 9.5", "61.0 ± 9.5"]
    assert "oracle" not in table


def test_classes(page: str) -> None:
    table = table_of(page, "IoU by class")
    assert table["class"] == [*MIOU]
    assert table["road"] == ["20.0", "30.0", "32.0", "60.0", "61.0", "90.0"]
    assert table["car"] == ["-"] * 6


def test_a_sweep_has_a_table_of_its_own(page: str) -> None:
    table = table_of(page, "Sweep: method.pseudo_instances.score of lidaps on tiny_fog")
    assert [*table] == ["recipe (weights)", "as in the suite", "0.25", "0.5"]
    assert [row[1] for row in table.values()] == ["mIoU", "60.0 ± 9.5", "60.0 ± 9.5", "85.0 ± 9.5"]
    assert "85.0 ± 9.5" not in table_of(page, "<h2>tiny_fog</h2>").values()


def test_what_a_reader_must_know(page: str) -> None:
    assert table_of(page, "How to read this")["dacs"] == ["4"]
    for words in (
        "All scores here are from the embedded test bed: generated street video, not a benchmark.", "chosen on night",
        "street_world fog seed 3", "mean over all 2 classes of cityscapes", "or if the seeds do not agree on its sign",
        "vidapt compare it", "cpu, 1 thread(s)", "Python 3.11, torch 2.15", "abc", "2026-01-01", "2026-01-03",
    ):  # fmt: skip
        assert words in page, words
    assert "started from different weights" not in page


def test_the_numbers_as_data(reported: Path) -> None:
    data = json.loads((reported / "scores.json").read_text())
    dacs = data["comparisons"]["tiny_fog"]["recipes"]["dacs"]
    assert dacs["scores"]["miou"] == {"mean": pytest.approx(0.32), "deviation": pytest.approx(0.0953939), "count": 3}
    assert dacs["gain"]["miou"]["within"] is True
    assert dacs["gain"]["miou"]["limit"] == pytest.approx(0.1)
    assert dacs["gap_closed"]["miou"] == pytest.approx(0.02 / 0.6)
    assert (dacs["weights"], dacs["seeds"]) == ("student", [0, 1, 2])
    assert [sweep["value"] for sweep in data["sweeps"]] == ["0.25", "0.5"]
    assert (data["missing"], data["failed"], data["tuning"]["runs"]) == ([], {}, {"dacs": 4, "vidapt": 4})


def test_the_numbers_as_csv(reported: Path) -> None:
    with (reported / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    found = {(line["recipe"], line["seed"], line["weights"], line["sweep_value"]): line for line in lines}
    assert len(found) == len(lines) == 3 * (6 + 3 + 2 * 2)
    assert float(found["vidapt", "2", "teacher", ""]["miou"]) == pytest.approx(0.71)
    assert found["vidapt", "2", "teacher", ""]["reported"] == "True"
    assert found["vidapt", "2", "student", ""]["reported"] == "False"
    assert found["start", "0", "student", ""]["seconds_per_step"] == ""
    assert found["lidaps", "0", "student", "0.5"]["sweep_key"] == "method.pseudo_instances.score"


def test_a_cell_of_an_older_recipe_is_left_out_and_named(tmp_path: Path) -> None:
    write_all(tiny(tmp_path, [0, 1]), tmp_path)
    changed = tiny(tmp_path, [0, 1], changes={"dacs": {"method": {"alpha": 0.5}}})
    report_cells(changed, Choice(), tmp_path, {"tiny_fog-dacs-0": "no memory"}, "it")
    page = (tmp_path / "report.html").read_text()
    assert "dacs (student)" not in table_of(page, "<h2>tiny_fog</h2>")
    assert "10 finished, 2 missing: tiny_fog-dacs-0; tiny_fog-dacs-1" in page
    assert "tiny_fog-dacs-0: no memory" in page


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    suite = tiny(tmp_path, [1])
    write_all(suite, tmp_path)
    report_cells(suite, Choice(), tmp_path, {}, "it")
    page = (tmp_path / "report.html").read_text()
    assert table_of(page, "<h2>tiny_fog</h2>")["dacs (student)"][:2] == ["1", "33.0"]
    assert table_of(page, "Gain over source_only")["dacs (student)"][0] == "+3.0"
    assert "One seed: nothing can be said about the spread." in page


def test_gain_against_a_place_on_an_axis(tmp_path: Path) -> None:
    one = {"benchmark": str(tmp_path / "tiny_fog.yaml"), "recipes": ["source_only", "dacs"]}
    places = [{**one, "name": f"fog_{at}", "at": at, "settings": {"evaluation": {"strength": at}}} for at in (0.5, 1.0)]
    suite = tiny(tmp_path, [0], comparisons=places, sweeps=None, axis="strength of the fog")
    write_all(suite, tmp_path)
    report_cells(suite, Choice(), tmp_path, {}, "it")
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Gain against strength of the fog</h2>" in page
    assert "gain in mIoU over source_only" in page
    assert "at strength 0.5" in page


def test_real_footage_is_no_test_bed(tmp_path: Path) -> None:
    suite = load_suite("camvid")
    for cell in plan_cells(suite, Choice()):
        write_json(cell_path(tmp_path, cell.key), fake(cell, 0.1 * (1 + cell.seed), stq=None, flicker=None))
    report_cells(suite, Choice(), tmp_path, {}, "it")
    page = (tmp_path / "report.html").read_text()
    assert "Scored on real footage." in page
    assert "CamVid val clip, semantic" in page
    assert "All scores here" not in page
    assert table_of(page, "<h2>street_world_to_camvid</h2>")["recipe (weights)"] == [
        "seeds",
        "mIoU",
        "ms per step",
        "GiB",
    ]


def test_tuning_worlds_and_changes_are_announced(tmp_path: Path) -> None:
    suite, choice = tiny(tmp_path, [0]), {"first_world": 100, "overrides": ("training.lr=5e-4",)}
    write_all(suite, tmp_path, **choice)
    report_cells(suite, Choice(**choice), tmp_path, {}, "it")
    page = (tmp_path / "report.html").read_text()
    assert "Worlds 100 and up: a tuning run, not for reported results." in page
    assert "Changed for all recipes: training.lr=5e-4." in page


def test_cells_that_started_elsewhere_are_noticed(tmp_path: Path) -> None:
    suite = tiny(tmp_path, [0])
    write_all(suite, tmp_path)
    path = tmp_path / "cells" / "tiny_fog-dacs-0.json"
    path.write_text(path.read_text().replace('"start_weights": "w0"', '"start_weights": "w9"'))
    report_cells(suite, Choice(), tmp_path, {}, "it")
    assert "started from different weights, run them again" in (tmp_path / "report.html").read_text()


@pytest.mark.skipif(not BROWSERS, reason="no Chromium: apt-get install chromium")
def test_nothing_is_cut_off_at_1200_pixels(reported: Path, tmp_path: Path) -> None:
    script = (
        "<script>document.body.innerHTML = '<pre id=found>' + JSON.stringify([document.documentElement.scrollWidth, "
        "...[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)]) + '</pre>'</script>"
        "</body>"
    )
    page = tmp_path / "page.html"
    page.write_text((reported / "report.html").read_text().replace("</body>", script))
    command = [
        BROWSERS[0],
        "--headless",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1200,900",
        "--dump-dom",
    ]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">\[(.*?)\]</pre>', done.stdout)
    assert found is not None
    width, *hidden = map(int, found[1].split(","))
    assert width <= 1200
    assert len(hidden) >= 5
    assert set(hidden) == {0}
