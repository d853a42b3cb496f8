"""What is known to be wrong in the public code of PiPa and in ContrastiveSeg's memory stays right here.

Each test names its defect; the switched-off step of the last one is tested with the step.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from vidapt.adaptation.cells import at_cells
from vidapt.adaptation.contrast import pixel_contrast, temporal_contrast
from vidapt.adaptation.memory import MemoryBank
from vidapt.adaptation.patches import PatchWindows, cut_views, draw_windows, patch_contrast
from vidapt.adaptation.sampling import clip_generators, clip_rngs
from vidapt.clip import PanopticTarget
from vidapt.config_method import (
    MemoryBankConfig,
    MethodConfig,
    PatchContrastConfig,
    PixelContrastConfig,
    TemporalContrastConfig,
)
from vidapt.config_model import ModelConfig
from vidapt.engine.loading import clip_index, part_samples
from vidapt.labels import CITYSCAPES
from vidapt.models.network import NetworkOutput, PanopticNetwork, build_network
from vidapt.recipe import merge, read_layers

MODEL = ModelConfig.model_validate(
    {
        "encoder": {"name": "test_convnext"},
        "semantic": {"channels": 16, "dilations": [1], "norm": "group", "dropout": 0.0},
        "instance": {"channels": 16, "norm": "group"},
        "projection": {"dim": 8, "hidden": 16},
        "pixel_projection": {"dim": 8, "hidden": 16},
    }
)
PIXEL = PixelContrastConfig(total=128, per_class=128, min_pixels=1, temperature=0.5)
PATCH = PatchContrastConfig(total=512, temperature=0.5, confidence=0.0)
TEMPORAL = TemporalContrastConfig(total=512, temperature=0.5)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + index) for index in range(count)]


@pytest.fixture
def network() -> PanopticNetwork:
    """A student whose classifier tells classes apart, as that of a trained one does."""
    torch.manual_seed(0)
    student = build_network(MODEL, CITYSCAPES)
    with torch.no_grad():
        student.semantic.classify.weight.mul_(100)
    return student


@pytest.fixture
def frames() -> torch.Tensor:
    """uint8 (1,2,3,48,96)."""
    coarse = torch.rand(2, 3, 6, 12, generator=torch.Generator().manual_seed(1))
    return (F.interpolate(coarse, scale_factor=8, mode="bilinear") * 255).to(torch.uint8)[None]


def both_views(network: PanopticNetwork, frames: torch.Tensor) -> tuple[PatchWindows, list[NetworkOutput]]:
    windows = PatchWindows(((0, 0),), ((8, 16),), (32, 64))
    return windows, [network(view.flatten(0, 1)) for view in cut_views(frames, windows)]


def patch_loss(network: PanopticNetwork, frames: torch.Tensor, config: PatchContrastConfig = PATCH) -> torch.Tensor:
    windows, outputs = both_views(network, frames)
    first, second = (network.project_pixels(output)[None] for output in outputs)
    return patch_contrast(
        first,
        second,
        windows,
        logits_first=outputs[0].logits[None],
        logits_second=outputs[1].logits[None],
        config=config,
        generators=generators(1),
    )


def learning(network: PanopticNetwork) -> set[str]:
    return {name for name, value in network.named_parameters() if value.grad is not None and value.grad.any()}


def test_1_the_patch_loss_trains_the_segmenter(network, frames):
    """The public code takes the features of the frozen teacher: only the projection learns."""
    patch_loss(network, frames).backward()
    learns = learning(network)
    for part in ("encoder.", "semantic.embed.", "semantic.fuse.", "pixel_projection."):
        own = [name for name, value in network.named_parameters() if name.startswith(part) and value.ndim > 1]
        assert own
        assert set(own) <= learns
    assert not any(name.startswith(("semantic.classify", "instance.", "projection.")) for name in learns)


def test_1_one_update_changes_the_features_of_the_encoder(network, frames):
    before = network(frames[0]).features[-1].detach()
    patch_loss(network, frames).backward()
    torch.optim.SGD(network.parameters(), lr=1.0).step()
    assert not torch.allclose(network(frames[0]).features[-1], before, atol=1e-4)


def test_2_the_trained_classifier_decides_what_is_followed(network, frames):
    """The public code asks a layer that no loss ever reaches."""
    with torch.no_grad():
        before = patch_loss(network, frames).item()
        assert before > 0
        network.semantic.classify.weight.copy_(network.semantic.classify.weight.roll(3, 1))
        assert patch_loss(network, frames).item() != pytest.approx(before, rel=1e-3)
        network.semantic.classify.weight.zero_()
        assert patch_loss(network, frames).item() == 0


def test_2_the_trained_classifier_finds_hard_pixels():
    """Half of the anchors are what the logits get wrong, if few are drawn."""
    embedding = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)
    semantic = (torch.arange(32) // 16).to(torch.uint8).expand(1, 1, 32, 32)
    config = PixelContrastConfig(total=16, per_class=8, min_pixels=1)
    right = F.one_hot(at_cells(semantic, (8, 8)).long(), 2).movedim(-1, 2).float()
    wrong = right.clone()
    wrong[:, :, :, 0] = wrong[:, :, :, 0].flip(2)
    drawn = []
    for logits in (right, wrong):
        loss = pixel_contrast(embedding, logits, semantic, config, generators(1))
        (gradient,) = torch.autograd.grad(loss, embedding)
        drawn.append(int((gradient.abs().sum(2) > 0)[..., 0, :].sum()))
    # the row holds 4 cells of each class, and each class takes 4 of its 8 anchors from what is predicted wrongly
    assert drawn[1] == 8 > drawn[0]


def test_2_every_layer_has_a_loss(network, frames):
    # a triangle, because the offsets' gradients of symmetric shapes add up to 0
    car = torch.arange(96) > 2 * torch.arange(48)[:, None]
    semantic = (13 * car).to(torch.uint8).repeat(2, 1, 1)
    instance = (semantic == 13).int()
    output = network(frames[0])
    target = PanopticTarget(semantic, instance, torch.ones(2, dtype=torch.bool))
    losses = [network.semantic_loss(output, semantic), *network.instance_loss(output, target).values()]
    torch.stack([*losses, patch_loss(network, frames)]).sum().backward()
    unlearned = {name for name, _ in network.named_parameters()} - learning(network)
    # the tracker's embedding, which identity contrast trains
    assert {name.partition(".")[0] for name in unlearned} == {"projection"}


def test_3_every_step_sees_other_clips_windows_and_places():
    """The public code starts its unshuffled loader anew with every step: one image for the whole training."""
    clips, windows, places = [], [], []
    for step in range(3):
        samples = part_samples(step, 0, batch=2, rank=0, world=1, accumulate=1)
        clips += [clip_index(sample, 500, 7, "target") for sample in samples]
        numbers = torch.tensor(list(samples))
        drawn = draw_windows((512, 1024), PATCH, clip_rngs(7, "patches", numbers))
        windows += zip(drawn.first, drawn.second, strict=True)
        places += [torch.rand(1, generator=one).item() for one in clip_generators(7, "patch_contrast", numbers, "cpu")]
    assert len(set(clips)) == len(set(windows)) == len(set(places)) == 6


def one_hot_clip(size: tuple[int, int], classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cell classes (2,h,w) at random, their one-hot features (1,2,classes,h,w) and pixel labels (1,2,H,W)."""
    grid = (-(-size[0] // 4), -(-size[1] // 4))
    category = torch.randint(0, classes, (2, *grid), generator=torch.Generator().manual_seed(size[1]))
    labels = category.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : size[0], : size[1]]
    return category, F.one_hot(category, classes).movedim(-1, 1).float()[None], labels.to(torch.uint8)[None]


SIZES = [(32, 64), (33, 65), (34, 129), (30, 259)]


@pytest.mark.parametrize("size", SIZES)
def test_4_labels_belong_to_the_cells_of_the_features(size, network):
    """The public code pairs features of a crop with the labels of the whole frame, resized to the same grid."""
    category, features, labels = one_hot_clip(size)
    assert network(torch.zeros(1, 3, *size)).fused.shape[-2:] == category.shape[-2:]
    every = PIXEL.model_copy(update={"total": 1500, "per_class": 300})
    loss = pixel_contrast(features, features, labels, every, generators(1))
    # cos 1 to the class, 0 to all others: any wrong pair would cost more
    counts = torch.bincount(category.flatten())
    each = [count * math.log(1 + (counts.sum() - count) * math.exp(-1 / 0.5)) for count in counts.tolist()]
    assert loss.item() == pytest.approx(float(sum(each)) / category.numel(), rel=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_4_the_bank_holds_the_features_of_its_classes(size):
    category, features, labels = one_hot_clip(size)
    bank = MemoryBank(5, 5, MemoryBankConfig(size=2000, per_step=2000), "cpu")
    bank.stage(features, labels, generators(1))
    bank.commit()
    rows, stored = bank.rows()
    assert torch.equal(torch.bincount(stored[stored != 255]), torch.bincount(category.flatten()))
    assert torch.equal(rows[stored != 255].argmax(1), stored[stored != 255])


@pytest.mark.parametrize("seed", range(3))
def test_4_both_views_of_a_place_are_paired(seed):
    """Features name the place in the frame: the pair has cos 1 and every negative 0, in any windows of any frame."""
    size, grid = (38, 51), (10, 13)
    names = F.one_hot(torch.arange(130).view(grid), 130).movedim(-1, 0).float()
    windows = draw_windows(size, PatchContrastConfig(crop=0.75), clip_rngs(seed, "patches", torch.arange(2)))
    cells = PatchWindows(
        *(tuple((top // 4, left // 4) for top, left in corners) for corners in (windows.first, windows.second)),
        (windows.size[0] // 4, windows.size[1] // 4),
    )
    first, second = cut_views(names.expand(2, 1, -1, -1, -1), cells)
    # one class per place in the first view, another of equal spread but more certain in the second
    loss = patch_contrast(
        first,
        second,
        windows,
        logits_first=5 * first,
        logits_second=9 * second,
        config=PATCH,
        generators=generators(2),
    )
    expected = []
    for (top, left), (other_top, other_left) in zip(cells.first, cells.second, strict=True):
        height, width = (a - b for a, b in zip(cells.size, (abs(top - other_top), abs(left - other_left)), strict=True))
        shown = math.prod(cells.size)
        keys = shown + (shown - height * width)
        expected.append(math.log(1 + (keys - 1) * math.exp(-1 / 0.5)))
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def hidden_cells() -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (1,2,16,32) of two classes, a corner of them 255, and that corner's cells (1,2,4,8)."""
    labels = torch.zeros(1, 2, 16, 32, dtype=torch.uint8)
    labels[..., 16:] = 1
    labels[:, :, :8, 8:24] = 255
    return labels, at_cells(labels, (4, 8)) == 255


def changed(embedding: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Other features in the hidden cells."""
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(99))
    return torch.where(hidden[:, :, None], 5 * noise, embedding.detach()).requires_grad_()


def test_5_ignored_pixels_are_neither_anchor_nor_key_nor_memory():
    """The public code ignores label -1, while its labels use 255: void becomes a class that contrasts with all."""
    labels, hidden = hidden_cells()
    embedding = torch.randn(1, 2, 4, 4, 8, generator=torch.Generator().manual_seed(3), requires_grad=True)
    logits = torch.randn(1, 2, 19, 4, 8, generator=torch.Generator().manual_seed(4))
    usable, losses = torch.ones_like(labels, dtype=torch.bool), []
    for features in (embedding, changed(embedding, hidden)):
        bank = MemoryBank(19, 4, MemoryBankConfig(size=16, per_step=16), "cpu")
        bank.stage(features, labels, generators(1))
        bank.commit()
        pixel = pixel_contrast(features, logits, labels, PIXEL, generators(1), bank)
        time = temporal_contrast(features, labels, usable, None, TEMPORAL, generators(1))
        (gradient,) = torch.autograd.grad(pixel + time, features)
        assert not gradient.movedim(2, -1)[hidden].any()
        assert gradient.movedim(2, -1)[~hidden].any(1).all()
        losses.append((pixel.item(), time.item(), bank.rows()[0].sum().item()))
    assert losses[0] == losses[1]
    assert min(losses[0][:2]) > 0


def test_5_ignored_margins_take_no_part_in_patches():
    windows = PatchWindows(((0, 0),), ((0, 8),), (16, 24))
    labels, _ = hidden_cells()
    ignored = labels == 255
    generator = torch.Generator().manual_seed(3)
    embedding = torch.randn(1, 2, 4, 4, 8, generator=generator)
    logits = [3 * torch.randn(1, 2, 19, 4, 6, generator=generator) for _ in range(2)]
    losses = []
    for features in (embedding, changed(embedding, at_cells(ignored, (4, 8)))):
        losses.append(
            patch_contrast(
                features[..., :6],
                features[..., 2:],
                windows,
                logits_first=logits[0],
                logits_second=logits[1],
                config=PATCH,
                generators=generators(1),
                ignored=ignored,
            ).item()
        )
    assert losses[0] == losses[1] > 0


def two_classes() -> torch.Tensor:
    """Labels (1,1,16,32) of 16 cells of each of two classes."""
    labels = torch.zeros(1, 1, 16, 32, dtype=torch.uint8)
    labels[..., 16:] = 1
    return labels


POOR = {
    "no class has enough pixels": (two_classes(), {"min_pixels": 16}),
    "everything is ignored": (torch.full_like(two_classes(), 255), {}),
    "an anchor per class has no positive": (two_classes(), {"per_class": 1}),
    "one anchor in all": (two_classes(), {"total": 1}),
    "one class has no negative": (torch.zeros_like(two_classes()), {}),
}


@pytest.mark.parametrize("case", POOR)
@pytest.mark.parametrize("with_bank", [False, True])
def test_6_poor_clips_give_a_finite_zero(case: str, with_bank: bool):
    """The public code stops without a class, and divides by no positives with one anchor."""
    labels, config = POOR[case][0], PIXEL.model_copy(update=POOR[case][1])
    bank = MemoryBank(19, 4, MemoryBankConfig(size=4, per_step=2), "cpu") if with_bank else None
    embedding = torch.randn(1, 1, 4, 4, 8, generator=torch.Generator().manual_seed(3), requires_grad=True)
    loss = pixel_contrast(embedding, torch.zeros(1, 1, 19, 4, 8), labels, config, generators(1), bank)
    (gradient,) = torch.autograd.grad(loss, embedding)
    assert loss.item() == 0
    assert not gradient.any()


def test_6_features_of_zero_stay_finite():
    labels, _ = hidden_cells()
    embedding = torch.zeros(1, 2, 4, 4, 8, requires_grad=True)
    bank = MemoryBank(19, 4, MemoryBankConfig(size=4, per_step=2), "cpu")
    bank.stage(embedding, labels, generators(1))
    bank.commit()
    loss = pixel_contrast(embedding, torch.zeros(1, 2, 19, 4, 8), labels, PIXEL, generators(1), bank)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(embedding.grad).all()
    assert torch.isfinite(bank.rows()[0]).all()


CONTRASTS = ("pixel_contrast", "patch_contrast", "temporal_contrast")


def test_7_a_method_has_no_contrast_unless_it_lists_one():
    assert all(getattr(MethodConfig(), name) is None for name in CONTRASTS)
    off = MethodConfig.model_validate({name: {"weight": 0.0} for name in CONTRASTS})
    assert all(getattr(off, name).weight == 0 for name in CONTRASTS)


@pytest.mark.parametrize("recipe", ["methods/pipa", "methods/pipapp_image", "methods/pipapp_video"])
def test_7_a_control_differs_in_the_contrast_alone(recipe):
    """Most of the gain of the public code is its longer schedule: the control trains as long, without contrast."""
    layers = read_layers(recipe)
    control = merge(layers, {"method": dict.fromkeys(CONTRASTS)})
    method = MethodConfig.model_validate(control["method"])
    assert method == MethodConfig.model_validate(read_layers("methods/daformer")["method"])
    assert control["training"] == layers["training"]
    assert control["training"]["steps"] == 60000


def test_memory_stores_class_0_and_advances_by_what_it_pushed():
    """ContrastiveSeg never stores class 0, and its pointer moves by one however many pixels it wrote."""
    labels = torch.zeros(1, 1, 4, 20, dtype=torch.uint8)
    bank = MemoryBank(2, 4, MemoryBankConfig(size=8, per_step=3), "cpu")
    for step in range(2):
        bank.stage(torch.randn(1, 1, 4, 1, 5, generator=torch.Generator().manual_seed(step)), labels, generators(1))
        bank.commit()
    state = bank.state_dict()
    assert state["filled"].tolist() == state["next"].tolist() == [6, 0]
    assert (bank.rows()[1] == 0).sum() == 6


def test_memory_slots_that_are_not_filled_take_no_part():
    """In ContrastiveSeg they are zeros that serve as negatives of every anchor."""
    labels, _ = hidden_cells()
    embedding = torch.randn(1, 2, 4, 4, 8, generator=torch.Generator().manual_seed(3))
    losses = []
    for size in (12, 500):
        bank = MemoryBank(19, 4, MemoryBankConfig(size=size, per_step=12), "cpu")
        bank.stage(embedding, labels, generators(1))
        bank.commit()
        logits = torch.zeros(1, 2, 19, 4, 8)
        losses.append(pixel_contrast(embedding, logits, labels, PIXEL, generators(1), bank).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_memory_draws_the_pixels_of_the_class():
    """ContrastiveSeg shuffles the places of the class but reads the first ones of the whole map."""
    category, features, labels = one_hot_clip((32, 64))
    bank = MemoryBank(5, 5, MemoryBankConfig(size=64, per_step=3), "cpu")
    for seed in range(8):
        bank.stage(features, labels, generators(1, seed))
    bank.commit()
    rows, stored = bank.rows()
    assert (stored != 255).sum() == 5 * 3 * 8
    assert torch.equal(rows[stored != 255].argmax(1), stored[stored != 255])
    assert not torch.equal(category.flatten()[:15], stored[stored != 255][:15])


def test_an_anchor_is_not_its_own_positive_beside_a_bank():
    """ContrastiveSeg's mask of an anchor itself is shifted as soon as keys come from the memory."""
    anchor = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 1, 2, 1, 2)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1], dtype=torch.uint8).expand(1, 1, 4, 8)
    bank = MemoryBank(2, 2, MemoryBankConfig(size=4, per_step=1), "cpu")
    bank.stage(anchor.flip(-1), labels, generators(1))
    bank.commit()
    config = PixelContrastConfig(total=2, per_class=1, min_pixels=1, temperature=1.0)
    two = labels.repeat_interleave(2, 2)
    loss = pixel_contrast(anchor.repeat_interleave(2, 3), torch.zeros(1, 1, 2, 2, 2), two, config, generators(1), bank)
    # the one positive is the bank's row at cos 0; negatives: the other anchor at cos 0, the other row at cos 1
    assert loss.item() == pytest.approx(math.log(1 + 1 + math.e), rel=1e-5)
