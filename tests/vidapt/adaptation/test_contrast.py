"""Pixel and temporal contrast: values by hand, gating, and independence of the batch."""

import math

import pytest
import torch
from torch.nn import functional as F

from vidapt.adaptation.contrast import clip_flow, pixel_contrast, temporal_contrast
from vidapt.config import PixelContrastConfig, TemporalContrastConfig


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + index) for index in range(count)]


def two_class_clip(noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embedding (1,2,4,8,8), logits (1,2,19,8,8) and labels (1,2,32,32) with classes 0 left and 1 right."""
    labels = torch.zeros(1, 2, 32, 32, dtype=torch.uint8)
    labels[..., 16:] = 1
    embedding = torch.zeros(1, 2, 4, 8, 8)
    embedding[:, :, 0, :, :4] = 1
    embedding[:, :, 1, :, 4:] = 1
    generator = torch.Generator().manual_seed(0)
    embedding = embedding + noise * torch.randn(embedding.shape, generator=generator)
    return embedding.requires_grad_(), torch.zeros(1, 2, 19, 8, 8), labels


PIXEL = PixelContrastConfig(total=64, per_class=32, min_pixels=4, temperature=0.5)


def test_pixel_contrast_of_orthogonal_classes_has_the_closed_form():
    embedding, logits, labels = two_class_clip()
    loss = pixel_contrast(embedding, logits, labels, PIXEL, generators(1))
    # cos 1 to the 31 positives, 0 to the 32 negatives
    expected = math.log(1 + 32 * math.exp(-1 / 0.5))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_pixel_contrast_falls_when_classes_separate():
    mixed, logits, labels = two_class_clip(noise=2.0)
    loss = pixel_contrast(mixed, logits, labels, PIXEL, generators(1))
    (gradient,) = torch.autograd.grad(loss, mixed)
    moved = pixel_contrast(mixed - 5 * gradient, logits, labels, PIXEL, generators(1))
    assert moved.item() < loss.item()


def test_pixel_contrast_ignores_unlabelled_clips():
    embedding, logits, labels = two_class_clip(noise=1.0)
    loss = pixel_contrast(embedding, logits, torch.full_like(labels, 255), PIXEL, generators(1))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, embedding)
    assert not gradient.any()


def test_pixel_contrast_is_the_mean_of_its_clips():
    embedding, logits, labels = two_class_clip(noise=1.0)
    twice = embedding.detach().repeat(2, 1, 1, 1, 1)
    twice[1] += 0.3 * torch.randn(twice[1].shape, generator=torch.Generator().manual_seed(5))
    args = (logits.repeat(2, 1, 1, 1, 1), labels.repeat(2, 1, 1, 1))
    both = pixel_contrast(twice, *args, PIXEL, generators(2))
    alone = [pixel_contrast(twice[i : i + 1], logits, labels, PIXEL, generators(1, seed=i)) for i in range(2)]
    assert both.item() == pytest.approx(sum(alone).item() / 2, rel=1e-5)


TEMPORAL = TemporalContrastConfig(total=64, temperature=0.5)


def test_temporal_contrast_of_a_still_clip_has_the_closed_form():
    embedding, _, labels = two_class_clip()
    usable = torch.ones_like(labels, dtype=torch.bool)
    loss = temporal_contrast(embedding, labels, usable, None, TEMPORAL, generators(1))
    assert loss.item() == pytest.approx(math.log(1 + 32 * math.exp(-1 / 0.5)), rel=1e-5)


def test_temporal_contrast_follows_the_flow():
    """The scene moves by one cell to the right: with the flow the loss is that of a still scene."""
    generator = torch.Generator().manual_seed(3)
    scene = F.normalize(torch.randn(4, 8, 10, generator=generator), dim=0)
    embedding = torch.stack([scene[:, :, 1:9], scene[:, :, 0:8]])[None]
    labels = torch.arange(8).repeat_interleave(4)[:, None].expand(32, 32).to(torch.uint8).expand(1, 2, 32, 32)
    usable = torch.ones(1, 2, 32, 32, dtype=torch.bool)
    flow = torch.zeros(1, 1, 2, 32, 32)
    flow[:, :, 0] = 4.0
    config = TemporalContrastConfig(total=64, temperature=0.05)
    with_flow = temporal_contrast(embedding, labels, usable, flow, config, generators(1))
    without = temporal_contrast(embedding, labels, usable, None, config, generators(1))
    assert with_flow.item() < without.item()


def test_disagreement_of_the_teacher_closes_the_gate():
    embedding, _, labels = two_class_clip(noise=1.0)
    labels = labels.clone()
    labels[:, 1] = 1 - labels[:, 1]
    usable = torch.ones_like(labels, dtype=torch.bool)
    assert temporal_contrast(embedding, labels, usable, None, TEMPORAL, generators(1)).item() == 0


def test_covered_places_do_not_count():
    embedding, _, labels = two_class_clip(noise=1.0)
    covered = torch.zeros_like(labels, dtype=torch.bool)
    loss = temporal_contrast(embedding, labels, covered, None, TEMPORAL, generators(1))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, embedding)
    assert not gradient.any()


def test_covered_places_of_the_next_frame_are_no_negatives():
    """Class 1 is covered in the next frame only: class 0 then has no negatives, and its loss is 0."""
    embedding, _, labels = two_class_clip(noise=1.0)
    usable = torch.ones_like(labels, dtype=torch.bool)
    assert temporal_contrast(embedding, labels, usable, None, TEMPORAL, generators(1)).item() > 0
    usable[:, 1] = labels[:, 1] == 0
    assert temporal_contrast(embedding, labels, usable, None, TEMPORAL, generators(1)).item() == 0


def test_flow_that_leaves_the_frame_does_not_count():
    embedding, _, labels = two_class_clip(noise=1.0)
    usable = torch.ones_like(labels, dtype=torch.bool)
    flow = torch.full((1, 1, 2, 32, 32), 100.0)
    assert temporal_contrast(embedding, labels, usable, flow, TEMPORAL, generators(1)).item() == 0


def test_single_images_have_no_temporal_loss():
    embedding, _, labels = two_class_clip(noise=1.0)
    usable = torch.ones_like(labels[:, :1], dtype=torch.bool)
    loss = temporal_contrast(embedding[:, :1], labels[:, :1], usable, None, TEMPORAL, generators(1))
    assert loss.item() == 0


def test_clip_flow_finds_a_shift():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 12, 20, generator=generator)
    scene = (
        (F.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)[0].expand(3, -1, -1)
    )
    frames = torch.stack([scene[:, 8:72, 8:136], scene[:, 8:72, 5:133]])[None]
    flow = clip_flow(frames)
    assert flow.shape == (1, 1, 2, 64, 128)
    middle = flow[0, 0, :, 16:-16, 16:-16]
    assert float(middle[0].median()) == pytest.approx(3.0, abs=0.5)
    assert float(middle[1].median()) == pytest.approx(0.0, abs=0.5)
