"""The training loop: it moves any ``Step`` forward, guards it, logs it and saves it."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vidapt.config import TrainingConfig
from vidapt.engine import checkpoint as checkpoints
from vidapt.engine import distributed, randomness
from vidapt.engine.agreement import OtherProcessError, Status, agree, waits_in_forward
from vidapt.engine.logging import RunLog
from vidapt.engine.optimisation import learning_rate
from vidapt.engine.signals import StopRequests
from vidapt.engine.step import Loader, Part, Step, clip_names, read_parts
from vidapt.engine.update import Losses, Update
from vidapt.errors import CheckpointError, ConfigError, Interrupted, StorageError, TrainingError

logger = logging.getLogger(__name__)

OnStep = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        steps: Steps done, earlier sessions included.
        seconds: Training time, earlier sessions included.
        losses: Mean losses since the last line of metrics before the end, ``loss`` being their sum; empty if a
            resumed run had nothing left to do.
        skipped: Steps that were skipped because a loss or gradient was not finite.
        checkpoint: Folder of the final state.
    """

    steps: int
    seconds: float
    losses: dict[str, float]
    skipped: int
    checkpoint: Path


def train(
    step: Step,
    source: Loader,
    target: Loader | None,
    config: TrainingConfig,
    *,
    run: Path,
    accelerator: Accelerator,
    header: Mapping[str, str],
    resume: bool = False,
    on_step: OnStep | None = None,
    stop_after: int | None = None,
    tensorboard: bool = True,
    resume_command: str | None = None,
) -> TrainResult:
    """Train until ``config.steps`` and save; on the CPU with equal threads, resuming gives the same weights to the bit.

    Args:
        step: The method, on ``accelerator.device``.
        source: Called with the first step to load; returns endless labelled batches (see ``loading.clip_loader``).
        target: The same for unlabelled batches, or None.
        config: Schedule and optimiser.
        run: Run folder; in a run over several machines all of them must see it.
        accelerator: From ``distributed.make_accelerator``.
        header: Text entries for the header of the weight files: architecture, label space, version.
        resume: Continue from the newest undamaged checkpoint of ``run``; from the start if there is none yet.
            Implied when torchrun restarts the processes after a failure.
        on_step: Called in every process after each step, skipped ones included, with the number of steps done and this
            process's mean losses of the step.
        stop_after: Save and return once this many steps are done, with the schedule of the whole run.
        tensorboard: Write TensorBoard events.
        resume_command: What a person types to continue; by default ``vidapt adapt --resume RUN``.

    Raises:
        ConfigError: If ``run`` holds checkpoints and ``resume`` is False.
        CheckpointError: If no checkpoint can be used or it belongs to another network or configuration.
        Interrupted: After SIGTERM or Ctrl-C, with the state saved.
        TrainingError: After ``config.patience`` non-finite steps in a row (saved), or if another process failed.
        StorageError: If writing fails; what was written before is intact.
    """
    with ExitStack() as stack:
        loop = _Loop(step, config, run, accelerator, header)
        loop.requests = stack.enter_context(StopRequests())
        loop.resume_command = resume_command or f"vidapt adapt --resume {run}"
        loop.prepare(resume or distributed.restarted())
        if accelerator.is_main_process:
            log = RunLog(run, steps=config.steps, start=loop.progress.step, tensorboard=tensorboard)
            loop.log = stack.enter_context(log)
        first = loop.progress.step
        streams = source(first), None if target is None else target(first)
        parts = stack.enter_context(closing(read_parts(*streams, config.accumulate)))
        return loop.run(parts, on_step, min(config.steps, stop_after or config.steps))


@dataclass
class _Progress:
    """Counters that a checkpoint keeps."""

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0


