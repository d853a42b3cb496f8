"""``vidapt segment``: a folder whose parts agree, as far as the input can be read."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.tiny_runs import moving_frames, write_images, write_weights
from tests.video_files import make_video, overwrite
from vidapt.errors import CheckpointError, InputError, StorageError, UserError
from vidapt.io.coco import decode_ids
from vidapt.io.encoder import write_video
from vidapt.io.reader import open_video
from vidapt.jobs.segment import SegmentResult, segment
from vidapt.labels import CITYSCAPES
from vidapt.segmenter import load

FRAMES = 10


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("run") / "tiny.safetensors")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_video(moving_frames(FRAMES), tmp_path_factory.mktemp("video") / "drive.mp4", fps=10)
    assert path is not None
    return path


def run(source: str | Path, weights: Path, out: Path, **options: Any) -> SegmentResult:
    return segment(source, checkpoint=weights, out=out, device="cpu", **options)


def read_ids(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert picture is not None
    return decode_ids(picture[..., ::-1])


def check_folder(folder: Path, indices: list[int], fps: float = 10) -> dict[str, Any]:
    """Compare pictures, JSON, table, overlay and summary with each other; return the summary."""
    data = json.loads((folder / "panoptic.json").read_text())
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    assert sorted(path.name for path in (folder / "panoptic").iterdir()) == [f"{index:06d}.png" for index in indices]
    assert [record["image_id"] for record in data["annotations"]] == indices
    assert [image["id"] for image in data["images"]] == indices
    assert [item["name"] for item in data["categories"]] == list(CITYSCAPES.names)
    rows = []
    for record, image in zip(data["annotations"], data["images"], strict=True):
        ids = read_ids(folder / "panoptic" / record["file_name"])
        assert ids.shape == (image["height"], image["width"]) == tuple(summary["size"])
        counts = {int(i): int(n) for i, n in zip(*np.unique(ids, return_counts=True), strict=True) if i}
        assert {item["id"]: item["area"] for item in record["segments_info"]} == counts
        assert record["time"] == pytest.approx(record["image_id"] / fps)
        for item in record["segments_info"]:
            if item["id"] < 256:
                assert item["id"] == item["category_id"] + 1
                continue
            x, y, width, height = item["bbox"]
            name = CITYSCAPES.names[item["category_id"]]
            rows.append([record["image_id"], item["id"], name, item["area"], x, y, x + width, y + height])
    with (folder / "tracks.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    names = ("frame", "id", "category", "area", "x0", "y0", "x1", "y1")
    assert [[row[name] for name in names] for row in table] == [[str(value) for value in row] for row in rows]
    assert summary["frames"] == len(indices)
    if summary["overlay"] == "overlay.mp4":
        with open_video(folder / "overlay.mp4") as reader:
            assert sum(frame.ok for frame in reader) == len(indices)
    return summary


def test_the_parts_of_a_folder_agree(weights: Path, video: Path, tmp_path: Path) -> None:
    result = run(video, weights, tmp_path / "out")
    summary = check_folder(tmp_path / "out", list(range(FRAMES)))
    assert (result.folder, result.frames, result.holes, result.truncated) == (tmp_path / "out", FRAMES, (), None)
    assert result.frames_per_second > 0
    assert (summary["holes"], summary["truncated"], summary["complete"]) == ([], None, True)
    assert summary["fps"] == 10
    assert summary["peak_memory_bytes"]["host"] > 0
    for frame in load(weights, device="cpu").segment(video):
        np.testing.assert_array_equal(read_ids(tmp_path / "out" / "panoptic" / f"{frame.index:06d}.png"), frame.ids)


@pytest.mark.parametrize(
    ("options", "indices"),
    [
        ({"start": 4}, [4, 5, 6, 7, 8, 9]),
        ({"stop": 3}, [0, 1, 2]),
        ({"start": 1, "stop": 9, "stride": 3}, [1, 4, 7]),
        ({"start": 9, "stop": 400}, [9]),
    ],
)
def test_selected_frames_keep_their_numbers(
    weights: Path, video: Path, tmp_path: Path, options: dict[str, int], indices: list[int]
) -> None:
    run(video, weights, tmp_path / "out", **options)
    summary = check_folder(tmp_path / "out", indices)
    assert summary["fps"] == pytest.approx(10 / options.get("stride", 1))


@pytest.mark.parametrize("options", [{"start": 5, "stop": 5}, {"start": 99}, {"stride": 0}, {"start": -1}])
def test_a_selection_of_nothing_is_refused(weights: Path, video: Path, tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="start"):
        run(video, weights, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_images_or_one_image(weights: Path, tmp_path: Path) -> None:
    folder = write_images(moving_frames(4), tmp_path / "frames")
    run(folder, weights, tmp_path / "out")
    check_folder(tmp_path / "out", [0, 1, 2, 3], fps=25)
    run(folder / "0002.png", weights, tmp_path / "one", overlay=False)
    assert check_folder(tmp_path / "one", [0], fps=25)["overlay"] == "switched off"
    assert not (tmp_path / "one" / "overlay.mp4").exists()
    run(f"{folder}/000[13].png", weights, tmp_path / "some")
    check_folder(tmp_path / "some", [0, 1], fps=25)


def test_decord_gives_the_same_frames(weights: Path, video: Path, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    run(video, weights, tmp_path / "pyav", overlay=False)
    run(video, weights, tmp_path / "decord", overlay=False, backend="decord")
    check_folder(tmp_path / "decord", list(range(FRAMES)))
    for path in (tmp_path / "pyav" / "panoptic").iterdir():
        other = read_ids(tmp_path / "decord" / "panoptic" / path.name)
        assert (read_ids(path) != other).mean() < 0.02


# --- damaged input


def test_holes_are_listed_and_the_rest_is_written(weights: Path, tmp_path: Path) -> None:
    import av

    whole = make_video(tmp_path / "w.mp4", 20, b_frames=0, key_every=5)
    with av.open(str(whole)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    position, size = packets[10]
    damaged = overwrite(whole, tmp_path / "a.mp4", position, b"\xff" * size)
    with pytest.raises(InputError, match=r"could not be decoded \(10") as caught:
        run(damaged, weights, tmp_path / "out")
    assert "\n" not in str(caught.value)
    with open_video(damaged) as reader:
        readable = [frame.index for frame in reader if frame.ok]
        holes = reader.holes
    summary = check_folder(tmp_path / "out", readable, fps=25)
    assert summary["holes"] == holes
    assert summary["truncated"] is None
    assert sorted(readable + holes) == list(range(20))


def test_a_cut_video_is_written_up_to_the_cut(weights: Path, tmp_path: Path) -> None:
    whole = make_video(tmp_path / "w.mkv", 40)
    cut = tmp_path / "a.mkv"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    with pytest.raises(InputError, match=r"the video ends early: \d+ of 40 frames") as caught:
        run(cut, weights, tmp_path / "out", overlay=False)
    truncated = json.loads((tmp_path / "out" / "summary.json").read_text())["truncated"]
    assert truncated["expected"] == 40
    assert f"the {truncated['decoded']} readable frames are in {tmp_path / 'out'}" in str(caught.value)
    assert check_folder(tmp_path / "out", list(range(truncated["decoded"])), fps=25)["complete"]


def test_an_image_of_another_size_ends_the_folder_after_the_frames_before_it(weights: Path, tmp_path: Path) -> None:
    folder = write_images(moving_frames(6), tmp_path / "frames")
    cv2.imwrite(str(folder / "0003.png"), moving_frames(1, (32, 32))[0])
    with pytest.raises(InputError, match=r"0003\.png is 32x32 .* the 3 frames before that are in") as caught:
        run(folder, weights, tmp_path / "out")
    assert "\n" not in str(caught.value)
    summary = check_folder(tmp_path / "out", [0, 1, 2], fps=25)
    assert summary["complete"] is False


def test_an_unreadable_image_is_a_hole(weights: Path, tmp_path: Path) -> None:
    folder = write_images(moving_frames(5), tmp_path / "frames")
    (folder / "0001.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 frame\(s\) could not be decoded \(1\); the 4 readable frames are in"):
        run(folder, weights, tmp_path / "out")
    assert check_folder(tmp_path / "out", [0, 2, 3, 4], fps=25)["holes"] == [1]


# --- the folder


def test_a_folder_with_something_else_is_refused(weights: Path, video: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no segmentation; give a new or an empty folder"):
        run(video, weights, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match="is a file"):
        run(video, weights, tmp_path / "notes.txt")


def test_an_older_segmentation_is_replaced(weights: Path, video: Path, tmp_path: Path) -> None:
    run(video, weights, tmp_path / "out")
    run(video, weights, tmp_path / "out", stop=2)
    check_folder(tmp_path / "out", [0, 1])


@pytest.mark.parametrize("source", ["none.mp4", "text.mp4", "damaged"])
def test_an_older_segmentation_survives_input_without_a_frame(
    weights: Path, video: Path, tmp_path: Path, source: str
) -> None:
    run(video, weights, tmp_path / "out", stop=2)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.png").write_text("no image")
    with pytest.raises(InputError):
        run(tmp_path / source, weights, tmp_path / "out")
    check_folder(tmp_path / "out", [0, 1])


def test_a_full_disk_keeps_the_frames_before(
    weights: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidapt.io import writer

    plain = writer.write_bytes

    def full(path: Path, data: bytes) -> None:
        if path.name == "000005.png":
            raise OSError(28, "No space left on device")
        plain(path, data)

    monkeypatch.setattr(writer, "write_bytes", full)
    with pytest.raises(StorageError, match=r"No space left on device\); 5 frames are complete"):
        run(video, weights, tmp_path / "out")
    monkeypatch.undo()
    assert check_folder(tmp_path / "out", [0, 1, 2, 3, 4])["complete"] is False


# --- checkpoints and devices


def test_wrong_checkpoints_and_devices_are_refused_before_anything_is_written(
    weights: Path, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:5000])
    (tmp_path / "text.safetensors").write_text("no weights")
    for name in ("cut.safetensors", "text.safetensors", "none.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            run(video, tmp_path / name, tmp_path / "out")
    with pytest.raises(UserError, match="device 'tpu' is not known"):
        segment(video, checkpoint=weights, out=tmp_path / "out", device="tpu")
    assert not (tmp_path / "out").exists()
