"""Temporal consistency against plain loops."""

import math

import numpy as np
import pytest
import torch

from vidapt.adaptation.consistency import target_cells, temporal_consistency

SIZE = (16, 24)


def scene(clips=2, length=3, size=SIZE, seed=0) -> dict[str, torch.Tensor]:
    """Random logits, frames, labels of two classes, usable pixels block by block, and flow within the frame."""
    generator = torch.Generator().manual_seed(seed)
    grid = (-(-size[0] // 4), -(-size[1] // 4))
    usable = torch.rand(clips, length, *grid, generator=generator) < 0.8
    usable = usable.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., : size[0], : size[1]].clone()
    return {
        "logits": torch.randn(clips, length, 3, *grid, generator=generator),
        "frames": torch.randint(0, 256, (clips, length, 3, *size), generator=generator).to(torch.uint8),
        "labels": torch.randint(0, 2, (clips, length, *size), generator=generator).to(torch.uint8),
        "usable": usable,
        "flow": 6 * torch.randn(clips, length - 1, 2, *size, generator=generator),
    }


def bilinear(maps: np.ndarray, x: float, y: float) -> np.ndarray | None:
    """Value of (C,h,w) at (x,y), or None where a part of it is not a number or outside."""
    total = np.zeros(len(maps))
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            share = (1 - abs(x - column)) * (1 - abs(y - row))
            if share < 1e-3:
                continue
            if not (0 <= row < maps.shape[1] and 0 <= column < maps.shape[2]):
                return None
            total += share * maps[:, row, column]
    return None if np.isnan(total).any() else total


def over_cells(maps: np.ndarray) -> np.ndarray:
    """Mean over the blocks of 4x4 pixels of (C,H,W), the last ones cut."""
    grid = (-(-maps.shape[1] // 4), -(-maps.shape[2] // 4))
    out = np.zeros((len(maps), *grid))
    for y, x in np.ndindex(*grid):
        out[:, y, x] = maps[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((1, 2))
    return out


def plain(logits, frames, labels, usable, flow) -> float:
    clips = []
    height, width = frames.shape[-2:]
    for b in range(len(logits)):
        values = []
        for t in range(logits.shape[1] - 1):
            seen = []
            for s in (t, t + 1):
                p = logits[b, s].double().softmax(0).numpy()
                colour = over_cells(frames[b, s].double().numpy() / 255)
                p[:, over_cells(usable[b, s][None].double().numpy())[0] < 1] = np.nan
                seen.append((p, colour))
            for y, x in np.ndindex(*logits.shape[-2:]):
                py, px = min(4 * y + 2, height - 1), min(4 * x + 2, width - 1)
                move = (0.0, 0.0) if flow is None else tuple(flow[b, t, :, py, px].double().tolist())
                column, line = x + move[0] / 4, y + move[1] / 4
                later, colour = bilinear(seen[1][0], column, line), bilinear(seen[1][1], column, line)
                now = seen[0][0][:, y, x]
                if later is None or colour is None or np.isnan(now).any():
                    continue
                cy, cx = min(4 * round(line) + 2, height - 1), min(4 * round(column) + 2, width - 1)
                if labels[b, t, py, px] != labels[b, t + 1, cy, cx] or labels[b, t, py, px] == 255:
                    continue
                likeness = math.exp(-np.abs(seen[0][1][:, y, x] - colour).mean())
                values.append(likeness * ((now - later) ** 2).sum())
        clips.append(np.mean(values) if values else 0.0)
    return float(np.mean(clips))


@pytest.mark.parametrize("size", [SIZE, (13, 18)])
@pytest.mark.parametrize("warp", [False, True])
def test_agrees_with_loops(size, warp):
    given = scene(size=size)
    given["labels"][:, :, :4, :4] = 255
    if not warp:
        given["flow"] = None
    loss = temporal_consistency(**given)
    assert loss.dtype == torch.float32
    assert loss.item() > 0
    assert loss.item() == pytest.approx(plain(**given), rel=1e-4)


def test_no_flow_and_still_flow_agree():
    given = scene()
    still = temporal_consistency(**given | {"flow": torch.zeros_like(given["flow"])})
    assert still.item() == pytest.approx(temporal_consistency(**given | {"flow": None}).item(), rel=1e-4)


def test_what_moves_along_the_flow_costs_nothing():
    """Frame 1 is frame 0 moved two cells to the right and one down."""
    given = scene(1, 2)
    given["usable"][:] = True
    for name, steps in (("logits", (1, 2)), ("frames", (4, 8)), ("labels", (4, 8))):
        given[name][:, 1] = given[name][:, 0].roll(steps, (-2, -1))
    given["flow"] = torch.tensor([8.0, 4.0])[:, None, None].expand(1, 1, 2, *SIZE)
    assert temporal_consistency(**given).item() == pytest.approx(0, abs=1e-8)
    assert temporal_consistency(**given | {"flow": -given["flow"]}).item() > 0.01


def test_unlike_colours_count_less():
    given = scene(1, 2) | {"flow": None}
    given["frames"][:, 0], given["frames"][:, 1] = 0, 255
    given["usable"][:] = True
    given["labels"][:] = 1
    unlike = temporal_consistency(**given)
    given["frames"][:, 1] = 0
    assert unlike.item() == pytest.approx(math.exp(-1) * temporal_consistency(**given).item(), rel=1e-5)


def test_both_frames_get_a_gradient_and_only_where_they_count():
    given = scene(1, 2) | {"flow": None}
    given["labels"][:] = 1
    given["usable"][:] = True
    given["usable"][0, 1, :, 12:] = False
    given["logits"].requires_grad_()
    temporal_consistency(**given).backward()
    gradient = given["logits"].grad.abs().sum(2)[0]
    assert (gradient[:, :, :3] > 0).all()
    assert not gradient[:, :, 3:].any()


@pytest.mark.parametrize("at", [(0, 0, 1, 2, 3), (0, 1, 2, 1, 1)])
def test_gradients_agree_with_differences(at):
    given = scene(1, 2)
    moved = []
    for step in (-1e-3, 1e-3):
        logits = given["logits"].clone()
        logits[at] += step
        moved.append(plain(**given | {"logits": logits}))
    given["logits"].requires_grad_()
    temporal_consistency(**given).backward()
    assert given["logits"].grad[at].item() == pytest.approx((moved[1] - moved[0]) / 2e-3, abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"usable": torch.zeros(2, 3, *SIZE, dtype=torch.bool)},
        {"labels": torch.arange(3, dtype=torch.uint8)[:, None, None].expand(2, 3, *SIZE)},
        {"labels": torch.full((2, 3, *SIZE), 255, dtype=torch.uint8)},
        {"flow": torch.full((2, 2, 2, *SIZE), 1000.0)},
    ],
    ids=["nothing usable", "no class in common", "no class", "flow leaves the frame"],
)
def test_nothing_to_compare_is_a_finite_zero(change):
    given = scene() | change
    given["logits"].requires_grad_()
    loss = temporal_consistency(**given)
    loss.backward()
    assert loss.item() == 0
    assert not given["logits"].grad.any()


def test_clips_of_one_frame_cost_nothing():
    given = scene(length=1)
    given["logits"].requires_grad_()
    for flow in (given["flow"], None):
        loss = temporal_consistency(**given | {"flow": flow})
        loss.backward()
        assert loss.item() == 0
        assert not given["logits"].grad.any()


def test_a_partly_unusable_cell_does_not_count():
    given = scene(1, 2) | {"flow": None}
    given["usable"][:] = False
    given["usable"][..., :4, :4] = True
    given["labels"][:] = 0
    assert temporal_consistency(**given).item() > 0
    given["usable"][0, 1, 0, 0] = False
    assert temporal_consistency(**given).item() == 0


def test_clips_weigh_alike_whatever_counts_in_them():
    given = scene()
    given["usable"][0, :, :8] = False
    apart = [temporal_consistency(**{name: value[b : b + 1] for name, value in given.items()}).item() for b in range(2)]
    assert apart[0] != pytest.approx(apart[1], rel=1e-3)
    assert temporal_consistency(**given).item() == pytest.approx(sum(apart) / 2, rel=1e-5)


def test_half_precision_is_computed_in_full():
    given = scene() | {"logits": scene()["logits"].bfloat16()}
    with torch.autocast("cpu", torch.bfloat16):
        loss = temporal_consistency(**given)
    assert loss.item() == pytest.approx(temporal_consistency(**given).item(), rel=1e-6)


def test_targets_of_cells():
    flow = torch.zeros(1, 2, 9, 12)
    flow[0, :, 6, 10] = torch.tensor([8.0, -4.0])
    places = target_cells(flow, (3, 3))
    assert places[0, 1, 2].tolist() == [4.0, 0.0]
    assert places[0, 0, 1].tolist() == [1.0, 0.0]
    assert places[0, 2, 0].tolist() == [0.0, 2.0]
