"""Segmenting video: network, stabiliser, fusion and tracker joined into a stream with bounded state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor

from vidapt.clip import FIRST_THING_ID, PanopticFrame
from vidapt.config import InferenceConfig, TrackingConfig
from vidapt.errors import CheckpointError, ConfigError, InputError, UserError, VidaptError
from vidapt.io.images import resize_image
from vidapt.io.resize import resize_panoptic
from vidapt.labels import LabelSpace, space_map
from vidapt.models.fusion import assign_tracks, fuse
from vidapt.models.instance.center_offset import CenterOffsetHead
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
        inference: Input height, smoothing, batch size, and how the network runs.
        embedding_threshold: Cosine that the calibration found, or None where embeddings separate badly.
        space: Label space of the results; classes are mapped by name and their probabilities summed. None keeps the
            network's own.
        device: Where the network runs; None picks a GPU if there is one.

    Raises:
        ConfigError: If no class of the network has a counterpart in ``space``.
        UserError: If the device does not exist.
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
        self.device = find_device(device)
        self.network = network.to(self.device).eval()
        self.space = space or network.space
        self.tracking = tracking or TrackingConfig()
        self.inference = inference or InferenceConfig()
        self.embedding_threshold = embedding_threshold
        if self.inference.compile:
            compile_parts(self.network)
        same = self.space == network.space
        self._mapping = None if same else mapping_matrix(network.space, self.space).to(self.device)

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
            InputError: If the input cannot be read; damage in the middle is raised after the frames before it.
        """
        from vidapt.io.reader import open_video

        with open_video(video, start=start, stop=stop, stride=stride) as reader:
            for frame, _ in self.segment_reader(reader):
                yield frame

    def segment_reader(self, reader: Reader) -> Iterator[tuple[PanopticFrame, Image]]:
        """Yield (panoptic frame, image) for the decodable frames of an open reader; holes age the tracks."""
        stream = self.stream(stride=reader.selection.stride)
        for group in _batched((frame for frame in reader if frame.ok), self.inference.batch):
            images = [frame.image for frame in group]
            times = [frame.time for frame in group]
            frames = stream.push_clip(images, indices=[frame.index for frame in group], times=times)
            yield from zip(frames, images, strict=True)

    def segment_image(self, image: Image | str | Path | Any) -> PanopticFrame:
        """Segment one image: uint8 (H,W,3) RGB array, PIL image or path."""
        return self.stream().push(_read_image(image))

    def stream(self, *, stride: int = 1) -> Stream:
        """Start a stream: push frames one by one or in clips.

        Args:
            stride: Distance of the indices of frames that follow each other; a larger one is a gap.
        """
        return Stream(self, stride)

    def running(self) -> AbstractContextManager[Any]:
        """Context in which the network runs: without gradients, in ``inference.precision``."""
        stack = ExitStack()
        stack.enter_context(torch.no_grad())
        half = self.inference.precision == "bf16"
        stack.enter_context(torch.autocast(self.device.type, torch.bfloat16, enabled=half))
        return stack

    def network_outputs(self, images: Sequence[Image]) -> list[FrameOutput]:
        """Run the network on frames of one size: per frame its probabilities and instance fields."""
        frames = torch.from_numpy(np.stack([resize_image(image, self.inference.height) for image in images]))
        with self.running():
            output = self.network(frames.permute(0, 3, 1, 2).contiguous().to(self.device))
            probabilities = self.network.probabilities(output)
        return [FrameOutput(_one_frame(output, index), probabilities[index]) for index in range(len(images))]

    def to_space(self, probabilities: Tensor) -> Tensor:
        """Sum (C,h,w) network probabilities into the classes of the result's label space."""
        if self._mapping is None:
            return probabilities
        return torch.einsum("oc,chw->ohw", self._mapping, probabilities)


@dataclass(frozen=True)
class FrameOutput:
    """What the network says about one frame: its output (N = 1) and class probabilities (C,h,w) at stride 4."""

    output: NetworkOutput
    probabilities: Tensor


