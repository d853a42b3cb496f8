"""``vidapt evaluate``: score a run, or a folder of predictions, on labelled videos."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vidapt.config import Data, Recipe, StreetWorldData
from vidapt.datasets.clip_dataset import ClipDataset as StoredClips
from vidapt.datasets.views import Relabelled
from vidapt.errors import ConfigError, InputError
from vidapt.evaluation.runner import Scores, VideoEvaluator
from vidapt.io.coco import read_header
from vidapt.io.segmentation_folder import read_segmentation
from vidapt.jobs.data import build_dataset, in_space
from vidapt.jobs.files import write_json
from vidapt.jobs.progress import progress_bar
from vidapt.labels import LabelSpace, find_space, space_map
from vidapt.segmenter import Segmenter, load

if TYPE_CHECKING:
    from numpy.typing import NDArray


def evaluate(
    recipe: Recipe,
    *,
    checkpoint: str | Path | None = None,
    predictions: str | Path | None = None,
    weights: Literal["student", "teacher"] | None = None,
    out: str | Path | None = None,
    device: str | None = None,
) -> Scores:
    """Score the recipe's evaluation videos.

    A segmentation folder keeps the panoptic map only: there mIoU and flicker read void as a class of its own, which is
    always wrong, while a checkpoint is scored with its class for every pixel. PQ, VPQ and STQ are the same either way.

    Args:
        recipe: Its ``evaluation`` names the labelled videos.
        checkpoint: Run, checkpoint folder or ``.safetensors`` file to segment them with.
        predictions: Instead: a folder with one segmentation folder per video (or one itself).
        weights: Which weights of a run; None uses what its recipe says.
        out: JSON file for the scores.
        device: Where the network runs.

    Raises:
        ConfigError: If the recipe has no evaluation videos, or not exactly one of checkpoint and predictions is given.
        InputError: If a prediction is missing or damaged.
        StorageError: If the scores cannot be written.
    """
    if (checkpoint is None) == (predictions is None):
        raise ConfigError("evaluate needs exactly one of --checkpoint and --predictions")
    if checkpoint is not None:
        scored_videos(recipe)
        scores = score_segmenter(load(checkpoint, weights, device, scored_space(recipe)), recipe)
    else:
        scores = _score_predictions(Path(str(predictions)), recipe)
    if out is not None:
        write_json(Path(out), scores.to_dict())
    return scores


def score_segmenter(segmenter: Segmenter, recipe: Recipe) -> Scores:
    """Segment and score the evaluation videos; ``segmenter`` answers in their label space."""
    videos = scored_videos(recipe)
    evaluator = new_evaluator(recipe)
    with progress_bar("evaluating", len(videos.videos)) as advance:
        for number in range(len(videos.videos)):
            stream = segmenter.stream()
            for position, (image, target, flow) in enumerate(labelled_frames(videos, number)):
                frame = stream.push(image, index=position)
                evaluator.update(frame, *target, labelled=target[0] is not None, flow=flow, image=image)
            evaluator.end_video()
            advance()
    return evaluator.result()


def new_evaluator(recipe: Recipe, mapping: NDArray[np.uint8] | None = None) -> VideoEvaluator:
    """An evaluator for the protocol of a recipe.

    Args:
        recipe: Its ``scoring`` is the protocol.
        mapping: uint8 (256,) train ids of the predictions -> ids of the scored space; None if they are the same.
    """
    protocol = recipe.scoring
    return VideoEvaluator(
        scored_space(recipe),
        windows=protocol.windows,
        long_windows=protocol.long_windows,
        scored_classes=protocol.classes,
        unscored=protocol.unscored,
        mapping=mapping,
    )


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


@lru_cache(maxsize=64)
def _exact_flow(videos: Any, number: int) -> Any:
    """Exact flow of one generated video, which is costly and asked for by every stage."""
    return videos.exact_flow(number)


Frame = tuple[Any, tuple[Any, Any], Any]


def labelled_frames(videos: Any, number: int) -> Iterator[Frame]:
    """Yield (image, (semantic, instance), flow from the previous frame or None) of one video.

    ``semantic`` is None for a frame without labels; ``instance`` is None then and where the data have no instances. The
    flow is exact on street_world; elsewhere it is None and the evaluator computes DIS flow from the images.
    """
    stored, relabel = (videos.dataset, videos.relabel) if isinstance(videos, Relabelled) else (videos, lambda x: x)
    if isinstance(stored, StoredClips):
        yield from _stored_frames(videos, number)
        return
    clip = stored.video_clip(number)
    target = relabel(clip.target)
    flow, valid = _exact_flow(stored, number)
    for index in range(len(clip.frames)):
        image = np.ascontiguousarray(clip.frames[index].permute(1, 2, 0).numpy())
        labels = target.semantic[index].numpy(), target.instance[index].numpy()
        yield image, labels, (flow[index - 1], valid[index - 1]) if index else None


def _stored_frames(videos: Any, number: int) -> Iterator[Frame]:
    labelled = False
    for image, target in videos.iterate_video(number):
        labelled = labelled or target is not None
        if target is None:
            yield image, (None, None), None
        else:
            instance = target.instance[0].numpy() if videos.has_instances else None
            yield image, (target.semantic[0].numpy(), instance), None
    if not labelled:
        raise ConfigError(f"{videos.videos[number]} carries no labels to score against")


def _score_predictions(folder: Path, recipe: Recipe) -> Scores:
    videos = scored_videos(recipe)
    folders = [_folder_of(folder, name, len(videos.videos)) for name in videos.videos]
    spaces = {_space_of(own).names: _space_of(own) for own in folders}
    if len(spaces) > 1:
        raise InputError(f"the segmentations below {folder} have different classes; segment all with one network")
    (space,) = spaces.values()
    own_space: LabelSpace = videos.label_space
    mapping = None if space.names == own_space.names else space_map(space, own_space)
    evaluator = new_evaluator(recipe, mapping)
    for number, own in enumerate(folders):
        predictions = read_segmentation(own)
        for index, (image, target, flow) in enumerate(labelled_frames(videos, number)):
            frame = next((found for found in predictions if found.index >= index), None)
            if frame is None or frame.index > index:
                raise InputError(f"{own} has no prediction for frame {index} of {videos.videos[number]}; segment all")
            evaluator.update(frame, *target, labelled=target[0] is not None, flow=flow, image=image)
        evaluator.end_video()
    return evaluator.result()


def _folder_of(folder: Path, name: str, count: int) -> Path:
    """The segmentation folder of the video ``name``, one of ``count``."""
    own = folder / name
    if own.is_dir() or count > 1 or not (folder / "panoptic.json").is_file():
        folder = own
    if not folder.is_dir():
        raise InputError(f"no segmentation of video {name!r}: {folder} does not exist; name folders after the videos")
    return folder


def _space_of(folder: Path) -> LabelSpace:
    """The label space that a segmentation folder was written in."""
    header = read_header(folder / "panoptic.json")
    classes = [
        {"name": item["name"], "thing": bool(item["isthing"]), "colour": item["color"]} for item in header["categories"]
    ]
    return LabelSpace.from_dict({"name": header["info"]["label_space"], "classes": classes})


def is_generated(data: Data | None) -> bool:
    """True for generated footage, whose scores every table labels as a test bed."""
    return isinstance(data, StreetWorldData)
