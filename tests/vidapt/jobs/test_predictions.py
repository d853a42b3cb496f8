"""Predictions in the many forms that other programs write them in, brought into the space that is scored."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny_runs import moving_frames, tiny_segmenter, write_labelled
from tests.vidapt.jobs.prediction_files import (
    STILLS,
    Picture,
    edit,
    official_files,
    read_categories,
    read_pictures,
    recipe_for,
    stills_root,
    write_pictures,
)
from vidapt.clip import PanopticFrame, Segment
from vidapt.config import Recipe
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.mapillary import Mapillary
from vidapt.errors import InputError
from vidapt.evaluation.scores import Scores
from vidapt.io.writer import SegmentationWriter
from vidapt.jobs.panoptic_files import PanopticFiles
from vidapt.jobs.predicted_frames import VideoFrames, remap_frame
from vidapt.jobs.predictions import SegmentationFolders, open_predictions
from vidapt.jobs.score import score_predictions
from vidapt.labels import CAMVID, CITYSCAPES, LabelSpace, find_space
from vidapt.mapping import find_mapping
from vidapt.recipe import load_recipe

LABEL_IDS = find_space("cityscapes_ids")
RAW = find_mapping(LABEL_IDS, CITYSCAPES)
SAME = find_mapping(CITYSCAPES, CITYSCAPES)
SIZE = (4, 6)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stills_root(tmp_path_factory.mktemp("stills"))


@pytest.fixture(scope="module")
def recipe(root: Path) -> Recipe:
    return recipe_for(STILLS, root)


@pytest.fixture(scope="module")
def official(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("cityscapesscripts")
    return official_files(root, tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def pictures(official: Path) -> list[Picture]:
    """The truth with some segments left out, so that scores are below 1 and tell classes apart."""
    return [picture.keep(lambda segment: segment["id"] % 5 != 2) for picture in read_pictures(official)]


@pytest.fixture(scope="module")
def expected(recipe: Recipe, official: Path, pictures: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Scores of the pictures written as the official tool does."""
    file = write_pictures(tmp_path_factory.mktemp("expected") / "val.json", pictures, read_categories(official))
    scores = plain(recipe, file)
    assert 0 < scores["pq"] < 1
    return scores


def plain(recipe: Recipe, predictions: Path) -> dict[str, Any]:
    return scores_of(recipe, predictions).to_dict()


def scores_of(recipe: Recipe, predictions: Path) -> Scores:
    return score_predictions(predictions, recipe, jobs=1).scores


# --- one panoptic JSON: where pictures lie and how they are named


@pytest.mark.parametrize("place", [None, "panoptic", "."])
def test_places_of_the_pictures(
    recipe: Recipe, official: Path, pictures: list[Picture], expected: Any, tmp_path: Path, place: str | None
) -> None:
    file = write_pictures(tmp_path / "mine.json", pictures, read_categories(official), place=place)
    assert plain(recipe, tmp_path) == plain(recipe, file) == expected


@pytest.mark.parametrize(
    "ending",
    ["", "_panoptic", "_gtFine_panoptic", "_leftImg8bit", "_gtFine_leftImg8bit"],
    ids=lambda ending: f"'{ending}'",
)
@pytest.mark.parametrize("folder", ["", "frankfurt/"])
def test_pictures_named_by_frames_under_numbered_images(
    recipe: Recipe, official: Path, pictures: list[Picture], expected: Any, tmp_path: Path, ending: str, folder: str
) -> None:
    """``image_id`` is a number that says nothing."""
    write_pictures(
        tmp_path / "val.json",
        pictures,
        read_categories(official),
        file_name=lambda picture: f"{folder}{picture.name}{ending}.png",
        image_id=lambda picture: 100 + pictures.index(picture),
    )
    assert plain(recipe, tmp_path) == expected


