"""Pixel and temporal contrast: values by hand, gating, and independence of the batch."""

import math

import pytest
import torch
from torch.nn import functional as F

from vidapt.adaptation.contrast import clip_flow, pixel_contrast, temporal_contrast
from vidapt.adaptation.memory import MemoryBank
from vidapt.config_method import MemoryBankConfig, PixelContrastConfig, TemporalContrastConfig


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


def plain_pixel_contrast(anchors, labels, stored, stored_labels, temperature: float) -> float:
    """Mean over anchors with a positive of the mean over their positives, in float64, pair by pair."""
    keys = [(key, int(label)) for key, label in zip(anchors, labels, strict=True)]
    keys += [(key, int(label)) for key, label in zip(stored, stored_labels, strict=True) if label != 255]
    losses = []
    for i, (anchor, own) in enumerate(keys[: len(anchors)]):
        scores = [float(F.cosine_similarity(anchor, key, dim=0)) / temperature for key, _ in keys]
        negative = sum(math.exp(scores[j]) for j, (_, label) in enumerate(keys) if label != own)
        positive = [scores[j] for j, (_, label) in enumerate(keys) if label == own and j != i]
        if positive:
            losses.append(sum(math.log(1 + negative / math.exp(s)) for s in positive) / len(positive))
    return sum(losses) / len(losses)


def filled_bank() -> MemoryBank:
    """Two classes of a ring that is partly filled: 6 rows of class 0, 3 of class 1, none of class 2."""
    bank = MemoryBank(3, 4, MemoryBankConfig(size=8, per_step=6), "cpu")
    semantic = torch.tensor([0] * 6 + [1] * 3).repeat_interleave(4).expand(1, 1, 4, 36).to(torch.uint8)
    bank.stage(torch.randn(1, 1, 4, 1, 9, generator=torch.Generator().manual_seed(8)), semantic, generators(1))
    bank.commit()
    return bank


def test_pixel_contrast_with_a_bank_is_the_plain_formula():
    embedding, logits, labels = two_class_clip(noise=1.0)
    # all 64 + 64 cells are anchors, so that the draw does not matter
    config = PixelContrastConfig(total=128, per_class=64, min_pixels=4, temperature=0.3)
    bank = filled_bank()
    loss = pixel_contrast(embedding, logits, labels, config, generators(1), bank)
    anchors = embedding.detach()[0].permute(0, 2, 3, 1).reshape(-1, 4).double()
    own = labels[0, :, 2::4, 2::4].flatten()
    rows, stored = bank.rows()
    assert (stored != 255).sum() == 9
    expected = plain_pixel_contrast(anchors, own, rows.double(), stored, 0.3)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    without = pixel_contrast(embedding, logits, labels, config, generators(1))
    assert without.item() == pytest.approx(plain_pixel_contrast(anchors, own, [], [], 0.3), rel=1e-5)
    assert without.item() != pytest.approx(expected, rel=1e-3)


def test_an_empty_bank_changes_nothing():
    embedding, logits, labels = two_class_clip(noise=1.0)
    bank = MemoryBank(3, 4, MemoryBankConfig(size=8, per_step=6), "cpu")
    losses = [pixel_contrast(embedding, logits, labels, PIXEL, generators(1), memory) for memory in (None, bank)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    assert losses[0].item() > 0


def test_a_bank_gives_a_clip_of_one_class_its_negatives():
    embedding, logits, labels = two_class_clip(noise=1.0)
    labels = torch.zeros_like(labels)
    assert pixel_contrast(embedding, logits, labels, PIXEL, generators(1)).item() == 0
    loss = pixel_contrast(embedding, logits, labels, PIXEL, generators(1), filled_bank())
    assert loss.item() > 0
    (gradient,) = torch.autograd.grad(loss, embedding)
    assert gradient.any()


def test_pixel_contrast_reads_the_bank_and_leaves_it():
    embedding, logits, labels = two_class_clip(noise=1.0)
    bank = filled_bank()
    before = bank.state_dict()
    pixel_contrast(embedding, logits, labels, PIXEL, generators(1), bank).backward()
    assert all(torch.equal(before[name], value) for name, value in bank.state_dict().items())


def test_pixel_contrast_runs_in_half_precision():
    embedding, logits, labels = two_class_clip(noise=1.0)
    full = pixel_contrast(embedding, logits, labels, PIXEL, generators(1), filled_bank())
    half = pixel_contrast(embedding.to(torch.bfloat16), logits, labels, PIXEL, generators(1), filled_bank())
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.02)


