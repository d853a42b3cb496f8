"""Segmenting video: network, stabiliser, fusion and tracker joined into a stream with bounded state."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from vidapt.clip import FIRST_THING_ID, PanopticFrame, Segment
from vidapt.config import InferenceConfig, TrackingConfig
from vidapt.errors import InputError
from vidapt.labels import LabelSpace, space_map
from vidapt.models.fusion import assign_tracks, fuse
from vidapt.models.network import NetworkOutput, PanopticNetwork
from vidapt.tracking.detections import Detections
from vidapt.tracking.stabilise import Stabiliser
from vidapt.tracking.tracker import OnlineTracker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.io.reader import Reader

    Image = NDArray[np.uint8]


class Segmenter:
    """A trained network with everything that turns its outputs into panoptic frames.

    Args:
        network: Network in its label space.
        tracking: Tracker options.
        inference: Input height, smoothing and batch size.
        embedding_threshold: Cosine that the calibration found, or None where embeddings separate badly.
        space: Label space of the results; classes are mapped by name and their probabilities summed. None keeps the
            network's own.
        device: Where the network runs; None picks a GPU if there is one.
    """

    def __init__(
        self,
        network: PanopticNetwork,
        *,
        tracking: TrackingConfig | None = None,
        inference: InferenceConfig | None = None,
        embedding_threshold: float | None = None,
        space: LabelSpace | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.network = network.to(self.device).eval()
        self.space = space or network.space
        self.tracking = tracking or TrackingConfig()
        self.inference = inference or InferenceConfig()
        self.embedding_threshold = embedding_threshold
        self._mapping = _mapping_matrix(network.space, self.space).to(self.device)

    def segment(
        self, video: Any, *, start: int | None = None, stop: int | None = None, stride: int = 1
    ) -> Iterator[PanopticFrame]:
        """Yield one panoptic frame per decodable frame, in order, with memory that does not grow.

        Args:
            video: Path of a video, folder or glob of images, or an iterable of uint8 (H,W,3) RGB arrays.
            start: First frame index.
            stop: Index after the last frame.
            stride: Every stride-th frame.

        Raises:
            InputError: If the input cannot be read.
        """
        from vidapt.io.reader import open_video

        with open_video(video, start=start, stop=stop, stride=stride) as reader:
            for frame, _ in self.segment_reader(reader):
                yield frame

    def segment_reader(self, reader: Reader) -> Iterator[tuple[PanopticFrame, Image]]:
        """Yield (panoptic frame, image) for the decodable frames of an open reader; holes age the tracks."""
        stream = self.stream()
        for group in _batched((frame for frame in reader if frame.ok), self.inference.batch):
            images = [frame.image for frame in group]
            times = [frame.time for frame in group]
            frames = stream.push_clip(images, indices=[frame.index for frame in group], times=times)
            yield from zip(frames, images, strict=True)

    def segment_image(self, image: Image | str | Path | Any) -> PanopticFrame:
        """Segment one image: uint8 (H,W,3) RGB array, PIL image or path."""
        return self.stream().push(_read_image(image))

    def stream(self) -> Stream:
        """Start a stream: push frames one by one or in clips."""
        return Stream(self)

    def network_outputs(self, images: Sequence[Image]) -> list[FrameOutput]:
        """Run the network on frames of one size: per frame its probabilities and instance fields."""
        frames = torch.from_numpy(np.stack([_fit(image, self.inference.height) for image in images]))
        with torch.no_grad():
            output = self.network(frames.permute(0, 3, 1, 2).contiguous().to(self.device))
            probabilities = self.network.probabilities(output)
        return [FrameOutput(_one_frame(output, index), probabilities[index]) for index in range(len(images))]

    def to_space(self, probabilities: Tensor) -> Tensor:
        """Sum (C,h,w) network probabilities into the classes of the result's label space."""
        if self.space is self.network.space:
            return probabilities
        return torch.einsum("oc,chw->ohw", self._mapping, probabilities)


