from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import acdc
from tests.datasets.miniature.truth import TrueFrame, Truth
from tests.datasets.reading import check_damaged_files, check_label_of_another_size, check_reading
from vidapt.datasets.acdc import CONDITIONS, Acdc, label_file
from vidapt.errors import InputError
from vidapt.labels import find_space

TO_LABEL_IDS = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33, -1])
"""Label id of each train id, -1 for void in the last place."""


def in_label_ids(truth: Truth) -> Truth:
    """The truth, which is told in train ids, in label ids."""

    def renamed(frame: TrueFrame) -> TrueFrame:
        return frame if frame.classes is None else replace(frame, classes=TO_LABEL_IDS[frame.classes])

    return replace(truth, frames={path: renamed(frame) for path, frame in truth.frames.items()})


def drop(root: Path, ending: str) -> None:
    for path in root.rglob(f"*{ending}"):
        path.unlink()


@pytest.mark.parametrize("split", ["train", "val", "train_ref", "val_ref"])
def test_reads_label_ids(tmp_path: Path, split: str) -> None:
    truth = acdc.build(tmp_path, split=split)
    dataset = Acdc(tmp_path, split)
    assert dataset.label_space is find_space("cityscapes_ids")
    assert not dataset.has_instances
    check_reading(dataset, in_label_ids(truth))


@pytest.mark.parametrize("split", ["val", "val_ref"])
def test_reads_train_ids_where_label_ids_are_missing(tmp_path: Path, split: str) -> None:
    truth = acdc.build(tmp_path, split=split)
    drop(tmp_path / "gt", "_labelIds.png")
    dataset = Acdc(tmp_path, split)
    assert dataset.label_space is find_space("cityscapes")
    check_reading(dataset, truth)


def test_a_missing_label_file_does_not_change_the_kind(tmp_path: Path) -> None:
    acdc.build(tmp_path)
    path = tmp_path / next(Acdc(tmp_path).frames()).labels[0]
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name} cannot be read"):
        Acdc(tmp_path)[0]


def test_half_of_the_reference_pictures_are_labelled(tmp_path: Path) -> None:
    acdc.build(tmp_path, split="train_ref")
    dataset = Acdc(tmp_path, "train_ref")
    assert [bool(frame.labels) for frame in dataset.frames()] == [True, False] * 4
    assert [bool(dataset[item].target.labelled.all()) for item in range(8)] == [True, False] * 4
    assert all("_gt_ref_labelIds" in frame.labels[0] for frame in dataset.frames() if frame.labels)


@pytest.mark.parametrize("split", ["test", "test_ref"])
def test_test_splits_are_unlabelled(tmp_path: Path, split: str) -> None:
    truth = acdc.build(tmp_path, split=split)
    check_reading(Acdc(tmp_path, split, labelled=False), truth)
    with pytest.raises(InputError, match=f"ACDC split '{split}' .* has pictures but no labels"):
        Acdc(tmp_path, split)


def test_unlabelled_reading_needs_no_labels(tmp_path: Path) -> None:
    acdc.build(tmp_path)
    rmtree(tmp_path / "gt")
    dataset = Acdc(tmp_path, labelled=False)
    assert len(dataset) == 8
    assert all(dataset[item].target is None for item in range(8))


@pytest.mark.parametrize("chosen", [("night",), ("snow", "fog"), list(CONDITIONS)])
def test_conditions(tmp_path: Path, chosen: list[str]) -> None:
    truth = in_label_ids(acdc.build(tmp_path))
    part = replace(truth, videos=[video for video in truth.videos if video[0].split("/")[1] in chosen])
    dataset = Acdc(tmp_path, conditions=chosen)
    assert dataset.conditions == tuple(chosen)
    check_reading(dataset, part)


def test_names_tell_the_condition(tmp_path: Path) -> None:
    acdc.build(tmp_path)
    names = Acdc(tmp_path).videos
    assert names[:3] == ["fog_GOPR0475_frame_000041", "fog_GOPR0475_frame_000148", "night_GOPR0351_frame_000041"]
    acdc.build(tmp_path / "reference", split="train_ref")
    assert Acdc(tmp_path / "reference", "train_ref").videos == names


def test_damaged_files_are_named(tmp_path: Path) -> None:
    acdc.build(tmp_path)
    check_damaged_files(Acdc(tmp_path))
    check_label_of_another_size(Acdc(tmp_path))


def test_ids_outside_the_table_are_named(tmp_path: Path) -> None:
    acdc.build(tmp_path, split="val")
    drop(tmp_path / "gt", "_labelIds.png")
    dataset = Acdc(tmp_path, "val")
    path = tmp_path / next(dataset.frames()).labels[0]
    ids = np.array(Image.open(path))
    ids[0, :2] = (19, 255)
    Image.fromarray(ids).save(path)
    with pytest.raises(InputError, match=rf"{path.name} has label ids \[19\] that ACDC does not define; .* 0\.\.18"):
        dataset[0]


def test_wrong_options_and_roots_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="conditions fog, hail: give one or more of fog, night, rain, snow"):
        Acdc(tmp_path, conditions=("fog", "hail"))
    with pytest.raises(InputError, match="conditions clear: give one or more of"):
        Acdc(tmp_path, conditions="clear")
    with pytest.raises(InputError, match="no split 'ref'; allowed: train, val, test, train_ref, val_ref, test_ref"):
        Acdc(tmp_path, "ref")
    with pytest.raises(InputError, match=r"holds no frames; expected files:\nrgb_anon/<condition>/<split>"):
        Acdc(tmp_path)


def test_label_file() -> None:
    assert label_file("rgb_anon/rain/val_ref/A/A_frame_000001_rgb_ref_anon.png", "_rgb_ref_anon.png", "x.png") == (
        "gt/rain/val_ref/A/A_frame_000001_x.png"
    )