class Stream:
    """A video being segmented frame by frame; all state lives here and is bounded.

    Args:
        segmenter: What segments the frames; it may serve several streams.
        stride: Distance of the indices of frames that follow each other.
    """

    def __init__(self, segmenter: Segmenter, stride: int = 1) -> None:
        self._segmenter = segmenter
        self._stride = stride
        self._stabiliser = Stabiliser(segmenter.inference.smoothing, warp=segmenter.inference.warp)
        self._tracker = new_tracker(segmenter.tracking, len(segmenter.space), segmenter.embedding_threshold)
        self._last: int | None = None
        self._size: tuple[int, int] | None = None

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
            frames: uint8 (H,W,3) RGB arrays; all frames of a stream have one size.
            indices: Increasing frame numbers; the default counts on. A gap ages the tracks.
            times: Seconds; the default is the index.

        Raises:
            InputError: If a frame has another type or size or the numbers do not fit; the stream is as before.
        """
        images = [_check_image(frame) for frame in frames]
        if not images:
            return []
        self._check_sizes(images)
        numbers = self._numbers(len(images), indices)
        seconds = [float(number) for number in numbers] if times is None else list(times)
        if len(seconds) != len(images):
            raise InputError(f"{len(images)} frames came with {len(seconds)} times; give one per frame")
        outputs = self._segmenter.network_outputs(images)
        self._size = (images[0].shape[0], images[0].shape[1])
        return [
            self._step(image, output, number, second)
            for image, output, number, second in zip(images, outputs, numbers, seconds, strict=True)
        ]

    def _check_sizes(self, images: Sequence[Image]) -> None:
        sizes = dict.fromkeys([*([] if self._size is None else [self._size]), *(image.shape[:2] for image in images)])
        if len(sizes) > 1:
            first, second, *_ = sizes
            raise InputError(
                f"a frame is {second[1]}x{second[0]} but those before are {first[1]}x{first[0]}; "
                "frames of a stream must share one size: resize them, or reset() the stream for a new video"
            )

    def _numbers(self, count: int, indices: Sequence[int] | None) -> list[int]:
        """Frame numbers of the next ``count`` frames."""
        first = 0 if self._last is None else self._last + self._stride
        if indices is None:
            return list(range(first, first + count * self._stride, self._stride))
        numbers = [int(index) for index in indices]
        if len(numbers) != count:
            raise InputError(f"{count} frames came with {len(numbers)} indices; give one per frame")
        known = numbers if self._last is None else [self._last, *numbers]
        for before, after in pairwise(known):
            if after <= before:
                raise InputError(f"frame {after} follows frame {before}; indices of a stream must increase")
        return numbers

    def reset(self) -> None:
        """Forget everything: the next frame starts a new video."""
        self._stabiliser.reset()
        self._tracker.reset()
        self._last = self._size = None

    def state_dict(self) -> dict[str, Any]:
        """Plain arrays and numbers that continue the stream elsewhere."""
        own = {"last": self._last, "size": self._size}
        return {"stabiliser": self._stabiliser.state_dict(), "tracker": self._tracker.state_dict()} | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            CheckpointError: If a part is missing or does not fit.
        """
        missing = {"stabiliser", "tracker", "last", "size"} - set(state)
        if missing:
            raise CheckpointError(f"stream state lacks {', '.join(sorted(missing))}; another version wrote it")
        self._stabiliser.load_state_dict(state["stabiliser"])
        self._tracker.load_state_dict(state["tracker"])
        self._last = state["last"]
        self._size = None if state["size"] is None else tuple(state["size"])

    def _calmed(
        self, probabilities: Tensor, maps: Tensor | None, image: Image, gap: int
    ) -> tuple[Tensor, Tensor | None, bool]:
        """Probabilities (C,h,w) and maps (1,M,h,w) of the instance head after the past had its say, and scene cuts."""
        if maps is None:
            calm, cut = self._stabiliser.update(probabilities, image, frame_gap=gap)
            return calm, None, cut
        calm, cut = self._stabiliser.update(torch.cat([probabilities, maps[0]]), image, frame_gap=gap)
        return calm[: len(probabilities)], calm[None, len(probabilities) :], cut

    def _step(self, image: Image, frame: FrameOutput, index: int, time: float) -> PanopticFrame:
        gap = self._stride if self._last is None else index - self._last
        self._last = index
        segmenter, network = self._segmenter, self._segmenter.network
        options = segmenter.inference
        with segmenter.running():
            maps = network.instance_maps(frame.output) if options.warp else None
        probabilities, maps, cut = self._calmed(frame.probabilities, maps, image, gap)
        if cut:
            self._tracker.scene_cut()
        full = network.upsample(probabilities[None], frame.output.size)
        with segmenter.running():
            (instances,) = network.instances(frame.output, full, maps=maps)
        fused = fuse(
            segmenter.to_space(full[0]),
            instances,
            segmenter.space.is_thing,
            stuff_area=options.stuff_area,
            min_area=options.instance_area,
            min_score=segmenter.tracking.low_score,
        )
        # The tracker's memory counts frames that were asked for, so that a large stride does not outrun it.
        tracked = self._tracker.update(Detections.from_fused(fused), frame_gap=-(-gap // self._stride))
        ids, segments = assign_tracks(fused, tracked.ids, tracked.categories)
        found = PanopticFrame(index, time, fused.semantic, ids, segments)
        return resize_panoptic(found, (image.shape[0], image.shape[1]))


def compile_parts(network: PanopticNetwork) -> None:
    """Let torch.compile run the parts of a network that take most of its time, in place; weights keep their names."""
    for part in (network.encoder, network.semantic, network.projection):
        part.compile()
    if isinstance(network.instance, CenterOffsetHead):
        network.instance.compile()


def find_device(device: torch.device | str | None) -> torch.device:
    """The device that a name such as ``cpu``, ``cuda`` or ``cuda:1`` means; None and ``auto`` pick a GPU if there is.

    Raises:
        UserError: If the name is unknown or torch sees no such device.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise UserError(f"device {str(device)!r} is not known; use cpu, cuda, cuda:N or auto")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device {found} was asked for, but torch sees {count} GPUs; use cpu or auto")
    return found


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
        UserError: If the device does not exist.
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


def mapping_matrix(source: LabelSpace, target: LabelSpace) -> Tensor:
    """float32 (C_target, C_source) with 1 where a source class belongs to a target class.

    Raises:
        ConfigError: If none does.
    """
    table = space_map(source, target)[: len(source)]
    matrix = torch.zeros(len(target), len(source))
    for own, other in enumerate(table):
        if other < len(target):
            matrix[int(other), own] = 1
    if not matrix.any():
        raise ConfigError(
            f"no class of {source.name!r} is one of {target.name!r} ({', '.join(target.names)}); "
            "rename classes or give them synonyms"
        )
    return matrix


def _read_image(image: Any) -> Image:
    if isinstance(image, (str, Path)):
        from vidapt.io.reader import read_image

        return read_image(Path(image))
    return _check_image(image.convert("RGB") if isinstance(image, PillowImage.Image) else image)


def _check_image(image: Any) -> Image:
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise InputError(f"a frame must be a uint8 array (H,W,3) in RGB order, got {array.dtype} {array.shape}")
    return np.ascontiguousarray(array)


def _batched(frames: Iterable[Any], count: int) -> Iterator[list[Any]]:
    """Groups of up to ``count`` frames; a failure of the source is raised after the frames that came before it."""
    group: list[Any] = []
    failure: VidaptError | None = None
    try:
        for frame in frames:
            group.append(frame)
            if len(group) == count:
                yield group
                group = []
    except VidaptError as error:
        failure = error
    if group:
        yield group
    if failure is not None:
        raise failure
