"""The kernels on a GPU, where `make test-all` finds one: every check of `vidapt.kernels.bench.correctness`."""

import json

import pytest
import torch

from vidapt.kernels.bench.correctness import check, checks
from vidapt.kernels.bench.correctness_problems import Asked, differentiated, supervised

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", checks())
def test_kernels(name: str) -> None:
    result = check(name, torch.device("cuda"))
    if result.skipped:
        pytest.skip(result.skipped)
    assert result.passed, json.dumps(result.data(), indent=1)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_tensors_on_another_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDAPT_KERNELS", raising=False)
    problem = supervised(torch.device("cuda:0"), (500, 64), Asked(), exclude_self=True)
    expected = differentiated(problem, problem.features)
    there = supervised(torch.device("cuda:1"), (500, 64), Asked(), exclude_self=True)
    given = {name: rows.to("cuda:1") for name, rows in problem.features.items()}
    for name, value in differentiated(there, given).items():
        torch.testing.assert_close(value.to("cuda:0"), expected[name])
