"""What a running comparison shows, on a terminal and elsewhere."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.vidapt.jobs.tiny_suite import write_suite
from vidapt.jobs.compare_cells import Cell
from vidapt.jobs.compare_plan import Choice, plan_cells
from vidapt.jobs.compare_progress import Board, score_text
from vidapt.suite import load_suite


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    return plan_cells(load_suite(str(write_suite(tmp_path_factory.mktemp("suite")))), Choice())


def scored(miou: float | None, stq: float | None = None, **more: Any) -> dict[str, Any]:
    return {"weights": "student", "scores": {"student": {"miou": miou, "stq": stq}}, **more}


def test_score_text() -> None:
    assert score_text(scored(0.5, 0.25)) == "mIoU 50.0 STQ 25.0"
    assert score_text(scored(0.5)) == "mIoU 50.0"
    assert score_text({"scores": {}, "weights": "student"}) == "done"


def test_elsewhere_every_cell_is_a_line(cells: list[Cell], tmp_path: Path) -> None:
    text = io.StringIO()
    start = cells[0].start
    with Board(cells, [start], tmp_path, Console(file=text, width=200)) as board:
        board.finished(cells[0].key, scored(0.5), before=True)
        board.started(start.key)
        board.finished(start.key, {"scores": {}})
        board.started(cells[1].key)
        board.refresh()
        board.finished(cells[1].key, scored(0.25, 0.125))
        board.finished(cells[2].key, scored(0.25, same_as="other"))
        board.started(cells[3].key)
        board.failed(cells[3].key, "[no] such file")
    lines = text.getvalue().splitlines()
    assert lines == [
        f"{start.key}: 2 steps begin",
        f"[1/6] {start.key}: done, 0 s",
        "tiny_fog-source_only-0: 2 steps begin",
        "[2/6] tiny_fog-source_only-0: mIoU 25.0 STQ 12.5, 0 s",
        "[3/6] tiny_fog-oracle-0: mIoU 25.0, the same training as other",
        "tiny_fog-start-1: scoring begins",
        "[4/6] tiny_fog-start-1: failed: [no] such file",
    ]


def test_a_terminal_shows_a_table_of_all_cells(cells: list[Cell], tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160, height=40, color_system=None)
    run = tmp_path / cells[1].key
    run.mkdir()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    with Board(cells, [cells[0].start], tmp_path, console) as board:
        board.finished(cells[0].key, scored(0.5, 0.25))
        board.started(cells[1].key)
        board.started(cells[2].key)
        board.failed(cells[4].key, "reason")
        board.refresh()
        (run / "metrics.jsonl").write_text(json.dumps({"step": 2}) + "\n")
        console.file = last = io.StringIO()
        board.refresh()
    assert "1/2" in text.getvalue()
    shown = {" ".join(re.sub(r"\x1b\[\S*?[A-Za-z]", "", line).split()) for line in last.getvalue().splitlines()}
    assert "comparison recipe seed 0 seed 1" in shown
    assert "shared start waiting" in shown
    assert "tiny_fog start mIoU 50.0 STQ 25.0 waiting" in shown
    assert "tiny_fog source_only scoring failed" in shown
    assert "tiny_fog oracle 0/2 waiting" in shown
    assert "[2/6] cells are over" in shown
