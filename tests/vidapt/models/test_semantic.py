import pytest
import torch
from torch import nn

from vidapt.config import SemanticConfig
from vidapt.models.semantic import SemanticHead

MIT_B5 = (64, 128, 320, 512)


def pyramid(channels, height=32, width=64, count=2):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(count, c, -(-height // 2**i), -(-width // 2**i), generator=generator)
        for i, c in enumerate(channels)
    ]


def test_parameters_are_those_of_the_published_head():
    head = SemanticHead(SemanticConfig(), MIT_B5, 19)
    assert sum(value.numel() for value in head.parameters()) == 3_712_275


@pytest.mark.parametrize(("height", "width"), [(32, 64), (33, 65), (9, 2), (1, 1)])
def test_outputs_have_the_size_of_the_finest_map(height, width):
    head = SemanticHead(SemanticConfig(channels=16, norm="group"), (4, 6, 8, 10), 5)
    fused, logits = head(pyramid((4, 6, 8, 10), height, width))
    assert fused.shape == (2, 16, height, width)
    assert logits.shape == (2, 5, height, width)


def test_value_of_a_head_of_averages():
    """With every weight the same, each layer computes a known mean, so the result is known in closed form."""
    config = SemanticConfig(channels=2, dilations=(1, 6), dropout=0.0)
    head = SemanticHead(config, (1, 1), 1).eval()
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    fused, logits = head([torch.ones(1, 1, 32, 32), torch.full((1, 1, 16, 16), 2.0)])
    norm = (1 + 1e-5) ** -0.5  # batch norm with running statistics 0 and 1
    joint = 2 * 1.0 + 2 * 2.0
    point, separable = joint * norm, joint * 9 * norm * norm
    middle = 9 * (2 * point + 2 * separable) * norm
    assert fused[0, :, 16, 16].tolist() == pytest.approx([middle, middle], rel=1e-4)
    assert logits[0, 0, 16, 16].item() == pytest.approx(2 * middle, rel=1e-4)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_norm_is_the_one_asked_for(norm):
    head = SemanticHead(SemanticConfig(channels=16, norm=norm), (4, 6), 5)
    kinds = {type(module) for module in head.modules() if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)}
    assert kinds == {nn.BatchNorm2d if norm == "batch" else nn.GroupNorm}


def test_dropout_acts_on_logits_in_training_only_and_never_on_the_fused_map():
    head = SemanticHead(SemanticConfig(channels=16, norm="group", dropout=0.5), (4, 6), 5)
    nn.init.normal_(head.classify.weight)
    features = pyramid((4, 6))
    torch.manual_seed(0)
    (fused, logits), (again, other) = head(features), head(features)
    assert torch.equal(fused, again)
    assert not torch.equal(logits, other)
    head.eval()
    assert torch.equal(head(features)[1], head(features)[1])


def test_dilations_widen_the_view():
    features = pyramid((4, 6), 64, 64, 1)
    features[0].requires_grad_()

    def reach(dilations):
        torch.manual_seed(0)
        head = SemanticHead(SemanticConfig(channels=8, dilations=dilations), (4, 6), 3).eval()
        (grad,) = torch.autograd.grad(head(features)[0][0, :, 32, 32].sum(), features[0])
        rows = grad.abs().sum((0, 1, 3)).nonzero()
        return int(rows.max() - rows.min())

    assert reach((1,)) == 2
    assert reach((1, 6)) == 14


def test_classifier_starts_near_zero():
    head = SemanticHead(SemanticConfig(), (8, 8), 19)
    assert head.classify.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert head.classify.bias.abs().max() == 0