def test_numbered_pictures_of_listed_images(
    recipe: Recipe, official: Path, pictures: list[Picture], expected: Any, tmp_path: Path
) -> None:
    """Only ``images`` says which frame a number means, as in the JSON files of COCO."""
    write_pictures(
        tmp_path / "val.json",
        pictures,
        read_categories(official),
        file_name=lambda picture: f"{pictures.index(picture):012d}.png",
        image_id=pictures.index,
        images=[{"id": n, "file_name": f"x/{p.name}_leftImg8bit.png"} for n, p in enumerate(pictures)],
    )
    assert plain(recipe, tmp_path) == expected


def test_names_as_image_ids_of_numbered_pictures(
    recipe: Recipe, official: Path, pictures: list[Picture], expected: Any, tmp_path: Path
) -> None:
    name = {picture.name: f"{number}.png" for number, picture in enumerate(pictures)}
    write_pictures(tmp_path / "val.json", pictures, read_categories(official), file_name=lambda p: name[p.name])
    assert plain(recipe, tmp_path) == expected


def test_parts_of_a_path_may_make_the_name(tmp_path: Path) -> None:
    """Frames of video data sets are named video_number, their pictures video/number.png."""
    shown = [Picture(name, np.full(SIZE, n), ({"id": n, "category_id": 10},)) for n, name in enumerate("ab", 1)]
    file = write_pictures(
        tmp_path / "val.json", shown, None, file_name=lambda p: f"{p.name}/000.png", image_id=lambda p: None
    )
    find = PanopticFiles(file, SAME).video(0)
    assert [find(0, name, SIZE).ids[0, 0] for name in ("a_000", "b/000")] == [11, 11]
    with pytest.raises(InputError, match=r"val\.json has 2 annotations for '000'; it needs one for every frame"):
        find(0, "000", SIZE)


def test_number_alone_names_frames_of_a_single_video_only(tmp_path: Path) -> None:
    """Else the pictures of one video would be scored as those of all."""
    file = write_pictures(
        tmp_path / "val.json", [Picture("000000", np.full(SIZE, 1), ({"id": 1, "category_id": 10},))], None
    )
    assert open_predictions(file, ["a"], SAME).video(0)(0, "a/000000", SIZE).semantic[0, 0] == 10
    with pytest.raises(InputError, match=r"val\.json has no annotation for 'a/000000'"):
        open_predictions(file, ["a", "b"], SAME).video(0)(0, "a/000000", SIZE)


def test_labelled_folders_of_several_videos_keep_their_pictures_apart(tmp_path: Path) -> None:
    """Frames of both videos have the same numbers."""
    root = write_labelled(tmp_path / "data", ["ground", "ball"], count=2)
    for kind in ("images", "semantic"):
        (root / kind / "b").mkdir()
        for path in (root / kind / "a").iterdir():
            turned = Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            turned.save(root / kind / "b" / path.name)
    recipe = load_recipe("own_data", [f"evaluation={{kind: labelled_folder, root: {root}}}", *own_data(root)])
    shown = []
    for video in "ab":
        for path in sorted((root / "semantic" / video).iterdir()):
            ids = np.asarray(Image.open(path)).astype(np.int64) + 1
            items = tuple({"id": n, "category_id": n - 1} for n in np.unique(ids).tolist())
            shown.append(Picture(f"{video}/{int(path.stem):06d}", ids, items))
    file = write_pictures(tmp_path / "val.json", shown, None, image_id=lambda p: 0)
    assert scores_of(recipe, file).miou == 1


def own_data(root: Path) -> list[str]:
    return [
        f"labels={root / 'classes.yaml'}",
        f"source={{kind: labelled_folder, root: {root}}}",
        "target=null",
        "method=null",
    ]


# --- how ids are stored


def test_ids_as_grey_values_of_16_bits(
    recipe: Recipe, official: Path, pictures: list[Picture], expected: Any, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "val.json", pictures, read_categories(official), grey=True)
    assert plain(recipe, tmp_path) == expected


def test_pictures_with_an_alpha_channel(
    recipe: Recipe, official: Path, pictures: list[Picture], expected: Any, tmp_path: Path
) -> None:
    file = write_pictures(tmp_path / "val.json", pictures, read_categories(official))
    for path in (tmp_path / "val").iterdir():
        Image.open(path).convert("RGBA").save(path)
    assert plain(recipe, file) == expected


