"""Every reader names the pictures that are missing and the files that are named otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.miniature import (
    acdc,
    bdd100k,
    carla,
    cityscapes,
    cityscapes_sequence,
    cityscapes_vps,
    dark_zurich,
    foggy_cityscapes,
    gta5,
    kitti_step,
    synthia,
    synthia_seq,
    viper,
    vipseg,
)
from tests.datasets.reading import check_misnamed, check_missing_picture
from vidapt.datasets.acdc import Acdc
from vidapt.datasets.bdd100k import Bdd100k
from vidapt.datasets.carla import Carla
from vidapt.datasets.catalogue import find_dataset
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.cityscapes_sequence import CityscapesSequence
from vidapt.datasets.cityscapes_vps import CityscapesVps
from vidapt.datasets.dark_zurich import DarkZurich
from vidapt.datasets.foggy_cityscapes import FoggyCityscapes
from vidapt.datasets.gta5 import Gta5
from vidapt.datasets.kitti_step import KittiStep
from vidapt.datasets.listing import missing_picture_count, missing_pictures
from vidapt.datasets.stored import StoredDataset
from vidapt.datasets.synthia import Synthia
from vidapt.datasets.synthia_seq import SynthiaSeq
from vidapt.datasets.viper import Viper
from vidapt.datasets.vipseg import VipSeg

Build, Options = Callable[..., Any], dict[str, Any]

CASES: list[tuple[type[StoredDataset], Build, str, Options, Options]] = [
    (Acdc, acdc.build, "train", {}, {}),
    (Acdc, acdc.build, "train_ref", {}, {}),
    (Bdd100k, bdd100k.build, "val", {"kind": "panoptic"}, {}),
    (Bdd100k, bdd100k.build, "train", {"kind": "semantic"}, {"labels": "semantic"}),
    (Bdd100k, bdd100k.build, "train", {"kind": "seg_track"}, {"labels": "seg_track"}),
    (Carla, carla.build, "train", {}, {}),
    (Cityscapes, cityscapes.build, "train", {}, {}),
    (Cityscapes, cityscapes.build, "val", {}, {"instances": False}),
    (CityscapesSequence, cityscapes_sequence.build, "val", {"snippet": 3}, {}),
    (CityscapesSequence, cityscapes_sequence.build, "train", {"snippet": 3, "suffix": ".jpg"}, {}),
    (CityscapesVps, cityscapes_vps.build, "val", {}, {}),
    (DarkZurich, dark_zurich.build, "val", {}, {}),
    (FoggyCityscapes, foggy_cityscapes.build, "train", {}, {"beta": 0.01}),
    (Gta5, gta5.build, "train", {}, {}),
    (KittiStep, kitti_step.build, "train", {}, {}),
    (Synthia, synthia.build, "train", {}, {}),
    (SynthiaSeq, synthia_seq.build, "train", {}, {}),
    (Viper, viper.build, "train", {"image_format": "png", "frames": 12}, {}),
    (Viper, viper.build, "val", {"image_format": "jpg", "frames": 12}, {}),
    (VipSeg, vipseg.build, "val", {}, {}),
]

STRANGE = [
    (Bdd100k, bdd100k.build, "seg_track", "images/seg_track_20/train/a/b-0000001.jpg"),
    (Carla, carla.build, "", "Town01_img.png"),
    (CityscapesSequence, cityscapes_sequence.build, "", "leftImg8bit_sequence/train/lindau/lindau_19_leftImg8bit.png"),
    (Gta5, gta5.build, "", "images/first.png"),
    (Synthia, synthia.build, "", "RGB/first.png"),
    (SynthiaSeq, synthia_seq.build, "", "SYNTHIA-SEQS-04-DAWN/RGB/Stereo_Left/Omni_F/first.png"),
    (Viper, viper.build, "", "train/img/001/002_00001.png"),
]


@pytest.mark.parametrize(("reader", "build", "split", "built", "options"), CASES)
def test_a_missing_picture_is_named(
    tmp_path: Path, reader: type[StoredDataset], build: Build, split: str, built: Options, options: Options
) -> None:
    truth = build(tmp_path, split=split, **built)
    root = tmp_path if reader is SynthiaSeq else truth.root
    check_missing_picture(lambda: reader(root, split, **options))
    first = next(frame for frame in reader(root, split, **options).frames() if frame.labels)
    (root / first.image).unlink()
    assert reader(root, split, labelled=False, **options).index_problems == ()


@pytest.mark.parametrize(("reader", "build", "kind", "file"), STRANGE)
def test_a_strange_name_is_told_and_the_others_are_read(
    tmp_path: Path, reader: type[StoredDataset], build: Build, kind: str, file: str
) -> None:
    truth = build(tmp_path, split="train", **({"kind": kind} if kind else {}))
    root = tmp_path if reader is SynthiaSeq else truth.root
    check_misnamed(lambda: reader(root, "train", **({"labels": kind} if kind else {})), file)


def test_pictures_are_not_missed_where_there_are_none() -> None:
    assert missing_pictures(["gt/1.png"], [], lambda label: ("1", label)) == []


def test_missing_pictures_are_counted_in_one_problem() -> None:
    assert missing_picture_count([], "p.json") == []
    [one], [three] = missing_picture_count(["a"], "p.json"), missing_picture_count(["a", "b", "c"], "p.json")
    assert (one.frame, one.file, one.reason) == ("", "a", "is missing, but p.json labels it")
    assert (three.file, three.reason) == ("a", "and 2 more are missing, but p.json labels them")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("acdc", ("test", "test_ref")),
        ("bdd100k", ("test",)),
        ("carla", ()),
        ("cityscapes", ("test", "train_extra")),
        ("cityscapes_sequence", ("test",)),
        ("cityscapes_vps", ("test",)),
        ("dark_zurich", ("train", "test")),
        ("foggy_cityscapes", ("test", "train_extra")),
        ("gta5", ()),
        ("kitti_step", ("test",)),
        ("mapillary", ("testing",)),
        ("synthia", ()),
        ("synthia_seq", ()),
        ("viper", ("test",)),
        ("vipseg", ("test",)),
    ],
)
def test_cards_tell_the_splits_without_labels(name: str, expected: tuple[str, ...]) -> None:
    card = find_dataset(name).card
    assert card.unlabelled == expected
    assert set(expected) <= set(card.splits)
