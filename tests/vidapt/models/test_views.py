import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidapt.config_model import MultiResolutionConfig
from vidapt.errors import ConfigError
from vidapt.models.views import Window, plan_views, shrink_factor

LENGTH = st.integers(1, 150)


@given(
    size=st.tuples(LENGTH, LENGTH),
    scale=st.sampled_from([1, 0.5, 0.25]),
    detail=st.none() | st.tuples(LENGTH, LENGTH),
    overlap=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_windows_fit_the_frame_and_cover_it(size, scale, detail, overlap, seed):
    views = plan_views(MultiResolutionConfig(context_scale=scale, detail=detail, overlap=overlap), size)
    assert views.grain == 4 / scale
    assert all(0 <= padded - length < views.grain for padded, length in zip(views.padded, size, strict=True))
    seen = np.zeros(views.padded, int)
    windows = views.sliding()
    for window in windows:
        seen[window.top : window.top + window.height, window.left : window.left + window.width] += 1
    assert seen.min() >= 1
    assert len(set(windows)) == len(windows)
    for window in (*windows, views.center(), views.draw(np.random.default_rng(seed))):
        views.check(window)
        assert (window.height, window.width) == views.detail
        assert window.top < size[0]
        assert window.left < size[1]
    wanted = detail or (size[0] / 2, size[1] / 2)
    for got, asked, length in zip(views.detail, wanted, size, strict=True):
        assert min(asked, length) <= got < min(asked, length) + 1 + views.grain


def test_the_windows_of_hrda():
    """1024² crops have nine windows of 512² at a stride of 256; 1024×2048 with windows of 512² has 3×7."""
    views = plan_views(MultiResolutionConfig(), (1024, 1024))
    assert (views.detail, views.step, views.grain, views.grid) == ((512, 512), (256, 256), 8, (256, 256))
    starts = (0, 256, 512)
    assert views.sliding() == [Window(top, left, 512, 512) for top in starts for left in starts]
    assert len(plan_views(MultiResolutionConfig(detail=(512, 512)), (1024, 2048)).sliding()) == 21
    assert views.center() == Window(256, 256, 512, 512)


def test_the_last_window_is_moved_inside():
    views = plan_views(MultiResolutionConfig(detail=(32, 32), overlap=0.25), (32, 90))
    assert [window.left for window in views.sliding()] == [0, 24, 48, 64]
    assert {window.top for window in views.sliding()} == {0}


def test_draws_are_uniform_multiples_of_eight_and_repeat():
    views = plan_views(MultiResolutionConfig(detail=(32, 48)), (61, 90))
    rng = np.random.default_rng(3)
    drawn = [views.draw(rng) for _ in range(700)]
    again = np.random.default_rng(3)
    assert drawn[:20] == [views.draw(again) for _ in range(20)]
    tops, counts = np.unique([window.top for window in drawn], return_counts=True)
    assert tops.tolist() == [0, 8, 16, 24, 32]
    assert counts.min() > 100
    assert np.unique([window.left for window in drawn]).tolist() == [0, 8, 16, 24, 32, 40, 48]


def test_the_context_view_is_the_mean_of_its_pixels():
    frames = torch.rand(2, 3, 13, 18, generator=torch.Generator().manual_seed(0))
    views = plan_views(MultiResolutionConfig(), (13, 18))
    padded = views.pad(frames)
    expected = np.pad(frames.numpy(), ((0, 0), (0, 0), (0, 3), (0, 6)), mode="edge")
    assert np.array_equal(padded.numpy(), expected)
    mean = expected.reshape(2, 3, 8, 2, 12, 2).mean((3, 5))
    np.testing.assert_allclose(views.context(padded).numpy(), mean, atol=1e-6)
    same = plan_views(MultiResolutionConfig(context_scale=1), (16, 24))
    assert same.context(padded) is padded
    assert same.pad(padded) is padded


def test_a_window_cuts_pixels_and_cells_at_the_frame():
    pixels = torch.arange(61 * 90).view(61, 90)
    assert torch.equal(Window(8, 16, 24, 32).cut(pixels), pixels[8:32, 16:48])
    assert Window(32, 64, 32, 32).cut(pixels).shape == (29, 26)
    cells = torch.arange(16 * 23).view(1, 1, 16, 23)
    assert torch.equal(Window(8, 64, 32, 32).cut(cells, 4), cells[..., 2:10, 16:23])


@pytest.mark.parametrize(
    "window",
    [
        Window(4, 0, 32, 32),
        Window(0, 0, 32, 30),
        Window(-8, 0, 32, 32),
        Window(40, 0, 32, 32),
        Window(0, 72, 32, 32),
        Window(0, 0, 0, 32),
        Window(64, 0, 8, 8),
    ],
)
def test_a_window_that_does_not_fit_is_named(window):
    with pytest.raises(ValueError, match=r"does not fit frames of 61x90: .* multiples of 8 within 64x96; take one"):
        plan_views(MultiResolutionConfig(), (61, 90)).check(window)


@pytest.mark.parametrize(("scale", "factor"), [(1, 1), (0.5, 2), (0.25, 4), (0.125, 8)])
def test_shrink_factor(scale, factor):
    assert shrink_factor(MultiResolutionConfig(context_scale=scale)) == factor


@pytest.mark.parametrize("scale", [0.75, 0.6, 1 / 3, 0.2, 0.51])
def test_a_scale_off_the_grid_is_refused(scale):
    with pytest.raises(ConfigError, match=r"context_scale must be 1, 0.5, 0.25 .* got .*; take 0.5"):
        shrink_factor(MultiResolutionConfig(context_scale=scale))
