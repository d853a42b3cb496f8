"""``vidapt data check``: everything wrong in one pass, counts, class shares, JSON, and the same with more processes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.datasets.miniature import acdc, cityscapes, cityscapes_sequence, cityscapes_vps, gta5, synthia
from tests.datasets.miniature.truth import Truth
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.frame_index import Problem
from vidapt.errors import ConfigError, InputError, Interrupted, StorageError
from vidapt.jobs import data_check
from vidapt.jobs.data_check import LISTED, Checked, check, run_check, show
from vidapt.jobs.data_open import open_named, section_for
from vidapt.labels import CITYSCAPES, find_space

IMAGE = "leftImg8bit/train/aachen/aachen_{:06d}_000019_leftImg8bit.png"
LABEL = "gtFine/train/aachen/aachen_{:06d}_000019_gtFine_instanceIds.png"


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return cityscapes.build(tmp_path / "data")


@pytest.fixture
def complete(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> Truth:
    """A data set that has as many frames as were published."""
    card = replace(Cityscapes.card, splits={**Cityscapes.card.splits, "train": 3})
    monkeypatch.setattr(Cityscapes, "card", card)
    return truth


def section(truth: Truth, *options: str, split: str = "train"):
    return section_for("cityscapes", truth.root, split, options)


def damage_in_every_way(root: Path) -> dict[str, str]:
    """Ten frames more, of which nine are damaged; file -> beginning of what must be said of it."""
    for number in range(10, 20):
        for pattern in (IMAGE, LABEL):
            shutil.copy(root / pattern.format(0), root / pattern.format(number))
    (root / LABEL.format(10)).unlink()
    Image.fromarray(np.full((48, 90), 7, np.uint16)).save(root / LABEL.format(11))
    Image.fromarray(np.full((48, 96), 60, np.uint16)).save(root / LABEL.format(12))
    cut = (root / IMAGE.format(13)).read_bytes()
    (root / IMAGE.format(13)).write_bytes(cut[: len(cut) * 2 // 3])
    cv2.imwrite(str(root / IMAGE.format(14)), np.full((48, 96, 3), 40000, np.uint16))
    (root / IMAGE.format(15)).write_bytes(b"")
    (root / LABEL.format(16)).write_text("<html>404 not found</html>")
    inside = bytearray((root / IMAGE.format(17)).read_bytes())
    inside[len(inside) // 2] ^= 0xFF
    (root / IMAGE.format(17)).write_bytes(inside)
    Image.fromarray(np.full((48, 96, 3), 7, np.uint8)).save(root / LABEL.format(18))
    return {
        LABEL.format(10): "is missing",
        LABEL.format(11): "is 90x48 but its image is 96x48",
        LABEL.format(12): "has label ids [60] that Cityscapes does not define; allowed: 0..34 and 255",
        IMAGE.format(13): "is cut: the end of a PNG file is missing",
        IMAGE.format(14): "has more than 8 bits per channel",
        IMAGE.format(15): "is empty",
        LABEL.format(16): "cannot be read: cannot identify image file",
        IMAGE.format(17): "cannot be read as an image: ",
        LABEL.format(18): "holds colours, but the labels of Cityscapes are one value per pixel",
    }


# --- what is counted


def test_a_complete_data_set_is_in_order(complete: Truth, capsys: pytest.CaptureFixture[str]) -> None:
    run_check(section(complete), jobs=1)
    printed = capsys.readouterr().out
    assert "cityscapes train: 3 frames, 3 key frames (official: 3), 3 with labels, 0 problems" in printed
    assert "road" in printed


def test_pixels_are_those_of_the_pictures(truth: Truth) -> None:
    found = check(section(truth), jobs=1)
    space = find_space("cityscapes_ids")
    classes = np.concatenate([frame.classes.reshape(-1) for frame in truth.frames.values()])
    expected = {label.name: int((classes == index).sum()) for index, label in enumerate(space.classes)}
    void = sum(expected[label.name] for label in space.classes if label.is_void) + int((classes < 0).sum())
    for name, count in expected.items():
        assert found.pixels.get(name, 0) == (0 if space.classes[space.names.index(name)].is_void else count)
    assert found.pixels["void"] == void
    assert sum(found.pixels.values()) == classes.size


def test_classes_without_a_counterpart_are_counted(truth: Truth) -> None:
    found = check(section(truth), jobs=1)
    expected = {name: count for name, count in found.pixels.items() if name not in (*CITYSCAPES.names, "void")}
    assert found.unmapped == expected
    assert {"parking", "caravan", "polegroup"} <= set(expected)
    assert list(found.unmapped.values()) == sorted(expected.values(), reverse=True)


def test_frames_of_videos_are_counted_by_kind(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path)
    found = check(section_for("cityscapes_sequence", tmp_path, "val"), jobs=1)
    assert (found.frames, found.key_frames, found.labelled, found.problems) == (120, 4, 4, ())
    assert (found.expected, found.complete) == (500, False)


def test_a_split_without_labels(tmp_path: Path) -> None:
    cityscapes.build(tmp_path, split="test")
    found = check(section_for("cityscapes", tmp_path, "test"), jobs=1)
    assert (found.frames, found.labelled, found.pixels, found.unmapped) == (2, 0, {}, {})
    assert found.problems == ()


def test_shares_and_mapping_are_printed(complete: Truth, capsys: pytest.CaptureFixture[str]) -> None:
    run_check(section(complete), jobs=1)
    lines = capsys.readouterr().out.splitlines()
    found = check(section(complete), jobs=1)
    total = sum(found.pixels.values())
    for name, mapped in (("road", "yes"), ("parking", "no"), ("void", "no")):
        [line] = [line for line in lines if line.split("│")[1:2] and line.split("│")[1].strip() == name]
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        assert cells == [name, str(found.pixels[name]), f"{100 * found.pixels[name] / total:.3f} %", mapped]
    shares = [float(line.split("│")[3].strip(" %")) for line in lines if line.endswith("│") and "%" in line]
    assert shares == sorted(shares, reverse=True)


# --- what is wrong


def test_a_number_that_is_not_the_official_one(truth: Truth, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"is not as published: 3 key frames instead of 2975$") as caught:
        run_check(section(truth), jobs=1)
    assert str(truth.root) in str(caught.value)
    assert caught.value.exit_code == 2
    assert "(official: 2975)" in capsys.readouterr().out


def test_a_number_that_is_not_certain_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = replace(plain(()), expected=None, key_frames=7)
    assert found.complete
    show(found, Console())
    assert "7 key frames (official: not certain)" in capsys.readouterr().out


def test_every_kind_of_damage_is_found_in_one_pass(truth: Truth, capsys: pytest.CaptureFixture[str]) -> None:
    expected = damage_in_every_way(truth.root)
    with pytest.raises(InputError, match="not as published: 9 damaged or missing files; 13 key frames instead"):
        run_check(section(truth), jobs=1)
    found = {problem.file: problem.reason for problem in check(section(truth), jobs=1).problems}
    assert set(found) == set(expected)
    printed = capsys.readouterr().out
    for file, reason in expected.items():
        assert found[file].startswith(reason)
        assert f"{file}: {reason}" in printed
    assert "9 problems" in printed


def test_damaged_frames_do_not_count_pixels(truth: Truth) -> None:
    whole = check(section(truth), jobs=1)
    damage_in_every_way(truth.root)
    found = check(section(truth), jobs=1)
    copy = truth.frames["leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"]
    assert sum(found.pixels.values()) == sum(whole.pixels.values()) + copy.classes.size
    assert found.pixels["road"] == whole.pixels["road"] + (copy.classes == 7).sum()


def test_cut_jpeg_files(tmp_path: Path) -> None:
    cityscapes_sequence.build(tmp_path, suffix=".jpg")
    pictures = sorted((tmp_path / "leftImg8bit_sequence/val/lindau").iterdir())
    for picture in (pictures[3], pictures[19]):
        picture.write_bytes(picture.read_bytes()[:-40])
    found = check(section_for("cityscapes_sequence", tmp_path, "val"), jobs=1)
    assert [(Path(problem.file).name, problem.reason) for problem in found.problems] == [
        (picture.name, "is cut: the end of a JPEG file is missing") for picture in (pictures[3], pictures[19])
    ]
    assert (found.frames, found.labelled) == (120, 4)


def test_cut_labels_of_sixteen_bits(tmp_path: Path) -> None:
    truth = synthia.build(tmp_path)
    label = truth.root / "GT/LABELS/0000001.png"
    label.write_bytes(label.read_bytes()[:-100])
    [problem] = check(section_for("synthia", truth.root, None), jobs=1).problems
    assert (problem.frame, problem.file) == ("0000001", "GT/LABELS/0000001.png")


def test_palette_labels(tmp_path: Path) -> None:
    truth = gta5.build(tmp_path)
    found = check(section_for("gta5", truth.root, None), jobs=1)
    assert found.problems == ()
    assert found.pixels["road"] == sum(int((frame.classes == 7).sum()) for frame in truth.frames.values())


def test_problems_of_the_index_are_counted(complete: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = Problem("", "panoptic.json", "names x.png twice")
    monkeypatch.setattr(Cityscapes, "missing_stills", lambda *arguments: [twice])
    assert check(section(complete), jobs=1).problems == (twice,)
    with pytest.raises(InputError, match="1 damaged or missing files"):
        run_check(section(complete), jobs=1)


def test_an_empty_split(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit/train/aachen").mkdir(parents=True)
    with pytest.raises(InputError, match=r"split 'train' in .* holds no frames; expected files:\nleftImg8bit/<split>/"):
        run_check(section_for("cityscapes", tmp_path, None), jobs=1)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no data at .*gone; give an existing path"):
        run_check(section_for("cityscapes", tmp_path / "gone", None), jobs=1)


def test_a_labelled_split_without_any_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cityscapes_vps.build(tmp_path)
    run_check(section_for("cityscapes_vps", tmp_path, "val"), jobs=1)
    assert "have no labels" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "val/panoptic_inst")
    with pytest.raises(InputError, match=r"not as published: the split has labels, but none are at hand$") as caught:
        run_check(section_for("cityscapes_vps", tmp_path, "val"), jobs=1)
    assert caught.value.exit_code == 2
    assert "; 12 key frames have no labels at hand" in capsys.readouterr().out
    cityscapes_vps.build(tmp_path / "other", split="test")
    run_check(section_for("cityscapes_vps", tmp_path / "other", "test"), jobs=1)


def test_key_frames_without_labels_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acdc.build(tmp_path, split="train_ref")
    run_check(section_for("acdc", tmp_path, "train_ref"), jobs=1)
    assert "4 with labels, 0 problems; 4 key frames have no labels at hand" in capsys.readouterr().out


def test_selected_conditions_have_their_own_number(tmp_path: Path) -> None:
    acdc.build(tmp_path)
    assert check(section_for("acdc", tmp_path, "train", ["conditions=[night]"]), jobs=1).expected == 400


# --- how it is told


def plain(problems: tuple[Problem, ...]) -> Checked:
    return Checked("toy", "train", 9, 9, 9, 9, problems, {"road": 3, "void": 1}, {})


@pytest.mark.parametrize("count", [0, 1, LISTED, LISTED + 1, 75])
def test_many_problems_are_shortened(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    show(plain(tuple(Problem(f"f{n}", f"{n}.png", "is empty") for n in range(count))), Console())
    lines = capsys.readouterr().out.splitlines()
    assert sum("is empty" in line for line in lines) == min(count, LISTED)
    more = [line for line in lines if "more; --json FILE writes all of them" in line]
    assert more == ([f"and {count - LISTED} more; --json FILE writes all of them"] if count > LISTED else [])


def test_long_and_bracketed_names_are_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    file = f"[red]{'x' * 200}/a.png"
    show(plain((Problem("a", file, "is empty"),)), Console())
    assert f"{file}: is empty" in capsys.readouterr().out.splitlines()


def test_the_json_file_says_everything(truth: Truth, tmp_path: Path) -> None:
    damage_in_every_way(truth.root)
    out = tmp_path / "made" / "check.json"
    with pytest.raises(InputError):
        run_check(section(truth), jobs=1, json=out)
    data = json.loads(out.read_text())
    found = check(section(truth), jobs=1)
    assert data == {
        "name": "cityscapes",
        "split": "train",
        "frames": 13,
        "key_frames": 13,
        "labelled": 13,
        "expected": 2975,
        "complete": False,
        "problems": [
            {"frame": problem.frame, "file": problem.file, "reason": problem.reason} for problem in found.problems
        ],
        "pixels": found.pixels,
        "unmapped": found.unmapped,
        "bare_keys": 0,
    }
    assert len(data["problems"]) == 9


def test_a_file_that_cannot_be_written_costs_no_result(
    complete: Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"check\.json cannot be written"):
        run_check(section(complete), jobs=1, json=tmp_path / "file" / "check.json")
    assert "3 key frames (official: 3), 3 with labels, 0 problems" in capsys.readouterr().out


def test_the_summary_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(replace(plain(()), name="x" * 150), Console(width=80))
    assert f"{'x' * 150} train: 9 frames, 9 key frames (official: 9), 9 with labels" in capsys.readouterr().out


def test_rows_that_are_all_cut_off_are_no_damaged_files(truth: Truth) -> None:
    with pytest.raises(ConfigError, match=r"^trim \[40, 8\] leaves no row of pictures that are 48 rows high"):
        run_check(section(truth, "trim=[40, 8]"), jobs=1)


def test_an_interruption_is_one_line(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data_check, "examine", interrupt)
    with pytest.raises(Interrupted, match=r"^interrupted: not all frames were read; run the command again$"):
        run_check(section(truth), jobs=1)


def test_processes_change_nothing(truth: Truth) -> None:
    damage_in_every_way(truth.root)
    assert check(section(truth), jobs=2) == check(section(truth), jobs=1)


# --- opening by name


def test_labels_are_taken_where_there_are_some(tmp_path: Path) -> None:
    cityscapes.build(tmp_path)
    cityscapes.build(tmp_path, split="test")
    assert open_named(section_for("cityscapes", tmp_path, None)).labelled
    assert not open_named(section_for("cityscapes", tmp_path, "test")).labelled


def test_options_reach_the_data_set(tmp_path: Path) -> None:
    cityscapes.build(tmp_path)
    made = section_for("cityscapes", tmp_path, None, ["instances=false", "height=24", "videos=2"])
    dataset = open_named(made)
    assert (made.kind, made.split, dataset.has_instances, len(dataset)) == ("cityscapes", "train", False, 2)
    assert dataset[0].frames.shape[-2:] == (24, 48)


def test_the_folder_may_lie_below_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cityscapes.build(tmp_path / "cityscapes")
    monkeypatch.setenv("VIDAPT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path / "cityscapes")
    assert len(open_named(section_for("cityscapes", None, None))) == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("citiscapes", [], "no data set 'citiscapes'; .*cityscapes"),
        ("cityscapes", ["beta=0.01"], "beta"),
        ("foggy_cityscapes", ["betta=0.01"], "did you mean 'beta'"),
        ("cityscapes", ["height=0"], "height"),
        ("cityscapes", ["height=10", "fit=[5, 5]"], "both give a size; drop one"),
        ("cityscapes", ["kind=street_world"], "kind"),
    ],
)
def test_wrong_names_and_options(name: str, options: list[str], message: str, tmp_path: Path) -> None:
    from vidapt.errors import UserError

    with pytest.raises(UserError, match=message):
        section_for(name, tmp_path, None, options)
