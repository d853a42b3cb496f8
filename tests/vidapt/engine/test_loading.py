import os
import pickle
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_training import ToyClips, flip

from vidapt.clip import Clip
from vidapt.engine.loading import clip_index, clip_loader, epoch_order, generator_for, part_samples
from vidapt.errors import ConfigError, InputError, TrainingError


def batches(count, data=None, **options):
    options = {"seed": 1, "domain": "source", "batch": 4, **options}
    return list(islice(clip_loader(ToyClips() if data is None else data, flip, **options), count))


@given(st.integers(1, 50), st.integers(0, 2**40), st.integers(0, 3))
def test_every_epoch_visits_every_clip_once(length, seed, epoch):
    visited = [clip_index(epoch * length + i, length, seed, "source") for i in range(length)]
    assert sorted(visited) == list(range(length))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 5))
def test_parts_of_all_processes_cover_the_batch_once(world, accumulate, size, step):
    batch = world * accumulate * size
    shares = [
        list(part_samples(step, part, batch=batch, rank=rank, world=world, accumulate=accumulate))
        for rank in range(world)
        for part in range(accumulate)
    ]
    assert all(len(share) == size for share in shares)
    assert [number for share in shares for number in share] == list(range(step * batch, (step + 1) * batch))


def test_epochs_seeds_and_domains_have_their_own_order():
    orders = [epoch_order(100, seed, domain, epoch).tolist() for seed, domain, epoch in
              [(0, "source", 0), (0, "source", 1), (1, "source", 0), (0, "target", 0), (-1, "source", 0)]]  # fmt: skip
    assert len({tuple(order) for order in orders}) == 5
    assert epoch_order(100, 0, "source", 0).tolist() == orders[0]


def test_generators_of_samples_differ_and_repeat():
    assert generator_for(3, "source", 1, 7).random() == generator_for(3, "source", 1, 7).random()
    assert generator_for(3, "source", 1, 7).random() != generator_for(3, "source", 1, 8).random()


def test_a_sample_is_the_same_clip_with_the_same_choices_for_any_split():
    whole = batches(3)
    split = [batches(6, world=2, rank=rank, accumulate=2) for rank in range(2)]
    frames = torch.cat([batch.frames for batch in whole])
    samples = torch.cat([batch.samples for batch in whole])
    assert samples.tolist() == list(range(12))
    seen = {}
    for batch in [*split[0], *split[1]]:
        for number, clip in zip(batch.samples.tolist(), batch.frames, strict=True):
            assert number not in seen
            seen[number] = clip
    assert all(torch.equal(seen[number], frames[i]) for i, number in enumerate(samples.tolist()))


def test_starting_later_continues_the_same_stream():
    late = batches(3, start_step=2)
    for expected, batch in zip(batches(5)[2:], late, strict=True):
        assert torch.equal(expected.frames, batch.frames)
        assert torch.equal(expected.samples, batch.samples)
        assert expected.videos == batch.videos


def test_some_clips_are_flipped_and_some_are_not():
    plain = {f"video{i}": ToyClips()[i].frames for i in range(12)}
    same = [
        torch.equal(frames, plain[name]) for b in batches(3) for frames, name in zip(b.frames, b.videos, strict=True)
    ]
    assert True in same
    assert False in same


def test_a_data_set_smaller_than_the_batch_repeats():
    (batch,) = batches(1, ToyClips(length=1))
    assert batch.videos == ("video0",) * 4


@pytest.mark.parametrize(("batch", "world", "accumulate"), [(4, 3, 1), (4, 2, 4), (1, 2, 1)])
def test_uneven_shares_are_refused(batch, world, accumulate):
    with pytest.raises(ConfigError, match=rf"training\.batch is {batch}.*multiple of {world * accumulate}"):
        batches(1, batch=batch, world=world, accumulate=accumulate)


def test_no_clips_are_refused():
    with pytest.raises(InputError, match="target data holds no clips"):
        batches(1, ToyClips(length=0), domain="target")


def test_unreadable_clip_raises_its_own_error():
    with pytest.raises(InputError, match="clip 3 is unreadable"):
        batches(3, ToyClips(broken=3))


def test_an_unexpected_error_names_the_clip():
    @dataclass(frozen=True)
    class Surprising(ToyClips):
        def __getitem__(self, index: int) -> Clip:
            raise ZeroDivisionError("oops")

    with pytest.raises(TrainingError, match=r"source clip \d+ \(sample 0\) failed: ZeroDivisionError: oops"):
        batches(1, Surprising())