def test_logits_may_be_finer_than_the_embedding():
    """A hard anchor is found on the classifier's own grid: the result is that of its middle cells."""
    embedding, _, labels = two_class_clip(noise=1.0)
    fine = torch.randn(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    config = PixelContrastConfig(total=16, per_class=8, min_pixels=4)
    losses = [
        pixel_contrast(embedding, maps, labels, config, generators(1)).item() for maps in (fine, fine[..., 1::2, 1::2])
    ]
    assert losses[0] == losses[1]


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


def test_temporal_contrast_is_the_mean_of_its_clips():
    """A clip in which half of the pairs count weighs as much as one in which all do."""
    embedding, _, labels = two_class_clip(noise=1.0)
    twice = embedding.detach().repeat(2, 1, 1, 1, 1)
    twice[1] += torch.randn(twice[1].shape, generator=torch.Generator().manual_seed(5))
    usable = torch.ones(2, 2, 32, 32, dtype=torch.bool)
    usable[1, :, :16] = False
    flow = 6 * torch.randn(2, 1, 2, 32, 32, generator=torch.Generator().manual_seed(6))
    labels = labels.repeat(2, 1, 1, 1)
    both = temporal_contrast(twice, labels, usable, flow, TEMPORAL, generators(2))
    alone = [
        temporal_contrast(twice[own], labels[own], usable[own], flow[own], TEMPORAL, generators(1, seed=i))
        for i, own in enumerate((slice(0, 1), slice(1, 2)))
    ]
    assert both.item() == pytest.approx(sum(alone).item() / 2, rel=1e-5)
    assert alone[0].item() != pytest.approx(alone[1].item(), rel=1e-2)


def plain_temporal_contrast(embedding, label, usable, flow, temperature: float) -> float:
    """All places of one pair of frames (2,D,h,w), (2,h,w), (2,h,w), flow (2,h,w) in cells; float64, place by place."""
    height, width = label.shape[1:]
    places = []
    for y in range(height):
        for x in range(width):
            ty, tx = round(y + float(flow[1, y, x])), round(x + float(flow[0, y, x]))
            inside = 0 <= ty < height and 0 <= tx < width
            shown = inside and bool(usable[1, ty, tx])
            places.append((y, x, ty, tx, shown))
    losses = []
    for y, x, ty, tx, shown in places:
        if not (shown and usable[0, y, x] and label[0, y, x] == label[1, ty, tx]):
            continue
        anchor = embedding[0, :, y, x]
        own = math.exp(F.cosine_similarity(anchor, embedding[1, :, ty, tx], dim=0) / temperature)
        negative = 0.0
        for _, _, ky, kx, visible in places:
            if visible and label[1, ky, kx] != label[0, y, x]:
                negative += math.exp(F.cosine_similarity(anchor, embedding[1, :, ky, kx], dim=0) / temperature)
        losses.append(-math.log(own / (own + negative)))
    return sum(losses) / len(losses)


def test_temporal_contrast_is_the_plain_formula():
    """Frames of 17x22 pixels are 5x6 cells, the last of them cut; flow, gaps and three classes."""
    generator = torch.Generator().manual_seed(2)
    embedding = torch.randn(1, 2, 3, 5, 6, generator=generator, dtype=torch.float64)
    cells = torch.randint(0, 3, (1, 2, 5, 6), generator=generator)
    free = torch.rand(1, 2, 5, 6, generator=generator) > 0.2
    steps = torch.randint(-1, 2, (1, 1, 2, 5, 6), generator=generator).float()
    label, usable, flow = (
        maps.repeat_interleave(4, -2).repeat_interleave(4, -1)[..., :17, :22] for maps in (cells, free, 4 * steps)
    )
    config = TemporalContrastConfig(total=30, temperature=0.5)
    loss = temporal_contrast(embedding, label.to(torch.uint8), usable, flow, config, generators(1))
    expected = plain_temporal_contrast(embedding[0], cells[0], free[0], steps[0, 0], 0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_ignored_places_do_not_count_in_time():
    embedding, _, labels = two_class_clip(noise=1.0)
    usable = torch.ones_like(labels, dtype=torch.bool)
    hidden = labels.clone()
    hidden[..., :16, :] = 255
    usable_half = usable.clone()
    usable_half[..., :16, :] = False
    ignored = temporal_contrast(embedding, hidden, usable, None, TEMPORAL, generators(1))
    covered = temporal_contrast(embedding, labels, usable_half, None, TEMPORAL, generators(1))
    assert ignored.item() == pytest.approx(covered.item(), rel=1e-6)
    assert ignored.item() > 0


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
