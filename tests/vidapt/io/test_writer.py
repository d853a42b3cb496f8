import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.video_files import picture
from vidapt.clip import PanopticFrame, Segment
from vidapt.errors import InputError, StorageError
from vidapt.io import writer as writer_module
from vidapt.io.reader import open_video
from vidapt.io.segmentation_folder import safe_cell
from vidapt.io.writer import TRACK_COLUMNS, SegmentationWriter, read_segmentation
from vidapt.labels import CITYSCAPES, LabelClass, LabelSpace

CAR, ROAD, PERSON = 13, 0, 11


def make_frame(index: int, size: tuple[int, int] = (64, 96)) -> PanopticFrame:
    ids = np.zeros(size, np.int32)
    ids[32:] = ROAD + 1
    ids[10:20, 5 + index : 25 + index] = 256
    ids[40:50, 60:64] = 70000
    semantic = np.full(size, 10, np.uint8)
    segments = (
        Segment(1, ROAD, False, 1.0, int((ids == 1).sum()), (0, 32, size[1], size[0])),
        Segment(256, CAR, True, 0.87654, 200, (5 + index, 10, 25 + index, 20)),
        Segment(70000, PERSON, True, 0.5, 40, (60, 40, 64, 50)),
    )
    return PanopticFrame(index, index / 25, semantic, ids, segments)


def write(folder: Path, indices: range, **options: object) -> None:
    with SegmentationWriter(folder, CITYSCAPES, video_name="drive", fps=25.0, **options) as writer:
        for index in indices:
            writer.write(make_frame(index), picture(index))


def check_consistent(folder: Path, indices: list[int]) -> dict[str, object]:
    data = json.loads((folder / "panoptic.json").read_text())
    assert [record["image_id"] for record in data["annotations"]] == indices
    assert [image["id"] for image in data["images"]] == indices
    assert sorted(path.name for path in (folder / "panoptic").iterdir()) == [f"{index:06d}.png" for index in indices]
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []
    return data


def test_folder_holds_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    write(folder, range(3, 12, 2))
    data = check_consistent(folder, [3, 5, 7, 9, 11])
    assert data["videos"] == [{"id": 1, "name": "drive"}]
    assert {record["video_id"] for record in data["annotations"] + data["images"]} == {1}
    assert data["categories"][CAR] == {"id": CAR, "name": "car", "isthing": 1, "color": [0, 0, 142]}
    assert (data["images"][0]["height"], data["images"][0]["width"]) == (64, 96)
    for record in data["annotations"]:
        colours = np.asarray(Image.open(folder / "panoptic" / record["file_name"])).astype(int)
        ids = colours @ [1, 256, 65536]
        for info in record["segments_info"]:
            rows, columns = np.nonzero(ids == info["id"])
            x, y, width, height = info["bbox"]
            assert (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) == (x, y, width, height) or (
                info["category_id"] == ROAD
            )
            assert info["area"] == len(rows)
            assert info["iscrowd"] == 0
    assert record["segments_info"][1] == {
        "id": 256, "category_id": CAR, "area": 200, "bbox": [16, 10, 20, 10], "iscrowd": 0, "score": 0.8765
    }  # fmt: skip


def test_tracks_list_things_only(tmp_path: Path) -> None:
    write(tmp_path, range(2))
    rows = list(csv.reader((tmp_path / "tracks.csv").read_text().splitlines()))
    assert tuple(rows[0]) == TRACK_COLUMNS
    assert rows[1] == ["0", "0.0", "256", "car", "0.8765", "200", "5", "10", "25", "20"]
    assert [(row[0], row[2]) for row in rows[1:]] == [("0", "256"), ("0", "70000"), ("1", "256"), ("1", "70000")]


def test_overlay_plays_every_frame(tmp_path: Path) -> None:
    write(tmp_path, range(6))
    with open_video(tmp_path / "overlay.mp4") as reader:
        assert sum(frame.ok for frame in reader) == 6
    assert reader.size == (64, 96)


def test_summary_tells_the_run(tmp_path: Path) -> None:
    with SegmentationWriter(tmp_path, CITYSCAPES, video_name="drive", fps=12.5, overlay=False) as writer:
        writer.write(make_frame(0), picture(0))
        writer.close({"holes": [1], "truncated": {"decoded": 1, "expected": 9}})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["frames"] == 1
    assert summary["holes"] == [1]
    assert summary["truncated"] == {"decoded": 1, "expected": 9}
    assert summary["fps"] == 12.5
    assert summary["complete"] is True
    assert summary["overlay"] == "switched off"
    assert summary["peak_memory_bytes"]["host"] > 1e6
    assert "numpy" in summary["versions"]
    assert not (tmp_path / "overlay.mp4").exists()


def test_reading_back_gives_the_same_frames(tmp_path: Path) -> None:
    write(tmp_path, range(4))
    frames = list(read_segmentation(tmp_path))
    for index, frame in enumerate(frames):
        wanted = make_frame(index)
        assert (frame.index, frame.time) == (wanted.index, wanted.time)
        assert np.array_equal(frame.ids, wanted.ids)
        assert frame.ids.dtype == np.int32
        assert [(s.id, s.category, s.is_thing, s.area, s.box) for s in frame.segments] == [
            (s.id, s.category, s.is_thing, s.area, s.box) for s in wanted.segments
        ]
        expected = np.full(frame.ids.shape, 255)
        for segment in wanted.segments:
            expected[wanted.ids == segment.id] = segment.category
        assert np.array_equal(frame.semantic, expected)
    assert len(frames) == 4


