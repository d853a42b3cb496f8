"""Patch contrast: windows, views, and the loss against plain loops over places."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vidapt.adaptation.patches import TRIES, PatchWindows, cut_views, draw_windows, patch_contrast
from vidapt.config_method import PatchContrastConfig

CONFIG = PatchContrastConfig(total=4096, temperature=0.5, confidence=0.4)
"""More places than the views have, so that all of them are drawn."""


def rngs(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, index)) for index in range(count)]


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + index) for index in range(count)]


def overlap(windows: PatchWindows, clip: int) -> float:
    """Intersection over union by counting pixels."""
    frames = np.zeros((2, 600, 600), bool)
    for frame, (top, left) in zip(frames, (windows.first[clip], windows.second[clip]), strict=True):
        frame[top : top + windows.size[0], left : left + windows.size[1]] = True
    return (frames[0] & frames[1]).sum() / (frames[0] | frames[1]).sum()


@pytest.mark.parametrize("size", [(64, 128), (130, 259)])
@pytest.mark.parametrize("stride", [4, 8])
def test_windows_lie_on_the_grid_inside_the_frame_and_overlap_enough(size, stride):
    config = PatchContrastConfig(crop=0.4, min_overlap=0.3)
    windows = draw_windows(size, config, rngs(50), stride=stride)
    assert windows.size == tuple(int(0.4 * length) // stride * stride for length in size)
    for corners in (windows.first, windows.second):
        assert len(corners) == 50
        for top, left in corners:
            assert top % stride == left % stride == 0
            assert 0 <= top <= size[0] - windows.size[0]
            assert 0 <= left <= size[1] - windows.size[1]
    assert min(overlap(windows, clip) for clip in range(50)) >= 0.3
    assert len(set(windows.first)) > 10
    assert any(first != second for first, second in zip(windows.first, windows.second, strict=True))


def test_windows_reach_every_border():
    windows = draw_windows((64, 64), PatchContrastConfig(crop=0.5, min_overlap=0.0), rngs(300))
    assert {top for top, _ in windows.first} == {left for _, left in windows.second} == set(range(0, 33, 4))


def test_whole_frames_have_one_window():
    windows = draw_windows((66, 130), PatchContrastConfig(crop=1.0), rngs(3))
    assert windows.size == (64, 128)
    assert set(windows.first + windows.second) == {(0, 0)}


def test_windows_that_never_overlap_enough_become_one():
    class Apart(np.random.Generator):
        """Opposite corners for ever; counts the draws."""

        draws = 0

        def integers(self, high):
            self.draws += 1
            return 0 if (self.draws - 1) % 4 < 2 else high - 1

    rng = Apart(np.random.PCG64(0))
    windows = draw_windows((64, 64), PatchContrastConfig(crop=0.5, min_overlap=0.1), [rng])
    assert windows.first == windows.second
    assert rng.draws == 4 * TRIES


def test_windows_belong_to_the_clip():
    both, again = draw_windows((64, 64), CONFIG, rngs(2)), draw_windows((64, 64), CONFIG, rngs(2)[1:])
    assert (both.first[1], both.second[1]) == (again.first[0], again.second[0])


def test_a_side_is_not_lost_to_rounding():
    # 0.29 * 400 is 115.99999999999999
    assert draw_windows((400, 400), PatchContrastConfig(crop=0.29), rngs(1)).size == (116, 116)


def test_tiny_crops_keep_one_cell_and_tiny_frames_are_refused():
    assert draw_windows((8, 64), PatchContrastConfig(crop=0.1, min_overlap=0), rngs(1)).size == (4, 4)
    with pytest.raises(ValueError, match="frames of 3x64 pixels are smaller than a cell of 4: give larger ones"):
        draw_windows((3, 64), CONFIG, rngs(1))


def test_views_are_the_windows_of_all_frames():
    frames = torch.randint(0, 256, (2, 3, 3, 20, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    windows = PatchWindows(((0, 4), (8, 8)), ((4, 0), (8, 12)), (12, 12))
    first, second = cut_views(frames, windows)
    assert first.dtype == torch.uint8
    assert torch.equal(first[0], frames[0, :, :, 0:12, 4:16])
    assert torch.equal(first[1], frames[1, :, :, 8:20, 8:20])
    assert torch.equal(second[0], frames[0, :, :, 4:16, 0:12])
    assert torch.equal(second[1], frames[1, :, :, 8:20, 12:24])


def views(seed: int = 0, clips: int = 2, length: int = 2, grid=(3, 4), classes: int = 3) -> dict[str, torch.Tensor]:
    """Random features (dim 5) and logits of both views, float64 features."""
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, length)
    return {
        "first": torch.randn(*shape, 5, *grid, generator=generator, dtype=torch.float64).requires_grad_(),
        "second": torch.randn(*shape, 5, *grid, generator=generator, dtype=torch.float64).requires_grad_(),
        "logits_first": 2 * torch.randn(*shape, classes, *grid, generator=generator),
        "logits_second": 2 * torch.randn(*shape, classes, *grid, generator=generator),
    }


WINDOWS = PatchWindows(((4, 0), (0, 8)), ((0, 4), (4, 4)), (12, 16))


def loss_of(maps, windows=WINDOWS, config=CONFIG, **more):
    count = len(windows.first)
    return patch_contrast(windows=windows, config=config, generators=generators(count), **maps, **more)


def plain_clip(maps, clip: int, windows: PatchWindows, config, ignored=None) -> float:
    """Every place of the overlap, both directions, all keys: loops over cells in frame coordinates, float64."""
    height, width = windows.size[0] // 4, windows.size[1] // 4
    losses = []
    for frame in range(maps["first"].shape[1]):
        shown = []
        for name, corner in (("first", windows.first[clip]), ("second", windows.second[clip])):
            probability = maps[f"logits_{name}"][clip, frame].softmax(0)
            cells = {}
            for y in range(height):
                for x in range(width):
                    place = (corner[0] // 4 + y, corner[1] // 4 + x)
                    if ignored is None or not ignored[clip, frame, place[0] * 4 + 2, place[1] * 4 + 2]:
                        row = maps[name].detach()[clip, frame, :, y, x]
                        cells[place] = (row, int(probability[:, y, x].argmax()), float(probability[:, y, x].max()))
            shown.append(cells)
        for own, other in (shown, shown[::-1]):
            both = own.keys() & other.keys()
            keys = [(other[place], place) for place in both]
            keys += [(cells[place], None) for cells in shown for place in cells if place not in both]
            for place in both:
                row, category, confidence = own[place]
                if not (other[place][2] > config.confidence and other[place][2] > confidence):
                    continue

                def similarity(key, row=row):
                    return math.exp(float(F.cosine_similarity(row, key, dim=0)) / config.temperature)

                negative = sum(similarity(key[0]) for key, where in keys if key[1] != category and where != place)
                positive = similarity(other[place][0])
                losses.append(-math.log(positive / (positive + negative)))
    return sum(losses) / max(1, len(losses))


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_plain_formula(seed):
    maps = views(seed)
    expected = [plain_clip(maps, clip, WINDOWS, CONFIG) for clip in range(2)]
    assert min(expected) > 0
    assert loss_of(maps).item() == pytest.approx(sum(expected) / 2, rel=1e-6)


def test_ignored_margins_neither_count_nor_repel():
    maps = views()
    ignored = torch.zeros(2, 2, 16, 24, dtype=torch.bool)
    ignored[:, :, 8:12] = True
    expected = [plain_clip(maps, clip, WINDOWS, CONFIG, ignored) for clip in range(2)]
    loss = loss_of(maps, ignored=ignored)
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-6)
    assert loss.item() != pytest.approx(loss_of(maps).item(), rel=1e-3)
    gradient = torch.autograd.grad(loss, maps["first"])[0]
    # rows 8..12 are row 1 of the first clip's first view, which begins at 4
    assert not gradient[0, :, :, 1].any()


def test_everything_ignored_is_a_finite_zero():
    maps = views()
    loss = loss_of(maps, ignored=torch.ones(2, 2, 16, 24, dtype=torch.bool))
    assert loss.item() == 0
    gradients = torch.autograd.grad(loss, [maps["first"], maps["second"]])
    assert not any(gradient.any() for gradient in gradients)


def test_only_the_less_certain_view_learns():
    """The first view is certain everywhere: the second follows it and the first gets no gradient."""
    maps = views()
    maps["logits_first"] = 20 * F.one_hot(torch.randint(0, 3, (2, 2, 3, 4)), 3).movedim(-1, 2).float()
    maps["logits_second"] = maps["logits_second"].clamp(-1, 1)
    first, second = torch.autograd.grad(loss_of(maps), [maps["first"], maps["second"]])
    assert not first.any()
    assert second.any()
    # places that the first view does not show get none either
    assert not second[0, :, :, 0].any()
    assert not second[0, :, :, :, 3].any()


def test_the_classifier_gets_no_gradient_but_decides():
    maps = views()
    maps["logits_first"].requires_grad_()
    loss_of(maps).backward()
    assert maps["logits_first"].grad is None
    with torch.no_grad():
        other = maps | {"logits_first": maps["logits_first"].flip(2)}
        assert loss_of(other).item() != pytest.approx(loss_of(maps).item(), rel=1e-3)


def test_views_below_the_confidence_are_not_followed():
    maps = views()
    strict = CONFIG.model_copy(update={"confidence": 1.0})
    assert loss_of(maps, config=strict).item() == 0


def test_equally_certain_views_do_not_teach_each_other():
    """The same window without augmentation twice: nothing to learn."""
    maps = views(clips=1)
    same = {"first": maps["first"], "second": maps["first"]}
    same |= {"logits_first": maps["logits_first"], "logits_second": maps["logits_first"]}
    assert loss_of(same, windows=PatchWindows(((4, 4),), ((4, 4),), (12, 16))).item() == 0


def test_a_place_never_repels_its_own_class():
    maps = views()
    for name in ("logits_first", "logits_second"):
        maps[name][:, :, 0] += 50
    assert loss_of(maps, config=CONFIG.model_copy(update={"confidence": 0.0})).item() == 0


def test_windows_that_do_not_meet_give_zero():
    apart = PatchWindows(((0, 0),), ((16, 0),), (12, 16))
    assert loss_of(views(clips=1), windows=apart).item() == 0


def test_fewer_places_are_drawn_by_the_clips_own_generator():
    maps = views(grid=(6, 6), length=3)
    windows = PatchWindows(((4, 0), (0, 8)), ((0, 4), (4, 4)), (24, 24))
    few = CONFIG.model_copy(update={"total": 6})
    whole = loss_of(maps, windows=windows, config=few)
    alone = []
    for clip in range(2):
        own = {name: value[clip : clip + 1] for name, value in maps.items()}
        one = PatchWindows(windows.first[clip : clip + 1], windows.second[clip : clip + 1], windows.size)
        alone.append(patch_contrast(windows=one, config=few, generators=generators(1, seed=clip), **own).item())
    assert whole.item() == pytest.approx(sum(alone) / 2, rel=1e-9)
    gradient = torch.autograd.grad(whole, maps["first"])[0]
    assert (gradient.abs().sum(2) > 0).flatten(2).sum(2).max() <= 6


def test_single_frames_and_half_precision():
    maps = views(length=1)
    full = loss_of(maps)
    half = loss_of({name: value.to(torch.bfloat16) for name, value in maps.items()})
    assert full.item() > 0
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.1)


def test_logits_may_be_finer_than_the_features():
    maps = views()
    fine = maps | {
        name: maps[name].repeat_interleave(2, 3).repeat_interleave(2, 4) for name in maps if "logits" in name
    }
    assert loss_of(fine).item() == pytest.approx(loss_of(maps).item(), rel=1e-6)


def test_coarser_features_need_windows_on_their_grid():
    maps = views()
    coarse = replace(WINDOWS, first=((8, 0), (0, 16)), second=((0, 8), (8, 8)), size=(24, 32), stride=8)
    assert loss_of(maps, windows=coarse).item() == pytest.approx(loss_of(maps).item(), rel=1e-9)
    with pytest.raises(ValueError, match="features of 3x4 cells do not fit windows of 24x32 pixels with 4 pixels per"):
        loss_of(maps, windows=replace(coarse, stride=4))
