"""The segmenter: frames in any grouping, state, gaps, label spaces, sizes, bad frames and bounded memory."""

import gc
from collections.abc import Iterator
from functools import partialmethod
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.tiny_runs import moving_frames, tiny_segmenter, write_images
from vidapt.clip import FIRST_THING_ID, PanopticFrame
from vidapt.config import TrackingConfig
from vidapt.errors import CheckpointError, ConfigError, InputError, UserError
from vidapt.io.encoder import write_video
from vidapt.io.reader import open_video
from vidapt.labels import CAMVID, CITYSCAPES, LabelClass, LabelSpace
from vidapt.segmenter import Segmenter, find_device, new_tracker

FRAMES = 10


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return moving_frames(FRAMES)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return tiny_segmenter()


@pytest.fixture(scope="module")
def one_by_one(segmenter: Segmenter, frames: list[np.ndarray]) -> list[PanopticFrame]:
    stream = segmenter.stream()
    return [stream.push(frame) for frame in frames]


def assert_same(found: list[PanopticFrame], expected: list[PanopticFrame]) -> None:
    """Equal ids and classes; network outputs of another batch size may flip a pixel in ten thousand."""
    assert [(frame.index, frame.time) for frame in found] == [(frame.index, frame.time) for frame in expected]
    for one, other in zip(found, expected, strict=True):
        kinds = [[(s.id, s.category, s.is_thing) for s in frame.segments] for frame in (one, other)]
        assert kinds[0] == kinds[1]
        assert (one.ids != other.ids).mean() <= 1e-4
        assert (one.semantic != other.semantic).mean() <= 1e-4


def assert_contract(frame: PanopticFrame, space: LabelSpace = CITYSCAPES) -> None:
    assert (frame.semantic.dtype, frame.ids.dtype) == (np.uint8, np.int32)
    assert frame.semantic.shape == frame.ids.shape
    assert frame.semantic.max() < len(space)
    listed = [segment.id for segment in frame.segments]
    assert len(set(listed)) == len(listed)
    assert set(listed) == set(np.unique(frame.ids).tolist()) - {0}
    for segment in frame.segments:
        mask = frame.ids == segment.id
        assert segment.area == mask.sum()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert segment.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert all(type(value) is int for value in (segment.id, segment.area, *segment.box))
        assert 0 <= segment.score <= 1
        assert segment.is_thing == space.is_thing[segment.category]
        assert FIRST_THING_ID <= segment.id < 2**24 if segment.is_thing else segment.id == segment.category + 1


# --- what a frame is


def test_frames_keep_their_contract(one_by_one: list[PanopticFrame]) -> None:
    for frame in one_by_one:
        assert_contract(frame)
    things = [{segment.id for segment in frame.segments if segment.is_thing} for frame in one_by_one]
    assert all(things), "the tiny network should find things in every frame"
    assert any(here & there for here, there in pairwise(things))
    assert [frame.index for frame in one_by_one] == list(range(FRAMES))


def test_small_stuff_is_void_in_the_ids_only(frames: list[np.ndarray], one_by_one: list[PanopticFrame]) -> None:
    found = tiny_segmenter(stuff_area=1.0).segment_image(frames[0])
    assert_contract(found)
    assert {segment.is_thing for segment in found.segments} == {True}
    assert (found.ids == 0).any()
    np.testing.assert_array_equal(found.semantic, one_by_one[0].semantic)


def test_ids_start_anew_for_every_stream(segmenter: Segmenter, frames: list[np.ndarray]) -> None:
    for _ in range(2):
        found = segmenter.stream().push(frames[0])
        assert min(segment.id for segment in found.segments if segment.is_thing) == FIRST_THING_ID


@pytest.mark.parametrize("size", [(48, 80), (96, 160), (97, 161), (33, 51), (24, 40)])
def test_frames_come_back_at_their_own_size(size: tuple[int, int]) -> None:
    segmenter = tiny_segmenter(height=48)
    images = [cv2.resize(frame, size[::-1]) for frame in moving_frames(3)]
    for image, frame in zip(images, segmenter.segment(images), strict=True):
        assert frame.ids.shape == frame.semantic.shape == size
        assert_contract(frame)
        assert frame.overlay(image).shape == image.shape


