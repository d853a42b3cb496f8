"""Two gloo processes that score different videos and gather what they counted agree with one process."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.vidapt.engine.sharded_scoring import new_evaluator
from tests.vidapt.engine.toy_training import free_port
from tests.vidapt.evaluation.random_videos import feed

ROOT = Path(__file__).parents[3]
FRAMES = 9


VIDEOS = (3, 1)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both processes have after they scored three videos and after one video; they meet as torchrun's do."""
    out = tmp_path_factory.mktemp("sharded")
    shared = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-m", "tests.vidapt.engine.sharded_scoring", str(out), *map(str, VIDEOS)]
    processes = []
    for rank in range(2):
        own = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        environment = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=150)
        assert process.returncode == 0, errors
    return {(n, rank): pickle.loads((out / f"{n}_{rank}.pickle").read_bytes()) for n in VIDEOS for rank in range(2)}


@pytest.mark.parametrize("videos", VIDEOS, ids=["uneven shares", "one process without a video"])
def test_gathered_counts_are_those_of_one_process(found, videos):
    single = new_evaluator()
    for seed in range(videos):
        feed(single, seed, FRAMES)
    for rank in range(2):
        gathered = found[videos, rank]
        assert gathered["world"] == 2, "the processes did not find each other"
        assert_close(gathered["scores"], single.result().to_dict())
        assert_equal_counts(gathered["evaluator"], single)


def assert_close(found, expected, path=""):
    """The same names, and the same numbers up to the order in which they were added."""
    if isinstance(expected, dict | list):
        keys = expected if isinstance(expected, dict) else range(len(expected))
        assert len(found) == len(expected), path
        for key in keys:
            assert_close(found[key], expected[key], f"{path}/{key}")
    else:
        assert found == (pytest.approx(expected, abs=1e-12) if isinstance(expected, float) else expected), path


def assert_equal_counts(found, expected):
    """Whole numbers to the last one, and all outcomes of average precision."""
    counters = (found.frames, found.labelled_frames, found.videos, found._switches.count)
    assert counters == (expected.frames, expected.labelled_frames, expected.videos, expected._switches.count)
    pairs = [(found._semantic.confusion, expected._semantic.confusion)]
    pairs += [(found._tracking.confusion, expected._tracking.confusion)]
    pairs += [(found._tracking.tracks, expected._tracking.tracks)]
    pairs += [(found._consistency.pairs, expected._consistency.pairs)]
    pairs += [(found._extra._weighted.confusion, expected._extra._weighted.confusion)]
    parts = [(found._tubes.counts[n], expected._tubes.counts[n]) for n in (1, 2)]
    parts += [(found._stuff_overlaps, expected._stuff_overlaps), (found._extra._boundary, expected._extra._boundary)]
    pairs += [(getattr(one, kind), getattr(other, kind)) for one, other in parts for kind in ("tp", "fp", "fn")]
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    assert found._extra._constancy.count == expected._extra._constancy.count
    for name in ("_coco", "_cityscapes"):
        one, other = getattr(found._extra, name)._images, getattr(expected._extra, name)._images
        assert one.keys() == other.keys()
        for image, matches in other.items():
            for field, values in vars(matches).items():
                np.testing.assert_array_equal(getattr(one[image], field), values)
