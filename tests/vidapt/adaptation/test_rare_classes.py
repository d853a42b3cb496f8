"""Rare class sampling: probabilities, clips that show the class, crops that keep it, and nothing to draw."""

import pickle
from collections import Counter
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidapt.adaptation.rare_classes import RareClassDraw, class_probabilities, most_pixels
from vidapt.clip import Clip, PanopticTarget
from vidapt.config_method import RareClassConfig
from vidapt.engine.loading import clip_loader
from vidapt.errors import ConfigError
from vidapt.transforms import TrainTransform

SIZE = 24


@dataclass(frozen=True)
class Squares:
    """Clips of class 0 with a square of another class in one frame: clip n has sides[n] of class 1 + n % 3."""

    sides: tuple[int, ...] = (10, 3, 8, 12, 0, 4)
    frames: int = 2

    def __len__(self) -> int:
        return len(self.sides)

    def __getitem__(self, index: int) -> Clip:
        semantic = torch.zeros(self.frames, SIZE, SIZE, dtype=torch.uint8)
        side = self.sides[index]
        semantic[-1, :side, :side] = 1 + index % 3
        frames = semantic[:, None].repeat(1, 3, 1, 1)
        target = PanopticTarget(semantic, torch.zeros_like(semantic).int(), torch.ones(self.frames, dtype=torch.bool))
        return Clip(frames, f"v{index}", torch.arange(self.frames), torch.arange(self.frames).double(), target)


def counts_of(clips: Squares) -> NDArray[np.int64]:
    """int64 (clips,5), class 4 on none of them."""
    found = [
        [np.bincount(frame.flatten(), minlength=5) for frame in clips[index].target.semantic]
        for index in range(len(clips))
    ]
    return np.array(found).max(1)


def frequencies_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts.sum(0) / counts.sum()


def draw_from(clips: Squares, crop: int = SIZE, scale: float = 1.0, **options: float) -> RareClassDraw:
    counts = counts_of(clips)
    transform = TrainTransform((crop, crop), (scale, scale))
    pixels = np.full(len(clips), SIZE**2)
    return RareClassDraw(clips, transform, counts, pixels, frequencies_of(counts), RareClassConfig(**options))


# --- probabilities


def test_probabilities_of_a_worked_example() -> None:
    """Shares 0.7, 0.2, 0.1 and temperature 0.1: weights e^3, e^8, e^9 up to a factor."""
    found = class_probabilities(np.array([0.7, 0.2, 0.1]), np.ones(3, bool), 0.1)
    weights = np.array([1.0, np.e**5, np.e**6])
    np.testing.assert_allclose(found, weights / weights.sum(), rtol=1e-12)


def test_classes_that_nothing_shows_are_not_drawn() -> None:
    found = class_probabilities(np.array([0.7, 0.3, 0.0]), np.array([True, True, False]), 0.1)
    np.testing.assert_allclose(found, [1 / (1 + np.e**4), 1 / (1 + np.e**-4), 0], rtol=1e-12)
    assert class_probabilities(np.array([0.5, 0.5]), np.zeros(2, bool), 0.1).tolist() == [0, 0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(1e-6, 100))
def test_probabilities_are_finite_and_rarer_is_likelier(frequencies: list[float], temperature: float) -> None:
    found = class_probabilities(np.array(frequencies), np.ones(len(frequencies), bool), temperature)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert (np.diff(found[np.argsort(frequencies)]) <= 0).all()


# --- clips


def test_every_drawn_clip_shows_more_than_enough_of_its_class() -> None:
    clips = Squares()
    draw, counts = draw_from(clips, min_share=16 / SIZE**2, temperature=0.5), counts_of(clips)
    chosen = [draw.choose(np.random.default_rng(seed)) for seed in range(300)]
    assert all(counts[clip, train_id] > 16 for train_id, clip in chosen)
    # clips 1 (9 pixels), 4 (none) and 5 (exactly 16) do not show enough of any class but 0
    assert {clip for train_id, clip in chosen if train_id} == {0, 2, 3}


def test_classes_are_drawn_with_their_probability_and_clips_evenly() -> None:
    draw = draw_from(Squares((10, 8, 8, 10)), min_share=16 / SIZE**2, temperature=0.5)
    chosen = [draw.choose(np.random.default_rng(seed)) for seed in range(4000)]
    classes = Counter(train_id for train_id, _ in chosen)
    assert draw.probabilities[4] == 0
    for train_id, probability in enumerate(draw.probabilities):
        assert classes[train_id] / 4000 == pytest.approx(probability, abs=0.03)
    of_class_1 = Counter(clip for train_id, clip in chosen if train_id == 1)
    assert set(of_class_1) == {0, 3}
    assert of_class_1[0] / of_class_1.total() == pytest.approx(0.5, abs=0.06)


