"""The generated street: pinned look, determinism, exact labels, flow, depth and the data set's contract."""

import hashlib
import json
import time
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vidapt.datasets import street_world
from vidapt.datasets.street_world import StreetWorld, overview, render_video
from vidapt.datasets.street_world_render import Lens, depth_map, make_scene, paint
from vidapt.datasets.street_world_scene import Body, Pose, fixed, moving
from vidapt.datasets.street_world_style import STYLES, Look
from vidapt.datasets.street_world_texture import Sheet, Texture
from vidapt.datasets.street_world_things import card
from vidapt.datasets.street_world_traffic import World
from vidapt.errors import UserError

SMALL = (64, 128)
PINS = Path(__file__).with_name("street_world_pins.json")


def frames_of(seed=100, frames=4, **options):
    return list(render_video(seed, frames=frames, **({"size": SMALL} | options)))


@pytest.fixture(scope="module")
def exact():
    """Thirty frames with everything."""
    return frames_of(101, 30, want=("depth", "flow"), size=(96, 192))


def digest(frames) -> str:
    state = hashlib.sha256()
    for frame in frames:
        for array in (frame.image, frame.semantic, frame.instance):
            state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def thumbnail(frames) -> list[float]:
    """Coarse colours and class shares: equal up to rounding on every machine."""
    image = np.mean([cv2.resize(frame.image, (4, 4), interpolation=cv2.INTER_AREA) for frame in frames], axis=0)
    shares = np.bincount(np.concatenate([f.semantic.ravel() for f in frames]), minlength=19) / frames[0].semantic.size
    return [*np.round(image.ravel(), 1).tolist(), *np.round(255 * shares / len(frames), 1).tolist()]


def environment() -> str:
    return f"opencv {cv2.__version__}, numpy {np.__version__}, {cv2.getCPUFeaturesLine()}"


def pins() -> dict:
    videos = {style: frames_of(100, 3, style=style) for style in STYLES}
    return {
        "version": street_world.VERSION,
        "environment": environment(),
        "digest": {style: digest(frames) for style, frames in videos.items()},
        "thumbnail": {style: thumbnail(frames) for style, frames in videos.items()},
    }


@pytest.mark.parametrize("style", STYLES)
def test_value_pinned_look(style):
    """Who changes what is drawn raises VERSION and runs this file as a script, which writes new pins."""
    pinned, frames = json.loads(PINS.read_text()), frames_of(100, 3, style=style)
    assert pinned["version"] == street_world.VERSION
    # Another library or processor may round single pixels differently.
    if environment() == pinned["environment"]:
        assert digest(frames) == pinned["digest"][style]
    np.testing.assert_allclose(thumbnail(frames), pinned["thumbnail"][style], atol=1.0)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(64, 128), (144, 192), (100, 101)])
def test_shapes(style, size):
    frame = frames_of(102, 1, size=size, style=style, want=("image", "depth", "flow"))[0]
    assert frame.image.shape == (*size, 3)
    assert frame.image.dtype == np.uint8
    assert (frame.semantic.shape, frame.semantic.dtype) == (size, np.uint8)
    assert (frame.instance.shape, frame.instance.dtype) == (size, np.int32)
    assert (frame.depth.shape, frame.depth.dtype) == (size, np.float32)
    assert (frame.flow.shape, frame.flow.dtype) == ((*size, 2), np.float32)
    assert (frame.flow_valid.shape, frame.flow_valid.dtype) == (size, np.bool_)
    assert frame.semantic.max() <= 18
    assert np.isfinite(frame.flow[frame.flow_valid]).all()


def test_smoke_large():
    frame = frames_of(103, 1, size=(512, 1024))[0]
    assert len(np.unique(frame.semantic)) >= 8


def test_optional_outputs_are_none():
    frame = frames_of(100, 1)[0]
    assert frame.depth is None
    assert frame.flow is None
    assert frame.flow_valid is None


def test_same_seed_same_video_and_prefix():
    long, short = frames_of(104, 12), frames_of(104, 5)
    assert digest(long[:5]) == digest(short)
    assert digest(frames_of(104, 5, want=("flow",))) == digest(short)
    assert digest(frames_of(105, 5)) != digest(short)


@pytest.mark.parametrize("style", STYLES[1:])
def test_strength(style):
    source = frames_of(106, 2)
    assert digest(frames_of(106, 2, style=style, strength=0.0)) == digest(source)
    mild, full = (frames_of(106, 1, style=style, strength=s)[0].image.astype(int) for s in (0.3, 1.0))
    assert np.abs(full - source[0].image).mean() > np.abs(mild - source[0].image).mean() > 0.5