def test_clips_of_different_sizes_name_the_samples():
    def shrink(clip: Clip, rng: np.random.Generator) -> Clip:
        size = int(rng.integers(2, 9))
        return Clip(clip.frames[..., :size], clip.video, clip.indices, clip.times)

    with pytest.raises(TrainingError, match=r"samples \[0, 1, 2, 3\]"):
        next(clip_loader(ToyClips(), shrink, seed=1, domain="source", batch=4))


def test_loading_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    batches(2)
    assert torch.equal(before, torch.get_rng_state())


def test_workers_give_the_same_batches_and_leave_the_generators_alone():
    before = torch.get_rng_state()
    for expected, batch in zip(batches(8, start_step=1), batches(8, start_step=1, workers=2), strict=True):
        assert torch.equal(expected.frames, batch.frames)
        assert torch.equal(expected.samples, batch.samples)
    assert torch.equal(before, torch.get_rng_state())


def test_workers_hand_over_errors_in_one_line():
    with pytest.raises(InputError) as caught:
        batches(3, ToyClips(broken=3), workers=1)
    assert str(caught.value) == "clip 3 is unreadable"


def test_toy_clips_can_be_sent_to_workers():
    assert pickle.loads(pickle.dumps(ToyClips(3))) == ToyClips(3)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_worker_that_dies_ends_the_run_with_one_line():
    with pytest.raises(TrainingError, match="loader process of the source data ended unexpectedly"):
        batches(3, DeadlyClips(), workers=1)


@dataclass(frozen=True)
class DeadlyClips(ToyClips):
    def __getitem__(self, index: int) -> Clip:
        os._exit(1)


# --- clips that a draw chooses


@dataclass(frozen=True)
class ToyDraw:
    """Chooses any clip but number 0, and mirrors it half of the time."""

    clips: ToyClips

    def __call__(self, rng: np.random.Generator) -> Clip:
        return flip(self.clips[int(rng.integers(1, len(self.clips)))], rng)


def drawn(count, clips=None, **options):
    clips = ToyClips() if clips is None else clips
    options = {"seed": 1, "domain": "source", "batch": 4, "draw": ToyDraw(clips), **options}
    return list(islice(clip_loader(clips, None, **options), count))


def test_a_draw_gives_each_sample_from_the_generator_of_its_number():
    videos = {video for batch in drawn(10) for video in batch.videos}
    assert videos <= {f"video{index}" for index in range(1, 12)}
    assert len(videos) > 8
    frames = [batch.frames for batch in drawn(2)]
    assert all(torch.equal(*pair) for pair in zip(frames, [batch.frames for batch in drawn(2)], strict=True))
    assert not torch.equal(frames[0], drawn(1, seed=2)[0].frames)
    assert not torch.equal(frames[0], drawn(1, domain="target")[0].frames)


def test_a_draw_is_in_place_of_the_transform():
    def refuse(clip: Clip, rng: np.random.Generator) -> Clip:
        raise AssertionError

    options = {"seed": 1, "domain": "source", "batch": 4, "draw": ToyDraw(ToyClips())}
    assert torch.equal(next(clip_loader(ToyClips(), refuse, **options)).frames, drawn(1)[0].frames)


def test_drawn_clips_do_not_depend_on_the_split():
    whole = {
        number: frames
        for batch in drawn(3)
        for number, frames in zip(batch.samples.tolist(), batch.frames, strict=True)
    }
    shares = [batch for rank in range(2) for batch in drawn(6, world=2, rank=rank, accumulate=2)]
    seen = [(number, frames) for b in shares for number, frames in zip(b.samples.tolist(), b.frames, strict=True)]
    assert sorted(number for number, _ in seen) == sorted(whole)
    assert all(torch.equal(frames, whole[number]) for number, frames in seen)


@pytest.mark.parametrize("workers", [0, 2])
def test_drawn_clips_go_on_after_a_resume_with_any_number_of_workers(workers):
    for expected, batch in zip(drawn(6)[2:], drawn(4, start_step=2, workers=workers), strict=True):
        assert torch.equal(expected.frames, batch.frames)
        assert torch.equal(expected.samples, batch.samples)
        assert expected.videos == batch.videos


def test_errors_of_a_draw_are_reported_like_others():
    with pytest.raises(InputError, match="clip 3 is unreadable"):
        drawn(10, ToyClips(broken=3))

    def stumble(rng: np.random.Generator) -> Clip:
        raise ZeroDivisionError("oops")

    with pytest.raises(TrainingError, match=r"source drawn clip \(sample 0\) failed: ZeroDivisionError: oops"):
        drawn(1, draw=stumble)
    with pytest.raises(InputError, match="source data holds no clips"):
        drawn(1, ToyClips(length=0))
