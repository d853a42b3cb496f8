"""Saves checkpoints in child processes that are killed at random moments; prints what each kill left, as JSON."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from vidapt.engine.checkpoint import (
    checkpoint_path,
    load_checkpoint,
    newest_loadable,
    remove_unfinished,
    save_checkpoint,
)

ENTRIES = 50_000


def save_forever(run: Path, step: int, acknowledge: int) -> None:
    """Save ever newer checkpoints and write each finished step's number to a pipe."""
    while True:
        step += 1
        weights = {name: {"w": torch.full((ENTRIES,), float(step))} for name in ("student", "teacher")}
        save_checkpoint(run, step, weights, {"memory": [torch.full((ENTRIES,), step)]}, header={}, keep=1)
        os.write(acknowledge, step.to_bytes(4, "big"))


def kill_while_saving(run: Path, step: int, moment: float) -> int:
    """Kill a child ``moment`` saves after its first one, and return the last step that it finished."""
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        save_forever(run, step, writing)
    os.close(writing)
    finished = os.read(reading, 4)
    time.sleep(moment * (time.monotonic() - began))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        finished += pipe.read()
    return int.from_bytes(finished[-4:], "big")


def is_whole(run: Path, step: int) -> bool:
    """Tell whether a checkpoint holds exactly what was saved in its step."""
    loaded = load_checkpoint(checkpoint_path(run, step))
    tensors = [*(weights["w"] for weights in loaded.weights.values()), loaded.state["memory"][0]]
    return len(tensors) == 3 and all(bool((tensor == step).all()) for tensor in tensors)


def main() -> None:
    """Kill as often as asked for."""
    run, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    rng = random.Random(0)
    step, outcomes = 0, []
    for _ in range(kills):
        finished = kill_while_saving(run, step, rng.uniform(0.0, 2.0))
        before = sorted(path.name for path in (run / "checkpoints").glob("*"))
        found = newest_loadable(run)
        step = 0 if found is None else found.step
        whole = found is None or is_whole(run, step)
        remove_unfinished(run)
        after = sorted(path.name for path in (run / "checkpoints").glob("*"))
        outcomes.append({"finished": finished, "found": step, "whole": whole, "before": before, "after": after})
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
