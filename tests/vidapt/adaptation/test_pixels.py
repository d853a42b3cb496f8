"""Pixels and cells: where each pixel belongs, also on frames that the last cells reach beyond."""

import pytest
import torch

from vidapt.adaptation.pixels import cell_of_pixel, mean_over_cells, to_pixels
from vidapt.models.grid import enlarge


@pytest.mark.parametrize(("pixels", "count"), [(8, 2), (130, 33), (1, 1), (5, 2), (6, 3), (3, 3)])
def test_cells_have_whole_sides_where_the_grid_is_one_of_ours(pixels, count):
    side = 1
    while side * count < pixels:
        side *= 2
    assert cell_of_pixel(pixels, count, torch.device("cpu")).tolist() == [x // side for x in range(pixels)]


def test_other_grids_are_stretched():
    assert cell_of_pixel(9, 4, torch.device("cpu")).tolist() == [int((x + 0.5) * 4 / 9) for x in range(9)]


@pytest.mark.parametrize("size", [(8, 12), (9, 11), (4, 5)])
def test_spreading_and_averaging_agree_with_loops(size):
    grid = (-(-size[0] // 4), -(-size[1] // 4))
    generator = torch.Generator().manual_seed(0)
    cells, pixels = torch.rand(2, 1, *grid, generator=generator), torch.rand(2, 1, *size, generator=generator)
    spread, mean = to_pixels(cells, size), mean_over_cells(pixels, grid)
    for n in range(2):
        for y in range(size[0]):
            for x in range(size[1]):
                assert spread[n, 0, y, x] == cells[n, 0, y // 4, x // 4]
        for y in range(grid[0]):
            for x in range(grid[1]):
                block = pixels[n, 0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                assert mean[n, 0, y, x].item() == pytest.approx(block.mean().item(), rel=1e-5)


def test_spreading_keeps_the_place_that_enlarging_gives_a_cell():
    """Column 32 of 33 shows the last two of 130 columns."""
    cells = torch.zeros(1, 1, 1, 33)
    cells[..., 32] = 1.0
    assert torch.equal(to_pixels(cells, (4, 130)), (enlarge(cells, (4, 130)) > 0.6).float())


def test_averaging_over_a_stretched_grid_is_that_of_area_interpolation():
    maps = torch.rand(1, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mean_over_cells(maps, (4, 4))[0, 0, 0, 0], maps[0, 0, :3, :3].mean())


def test_types_survive():
    assert to_pixels(torch.tensor([[7]], dtype=torch.uint8), (3, 3)).dtype == torch.uint8
