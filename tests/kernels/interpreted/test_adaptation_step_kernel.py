"""One step of self-training with the Triton kernels has the losses and gradients of the step with the references."""

from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.tiny_runs import MODEL, TRACKING, tiny_network
from vidapt.adaptation.ingredients import Ingredients
from vidapt.adaptation.step import SelfTrainingStep
from vidapt.adaptation.supervised import Labelled
from vidapt.clip import ClipBatch, collate
from vidapt.config import MethodConfig, TrackingConfig
from vidapt.datasets.street_world import StreetWorld
from vidapt.kernels import dispatch
from vidapt.labels import CITYSCAPES
from vidapt.segmenter import new_tracker

METHOD = {
    "pseudo_labels": {"threshold": 0.0},
    "pseudo_instances": {"score": 0.0},
    "class_mix": {"instance_weight": 1.0},
    "instance_mix": {"semantic_weight": 1.0},
    "pixel_contrast": {"total": 60, "per_class": 20, "min_pixels": 2},
    "temporal_contrast": {"total": 40, "warp": True},
}
OPERATIONS = {"paste_instances", "supervised_contrast", "paired_contrast", "sample_anchors"}


def clips(style: str) -> ClipBatch:
    world = StreetWorld(seed=9, videos=1, frames=2, size=(40, 64), style=style, clip_length=2)
    sample = world[0] if style == "source" else world[0].without_target()
    return collate([sample], [0])


def losses_and_gradients() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    network = tiny_network(model=MODEL | {"pixel_projection": {"dim": 8, "hidden": 8}})
    step = SelfTrainingStep(
        Ingredients(network, MethodConfig.model_validate(METHOD), Labelled(seed=3)),
        steps=1,
        new_tracker=lambda: new_tracker(TrackingConfig.model_validate(TRACKING), len(CITYSCAPES), None),
    )
    losses = {}
    for name, loss in step.losses(clips("source"), clips("fog")):
        losses[name] = loss.detach()
        if loss.requires_grad:
            loss.backward()
    return losses, {name: one.grad for name, one in network.named_parameters() if one.grad is not None}


def test_a_step_is_the_same_with_kernels_and_with_references(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock.patch.object(dispatch, "kernel", wraps=dispatch.kernel) as kernel:
        losses, gradients = losses_and_gradients()
    assert {call.args[0] for call in kernel.call_args_list} == OPERATIONS
    monkeypatch.setenv("VIDAPT_KERNELS", "reference")
    with mock.patch.object(dispatch, "kernel", side_effect=AssertionError("a kernel ran")):
        expected, expected_gradients = losses_and_gradients()
    assert losses["instances"] > 0
    assert losses["source/pixel_contrast"] > 0
    assert losses["mixed/temporal_contrast"] > 0
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
