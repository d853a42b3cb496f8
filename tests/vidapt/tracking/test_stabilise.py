"""Probability smoothing over time and scene cuts."""

import cv2
import numpy as np
import pytest
import torch

from vidapt.errors import CheckpointError, ConfigError
from vidapt.tracking.stabilise import Stabiliser, colour_histogram, flow_picture, histogram_distance, smooth

GREY = np.full((40, 60, 3), 120, np.uint8)
SKY = np.full((40, 60, 3), (20, 60, 220), np.uint8)


def _maps(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(5, 8, 9, generator=generator).softmax(0) for _ in range(count)]


def test_mean_of_past_and_present():
    first, second = _maps(2)
    stabiliser = Stabiliser(0.25)
    assert torch.equal(stabiliser.update(first, GREY)[0], first)
    smoothed, cut = stabiliser.update(second, GREY)
    assert not cut
    assert torch.allclose(smoothed, 0.25 * first + 0.75 * second, atol=5e-4)
    assert torch.allclose(smoothed.sum(0), torch.ones(8, 9), atol=1e-3)
    assert torch.equal(smooth(first, second, 0.0), second)


def test_flicker_goes_down():
    base = torch.zeros(2, 1, 50)
    generator = torch.Generator().manual_seed(1)
    noisy = [torch.softmax(base + torch.randn(base.shape, generator=generator), 0) for _ in range(30)]

    def flicker(alpha):
        stabiliser = Stabiliser(alpha)
        labels = torch.stack([stabiliser.update(p, GREY)[0].argmax(0) for p in noisy])
        return (labels[1:] != labels[:-1]).float().mean()

    assert flicker(0.5) < 0.8 * flicker(0.0)


def test_zero_alpha_is_off_but_still_sees_cuts():
    stabiliser = Stabiliser(0.0)
    first, second = _maps(2)
    stabiliser.update(first, GREY)
    out, cut = stabiliser.update(second, SKY)
    assert out is second
    assert cut


def test_cut_and_reset_and_new_size_drop_the_past():
    first, second = _maps(2)
    for drop in ("cut", "reset", "size"):
        stabiliser = Stabiliser(0.5)
        stabiliser.update(first[:, :4] if drop == "size" else first, GREY)
        if drop == "reset":
            stabiliser.reset()
        out, cut = stabiliser.update(second, SKY if drop == "cut" else GREY)
        assert torch.equal(out, second)
        assert cut == (drop == "cut")


def test_the_past_fades_over_a_hole():
    first, second = _maps(2)
    stabiliser = Stabiliser(0.5)
    stabiliser.update(first, GREY)
    out, _ = stabiliser.update(second, GREY, frame_gap=3)
    assert torch.allclose(out, 0.125 * first + 0.875 * second, atol=5e-4)


def test_state_continues_elsewhere():
    maps = _maps(6)
    whole = Stabiliser()
    expected = [whole.update(p, GREY)[0] for p in maps]
    first = Stabiliser()
    for p in maps[:3]:
        first.update(p, GREY)
    second = Stabiliser()
    second.load_state_dict({name: values.copy() for name, values in first.state_dict().items()})
    assert all(torch.equal(second.update(p, GREY)[0], e) for p, e in zip(maps[3:], expected[3:], strict=True))
    fresh = Stabiliser()
    fresh.load_state_dict(Stabiliser().state_dict())
    assert torch.equal(fresh.update(maps[0], GREY)[0], maps[0])


def _drive(count, step=4, size=(48, 96)):
    """Frames uint8 (H,W,3) of a picture that moves ``step`` pixels to the left each frame, and its classes by pixel."""
    rng = np.random.default_rng(3)
    wide = cv2.resize(rng.integers(0, 255, (12, 60, 3), np.uint8), (size[1] + step * count, size[0]))
    classes = np.zeros(wide.shape[:2], np.int64)
    classes[:, 40:60] = 1
    places = [slice(step * index, step * index + size[1]) for index in range(count)]
    return [np.ascontiguousarray(wide[:, place]) for place in places], [classes[:, place] for place in places]


