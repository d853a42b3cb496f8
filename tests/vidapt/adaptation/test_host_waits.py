"""How often a training step waits for a GPU: never, except where the tracker looks for pseudo-instances on the host."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests.vidapt.adaptation.host_waits import DEVICE, HOST, Waits
from tests.vidapt.jobs.tiny_suite import write_suite
from vidapt.adaptation.step import SelfTrainingStep
from vidapt.jobs.build import build_loader, build_network, build_step
from vidapt.jobs.train import open_data
from vidapt.models.instance.center_offset import CenterOffsetHead
from vidapt.suite import load_suite, method_recipe

FRAME = {
    ("grouping.py", "find_peaks"): 1,
    ("grouping.py", "_thing_pixels"): 1,
    ("grouping.py", "group_pixels"): 1,
    ("fusion.py", "_array"): 4,
}
"""Waits for each target frame in which the teacher finds instances: their number, then scores, masks, classes and
embeddings for the tracker."""
STEP = {("pseudo_labels.py", "_verified"): 1}
"""Waits for all frames of a step together: their classes."""


def step_of(folder: Path, recipe: str) -> Counter[tuple[str, str]]:
    """Waits of one step of a shipped recipe in miniature, by file and function, when all of its parts have begun."""
    parts = {"pixel_contrast": {"min_pixels": 2}, "text_alignment": {"table": "orthonormal", "project": True}}
    changes = {"adaptation": {"feature_distance": None, "rare_classes": None}, "parts": parts}
    suite = load_suite(str(write_suite(folder, **changes)))
    settings = ["training.workers=0", "method.pseudo_instances.score=0.0"]
    config = method_recipe(suite, suite.comparisons[0], recipe, settings)
    accelerator = Accelerator(cpu=True)
    source, target = open_data(config)
    network = build_network(config, fresh=True)
    step = build_step(config, network.train(), source, accelerator.device)
    assert isinstance(step, SelfTrainingStep)
    step.load_state_dict(step.state_dict() | {"updates": config.training.steps})
    batches = [next(build_loader(data, config, "source", accelerator)(0)) for data in (source, target)]
    waits = Waits()
    for batch in batches:
        for on_host in (batch.indices, batch.times, batch.samples):
            waits.on_host(on_host)
    for module in step.weights().values():
        head = module.instance
        assert isinstance(head, CenterOffsetHead)
        torch.nn.init.constant_(head.center[1].bias, 0.5)
        waits.on_host(head._things)
    with waits.watch():
        step.begin_step()
        for _, loss in step.losses(*batches):
            if loss.requires_grad:
                loss.backward()
        step.after_update()
    assert all(parameter.grad is not None for parameter in network.encoder.parameters())
    return Counter({(Path(file).name, name): number for (file, name, _), number in waits.found.items()})


@pytest.mark.parametrize("recipe", ["dacs", "daformer", "hrda", "mic", "edaps", "pipa", "pipapp_image", "pipapp_video"])
def test_no_wait_without_pseudo_instances(tmp_path: Path, recipe: str) -> None:
    assert not step_of(tmp_path, recipe)


def test_pseudo_instances_wait_for_each_frame(tmp_path: Path) -> None:
    frames = 2
    wanted = Counter({place: frames * number for place, number in FRAME.items()}) + Counter(STEP)
    assert step_of(tmp_path, "lidaps") == wanted


def test_vidapt_waits_for_the_frames_that_flow_is_computed_on(tmp_path: Path) -> None:
    frames = 2 * 2
    wanted = Counter({place: frames * number for place, number in FRAME.items()}) + Counter(STEP)
    wanted += Counter({("ensembling.py", "_grids"): 1, ("rounds.py", "_pick"): 4})
    assert step_of(tmp_path, "vidapt") == wanted


# --- the pretended GPU

DEVICE_VALUES = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.sum().item(),
        lambda values: bool(values.any()),
        lambda values: float(values.mean()),
        lambda values: values.tolist(),
        lambda values: values.cpu(),
        lambda values: values.numpy(),
        lambda values: values.to("cpu"),
        lambda values: values.nonzero(),
        lambda values: values[values > 1],
        lambda values: values.unique(),
        lambda values: torch.bincount(values.flatten().long()),
        lambda values: torch.equal(values, values),
        lambda values: torch.tensor([1.0], device=values.device),
        lambda values: values.new_tensor([1.0]),
        lambda values: torch.from_numpy(np.ones(3)).to(values.device),
        lambda values: torch.zeros(3).to(values.device, torch.float64),
        lambda values: torch.masked_select(values, values > 1),
    ],
)
def test_what_waits(wait: Callable[[torch.Tensor], Any]) -> None:
    waits = Waits()
    with waits.watch():
        wait(DEVICE_VALUES)
    assert sum(waits.found.values()) == 1


@pytest.mark.parametrize(
    "work",
    [
        lambda values: torch.from_numpy(np.ones(3)).to(values.device, non_blocking=True) + values,
        lambda values: torch.from_numpy(np.ones(3)).sum().item(),
        lambda values: torch.arange(3).tolist(),
        lambda values: values.masked_fill(values > 1, 0.0),
        lambda values: values.clone().index_put_((values > 1,), torch.zeros(())),
        lambda values: values[:, torch.arange(2, device=values.device)],
        lambda values: torch.rand(3, generator=torch.Generator(values.device), device=values.device) * values,
        lambda values: values.to(values.device).to(torch.float64).sort(),
        lambda values: torch.zeros(2, device=values.device).requires_grad_().sum().backward(),
    ],
)
def test_what_does_not_wait(work: Callable[[torch.Tensor], Any]) -> None:
    waits = Waits()
    with waits.watch():
        work(DEVICE_VALUES)
    assert not waits.found


def test_tensors_say_where_they_lie() -> None:
    waits = Waits()
    with waits.watch():
        assert DEVICE_VALUES.device == DEVICE
        assert (DEVICE_VALUES + 1).device == DEVICE
        assert torch.zeros(3, device=DEVICE_VALUES.device).device == DEVICE
        assert torch.zeros(3).device == HOST
        assert (torch.zeros(3) + 1).device == HOST
        assert DEVICE_VALUES.cpu().device == HOST
        assert torch.zeros(3).to(DEVICE, non_blocking=True).device == DEVICE


def test_waits_in_backward_passes_are_found() -> None:
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
            return values * 2

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * grad.sum().item()

    waits, leaf = Waits(), torch.ones(2, requires_grad=True)
    with waits.watch():
        Reads.apply(leaf).sum().backward()
    assert sum(waits.found.values()) == 1
