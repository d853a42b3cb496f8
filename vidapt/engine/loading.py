"""Clips for training in an order that is a pure function of the seed.

Sample number ``n`` of a run always is the same clip with the same random choices, whatever the number of processes,
workers and parts of the batch. Resuming therefore needs only the number of the next step.
"""

from __future__ import annotations

import multiprocessing
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from vidapt.clip import Clip, ClipBatch, collate
from vidapt.errors import ConfigError, InputError, TrainingError, VidaptError

Transform = Callable[[Clip, np.random.Generator], Clip]
"""Crops, flips and the like; every random choice comes from the generator."""

Draw = Callable[[np.random.Generator], Clip]
"""Chooses, reads and transforms a clip; every random choice comes from the generator."""

_ORDER, _CHOICES = 0, 1


class Clips(Protocol):
    """What training reads from: clips by number."""

    def __len__(self) -> int:
        """Return the number of clips."""
        ...

    def __getitem__(self, index: int) -> Clip:
        """Return clip ``index``, 0 <= index < len."""
        ...


def generator_for(seed: int, domain: str, *numbers: int) -> np.random.Generator:
    """Return the random generator that belongs to a seed, a domain and further numbers."""
    return np.random.default_rng([seed % 2**64, zlib.crc32(domain.encode()), *numbers])


@lru_cache(maxsize=8)
def epoch_order(length: int, seed: int, domain: str, epoch: int) -> NDArray[np.int64]:
    """Return the order, int64 (length,), in which an epoch visits the clips."""
    order = generator_for(seed, domain, _ORDER, epoch).permutation(length)
    order.setflags(write=False)
    return order


def clip_index(sample: int, length: int, seed: int, domain: str) -> int:
    """Return which of ``length`` clips sample number ``sample`` is; every epoch visits each clip once."""
    epoch, position = divmod(sample, length)
    return int(epoch_order(length, seed, domain, epoch)[position])


def part_samples(step: int, part: int, *, batch: int, rank: int, world: int, accumulate: int) -> range:
    """Return the sample numbers of one part of a process's share of a step's batch."""
    share = batch // world
    size = share // accumulate
    start = step * batch + rank * share + part * size
    return range(start, start + size)


def clip_loader(
    dataset: Clips,
    transform: Transform | None,
    *,
    seed: int,
    domain: str,
    batch: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    workers: int = 0,
    draw: Draw | None = None,
) -> Iterator[ClipBatch]:
    """Return the endless stream of this process's batches: ``accumulate`` parts for each step.

    Args:
        dataset: Clips; must be picklable if ``workers`` > 0.
        transform: Applied to each clip with a generator seeded by (seed, domain, sample number).
        seed: Seed of the run.
        domain: Name that separates this stream's random numbers from others, such as ``source``.
        batch: Clips per step over all processes and parts.
        start_step: Step to begin with.
        rank: Number of this process.
        world: Number of processes.
        accumulate: Parts into which each process splits its share.
        workers: Loader processes; 0 loads in this process.
        draw: Gives each sample, from the generator that belongs to (seed, domain, sample number), in place of the
            epochs over ``dataset`` and of ``transform``; must be picklable if ``workers`` > 0.

    Raises:
        ConfigError: If the batch cannot be split evenly.
        InputError: If there are no clips.
    """
    if batch % (world * accumulate):
        raise ConfigError(
            f"training.batch is {batch}, which {world} process(es) with training.accumulate {accumulate} cannot share "
            f"evenly; use a multiple of {world * accumulate}"
        )
    if len(dataset) == 0:
        raise InputError(
            f"the {domain} data holds no clips; it needs at least one video of training.clip_length frames"
        )
    samples = _Samples(dataset, transform, seed, domain, draw)
    numbers = _Numbers(start_step, batch, rank, world, accumulate)
    return _in_process(samples, numbers) if workers == 0 else _from_workers(samples, numbers, workers)


@dataclass(frozen=True)
class _Numbers:
    """Endless lists of sample numbers, one list per part."""

    start_step: int
    batch: int
    rank: int
    world: int
    accumulate: int

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start_step
        while True:
            for part in range(self.accumulate):
                share = {"rank": self.rank, "world": self.world, "accumulate": self.accumulate}
                yield list(part_samples(step, part, batch=self.batch, **share))
            step += 1


@dataclass(frozen=True)
class _Samples(Dataset[tuple[int, Clip | VidaptError]]):
    """Transformed clips by sample number; failures are values, so that workers can hand them over in one line."""

    dataset: Clips
    transform: Transform | None
    seed: int
    domain: str
    draw: Draw | None = None

    def __getitem__(self, sample: int) -> tuple[int, Clip | VidaptError]:
        index = clip_index(sample, len(self.dataset), self.seed, self.domain)
        rng = generator_for(self.seed, self.domain, _CHOICES, sample)
        try:
            clip = self._visit(index, rng) if self.draw is None else self.draw(rng)
        except VidaptError as error:
            return sample, error
        except Exception as error:
            what = f"clip {index}" if self.draw is None else "drawn clip"
            return sample, _describe(error, f"{self.domain} {what} (sample {sample})")
        return sample, clip

    def _visit(self, index: int, rng: np.random.Generator) -> Clip:
        clip = self.dataset[index]
        return clip if self.transform is None else self.transform(clip, rng)


def _describe(error: Exception, what: str) -> TrainingError:
    described = TrainingError(f"reading {what} failed: {type(error).__name__}: {error}")
    described.__cause__ = error
    return described


def _collate(samples: Sequence[tuple[int, Clip | VidaptError]]) -> ClipBatch | VidaptError:
    for _, clip in samples:
        if isinstance(clip, VidaptError):
            return clip
    try:
        return collate([clip for _, clip in samples if isinstance(clip, Clip)], [number for number, _ in samples])
    except (ValueError, RuntimeError) as error:
        return _describe(error, f"samples {[number for number, _ in samples]}")


def _checked(batch: ClipBatch | VidaptError) -> ClipBatch:
    if isinstance(batch, VidaptError):
        raise batch
    return batch


def _in_process(samples: _Samples, numbers: _Numbers) -> Iterator[ClipBatch]:
    for part in numbers:
        yield _checked(_collate([samples[number] for number in part]))


def _from_workers(samples: _Samples, numbers: _Numbers, workers: int) -> Iterator[ClipBatch]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    loader: DataLoader[tuple[int, Clip | VidaptError]] = DataLoader(
        samples,
        batch_sampler=numbers,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        multiprocessing_context=context,
        # Its own generator: drawing the workers' seeds from the global one would change a resumed run.
        generator=torch.Generator(),
    )
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except RuntimeError as error:
            raise TrainingError(f"a loader process of the {samples.domain} data ended unexpectedly: {error}") from error
        yield _checked(batch)


def _start_worker(worker: int) -> None:
    """Keep a worker to one thread, and alive when Ctrl-C reaches the whole process group."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # SIGTERM keeps its effect: Python ends leftover workers with it at exit and would wait for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
