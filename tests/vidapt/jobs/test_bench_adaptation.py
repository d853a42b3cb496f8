"""`vidapt bench pipeline --stage adaptation`: its clock, the gate before it, and what it reports."""

import json
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_runs import METHOD
from tests.vidapt.jobs.tiny_suite import write_suite
from vidapt import cli
from vidapt.adaptation import source_graphs, step
from vidapt.errors import VidaptError
from vidapt.jobs import bench_adaptation, bench_clock
from vidapt.jobs.bench_clock import Clock, apart, watched


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves on by a second whenever it is read."""
    seconds = count()
    monkeypatch.setattr(bench_clock, "process_time", lambda: float(next(seconds)))


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    method = tmp_path / "everything.yaml"
    method.write_text(json.dumps({"training": {"clip_length": 2}, "method": METHOD}))
    comparison = {"benchmark": str(tmp_path / "tiny_fog.yaml"), "recipes": ["dacs", str(method)], "seeds": [0]}
    path = write_suite(tmp_path, comparisons=[comparison])
    monkeypatch.setattr(bench_adaptation, "SUITE", str(path))
    monkeypatch.setattr(bench_adaptation, "QUICK", ("dacs", str(method)))
    monkeypatch.setattr(bench_adaptation, "SETTINGS", ("training.workers=0",))
    monkeypatch.setattr(bench_adaptation, "START_STEPS", 1)
    monkeypatch.setattr(sys, "argv", ["vidapt"])
    monkeypatch.delenv(cli.DEBUG, raising=False)


# --- the clock


@pytest.mark.usefixtures("ticks")
def test_only_the_innermost_part_runs() -> None:
    clock = Clock()
    with clock.part("outer"):
        with clock.part("inner"), clock.part("outer"):
            pass
        with clock.part("inner"):
            pass
    assert clock.take() == {"outer": 3 + 1, "inner": 2 + 1}
    assert clock.take() == {}


@pytest.mark.usefixtures("ticks")
def test_time_outside_of_parts_does_not_count() -> None:
    clock = Clock()
    for _ in range(2):
        with clock.part("it"):
            bench_clock.process_time()
    assert clock.take() == {"it": 4}


def test_functions_are_put_back() -> None:
    class Product:
        def work(self) -> int:
            return 3

    clock, work = Clock(), Product.work
    with watched(clock, {"work": [(Product, "work")]}, {}):
        assert Product.work is not work
        assert Product().work() == 3
    assert Product.work is work
    assert list(clock.seconds) == ["work"]


def test_a_place_that_is_gone_is_no_part() -> None:
    with pytest.raises(AttributeError, match="gone"), watched(Clock(), {"it": [(step, "gone")]}, {}):
        pass


def test_losses_apart_have_the_same_gradients() -> None:
    def loss(features: torch.Tensor, labels: torch.Tensor, *, second: torch.Tensor) -> torch.Tensor:
        return (features * second).sin().sum() + labels.sum()

    def gradients(function: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        leaf = torch.linspace(0, 1, 6).requires_grad_()
        value = function(leaf * 2, torch.ones(2), second=leaf.square())
        (3 * value + leaf.sum()).backward()
        assert leaf.grad is not None
        return [value.detach(), leaf.grad]

    for plain, timed in zip(gradients(loss), gradients(apart(Clock(), "it", loss)), strict=True):
        torch.testing.assert_close(plain, timed)


def test_the_backward_pass_of_a_loss_apart_counts_for_it() -> None:
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
            return values.sum()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            end = time.process_time() + 0.05
            while time.process_time() < end:
                pass
            return grad.expand(3)

    clock = Clock()
    value = apart(clock, "it", Slow.apply)(torch.zeros(3, requires_grad=True))
    with clock.part("network"):
        value.backward()
    found = clock.take()
    assert found["it"] > 0.05 > found["network"]


def test_a_loss_without_gradient_stays_so() -> None:
    value = apart(Clock(), "it", lambda features: features.detach().sum())(torch.ones(3, requires_grad=True))
    assert not value.requires_grad


# --- the stage


@pytest.mark.usefixtures("_tiny")
def test_adaptation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sys.argv = ["vidapt", "bench", "pipeline", "--stage", "adaptation", "--quick", "--json", str(tmp_path / "it.json")]
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    assert "ms/step" in capsys.readouterr().out
    report = json.loads((tmp_path / "it.json").read_text())
    names = list(bench_adaptation.QUICK)
    assert (report["finished"], report["unit"], [row["name"] for row in report["rows"]]) == (True, "step", names)
    assert {row["samples"] for row in report["rows"]} == {4}
    assert [target["limit"] for target in report["targets"]] == [15.0, 15.0]
    for target, shares in zip(report["targets"], report["shares"].values(), strict=True):
        assert sum(shares.values()) == pytest.approx(100)
        assert min(shares.values()) >= 0
        beside = sum(share for name, share in shares.items() if name not in ("forward", "backward"))
        assert target["value"] == pytest.approx(beside)
    dacs, everything = report["shares"].values()
    assert list(dacs) == list(bench_adaptation.COLUMNS)
    assert {name for name, share in dacs.items() if share == 0} == {"tracking", "flow", "contrast"}
    assert all(everything.values())


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize(("place", "message"), [("value", "the losses of dacs"), ("gradient", "the gradients of dacs")])
def test_a_clock_that_changes_something_is_not_read(monkeypatch: pytest.MonkeyPatch, place: str, message: str) -> None:
    def wrong(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            output = function(*given, **named)
            logits = output.logits
            extra = logits.detach() if place == "value" else logits - logits.detach()
            object.__setattr__(output, "logits", logits + extra)
            return output

        return run

    right = bench_adaptation.watched

    def watch(clock: Clock, parts: Any, losses: Any) -> Any:
        if parts:
            monkeypatch.setattr(source_graphs, "forward", wrong(source_graphs.forward))
        return right(clock, parts, losses)

    monkeypatch.setattr(bench_adaptation, "watched", watch)
    monkeypatch.setattr(bench_adaptation, "_time", lambda *_: pytest.fail("timed"))
    with pytest.raises(VidaptError, match=f"the clock changes {message}; no share is shown"):
        bench_adaptation.measure(True)


@pytest.mark.usefixtures("_tiny")
def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with bench_adaptation._one_torch_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
