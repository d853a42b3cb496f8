"""Makes the toy method importable by name, also for loader processes, and runs jobs in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def run_jobs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[list[int]]]:
    """Run toy trainings one after the other, each rank a process, and return the ranks' exit codes."""

    def run(jobs: list[Any]) -> list[list[int]]:
        path = tmp_path_factory.mktemp("jobs") / "jobs.json"
        path.write_text(json.dumps([asdict(job) for job in jobs]))
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "toy_training.py"), str(path)]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=220)
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout.splitlines()[-1])

    return run