def test_things_and_ids(exact):
    classes: dict[int, set[int]] = {}
    for frame in exact:
        np.testing.assert_array_equal(frame.instance > 0, frame.semantic >= 11)
        for track in np.unique(frame.instance[frame.instance > 0]):
            classes.setdefault(int(track), set()).update(np.unique(frame.semantic[frame.instance == track]).tolist())
    assert all(len(found) == 1 for found in classes.values())
    first, last = (set(np.unique(exact[index].instance).tolist()) - {0} for index in (0, -1))
    assert first - last
    assert last - first
    assert first & last


def test_scene_is_rich():
    frames = [frame for seed in range(110, 116) for frame in islice(render_video(seed, frames=1), 1)]
    counts = [sum(np.sum(frame.instance == track) >= 20 for track in np.unique(frame.instance)[1:]) for frame in frames]
    assert 5 <= np.mean(counts) <= 20
    assert {0, 1, 2, 5, 7, 8, 9, 10, 11, 12, 13, 18} <= set(np.unique([frame.semantic for frame in frames]).tolist())


def sample(array, flow):
    """Read an array of the next frame where the flow points, nearest pixel."""
    height, width = array.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    column = np.clip(np.rint(x + flow[..., 0]), 0, width - 1).astype(int)
    row = np.clip(np.rint(y + flow[..., 1]), 0, height - 1).astype(int)
    return array[row, column]


def test_value_flow_follows_instances(exact):
    for now, following in zip(exact[:-1:4], exact[1::4], strict=True):
        valid = now.flow_valid
        assert valid.mean() > 0.6
        moved = sample(following.instance, now.flow)
        assert (moved[valid] == now.instance[valid]).mean() >= 0.99
        assert (sample(following.semantic, now.flow)[valid] == now.semantic[valid]).mean() >= 0.99
        things = valid & (now.instance > 0)
        assert things.sum() > 0.4 * (now.instance > 0).sum()


def test_value_flow_explains_the_image(exact):
    warped, still = [], []
    for now, following in zip(exact[:-1:4], exact[1::4], strict=True):
        y, x = np.mgrid[0 : now.image.shape[0], 0 : now.image.shape[1]].astype(np.float32)
        moved = cv2.remap(following.image, x + now.flow[..., 0], y + now.flow[..., 1], cv2.INTER_LINEAR)
        part = now.flow_valid & (np.hypot(*np.moveaxis(now.flow, 2, 0)) > 1.0)
        warped.append(np.abs(moved.astype(float) - now.image)[part].mean())
        still.append(np.abs(following.image.astype(float) - now.image)[part].mean())
    assert np.mean(warped) < 0.6 * np.mean(still)