def test_a_frame_of_another_size_shows_what_the_network_saw(frames: list[np.ndarray]) -> None:
    small = tiny_segmenter().segment_image(frames[0])
    doubled = np.repeat(np.repeat(frames[0], 2, 0), 2, 1)
    large = tiny_segmenter(height=48).segment_image(doubled)
    np.testing.assert_array_equal(large.ids[::2, ::2], small.ids)
    np.testing.assert_array_equal(large.ids[1::2, 1::2], small.ids)
    assert [segment.area for segment in large.segments] == [4 * segment.area for segment in small.segments]


# --- grouping and state


@settings(max_examples=5)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_any_grouping_gives_the_same_ids(
    segmenter: Segmenter, frames: list[np.ndarray], one_by_one: list[PanopticFrame], lengths: list[int]
) -> None:
    stream, found = segmenter.stream(), []
    for length in [*lengths, FRAMES]:
        found += stream.push_clip(frames[len(found) : len(found) + length])
    assert_same(found, one_by_one)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_segment_gives_what_a_stream_gives(
    frames: list[np.ndarray], one_by_one: list[PanopticFrame], batch: int
) -> None:
    found = list(tiny_segmenter(batch=batch).segment(iter(frames)))
    assert [frame.time for frame in found] == [index / 25 for index in range(FRAMES)]
    plain = [PanopticFrame(f.index, float(f.index), f.semantic, f.ids, f.segments) for f in found]
    assert_same(plain, one_by_one)


@pytest.mark.parametrize("lengths", [[1, 2, 3], [4], [0, 7]])
def test_following_the_flow_does_not_depend_on_the_grouping(frames: list[np.ndarray], lengths: list[int]) -> None:
    segmenter = tiny_segmenter(warp=True)
    one_by_one, grouped = segmenter.stream(), segmenter.stream()
    expected = [one_by_one.push(frame) for frame in frames]
    found: list[PanopticFrame] = []
    for length in [*lengths, FRAMES]:
        found += grouped.push_clip(frames[len(found) : len(found) + length])
    assert_same(found, expected)


def test_following_the_flow_smooths_instance_maps_too(frames: list[np.ndarray]) -> None:
    """The second frame is grouped by the mean of its own maps and those of the first, where nothing moves."""
    segmenter = tiny_segmenter(warp=True, smoothing=0.25)
    seen: list[torch.Tensor] = []
    predict = segmenter.network.instance.predict

    def watch(features: Any, semantic: torch.Tensor, *, maps: torch.Tensor) -> Any:
        seen.append(maps)
        return predict(features, semantic, maps=maps)

    still = [frames[0], np.clip(frames[0].astype(int) + 1, 0, 255).astype(np.uint8)]
    own = []
    for frame in still:
        (output,) = segmenter.network_outputs([frame])
        own.append(segmenter.network.instance_maps(output.output))
    with mock.patch.object(segmenter.network.instance, "predict", watch):
        segmenter.stream().push_clip(still)
    torch.testing.assert_close(seen[0], own[0])
    torch.testing.assert_close(seen[1], 0.25 * own[0] + 0.75 * own[1], atol=2e-2, rtol=2e-3)


def test_a_stream_that_follows_the_flow_continues_elsewhere(frames: list[np.ndarray]) -> None:
    segmenter = tiny_segmenter(warp=True)
    whole, first, second = segmenter.stream(), segmenter.stream(), segmenter.stream()
    expected = [whole.push(frame) for frame in frames]
    found = [first.push(frame) for frame in frames[:5]]
    second.load_state_dict(first.state_dict())
    found += [second.push(frame) for frame in frames[5:]]
    assert_same(found, expected)


def test_half_precision_sees_nearly_the_same(segmenter: Segmenter, frames: list[np.ndarray]) -> None:
    """Products are in bf16, probabilities stay float32, and few pixels change."""
    half = tiny_segmenter(precision="bf16")
    with half.running():
        assert half.network.encoder(torch.zeros(1, 3, 64, 64))[0].dtype == torch.bfloat16
    one, other = (next(iter(each.network_outputs(frames[:1]))) for each in (segmenter, half))
    assert other.probabilities.dtype == torch.float32
    assert 0 < (one.probabilities - other.probabilities).abs().max() < 0.05
    for before, after in zip(segmenter.segment(frames), half.segment(frames), strict=True):
        assert_contract(after)
        assert (before.semantic != after.semantic).mean() < 0.05


