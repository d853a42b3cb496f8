"""A tiny method that the engine can train, and a script that trains it in processes of their own."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidapt.clip import Clip, ClipBatch, PanopticTarget
from vidapt.config import TrainingConfig
from vidapt.engine.agreement import mean_in_losses
from vidapt.engine.distributed import digest, make_accelerator
from vidapt.engine.loading import clip_loader
from vidapt.engine.train import Loader, TrainResult, train
from vidapt.errors import InputError, VidaptError

SIZE = 8


@dataclass(frozen=True)
class ToyClips:
    """Clips of noise whose label is where red exceeds green; ``broken`` raises."""

    length: int = 12
    broken: int | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Clip:
        if index == self.broken:
            raise InputError(f"clip {index} is unreadable")
        rng = np.random.default_rng(index)
        frames = torch.from_numpy(rng.integers(0, 256, (2, 3, SIZE, SIZE), dtype=np.uint8))
        semantic = (frames[:, 0] > frames[:, 1]).to(torch.uint8)
        target = PanopticTarget(
            semantic, torch.zeros(semantic.shape, dtype=torch.int32), torch.ones(2, dtype=torch.bool)
        )
        return Clip(frames, f"video{index}", torch.arange(2), torch.arange(2).double(), target)


def flip(clip: Clip, rng: np.random.Generator) -> Clip:
    """Mirror the clip half of the time."""
    if rng.random() < 0.5:
        return clip
    target = clip.target
    assert target is not None
    target = PanopticTarget(target.semantic.flip(-1), target.instance.flip(-1), target.labelled)
    return Clip(clip.frames.flip(-1), clip.video, clip.indices, clip.times, target)


class ToyNetwork(nn.Module):
    """Encoder, head, a part that only even samples use, and one that none uses."""

    def __init__(self, norm: str = "group", dropout: float = 0.0) -> None:
        super().__init__()
        layer = nn.BatchNorm2d(8) if norm == "batch" else nn.GroupNorm(2, 8)
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), layer, nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(8, 2, 1))
        self.rare = nn.Conv2d(8, 1, 1)
        self.never = nn.SyncBatchNorm(2) if norm == "synchronised" else nn.Linear(2, 2)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(frames.flatten(0, 1).float() / 255 - 0.5)
        return self.head(features), self.rare(features)


@dataclass
class ToyStep:
    """Student, exponential-average teacher, a counter and a memory.

    ``poison`` maps sample numbers to the name of the loss that is NaN for them. ``shares`` reduces within the losses.
    """

    norm: str = "group"
    dropout: float = 0.0
    poison: dict[int, str] = field(default_factory=dict)
    fail_on: int | None = None
    die_on: int | None = None
    shares: bool = False
    seen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(3)
        self.student = ToyNetwork(self.norm, self.dropout)
        self.teacher = ToyNetwork(self.norm, self.dropout).requires_grad_(False).eval()
        self.teacher.load_state_dict(self.student.state_dict())
        self.updates = 0
        self.memory = [torch.zeros(2), torch.zeros(3)]

    @property
    def network(self) -> nn.Module:
        return self.student

    def weights(self) -> dict[str, nn.Module]:
        return {"student": self.student, "teacher": self.teacher}

    def begin_step(self) -> None:
        """Nothing is kept between steps."""

    def losses(self, source: ClipBatch, target: ClipBatch | None) -> Iterator[tuple[str, Tensor]]:
        samples = source.samples.tolist()
        self.seen += samples
        if self.fail_on in samples:
            raise ValueError(f"cannot digest sample {self.fail_on}")
        if self.die_on in samples:
            os._exit(9)
        assert source.target is not None
        frames = source.frames.float()
        if self.shares:
            yield "brightness", mean_in_losses(frames.mean())
        bad = {self.poison[sample] for sample in samples if sample in self.poison}
        if "input" in bad:
            frames = frames * float("nan")
        logits, rare = self.student(frames)
        yield (
            "semantic",
            self._poisoned(F.cross_entropy(logits, source.target.semantic.flatten(0, 1).long()), bad, "semantic"),
        )
        even = torch.tensor([float(sample % 2 == 0) for sample in samples])
        if even.any():
            # A mean over all clips of the part, so that parts and processes average to the whole batch.
            logits, rare = self.student(frames)
            yield "rare", (rare.square().unflatten(0, (len(samples), -1)).mean((1, 2, 3, 4)) * even).mean()
        if target is not None:
            with torch.no_grad():
                expected = self.teacher(target.frames)[0].softmax(1)
            found = self.student(target.frames)[0].softmax(1)
            yield "consistency", (found - expected).square().mean() + 0 * logits.detach().mean()
        yield "pixels", torch.tensor(float(frames.numel()))

    def _poisoned(self, loss: Tensor, bad: set[str], name: str) -> Tensor:
        if "gradient" in bad:
            loss = loss + _infinite_gradient(loss)
        return loss * float("nan") if name in bad else loss

    def after_update(self) -> None:
        self.updates += 1
        self.memory = [self.memory[0] + torch.rand(2), self.memory[1] + float(self.updates)]
        with torch.no_grad():
            pairs = zip(self.teacher.state_dict().values(), self.student.state_dict().values(), strict=True)
            for old, new in pairs:
                old.copy_(0.9 * old + 0.1 * new if old.is_floating_point() else new)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "memory": list(self.memory)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates, self.memory = state["updates"], state["memory"]


def _infinite_gradient(loss: Tensor) -> Tensor:
    return (loss * 0).sqrt()


def config(**changes: Any) -> TrainingConfig:
    """A short schedule."""
    defaults = {
        "steps": 12,
        "batch": 4,
        "lr": 1e-3,
        "warmup": 3,
        "log_every": 4,
        "checkpoint_every": 100,
        "seed": 5,
        "patience": 3,
    }
    return TrainingConfig(**{**defaults, **changes})


def loader(domain: str, settings: TrainingConfig, data: ToyClips | None = None, **process: int) -> Loader:
    """The stream of one domain."""
    return lambda start: clip_loader(
        ToyClips() if data is None else data,
        flip,
        seed=settings.seed,
        domain=domain,
        batch=settings.batch,
        start_step=start,
        accumulate=settings.accumulate,
        workers=settings.workers,
        **process,
    )


def run_toy(
    step: ToyStep, run: Path, settings: TrainingConfig, data: ToyClips | None = None, **options: Any
) -> TrainResult:
    """Train the toy in this process (or as one of several)."""
    accelerator = make_accelerator("fp32", "cpu")
    process = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    streams = (loader(domain, settings, data, **process) for domain in ("source", "target"))
    options = {"header": {"version": "1"}, "tensorboard": False, **options}
    return train(step, *streams, settings, run=run, accelerator=accelerator, **options)


def everything(step: ToyStep) -> dict[str, Tensor]:
    """All state that an update changes, as tensors by name."""
    weights = {
        f"{name}.{key}": value for name, module in step.weights().items() for key, value in module.state_dict().items()
    }
    memory = {f"memory.{i}": value for i, value in enumerate(step.memory)}
    return {**weights, **memory, "updates": torch.tensor(step.updates)}


@dataclass(frozen=True)
class Job:
    """One training in processes of its own; ``rank_*`` and signals concern one rank before any restart.

    ``rank_broken`` is a clip that this rank cannot read.
    """

    run: str
    world: int = 1
    resume: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    rank_step: dict[str, Any] = field(default_factory=dict)
    rank: int = 1
    rank_broken: int | None = None
    stop_after: int | None = None
    signals: int = 0
    signal_at: int = 3
    pause: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)


def train_job(job: Job, rank: int) -> None:
    """Train as one rank of a job; prints each step and leaves ``result_RANK.json`` in the run folder."""
    first_start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    options = {**job.step, **(job.rank_step if rank == job.rank and first_start else {})}
    options["poison"] = {int(sample): name for sample, name in options.get("poison", {}).items()}
    step = ToyStep(**options)
    losses: list[dict[str, float]] = []

    def on_step(done: int, values: Any) -> None:
        losses.append(dict(values))
        print(f"step {done}", flush=True)
        time.sleep(job.pause)
        if rank == min(job.rank, job.world - 1) and done == job.signal_at:
            for _ in range(job.signals):
                os.kill(os.getpid(), signal.SIGTERM)

    run = Path(job.run)
    run.mkdir(parents=True, exist_ok=True)
    data = ToyClips(broken=job.rank_broken if rank == job.rank and first_start else None)
    try:
        run_toy(step, run, config(**job.settings), data, resume=job.resume, on_step=on_step, stop_after=job.stop_after)
    except VidaptError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    finally:
        weights = digest(value for module in step.weights().values() for value in module.state_dict().values())
        result = {"losses": losses, "seen": step.seen, "updates": step.updates, "digest": weights}
        (run / f"result_{rank}.json").write_text(json.dumps(result))


def start_job(job: Job, port: int) -> list[int]:
    """Fork one child per rank and return their ids; stderr goes to ``stderr_RANK.txt`` beside the run folder."""
    children = []
    Path(job.run).parent.mkdir(parents=True, exist_ok=True)
    for rank in range(job.world):
        if (child := os.fork()) == 0:
            sys.stderr = open(f"{job.run}_stderr_{rank}.txt", "a")  # noqa: SIM115
            if job.world > 1:
                process = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job.world, "LOCAL_WORLD_SIZE": job.world}
                process |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in process.items()})
            os.environ.update(job.environment)
            code = 1
            try:
                train_job(job, rank)
                code = 0
            except SystemExit as leaving:
                code = int(leaving.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return children


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    """Run the jobs of a JSON list one after the other and print the ranks' exit codes; a single job runs right here."""
    torch.set_num_threads(1)
    jobs = [Job(**job) for job in json.loads(Path(sys.argv[1]).read_text())]
    if len(jobs) == 1:
        train_job(jobs[0], int(os.environ.get("RANK", "0")))
        return
    # The first optimiser imports this, which takes seconds; the children inherit it.
    importlib.import_module("torch._dynamo")

    codes = []
    for job in jobs:
        children = start_job(job, free_port())
        codes.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
