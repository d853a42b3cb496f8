"""Which frames are shown as the worst, and which of their pixels are drawn as wrong."""

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidapt.clip import IGNORE, PanopticFrame, Segment
from vidapt.errors import StorageError
from vidapt.evaluation.runner import FrameQuality
from vidapt.jobs.worst_frames import (
    HEIGHT,
    WRONG_CLASS,
    WRONG_SEGMENT,
    WorstFrame,
    WorstFrames,
    error_map,
    write_sheet,
)
from vidapt.labels import CITYSCAPES

ROAD, SKY, PERSON, CAR = (CITYSCAPES.index(name) for name in ("road", "sky", "person", "car"))
TITLE = 18
GAP = 2


def frame_of(ids: np.ndarray, categories: dict[int, int]) -> PanopticFrame:
    """A prediction: things by ``categories``, stuff as train id + 1, 0 = void."""
    semantic = np.where(ids == 0, IGNORE, ids - 1)
    for own, category in categories.items():
        semantic[ids == own] = category
    segments = tuple(Segment(own, c, True, 1.0, int((ids == own).sum()), (0, 0, 0, 0)) for own, c in categories.items())
    return PanopticFrame(0, 0.0, semantic.astype(np.uint8), ids.astype(np.int32), segments)


def target_of(*rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Semantic and instance maps of rows of (class, instance)."""
    pairs = np.array(rows)
    return pairs[..., 0].astype(np.uint8), pairs[..., 1].astype(np.int32)


# --- where a prediction is wrong


def test_each_kind_of_pixel() -> None:
    semantic, instance = target_of(
        [(ROAD, 0), (ROAD, 0), (SKY, 0), (IGNORE, 0), (CAR, 0), (CAR, 0), (CAR, 1), (CAR, 1), (CAR, 2), (CAR, 2)]
    )
    ids = np.array([[1, 0, 1, 1, 300, 1, 301, 301, 301, 302]])
    errors = error_map(semantic, instance, frame_of(ids, {300: CAR, 301: CAR, 302: PERSON}), CITYSCAPES)
    # 301 finds car 1 (2 of 3 pixels) and covers one pixel of car 2, which nothing finds.
    assert errors.tolist() == [[0, 1, 1, 0, 0, 1, 0, 0, 2, 1]]
    assert errors.dtype == np.uint8


def test_right_class_of_an_object_found_in_parts_is_orange() -> None:
    semantic, instance = target_of([(CAR, 5)] * 4 + [(ROAD, 0)])
    halves = frame_of(np.array([[300, 300, 301, 301, 1]]), {300: CAR, 301: CAR})
    assert error_map(semantic, instance, halves, CITYSCAPES).tolist() == [[2, 2, 2, 2, 0]]
    most = frame_of(np.array([[300, 300, 300, 301, 1]]), {300: CAR, 301: CAR})
    assert error_map(semantic, instance, most, CITYSCAPES).tolist() == [[0, 0, 0, 2, 0]]


def test_stuff_in_a_wrong_shape_is_red_only() -> None:
    semantic, instance = target_of([(ROAD, 0)] * 4)
    frame = frame_of(np.array([[1, 11, 11, 11]]), {})
    assert error_map(semantic, instance, frame, CITYSCAPES).tolist() == [[0, 1, 1, 1]]


def test_without_instances_only_classes_are_wrong() -> None:
    semantic, _ = target_of([(CAR, 0), (CAR, 0), (ROAD, 0), (IGNORE, 0)])
    frame = frame_of(np.array([[300, 301, 300, 300]]), {300: CAR, 301: CAR})
    assert error_map(semantic, None, frame, CITYSCAPES).tolist() == [[0, 0, 1, 0]]


def test_ignored_classes_are_not_wrong() -> None:
    """In the convention of CVRN; their pixels stay in the union, so the car that lies on them too is not found."""
    truck = CITYSCAPES.index("truck")
    semantic, instance = target_of([(CAR, 1), (CAR, 1), (truck, 2), (truck, 2), (truck, 2), (ROAD, 0)])
    frame = frame_of(np.array([[300] * 5 + [1]]), {300: CAR})
    assert error_map(semantic, instance, frame, CITYSCAPES).tolist() == [[2, 2, 1, 1, 1, 0]]
    assert error_map(semantic, instance, frame, CITYSCAPES, [truck]).tolist() == [[2, 2, 0, 0, 0, 0]]
    void = np.where(semantic == truck, IGNORE, semantic).astype(np.uint8)
    assert error_map(void, instance, frame, CITYSCAPES).tolist() == [[0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(6))
def test_random_frames_against_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.choice([ROAD, SKY, PERSON, CAR, IGNORE], (4, 6)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    instance = rng.integers(0, 4, (4, 6)).repeat(4, 0).repeat(4, 1).astype(np.int32)
    instance[(blocks != PERSON) & (blocks != CAR)] = 0
    instance += 10 * (instance > 0) * (blocks == CAR)
    categories = {300 + k: c for k, c in enumerate([PERSON, PERSON, PERSON, PERSON, CAR, CAR, CAR, CAR])}
    right = np.where(instance > 10, 304 + instance - 10, np.where(instance > 0, 300 + instance, blocks.astype(int) + 1))
    right = np.where(blocks == IGNORE, rng.choice([1, 304], blocks.shape), right)
    right = np.where((instance == 0) & (blocks == CAR), 304, np.where((instance == 0) & (blocks == PERSON), 300, right))
    ids = np.roll(right, rng.integers(-2, 3, 2), (0, 1))
    ids = np.where(rng.random(ids.shape) < 0.1, 0, ids)
    frame = frame_of(ids, categories)
    errors = error_map(blocks, instance, frame, CITYSCAPES)
    np.testing.assert_array_equal(errors, plain_errors(blocks, instance, frame, categories))
    assert set(np.unique(errors)) == {0, 1, 2}
    assert not errors[blocks == IGNORE].any()


def plain_errors(
    semantic: np.ndarray, instance: np.ndarray, frame: PanopticFrame, categories: dict[int, int]
) -> np.ndarray:
    """Pairs of one object and one segment of its class with IoU above 0.5, void aside, are found."""
    found = []
    for own in np.unique(instance[instance > 0]).tolist():
        for other, category in categories.items():
            a, b = instance == own, frame.ids == other
            union = (a | (b & (semantic != IGNORE))).sum()
            if (semantic[a] == category).all() and (a & b).sum() / union > 0.5:
                found.append((own, other))
    errors = np.zeros(semantic.shape, np.uint8)
    for place in np.ndindex(semantic.shape):
        if semantic[place] == IGNORE:
            continue
        if frame.semantic[place] != semantic[place]:
            errors[place] = 1
        elif instance[place] > 0:
            is_found = instance[place] in [own for own, _ in found]
            errors[place] = 0 if is_found and frame.ids[place] in [other for _, other in found] else 2
    return errors


# --- which frames are kept


def scene(height: int = HEIGHT, width: int = 300) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], PanopticFrame]:
    """A picture, its target with void above, road and two cars, and a prediction with both kinds of errors."""
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    semantic = np.full((height, width), ROAD, np.uint8)
    semantic[: height // 4] = IGNORE
    instance = np.zeros((height, width), np.int32)
    ids = np.ones((height, width), np.int32)
    bottom = slice(height // 2, height)
    for number, left in enumerate((0, width // 2), 1):
        semantic[bottom, left : left + width // 4] = CAR
        instance[bottom, left : left + width // 4] = number
    ids[bottom, : width // 4] = 300  # found
    ids[bottom, width // 2 : width // 2 + width // 12] = 301  # a third of the second car
    ids[: height // 2, -width // 4 :] = 11  # sky on void and on road
    return image, (semantic, instance), frame_of(ids, {300: CAR, 301: CAR})


def kept(count: int, qualities: dict[str, FrameQuality | None], **options: Any) -> tuple[WorstFrame, ...]:
    frames = WorstFrames(count, CITYSCAPES, **options)
    for name, quality in qualities.items():
        frames.add(name, quality, *scene(40, 60))
    return frames.worst_first()


def names(frames: tuple[WorstFrame, ...]) -> list[str]:
    return [frame.name for frame in frames]


def test_the_worst_come_first_and_ties_go_by_name() -> None:
    values = {"e": 0.2, "b": 0.5, "d": 0.1, "c": 0.2, "a": 0.9}
    qualities = {name: FrameQuality(miou=0.0, pq=value) for name, value in values.items()}
    for order in permutations(qualities):
        given = {name: qualities[name] for name in order}
        assert names(kept(3, given)) == ["d", "c", "e"]
        assert names(kept(9, given)) == ["d", "c", "e", "b", "a"]
        assert kept(0, given) == ()


def test_kept_frames_of_several_processes_are_joined() -> None:
    values = {"e": 0.2, "b": 0.5, "d": 0.1, "c": 0.2}
    parts = [kept(2, {name: FrameQuality(0.0, value)}) for name, value in values.items()]
    for order in permutations(parts):
        frames = WorstFrames(2, CITYSCAPES)
        for part in order:
            frames.extend(part)
        assert names(frames.worst_first()) == ["d", "c"]


def test_pq_ranks_where_there_are_instances_and_miou_elsewhere() -> None:
    (frame,) = kept(1, {"x": FrameQuality(miou=0.25, pq=0.75)})
    assert (frame.score, frame.metric) == (0.75, "PQ")
    (frame,) = kept(1, {"x": FrameQuality(miou=0.25, pq=None)})
    assert (frame.score, frame.metric) == (0.25, "mIoU")


def test_frames_that_say_nothing_are_never_shown() -> None:
    """Without labels, and with labels of which none is scored."""
    nothing = {
        "no labels": None,
        "all void": FrameQuality(np.nan, np.nan),
        "no scored class": FrameQuality(np.nan, None),
    }
    assert kept(3, nothing) == ()
    assert names(kept(3, {**nothing, "seen": FrameQuality(1.0, 1.0)})) == ["seen"]


# --- the picture


def test_panels_show_errors_at_the_wrong_pixels_only() -> None:
    image, target, frame = scene()
    frames = WorstFrames(1, CITYSCAPES)
    frames.add("x", FrameQuality(0.5, 0.5), image, target, frame)
    picture, labels, prediction, errors = frames.worst_first()[0].panels
    expected = error_map(*target, frame, CITYSCAPES)
    assert {1, 2} <= set(np.unique(expected))
    for value, colour in ((1, WRONG_CLASS), (2, WRONG_SEGMENT)):
        np.testing.assert_array_equal((errors == colour).all(-1), expected == value)
    assert (np.ptp(errors[expected == 0], axis=-1) == 0).all(), "the rest is grey"
    np.testing.assert_array_equal(picture, image)
    objects, found = target[1], np.where(frame.ids >= 300, frame.ids, 0)
    np.testing.assert_array_equal(labels, outlined(target[0], objects))
    np.testing.assert_array_equal(prediction, outlined(frame.semantic, found))
    assert (labels == 255).all(-1).any()


def outlined(semantic: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Class colours; white where the object differs from that to the right or below."""
    picture = CITYSCAPES.palette[semantic]
    for y, x in np.ndindex(ids.shape):
        right, below = ids[y, min(x + 1, ids.shape[1] - 1)], ids[min(y + 1, ids.shape[0] - 1), x]
        if ids[y, x] != right or ids[y, x] != below:
            picture[y, x] = 255
    return picture


def test_neighbouring_objects_of_one_class_are_told_apart() -> None:
    """By outlines, in target and prediction; without instances there are none."""
    image, (semantic, instance), _ = scene()
    semantic[:], instance[:, :150], instance[:, 150:] = CAR, 1, 2
    frame = frame_of(np.where(np.arange(HEIGHT)[:, None] < 80, 300, np.full(semantic.shape, 301)), {300: CAR, 301: CAR})
    frames = WorstFrames(2, CITYSCAPES)
    frames.add("with", FrameQuality(0.1, 0.1), image, (semantic, instance), frame)
    frames.add("without", FrameQuality(0.2, None), image, (semantic, None), frame)
    first, second = (found.panels for found in frames.worst_first())
    assert np.unique(np.flatnonzero((first[1] == 255).all(-1).all(0))).tolist() == [149]
    assert np.unique(np.flatnonzero((first[2] == 255).all(-1).all(1))).tolist() == [79]
    assert not any((panel == 255).all(-1).any() for panel in second[1:3])


def test_panels_of_large_frames_are_scaled_alike() -> None:
    (frame,) = kept(1, {"x": FrameQuality(0.5, 0.5)})
    assert {panel.shape for panel in frame.panels} == {(HEIGHT, 60 * HEIGHT // 40, 3)}


def test_protocol_classes_that_are_ignored_are_not_drawn_as_wrong() -> None:
    (frame,) = kept(1, {"x": FrameQuality(0.5, 0.5)}, ignored=[ROAD, CAR])
    errors = frame.panels[3]
    assert not (errors == WRONG_CLASS).all(-1).any()
    assert not (errors == WRONG_SEGMENT).all(-1).any()


def sheet_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_rows_of_the_sheet(tmp_path: Path) -> None:
    frames = kept(3, {"good": FrameQuality(0, 0.9), "bad": FrameQuality(0, 0.1), "so so": FrameQuality(0, 0.5)})
    write_sheet(frames, tmp_path / "new" / "sheet.png")
    sheet = sheet_of(tmp_path / "new" / "sheet.png")
    height, width = HEIGHT + TITLE + GAP, frames[0].panels[0].shape[1] + GAP
    assert sheet.shape == (3 * height - GAP, 4 * width - GAP, 3)
    for row, frame in enumerate(frames):
        for column, panel in enumerate(frame.panels):
            top, left = row * height + TITLE, column * width
            np.testing.assert_array_equal(sheet[top : top + HEIGHT, left : left + width - GAP], panel)
            title = sheet[top - TITLE : top, left : left + width - GAP]
            assert (title < 128).any(), "a title is written above each panel"


def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    frames = kept(2, {"a": FrameQuality(0, 0.9), "b": FrameQuality(0, 0.1)})
    for name in ("one.png", "two.png"):
        write_sheet(frames, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_nothing_to_show_says_so(tmp_path: Path) -> None:
    write_sheet((), tmp_path / "sheet.png")
    sheet = sheet_of(tmp_path / "sheet.png")
    assert sheet.shape == (HEIGHT + TITLE, 400, 3)
    assert (sheet[:TITLE] < 128).sum() > 100, "a line of text"
    assert (sheet[TITLE:] == 255).all()


def test_the_ending_of_the_file_does_not_matter(tmp_path: Path) -> None:
    write_sheet((), tmp_path / "sheet")
    with Image.open(tmp_path / "sheet") as picture:
        assert picture.format == "PNG"


def test_a_sheet_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path, tmp_path / "file" / "sheet.png"):
        with pytest.raises(StorageError, match=rf"{path} cannot be written \("):
            write_sheet((), path)
