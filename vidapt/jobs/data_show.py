"""``vidapt data show``: a contact sheet of frames with their labels drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from vidapt.clip import IGNORE
from vidapt.config import StoredData
from vidapt.datasets.clip_dataset import Labels, Sample
from vidapt.io.images import resize_image, resize_label
from vidapt.io.overlay import contact_sheet, label_picture, titled
from vidapt.jobs.data_open import open_named
from vidapt.jobs.files import write_png
from vidapt.labels import CITYSCAPES, LabelSpace, find_space
from vidapt.mapping import find_mapping

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELL_HEIGHT = 256
"""Height of the frames on the sheet in pixels."""

_VOID = (0, 0, 0)
_NO_INSTANCE = (40, 40, 40)


def run_show(section: StoredData, *, out: Path, labels: str | None = None, samples: int = 8) -> None:
    """Draw frames spread evenly over the split; one row is picture, classes over the picture, instances.

    Args:
        section: The data set.
        out: PNG file.
        labels: Label space to map into; None is the data set's own.
        samples: Number of frames.

    Raises:
        UserError: If files are damaged or classes cannot be mapped.
        StorageError: If the file cannot be written.
    """
    dataset = open_named(section)
    own = dataset.label_space
    space = find_space(labels) if labels is not None else own or CITYSCAPES
    table = None if own is None else find_mapping(own, space, section.mapping).table
    frames = [frame for frame in dataset.frames() if frame.labels or own is None]
    count = min(samples, len(frames))
    picked = [frames[number * len(frames) // count] for number in range(count)]
    rows, seen = [], set()
    for frame in picked:
        sample = dataset.read_frame(frame)
        if table is not None and sample.labels is not None:
            semantic = table[sample.labels.semantic]
            sample = Sample(sample.image, Labels(semantic, sample.labels.instance))
            seen |= set(np.unique(semantic).tolist()) - {IGNORE}
        rows.append([titled(picture, frame.name) for picture in _panels(sample, space, dataset.has_instances)])
    sheet = contact_sheet(rows)
    write_png(out, np.concatenate([sheet, legend(space, sorted(seen), sheet.shape[1])]) if seen else sheet)
    Console(soft_wrap=True, highlight=False).print(f"{out}: {len(picked)} of {len(frames)} frames")


def _panels(sample: Sample, space: LabelSpace, has_instances: bool) -> list[NDArray[np.uint8]]:
    image = resize_image(sample.image, CELL_HEIGHT)
    if sample.labels is None:
        return [image]
    semantic, instance = (resize_label(part, CELL_HEIGHT) for part in (sample.labels.semantic, sample.labels.instance))
    palette = space.palette.copy()
    palette[IGNORE] = _VOID
    classes = np.asarray(cv2.addWeighted(label_picture(semantic, palette), 0.6, image, 0.4, 0), np.uint8)
    if not has_instances:
        return [image, classes]
    return [image, classes, instance_picture(semantic, np.where(space.is_thing[semantic], instance, 0), space)]


def instance_picture(semantic: NDArray[np.uint8], instance: NDArray[np.int32], space: LabelSpace) -> NDArray[np.uint8]:
    """Single instances in colours of their own, crowd regions of things in the class colour striped, the rest dark.

    Args:
        semantic: uint8 (H,W) train ids, 255 = void.
        instance: int32 (H,W) instance ids, 0 = none.
        space: Label space of ``semantic``.

    Returns:
        uint8 (H,W,3) RGB.
    """
    # Multiples of large primes scatter neighbouring ids over all colours.
    colours = np.stack([(instance.astype(np.int64) * prime >> 7) % 200 + 56 for prime in (40503, 60493, 9973)], -1)
    picture = np.where((instance > 0)[..., None], colours, np.array(_NO_INSTANCE)).astype(np.uint8)
    crowd = space.is_thing[semantic] & (instance == 0)
    stripes = (np.indices(semantic.shape).sum(0) // 4) % 2 == 0
    picture[crowd & stripes] = space.palette[semantic[crowd & stripes]]
    return picture


def legend(space: LabelSpace, classes: list[int], width: int) -> NDArray[np.uint8]:
    """Class names on their colours, in as many lines as the width asks for; uint8 (h,width,3) RGB."""
    font, place, lines = ImageFont.load_default(13), 4, 0
    entries = []
    for index in classes:
        name = space.names[index]
        step = 24 + int(font.getlength(name)) + 14
        if place + step > width and place > 4:
            place, lines = 4, lines + 1
        entries.append((place, lines, index, name))
        place += step
    picture = Image.new("RGB", (width, 22 * (lines + 1) + 6), "white")
    draw = ImageDraw.Draw(picture)
    for x, line, index, name in entries:
        y = 4 + 22 * line
        draw.rectangle((x, y, x + 18, y + 16), fill=space.classes[index].colour, outline="black")
        draw.text((x + 24, y + 1), name, fill="black", font=font)
    return np.asarray(picture)
