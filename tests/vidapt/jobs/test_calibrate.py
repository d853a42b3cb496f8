"""Calibration of the tracker's embedding threshold on labelled videos."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_runs import tiny_recipe, tiny_segmenter, write_camvid
from vidapt.clip import Instances
from vidapt.config import Recipe
from vidapt.errors import ConfigError
from vidapt.jobs.calibrate import _identified, _owner, calibrate
from vidapt.jobs.scored_videos import evaluation_videos, labelled_frames
from vidapt.segmenter import Segmenter


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    world = {"kind": "street_world", "videos": 2, "frames": 6, "size": [64, 128], "seed": 4}
    return tiny_recipe(validation=world)


def distinct(track: int) -> torch.Tensor:
    return torch.eye(64)[track % 64]


def oracle(segmenter: Segmenter, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, embed: Any) -> None:
    """Let the network find exactly the labelled instances, with embeddings ``embed(track)``."""
    videos = evaluation_videos(recipe.validation)
    frames = [labels[1] for number in range(len(videos.videos)) for _, labels, _ in labelled_frames(videos, number)]
    queue = iter(frames)

    def instances(output: Any, probabilities: torch.Tensor) -> list[Instances]:
        instance = next(queue)
        tracks = [int(track) for track in np.unique(instance) if track]
        masks = torch.from_numpy(np.stack([instance == track for track in tracks]))
        count = len(tracks)
        embeddings = torch.stack([embed(track) for track in tracks])
        return [Instances(masks, torch.full((count,), 11), torch.ones(count), embeddings)]

    monkeypatch.setattr(segmenter.network, "instances", instances)


def test_embeddings_that_tell_tracks_apart_give_a_threshold(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = tiny_segmenter()
    oracle(segmenter, recipe, monkeypatch, distinct)
    assert calibrate(segmenter, recipe.validation) == pytest.approx(0.5, abs=0.05)


def test_embeddings_that_do_not_give_none(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = tiny_segmenter()
    generator = torch.Generator().manual_seed(0)
    oracle(segmenter, recipe, monkeypatch, lambda track: torch.randn(8, generator=generator))
    assert calibrate(segmenter, recipe.validation) is None


def test_tracks_of_two_videos_are_not_paired(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single-frame videos have no pair at all."""
    world = {"kind": "street_world", "videos": 8, "frames": 1, "size": [64, 128], "seed": 4}
    single = tiny_recipe(validation=world)
    segmenter = tiny_segmenter()
    oracle(segmenter, single, monkeypatch, distinct)
    assert calibrate(segmenter, single.validation) is None


def test_a_plain_network_runs_through(recipe: Recipe) -> None:
    found = calibrate(tiny_segmenter(height=48), recipe.validation)
    assert found is None or -1 <= found <= 1


def test_footage_without_track_ids_gives_none(tmp_path: Any) -> None:
    recipe = tiny_recipe(validation={"kind": "camvid", "root": str(write_camvid(tmp_path)), "split": "val"})
    assert calibrate(tiny_segmenter(), recipe.validation) is None


def test_unlabelled_footage_is_refused(tmp_path: Any) -> None:
    recipe = tiny_recipe(validation={"kind": "videos", "root": str(tmp_path)})
    with pytest.raises(ConfigError, match="unlabelled footage"):
        calibrate(tiny_segmenter(), recipe.validation)


@pytest.mark.parametrize(
    ("found", "labelled", "expected"),
    [
        ([1, 1, 1, 0], [7, 7, 7, 0], 7),
        ([1, 1, 1, 1], [7, 7, 0, 0], 0),  # IoU exactly one half
        ([1, 1, 1, 0], [7, 7, 9, 9], 7),
        ([1, 1, 1, 1], [0, 0, 0, 7], 0),
        ([0, 0, 0, 0], [7, 7, 7, 7], 0),
        ([1, 1, 0, 0], [0, 0, 0, 0], 0),
    ],
)
def test_owner_is_the_instance_with_more_than_half_overlap(
    found: list[int], labelled: list[int], expected: int
) -> None:
    assert _owner(np.array([found], bool), np.array([labelled], np.int32)) == expected


def test_identified_pairs_embeddings_with_ids(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = tiny_segmenter()
    oracle(segmenter, recipe, monkeypatch, lambda track: torch.full((3,), float(track)))
    image, (_, instance), _ = next(labelled_frames(evaluation_videos(recipe.validation), 0))
    embeddings, ids = _identified(segmenter, image, instance)
    np.testing.assert_array_equal(ids, np.unique(instance)[1:])
    np.testing.assert_array_equal(embeddings, np.repeat(ids[:, None], 3, 1).astype(np.float32))
