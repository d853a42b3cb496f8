"""The supervised contrast against loops over queries in float64, its gradients, its edge cases and its memory."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.plain_contrast import IGNORE
from tests.kernels.plain_contrast import supervised_problem as problem
from vidapt.kernels.contrast import blocks, supervised_contrast

SYNCHRONISING = ("_local_scalar_dense", "nonzero", "_unique2", "unique_consecutive", "masked_select", "is_nonzero")


def losses_by_loops(
    query: Tensor,
    key: Tensor,
    query_label: Tensor,
    key_label: Tensor,
    *,
    temperature: float,
    form: str = "per_positive",
    exclude_self: bool = False,
    normalize: bool = False,
) -> tuple[Tensor, list[bool]]:
    query, key = query.double(), key.double()
    if normalize:
        query, key = (rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-6) for rows in (query, key))
    losses, counted = [], []
    for i, label in enumerate(query_label.tolist()):
        score = key @ query[i] / temperature
        others = [j for j in range(len(key)) if key_label[j] != IGNORE and not (exclude_self and i == j)]
        positives = [j for j in others if key_label[j] == label]
        negatives = [j for j in others if key_label[j] != label]
        counted.append(label != IGNORE and bool(positives))
        terms = [
            torch.logsumexp(score[[j, *negatives] if form == "per_positive" else others], 0) - score[j]
            for j in positives
        ]
        losses.append(torch.stack(terms).mean() if counted[-1] else query.sum() * 0)
    return torch.stack(losses) if losses else query.sum(1), counted


def mean_by_loops(losses: Tensor, counted: list[bool], weight: Tensor | None = None) -> Tensor:
    weight = torch.ones(len(losses)) if weight is None else weight
    share = [float(w) * c for w, c in zip(weight, counted, strict=True)]
    return sum((s * loss for s, loss in zip(share, losses, strict=True)), losses.sum() * 0) / (sum(share) or 1)


def grads(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs, retain_graph=True))


@pytest.fixture(params=["one block", "many blocks"])
def block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "many blocks":
        monkeypatch.setattr(blocks, "CPU_BLOCK_ELEMENTS", 12)
        monkeypatch.setattr(blocks, "MIN_ROWS", 3)
    return request.param


OPTIONS: list[dict[str, Any]] = [
    {"form": form, "exclude_self": exclude, "normalize": normalize, "temperature": temperature}
    for form in ("per_positive", "supcon")
    for exclude in (False, True)
    for normalize, temperature in ((False, 0.7), (True, 0.1), (True, 0.01))
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_value_and_gradient_equal_the_loop(block_size: str, options: dict[str, Any]) -> None:
    query, key, query_label, key_label = problem(11, 23)
    if options["exclude_self"]:
        key, key_label = torch.cat([query, key[11:]]), torch.cat([query_label, key_label[11:]])
    query, key = query.requires_grad_(), key.detach().clone().requires_grad_()
    weight = torch.linspace(0.1, 2, 11, dtype=torch.float64)
    losses, counted = losses_by_loops(query, key, query_label, key_label, **options)
    assert 3 <= sum(counted) < 11
    each = supervised_contrast(query, key, query_label, key_label, reduction="none", weight=weight, **options)
    torch.testing.assert_close(each, losses, rtol=1e-10, atol=1e-12)
    mean = supervised_contrast(query, key, query_label, key_label, weight=weight, **options)
    expected = mean_by_loops(losses, counted, weight)
    torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-12)
    total = supervised_contrast(query, key, query_label, key_label, weight=weight, reduction="sum", **options)
    torch.testing.assert_close(total, (losses * weight).sum(), rtol=1e-10, atol=1e-12)
    for one, other in zip(grads(mean, query, key), grads(expected, query, key), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", ["per_positive", "supcon"])
@pytest.mark.parametrize("normalize", [False, True])
def test_gradcheck(block_size: str, form: str, normalize: bool) -> None:
    query, key, query_label, key_label = problem(6, 9)

    def loss(q: Tensor, k: Tensor, reduction: str) -> Tensor:
        options: dict[str, Any] = {"temperature": 0.5, "form": form, "normalize": normalize, "reduction": reduction}
        return supervised_contrast(q, k, query_label, key_label, **options)

    inputs = query.requires_grad_(), key.requires_grad_()
    for reduction in ("none", "mean"):
        assert torch.autograd.gradcheck(lambda q, k, r=reduction: loss(q, k, r), inputs)


@pytest.mark.parametrize("form", ["per_positive", "supcon"])
@pytest.mark.parametrize("normalize", [False, True])
def test_key_is_query_equals_two_tensors(block_size: str, form: str, normalize: bool) -> None:
    query, _, label, _ = problem(13, 1)
    query.requires_grad_()
    twin = query.detach().clone().requires_grad_()
    options: dict[str, Any] = {"temperature": 0.3, "form": form, "exclude_self": True, "normalize": normalize}
    itself = supervised_contrast(query, query, label, label, **options)
    apart = supervised_contrast(query, twin, label, label, **options)
    torch.testing.assert_close(itself, apart)
    torch.testing.assert_close(grads(itself, query)[0], sum(grads(apart, query, twin)))
    detached = supervised_contrast(query, query, label, label, key_grad=False, **options)
    torch.testing.assert_close(grads(detached, query)[0], grads(apart, query)[0])


def test_key_grad_false_sends_nothing_to_the_keys() -> None:
    query, key, query_label, key_label = problem(8, 9)
    query.requires_grad_()
    key.requires_grad_()
    loss = supervised_contrast(query, key, query_label, key_label, temperature=0.5, key_grad=False)
    loss.backward()
    assert key.grad is None
    assert query.grad is not None
    assert query.grad.abs().sum() > 0


def test_no_gradient_to_weights() -> None:
    query, key, query_label, key_label = problem(8, 9)
    weight = torch.ones(8, requires_grad=True)
    loss = supervised_contrast(query.requires_grad_(), key, query_label, key_label, temperature=0.5, weight=weight)
    loss.backward()
    assert weight.grad is None


def test_no_double_backward() -> None:
    query, key, query_label, key_label = problem(8, 9)
    loss = supervised_contrast(query.requires_grad_(), key, query_label, key_label, temperature=0.5)
    for scalar, message in ((loss, "does not require grad"), (loss**2, "once_differentiable")):
        (gradient,) = torch.autograd.grad(scalar, query, create_graph=True)
        with pytest.raises(RuntimeError, match=message):
            gradient.sum().backward()


def test_queries_that_do_not_count_get_gradient_zero() -> None:
    query, key, query_label, key_label = problem(9, 12)
    query_label[0], query_label[1] = IGNORE, 99
    query.requires_grad_()
    for form in ("per_positive", "supcon"):
        loss = supervised_contrast(query, key, query_label, key_label, temperature=0.1, form=form, normalize=True)
        (gradient,) = grads(loss, query)
        assert not gradient[:2].any()
        assert gradient[2:].any()


@pytest.mark.parametrize("form", ["per_positive", "supcon"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("query_label", "key_label"),
    [
        ([IGNORE] * 3, [0, 1, IGNORE, 0]),
        ([0, 1, 2], [IGNORE] * 4),
        ([0, 1, 2], [3, 3, 4, 5]),
        ([], [0, 1]),
        ([0, 1], []),
        ([], []),
    ],
    ids=["queries ignored", "keys ignored", "no positive", "no query", "no key", "neither"],
)
def test_nothing_counts_gives_zero(form: str, normalize: bool, query_label: list[int], key_label: list[int]) -> None:
    query = torch.randn(len(query_label), 4, requires_grad=True)
    key = torch.randn(len(key_label), 4, requires_grad=True)
    labels = torch.tensor(query_label, dtype=torch.int64), torch.tensor(key_label, dtype=torch.int64)
    for reduction in ("mean", "sum", "none"):
        options: dict[str, Any] = {"temperature": 0.1, "form": form, "normalize": normalize, "reduction": reduction}
        loss = supervised_contrast(query, key, *labels, **options)
        assert loss.shape == ((len(query_label),) if reduction == "none" else ())
        assert not loss.any()
        assert not any(gradient.any() for gradient in grads(loss.sum(), query, key))


@pytest.mark.parametrize("normalize", [False, True])
def test_one_class_has_no_negatives(normalize: bool) -> None:
    query = torch.randn(5, 4, requires_grad=True)
    label = torch.full((5,), 3)
    options: dict[str, Any] = {"temperature": 0.2, "exclude_self": True, "normalize": normalize}
    loss = supervised_contrast(query, query, label, label, **options)
    assert loss.item() == 0
    assert not grads(loss, query)[0].any()
    supcon = supervised_contrast(query, query, label, label, form="supcon", **options)
    expected = mean_by_loops(*losses_by_loops(query, query, label, label, form="supcon", **options))
    torch.testing.assert_close(supcon.double(), expected, rtol=1e-5, atol=1e-6)


def test_zero_weights_give_zero() -> None:
    query, key, query_label, key_label = problem(8, 9)
    query.requires_grad_()
    loss = supervised_contrast(query, key, query_label, key_label, temperature=0.5, weight=torch.zeros(8))
    assert loss.item() == 0
    assert not grads(loss, query)[0].any()


def test_unfilled_bank_rows_take_no_part() -> None:
    query, bank, label, bank_label = problem(7, 6, seed=2)
    bank_label[:3] = 0
    filled = supervised_contrast(
        query, torch.cat([query, bank]), label, torch.cat([label, bank_label]), temperature=0.4, exclude_self=True
    )
    padded_bank = torch.cat([bank, torch.full((20, 3), 1e3, dtype=torch.float64)])
    padded_label = torch.cat([bank_label, torch.full((20,), IGNORE)])
    padded = supervised_contrast(
        query,
        torch.cat([query, padded_bank]),
        label,
        torch.cat([label, padded_label]),
        temperature=0.4,
        exclude_self=True,
    )
    assert filled > 0
    torch.testing.assert_close(padded, filled)


@pytest.mark.parametrize("form", ["per_positive", "supcon"])
@pytest.mark.parametrize("normalize", [False, True])
def test_duplicate_and_zero_rows_stay_finite(form: str, normalize: bool) -> None:
    row = torch.randn(1, 8)
    query = torch.cat([row.repeat(6, 1), torch.zeros(2, 8), 1e-8 * row]).requires_grad_()
    label = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1, 2])
    options: dict[str, Any] = {"temperature": 0.07, "form": form, "normalize": normalize, "exclude_self": True}
    loss = supervised_contrast(query, query, label, label, **options)
    expected = mean_by_loops(*losses_by_loops(query, query, label, label, **options))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for gradient, exact in zip(grads(loss, query), grads(expected, query), strict=True):
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient, exact, rtol=1e-3, atol=1e-4 * exact.abs().max().item())


def test_normalize_divides_short_rows_by_the_epsilon() -> None:
    query = torch.tensor([[0.0, 0.0], [3e-7, 4e-7], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    key, label = torch.eye(2, dtype=torch.float64), torch.tensor([0, 1])
    options: dict[str, Any] = {"temperature": 1.0, "reduction": "sum"}
    loss = supervised_contrast(query, key, torch.tensor([0, 0, 0]), label, normalize=True, **options)
    unit = torch.stack([query[0] / 1e-6, query[1] / 1e-6, query[2] / query[2].norm()])
    expected = supervised_contrast(unit, key, torch.tensor([0, 0, 0]), label, **options)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grads(loss, query)[0], grads(expected, query)[0])


@pytest.mark.parametrize("form", ["per_positive", "supcon"])
def test_large_logits_stay_finite(form: str) -> None:
    query, key, query_label, key_label = problem(9, 14, dtype=torch.float32)
    query = (query * 40).requires_grad_()
    options: dict[str, Any] = {"temperature": 0.05, "form": form}
    loss = supervised_contrast(query, key, query_label, key_label, **options)
    expected = mean_by_loops(*losses_by_loops(query, key, query_label, key_label, **options))
    assert expected > 500
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    gradient, exact = grads(loss, query)[0], grads(expected, query)[0]
    torch.testing.assert_close(gradient, exact, rtol=1e-3, atol=1e-5 * exact.abs().max().item())


@pytest.mark.parametrize("form", ["per_positive", "supcon"])
@pytest.mark.parametrize("normalize", [False, True])
def test_float32_is_close_to_float64(form: str, normalize: bool) -> None:
    query, key, query_label, key_label = problem(64, 150, features=16, dtype=torch.float32)
    query, key = (rows.mul_(1 if normalize else 0.25).requires_grad_() for rows in (query, key))
    options: dict[str, Any] = {"temperature": 0.1, "form": form, "normalize": normalize}
    single = supervised_contrast(query, key, query_label, key_label, **options)
    double = supervised_contrast(query.double(), key.double(), query_label, key_label, **options)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-7)
    for one, other in zip(grads(single, query, key), grads(double, query, key), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", [None, "exact", "fp16", "bf16"])
def test_half_inputs_are_computed_in_float32(dtype: torch.dtype, precision: str | None) -> None:
    query, key, query_label, key_label = problem(9, 14, dtype=dtype)
    query.requires_grad_()
    options: dict[str, Any] = {"temperature": 0.1, "normalize": True}
    loss = supervised_contrast(query, key, query_label, key_label, precision=precision, **options)
    expected = supervised_contrast(query.float(), key.float(), query_label, key_label, **options)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    (gradient,) = grads(loss, query)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, grads(expected, query)[0])


@pytest.mark.parametrize("form", ["per_positive", "supcon"])
def test_autocast_changes_nothing(form: str) -> None:
    query, key, query_label, key_label = problem(9, 14, features=32, dtype=torch.float32)
    query.requires_grad_()
    key.requires_grad_()
    options: dict[str, Any] = {"temperature": 0.1, "form": form, "normalize": True}
    loss = supervised_contrast(query, key, query_label, key_label, **options)
    expected = grads(loss, query, key)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = supervised_contrast(query, key, query_label, key_label, **options)
        actual = grads(under, query, key)
    assert torch.equal(under, loss)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_any_integer_label_type(dtype: torch.dtype) -> None:
    query, key, query_label, key_label = problem(9, 14)
    ignore = -1 if dtype == torch.int8 else IGNORE
    expected = supervised_contrast(query, key, query_label, key_label, temperature=0.5)
    converted = (torch.where(label == IGNORE, ignore, label).to(dtype) for label in (query_label, key_label))
    actual = supervised_contrast(query, key, *converted, temperature=0.5, ignore_label=ignore)
    assert torch.equal(actual, expected)
    mixed = supervised_contrast(query, key, query_label.to(torch.uint8), key_label, temperature=0.5)
    assert torch.equal(mixed, expected)


def test_an_ignore_label_that_the_label_type_cannot_hold_ignores_nothing() -> None:
    query, key = problem(3, 4)[:2]
    labels = torch.tensor([-1, 0, 1], dtype=torch.int8), torch.tensor([-1, 0, 1, 1], dtype=torch.int8)
    losses = supervised_contrast(query, key, *labels, temperature=0.5, reduction="none")
    assert (losses > 0).all()


def test_neighbouring_large_labels_differ() -> None:
    query, key = problem(2, 3, dtype=torch.float32)[:2]
    labels = torch.tensor([2**60, 2**60 + 1]), torch.tensor([2**60, 2**60 + 1, 2**60 + 1])
    small = torch.tensor([0, 1]), torch.tensor([0, 1, 1])
    actual = supervised_contrast(query, key, *labels, temperature=0.5)
    assert actual > 0
    assert torch.equal(actual, supervised_contrast(query, key, *small, temperature=0.5))


def test_views_that_are_not_contiguous() -> None:
    query, key, query_label, key_label = problem(9, 14)
    strided_query = query.T.contiguous().T.requires_grad_()
    strided_key = torch.stack([key, key], 1)[:, 0]
    loss = supervised_contrast(strided_query, strided_key, query_label, key_label, temperature=0.5)
    query.requires_grad_()
    expected = supervised_contrast(query, key, query_label, key_label, temperature=0.5)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grads(loss, strided_query), grads(expected, query))


class Recorder(TorchDispatchMode):
    """Record the largest tensor made, and every operation that waits for the device or has data-dependent shapes."""

    largest = 0
    synchronising: set[str]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        name = func.__name__.split(".")[0]
        boolean_index = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in SYNCHRONISING or boolean_index:
            self.synchronising = getattr(self, "synchronising", set()) | {name}
        return result


@pytest.mark.parametrize("form", ["per_positive", "supcon"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("itself", [False, True])
def test_memory_is_linear_and_nothing_synchronises(form: str, normalize: bool, itself: bool) -> None:
    query, key, query_label, key_label = problem(2200, 3000, features=8, dtype=torch.float32)
    query.requires_grad_()
    key, key_label = (query, query_label) if itself else (key.requires_grad_(), key_label)
    options: dict[str, Any] = {"temperature": 0.1, "form": form, "normalize": normalize, "exclude_self": itself}
    with Recorder() as recorder:
        supervised_contrast(query, key, query_label, key_label, **options).backward()
    assert recorder.largest <= blocks.CPU_BLOCK_ELEMENTS
    assert recorder.largest * 8 < len(query) * len(key)
    assert not getattr(recorder, "synchronising", set())


def test_recorder_sees_a_whole_matrix_and_a_synchronisation() -> None:
    with Recorder() as recorder:
        (torch.ones(50, 2) @ torch.ones(2, 60)).sum().item()
    assert recorder.largest == 3000
    assert recorder.synchronising == {"_local_scalar_dense"}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    queries=st.integers(0, 7),
    extra=st.integers(0, 6),
    features=st.integers(1, 5),
    seed=st.integers(0, 99),
    form=st.sampled_from(["per_positive", "supcon"]),
    exclude_self=st.booleans(),
    normalize=st.booleans(),
    temperature=st.sampled_from([0.01, 0.1, 1.0]),
    elements=st.sampled_from([1, 7, 40, 2**18]),
)
def test_any_shape(
    queries: int, extra: int, features: int, seed: int, elements: int, exclude_self: bool, **options: Any
) -> None:
    query, bank, label, bank_label = problem(queries, extra, features, seed)
    query.requires_grad_()
    key, key_label = (torch.cat([query, bank]), torch.cat([label, bank_label])) if exclude_self else (bank, bank_label)
    options["exclude_self"] = exclude_self
    expected = mean_by_loops(*losses_by_loops(query, key, label, key_label, **options))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CPU_BLOCK_ELEMENTS", elements)
        patch.setattr(blocks, "MIN_ROWS", 2)
        loss = supervised_contrast(query, key, label, key_label, **options)
        (gradient,) = grads(loss, query)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient, grads(expected, query)[0], rtol=1e-8, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["per_positive", "supcon"])
def test_compiles_to_one_graph(form: str) -> None:
    query, key, query_label, key_label = problem(6, 9)
    query.requires_grad_()

    def loss(q: Tensor, k: Tensor) -> Tensor:
        return supervised_contrast(q, k, query_label, key_label, temperature=0.5, form=form, normalize=True)

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(query, key)
    torch.testing.assert_close(compiled, loss(query, key))
    torch.testing.assert_close(grads(compiled, query), grads(loss(query, key), query))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": torch.zeros(3, 2).int()}, TypeError, "query must be floating"),
        ({"query": torch.zeros(2)}, ValueError, "query must have 2 axes"),
        ({"key": torch.zeros(4, 3)}, ValueError, "key must have shape"),
        ({"query_label": torch.zeros(3)}, TypeError, "query_label must be of an integer type"),
        ({"key_label": torch.zeros(5).int()}, ValueError, "key_label must have shape"),
        ({"weight": torch.zeros(4)}, ValueError, "weight must have shape"),
        ({"weight": torch.zeros(3).int()}, TypeError, "weight must be floating"),
        ({"temperature": 0}, ValueError, "temperature must be finite and above 0"),
        ({"temperature": math.inf}, ValueError, "temperature must be finite"),
        ({"temperature": torch.tensor(0.1)}, TypeError, "temperature must be a number"),
        ({"form": "infonce"}, ValueError, "form must be one of per_positive, supcon"),
        ({"reduction": "avg"}, ValueError, "reduction must be one of mean, sum, none"),
        ({"precision": "tf32"}, ValueError, "precision must be one of None, exact, fp16, bf16"),
        ({"exclude_self": True, "key": torch.zeros(2, 2), "key_label": torch.zeros(2).int()}, ValueError, "first keys"),
    ],
)
def test_wrong_arguments_raise(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "query": torch.zeros(3, 2),
        "key": torch.zeros(4, 2),
        "query_label": torch.zeros(3).int(),
        "key_label": torch.zeros(4).int(),
        "temperature": 0.1,
    }
    with pytest.raises(error, match=message):
        supervised_contrast(**(arguments | change))
