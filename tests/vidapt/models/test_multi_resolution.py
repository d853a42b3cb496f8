import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.vidapt.models.small_network import CAR, ROAD, SMALL, frames, seeded, target
from vidapt.clip import IGNORE, PanopticTarget
from vidapt.config import CenterOffsetConfig, EncoderConfig, InferenceConfig
from vidapt.config_model import MultiResolutionConfig
from vidapt.errors import ConfigError
from vidapt.models import network as network_module
from vidapt.models.grid import enlarge
from vidapt.models.losses import semantic_loss
from vidapt.models.multi_resolution import Detail, ScaleAttention, fuse_views, shrink_target, slide_logits
from vidapt.models.network import NetworkOutput
from vidapt.models.network_file import load_network, load_weights, save_network
from vidapt.models.views import Window, plan_views
from vidapt.segmenter import Segmenter
from vidapt.transforms import resize_nearest

TWO = SMALL.model_copy(update={"multi_resolution": MultiResolutionConfig(attention_channels=8)})


def varied(network):
    """Spread what the network says: fresh heads are nearly constant."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for last in (network.semantic.classify, network.attention.classify if network.attention else None):
            if last is not None:
                last.weight.copy_(torch.randn(last.weight.shape, generator=generator))
    return network


@pytest.fixture
def network():
    return varied(seeded(TWO))


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- attention


def test_attention_has_the_size_of_hrda():
    """530,707 parameters on a MiT-B5 with 19 classes."""
    attention = ScaleAttention(MultiResolutionConfig(), (64, 128, 320, 512), 19, "batch")
    assert sum(value.numel() for value in attention.parameters()) == 530_707


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_fresh_attention_trusts_both_views_alike(norm):
    torch.manual_seed(0)
    attention = ScaleAttention(MultiResolutionConfig(), (8, 16, 24, 32), 5, norm)
    trust = attention([maps(2, 8 * (level + 1), 16 >> level, 24 >> level) for level in range(4)])
    assert trust.shape == (2, 5, 16, 24)
    assert trust.dtype == torch.float32
    assert 0.3 < trust.min() < trust.max() < 0.7
    assert trust.std() > 0


# --- fusion


def enlarged_twice(image):
    """Bilinear enlargement of (h,w) by 2 in float64: output cell i lies at (i + 0.5) / 2 - 0.5, clamped."""
    height, width = image.shape
    out = np.zeros((2 * height, 2 * width))
    for row in range(2 * height):
        for column in range(2 * width):
            y, x = max((row + 0.5) / 2 - 0.5, 0.0), max((column + 0.5) / 2 - 0.5, 0.0)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
            out[row, column] = upper * (1 - y + top) + lower * (y - top)
    return out


def fused_plainly(context, trust, detail, window):
    """HRDA's formula inside the window, the enlarged context outside; float64 (N,C,2h',2w')."""
    planes = context.shape[:2]
    out = np.zeros((*planes, 2 * context.shape[2], 2 * context.shape[3]))
    rows = slice(window.top // 4, (window.top + window.height) // 4)
    columns = slice(window.left // 4, (window.left + window.width) // 4)
    for index in np.ndindex(*planes):
        one, share = context[index].numpy().astype(float), trust[index].numpy().astype(float)
        out[index] = enlarged_twice(one)
        inside = enlarged_twice((1 - share) * one)[rows, columns]
        out[index][rows, columns] = inside + enlarged_twice(share)[rows, columns] * detail[index].numpy()
    return out


@pytest.mark.parametrize("window", [Window(0, 0, 48, 64), Window(8, 24, 24, 32), Window(32, 0, 16, 16)])
def test_fusion_is_the_formula(window):
    context, trust = maps(2, 3, 6, 8), maps(2, 3, 6, 8, seed=1).sigmoid()
    detail = maps(2, 3, window.height // 4, window.width // 4, seed=2)
    found = fuse_views(context, trust, Detail(detail, window), (12, 16))
    np.testing.assert_allclose(found.numpy(), fused_plainly(context, trust, detail, window), atol=1e-5)


def test_only_the_context_counts_outside_the_window():
    window = Window(8, 24, 24, 32)
    context, trust = maps(1, 3, 6, 8), maps(1, 3, 6, 8, seed=1).sigmoid()
    detail = maps(1, 3, 6, 8, seed=2)
    found = fuse_views(context, trust, Detail(detail, window), (12, 16))
    outside = torch.ones(12, 16, dtype=torch.bool)
    outside[2:8, 6:14] = False
    expected = F.interpolate(context, (12, 16), mode="bilinear")
    assert torch.equal(found[..., outside], expected[..., outside])
    assert not torch.isclose(found[..., ~outside], expected[..., ~outside]).any(0).all()


def test_no_trust_is_the_context_and_full_trust_the_detail():
    window = Window(8, 24, 24, 32)
    context, detail = maps(1, 3, 6, 8), Detail(maps(1, 3, 6, 8, seed=2), window)
    plain = F.interpolate(context, (12, 16), mode="bilinear")
    nothing = fuse_views(context, torch.zeros_like(context), detail, (12, 16))
    everything = fuse_views(context, torch.ones_like(context), detail, (12, 16))
    assert torch.equal(nothing, plain)
    assert torch.equal(everything[..., 2:8, 6:14], detail.logits)


def test_views_of_one_size_are_not_overwritten():
    """With a context view of full size nothing is enlarged; the context logits must stay as they are."""
    context = maps(1, 2, 4, 4)
    before = context.clone()
    fuse_views(context, torch.ones_like(context), Detail(maps(1, 2, 2, 2), Window(0, 0, 8, 8)), (4, 4))
    assert torch.equal(context, before)


def test_trust_grows_where_the_detail_says_more():
    """Every context cell has four cells of the frame, so its trust has the gradient 4 · (detail - context)."""
    trust = maps(1, 2, 6, 8).sigmoid().requires_grad_()
    context, logits = torch.full((1, 2, 6, 8), 0.5), torch.full((1, 2, 12, 16), 2.0)
    fuse_views(context, trust, Detail(logits, Window(0, 0, 48, 64)), (12, 16)).sum().backward()
    torch.testing.assert_close(trust.grad, torch.full_like(trust, 6.0))


# --- sliding


def test_stitched_windows_of_a_linear_network_are_the_whole():
    padded = maps(2, 3, 64, 96)
    windows = plan_views(MultiResolutionConfig(overlap=0.3), (64, 96)).sliding()
    assert len(windows) > 4
    found = slide_logits(lambda crops: F.avg_pool2d(crops, 4), padded, windows)
    torch.testing.assert_close(found, F.avg_pool2d(padded, 4))


def test_overlapping_windows_are_averaged():
    windows = plan_views(MultiResolutionConfig(), (32, 32)).sliding()
    values = iter(range(100))
    sizes = []

    def classify(crops):
        sizes.append(len(crops))
        numbers = torch.tensor([float(next(values)) for _ in range(len(crops))])
        return numbers.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)

    found = slide_logits(classify, torch.zeros(1, 3, 32, 32), windows)[0, 0]
    total, count = np.zeros((8, 8)), np.zeros((8, 8))
    for number, window in enumerate(windows):
        total[window.top // 4 :, window.left // 4 :][:4, :4] += number
        count[window.top // 4 :, window.left // 4 :][:4, :4] += 1
    np.testing.assert_allclose(found.numpy(), total / count, rtol=1e-6)
    assert len(np.unique(count)) > 1
    assert sizes == [4, 4, 1]


# --- the network


def one_pass(network, images):
    """The context view's encoder maps and logits, computed here from the parts."""
    mean, std = network.mean, network.std
    values = F.avg_pool2d((images / 255 - mean) / std, 2)
    features = network.encoder(values)
    return features, *network.semantic(features)


def test_features_are_those_of_the_context_and_logits_join_both(network):
    network.eval()
    window = Window(16, 32, 32, 48)
    output = network(frames(), window=window)
    features, fused, context = one_pass(network, frames())
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(output.features, features, strict=True))
    torch.testing.assert_close(output.fused, fused, atol=1e-5, rtol=1e-5)
    crop = (frames()[..., 16:48, 32:80] / 255 - network.mean) / network.std
    detail = network.semantic(network.encoder(crop))[1]
    torch.testing.assert_close(output.detail.logits, detail, atol=1e-5, rtol=1e-5)
    expected = fused_plainly(context.detach(), network.attention(features).detach(), detail.detach(), window)
    np.testing.assert_allclose(output.logits.detach().numpy(), expected, atol=1e-4)


def test_training_without_a_window_takes_the_middle(network):
    network.semantic.dropout.p = 0.0
    output = network(frames())
    assert output.detail.window == Window(16, 24, 32, 48)
    given = network(frames(), window=Window(16, 24, 32, 48))
    assert torch.equal(output.logits, given.logits)
    assert not torch.equal(output.logits, network(frames(), window=Window(0, 0, 32, 48)).logits)


def test_evaluation_slides_over_the_frame(network):
    """The detail logits of every cell are the mean over the windows that hold it."""
    network.eval()
    output = network(frames())
    assert output.detail is None
    total, count = torch.zeros(2, 19, 16, 24), torch.zeros(16, 24)
    for top in (0, 16, 32):
        for left in (0, 24, 48):
            one = network(frames(), window=Window(top, left, 32, 48)).detail.logits
            total[..., top // 4 : top // 4 + 8, left // 4 : left // 4 + 12] += one
            count[top // 4 : top // 4 + 8, left // 4 : left // 4 + 12] += 1
    features, _, context = one_pass(network, frames())
    whole = Window(0, 0, 64, 96)
    expected = fuse_views(context, network.attention(features), Detail(total / count, whole), (16, 24))
    torch.testing.assert_close(output.logits, expected, atol=1e-4, rtol=1e-4)


class Cells(nn.Module):
    """An encoder whose maps are means of pixels, so that views of a smooth frame agree."""

    channels = (3, 3, 3, 3)

    def forward(self, frames):
        return [F.avg_pool2d(frames, 4 << level, ceil_mode=True) for level in range(4)]


class Passed(nn.Module):
    """A semantic head that hands on the finest map."""

    def forward(self, features):
        return features[0], features[0]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 90), (45, 70), (65, 67), (9, 130)])
def test_both_views_speak_of_the_same_place(network, height, width):
    """On a frame that holds its own coordinates, context, detail and their join all give the cells' middles."""
    network.encoder, network.semantic = Cells(), Passed()
    network.attention = ScaleAttention(network.attention.config, Cells.channels, 3, "group")
    nn.init.zeros_(network.attention.classify.weight)  # an even mean: else the formula bends what it enlarges
    network.mean.zero_(), network.std.fill_(1)
    rows, columns = torch.arange(float(height)), torch.arange(float(width))
    ramp = torch.stack([rows[:, None].expand(-1, width), columns.expand(height, -1), torch.zeros(height, width)])
    places = (4 * torch.arange(-(-length // 4)) + 1.5 for length in (height, width))
    middles = torch.stack(torch.meshgrid(*places, indexing="ij"))
    inner = (..., slice(2, (height - 8) // 4), slice(2, (width - 8) // 4))
    for mode in (network.train(), network.eval()):
        output = mode(ramp[None])
        assert output.logits.shape == (1, 3, *middles.shape[1:])
        torch.testing.assert_close(output.logits[0, :2][inner], middles[inner], atol=1e-3, rtol=0)
    window = plan_views(network.attention.config, (height, width)).sliding()[-1]
    detail = network(ramp[None], window=window).detail
    own = window.cut(middles, 4)
    assert detail.logits.shape[-2:] == own.shape[-2:]
    torch.testing.assert_close(detail.logits[0, :2, :-1, :-1], own[:, :-1, :-1], atol=1e-3, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 90), (33, 5), (4, 4), (1, 1), (1, 70), (65, 65)])
def test_frames_of_any_size(network, height, width):
    cells = (-(-height // 4), -(-width // 4))
    context = (-(-height // 8), -(-width // 8))
    labels = target(2, height, width)
    rng = np.random.default_rng(0)
    for output in (
        network.train()(frames(2, height, width), window=network.draw_window((height, width), rng)),
        network.eval()(frames(2, height, width)),
    ):
        assert output.size == (height, width)
        assert output.logits.shape == (2, 19, *cells)
        assert output.fused.shape[-2:] == output.features[0].shape[-2:] == context
        assert network.project(output).shape == (2, 6, *context)
        probabilities = network.upsample(network.probabilities(output), output.size)
        for found in network.instances(output, probabilities):
            assert found.masks.shape[1:] == (height, width)
            assert found.embeddings.shape == (len(found), 6)
        losses = network.instance_loss(output, labels, pixel_weight=torch.ones(2, height, width))
        losses["semantic"] = network.semantic_loss(output, labels.semantic, torch.ones(2, height, width))
        assert all(value.isfinite() for value in losses.values())


def test_batching_changes_nothing(network):
    network.eval()
    together = network(frames(3))
    for index in range(3):
        alone = network(frames(3)[index : index + 1])
        assert torch.allclose(together.logits[index], alone.logits[0], atol=1e-4)


def test_half_precision(network):
    network.eval()
    with torch.no_grad():
        exact = network.probabilities(network(frames()))
        with torch.autocast("cpu", torch.bfloat16):
            output = network(frames())
            loss = network.semantic_loss(network(frames(), window=Window(0, 0, 32, 48)), target().semantic)
            trust = network.attention(output.features)
    assert trust.dtype == torch.float32
    assert output.logits.dtype == loss.dtype == torch.float32
    assert (network.probabilities(output) - exact).abs().mean() < 0.02


def test_windows_for_the_wrong_network_or_frames(network):
    with pytest.raises(ValueError, match=r"one resolution and takes no window: set model\.multi_resolution"):
        seeded()(frames(), window=Window(0, 0, 32, 48))
    with pytest.raises(ValueError, match="does not fit frames of 64x96"):
        network(frames(), window=Window(0, 56, 32, 48))
    uneven = MultiResolutionConfig(context_scale=0.6)
    with pytest.raises(ConfigError, match=r"model\.multi_resolution\.context_scale"):
        seeded(SMALL.model_copy(update={"multi_resolution": uneven}))


def test_a_plain_network_draws_nothing(network):
    rng = np.random.default_rng(0)
    assert seeded().draw_window((64, 96), rng) is None
    assert rng.random() == np.random.default_rng(0).random()
    drawn = [network.draw_window((64, 96), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


# --- losses


def coded_labels(height, width):
    """Labels that tell the place: blocks of 4×4 pixels, unlike their neighbours up to three blocks away."""
    rows, columns = torch.arange(height)[:, None] // 4, torch.arange(width) // 4
    return ((7 * rows + columns) % 19).to(torch.uint8)[None]


@pytest.mark.parametrize("size", [(64, 96), (61, 90), (65, 67)])
def test_the_detail_loss_reads_the_labels_of_its_window(network, monkeypatch, size):
    """Detail logits meet the labels under their window: their argmax at every cell's middle is its label."""
    seen = []
    monkeypatch.setattr(network_module, "semantic_loss", lambda *given: seen.append(given) or torch.zeros(()))
    labels = coded_labels(*size)
    views = plan_views(MultiResolutionConfig(), size)
    cells = F.one_hot(labels[:, ::4, ::4].long(), 19).permute(0, 3, 1, 2).float()
    for window in views.sliding():
        detail = Detail(window.cut(cells, 4), window)
        seen.clear()
        network.semantic_loss(NetworkOutput([], cells, cells, size, detail), labels, labels.float())
        for logits, given, weight, _ in seen:
            height, width = given.shape[1:]
            middles = (..., slice(1, height, 4), slice(1, width, 4))
            named = enlarge(logits, (height, width)).argmax(1)
            assert torch.equal(named[middles], given[middles].long())
            assert torch.equal(weight, given.float())
        whole, crop = seen
        assert torch.equal(whole[1], labels)
        assert torch.equal(crop[1], labels[:, window.top :, window.left :][:, : window.height, : window.width])


def test_the_semantic_loss_joins_both(network):
    labels, weight = coded_labels(64, 96).repeat(2, 1, 1), maps(2, 64, 96).abs()
    labels[:, :5] = IGNORE
    classes = maps(19).abs()
    window = Window(0, 48, 32, 48)
    output = network(frames(), window=window)
    found = network.semantic_loss(output, labels, weight, classes)
    fused = semantic_loss(output.logits, labels, weight, classes)
    cut = (slice(None), slice(0, 32), slice(48, 96))
    detail = semantic_loss(output.detail.logits, labels[cut], weight[cut], classes)
    torch.testing.assert_close(found, 0.9 * fused + 0.1 * detail)
    assert found.dtype == torch.float32
    plain = network.semantic_loss(network.eval()(frames()), labels)
    torch.testing.assert_close(plain, semantic_loss(network(frames()).logits, labels))


def test_ignored_frames_cost_nothing(network):
    loss = network.semantic_loss(network(frames()), torch.full((2, 64, 96), IGNORE, dtype=torch.uint8))
    loss.backward()
    assert loss == 0
    assert not any(value.grad.any() for value in network.parameters() if value.grad is not None)


def with_gradient(network, loss):
    network.zero_grad()
    loss.backward()
    return {
        name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None and value.grad.any()
    }


def test_who_is_trained(network):
    labels = target()
    assert with_gradient(network, network.semantic_loss(network(frames()), labels.semantic)) == {
        "attention",
        "encoder",
        "semantic",
    }
    losses = network.instance_loss(network(frames()), labels)
    assert with_gradient(network, sum(losses.values())) == {"encoder", "instance"}
    output = network(frames())
    assert with_gradient(network, output.detail.logits.square().mean()) == {"encoder", "semantic"}
    output = network(frames())
    loss = network.semantic_loss(output, labels.semantic) + network.project(output).square().mean()
    network.zero_grad()
    (loss + sum(network.instance_loss(output, labels).values())).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []


def test_pixels_outside_the_window_have_gradients_only_through_the_context(network):
    """What lies beyond the crop and beyond the context's reach of it does not change the detail logits."""
    window = Window(0, 0, 32, 48)
    images = (frames() / 255).requires_grad_()
    network.eval()(images, window=window).detail.logits.sum().backward()
    assert images.grad[..., :32, :48].any()
    assert not images.grad[..., 32:, :].any()
    assert not images.grad[..., 48:].any()


def test_the_same_seed_gives_the_same_losses_and_gradients():
    def run():
        network = seeded(TWO)
        torch.manual_seed(5)
        output = network(frames(), window=network.draw_window((64, 96), np.random.default_rng(2)))
        loss = network.semantic_loss(output, target().semantic) + sum(network.instance_loss(output, target()).values())
        loss.backward()
        return loss, [value.grad for value in network.parameters() if value.grad is not None]

    (loss, grads), (again, others) = run(), run()
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))


def test_batch_norm_trains_on_both_views():
    config = TWO.model_copy(
        update={
            "encoder": EncoderConfig(name="test_resnet"),
            "semantic": TWO.semantic.model_copy(update={"norm": "batch"}),
        }
    )
    network = seeded(config)
    loss = network.semantic_loss(network(frames()), target().semantic)
    loss.backward()
    assert loss.isfinite()
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert norm.num_batches_tracked == 2
    assert network.eval()(frames()).logits.isfinite().all()


# --- instances


def pair():
    """A multi-resolution network, and a plain one with the same weights."""
    two = seeded(TWO)
    plain = seeded()
    plain.load_state_dict({name: value for name, value in two.state_dict().items() if "attention" not in name})
    return two.eval(), plain.eval()


def test_the_instance_loss_is_that_of_a_plain_network_on_the_small_frame():
    two, plain = pair()
    labels, weight = target(), maps(2, 64, 96).abs()
    small = F.avg_pool2d(frames() / 255, 2)
    small_labels = PanopticTarget(
        resize_nearest(labels.semantic, (32, 48)), resize_nearest(labels.instance, (32, 48)), labels.labelled
    )
    options = {"instance_weight": torch.tensor([[1, 1, 1, 1, 0.5], [1, 1, 1, 1, 2.0]])}
    found = two.instance_loss(two(frames()), labels, pixel_weight=weight, **options)
    expected = plain.instance_loss(plain(small), small_labels, pixel_weight=resize_nearest(weight, (32, 48)), **options)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_small_labels_keep_their_place_in_frames_of_odd_size():
    rows, columns = torch.arange(61, dtype=torch.int32), torch.arange(90, dtype=torch.int32)
    labels = PanopticTarget(
        (rows[:, None] + 0 * columns)[None].to(torch.uint8), (0 * rows[:, None] + columns)[None], torch.ones(1).bool()
    )
    small = shrink_target(labels, 2)
    assert small.semantic.shape == (1, 31, 45)
    assert small.semantic[0, :, 0].tolist() == [*range(1, 60, 2), 60]
    assert small.instance[0, 0].tolist() == list(range(1, 90, 2))
    assert (small.semantic.dtype, small.instance.dtype) == (torch.uint8, torch.int32)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 90)])
def test_instances_lie_where_they_are(monkeypatch, height, width):
    """Hand-set heat and offsets for two cars, on the plain grid and on the coarser one, give the same masks."""
    semantic = torch.zeros(1, 19, height, width)
    semantic[:, ROAD] = 0.5
    boxes = ((8, 16, 24, 32), (16, 56, 40, 88))
    for top, left, bottom, right in boxes:
        semantic[0, CAR, top:bottom, left:right] = 0.9
    found = []
    for network, stride in zip(pair(), (8, 4), strict=True):
        grid = (-(-height // stride), -(-width // stride))
        heat, offset = torch.zeros(1, 1, *grid), torch.zeros(1, 2, *grid)
        middles = [stride * torch.arange(length) + (stride - 1) / 2 for length in grid]
        for score, (top, left, bottom, right) in zip((0.9, 0.8), boxes, strict=True):
            cell = ((top + bottom) // 2 // stride, (left + right) // 2 // stride)
            heat[0, 0, cell[0], cell[1]] = score
            inside = (slice(top // stride, bottom // stride), slice(left // stride, right // stride))
            # offsets count pixels of the head's input, half as many on the context view
            offset[0, 0][inside] = ((middles[0][cell[0]] - middles[0]) * 4 / stride)[inside[0], None]
            offset[0, 1][inside] = ((middles[1][cell[1]] - middles[1]) * 4 / stride)[None, inside[1]]
        monkeypatch.setattr(network.instance, "forward", lambda features, given=(heat, offset): given)
        network.instance.config = CenterOffsetConfig(kernel=3, threshold=0.3)
        found.append(network.instances(network(frames(1, height, width)), semantic)[0])
    two, plain = found
    expected = torch.zeros(2, height, width, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(expected, boxes, strict=True):
        mask[top:bottom, left:right] = True
    assert torch.equal(plain.masks, expected)
    assert torch.equal(two.masks, expected)
    assert torch.equal(two.scores, plain.scores)
    assert two.embeddings.shape == (2, 6)


def test_embeddings_are_means_over_the_context_view(network):
    network.eval()
    output = network(frames())
    semantic = torch.full((2, 19, 64, 96), 0.01)
    semantic[:, CAR, 8:24, 16:48] = 0.9
    projected = network.project(output)[0].detach().repeat_interleave(8, 1).repeat_interleave(8, 2)
    one, _ = network.instances(output, semantic)
    assert len(one) > 0
    for mask, found in zip(one.masks, one.embeddings, strict=True):
        torch.testing.assert_close(found, F.normalize(projected[:, mask].mean(1), dim=0), atol=1e-5, rtol=0)


# --- files and segmentation


def test_plain_weights_fit_and_attention_starts_fresh(tmp_path):
    plain = seeded()
    save_network(plain, tmp_path / "plain.safetensors")
    torch.manual_seed(9)
    two = seeded(TWO)
    fresh = copy.deepcopy(two.attention.state_dict())
    load_weights(two, tmp_path / "plain.safetensors")
    assert torch.equal(two.semantic.classify.weight, plain.semantic.classify.weight)
    assert all(torch.equal(fresh[name], value) for name, value in two.attention.state_dict().items())
    save_network(two, tmp_path / "two.safetensors")
    load_weights(seeded(), tmp_path / "two.safetensors")


def test_weights_file_gives_the_same_network(network, tmp_path):
    save_network(network.eval(), tmp_path / "two.safetensors")
    loaded, _, _ = load_network(tmp_path / "two.safetensors")
    assert loaded.config == TWO
    assert torch.equal(loaded(frames()).logits, network(frames()).logits)


def test_a_segmenter_takes_frames_one_by_one_or_together(network):
    images = list(frames(3, 45, 70).permute(0, 2, 3, 1).numpy())
    segmenter = Segmenter(network, inference=InferenceConfig(batch=3, height=None))
    together = segmenter.stream().push_clip(images)
    stream = segmenter.stream()
    for image, expected in zip(images, together, strict=True):
        found = stream.push(image)
        assert found.semantic.shape == (45, 70)
        assert (found.semantic != expected.semantic).mean() <= 1e-3
        assert [segment.id for segment in found.segments] == [segment.id for segment in expected.segments]
