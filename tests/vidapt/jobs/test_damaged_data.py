"""Damaged files of a published data set: training refuses at the start, or leaves frames out and says how many."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.benchmark_data import Truths, benchmark_data
from vidapt import cli
from vidapt.config_data import ViperData
from vidapt.engine.checkpoint import latest_checkpoint
from vidapt.jobs.data import training_source
from vidapt.labels import find_space

SMALL = (
    *("training.steps=1", "training.batch=2", "training.workers=0", "training.crop=[64,64]", "evaluation=null"),
    *("target.height=64", "target.ignored_rows=[2,15]", "model.semantic.channels=16", "model.instance.channels=16"),
)
GTA5 = "benchmarks/gta5_to_cityscapes"
CUT = "is cut: the end of a PNG file is missing"


@pytest.fixture(scope="module", autouse=True)
def truths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truths]:
    with benchmark_data(tmp_path_factory.mktemp("damaged")) as written:
        yield written


@pytest.fixture
def gta5(tmp_path: Path) -> Path:
    """A copy of GTA5 to damage."""
    return Path(shutil.copytree("../data/gta5", tmp_path / "gta5"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def shrink(path: Path) -> None:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert cv2.imwrite(str(path), picture[::2])


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and error output of a command."""
    overrides = [part for text in SMALL for part in ("--set", text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vidapt", *arguments[:2], *overrides, *arguments[2:], "--device", "cpu"])
        with pytest.raises(SystemExit) as left:
            cli.main()
    return left.value.code or 0, capsys.readouterr().err


DAMAGE = {
    "images/00002.png is cut": (cut, "images/00002.png", CUT),
    "labels/00003.png is cut": (cut, "labels/00003.png", CUT),
    "labels/00002.png is missing": (remove, "labels/00002.png", "is missing"),
    "images/00001.png is empty": (empty, "images/00001.png", "is empty"),
    "labels/00001.png is smaller": (shrink, "labels/00001.png", "is 96x24 but its image is 96x48"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_training_refuses_damaged_files(
    damage: str, gta5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, file, reason = DAMAGE[damage]
    harm(gta5 / file)
    out = tmp_path / "run"
    code, error = run(capsys, "train", GTA5, "--set", f"source.root={gta5}", "--out", str(out))
    assert code == 2
    assert error.count("\n") == 1
    assert f"1 of 4 frames of GTA5 in {gta5} are damaged, the first: {file} {reason}; " in error.replace(
        "(Playing for Data) ", ""
    )
    assert "set damaged: skip" in error
    assert not out.exists()


def test_training_skips_and_counts_damaged_files(
    gta5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(gta5 / "images/00002.png")
    remove(gta5 / "labels/00003.png")
    out = tmp_path / "run"
    options = ["--set", f"source.root={gta5}", "--set", "source.damaged=skip", "--out", str(out)]
    code, error = run(capsys, "train", GTA5, *options)
    assert (code, error if code else "") == (0, "")
    assert "left out 2 damaged frames: images/00002.png (is cut: the end of a PNG file is missing), " in error
    assert "labels/00003.png (is missing)" in error
    assert latest_checkpoint(out) is not None


def test_damaged_targets_are_refused_or_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree("../data/cityscapes", tmp_path / "cityscapes"))
    picture = "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png"
    cut(root / picture)
    remove(root / "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png")
    out, small = tmp_path / "run", ["--set", f"target.root={root}", "--set", "source.fit=[64,128]"]
    code, error = run(capsys, "adapt", f"{GTA5}+methods/vidapt", *small, "--out", str(out))
    assert code == 2
    assert f"1 of 3 frames of Cityscapes in {root} are damaged, the first: {picture} {CUT}; " in error
    assert not out.exists()
    code, error = run(
        capsys, "adapt", f"{GTA5}+methods/vidapt", *small, "--set", "target.damaged=skip", "--out", str(out)
    )
    assert (code, error if code else "") == (0, "")
    assert f"Cityscapes: left out 1 damaged frames: {picture} ({CUT})\n" in error
    assert latest_checkpoint(out) is not None


def test_each_source_has_its_own_rule(gta5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthia = Path(shutil.copytree("../data/synthia", tmp_path / "synthia"))
    cut(gta5 / "images/00002.png")
    cut(synthia / "RAND_CITYSCAPES/GT/LABELS/0000001.png")
    rand, game = f"{{kind: synthia, root: {synthia}}}", f"{{kind: gta5, root: {gta5}, damaged: skip}}"
    arguments = [
        "benchmarks/synthia_gta5_to_cityscapes",
        "--set",
        f"source=[{game}, {rand}]",
        "--out",
        str(tmp_path / "run"),
    ]
    code, error = run(capsys, "train", *arguments)
    assert code == 2
    assert "1 of 3 frames of SYNTHIA-RAND-CITYSCAPES" in error.splitlines()[-1]
    assert "the first: RAND_CITYSCAPES/GT/LABELS/0000001.png is cut" in error
    assert not (tmp_path / "run").exists()


def test_a_damaged_frame_takes_its_clips_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the pairs 9-10 and 19-20 of both sequences one is broken; no clip reaches over the gap."""
    root = Path(shutil.copytree("../data/viper", tmp_path / "viper"))
    remove(root / "train/inst/001/001_00020.png")
    data = ViperData(root=root, every=10, context=1, damaged="skip")
    source = training_source(data, find_space("viper_cityscapes"), clip_length=2, interval=1)
    assert "left out 1 damaged frames: train/inst/001/001_00020.png (is missing)" in capsys.readouterr().err
    assert [clip.video for clip in map(source.__getitem__, range(len(source)))] == ["001", "002", "002"]


def test_nothing_left_is_an_error(gta5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (gta5 / "labels").iterdir():
        cut(path)
    options = ["--set", f"source.root={gta5}", "--set", "source.damaged=skip", "--out", str(tmp_path / "run")]
    code, error = run(capsys, "train", GTA5, *options)
    assert code == 2
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def damage_content(path: Path) -> None:
    """Change bytes in the middle of a PNG, which its head and tail do not tell."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(20)
    path.write_bytes(content)


def write_unknown_id(path: Path) -> None:
    with Image.open(path) as picture:
        ids = np.array(picture)
    ids[0, 0] = 77
    Image.fromarray(ids).save(path)


@pytest.mark.parametrize(
    ("harm", "file"), [(damage_content, "images/00002.png"), (write_unknown_id, "labels/00002.png")]
)
def test_what_shows_on_decoding_is_named_or_skipped(
    harm: Callable[[Path], None], file: str, gta5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(gta5 / file)
    options = ["--set", f"source.root={gta5}", "--set", "training.batch=4", "--set", "source.fit=[64,128]"]
    code, error = run(capsys, "train", GTA5, *options, "--out", str(tmp_path / "refused"))
    assert code == 2
    assert file in error.splitlines()[-1]
    options += ["--set", "source.damaged=skip", "--out", str(tmp_path / "skipped")]
    code, error = run(capsys, "train", GTA5, *options)
    assert (code, error if code else "") == (0, "")
    assert file in error
    assert "1 damaged clips were left out while training" in error
    (line,) = (tmp_path / "skipped/damaged.jsonl").read_text().splitlines()
    assert file in json.loads(line)["reason"]


def test_damaged_evaluation_files_show_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They must not show after hours of training."""
    root = Path(shutil.copytree("../data/acdc", tmp_path / "acdc"))
    (label,) = root.glob("gt/fog/val/*/*_000041_gt_labelIds.png")
    cut(label)
    evaluation = f"evaluation={{kind: acdc, root: {root}, split: val}}"
    code, error = run(capsys, "train", GTA5, "--set", evaluation, "--out", str(tmp_path / "run"))
    assert code == 2
    assert f"{label.relative_to(root)} {CUT}" in error
    assert not (tmp_path / "run").exists()
