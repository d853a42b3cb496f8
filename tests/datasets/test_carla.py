import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature.carla import build
from tests.datasets.reading import check_damaged_files, check_misnamed, check_missing_picture, check_reading
from tests.video_files import SHARED
from vidapt.datasets.carla import Carla, tags_of_colours
from vidapt.errors import InputError
from vidapt.labels import find_space

REAL = SHARED / "carla"
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"real CARLA samples are not at {REAL}")
ROAD, BUILDING, PEDESTRIAN, CAR = 1, 3, 12, 14
OLD_COLOURS = {
    (0, 0, 0): 255,
    (70, 70, 70): BUILDING,
    (190, 153, 153): 5,
    (250, 170, 160): 22,
    (220, 20, 60): PEDESTRIAN,
    (153, 153, 153): 6,
    (157, 234, 50): 24,
    (128, 64, 128): ROAD,
    (244, 35, 232): 2,
    (107, 142, 35): 9,
    (0, 0, 142): CAR,
    (102, 102, 156): 4,
    (220, 220, 0): 8,
}
"""The palette of CARLA 0.9.5 and the tags of CARLA 0.9.14 with the same meaning."""


def write_frame(folder: Path, stem: str, value: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(folder / f"{stem}_img.png")
    Image.fromarray(np.full((6, 8), ROAD, np.uint8)).save(folder / f"{stem}_labelIds.png")
    Image.fromarray(np.full((6, 8, 3), (ROAD, 0, 1), np.uint8)).save(folder / f"{stem}_instance.png")


def write_clip(folder: Path, numbers: list[int]) -> np.ndarray:
    """A clip in which every colour of the old palette occurs; returns the ids that it shows."""
    colours = np.array([*OLD_COLOURS], np.uint8)
    order = np.arange(6 * 8).reshape(6, 8) % len(colours)
    for kind in ("rgb", "semantic"):
        (folder / kind).mkdir(parents=True)
    for number in numbers:
        opaque = np.full((6, 8, 1), 255, np.uint8)
        Image.fromarray(np.full((6, 8, 3), number % 256, np.uint8)).save(folder / f"rgb/{number:08d}.png")
        Image.fromarray(np.concatenate([colours[order], opaque], -1)).save(folder / f"semantic/{number:08d}.png")
    return np.array([*OLD_COLOURS.values()])[order]


@pytest.mark.parametrize("disagreeing", [False, True])
def test_frames_are_read_as_written(tmp_path: Path, disagreeing: bool) -> None:
    truth = build(tmp_path, disagreeing=disagreeing)
    dataset = Carla(truth.root)
    assert dataset.has_instances
    assert [frame.number for frame in dataset.frames()] == [5026200, 5026800, 5027400]
    check_reading(dataset, truth)


def test_a_split_folder_goes_before_the_whole_root(tmp_path: Path) -> None:
    write_frame(tmp_path / "train/Town01", "Town01_000010_074800")
    write_frame(tmp_path / "train/Town02", "Town02_000010_074800")
    write_frame(tmp_path / "test/Town15", "Town15_000010_074800")
    assert [frame.name for frame in Carla(tmp_path).frames()] == ["Town01_000010_074800", "Town02_000010_074800"]
    assert [frame.name for frame in Carla(tmp_path, "test").frames()] == ["Town15_000010_074800"]
    assert len(Carla(tmp_path / "test")) == 1


def test_a_root_with_the_test_split_alone_has_no_train_split(tmp_path: Path) -> None:
    write_frame(tmp_path / "test/Town15", "Town15_000010_074800")
    with pytest.raises(InputError, match=r"CARLA split 'train' in .* holds no frames"):
        Carla(tmp_path)
    assert len(Carla(tmp_path, "test")) == 1


def test_a_missing_picture_of_a_clip_in_colours_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "a", [7, 8])
    check_missing_picture(lambda: Carla(tmp_path), "a_00000008")
    check_misnamed(lambda: Carla(tmp_path), "a/rgb/x.png")