@dataclass
class _Means:
    """Sums of losses and gradient norms since the last line of metrics, kept on the device."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: Losses) -> None:
        for name, tensors in values.items():
            total = torch.stack([tensor.float() for tensor in tensors]).sum()
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            self.counts[name] = self.counts.get(name, 0) + len(tensors)

    def over_processes(self) -> dict[str, float]:
        """Return the means over all processes; every process must call it."""
        mine = {name: (float(total), self.counts[name]) for name, total in self.sums.items()}
        shares = distributed.gather_objects(mine)
        names = dict.fromkeys(name for share in shares for name in share)
        pairs = {name: [share[name] for share in shares if name in share] for name in names}
        return {name: sum(s for s, _ in pair) / sum(c for _, c in pair) for name, pair in pairs.items()}


class _Loop:
    """A run in progress."""

    requests: StopRequests
    resume_command: str
    log: RunLog | None = None
    saved: Path | None = None

    def __init__(
        self, step: Step, config: TrainingConfig, run: Path, accelerator: Accelerator, header: Mapping[str, str]
    ) -> None:
        self.step, self.config, self.folder, self.header = step, config, run, header
        self.accelerator = accelerator
        self.progress, self.means = _Progress(), _Means()
        self.random: list[dict[str, Any]] = []
        self.last_skipped: dict[str, Any] = {}

    def prepare(self, resume: bool) -> None:
        """Bring every process to the same starting point, new or saved."""
        distributed.synchronise_batch_norm(self.step.network, self.accelerator.device)
        self.update = Update(self.step, self.config, self.accelerator)
        found = distributed.on_main(lambda: _find(self.folder, resume))
        if found is not None:
            self._restore(checkpoints.load_checkpoint(found))
        distributed.synchronise_modules([self.step.network, *self.step.weights().values()])

    def _restore(self, saved: checkpoints.Checkpoint) -> None:
        _check_settings(saved, self.config)
        for name, module in self.step.weights().items():
            _load_module(module, saved, name)
        try:
            self.update.optimizer.load_state_dict(saved.state["optimizer"])
        except ValueError as error:
            raise CheckpointError(
                f"{saved.path}: the optimiser's state belongs to another network ({error})"
            ) from error
        self.step.load_state_dict(saved.state["method"])
        self.progress = _Progress(**saved.state["progress"])
        self.random = saved.state["random"]
        self.saved = saved.path

    def _set_generators(self) -> None:
        if distributed.rank() < len(self.random):
            randomness.restore_generators(self.random[distributed.rank()])
        else:
            randomness.seed_generators(self.config.seed + self.progress.step, distributed.rank())

    def run(self, parts: Iterator[list[Part]], on_step: OnStep | None, last: int) -> TrainResult:
        """Train until ``last`` steps are done."""
        self._set_generators()
        self._start_clock()
        losses: dict[str, float] = {}
        while self.progress.step < last:
            values, stop, save = self._advance(parts)
            done = self.progress.step
            if on_step is not None:
                on_step(done, {name: float(torch.stack(tensors).mean()) for name, tensors in values.items()})
            if done % self.config.log_every == 0 or done == last or stop:
                losses = self._log()
            self._check_patience()
            if save or stop or done == last or done % self.config.checkpoint_every == 0:
                self._save()
            if stop:
                self._stop(stop)
        return TrainResult(self.progress.step, self._seconds(), losses, self.progress.skipped, self._save())

    def _advance(self, stream: Iterator[list[Part]]) -> tuple[Losses, int, bool]:
        """Do one step; return its losses, the stop signal and whether a checkpoint was asked for."""
        parts = self._load(stream)
        self.step.network.train()
        buffers = self.update.keep_buffers()
        values: Losses = {}
        finite, failure = True, None
        try:
            values, finite = self.update.backward(parts)
        except OtherProcessError:
            self.update.undo(buffers)
            self._give_up(None)
        except Exception as error:
            if waits_in_forward(self.step.network):
                raise  # only the end of this process releases the others
            failure = error
        status = Status(not finite, self.requests.received, self.requests.save, failure is not None)
        status = agree(status, self.accelerator.device)
        if status.failed:
            self.update.undo(buffers)
            self._give_up(failure)
        self._finish(parts, values, buffers, broken=status.broken)
        if status.save:
            self.requests.save = False
        return values, status.stop, status.save

    def _load(self, stream: Iterator[list[Part]]) -> list[Part]:
        """Read the parts of a step; nobody computes unless all processes have theirs.

        A loader that a stop signal ended counts as the stop.
        """
        parts, failure = None, None
        try:
            parts = next(stream)
        except Exception as error:
            failure = error
        status = Status(stop=self.requests.received, failed=parts is None)
        status = agree(status, self.accelerator.device)
        if status.failed and status.stop:
            self._save()
            self._stop(status.stop)
        if parts is None or status.failed:
            self._give_up(failure)
        return parts

    def _finish(self, parts: list[Part], values: Losses, buffers: list[Tensor], *, broken: bool) -> None:
        """Update the weights, or leave everything as it was if a loss or gradient is not finite anywhere."""
        norm = None if broken else self.update.reduce()
        self.progress.step += 1
        if norm is None or not bool(torch.isfinite(norm)):
            self.update.undo(buffers)
            self._note_skipped(parts, values)
        else:
            self.update.apply(self.progress.step - 1)
            self.progress.skipped_in_a_row = 0
            self.means.add({**values, "grad_norm": [norm]})
        if self.log is not None:
            self.log.advance(self.progress.step)

    def _note_skipped(self, parts: list[Part], values: Losses) -> None:
        self.progress.skipped += 1
        self.progress.skipped_in_a_row += 1
        wrong = [name for name, losses in values.items() if not bool(torch.isfinite(torch.stack(losses)).all())]
        shares = distributed.gather_objects((wrong, [name for part in parts for name in clip_names(part)]))
        names = sorted({name for wrong, _ in shares for name in wrong if name != "loss"})
        self.last_skipped = {
            "step": self.progress.step,
            "reason": f"not finite: {', '.join(names) or 'gradient'}",
            "clips": [name for _, clips in shares for name in clips],
        }
        if self.log is not None:
            self.log.skipped(self.last_skipped)

    def _check_patience(self) -> None:
        if self.progress.skipped_in_a_row < self.config.patience:
            return
        count, self.progress.skipped_in_a_row = self.progress.skipped_in_a_row, 0
        saved, last = self._save(), self.last_skipped
        raise TrainingError(
            f"{count} steps in a row gave no finite loss or gradient; the last was step {last['step']} "
            f"({last['reason']}; clips: {'; '.join(last['clips'])}). The weights before them are in {saved}; "
            f"look at these clips or lower training.lr, then: {self.resume_command}"
        )

    def _give_up(self, failure: Exception | None) -> NoReturn:
        """Raise the failure of this process or of another."""
        if failure is not None:
            raise failure
        raise TrainingError(f"another process failed in step {self.progress.step + 1}; its message says why")

    def _stop(self, number: int) -> NoReturn:
        raise Interrupted(
            f"stopped by {signal.Signals(number).name} after step {self.progress.step} of {self.config.steps}, state "
            f"saved in {self.saved}; continue with: {self.resume_command}",
            number,
        )

    def _save(self) -> Path:
        """Save the current step unless that has been done; every process must call it."""
        if self.saved != checkpoints.checkpoint_path(self.folder, self.progress.step):
            randoms = distributed.gather_objects(randomness.generator_state())
            self.progress.seconds = self._seconds()
            self._began = time.monotonic()
            self.saved = distributed.on_main(lambda: self._write(randoms))
        return self.saved

    def _write(self, randoms: list[dict[str, Any]]) -> Path:
        state = {
            "batch": self.config.batch,
            "seed": self.config.seed,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "progress": asdict(self.progress),
            "optimizer": self.update.optimizer.state_dict(),
            "method": self.step.state_dict(),
            "random": randoms,
        }
        weights = {name: module.state_dict() for name, module in self.step.weights().items()}
        return checkpoints.save_checkpoint(
            self.folder, self.progress.step, weights, state, header=self.header, keep=self.config.keep
        )

    def _start_clock(self) -> None:
        self._began = self._logged = time.monotonic()
        self._logged_step = self.progress.step

    def _seconds(self) -> float:
        return self.progress.seconds + time.monotonic() - self._began

    def _log(self) -> dict[str, float]:
        means = self.means.over_processes()
        self.means = _Means()
        loss, norm = means.pop("loss", math.nan), means.pop("grad_norm", math.nan)
        now, done = time.monotonic(), self.progress.step
        per_step = (now - self._logged) / max(1, done - self._logged_step)
        self._logged, self._logged_step = now, done
        if self.log is not None:
            record = {
                "step": done,
                "seconds": round(self._seconds(), 3),
                "lr": learning_rate(done - 1, self.config),
                "loss": loss,
                "grad_norm": norm,
                "losses": means,
                "skipped": self.progress.skipped,
                "samples_per_second": self.config.batch / max(per_step, 1e-9),
                "eta_seconds": per_step * (self.config.steps - done),
            }
            self.log.metrics(record)
        return {**means, "loss": loss}


def _find(run: Path, resume: bool) -> Path | None:
    """Return the checkpoint to continue from, after removing what an interrupted save left."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the run folder {run} cannot be made ({error})") from error
    if not resume and checkpoints.list_checkpoints(run):
        raise ConfigError(f"{run} already holds checkpoints; continue with --resume {run}, or choose another --out")
    checkpoints.remove_unfinished(run)
    found = checkpoints.newest_loadable(run) if resume else None
    if resume and found is None:
        logger.warning("%s holds no checkpoint yet; training starts from the beginning", run)
    if found is None:
        return None
    checkpoints.set_aside_after(run, found.step)
    return found.path


def _check_settings(saved: checkpoints.Checkpoint, config: TrainingConfig) -> None:
    for name in ("batch", "seed"):
        if saved.state[name] != getattr(config, name):
            raise CheckpointError(
                f"{saved.path} was trained with training.{name} {saved.state[name]}, not {getattr(config, name)}; "
                "resume with the same value"
            )
    if saved.state["threads"] != torch.get_num_threads():
        logger.warning(
            "%s was saved with %d torch threads and now there are %d: training continues, but its weights will not "
            "equal an uninterrupted run's to the bit (set OMP_NUM_THREADS=%d for that)",
            saved.path,
            saved.state["threads"],
            torch.get_num_threads(),
            saved.state["threads"],
        )


def _load_module(module: nn.Module, saved: checkpoints.Checkpoint, name: str) -> None:
    if name not in saved.weights:
        raise CheckpointError(f"{saved.path} has no {name} weights (it has: {', '.join(saved.weights)})")
    try:
        module.load_state_dict(saved.weights[name])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{saved.path / name}.safetensors belongs to another network: {reason}") from error
