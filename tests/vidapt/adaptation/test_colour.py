"""Colour transfer: Lab against OpenCV and float64, statistics of the target, one transform for a clip."""

import cv2
import numpy as np
import pytest
import torch

from vidapt.adaptation.colour import clip_statistics, from_lab, to_lab, transfer_colours
from vidapt.config_method import ColourTransferConfig

FULL = ColourTransferConfig()


def rngs(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, clip)) for clip in range(count)]


def noise(shape: tuple[int, ...], low: int, high: int, seed: int = 0) -> torch.Tensor:
    """Values around the middle of a range, for which no channel is cut."""
    rng = np.random.default_rng(seed)
    values = rng.normal((low + high) / 2, (high - low) / 8, shape)
    return torch.from_numpy(values.clip(low, high).round().astype(np.uint8))


def plain_lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab (N,3) of sRGB 0..1 (N,3) in float64, by the textbook."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    red, green, blue = linear.T
    ratio = np.stack([
        (0.412453 * red + 0.357580 * green + 0.180423 * blue) / 0.950456,
        0.212671 * red + 0.715160 * green + 0.072169 * blue,
        (0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.088754,
    ], 1)  # fmt: skip
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def grid(step: int) -> torch.Tensor:
    """All colours whose values are multiples of ``step``, and white, as one frame (1,1,3,1,N)."""
    levels = torch.tensor([*range(0, 255, step), 255], dtype=torch.uint8)
    return torch.cartesian_prod(levels, levels, levels).T[None, None, :, None].contiguous()


# --- Lab


def test_lab_is_that_of_the_textbook() -> None:
    frames = grid(15)
    lab = to_lab(frames)[0, 0, :, 0].T.double().numpy()
    assert np.abs(lab - plain_lab(frames[0, 0, :, 0].T.double().numpy() / 255)).max() < 2e-3


def test_lab_is_that_of_opencv() -> None:
    frames = grid(15)
    lab = to_lab(frames)[0, 0, :, 0].T
    picture = np.ascontiguousarray(frames[0, 0].permute(1, 2, 0).numpy())
    # OpenCV takes its powers from tables; its 8-bit Lab is L · 2.55 and a, b + 128.
    assert np.abs(cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0] - lab.numpy()).max() < 0.5
    rounded = torch.stack([lab[:, 0] * 2.55, lab[:, 1] + 128, lab[:, 2] + 128], 1)
    assert np.abs(cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)[0] - rounded.numpy()).max() < 2


def test_known_colours() -> None:
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0]], dtype=torch.uint8).T[None, None, :, None]
    expected = torch.tensor([[0.0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.2]])
    torch.testing.assert_close(to_lab(colours.contiguous())[0, 0, :, 0].T, expected, atol=0.02, rtol=0)


def test_lab_and_back_is_the_identity() -> None:
    frames = grid(7)
    assert torch.equal(from_lab(to_lab(frames)), frames)


def test_colours_beyond_srgb_are_cut() -> None:
    lab = torch.tensor([[150.0, 0, 0], [-40, 0, 0], [50, 200, 0]]).T[None, :, None]
    frames = from_lab(lab)[0, :, 0].T.tolist()
    assert frames[:2] == [[255] * 3, [0] * 3]
    assert frames[2][0] == 255
    assert frames[2][1] == 0


# --- transfer


def test_statistics_become_those_of_the_target() -> None:
    source, target = noise((2, 3, 3, 32, 40), 90, 160), noise((2, 2, 3, 16, 24), 60, 230, seed=1)
    target[1, :, 0] -= 30
    moved = transfer_colours(source, target, FULL, rngs(2))
    found, wanted = clip_statistics(to_lab(moved)), clip_statistics(to_lab(target))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.15, rtol=0)
    before = clip_statistics(to_lab(source))
    assert all(((ours - theirs).abs() > 1).any() for ours, theirs in zip(before, wanted, strict=True))


def test_statistics_are_means_and_deviations_over_the_clip() -> None:
    lab = to_lab(noise((2, 3, 3, 8, 8), 0, 255))
    mean, spread = clip_statistics(lab)
    for clip in range(2):
        for channel in range(3):
            values = lab[clip, :, channel].double().numpy()
            assert mean[clip, 0, channel, 0, 0].item() == pytest.approx(values.mean(), abs=1e-4)
            assert spread[clip, 0, channel, 0, 0].item() == pytest.approx(values.std(), rel=1e-4)


