"""The kernels of the supervised contrast against float64: values, gradients, labels, views and edge cases."""

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
    plain_supervised,
    record_splits,
)
from tests.kernels.plain_contrast import supervised_problem as problem
from vidapt.kernels.contrast import launch_grad, ops, supervised_contrast

FORMS = ("per_positive", "supcon")
# Masks select among values that numpy warns of; the tests below say what must come out.
NOT_A_NUMBER = "ignore:invalid value encountered:RuntimeWarning:(triton|numpy)"
ALL_NAN = "ignore:All-NaN slice encountered:RuntimeWarning:numpy"
TOO_LARGE = "ignore:overflow encountered in exp2:RuntimeWarning:triton"


@pytest.fixture(params=[False, True], ids=["as given", "sorted"])
def sort(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(ops, "SORT_FROM", 0 if request.param else math.inf)
    return request.param


def run(
    query: Tensor,
    key: Tensor | None,
    query_label: Tensor,
    key_label: Tensor,
    *,
    upstream: Tensor | None = None,
    precision: str = "exact",
    **options: Any,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return losses and gradients of the kernel and in float64; without `key` the queries are the keys."""

    def loss(q: Tensor, k: Tensor | None = None) -> Tensor:
        keys = q if k is None else k
        return supervised_contrast(q, keys, query_label, key_label, precision=precision, reduction="none", **options)

    leaves = [query] if key is None else [query, key]
    upstream = upstream_of(query) if upstream is None else upstream
    actual = losses_and_gradients(loss, leaves, upstream)
    assert actual[0].dtype == torch.float32
    assert [one.dtype for one in actual[1:]] == [leaf.dtype for leaf in leaves]
    return actual, losses_and_gradients(loss, leaves, upstream, torch.float64)


def check(
    query: Tensor,
    key: Tensor | None,
    query_label: Tensor,
    key_label: Tensor,
    *,
    precision: str = "exact",
    accuracy: str | None = None,
    upstream: Tensor | None = None,
    **options: Any,
) -> list[Tensor]:
    """Return what the kernel gives, held to the rule."""
    labels = query_label, key_label
    actual, exact = run(query, key, *labels, precision=precision, upstream=upstream, **options)

    def loss(q: Tensor, k: Tensor | None = None) -> Tensor:
        return plain_supervised(q, q if k is None else k, *labels, operands=OPERANDS[precision], **options)

    leaves = [query] if key is None else [query, key]
    upstream = upstream_of(query) if upstream is None else upstream
    plain = losses_and_gradients(loss, leaves, upstream, torch.float32)
    assert_as_accurate(actual, exact, plain, accuracy or precision)
    return actual


def upstream_of(query: Tensor) -> Tensor:
    return torch.randn(len(query), generator=torch.Generator().manual_seed(1))


def arrangement(
    kind: str, features: int = 17, keys: int = 29, **options: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments and options of a problem in which the keys are others, the queries, or they and a bank."""
    query, key, query_label, key_label = problem(19, keys, features, dtype=torch.float32)
    if kind == "itself":
        return (key, None, key_label, key_label), {"exclude_self": True, **options}
    if kind == "bank":
        key, key_label = torch.cat([query, key[19:]]), torch.cat([query_label, key_label[19:]])
        return (query, key, query_label, key_label), {"exclude_self": True, **options}
    return (query, key, query_label, key_label), options


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["apart", "itself", "bank"])
@pytest.mark.parametrize("tiles_per_split", [1, 4])
def test_losses_and_gradients(
    sort: bool, monkeypatch: pytest.MonkeyPatch, form: str, kind: str, tiles_per_split: int
) -> None:
    splits = record_splits(monkeypatch, tiles_per_split)
    normalize = sort == (tiles_per_split == 1)
    options: dict[str, Any] = {"form": form, "normalize": normalize, "temperature": 0.1 if normalize else 0.5}
    # Sorted rows visit few keys, so that it takes many to split their positives; then another launch may be whole.
    many = sort and form == "per_positive" and tiles_per_split == 1
    arguments, options = arrangement(kind, keys=69 if many else 37, **options)
    losses, gradient, *_ = check(*arguments, **options)
    assert set(splits) == {1} if tiles_per_split == 4 else sorted(splits)[many] > 1
    ignored = arguments[2] == IGNORE
    assert ignored.any()
    assert not losses[ignored].any()
    assert not gradient[ignored].any()


@pytest.mark.parametrize("form", FORMS)
def test_half_operands(sort: bool, form: str) -> None:
    kind = "apart" if sort == (form == "supcon") else "itself"
    arguments, options = arrangement(kind, form=form, normalize=True, temperature=0.1)
    check(*arguments, precision="fp16", **options)


@pytest.mark.parametrize("form", FORMS)
def test_half_features_give_half_gradients(form: str) -> None:
    arguments, options = arrangement("apart", features=16, form=form, temperature=2.0)
    query, key, *labels = arguments
    check(query.half(), key.half(), *labels, precision="fp16", **options)
    check(query.half(), key, *labels, accuracy="fp16", **options)


@pytest.mark.parametrize("kind", ["apart", "itself"])
def test_features_that_need_no_copy(kind: str) -> None:
    arguments, options = arrangement(kind, features=32, temperature=1.0)
    prepared = mock.Mock(side_effect=AssertionError("copied"))
    with mock.patch("vidapt.kernels.contrast.kernel_operand.prepare_operand", prepared):
        check(*arguments, **options)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 40, 3), (33, 1, 17), (16, 16, 16), (17, 50, 33), (2, 100, 5)], ids=str
)
def test_shapes_around_the_tiles(sort: bool, shape: tuple[int, int, int]) -> None:
    query, key, query_label, key_label = problem(*shape, seed=3, dtype=torch.float32)
    check(query, key, query_label, key_label, temperature=0.3, normalize=True)


