"""Scores random videos as one of several processes: ``sharded_scoring.py OUT VIDEOS ...`` with torchrun's variables.

For each number of videos each process scores every n-th one, gathers the evaluators of all and leaves what the merged
ones say in OUT.
"""

import pickle
import sys
from pathlib import Path

from tests.vidapt.evaluation.random_videos import METRICS, feed
from vidapt.engine.distributed import gather_objects, make_accelerator, rank, world_size
from vidapt.evaluation.runner import VideoEvaluator
from vidapt.labels import CITYSCAPES


def new_evaluator() -> VideoEvaluator:
    """The evaluator of this test, with every metric."""
    return VideoEvaluator(CITYSCAPES, windows=(1, 2), long_windows=(), metrics=METRICS)


def score(out: Path, videos: int) -> None:
    """Score, gather, merge and write the evaluator and its scores."""
    own = new_evaluator()
    for seed in range(rank(), videos, world_size()):
        feed(own, seed, frames=9)
    merged = new_evaluator()
    for part in gather_objects(own):
        merged.merge(part)
    found = {"world": world_size(), "evaluator": merged, "scores": merged.result().to_dict()}
    (out / f"{videos}_{rank()}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    make_accelerator("fp32", "cpu")
    for count in sys.argv[2:]:
        score(Path(sys.argv[1]), int(count))
