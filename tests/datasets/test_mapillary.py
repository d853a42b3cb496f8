import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature.mapillary import build
from tests.datasets.miniature.truth import TrueFrame, Truth
from tests.datasets.reading import check_damaged_files, check_label_of_another_size, check_reading
from vidapt.clip import IGNORE
from vidapt.datasets.integrity import quick_problems, refuse_or_skip
from vidapt.datasets.mapillary import Mapillary, class_table, split_codes
from vidapt.datasets.panoptic_json import Category
from vidapt.errors import InputError, SingleImagesError
from vidapt.io.coco import encode_ids
from vidapt.labels import CITYSCAPES, find_space
from vidapt.mapping import find_mapping

VERSIONS = ["v1.2", "v2.0"]
JSON = {"v1.2": "panoptic_2018.json", "v2.0": "panoptic_2020.json"}
BIRD, ROAD, CAR = 0, 13, 55


def edit_json(root: Path, edit: Callable[[dict[str, Any]], None], version: str = "v1.2") -> None:
    path = root / f"training/{version}/panoptic/{JSON[version]}"
    document = json.loads(path.read_text("utf-8"))
    edit(document)
    path.write_text(json.dumps(document), "utf-8")


def read_first(dataset: Mapillary):
    return dataset.read_frame(next(dataset.frames())).labels


def changed(truth: Truth, change: Callable[[TrueFrame], TrueFrame]) -> Truth:
    return replace(truth, frames={path: change(frame) for path, frame in truth.frames.items()})


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("split", ["training", "validation"])
@pytest.mark.parametrize("version", VERSIONS)
def test_frames_are_read_as_written(tmp_path: Path, version: str, split: str, seed: int) -> None:
    truth = build(tmp_path, version=version, split=split, seed=seed)
    dataset = Mapillary(tmp_path, split, version=version)
    assert dataset.has_instances
    assert dataset.label_space == find_space(f"mapillary_{version}")
    assert next(dataset.frames()).labels[0].startswith(f"{split}/{version}/panoptic/")
    assert dataset.index_problems == ()
    assert quick_problems(dataset) == []
    assert all(frame.key for frame in dataset.frames())
    check_reading(dataset, truth)


def test_the_folder_of_the_first_version_may_be_left_out(tmp_path: Path) -> None:
    truth = build(tmp_path, version_folder=False)
    check_reading(Mapillary(tmp_path), truth)
    with pytest.raises(InputError, match="has pictures but no labels"):
        Mapillary(tmp_path, version="v2.0")


def test_both_versions_lie_side_by_side(tmp_path: Path) -> None:
    old, new = (build(tmp_path / version, version=version).root for version in VERSIONS)
    shutil.copytree(old / "training/v1.2", new / "training/v1.2")
    for version, root in zip(VERSIONS, (old, new), strict=True):
        beside, alone = Mapillary(new, version=version), Mapillary(root, version=version)
        for frame in alone.frames():
            expected, found = alone.read_frame(frame).labels, beside.read_frame(frame).labels
            assert np.array_equal(found.semantic, expected.semantic)
            assert np.array_equal(found.instance, expected.instance)


@pytest.mark.parametrize("version", VERSIONS)
def test_instances_pictures_serve_where_the_panoptic_release_is_missing(tmp_path: Path, version: str) -> None:
    truth = build(tmp_path, version=version)
    (tmp_path / f"training/{version}/panoptic/{JSON[version]}").unlink()
    dataset = Mapillary(tmp_path, version=version)
    space = find_space(f"mapillary_{version}")
    assert dataset.has_instances
    assert next(dataset.frames()).labels[0].startswith(f"training/{version}/instances/")
    for frame in dataset.frames():
        true = truth.frames[frame.image]
        labels = dataset.read_frame(frame).labels
        void = [index for index, label in enumerate(space.classes) if label.is_void]
        classes = np.where(np.isin(true.classes, [-1, *void]), IGNORE, true.classes)
        assert np.array_equal(labels.semantic, classes)
        assert np.array_equal(labels.instance > 0, classes != IGNORE)
        things = np.isin(classes, space.things)
        pairs = np.stack([true.objects, labels.instance])[:, things & ~true.crowd]
        assert len(np.unique(pairs, axis=1).T) == len(np.unique(pairs[0])) == len(np.unique(pairs[1])) > 3


def test_a_number_belongs_to_its_class_and_counts_from_zero() -> None:
    codes = np.array([[0, 1, 256, CAR * 256, CAR * 256 + 255, ROAD * 256, 65 * 256, 65535]], np.int32)
    semantic, instance = split_codes(codes)
    assert semantic[0].tolist() == [BIRD, BIRD, 1, CAR, CAR, ROAD, 65, 255]
    assert (instance[0] > 0).all()
    assert len(set(instance[0].tolist())) == 8