@pytest.mark.parametrize("kind", ["apart", "itself"])
def test_features_wider_than_a_tile(monkeypatch: pytest.MonkeyPatch, sort: bool, kind: str) -> None:
    narrow = {"BLOCK_M": 16, "BLOCK_N": 32, "WIDTH": 16, "num_warps": 4, "num_stages": 1}
    monkeypatch.setattr("vidapt.kernels.contrast.launch.tile", lambda *_: dict(narrow))
    form = FORMS[sort == (kind == "itself")]
    arguments, options = arrangement(kind, features=20, form=form, normalize=sort, temperature=0.5)
    check(*arguments, **options)


def test_temperatures_too_low_for_a_fixed_maximum(sort: bool) -> None:
    for form in FORMS:
        arguments, options = arrangement("itself", form=form, normalize=True, temperature=0.01)
        check(*arguments, **options)


LABELS: list[tuple[list[int], torch.dtype, torch.dtype, int]] = [
    ([0, 1, 2, 255], torch.uint8, torch.uint8, 255),
    ([0, 1, 2, 255], torch.uint8, torch.uint8, -1),
    ([-1, -2, 126, 3], torch.int8, torch.int8, -1),
    ([-1, 0, 126, 1], torch.int8, torch.int8, 255),
    ([0, 127, 254, 1], torch.int16, torch.int16, 0),
    ([-100, 27, 1, 2], torch.int32, torch.int32, 1),
    ([0, 1, 2**31 - 1, -(2**31)], torch.int32, torch.int64, 2**31 - 1),
    ([2**40, 2**41, 2**40 + 127, -(2**62)], torch.int64, torch.int64, 2**40),
    ([3, 2**32 + 3, 130, 4], torch.int64, torch.int64, 2**32 + 3),
    ([3, 4, 5, 255], torch.uint8, torch.int64, 255),
    ([3, 4, 5, 2**32 - 1], torch.uint32, torch.uint32, -1),
]