def test_no_frames_is_still_valid(tmp_path: Path) -> None:
    write(tmp_path, range(0))
    assert check_consistent(tmp_path, [])["annotations"] == []
    assert list(read_segmentation(tmp_path)) == []


def fail_after_one_frame(folder: Path) -> None:
    with SegmentationWriter(folder, CITYSCAPES, video_name="v", fps=25) as writer:
        writer.write(make_frame(0), picture(0))
        raise KeyError("network")


def test_an_error_in_the_middle_leaves_valid_files(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail_after_one_frame(tmp_path)
    check_consistent(tmp_path, [0])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["complete"], summary["frames"]) == (False, 1)
    assert "network" in summary["stopped_by"]


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    write(tmp_path, range(5))
    write(tmp_path, range(2))
    check_consistent(tmp_path, [0, 1])
    with open_video(tmp_path / "overlay.mp4") as reader:
        assert len(list(reader)) == 2


@pytest.mark.parametrize("name", ["notes.txt", "panoptic.json"])
def test_other_folders_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "panoptic").mkdir()
    (tmp_path / "panoptic" / "000000.png").write_bytes(b"precious")
    (tmp_path / name).write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(InputError, match="new or an empty folder"):
        write(tmp_path, range(1))
    assert (tmp_path / "panoptic" / "000000.png").read_bytes() == b"precious"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        write(tmp_path / "a", range(1))


def write_with_full_disk(folder: Path) -> None:
    with SegmentationWriter(folder, CITYSCAPES, video_name="v", fps=25, overlay=False) as writer:
        (folder / "panoptic" / "000003.png").symlink_to("/dev/full")
        for index in range(5):
            writer.write(make_frame(index), picture(index))


def test_full_disk_keeps_the_frames_before(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(StorageError, match=r"No space left on device\); 3 frames are complete") as caught:
        write_with_full_disk(folder)
    assert "\n" not in str(caught.value)
    check_consistent(folder, [0, 1, 2])
    assert len(list(read_segmentation(folder))) == 3


@pytest.mark.parametrize("part", ["annotations", "images"])
def test_half_written_records_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def fail(self: object, record: dict[str, object], size: object) -> None:
        if record["image_id"] == 2:
            file = self._file if part == "annotations" else self._images
            file.write(',\n{"image_id": 2, "segm')
            file.flush()
            raise OSError(28, "No space left on device")
        add(self, record, size)

    add = writer_module.PanopticJson.add
    monkeypatch.setattr(writer_module.PanopticJson, "add", fail)
    with pytest.raises(StorageError, match="2 frames are complete"):
        write(tmp_path, range(4), overlay=False)
    check_consistent(tmp_path, [0, 1])
    assert (tmp_path / "tracks.csv").read_text().count("\n") == 1 + 2 * 2


def test_without_pyav_the_overlay_is_skipped_and_named(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['av'] = None\n"
        "from vidapt.io.writer import SegmentationWriter\nfrom vidapt.labels import CITYSCAPES\n"
        f"SegmentationWriter({str(tmp_path)!r}, CITYSCAPES, video_name='v', fps=25).close()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)
    assert "pip install av" in json.loads((tmp_path / "summary.json").read_text())["overlay"]


@pytest.mark.parametrize(
    ("text", "safe"), [("=1+1", "'=1+1"), ("-x", "'-x"), ("@a", "'@a"), ("+", "'+"), ("car", "car")]
)
def test_formulas_are_quoted(text: str, safe: str) -> None:
    assert safe_cell(text) == safe


def test_class_names_reach_the_csv_quoted(tmp_path: Path) -> None:
    space = LabelSpace("s", (LabelClass("=cmd()", True, (1, 2, 3)),))
    ids = np.full((4, 4), 256, np.int32)
    frame = PanopticFrame(0, 0.0, np.zeros((4, 4), np.uint8), ids, (Segment(256, 0, True, 1.0, 16, (0, 0, 4, 4)),))
    with SegmentationWriter(tmp_path, space, video_name="v", fps=25, overlay=False) as writer:
        writer.write(frame, np.zeros((4, 4, 3), np.uint8))
    assert "'=cmd()" in (tmp_path / "tracks.csv").read_text()


@pytest.mark.parametrize("damage", ["missing", "cut", "ids", "json", "empty"])
def test_damaged_folders_are_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path, range(2), overlay=False)
    path = tmp_path / "panoptic" / "000001.png"
    text = (tmp_path / "panoptic.json").read_text()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:60])
    elif damage == "ids":
        Image.fromarray(np.full((64, 96, 3), 9, np.uint8)).save(path)
    elif damage == "json":
        (tmp_path / "panoptic.json").write_text(text[: text.index("000001.png")])
    else:
        (tmp_path / "panoptic.json").unlink()
    with pytest.raises(InputError) as caught:
        list(read_segmentation(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_memory_stays_flat_over_many_frames(tmp_path: Path) -> None:
    code = (
        "import resource, sys\nimport numpy as np\nsys.path.insert(0, '.')\n"
        "from tests.vidapt.io.test_writer import make_frame\nfrom vidapt.io.writer import SegmentationWriter\n"
        "from vidapt.labels import CITYSCAPES\n"
        "from dataclasses import replace\n"
        "frame, image = make_frame(0), np.zeros((64, 96, 3), np.uint8)\n"
        f"with SegmentationWriter({str(tmp_path)!r}, CITYSCAPES, video_name='v', fps=25) as writer:\n"
        "    for index in range(6000):\n"
        "        writer.write(replace(frame, index=index), image)\n"
        "        if index in (600, 5999):\n"
        "            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    early, late = (int(line) for line in done.stdout.split())
    assert late - early < 8 * 1024
