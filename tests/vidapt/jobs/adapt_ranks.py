"""Runs recipes in the processes that torchrun started, and notes what each of them holds after every update.

Arguments: recipe files. Each is planned first; the run folder is the file's path without its suffix.
"""

import json
import sys
from pathlib import Path

from vidapt.adaptation.step import SelfTrainingStep
from vidapt.engine.distributed import digest, rank
from vidapt.jobs.train import run_stage
from vidapt.recipe import load_recipe


def note_state(step: SelfTrainingStep, notes: list[dict[str, object]]) -> None:
    """Append the thresholds and checksums of parameters, the teacher's statistics and the memory.

    The student's statistics are left out: on CPUs they are those of each process's own clips.
    """
    state = step.state_dict()
    note = {
        "student": digest(step.network.parameters()),
        "teacher": digest(step.weights()["teacher"].state_dict().values()),
        "bank": digest(state["bank"].values()),
        "thresholds": state["thresholds"]["values"].tolist(),
    }
    notes.append(note)


def main() -> None:
    """Plan and run every recipe."""
    plain, notes = SelfTrainingStep.after_update, []

    def after_update(step: SelfTrainingStep) -> None:
        plain(step)
        note_state(step, notes)

    SelfTrainingStep.after_update = after_update  # type: ignore[method-assign]
    for path in map(Path, sys.argv[1:]):
        recipe, run = load_recipe(path), path.with_suffix("")
        for dry_run in (True, False):
            run_stage(recipe, run, resume=False, device="cpu", dry_run=dry_run, command="train")
        (run / f"notes_{rank()}.json").write_text(json.dumps(notes))
        notes.clear()


if __name__ == "__main__":
    main()