def test_any_numbering_of_segments(
    recipe: Recipe, official: Path, pictures: list[Picture], expected: Any, tmp_path: Path
) -> None:
    """Ids from 1 to the largest of three bytes, another numbering in each picture."""
    rng = np.random.default_rng(1)
    changed = []
    for picture in pictures:
        own = [segment["id"] for segment in picture.segments]
        new = [2**24 - 1, 1, 255, 256, *(257 + rng.permutation(10**6)[: len(own)]).tolist()]
        table = dict(zip(own, rng.permutation(new[: len(own)]).tolist(), strict=True))
        changed.append(picture.renumbered(table.__getitem__))
    file = write_pictures(tmp_path / "val.json", changed, read_categories(official))
    assert plain(recipe, file) == expected


# --- classes


def test_without_categories_ids_are_those_of_the_truth(
    recipe: Recipe, pictures: list[Picture], expected: Any, tmp_path: Path
) -> None:
    """Label ids; the result format of COCO has no categories."""
    assert plain(recipe, write_pictures(tmp_path / "val.json", pictures, None)) == expected
    assert plain(recipe, write_pictures(tmp_path / "val.json", pictures, [])) == expected


def test_ids_count_from_where_the_data_set_counts(
    recipe: Recipe, pictures: list[Picture], expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JSON files of Mapillary Vistas give the first class the id 1."""
    assert (Cityscapes.first_category, Mapillary.first_category) == (0, 1)
    shifted = [picture.with_classes(lambda c: c + 1) for picture in pictures]
    file = write_pictures(tmp_path / "val.json", shifted, None)
    monkeypatch.setattr(Cityscapes, "first_category", 1)
    assert plain(recipe, file) == expected


def test_categories_are_matched_by_name(
    recipe: Recipe, official: Path, pictures: list[Picture], expected: Any, tmp_path: Path
) -> None:
    """Other ids, another order, synonyms, wrong thing flags, no colours and classes that Cityscapes lacks."""
    own = read_categories(official)
    synonym = {"vegetation": "tree", "person": "pedestrian", "sidewalk": "pavement"}
    named = [{"id": 500 - c["id"], "name": synonym.get(c["name"], c["name"]), "isthing": 0} for c in reversed(own)]
    categories = [{"id": 7, "name": "stop sign"}, *named, {"id": 900, "name": "banana", "isthing": 1}]
    changed = [picture.with_classes(lambda c: 500 - c) for picture in pictures]
    assert plain(recipe, write_pictures(tmp_path / "coco.json", changed, categories)) == expected


def test_classes_without_a_counterpart_become_void(
    recipe: Recipe, official: Path, pictures: list[Picture], tmp_path: Path
) -> None:
    """As if the segments were not there."""
    categories = [*read_categories(official), {"id": 900, "name": "banana", "isthing": 1}]
    bananas = [p.with_classes(lambda c: 900 if c in (8, 26) else c) for p in pictures]
    none = [p.keep(lambda s: s["category_id"] not in (8, 26)) for p in pictures]
    first, second = (
        plain(recipe, write_pictures(tmp_path / name / "val.json", shown, categories))
        for name, shown in (("bananas", bananas), ("none", none))
    )
    assert first == second
    row = next(row for row in first["rows"] if row["class"] == "sidewalk")
    assert row["iou"] == row["pq"] == 0


def test_things_that_are_scored_as_stuff_become_one_segment(
    recipe: Recipe, official: Path, pictures: list[Picture], expected: Any, tmp_path: Path
) -> None:
    """Vegetation in two segments, plants and trees, each a thing with an id of its own."""
    categories = [
        *({**c, "isthing": 1} for c in read_categories(official)),
        {"id": 901, "name": "tree", "isthing": 1},
    ]
    changed, halves = [], 0
    for picture in pictures:
        own = [segment["id"] for segment in picture.segments if segment["category_id"] == 21]
        left = np.isin(picture.ids, own) & (np.arange(picture.ids.shape[1]) < picture.ids.shape[1] // 2)
        ids = np.where(left, 77777, picture.ids)
        halves += left.any() and np.isin(ids, own).any()
        items = (*picture.segments, {"id": 77777, "category_id": 901})
        changed.append(Picture(picture.name, ids, tuple(item for item in items if (ids == item["id"]).any())))
    assert halves > 0
    assert plain(recipe, write_pictures(tmp_path / "val.json", changed, categories)) == expected


def test_the_label_space_that_a_conversion_names(tmp_path: Path) -> None:
    """Classes of Mapillary are known by their space, not by name alone: a crosswalk is road."""
    space = find_space("mapillary_v1.2")
    categories = [{"id": n, "name": label.name, "isthing": 0} for n, label in enumerate(space.classes, 1)]
    crosswalk = 1 + space.names.index("lane marking - crosswalk")
    shown = [Picture("a", np.full(SIZE, 9), ({"id": 9, "category_id": crosswalk},))]
    found = {}
    for name, info in (("by name", {}), ("by space", {"label_space": space.name})):
        file = write_pictures(tmp_path / name / "val.json", shown, categories, info=info)
        found[name] = PanopticFiles(file, RAW).video(0)(0, "a", SIZE).semantic[0, 0]
    assert found == {"by name": 255, "by space": CITYSCAPES.index("road")}


def test_classes_of_the_truth_go_where_the_truth_goes(tmp_path: Path) -> None:
    """A mapping file of the recipe holds for predictions with the classes of the data, listed or not."""
    source = LabelSpace.from_dict({"name": "mine", "classes": ["lawn", "wheels"]})
    target = LabelSpace.from_dict({"name": "theirs", "classes": ["ground", {"name": "vehicle", "thing": True}]})
    sheet = tmp_path / "map.yaml"
    sheet.write_text("source: mine\ntarget: theirs\nclasses: {ground: [lawn], vehicle: [wheels]}\n")
    for space, name in ((source, "mine"), (target, "theirs")):
        (tmp_path / name).write_text(json.dumps(space.to_dict()))
    own = find_mapping(source, target, str(sheet))
    ids = np.array([[1, 2, 0]])
    shown = [Picture("a", ids, ({"id": 1, "category_id": 0}, {"id": 2, "category_id": 1}))]
    listed = [{"id": 0, "name": "lawn"}, {"id": 1, "name": "wheels"}]
    for categories in (None, listed):
        frame = PanopticFiles(write_pictures(tmp_path / "val.json", shown, categories), own).video(0)(0, "a", (1, 3))
        assert frame.semantic.tolist() == [[0, 1, 255]]


# --- what is refused, with the name of the file


def one_picture(tmp_path: Path, **further: Any) -> Path:
    ids = np.array([[1, 1, 2, 0]])
    items = ({"id": 1, "category_id": 7}, {"id": 2, "category_id": 26, "score": 0.5, "area": 1})
    return write_pictures(tmp_path / "val.json", [Picture("a", ids, items)], None, **further)


def first_segment(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["annotations"][0]["segments_info"][0].update(values)


REFUSED: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda d: d.pop("annotations"), r"val\.json is no panoptic JSON: it needs a list 'annotations'"),
    (lambda d: d.update(annotations={}), r"val\.json is no panoptic JSON: it needs a list 'annotations'"),
    (lambda d: d["annotations"].append(3), r"val\.json: annotations\[1\] has no 'file_name'"),
    (lambda d: d["annotations"][0].pop("file_name"), r"val\.json: annotations\[0\] has no 'file_name'"),
    (lambda d: d["annotations"][0].update(file_name=None), r"val\.json: annotations\[0\] has no 'file_name'"),
    (lambda d: d["annotations"][0].update(image_id="b", file_name="b.png"), r"val\.json has no annotation for 'a'"),
    (lambda d: d["annotations"].append(d["annotations"][0]), r"val\.json has 2 annotations for 'a'"),
    (lambda d: d["annotations"][0].pop("segments_info"), r"val\.json has no list 'segments_info' for a\.png"),
    (lambda d: d["annotations"][0].update(segments_info={"1": 7}), r"val\.json has no list 'segments_info' for a\.png"),
    (lambda d: d["annotations"][0].update(file_name="../val/a.png"), r"'\.\./val/a\.png', which leads out of its"),
    (lambda d: d["annotations"][0].update(file_name="/etc/a.png"), r"'/etc/a\.png', which leads out of its folder"),
    (lambda d: d["annotations"][0].update(file_name="c.png"), r"the picture c\.png of .*val\.json is not in .*val or"),
    (lambda d: d["annotations"][0]["segments_info"].pop(), r"a\.png has id 2, which val\.json does not list"),
    (lambda d: d["annotations"][0]["segments_info"].append("x"), r"val\.json: a segment of a\.png has no id"),
    (first_segment(id=2), r"val\.json lists a segment of a\.png twice"),
    (first_segment(id=0), r"val\.json: a segment of a\.png has id 0 .* ids are 1\.\.16777215"),
    (first_segment(id=2**24), r"val\.json: a segment of a\.png has id 16777216"),
    (first_segment(id=None), r"val\.json: a segment of a\.png has no id"),
    (
        first_segment(category_id=99),
        r"val\.json: a segment of a\.png has no id, an unknown category .*'category_id': 99",
    ),
    (first_segment(category_id=None), r"val\.json: a segment of a\.png has no id, an unknown category"),
    (first_segment(score="high"), r"val\.json: a segment of a\.png has .* a score that is no number: .*'high'"),
    (first_segment(score=None), r"val\.json: a segment of a\.png has .* a score that is no number"),
    (first_segment(score=float("nan")), r"val\.json: a segment of a\.png has id 1 and score nan"),
    (lambda d: d.update(categories=[{"id": 7}]), r"the categories of .*val\.json are not a list of .*'name'"),
    (lambda d: d.update(categories=["road"]), r"the categories of .*val\.json are not a list of"),
    (lambda d: d.update(categories=[{"id": 7, "name": "road"}] * 2), r"val\.json .*names road more than once"),
    (lambda d: d.update(categories=[{"name": "road"}]), r"val\.json has a category without a number as its id"),
    (
        lambda d: d.update(categories=[{"id": 7, "name": "road"}, {"id": "x", "name": "car"}]),
        r"val\.json has a category",
    ),
    (
        lambda d: d.update(categories=[{"id": 7, "name": "road"}, {"id": 7, "name": "car"}]),
        r"val\.json: categories road and car both have id 7; give each its own",
    ),
    (lambda d: d.update(images=7), r"val\.json: 'images' is 7, but must be a list; mend or drop it"),
    (lambda d: d.update(categories=7), r"val\.json: 'categories' is 7, but must be a list; mend or drop it"),
    (
        lambda d: d["annotations"][0]["segments_info"].append({"id": 9, "category_id": 7}),
        r"val\.json lists segment 9 of a\.png, which has no pixel there",
    ),
    (
        lambda d: d.update(categories=[{"id": 7, "name": "apple"}, {"id": 26, "name": "pear"}]),
        r"no class of .*val\.json \(apple, pear\) is one of label space 'cityscapes' \(road, .*\); name the classes",
    ),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_refused_files(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    file = edit(one_picture(tmp_path), change)
    with pytest.raises(InputError, match=message) as refused:
        open_predictions(file, ["a"], RAW).video(0)(0, "a", (1, 4))
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_the_file_that_was_changed_is_right_before(tmp_path: Path) -> None:
    frame = open_predictions(one_picture(tmp_path), ["a"], RAW).video(0)(0, "a", (1, 4))
    assert frame.semantic.tolist() == [[0, 0, 13, 255]]
    assert np.isnan(frame.segments[0].score)
    assert frame.segments[1].score == 0.5


@pytest.mark.parametrize("text", ["", "[1, 2", "\x00", "[" * 100_000])
def test_damaged_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "val.json").write_text(text)
    with pytest.raises(InputError, match=r"val\.json cannot be read as JSON"):
        open_predictions(tmp_path, ["a"], RAW).video(0)(0, "a", (1, 4))


def test_json_of_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "val.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match=r"val\.json cannot be read as JSON"):
        open_predictions(tmp_path, ["a"], RAW).video(0)(0, "a", (1, 4))


def test_damaged_picture(tmp_path: Path) -> None:
    file = one_picture(tmp_path)
    path = tmp_path / "val" / "a.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"a\.png cannot be read as a label picture"):
        open_predictions(file, ["a"], RAW).video(0)(0, "a", (1, 4))


def test_picture_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"val/a\.png is 4x1, but a is scored at 8x2; resize predictions to that"):
        open_predictions(one_picture(tmp_path), ["a"], RAW).video(0)(0, "a", (2, 8))


def test_what_lies_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"no predictions at {tmp_path / 'x'}; give a folder of segmentation folders"):
        open_predictions(tmp_path / "x", ["a"], RAW)
    with pytest.raises(
        InputError, match=r"no segmentation of 2 videos \('a', 'b'\): .*/a does not exist; name folders"
    ):
        open_predictions(tmp_path, ["a", "b"], RAW)
    for name in ("two.json", "one.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=r"holds several JSON files \(one\.json, two\.json\); give the panoptic one"):
        open_predictions(tmp_path, ["a"], RAW)
    assert isinstance(open_predictions(tmp_path / "one.json", ["a"], RAW), PanopticFiles)


# --- segmentation folders


def segmentation(folder: Path, space: LabelSpace | None = None, size: tuple[int, int] = (48, 80)) -> Path:
    segmenter = tiny_segmenter(space)
    images = moving_frames(2, size)
    with SegmentationWriter(folder, segmenter.space, video_name=folder.name, fps=10, overlay=False) as writer:
        for frame, image in zip(segmenter.segment(images), images, strict=True):
            writer.write(frame, image)
    return folder


def test_segmentation_folders_by_video(tmp_path: Path) -> None:
    """A summary beside the JSON does not make it the file of another program."""
    folder = segmentation(tmp_path / "a")
    assert (folder / "summary.json").is_file()
    for where in (tmp_path, folder):
        found = open_predictions(where, ["a"], SAME)
        assert isinstance(found, SegmentationFolders)
        frame = found.video(0)(1, "a/1", (48, 80))
        assert frame.index == 1
        assert (frame.ids > 0).any()


@pytest.mark.parametrize("text", ["{}", '{"annotations": 3}', "[", "[]", "\x00"])
def test_other_json_files_beside_predictions(tmp_path: Path, text: str) -> None:
    """Scores of an earlier evaluation, written there."""
    folder = segmentation(tmp_path / "all" / "a")
    file = one_picture(tmp_path)
    for where, videos in ((folder.parent, ["a"]), (folder.parent, ["b", "a"]), (folder, ["a"]), (tmp_path, ["a"])):
        (where / "scores.json").write_text(text)
        if videos == ["a"]:
            found = open_predictions(where, videos, RAW)
            assert isinstance(found, PanopticFiles if where == tmp_path else SegmentationFolders)
        else:
            with pytest.raises(InputError, match="no segmentation of video 'b'"):
                open_predictions(where, videos, RAW)
    assert open_predictions(tmp_path, ["a"], RAW) == PanopticFiles(file, RAW, one_video=True)


# --- which frames a segmentation folder holds


def fake_segmentation(folder: Path, indices: Iterable[int]) -> Path:
    """A segmentation of 1x1 pixels whose class is the number of the frame."""
    with SegmentationWriter(folder, CITYSCAPES, video_name=folder.name, fps=10, overlay=False) as writer:
        for index in indices:
            ids = np.full((1, 1), index % 11 + 1, np.int32)
            segment = Segment(index % 11 + 1, index % 11, False, 1.0, 1, (0, 0, 1, 1))
            frame = PanopticFrame(index, 0.0, (ids - 1).astype(np.uint8), ids, (segment,))
            writer.write(frame, np.zeros((1, 1, 3), np.uint8))
    return folder


SNIPPET = tuple(f"f{number:02d}" for number in range(30))
READ = SNIPPET[18:20]


@pytest.mark.parametrize(
    ("indices", "found"),
    [
        (range(30), [18, 19]),
        (range(40), [18, 19]),
        (range(2), [0, 1]),
        ([18, 19], [18, 19]),
        (range(0, 30, 3), None),
        ([3, 18, 19, 20], [18, 19]),
    ],
    ids=["whole snippet", "more", "the two", "the two by number", "every third", "some by number"],
)
def test_frames_of_a_selection_are_found_by_their_place_in_the_recording(
    tmp_path: Path, indices: Any, found: list[int] | None
) -> None:
    fake_segmentation(tmp_path / "a", indices)
    frames = [VideoFrames(READ, SNIPPET)]
    predictions = open_predictions(tmp_path, ["a"], SAME, frames=frames)
    if found is None:
        with pytest.raises(InputError, match=r"/a has no prediction for frame 19 \(f19\); segment all frames"):
            predictions.refuse_missing(frames)
        return
    predictions.refuse_missing(frames)
    find = predictions.video(0)
    frames_found = [find(position, name, (1, 1)) for position, name in enumerate(READ)]
    assert [frame.index for frame in frames_found] == found
    assert [frame.semantic[0, 0] for frame in frames_found] == [place % 11 for place in found]


@pytest.mark.parametrize("count", [1, 3, 29])
def test_folders_that_hold_neither_the_selection_nor_the_recording_are_refused(tmp_path: Path, count: int) -> None:
    fake_segmentation(tmp_path / "a", range(count))
    frames = [VideoFrames(READ, SNIPPET)]
    message = (
        rf"/a holds {count} frames numbered from 0, but the video has 30, of which 2 are scored, so it is not clear"
    )
    predictions = open_predictions(tmp_path, ["a"], SAME, frames=frames)
    for call in (lambda: predictions.refuse_missing(frames), lambda: predictions.video(0)):
        with pytest.raises(InputError, match=message):
            call()


def test_all_missing_frames_are_named_at_once(tmp_path: Path) -> None:
    frames = []
    for video in "ab":
        fake_segmentation(tmp_path / video, [0, 2])
        names = tuple(f"{video}/{number}" for number in range(4))
        frames.append(VideoFrames(names, names))
    predictions = open_predictions(tmp_path, ["a", "b"], SAME, frames=frames)
    with pytest.raises(
        InputError, match=r"4 frames have no prediction in .*/a, .*/b: 'a/1', 'a/3', 'b/1', 'b/3'; segm"
    ):
        predictions.refuse_missing(frames)


def test_all_missing_annotations_and_pictures_are_named_at_once(tmp_path: Path) -> None:
    names = tuple("abcd")
    shown = [Picture(name, np.ones(SIZE, int), ({"id": 1, "category_id": 7},)) for name in names]
    file = write_pictures(tmp_path / "val.json", shown, None)
    frames = [VideoFrames((name,), (name,)) for name in names]
    PanopticFiles(file, RAW).refuse_missing(frames)
    for name in "bd":
        (tmp_path / "val" / f"{name}.png").unlink()
    with pytest.raises(InputError, match=r"2 of 4 pictures of .*val\.json are missing: 'b\.png', 'd\.png'"):
        PanopticFiles(file, RAW).refuse_missing(frames)
    edit(file, lambda document: document.update(annotations=document["annotations"][2:]))
    with pytest.raises(InputError, match=r"val\.json has no annotation for 2 of 4 frames: 'a', 'b'; it needs one for"):
        PanopticFiles(file, RAW).refuse_missing(frames)


def test_long_lists_of_missing_frames_are_cut(tmp_path: Path) -> None:
    file = one_picture(tmp_path)
    names = tuple(f"x{number}" for number in range(40))
    with pytest.raises(
        InputError, match=r"no annotation for 40 of 40 frames: 'x0', .*'x9', \.\.\.; it needs"
    ) as refused:
        PanopticFiles(file, RAW).refuse_missing([VideoFrames(names, names)])
    assert "x10" not in str(refused.value)


def test_hidden_json_files_are_passed_over(tmp_path: Path) -> None:
    file = one_picture(tmp_path)
    (tmp_path / "._val.json").write_text("left by another system")
    assert open_predictions(tmp_path, ["a"], RAW) == PanopticFiles(file, RAW, one_video=True)


def test_segmentation_of_another_size_and_of_no_scored_class(tmp_path: Path) -> None:
    segmentation(tmp_path / "a")
    with pytest.raises(InputError, match=r"frame 0 of .*/a is 80x48, but x is scored at 160x96; resize predictions"):
        open_predictions(tmp_path, ["a"], SAME).video(0)(0, "x", (96, 160))
    other = LabelSpace.from_dict({"name": "fruit", "classes": ["apple", "pear"]})
    with pytest.raises(InputError, match=r"no class of .* \(road, sidewalk, building, wall, fence, \.\.\.\) is one of"):
        open_predictions(tmp_path, ["a"], find_mapping(other, other)).video(0)


def test_the_json_of_one_segmentation_may_be_named(tmp_path: Path) -> None:
    """Its frames are then found by their numbers."""
    folder = segmentation(tmp_path / "a")
    by_folder = open_predictions(folder, ["a"], SAME).video(0)(1, "a/000001", (48, 80))
    by_file = open_predictions(folder / "panoptic.json", ["a"], SAME).video(0)(1, "a/000001", (48, 80))
    np.testing.assert_array_equal(by_folder.ids, by_file.ids)
    np.testing.assert_array_equal(by_folder.semantic, by_file.semantic)


# --- remapping


def frame_of(ids: list[list[int]], categories: dict[int, int], scores: dict[int, float] | None = None) -> PanopticFrame:
    segments = tuple(
        Segment(own, c, False, (scores or {}).get(own, 1.0), int((np.array(ids) == own).sum()), (0, 0, 0, 0))
        for own, c in categories.items()
    )
    table = np.full(max(categories) + 1, 255, np.uint8)
    table[list(categories)] = list(categories.values())
    return PanopticFrame(3, 0.25, table[np.array(ids)], np.array(ids, np.int32), segments)


def test_remapped_ids() -> None:
    """Stuff by class, things by their own id, small ones out of the way of stuff; what is unknown is void."""
    road, car, caravan = (LABEL_IDS.index(name) for name in ("road", "car", "caravan"))
    frame = frame_of([[5, 9, 300, 301, 0]], {5: road, 9: car, 300: car, 301: caravan}, {9: 0.25})
    found = remap_frame(frame, RAW)
    assert found.ids.tolist() == [[1, 2**24 + 9, 300, 0, 0]]
    assert found.semantic.tolist() == [[0, 13, 13, 255, 255]]
    assert (found.index, found.time) == (3, 0.25)
    assert [(s.id, s.category, s.is_thing, s.score) for s in found.segments] == [
        (1, 0, False, 1.0),
        (2**24 + 9, 13, True, 0.25),
        (300, 13, True, 1.0),
    ]


def test_remapped_stuff_of_one_class_is_one_segment() -> None:
    mapping = find_mapping(CITYSCAPES, CAMVID)
    person, wall, building = (CITYSCAPES.index(name) for name in ("person", "wall", "building"))
    found = remap_frame(frame_of([[1, 1, 2, 400]], {1: wall, 2: building, 400: person}), mapping)
    stuff = [segment for segment in found.segments if not segment.is_thing]
    names = {mapping.target.names[segment.category] for segment in stuff}
    assert len(stuff) == len(names)
    assert found.ids.dtype == np.int32
    assert sum(segment.area for segment in found.segments) == int((found.ids > 0).sum())


def test_an_empty_frame_is_void() -> None:
    frame = PanopticFrame(0, 0.0, np.full(SIZE, 255, np.uint8), np.zeros(SIZE, np.int32), ())
    found = remap_frame(frame, RAW)
    assert not found.ids.any()
    assert (found.semantic == 255).all()
    assert found.segments == ()