@pytest.mark.parametrize(("values", "query_type", "key_type", "ignore_label"), LABELS, ids=str)
def test_any_labels(
    sort: bool, values: list[int], query_type: torch.dtype, key_type: torch.dtype, ignore_label: int
) -> None:
    query, key, *labels = problem(18, 21, dtype=torch.float32, seed=4)
    choices, places = torch.tensor(values), torch.tensor([0, 1, 7, IGNORE])
    wide = [choices[torch.searchsorted(places, label)] for label in labels]
    typed = [label.to(dtype) for label, dtype in zip(wide, (query_type, key_type), strict=True)]
    options: dict[str, Any] = {"ignore_label": ignore_label, "temperature": 0.5}
    upstream = torch.ones(18)
    actual, _ = run(query, key, *typed, upstream=upstream, **options)
    exact = losses_and_gradients(
        lambda q, k: plain_supervised(q, k, *wide, **options), [query, key], upstream, torch.float64
    )
    assert (exact[0] > 0).sum() == (wide[0] != ignore_label).sum()
    for one, truth in zip(actual, exact, strict=True):
        assert (one - truth).norm() <= 1e-5 * truth.norm()


@pytest.mark.parametrize("form", FORMS)
def test_key_is_query_with_labels_of_its_own(sort: bool, form: str) -> None:
    query, _, label, _ = problem(20, 1, dtype=torch.float32)
    options: dict[str, Any] = {"form": form, "normalize": True, "temperature": 0.2, "exclude_self": True}
    with mock.patch.object(launch_grad, "symmetric_gradient", wraps=launch_grad.symmetric_gradient) as symmetric:
        one = check(query, None, label, label, **options)
        assert symmetric.call_count == 1
        twin = check(query, None, label, label.clone(), **options)
        check(query, None, label, label.flip(0), **options)
    assert symmetric.call_count == 1
    for a, b in zip(one, twin, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_gradients_go_only_where_they_are_asked_for(sort: bool) -> None:
    (query, key, *labels), options = arrangement("apart", temperature=0.3, normalize=True)
    _, query_grad, key_grad = check(query, key, *labels, upstream=torch.ones(19), **options)
    with (
        mock.patch.object(launch_grad, "query_gradient", wraps=launch_grad.query_gradient) as for_queries,
        mock.patch.object(launch_grad, "key_gradient", wraps=launch_grad.key_gradient) as for_keys,
    ):
        leaf = query.clone().requires_grad_()
        supervised_contrast(leaf, key, *labels, reduction="sum", **options).backward()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, query_grad)
        leaf = query.clone().requires_grad_()
        detached = key.clone().requires_grad_()
        supervised_contrast(leaf, detached, *labels, reduction="sum", key_grad=False, **options).backward()
        assert detached.grad is None
        assert (for_queries.call_count, for_keys.call_count) == (2, 0)
        leaf = key.clone().requires_grad_()
        supervised_contrast(query, leaf, *labels, reduction="sum", **options).backward()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, key_grad)
        assert (for_queries.call_count, for_keys.call_count) == (2, 1)


def test_each_query_may_be_its_own_positive(sort: bool) -> None:
    query, _, label, _ = problem(20, 1, 8, dtype=torch.float32)
    for form in FORMS:
        check(query, None, label, label, form=form, normalize=True, temperature=0.2)


def test_self_contrast_with_detached_keys() -> None:
    query, _, label, _ = problem(20, 1, 8, dtype=torch.float32)
    options: dict[str, Any] = {"normalize": True, "temperature": 0.2, "exclude_self": True}
    _, query_grad, _ = check(query, query.clone(), label, label, upstream=torch.ones(20), **options)
    leaf = query.clone().requires_grad_()
    supervised_contrast(leaf, leaf, label, label, key_grad=False, reduction="sum", **options).backward()
    torch.testing.assert_close(leaf.grad, query_grad, rtol=1e-5, atol=1e-6)