def test_value_depth_of_the_road(exact):
    height, width = exact[0].semantic.shape
    rows = np.flatnonzero((exact[0].semantic == 0).sum(axis=1) > 20)
    low, high = rows[-1], rows[len(rows) // 2]
    depths = [np.median(exact[0].depth[row][exact[0].semantic[row] == 0]) for row in (low, high)]
    horizon, focal = 0.45 * height, 0.9 * width
    heights = [depth * (row + 0.5 - horizon) / focal for depth, row in zip(depths, (low, high), strict=True)]
    assert heights == pytest.approx([1.47, 1.47], abs=0.2)
    assert exact[0].depth[exact[0].semantic == 10].min() > 500


def plain(color):
    sheet = Sheet(1.0, 1.0, 16)
    sheet.fill(color)
    return Texture(lambda: sheet.pixels)


def test_nearer_surface_wins_whatever_the_order():
    lens, pose = Lens(64, 128, 100.0, 32.0), Pose(np.array([0.0, 1.0, 0.0]), 0.0, 0.0)
    near = Body(13, 1, [card(2.0, 2.0, (plain((200, 0, 0)),))], fixed(0.5, 0.0, 10.0), uid=1)
    far = Body(14, 2, [card(6.0, 3.0, (plain((0, 200, 0)),))], moving(0.0, 20.0, 0.0, 1.0, 0.0), uid=2)
    back = Body(10, 0, [card(400.0, 400.0, (plain((0, 0, 200)),))], fixed(0.0, -200.0, 90.0), uid=3)
    for bodies in ([near, far, back], [back, far, near]):
        painting = paint(make_scene(bodies, 0.0, pose, lens), lens)
        depth, instance = depth_map(painting, lens), painting.instance()
        assert instance[32, 66] == 1
        assert instance[32, 52] == 2
        assert depth[32, 66] == pytest.approx(10.0, rel=1e-4)
        assert depth[32, 52] == pytest.approx(20.0, rel=1e-4)
        assert (instance == 1).sum() == pytest.approx(20 * 20, rel=0.1)


def test_memory_is_bounded():
    world = World((107,), Look())
    sizes = [len(world.bodies(float(moment))) for moment in range(0, 240, 3)]
    assert max(sizes[40:]) < 2.0 * max(sizes[:40])


def world_of(**options):
    return StreetWorld(**({"seed": 108, "videos": 2, "frames": 5, "size": SMALL} | options))


def test_dataset_items():
    world = world_of(clip_length=2, interval=2, style="fog", fps=5.0)
    assert len(world) == 2 * 3
    clip = world[4]
    assert clip.video == world.videos[1]
    assert clip.frames.shape == (2, 3, *SMALL)
    assert clip.frames.dtype == torch.uint8
    assert clip.indices.tolist() == [1, 3]
    assert clip.times.tolist() == pytest.approx([0.2, 0.6])
    assert clip.target.semantic.dtype == torch.uint8
    assert clip.target.instance.dtype == torch.int32
    assert clip.target.labelled.tolist() == [True, True]
    whole = world.video_clip(1)
    assert whole.frames.shape == (5, 3, *SMALL)
    assert torch.equal(whole.frames[3], clip.frames[1])
    assert len({world[i].video for i in range(6)}) == 2


def test_dataset_without_labels():
    assert world_of(labelled=False)[0].target is None
    assert world_of(labelled=False).video_clip(0).target is None


def test_dataset_does_not_depend_on_order_or_cache():
    forward, backward, uncached = world_of(), world_of(), world_of(cache=False)
    last = len(forward) - 1
    first_then_last = forward[0], forward[last]
    last_then_first = backward[last], backward[0]
    assert torch.equal(first_then_last[0].frames, last_then_first[1].frames)
    assert torch.equal(first_then_last[1].frames, last_then_first[0].frames)
    assert torch.equal(uncached[last].frames, first_then_last[1].frames)
    assert torch.equal(uncached[last].target.instance, first_then_last[1].target.instance)


def test_dataset_worlds_differ():
    clips = [
        world_of()[0],
        world_of()[5],
        world_of(seed=109)[0],
        world_of(style="night", strength=0.0)[0],
    ]
    images = [clip.frames.float() for clip in clips]
    for index, first in enumerate(images):
        assert all((first - second).abs().mean() > 5 for second in images[index + 1 :])


def test_dataset_exact_flow():
    world = world_of(videos=1, frames=3)
    flow, valid = world.exact_flow(0)
    assert (flow.shape, valid.shape) == ((2, *SMALL, 2), (2, *SMALL))
    reference = list(render_video((108, 0, 0), frames=2, size=SMALL, want=("flow",)))
    np.testing.assert_array_equal(flow[1], reference[1].flow)
    assert world_of(videos=1, frames=1).exact_flow(0)[0].shape == (0, *SMALL, 2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"style": "rain"}, "choose one of source, fog, night, texture"),
        ({"strength": 1.5}, "between 0 and 1"),
        ({"frames": 0}, "frames >= 1"),
        ({"fps": 0.0}, "fps > 0"),
        ({"size": (16, 128)}, "at least 32"),
        ({"seed": -1}, "non-negative"),
        ({"want": ("normals",)}, "cannot render normals"),
        ({"horizon": 2.0}, "horizon in 0..1"),
    ],
)
def test_exceptions_render(options, match):
    arguments = {"seed": 1, "frames": 1, "size": SMALL} | options
    with pytest.raises(UserError, match=match):
        render_video(arguments.pop("seed"), **arguments)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"videos": 0}, "videos"),
        ({"clip_length": 0}, "clip_length"),
        ({"clip_length": 4, "interval": 2}, "spans 7 frames"),
        ({"style": "rain"}, "no style 'rain'"),
        ({"seed": -3}, "non-negative"),
    ],
)
def test_exceptions_dataset(options, match):
    with pytest.raises(UserError, match=match):
        world_of(**options)


def test_exceptions_index():
    with pytest.raises(IndexError):
        world_of()[10]
    with pytest.raises(IndexError):
        world_of().video_clip(2)


def test_overview_shows_every_style():
    picture = overview(size=SMALL, moment=0)
    assert picture.shape == (4 * 64, 2 * 128, 3)
    tiles = [picture[y : y + 64, x : x + 128].astype(int) for y in (0, 64) for x in (0, 128)]
    assert all(np.abs(first - second).mean() > 3 for i, first in enumerate(tiles) for second in tiles[i + 1 :])


def test_speed():
    """Far below the documented rate, so that it fails only when something is badly wrong."""
    frames_of(100, 2, size=(128, 256))
    start = time.process_time()
    count = len(frames_of(100, 20, size=(128, 256)))
    assert count / (time.process_time() - start) > 12


if __name__ == "__main__":
    PINS.write_text(json.dumps(pins()) + "\n")
