"""Probabilities averaged over neighbouring frames: an independent loop, motion, borders, and clips of one frame."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from vidapt.adaptation.ensembling import mean_over_neighbours
from vidapt.flow import checked_dis_flow

SIZE = (48, 96)


def drive(length: int, step: int) -> Tensor:
    """Two clips uint8 (2,T,3,H,W) of textures that move ``step`` pixels to the left or right each frame."""
    rng = np.random.default_rng(7)
    clips = []
    for sign in (1, -1):
        wide = cv2.resize(rng.integers(0, 255, (12, 60, 3), np.uint8), (SIZE[1] + step * length, SIZE[0]))
        starts = [step * (index if sign > 0 else length - index) for index in range(length)]
        clips.append(np.stack([wide[:, start : start + SIZE[1]] for start in starts]))
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).contiguous()


def random_maps(length: int, classes: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, length, classes, SIZE[0] // 4, SIZE[1] // 4, generator=generator).softmax(2)


def bilinear(maps: np.ndarray, y: float, x: float) -> np.ndarray:
    """Value of (C,h,w) maps at a place in cells, the border repeated."""
    height, width = maps.shape[1:]
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    down, right = y - top, x - left
    upper = (1 - right) * maps[:, top, left] + right * maps[:, top, left + 1]
    lower = (1 - right) * maps[:, top + 1, left] + right * maps[:, top + 1, left + 1]
    return (1 - down) * upper + down * lower


@pytest.mark.parametrize("length", [2, 3])
def test_against_a_loop_over_cells(length: int) -> None:
    frames, maps = drive(length, 5), random_maps(length)
    found = mean_over_neighbours(maps, frames)
    pictures = frames.permute(0, 1, 3, 4, 2).numpy()
    for clip in range(2):
        for time in range(length):
            fields = {
                other: checked_dis_flow(pictures[clip, time], pictures[clip, other])
                for other in (time - 1, time + 1)
                if 0 <= other < length
            }
            for row in range(0, SIZE[0] // 4, 3):
                for column in range(SIZE[1] // 4):
                    values = [maps[clip, time, :, row, column].numpy()]
                    for other, (flow, valid) in fields.items():
                        cell = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                        if valid[cell].mean() > 0.5:
                            dx, dy = flow[cell].mean((0, 1)) / 4
                            values.append(bilinear(maps[clip, other].numpy(), row + dy, column + dx))
                    expected = np.mean(values, axis=0)
                    np.testing.assert_allclose(found[clip, time, :, row, column], expected, atol=1e-5)


def test_what_moves_is_averaged_with_itself() -> None:
    """Maps that move with the picture are as they were; the unmoved mean would blur them."""
    length, cells = 3, 1
    frames = drive(length, 4 * cells)[:1]
    wide = torch.rand(1, 4, SIZE[0] // 4, SIZE[1] // 4 + length, generator=torch.Generator().manual_seed(1))
    maps = torch.stack([wide[..., time : time + SIZE[1] // 4] for time in range(length)], dim=1)
    found = mean_over_neighbours(maps, frames)
    inner = np.s_[..., 2:-2, 3:-3]
    assert (found - maps)[inner].abs().max() < 0.1
    assert (maps.mean(1, keepdim=True) - maps)[inner].abs().max() > 0.4


def test_probabilities_stay_probabilities() -> None:
    found = mean_over_neighbours(random_maps(3), drive(3, 30))
    torch.testing.assert_close(found.sum(2), torch.ones_like(found[:, :, 0]))
    assert (found >= 0).all()


def test_a_still_clip_of_noise_becomes_calmer() -> None:
    maps = random_maps(3, classes=5)
    found = mean_over_neighbours(maps, drive(1, 4).expand(-1, 3, -1, -1, -1).contiguous())
    torch.testing.assert_close(found[:, 1], maps.mean(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, 0], maps[:, :2].mean(1), atol=1e-5, rtol=1e-5)


def test_clips_of_one_frame_are_as_they_were() -> None:
    maps = random_maps(1)
    assert mean_over_neighbours(maps, drive(1, 4)) is maps
