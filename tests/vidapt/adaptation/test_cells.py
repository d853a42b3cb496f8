"""Pixels read at the cells of a feature map, rows of places, and means over clips."""

import pytest
import torch

from vidapt.adaptation.cells import at_cells, best_classes, mean_over_clips, rows_at
from vidapt.models.grid import cells


@pytest.mark.parametrize("size", [(32, 64), (33, 65), (129, 70), (4, 5), (1, 3)])
@pytest.mark.parametrize("stride", [4, 8])
def test_every_cell_reads_one_of_its_own_pixels(size, stride):
    """Labels that name the cell of each pixel come back as the cells' own numbers, on frames of any size."""
    grid = (cells(size[0], stride), cells(size[1], stride))
    rows, columns = torch.arange(size[0]) // stride, torch.arange(size[1]) // stride
    number = rows[:, None] * 1000 + columns
    own = torch.arange(grid[0])[:, None] * 1000 + torch.arange(grid[1])
    assert torch.equal(at_cells(number.expand(2, 3, *size), grid), own.expand(2, 3, *grid))


def test_whole_cells_read_their_middle_and_keep_the_type():
    maps = torch.arange(8 * 8, dtype=torch.int32).view(8, 8)
    picked = at_cells(maps, (2, 2))
    assert picked.tolist() == [[18, 22], [50, 54]]
    assert picked.dtype == torch.int32
    assert at_cells(maps > 20, (2, 2)).tolist() == [[False, True], [True, True]]
    assert torch.equal(at_cells(maps, (8, 8)), maps)


def test_other_grids_stretch_over_the_frame():
    maps = torch.arange(10).expand(1, 10)
    assert at_cells(maps, (1, 4)).tolist() == [[1, 3, 6, 8]]


def test_rows_are_picked_per_leading_index_with_gradients():
    rows = torch.randn(2, 3, 5, 4, requires_grad=True)
    place = torch.tensor([[[0, 4], [1, 1], [2, 3]], [[4, 0], [3, 2], [0, 1]]])
    picked = rows_at(rows, place)
    for b in range(2):
        for t in range(3):
            assert torch.equal(picked[b, t], rows[b, t, place[b, t]])
    picked.sum().backward()
    assert rows.grad[0, 1, 1].tolist() == [2.0] * 4
    assert not rows.grad[0, 1, 0].any()


def test_clips_weigh_alike_however_many_places_count():
    losses = torch.tensor([[[4.0, 0.0]], [[1.0, 3.0]], [[0.0, 0.0]]], requires_grad=True)
    counted = torch.tensor([[[True, False]], [[True, True]], [[False, False]]])
    mean = mean_over_clips(losses, counted)
    assert mean.item() == pytest.approx((4 + 2 + 0) / 3)
    mean.backward()
    assert losses.grad.flatten().tolist() == pytest.approx([1 / 3, 0, 1 / 6, 1 / 6, 0, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_best_class_is_the_lowest_of_the_largest_scores(dtype):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-3, 3, (2, 3, 19, 5, 7), generator=generator).to(dtype)
    best, category = best_classes(scores.permute(0, 1, 2, 4, 3))
    assert (best.dtype, category.dtype) == (dtype, torch.uint8)
    wanted = torch.from_numpy(scores.permute(0, 1, 2, 4, 3).float().numpy().argmax(2))
    assert torch.equal(category.long(), wanted)
    assert torch.equal(best, scores.permute(0, 1, 2, 4, 3).amax(2))


def test_scores_that_are_no_numbers_stay_so_and_have_some_class():
    scores = torch.zeros(1, 1, 4, 1, 2)
    scores[0, 0, 1, 0, 0] = torch.nan
    best, category = best_classes(scores)
    assert best[0, 0, 0].isnan().tolist() == [True, False]
    assert category.max() < 4


def test_rows_of_a_view_are_picked_alike():
    rows = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    place = torch.tensor([[[3, 0], [1, 1], [2, 0]]]).expand(2, 3, 2)
    assert torch.equal(rows_at(rows, place), rows_at(rows.mT.contiguous().mT, place))
