"""The miniature data sets are what their formats say, read back without any reader of the package."""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature import (
    bdd100k,
    carla,
    coco_panoptic,
    gta5,
    mapillary,
    synthia,
    synthia_seq,
    viper,
)
from tests.datasets.miniature.truth import TrueFrame, Truth

REAL = Path(__file__).parents[2] / "../shared/data"
GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6
BUILDS: dict[str, Callable[..., Truth]] = {
    "synthia": synthia.build,
    "synthia_seq": synthia_seq.build,
    "gta5": gta5.build,
    "viper": viper.build,
    "mapillary_v1.2": mapillary.build,
    "mapillary_v2.0": partial(mapillary.build, version="v2.0"),
    "bdd100k_semantic": partial(bdd100k.build, kind="semantic"),
    "bdd100k_panoptic": bdd100k.build,
    "bdd100k_seg_track": partial(bdd100k.build, kind="seg_track"),
    "coco": coco_panoptic.build,
    "coco_video": partial(coco_panoptic.build, video=True),
    "carla": carla.build,
}
WITH_OBJECTS = sorted(BUILDS.keys() - {"gta5", "bdd100k_semantic"})
WITH_CROWDS = ["bdd100k_panoptic", "bdd100k_seg_track", "coco", "coco_video", "mapillary_v1.2", "mapillary_v2.0"]
VIDEOS = ["bdd100k_seg_track", "coco_video", "synthia_seq", "viper"]


class Png(NamedTuple):
    bits: int
    colour_type: int
    palette: np.ndarray | None
    samples: np.ndarray
    """(H,W) or (H,W,C), as stored."""


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place = 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda value: abs(guess - value))


