import json
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.datasets.miniature.coco_panoptic import build
from vidapt.datasets.frame_index import Problem
from vidapt.datasets.panoptic_json import (
    Category,
    PanopticIndex,
    frame_name,
    index_document,
    leaves_folder,
    read_document,
    read_index,
)
from vidapt.datasets.panoptic_pictures import decode, find_segments, read_colours, read_segment_ids, write_panoptic
from vidapt.errors import InputError, StorageError
from vidapt.io.coco import encode_ids

SAMPLE = Path(__file__).parents[2] / "../shared/data/coco_panoptic"
HERE = Path("p.json")
LAST_ID = (1 << 24) - 1


def document() -> dict[str, Any]:
    """Two images with annotations in the other order; ids of numbers and of text."""
    return {
        "categories": [
            {"id": 7, "name": "car", "isthing": 1, "color": [1, 2, 3]},
            {"id": "sky", "name": "sky", "isthing": 0},
        ],
        "images": [
            {"id": 5, "file_name": "a/one.jpg", "height": 4, "width": 6},
            {"id": "b", "file_name": "two.jpg", "height": 2, "width": 3, "video_id": 9},
        ],
        "annotations": [
            {"image_id": "b", "file_name": "two.png", "segments_info": []},
            {
                "image_id": 5,
                "file_name": "a/one.png",
                "segments_info": [
                    {"id": 300, "category_id": "sky", "iscrowd": 0},
                    {"id": LAST_ID, "category_id": 7, "iscrowd": 1},
                    {"id": 1, "category_id": 7},
                ],
            },
        ],
    }


def indexed(edit: Callable[[dict[str, Any]], Any] | None = None) -> PanopticIndex:
    data = document()
    if edit is not None:
        edit(data)
    return index_document(data, HERE, "labels/p.json")


def test_an_index_holds_what_reading_needs() -> None:
    index = indexed()
    assert index.problems == ()
    assert index.categories == (Category(7, "car", True, (1, 2, 3)), Category("sky", "sky", False, None))
    assert list(index.images) == [5, "b"]
    one, two = index.images.values()
    assert (one.file_name, one.height, one.width, one.video, one.position) == ("a/one.jpg", 4, 6, None, 0)
    assert (two.video, two.position, two.name, one.name) == (9, 1, "two", "a_one")
    assert index.annotations[5].file_name == "a/one.png"
    assert index.annotations[5].segments.tolist() == [[300, 1, 0], [LAST_ID, 0, 1], [1, 0, 0]]
    assert index.annotations["b"].segments.shape == (0, 3)
    assert {annotation.segments.dtype for annotation in index.annotations.values()} == {np.dtype(np.int32)}


def test_an_empty_document_has_an_empty_index() -> None:
    index = index_document({"categories": [], "images": [], "annotations": []}, HERE)
    assert (index.categories, dict(index.images), dict(index.annotations), index.problems) == ((), {}, {}, ())


def test_numbers_and_text_are_different_ids() -> None:
    index = indexed(lambda data: data["images"].append(data["images"][0] | {"id": "5", "file_name": "x.jpg"}))
    assert index.problems == ()
    assert list(index.images) == [5, "b", "5"]
    assert "5" not in index.annotations


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"cannot be read as JSON: Expecting value"),
        (b'{"images": [', r"cannot be read as JSON: Expecting value"),
        (b"\xff\xfe\xfa", r"cannot be read as JSON"),
        (b"[" * 200_000, r"cannot be read as JSON"),
        (b"9" * 5000, r"cannot be read as JSON"),
        (b"[]", r"is not COCO panoptic: it has no list 'images' and no list 'annotations' and no list 'categories'"),
        (b"null", r"is not COCO panoptic"),
        (
            b'{"images": [], "annotations": {}, "categories": []}',
            r"is not COCO panoptic: it has no list 'annotations'$",
        ),
    ],
)
def test_files_that_are_not_in_the_format_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"p\.json {reason}") as caught:
        read_document(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.json cannot be read as JSON: No such file"):
        read_document(tmp_path / "no.json")
    with pytest.raises(InputError, match="cannot be read as JSON: Is a directory"):
        read_document(tmp_path)


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(document()).encode())
    assert read_document(tmp_path / "p.json") == document()


