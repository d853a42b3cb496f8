"""Stage ``cache`` of `vidapt bench pipeline`: frames from the read-through cache, beside decoding PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory, mkdtemp
from time import thread_time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from PIL import Image

from vidapt.clip import IGNORE
from vidapt.datasets.cityscapes import Cityscapes
from vidapt.datasets.sample_store import decode_sample
from vidapt.datasets.stored import ReadOptions
from vidapt.errors import VidaptError
from vidapt.jobs.bench_frames import LabelledFrame, street_frame
from vidapt.jobs.bench_stage import StageResult, Target, Timing, one_thread
from vidapt.jobs.progress import progress_bar
from vidapt.labels import find_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidapt.clip import Clip

    Step = Callable[[int], object]

SIZE = (1024, 2048)
"""Height and width of the stored pictures, those of Cityscapes."""
HEIGHT = 512
"""Height of the frames that training gets."""
FRAMES = 3
SEED = 4
CACHED, FIRST_PASS, PNG = "cached", "first pass, written", "PNG"
PICTURES = " (no labels)"
"""Ending of the names of those ways that read pictures only."""
KEPT_PICTURE, LABEL_FILE = "kept picture alone", "label PNG alone"
SPEEDUP = 3.0
MEAN_ERROR = 2.0
"""Grey values by which a kept picture may differ on average: JPEG costs 1.1 to 1.4, a shift by one pixel 2.2."""

_EGO_VEHICLE = 1
_PNG_LEVEL = 4


def measure(quick: bool) -> StageResult:
    """Compare cached frames of a generated data set with the original ones, then time both on one thread.

    Args:
        quick: Fewer repetitions.

    Raises:
        VidaptError: If a cached frame is wrong; nothing is timed then.
    """
    with TemporaryDirectory() as folder:
        root = Path(folder, "cityscapes")
        write_cityscapes(root, FRAMES)
        return measure_folder(root, Path(folder), 3 if quick else 15)


def measure_folder(root: Path, folder: Path, rounds: int) -> StageResult:
    """Compare and time the pictures of ``root``, as ``measure`` does.

    A sample is one clip of one frame as training gets it, and the time that a core works on it; waiting for the disk
    does not count. The ways take turns, so that what else disturbs the machine hits them alike.

    Args:
        root: Cityscapes in its official layout.
        folder: Caches are made in it.
        rounds: Samples of each frame.

    Raises:
        VidaptError: If a cached frame is wrong; nothing is timed then.
    """
    caches = {labelled: Path(mkdtemp(dir=folder)) for labelled in (True, False)}
    with one_thread():
        for labelled, cache in caches.items():
            check(root, cache, labelled)
        rows = _time(root, caches, folder, rounds)
    milliseconds = {row.name: row.median_ms for row in rows}
    speedups = {kind: milliseconds[PNG + kind] / milliseconds[CACHED + kind] for kind in ("", PICTURES)}
    return StageResult(
        title=f"Reading labelled pictures of {SIZE[0]}x{SIZE[1]} at height {HEIGHT}, time of one core",
        about=_about(_opened(root), caches[True], milliseconds),
        checked="hits equal to misses, labels to the original ones, pictures within the error of JPEG",
        rows=rows,
        baseline=PNG,
        targets=tuple(
            Target(f"frames per second, cached over PNG{kind}", speedup, SPEEDUP, at_least=True)
            for kind, speedup in speedups.items()
        ),
    )


def _opened(root: Path, cache: Path | None = None, *, labelled: bool = True) -> Cityscapes:
    return Cityscapes(root, labelled=labelled, options=ReadOptions(height=HEIGHT, cache=cache))


def _kept(cache: Path) -> dict[Path, int]:
    """The files of a cache, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in sorted(cache.rglob("*.frame"))}


def _about(dataset: Cityscapes, cache: Path, milliseconds: dict[str, float]) -> dict[str, int]:
    files = [sum((dataset.root / path).stat().st_size for path in (it.image, *it.labels)) for it in dataset.frames()]
    rates = {f"frames/s {name}": 1e3 / milliseconds[name] for name in (PNG, CACHED, PNG + PICTURES, CACHED + PICTURES)}
    sizes = {
        "frames": len(files),
        "bytes a frame as PNG": mean(files),
        "bytes a frame in the cache": mean(path.stat().st_size for path in _kept(cache)),
        f"% of {CACHED}: {KEPT_PICTURE}": 100 * milliseconds[KEPT_PICTURE] / milliseconds[CACHED],
        f"% of {PNG}: {LABEL_FILE}": 100 * milliseconds[LABEL_FILE] / milliseconds[PNG],
    }
    return {name: round(value) for name, value in (sizes | rates).items()}


def check(root: Path, cache: Path, labelled: bool) -> None:
    """Compare all frames read without the cache, read into it and read from it, which is left full.

    Raises:
        VidaptError: If a hit differs from the miss or is none, a label from the original or a picture by too much.
    """
    plain, first = _opened(root, labelled=labelled), _opened(root, cache, labelled=labelled)
    misses = [first[item] for item in range(len(first))]
    written = _kept(cache)
    if len(written) != len(plain):
        raise VidaptError(f"the cache keeps {len(written)} of {len(plain)} frames; no speed is shown")
    later = _opened(root, cache, labelled=labelled)
    for item, miss in enumerate(misses):
        _check_frame(item, plain[item], miss, later[item])
    if _kept(cache) != written:
        raise VidaptError("the cache writes frames anew that it keeps; no speed is shown")


