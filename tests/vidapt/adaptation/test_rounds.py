"""Which parts have begun, and single frames of clips for the student."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from vidapt.adaptation.pseudo_labels import PseudoLabels
from vidapt.adaptation.rounds import Round, active, begun, needs_instances, single_frames
from vidapt.clip import ClipBatch, PanopticTarget
from vidapt.config_method import ClassMixConfig, InstanceMixConfig, MethodConfig, PixelContrastConfig

CLIPS, LENGTH, SIZE = 6, 4, (2, 3)


def numbers(offset: int = 0) -> torch.Tensor:
    """(B,T,H,W) of which every frame has a value of its own."""
    frames = torch.arange(CLIPS * LENGTH).view(CLIPS, LENGTH, 1, 1) + offset
    return frames.expand(CLIPS, LENGTH, *SIZE).clone()


def batch(labelled: torch.Tensor | None = None) -> ClipBatch:
    maps = numbers()
    target = None
    if labelled is not None:
        target = PanopticTarget(maps.to(torch.uint8), maps.int(), labelled)
    return ClipBatch(
        maps[:, :, None].expand(-1, -1, 3, -1, -1).to(torch.uint8),
        ("v",) * CLIPS,
        maps[..., 0, 0],
        maps[..., 0, 0].double(),
        torch.arange(100, 100 + CLIPS),
        target,
        ignored=maps % 2 == 1,
    )


def clips(labelled: torch.Tensor | None = None) -> Round:
    """Clip b shows instance 1 on all frames, and instance 2 on its frame 0 alone."""
    maps = numbers()
    instance = torch.ones_like(maps, dtype=torch.int32)
    instance[:, 0, 0] = 2
    pseudo = PseudoLabels(
        semantic=maps.to(torch.uint8),
        confidence=maps / 100,
        weight=maps / 50,
        confident=torch.arange(CLIPS) / CLIPS,
        instance=instance,
        verified=torch.tensor([[False, True, True]]).repeat(CLIPS, 1),
        instance_weight=torch.tensor([[1.0, 0.5, 0.25]]).repeat(CLIPS, 1),
        category=torch.tensor([[0, 13, 14]], dtype=torch.uint8).repeat(CLIPS, 1),
    )
    every = torch.ones(CLIPS, LENGTH, dtype=torch.bool)
    return Round(batch(every if labelled is None else labelled), batch(), pseudo, 0.5)


def chosen(one: ClipBatch) -> list[int]:
    return (one.indices[:, 0] % LENGTH).tolist()


def test_all_maps_show_one_and_the_same_frame():
    out = single_frames(clips(), 0)
    for one in (out.source, out.target):
        value = one.indices[:, 0]
        assert one.frames.shape == (CLIPS, 1, 3, *SIZE)
        assert (one.frames[:, 0, 0, 0, 0] == value).all()
        assert (one.times[:, 0] == value).all()
        assert one.ignored is not None
        assert (one.ignored == (value % 2 == 1).view(-1, 1, 1, 1)).all()
        assert torch.equal(one.samples, torch.arange(100, 100 + CLIPS))
    given, value = out.source.target, out.source.indices
    assert given is not None
    assert given.semantic.shape == given.instance.shape == (CLIPS, 1, *SIZE)
    assert torch.equal(given.semantic[..., 0, 0], value.to(torch.uint8))
    assert torch.equal(given.instance[..., 0, 0], value.int())
    assert given.labelled.shape == (CLIPS, 1)
    value = out.target.indices
    assert out.pseudo.semantic.shape == out.pseudo.confidence.shape == (CLIPS, 1, *SIZE)
    assert torch.equal(out.pseudo.semantic[..., 0, 0], value.to(torch.uint8))
    assert torch.equal(out.pseudo.confidence[..., 0, 0], value / 100)
    assert torch.equal(out.pseudo.weight[..., 0, 0], value / 50)
    assert out.progress == 0.5


def test_instances_that_the_frame_does_not_show_are_not_verified():
    seen = set()
    for seed in range(4):
        out = single_frames(clips(), seed)
        first = torch.tensor(chosen(out.target)) == 0
        assert torch.equal(out.pseudo.verified, torch.stack([first & False, first | True, first], 1))
        assert torch.equal((out.pseudo.instance == 2).flatten(1).any(1), first)
        seen |= set(first.tolist())
    assert seen == {True, False}
    assert torch.equal(out.pseudo.instance_weight, clips().pseudo.instance_weight)
    assert torch.equal(out.pseudo.category, clips().pseudo.category)


def test_the_same_seed_draws_the_same_frames():
    first, again, other = (single_frames(clips(), seed) for seed in (0, 0, 1))
    for name in ("source", "target"):
        assert chosen(getattr(first, name)) == chosen(getattr(again, name))
        assert chosen(getattr(first, name)) != chosen(getattr(other, name))


def test_source_and_target_frames_are_drawn_apart():
    out = single_frames(clips(), 0)
    assert chosen(out.source) != chosen(out.target)


def test_every_frame_is_drawn_equally_often():
    draws = torch.tensor(
        [chosen(getattr(single_frames(clips(), s), n)) for s in range(200) for n in ("source", "target")]
    )
    share = torch.bincount(draws.flatten(), minlength=LENGTH) / draws.numel()
    assert share.tolist() == pytest.approx([0.25] * 4, abs=0.04)


def test_frames_do_not_depend_on_the_other_clips_of_the_process():
    def part(one: ClipBatch, own: slice) -> ClipBatch:
        target = one.target
        if target is not None:
            target = PanopticTarget(target.semantic[own], target.instance[own], target.labelled[own])
        assert one.ignored is not None
        return ClipBatch(
            one.frames[own],
            one.videos[own],
            one.indices[own],
            one.times[own],
            one.samples[own],
            target,
            one.ignored[own],
        )

    whole, every = single_frames(clips(), 0), clips()
    for own in (slice(0, 1), slice(1, 6)):
        pseudo = PseudoLabels(**{name: value[own] for name, value in vars(every.pseudo).items()})
        out = single_frames(Round(part(every.source, own), part(every.target, own), pseudo, 0.5), 0)
        assert chosen(out.source) == chosen(whole.source)[own]
        assert chosen(out.target) == chosen(whole.target)[own]


def test_source_frames_are_labelled_ones_if_there_are_any():
    labelled = torch.zeros(CLIPS, LENGTH, dtype=torch.bool)
    labelled[:4, 1] = labelled[2:4, 3] = True
    draws = torch.tensor([chosen(single_frames(clips(labelled), seed).source) for seed in range(40)])
    assert set(draws[:, :2].flatten().tolist()) == {1}
    assert set(draws[:, 2:4].flatten().tolist()) == {1, 3}
    assert set(draws[:, 4:].flatten().tolist()) == {0, 1, 2, 3}


def test_clips_of_one_frame_stay_as_they_are():
    one = clips()
    short = {name: value[:, :1] for name, value in vars(one.pseudo).items() if value.ndim == 4}
    short_batch = replace(
        batch(),
        frames=one.target.frames[:, :1],
        indices=one.target.indices[:, :1],
        times=one.target.times[:, :1],
        ignored=None,
    )
    given = Round(short_batch, short_batch, replace(one.pseudo, **short), 0.0)
    out = single_frames(given, 0)
    assert torch.equal(out.target.frames, given.target.frames)
    assert all(torch.equal(value, getattr(given.pseudo, name)) for name, value in vars(out.pseudo).items())
    assert out.target.ignored is None


@pytest.mark.parametrize("part", ["temporal_contrast", "temporal_consistency"])
def test_single_frames_refuse_what_compares_frames(part):
    with pytest.raises(ValidationError, match=f"{part} compares neighbouring ones; set student to clips or {part}"):
        MethodConfig.model_validate({"student": "frames", part: {}})
    MethodConfig.model_validate({"student": "frames", part: {"weight": 0.0}})
    MethodConfig.model_validate({"student": "clips", part: {}})


# --- parts over time


def test_parts_are_active_from_their_start_with_a_weight():
    part = PixelContrastConfig(start=0.5)
    assert begun(None, 1.0) is active(None, 1.0) is None
    assert begun(part, 0.49) is active(part, 0.49) is None
    assert begun(part, 0.5) is active(part, 0.5) is part
    idle = PixelContrastConfig(weight=0.0)
    assert (begun(idle, 0.0), active(idle, 0.0)) == (idle, None)


def test_one_of_two_weights_is_enough():
    assert ClassMixConfig(weight=0.0, instance_weight=1.0).used
    assert InstanceMixConfig(weight=0.0, semantic_weight=1.0).used
    assert not ClassMixConfig(weight=0.0).used
    assert not InstanceMixConfig(weight=0.0).used


@pytest.mark.parametrize(
    ("parts", "before", "after"),
    [
        ({}, False, False),
        ({"class_mix": {}}, False, False),
        ({"class_mix": {"instance_weight": 1.0}}, True, True),
        ({"class_mix": {"weight": 0.0, "instance_weight": 1.0, "start": 0.5}}, False, True),
        ({"instance_mix": {"start": 0.5}}, False, True),
        ({"instance_mix": {"weight": 0.0}}, False, False),
        ({"instance_mix": {"weight": 0.0, "semantic_weight": 1.0}}, True, True),
        ({"identity_contrast": {"start": 0.5}}, False, True),
        ({"identity_contrast": {"weight": 0.0}}, False, False),
        ({"identity_contrast": {"target": False}}, False, False),
    ],
)
def test_instances_are_needed_while_a_part_trains_on_them(parts, before, after):
    method = MethodConfig.model_validate(parts)
    assert [needs_instances(method, progress) for progress in (0.49, 0.5)] == [before, after]
