"""ClassMix and IMix over clips, checked pixel by pixel."""

from dataclasses import replace

import pytest
import torch

from vidapt.adaptation.mixing import MixedClips, class_mix, draw_classes, instance_mix, unmixed
from vidapt.adaptation.pseudo_labels import PseudoLabels
from vidapt.clip import ClipBatch, PanopticTarget
from vidapt.kernels.paste import instance_stats
from vidapt.models.instance.targets import weight_by_id


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


def labels(semantic: torch.Tensor, instance: torch.Tensor, trust: float | torch.Tensor = 0.5) -> PseudoLabels:
    """Pseudo-labels of constant trust, and 0.25 in every instance that a clip shows."""
    count = int(instance.max()) + 1
    verified = torch.stack([(instance == k).flatten(1).any(1) & (k > 0) for k in range(count)], 1)
    weight = torch.as_tensor(trust).expand(semantic.shape).contiguous()
    return PseudoLabels(
        semantic=semantic,
        confidence=torch.full(semantic.shape, 0.75),
        weight=weight,
        confident=weight.mean((1, 2, 3)),
        instance=instance,
        verified=verified,
        instance_weight=torch.where(verified, 0.25, 1.0),
        category=verified * torch.tensor(12, dtype=torch.uint8),
    )


@pytest.fixture
def source() -> ClipBatch:
    semantic = torch.tensor([[[0, 0, 13, 13], [0, 0, 13, 13]], [[0, 13, 13, 0], [0, 13, 13, 255]]], dtype=torch.uint8)
    return batch(10, semantic, (semantic == 13).int() * 5)


@pytest.fixture
def pseudo() -> PseudoLabels:
    semantic = torch.full((1, 2, 2, 4), 8, dtype=torch.uint8)
    semantic[:, :, 0, 0] = 11
    return labels(semantic, (semantic == 11).int())


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
    assert mixed.target.instance[pasted].unique().tolist() == [1]
    assert mixed.target.instance[~pasted].unique().tolist() == [0, 6]
    assert mixed.target.semantic[pasted].unique().tolist() == [11]
    assert torch.equal(mixed.target.semantic[~pasted], source.target.semantic[~pasted])
    assert mixed.target.labelled.all()


def test_instance_mix_without_instances_counts_as_unlabelled(source, pseudo):
    nothing = labels(pseudo.semantic, torch.zeros_like(pseudo.instance))
    mixed = instance_mix(source, batch(200), nothing)
    assert torch.equal(mixed.frames, source.frames)
    assert not mixed.target.labelled.any()


def test_source_things_are_pasted_over_the_target(source, pseudo):
    source.target.instance[0, 1, 0, 1] = 0
    mixed = instance_mix(source, batch(200), pseudo, "source_to_target")
    things = source.target.instance == 5
    assert torch.equal(mixed.frames == 10, things[:, :, None].expand_as(mixed.frames))
    assert torch.equal(mixed.target.semantic, torch.where(things, source.target.semantic, pseudo.semantic))
    assert torch.equal(mixed.target.instance, torch.where(things, 6, pseudo.instance))
    assert torch.equal(mixed.weight, torch.where(things, 1.0, 0.5))
    assert mixed.target.labelled.all()


def test_target_clips_that_receive_nothing_count_as_unlabelled(source, pseudo):
    source.target.instance.zero_()
    mixed = instance_mix(source, batch(200), pseudo, "source_to_target")
    assert torch.equal(mixed.frames, batch(200).frames)
    assert not mixed.target.labelled.any()


def test_unmixed_clips_are_the_target(pseudo):
    clips = unmixed(batch(200), pseudo)
    assert torch.equal(clips.frames, batch(200).frames)
    assert clips.target.semantic is pseudo.semantic
    assert clips.target.instance is pseudo.instance
    assert clips.weight is pseudo.weight
    assert clips.instance_weight is pseudo.instance_weight
    assert clips.target.labelled.all()
    assert not clips.from_source.any()


# --- ids, weights of instances, geometry


def boxes(ids: torch.Tensor, count: int) -> torch.Tensor:
    return instance_stats(ids, count).box[0]


