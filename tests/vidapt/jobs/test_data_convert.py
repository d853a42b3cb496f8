"""``vidapt data convert``: equal to the official converter, resumable, and the same with more processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import cityscapes, cityscapes_sequence, gta5, synthia, synthia_seq
from tests.datasets.miniature.truth import Truth
from tests.video_files import SHARED
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.coco_panoptic import CocoPanoptic
from vidapt.datasets.frame_index import Problem
from vidapt.errors import ConfigError, InputError, StorageError, UserError
from vidapt.io.coco import decode_ids
from vidapt.jobs import data_convert
from vidapt.jobs.conversion_journal import write_picture
from vidapt.jobs.data import build_stored, in_space
from vidapt.jobs.data_convert import convert, run_convert
from vidapt.jobs.data_open import section_for
from vidapt.labels import CITYSCAPES, LabelSpace, find_space

ROOT = Path(__file__).parents[3]
REAL = SHARED / "cityscapes"


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return cityscapes.build(tmp_path / "data")


def section(root: Path, *options: str, kind: str = "cityscapes", split: str | None = None):
    return section_for(kind, root, split, options)


def read(path: Path) -> np.ndarray:
    """Ids of a panoptic picture."""
    return decode_ids(np.array(Image.open(path)))


def content(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def more_frames(root: Path, count: int) -> None:
    """Copies of the first frame as further frames."""
    for number in range(10, 10 + count):
        for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_instanceIds")):
            folder = root / kind / "train" / "aachen"
            first, copy = (folder / f"aachen_{n:06d}_000019_{ending}.png" for n in (0, number))
            shutil.copy(first, copy)


# --- against the official converter


def official(root: Path, out: Path) -> dict[str, Any]:
    script = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs", reason="needs cityscapesscripts")
    out.mkdir()
    with redirect_stdout(StringIO()):
        script.convert2panoptic(str(root / "gtFine"), str(out), True, ["train"])
    return json.loads((out / "cityscapes_panoptic_train_trainId.json").read_text())


def check_same_segments(root: Path, tmp_path: Path) -> int:
    """Compare both conversions; returns the number of segments."""
    theirs = official(root, tmp_path / "official")
    ours = json.loads(convert(section(root), out=tmp_path / "ours", labels="cityscapes", jobs=1).json.read_text())
    keys = ("id", "name", "isthing", "color")
    assert [[item[key] for key in keys] for item in ours["categories"]] == [
        [item[key] for key in keys] for item in theirs["categories"]
    ]
    assert [(item["id"], item["height"], item["width"]) for item in ours["images"]] == [
        (item["id"], item["height"], item["width"]) for item in theirs["images"]
    ]
    count = 0
    for our, their in zip(ours["annotations"], theirs["annotations"], strict=True):
        assert our["image_id"] == their["image_id"]
        our_ids = read(tmp_path / "ours" / "train" / our["file_name"])
        their_ids = read(tmp_path / "official" / "cityscapes_panoptic_train_trainId" / their["file_name"])
        pairs = np.unique(np.stack([our_ids, their_ids]).reshape(2, -1), axis=1).T.tolist()
        partner = dict(pairs)
        assert len(partner) == len(pairs) == len({their_id for _, their_id in pairs})
        assert partner.pop(0, 0) == 0
        expected = {item.pop("id"): item for item in their["segments_info"]}
        found = {partner[item.pop("id")]: item for item in our["segments_info"]}
        assert found == expected
        count += len(found)
    return count


def test_equal_to_the_official_converter(truth: Truth, tmp_path: Path) -> None:
    assert any(frame.crowd.any() for frame in truth.frames.values())
    assert check_same_segments(truth.root, tmp_path) > 40


def test_real_files_equal_to_the_official_converter(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("the Cityscapes sample is not at hand")
    assert check_same_segments(REAL, tmp_path) == 66


# --- what is written


def test_the_record_of_a_frame(truth: Truth, tmp_path: Path) -> None:
    done = convert(section(truth.root), out=tmp_path / "out", jobs=1)
    assert (done.json, done.written, done.kept) == (tmp_path / "out" / "train.json", 3, 0)
    data = json.loads(done.json.read_text())
    content = data["info"].pop("content")
    assert len(content) == 32
    assert data["info"] == {"description": "Cityscapes train, converted", "label_space": "cityscapes_ids"}
    assert "videos" not in data
    assert data["images"][2] == {
        "id": "hamburg_000000_042505",
        "file_name": "leftImg8bit/train/hamburg/hamburg_000000_042505_leftImg8bit.png",
        "height": 48,
        "width": 96,
    }
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == [
        "aachen_000000_000019.png",
        "aachen_000001_000019.png",
        "hamburg_000000_042505.png",
        "train.json",
    ]


def test_segments_are_those_of_the_pictures(truth: Truth, tmp_path: Path) -> None:
    data = json.loads(convert(section(truth.root), out=tmp_path, jobs=1).json.read_text())
    space = find_space("cityscapes_ids")
    assert [item["name"] for item in data["categories"]] == list(space.names)
    for [path], annotation in zip(truth.videos, data["annotations"], strict=True):
        true = truth.frames[path]
        ids = read(tmp_path / "train" / annotation["file_name"])
        seen = np.zeros(ids.shape, bool)
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            rows, columns = np.nonzero(mask)
            assert segment["area"] == mask.sum() > 0
            x, y, width, height = segment["bbox"]
            assert (x, y, x + width - 1, y + height - 1) == (
                columns.min(), rows.min(), columns.max(), rows.max()
            )  # fmt: skip
            assert (true.classes[mask] == segment["category_id"]).all()
            assert len(np.unique(true.objects[mask])) == 1
            assert bool(segment["iscrowd"]) == bool(true.crowd[mask].all()) == bool(true.crowd[mask].any())
            seen |= mask
        assert (ids[~seen] == 0).all()


def test_a_video_keeps_its_ids(tmp_path: Path) -> None:
    truth = synthia_seq.build(tmp_path / "data")
    made = section(tmp_path / "data", kind="synthia_seq")
    data = json.loads(convert(made, out=tmp_path / "out", labels="cityscapes", jobs=1).json.read_text())
    assert data["videos"] == [{"id": 1, "name": "SYNTHIA-SEQS-04-DAWN"}]
    assert {image["video_id"] for image in data["images"]} == {1}
    assert {annotation["video_id"] for annotation in data["annotations"]} == {1}
    partner: dict[int, int] = {}
    for path, annotation in zip(truth.videos[0], data["annotations"], strict=True):
        ids = read(tmp_path / "out" / "train" / annotation["file_name"])
        objects = np.where(ids >= 256, truth.frames[path].objects, 0)
        for thing, found in np.unique(np.stack([objects, ids])[:, objects > 0], axis=1).T.tolist():
            assert partner.setdefault(thing, found) == found
    assert len(partner) > 2


def test_only_labelled_frames_are_converted(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path / "data")
    made = section(tmp_path / "data", kind="cityscapes_sequence", split="val")
    done = convert(made, out=tmp_path / "out", jobs=1)
    data = json.loads(done.json.read_text())
    assert (done.written, len(data["images"]), len(list((tmp_path / "out" / "val").iterdir()))) == (4, 4, 4)
    assert [image["video_id"] for image in data["images"]] == [1, 2, 3, 4]


def test_the_result_is_read_back_as_it_was(truth: Truth) -> None:
    """Beside the data it is itself a data set in the COCO panoptic format."""
    out = truth.root / "panoptic"
    convert(section(truth.root), out=out, labels="cityscapes", jobs=1)
    back = CocoPanoptic(truth.root, json_file="panoptic/train.json", images=".")
    there = in_space(build_stored(section(truth.root)), CITYSCAPES)
    assert len(back) == 3
    assert back.label_space.names == CITYSCAPES.names
    for item in range(3):
        first, second = there[item], back[item]
        assert np.array_equal(first.frames.numpy(), second.frames.numpy())
        assert np.array_equal(first.target.semantic.numpy(), second.target.semantic.numpy())
        things = CITYSCAPES.is_thing[first.target.semantic.numpy()]
        old, new = (target.instance.numpy()[things] for target in (first.target, second.target))
        assert np.array_equal(old > 0, new > 0)
        pairs = {tuple(pair) for pair in np.stack([old, new]).T.tolist()}
        assert len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs})


def test_options_change_what_is_converted(truth: Truth, tmp_path: Path) -> None:
    data = json.loads(convert(section(truth.root, "height=24", "videos=1"), out=tmp_path, jobs=1).json.read_text())
    assert [(image["height"], image["width"]) for image in data["images"]] == [(24, 48)]
    assert read(tmp_path / "train" / "aachen_000000_000019.png").shape == (24, 48)


def test_sixteen_bit_labels(tmp_path: Path) -> None:
    truth = synthia.build(tmp_path / "data")
    done = convert(section(truth.root, kind="synthia"), out=tmp_path / "out", labels="cityscapes", jobs=1)
    assert done.written == 3


def test_it_says_what_was_written(truth: Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_convert(section(truth.root), out=tmp_path, jobs=1)
    assert capsys.readouterr().out == f"{tmp_path}/train.json: 3 frames written\n"


def test_processes_change_nothing(truth: Truth, tmp_path: Path) -> None:
    convert(section(truth.root), out=tmp_path / "one", labels="cityscapes", jobs=1)
    convert(section(truth.root), out=tmp_path / "two", labels="cityscapes", jobs=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


# --- interrupted


class StoppedError(Exception):
    """Stands for whatever ends a conversion."""


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """End the conversion after some frames; returns the names of those that are converted."""
    converted: list[str] = []
    original = data_convert._convert_frame

    def limited(work: Any, frame: Any) -> Any:
        if len(converted) == count:
            raise StoppedError
        converted.append(frame.name)
        return original(work, frame)

    monkeypatch.setattr(data_convert, "_convert_frame", limited)
    return converted


def test_the_next_call_goes_on(
    truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(section(truth.root), out=tmp_path / "whole", jobs=1)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StoppedError):
            convert(section(truth.root), out=tmp_path / "out", jobs=1)
    assert not (tmp_path / "out" / "train.json").exists()
    kept = sorted((tmp_path / "out" / "train").iterdir())
    before = [path.stat().st_mtime_ns for path in kept]
    converted = stop_after(monkeypatch, 99)
    run_convert(section(truth.root), out=tmp_path / "out", jobs=1)
    assert converted == ["hamburg_000000_042505"]
    assert capsys.readouterr().out.endswith("train.json: 1 frames written, 2 of an earlier run kept\n")
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("tail", ["", '{"image_id": "ha', "\0\0\0\0\n", "7\n"])
def test_a_damaged_record_is_done_again(
    truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: str
) -> None:
    convert(section(truth.root), out=tmp_path / "whole", jobs=1)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StoppedError):
            convert(section(truth.root), out=tmp_path / "out", jobs=1)
    [journal] = (tmp_path / "out").glob(".train.*.jsonl")
    journal.write_text(journal.read_text() + tail)
    assert convert(section(truth.root), out=tmp_path / "out", jobs=1).kept == 2
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_lost_picture_is_written_again(truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StoppedError):
            convert(section(truth.root), out=tmp_path / "out", jobs=1)
    (tmp_path / "out" / "train" / "aachen_000001_000019.png").unlink()
    assert convert(section(truth.root), out=tmp_path / "out", jobs=1).kept == 1
    convert(section(truth.root), out=tmp_path / "whole", jobs=1)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_pictures_of_changed_labels_are_not_kept(truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StoppedError):
            convert(section(truth.root), out=tmp_path / "out", jobs=1)
    label = truth.root / "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png"
    Image.fromarray(np.full((48, 96), 7, np.uint16)).save(label)
    assert convert(section(truth.root), out=tmp_path / "out", jobs=1).kept == 0
    assert (read(tmp_path / "out" / "train" / "aachen_000000_000019.png") == 8).all()


def test_pictures_of_another_mapping_are_not_kept(
    truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both map into the same space; in one of them a rider is a person, in the other nothing."""
    name = "cityscapes_ids_to_viper_cityscapes"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StoppedError):
            convert(section(truth.root, f"mapping={name}"), out=tmp_path / "out", labels="viper_cityscapes", jobs=1)
    other = section(truth.root, f"mapping={name}_rider_ignored")
    assert convert(other, out=tmp_path / "out", labels="viper_cityscapes", jobs=1).kept == 0
    convert(other, out=tmp_path / "whole", labels="viper_cityscapes", jobs=1)
    pictures = [content(tmp_path / folder / "train") for folder in ("out", "whole")]
    assert pictures[0] == pictures[1]