def test_frames_a_second_apart_form_a_video(tmp_path: Path) -> None:
    stamps = [(10, 200), (11, 220), (12, 240), (14, 280), (15, 300)]
    for seconds, number in stamps:
        write_frame(tmp_path, f"Town01_{seconds:06d}_{number:06d}", seconds)
        write_frame(tmp_path, f"Town02_{seconds:06d}_{number:06d}", seconds)
    dataset = Carla(tmp_path, clip_length=2)
    assert dataset.videos == [f"Town0{town}_{first}" for town in (1, 2) for first in ("000010_000200", "000014_000280")]
    assert len(dataset) == 6
    assert dataset[1].frames[:, 0, 0, 0].tolist() == [11, 12]
    assert dataset[1].times.tolist() == [1.0, 2.0]
    assert dataset.video_clip(1).times.tolist() == [0.0, 1.0]


def test_frames_of_one_second_are_ordered_by_the_simulator_frame(tmp_path: Path) -> None:
    for number in (99, 100, 98, 102):
        write_frame(tmp_path, f"Town01_{number // 100 + 7:06d}_{number}", number)
    dataset = Carla(tmp_path, clip_length=2)
    assert len(dataset.videos) == 1
    assert [frame.number for frame in dataset.frames()] == [98, 99, 100, 102]
    assert [clip.frames[0, 0, 0, 0].item() for clip in dataset] == [98, 99]
    assert dataset.video_clip(0).times.tolist() == pytest.approx([0, 0.05, 0.1, 0.2])


def test_names_tell_recordings_of_one_town_apart(tmp_path: Path) -> None:
    for recording in ("rain/Town01", "sun/Town01"):
        write_frame(tmp_path / recording, "Town01_000001_000020")
    assert [frame.name for frame in Carla(tmp_path).frames()] == [
        "rain_Town01_000001_000020",
        "sun_Town01_000001_000020",
    ]


def test_clips_in_semantic_colours_are_read(tmp_path: Path) -> None:
    shown = write_clip(tmp_path, [7, 8, 9, 11])
    dataset = Carla(tmp_path, clip_length=2)
    assert not dataset.has_instances
    assert dataset.videos == ["00000007", "00000011"]
    assert [frame.name for frame in dataset.frames()] == ["00000007", "00000008", "00000009", "00000011"]
    assert len(dataset) == 2
    clip = dataset[1]
    assert clip.frames[:, 0, 0, 0].tolist() == [8, 9]
    assert clip.times.tolist() == pytest.approx([0.05, 0.1])
    assert np.array_equal(clip.target.semantic[0].numpy(), shown)
    assert not clip.target.instance.any()


