import pytest
import torch

from tests.vidapt.models.small_network import CAR, ROAD, SMALL, frames, seeded, target


@pytest.fixture
def network():
    return seeded()


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 90), (33, 5), (4, 4), (1, 1), (1, 70)])
def test_frames_of_any_size(network, height, width):
    network.eval()
    output = network(frames(2, height, width))
    cells = (-(-height // 4), -(-width // 4))
    assert output.size == (height, width)
    assert output.logits.shape == (2, 19, *cells)
    assert output.fused.shape == (2, 16, *cells)
    assert network.project(output).shape == (2, 6, *cells)
    probabilities = network.upsample(network.probabilities(output), output.size)
    assert probabilities.shape == (2, 19, height, width)
    assert torch.allclose(probabilities.sum(1), torch.ones(2, height, width), atol=1e-4)
    for found in network.instances(output, probabilities):
        assert found.masks.shape[1:] == (height, width)
        assert found.embeddings.shape == (len(found), 6)
    losses = network.instance_loss(output, target(2, height, width))
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(("height", "width"), [(61, 90), (45, 70)])
def test_cells_keep_their_place_in_frames_of_odd_size(network, height, width):
    """Cutting a frame must not move what the network says about the rest of it."""
    network.eval()
    large = frames(1, 64, 96)
    large[..., height:, :] = large[..., height - 1 : height, :]
    large[..., width:] = large[..., width - 1 : width]
    whole, cut = network(large), network(large[..., :height, :width])
    for level, part in zip(whole.features, cut.features, strict=True):
        assert torch.allclose(level[..., : part.shape[-2], : part.shape[-1]], part, atol=1e-4)
    maps = torch.arange(16.0 * 24).view(1, 1, 16, 24)
    large_map = network.upsample(maps, (64, 96))
    cut_map = network.upsample(maps[..., : -(-height // 4), : -(-width // 4)], (height, width))
    assert torch.equal(large_map[..., : height - 4, : width - 4], cut_map[..., :-4, :-4])


def test_bytes_and_floats_are_the_same_frames(network):
    network.eval()
    assert torch.allclose(network(frames()).logits, network(frames().float() / 255).logits, atol=1e-5)


def test_normalisation_is_that_of_imagenet(network):
    seen = []
    network.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(torch.tensor([124, 116, 104], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32))
    assert seen[0].abs().max() < 0.01
    network(torch.ones(1, 3, 32, 32))
    assert seen[1][0, :, 0, 0].tolist() == pytest.approx(
        [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    )


def test_batching_changes_nothing(network):
    network.eval()
    together = network(frames(3))
    for index in range(3):
        alone = network(frames(3)[index : index + 1])
        assert torch.allclose(together.logits[index], alone.logits[0], atol=1e-4)


def test_the_same_seed_gives_the_same_losses_and_gradients():
    def run():
        network = seeded(SMALL.model_copy(update={"semantic": SMALL.semantic.model_copy(update={"dropout": 0.3})}))
        torch.manual_seed(5)
        output = network(frames())
        loss = output.logits.square().mean() + sum(network.instance_loss(output, target()).values())
        loss.backward()
        return loss, [value.grad for value in network.parameters() if value.grad is not None]

    (loss, grads), (again, others) = run(), run()
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))


def heads_with_gradient(network, loss):
    network.zero_grad()
    loss.backward()
    return {
        name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None and value.grad.any()
    }


def test_every_head_trains_the_encoder_and_no_other_head(network):
    output = network(frames())
    assert heads_with_gradient(network, network.probabilities(output)[:, 3].mean()) == {"encoder", "semantic"}
    losses = network.instance_loss(network(frames()), target())
    assert heads_with_gradient(network, losses["center"] + losses["offset"]) == {"encoder", "instance"}
    losses = network.instance_loss(network(frames()), target())
    assert heads_with_gradient(network, losses["center"]) == {"encoder", "instance"}
    projected = network.project(network(frames()))
    assert heads_with_gradient(network, projected.square().mean()) == {"encoder", "semantic", "projection"}


def test_every_parameter_is_trained(network):
    output = network(frames())
    loss = output.logits.square().mean() + network.project(output).square().mean()
    (loss + sum(network.instance_loss(output, target()).values())).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []


def test_half_precision(network):
    network.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = network(frames())
        probabilities = network.probabilities(output)
        found = network.instances(output, network.upsample(probabilities, output.size))
        losses = network.instance_loss(output, target())
    assert output.logits.dtype == torch.bfloat16
    assert probabilities.dtype == torch.float32
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert {item.embeddings.dtype for item in found} == {torch.float32}
    with torch.no_grad():
        exact = network(frames())
        expected = network.instance_loss(exact, target())
    assert torch.allclose(probabilities, network.probabilities(exact), atol=0.02)
    assert losses["offset"].item() == pytest.approx(expected["offset"].item(), rel=0.05)


def test_half_precision_training_gives_finite_gradients(network):
    with torch.autocast("cpu", torch.bfloat16):
        output = network(frames())
        loss = output.logits.float().square().mean() + sum(network.instance_loss(output, target()).values())
    loss.backward()
    assert all(value.grad.isfinite().all() for value in network.parameters() if value.grad is not None)


def test_embeddings_are_the_mean_projection_under_the_mask(network):
    network.eval()
    output = network(frames())
    probabilities = torch.full((2, 19, 64, 96), 0.01)
    probabilities[:, ROAD] = 0.5
    probabilities[0, CAR, 8:24, 16:48] = 0.9
    one, none = network.instances(output, probabilities)
    assert len(one) > 0
    projected = network.project(output)[0].detach()
    large = projected.repeat_interleave(4, 1).repeat_interleave(4, 2)
    for mask, found in zip(one.masks, one.embeddings, strict=True):
        expected = torch.nn.functional.normalize(large[:, mask].mean(1), dim=0)
        assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(one.masks.any(0), probabilities[0, CAR] > 0.5)
    assert (len(none), none.masks.shape, none.embeddings.shape) == (0, (0, 64, 96), (0, 6))