@dataclass(frozen=True)
class FrameOutput:
    """What the network says about one frame: its output (N = 1) and class probabilities (C,h,w) at stride 4."""

    output: NetworkOutput
    probabilities: Tensor


class Stream:
    """A video being segmented frame by frame; all state lives here and is bounded."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._stabiliser = Stabiliser(segmenter.inference.smoothing)
        self._tracker = new_tracker(segmenter.tracking, len(segmenter.space), segmenter.embedding_threshold)
        self._last: int | None = None

    def push(self, frame: Image, *, index: int | None = None, time: float | None = None) -> PanopticFrame:
        """Segment the next frame (uint8 (H,W,3) RGB)."""
        return self.push_clip(
            [frame], indices=None if index is None else [index], times=None if time is None else [time]
        )[0]

    def push_clip(
        self,
        frames: Sequence[Image],
        *,
        indices: Sequence[int] | None = None,
        times: Sequence[float] | None = None,
    ) -> list[PanopticFrame]:
        """Segment the next frames with one network call; the ids are those of pushing them one by one.

        Args:
            frames: uint8 (H,W,3) RGB arrays of one size.
            indices: Increasing frame numbers; the default counts on. A gap ages the tracks.
            times: Seconds; the default is the index.

        Raises:
            InputError: If the frames differ in size or the numbers do not increase.
        """
        if not len(frames):
            return []
        if len({frame.shape for frame in frames}) > 1:
            raise InputError(f"frames of a stream must share one size, got {sorted({f.shape for f in frames})}")
        first = 0 if self._last is None else self._last + 1
        numbers = list(range(first, first + len(frames))) if indices is None else list(indices)
        seconds = [float(number) for number in numbers] if times is None else list(times)
        outputs = self._segmenter.network_outputs(frames)
        return [
            self._step(image, output, number, second)
            for image, output, number, second in zip(frames, outputs, numbers, seconds, strict=True)
        ]

    def reset(self) -> None:
        """Forget everything: the next frame starts a new video."""
        self._stabiliser.reset()
        self._tracker.reset()
        self._last = None

    def state_dict(self) -> dict[str, Any]:
        """Plain arrays and numbers that continue the stream elsewhere."""
        return {"stabiliser": self._stabiliser.state_dict(), "tracker": self._tracker.state_dict(), "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._stabiliser.load_state_dict(state["stabiliser"])
        self._tracker.load_state_dict(state["tracker"])
        self._last = state["last"]

    def _step(self, image: Image, frame: FrameOutput, index: int, time: float) -> PanopticFrame:
        if self._last is not None and index <= self._last:
            raise InputError(f"frame {index} follows frame {self._last}; indices of a stream must increase")
        gap = 1 if self._last is None else index - self._last
        self._last = index
        segmenter, network = self._segmenter, self._segmenter.network
        probabilities, cut = self._stabiliser.update(frame.probabilities, image, frame_gap=gap)
        if cut:
            self._tracker.scene_cut()
        full = network.upsample(probabilities[None], frame.output.size)
        (instances,) = network.instances(frame.output, full)
        options = segmenter.inference
        fused = fuse(
            segmenter.to_space(full[0]),
            instances,
            segmenter.space.is_thing,
            stuff_area=options.stuff_area,
            min_area=options.instance_area,
            min_score=segmenter.tracking.low_score,
        )
        tracked = self._tracker.update(Detections.from_fused(fused), frame_gap=gap)
        ids, segments = assign_tracks(fused, tracked.ids, tracked.categories)
        return _at_size(PanopticFrame(index, time, fused.semantic, ids, segments), (image.shape[0], image.shape[1]))


def new_tracker(config: TrackingConfig, classes: int, calibrated: float | None) -> OnlineTracker:
    """Make a tracker; ``calibrated`` is the cosine threshold that ``embedding_threshold: calibrated`` stands for."""
    given = config.embedding_threshold
    threshold = given if isinstance(given, float) else calibrated if given == "calibrated" else None
    return OnlineTracker(
        classes=classes,
        iou_threshold=config.iou_threshold,
        high_score=config.high_score,
        low_score=config.low_score,
        birth_score=config.birth_score,
        memory=config.memory,
        embedding_threshold=threshold,
        vote_decay=config.vote_decay,
        max_tracks=config.max_tracks,
        first_id=FIRST_THING_ID,
    )


def load(
    run: str | Path,
    weights: Literal["student", "teacher"] | None = None,
    device: torch.device | str | None = None,
    space: LabelSpace | None = None,
) -> Segmenter:
    """Load a segmenter.

    Args:
        run: A run folder (its latest checkpoint), a checkpoint folder or a ``.safetensors`` file.
        weights: Which weights of a folder; None uses what the run's recipe says.
        device: Where the network runs; None picks a GPU if there is one.
        space: Label space of the results; None is the network's own.

    Raises:
        CheckpointError: If there is no complete checkpoint, a file is damaged or does not fit.
    """
    from vidapt.jobs.weights import find_weights

    found = find_weights(Path(run), weights)
    return Segmenter(
        found.network,
        tracking=found.tracking,
        inference=found.inference,
        embedding_threshold=found.embedding_threshold,
        space=space,
        device=device,
    )


def _one_frame(output: NetworkOutput, index: int) -> NetworkOutput:
    one = slice(index, index + 1)
    features = [feature[one] for feature in output.features]
    return NetworkOutput(features, output.fused[one], output.logits[one], output.size)


def _mapping_matrix(source: LabelSpace, target: LabelSpace) -> Tensor:
    """float32 (C_target, C_source) with 1 where a source class belongs to a target class."""
    table = space_map(source, target)[: len(source)]
    matrix = torch.zeros(len(target), len(source))
    for own, other in enumerate(table):
        if other < len(target):
            matrix[int(other), own] = 1
    return matrix


def _fit(image: Image, height: int | None) -> Image:
    """Resize an image to the network's input height, aspect kept."""
    if height is None or image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    shrink = height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)


