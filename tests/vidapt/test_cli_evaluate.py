"""``vidapt evaluate`` from the command line: what it prints and writes, and what it refuses in one line."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny_runs import write_weights
from tests.vidapt.jobs.prediction_files import (
    CVRN,
    STILLS,
    Picture,
    edit,
    official_files,
    read_categories,
    read_pictures,
    stills_root,
    videos_root,
    write_ids,
    write_pictures,
)
from vidapt import cli

VPS = "benchmarks/viper_to_cityscapes_vps"
SEMANTIC = "benchmarks/synthia_to_cityscapes_semantic"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos_root(stills_root(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def official(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("cityscapesscripts")
    return official_files(data, tmp_path_factory.mktemp("official"))


@pytest.fixture(autouse=True)
def _environment(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIDAPT_DATA", str(data))
    monkeypatch.delenv(cli.DEBUG, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def predictions(official: Path, tmp_path: Path) -> Path:
    """A fifth of the segments is missing."""
    pictures = [picture.keep(lambda segment: segment["id"] % 5 != 2) for picture in read_pictures(official)]
    return write_pictures(tmp_path / "predicted" / "val.json", pictures, read_categories(official)).parent


def run(*arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    sys.argv = ["vidapt", *arguments]
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code is None or isinstance(left.value.code, int)
    return left.value.code or 0


def evaluate(benchmark: str, predictions: Path, *further: str) -> int:
    return run("evaluate", benchmark, "--predictions", str(predictions), "--jobs", "1", *further)


@pytest.fixture(autouse=True)
def _argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vidapt"])


# --- from conversion to scores


def test_converted_truth_has_perfect_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The two commands that a new user would try first."""
    assert run("data", "convert", "cityscapes", "--split", "val", "--out", "truth", "--jobs", "1") == 0
    assert evaluate(STILLS, Path("truth"), "--out", "scores.json") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    means = ("miou", "pq", "sq", "rq", "pq_dagger")
    assert {name: scores[name] for name in means} == dict.fromkeys(means, 1)
    assert len(scores["averaged"]["vpq_1"]) == len(scores["averaged"]["miou"]) == 16
    assert scores["frames"] == 3
    printed = capsys.readouterr().out
    assert "100.0" in printed
    assert scores["ap_cityscapes"] is None, "the truth has no scores"
    assert "average precision is not measured: no predicted thing has a 'score'" in " ".join(printed.split())


def test_things_with_scores_have_an_average_precision(tmp_path: Path) -> None:
    assert run("data", "convert", "cityscapes", "--split", "val", "--out", "truth", "--jobs", "1") == 0
    edit(
        Path("truth/val.json"),
        lambda document: [
            segment.update(score=0.5) for record in document["annotations"] for segment in record["segments_info"]
        ],
    )
    assert evaluate(STILLS, Path("truth"), "--out", "scores.json") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["ap_cityscapes"] == scores["ap50_cityscapes"] == 1


def test_some_things_with_scores_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "convert", "cityscapes", "--split", "val", "--out", "truth", "--jobs", "1") == 0
    capsys.readouterr()
    edit(
        Path("truth/val.json"),
        lambda document: [segment.update(score=0.5) for segment in document["annotations"][1]["segments_info"]],
    )
    refused(
        capsys,
        evaluate(STILLS, Path("truth")),
        "things have no score, but those of frame 'frankfurt_000001_049698' have; average precision ranks all",
    )


def test_converted_videos_have_perfect_scores(tmp_path: Path) -> None:
    assert run("data", "convert", "cityscapes_vps", "--split", "val", "--out", "truth", "--jobs", "1") == 0
    assert evaluate(VPS, Path("truth"), "--out", "scores.json") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [scores[name] for name in ("miou", "pq", "vpq", "stq", "aq", "id_switches")] == [1, 1, 1, 1, 1, 0]
    assert (scores["videos"], scores["frames"]) == (2, 12)