def test_reductions_and_weights() -> None:
    (query, key, *labels), options = arrangement("apart", temperature=0.3, normalize=True)
    leaf, weight = query.clone().requires_grad_(), torch.rand(19, generator=torch.Generator().manual_seed(2))
    each = supervised_contrast(query, key, *labels, reduction="none", weight=weight, **options)
    counted = each > 0
    share = torch.where(counted, weight, 0)
    assert 5 < counted.sum() < 19
    for reduction, factor in (("sum", share), ("mean", share / share.sum())):
        loss = supervised_contrast(leaf, key, *labels, reduction=reduction, weight=weight, **options)
        torch.testing.assert_close(loss, (each * factor).sum())
        (gradient,) = torch.autograd.grad(loss, leaf)
        expected = check(query, key, *labels, upstream=factor, **options)[1]
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("query_label", "key_label"),
    [([IGNORE] * 18, [0, 1] * 10), ([0, 1] * 9, [IGNORE] * 20), ([0, 1] * 9, [2, 3] * 10)],
    ids=["queries ignored", "keys ignored", "no positives"],
)
def test_nothing_counts(sort: bool, query_label: list[int], key_label: list[int]) -> None:
    query, key, *_ = problem(18, 20, dtype=torch.float32)
    labels = torch.tensor(query_label), torch.tensor(key_label)
    for form in FORMS:
        options: dict[str, Any] = {"form": form, "temperature": 0.1, "normalize": form == "supcon"}
        assert not any(one.any() for one in check(query, key, *labels, **options))


@pytest.mark.filterwarnings(NOT_A_NUMBER)
def test_one_class_has_no_negatives(sort: bool) -> None:
    arguments, options = arrangement("itself", temperature=0.1, normalize=True)
    label = torch.where(arguments[2] == IGNORE, IGNORE, 3)
    assert not any(one.any() for one in check(*arguments[:2], label, label, **options))
    assert check(*arguments[:2], label, label, form="supcon", **options)[0].any()
    (query, key, *_), options = arrangement("apart", temperature=0.5)
    labels = torch.zeros(19).long(), torch.zeros(29).long()
    assert not any(one.any() for one in check(query, key, *labels, **options))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", [False, True])
def test_duplicate_zero_and_short_rows(sort: bool, form: str, normalize: bool) -> None:
    row = torch.randn(1, 8, generator=torch.Generator().manual_seed(5))
    query = torch.cat([row.repeat(16, 1), torch.zeros(2, 8), 1e-8 * row, -row])
    label = torch.tensor([0, 0, 1, 1] * 4 + [2, 2, 0, 1])
    options: dict[str, Any] = {"temperature": 0.07, "form": form, "normalize": normalize, "exclude_self": True}
    for keys in (None, query.clone()):
        results = check(query, keys, label, label, upstream=torch.ones(20), **options)
        assert all(one.isfinite().all() for one in results)


@pytest.mark.filterwarnings(NOT_A_NUMBER, TOO_LARGE)
@pytest.mark.parametrize("kind", ["apart", "itself"])
@pytest.mark.parametrize("form", FORMS)
def test_logits_up_to_ten_thousand(sort: bool, form: str, kind: str) -> None:
    (query, key, *labels), options = arrangement(kind, form=form, temperature=0.05)
    scale = 1e4 * 0.05 / (query @ (query if key is None else key).T).abs().max()
    query, key = (query * scale.sqrt(), None) if key is None else (query * scale, key)
    actual, exact = run(query, key, *labels, upstream=torch.ones(len(query)), **options)
    assert exact[0].max() > 4000
    for one, truth in zip(actual, exact, strict=True):
        assert one.isfinite().all()
        assert (one - truth).norm() <= 2e-3 * truth.norm()


@pytest.mark.parametrize("kind", ["apart", "itself"])
def test_upstream_gradients_of_any_size(sort: bool, kind: str) -> None:
    arguments, options = arrangement(kind, temperature=0.1, normalize=True)
    count = len(arguments[0])
    upstream = torch.logspace(-12, 3, count)[torch.randperm(count, generator=torch.Generator().manual_seed(6))]
    check(*arguments, upstream=upstream, **options)
    tiny = check(*arguments, upstream=1e-12 * torch.rand(count), **options)
    assert tiny[1].any()
    assert not any(one.any() for one in check(*arguments, upstream=torch.zeros(count), **options)[1:])


