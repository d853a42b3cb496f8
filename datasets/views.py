"""Data sets seen through something: without labels, in another label space, without margins, several as one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vidapt.clip import IGNORE, Clip, PanopticTarget
from vidapt.errors import ConfigError, InputError
from vidapt.labels import LabelSpace
from vidapt.mapping import ClassMapping

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Unlabelled:
    """A data set without its labels."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.label_space: LabelSpace | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Clip:
        return self.dataset[index].without_target()


class Relabelled:
    """A data set whose classes are mapped into another label space; classes without a counterpart become 255.

    Instances keep their ids where the new class is a thing; elsewhere they become 0.

    Attributes:
        mapping: The class mapping.

    Raises:
        ConfigError: If no class of the data set is mapped.
    """

    def __init__(self, dataset: Any, mapping: ClassMapping) -> None:
        own, space = mapping.source, mapping.target
        if (mapping.table[: len(own)] == IGNORE).all():
            raise ConfigError(
                f"no class of the data ({', '.join(own.names)}) is one of label space {space.name!r} "
                f"({', '.join(space.names)}); set 'labels' to the classes of the source, or give a class 'mapping'"
            )
        self.dataset = dataset
        self.mapping = mapping
        self.label_space: LabelSpace | None = space
        self._table = np.full(IGNORE + 1, IGNORE, np.uint8)
        self._table[: len(own)] = mapping.table[: len(own)]
        self._keeps_id = space.is_thing[self._table]
        self._keeps_id_if_ignored = self._keeps_id | ((self._table == IGNORE) & own.is_thing)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Clip:
        clip = self.dataset[index]
        return replace(clip, target=self.relabel(clip.target))

    @property
    def videos(self) -> list[str]:
        """Names of the videos."""
        names: list[str] = self.dataset.videos
        return names

    @property
    def has_instances(self) -> bool:
        """True if the labels number single instances."""
        return bool(self.dataset.has_instances)

    def frame_name(self, video: int, position: int) -> str:
        """Name under which predictions of a frame are stored."""
        return str(self.dataset.frame_name(video, position))

    def iterate_video(self, video: int) -> Iterator[tuple[NDArray[np.uint8], PanopticTarget | None]]:
        """Frames and relabelled targets of a video in order, as ``ClipDataset.iterate_video`` gives them."""
        for image, target in self.dataset.iterate_video(video):
            yield image, None if target is None else self.relabel(target, keep_ignored_things=True)

    def relabel(self, target: PanopticTarget, *, keep_ignored_things: bool = False) -> PanopticTarget:
        """The same labels in the new space.

        Args:
            target: Labels in the data set's own space.
            keep_ignored_things: Keep the ids of things whose class has no counterpart (caravans and trailers), because
                the Cityscapes instance scorer does not treat them as void.
        """
        own = target.semantic
        keeps = self._keeps_id_if_ignored if keep_ignored_things else self._keeps_id
        instance = target.instance * _look_up(keeps.astype(np.uint8), own)
        return PanopticTarget(_look_up(self._table, own), instance, target.labelled)


def _look_up(table: NDArray[np.uint8], labels: Tensor) -> Tensor:
    """uint8 (...,H,W) of ``table`` (256,) at each label; OpenCV does it many times faster than indexing."""
    flat = np.ascontiguousarray(labels.numpy()).reshape(-1, labels.shape[-1])
    return torch.from_numpy(np.asarray(cv2.LUT(flat, table)).reshape(labels.shape))


class IgnoredRows:
    """A data set whose clips say that pseudo-labels of some rows do not count (``Clip.ignored``).

    Args:
        dataset: Clips.
        top: Rows at the top of the frames, as the data set gives them.
        bottom: Rows at the bottom.
    """

    def __init__(self, dataset: Any, top: int, bottom: int) -> None:
        self.dataset = dataset
        self.top, self.bottom = top, bottom
        self.label_space: LabelSpace | None = dataset.label_space

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Clip:
        clip = self.dataset[index]
        height = clip.frames.shape[-2]
        if self.top + self.bottom >= height:
            raise InputError(
                f"ignored_rows [{self.top}, {self.bottom}] leave nothing of frames that are {height} rows high; "
                "they are rows of the scaled frame, so change them with its height"
            )
        rows = torch.zeros(height, dtype=torch.bool)
        rows[: self.top] = True
        rows[height - self.bottom :] = True
        return replace(clip, ignored=rows[None, :, None].repeat(len(clip.frames), 1, clip.frames.shape[-1]))


