import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature.coco_panoptic import build
from tests.datasets.miniature.truth import Truth
from tests.datasets.reading import check_damaged_files, check_label_of_another_size, check_reading
from vidapt.datasets.coco_panoptic import CocoPanoptic, category_space, frame_numbers
from vidapt.datasets.integrity import quick_problems
from vidapt.datasets.panoptic_json import Category, ImageEntry
from vidapt.datasets.stored import ReadOptions
from vidapt.errors import InputError, SingleImagesError

SAMPLE = Path(__file__).parents[2] / "../shared/data/coco_panoptic"
SPLIT = "val2017"
NAMES = {
    1: "person",
    8: "truck",
    19: "horse",
    37: "sports ball",
    125: "gravel",
    184: "tree-merged",
    187: "sky-other-merged",
    193: "grass-merged",
}
CROWD_PIXELS = {"000000142238": 24295, "000000439180": 7839 + 421}


def json_path(root: Path) -> Path:
    return root / f"annotations/panoptic_{SPLIT}.json"


def edit_json(root: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(json_path(root).read_text("utf-8"))
    edit(document)
    json_path(root).write_text(json.dumps(document), "utf-8")


def by_position(truth: Truth, path: Path) -> Truth:
    """The truth with category ids replaced by the positions of the categories in the JSON."""
    ids = [category["id"] for category in json.loads(path.read_text("utf-8"))["categories"]]
    table = np.full(max(ids) + 2, -1)
    table[ids] = np.arange(len(ids))
    frames = {path: replace(frame, classes=table[frame.classes]) for path, frame in truth.frames.items()}
    return replace(truth, frames=frames)


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_frames_are_read_as_written(tmp_path: Path, seed: int, video: bool) -> None:
    truth = build(tmp_path, seed=seed, video=video, frames=4)
    dataset = CocoPanoptic(tmp_path, SPLIT, clip_length=3 if video else 1)
    assert dataset.has_instances
    assert dataset.card.video == video
    assert len(dataset) == 4
    assert all(frame.key for frame in dataset.frames())
    assert quick_problems(dataset) == []
    check_reading(dataset, by_position(truth, json_path(tmp_path)))


def test_any_split_name_and_other_places(tmp_path: Path) -> None:
    truth = build(tmp_path, split="night", image_folder="pictures/all", annotation="labels/x")
    for folder in (None, "labels/x"):
        dataset = CocoPanoptic(
            tmp_path, "night", json_file="labels/x.json", images=Path("pictures/all"), panoptic=folder
        )
        check_reading(dataset, by_position(truth, tmp_path / "labels/x.json"))
        assert dict(dataset.card.splits) == {"night": None}
    assert "night" not in CocoPanoptic.card.splits


def test_classes_are_the_categories_in_their_order(tmp_path: Path) -> None:
    build(tmp_path)
    categories = json.loads(json_path(tmp_path).read_text("utf-8"))["categories"]
    space = CocoPanoptic(tmp_path, SPLIT).label_space
    assert space.name == "coco_panoptic"
    assert [(c.name, c.is_thing, list(c.colour)) for c in space.classes] == [
        (c["name"], bool(c["isthing"]), c["color"]) for c in categories
    ]
    edit_json(tmp_path, lambda document: document["categories"].reverse())
    dataset = CocoPanoptic(tmp_path, SPLIT)
    assert dataset.label_space.names == space.names[::-1]
    before = CocoPanoptic(build(tmp_path / "again").root, SPLIT)
    for frame in before.frames():
        pair = [data.read_frame(frame).labels.semantic.astype(int) for data in (before, dataset)]
        assert np.array_equal(np.where(pair[0] == 255, 255, len(space) - 1 - pair[0]), pair[1])


def test_names_and_numbers_of_stills(tmp_path: Path) -> None:
    build(tmp_path)
    dataset = CocoPanoptic(tmp_path, SPLIT)
    assert [(frame.name, frame.number) for frame in dataset.frames()] == [
        ("000000142238", 142238),
        ("000000142335", 142335),
        ("000000142432", 142432),
    ]
    assert dataset.videos == [frame.name for frame in dataset.frames()]
    with pytest.raises(SingleImagesError, match="no clip of 2 frames"):
        CocoPanoptic(tmp_path, SPLIT, clip_length=2)
    even = CocoPanoptic(tmp_path, SPLIT, options=ReadOptions(every=2))
    assert [frame.number for frame in even.frames()] == [142238, 142432]


def test_names_of_video_frames_hold_their_folders(tmp_path: Path) -> None:
    build(tmp_path, video=True, frames=2)
    dataset = CocoPanoptic(tmp_path, SPLIT)
    assert dataset.videos == ["1", "2"]
    assert [(frame.name, frame.number) for frame in dataset.frames()] == [
        ("0001_000000", 0),
        ("0001_000001", 1),
        ("0002_000000", 0),
        ("0002_000001", 1),
    ]


def test_videos_are_put_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    truth = build(tmp_path, video=True, frames=4)
    edit_json(tmp_path, lambda document: document["images"].reverse())
    check_reading(CocoPanoptic(tmp_path, SPLIT, clip_length=4), by_position(truth, json_path(tmp_path)))


@pytest.mark.parametrize("numbered", [True, False])
def test_a_frame_with_a_problem_leaves_a_gap(tmp_path: Path, numbered: bool) -> None:
    build(tmp_path, video=True, frames=5)
    if not numbered:
        for folder in (tmp_path / SPLIT).iterdir():
            for path in sorted(folder.iterdir()):
                path.rename(path.with_name(f"{'abcde'[int(path.stem)]}.jpg"))
        edit_json(
            tmp_path,
            lambda document: [
                image.update(file_name=f"{image['file_name'][:5]}{'abcde'[place % 5]}.jpg")
                for place, image in enumerate(document["images"])
            ],
        )
    edit_json(tmp_path, lambda document: document["images"][2].update(file_name="../2.jpg"))
    dataset = CocoPanoptic(tmp_path, SPLIT, clip_length=2)
    found = [(clip.video, clip.times.tolist()) for clip in dataset]
    assert found == [("1", [0, 1]), ("1", [3, 4])] + [("2", [start, start + 1]) for start in range(4)]
    assert all(clip.frames.shape[0] == 2 for clip in dataset)


def test_numbers_at_the_end_of_names_or_places_in_the_list() -> None:
    def numbers(*names: str) -> list[int]:
        return frame_numbers([ImageEntry(name, 1, 1, 1, place + 40) for place, name in enumerate(names)])

    assert numbers("a/x_10.jpg", "a/x_9.jpg") == [10, 9]
    assert numbers("x7.jpg", "y7.jpg") == [40, 41]
    assert numbers("x7.jpg", "y.jpg") == [40, 41]
    assert numbers("7_x.jpg") == [40]
    assert numbers("9" * 18 + ".jpg") == [int("9" * 18)]
    assert numbers("9" * 19 + ".jpg") == [40]
    assert numbers("x٣.jpg") == [40]


def test_images_without_annotation_are_unlabelled(tmp_path: Path) -> None:
    truth = build(tmp_path)
    edit_json(tmp_path, lambda document: document["annotations"].pop(0))
    dataset = CocoPanoptic(tmp_path, SPLIT)
    last = truth.videos[-1][0]
    hidden = replace(truth.frames[last], classes=None, objects=None, crowd=None)
    frames = by_position(truth, json_path(tmp_path)).frames
    check_reading(dataset, replace(truth, frames=frames | {last: hidden}))
    assert [frame.key for frame in dataset.frames()] == [True, True, False]
    edit_json(tmp_path, lambda document: document["annotations"].clear())
    with pytest.raises(InputError, match="has pictures but no labels"):
        CocoPanoptic(tmp_path, SPLIT)
    assert [frame.key for frame in CocoPanoptic(tmp_path, SPLIT, labelled=False).frames()] == [True] * 3


def test_unlabelled_reading_needs_no_id_pictures(tmp_path: Path) -> None:
    truth = build(tmp_path)
    for path in (tmp_path / f"annotations/panoptic_{SPLIT}").iterdir():
        path.unlink()
    dataset = CocoPanoptic(tmp_path, SPLIT, labelled=False)
    check_reading(dataset, truth)
    assert dataset.label_space is None


def test_frames_with_problems_are_left_out_and_reported(tmp_path: Path) -> None:
    truth = build(tmp_path, frames=4)
    edit_json(tmp_path, lambda document: document["annotations"][0]["segments_info"][0].update(category_id=4))
    edit_json(tmp_path, lambda document: document["annotations"][1].update(file_name="/etc/passwd.png"))
    dataset = CocoPanoptic(tmp_path, SPLIT)
    kept = replace(truth, videos=truth.videos[:2])
    check_reading(dataset, by_position(kept, json_path(tmp_path)))
    problems = quick_problems(dataset)
    assert [problem.frame for problem in problems] == [Path(video[0]).stem for video in truth.videos[:1:-1]]
    assert {problem.file for problem in problems} == {f"annotations/panoptic_{SPLIT}.json"}
    assert "category_id 4, which is not among its categories" in problems[0].reason
    assert "'/etc/passwd.png', which leads out of the folder" in problems[1].reason
    assert pickle.loads(pickle.dumps(dataset)).index_problems == dataset.index_problems


def test_a_malformed_entry_costs_its_image_alone(tmp_path: Path) -> None:
    truth = build(tmp_path, frames=4)
    edit_json(tmp_path, lambda document: document["images"][0].pop("height"))
    dataset = CocoPanoptic(tmp_path, SPLIT)
    assert len(dataset) == len(truth.videos) - 1
    [problem] = dataset.index_problems
    assert problem.reason == "is malformed: images[0] has no 'height'"
    assert problem.frame
    assert problem.frame not in dataset.videos


def test_a_json_without_annotations_is_an_unlabelled_split(tmp_path: Path) -> None:
    build(tmp_path)
    assert CocoPanoptic(tmp_path, SPLIT).card.unlabelled == ()
    edit_json(tmp_path, lambda document: document["annotations"].clear())
    assert CocoPanoptic(tmp_path, SPLIT, labelled=False).card.unlabelled == (SPLIT,)


def test_a_json_without_a_good_frame_names_its_first_problem(tmp_path: Path) -> None:
    build(tmp_path, frames=1)
    edit_json(tmp_path, lambda document: document["images"][0].update(file_name="C:\\x.jpg"))
    with pytest.raises(InputError, match=r"no frame .* the first problem: .*panoptic_val2017\.json gives image 142238"):
        CocoPanoptic(tmp_path, SPLIT)


@pytest.mark.parametrize("video", [False, True])
def test_damaged_files_and_other_sizes_are_named(tmp_path: Path, video: bool) -> None:
    build(tmp_path, video=video)
    dataset = CocoPanoptic(tmp_path, SPLIT)
    check_damaged_files(dataset)
    check_label_of_another_size(dataset)


def test_pictures_of_images_that_are_wider_than_their_labels_are_named(tmp_path: Path) -> None:
    build(tmp_path)
    dataset = CocoPanoptic(tmp_path, SPLIT)
    frame = next(dataset.frames())
    Image.fromarray(np.zeros((48, 100, 3), np.uint8)).save(tmp_path / frame.image)
    with pytest.raises(InputError, match=r"000000142238\.png is 96x48 but its image is 100x48"):
        dataset.read_frame(frame)


def test_what_a_frame_depends_on_includes_the_json(tmp_path: Path) -> None:
    build(tmp_path)
    before = CocoPanoptic(tmp_path, SPLIT).describe()
    assert CocoPanoptic(tmp_path, SPLIT).describe() == before
    edit_json(tmp_path, lambda document: document["annotations"][0]["segments_info"][0].update(iscrowd=1))
    assert CocoPanoptic(tmp_path, SPLIT).describe() != before


def test_cached_frames_are_those_of_the_files(tmp_path: Path) -> None:
    truth = build(tmp_path)
    plain = CocoPanoptic(tmp_path, SPLIT)
    for _ in range(2):
        cached = CocoPanoptic(tmp_path, SPLIT, options=ReadOptions(cache=tmp_path / "kept"))
        for item in range(len(truth.videos)):
            expected, found = plain[item].target, cached[item].target
            assert np.array_equal(found.semantic, expected.semantic)
            assert np.array_equal(found.instance, expected.instance)


def test_categories_must_form_a_label_space() -> None:
    path = Path("x.json")
    space = category_space([Category("b", "bird", True, None), Category(7, "sky", False, (1, 2, 3))], path)
    assert space.names == ("bird", "sky")
    assert space.things == (0,)
    assert space.classes[1].colour == (1, 2, 3)
    assert len(space.classes[0].colour) == 3
    with pytest.raises(InputError, match=r"x\.json: its categories form no label space: .*'classes'"):
        category_space([], path)
    with pytest.raises(InputError, match=r"x\.json: .* names sky more than once"):
        category_space([Category(1, "sky", False, None), Category(2, "sky", False, None)], path)
    with pytest.raises(InputError, match=r"x\.json: .* has 256 classes; 1 to 255 are allowed"):
        category_space([Category(number, f"c{number}", False, None) for number in range(256)], path)


def test_wrong_roots_and_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"panoptic_day\.json does not exist; give json_file, .*\nannotations/panoptic_"
    ):
        CocoPanoptic(tmp_path, "day")
    build(tmp_path)
    with pytest.raises(InputError, match=r"no\.json does not exist"):
        CocoPanoptic(tmp_path, SPLIT, json_file="annotations/no.json")
    json_path(tmp_path).write_text('{"images": []}')
    with pytest.raises(InputError, match="has no list 'annotations' and no list 'categories'"):
        CocoPanoptic(tmp_path, SPLIT)


