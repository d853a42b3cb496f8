"""Trust, thresholds per class and pixel sampling, against plain loops."""

import numpy as np
import pytest
import torch

from vidapt.adaptation.confidence import (
    BINS,
    ClassThresholds,
    confident_pixels,
    lower_quantiles,
    sample_pixels,
    trust,
)
from vidapt.config_method import ClassThresholdsConfig, PixelSamplingConfig
from vidapt.errors import CheckpointError

KINDS = ("batch", "clip", "segment", "pixel")
THRESHOLDS = torch.tensor([0.9, 0.5, 0.2])


def view(seed: int = 0, shape: tuple[int, ...] = (2, 3, 4, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    semantic = torch.randint(0, 3, shape, generator=generator).to(torch.uint8)
    return semantic, torch.rand(shape, generator=generator)


def plain_trust(semantic: np.ndarray, confidence: np.ndarray, kind: str, at: tuple[int, ...]) -> float:
    sure = confidence >= THRESHOLDS.numpy()[semantic]
    if kind == "batch":
        return float(sure.mean())
    if kind == "clip":
        return float(sure[at[0]].mean())
    if kind == "segment":
        return float(sure[at[0]][semantic[at[0]] == semantic[at]].mean())
    return float(sure[at])


@pytest.mark.parametrize("kind", KINDS)
def test_trust_agrees_with_loops(kind):
    semantic, confidence = view()
    weight = trust(semantic, confidence, THRESHOLDS, kind)
    assert weight.dtype == torch.float32
    assert weight.is_contiguous()
    for at in np.ndindex(*semantic.shape):
        assert weight[at].item() == pytest.approx(plain_trust(semantic.numpy(), confidence.numpy(), kind, at), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_pixels_weigh_nothing_but_count_in_the_shares(kind):
    semantic, confidence = view()
    ignored = torch.rand(semantic.shape, generator=torch.Generator().manual_seed(9)) < 0.5
    free, masked = (trust(semantic, confidence, THRESHOLDS, kind, ignored=mask) for mask in (None, ignored))
    assert torch.equal(masked, torch.where(ignored, 0.0, free))


@pytest.mark.parametrize("kind", KINDS)
def test_only_trust_over_the_batch_asks_the_other_processes(kind):
    asked = []

    def reduce(value: torch.Tensor) -> torch.Tensor:
        asked.append(value.clone())
        return value * 0 + 0.25

    semantic, confidence = view()
    weight = trust(semantic, confidence, THRESHOLDS, kind, reduce=reduce)
    assert len(asked) == (kind == "batch")
    if kind == "batch":
        assert (weight == 0.25).all()
        assert asked[0].item() == pytest.approx(
            confident_pixels(semantic, confidence, THRESHOLDS).float().mean().item()
        )


@pytest.mark.parametrize("kind", KINDS)
def test_trust_lies_between_nothing_and_all(kind):
    semantic = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    assert trust(semantic, torch.ones(1, 1, 1, 1), THRESHOLDS, kind).item() == 1
    assert trust(semantic, torch.full((1, 1, 1, 1), 0.9), torch.tensor([0.9]), kind).item() == 1
    assert trust(semantic, torch.zeros(1, 1, 1, 1), THRESHOLDS, kind).item() == 0


def test_segments_are_those_of_a_clip_over_its_frames():
    semantic = torch.zeros(2, 2, 1, 2, dtype=torch.uint8)
    confidence = torch.tensor([[[[1.0, 0.0]], [[1.0, 1.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]])
    assert trust(semantic, confidence, THRESHOLDS, "segment").flatten(1).unique(dim=1).tolist() == [[0.75], [0.0]]


# --- thresholds per class


def follower(momentum: float = 0.5, quantile: float = 0.75, limit: float = 1.0) -> ClassThresholds:
    return ClassThresholds(3, ClassThresholdsConfig(momentum=momentum, quantile=quantile), limit)


def plain_quantile(values: np.ndarray, quantile: float) -> float:
    ordered = np.sort(np.minimum(np.floor(values * BINS), BINS - 1))
    return float(ordered[max(0, int(np.ceil(quantile * len(ordered) - 1e-9)) - 1)] / BINS)


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.75, 1.0])
def test_thresholds_move_to_the_quantile_of_their_class(quantile):
    semantic, confidence = view(1, (2, 2, 16, 16))
    one = follower(0.9, quantile)
    one.stage(semantic, confidence)
    one.commit()
    for k in range(3):
        exact = confidence[semantic == k].double().numpy()
        assert one.thresholds()[k].item() == pytest.approx(0.1 * plain_quantile(exact, quantile), abs=1e-7)
        assert 10 * one.thresholds()[k].item() == pytest.approx(
            np.quantile(exact, quantile, method="inverted_cdf"), abs=1.1 / BINS
        )


def test_thresholds_begin_at_zero_and_are_a_running_mean():
    one, value = follower(0.5), 0.0
    assert one.thresholds().tolist() == [0, 0, 0]
    for confidence in (0.5, 0.25, 0.75):
        one.stage(torch.ones(1, 1, 2, 2, dtype=torch.uint8), torch.full((1, 1, 2, 2), confidence))
        one.commit()
        value = 0.5 * value + 0.5 * confidence
        assert one.thresholds().tolist() == [0, value, 0]


def test_absent_and_ignored_classes_keep_their_threshold():
    one = follower(0.0)
    semantic = torch.tensor([0, 1, 1, 2], dtype=torch.uint8)
    one.stage(semantic, torch.tensor([0.5, 0.5, 0.25, 0.125]))
    one.commit()
    before = one.thresholds()
    one.stage(semantic, torch.ones(4) * 0.75, torch.tensor([True, False, True, True]))
    one.commit()
    assert one.thresholds().tolist() == [before[0], 0.75, before[2]]


def test_counts_do_not_stop_at_the_largest_whole_number_of_float32():
    """Two pixels beyond 2^24 at the upper confidence decide that the median is there."""
    one, many = follower(0.0, quantile=0.5), 1 << 24
    one._counts[0, BINS // 2] = many
    one._counts[0, BINS // 4] = many - 1
    semantic = torch.zeros(1, dtype=torch.uint8)
    one.stage(semantic, torch.tensor([0.25]))
    one.stage(semantic, torch.tensor([0.5]))
    one.stage(semantic, torch.tensor([0.5]))
    one.commit()
    assert one.thresholds()[0].item() == 0.5


def test_thresholds_never_exceed_the_limit_but_remember_what_is_above():
    one = follower(0.0, limit=0.6)
    one.stage(torch.zeros(1, dtype=torch.uint8), torch.ones(1))
    one.commit()
    assert one.thresholds()[0].item() == pytest.approx(0.6)
    assert one.state_dict()["values"][0].item() == 1 - 1 / BINS


def test_a_discarded_update_leaves_no_trace():
    one = follower()
    one.stage(*view(2))
    one.discard()
    one.commit()
    assert one.thresholds().tolist() == [0, 0, 0]


def test_what_was_staged_in_parts_counts_as_one():
    semantic, confidence = view(3)
    whole, parts = follower(), follower()
    whole.stage(semantic, confidence)
    for clip in range(2):
        parts.stage(semantic[clip], confidence[clip])
    whole.commit()
    parts.commit()
    assert torch.equal(whole.thresholds(), parts.thresholds())
    whole.commit()
    assert torch.equal(whole.thresholds(), parts.thresholds())


def test_thresholds_do_not_depend_on_how_clips_are_spread_over_processes():
    semantic, confidence = view(4, (4, 1, 8, 8))
    sent: list[torch.Tensor] = []

    def send(counts: torch.Tensor) -> torch.Tensor:
        sent.append(counts.clone())
        return counts

    alone, one = follower(), follower()
    alone.stage(semantic, confidence)
    alone.commit()
    for part in (slice(0, 1), slice(1, 4)):
        twin = follower()
        twin.stage(semantic[part], confidence[part])
        twin.commit(send)
        assert not torch.equal(twin.thresholds(), alone.thresholds())
    one.stage(semantic[:1], confidence[:1])
    one.commit(lambda _: (sent[0] + sent[1]) / 2)
    assert torch.equal(one.thresholds(), alone.thresholds())


def test_every_process_takes_part_whatever_it_staged():
    asked = []
    follower().commit(lambda counts: asked.append(1) or counts)
    assert asked == [1]


def test_state_restores_thresholds():
    one, other = follower(), follower()
    one.stage(*view(5))
    one.commit()
    state = one.state_dict()
    other.stage(*view(6))
    other.load_state_dict(state)
    assert torch.equal(one.thresholds(), other.thresholds())
    one.stage(*view(7))
    one.commit()
    other.stage(*view(7))
    other.commit()
    assert torch.equal(one.thresholds(), other.thresholds())
    assert not torch.equal(state["values"], one.state_dict()["values"])


def test_state_of_other_classes_is_refused():
    with pytest.raises(CheckpointError, match="thresholds of 5 classes, this recipe has 3; set labels"):
        follower().load_state_dict({"values": torch.zeros(5)})


def test_quantile_of_counts():
    counts = torch.tensor([[1.0, 1, 1, 1], [0, 0, 4, 0], [3, 0, 0, 1]])
    assert lower_quantiles(counts, 0.75).tolist() == [0.5, 0.5, 0.0]
    assert lower_quantiles(counts, 1.0).tolist() == [0.75, 0.5, 0.75]
    assert lower_quantiles(counts, 0.0).tolist() == [0.0, 0.5, 0.0]


# --- pixel sampling

SIZE = (16, 20)


def sampled(logits, certainty, weight=None, seeds=(0,), **config) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    weight = torch.ones_like(certainty) if weight is None else weight
    return sample_pixels(logits, certainty, weight, PixelSamplingConfig(**config), generators)


def hard(frames: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(frames, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def of_cells(multiplier: torch.Tensor) -> torch.Tensor:
    """(N,h,w) values of the cells, which must be constant over their pixels."""
    blocks = multiplier.unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).permute(0, 1, 3, 2, 4).flatten(3)
    assert (blocks == blocks[..., :1]).all()
    return blocks[..., 0]


def test_the_kept_share_and_its_scale():
    out = sampled(hard(), torch.ones(2, *SIZE), share=0.25)
    assert out.dtype == torch.float32
    cells = of_cells(out)
    assert (cells > 0).sum((1, 2)).tolist() == [5, 5]
    assert set(out.unique().tolist()) == {0.0, 4.0}
    assert out.mean().item() == pytest.approx(1.0)


def test_hard_ones_are_those_the_student_doubts_most_among_the_confident():
    logits, confidence = hard(), torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1))
    chosen = sampled(logits, confidence, share=0.25, random_share=0.0, confidence=0.5, weight=torch.ones(2, *SIZE))
    top = logits.softmax(1).amax(1)
    for frame in range(2):
        candidates = [
            (top[frame, y, x].item(), y, x) for y in range(4) for x in range(5) if confidence[frame, y, x] >= 0.5
        ]
        expected = {(y, x) for _, y, x in sorted(candidates)[:5]}
        assert {tuple(at) for at in of_cells(chosen)[frame].nonzero().tolist()} == expected


def test_pixels_of_a_cell_are_read_at_its_middle():
    logits, confidence = hard(1), torch.zeros(1, *SIZE)
    confidence[0, 6, 10] = 1.0
    chosen = of_cells(sampled(logits, confidence, random_share=0.0))
    assert chosen[0].nonzero().tolist() == [[1, 2]]


def test_few_confident_pixels_keep_the_scale():
    confidence = torch.zeros(1, 4, 5)
    confidence[0, 0, :2] = 1.0
    chosen = of_cells(sampled(hard(1), confidence, share=0.25, random_share=0.0, weight=torch.ones(1, *SIZE)))
    assert chosen.sum() == 2 * 4


def test_pixels_without_weight_are_never_hard_ones():
    weight = torch.ones(1, *SIZE)
    weight[:, :8] = 0.0
    chosen = of_cells(sampled(hard(1), torch.ones(1, *SIZE), weight=weight, random_share=0.0, share=0.5))
    assert not chosen[:, :2].any()
    assert (chosen[:, 2:] > 0).all()


def test_random_ones_are_drawn_from_all_pixels_evenly():
    nowhere, hits = torch.zeros(1, 4, 5), torch.zeros(4, 5)
    for seed in range(400):
        cells = of_cells(sampled(hard(1), nowhere, torch.ones(1, *SIZE), (seed,), share=0.5, random_share=0.4))[0]
        assert (cells > 0).sum() == 4
        hits += cells > 0
    assert hits.min() > 45
    assert hits.max() < 120


def test_ties_are_broken_at_random():
    sure = torch.zeros(1, 3, 4, 5)
    sure[:, 0] = 100.0
    picks = [sampled(sure, torch.ones(1, *SIZE), seeds=(seed,), random_share=0.0) for seed in range(2)]
    assert not torch.equal(*picks)


def test_sampling_does_not_depend_on_the_other_clips():
    logits, confidence = hard(4), torch.rand(4, *SIZE, generator=torch.Generator().manual_seed(1))
    together = sampled(logits, confidence, seeds=(7, 8))
    apart = [sampled(logits[i : i + 2], confidence[i : i + 2], seeds=(7 + i // 2,)) for i in (0, 2)]
    assert torch.equal(together, torch.cat(apart))
    assert not torch.equal(together, sampled(logits, confidence, seeds=(9, 10)))


@pytest.mark.parametrize("random_share", [0.0, 1.0])
def test_everything_can_be_kept(random_share):
    out = sampled(hard(1), torch.ones(1, *SIZE), share=1.0, random_share=random_share)
    assert (out == 1).all()


def test_one_pixel_and_ragged_frames():
    assert sampled(torch.zeros(1, 3, 1, 1), torch.ones(1, 1, 1)).tolist() == [[[1.0]]]
    out = sampled(torch.randn(1, 3, 2, 3), torch.ones(1, 5, 9), share=0.5)
    assert out.shape == (1, 5, 9)
    assert set(out.unique().tolist()) == {0.0, 2.0}


def test_no_gradient_flows():
    logits = hard(1).requires_grad_()
    assert not sampled(logits, torch.ones(1, *SIZE)).requires_grad
