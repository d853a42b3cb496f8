"""Text alignment: the formula against plain loops, void, trust, and who gets a gradient."""

import math

import pytest
import torch
from torch import Tensor

from vidapt.adaptation.alignment import text_alignment, text_logits
from vidapt.config import CenterOffsetConfig, EncoderConfig, ModelConfig, ProjectionConfig, SemanticConfig
from vidapt.config_model import TextProjectionConfig
from vidapt.labels import CITYSCAPES
from vidapt.models.grid import enlarge
from vidapt.models.network import PanopticNetwork, build_network
from vidapt.models.text import orthonormal_table

CLASSES, DIM = 3, 5


def problem(frames: int = 2, side: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N,5,4,4), labels (N,4,4) with ignored pixels, and a table (4,5) of rows of several lengths."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(frames, DIM, side, side, generator=generator)
    semantic = torch.randint(0, CLASSES, (frames, side, side), generator=generator).to(torch.uint8)
    semantic[:, 0, :2] = 255
    return features, semantic, 3 * torch.randn(CLASSES + 1, DIM, generator=generator)


def by_pixels(features: Tensor, semantic: Tensor, table: Tensor, temperature: float | None) -> Tensor:
    """The definition, pixel by pixel in float64: (N,H,W) losses for features at the size of the labels."""
    losses = torch.zeros(semantic.shape, dtype=torch.float64)
    rows = table.double()
    if temperature is not None:
        rows = torch.stack([row / row.norm() / temperature for row in rows])
    for n, y, x in torch.cartesian_prod(*map(torch.arange, semantic.shape)).tolist():
        feature = features[n, :, y, x].double()
        scores = [float(row @ feature / feature.norm()) for row in rows]
        label = int(semantic[n, y, x])
        chosen = CLASSES if label == 255 else label
        losses[n, y, x] = math.log(sum(math.exp(score) for score in scores)) - scores[chosen]
    return losses


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_the_formula(temperature: float | None) -> None:
    features, semantic, table = problem()
    expected = by_pixels(features, semantic, table, temperature)
    loss = text_alignment(features, semantic, table, temperature=temperature)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    weight = torch.rand(semantic.shape, generator=torch.Generator().manual_seed(1))
    weighed = text_alignment(features, semantic, table, temperature=temperature, weight=weight)
    assert weighed.item() == pytest.approx((expected * weight).mean().item(), rel=1e-5)


def test_similarities_are_enlarged_to_the_labels() -> None:
    features, _, table = problem()
    semantic = torch.randint(0, CLASSES, (2, 13, 16), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    cells = torch.einsum("nchw,kc->nkhw", features / features.norm(dim=1, keepdim=True), table)
    shares = enlarge(cells, (13, 16)).log_softmax(1)
    expected = -shares.gather(1, semantic.long()[:, None]).mean()
    assert text_alignment(features, semantic, table).item() == pytest.approx(expected.item(), rel=1e-5)


def test_length_of_features_does_not_count_and_that_of_rows_only_without_temperature() -> None:
    features, semantic, table = problem()
    stretch = torch.rand(2, 1, 4, 4) + 0.5
    for temperature in (None, 0.5):
        loss = text_alignment(features, semantic, table, temperature=temperature)
        assert torch.allclose(text_alignment(features * stretch, semantic, table, temperature=temperature), loss)
    longer = table * torch.tensor([[2.0], [1.0], [0.5], [3.0]])
    assert not torch.allclose(text_alignment(features, semantic, longer), text_alignment(features, semantic, table))
    assert torch.allclose(
        text_alignment(features, semantic, longer, temperature=0.5),
        text_alignment(features, semantic, table, temperature=0.5),
    )


def test_ignored_pixels_belong_to_void() -> None:
    features, semantic, table = problem()
    ignored = torch.full_like(semantic, 255)
    assert torch.allclose(
        text_alignment(features, ignored, table), text_alignment(features, torch.full_like(semantic, CLASSES), table)
    )
    towards_void = table[-1].view(1, DIM, 1, 1).expand_as(features)
    assert text_alignment(towards_void, ignored, table) < text_alignment(features, ignored, table)


def test_void_may_be_row_255() -> None:
    table = torch.eye(256, 300)
    features = 3 * table[[255, 7]].T.reshape(1, 300, 1, 2)
    loss = text_alignment(features, torch.tensor([[[255, 7]]], dtype=torch.uint8), table)
    assert loss.item() == pytest.approx(math.log(255 + math.e) - 1, rel=1e-5)


def test_the_order_of_the_classes_does_not_matter() -> None:
    features, semantic, table = problem()
    order = torch.tensor([2, 0, 1])
    place = torch.tensor([1, 2, 0])
    moved = torch.where(semantic == 255, 255, place[semantic.long().clamp_max(2)]).to(torch.uint8)
    turned = torch.cat([table[:-1][order], table[-1:]])
    assert torch.allclose(text_alignment(features, moved, turned), text_alignment(features, semantic, table))


# --- frames without labels, trust, gradients


def test_unlabelled_frames_train_nothing_and_stay_in_the_mean() -> None:
    features, semantic, table = problem()
    semantic[1] = 255
    features.requires_grad_()
    labelled = torch.tensor([True, False])
    loss = text_alignment(features, semantic, table, labelled=labelled)
    assert torch.allclose(loss, text_alignment(features[:1], semantic[:1], table) / 2)
    weighed = text_alignment(features, semantic, table, labelled=labelled, weight=torch.ones(2, 4, 4))
    assert torch.allclose(weighed, loss)
    (gradient,) = torch.autograd.grad(loss, features)
    assert gradient[0].any()
    assert not gradient[1].any()


@pytest.mark.parametrize("weighed", [False, True])
def test_without_any_labels_the_loss_is_zero(weighed: bool) -> None:
    features, semantic, table = problem()
    features.requires_grad_()
    weight = torch.ones(2, 4, 4) if weighed else None
    loss = text_alignment(features, semantic, table, labelled=torch.zeros(2, dtype=torch.bool), weight=weight)
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == 0
    assert not gradient.any()


def test_pixels_without_trust_get_no_gradient() -> None:
    features, semantic, table = problem()
    features.requires_grad_()
    weight = torch.ones(2, 4, 4)
    weight[0, 2] = 0
    (gradient,) = torch.autograd.grad(text_alignment(features, semantic, table, weight=weight), features)
    assert not gradient[0, :, 2].any()
    assert gradient[0, :, 3].all()


def test_the_table_gets_no_gradient() -> None:
    features, semantic, table = problem()
    table.requires_grad_()
    for temperature in (None, 0.1):
        assert not text_alignment(features, semantic, table, temperature=temperature).requires_grad
    text_alignment(features.requires_grad_(), semantic, table).backward()
    assert features.grad is not None
    assert table.grad is None


def test_gradient_step_lowers_the_loss() -> None:
    features, semantic, table = problem()
    features.requires_grad_()
    loss = text_alignment(features, semantic, table)
    (gradient,) = torch.autograd.grad(loss, features)
    assert text_alignment(features - gradient, semantic, table) < loss


def test_gradient_is_that_of_finite_differences() -> None:
    features, semantic, table = problem(frames=1)
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(text_alignment(features, semantic, table), features)
    step = 1e-5
    for place in ((0, 1, 2, 3), (0, 4, 0, 0)):
        values = []
        for sign in (1, -1):
            moved = features.detach().double().clone()
            moved[place] += sign * step
            values.append(by_pixels(moved, semantic, table, None).mean().item())
        assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2 / step, rel=1e-3, abs=1e-6)


