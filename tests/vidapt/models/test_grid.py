import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vidapt.models.grid import cell_factor, cell_scale, cells, enlarge, norm_layer


@given(pixels=st.integers(1, 300), level=st.integers(0, 3))
def test_enlarged_cells_keep_their_place(pixels, level):
    """A map that holds the pixel coordinate of every cell's middle must enlarge to the finer cells' own middles."""
    stride = 4 << level
    middles = stride * torch.arange(cells(pixels, stride)) + (stride - 1) / 2
    for fine in (1, 2, 4):
        size = (1, cells(pixels, fine))
        expected = (fine * torch.arange(size[1]) + (fine - 1) / 2).clamp(float(middles[0]), float(middles[-1]))
        assert torch.allclose(enlarge(middles.view(1, 1, 1, -1), size).flatten(), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("length", "target", "factor"),
    [(33, 130, 4), (32, 128, 4), (5, 5, 1), (2, 9, 8), (1, 7, 8), (128, 1080, None), (4, 3, None)],
)
def test_cell_factor(length, target, factor):
    assert cell_factor(length, target) == factor
    assert cell_scale(length, target) == (factor or target / length)


def test_sizes_off_the_grid_are_stretched():
    maps = torch.rand(2, 3, 8, 8)
    assert torch.equal(enlarge(maps, (27, 44)), F.interpolate(maps, (27, 44), mode="bilinear", align_corners=False))
    assert enlarge(maps, (3, 3)).shape == (2, 3, 3, 3)
    assert enlarge(maps, (8, 8)) is maps


@pytest.mark.parametrize(
    ("channels", "groups"), [(256, 32), (128, 32), (64, 16), (48, 8), (32, 8), (6, 1), (7, 1), (1, 1)]
)
def test_group_norm_has_groups_of_at_least_four_channels(channels, groups):
    layer = norm_layer("group", channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups
    assert isinstance(norm_layer("batch", channels), nn.BatchNorm2d)