@pytest.mark.parametrize(
    ("part", "path", "value", "reason"),
    [
        ("images", [], 3, r"images\[0\] is 3; it must be an object with 'id'"),
        ("images", ["id"], None, r"images\[0\] has no 'id'"),
        ("images", ["id"], True, r"images\[0\] has id True; it must be a whole number or text"),
        ("images", ["id"], [1], r"images\[0\] has id \[1\]"),
        ("images", ["file_name"], 8, r"images\[0\] has file_name 8; it must be text"),
        ("images", ["file_name"], "missing", r"images\[0\] has no 'file_name'"),
        ("images", ["height"], 4.0, r"images\[0\] has height 4\.0; it must be a whole number"),
        ("images", ["width"], "missing", r"images\[0\] has no 'width'"),
        ("images", ["video_id"], 1.5, r"images\[0\] has video_id 1\.5"),
        ("annotations", ["image_id"], "missing", r"annotations\[1\] has no 'image_id'"),
        ("annotations", ["file_name"], "missing", r"annotations\[1\] has no 'file_name'"),
        ("annotations", ["segments_info"], {}, r"annotations\[1\] has segments_info \{\}; it must be a list"),
        ("annotations", ["segments_info"], "missing", r"annotations\[1\] has no 'segments_info'"),
        (
            "annotations",
            ["segments_info", 2],
            "x",
            r"annotations\[1\]\.segments_info\[2\] is 'x'; it must be an object",
        ),
        ("annotations", ["segments_info", 0, "id"], "7", r"segments_info\[0\] has id '7'; it must be a whole number"),
        ("annotations", ["segments_info", 0, "category_id"], 2.5, r"segments_info\[0\] has category_id 2\.5"),
        ("annotations", ["segments_info", 1, "iscrowd"], 2, r"segments_info\[1\] has iscrowd 2; it must be 0 or 1"),
        ("annotations", ["segments_info", 1, "iscrowd"], "no", r"has iscrowd 'no'; it must be 0 or 1"),
        ("categories", ["name"], 5, r"categories\[0\] has name 5; it must be text"),
        ("categories", ["isthing"], "missing", r"categories\[0\] has no 'isthing'"),
        ("categories", ["color"], [1, 2], r"categories\[0\] has color \[1, 2\]; it must be three whole numbers"),
        ("categories", ["color"], [0, 0, 256], r"categories\[0\] has color \[0, 0, 256\]"),
        ("categories", ["color"], "#ffffff", r"categories\[0\] has color '#ffffff'"),
    ],
)
def test_entries_with_missing_keys_or_wrong_types_are_told(part: str, path: list, value: Any, reason: str) -> None:
    data = document()
    place, entries = (1 if part == "annotations" else 0), data[part]
    holder: Any = entries
    *above, last = [place, *path]
    for key in above:
        holder = holder[key]
    if value == "missing":
        del holder[last]
    else:
        holder[last] = value
    if part == "categories":
        with pytest.raises(InputError, match=rf"^p\.json: .*{reason}") as caught:
            index_document(data, HERE)
        told = str(caught.value)
    else:
        index = index_document(data, HERE, "p.json")
        [problem] = [problem for problem in index.problems if problem.reason.startswith("is malformed: ")]
        told = problem.reason
        assert re.search(reason, told)
        assert problem.file == "p.json"
        assert len(index.images) == len(document()["images"]) - (part == "images" or path != ["image_id"])
    assert "\n" not in told
    assert len(told) < 200


def test_a_malformed_entry_is_the_flaw_of_its_image_alone() -> None:
    data = document()
    whole = index_document(data, HERE, "p.json")
    identity, name = data["images"][0]["id"], frame_name(data["images"][0]["file_name"])
    del data["images"][0]["width"]
    index = index_document(data, HERE, "p.json")
    assert index.problems == (Problem(name, "p.json", "is malformed: images[0] has no 'width'"),)
    assert dict(index.images) == {key: image for key, image in whole.images.items() if key != identity}
    data = document()
    image = data["annotations"][1].pop("segments_info") and data["annotations"][1]["image_id"]
    [problem] = index_document(data, HERE, "p.json").problems
    assert problem.frame == whole.images[image].name
    assert set(index_document(data, HERE).annotations) == set(whole.annotations) - {image}