def test_printed_tables_agree_with_the_files(
    predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(STILLS, predictions, "--out", "scores.json", "--csv", "new/classes.csv") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    for row in scores["rows"]:
        line = next(line for line in lines if line.split("  ")[0].strip() == row["class"])
        cells = line.removeprefix(f" {row['class']}").split()
        assert cells[:2] == [row["kind"], "yes" if row["scored"] else "no"]
        assert cells[2:6] == [f"{100 * row[name]:.1f}" for name in ("iou", "pq", "sq", "rq")]
    mean = next(line for line in lines if line.split()[:1] == ["mean"])
    assert [f"{100 * scores[name]:.1f}" for name in ("miou", "pq", "sq", "rq")] == mean.split()[1:5]
    assert "SYNTHIA to Cityscapes, panoptic, EDAPS convention" in printed
    assert "without terrain, truck, train (their pixels are counted)" in " ".join(printed.split())


def test_csv_reads_back_as_the_rows(predictions: Path, tmp_path: Path) -> None:
    assert evaluate(STILLS, predictions, "--out", "scores.json", "--csv", "new/classes.csv") == 0
    rows = json.loads((tmp_path / "scores.json").read_text())["rows"]
    with (tmp_path / "new" / "classes.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) - 3 == len(rows) == 19
    for line, row in zip(table, rows, strict=False):
        assert list(line) == list(row)
        for key, value in row.items():
            if value is None:
                assert line[key] == ""
            elif isinstance(value, float):
                assert float(line[key]) == value, "no digit is lost"
            else:
                assert line[key] == str(value)


def test_both_conventions_name_themselves(predictions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(CVRN, predictions) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "CVRN convention" in printed
    assert "(their pixels are ignored)" in printed


def test_semantic_benchmark_reads_panoptic_predictions(
    predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(SEMANTIC, predictions, "--out", "scores.json") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["pq"] is None
    kept = [row["iou"] for row in scores["rows"] if row["scored"] and row["class"] not in ("wall", "fence", "pole")]
    assert scores["miou13"] == pytest.approx(np.mean(kept))
    assert f"{100 * scores['miou13']:.1f}" in capsys.readouterr().out


def test_overrides_reach_the_scores(predictions: Path, tmp_path: Path) -> None:
    change = ["--set", "scoring.classes=[road, person]", "--set", "scoring.metrics=[boundary]"]
    assert evaluate(STILLS, predictions, "--out", "scores.json", *change) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["classes"] == ["road", "person"]
    assert scores["boundary_pq"] is not None
    assert scores["ap_cityscapes"] is None


def test_worst_frames_are_drawn(predictions: Path, tmp_path: Path) -> None:
    """Three frames are there, eight would fit."""
    assert evaluate(STILLS, predictions, "--worst", "sheets/worst.png") == 0
    sheet = np.asarray(Image.open(tmp_path / "sheets" / "worst.png"))
    assert sheet.shape[0] == 3 * (200 + 18 + 2) - 2
    first = (tmp_path / "sheets" / "worst.png").read_bytes()
    assert evaluate(STILLS, predictions, "--worst", "again.png") == 0
    assert (tmp_path / "again.png").read_bytes() == first


@pytest.mark.timeout(600)
def test_jobs_change_no_byte(predictions: Path, tmp_path: Path) -> None:
    written = []
    for jobs in ("1", "2"):
        names = [f"{jobs}.json", f"{jobs}.csv", f"{jobs}.png"]
        options = [word for pair in zip(("--out", "--csv", "--worst"), names, strict=True) for word in pair]
        assert run("evaluate", STILLS, "--predictions", str(predictions), "--jobs", jobs, *options) == 0
        written.append([(tmp_path / name).read_bytes() for name in names])
    assert written[0] == written[1]


# --- sharing over torchrun


@pytest.mark.timeout(600)
def test_two_processes_score_a_checkpoint_like_one(tmp_path: Path) -> None:
    """Three stills over two processes: the same bytes, written and printed by the main process only."""
    weights = write_weights(tmp_path / "tiny.safetensors")
    command = ["-m", "vidapt.cli", "evaluate", STILLS, "--checkpoint", str(weights), "--device", "cpu"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    written = []
    for folder, start in (("one", []), ("two", launcher)):
        out = tmp_path / folder
        options = ["--out", str(out / "s.json"), "--csv", str(out / "s.csv"), "--worst", str(out / "s.png")]
        # Reading the height of the recipe would scale the tiny pictures up.
        changes = ["--set", "inference.height=null"]
        done = subprocess.run(
            [sys.executable, *start, *command, *options, *changes],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("3 labelled frames") == 1, "only the main process prints"
        assert sorted(path.name for path in out.iterdir()) == ["s.csv", "s.json", "s.png"]
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert written[0] == written[1]
    assert json.loads(written[0]["s.json"])["videos"] == 3


# --- bad input: one line, exit code 2, the file by its name


def drop_first(document: dict[str, Any]) -> None:
    document["annotations"].pop(0)


def unknown_category(document: dict[str, Any]) -> None:
    document["annotations"][1]["segments_info"][0]["category_id"] = 77


def unlisted_id(document: dict[str, Any]) -> None:
    document["annotations"][1]["segments_info"].pop()


def listed_twice(document: dict[str, Any]) -> None:
    segments = document["annotations"][1]["segments_info"]
    segments.append(segments[0])


def no_segments(document: dict[str, Any]) -> None:
    del document["annotations"][2]["segments_info"]


def other_classes(document: dict[str, Any]) -> None:
    for number, category in enumerate(document["categories"]):
        category["name"] = f"fruit {number}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_first, ("val.json", "has no annotation for 'frankfurt_000000_000294'")),
        (unknown_category, ("val.json", "frankfurt_000001_049698.png", "unknown category", "77")),
        (unlisted_id, ("frankfurt_000001_049698.png has id", "which val.json does not list")),
        (listed_twice, ("val.json lists a segment of frankfurt_000001_049698.png twice",)),
        (no_segments, ("val.json", "no list 'segments_info' for lindau_000000_000019.png")),
        (other_classes, ("no class of", "val.json (fruit 0, fruit 1", "label space 'cityscapes'")),
    ],
)
def test_wrong_json(
    predictions: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None],
    words: tuple[str, ...],
) -> None:
    edit(predictions / "val.json", change)
    refused(capsys, evaluate(STILLS, predictions), *words)


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> None:
    printed = capsys.readouterr()
    assert code == 2, printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1, printed.err
    for word in words:
        assert word in printed.err
    assert printed.out == ""


def remove(path: Path) -> None:
    path.unlink()


def enlarge(path: Path) -> None:
    write_ids(path, np.zeros((32, 32), np.int64))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove, ("the picture lindau_000000_000019.png of", "val.json is not in")),
        (enlarge, ("lindau_000000_000019.png is 32x32, but lindau_000000_000019 is scored at 128x64",)),
        (cut, ("lindau_000000_000019.png cannot be read as a label picture",)),
    ],
)
def test_wrong_picture(
    predictions: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    change(predictions / "val" / "lindau_000000_000019.png")
    refused(capsys, evaluate(STILLS, predictions), *words)


@pytest.mark.timeout(600)
def test_errors_of_other_processes_are_one_line_too(predictions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remove(predictions / "val" / "lindau_000000_000019.png")
    code = run("evaluate", STILLS, "--predictions", str(predictions), "--jobs", "2")
    refused(capsys, code, "the picture lindau_000000_000019.png of", "val.json is not in")


def test_several_json_files(predictions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (predictions / "more.json").write_text('{"annotations": []}')
    refused(capsys, evaluate(STILLS, predictions), "more.json, val.json", "give the panoptic one: --predictions FILE")
    assert evaluate(STILLS, predictions / "val.json") == 0


def test_scores_may_be_written_beside_the_predictions(predictions: Path) -> None:
    for _ in range(2):
        assert evaluate(STILLS, predictions, "--out", str(predictions / "scores.json")) == 0


def test_no_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, evaluate(STILLS, tmp_path / "nowhere"), "no predictions at", "nowhere")
    (tmp_path / "empty").mkdir()
    words = ("no segmentation of 3 videos ('frankfurt_000000_000294', ", "empty/frankfurt_000000_000294 does not exist")
    refused(capsys, evaluate(STILLS, tmp_path / "empty"), *words)


def test_damaged_json(predictions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (predictions / "val.json").write_text('{"annotations": [')
    refused(capsys, evaluate(STILLS, predictions), "val.json cannot be read as JSON")


def test_exactly_one_thing_is_scored(predictions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, run("evaluate", STILLS), "give --checkpoint RUN or --predictions PATH")
    refused(capsys, evaluate(STILLS, predictions, "--checkpoint", "run"), "not both or neither")


def test_data_that_are_not_there(
    predictions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIDAPT_DATA", str(tmp_path / "nothing"))
    refused(capsys, evaluate(STILLS, predictions), "no data at cityscapes or", "nothing/cityscapes")


def test_wrong_number_of_processes(predictions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", STILLS, "--predictions", str(predictions), "--jobs", "0") == 2
    assert "--jobs" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--csv", "--worst"])
def test_results_that_cannot_be_written(
    predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert evaluate(STILLS, predictions, option, "file/result") == 1
    printed = capsys.readouterr().err
    assert "file/result cannot be written" in printed
    assert printed.count("\n") == 1


def test_prediction_with_void_only_scores_zero(official: Path, tmp_path: Path) -> None:
    """No segment at all is allowed: everything is missed."""
    nothing = [Picture(picture.name, np.zeros_like(picture.ids), ()) for picture in read_pictures(official)]
    file = write_pictures(tmp_path / "none" / "val.json", nothing, read_categories(official))
    assert evaluate(STILLS, file, "--out", "scores.json") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [scores[name] for name in ("miou", "pq", "ap_cityscapes")] == [0, 0, 0]
