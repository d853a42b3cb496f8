"""ClassMix and IMix over clips, checked pixel by pixel."""

from dataclasses import replace

import pytest
import torch

from vidapt.adaptation.mixing import class_mix, draw_classes, instance_mix
from vidapt.adaptation.pseudo_labels import PseudoLabels
from vidapt.clip import ClipBatch, PanopticTarget


def batch(value: int, semantic: torch.Tensor | None = None, instance: torch.Tensor | None = None) -> ClipBatch:
    """One clip of two 2x4 frames of constant colour."""
    target = None
    if semantic is not None and instance is not None:
        target = PanopticTarget(semantic[None], instance[None], torch.ones(1, 2, dtype=torch.bool))
    return ClipBatch(
        torch.full((1, 2, 3, 2, 4), value, dtype=torch.uint8),
        ("v",),
        torch.arange(2)[None],
        torch.arange(2)[None].double(),
        torch.zeros(1, dtype=torch.int64),
        target,
    )


@pytest.fixture
def source() -> ClipBatch:
    semantic = torch.tensor([[[0, 0, 13, 13], [0, 0, 13, 13]], [[0, 13, 13, 0], [0, 13, 13, 255]]], dtype=torch.uint8)
    return batch(10, semantic, (semantic == 13).int() * 5)


@pytest.fixture
def pseudo() -> PseudoLabels:
    semantic = torch.full((1, 2, 2, 4), 8, dtype=torch.uint8)
    semantic[:, :, 0, 0] = 11
    instance = (semantic == 11).int()
    return PseudoLabels(semantic, instance, torch.tensor([0.5]), torch.tensor([[False, True]]))


def test_half_of_the_classes_rounded_up_and_never_ignore():
    semantic = torch.tensor([0, 1, 2, 3, 4, 255, 255, 255], dtype=torch.uint8).reshape(1, 1, 2, 4)
    chosen = draw_classes(semantic, torch.rand(1, 19, generator=torch.Generator().manual_seed(0)))
    assert chosen.sum() == 3
    assert not chosen[0, 5:].any()


def test_every_class_can_be_chosen():
    semantic = torch.tensor([0, 3, 7, 9], dtype=torch.uint8).reshape(1, 1, 2, 2)
    noise = torch.rand(200, 19, generator=torch.Generator().manual_seed(1))
    chosen = torch.cat([draw_classes(semantic, row[None]) for row in noise])
    assert (chosen.sum(1) == 2).all()
    assert set(chosen.any(0).nonzero().flatten().tolist()) == {0, 3, 7, 9}


def test_no_class_in_an_ignored_clip():
    assert not draw_classes(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), torch.rand(1, 19)).any()


def test_class_mix_pastes_one_class_set_on_all_frames(source, pseudo):
    noise = torch.ones(1, 19)
    noise[0, 13] = 0.0
    mixed = class_mix(source, batch(200), pseudo, noise)
    cars = source.target.semantic == 13
    assert torch.equal(mixed.frames == 10, cars[:, :, None].expand_as(mixed.frames))
    assert torch.equal(mixed.target.semantic, torch.where(cars, source.target.semantic, pseudo.semantic))
    assert torch.equal(mixed.weight, torch.where(cars, 1.0, 0.5))


def test_class_mix_ids_never_clash_and_stay_constant(source, pseudo):
    noise = torch.ones(1, 19)
    noise[0, 13] = 0.0
    ids = class_mix(source, batch(200), pseudo, noise).target.instance
    cars = source.target.semantic == 13
    assert ids[cars].unique().tolist() == [6]
    assert ids[pseudo.instance > 0].unique().tolist() == [1]


def test_instance_mix_pastes_verified_instances_only(source, pseudo):
    mixed = instance_mix(source, batch(200), pseudo)
    pasted = pseudo.instance == 1
    assert torch.equal(mixed.frames == 200, pasted[:, :, None].expand_as(mixed.frames))
    assert mixed.target.instance[pasted].unique().tolist() == [6]
    assert mixed.target.semantic[pasted].unique().tolist() == [11]
    assert torch.equal(mixed.target.semantic[~pasted], source.target.semantic[~pasted])
    assert mixed.target.labelled.all()


