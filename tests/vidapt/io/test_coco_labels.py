"""Classes and instances as panoptic ids and segment records, against a pixel by pixel count."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidapt.io.coco import ID_LIMIT, decode_ids, encode_ids
from vidapt.io.coco_labels import panoptic_labels
from vidapt.labels import CITYSCAPES

THINGS = CITYSCAPES.is_thing
ROAD, PERSON, CAR = 0, 11, 13


def labels(semantic: Any, instance: Any) -> tuple[np.ndarray, list[dict[str, Any]]]:
    return panoptic_labels(np.array(semantic, np.uint8), np.array(instance, np.int32), THINGS)


def counted(semantic: np.ndarray, instance: np.ndarray) -> dict[tuple[int, int], dict[str, Any]]:
    """(class, instance) -> area, box and crowd, found by looking at every pixel; instance 0 for stuff and crowds."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y, x in np.ndindex(*semantic.shape):
        kind, number = int(semantic[y, x]), int(instance[y, x])
        if kind != 255:
            found.setdefault((kind, number if THINGS[kind] else 0), []).append((y, x))
    records = {}
    for (kind, number), places in found.items():
        ys, xs = [y for y, _ in places], [x for _, x in places]
        records[kind, number] = {
            "category_id": kind,
            "area": len(places),
            "bbox": [min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1],
            "iscrowd": int(bool(THINGS[kind]) and number == 0),
        }
    return records


@st.composite
def frames(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A small frame; an instance number belongs to one class."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    semantic = rng.choice([ROAD, 2, PERSON, CAR, 255], (height, width)).astype(np.uint8)
    number = rng.integers(0, 3, (height, width))
    instance = np.where(number > 0, number * 1000 + semantic, 0).astype(np.int32)
    return semantic, instance


@given(frames())
@settings(max_examples=150)
def test_segments_equal_a_pixel_by_pixel_count(frame: tuple[np.ndarray, np.ndarray]) -> None:
    semantic, instance = frame
    ids, segments = panoptic_labels(semantic, instance, THINGS)
    assert (ids.dtype, ids.shape) == (np.int32, semantic.shape)
    assert [segment["id"] for segment in segments] == sorted({*np.unique(ids).tolist()} - {0})
    expected = counted(semantic, instance)
    found = {}
    for segment in segments:
        [(kind, number)] = {
            (int(kind), int(number) if THINGS[kind] else 0)
            for kind, number in zip(semantic[ids == segment["id"]], instance[ids == segment["id"]], strict=True)
        }
        found[kind, number] = {key: value for key, value in segment.items() if key != "id"}
    assert found == expected
    assert np.array_equal(ids == 0, semantic == 255)


def test_ids_say_what_they_are() -> None:
    ids, segments = labels([[ROAD, CAR, CAR, 255]], [[0, 7, 0, 0]])
    assert ids.tolist() == [[ROAD + 1, 256 + 7, CAR + 1, 0]]
    assert [(s["id"], s["category_id"], s["iscrowd"]) for s in segments] == [(1, 0, 0), (14, 13, 1), (263, 13, 0)]


def test_numbers_of_stuff_and_void_do_not_count() -> None:
    ids, segments = labels([[ROAD, ROAD, 255]], [[4, 5, 6]])
    assert ids.tolist() == [[1, 1, 0]]
    assert segments == [{"id": 1, "category_id": 0, "area": 2, "bbox": [0, 0, 2, 1], "iscrowd": 0}]


def test_nothing_but_void() -> None:
    ids, segments = labels(np.full((3, 4), 255), np.zeros((3, 4)))
    assert not ids.any()
    assert segments == []


def test_an_empty_picture() -> None:
    ids, segments = labels(np.zeros((0, 4)), np.zeros((0, 4)))
    assert ids.shape == (0, 4)
    assert segments == []


def test_one_pixel() -> None:
    _, segments = labels([[PERSON]], [[1]])
    assert segments == [{"id": 257, "category_id": PERSON, "area": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0}]


def test_a_segment_in_two_pieces_has_one_box() -> None:
    _, segments = labels([[CAR, ROAD, ROAD], [ROAD, ROAD, CAR]], [[3, 0, 0], [0, 0, 3]])
    assert segments[1] == {"id": 259, "category_id": CAR, "area": 2, "bbox": [0, 0, 3, 2], "iscrowd": 0}


def test_records_are_plain_numbers() -> None:
    _, segments = labels([[CAR, ROAD]], [[3, 0]])
    for segment in segments:
        assert {type(value) for key, value in segment.items() if key != "bbox"} == {int}
        assert {type(value) for value in segment["bbox"]} == {int}


@pytest.mark.parametrize("number", [1, ID_LIMIT - 257])
def test_the_largest_number_fits_into_a_picture(number: int) -> None:
    ids, _ = labels([[CAR, CAR]], [[number, 0]])
    assert np.array_equal(decode_ids(encode_ids(ids)), ids)
    assert ids[0, 0] == 256 + number


@pytest.mark.parametrize("number", [-1, ID_LIMIT - 256, 2**31 - 1])
def test_numbers_that_do_not_fit_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match=rf"instance ids must be 0\.\.{ID_LIMIT - 257}, got"):
        labels([[CAR, CAR]], [[number, 0]])


@pytest.mark.parametrize("kinds", [(CAR, PERSON), (PERSON, CAR)])
def test_an_instance_of_two_classes_is_refused(kinds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="instance 5 has pixels of several classes; instance ids must be unique"):
        labels([[ROAD, kinds[0], kinds[1]]], [[0, 5, 5]])


def test_the_inputs_stay_as_they_were() -> None:
    semantic, instance = np.array([[CAR, ROAD, 255]], np.uint8), np.array([[3, 4, 5]], np.int32)
    panoptic_labels(semantic, instance, THINGS)
    assert semantic.tolist() == [[CAR, ROAD, 255]]
    assert instance.tolist() == [[3, 4, 5]]
