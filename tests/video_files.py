"""Small videos and images made at test time; frame i shows its own number, so that a shifted index is seen."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

FASTSTART = {"movflags": "faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
CLUSTERS = {"cluster_time_limit": "400"}
SHARED = Path(__file__).parents[2] / "shared" / "data"


def picture(index: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """Eight bright or dark blocks in the upper rows spell ``index`` in binary; the rest moves."""
    image = np.full((*size, 3), 90, np.uint8)
    width = size[1] // 8
    for bit in range(8):
        image[: size[0] // 2, bit * width : (bit + 1) * width] = 230 if index >> bit & 1 else 20
    place = index * 3 % (size[1] - 8)
    image[size[0] // 2 + 4 : size[0] // 2 + 12, place : place + 8] = (200, 60, 30)
    return image


def number_of(image: np.ndarray) -> int:
    """The number that ``picture`` wrote, read back after compression."""
    width = image.shape[1] // 8
    rows = image[2 : image.shape[0] // 2 - 2]
    return sum(1 << bit for bit in range(8) if rows[:, bit * width + 2 : (bit + 1) * width - 2].mean() > 125)


def make_video(
    path: Path,
    frames: int = 40,
    *,
    size: tuple[int, int] = (64, 96),
    codec: str = "libx264",
    b_frames: int = 2,
    key_every: int = 10,
    first: int = 0,
    stamp: Callable[[int], int] = lambda index: index,
    options: dict[str, str] | None = None,
    rotation: int = 0,
) -> Path:
    """Encode numbered pictures at 25 frames per second; ``stamp`` gives each frame's time in frames."""
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = key_every
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.time_base = Fraction(1, 25)
        if codec == "libx264":
            stream.options = {"crf": "18", "preset": "veryfast", "sc_threshold": "0"}
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24")
            frame.pts, frame.time_base = first + stamp(index), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def cut(path: Path, target: Path, share: float = 0.6) -> Path:
    """Keep the first ``share`` of a file's bytes."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def overwrite(path: Path, target: Path, begin: int, data: bytes) -> Path:
    """Copy a file with some bytes replaced."""
    content = bytearray(path.read_bytes())
    content[begin : begin + len(data)] = data
    target.write_bytes(content)
    return target


def make_images(folder: Path, count: int = 5, *, size: tuple[int, int] = (64, 96), suffix: str = ".png") -> list[Path]:
    """Write numbered pictures as frame0, frame1, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"frame{index}{suffix}" for index in range(count)]
    for index, path in enumerate(paths):
        assert cv2.imwrite(str(path), picture(index, size)[..., ::-1])
    return paths