def test_several_clips_are_several_videos(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_clip(tmp_path / name, [7, 8])
    dataset = Carla(tmp_path, clip_length=2)
    assert dataset.videos == ["a_00000007", "b_00000007"]
    assert [frame.name for frame in dataset.frames()] == ["a_00000007", "a_00000008", "b_00000007", "b_00000008"]
    assert dataset.frame(1, 0).labels == ("b/semantic/00000007.png",)


def test_colours_of_the_new_palette_are_the_tags() -> None:
    space = find_space("carla")
    picture = np.array([space.palette[: len(space)]], np.int32)
    assert tags_of_colours(picture, Path("x.png")).tolist() == [list(range(29))]


@pytest.mark.parametrize("colour", [(1, 0, 0), (0, 0, 1), (255, 255, 255), (128, 64, 127)])
def test_an_unknown_colour_is_named(colour: tuple[int, int, int]) -> None:
    picture = np.zeros((2, 2, 3), np.int32)
    picture[1, 0] = colour
    with pytest.raises(InputError, match=rf"x\.png has the colour \[{colour[0]}, {colour[1]}, {colour[2]}\]"):
        tags_of_colours(picture, Path("x.png"))


def test_wrong_label_pictures_are_named(tmp_path: Path) -> None:
    write_frame(tmp_path, "Town01_000001_000020")
    dataset = Carla(tmp_path)
    frame = next(dataset.frames())
    label, instance = (tmp_path / path for path in frame.labels)
    Image.fromarray(np.full((6, 8), 29, np.uint8)).save(label)
    with pytest.raises(InputError, match=r"_labelIds\.png has label ids \[29\] that CARLA does not define"):
        dataset.read_frame(frame)
    Image.fromarray(np.full((5, 8), ROAD, np.uint8)).save(label)
    with pytest.raises(InputError, match=r"_instance\.png has shape \[6, 8, 3\].*must have shape \[5, 8, 3\]"):
        dataset.read_frame(frame)
    Image.fromarray(np.zeros((5, 8, 3), np.uint8)).save(instance)
    with pytest.raises(InputError, match=r"_labelIds\.png is 8x5 but its image is 8x6"):
        dataset.read_frame(frame)
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(label)
    with pytest.raises(InputError, match=r"_labelIds\.png is a picture in colours"):
        dataset.read_frame(frame)


def test_semantic_pictures_must_have_colours(tmp_path: Path) -> None:
    write_clip(tmp_path, [7])
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / "semantic/00000007.png")
    dataset = Carla(tmp_path)
    with pytest.raises(InputError, match=r"semantic/00000007\.png has one channel per pixel"):
        dataset.read_frame(next(dataset.frames()))


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    check_damaged_files(Carla(build(tmp_path / "scapes", frames=2).root))
    write_clip(tmp_path / "clip", [7, 8])
    check_damaged_files(Carla(tmp_path / "clip"))


def test_unlabelled_reading_needs_no_label_files(tmp_path: Path) -> None:
    truth = build(tmp_path / "scapes")
    for path in [*truth.root.glob("*_labelIds.png"), *truth.root.glob("*_instance.png")]:
        path.unlink()
    check_reading(Carla(truth.root, labelled=False), truth)
    write_clip(tmp_path / "clip", [7])
    shutil.rmtree(tmp_path / "clip/semantic")
    assert Carla(tmp_path / "clip", labelled=False)[0].target is None


def test_wrong_roots_and_splits_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no frames; expected files:"):
        Carla(tmp_path)
    write_frame(tmp_path, "Town01_000001_000020")
    with pytest.raises(InputError, match=r"CARLA split 'test' in .* holds no frames"):
        Carla(tmp_path, "test")
    with pytest.raises(InputError, match="has no split 'val'; allowed: train, test"):
        Carla(tmp_path, "val")


@real
def test_real_frames_hold_the_things_that_their_files_number() -> None:
    dataset = Carla(REAL / "town10")
    assert dataset.videos == ["Town10HD_000033_5026200", "Town10HD_000063_5026800"]
    labels = dataset.read_frame(next(dataset.frames())).labels
    tags = np.array(Image.open(REAL / "town10/Town10HD_000033_5026200_labelIds.png"))
    assert np.array_equal(labels.semantic, tags)
    # Counted in the files with numpy alone: distinct (green, blue) of the pixels whose red is the tag.
    for tag, things in ((PEDESTRIAN, 6), (CAR, 5)):
        assert len(np.unique(labels.instance[tags == tag])) == things
        assert (labels.instance[tags == tag] > 0).all()
    assert (labels.instance == 0).mean() == pytest.approx(1 - 0.9808707237243652)


@real
def test_a_real_clip_is_one_video_of_old_colours() -> None:
    dataset = Carla(REAL / "clip", clip_length=6)
    assert len(dataset) == 1
    clip = dataset[0]
    assert clip.frames.shape == (6, 3, 540, 960)
    found = np.unique(clip.target.semantic.numpy()).tolist()
    assert found == [1, 2, 3, 4, 5, 6, 8, 9, 14, 22, 24, 255]
    assert (clip.target.semantic[:, -1] == CAR).all()
    assert (clip.target.semantic[:, 5, 300] == 255).all()