def test_instance_mix_without_instances_counts_as_unlabelled(source, pseudo):
    nothing = PseudoLabels(
        pseudo.semantic, torch.zeros_like(pseudo.instance), pseudo.confidence, torch.zeros(1, 2, dtype=torch.bool)
    )
    mixed = instance_mix(source, batch(200), nothing)
    assert torch.equal(mixed.frames, source.frames)
    assert not mixed.target.labelled.any()


# --- rows whose pseudo-labels do not count


@pytest.fixture
def ignored() -> torch.Tensor:
    """The lower row of both frames, and one pixel of the upper row of the second."""
    mask = torch.zeros(1, 2, 2, 4, dtype=torch.bool)
    mask[:, :, 1] = True
    mask[0, 1, 0, 0] = True
    return mask


def test_class_mix_trusts_no_ignored_target_pixel(source, pseudo, ignored):
    """Pasted source pixels keep their trust there: their labels are given, not guessed."""
    noise = torch.ones(1, 19)
    noise[0, 13] = 0.0
    mixed = class_mix(source, replace(batch(200), ignored=ignored), pseudo, noise)
    cars = source.target.semantic == 13
    expected = torch.where(cars, 1.0, torch.where(ignored, 0.0, 0.5))
    assert torch.equal(mixed.weight, expected)
    assert {0.0, 0.5, 1.0} == set(mixed.weight.unique().tolist())
    plain = class_mix(source, batch(200), pseudo, noise)
    assert torch.equal(mixed.frames, plain.frames)
    assert torch.equal(mixed.target.semantic, plain.target.semantic)
    assert torch.equal(mixed.target.instance, plain.target.instance)


def test_instance_mix_trusts_no_ignored_part_of_a_pasted_instance(source, pseudo, ignored):
    mixed = instance_mix(source, replace(batch(200), ignored=ignored), pseudo)
    pasted = pseudo.instance == 1
    expected = torch.where(pasted, torch.where(ignored, 0.0, 0.5), 1.0)
    assert torch.equal(mixed.weight, expected)
    assert mixed.weight[0, 0, 0, 0] == 0.5
    assert mixed.weight[0, 1, 0, 0] == 0.0
    assert torch.equal(mixed.frames, instance_mix(source, batch(200), pseudo).frames)


def test_everything_ignored_leaves_the_source_only(source, pseudo):
    everything = replace(batch(200), ignored=torch.ones(1, 2, 2, 4, dtype=torch.bool))
    noise = torch.ones(1, 19)
    noise[0, 13] = 0.0
    assert torch.equal(class_mix(source, everything, pseudo, noise).weight, (source.target.semantic == 13).float())
    assert torch.equal(instance_mix(source, everything, pseudo).weight, (pseudo.instance == 0).float())


def test_nothing_ignored_changes_nothing(source, pseudo):
    nothing = replace(batch(200), ignored=torch.zeros(1, 2, 2, 4, dtype=torch.bool))
    noise = torch.rand(1, 19, generator=torch.Generator().manual_seed(0))
    for first, second in (
        (class_mix(source, nothing, pseudo, noise), class_mix(source, batch(200), pseudo, noise)),
        (instance_mix(source, nothing, pseudo), instance_mix(source, batch(200), pseudo)),
    ):
        assert torch.equal(first.weight, second.weight)
        assert first.weight.is_contiguous()


def test_what_the_source_ignores_does_not_matter(source, pseudo, ignored):
    """Its labels are given, whatever rows a data section names."""
    noise = torch.ones(1, 19)
    marked = replace(source, ignored=ignored)
    assert torch.equal(
        class_mix(marked, batch(200), pseudo, noise).weight, class_mix(source, batch(200), pseudo, noise).weight
    )