def test_the_card_claims_no_counts() -> None:
    assert set(CocoPanoptic.card.splits.values()) == {None}
    assert not CocoPanoptic.card.video
    assert CocoPanoptic.card.labels == "panoptic"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the COCO panoptic sample is not in ../shared/data")
def test_the_real_sample_is_read_with_its_crowds_and_void() -> None:
    dataset = CocoPanoptic(SAMPLE, "sample", json_file="panoptic_examples.json", images="input_images")
    assert quick_problems(dataset) == []
    assert len(dataset.label_space) == 133
    assert len(dataset.label_space.things) == 80
    annotations = json.loads((SAMPLE / "panoptic_examples.json").read_text("utf-8"))["annotations"]
    for frame, record in zip(dataset.frames(), annotations, strict=True):
        labels = dataset.read_frame(frame).labels
        crowd = dataset.label_space.is_thing[labels.semantic] & (labels.instance == 0)
        assert crowd.sum() == CROWD_PIXELS[frame.name]
        assert (labels.semantic == 255).sum() == labels.semantic.size - sum(s["area"] for s in record["segments_info"])
        single = [segment for segment in record["segments_info"] if not segment["iscrowd"]]
        found, areas = np.unique(labels.instance[labels.instance > 0], return_counts=True)
        assert dict(zip(found.tolist(), areas.tolist(), strict=True)) == {s["id"]: s["area"] for s in single}
        for segment in single:
            classes = np.unique(labels.semantic[labels.instance == segment["id"]])
            assert [dataset.label_space.names[index] for index in classes] == [NAMES[segment["category_id"]]]
