import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature.truth import Truth
from tests.datasets.miniature.viper import build
from tests.datasets.reading import check_damaged_files, check_reading
from vidapt.datasets.instance_codes import tagged_instances
from vidapt.datasets.stored import ReadOptions
from vidapt.datasets.viper import Viper, ego_vehicle_mask
from vidapt.errors import InputError

ROAD, PERSON, CAR, VAN = 3, 20, 24, 25


def write_labels(root: Path, name: str, ids: np.ndarray, numbers: np.ndarray, red: np.ndarray | None = None) -> None:
    """The ``cls`` and ``inst`` pictures of a training frame."""
    picture = Image.fromarray(ids.astype(np.uint8), "P")
    picture.putpalette([0, 0, 142] * 256)
    picture.save(root / f"train/cls/{name[:3]}/{name}.png")
    colours = np.stack([ids if red is None else red, numbers // 256, numbers % 256], axis=-1)
    Image.fromarray(colours.astype(np.uint8)).save(root / f"train/inst/{name[:3]}/{name}.png")


def read_first(dataset: Viper):
    return dataset.read_frame(next(dataset.frames())).labels


def without_labels(truth: Truth, names: set[str]) -> Truth:
    """The truth where these frames are unlabelled."""

    def strip(path, frame):
        hidden = Path(path).stem in names
        return replace(frame, classes=None, objects=None, crowd=None) if hidden else frame

    return replace(truth, frames={path: strip(path, frame) for path, frame in truth.frames.items()})


@pytest.mark.parametrize("image_format", ["jpg", "png"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_frames_are_read_as_written(tmp_path: Path, split: str, image_format: str) -> None:
    truth = build(tmp_path, split=split, image_format=image_format)
    dataset = Viper(truth.root, split, clip_length=3)
    assert dataset.has_instances
    assert dataset.videos == ["001", "002"]
    assert next(dataset.frames()).name == "001_00008"
    assert [frame.number for frame in dataset.frames()] == [8, 9, 10, 11, 8, 9, 10]
    assert all(frame.key for frame in dataset.frames())
    assert len(dataset) == 3
    check_reading(dataset, truth)


def test_the_test_split_has_no_labels(tmp_path: Path) -> None:
    truth = build(tmp_path, split="test")
    check_reading(Viper(tmp_path, "test", labelled=False, clip_length=2), truth)
    with pytest.raises(InputError, match="has pictures but no labels; use it as an unlabelled target"):
        Viper(tmp_path, "test")


def test_times_follow_the_frame_numbers_and_gaps_part_clips(tmp_path: Path) -> None:
    build(tmp_path, image_format="png", frames=6)
    (tmp_path / "train/img/001/001_00010.png").unlink()
    shutil.rmtree(tmp_path / "train/img/002")
    dataset = Viper(tmp_path, clip_length=2)
    found = [[dataset.frame(0, place).number for place in clip.indices.tolist()] for clip in dataset]
    assert found == [[8, 9], [11, 12], [12, 13]]
    assert dataset[1].times.tolist() == pytest.approx([3 / 15, 4 / 15])
    distant = Viper(tmp_path, clip_length=2, interval=2)
    assert len(distant) == 1


def test_frames_without_label_pictures_are_unlabelled(tmp_path: Path) -> None:
    truth = build(tmp_path)
    missing = {"001_00008", "001_00009", "002_00009"}
    for name in missing:
        (tmp_path / f"train/cls/{name[:3]}/{name}.png").unlink()
    dataset = Viper(tmp_path, clip_length=2)
    check_reading(dataset, without_labels(truth, missing))
    assert {frame.name for frame in dataset.frames() if not frame.key} == missing
    assert dataset[0].target.labelled.tolist() == [False, True]
    unlabelled = Viper(tmp_path, labelled=False)
    assert [frame.key for frame in unlabelled.frames()] == [frame.key for frame in dataset.frames()]


def test_every_tenth_frame_with_the_one_before(tmp_path: Path) -> None:
    build(tmp_path)
    for path in sorted((tmp_path / "train/cls").rglob("*.png")):
        if not path.stem.endswith("0"):
            path.unlink()
    dataset = Viper(tmp_path, clip_length=2, options=ReadOptions(every=10, context=1))
    assert [frame.name for frame in dataset.frames()] == ["001_00009", "001_00010", "002_00009", "002_00010"]
    assert [clip.target.labelled.tolist() for clip in dataset] == [[False, True]] * 2


def test_labels_of_parts_without_pictures_are_not_missed(tmp_path: Path) -> None:
    build(tmp_path, frames=14, image_format="png")
    for path in (tmp_path / "train/img").rglob("*.png"):
        if not path.stem.endswith("0"):
            path.unlink()
    whole = Viper(tmp_path)
    assert {frame.number % 10 for frame in whole.frames()} == {0}
    assert whole.index_problems == ()
    (tmp_path / "train/img/001/001_00010.png").unlink()
    [problem] = Viper(tmp_path).index_problems
    assert problem.file == "train/img/001/001_00010.png"
    assert problem.frame == "001_00010"


def test_a_missing_instance_picture_is_an_error_unless_they_are_left_out(tmp_path: Path) -> None:
    truth = build(tmp_path)
    shutil.rmtree(tmp_path / "train/inst")
    with pytest.raises(InputError, match=r"inst/001/001_00008\.png cannot be read"):
        read_first(Viper(tmp_path))
    dataset = Viper(tmp_path, instances=False)
    assert not dataset.has_instances
    check_reading(dataset, truth)


def test_png_goes_before_jpeg(tmp_path: Path) -> None:
    build(tmp_path, image_format="jpg")
    truth = build(tmp_path, image_format="png")
    check_reading(Viper(tmp_path), truth)


def test_the_hood_carries_no_label_if_asked(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    ids, numbers = np.full((48, 96), ROAD), np.zeros((48, 96), int)
    ids[40:, 30:70], numbers[40:, 30:70] = CAR, 7
    ids[10:20, 10:20], numbers[10:20, 10:20] = CAR, 8
    ids[40:, 70:75], numbers[40:, 70:75] = VAN, 9
    write_labels(tmp_path, "001_00008", ids, numbers)
    kept, ignored = (read_first(Viper(tmp_path, ego_vehicle=choice)) for choice in ("keep", "ignore"))
    assert np.array_equal(kept.semantic, ids)
    hood = np.zeros((48, 96), bool)
    hood[40:, 30:70] = True
    assert np.array_equal(ignored.semantic, np.where(hood, 255, ids))
    assert np.array_equal(ignored.instance, np.where(hood, 0, kept.instance))
    assert len(np.unique(kept.instance[numbers > 0])) == 3


def test_the_choice_about_the_hood_is_part_of_a_cached_frame(tmp_path: Path) -> None:
    build(tmp_path)
    assert Viper(tmp_path).describe() != Viper(tmp_path, ego_vehicle="ignore").describe()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["000", "0C0"], ["000", "0C0"]),
        (["C00", "0C0"], ["C00", "0C0"]),
        (["C0C", "0C0"], ["C0C", "0C0"]),
        (["CCC", "C0C"], ["000", "000"]),
        (["C00", "0V0"], ["000", "000"]),
        (["CC00C", "000CC", "0CC00"], ["0000C", "000CC", "0CC00"]),
        (["CCCC", "00C0"], ["CCCC", "00C0"]),
        (["CCCC", "0C00"], ["0000", "0000"]),
        (["C"], ["C"]),
        (["CC", "CC"], ["CC", "CC"]),
    ],
)
def test_the_hood_is_the_car_at_the_middle_of_the_lowest_row(rows: list[str], expected: list[str]) -> None:
    ids = np.array([[{"C": CAR, "V": VAN, "0": ROAD}[cell] for cell in row] for row in rows], np.int32)
    mask = ego_vehicle_mask(ids)
    assert mask.dtype == np.bool_
    assert ["".join("0C"[int(cell)] for cell in row) for row in mask] == expected


def test_numbers_use_green_and_blue_and_belong_to_the_class_in_red() -> None:
    semantic = np.array([[CAR, CAR, CAR, CAR, PERSON, ROAD]], np.int32)
    picture = np.array(
        [[[CAR, 0, 5], [CAR, 5, 0], [CAR, 255, 255], [CAR, 0, 0], [PERSON, 0, 5], [CAR, 0, 5]]], np.int32
    )
    found = tagged_instances(picture, semantic, Path("inst.png"))[0].tolist()
    assert found[3] == found[5] == 0
    numbered = [*found[:3], found[4]]
    assert len(set(numbered)) == 4
    assert min(numbered) > 0
    assert max(numbered) < 1 << 24


def test_where_class_pictures_disagree_there_is_no_instance(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    ids, numbers = np.full((48, 96), CAR), np.full((48, 96), 300)
    red = ids.copy()
    red[:7] = PERSON
    write_labels(tmp_path, "001_00008", ids, numbers, red)
    labels = read_first(Viper(tmp_path))
    assert (labels.semantic == CAR).all()
    assert not labels.instance[:7].any()
    assert labels.instance[7:].all()


def test_wrong_label_pictures_are_named(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    dataset = Viper(tmp_path)
    folder = tmp_path / "train"
    good = np.full((48, 96), ROAD)
    write_labels(tmp_path, "001_00008", good + 29, good * 0)
    with pytest.raises(InputError, match=r"cls/001/001_00008\.png has label ids \[32\] that VIPER does not define"):
        read_first(dataset)
    write_labels(tmp_path, "001_00008", good[:40], good[:40] * 0)
    with pytest.raises(InputError, match=r"cls/001/001_00008\.png is 96x40 but its image is 96x48"):
        read_first(dataset)
    write_labels(tmp_path, "001_00008", good, good * 0)
    Image.fromarray(np.zeros((40, 96, 3), np.uint8)).save(folder / "inst/001/001_00008.png")
    with pytest.raises(
        InputError, match=r"inst/001/001_00008\.png has shape \[40, 96, 3\].*must have shape \[48, 96, 3\]"
    ):
        read_first(dataset)
    Image.fromarray(np.zeros((48, 96), np.uint8)).save(folder / "inst/001/001_00008.png")
    with pytest.raises(InputError, match=r"inst/001/001_00008\.png has shape \[48, 96\];"):
        read_first(dataset)
    Image.fromarray(np.zeros((48, 96, 3), np.uint8)).save(folder / "cls/001/001_00008.png")
    with pytest.raises(InputError, match=r"cls/001/001_00008\.png is a picture in colours"):
        read_first(dataset)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    build(tmp_path, image_format="png", frames=1)
    dataset = Viper(tmp_path)
    check_damaged_files(dataset)


def test_files_of_other_names_are_no_frames(tmp_path: Path) -> None:
    truth = build(tmp_path)
    for name in ("train/img/001/preview.jpg", "train/img/001/002_00001.jpg", "train/img/001/001_1.jpg"):
        (tmp_path / name).write_bytes(b"")
    check_reading(Viper(tmp_path), truth)


def test_wrong_options_and_roots_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ego_vehicle 'drop' is not known; allowed: keep, ignore"):
        Viper(tmp_path, ego_vehicle="drop")
    with pytest.raises(InputError, match="has no split 'day'; allowed: train, val, test"):
        Viper(tmp_path, "day")
    with pytest.raises(InputError, match=r"holds no frames; expected files:\n<split>/img"):
        Viper(tmp_path)
    build(tmp_path)
    shutil.rmtree(tmp_path / "train/cls")
    with pytest.raises(InputError, match="has pictures but no labels"):
        Viper(tmp_path)


def test_the_card_claims_no_uncertain_count() -> None:
    assert dict(Viper.card.splits) == {"train": None, "val": None, "test": None}
    assert Viper.card.labels == "panoptic video"
