from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import dark_zurich
from tests.datasets.miniature.truth import Truth
from tests.datasets.reading import check_damaged_files, check_label_of_another_size, check_reading
from vidapt.datasets.dark_zurich import DarkZurich
from vidapt.errors import InputError
from vidapt.labels import find_space


def at(truth: Truth, *times: str) -> Truth:
    """The part of the truth that the folders of ``times`` hold."""
    return replace(truth, videos=[video for video in truth.videos if video[0].split("/")[2] in times])


def test_reads_what_the_pictures_show(tmp_path: Path) -> None:
    truth = dark_zurich.build(tmp_path, split="val")
    dataset = DarkZurich(tmp_path, "val")
    assert not dataset.has_instances
    assert dataset.label_space is find_space("cityscapes")
    assert all(frame.labels[0].endswith("_gt_labelTrainIds.png") for frame in dataset.frames())
    check_reading(dataset, truth)
    assert len(dataset) == 2


@pytest.mark.parametrize("times", [("night",), ("twilight",), ("day", "night"), ("night", "twilight", "day")])
def test_times_of_day(tmp_path: Path, times: tuple[str, ...]) -> None:
    truth = dark_zurich.build(tmp_path, split="train")
    check_reading(DarkZurich(tmp_path, labelled=False, times=times), at(truth, *times))


@pytest.mark.parametrize(
    ("times", "train", "val"),
    [
        (("night",), 2416, 50),
        (("twilight",), 2920, 0),
        (("day", "night"), 5457, 50),
        (("night", "twilight", "day"), 8377, 50),
    ],
)
def test_the_official_numbers_are_those_of_the_times(
    tmp_path: Path, times: tuple[str, ...], train: int, val: int
) -> None:
    dark_zurich.build(tmp_path)
    card = DarkZurich(tmp_path, labelled=False, times=times).card
    assert (card.splits["train"], card.splits["val"]) == (train, val)
    assert dict(DarkZurich.card.splits) == {"train": 2416, "val": 50, "test": 151}


def test_night_is_the_default_and_names_tell_the_time(tmp_path: Path) -> None:
    dark_zurich.build(tmp_path)
    dataset = DarkZurich(tmp_path, labelled=False)
    assert dataset.videos == [f"night_GOPR0351_frame_{number:06d}" for number in (1, 2, 3)]
    assert dataset.times == ("night",)
    assert DarkZurich(tmp_path, labelled=False, times=["day", "day"]).times == ("day",)


def test_reference_pictures_are_not_mixed_in(tmp_path: Path) -> None:
    truth = dark_zurich.build(tmp_path, split="test")
    assert (tmp_path / "rgb_anon/test_ref").is_dir()
    check_reading(DarkZurich(tmp_path, "test", labelled=False), truth)


def test_only_val_is_labelled(tmp_path: Path) -> None:
    dark_zurich.build(tmp_path)
    for split in ("train", "test"):
        with pytest.raises(
            InputError, match=f"Dark Zurich split '{split}' .* has pictures but no labels; use it as an"
        ):
            DarkZurich(tmp_path, split)
    rmtree(tmp_path / "gt")
    assert DarkZurich(tmp_path, "val", labelled=False)[0].target is None


def test_damaged_files_are_named(tmp_path: Path) -> None:
    dark_zurich.build(tmp_path)
    check_damaged_files(DarkZurich(tmp_path, "val"))
    check_label_of_another_size(DarkZurich(tmp_path, "val"))


def test_label_ids_in_place_of_train_ids_are_named(tmp_path: Path) -> None:
    dark_zurich.build(tmp_path)
    dataset = DarkZurich(tmp_path, "val")
    path = tmp_path / next(dataset.frames()).labels[0]
    ids = np.array(Image.open(path))
    ids[0, :2] = (33, 255)
    Image.fromarray(ids).save(path)
    with pytest.raises(InputError, match=rf"{path.name} has label ids \[33\] that Dark Zurich does not define"):
        dataset[0]


def test_wrong_options_and_roots_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="times night, dawn: give one or more of night, twilight, day"):
        DarkZurich(tmp_path, times=("night", "dawn"))
    with pytest.raises(InputError, match="times is empty: give one or more of night, twilight, day"):
        DarkZurich(tmp_path, times=())
    with pytest.raises(InputError, match="no split 'val_ref'; allowed: train, val, test"):
        DarkZurich(tmp_path, "val_ref")
    with pytest.raises(InputError, match=r"holds no frames; expected files:\nrgb_anon/<split>/<time>"):
        DarkZurich(tmp_path)
    dark_zurich.build(tmp_path)
    with pytest.raises(InputError, match=r"Dark Zurich split 'val' .* holds no frames"):
        DarkZurich(tmp_path, "val", times=("day",))