def _check_frame(item: int, plain: Clip, miss: Clip, hit: Clip) -> None:
    if not (torch.equal(miss.frames, hit.frames) and _same_labels(miss, hit)):
        raise VidaptError(f"frame {item} is another when it comes from the cache; no speed is shown")
    if not _same_labels(plain, hit):
        raise VidaptError(f"the cached labels of frame {item} are not the original ones; no speed is shown")
    error = float((plain.frames.float() - hit.frames.float()).abs().mean())
    if not error <= MEAN_ERROR:
        raise VidaptError(
            f"the cached picture of frame {item} differs by {error:.2f} grey values on average, allowed: {MEAN_ERROR}; "
            "no speed is shown"
        )


def _same_labels(one: Clip, other: Clip) -> bool:
    if one.target is None or other.target is None:
        return one.target is other.target
    fields = ("semantic", "instance", "labelled")
    return all(torch.equal(getattr(one.target, name), getattr(other.target, name)) for name in fields)


def _time(root: Path, caches: dict[bool, Path], folder: Path, rounds: int) -> tuple[Timing, ...]:
    ways = _ways(root, caches, folder)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    count = len(_opened(root))
    with progress_bar("measuring", rounds) as advance:
        for _ in range(rounds):
            for name, start in ways.items():
                step = start()
                seconds[name] += [_seconds(step, item) for item in range(count)]
            advance()
    return tuple(Timing.of(name, samples) for name, samples in seconds.items())


def _seconds(step: Step, item: int) -> float:
    """Seconds that this thread runs."""
    start = thread_time()
    step(item)
    return thread_time() - start


def _ways(root: Path, caches: dict[bool, Path], folder: Path) -> dict[str, Callable[[], Step]]:
    """By name a function that starts a pass over the data and returns what takes the number of the next frame."""
    dataset = _opened(root)
    frames = list(dataset.frames())
    pictures = [path.read_bytes() for path in _kept(caches[False])]
    return {
        **_passes("", root, caches[True], folder, labelled=True),
        **_passes(PICTURES, root, caches[False], folder, labelled=False),
        KEPT_PICTURE: lambda: lambda item: decode_sample(pictures[item]),
        LABEL_FILE: lambda: lambda item: dataset.read_labels(frames[item]),
    }


def _passes(kind: str, root: Path, full: Path, folder: Path, *, labelled: bool) -> dict[str, Callable[[], Step]]:
    """Passes through a full cache, an empty one and none."""

    def begin(cache: Path | None) -> Step:
        return _opened(root, cache, labelled=labelled).__getitem__

    return {
        CACHED + kind: lambda: begin(full),
        FIRST_PASS + kind: lambda: begin(Path(mkdtemp(dir=folder))),
        PNG + kind: lambda: begin(None),
    }


def write_cityscapes(root: Path, count: int) -> None:
    """Write generated street scenes in the official layout of Cityscapes, files of about the size of the real ones.

    Args:
        root: Folder to write.
        count: Number of frames, all in ``train``.
    """
    kinds = {"leftImg8bit": "leftImg8bit", "gtFine": "gtFine_instanceIds"}
    places = {kind: root / kind / "train/street" for kind in kinds}
    for place in places.values():
        place.mkdir(parents=True)
    for index in range(count):
        frame = street_frame(SEED, index, SIZE)
        drawn: dict[str, NDArray[Any]] = {"leftImg8bit": street_picture(frame, index), "gtFine": instance_ids(frame)}
        for kind, ending in kinds.items():
            path = places[kind] / f"street_{index:06d}_000019_{ending}.png"
            Image.fromarray(drawn[kind]).save(path, compress_level=_PNG_LEVEL)


def instance_ids(frame: LabelledFrame) -> NDArray[np.uint16]:
    """Labels as Cityscapes stores them (H,W): label ids, of single things ``label id · 1000 + number``.

    Their borders are smooth like those of drawn polygons.
    """
    space = find_space("cityscapes")
    table = space.map_to(find_space("cityscapes_ids")).astype(np.int32)
    table[IGNORE] = _EGO_VEHICLE
    raw = table[frame.semantic]
    ids = np.where(space.is_thing[frame.semantic], 1000 * raw + frame.instance, raw).astype(np.uint16)
    return np.asarray(cv2.medianBlur(ids, 5), np.uint16)


def street_picture(frame: LabelledFrame, seed: int) -> NDArray[np.uint8]:
    """A picture of the labelled street, uint8 (H,W,3) RGB: colours of classes and things, texture, noise of a camera.

    Amplitudes are such that PNG needs as many bytes as for real Cityscapes pictures, about 2.2 million.
    """
    rng = np.random.default_rng(seed)
    height, width = frame.semantic.shape
    shades = 40 + find_space("cityscapes").palette[frame.semantic] / 2 + frame.instance[..., None] * 37 % 41
    picture = cv2.GaussianBlur(shades.astype(np.float32), (0, 0), 1.0)
    for cell in (2, 4, 8, 16, 64):
        texture = rng.standard_normal((height // cell, width // cell), np.float32) * 0.9 * np.sqrt(cell)
        picture += cv2.resize(texture, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    grain = cv2.GaussianBlur(rng.standard_normal((height, width), np.float32), (0, 0), 0.6)
    tint = cv2.resize(rng.standard_normal((height // 2, width // 2, 3), np.float32), (width, height))
    return np.clip(picture + 1.7 * grain[..., None] + 0.9 * tint + 0.5, 0, 255).astype(np.uint8)
