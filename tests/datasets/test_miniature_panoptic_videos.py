"""The miniature data sets for night, weather and video panoptic segmentation, read back with Pillow and json."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.miniature import acdc, cityscapes_vps, dark_zurich, kitti_step, vipseg
from tests.datasets.miniature.cityscapes_labels import LABELS, TRAIN_LABELS
from tests.datasets.miniature.parsing import check_segments, label_files, labelled, pixels, segment_ids


def convert_as_published(colours: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """panoptic_inst from cls and inst by the rule of the published script: void 255, groups of things left out."""
    table = {label.colour: label for label in TRAIN_LABELS}
    panoptic = np.full(instances.shape, 255)
    for colour, label in table.items():
        if not label.is_thing:
            panoptic[(colours == colour).all(-1)] = label.train_id
    for value in np.unique(instances[instances >= 1000]):
        mask = instances == value
        found, counts = np.unique(colours[mask], axis=0, return_counts=True)
        label_found = table.get(tuple(found[counts.argmax()].tolist()))
        if label_found is not None and label_found.is_thing:
            panoptic[mask] = label_found.train_id * 1000 + value % 1000
    return panoptic


def vps_label(path: str) -> str:
    return path.rsplit("/", 1)[1].replace("newImg8bit", "final_mask").replace("leftImg8bit", "gtFine_color")


@pytest.mark.parametrize("split", ["train", "val"])
def test_vps_names_and_maps_follow_the_published_scripts(tmp_path: Path, split: str) -> None:
    truth = cityscapes_vps.build(tmp_path, split=split)
    folder = tmp_path / split
    numbers: list[int] = []
    for path, frame in labelled(truth):
        video, count, _, _, number, kind = path.rsplit("/", 1)[1].split("_")
        position = int(count) - (int(video) - 1) * 6
        assert 1 <= position <= 6
        assert (kind == "leftImg8bit.png") == (position == 4)
        numbers.append(int(number))
        name = vps_label(path)
        colours = pixels(folder / "cls" / name, "RGBA" if position == 4 else "RGB")[..., :3]
        instances = pixels(folder / "inst" / name.replace("gtFine_color", "gtFine_instanceIds"), "I;16")
        panoptic = pixels(folder / "panoptic_inst" / name, "I;16")
        assert np.array_equal(panoptic, convert_as_published(colours, instances))
        assert np.array_equal(np.where(panoptic >= 1000, panoptic, 0), frame.objects)
        assert np.array_equal(np.where(panoptic >= 1000, panoptic // 1000, panoptic), frame.classes % 256)
        labelmap = pixels(folder / "labelmap" / name, "L")
        assert np.array_equal(labelmap[frame.classes >= 0], frame.classes[frame.classes >= 0])
        assert set(labelmap[frame.classes < 0]) == {255, 11, 13}
        assert 13000 in panoptic
    first = {"train": (294, 576), "val": (1751, 49698)}[split]
    assert numbers == [middle + offset for middle in first for offset in range(-15, 11, 5)]


@pytest.mark.parametrize("crowds", [False, True])
def test_vps_json_tells_the_truth(tmp_path: Path, crowds: bool) -> None:
    truth = cityscapes_vps.build(tmp_path, crowds=crowds)
    content = json.loads((tmp_path / "panoptic_gt_val_city_vps.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [path.split("/")[-1] for path in truth.frames]
    owners: dict[int, set[tuple[str, int]]] = {}
    crowd = 0
    for annotation, (path, frame) in zip(content["annotations"], labelled(truth), strict=True):
        assert annotation["file_name"] == vps_label(path)
        ids = segment_ids(tmp_path / "val/panoptic_video" / annotation["file_name"])
        check_segments(ids, annotation, frame)
        assert np.array_equal(ids == 0, frame.classes < 0)
        crowd += sum(segment["iscrowd"] for segment in annotation["segments_info"])
        for key, number in set(zip(ids.flat, frame.objects.flat, strict=True)):
            if number:
                owners.setdefault(int(key), set()).add((annotation["image_id"][:4], int(number)))
    assert all(len(names) == 1 for names in owners.values())
    assert len(owners) == len(set.union(*owners.values())) == 10
    assert (crowd > 0) == crowds == any(frame.crowd.any() for _, frame in labelled(truth))


def test_vps_category_table_keeps_its_slips(tmp_path: Path) -> None:
    cityscapes_vps.build(tmp_path)
    categories = json.loads((tmp_path / "panoptic_gt_val_city_vps.json").read_text())["categories"]
    assert [category["id"] for category in categories] == list(range(19))
    assert (categories[7]["name"], categories[7]["ori_id"]) == ("traffic sign", 21)
    assert (categories[8]["name"], categories[8]["ori_id"]) == ("vegitation", 21)
    assert [category["isthing"] for category in categories] == [0] * 11 + [1] * 8


def test_vps_img_all_holds_the_frames_between(tmp_path: Path) -> None:
    dense = cityscapes_vps.build(tmp_path, pictures="img_all")
    sparse = cityscapes_vps.build(tmp_path)
    assert [len(video) for video in dense.videos] == [30, 30]
    for all_paths, paths in zip(dense.videos, sparse.videos, strict=True):
        shown = [path for path in all_paths if dense.frames[path].classes is not None]
        assert shown == all_paths[4::5]
        for one, other in zip(shown, paths, strict=True):
            assert re.sub(r"_[a-zA-Z0-9]+\.png", "", other).endswith(
                one.split("/")[-1].removesuffix("_leftImg8bit.png")
            )
            assert np.array_equal(dense.frames[one].image, sparse.frames[other].image)
            assert np.array_equal(dense.frames[one].objects, sparse.frames[other].objects)
    assert dense.times is not None
    assert sparse.times is not None
    assert sparse.times[1] == pytest.approx([time - 4 / 17 for time in dense.times[1][4::5]])


def test_vps_train_has_no_frames_between(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no img_all of train"):
        cityscapes_vps.build(tmp_path, split="train", pictures="img_all")


def test_vps_test_split_has_pictures_only(tmp_path: Path) -> None:
    truth = cityscapes_vps.build(tmp_path, split="test")
    assert not list(labelled(truth))
    assert sorted(path.name for path in (tmp_path / "test").iterdir()) == ["img", "img_all"]
    assert not (tmp_path / "panoptic_gt_test_city_vps.json").exists()


def test_acdc_labels_and_references(tmp_path: Path) -> None:
    adverse = acdc.build(tmp_path)
    reference = acdc.build(tmp_path, split="train_ref")
    assert len(adverse.frames) == len(reference.frames) == 8
    assert len(list(labelled(adverse))) == 8
    shown = dict(labelled(reference))
    assert list(shown) == list(reference.frames)[::2]
    for path, frame in (*labelled(adverse), *shown.items()):
        stem = (
            path.replace("rgb_anon/", "gt/", 1).replace("_rgb_ref_anon.png", "_gt_ref").replace("_rgb_anon.png", "_gt")
        )
        train = pixels(tmp_path / f"{stem}_labelTrainIds.png", "L")
        assert np.array_equal(np.where(train == 255, -1, train), frame.classes)
        full = pixels(tmp_path / f"{stem}_labelIds.png", "L")
        assert set(full[frame.classes < 0]) == {0}
        assert set(full[frame.classes == 0]) == {7}
        invalid = tmp_path / f"{stem}_invIds.png"
        assert invalid.exists() == (path in adverse.frames)
        assert frame.objects is None
        assert frame.crowd is None
    rare = [path for path, frame in (*labelled(adverse), *shown.items()) if (frame.classes == 16).any()]
    assert rare == ["rgb_anon/rain/train/GP010400/GP010400_frame_000041_rgb_anon.png"]
    assert not (tmp_path / "gt_panoptic").exists()


def test_acdc_test_split_has_pictures_only(tmp_path: Path) -> None:
    truth = acdc.build(tmp_path, split="test", panoptic=True)
    assert not list(labelled(truth))
    assert not (tmp_path / "gt").exists()
    listed = json.loads((tmp_path / "gt_panoptic/test_image_info.json").read_text())
    assert [f"rgb_anon/{image['file_name']}" for image in listed["images"]] == list(truth.frames)
    assert "annotations" not in listed


@pytest.mark.parametrize(("split", "name"), [("val", "val_gt_panoptic"), ("val_ref", "val_gt_ref_panoptic")])
def test_acdc_panoptic_files_tell_the_truth(tmp_path: Path, split: str, name: str) -> None:
    truth = acdc.build(tmp_path, split=split, panoptic=True)
    content = json.loads((tmp_path / f"gt_panoptic/{name}.json").read_text())
    images = {image["id"]: f"rgb_anon/{image['file_name']}" for image in content["images"]}
    assert list(images.values()) == list(truth.frames)
    assert len(content["annotations"]) == len(list(labelled(truth)))
    for annotation in content["annotations"]:
        frame = truth.frames[images[annotation["image_id"]]]
        ids = segment_ids(tmp_path / "gt_panoptic" / annotation["file_name"])
        for segment in annotation["segments_info"]:
            segment["category_id"] = LABELS[segment["category_id"]].train_id
        check_segments(ids, annotation, frame)
        assert np.array_equal(ids == 0, frame.classes < 0)
    if split == "val":
        fog = json.loads((tmp_path / "gt_panoptic/fog/fog_val_gt_panoptic.json").read_text())
        assert fog["images"] == content["images"][:2]


def test_dark_zurich_labels_val_only(tmp_path: Path) -> None:
    train = dark_zurich.build(tmp_path)
    val = dark_zurich.build(tmp_path, split="val")
    assert not list(labelled(train))
    assert [path.split("/")[2] for path in train.frames] == ["night"] * 3 + ["twilight"] * 2 + ["day"] * 2
    assert len(list(labelled(val))) == len(val.frames) == 2
    for path, frame in labelled(val):
        name = path.replace("rgb_anon/", "gt/", 1).replace("_rgb_anon.png", "_gt_labelTrainIds.png")
        stored = pixels(tmp_path / name, "L")
        assert np.array_equal(np.where(stored == 255, -1, stored), frame.classes)
        assert frame.objects is None
    assert len(label_files(val, "_labelTrainIds.png")) == 2
    assert len(list((tmp_path / "rgb_anon/val_ref/day/GOPR0356_ref").glob("*_ref_rgb_anon.png"))) == 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_kitti_step_holds_class_and_track_in_one_picture(tmp_path: Path, split: str) -> None:
    truth = kitti_step.build(tmp_path, split=split)
    tracks = set()
    for path, frame in labelled(truth):
        red, green, blue = np.moveaxis(pixels(tmp_path / path.replace("images", "panoptic_maps", 1), "RGB"), -1, 0)
        track = 256 * green + blue
        assert np.array_equal(np.where(red == 255, -1, red), frame.classes)
        assert np.array_equal(np.where(track > 0, 65536 * red + track, 0), frame.objects)
        assert np.array_equal(np.isin(red, (11, 13)) & (track == 0), frame.crowd)
        assert not track[red == 255].any()
        tracks |= set(zip(red[track > 0].tolist(), track[track > 0].tolist(), strict=True))
    assert {(11, 1), (13, 1), (13, 256), (11, 300), (13, 1000)} == tracks
    assert [path for path, frame in labelled(truth) if (frame.classes == 12).any()] == [truth.videos[0][0]]
    assert any((frame.classes == 18).any() for _, frame in labelled(truth))
    assert len({frame.image.shape for _, frame in labelled(truth)}) == 2


@pytest.mark.parametrize("folder", ["imgs", "images"])
def test_vipseg_masks_count_classes_from_one(tmp_path: Path, folder: str) -> None:
    truth = vipseg.build(tmp_path, converted=folder == "images")
    for path, frame in labelled(truth):
        assert path.startswith(f"{folder}/")
        mask = pixels(tmp_path / path.replace(folder, "panomasks", 1).replace(".jpg", ".png"), "I;16")
        thing = mask >= 125
        assert np.array_equal(np.where(thing, mask // 100, mask) - 1, frame.classes)
        assert np.array_equal(np.where(thing, mask, 0), frame.objects)
        assert set(frame.classes[thing]) <= {48, 51, 60, 123}
        assert not frame.crowd.any()
    assert {6100, 4900, 12499} <= {int(n) for _, frame in labelled(truth) for n in np.unique(frame.objects)}
    rare = [path for path, frame in labelled(truth) if (frame.classes == vipseg.CROSSWALK).any()]
    assert rare == [truth.videos[1][0]]


def test_vipseg_lists_choose_the_split(tmp_path: Path) -> None:
    truth = vipseg.build(tmp_path)
    assert (tmp_path / "val.txt").read_text() == "12_1mWNahzcsAc\n2295_erx87N1WwWw\n"
    assert {path.split("/")[1] for path in truth.frames} == {"12_1mWNahzcsAc", "2295_erx87N1WwWw"}
    assert len(list((tmp_path / "imgs").iterdir())) == 4
    assert len(list((tmp_path / "panomasks").iterdir())) == 3
    assert not list(labelled(vipseg.build(tmp_path, split="test")))


def test_vipseg_json_tells_the_truth(tmp_path: Path) -> None:
    truth = vipseg.build(tmp_path, converted=True)
    content = json.loads((tmp_path / "panoptic_gt_VIPSeg_val.json").read_text())
    for entry, annotations, paths in zip(content["videos"], content["annotations"], truth.videos, strict=True):
        assert entry["video_id"] == annotations["video_id"]
        names = [f"images/{entry['video_id']}/{image['file_name']}" for image in entry["images"]]
        assert names == [path.replace(".jpg", ".png") for path in paths]
        frames = dict(labelled(truth))
        numbers: dict[int, int] = {}
        for path, annotation in zip(paths, annotations["annotations"], strict=True):
            ids = segment_ids(tmp_path / "panomasksRGB" / entry["video_id"] / annotation["file_name"])
            check_segments(ids, annotation, frames[path])
            for key, number in set(zip(ids.flat, frames[path].objects.flat, strict=True)):
                assert numbers.setdefault(int(key), int(number)) == number