def test_a_compiled_network_sees_the_same(
    frames: list[np.ndarray], one_by_one: list[PanopticFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through dynamo without code generation; the last group is smaller than the others."""
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        calls.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=backend))
    compiled = tiny_segmenter(compile=True, batch=4)
    stream = compiled.stream()
    assert_same([found for at in range(0, FRAMES, 4) for found in stream.push_clip(frames[at : at + 4])], one_by_one)
    assert len(calls) >= 4
    assert list(compiled.network.state_dict()) == list(tiny_segmenter().network.state_dict())


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_state_continues_a_stream_elsewhere(
    segmenter: Segmenter, frames: list[np.ndarray], one_by_one: list[PanopticFrame], cut: int
) -> None:
    first, second = segmenter.stream(), tiny_segmenter().stream()
    for frame in frames[:cut]:
        first.push(frame)
    second.load_state_dict(first.state_dict())
    rest = [second.push(frame) for frame in frames[cut:]]
    for found, expected in zip(rest, one_by_one[cut:], strict=True):
        np.testing.assert_array_equal(found.ids, expected.ids)
        assert (found.index, found.segments) == (expected.index, expected.segments)


def test_state_is_a_copy(segmenter: Segmenter, frames: list[np.ndarray]) -> None:
    stream = segmenter.stream()
    stream.push(frames[0])
    state = stream.state_dict()
    expected = stream.push(frames[1])
    stream.push(frames[2])
    stream.load_state_dict(state)
    assert stream.push(frames[1]).segments == expected.segments


def test_damaged_state_is_refused(segmenter: Segmenter) -> None:
    state = segmenter.stream().state_dict()
    for part in state:
        with pytest.raises(CheckpointError, match=part):
            segmenter.stream().load_state_dict({name: value for name, value in state.items() if name != part})


def test_reset_starts_a_new_video(
    segmenter: Segmenter, frames: list[np.ndarray], one_by_one: list[PanopticFrame]
) -> None:
    stream = segmenter.stream()
    stream.push_clip(frames[3:7])
    stream.reset()
    found = stream.push(frames[0])
    np.testing.assert_array_equal(found.ids, one_by_one[0].ids)
    assert found.index == 0
    stream.reset()
    assert stream.push(cv2.resize(frames[0], (64, 40))).ids.shape == (40, 64)


def test_no_frames_are_no_frames(segmenter: Segmenter) -> None:
    assert segmenter.stream().push_clip([]) == []


# --- gaps


def ids_of_things(frame: PanopticFrame) -> set[int]:
    return {segment.id for segment in frame.segments if segment.is_thing}


def test_a_gap_ages_tracks_until_they_are_forgotten(segmenter: Segmenter, frames: list[np.ndarray]) -> None:
    memory = segmenter.tracking.memory
    for index, kept in ((1, True), (memory + 1, True), (memory + 2, False)):
        stream = segmenter.stream()
        before = ids_of_things(stream.push(frames[0]))
        after = ids_of_things(stream.push(frames[0], index=index))
        assert bool(before & after) is kept
        assert len(after) == len(before)


def test_a_large_stride_does_not_age_tracks() -> None:
    """Frames 40 apart are neighbours if every 40th frame was asked for."""
    stills = [moving_frames(1)[0]] * 81
    found = list(tiny_segmenter().segment(stills, stride=40))
    assert [frame.index for frame in found] == [0, 40, 80]
    assert ids_of_things(found[0]) == ids_of_things(found[2])
    stream = tiny_segmenter().stream(stride=2)
    assert [frame.index for frame in stream.push_clip(stills[:3])] == [0, 2, 4]
    assert stream.push(stills[0]).index == 6


def test_holes_of_a_reader_age_tracks(tmp_path: Path) -> None:
    folder = write_images([moving_frames(1)[0]] * 40, tmp_path / "frames")
    for index in range(3, 37):
        (folder / f"{index:04d}.png").write_bytes(b"damaged")
    segmenter = tiny_segmenter()
    with open_video(folder) as reader:
        found = [frame for frame, _ in segmenter.segment_reader(reader)]
        assert reader.holes == list(range(3, 37))
    assert [frame.index for frame in found] == [0, 1, 2, 37, 38, 39]
    assert ids_of_things(found[0]) == ids_of_things(found[2])
    assert not ids_of_things(found[2]) & ids_of_things(found[3])


# --- label spaces


def test_probabilities_are_summed_into_the_space() -> None:
    segmenter = tiny_segmenter(CAMVID)
    probabilities = torch.rand(19, 2, 3)
    found = segmenter.to_space(probabilities)
    by_name = {name: probabilities[index] for index, name in enumerate(CITYSCAPES.names)}
    groups = {
        "sky": ["sky"], "building": ["building", "wall"], "pole": ["pole"], "road": ["road"], "sidewalk": ["sidewalk"],
        "tree": ["vegetation", "terrain"], "sign": ["traffic light", "traffic sign"], "fence": ["fence"],
        "car": ["car", "truck", "bus", "train"], "pedestrian": ["person"],
        "bicyclist": ["rider", "motorcycle", "bicycle"],
    }  # fmt: skip
    assert tuple(groups) == CAMVID.names
    for index, names in enumerate(groups.values()):
        torch.testing.assert_close(found[index], sum((by_name[name] for name in names), torch.zeros(2, 3)))
    torch.testing.assert_close(found.sum(0), probabilities.sum(0))


def test_a_sum_can_win_over_the_single_most_probable_class() -> None:
    """0.3 car + 0.3 truck beats 0.4 road, which argmax before mapping would have chosen."""
    segmenter = tiny_segmenter(CAMVID)
    probabilities = torch.zeros(19, 1, 1)
    for name, value in (("road", 0.4), ("car", 0.3), ("truck", 0.3)):
        probabilities[CITYSCAPES.index(name)] = value
    assert CAMVID.names[int(segmenter.to_space(probabilities).argmax(0))] == "car"


def test_frames_in_another_space_keep_their_contract(frames: list[np.ndarray]) -> None:
    for frame in tiny_segmenter(CAMVID).segment(frames[:3]):
        assert_contract(frame, CAMVID)


def test_an_equal_space_changes_nothing(frames: list[np.ndarray], one_by_one: list[PanopticFrame]) -> None:
    copy = LabelSpace("copy", CITYSCAPES.classes)
    assert tiny_segmenter(copy).segment_image(frames[0]).segments == one_by_one[0].segments


def test_a_space_without_a_common_class_is_refused() -> None:
    space = LabelSpace("kitchen", (LabelClass("spoon", True, (1, 2, 3)), LabelClass("table", False, (4, 5, 6))))
    with pytest.raises(ConfigError, match=r"no class of 'cityscapes' is one of 'kitchen' \(spoon, table\)"):
        tiny_segmenter(space)


# --- single images


def test_an_image_as_array_path_or_picture(tmp_path: Path, frames: list[np.ndarray], segmenter: Segmenter) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(frames[0]).save(path)
    expected = segmenter.segment_image(frames[0])
    transparent = Image.fromarray(frames[0]).convert("RGBA")
    for image in (path, str(path), Image.open(path), transparent, frames[0][:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(segmenter.segment_image(image).ids, expected.ids)
    assert (expected.index, expected.time) == (0, 0.0)


GOOD = np.zeros((32, 48, 3), np.uint8)
BAD_FRAMES = {
    "float": GOOD.astype(np.float32),
    "grey": GOOD[..., 0],
    "four channels": np.zeros((32, 48, 4), np.uint8),
    "channels first": GOOD.transpose(2, 0, 1),
    "batch": GOOD[None],
    "empty": GOOD[:0],
    "no array": "frame",
    "nothing": None,
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_wrong_frame_is_one_clear_line(segmenter: Segmenter, frame: Any) -> None:
    stream = segmenter.stream()
    with pytest.raises(InputError, match=r"must be a uint8 array \(H,W,3\) in RGB order, got") as caught:
        stream.push(frame)
    assert "\n" not in str(caught.value)
    assert stream.push(GOOD).index == 0


def test_a_missing_or_damaged_image_file_is_one_clear_line(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    for name in ("none.png", "text.png"):
        with pytest.raises(InputError, match=rf"{name} cannot be read as an image"):
            segmenter.segment_image(tmp_path / name)


@pytest.mark.parametrize(
    ("clip", "options", "words"),
    [
        ([GOOD, GOOD[:16]], {}, "a frame is 48x16 but those before are 48x32"),
        ([GOOD[:16]], {}, "a frame is 48x16 but those before are 48x32"),
        ([GOOD, GOOD], {"indices": [5]}, "2 frames came with 1 indices"),
        ([GOOD, GOOD], {"times": [0.0]}, "2 frames came with 1 times"),
        ([GOOD, GOOD], {"indices": [7, 7]}, "frame 7 follows frame 7"),
        ([GOOD, GOOD], {"indices": [9, 8]}, "frame 8 follows frame 9"),
        ([GOOD], {"indices": [4]}, "frame 4 follows frame 4"),
    ],
)
def test_a_refused_clip_leaves_the_stream_as_it_was(
    segmenter: Segmenter, clip: list[np.ndarray], options: dict[str, Any], words: str
) -> None:
    stream = segmenter.stream()
    stream.push(GOOD, index=4)
    before = stream.state_dict()
    with pytest.raises(InputError, match=words):
        stream.push_clip(clip, **options)
    after = stream.state_dict()
    assert after["last"] == before["last"] == 4
    np.testing.assert_array_equal(after["tracker"]["frame"], before["tracker"]["frame"])
    assert stream.push(GOOD).index == 5


def test_frames_before_a_failing_one_still_come(frames: list[np.ndarray]) -> None:
    """The source fails on the third frame while a batch of four is being gathered."""
    source = [*frames[:2], cv2.resize(frames[2], (64, 32)), frames[3]]
    found = []
    with pytest.raises(InputError, match="frame 2 is"):
        found.extend(frame.index for frame in tiny_segmenter(batch=4).segment(source))
    assert found == [0, 1]


# --- devices and trackers


def test_devices() -> None:
    assert find_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert find_device(None).type == find_device("auto").type == expected
    for name in ("tpu", "gpu", "cuda:99", "", "meta", "cpu:x"):
        with pytest.raises(UserError, match="device"):
            find_device(name)


@pytest.mark.parametrize(
    ("given", "calibrated", "expected"),
    [("calibrated", 0.7, 0.7), ("calibrated", None, None), ("off", 0.7, None), (0.9, 0.7, 0.9), (0, None, 0.0)],
)
def test_embedding_threshold_of_the_tracker(given: Any, calibrated: float | None, expected: float | None) -> None:
    config = TrackingConfig.model_validate({"embedding_threshold": given})
    assert new_tracker(config, 19, calibrated).embedding_threshold == expected


# --- memory


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def endless(count: int) -> Iterator[np.ndarray]:
    """Frames that are made when asked for; things come and go."""
    cycle = moving_frames(40, (32, 48))
    for index in range(count):
        yield cycle[index % 40]


def grown(video: Path, warm: int) -> tuple[int, int]:
    """Bytes that the process grows by after the first ``warm`` frames of a video, and the largest id seen."""
    begin = last = 0
    for number, frame in enumerate(tiny_segmenter().segment(video)):
        last = max([last, *(segment.id for segment in frame.segments)])
        if number == warm:
            gc.collect()
            begin = resident_bytes()
    gc.collect()
    return resident_bytes() - begin, last


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("count", "warm"), [pytest.param(160, 80, id="short"), pytest.param(1500, 200, id="long", marks=pytest.mark.slow)]
)
def test_memory_does_not_grow_with_the_video(tmp_path: Path, count: int, warm: int) -> None:
    write_video(endless(count), tmp_path / "long.mp4", fps=25)
    growth, last = grown(tmp_path / "long.mp4", warm)
    assert last > FIRST_THING_ID + 8, "too few tracks for the test to mean anything"
    assert growth < 4e6, f"{growth / 1e6:.1f} MB more after {count} frames than after {warm}"


def test_the_state_of_a_stream_is_bounded() -> None:
    """What is kept after many frames is what was kept after few, up to the number of tracks."""
    segmenter = tiny_segmenter()
    stream = segmenter.stream()
    sizes = []
    for index, frame in enumerate(endless(120)):
        stream.push(frame)
        if index in (39, 119):
            state = stream.state_dict()
            tracks = len(state["tracker"]["tracks.ids"])
            assert tracks <= segmenter.tracking.max_tracks
            sizes.append(state["stabiliser"]["probabilities"].nbytes + state["stabiliser"]["histogram"].nbytes)
    assert sizes[0] == sizes[1]


def test_a_group_is_no_larger_than_the_batch(frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, seen = tiny_segmenter(batch=3), []
    plain = segmenter.network_outputs
    monkeypatch.setattr(segmenter, "network_outputs", lambda images: seen.append(len(images)) or plain(images))
    list(segmenter.segment(frames))
    assert seen == [3, 3, 3, 1]
