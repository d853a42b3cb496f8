"""Time and memory of the blockwise reference against the form that makes the whole similarity matrix."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidapt.kernels.contrast import supervised_contrast

CLEAR = Path("/proc/self/clear_refs")
TEMPERATURE = 0.1


def plain_form(query: Tensor, key: Tensor, query_label: Tensor, key_label: Tensor, form: str) -> Tensor:
    score = query @ key.T / TEMPERATURE
    same = query_label[:, None] == key_label[None]
    if form == "supcon":
        return (torch.logsumexp(score, 1) - (score * same).sum(1) / same.sum(1)).mean()
    rest = torch.logsumexp(score.masked_fill(same, -torch.inf), 1, keepdim=True)
    return ((F.softplus(rest - score) * same).sum(1) / same.sum(1)).mean()


def blockwise(query: Tensor, key: Tensor, query_label: Tensor, key_label: Tensor, form: str) -> Tensor:
    return supervised_contrast(query, key, query_label, key_label, temperature=TEMPERATURE, form=form)


def problem(queries: int, keys: int, features: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(19, features, generator=generator)
    labels = [torch.randint(0, 19, (count,), generator=generator) for count in (queries, keys)]
    rows = [F.normalize(centre[label] + torch.randn(len(label), features, generator=generator)) for label in labels]
    return [*(tensor.requires_grad_() for tensor in rows), *labels]


def high_water() -> int:
    """Return the highest resident memory since the last reset, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def cost(function: Callable[..., Tensor], inputs: list[Tensor], form: str) -> tuple[float, float, float]:
    """Return loss, best seconds of three calls and peak MiB of the first, forward and backward, gradients included."""
    seconds, peak = [], 0.0
    for attempt in range(3):
        for tensor in inputs[:2]:
            tensor.grad = None
        ctypes.CDLL(None).malloc_trim(0)  # memory that the heap kept from before would hide what the call needs
        CLEAR.write_text("5")
        before, start = high_water(), time.perf_counter()
        loss = function(*inputs, form)
        loss.backward()
        seconds.append(time.perf_counter() - start)
        peak = (high_water() - before) / 1024 if attempt == 0 else peak
    return loss.item(), min(seconds), peak


@pytest.mark.slow
@pytest.mark.parametrize("form", ["per_positive", "supcon"])
def test_no_slower_and_a_hundredth_of_the_memory(form: str) -> None:
    try:
        CLEAR.write_text("5")
    except OSError:
        pytest.skip("the kernel does not let a process reset its memory high-water mark")
    inputs = problem(4096, 16384, 64)
    results: dict[Callable[..., Tensor], tuple[float, float, float]] = {}
    functions: list[Callable[..., Tensor]] = [blockwise, plain_form]
    for function in functions:
        function(*problem(64, 512, 64), form).backward()
        results[function] = cost(function, inputs, form)
    (loss, seconds, peak), (plain_loss, plain_seconds, plain_peak) = results[blockwise], results[plain_form]
    print(f"{form}: {seconds:.2f} s, {peak:.1f} MiB blockwise; {plain_seconds:.2f} s, {plain_peak:.1f} MiB plain")
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert seconds <= plain_seconds
    assert peak * 100 <= plain_peak
