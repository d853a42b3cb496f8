from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from json import loads
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import cityscapes
from tests.datasets.miniature.truth import Truth
from tests.datasets.reading import check_damaged_files, check_label_of_another_size, check_reading
from tests.video_files import SHARED
from vidapt.datasets.cityscapes import Cityscapes, image_id
from vidapt.datasets.instance_codes import split_instance_ids
from vidapt.datasets.stored import ReadOptions
from vidapt.errors import InputError, SingleImagesError
from vidapt.labels import find_space

REAL = SHARED / "cityscapes"
FIRST = "aachen/aachen_000000_000019_gtFine"


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return cityscapes.build(tmp_path)


def unlabelled(truth: Truth) -> Truth:
    """The same pictures without labels."""
    frames = {path: replace(frame, classes=None, objects=None, crowd=None) for path, frame in truth.frames.items()}
    return replace(truth, frames=frames)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("instances", [True, False])
def test_reads_what_the_pictures_show(tmp_path: Path, split: str, instances: bool) -> None:
    truth = cityscapes.build(tmp_path, split=split)
    assert any(frame.crowd.any() for frame in truth.frames.values())
    dataset = Cityscapes(tmp_path, split, instances=instances)
    assert dataset.has_instances is instances
    assert dataset.label_space is find_space("cityscapes_ids")
    check_reading(dataset, truth)


def test_instances_keep_their_stored_numbers(truth: Truth) -> None:
    dataset = Cityscapes(truth.root)
    for frame in dataset.frames():
        true = truth.frames[frame.image]
        assert np.array_equal(dataset.read_frame(frame).labels.instance, true.objects)


def test_names_are_image_ids(truth: Truth) -> None:
    dataset = Cityscapes(truth.root)
    names = ["aachen_000000_000019", "aachen_000001_000019", "hamburg_000000_042505"]
    assert [frame.name for frame in dataset.frames()] == dataset.videos == names
    assert all(frame.key for frame in dataset.frames())
    kinds = {file.rpartition("_")[2] for frame in dataset.frames() for file in frame.labels}
    assert kinds == {"instanceIds.png"}
    semantic = Cityscapes(truth.root, instances=False)
    assert {file.rpartition("_")[2] for frame in semantic.frames() for file in frame.labels} == {"labelIds.png"}


def test_prepared_files_change_nothing(tmp_path: Path) -> None:
    truth = cityscapes.build(tmp_path, prepared=True)
    check_reading(Cityscapes(tmp_path), truth)


def test_splits_without_fine_labels(tmp_path: Path) -> None:
    truth = cityscapes.build(tmp_path, split="test")
    assert (tmp_path / "gtFine/test").is_dir()
    check_reading(Cityscapes(tmp_path, "test", labelled=False), unlabelled(truth))
    with pytest.raises(InputError, match=r"split 'test' in .* has pictures but no labels; use it as an unlabelled"):
        Cityscapes(tmp_path, "test")
    copytree(tmp_path / "leftImg8bit/test", tmp_path / "leftImg8bit/train_extra")
    assert len(Cityscapes(tmp_path, "train_extra", labelled=False)) == len(truth.frames)
    with pytest.raises(InputError, match=r"'train_extra' in .* has pictures but no labels"):
        Cityscapes(tmp_path, "train_extra")


def test_unlabelled_reading_needs_no_labels(truth: Truth) -> None:
    rmtree(truth.root / "gtFine")
    dataset = Cityscapes(truth.root, labelled=False)
    assert dataset.label_space is None
    check_reading(dataset, unlabelled(truth))


def test_files_of_other_kinds_are_left_out(truth: Truth) -> None:
    for name in ("aachen_000000_000019_rightImg8bit.png", "._aachen_000003_000019_leftImg8bit.png", "notes.txt"):
        (truth.root / "leftImg8bit/train/aachen" / name).write_bytes(b"x")
    assert len(Cityscapes(truth.root)) == 3


def test_damaged_files_are_named(truth: Truth) -> None:
    check_damaged_files(Cityscapes(truth.root))
    check_damaged_files(Cityscapes(truth.root, instances=False))
    check_label_of_another_size(Cityscapes(truth.root))


def test_missing_folders_and_wrong_splits_are_named(truth: Truth) -> None:
    with pytest.raises(InputError, match="no split 'training'; allowed: train, val, test, train_extra"):
        Cityscapes(truth.root, "training")
    with pytest.raises(InputError, match=r"split 'val' in .* holds no frames; expected files:\nleftImg8bit/<split>"):
        Cityscapes(truth.root, "val")
    with pytest.raises(InputError, match="holds no frames"):
        Cityscapes(truth.root / "nowhere")
    with pytest.raises(SingleImagesError, match="no clip of 2 frames"):
        Cityscapes(truth.root, clip_length=2)


