"""Identity contrast against plain loops, and its pooling against the tracker's."""

import math

import pytest
import torch

from vidapt.adaptation.identity import identity_contrast, largest_ids, pool_ids
from vidapt.models.projection import pool_masks

NONE = torch.iinfo(torch.int32).max


def scene(clips=2, length=3, size=(16, 20), ids=4, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(clips, length, 6, -(-size[0] // 4), -(-size[1] // 4), generator=generator)
    return embedding, torch.randint(0, ids, (clips, length, *size), generator=generator).int()


def plain_clip(
    views: list[torch.Tensor], instance: torch.Tensor, weights: dict[int, float], temperature: float
) -> float:
    """Loss of one clip by loops, in float64; ``views`` are (T,D,h,w) of the same frames."""
    rows = []
    for number, view in enumerate(views):
        for t, frame in enumerate(instance):
            for k in sorted(set(frame.flatten().tolist()) - {0}):
                rows.append(
                    (number * len(instance) + t, k, pool_masks(view[t].double(), (frame == k)[None])[0].double())
                )
    total = weight = 0.0
    for frame, k, anchor in rows:
        negatives = [math.exp((anchor @ v).item() / temperature) for _, other, v in rows if other != k]
        for place, other, positive in rows:
            if other == k and place != frame:
                p = math.exp((anchor @ positive).item() / temperature)
                total -= weights.get(k, 1.0) * math.log(p / (p + sum(negatives)))
                weight += weights.get(k, 1.0)
    return total / weight if weight else 0.0


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("second", [False, True])
def test_agrees_with_loops(length, second):
    embedding, instance = scene(length=length)
    instance[1, :, :, :8] = 0
    instance[0, 0][instance[0, 0] == 2] = 0
    other = scene(length=length, seed=5)[0] if second else None
    loss = identity_contrast(embedding, instance, temperature=0.3, second=other)
    views = [embedding] if other is None else [embedding, other]
    expected = [plain_clip([view[b] for view in views], instance[b], {}, 0.3) for b in range(2)]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-4)
    assert (loss > 0) == (length > 1 or second)


def test_instances_weigh_what_the_table_says_and_those_beyond_it_one():
    embedding, instance = scene(clips=1)
    table = torch.tensor([[1.0, 0.5, 0.0]])
    loss = identity_contrast(embedding, instance, temperature=0.2, instance_weight=table)
    assert loss.item() == pytest.approx(plain_clip([embedding[0]], instance[0], {1: 0.5, 2: 0.0}, 0.2), rel=1e-4)
    nothing = identity_contrast(embedding, instance, temperature=0.2, instance_weight=torch.zeros(1, 4))
    assert nothing.item() == 0


def test_the_numbers_of_ids_do_not_matter():
    embedding, instance = scene()
    table = torch.tensor([0, 5, 1_000_000, NONE - 1], dtype=torch.int32)
    renamed = table[instance.long()]
    losses = [identity_contrast(embedding, ids, temperature=0.1).item() for ids in (instance, renamed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_worked_example():
    """Two ids on two frames: equal vectors for one id, orthogonal ones between ids."""
    embedding = torch.zeros(1, 2, 2, 1, 2)
    embedding[0, :, 0, 0, 0] = 3.0
    embedding[0, :, 1, 0, 1] = 2.0
    instance = torch.ones(1, 2, 4, 8, dtype=torch.int32)
    instance[..., 4:] = 7
    expected = -math.log(math.e / (math.e + 2))
    assert identity_contrast(embedding, instance, temperature=1.0).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [(16, 20), (15, 18), (16, 17)])
def test_pools_what_the_tracker_pools(size):
    embedding, instance = scene(size=size)
    instance[0, 0] = 0
    instance[0, 0, 1, 1] = 3
    ids = largest_ids(instance, 64)
    pooled, shown = pool_ids(embedding, instance, ids)
    for b in range(2):
        for t in range(3):
            masks = torch.stack([instance[b, t] == k for k in ids[b, :3]])
            assert torch.allclose(pooled[b, t, :3], pool_masks(embedding[b, t], masks), atol=1e-6)
            assert torch.equal(shown[b, t, :3], masks.flatten(1).any(1))
            assert not shown[b, t, 3:].any()
            assert not pooled[b, t, 3:].any()
    assert torch.allclose(pooled[0, 0, 2], torch.nn.functional.normalize(embedding[0, 0, :, 0, 0], dim=0), atol=1e-6)


def test_ids_that_do_not_take_part_add_to_no_other():
    embedding, instance = scene(clips=1, ids=6)
    few = largest_ids(instance, 64)[:, [1, 3]]
    pooled, shown = pool_ids(embedding, instance, few)
    for slot, k in enumerate((2, 4)):
        for t in range(3):
            alone = pool_masks(embedding[0, t], (instance[0, t] == k)[None])[0]
            assert torch.allclose(pooled[0, t, slot], alone, atol=1e-6)
    assert shown.all()


def test_largest_ids_are_listed_in_order():
    instance = torch.tensor([[[[9, 9, 9, 2, 2, 0, 0, 0, 0, 5]]], [[[0, 0, 0, 0, 0, 0, 0, 0, 0, 3]]]], dtype=torch.int32)
    assert largest_ids(instance, 3).tolist() == [[2, 5, 9], [3, NONE, NONE]]
    assert largest_ids(instance, 2).tolist() == [[2, 9], [3, NONE]]
    assert largest_ids(instance * 0, 2).tolist() == [[NONE, NONE]] * 2
    assert largest_ids(instance[..., :1], 5).tolist() == [[9], [NONE]]


def test_largest_ids_agree_with_counting():
    instance = (torch.randn(3, 2, 12, 12, generator=torch.Generator().manual_seed(0)).abs() * 6).int()
    found = largest_ids(instance, 5)
    for b in range(3):
        values, counts = instance[b][instance[b] > 0].unique(return_counts=True)
        assert {int(counts[values == k]) for k in found[b]} == set(counts.sort(descending=True).values[:5].tolist())
        assert found[b].tolist() == sorted(found[b].tolist())


@pytest.mark.parametrize(
    "change",
    [
        lambda ids: ids * 0,
        lambda ids: (ids > 0).int() * torch.arange(1, 4, dtype=torch.int32)[:, None, None],
        lambda ids: (ids > 0).int(),
    ],
    ids=["no instances", "every id on one frame", "one instance alone"],
)
def test_nothing_to_learn_is_a_finite_zero(change):
    embedding, instance = scene()
    embedding.requires_grad_()
    loss = identity_contrast(embedding, change(instance), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(embedding.grad, torch.zeros_like(embedding))


def test_single_frames_need_a_second_view():
    embedding, instance = scene(length=1)
    assert identity_contrast(embedding, instance, temperature=0.1).item() == 0
    assert identity_contrast(embedding, instance, temperature=0.1, second=embedding).item() > 0


def test_both_views_get_a_gradient_and_it_is_right():
    embedding, instance = scene(clips=1, length=1, size=(8, 8))
    second = scene(clips=1, length=1, size=(8, 8), seed=4)[0]
    views = [view.clone().requires_grad_() for view in (embedding, second)]
    identity_contrast(views[0], instance, temperature=0.5, second=views[1]).backward()
    for number in range(2):
        assert views[number].grad.abs().sum() > 0
        at = (0, 0, 2, 1, 1)
        moved = []
        for step in (-1e-2, 1e-2):
            shifted = [embedding.clone(), second.clone()]
            shifted[number][at] += step
            moved.append(plain_clip([view[0] for view in shifted], instance[0], {}, 0.5))
        assert views[number].grad[at].item() == pytest.approx((moved[1] - moved[0]) / 2e-2, abs=2e-3)


def test_learning_pulls_one_track_together():
    embedding, instance = scene(clips=1, length=2)
    embedding.requires_grad_()
    first = identity_contrast(embedding, instance, temperature=0.1)
    (gradient,) = torch.autograd.grad(first, embedding)
    later = identity_contrast(embedding - 0.1 * gradient / gradient.norm(), instance, temperature=0.1)
    assert later < first


def test_small_temperatures_and_half_precision_stay_finite():
    embedding, instance = scene()
    half = embedding.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = identity_contrast(half, instance, temperature=1e-3)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert half.grad.isfinite().all()
    exact = identity_contrast(embedding.bfloat16(), instance, temperature=1e-3)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


def test_clips_do_not_see_each_other():
    embedding, instance = scene()
    apart = [identity_contrast(embedding[b : b + 1], instance[b : b + 1], temperature=0.1).item() for b in range(2)]
    together = identity_contrast(embedding, instance, temperature=0.1).item()
    assert together == pytest.approx(sum(apart) / 2, rel=1e-5)
