from collections.abc import Callable
from dataclasses import replace
from json import dumps, loads
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.datasets.miniature import acdc
from tests.datasets.miniature.truth import TrueFrame, Truth
from tests.datasets.reading import (
    check_damaged_files,
    check_label_of_another_size,
    check_missing_picture,
    check_reading,
)
from vidapt.datasets.acdc import CONDITIONS, Acdc
from vidapt.datasets.frame_index import Problem
from vidapt.datasets.listing import label_file
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


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_label_file_is_reported_not_passed_over(tmp_path: Path, split: str) -> None:
    acdc.build(tmp_path, split=split)
    path = tmp_path / next(Acdc(tmp_path, split).frames()).labels[0]
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name} cannot be read"):
        Acdc(tmp_path, split)[0]


def test_half_of_the_reference_pictures_are_labelled(tmp_path: Path) -> None:
    acdc.build(tmp_path, split="train_ref")
    dataset = Acdc(tmp_path, "train_ref")
    assert [bool(frame.labels) for frame in dataset.frames()] == [True, False] * 4
    assert [bool(dataset[item].target.labelled.all()) for item in range(len(dataset))] == [True] * 4
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


@pytest.mark.parametrize(
    ("chosen", "counts"),
    [
        (("night",), {"train": 400, "val": 106, "test": 500}),
        (("snow", "fog"), {"train": 800, "val": 200, "test": 1000}),
        (CONDITIONS, {"train": 1600, "val": 406, "test": 2000}),
    ],
)
def test_the_official_numbers_are_those_of_the_conditions(
    tmp_path: Path, chosen: tuple[str, ...], counts: dict[str, int]
) -> None:
    acdc.build(tmp_path)
    card = Acdc(tmp_path, conditions=chosen).card
    assert {split: count for split, count in card.splits.items() if count is not None} == counts
    assert list(card.splits) == list(Acdc.card.splits)
    assert Acdc.card.splits["train"] == 1600


def test_a_missing_picture_with_panoptic_labels_is_named(tmp_path: Path) -> None:
    acdc.build(tmp_path, panoptic=True)
    check_missing_picture(lambda: Acdc(tmp_path, panoptic=ALL))
    gone = "rgb_anon/rain/train"
    rmtree(tmp_path / gone)
    assert {problem.file.startswith(gone) for problem in Acdc(tmp_path).index_problems} == {True}
    assert Acdc(tmp_path, conditions=["fog"]).index_problems == ()


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