@pytest.mark.parametrize(("value", "wrong"), [(35, 35), (254, 254), (999, 999), (60000, 60)])
def test_ids_outside_the_table_are_named(truth: Truth, value: int, wrong: int) -> None:
    path = truth.root / f"gtFine/train/{FIRST}_instanceIds.png"
    ids = np.array(Image.open(path))
    ids[3, 4] = value
    Image.fromarray(ids).save(path)
    dataset = Cityscapes(truth.root)
    with pytest.raises(
        InputError, match=rf"{path.name} has label ids \[{wrong}\] .* allowed: 0\.\.34 and 255"
    ) as caught:
        dataset[0]
    assert "Cityscapes" in str(caught.value)
    assert len(dataset) == 3


def test_every_value_of_the_table_is_allowed(truth: Truth) -> None:
    path = truth.root / f"gtFine/train/{FIRST}_instanceIds.png"
    ids = np.array(Image.open(path))
    ids[0, :36] = [*range(35), 255]
    Image.fromarray(ids).save(path)
    labels = Cityscapes(truth.root).read_frame(next(Cityscapes(truth.root).frames())).labels
    void = {*range(7), 34}
    assert labels.semantic[0, :36].tolist() == [255 if value in void else value for value in [*range(35), 255]]
    assert not labels.instance[0, :36].any()


def test_scaled_and_trimmed_labels_stay_on_their_pixels(truth: Truth) -> None:
    options = ReadOptions(height=20, trim=(2, 6))
    clip = Cityscapes(truth.root, options=options)[0]
    true = truth.frames[truth.videos[0][0]]
    rows = 2 + ((np.arange(20) + 0.5) * 40 / 20).astype(int)
    columns = ((np.arange(48) + 0.5) * 2).astype(int)
    assert clip.frames.shape == (1, 3, 20, 48)
    assert np.array_equal(clip.target.instance[0].numpy(), true.objects[rows][:, columns])


def test_split_instance_ids_at_the_borders() -> None:
    semantic, instance = split_instance_ids(np.array([[0, 33, 999, 1000, 24000, 33999]], np.int32))
    assert semantic.tolist() == [[0, 33, 999, 1, 24, 33]]
    assert instance.tolist() == [[0, 0, 0, 1000, 24000, 33999]]
    empty = split_instance_ids(np.zeros((0, 4), np.int32))
    assert [array.shape for array in empty] == [(0, 4), (0, 4)]


def test_image_id() -> None:
    assert image_id("leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png", "_leftImg8bit.png") == (
        "lindau_000000_000019"
    )


def test_card_counts() -> None:
    assert Cityscapes.card.splits == {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}


def real_dataset() -> Cityscapes:
    if not REAL.is_dir():
        pytest.skip("the Cityscapes sample is not at hand")
    return Cityscapes(REAL)


def test_real_images() -> None:
    dataset = real_dataset()
    assert dataset.videos == [f"aachen_{number:06d}_000019" for number in range(3)]
    counts = []
    for clip in (dataset[item] for item in range(3)):
        assert clip.frames.shape == (1, 3, 1024, 2048)
        assert clip.target.semantic.shape == clip.target.instance.shape == (1, 1024, 2048)
        assert not set(clip.target.semantic.unique().tolist()) & {*range(7), 34}
        numbers = clip.target.instance.unique().tolist()
        counts.append(Counter(number // 1000 for number in numbers if number))
    assert counts == [{24: 2, 25: 1, 26: 8, 33: 2}, {26: 14}, {24: 1, 26: 7, 33: 1}]


def test_real_segments_equal_those_of_the_official_converter(tmp_path: Path) -> None:
    dataset = real_dataset()
    script = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs", reason="needs cityscapesscripts")
    official = pytest.importorskip("cityscapesscripts.helpers.labels", reason="needs cityscapesscripts")
    with redirect_stdout(StringIO()):
        script.convert2panoptic(str(REAL / "gtFine"), str(tmp_path), False, ["train"])
    annotations = loads((tmp_path / "cityscapes_panoptic_train.json").read_text())["annotations"]
    scored = [label.id for label in official.labels if not label.ignoreInEval]
    for frame, annotation in zip(dataset.frames(), annotations, strict=True):
        assert annotation["image_id"] == frame.name
        colours = np.array(Image.open(tmp_path / "cityscapes_panoptic_train" / annotation["file_name"]), np.int32)
        labels = dataset.read_frame(frame).labels
        semantic = labels.semantic.astype(np.int32)
        ids = np.where(np.isin(semantic, scored), np.where(labels.instance > 0, labels.instance, semantic), 0)
        assert np.array_equal(ids, colours @ [1, 256, 65536])
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids).tolist()) - {0} == set(segments)
        for number, segment in segments.items():
            where = ids == number
            assert set(semantic[where].tolist()) == {segment["category_id"]}
            assert where.sum() == segment["area"]
            is_thing = dataset.label_space.is_thing[segment["category_id"]]
            assert segment["iscrowd"] == int(is_thing and not labels.instance[where].any())
