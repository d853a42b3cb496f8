"""Clips, batches and panoptic frames: shapes, types, and what is refused."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from vidapt.clip import Clip, Instances, PanopticFrame, PanopticTarget, Segment, collate


def target(frames: int, height: int = 4, width: int = 6) -> PanopticTarget:
    semantic = torch.arange(frames * height * width, dtype=torch.int64).reshape(frames, height, width) % 19
    return PanopticTarget(
        semantic.to(torch.uint8),
        semantic.to(torch.int32) * 2,
        torch.arange(frames) % 2 == 0,
    )


def clip(frames: int = 3, labelled: bool = True, value: int = 7) -> Clip:
    return Clip(
        frames=torch.full((frames, 3, 4, 6), value, dtype=torch.uint8),
        video="v",
        indices=torch.arange(frames),
        times=torch.arange(frames, dtype=torch.float64) / 10,
        target=target(frames) if labelled else None,
    )


@pytest.mark.parametrize("length", [1, 3])
def test_clip_of_any_length(length: int) -> None:
    assert clip(length).frames.shape == (length, 3, 4, 6)


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(3, 4, 6, dtype=torch.uint8),
        torch.zeros(2, 4, 6, 3, dtype=torch.uint8),
        torch.zeros(2, 3, 4, 6),
    ],
    ids=["one image", "channels last", "float"],
)
def test_clip_refuses_other_frames(frames: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \(T,3,H,W\), got"):
        Clip(frames, "v", torch.arange(2), torch.zeros(2))


def test_without_target_keeps_everything_else() -> None:
    labelled = clip()
    plain = labelled.without_target()
    assert plain.target is None
    assert plain.frames is labelled.frames
    assert plain.video == "v"
    assert labelled.target is not None


def test_clip_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        clip().video = "other"  # type: ignore[misc]


def test_collate_stacks_every_field() -> None:
    batch = collate([clip(value=1), clip(value=2)], [10, 11])
    assert batch.frames.shape == (2, 3, 3, 4, 6)
    assert batch.frames[1].unique().tolist() == [2]
    assert batch.videos == ("v", "v")
    assert batch.samples.tolist() == [10, 11]
    assert batch.indices.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert batch.times.dtype == torch.float64
    assert batch.target is not None
    assert batch.target.semantic.shape == batch.target.instance.shape == (2, 3, 4, 6)
    assert batch.target.labelled.tolist() == [[True, False, True]] * 2
    assert (batch.target.semantic.dtype, batch.target.instance.dtype) == (torch.uint8, torch.int32)


def test_collate_unlabelled() -> None:
    assert collate([clip(labelled=False)], [0]).target is None


def test_collate_refuses_a_mixture() -> None:
    with pytest.raises(ValueError, match="1 of 2 clips carry a target; all or none must"):
        collate([clip(), clip(labelled=False)], [0, 1])


def test_flatten_merges_batch_and_time_in_order() -> None:
    batch = collate([clip(2), clip(2)], [0, 1])
    assert batch.target is not None
    flat = batch.target.flatten()
    assert flat.semantic.shape == flat.instance.shape == (4, 4, 6)
    assert flat.labelled.tolist() == [True, False, True, False]
    assert torch.equal(flat.semantic[3], batch.target.semantic[1, 1])


def test_to_moves_frames_and_target() -> None:
    batch = collate([clip()], [0]).to("meta")
    assert batch.frames.is_meta
    assert batch.target is not None
    assert batch.target.semantic.is_meta
    assert batch.target.instance.is_meta
    assert batch.target.labelled.is_meta
    assert not batch.indices.is_meta
    assert collate([clip(labelled=False)], [0]).to("meta").target is None


def ignoring(rows: int, frames: int = 3) -> Clip:
    """A clip whose upper rows say that pseudo-labels do not count."""
    mask = torch.zeros(frames, 4, 6, dtype=torch.bool)
    mask[:, :rows] = True
    return replace(clip(frames), ignored=mask)


def test_nothing_is_ignored_unless_said() -> None:
    assert clip().ignored is None
    assert collate([clip(), clip()], [0, 1]).ignored is None


def test_collate_stacks_what_is_ignored() -> None:
    batch = collate([ignoring(1), ignoring(3)], [0, 1])
    assert batch.ignored is not None
    assert (batch.ignored.shape, batch.ignored.dtype) == ((2, 3, 4, 6), torch.bool)
    assert torch.equal(batch.ignored[1], ignoring(3).ignored)


@pytest.mark.parametrize("place", [0, 1])
def test_clips_that_ignore_nothing_may_stand_beside_others(place: int) -> None:
    pair = [clip(), clip()]
    pair[place] = ignoring(2)
    batch = collate(pair, [0, 1])
    assert batch.ignored is not None
    assert batch.ignored[place].float().mean() == 0.5
    assert not batch.ignored[1 - place].any()


def test_what_is_ignored_moves_with_the_batch_and_stays_without_labels() -> None:
    batch = collate([ignoring(1)], [0]).to("meta")
    assert batch.ignored is not None
    assert batch.ignored.is_meta
    assert torch.equal(ignoring(2).without_target().ignored, ignoring(2).ignored)


def instances(count: int, embedded: bool = False) -> Instances:
    masks = torch.zeros(count, 4, 6, dtype=torch.bool)
    masks[:, 0, 0] = True
    embeddings = torch.arange(count * 2, dtype=torch.float32).reshape(count, 2) if embedded else None
    return Instances(masks, torch.arange(count), torch.linspace(0.9, 0.1, count), embeddings)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_instances_have_a_length(count: int) -> None:
    assert len(instances(count)) == count


def test_select_by_mask_and_by_index() -> None:
    found = instances(3, embedded=True)
    by_mask = found.select(found.scores > 0.4)
    assert by_mask.categories.tolist() == [0, 1]
    by_index = found.select(torch.tensor([2, 0]))
    assert by_index.categories.tolist() == [2, 0]
    assert by_index.embeddings is not None
    assert by_index.embeddings.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert by_index.masks.shape == (2, 4, 6)


def test_select_nothing() -> None:
    none = instances(2).select(torch.zeros(2, dtype=torch.bool))
    assert len(none) == 0
    assert none.masks.shape == (0, 4, 6)
    assert none.embeddings is None


def test_overlay_draws_over_a_copy() -> None:
    ids = np.zeros((8, 10), np.int32)
    ids[2:6, 2:6] = 256
    frame = PanopticFrame(0, 0.0, np.full((8, 10), 13, np.uint8), ids, (Segment(256, 13, True, 0.9, 16, (2, 2, 6, 6)),))
    image = np.full((8, 10, 3), 100, np.uint8)
    picture = frame.overlay(image)
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    assert (image == 100).all()
    assert (picture[2:6, 2:6] != 100).any()