@pytest.mark.filterwarnings(NOT_A_NUMBER)
@pytest.mark.parametrize("kind", ["apart", "itself"])
@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_upstream_gradients_that_are_not_finite_spread(sort: bool, kind: str, value: float) -> None:
    (query, key, *labels), options = arrangement(kind, temperature=0.1, normalize=True)
    upstream = torch.ones(len(query))
    upstream[3] = value
    assert labels[0][3] != IGNORE
    (losses, *gradients), (_, *exact) = run(query, key, *labels, upstream=upstream, **options)
    assert losses.isfinite().all()
    for one, truth in zip(gradients, exact, strict=True):
        assert not truth.isfinite().all()
        assert not (one.isfinite() & ~truth.isfinite()).any()
    if kind == "apart":
        assert gradients[0].isfinite().all(1).sum() == len(query) - 1


@pytest.mark.filterwarnings(NOT_A_NUMBER, ALL_NAN)
@pytest.mark.parametrize("form", FORMS)
def test_features_that_are_not_numbers_are_not_hidden(sort: bool, form: str) -> None:
    query, key, query_label, key_label = problem(19, 35, dtype=torch.float32)
    for rows, spoilt in ((query, slice(2, 3)), (key, slice(0, 19))):
        before = rows[2].clone()
        rows[2, 1] = math.nan
        assert query_label[2] != IGNORE
        assert key_label[2] != IGNORE
        options: dict[str, Any] = {"temperature": 0.2, "form": form, "normalize": sort}
        (losses, *gradients), _ = run(query, key, query_label, key_label, **options)
        rows[2] = before
        assert losses[spoilt][query_label[spoilt] != IGNORE].isnan().all()
        assert gradients[0][2].isnan().all()
        assert gradients[1].isnan().any()


def test_views_of_any_stride_between_numbers_that_must_not_be_read(sort: bool) -> None:
    query, key, query_label, key_label = problem(19, 29, 5, dtype=torch.float32)
    around = torch.full((60, 60), math.nan)
    inner, turned = around[1:39:2, 3:13:2], around[45:50, 7:36].T
    inner.copy_(query)
    turned.copy_(key)
    labels = torch.stack([query_label, query_label], 1)[:, 1], key_label.flip(0).contiguous().flip(0)
    options: dict[str, Any] = {"temperature": 0.3, "normalize": sort}
    plain = check(query, key, query_label, key_label, **options)
    views = check(inner, turned, *labels, **options)
    assert all(torch.equal(one, other) for one, other in zip(plain, views, strict=True))


def test_expanded_rows_features_and_labels(sort: bool) -> None:
    query, key, _, key_label = problem(1, 20, 5, dtype=torch.float32)
    check(query.expand(19, 5), key[:, :1].expand(20, 5), torch.tensor([1]).expand(19), key_label, temperature=0.3)


def test_rows_and_features_more_than_an_int32_apart(sort: bool) -> None:
    query, key, query_label, key_label = problem(18, 9, 5, dtype=torch.float16)
    # Only the pages that are written take memory.
    storage = torch.empty(2**31 + 2**28, dtype=torch.float16)
    far_rows, far_features = storage.as_strided((18, 5), (2**27, 3)), storage.as_strided((9, 5), (7, 2**29), 1000)
    far_rows.copy_(query)
    far_features.copy_(key)
    near = check(query, key, query_label, key_label, temperature=0.3, normalize=True, accuracy="fp16")
    far = check(far_rows, far_features, query_label, key_label, temperature=0.3, normalize=True, accuracy="fp16")
    assert all(torch.equal(one, other) for one, other in zip(near, far, strict=True))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 18)),
    seed=st.integers(0, 99),
    sorts=st.booleans(),
    kind=st.sampled_from(["apart", "bank"]),
    form=st.sampled_from(FORMS),
    normalize=st.booleans(),
    temperature=st.sampled_from([0.02, 0.1, 1.0]),
)
def test_any_problem(shape: tuple[int, int, int], seed: int, sorts: bool, kind: str, **options: Any) -> None:
    query, key, query_label, key_label = problem(*shape, seed=seed, dtype=torch.float32)
    if kind == "bank":
        key, key_label = torch.cat([query, key]), torch.cat([query_label, key_label])
    if not options["normalize"]:
        query = query * options["temperature"]
    with mock.patch.object(ops, "SORT_FROM", 0 if sorts else math.inf):
        check(query, key, query_label, key_label, exclude_self=kind == "bank", **options)