def _unfilter(kind: int, line: bytes, above: bytes, step: int) -> bytes:
    """Undo one of the five filters of the PNG specification, section 9."""
    out = bytearray(line)
    for at in range(len(out)):
        left, corner = (out[at - step], above[at - step]) if at >= step else (0, 0)
        add = (0, left, above[at], (left + above[at]) // 2, _paeth(left, above[at], corner))[kind]
        out[at] = (out[at] + add) & 255
    return bytes(out)


def _read_png(path: Path) -> Png:
    """Decode a PNG by the letter of its specification: 8 or 16 bits per sample, not interlaced."""
    chunks = list(_chunks(path.read_bytes()))
    width, height, bits, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    assert bits in (8, 16), path
    assert interlace == 0, path
    channels = {GREY: 1, RGB: 3, PALETTE: 1, RGBA: 4}[colour_type]
    step = channels * bits // 8
    raw = zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT"))
    above, lines = bytes(width * step), []
    for row in range(height):
        start = row * (width * step + 1)
        above = _unfilter(raw[start], raw[start + 1 : start + 1 + width * step], above, step)
        lines.append(above)
    samples = np.frombuffer(b"".join(lines), ">u1" if bits == 8 else ">u2").reshape(height, width, channels)
    palette = dict(chunks).get(b"PLTE")
    return Png(
        bits,
        colour_type,
        None if palette is None else np.frombuffer(palette, np.uint8).reshape(-1, 3),
        samples.astype(np.int64).squeeze(-1) if channels == 1 else samples.astype(np.int64),
    )


def _read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def _assert_same_objects(found: list[np.ndarray], true: list[np.ndarray]) -> None:
    """Numbers of one video name the same pixels, whatever the numbers are; 0 is no object in both."""
    found, true = np.concatenate([one.ravel() for one in found]), np.concatenate([one.ravel() for one in true])
    np.testing.assert_array_equal(found > 0, true > 0)
    pairs = np.unique(np.stack((found[true > 0], true[true > 0])), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def _labelled(truth: Truth) -> list[tuple[str, TrueFrame]]:
    assert truth.frames
    return list(truth.frames.items())


def _class_counts(truth: Truth) -> dict[int, int]:
    """In how many pictures each class occurs."""
    present = [np.unique(frame.classes) for frame in truth.frames.values()]
    values, counts = np.unique(np.concatenate(present), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("name", BUILDS)
def test_pictures_lie_where_the_truth_says(name: str, tmp_path: Path) -> None:
    truth = BUILDS[name](tmp_path / "set")
    assert truth.root.is_relative_to(tmp_path)
    assert [key for video in truth.videos for key in video] == list(truth.frames)
    for key, frame in truth.frames.items():
        assert "\\" not in key
        picture = _read_picture(truth.root / key)
        assert picture.shape == frame.image.shape == (*frame.image.shape[:2], 3)
        assert frame.image.dtype == np.uint8
        error = np.abs(picture.astype(int) - frame.image).mean()
        assert error == 0 if key.endswith(".png") else error < 4


@pytest.mark.parametrize("name", BUILDS)
def test_truth_is_consistent(name: str, tmp_path: Path) -> None:
    for _, frame in _labelled(BUILDS[name](tmp_path)):
        assert frame.classes.dtype == np.int32
        assert frame.classes.shape == frame.image.shape[:2]
        if frame.objects is None:
            assert frame.crowd is None
            continue
        assert (frame.objects.dtype, frame.crowd.dtype) == (np.int32, bool)
        assert frame.objects.shape == frame.crowd.shape == frame.classes.shape
        assert not frame.objects[frame.crowd].any()
        assert not frame.objects[frame.classes == -1].any()


@pytest.mark.parametrize("name", WITH_OBJECTS)
def test_an_object_has_one_class_over_its_video(name: str, tmp_path: Path) -> None:
    truth = BUILDS[name](tmp_path)
    for video in truth.videos:
        pairs = {
            pair
            for key in video
            for pair in zip(truth.frames[key].objects.flat, truth.frames[key].classes.flat, strict=True)
            if pair[0] > 0
        }
        assert len(pairs) == len({number for number, _ in pairs}) > 3


@pytest.mark.parametrize("name", VIDEOS)
def test_objects_of_videos_stay_and_move(name: str, tmp_path: Path) -> None:
    truth = BUILDS[name](tmp_path)
    assert len(truth.videos) > 1
    for video in truth.videos:
        first, second = (truth.frames[key] for key in video[:2])
        kept = set(first.objects[first.objects > 0]) & set(second.objects[second.objects > 0])
        assert sum(not np.array_equal(first.objects == number, second.objects == number) for number in kept) >= 4


@pytest.mark.parametrize("name", sorted(BUILDS.keys() - set(VIDEOS)))
def test_still_pictures_are_videos_of_one_frame(name: str, tmp_path: Path) -> None:
    truth = BUILDS[name](tmp_path)
    assert truth.videos == [[key] for key in truth.frames]
    assert truth.times is None


@pytest.mark.parametrize(("name", "rate"), [("bdd100k_seg_track", 5), ("synthia_seq", 5), ("viper", 15)])
def test_times_follow_the_frame_rate(name: str, rate: int, tmp_path: Path) -> None:
    truth = BUILDS[name](tmp_path)
    assert [len(times) for times in truth.times] == [len(video) for video in truth.videos]
    assert all(times[0] == 0 for times in truth.times)
    assert truth.times[0][1:3] == pytest.approx([1 / rate, 2 / rate])


@pytest.mark.parametrize("name", BUILDS)
def test_the_same_seed_gives_the_same_files_and_another_seed_others(name: str, tmp_path: Path) -> None:
    contents = []
    for folder, seed in (("one", 3), ("two", 3), ("other", 4)):
        BUILDS[name](tmp_path / folder, seed=seed)
        files = sorted(path for path in (tmp_path / folder).rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


@pytest.mark.parametrize("name", BUILDS)
def test_unknown_splits_are_refused(name: str, tmp_path: Path) -> None:
    if name.startswith("coco"):
        assert "trein/" in next(iter(BUILDS[name](tmp_path, split="trein").frames))
        return
    with pytest.raises(ValueError, match="'trein'"):
        BUILDS[name](tmp_path, split="trein")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", WITH_CROWDS)
@pytest.mark.parametrize("seed", range(3))
def test_crowds_occur(name: str, seed: int, tmp_path: Path) -> None:
    assert any(frame.crowd.sum() > 8 for frame in BUILDS[name](tmp_path, seed=seed).frames.values())


@pytest.mark.parametrize(
    ("name", "class_id"),
    [
        ("synthia", 21),
        ("gta5", 34),
        ("viper", 16),
        ("mapillary_v1.2", 0),
        ("mapillary_v2.0", 0),
        ("bdd100k_semantic", 16),
        ("bdd100k_panoptic", 39),
        ("bdd100k_seg_track", 39),
        ("coco", 13),
        ("carla", 20),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_one_class_occurs_in_a_single_picture(name: str, class_id: int, seed: int, tmp_path: Path) -> None:
    counts = _class_counts(BUILDS[name](tmp_path, seed=seed))
    assert counts[class_id] == 1
    assert sum(count > 1 for count in counts.values()) >= 6


@pytest.mark.parametrize(
    ("name", "split"), [("viper", "test"), ("bdd100k_panoptic", "test"), ("mapillary_v2.0", "testing")]
)
def test_test_splits_have_pictures_only(name: str, split: str, tmp_path: Path) -> None:
    truth = BUILDS[name](tmp_path, split=split)
    assert all((one.classes, one.objects, one.crowd) == (None, None, None) for one in truth.frames.values())
    pictures = {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.suffix in (".png", ".jpg")
    }
    assert pictures == set(truth.frames)


@pytest.mark.parametrize("name", ["synthia", "synthia_seq"])
def test_synthia_labels_are_16_bit_rgb(name: str, tmp_path: Path) -> None:
    truth = BUILDS[name](tmp_path)
    for video in truth.videos:
        found = []
        for key in video:
            label = truth.root / key.replace("RGB/", "GT/LABELS/")
            png = _read_png(label)
            assert (png.bits, png.colour_type) == (16, RGB)
            np.testing.assert_array_equal(cv2.imread(str(label), cv2.IMREAD_UNCHANGED), png.samples[..., ::-1])
            np.testing.assert_array_equal(png.samples[..., 0], truth.frames[key].classes)
            assert not png.samples[..., 2].any()
            found.append(np.where(png.samples[..., 1] > 0, png.samples[..., 0] * 65536 + png.samples[..., 1], 0))
        _assert_same_objects(found, [truth.frames[key].objects for key in video])


@pytest.mark.parametrize(("name", "things"), [("synthia", synthia.THINGS), ("synthia_seq", synthia_seq.THINGS)])
@pytest.mark.parametrize("seed", range(3))
def test_synthia_has_the_awkward_numbers(name: str, things: frozenset[int], seed: int, tmp_path: Path) -> None:
    truth = BUILDS[name](tmp_path, seed=seed)
    classes, numbers = [], []
    for path in sorted((truth.root / "GT/LABELS").rglob("*.png")):
        blue, green, red = np.moveaxis(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), -1, 0)
        assert not blue.any()
        classes.append(red.ravel())
        numbers.append(green.ravel())
    classes, numbers = np.concatenate(classes), np.concatenate(numbers)
    is_thing = np.isin(classes, list(things))
    assert not numbers[~is_thing].any()
    assert (numbers[is_thing] == 0).any()
    assert (numbers > 255).any()
    owners = [set(classes[numbers == number]) for number in np.unique(numbers[numbers > 0])]
    assert max(map(len, owners)) > 1


def test_synthia_layout_is_complete(tmp_path: Path) -> None:
    truth = synthia.build(tmp_path, frames=2)
    assert truth.root == tmp_path / "RAND_CITYSCAPES"
    names = [f"{folder}/{number:07d}.png" for folder in ("Depth", "GT/COLOR", "GT/LABELS", "RGB") for number in (0, 1)]
    found = [path.relative_to(truth.root).as_posix() for path in truth.root.rglob("*.*")]
    assert sorted(found) == sorted(names)


def test_synthia_seq_has_eight_cameras_and_starts_with_the_front_left(tmp_path: Path) -> None:
    truth = synthia_seq.build(tmp_path, frames=2)
    assert truth.videos[0] == [f"RGB/Stereo_Left/Omni_F/00000{time}.png" for time in (0, 1)]
    assert {key.split("/")[1:3][0] + key.split("/")[2][-1] for key in truth.frames} == {
        f"Stereo_{side}{view}" for side in ("Left", "Right") for view in "FBLR"
    }
    for folder, suffix in (("Depth", "png"), ("GT/COLOR", "png"), ("GT/LABELS", "png"), ("CameraParams", "txt")):
        assert len(list((truth.root / folder).glob(f"Stereo_*/Omni_*/*.{suffix}"))) == 16


def test_gta5_labels_are_palette_indices(tmp_path: Path) -> None:
    truth = gta5.build(tmp_path)
    assert list(truth.frames) == [f"images/0000{number}.png" for number in (1, 2, 3)]
    for key, frame in _labelled(truth):
        label = tmp_path / key.replace("images", "labels")
        png = _read_png(label)
        assert (png.bits, png.colour_type) == (8, PALETTE)
        np.testing.assert_array_equal(png.samples, frame.classes)
        np.testing.assert_array_equal(_read_picture(label), frame.classes)
        assert frame.classes.min() >= 0


def test_gta5_palette_is_that_of_cityscapes(tmp_path: Path) -> None:
    gta5.build(tmp_path)
    palette = _read_png(tmp_path / "labels/00001.png").palette
    known = {7: (128, 64, 128), 8: (244, 35, 232), 11: (70, 70, 70), 17: (153, 153, 153), 21: (107, 142, 35)}
    known |= {22: (152, 251, 152), 23: (70, 130, 180), 24: (220, 20, 60), 26: (0, 0, 142), 33: (119, 11, 32)}
    assert {index: tuple(palette[index].tolist()) for index in known} == known
    assert tuple(palette[gta5.PLATE]) == tuple(palette[26])


def test_gta5_mismatch_has_a_smaller_label_and_leaves_the_others_alone(tmp_path: Path) -> None:
    plain, truth = gta5.build(tmp_path / "plain"), gta5.build(tmp_path / "mismatch", mismatch=True)
    assert list(truth.frames) == [*plain.frames, "images/20801.png"]
    frame = truth.frames["images/20801.png"]
    assert frame.image.shape == (48, 96, 3)
    assert frame.classes.shape == (24, 48)
    np.testing.assert_array_equal(_read_png(truth.root / "labels/20801.png").samples, frame.classes)


@pytest.mark.parametrize("split", ["train", "val"])
def test_viper_cls_is_indexed_and_inst_holds_class_and_number(split: str, tmp_path: Path) -> None:
    truth = viper.build(tmp_path, split=split)
    assert [len(video) for video in truth.videos] == [4, 3]
    for video in truth.videos:
        found = []
        for key in video:
            assert key.startswith(f"{split}/img/")
            stem = key.removeprefix(f"{split}/img/").removesuffix(".jpg")
            cls, inst = (_read_png(tmp_path / split / folder / f"{stem}.png") for folder in ("cls", "inst"))
            assert (cls.bits, cls.colour_type, inst.bits, inst.colour_type) == (8, PALETTE, 8, RGB)
            np.testing.assert_array_equal(cls.samples, truth.frames[key].classes)
            np.testing.assert_array_equal(inst.samples[..., 0], cls.samples)
            number = inst.samples[..., 1] * 256 + inst.samples[..., 2]
            assert not number[~np.isin(cls.samples, list(viper.THINGS))].any()
            np.testing.assert_array_equal(number, truth.frames[key].objects & 0xFFFF)
            found.append(np.where(number > 0, cls.samples * 65536 + number, 0))
        _assert_same_objects(found, [truth.frames[key].objects for key in video])


def test_viper_names_follow_sequence_and_frame(tmp_path: Path) -> None:
    truth = viper.build(tmp_path, frames=3, image_format="png")
    assert truth.videos == [
        [f"train/img/001/001_{frame:05d}.png" for frame in (8, 9, 10)],
        [f"train/img/002/002_{frame:05d}.png" for frame in (8, 9)],
    ]


@pytest.mark.parametrize("size", [(48, 96), (64, 128), (96, 160), (32, 64)])
@pytest.mark.parametrize("seed", range(3))
def test_viper_hood_is_the_car_component_at_the_bottom_centre(size: tuple[int, int], seed: int, tmp_path: Path) -> None:
    truth = viper.build(tmp_path, seed=seed, size=size)
    other_cars = 0
    for _, frame in _labelled(truth):
        cars = (frame.classes == 24).astype(np.uint8)
        _, components = cv2.connectedComponents(cars, connectivity=8)
        centre = components[-1, size[1] // 2]
        assert centre > 0
        np.testing.assert_array_equal(components == centre, frame.objects == viper.HOOD)
        other_cars += int((components > 0).sum() - (components == centre).sum())
    assert other_cars > 0


@pytest.mark.parametrize("seed", range(3))
def test_viper_numbers_repeat_over_classes_and_pass_255(seed: int, tmp_path: Path) -> None:
    truth = viper.build(tmp_path, seed=seed)
    names = set(np.unique(np.concatenate([frame.objects.ravel() for frame in truth.frames.values()])).tolist()) - {0}
    numbers = [name & 0xFFFF for name in names]
    assert len(set(numbers)) < len(numbers)
    assert {256, 300, 65535} <= set(numbers)


REFERENCE_V12_INSTANCES = {
    *(0, 1, 8, 19, 20, 21, 22, 23, *range(32, 43), *range(44, 58), 59, 60, 61, 62),
}


def test_mapillary_class_lists_agree_with_the_reference() -> None:
    old, new = mapillary.EDITIONS["v1.2"], mapillary.EDITIONS["v2.0"]
    assert (len(old.classes), len(new.classes)) == (66, 124)
    assert old.things == REFERENCE_V12_INSTANCES
    names = {3: "fence", 13: "road", 30: "vegetation", 45: "support--pole", 50: "traffic-sign--front", 58: "on-rails"}
    assert all(old.classes[class_id][0].endswith(f"--{name}") for class_id, name in names.items())
    evaluated = [instances for _, instances, used in new.classes if used]
    assert (sum(evaluated), len(evaluated) - sum(evaluated), 124 - len(evaluated)) == (70, 46, 8)
    assert old.classes[old.unlabeled][0] == new.classes[new.unlabeled][0] == "void--unlabeled"


@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
def test_mapillary_labels_and_instances(version: str, tmp_path: Path) -> None:
    truth = mapillary.build(tmp_path, version=version)
    things = list(mapillary.EDITIONS[version].things)
    for key, frame in _labelled(truth):
        name = Path(key).with_suffix(".png").name
        labels, instances = (
            _read_png(tmp_path / f"training/{version}/{folder}/{name}") for folder in ("labels", "instances")
        )
        assert (labels.bits, labels.colour_type) == (8, PALETTE)
        assert (instances.bits, instances.colour_type) == (16, GREY)
        np.testing.assert_array_equal(labels.samples, frame.classes)
        np.testing.assert_array_equal(instances.samples // 256, labels.samples)
        is_thing = np.isin(frame.classes, things)
        assert not (instances.samples % 256)[~is_thing].any()
        single = is_thing & ~frame.crowd
        _assert_same_objects([np.where(single, instances.samples + 1, 0)], [np.where(single, frame.objects, 0)])


@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
def test_mapillary_panoptic_json_names_every_segment(version: str, tmp_path: Path) -> None:
    truth = mapillary.build(tmp_path, version=version, split="validation")
    folder = tmp_path / f"validation/{version}/panoptic"
    content = json.loads((folder / {"v1.2": "panoptic_2018.json", "v2.0": "panoptic_2020.json"}[version]).read_text())
    unlabeled = mapillary.EDITIONS[version].unlabeled
    assert [one["id"] for one in content["categories"]] == list(range(1, unlabeled + 1))
    assert {one["id"] for one in content["categories"] if one["isthing"]} == {
        thing + 1 for thing in mapillary.EDITIONS[version].things
    }
    _assert_panoptic(truth, content, "validation/images", folder, shift=1, void=unlabeled)


@pytest.mark.parametrize(("version", "classes"), [("v1.2", {19}), ("v2.0", {31, 115})])
def test_mapillary_crowds_are_groups(version: str, classes: set[int], tmp_path: Path) -> None:
    frames = mapillary.build(tmp_path, version=version, frames=4).frames.values()
    assert set(np.concatenate([frame.classes[frame.crowd] for frame in frames])) == classes


@pytest.mark.parametrize(("version", "on_rails"), [("v1.2", 58), ("v2.0", 111)])
def test_mapillary_trains_have_an_object_even_as_stuff(version: str, on_rails: int, tmp_path: Path) -> None:
    frames = mapillary.build(tmp_path, version=version).frames.values()
    trains = [frame.objects[frame.classes == on_rails] for frame in frames]
    assert any(len(train) for train in trains)
    assert all((train > 0).all() and len(np.unique(train)) == 1 for train in trains if len(train))
    assert (on_rails in mapillary.EDITIONS[version].things) == (version == "v2.0")


def test_mapillary_pictures_have_several_sizes_and_keys_of_22_characters(tmp_path: Path) -> None:
    truth = mapillary.build(tmp_path, size=(40, 80))
    sizes = [frame.image.shape[:2] for frame in truth.frames.values()]
    assert sizes[0] == (40, 80)
    assert len(set(sizes)) == 3
    assert len({width / height for height, width in sizes}) == 3
    stems = [Path(key).stem for key in truth.frames]
    assert {len(stem) for stem in stems} == {22}
    assert [stem[0] for stem in stems] == ["-", "_", "a"]


def test_mapillary_first_release_has_no_version_folder(tmp_path: Path) -> None:
    mapillary.build(tmp_path / "new")
    mapillary.build(tmp_path / "old", version_folder=False)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"training", "config_v1.2.json"}
    assert {path.name for path in (tmp_path / "old").iterdir()} == {"training", "config.json"}
    assert {path.name for path in (tmp_path / "new/training").iterdir()} == {"images", "v1.2"}
    assert {path.name for path in (tmp_path / "old/training").iterdir()} == {
        "images",
        "labels",
        "instances",
        "panoptic",
    }


def test_mapillary_config_lists_classes_by_id(tmp_path: Path) -> None:
    mapillary.build(tmp_path, version="v2.0")
    labels = json.loads((tmp_path / "config_v2.0.json").read_text())["labels"]
    assert len(labels) == 124
    assert (labels[108]["name"], labels[108]["instances"]) == ("object--vehicle--car", True)
    assert (labels[31]["name"], labels[31]["evaluate"]) == ("human--person--person-group", False)


def test_bitmask_pixel_is_that_of_the_official_test() -> None:
    assert bdd100k.bitmask_pixel(15, 300, truncated=True) == (15, 8, 1, 44)


@pytest.mark.parametrize(
    ("flags", "green"), [({}, 0), ({"ignored": True}, 1), ({"crowd": True}, 2), ({"occluded": True}, 4)]
)
def test_bitmask_pixel_puts_each_attribute_in_its_bit(flags: dict[str, bool], green: int) -> None:
    assert bdd100k.bitmask_pixel(3, 65535, **flags) == (3, green, 255, 255)


def test_bdd100k_masks_hold_train_ids(tmp_path: Path) -> None:
    truth = bdd100k.build(tmp_path, kind="semantic")
    for key, frame in _labelled(truth):
        label = key.replace("images/10k", "labels/sem_seg/masks").replace(".jpg", ".png")
        png = _read_png(tmp_path / label)
        assert (png.bits, png.colour_type) == (8, GREY)
        np.testing.assert_array_equal(png.samples, np.where(frame.classes == -1, 255, frame.classes))
        assert frame.classes.max() == 18
        assert (png.samples == 255).any()


@pytest.mark.parametrize(
    ("kind", "images", "labels"),
    [
        ("panoptic", "images/10k", "labels/pan_seg/bitmasks"),
        ("seg_track", "images/seg_track_20", "labels/seg_track_20/bitmasks"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_bdd100k_bitmasks(kind: str, images: str, labels: str, split: str, tmp_path: Path) -> None:
    truth = bdd100k.build(tmp_path, kind=kind, split=split)
    for video in truth.videos:
        found = []
        for key in video:
            assert key.startswith(f"{images}/{split}/")
            png = _read_png(tmp_path / key.replace(images, labels).replace(".jpg", ".png"))
            assert (png.bits, png.colour_type) == (8, RGBA)
            category, attributes, high, low = np.moveaxis(png.samples, -1, 0)
            frame = truth.frames[key]
            np.testing.assert_array_equal(_bdd_classes(kind, category), frame.classes)
            valid = (category > 0) & (attributes & 3 == 0)
            np.testing.assert_array_equal((category > 0) & ~valid, frame.crowd)
            found.append(np.where(valid, category * 65536 + high * 256 + low, 0))
        _assert_same_objects(found, [truth.frames[key].objects for key in video])


def _bdd_classes(kind: str, category: np.ndarray) -> np.ndarray:
    """Label ids by the names of the two category lists of the format."""
    if kind == "panoptic":
        return category
    table = np.full(256, -1)
    table[1:9] = 31, 32, 35, 40, 34, 39, 37, 33
    return table[category]


@pytest.mark.parametrize("kind", ["panoptic", "seg_track"])
@pytest.mark.parametrize("seed", range(3))
def test_bdd100k_has_every_attribute_and_alpha_as_data(kind: str, seed: int, tmp_path: Path) -> None:
    bdd100k.build(tmp_path, kind=kind, seed=seed)
    pixels = np.concatenate([_read_picture(path).reshape(-1, 4) for path in tmp_path.rglob("*.png")])
    assert {0, 1, 2, 8, 12} == set(pixels[:, 1].tolist())
    assert ((pixels[:, 3] == 0) & (pixels[:, 2] > 0)).any()
    assert not pixels[pixels[:, 0] == 0].any()


def test_bdd100k_stuff_is_numbered_by_its_label(tmp_path: Path) -> None:
    bdd100k.build(tmp_path)
    for path in tmp_path.rglob("*.png"):
        category, attributes, high, low = np.moveaxis(_read_png(path).samples, -1, 0)
        stuff = (category > 0) & (category <= 30)
        np.testing.assert_array_equal((high * 256 + low)[stuff], category[stuff])
        assert not attributes[stuff].any()
        assert ((high * 256 + low)[category > 30] > 30).all()


def test_bdd100k_videos_have_folders_and_count_from_one(tmp_path: Path) -> None:
    truth = bdd100k.build(tmp_path, kind="seg_track", frames=2)
    for video in truth.videos:
        folder = Path(video[0]).parent.name
        assert video == [f"images/seg_track_20/train/{folder}/{folder}-000000{number}.jpg" for number in (1, 2)]


def _assert_panoptic(truth: Truth, content: dict, images: str, pngs: Path, *, shift: int, void: int) -> None:
    """Every segment of every PNG is in the JSON and says what the truth says."""
    by_image = {one["image_id"]: one for one in content["annotations"]}
    categories = {one["id"] for one in content["categories"]}
    assert len(by_image) == len(content["images"]) == len(truth.frames)
    for image in content["images"]:
        frame, annotation = truth.frames[f"{images}/{image['file_name']}"], by_image[image["id"]]
        assert (image["height"], image["width"]) == frame.classes.shape
        assert annotation["file_name"] == image["file_name"].replace(".jpg", ".png")
        png = _read_png(pngs / annotation["file_name"])
        assert (png.bits, png.colour_type) == (8, RGB)
        ids = png.samples @ (1, 256, 65536)
        segments = {one["id"]: one for one in annotation["segments_info"]}
        assert segments.keys() == set(np.unique(ids).tolist()) - {0}
        np.testing.assert_array_equal(ids == 0, frame.classes == void)
        for number, segment in segments.items():
            mask = ids == number
            assert segment["category_id"] in categories
            assert set(frame.classes[mask]) == {segment["category_id"] - shift}
            assert set(frame.crowd[mask]) == {bool(segment["iscrowd"])}
            assert segment["area"] == mask.sum()
            assert segment["bbox"] == [int(value) for value in cv2.boundingRect(mask.astype(np.uint8))]
        single = np.isin(ids, [number for number, segment in segments.items() if not segment["iscrowd"]])
        _assert_same_objects([np.where(single, ids, 0)], [frame.objects])


@pytest.mark.parametrize("video", [False, True])
def test_coco_json_names_every_segment(video: bool, tmp_path: Path) -> None:
    truth = coco_panoptic.build(tmp_path, video=video)
    content = json.loads((tmp_path / "annotations/panoptic_val2017.json").read_text())
    _assert_panoptic(truth, content, "val2017", tmp_path / "annotations/panoptic_val2017", shift=0, void=-1)
    ids = [one["id"] for one in content["categories"]]
    assert ids == sorted(set(ids))
    assert max(ids) > len(ids)
    assert {one["id"] for one in content["categories"] if one["isthing"]} == coco_panoptic.THINGS
    assert [one["image_id"] for one in content["annotations"]] == [one["id"] for one in content["images"]][::-1]
    assert sum(segment["iscrowd"] for one in content["annotations"] for segment in one["segments_info"]) > 2


def test_coco_videos_keep_segment_ids(tmp_path: Path) -> None:
    truth = coco_panoptic.build(tmp_path, video=True)
    content = json.loads((tmp_path / "annotations/panoptic_val2017.json").read_text())
    assert [one["video_id"] for one in content["images"]] == [1, 1, 1, 2, 2, 2]
    assert [f"val2017/{one['file_name']}" for one in content["images"]] == list(truth.frames)
    for video in truth.videos:
        paths = [
            (tmp_path / key.replace("val2017", "annotations/panoptic_val2017")).with_suffix(".png") for key in video
        ]
        ids = [_read_png(path).samples @ (1, 256, 65536) for path in paths]
        crowds = [truth.frames[key].crowd for key in video]
        _assert_same_objects(
            [np.where(crowd, 0, one) for one, crowd in zip(ids, crowds, strict=True)],
            [truth.frames[key].objects for key in video],
        )


def test_coco_still_pictures_have_no_video_id(tmp_path: Path) -> None:
    coco_panoptic.build(tmp_path)
    content = json.loads((tmp_path / "annotations/panoptic_val2017.json").read_text())
    assert not any("video_id" in one for one in content["images"])
    assert len({one["height"] for one in content["images"]}) == 3


def test_coco_can_take_the_layout_of_the_published_sample(tmp_path: Path) -> None:
    truth = coco_panoptic.build(tmp_path, frames=1, image_folder="input_images", annotation="panoptic_examples")
    assert list(truth.frames) == ["input_images/000000142238.jpg"]
    assert {path.name for path in tmp_path.iterdir()} == {"input_images", "panoptic_examples", "panoptic_examples.json"}
    assert (tmp_path / "panoptic_examples/000000142238.png").is_file()


@pytest.mark.skipif(not (REAL / "coco_panoptic").is_dir(), reason="the real samples in ../shared/data are absent")
def test_coco_fields_are_those_of_the_real_sample(tmp_path: Path) -> None:
    coco_panoptic.build(tmp_path, image_folder="input_images", annotation="panoptic_examples")
    ours, real = (
        json.loads((root / "panoptic_examples.json").read_text()) for root in (tmp_path, REAL / "coco_panoptic")
    )
    assert ours.keys() == real.keys()
    assert ours["images"][0].keys() <= real["images"][0].keys()
    assert ours["annotations"][0].keys() == real["annotations"][0].keys()
    assert ours["annotations"][0]["segments_info"][0].keys() == real["annotations"][0]["segments_info"][0].keys()
    assert ours["categories"][0].keys() == real["categories"][0].keys()
    names = {one["id"]: (one["name"], one["supercategory"], one["isthing"]) for one in real["categories"]}
    assert all(names[one["id"]] == (one["name"], one["supercategory"], one["isthing"]) for one in ours["categories"])


def test_carla_instances_hold_tag_and_number(tmp_path: Path) -> None:
    truth = carla.build(tmp_path)
    for key, frame in _labelled(truth):
        tags, instances = (_read_png(tmp_path / key.replace("_img", name)) for name in ("_labelIds", "_instance"))
        assert (tags.bits, tags.colour_type, instances.bits, instances.colour_type) == (8, GREY, 8, RGB)
        np.testing.assert_array_equal(tags.samples, frame.classes)
        np.testing.assert_array_equal(instances.samples[..., 0], tags.samples)
        number = instances.samples[..., 1] * 256 + instances.samples[..., 2]
        np.testing.assert_array_equal(number == 0, tags.samples == 0)
        np.testing.assert_array_equal(number, frame.objects & 0xFFFF)
        _assert_same_objects([np.where(number > 0, tags.samples * 65536 + number, 0)], [frame.objects])


@pytest.mark.parametrize("seed", range(3))
def test_carla_numbers_alone_do_not_name_objects(seed: int, tmp_path: Path) -> None:
    frame = next(iter(carla.build(tmp_path, seed=seed).frames.values()))
    names = set(np.unique(frame.objects).tolist()) - {0}
    assert len({name & 0xFFFF for name in names}) < len(names)
    assert {256, 65535} & {name & 0xFFFF for name in names}


def test_carla_disagreeing_pixels_have_no_object(tmp_path: Path) -> None:
    plain, truth = carla.build(tmp_path / "plain"), carla.build(tmp_path / "other", disagreeing=True)
    for key, frame in _labelled(truth):
        tags, instances = (_read_png(truth.root / key.replace("_img", name)) for name in ("_labelIds", "_instance"))
        disputed = instances.samples[..., 0] != tags.samples
        assert 0.001 < disputed.mean() < 0.03
        assert set(tags.samples[disputed]) == {carla.BUILDING}
        assert set(instances.samples[..., 0][disputed]) == {carla.VEGETATION}
        np.testing.assert_array_equal(frame.classes, plain.frames[key].classes)
        np.testing.assert_array_equal(frame.objects, np.where(disputed, 0, plain.frames[key].objects))


@pytest.mark.skipif(not (REAL / "carla").is_dir(), reason="the real samples in ../shared/data are absent")
def test_carla_files_are_those_of_the_real_sample(tmp_path: Path) -> None:
    carla.build(tmp_path, frames=2)
    real = sorted((REAL / "carla/town10").iterdir())
    ours = sorted(tmp_path.iterdir())
    assert [path.name for path in ours] == [path.name for path in real]
    for path, sample in zip(ours, real, strict=True):
        with Image.open(path) as picture, Image.open(sample) as model:
            assert picture.mode == model.mode