def test_on_rails_of_an_instances_picture_is_an_instance_of_train(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    shutil.rmtree(tmp_path / "training/v1.2/panoptic")
    dataset = Mapillary(tmp_path)
    space = find_space("mapillary_v1.2")
    on_rails = space.names.index("on rails")
    codes = np.full((48, 96), ROAD * 256, np.uint16)
    codes[:9], codes[9:20] = on_rails * 256, on_rails * 256 + 1
    Image.fromarray(codes).save(tmp_path / next(dataset.frames()).labels[0])
    labels = read_first(dataset)
    table = find_mapping(space, CITYSCAPES).table
    assert CITYSCAPES.names[table[labels.semantic[0, 0]]] == "train"
    assert len({0, labels.instance[0, 0], labels.instance[9, 0], labels.instance[30, 0]}) == 4


def test_frames_are_named_by_their_keys(tmp_path: Path) -> None:
    build(tmp_path)
    dataset = Mapillary(tmp_path)
    assert [frame.name for frame in dataset.frames()] == dataset.videos
    assert all(
        len(frame.name) == 22 and frame.image == f"training/images/{frame.name}.jpg" for frame in dataset.frames()
    )
    with pytest.raises(SingleImagesError, match="no clip of 2 frames"):
        Mapillary(tmp_path, clip_length=2)


def test_the_testing_split_has_no_labels(tmp_path: Path) -> None:
    truth = build(tmp_path, split="testing")
    check_reading(Mapillary(tmp_path, "testing", labelled=False), truth)
    with pytest.raises(InputError, match="has pictures but no labels; use it as an unlabelled target"):
        Mapillary(tmp_path, "testing")


def test_unlabelled_reading_opens_no_label_file(tmp_path: Path) -> None:
    truth = build(tmp_path)
    (tmp_path / "training/v1.2/panoptic/panoptic_2018.json").write_text("damaged")
    check_reading(Mapillary(tmp_path, labelled=False), truth)
    shutil.rmtree(tmp_path / "training/v1.2")
    check_reading(Mapillary(tmp_path, labelled=False), truth)


def test_a_part_of_the_pictures_is_enough(tmp_path: Path) -> None:
    truth = build(tmp_path, frames=4)
    left_out = truth.videos[1][0]
    (tmp_path / left_out).unlink()
    edit_json(tmp_path, lambda document: document["annotations"][1]["segments_info"][0].update(category_id=99))
    edit_json(tmp_path, lambda document: document["images"].append(document["images"][1] | {"id": "elsewhere"}))
    dataset = Mapillary(tmp_path)
    [problem] = dataset.index_problems
    assert (problem.frame, problem.file) == ("", left_out)
    assert problem.reason == "is missing, but training/v1.2/panoptic/panoptic_2018.json labels it"
    assert refuse_or_skip(Mapillary(tmp_path), "skip") == [problem]
    kept = replace(truth, videos=[video for video in truth.videos if video != [left_out]])
    check_reading(dataset, kept)


@pytest.mark.parametrize("panoptic", [True, False])
def test_several_missing_pictures_are_one_problem(tmp_path: Path, panoptic: bool) -> None:
    truth = build(tmp_path, frames=4)
    if not panoptic:
        shutil.rmtree(tmp_path / "training/v1.2/panoptic")
    for [image] in truth.videos[1:]:
        (tmp_path / image).unlink()
    [problem] = Mapillary(tmp_path).index_problems
    assert problem.file in {image for [image] in truth.videos[1:]}
    source = "panoptic/panoptic_2018.json" if panoptic else "instances"
    assert problem.reason == f"and 2 more are missing, but training/v1.2/{source} labels them"
    assert Mapillary(tmp_path, labelled=False).index_problems == ()


def test_pictures_that_the_json_does_not_annotate_are_left_out_and_reported(tmp_path: Path) -> None:
    truth = build(tmp_path, frames=4)
    first, second, *rest = [video[0] for video in truth.videos]
    edit_json(tmp_path, lambda document: document["annotations"].pop(0))
    edit_json(tmp_path, lambda document: document["annotations"][0]["segments_info"][0].update(category_id=99))
    dataset = Mapillary(tmp_path)
    check_reading(dataset, replace(truth, videos=[[path] for path in rest]))
    found = {problem.frame: problem for problem in quick_problems(dataset)}
    assert set(found) == {Path(first).stem, Path(second).stem}
    assert found[Path(first).stem].file == first
    assert found[Path(first).stem].reason == "is not annotated in training/v1.2/panoptic/panoptic_2018.json"
    assert found[Path(second).stem].file == "training/v1.2/panoptic/panoptic_2018.json"
    assert "category_id 99, which is not among its categories" in found[Path(second).stem].reason


def test_a_json_of_other_pictures_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    edit_json(tmp_path, lambda document: document["annotations"].clear())
    with pytest.raises(InputError, match=r"no frame .* can be used; the first problem: .*\.jpg is not annotated"):
        Mapillary(tmp_path)


def test_a_damaged_json_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    path = tmp_path / "training/v1.2/panoptic/panoptic_2018.json"
    path.write_text(path.read_text("utf-8")[:-100])
    with pytest.raises(InputError, match=r"panoptic_2018\.json cannot be read as JSON"):
        Mapillary(tmp_path)


def test_categories_of_another_version_are_refused(tmp_path: Path) -> None:
    build(tmp_path)
    edit_json(tmp_path, lambda document: document["categories"][3].update(id=124))
    with pytest.raises(InputError, match=r"panoptic_2018\.json has categories \[124\].*mapillary_v1\.2 .*1\.\.66"):
        Mapillary(tmp_path)


def test_category_ids_count_from_one_and_void_classes_from_nowhere() -> None:
    space = find_space("mapillary_v2.0")
    categories = [Category(identity, str(identity), False, None) for identity in (124, 1, 32, 22)]
    table = class_table(categories, space, Path("x.json"))
    assert table.dtype == np.uint8
    assert table.tolist() == [255, 0, 255, 21]
    for wrong in (0, 125, "1"):
        with pytest.raises(InputError, match=r"allowed: 1\.\.124"):
            class_table([Category(wrong, "x", False, None)], space, Path("x.json"))


def test_a_segment_that_the_json_does_not_list_is_named(tmp_path: Path) -> None:
    build(tmp_path)
    dataset = Mapillary(tmp_path)
    path = tmp_path / next(dataset.frames()).labels[0]
    with Image.open(path) as picture:
        ids = np.asarray(picture).copy()
    ids[:2, :2] = encode_ids(np.array([[123456]], np.int32))
    Image.fromarray(ids).save(path)
    with pytest.raises(
        InputError, match=rf"{path.name} shows the segment ids \[123456\], which its JSON does not list"
    ):
        read_first(dataset)


@pytest.mark.parametrize("panoptic", [True, False])
def test_damaged_files_and_other_sizes_are_named(tmp_path: Path, panoptic: bool) -> None:
    build(tmp_path)
    if not panoptic:
        shutil.rmtree(tmp_path / "training/v1.2/panoptic")
    dataset = Mapillary(tmp_path)
    check_damaged_files(dataset)
    check_label_of_another_size(dataset, "does not show the segment ids" if panoptic else None)


def test_wrong_instances_pictures_are_named(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    shutil.rmtree(tmp_path / "training/v1.2/panoptic")
    dataset = Mapillary(tmp_path)
    path = tmp_path / next(dataset.frames()).labels[0]
    Image.fromarray(np.full((48, 96), 66 * 256, np.uint16)).save(path)
    with pytest.raises(
        InputError, match=r"has label ids \[66\] that Mapillary Vistas does not define; allowed: 0\.\.65"
    ):
        read_first(dataset)
    Image.fromarray(np.zeros((48, 96, 3), np.uint8)).save(path)
    with pytest.raises(InputError, match="is a picture in colours"):
        read_first(dataset)


def test_what_a_frame_depends_on_includes_version_and_json(tmp_path: Path) -> None:
    for version in VERSIONS:
        build(tmp_path, version=version)
    old, new = (Mapillary(tmp_path, version=version) for version in VERSIONS)
    assert old.describe() != new.describe()
    edit_json(tmp_path, lambda document: document["annotations"][0]["segments_info"][0].update(iscrowd=1))
    assert Mapillary(tmp_path).describe() != Mapillary(tmp_path, version="v2.0").describe()
    (tmp_path / "training/v1.2/panoptic/panoptic_2018.json").unlink()
    assert Mapillary(tmp_path).describe() != old.describe()


def test_an_edited_json_is_read_anew(tmp_path: Path) -> None:
    build(tmp_path)
    before = read_first(Mapillary(tmp_path))
    area = int(before.instance[0, 10])
    edit_json(
        tmp_path,
        lambda document: next(
            segment for segment in document["annotations"][0]["segments_info"] if segment["id"] == area
        ).update(iscrowd=True),
    )
    after = read_first(Mapillary(tmp_path))
    assert area > 0
    assert not after.instance[before.instance == area].any()
    assert np.array_equal(after.instance[before.instance != area], before.instance[before.instance != area])


def test_wrong_options_and_roots_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no version 'v3'; allowed: v1\.2, v2\.0"):
        Mapillary(tmp_path, version="v3")
    with pytest.raises(InputError, match="has no split 'train'; allowed: training, validation, testing"):
        Mapillary(tmp_path, "train")
    with pytest.raises(InputError, match=r"holds no frames; expected files:\n<split>/images/<key>\.jpg"):
        Mapillary(tmp_path)


def test_the_card_holds_the_official_counts() -> None:
    assert dict(Mapillary.card.splits) == {"training": 18000, "validation": 2000, "testing": 5000}
    assert Mapillary.card.labels == "panoptic"
    assert not Mapillary.card.video