class SkipDamaged:
    """A data set that gives the next clip in place of one whose files turn out to be damaged.

    Args:
        dataset: Clips.
        record: File to which a JSON line is added for each clip that is left out; None only prints it.
    """

    def __init__(self, dataset: Any, record: Path | None) -> None:
        self.dataset = dataset
        self.record = record
        self.label_space: LabelSpace | None = dataset.label_space

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Clip:
        for step in range(len(self.dataset)):
            place = (index + step) % len(self.dataset)
            try:
                clip: Clip = self.dataset[place]
            except InputError as error:
                self._note(place, str(error))
            else:
                return clip
        raise InputError("no clip of the data set can be read; list what is wrong with 'vidapt data check'")

    def _note(self, clip: int, reason: str) -> None:
        print(f"left out clip {clip}: {reason}", file=sys.stderr)
        if self.record is not None:
            # One short write at the end of the file, so that loader processes do not mix their lines.
            with self.record.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"clip": clip, "reason": reason}) + "\n")


class Mixture:
    """Several data sets as one, drawn with given shares.

    An epoch holds each clip of every data set at least once; data sets that are small for their share are repeated.
    Which clip an index names is a pure function of the sizes and shares, so a resumed run goes on as it began.

    >>> mixture = Mixture([list("abcdef"), list("xy")], [1, 1])
    >>> "".join(mixture[index] for index in range(len(mixture)))
    'axbycxdyexfy'

    Args:
        datasets: Clips, all in one label space.
        shares: Positive sampling weights, one for each; exact to one in ``LONGEST_PATTERN`` places.

    Raises:
        ConfigError: If a share is so small that an epoch would be longer than ``LONGEST_EPOCH``.
    """

    LONGEST_PATTERN = 1 << 20
    LONGEST_EPOCH = 50_000_000

    def __init__(self, datasets: Sequence[Any], shares: Sequence[float]) -> None:
        self.datasets = list(datasets)
        self.label_space: LabelSpace | None = getattr(self.datasets[0], "label_space", None)
        sizes = [len(dataset) for dataset in self.datasets]
        self._owner = _interleave(_slots(np.asarray(shares, np.float64), sizes, self.LONGEST_PATTERN))
        self._slots = np.bincount(self._owner, minlength=len(self.datasets))
        self._turn = np.zeros(len(self._owner), np.int64)
        for number, count in enumerate(self._slots.tolist()):
            self._turn[self._owner == number] = np.arange(count)
        rounds = max(ceil(size / count) for size, count in zip(sizes, self._slots.tolist(), strict=True))
        self._length = rounds * len(self._owner)
        if self._length > self.LONGEST_EPOCH:
            raise ConfigError(
                f"weights {list(shares)} make an epoch of {self._length} clips, because the smallest data set by share "
                "is read once in it; use weights that are closer to each other"
            )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        if not -self._length <= index < self._length:
            raise IndexError(f"clip {index} of {self._length}")
        turn, place = divmod(index % self._length, len(self._owner))
        owner = int(self._owner[place])
        dataset = self.datasets[owner]
        return dataset[(turn * int(self._slots[owner]) + int(self._turn[place])) % len(dataset)]


def _slots(shares: NDArray[np.float64], sizes: Sequence[int], longest: int) -> list[int]:
    """How often each data set occurs in a pattern: of one epoch, or of ``longest`` places where that is longer."""
    fractions = shares / shares.sum()
    length = min(longest, ceil((np.asarray(sizes) / fractions).max() - 1e-9))
    return [max(1, round(fraction * length)) for fraction in fractions.tolist()]


def _interleave(slots: Sequence[int]) -> NDArray[np.uint8]:
    """Which data set each place of a pattern belongs to; each is as evenly spread as it can be."""
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in slots])
    owners = np.repeat(np.arange(len(slots), dtype=np.uint8), slots)
    return owners[np.argsort(places, kind="stable")]
