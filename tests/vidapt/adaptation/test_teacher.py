"""Mean teacher: ramp, parameters and buffers."""

import pytest
import torch
from torch import nn

from vidapt.adaptation.teacher import (
    average_statistics,
    ema_momentum,
    ema_update,
    make_teacher,
    own_statistics,
    statistics_names,
)


@pytest.mark.parametrize(("update", "expected"), [(0, 0.0), (1, 0.5), (9, 0.9), (5000, 0.999)])
def test_momentum_ramps_up_to_alpha(update, expected):
    assert ema_momentum(update, 0.999) == pytest.approx(expected)


def test_update_averages_parameters_and_buffers_and_copies_counters():
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    teacher = make_teacher(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    student[1].running_mean.fill_(2.0)
    student[1].num_batches_tracked.fill_(7)
    before = teacher[0].weight.clone()
    ema_update(teacher, student, 0.75)
    assert torch.allclose(teacher[0].weight, before + 0.25)
    assert torch.allclose(teacher[1].running_mean, torch.full((4,), 0.5))
    assert int(teacher[1].num_batches_tracked) == 7


def test_momentum_zero_copies_and_one_keeps():
    student = nn.Linear(3, 3)
    teacher = make_teacher(student)
    with torch.no_grad():
        student.weight.mul_(3)
    kept = teacher.weight.clone()
    ema_update(teacher, student, 1.0)
    assert torch.equal(teacher.weight, kept)
    ema_update(teacher, student, 0.0)
    assert torch.equal(teacher.weight, student.weight)


def test_teacher_is_frozen_and_in_evaluation_mode():
    student = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    teacher = make_teacher(student)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_own_statistics_follow_the_batches_and_survive_the_update():
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    teacher = make_teacher(student)
    with own_statistics(teacher):
        teacher(torch.full((2, 3, 4, 4), 5.0))
    assert not teacher[1].training
    moved = teacher[1].running_mean.clone()
    assert not torch.equal(moved, student[1].running_mean)
    with torch.no_grad():
        student[0].weight.add_(1.0)
    ema_update(teacher, student, 0.0, statistics=False)
    assert torch.equal(teacher[0].weight, student[0].weight)
    assert torch.equal(teacher[1].running_mean, moved)


def test_statistics_names_are_the_batch_norm_buffers():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(1, 4))
    assert statistics_names(network) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_statistics_are_averaged_all_at_once():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm1d(2)))
    network[1].running_mean.copy_(torch.arange(4.0))
    network[1].num_batches_tracked.fill_(3)
    weight, asked = network[0].weight.clone(), []

    def reduce(values: torch.Tensor) -> torch.Tensor:
        asked.append(values.numel())
        return (values + 10) / 2

    average_statistics(network, reduce)
    assert asked == [12]
    assert network[1].running_mean.tolist() == [5, 5.5, 6, 6.5]
    assert network[1].running_var.tolist() == [5.5] * 4
    assert network[2][0].running_mean.tolist() == [5, 5]
    assert network[2][0].running_var.tolist() == [5.5] * 2
    assert network[1].num_batches_tracked == 3
    assert torch.equal(network[0].weight, weight)


def test_without_batch_normalisation_nothing_is_exchanged():
    reduced = []
    average_statistics(nn.Linear(2, 2), lambda values: reduced.append(values) or values)
    assert reduced == []