def test_two_categories_of_one_id_are_refused() -> None:
    with pytest.raises(InputError, match=r"^p\.json has several categories with the id 'sky'; each id may occur once$"):
        indexed(lambda data: data["categories"].append({"id": "sky", "name": "air", "isthing": 0}))


def segments(data: dict[str, Any]) -> list[dict[str, Any]]:
    return data["annotations"][1]["segments_info"]


@pytest.mark.parametrize(
    ("edit", "frame", "reason"),
    [
        (lambda d: d["images"][0].update(file_name="../one.jpg"), ".._one", "gives image 5 the file_name '../one.jpg'"),
        (lambda d: d["images"][0].update(file_name="a/../../x.jpg"), None, "which leads out of the folder"),
        (lambda d: d["images"][0].update(file_name="/one.jpg"), None, "gives image 5 the file_name '/one.jpg', which"),
        (lambda d: d["images"][0].update(file_name="C:/one.jpg"), None, "which leads out of the folder"),
        (lambda d: d["images"][0].update(file_name="..\\one.jpg"), None, "which leads out of the folder"),
        (lambda d: d["images"][0].update(file_name=""), "", "gives image 5 the file_name '', which leads out"),
        (lambda d: d["images"].append(d["images"][0]), "a_one", "lists image 5 more than once"),
        (lambda d: d["annotations"].append(d["annotations"][1]), "a_one", "annotates image 5 more than once"),
        (lambda d: d["annotations"][1].update(file_name="../x.png"), "a_one", "annotates image 5 with the file_name"),
        (lambda d: segments(d)[1].update(category_id=8), "a_one", "annotates image 5 with category_id 8, which is not"),
        (lambda d: segments(d)[1].update(category_id="7"), "a_one", "with category_id '7', which is not among its"),
        (lambda d: segments(d)[1].update(id=300), "a_one", "annotates image 5 with segment id 300 more than once"),
        (lambda d: segments(d)[1].update(id=0), "a_one", "with segment id 0; allowed: 1..16777215"),
        (lambda d: segments(d)[1].update(id=-4), "a_one", "with segment id -4; allowed: 1..16777215"),
        (lambda d: segments(d)[1].update(id=1 << 24), "a_one", "with segment id 16777216; allowed"),
        (lambda d: segments(d)[1].update(id=10**30), "a_one", "with segment id 1000000"),
    ],
)
def test_entries_with_problems_are_reported_and_their_frames_left_out(
    edit: Callable[[dict[str, Any]], Any], frame: str | None, reason: str
) -> None:
    index = indexed(edit)
    [problem] = index.problems
    assert problem.file == "labels/p.json"
    assert reason in problem.reason
    assert "\n" not in problem.reason
    if frame is not None:
        assert problem.frame == frame
    assert list(index.images) == ["b"]
    assert list(index.annotations) == ["b"]


def test_an_annotation_without_image_concerns_no_frame() -> None:
    index = indexed(lambda data: data["annotations"][0].update(image_id="c"))
    [problem] = index.problems
    assert (problem.frame, problem.reason) == ("", "annotates image 'c', which it does not list")
    assert list(index.images) == [5, "b"]
    assert list(index.annotations) == [5]


def test_images_of_one_name_are_both_left_out() -> None:
    index = indexed(lambda data: data["images"].append({"id": 6, "file_name": "a_one.png", "height": 1, "width": 1}))
    assert [problem.reason for problem in index.problems] == [
        "gives image 5 the name of another one, 'a_one'",
        "gives image 6 the name of another one, 'a_one'",
    ]
    assert list(index.images) == ["b"]


def test_all_problems_are_found_in_one_pass_one_for_an_image() -> None:
    def edit(data: dict[str, Any]) -> None:
        data["images"].append(data["images"][1])
        data["images"][1]["file_name"] = "../two.jpg"
        segments(data)[0]["category_id"] = 99
        segments(data)[1]["id"] = 0
        data["annotations"].append({"image_id": 77, "file_name": "x.png", "segments_info": []})

    index = indexed(edit)
    assert [problem.reason.split()[:3] for problem in index.problems] == [
        ["lists", "image", "'b'"],
        ["annotates", "image", "5"],
        ["annotates", "image", "77,"],
    ]
    assert not index.images
    assert not index.annotations