def test_a_killed_process_loses_no_finished_picture(truth: Truth, tmp_path: Path) -> None:
    more_frames(truth.root, 300)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vidapt.cli", "data", "convert", "cityscapes", "--root", str(truth.root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--out", str(out), "--jobs", "2"], cwd=ROOT, env=environment, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 100
        while not any(path.read_text().count("\n") > 8 for path in out.glob(".train.*.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    assert not (out / "train.json").exists()
    [journal] = out.glob(".train.*.jsonl")
    names = [
        json.loads(line)["file_name"] for line in journal.read_text().splitlines(keepends=True) if line[-1] == "\n"
    ]
    before = {name: (out / "train" / name).stat().st_mtime_ns for name in names}
    done = convert(section(truth.root), out=out, jobs=1)
    assert 8 < done.kept == len(names) < 303
    assert {name: (out / "train" / name).stat().st_mtime_ns for name in names} == before
    convert(section(truth.root), out=tmp_path / "whole", jobs=1)
    assert content(out) == content(tmp_path / "whole")


def interrupt_after(truth: Truth, out: Path, count: int, labels: str | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(StoppedError):
            convert(section(truth.root), out=out, labels=labels, jobs=1)


def test_pictures_that_another_conversion_replaced_are_not_kept(truth: Truth, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupt_after(truth, out, 2, "cityscapes")
    assert convert(section(truth.root), out=out, jobs=1).written == 3
    assert not list(out.glob(".train.*"))
    done = convert(section(truth.root), out=out, labels="cityscapes", jobs=1)
    assert (done.written, done.kept) == (3, 0)
    convert(section(truth.root), out=tmp_path / "whole", labels="cityscapes", jobs=1)
    assert content(out) == content(tmp_path / "whole")


def test_a_finished_conversion_ends_with_the_start_of_another(truth: Truth, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(section(truth.root), out=out, jobs=1)
    interrupt_after(truth, out, 2, "cityscapes")
    assert not (out / "train.json").exists()
    assert convert(section(truth.root), out=out, jobs=1).written == 3
    convert(section(truth.root), out=tmp_path / "whole", jobs=1)
    assert content(out) == content(tmp_path / "whole")


def test_other_names_of_the_same_classes_are_another_conversion(
    truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(section(truth.root), out=tmp_path, labels="cityscapes", jobs=1)
    renamed = LabelSpace("cityscapes", (replace(CITYSCAPES.classes[0], colour=(1, 2, 3)), *CITYSCAPES.classes[1:]))
    monkeypatch.setattr(data_convert, "find_space", lambda name: renamed)
    assert convert(section(truth.root), out=tmp_path, labels="cityscapes", jobs=1).written == 3
    assert json.loads((tmp_path / "train.json").read_text())["categories"][0]["color"] == [1, 2, 3]


def test_journals_of_other_splits_stay(truth: Truth, tmp_path: Path) -> None:
    others = [tmp_path / f".{split}.{'0' * 32}.jsonl" for split in ("val", "train.x")]
    for other in others:
        other.write_text("")
    convert(section(truth.root), out=tmp_path, jobs=1)
    assert all(other.exists() for other in others)


@pytest.mark.parametrize("finished", [True, False])
def test_a_picture_that_was_changed_is_written_again(truth: Truth, tmp_path: Path, finished: bool) -> None:
    """Of the same size, so that only the content tells."""
    convert(section(truth.root), out=tmp_path / "whole", jobs=1)
    out = tmp_path / "out"
    if finished:
        convert(section(truth.root), out=out, jobs=1)
    else:
        interrupt_after(truth, out, 2, None)
    picture = out / "train" / "aachen_000001_000019.png"
    changed = bytearray(picture.read_bytes())
    changed[-20] ^= 0xFF
    picture.write_bytes(changed)
    assert convert(section(truth.root), out=out, jobs=1).kept == (0 if finished else 1)
    assert content(out) == content(tmp_path / "whole")


def test_a_finished_conversion_writes_nothing(truth: Truth, tmp_path: Path) -> None:
    convert(section(truth.root), out=tmp_path, jobs=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = convert(section(truth.root), out=tmp_path, jobs=1)
    assert (done.written, done.kept) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("finished", [True, False])
def test_two_conversions_at_once_are_noticed(truth: Truth, tmp_path: Path, finished: bool) -> None:
    """The other one starts after the first picture and finishes, or is still running at the end."""
    original, out, calls = data_convert._convert_frame, tmp_path / "out", []

    def disturbed(work: Any, frame: Any) -> Any:
        record = original(work, frame)
        calls.append(frame.name)
        if len(calls) == 1 and finished:
            convert(section(truth.root), out=out, labels="cityscapes", jobs=1)
            assert (out / "train.json").exists()
        elif len(calls) == 1:
            (out / f".train.{'0' * 32}.jsonl").write_text("")
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_convert, "_convert_frame", disturbed)
        with pytest.raises(UserError, match=r"another conversion wrote into .*train while this one ran, .* own --out"):
            convert(section(truth.root), out=out, jobs=1)
    assert not (out / "train.json").exists()
    convert(section(truth.root), out=out, jobs=1)
    convert(section(truth.root), out=tmp_path / "whole", jobs=1)
    assert content(out) == content(tmp_path / "whole")


def test_temporary_names_are_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[str] = []
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda part, path: (parts.append(str(part)), rename(part, path)))
    for _ in range(2):
        write_picture(tmp_path / "a.png", b"abc")
    assert len(set(parts)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_that_cannot_be_written_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "a.png" / "folder").mkdir(parents=True)
    with pytest.raises(OSError, match=r"a\.png"):
        write_picture(tmp_path / "a.png", b"abc")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_abandoned_parts_are_removed_at_the_end(truth: Truth, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / ".aachen_000000_000019.png.0123.part").write_bytes(b"half")
    convert(section(truth.root), out=tmp_path, jobs=1)
    assert not list((tmp_path / "train").glob(".*"))


def test_ctrl_c_says_how_to_go_on(truth: Truth, tmp_path: Path) -> None:
    more_frames(truth.root, 300)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vidapt.cli", "data", "convert", "cityscapes", "--root", str(truth.root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--out", str(out), "--jobs", "2"],
        cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True,
        # Where the tests themselves ignore the signal, as below nohup, the command must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 100
        while not any(path.read_text().count("\n") > 8 for path in out.glob(".train.*.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert error == "interrupted: the pictures that were written are kept; run the command again to go on\n"
    assert convert(section(truth.root), out=out, jobs=1).kept > 8


# --- refused


@pytest.mark.parametrize("options", [[], ["instances=false"]])
def test_a_data_set_without_instances(tmp_path: Path, options: list[str]) -> None:
    if options:
        made = section(cityscapes.build(tmp_path).root, *options)
    else:
        made = section(gta5.build(tmp_path).root, kind="gta5")
    with pytest.raises(InputError, match="has no instance labels; a panoptic conversion needs them") as caught:
        convert(made, out=tmp_path / "out", jobs=1)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


SECOND = "gtFine/train/aachen/aachen_000001_000019_gtFine_instanceIds.png"


def damage(truth: Truth) -> None:
    """Cut the label of the second frame."""
    (truth.root / SECOND).write_bytes((truth.root / SECOND).read_bytes()[:200])


def failures(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_rest_of_damaged_data_is_converted(truth: Truth, tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "out"
    damage(truth)
    with pytest.raises(InputError, match=rf"1 problems of cityscapes train in .*: {SECOND} cannot be read") as caught:
        run_convert(section(truth.root), out=out, jobs=jobs)
    assert str(caught.value).endswith(f"what they concern is not converted, {out}/failed.jsonl lists them")
    [failed] = failures(out)
    assert (failed["split"], failed["frame"], failed["file"]) == ("train", "aachen_000001_000019", SECOND)
    assert failed["reason"].startswith("cannot be read as a label picture")
    names = ["aachen_000000_000019", "hamburg_000000_042505"]
    assert [image["id"] for image in json.loads((out / "train.json").read_text())["images"]] == names
    assert sorted(path.stem for path in (out / "train").iterdir()) == names


def test_damaged_frames_are_tried_again(truth: Truth, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", (truth.root / SECOND).read_bytes()
    damage(truth)
    first = convert(section(truth.root), out=out, jobs=1)
    again = convert(section(truth.root), out=out, jobs=1)
    assert (first.written, first.kept, len(first.failed)) == (2, 0, 1)
    assert (again.written, again.kept, again.failed) == (0, 2, first.failed)
    (truth.root / SECOND).write_bytes(whole)
    assert convert(section(truth.root), out=out, jobs=1).failed == ()
    convert(section(truth.root), out=tmp_path / "whole", jobs=1)
    assert content(out) == content(tmp_path / "whole")


def test_failures_of_other_splits_stay(truth: Truth, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "failed.jsonl").write_text('{"split": "val", "frame": "v"}\n{"split": "train", "frame": "old"}\n')
    damage(truth)
    convert(section(truth.root), out=out, jobs=1)
    assert [(failed["split"], failed["frame"]) for failed in failures(out)] == [
        ("val", "v"),
        ("train", "aachen_000001_000019"),
    ]


def test_nothing_but_damaged_frames(truth: Truth, tmp_path: Path) -> None:
    for label in truth.root.glob("gtFine/train/*/*.png"):
        label.write_bytes(b"")
    done = convert(section(truth.root), out=tmp_path / "out", jobs=1)
    assert (done.written, len(done.failed), done.json.exists()) == (0, 3, False)


def test_problems_of_the_index_are_listed(truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("a", "a.png", "belongs to no picture")
    monkeypatch.setattr(Cityscapes, "missing_stills", lambda *arguments: [problem])
    out = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(InputError, match=r"1 problems of .*: a\.png belongs to no picture; "):
            run_convert(section(truth.root), out=out, jobs=1)
        assert failures(out) == [{"split": "train", "frame": "a", "file": "a.png", "reason": "belongs to no picture"}]
        assert len(json.loads((out / "train.json").read_text())["images"]) == 3
        assert not list(out.glob(".train.*"))


def test_an_instance_of_two_classes(truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def confused(self: Any, frame: Any) -> Any:
        semantic = np.full((48, 96), 26, np.int32)
        semantic[:10] = 24
        return semantic, np.full((48, 96), 5, np.int32)

    monkeypatch.setattr(Cityscapes, "read_labels", confused)
    done = convert(section(truth.root), out=tmp_path / "out", jobs=1)
    assert len(done.failed) == 3
    assert done.failed[0].file.endswith("instanceIds.png")
    assert done.failed[0].reason.startswith("instance 5 has pixels of several classes")


def test_a_folder_that_cannot_be_written(truth: Truth, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match=r"out cannot be written \(.*\); run the command again"):
        convert(section(truth.root), out=tmp_path / "out", jobs=1)


def test_an_unknown_label_space(truth: Truth, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no label space 'citys'"):
        convert(section(truth.root), out=tmp_path / "out", labels="citys", jobs=1)