def _at_size(frame: PanopticFrame, size: tuple[int, int]) -> PanopticFrame:
    """Enlarge or shrink a panoptic frame to the video's own size, areas and boxes recounted."""
    if frame.ids.shape == size:
        return frame
    semantic = cv2.resize(frame.semantic, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    order = [segment.id for segment in frame.segments]
    table = np.array([0, *order], np.int32)
    compact = np.zeros(frame.ids.shape, np.uint16)
    for position, track in enumerate(order, 1):
        compact[frame.ids == track] = position
    compact = cv2.resize(compact, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    areas = np.bincount(compact.ravel(), minlength=len(table))
    regions = ndimage.find_objects(compact, len(order)) if order else []
    segments = tuple(
        Segment(old.id, old.category, old.is_thing, old.score, int(area), _box(region))
        for old, area, region in zip(frame.segments, areas[1:], regions, strict=True)
        if region is not None
    )
    return PanopticFrame(frame.index, frame.time, semantic, table[compact], segments)


def _box(region: tuple[slice, ...]) -> tuple[int, int, int, int]:
    rows, columns = region
    return int(columns.start), int(rows.start), int(columns.stop), int(rows.stop)


def _read_image(image: Any) -> Image:
    if isinstance(image, (str, Path)):
        from vidapt.io.reader import read_image

        return read_image(Path(image))
    array = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InputError(f"an image must be uint8 (H,W,3) RGB, got {array.dtype} {array.shape}")
    return array


def _batched(frames: Iterable[Any], count: int) -> Iterator[list[Any]]:
    iterator = iter(frames)
    while group := list(itertools.islice(iterator, count)):
        yield group