def _seen(classes, certainty=0.9):
    """Probabilities (2,h,w) at a quarter of the size for a map of classes."""
    one = torch.from_numpy(classes)[None, None].float()
    share = torch.nn.functional.avg_pool2d(one, 4)[0, 0] * (2 * certainty - 1) + 1 - certainty
    return torch.stack([1 - share, share])


def test_the_past_follows_what_moves():
    """Frames that say nothing keep the classes of the first one where they have gone to, and not where they were."""
    frames, classes = _drive(4)
    blank = torch.full((2, 12, 24), 0.5)
    for warp in (True, False):
        stabiliser = Stabiliser(0.5, warp=warp)
        stabiliser.update(_seen(classes[0]), frames[0])
        for frame in frames[1:]:
            out, cut = stabiliser.update(blank, frame)
            assert not cut
        right = (out[1] > 0.502) == (_seen(classes[-1])[1] > 0.5)
        assert bool(right[2:-2, 2:-5].all()) == warp


def test_what_comes_into_sight_has_no_past():
    frames, _ = _drive(2, step=4)
    first, second = torch.rand(2, 2, 12, 24, generator=torch.Generator().manual_seed(0))
    stabiliser = Stabiliser(0.5, warp=True)
    stabiliser.update(first, frames[0])
    new = stabiliser.update(second, frames[1])[0] == second
    assert new[:, :, -1:].all()
    assert not new[:, :, :-1].any()


def test_following_starts_anew_and_continues_elsewhere():
    frames, classes = _drive(6)
    maps = [_seen(one) for one in classes]
    whole = Stabiliser(warp=True)
    expected = [whole.update(*pair)[0] for pair in zip(maps, frames, strict=True)]
    first, second = Stabiliser(warp=True), Stabiliser(warp=True)
    for pair in zip(maps[:3], frames[:3], strict=True):
        first.update(*pair)
    second.load_state_dict({name: values.copy() for name, values in first.state_dict().items()})
    found = [second.update(*pair)[0] for pair in zip(maps[3:], frames[3:], strict=True)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected[3:], strict=True))
    whole.reset()
    assert torch.equal(whole.update(maps[2], frames[2])[0], maps[2])
    other = np.ascontiguousarray(frames[3][:, :-8])
    assert torch.equal(whole.update(maps[3], other)[0], maps[3])


def test_pictures_for_the_flow_are_bounded():
    assert flow_picture(np.zeros((1080, 1920, 3), np.uint8)).shape == (288, 512)
    assert flow_picture(np.zeros((4000, 3, 3), np.uint8)).shape == (512, 1)
    assert flow_picture(GREY).shape == (40, 60)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 3)])
def test_tiny_frames(size):
    stabiliser, frame = Stabiliser(warp=True), np.zeros((*size, 3), np.uint8)
    for current in _maps(3):
        out, _ = stabiliser.update(current, frame)
        assert torch.allclose(out.sum(0), torch.ones(8, 9), atol=1e-2)


def test_histograms():
    assert colour_histogram(GREY).sum() == pytest.approx(1)
    assert histogram_distance(colour_histogram(GREY), colour_histogram(GREY)) == 0
    assert histogram_distance(colour_histogram(GREY), colour_histogram(SKY)) == pytest.approx(1)
    half = GREY.copy()
    half[:20] = SKY[:20]
    assert histogram_distance(colour_histogram(GREY), colour_histogram(half)) == pytest.approx(0.5)
    assert colour_histogram(np.zeros((1, 1, 3), np.uint8)).sum() == 1


def test_exceptions():
    with pytest.raises(ConfigError, match="smoothing must lie in"):
        Stabiliser(1.0)
    with pytest.raises(CheckpointError, match="stabiliser state lacks histogram, picture, prob"):
        Stabiliser().load_state_dict({})
