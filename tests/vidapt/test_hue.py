"""Turning hues: equal to torchvision to the bit."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from vidapt.hue import turn_hue

COLOURS = torch.cartesian_prod(*[torch.arange(0, 256, 5, dtype=torch.uint8)] * 3).T.reshape(3, 52, -1)


@pytest.mark.parametrize("turn", [0.0, 0.5, -0.5, 1 / 3, -1 / 6, 0.0217, -0.249, 0.4999, 1e-9, -1e-9])
def test_equal_to_torchvision(turn):
    given = COLOURS.clone()
    assert torch.equal(turn_hue(given, turn), tv.adjust_hue(COLOURS, turn))
    assert torch.equal(given, COLOURS)


@pytest.mark.parametrize("shape", [(2, 5, 3, 4, 6), (3, 1, 1), (1, 3, 2, 2)])
def test_shapes(shape):
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = turn_hue(frames, 0.2)
    assert (out.shape, out.dtype) == (frames.shape, torch.uint8)
    assert torch.equal(out, tv.adjust_hue(frames, 0.2))


def test_no_frames():
    assert turn_hue(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), 0.1).shape == (0, 3, 4, 4)


def test_a_third_of_the_circle_moves_the_primaries():
    primaries = torch.eye(3, dtype=torch.uint8)[:, None] * 255
    assert torch.equal(turn_hue(primaries, 1 / 3), primaries.roll(1, 0))
