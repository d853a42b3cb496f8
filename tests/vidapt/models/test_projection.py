import pytest
import torch
import torch.nn.functional as F

from vidapt.config import ProjectionConfig
from vidapt.models.projection import ProjectionHead, pool_masks


def test_projection_has_two_layers_and_is_not_normalised():
    head = ProjectionHead(ProjectionConfig(dim=5, hidden=7), 3)
    fused = torch.randn(2, 3, 4, 6)
    assert head(fused).shape == (2, 5, 4, 6)
    assert sum(value.numel() for value in head.parameters()) == 3 * 7 + 7 + 7 * 5 + 5
    assert not torch.allclose(head(fused).norm(dim=1), torch.ones(2, 4, 6))
    assert not torch.allclose(head(-fused), -head(fused))


def embedding(height=4, width=6, dim=3):
    return torch.randn(dim, height, width, generator=torch.Generator().manual_seed(0))


def by_pixels(embedding, masks, stride):
    """The definition: the mean over mask pixels of the embedding of the pixel's cell."""
    large = embedding.repeat_interleave(stride, 1).repeat_interleave(stride, 2)[:, : masks.shape[1], : masks.shape[2]]
    return F.normalize(torch.stack([large[:, mask].mean(1) for mask in masks]), dim=1)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (13, 21), (14, 23)])
def test_pooling_is_the_mean_over_mask_pixels(height, width):
    masks = torch.rand(20, height, width, generator=torch.Generator().manual_seed(1)) < 0.1
    pooled = pool_masks(embedding(), masks)
    assert torch.allclose(pooled, by_pixels(embedding(), masks, 4), atol=1e-5)
    assert torch.allclose(pooled.norm(dim=1), torch.ones(20), atol=1e-5)


def test_one_pixel_keeps_its_cell():
    masks = torch.zeros(1, 16, 24, dtype=torch.bool)
    masks[0, 9, 20] = True
    assert torch.allclose(pool_masks(embedding(), masks)[0], F.normalize(embedding()[:, 2, 5], dim=0), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (17, 31), (3, 5)])
def test_masks_of_any_size(height, width):
    masks = torch.ones(1, height, width, dtype=torch.bool)
    whole = F.normalize(embedding().mean((1, 2)), dim=0)
    assert torch.allclose(pool_masks(embedding(), masks)[0], whole, atol=2e-1)
    assert torch.allclose(pool_masks(embedding(), masks)[0].norm(), torch.tensor(1.0))


def test_no_masks_and_empty_masks():
    assert pool_masks(embedding(), torch.zeros(0, 16, 24, dtype=torch.bool)).shape == (0, 3)
    assert pool_masks(embedding(), torch.zeros(2, 16, 24, dtype=torch.bool)).tolist() == [[0.0] * 3] * 2


def test_half_precision_maps_are_pooled_in_full_precision():
    masks = torch.ones(1, 16, 24, dtype=torch.bool)
    pooled = pool_masks(embedding().bfloat16(), masks)
    assert pooled.dtype == torch.float32
    assert torch.allclose(pooled, pool_masks(embedding().bfloat16().float(), masks))