ALL = "gt_panoptic/train_gt_panoptic.json"
REFERENCES = "gt_panoptic/train_gt_ref_panoptic.json"


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Apply ``edit`` to the content of a JSON."""
    data = loads(path.read_text())
    edit(data)
    path.write_text(dumps(data))


@pytest.mark.parametrize(("split", "file"), [("train", ALL), ("train_ref", REFERENCES)])
def test_reads_panoptic_labels(tmp_path: Path, split: str, file: str) -> None:
    truth = in_label_ids(acdc.build(tmp_path, split=split, panoptic=True))
    assert any(frame.crowd is not None and frame.crowd.any() for frame in truth.frames.values())
    rmtree(tmp_path / "gt")
    dataset = Acdc(tmp_path, split, panoptic=file)
    assert dataset.has_instances
    assert dataset.label_space is find_space("cityscapes_ids")
    assert dataset.index_problems == ()
    check_reading(dataset, truth)


def test_panoptic_classes_are_those_of_the_semantic_labels(tmp_path: Path) -> None:
    acdc.build(tmp_path, panoptic=True)
    plain, panoptic = Acdc(tmp_path), Acdc(tmp_path, panoptic=ALL)
    assert not plain.has_instances
    for item in range(len(plain)):
        assert torch.equal(plain[item].target.semantic, panoptic[item].target.semantic)
        assert not plain[item].target.instance.any()
        things = find_space("cityscapes_ids").is_thing[panoptic[item].target.semantic.numpy()]
        assert panoptic[item].target.instance.any()
        assert not panoptic[item].target.instance.numpy()[~things].any()


def test_panoptic_labels_of_one_condition(tmp_path: Path) -> None:
    truth = in_label_ids(acdc.build(tmp_path, panoptic=True))
    night = replace(truth, videos=[video for video in truth.videos if "/night/" in video[0]])
    check_reading(
        Acdc(tmp_path, conditions=["night"], panoptic="gt_panoptic/night/night_train_gt_panoptic.json"), night
    )


def test_category_ids_may_be_any(tmp_path: Path) -> None:
    truth = in_label_ids(acdc.build(tmp_path, panoptic=True))

    def renumber(data: dict[str, Any]) -> None:
        for category in data["categories"]:
            category["id"] += 100
        for annotation in data["annotations"]:
            for segment in annotation["segments_info"]:
                segment["category_id"] += 100

    change(tmp_path / ALL, renumber)
    check_reading(Acdc(tmp_path, panoptic=ALL), truth)


def test_pictures_that_the_json_leaves_out_are_reported(tmp_path: Path) -> None:
    acdc.build(tmp_path, panoptic=True)
    change(
        tmp_path / ALL, lambda data: (data["annotations"].pop(0), data["annotations"].append(data["annotations"][0]))
    )
    dataset = Acdc(tmp_path, panoptic=ALL)
    assert len(dataset) == 6
    image = "rgb_anon/fog/train/GOPR0475/GOPR0475_frame_000041_rgb_anon.png"
    assert dataset.index_problems == (
        Problem("fog_GOPR0475_frame_000041", ALL, f"does not list {image}"),
        Problem("fog_GOPR0475_frame_000148", ALL, "annotates image 'GOPR0475_frame_000148' more than once"),
    )
    assert not {problem.frame for problem in dataset.index_problems} & set(dataset.videos)


def test_flawed_entries_of_reference_pictures_are_reported(tmp_path: Path) -> None:
    acdc.build(tmp_path, split="train_ref", panoptic=True)
    change(tmp_path / REFERENCES, lambda data: data["annotations"].append(data["annotations"][0]))
    dataset = Acdc(tmp_path, "train_ref", panoptic=REFERENCES)
    assert [problem.frame for problem in dataset.index_problems] == ["fog_GOPR0475_frame_000041"]
    assert [bool(frame.labels) for frame in dataset.frames()] == [False, *[True, False] * 3]


def test_unlabelled_reading_needs_no_json(tmp_path: Path) -> None:
    acdc.build(tmp_path)
    dataset = Acdc(tmp_path, labelled=False, panoptic=ALL)
    assert len(dataset) == 8
    assert dataset[0].target is None


def test_another_json_is_another_content(tmp_path: Path) -> None:
    acdc.build(tmp_path, panoptic=True)
    dataset = Acdc(tmp_path, panoptic=ALL)
    before = dataset.describe()
    assert before != Acdc(tmp_path).describe()
    change(tmp_path / ALL, lambda data: data.update(info={}))
    assert dataset.describe() != before


def test_wrong_jsons_are_named(tmp_path: Path) -> None:
    acdc.build(tmp_path, panoptic=True)
    with pytest.raises(InputError, match=r"nowhere\.json cannot be read as JSON: No such file"):
        Acdc(tmp_path, panoptic="nowhere.json")
    with pytest.raises(InputError, match=r"fog_train_gt_panoptic\.json lists no picture of ACDC split 'train'"):
        Acdc(tmp_path, conditions=["snow"], panoptic="gt_panoptic/fog/fog_train_gt_panoptic.json")
    change(tmp_path / ALL, lambda data: data["categories"][0].update(name="motorway"))
    with pytest.raises(
        InputError, match=r"train_gt_panoptic\.json has the category 'motorway'; allowed: unlabeled, ego"
    ):
        Acdc(tmp_path, panoptic=ALL)


def test_panoptic_pictures_that_differ_from_the_json_are_named(tmp_path: Path) -> None:
    acdc.build(tmp_path, panoptic=True)
    dataset = Acdc(tmp_path, panoptic=ALL)
    check_damaged_files(dataset)
    check_label_of_another_size(dataset)
    path = tmp_path / next(dataset.frames()).labels[0]
    colours = np.array(Image.open(path))
    colours[0, 0] = (1, 0, 0)
    Image.fromarray(colours).save(path)
    with pytest.raises(InputError, match=rf"{path.name} shows the segment ids \[1\], which its JSON does not list"):
        dataset[0]
