"""Probability smoothing over time and scene cuts."""

import numpy as np
import pytest
import torch

from vidapt.errors import CheckpointError, ConfigError
from vidapt.tracking.stabilise import Stabiliser, colour_histogram, histogram_distance, smooth

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
    with pytest.raises(CheckpointError, match="stabiliser state needs"):
        Stabiliser().load_state_dict({})
