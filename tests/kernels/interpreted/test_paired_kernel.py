"""The kernels of the paired contrast against float64: values, gradients, positives, gates, views and edge cases."""

import math
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.plain_contrast import (
    IGNORE,
    OPERANDS,
    assert_as_accurate,
    losses_and_gradients,
    plain_paired,
    record_splits,
)
from tests.kernels.plain_contrast import paired_problem as problem
from vidapt.kernels.contrast import launch_grad, ops, paired_contrast

POSITIVES = ("index", "rows")
LABELS = ("query_label", "key_label")
# Masks select among values that numpy warns of; the tests below say what must come out.
NOT_A_NUMBER = "ignore:invalid value encountered:RuntimeWarning:(triton|numpy)"
TOO_LARGE = "ignore:overflow encountered in exp2:RuntimeWarning:triton"


@pytest.fixture(params=["all", "by label", "by label, sorted"])
def negatives(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(ops, "SORT_FROM", 0 if request.param.endswith("sorted") else math.inf)
    return "all" if request.param == "all" else "different_label"


def run(
    data: dict[str, Tensor],
    positive: str,
    *,
    negatives: str,
    upstream: Tensor | None = None,
    precision: str = "exact",
    **options: Any,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return losses and gradients of the kernel and in float64; data is what `problem` returns, the gate if wanted."""
    options |= {"gate": data.get("gate"), "negatives": negatives, "precision": precision}
    options |= {name: data[name] for name in LABELS}

    def loss(q: Tensor, k: Tensor, p: Tensor = data["index"]) -> Tensor:
        return paired_contrast(q, k, p, reduction="none", **options)

    leaves = leaves_of(data, positive)
    upstream = upstream_of(data) if upstream is None else upstream
    actual = losses_and_gradients(loss, leaves, upstream)
    assert actual[0].dtype == torch.float32
    assert [one.dtype for one in actual[1:]] == [leaf.dtype for leaf in leaves]
    return actual, losses_and_gradients(loss, leaves, upstream, torch.float64)


def check(
    data: dict[str, Tensor],
    positive: str,
    *,
    negatives: str,
    precision: str = "exact",
    accuracy: str | None = None,
    upstream: Tensor | None = None,
    **options: Any,
) -> list[Tensor]:
    """Return what the kernel gives, held to the rule."""
    actual, exact = run(data, positive, negatives=negatives, precision=precision, upstream=upstream, **options)
    options |= {name: data[name] for name in LABELS if negatives == "different_label"}

    def loss(q: Tensor, k: Tensor, p: Tensor = data["index"]) -> Tensor:
        return plain_paired(q, k, p, gate=data.get("gate"), operands=OPERANDS[precision], **options)

    upstream = upstream_of(data) if upstream is None else upstream
    plain = losses_and_gradients(loss, leaves_of(data, positive), upstream, torch.float32)
    assert_as_accurate(actual, exact, plain, accuracy or precision)
    return actual


def leaves_of(data: dict[str, Tensor], positive: str) -> list[Tensor]:
    return [data["query"], data["key"], *([data["rows"]] if positive == "rows" else [])]


def upstream_of(data: dict[str, Tensor]) -> Tensor:
    return torch.randn(data["query"].shape[:2], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("positive", POSITIVES)
@pytest.mark.parametrize("tiles_per_split", [1, 4])
def test_losses_and_gradients(
    negatives: str, monkeypatch: pytest.MonkeyPatch, positive: str, tiles_per_split: int
) -> None:
    splits = record_splits(monkeypatch, tiles_per_split)
    normalize = (negatives == "all") == (tiles_per_split == 1)
    data = problem(2, 19, 29, 17, dtype=torch.float32)
    results = check(data, positive, negatives=negatives, normalize=normalize, temperature=0.1 if normalize else 0.5)
    assert min(splits) == max(splits) == 1 if tiles_per_split == 4 else min(splits) > 1
    dropped = ~data["gate"]
    if positive == "index":
        dropped |= data["index"] < 0
    if negatives == "different_label":
        dropped |= data["query_label"] == IGNORE
    assert dropped.any()
    rows = [results[0], results[1], *results[3:]]
    assert not any(one[dropped].any() for one in rows)
    assert all(one[~dropped].any() for one in rows)


@pytest.mark.parametrize("positive", POSITIVES)
def test_half_operands(negatives: str, positive: str) -> None:
    data = problem(2, 19, 20, 17, dtype=torch.float32)
    check(data, positive, negatives=negatives, precision="fp16", normalize=True, temperature=0.1)


def test_half_features_give_half_gradients() -> None:
    data = problem(2, 17, 20, 16, dtype=torch.float16)
    check(data, "rows", negatives="all", precision="fp16", temperature=2.0)
    check(data | {"key": data["key"].float()}, "rows", negatives="all", accuracy="fp16", temperature=2.0)


@pytest.mark.parametrize("positive", POSITIVES)
@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (1, 17, 5, 3), (3, 5, 33, 16)], ids=str)
def test_shapes_around_the_tiles(negatives: str, positive: str, shape: tuple[int, int, int, int]) -> None:
    data = problem(*shape, seed=3, dtype=torch.float32)
    check(data, positive, negatives=negatives, temperature=0.5)


@pytest.mark.parametrize("positive", POSITIVES)
def test_features_wider_than_a_tile(monkeypatch: pytest.MonkeyPatch, negatives: str, positive: str) -> None:
    narrow = {"BLOCK_M": 16, "BLOCK_N": 32, "WIDTH": 16, "num_warps": 4, "num_stages": 1}
    monkeypatch.setattr("vidapt.kernels.contrast.launch.tile", lambda *_: dict(narrow))
    data = problem(1, 19, 21, 20, dtype=torch.float32)
    check(data, positive, negatives=negatives, normalize=positive == "rows", temperature=0.5)


@pytest.mark.parametrize("positive", POSITIVES)
def test_temperatures_too_low_for_a_fixed_maximum(negatives: str, positive: str) -> None:
    check(problem(1, 19, 20, 5, dtype=torch.float32), positive, negatives=negatives, normalize=True, temperature=0.01)


def test_positives_outside_the_keys_do_not_count(negatives: str) -> None:
    data = problem(2, 18, 20, dtype=torch.float32)
    data["index"][:, :5] = torch.tensor([20, -7, 2**40, 2**32, -(2**63)])
    losses, query_grad, _ = check(data, "index", negatives=negatives, temperature=0.5)
    assert not losses[:, :5].any()
    assert not query_grad[:, :5].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_any_integer_type(negatives: str, dtype: torch.dtype) -> None:
    data = problem(1, 18, 20, dtype=torch.float32)
    ignore_label = -1 if dtype == torch.int8 else IGNORE
    converted = {name: torch.where(data[name] == IGNORE, ignore_label, data[name]).to(dtype) for name in LABELS}
    converted["index"] = data["index"].clamp(min=0 if dtype == torch.uint8 else -1).to(dtype)
    check(data | converted, "index", negatives=negatives, ignore_label=ignore_label, temperature=0.5)
    if dtype == torch.uint8:
        converted["key_label"] = converted["key_label"].long()
        check(data | converted, "index", negatives=negatives, ignore_label=-1, temperature=0.5)


def test_large_labels_of_one_bucket_differ(negatives: str) -> None:
    data = problem(2, 18, 20, dtype=torch.float32)
    choices = torch.tensor([2**40, 2**40 + 127, -(2**40), -5])
    wide = {name: choices[data[name] % 4] for name in LABELS}
    assert wide["query_label"].unique().numel() == 3
    check(data | wide, "index", negatives=negatives, temperature=0.5, ignore_label=-(2**40))


@pytest.mark.parametrize("shared", [None, 15, 16])
def test_the_positive_counts_whatever_its_label(negatives: str, shared: int | None) -> None:
    data = problem(2, 18, 37, dtype=torch.float32)
    del data["gate"]
    data["query_label"] = torch.arange(18).remainder(3).expand(2, 18)
    # Keys 0..2 have the label of the query, 3..5 are ignored, 6..8 have another label.
    data["key_label"] = torch.cat([torch.tensor([0, 1, 2, *[IGNORE] * 3, 4, 5, 6]), torch.arange(28) % 5]).expand(2, 37)
    places = torch.arange(18) % 9 if shared is None else torch.full((18,), shared)
    data["index"] = places.expand(2, 18)
    losses, query_grad, key_grad = check(data, "index", negatives=negatives, normalize=True, temperature=0.2)
    assert (losses > 0).all()
    assert query_grad.any(2).all()
    assert key_grad[:, places].any(2).all()


def test_a_positive_alone_is_no_loss(negatives: str) -> None:
    data = problem(1, 18, 1, dtype=torch.float32)
    data |= {"index": torch.zeros(1, 18).long(), "query_label": torch.ones(1, 18).long()}
    for label in (1, IGNORE):
        data["key_label"] = torch.full((1, 1), label)
        assert not any(one.any() for one in check(data, "index", negatives=negatives, temperature=0.5))


@pytest.mark.filterwarnings(NOT_A_NUMBER)
def test_positives_as_features_with_no_negative_are_no_loss(negatives: str) -> None:
    data = problem(2, 18, 20, dtype=torch.float32)
    data |= {"query_label": torch.full((2, 18), 3), "key_label": torch.tensor([3, IGNORE] * 10).expand(2, 20)}
    results = check(data, "rows", negatives=negatives, temperature=0.5)
    assert any(one.any() for one in results) == (negatives == "all")


@pytest.mark.parametrize("positive", POSITIVES)
def test_nothing_counts(negatives: str, positive: str) -> None:
    data = problem(2, 18, 20, dtype=torch.float32)
    data["gate"] = torch.zeros(2, 18, dtype=torch.bool)
    assert not any(one.any() for one in check(data, positive, negatives=negatives, temperature=0.1, normalize=True))
    data["gate"] = ~data["gate"]
    data |= {"index": torch.full((2, 18), -1), "query_label": torch.full((2, 18), IGNORE)}
    if positive == "index" or negatives == "different_label":
        assert not any(one.any() for one in check(data, positive, negatives=negatives, temperature=0.1))


@pytest.mark.parametrize("positive", POSITIVES)
@pytest.mark.parametrize("normalize", [False, True])
def test_duplicate_and_zero_rows(negatives: str, positive: str, normalize: bool) -> None:
    row = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(5))
    data = problem(1, 20, 20, 8, dtype=torch.float32)
    data["query"] = torch.cat([row.repeat(1, 16, 1), torch.zeros(1, 2, 8), 1e-8 * row, -row], 1)
    data["key"], data["rows"] = data["query"].flip(1), data["query"].roll(3, 1)
    actual, exact = run(data, positive, negatives=negatives, normalize=normalize, temperature=0.07)
    assert all(one.isfinite().all() for one in actual)
    torch.testing.assert_close(actual[0].double(), exact[0], rtol=1e-5, atol=1e-5)
    for one, truth in zip(actual[1:], exact[1:], strict=True):
        torch.testing.assert_close(one.double(), truth, rtol=1e-4, atol=1e-5 * truth.abs().max().item() + 1e-3)


@pytest.mark.filterwarnings(NOT_A_NUMBER, TOO_LARGE)
@pytest.mark.parametrize("positive", POSITIVES)
def test_logits_up_to_ten_thousand(negatives: str, positive: str) -> None:
    data = problem(2, 18, 20, dtype=torch.float32)
    data["query"] *= 1e4 * 0.05 / (data["query"] @ data["key"].mT).abs().max()
    del data["gate"]
    actual, exact = run(data, positive, negatives=negatives, temperature=0.05, upstream=torch.ones(2, 18))
    assert exact[0].max() > 4000
    for one, truth in zip(actual, exact, strict=True):
        assert one.isfinite().all()
        assert (one - truth).norm() <= 2e-3 * truth.norm()


@pytest.mark.parametrize("positive", POSITIVES)
def test_upstream_gradients_of_any_size(negatives: str, positive: str) -> None:
    data = problem(1, 19, 20, dtype=torch.float32)
    order = torch.randperm(19, generator=torch.Generator().manual_seed(6))
    options: dict[str, Any] = {"negatives": negatives, "temperature": 0.1, "normalize": True}
    check(data, positive, upstream=torch.logspace(-12, 3, 19)[order][None], **options)
    none = check(data, positive, upstream=torch.zeros(1, 19), **options)
    assert none[0].any()
    assert not any(one.any() for one in none[1:])


@pytest.mark.filterwarnings(NOT_A_NUMBER)
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_upstream_gradients_that_are_not_finite_spread(negatives: str, value: float) -> None:
    data = problem(2, 18, 20, dtype=torch.float32)
    upstream = torch.ones(2, 18)
    upstream[1, 3] = value
    assert data["query_label"][1, 3] != IGNORE

    del data["gate"]
    (losses, *gradients), (_, *exact) = run(data, "rows", negatives=negatives, temperature=0.5, upstream=upstream)
    assert losses.isfinite().all()
    for one, truth in zip(gradients, exact, strict=True):
        assert not truth.isfinite().all()
        assert not (one.isfinite() & ~truth.isfinite()).any()
    for one in (gradients[0], gradients[2]):
        assert one.isfinite().all(2).sum() == 35


@pytest.mark.parametrize("positive", POSITIVES)
def test_gradients_go_only_where_they_are_asked_for(negatives: str, positive: str) -> None:
    data = problem(1, 18, 20, dtype=torch.float32)
    options: dict[str, Any] = {"negatives": negatives, "temperature": 0.3, "normalize": True}
    expected = check(data, positive, upstream=torch.ones(1, 18), **options)[1:]
    names = ("query", "key", "rows")[: len(expected)]
    functions = ("query_gradient", "key_gradient", "positive_gradient")[: len(expected)]
    extra = {name: data[name] for name in (*LABELS, "gate")} | options
    for name, wanted in zip(names, expected, strict=True):
        leaf = data[name].clone().requires_grad_()
        tensors = data | {name: leaf}
        spies = {one: mock.Mock(side_effect=getattr(launch_grad, one)) for one in functions}
        with mock.patch.multiple(launch_grad, **spies):
            loss = paired_contrast(*(tensors[each] for each in ("query", "key", positive)), reduction="sum", **extra)
            loss.backward()
        assert [spy.call_count for spy in spies.values()] == [int(name == each) for each in names]
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, wanted)


def test_keys_without_gradient(negatives: str) -> None:
    data = problem(1, 18, 20, dtype=torch.float32)
    extra: dict[str, Any] = {name: data[name] for name in LABELS}
    for positive in POSITIVES:
        leaves = [data[name].clone().requires_grad_() for name in ("query", "key", "rows")]
        place = data["index"] if positive == "index" else leaves[2]
        paired_contrast(*leaves[:2], place, negatives=negatives, temperature=0.5, key_grad=False, **extra).backward()
        assert leaves[1].grad is None
        assert leaves[0].grad is not None
        assert (leaves[2].grad is None) == (positive == "index")


def test_reductions_and_weights(negatives: str) -> None:
    data = problem(2, 9, 11, dtype=torch.float32)
    options: dict[str, Any] = {"negatives": negatives, "temperature": 0.5}
    extra = {name: data[name] for name in (*LABELS, "gate", "weight")} | options
    leaf = data["query"].clone().requires_grad_()
    each = paired_contrast(leaf, data["key"], data["index"], reduction="none", **extra)
    share = torch.where(each > 0, data["weight"], 0).detach()
    for reduction, factor in (("sum", share), ("mean", share / share.sum())):
        loss = paired_contrast(leaf, data["key"], data["index"], reduction=reduction, **extra)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), (each * factor).sum())
        expected = torch.autograd.grad(each, leaf, factor.float(), retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(loss, leaf), expected)


def test_views_of_any_stride_between_numbers_that_must_not_be_read(negatives: str) -> None:
    data = problem(2, 19, 21, 5, dtype=torch.float32)
    around = torch.full((4, 60, 60), math.nan)
    views = {"query": around[1:3, 1:39:2, 3:13:2], "key": around[1:3, 40:45, 7:28].mT, "rows": around[::3, 2:21, 5:10]}
    for name, view in views.items():
        view.copy_(data[name])
    for name in ("index", "gate", *LABELS):
        views[name] = torch.stack([data[name], data[name]], 2)[..., 1]
    assert not any(view.is_contiguous() for view in views.values())
    for positive in POSITIVES if negatives == "all" else ("rows",):
        options: dict[str, Any] = {"negatives": negatives, "normalize": positive == "rows", "temperature": 0.5}
        plain = check(data, positive, **options)
        strided = check(data | views, positive, **options)
        assert all(torch.equal(one, other) for one, other in zip(plain, strided, strict=True))


def test_pairs_that_share_their_keys(negatives: str) -> None:
    data = problem(3, 5, 20, 5, dtype=torch.float32)
    for name in ("key", "key_label", "rows"):
        data[name] = data[name][:1].expand_as(data[name])
    check(data, "index", negatives=negatives, temperature=0.5)
    check(data, "rows", negatives=negatives, temperature=0.5)


def test_pairs_and_positives_more_than_an_int32_apart(negatives: str) -> None:
    data = problem(2, 18, 9, 5, dtype=torch.float16)
    # Only the pages that are written take memory.
    storage = torch.empty(2**31 + 2**28, dtype=torch.float16)
    far = {
        "query": storage.as_strided((2, 18, 5), (2**31, 7, 1)),
        "key": storage.as_strided((2, 9, 5), (5, 11, 2**29), 1000),
        "rows": storage.as_strided((2, 18, 5), (2**26, 2**27, 3), 2000),
    }
    for name, view in far.items():
        view.copy_(data[name])
    options: dict[str, Any] = {"negatives": negatives, "temperature": 0.3, "normalize": True, "accuracy": "fp16"}
    near, away = check(data, "rows", **options), check(data | far, "rows", **options)
    assert all(torch.equal(one, other) for one, other in zip(near, away, strict=True))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(0, 18), st.integers(1, 18), st.integers(0, 18)),
    seed=st.integers(0, 99),
    sorts=st.booleans(),
    gated=st.booleans(),
    positive=st.sampled_from(POSITIVES),
    negatives=st.sampled_from(["all", "different_label"]),
    normalize=st.booleans(),
    temperature=st.sampled_from([0.02, 0.1, 1.0]),
)
def test_any_problem(
    shape: tuple[int, int, int, int], seed: int, sorts: bool, gated: bool, positive: str, **options: Any
) -> None:
    data = problem(*shape, seed=seed, dtype=torch.float32)
    if not gated:
        del data["gate"]
    if not options["normalize"]:
        data["query"] *= options["temperature"]
    with mock.patch.object(ops, "SORT_FROM", 0 if sorts else math.inf):
        check(data, positive, **options)