def test_nothing_to_draw_is_one_clear_line() -> None:
    with pytest.raises(ConfigError) as caught:
        draw_from(Squares(), min_share=1.0)
    assert str(caught.value) == (
        "method.rare_classes.min_share is 1.0, but no class fills more than 1 of any frame of the source; "
        "choose a smaller share"
    )


def test_one_class_or_one_clip_is_enough() -> None:
    draw = draw_from(Squares((10,)), min_share=500 / SIZE**2)
    # 576 - 100 pixels of class 0 in the last frame, all of it in the first
    assert {draw.choose(np.random.default_rng(seed)) for seed in range(20)} == {(0, 0)}


# --- crops


def test_crops_keep_the_share_where_one_can() -> None:
    """Half of the crops would miss the square in the corner; with 30 tries at least one hits."""
    draw = draw_from(Squares((12,) * 3), crop=14, min_share=100 / SIZE**2, crop_share=0.5, tries=30)
    for seed in range(100):
        train_id, _ = draw.choose(np.random.default_rng(seed))
        assert most_pixels(draw(np.random.default_rng(seed)), train_id) > 50


def test_one_try_is_a_plain_random_crop() -> None:
    clips = Squares((12,) * 3)
    draw = draw_from(clips, crop=14, min_share=100 / SIZE**2, tries=1)
    misses = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        train_id, index = draw.choose(rng)
        expected = TrainTransform((14, 14))(clips[index], rng)
        crop = draw(np.random.default_rng(seed))
        assert torch.equal(crop.target.semantic, expected.target.semantic)
        misses += most_pixels(crop, train_id) <= 50
    assert misses > 5


def test_a_share_that_no_crop_reaches_gives_the_last_crop() -> None:
    clips = Squares((12,) * 3)
    draw = draw_from(clips, crop=6, min_share=100 / SIZE**2, crop_share=3.0, tries=4)
    rng = np.random.default_rng(0)
    _, index = draw.choose(rng)
    tried = [TrainTransform((6, 6))(clips[index], rng) for _ in range(4)]
    assert torch.equal(draw(np.random.default_rng(0)).target.semantic, tried[-1].target.semantic)


def test_pixels_are_counted_in_the_frame_that_shows_most() -> None:
    clip = Squares((5,), frames=3)[0]
    clip.target.semantic[0, 0, :4] = 1
    assert most_pixels(clip, 1) == 25
    assert most_pixels(Squares((5,), frames=1)[0], 1) == 25
    assert most_pixels(clip, 3) == 0
    assert most_pixels(clip.without_target(), 1) == 0


# --- repeatable


def test_a_draw_is_a_function_of_the_generator_and_survives_pickling() -> None:
    draw = draw_from(Squares(), crop=12, min_share=16 / SIZE**2, temperature=0.5)
    again = pickle.loads(pickle.dumps(draw))
    videos = set()
    for seed in range(20):
        first, second, third = (each(np.random.default_rng(seed)) for each in (draw, draw, again))
        assert first.video == second.video == third.video
        assert torch.equal(first.target.semantic, second.target.semantic)
        assert torch.equal(first.target.semantic, third.target.semantic)
        videos.add(first.video)
    assert len(videos) > 2


def test_a_clip_is_read_once_however_many_crops_are_drawn() -> None:
    reads = []

    class Counting(Squares):
        def __getitem__(self, index: int) -> Clip:
            reads.append(index)
            return super().__getitem__(index)

    draw = draw_from(Counting((12,) * 3), crop=6, min_share=100 / SIZE**2, crop_share=3.0)
    reads.clear()
    draw(np.random.default_rng(0))
    assert len(reads) == 1


@pytest.mark.parametrize("world", [1, 2])
def test_a_loader_goes_on_in_the_middle_of_a_run_on_any_number_of_processes(world: int) -> None:
    clips = Squares()
    options = {
        "seed": 3,
        "domain": "source",
        "batch": 4,
        "draw": draw_from(clips, 12, min_share=16 / SIZE**2, temperature=0.5),
    }
    whole = list(islice(clip_loader(clips, None, **options), 5))
    rest = [
        islice(clip_loader(clips, None, **options, start_step=2, rank=rank, world=world), 3) for rank in range(world)
    ]
    for expected, parts in zip(whole[2:], zip(*rest, strict=True), strict=True):
        assert torch.equal(torch.cat([part.samples for part in parts]), expected.samples)
        assert torch.equal(torch.cat([part.target.semantic for part in parts]), expected.target.semantic)
        assert sum((part.videos for part in parts), ()) == expected.videos