def test_features_without_a_direction() -> None:
    features, semantic, table = problem()
    dead = features.clone()
    dead[0, :, 1, 1] = 0
    dead.requires_grad_()
    loss = text_alignment(dead, semantic, table)
    (gradient,) = torch.autograd.grad(loss, dead)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[0, :, 1, 1].any()
    assert not text_logits(dead, table)[0, :, 1, 1].any()


def test_computes_in_full_precision_under_autocast() -> None:
    features, semantic, table = problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = text_alignment(features, semantic, table)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, text_alignment(features, semantic, table))
    half = features.bfloat16()
    assert torch.equal(text_alignment(half, semantic, table), text_alignment(half.float(), semantic, table))


def test_another_width() -> None:
    features, semantic, table = problem()
    with pytest.raises(ValueError, match=r"features have 5 channels and the text table 4 values per row; set"):
        text_alignment(features, semantic, table[:, :4])


# --- in the network


def network(at: str, project: bool = True) -> PanopticNetwork:
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=EncoderConfig(name="test_convnext"),
        semantic=SemanticConfig(channels=16 if project else 32, dilations=(1,), norm="group", dropout=0.0),
        instance=CenterOffsetConfig(channels=8, norm="group", kernel=3),
        projection=ProjectionConfig(dim=6, hidden=8),
        text=TextProjectionConfig.model_validate({"dim": 32, "at": at, "project": project}),
    )
    return build_network(config, CITYSCAPES)


def reached(found: PanopticNetwork) -> set[str]:
    """Modules of the network that got a gradient other than zero."""
    return {
        name.partition(".")[0]
        for name, value in found.named_parameters()
        if value.grad is not None and bool(value.grad.any())
    }


@pytest.mark.parametrize(
    ("at", "project", "trained"),
    [
        ("decoder", True, {"encoder", "semantic", "text"}),
        ("decoder", False, {"encoder", "semantic"}),
        ("encoder", True, {"encoder", "text"}),
    ],
)
def test_gradients_reach_the_map_that_is_aligned(at: str, project: bool, trained: set[str]) -> None:
    model = network(at, project)
    table = orthonormal_table(CITYSCAPES).embeddings
    frames = torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    semantic = torch.randint(0, 19, (2, 33, 40), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    output = model(frames)
    text_alignment(model.project_text(output), semantic, table, temperature=0.1).backward()
    assert reached(model) == trained
    assert model.semantic.classify.weight.grad is None
    assert table.grad is None


def test_alignment_can_be_learnt() -> None:
    model = network("decoder")
    table = orthonormal_table(CITYSCAPES).embeddings
    frames = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    frames[..., 8:] = 255
    semantic = torch.zeros(1, 16, 16, dtype=torch.uint8)
    semantic[..., 8:] = 13
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = text_alignment(model.project_text(model(frames)), semantic, table, temperature=0.1)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
