"""Rare class sampling: training clips are drawn for a class, rare classes more often (DAFormer, section 3.3)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vidapt.clip import Clip
from vidapt.config_method import RareClassConfig
from vidapt.errors import ConfigError
from vidapt.transforms import TrainTransform


class Clips(Protocol):
    """What clips are drawn from."""

    def __getitem__(self, index: int) -> Clip:
        """Return clip ``index`` with its labels."""
        ...


def class_probabilities(
    frequencies: NDArray[np.float64], shown: NDArray[np.bool_], temperature: float
) -> NDArray[np.float64]:
    """How often each class is drawn: softmax of (1 - frequency) / temperature (DAFormer, equation 5).

    Args:
        frequencies: (C,) share of each class among all labelled pixels.
        shown: bool (C,), False for classes that cannot be drawn; they get 0.
        temperature: Above 0; smaller values prefer the rarest classes more.

    Returns:
        (C,), sums to 1; zeros where nothing is ``shown``.
    """
    if not shown.any():
        return np.zeros(len(frequencies))
    exponents = np.where(shown, -frequencies / temperature, -np.inf)
    weights = np.exp(exponents - exponents.max())
    return np.asarray(weights / weights.sum(), np.float64)


class RareClassDraw:
    """Draws a class, then one of the clips that show enough of it, then a crop that still does (DAFormer, EDAPS).

    A clip shows as much of a class as the frame of it that shows most. A draw is a pure function of the generator; the
    object pickles with its data set, so loader processes can draw.

    Args:
        clips: The labelled data set.
        transform: Crops and flips a clip.
        counts: int64 (clips,C) pixels of each class in the frame of a clip that shows most of it, at the size that the
            data set gives.
        pixels: int64 (clips,) pixels of a frame of each clip at that size.
        frequencies: float64 (C,) share of each class among all labelled pixels.
        config: Temperature and thresholds.

    Attributes:
        probabilities: float64 (C,) how often each class is drawn; 0 for classes that no clip shows enough of.

    Raises:
        ConfigError: If no clip shows enough of any class.
    """

    def __init__(
        self,
        clips: Clips,
        transform: TrainTransform,
        counts: NDArray[np.int64],
        pixels: NDArray[np.int64],
        frequencies: NDArray[np.float64],
        config: RareClassConfig,
    ) -> None:
        self._clips = clips
        self._transform = transform
        self._config = config
        shares = counts / np.maximum(pixels, 1)[:, None]
        self._shows: NDArray[np.bool_] = np.ascontiguousarray((shares > config.min_share).T)
        if not self._shows.any():
            raise ConfigError(
                f"method.rare_classes.min_share is {config.min_share}, but no class fills more than "
                f"{shares.max(initial=0):.3g} of any frame of the source; choose a smaller share"
            )
        self.probabilities = class_probabilities(frequencies, np.any(self._shows, axis=1), config.temperature)

    def __call__(self, rng: np.random.Generator) -> Clip:
        """Draw a transformed clip.

        If no crop shows enough of the class after ``config.tries``, for example because the clip is scaled down, the
        last one is taken.
        """
        train_id, index = self.choose(rng)
        clip = self._clips[index]
        wanted = self._config.crop_share * self._config.min_share * clip.frames[0, 0].numel()
        for _ in range(self._config.tries):
            crop = self._transform(clip, rng)
            if most_pixels(crop, train_id) > wanted:
                break
        return crop

    def choose(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw a train id and the number of a clip that shows more than ``config.min_share`` of it."""
        train_id = int(rng.choice(len(self.probabilities), p=self.probabilities))
        return train_id, int(rng.choice(np.flatnonzero(self._shows[train_id])))


def most_pixels(clip: Clip, train_id: int) -> int:
    """Pixels of a class in the frame of a clip that shows most of it; 0 without labels."""
    if clip.target is None:
        return 0
    return int(torch.count_nonzero(clip.target.semantic == train_id, (1, 2)).max())
