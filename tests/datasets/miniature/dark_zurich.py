"""Dark Zurich: unlabelled drives at night, in twilight and by day, and a few labelled pictures at night."""

from pathlib import Path

import numpy as np

from tests.datasets.miniature.cityscapes_labels import IGNORED, label_colours, train_ids
from tests.datasets.miniature.scene import Cast, draw_street, hide_labels
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth
from tests.datasets.miniature.writing import write_png

_TRAIN = {"night": ("GOPR0351", 3), "twilight": ("GOPR0347", 2), "day": ("GOPR0345", 2)}
_NIGHT = {"val": ("GOPR0356", (321, 324)), "test": ("GP010364", (5, 9))}
_BRIGHTNESS = {"night": 0.2, "twilight": 0.5, "day": 1.0}
STREET = Cast(
    bands=(23, 11, 21, 8, 7),
    columns=(17,),
    patches=(19, 20, 12),
    movers=((26, 1), (24, 2), (25, 3), (32, 4)),
    voids=(0, 0),
)


def build(
    root: Path,
    *,
    split: str = "train",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
) -> Truth:
    """Write all of Dark Zurich; the truth tells of ``split``: train, val or test.

    The training pictures (3 at night, 2 in twilight, 2 by day) and those of test have no labels. val has 2 labelled
    pictures at night; val_ref and test_ref hold their counterparts by day, without labels. ``classes`` are train ids
    with -1 for void; the format tells no instances apart. Pictures are told apart by sequence and frame number but lie
    seconds apart, so each is a video of its own.
    """
    truths: dict[str, dict[str, TrueFrame]] = {"train": {}}
    for light, (sequence, count) in _TRAIN.items():
        for number in range(1, count + 1):
            frame = _draw(seed, number, light, size)
            path = f"rgb_anon/train/{light}/{sequence}/{sequence}_frame_{number:06d}_rgb_anon.png"
            write_png(root / path, frame.image)
            truths["train"][path] = hide_labels(frame)
    for name in _NIGHT:
        truths[name] = _write_night(root, name, seed, size)
    return Truth(root, truths[split], [[path] for path in truths[split]], None)


def _draw(seed: int, number: int, light: str, size: tuple[int, int]) -> LabelledFrame:
    frame = draw_street(STREET, seed=seed + number, size=size)
    image = (frame.image * _BRIGHTNESS[light]).astype(np.uint8)
    return LabelledFrame(image, frame.classes, frame.objects, frame.crowd)


def _write_night(root: Path, name: str, seed: int, size: tuple[int, int]) -> dict[str, TrueFrame]:
    """Write val or test with their references by day; only val is labelled."""
    sequence, numbers = _NIGHT[name]
    truths: dict[str, TrueFrame] = {}
    for number in numbers:
        frame = _draw(seed, number, "night", size)
        stem = f"{sequence}_frame_{number:06d}"
        path = f"rgb_anon/{name}/night/{sequence}/{stem}_rgb_anon.png"
        write_png(root / path, frame.image)
        day = f"rgb_anon/{name}_ref/day/{sequence}_ref/{stem}_ref_rgb_anon.png"
        write_png(root / day, _draw(seed, number + 1000, "day", size).image)
        truths[path] = hide_labels(frame)
        if name == "val":
            _write_labels(root / f"gt/val/night/{sequence}", stem, frame.classes)
            classes = train_ids(frame.classes).astype(np.int32)
            truths[path] = TrueFrame(frame.image, np.where(classes == IGNORED, -1, classes), None, None)
    return truths


def _write_labels(folder: Path, stem: str, classes: np.ndarray) -> None:
    invalid = np.zeros(classes.shape, np.uint8)
    invalid[: len(invalid) // 4] = 1
    write_png(folder / f"{stem}_gt_labelIds.png", classes.astype(np.uint8))
    write_png(folder / f"{stem}_gt_labelTrainIds.png", train_ids(classes))
    write_png(folder / f"{stem}_gt_labelColor.png", label_colours(classes))
    write_png(folder / f"{stem}_gt_invIds.png", invalid)
    write_png(folder / f"{stem}_gt_invGray.png", invalid * np.uint8(255))
