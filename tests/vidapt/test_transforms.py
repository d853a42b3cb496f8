"""Clip transforms: one draw for all frames, exact labels, deterministic from the generator."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vidapt.clip import Clip, PanopticTarget
from vidapt.transforms import (
    StrongAugment,
    TrainTransform,
    crop_clip,
    flip_clip,
    pad_clip,
    resize_clip,
    resize_nearest,
)


def make_clip(frames: int = 2, height: int = 24, width: int = 40, ids: int = 70000) -> Clip:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)
    semantic = torch.randint(0, 19, (frames, height, width), dtype=torch.uint8, generator=generator)
    instance = torch.randint(0, ids, (frames, height, width), dtype=torch.int32, generator=generator)
    target = PanopticTarget(semantic, instance, torch.ones(frames, dtype=torch.bool))
    return Clip(image, "video", torch.arange(frames), torch.arange(frames).double(), target)


def test_train_transform_gives_the_crop_size_and_repeats_with_the_same_generator():
    transform = TrainTransform((16, 16), (0.5, 2.0))
    first, second = (transform(make_clip(), np.random.default_rng(3)) for _ in range(2))
    assert first.frames.shape == (2, 3, 16, 16)
    assert first.target.semantic.shape == (2, 16, 16)
    assert torch.equal(first.frames, second.frames)
    assert torch.equal(first.target.instance, second.target.instance)
    other = transform(make_clip(), np.random.default_rng(4))
    assert not torch.equal(first.frames, other.frames)


def test_crop_moves_image_and_labels_together():
    clip = make_clip()
    image = clip.target.semantic[:, None].expand(-1, 3, -1, -1).contiguous()
    labelled = Clip(image, "v", clip.indices, clip.times, clip.target)
    out = TrainTransform((8, 8))(labelled, np.random.default_rng(0))
    assert torch.equal(out.frames[:, 0], out.target.semantic)


def test_all_frames_of_a_clip_share_one_window():
    clip = make_clip(frames=1)
    still = Clip(clip.frames.repeat(3, 1, 1, 1), "v", torch.arange(3), torch.arange(3).double())
    out = TrainTransform((8, 8), (0.8, 1.5))(still, np.random.default_rng(1))
    assert torch.equal(out.frames[0], out.frames[1])
    assert torch.equal(out.frames[0], out.frames[2])


def test_padding_uses_ignore_and_no_instance():
    out = pad_clip(make_clip(), (30, 44))
    assert out.frames.shape[-2:] == (30, 44)
    assert (out.frames[..., 24:, :] == 0).all()
    assert (out.target.semantic[:, 24:] == 255).all()
    assert (out.target.instance[:, :, 40:] == 0).all()


def test_resize_nearest_keeps_large_ids_exact():
    labels = torch.tensor([[16777217, 5], [7, 2**31 - 1]], dtype=torch.int32)
    assert torch.equal(resize_nearest(labels, (4, 4)), labels.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert torch.equal(resize_nearest(resize_nearest(labels, (4, 4)), (2, 2)), labels)


def test_resize_of_the_same_size_is_the_same_clip():
    clip = make_clip()
    assert resize_clip(clip, (24, 40)) is clip


def test_flip_twice_is_identity_and_crop_takes_the_window():
    clip = make_clip()
    assert torch.equal(flip_clip(flip_clip(clip)).frames, clip.frames)
    window = crop_clip(clip, 2, 3, (5, 6))
    assert torch.equal(window.target.semantic, clip.target.semantic[:, 2:7, 3:9])


def test_unlabelled_clips_are_enlarged_instead_of_padded():
    bright = Clip(torch.full((1, 3, 20, 60), 200, dtype=torch.uint8), "v", torch.arange(1), torch.arange(1).double())
    for seed in range(5):
        out = TrainTransform((32, 48), (0.5, 1.0))(bright, np.random.default_rng(seed))
        assert out.frames.shape == (1, 3, 32, 48)
        assert (out.frames == 200).all()


def test_labelled_clips_are_padded_with_ignore():
    out = TrainTransform((32, 48))(make_clip(), np.random.default_rng(0))
    assert (out.target.semantic == 255).float().mean() == pytest.approx(1 - 24 * 40 / (32 * 48))


def test_unlabelled_clips_pass_through():
    out = TrainTransform((16, 16), (0.5, 1.5))(make_clip().without_target(), np.random.default_rng(0))
    assert out.target is None
    assert out.frames.shape == (2, 3, 16, 16)


def marked_clip(labelled: bool = True) -> Clip:
    """A clip that ignores exactly its bright pixels, a block that is no whole row."""
    clip = make_clip(frames=2)
    ignored = torch.zeros(2, 24, 40, dtype=torch.bool)
    ignored[0, 4:10, 6:20] = ignored[1, 12:20, 30:] = True
    frames = torch.where(ignored[:, None], 200, 50).expand(-1, 3, -1, -1).to(torch.uint8).contiguous()
    return replace(clip, frames=frames, target=clip.target if labelled else None, ignored=ignored)


def test_what_is_ignored_moves_with_its_pixels():
    clip = marked_clip()
    window = crop_clip(clip, 3, 5, (12, 30))
    for changed in (flip_clip(clip), window, flip_clip(window)):
        assert torch.equal(changed.ignored, changed.frames[:, 0] == 200)
        assert changed.ignored.any()


def test_what_is_ignored_is_scaled_like_labels():
    clip = marked_clip()
    for size in ((48, 80), (12, 20), (17, 23), (24, 40)):
        scaled = resize_clip(clip, size)
        assert scaled.ignored.dtype == torch.bool
        assert torch.equal(scaled.ignored, resize_nearest(clip.ignored, size))
    twice = resize_clip(clip, (48, 80)).ignored
    assert torch.equal(twice, clip.ignored.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_padding_is_ignored_where_something_is():
    padded = pad_clip(marked_clip(), (30, 44))
    assert torch.equal(padded.ignored[:, :24, :40], marked_clip().ignored)
    assert padded.ignored[:, 24:].all()
    assert padded.ignored[:, :, 40:].all()
    assert pad_clip(make_clip(), (30, 44)).ignored is None


@pytest.mark.parametrize("labelled", [True, False])
def test_training_crops_carry_what_is_ignored(labelled):
    for seed in range(4):
        out = TrainTransform((16, 24))(marked_clip(labelled), np.random.default_rng(seed))
        assert torch.equal(out.ignored, out.frames[:, 0] == 200)
    big = TrainTransform((32, 48), (0.5, 2.0))(marked_clip(labelled), np.random.default_rng(0))
    assert big.ignored.shape == (2, 32, 48)


def test_clips_that_ignore_nothing_stay_so():
    for labelled in (make_clip(), make_clip().without_target()):
        assert TrainTransform((32, 48), (0.5, 2.0))(labelled, np.random.default_rng(0)).ignored is None
        assert flip_clip(crop_clip(resize_clip(labelled, (30, 50)), 0, 0, (8, 8))).ignored is None


def test_strong_augment_changes_frames_equally_within_a_clip():
    frame = torch.randint(0, 256, (1, 1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames = frame.repeat(2, 3, 1, 1, 1)
    augment = StrongAugment(0.4, 1.0, 1.0)
    out = augment(frames, [np.random.default_rng(seed) for seed in (1, 2)])
    assert out.dtype == torch.uint8
    assert out.shape == frames.shape
    assert torch.equal(out[0, 0], out[0, 2])
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(out[0], frames[0])


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_strong_augment_with_probability_zero_is_identity(jitter):
    frames = make_clip().frames[None]
    out = StrongAugment(jitter, 0.0, 0.0)(frames, [np.random.default_rng(0)])
    assert torch.equal(out, frames)