@pytest.mark.parametrize(
    "name", ["../x", "a/..", "/x", "\\x", "C:x", "C:\\x", "\\\\host\\share\\x", "", ".", "x\0y", "a/../b"]
)
def test_names_that_lead_out_of_the_folder(name: str) -> None:
    assert leaves_folder(name)


@pytest.mark.parametrize("name", ["x", "a/x.png", "./x", "..x", "a..b/c...png", "a b/ü.png"])
def test_names_that_stay_in_the_folder(name: str) -> None:
    assert not leaves_folder(name)


def test_frame_names_serve_as_file_names() -> None:
    assert frame_name("x.y.png") == "x.y"
    assert frame_name("./a/b.png") == "a_b"
    assert frame_name("a\\b.png") == "a_b"
    assert frame_name("noending") == "noending"


def test_an_index_is_kept_until_its_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a/p.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document()), "utf-8")
    index = read_index(tmp_path, "a/p.json")
    assert read_index(tmp_path, "a/p.json") is index
    changed = document()
    changed["images"][0]["file_name"] = "../x.jpg"
    path.write_text(json.dumps(changed), "utf-8")
    assert read_index(tmp_path, "a/p.json").problems[0].file == "a/p.json"
    path.unlink()
    with pytest.raises(InputError, match=r"a/p\.json cannot be read"):
        read_index(tmp_path, "a/p.json")


