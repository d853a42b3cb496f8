"""Semantic loss and class weights, by hand."""

import math

import pytest
import torch

from vidapt.models.losses import class_weights, semantic_loss


def test_uniform_logits_give_log_classes():
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    assert semantic_loss(torch.zeros(2, 19, 2, 2), labels).item() == pytest.approx(math.log(19))


def test_ignored_pixels_stay_in_the_denominator():
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[:, :2] = 255
    assert semantic_loss(torch.zeros(1, 3, 1, 1), labels).item() == pytest.approx(math.log(3) / 2)


def test_pixel_weights_scale_the_loss():
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    weight = torch.full((1, 4, 4), 0.25)
    assert semantic_loss(torch.zeros(1, 3, 1, 1), labels, weight).item() == pytest.approx(math.log(3) / 4)


def test_all_ignored_gives_zero_and_zero_gradients():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = semantic_loss(logits, torch.full((1, 8, 8), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_class_weights_keep_the_mean_weight_of_a_pixel():
    counts = torch.tensor([900, 70, 30])
    weights = class_weights(counts, 0.5)
    assert weights[0] < weights[1] < weights[2]
    assert (weights * counts / counts.sum()).sum().item() == pytest.approx(1, rel=1e-5)
    assert (weights[1] / weights[0]).item() == pytest.approx(math.sqrt(900 / 70), rel=1e-5)


@pytest.mark.parametrize(("counts", "power"), [([5, 5], 0.5), ([900, 10], 0.0), ([0, 0], 0.5)])
def test_class_weights_are_one_where_nothing_is_rare(counts, power):
    assert torch.allclose(class_weights(torch.tensor(counts), power), torch.ones(2))


def test_absent_classes_are_limited():
    assert class_weights(torch.tensor([1000, 0]), 1.0)[1].item() == 6.0


def test_class_weight_enters_the_loss():
    labels = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    loss = semantic_loss(torch.zeros(1, 2, 1, 2), labels, class_weight=torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx(2 * math.log(2))
