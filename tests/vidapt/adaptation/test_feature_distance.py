"""Thing-class feature distance: against a plain loop, which cells count, who gets a gradient, nothing to compare."""

import numpy as np
import pytest
import torch

from vidapt.adaptation.feature_distance import cell_classes, feature_distance, thing_table
from vidapt.errors import ConfigError
from vidapt.labels import CITYSCAPES

STRIDE = 8


def labels(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Blocks of 5 pixels, so that cells of 8 are of one class or of several."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 2, 11, 13, 255], (frames, height // 5 + 1, width // 5 + 1)).astype(np.uint8)
    return torch.from_numpy(coarse.repeat(5, 1).repeat(5, 2)[:, :height, :width].copy())


def features(frames: int, height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, 6, -(-height // STRIDE), -(-width // STRIDE), generator=generator)


def plain(first: torch.Tensor, second: torch.Tensor, semantic: torch.Tensor, classes: set[int], share: float) -> float:
    distances = []
    for frame, row, column in np.ndindex(first.shape[0], *first.shape[2:]):
        top, left = row * STRIDE, column * STRIDE
        cell = semantic[frame, top : top + STRIDE, left : left + STRIDE].flatten().tolist()
        winner = max(range(256), key=cell.count)
        if winner in classes and cell.count(winner) / len(cell) >= share:
            difference = (first[frame, :, row, column] - second[frame, :, row, column]).double()
            distances.append(float(difference.square().sum().sqrt()))
    assert distances
    return float(np.mean(distances))


@pytest.mark.parametrize(("height", "width"), [(32, 48), (29, 50), (33, 24)])
@pytest.mark.parametrize("share", [0.75, 0.3])
def test_value_equals_a_plain_loop(height: int, width: int, share: float) -> None:
    semantic, classes = labels(2, height, width), {2, 11, 13}
    table = torch.zeros(256, dtype=torch.bool)
    table[list(classes)] = True
    first, second = (features(2, height, width, seed) for seed in (0, 1))
    expected = plain(first, second, semantic, classes, share)
    assert feature_distance(first, second, semantic, table, share).item() == pytest.approx(expected, rel=1e-5)


def test_cells_know_their_most_frequent_class_and_its_share() -> None:
    semantic = torch.full((1, 8, 12), 3, dtype=torch.uint8)
    semantic[0, :4, :4] = 11
    semantic[0, 4:, :3] = 255
    share, winner = cell_classes(semantic, (2, 3))
    assert winner.tolist() == [[[11, 3, 3], [255, 3, 3]]]
    assert share[0, :, 0].tolist() == [1.0, 0.75]


def test_a_cell_at_the_edge_counts_the_pixels_it_has() -> None:
    semantic = torch.full((1, 8, 10), 13, dtype=torch.uint8)
    semantic[0, :2, 8:] = 0
    share, winner = cell_classes(semantic, (1, 2))
    assert winner.tolist() == [[[13, 13]]]
    assert share.tolist() == [[[1.0, 0.75]]]


def test_ignored_pixels_keep_a_cell_out() -> None:
    semantic = torch.full((1, 8, 8), 13, dtype=torch.uint8)
    table = thing_table(CITYSCAPES)
    first, second = torch.ones(1, 4, 1, 1), torch.zeros(1, 4, 1, 1)
    assert feature_distance(first, second, semantic, table, 0.75).item() == pytest.approx(2.0)
    semantic[0, :, :3] = 255
    assert feature_distance(first, second, semantic, table, 0.75).item() == 0


def test_only_the_student_gets_a_gradient_and_only_where_a_cell_counts() -> None:
    semantic = torch.zeros(1, 8, 16, dtype=torch.uint8)
    semantic[0, :, 8:] = 13
    first, second = features(1, 8, 16, 0).requires_grad_(), features(1, 8, 16, 1).requires_grad_()
    feature_distance(first, second, semantic, thing_table(CITYSCAPES), 0.75).backward()
    assert second.grad is None
    assert (first.grad[..., 0] == 0).all()
    # the gradient of a distance is the unit vector along it
    difference = (first - second).detach()[0, :, 0, 1]
    torch.testing.assert_close(first.grad[0, :, 0, 1], difference / difference.norm())


@pytest.mark.parametrize("value", [0, 255])
def test_without_a_cell_to_compare_the_distance_is_0_with_zero_gradients(value: int) -> None:
    first = features(2, 16, 16, 0).requires_grad_()
    semantic = torch.full((2, 16, 16), value, dtype=torch.uint8)
    loss = feature_distance(first, features(2, 16, 16, 1), semantic, thing_table(CITYSCAPES), 0.75)
    loss.backward()
    assert loss.item() == 0
    assert (first.grad == 0).all()


def test_a_student_that_equals_the_reference_gets_finite_gradients() -> None:
    first = features(1, 16, 16, 0).requires_grad_()
    semantic = torch.full((1, 16, 16), 13, dtype=torch.uint8)
    feature_distance(first, first.detach().clone(), semantic, thing_table(CITYSCAPES), 0.75).backward()
    assert (first.grad == 0).all()


def test_half_precision_features_are_compared_in_single_precision() -> None:
    first = (300 + features(1, 16, 16, 0)).bfloat16()
    second = torch.full_like(first, 300)
    semantic = torch.full((1, 16, 16), 13, dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = feature_distance(first, second, semantic, thing_table(CITYSCAPES), 0.75)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((first.float() - second.float()).norm(dim=1).mean().item(), rel=1e-6)


def test_cells_that_do_not_cover_the_frame_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) cells do not cover labels of \(16, 16\) pixels"):
        cell_classes(torch.zeros(1, 16, 16, dtype=torch.uint8), (3, 2))


def test_table_of_things_or_of_named_classes() -> None:
    assert thing_table(CITYSCAPES).nonzero().flatten().tolist() == list(CITYSCAPES.things)
    named = thing_table(CITYSCAPES, ("traffic light", "pole", "flying saucer"))
    assert named.shape == (256,)
    assert sorted(named.nonzero().flatten().tolist()) == sorted(CITYSCAPES.index(n) for n in ("pole", "traffic light"))
    with pytest.raises(ConfigError, match=r"no method\.feature_distance\.classes flying saucer; choose from road, "):
        thing_table(CITYSCAPES, ("flying saucer",))
