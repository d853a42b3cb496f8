"""The labelled videos that a recipe is scored on, in the label space of its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np

from vidapt.config import Data, Recipe, StreetWorldData
from vidapt.datasets.clip_dataset import ClipDataset as StoredClips
from vidapt.datasets.clip_dataset import make_target
from vidapt.datasets.integrity import refuse_or_skip
from vidapt.datasets.stored import StoredDataset
from vidapt.datasets.views import Relabelled
from vidapt.errors import ConfigError
from vidapt.jobs.data import build_dataset, in_space
from vidapt.labels import LabelSpace, find_space


def evaluation_videos(data: Data, space: LabelSpace | None = None) -> Any:
    """The data set of labelled videos that a section describes.

    Args:
        data: The section.
        space: Label space of the labels; None keeps the data's own.

    Raises:
        UserError: If the files are missing or carry no labels, or their classes cannot be mapped.
    """
    dataset = build_dataset(data, clip_length=1, interval=1)
    return dataset if space is None else in_space(dataset, space, data.mapping)


def scored_space(recipe: Recipe) -> LabelSpace:
    """The label space that a recipe is scored in."""
    return find_space(recipe.scoring.labels or recipe.labels)


def scored_videos(recipe: Recipe) -> Any:
    """The evaluation videos of a recipe, with labels in the space that is scored.

    Raises:
        ConfigError: If it has none, or their classes cannot be mapped.
        InputError: If files are missing or damaged.
    """
    if recipe.evaluation is None:
        raise ConfigError("the recipe has no evaluation videos; set 'evaluation' to labelled footage")
    return evaluation_videos(recipe.evaluation, scored_space(recipe))


def refuse_damaged(videos: Any) -> None:
    """Look at the heads and tails of all files that are going to be scored.

    Raises:
        InputError: If one is damaged or missing.
    """
    stored = videos.dataset if isinstance(videos, Relabelled) else videos
    if isinstance(stored, StoredDataset):
        refuse_or_skip(stored, "refuse")


@lru_cache(maxsize=64)
def _exact_flow(videos: Any, number: int) -> Any:
    """Exact flow of one generated video, which is costly and asked for by every stage."""
    return videos.exact_flow(number)


Frame = tuple[Any, tuple[Any, Any], Any]


def labelled_frames(videos: Any, number: int, *, images: bool = True) -> Iterator[Frame]:
    """Yield (image, (semantic, instance), flow from the previous frame or None) of one video.

    ``semantic`` is None for a frame without labels; ``instance`` is None then and where the data have no instances. The
    flow is exact on street_world; elsewhere it is None and the evaluator computes DIS flow from the images.

    Args:
        videos: What ``evaluation_videos`` returns.
        number: The video.
        images: False leaves pictures of published data sets that have labels undecoded; their image is None.
    """
    stored, relabel = (videos.dataset, videos.relabel) if isinstance(videos, Relabelled) else (videos, lambda x: x)
    if isinstance(stored, StoredClips):
        labels_only = not images and isinstance(stored, StoredDataset)
        frames = _label_targets(videos, number) if labels_only else videos.iterate_video(number)
        yield from _stored_frames(frames, videos.videos[number], has_instances=videos.has_instances)
        return
    clip = stored.video_clip(number)
    target = relabel(clip.target)
    flow, valid = _exact_flow(stored, number)
    for index in range(len(clip.frames)):
        image = np.ascontiguousarray(clip.frames[index].permute(1, 2, 0).numpy())
        labels = target.semantic[index].numpy(), target.instance[index].numpy()
        yield image, labels, (flow[index - 1], valid[index - 1]) if index else None


def frame_name(videos: Any, number: int, position: int) -> str:
    """Name of a frame, unique in the data: that of its file, or of video and position where there are no files."""
    stored = videos.dataset if isinstance(videos, Relabelled) else videos
    if isinstance(stored, StoredClips):
        return stored.frame_name(number, position)
    return f"{stored.videos[number]}/{position:06d}"


def frame_names(videos: Any, number: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the frames of a video that are scored, and of all frames of its recording."""
    stored = videos.dataset if isinstance(videos, Relabelled) else videos
    count = stored.frame_count(number) if isinstance(stored, StoredClips) else stored.frames
    names = tuple(frame_name(videos, number, position) for position in range(count))
    return names, stored.whole_video(number) if isinstance(stored, StoredDataset) else names


def _label_targets(videos: Any, number: int) -> Iterator[tuple[Any, Any]]:
    """What ``iterate_video`` of a published data set gives, without decoding the pictures of labelled frames."""
    stored, relabel = videos, None
    if isinstance(videos, Relabelled):
        stored, relabel = videos.dataset, partial(videos.relabel, keep_ignored_things=True)
    for position in range(stored.frame_count(number)):
        frame = stored.frame(number, position)
        if frame.labels:
            target = make_target([stored.read_frame_labels(frame)])
            yield None, target if relabel is None or target is None else relabel(target)
        else:
            yield stored.read_frame(frame).image, None


def _stored_frames(frames: Iterator[tuple[Any, Any]], video: str, *, has_instances: bool) -> Iterator[Frame]:
    labelled = False
    for image, target in frames:
        labelled = labelled or target is not None
        if target is None:
            yield image, (None, None), None
        else:
            instance = target.instance[0].numpy() if has_instances else None
            yield image, (target.semantic[0].numpy(), instance), None
    if not labelled:
        raise ConfigError(f"{video} carries no labels to score against")


def is_generated(data: Data | None) -> bool:
    """True for generated footage, whose scores every table labels as a test bed."""
    return isinstance(data, StreetWorldData)