def row(values: list[int], dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """One clip of frames that are the digits of each number, e.g. 1100 -> two pixels of 1 and two of 0."""
    return torch.tensor([[[[int(digit) for digit in f"{value:06d}"]] for value in values]], dtype=dtype)


def clip(ids: torch.Tensor, value: int) -> ClipBatch:
    """A labelled clip whose things are those of ``ids``."""
    clips, length = ids.shape[:2]
    return ClipBatch(
        torch.full((clips, length, 3, *ids.shape[2:]), value, dtype=torch.uint8),
        ("v",) * clips,
        torch.zeros(clips, length, dtype=torch.int64),
        torch.zeros(clips, length).double(),
        torch.arange(clips),
        PanopticTarget((ids > 0).to(torch.uint8) * 13, ids, torch.ones(clips, length, dtype=torch.bool)),
    )


def pasted(source_ids: list[int], target_ids: list[int], direction: str = "target_to_source") -> MixedClips:
    below, above = row(source_ids), row(target_ids)
    pseudo = labels((above > 0).to(torch.uint8) * 11, above)
    return instance_mix(clip(below, 10), clip(above, 200), pseudo, direction)


def test_covered_boxes_shrink_and_fully_covered_ones_vanish():
    mixed = pasted([111000, 111000, 111000], [0, 1000, 111000])
    assert mixed.target.instance[0, :, 0].tolist() == [[2, 2, 2, 0, 0, 0], [2, 2, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert boxes(mixed.target.instance, 2)[:, 2].tolist() == [[0, 0, 3, 1], [0, 0, 2, 1], [0, 0, 0, 0]]
    assert boxes(mixed.target.instance, 2)[:, 1].tolist() == [[0, 0, 0, 0], [2, 0, 3, 1], [0, 0, 3, 1]]


@pytest.mark.parametrize("direction", ["target_to_source", "source_to_target"])
def test_ids_of_both_domains_never_clash_over_time(direction):
    mixed = pasted([100, 11000, 220011], [330000, 3, 300000], direction)
    ids, mine = mixed.target.instance, row([100, 11000, 220011])
    theirs = row([330000, 3, 300000])
    for t in range(3):
        for x in range(6):
            shown = ids[0, t, 0, x].item()
            if mixed.from_source[0, t, 0, x]:
                assert shown == (mine[0, t, 0, x].item() + 3 if mine[0, t, 0, x] else 0)
            else:
                assert shown == theirs[0, t, 0, x].item()
    assert set(ids[mixed.from_source].unique().tolist()).isdisjoint(ids[~mixed.from_source & (ids > 0)].tolist())


@pytest.mark.parametrize("direction", ["target_to_source", "source_to_target"])
def test_single_frames(direction):
    mixed = pasted([110000], [11000], direction)
    upper = {"target_to_source": [2, 1, 1, 0, 0, 0], "source_to_target": [2, 2, 1, 0, 0, 0]}
    assert mixed.target.instance[0, 0, 0].tolist() == upper[direction]
    assert mixed.target.labelled.tolist() == [[True]]


def plain_weights(mixed: MixedClips, pseudo: PseudoLabels, source_ids: torch.Tensor) -> torch.Tensor:
    expected = torch.ones(source_ids.shape)
    for b in range(len(source_ids)):
        for k in range(1, pseudo.verified.shape[1]):
            if pseudo.verified[b, k]:
                expected[b][~mixed.from_source[b] & (pseudo.instance[b] == k)] = 0.25
    return expected


@pytest.mark.parametrize("how", ["class", "target_to_source", "source_to_target"])
def test_every_pixel_finds_the_weight_of_its_instance(how):
    """Clips with one and with three pseudo-instances share a table; source ids are as large as they like."""
    generator = torch.Generator().manual_seed(0)
    below = torch.randint(0, 3, (2, 2, 6, 8), generator=generator).int() * 70_000
    above = torch.randint(0, 4, (2, 2, 6, 8), generator=generator).int()
    above[0] = above[0].clamp(max=1)
    pseudo = labels((above > 0).to(torch.uint8) * 11, above)
    if how == "class":
        noise = torch.ones(2, 19)
        noise[:, 13] = 0.0
        mixed = class_mix(clip(below, 10), clip(above, 200), pseudo, noise)
    else:
        mixed = instance_mix(clip(below, 10), clip(above, 200), pseudo, how)
    assert mixed.instance_weight.shape == (2, 4)
    found = weight_by_id(mixed.instance_weight, mixed.target.instance)
    assert torch.equal(found, plain_weights(mixed, pseudo, below))
    assert {0.25, 1.0} == set(found.unique().tolist())
    assert torch.equal(mixed.from_source, (mixed.frames == 10).all(2))


def test_weights_of_single_pixels_survive_a_paste(source, pseudo):
    trust = torch.rand(1, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    trust[0, 0, 0, 0] = 1.0
    varied = replace(pseudo, weight=trust)
    for mixed in (
        instance_mix(source, batch(200), varied),
        instance_mix(source, batch(200), varied, "source_to_target"),
        class_mix(source, batch(200), varied, torch.rand(1, 19, generator=torch.Generator().manual_seed(1))),
    ):
        assert torch.equal(mixed.weight, torch.where(mixed.from_source, 1.0, trust))
        assert torch.equal(mixed.from_source, (mixed.frames == 10).all(2))


# --- classes and trust of the instance losses


def three_ways(source: ClipBatch, target: ClipBatch, pseudo: PseudoLabels) -> list[MixedClips]:
    noise = torch.ones(1, 19)
    noise[0, 13] = 0.0
    return [
        class_mix(source, target, pseudo, noise),
        instance_mix(source, target, pseudo),
        instance_mix(source, target, pseudo, "source_to_target"),
        unmixed(target, pseudo),
    ]


def test_instances_are_trusted_by_their_own_weight_and_the_rest_as_its_class(source, pseudo, ignored):
    """Checked pixel by pixel; the lower row and a pixel of the pseudo-instance are ignored."""
    trust = (0.1 + 0.8 * torch.rand(1, 2, 2, 4, generator=torch.Generator().manual_seed(0))).masked_fill(ignored, 0.0)
    varied = replace(pseudo, weight=trust)
    seen = set()
    for mixed in three_ways(source, replace(batch(200), ignored=ignored), varied):
        for t in range(2):
            for y in range(2):
                for x in range(4):
                    place = 0, t, y, x
                    expected = trust[place]
                    if pseudo.instance[place] > 0 and not ignored[place]:
                        expected = 1.0
                    if mixed.from_source[place]:
                        expected = 1.0
                    assert mixed.instance_trust[place] == expected
                    seen.add(bool(mixed.from_source[place]))
        assert mixed.instance_trust.dtype == torch.float32
        # the semantic losses keep the trust in the class
        assert torch.equal(mixed.weight, torch.where(mixed.from_source, 1.0, trust))
    assert seen == {True, False}


def test_pseudo_instances_have_the_class_of_their_track(source, pseudo):
    """``labels`` lets every track vote for 12, while the pixels of the instance say 11."""
    for mixed in three_ways(source, batch(200), pseudo):
        mine = ~mixed.from_source & (pseudo.instance == 1)
        assert mine.any()
        assert (mixed.voted[mine] == 12).all()
        assert (mixed.target.semantic[mine] == 11).all()
        assert torch.equal(mixed.voted[~mine], mixed.target.semantic[~mine])


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
    mixed = class_mix(source, batch(200), replace(pseudo, weight=pseudo.weight.masked_fill(ignored, 0.0)), noise)
    cars = source.target.semantic == 13
    assert torch.equal(mixed.weight, torch.where(cars, 1.0, torch.where(ignored, 0.0, 0.5)))
    assert {0.0, 0.5, 1.0} == set(mixed.weight.unique().tolist())
    plain = class_mix(source, batch(200), pseudo, noise)
    assert torch.equal(mixed.frames, plain.frames)
    assert torch.equal(mixed.target.semantic, plain.target.semantic)
    assert torch.equal(mixed.target.instance, plain.target.instance)


def test_instance_mix_trusts_no_ignored_part_of_a_pasted_instance(source, pseudo, ignored):
    mixed = instance_mix(source, batch(200), replace(pseudo, weight=pseudo.weight.masked_fill(ignored, 0.0)))
    expected = torch.where(pseudo.instance == 1, torch.where(ignored, 0.0, 0.5), 1.0)
    assert torch.equal(mixed.weight, expected)
    assert mixed.weight[0, 0, 0, 0] == 0.5
    assert mixed.weight[0, 1, 0, 0] == 0.0
    assert torch.equal(mixed.frames, instance_mix(source, batch(200), pseudo).frames)


def test_what_the_source_ignores_does_not_matter(source, pseudo, ignored):
    """Its labels are given, whatever rows a data section names."""
    noise = torch.ones(1, 19)
    marked = replace(source, ignored=ignored)
    assert torch.equal(
        class_mix(marked, batch(200), pseudo, noise).weight, class_mix(source, batch(200), pseudo, noise).weight
    )


@pytest.mark.parametrize("direction", ["target_to_source", "source_to_target"])
def test_frames_without_labels_give_nothing(source, pseudo, direction):
    source.target.labelled[0, 1] = False
    mixed = instance_mix(source, batch(200), pseudo, direction)
    if direction == "target_to_source":
        assert mixed.target.labelled.tolist() == [[True, False]]
        assert (mixed.target.semantic[0, 1][pseudo.instance[0, 1] == 0] == 255).all()
    else:
        assert not mixed.from_source[0, 1].any()
        assert mixed.from_source[0, 0].any()


def test_a_source_without_labels_is_refused(pseudo):
    with pytest.raises(ValueError, match="source clips carry no labels"):
        instance_mix(batch(10), batch(200), pseudo)
