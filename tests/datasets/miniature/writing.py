"""How arrays become the files of a data set: PNG of every depth, JPEG, JSON and panoptic ids in colours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_png(path: Path, pixels: np.ndarray, palette: list[int] | None = None) -> None:
    """Write uint8 (H,W) as 8-bit grey or with ``palette`` (flat RGB values) as indices, uint16 (H,W) as 16-bit grey,
    uint8 (H,W,3) as RGB and uint8 (H,W,4) as RGBA."""
    if pixels.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"{path.name}: a PNG holds uint8 or uint16, not {pixels.dtype}")
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H,W,3) RGB with little loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95, subsampling=0)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))


def write_lines(path: Path, lines: list[str]) -> None:
    """Write one line per entry, each ended by a line feed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def id_colours(ids: np.ndarray) -> np.ndarray:
    """Segment ids (H,W) as uint8 (H,W,3): R = id % 256, G = id // 256 % 256, B = id // 65536."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def bounding_box(mask: np.ndarray) -> list[int]:
    """Left, top, width and height of the pixels of ``mask`` (H,W)."""
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(rows.min())
    return [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