def test_strength_blends_the_statistics() -> None:
    source, target = noise((1, 2, 3, 32, 32), 100, 160), noise((1, 2, 3, 32, 32), 40, 200, seed=1)
    moved = transfer_colours(source, target, ColourTransferConfig(strength=0.25), rngs(1))
    statistics = [clip_statistics(to_lab(frames)) for frames in (source, target, moved)]
    for before, wanted, found in zip(*statistics, strict=True):
        torch.testing.assert_close(found, 0.75 * before + 0.25 * wanted, atol=0.15, rtol=0)
    assert torch.equal(transfer_colours(source, target, ColourTransferConfig(strength=0), rngs(1)), source)


def test_one_transform_holds_for_all_frames_of_a_clip() -> None:
    """Equal colours stay equal on every frame, although the frames differ in brightness."""
    source = noise((1, 3, 3, 16, 16), 60, 120)
    source[:, 2] += 60
    source[:, :, :, 0] = torch.tensor([90, 100, 110], dtype=torch.uint8).view(3, 1)
    moved = transfer_colours(source, noise((1, 1, 3, 8, 8), 80, 200, seed=1), FULL, rngs(1))
    assert (moved[:, :, :, 0] == moved[:, :1, :, 0, :1]).all()
    assert not torch.equal(moved, source)


def test_clips_are_drawn_with_the_probability_and_the_others_stay() -> None:
    source, target = noise((60, 1, 3, 4, 4), 60, 120), noise((60, 1, 3, 4, 4), 90, 250, seed=1)
    moved = transfer_colours(source, target, ColourTransferConfig(probability=0.3), rngs(60))
    changed = (moved != source).flatten(1).any(1)
    assert 0.15 < changed.float().mean().item() < 0.45
    full = transfer_colours(source, target, FULL, rngs(60))
    assert torch.equal(moved[changed], full[changed])
    assert torch.equal(transfer_colours(source, target, ColourTransferConfig(probability=0), rngs(60)), source)


def test_a_clip_follows_its_own_target_in_any_batch() -> None:
    source, target = noise((3, 2, 3, 8, 8), 60, 120), noise((3, 2, 3, 8, 8), 40, 250, seed=1)
    target[1] = 255 - target[1] // 2
    whole = transfer_colours(source, target, FULL, rngs(3))
    for clip in range(3):
        alone = transfer_colours(source[clip : clip + 1], target[clip : clip + 1], FULL, rngs(1))
        assert (alone[0].int() - whole[clip].int()).abs().max() <= 1


def test_padding_does_not_count() -> None:
    source, target = noise((1, 2, 3, 16, 16), 90, 160), noise((1, 2, 3, 16, 16), 60, 200, seed=1)
    padded = torch.nn.functional.pad(source, (0, 30, 0, 20))
    alone, moved = (transfer_colours(frames, target, FULL, rngs(1)) for frames in (source, padded))
    assert (moved[..., :16, :16].int() - alone.int()).abs().max() <= 1


def test_a_grey_clip_gets_a_tint_but_no_coloured_noise() -> None:
    source = noise((1, 2, 1, 16, 16), 60, 200).repeat(1, 1, 3, 1, 1)
    moved = transfer_colours(source, noise((1, 2, 3, 16, 16), 60, 200, seed=1), FULL, rngs(1))
    lab = to_lab(moved)
    assert clip_statistics(lab)[1][0, 0, 1:].max() < 0.6


@pytest.mark.parametrize("value", [0, 128, 255])
def test_clips_of_one_colour_stay_finite(value: int) -> None:
    source = torch.full((1, 1, 3, 4, 4), value, dtype=torch.uint8)
    target = torch.full((1, 1, 3, 4, 4), 70, dtype=torch.uint8)
    assert (transfer_colours(source, target, FULL, rngs(1)) == 70).all()


def test_autocast_changes_nothing() -> None:
    source, target = noise((1, 1, 3, 16, 16), 60, 120), noise((1, 1, 3, 16, 16), 40, 250, seed=1)
    expected = transfer_colours(source, target, FULL, rngs(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(transfer_colours(source, target, FULL, rngs(1)), expected)


def test_the_frames_themselves_are_left_alone() -> None:
    source, target = noise((2, 1, 3, 4, 4), 60, 120), noise((2, 1, 3, 4, 4), 40, 250, seed=1)
    before = source.clone(), target.clone()
    transfer_colours(source, target, FULL, rngs(2))
    assert torch.equal(source, before[0])
    assert torch.equal(target, before[1])
