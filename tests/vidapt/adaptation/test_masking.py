"""Masked image consistency: blocks of a grid, one mask for a clip, the share that is hidden, and never all of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidapt.adaptation.masking import HIDDEN, block_count, mask_blocks, visible_blocks
from vidapt.config_method import MaskedConsistencyConfig
from vidapt.models.network import IMAGENET_MEAN, IMAGENET_STD


def rngs(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, clip)) for clip in range(count)]


def bright(clips: int, frames: int, height: int, width: int) -> torch.Tensor:
    """Frames none of whose values is the hidden colour's."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(200, 256, (clips, frames, 3, height, width), dtype=torch.uint8, generator=generator)


def hidden_pixels(masked: torch.Tensor) -> torch.Tensor:
    """bool (B,T,H,W)."""
    return (masked == torch.tensor(HIDDEN, dtype=torch.uint8).view(3, 1, 1)).all(2)


def test_hidden_pixels_are_nothing_after_normalisation() -> None:
    normalised = (np.array(HIDDEN) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert np.abs(normalised).max() < 0.5 / 255 / 0.224
    assert HIDDEN == (124, 116, 104)


@pytest.mark.parametrize(("height", "width", "block"), [(32, 64, 16), (30, 50, 16), (7, 90, 64), (33, 24, 32)])
def test_blocks_share_the_frame_and_agree_with_nearest_upsampling(height: int, width: int, block: int) -> None:
    frames, config = bright(3, 2, height, width), MaskedConsistencyConfig(ratio=0.5, block=block)
    masked = mask_blocks(frames, config, rngs(3))
    for clip, rng in enumerate(rngs(3)):
        grid = torch.from_numpy(visible_blocks((block_count(height, block), block_count(width, block)), 0.5, rng))
        visible = torch.nn.functional.interpolate(grid[None, None].float(), (height, width), mode="nearest")[0, 0] > 0
        for time in range(2):
            assert torch.equal(hidden_pixels(masked)[clip, time], ~visible)
            kept = torch.where(visible, frames[clip, time], masked[clip, time])
            assert torch.equal(kept, masked[clip, time])


def test_the_grid_rounds_to_whole_blocks_and_holds_one_at_least() -> None:
    assert [block_count(pixels, 64) for pixels in (512, 480, 440, 64, 20, 1)] == [8, 8, 7, 1, 1, 1]


def test_one_mask_holds_for_all_frames_of_a_clip_and_clips_differ() -> None:
    masked = hidden_pixels(mask_blocks(bright(2, 4, 64, 64), MaskedConsistencyConfig(ratio=0.5, block=8), rngs(2)))
    assert (masked == masked[:, :1]).all()
    assert not torch.equal(masked[0], masked[1])


@pytest.mark.parametrize("ratio", [0.2, 0.7])
def test_the_hidden_share_is_the_ratio(ratio: float) -> None:
    masked = mask_blocks(bright(40, 1, 32, 32), MaskedConsistencyConfig(ratio=ratio, block=4), rngs(40))
    # 40 clips of 64 blocks: the standard error is below 0.01
    assert hidden_pixels(masked).float().mean().item() == pytest.approx(ratio, abs=0.03)


@given(st.integers(1, 4), st.integers(1, 4), st.floats(0, 1), st.integers(0, 50))
def test_something_stays_visible(rows: int, columns: int, ratio: float, seed: int) -> None:
    assert visible_blocks((rows, columns), ratio, np.random.default_rng(seed)).any()


def test_ratio_0_hides_nothing_and_ratio_1_all_but_one_block() -> None:
    frames = bright(1, 1, 16, 16)
    assert torch.equal(mask_blocks(frames, MaskedConsistencyConfig(ratio=0, block=4), rngs(1)), frames)
    masked = mask_blocks(frames, MaskedConsistencyConfig(ratio=1, block=4), rngs(1))
    assert (~hidden_pixels(masked)).sum() == 16


def test_a_clip_has_the_same_mask_in_any_batch() -> None:
    frames, config = bright(3, 1, 32, 32), MaskedConsistencyConfig(ratio=0.5, block=8)
    whole = mask_blocks(frames, config, rngs(3))
    assert torch.equal(mask_blocks(frames[2:], config, rngs(3)[2:]), whole[2:])
    assert not torch.equal(mask_blocks(frames, config, rngs(3, seed=1)), whole)


def test_the_frames_themselves_are_left_alone() -> None:
    frames = bright(1, 2, 16, 16)
    before = frames.clone()
    masked = mask_blocks(frames, MaskedConsistencyConfig(ratio=1, block=8), rngs(1))
    assert torch.equal(frames, before)
    assert masked.dtype == torch.uint8
    assert masked.shape == frames.shape