def slow_decode(ids: np.ndarray, segments: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition, pixel by pixel."""
    listed = {int(row[0]): (int(table[row[1]]), bool(row[2])) for row in segments}
    semantic, instance = np.full(ids.shape, 255), np.zeros(ids.shape, int)
    for place, identity in np.ndenumerate(ids):
        if identity:
            semantic[place], crowd = listed[int(identity)]
            instance[place] = 0 if crowd or semantic[place] == 255 else identity
    return semantic, instance


@pytest.mark.parametrize("seed", range(5))
def test_decoding_follows_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    identities = rng.choice(LAST_ID, count, replace=False).astype(np.int32) + 1
    ids = np.concatenate([identities, rng.choice([0, *identities], 24 * 17 - count)])
    rng.shuffle(ids)
    ids = ids.astype(np.int32).reshape(24, 17)
    table = np.array([4, 255, 0, 254], np.uint8)
    rows = np.stack([identities, rng.integers(0, 4, count), rng.integers(0, 2, count)], 1).astype(np.int32)
    semantic, instance = decode(ids, rows, table, HERE)
    assert (semantic.dtype, instance.dtype) == (np.uint8, np.int32)
    expected = slow_decode(ids, rows, table)
    assert np.array_equal(semantic, expected[0])
    assert np.array_equal(instance, expected[1])


def test_edges_of_decoding() -> None:
    none = np.zeros((0, 3), np.int32)
    semantic, instance = decode(np.zeros((2, 3), np.int32), none, np.zeros(0, np.uint8), HERE)
    assert (semantic == 255).all()
    assert not instance.any()
    assert decode(np.zeros((0, 3), np.int32), none, np.zeros(0, np.uint8), HERE)[0].shape == (0, 3)
    rows = np.array([[LAST_ID, 0, 0]], np.int32)
    semantic, instance = decode(np.full((1, 1), LAST_ID, np.int32), rows, np.array([9], np.uint8), HERE)
    assert (int(semantic[0, 0]), int(instance[0, 0])) == (9, LAST_ID)


@pytest.mark.parametrize("count", [1, 254, 255, 256, 257, 65535, 65536])
def test_any_number_of_segments_is_told_apart(count: int) -> None:
    listed = np.arange(1, count + 1, dtype=np.int32)[::-1] * 7
    found = find_segments(listed[None], listed, HERE)
    assert np.array_equal(found[0], np.arange(1, count + 1))


def test_segments_of_picture_and_json_must_be_the_same() -> None:
    ids = np.array([[0, 4, 9, 70000]], np.int32)
    path = Path("d/x.png")
    assert find_segments(ids, np.array([9, 4, 70000], np.int32), path).tolist() == [[0, 2, 1, 3]]
    with pytest.raises(InputError, match=r"x\.png shows the segment ids \[4, 70000\], which its JSON does not list"):
        find_segments(ids, np.array([9], np.int32), path)
    with pytest.raises(InputError, match=r"x\.png does not show the segment ids \[3, 5\], which its JSON lists"):
        find_segments(ids, np.array([3, 4, 9, 70000, 5], np.int32), path)


def test_ids_are_read_from_colours_with_and_without_alpha(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 255, 256], [65535, 65536, LAST_ID, 1 << 23]], np.int32)
    colours = encode_ids(ids)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([colours, np.full((2, 4), 77, np.uint8)]), "RGBA").save(tmp_path / "rgba.png")
    for name in ("rgb.png", "rgba.png"):
        found = read_segment_ids(tmp_path / name)
        assert found.dtype == np.int32
        assert np.array_equal(found, ids)
    assert np.array_equal(read_colours(tmp_path / "rgb.png"), colours)
    assert (read_colours(tmp_path / "rgba.png")[..., 3] == 77).all()


def test_pictures_that_hold_no_ids_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(InputError, match=r"x\.png cannot be read as a label picture: No such file"):
        read_segment_ids(path)
    for content in (b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.png cannot be read as a label picture: it is damaged or no known"):
            read_segment_ids(path)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(path)
    with pytest.raises(InputError, match=r"x\.png has one channel per pixel; its labels are stored in colours"):
        read_segment_ids(path)
    assert cv2.imwrite(str(path), np.zeros((3, 4, 3), np.uint16))
    with pytest.raises(InputError, match=r"x\.png has 16 bits per channel; its labels are colours of 8 bits"):
        read_segment_ids(path)


def rewritten(json_file: Path, folder: Path, out: Path) -> None:
    """Read a data set, write it to ``out/p.json`` and ``out/p``, and compare content and pixels."""
    data = read_document(json_file)
    write_panoptic(data, lambda name: read_segment_ids(folder / name), out / "p.json", out / "p")
    assert json.loads((out / "p.json").read_text("utf-8")) == json.loads(json_file.read_text("utf-8"))
    names = [record["file_name"] for record in data["annotations"]]
    assert sorted(path.relative_to(out / "p").as_posix() for path in (out / "p").rglob("*.png")) == sorted(names)
    for name in names:
        with Image.open(folder / name) as old, Image.open(out / "p" / name) as new:
            assert (old.mode, old.size) == (new.mode, new.size)
            assert np.array_equal(np.asarray(old), np.asarray(new))
    again, first = index_document(read_document(out / "p.json"), HERE), index_document(data, HERE)
    assert (again.categories, again.images, again.problems) == (first.categories, first.images, ())
    for key, annotation in first.annotations.items():
        assert np.array_equal(again.annotations[key].segments, annotation.segments)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the COCO panoptic sample is not in ../shared/data")
def test_the_real_sample_is_written_back_identically(tmp_path: Path) -> None:
    rewritten(SAMPLE / "panoptic_examples.json", SAMPLE / "panoptic_examples", tmp_path)


@pytest.mark.parametrize("video", [False, True])
def test_a_miniature_is_written_back_identically(tmp_path: Path, video: bool) -> None:
    root = build(tmp_path, video=video).root / "annotations"
    rewritten(root / "panoptic_val2017.json", root / "panoptic_val2017", tmp_path / "out")


def test_what_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    data, ids = document(), np.array([[300, 1, LAST_ID, 0]], np.int32)
    pictures = {"a/one.png": ids, "two.png": ids * 0}
    path, folder = tmp_path / "p.json", tmp_path / "p"
    flawed = deepcopy(data)
    flawed["annotations"][1]["file_name"] = "../x.png"
    with pytest.raises(
        InputError, match=r"p\.json is not written: it annotates image 5 with the file_name '\.\./x\.png'"
    ):
        write_panoptic(flawed, pictures.__getitem__, path, folder)
    with pytest.raises(InputError, match=r"one\.png does not show the segment ids \[300\]"):
        write_panoptic(data, (pictures | {"a/one.png": ids * (ids != 300)}).__getitem__, path, folder)
    assert not path.exists()
    write_panoptic(data, pictures.__getitem__, path, folder)
    assert np.array_equal(read_segment_ids(folder / "a/one.png"), ids)
    assert read_document(path) == data


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("in the way")
    with pytest.raises(StorageError, match=r"/p\S* cannot be written"):
        write_panoptic(document(), lambda _: np.zeros((1, 1), np.int32), tmp_path / "p.json", tmp_path / "p")
