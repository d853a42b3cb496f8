import pytest
import torch
from torch import nn
from toy_training import ToyNetwork, config

from vidapt.engine.optimisation import clip_gradients, learning_rate, make_optimizer, parameter_groups, update


def test_learning_rate_warms_up_linearly_and_decays_to_zero():
    settings = config(steps=100, warmup=10, lr=1.0, power=1.0)
    assert learning_rate(0, settings) == pytest.approx(0.1)
    assert learning_rate(4, settings) == pytest.approx(0.5 * 0.96)
    assert learning_rate(50, settings) == pytest.approx(0.5)
    assert learning_rate(99, settings) == pytest.approx(0.01)


def test_learning_rate_without_warmup_or_decay():
    settings = config(steps=10, warmup=0, lr=0.5, power=0.0)
    assert [learning_rate(step, settings) for step in (0, 5, 9)] == [0.5, 0.5, 0.5]


def test_groups_split_encoder_from_heads_and_norms_from_weights():
    network = ToyNetwork()
    network.never.weight.requires_grad_(False)
    groups = parameter_groups(network, config(head_lr_factor=10.0, weight_decay=0.3))
    found = {(g["factor"], g["weight_decay"]): {id(p) for p in g["params"]} for g in groups}
    assert found[1.0, 0.3] == {id(network.encoder[0].weight)}
    assert found[1.0, 0.0] == {id(network.encoder[0].bias), *(id(p) for p in network.encoder[1].parameters())}
    assert found[10.0, 0.3] == {id(network.head[1].weight), id(network.rare.weight)}
    assert sum(map(len, found.values())) == sum(p.requires_grad for p in network.parameters())


def test_network_without_an_encoder_is_refused():
    with pytest.raises(AttributeError, match="encoder"):
        parameter_groups(nn.Linear(2, 2), config())


def test_update_moves_heads_faster_and_leaves_unused_parameters():
    network = ToyNetwork()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = make_optimizer(network, config(head_lr_factor=10.0, weight_decay=0.0))
    network.encoder[0].weight.grad = torch.ones_like(network.encoder[0].weight)
    network.head[1].weight.grad = torch.ones_like(network.head[1].weight)
    update(optimizer, 0.01)
    torch.testing.assert_close(network.encoder[0].weight, before["encoder.0.weight"] - 0.01)
    torch.testing.assert_close(network.head[1].weight, before["head.1.weight"] - 0.1)
    assert torch.equal(network.never.weight, before["never.weight"])


@pytest.mark.parametrize(("limit", "expected"), [(0.0, 5.0), (1.0, 1.0), (9.0, 5.0)])
def test_clip_gradients_scales_only_above_the_limit(limit, expected):
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert float(clip_gradients(parameters, limit)) == pytest.approx(5.0)
    assert float(torch.stack([parameters[0].grad, parameters[1].grad]).norm()) == pytest.approx(expected, rel=1e-5)
    assert parameters[2].grad is None
