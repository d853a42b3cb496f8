"""ACDC: pictures in fog, at night, in rain and in snow, with a clear reference picture of each place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.datasets.miniature.cityscapes import segment_info
from tests.datasets.miniature.cityscapes_labels import IGNORED, LABELS, label_colours, train_ids
from tests.datasets.miniature.scene import Cast, draw_street, hide_labels
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth
from tests.datasets.miniature.writing import id_colours, write_json, write_png

SEQUENCES = {
    "fog": {"train": "GOPR0475", "val": "GOPR0476", "test": "GOPR0477"},
    "night": {"train": "GOPR0351", "val": "GP010376", "test": "GOPR0364"},
    "rain": {"train": "GP010400", "val": "GOPR0402", "test": "GP010571"},
    "snow": {"train": "GOPR0122", "val": "GOPR0606", "test": "GP010607"},
}
CONDITIONS = tuple(SEQUENCES)
FRAMES = (41, 148)
STREET = Cast(
    bands=(23, 11, 21, 22, 8, 7),
    columns=(17,),
    patches=(19, 20, 0),
    crowds=(24,),
    movers=((26, 26000), (26, 26002), (24, 24000), (33, 33001)),
    voids=(0, 0),
)


def build(
    root: Path,
    *,
    split: str = "train",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    panoptic: bool = False,
) -> Truth:
    """Write two pictures per condition of ``split`` (train, val or test) and of its ``_ref`` counterpart.

    The truth tells of the half that ``split`` names, so ``train_ref`` is another valid name. A reference picture shows
    another street; the first of each condition is annotated, the second is not. Nothing of test and test_ref is.
    ``classes`` are train ids with -1 for void. The class train (16) occurs in the first picture in rain only. The
    pictures of a sequence are far apart in time, so each is a video of its own. Objects and crowd are None unless
    ``panoptic`` adds gt_panoptic.

    Folders and names of gt_panoptic follow the description that comes with the data. Assumed are that its JSONs name
    files relative to gt_panoptic and rgb_anon, that image ids are ``{sequence}_frame_{frame}``, category ids label ids
    and segment ids those of Cityscapes, and that groups are crowd segments.
    """
    base = split.removesuffix("_ref")
    truths: dict[str, dict[str, TrueFrame]] = {}
    for half in (base, f"{base}_ref"):
        truths[half] = {}
        entries = {}
        for condition in CONDITIONS:
            frames = _draw(base, half, condition, seed, size)
            labelled = _labelled(half, list(frames))
            for stem, frame in frames.items():
                path = f"rgb_anon/{_place(condition, half, stem)}{_ending('_rgb', half)}_anon.png"
                write_png(root / path, frame.image)
                truths[half][path] = _scored(frame, panoptic) if stem in labelled else hide_labels(frame)
            for stem in labelled:
                _write_labels(root, condition, half, stem, frames[stem])
            entries[condition] = _panoptic_entries(root, condition, half, frames, labelled) if panoptic else {}
        if panoptic:
            _write_panoptic_json(root, half, entries)
    return Truth(root, truths[split], [[path] for path in truths[split]], None)


def _ending(kind: str, half: str) -> str:
    return f"{kind}_ref" if half.endswith("_ref") else kind


def _labelled(half: str, stems: list[str]) -> list[str]:
    if half.startswith("test"):
        return []
    return stems[:1] if half.endswith("_ref") else stems


def _place(condition: str, half: str, stem: str) -> str:
    return f"{condition}/{half}/{stem.split('_')[0]}/{stem}"


def _draw(base: str, half: str, condition: str, seed: int, size: tuple[int, int]) -> dict[str, LabelledFrame]:
    """The two pictures of a condition by ``{sequence}_frame_{frame:06d}``."""
    first = seed + 100 * half.endswith("_ref") + 10 * CONDITIONS.index(condition)
    frames = {}
    for index, number in enumerate(FRAMES):
        with_train = condition == "rain" and index == 0 and not half.endswith("_ref")
        cast = replace(STREET, movers=(*STREET.movers, (31, 31000))) if with_train else STREET
        frame = draw_street(cast, seed=first + index, size=size)
        image = frame.image // 4 if condition == "night" and not half.endswith("_ref") else frame.image
        frames[f"{SEQUENCES[condition][base]}_frame_{number:06d}"] = replace(frame, image=image)
    return frames


def _scored(frame: LabelledFrame, panoptic: bool) -> TrueFrame:
    classes = train_ids(frame.classes).astype(np.int32)
    classes[classes == IGNORED] = -1
    return TrueFrame(frame.image, classes, frame.objects if panoptic else None, frame.crowd if panoptic else None)


def _write_labels(root: Path, condition: str, half: str, stem: str, frame: LabelledFrame) -> None:
    """Write the three label images and, of adverse pictures, the two masks of what cannot be made out."""
    start = f"{root}/gt/{_place(condition, half, stem)}{_ending('_gt', half)}"
    write_png(Path(f"{start}_labelIds.png"), frame.classes.astype(np.uint8))
    write_png(Path(f"{start}_labelTrainIds.png"), train_ids(frame.classes))
    write_png(Path(f"{start}_labelColor.png"), label_colours(frame.classes))
    if not half.endswith("_ref"):
        invalid = np.zeros(frame.classes.shape, np.uint8)
        invalid[:, -len(invalid) // 4 :] = 1
        write_png(Path(f"{start}_invIds.png"), invalid)
        write_png(Path(f"{start}_invGray.png"), invalid * np.uint8(255))


def _panoptic_entries(
    root: Path, condition: str, half: str, frames: dict[str, LabelledFrame], labelled: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Write the panoptic PNGs of a condition; returns the images and annotations of its JSON."""
    height, width = next(iter(frames.values())).classes.shape
    images, annotations = [], []
    for stem, frame in frames.items():
        file_name = f"{_place(condition, half, stem)}{_ending('_rgb', half)}_anon.png"
        images.append({"id": stem, "file_name": file_name, "width": width, "height": height})
        if stem in labelled:
            ids = np.where(frame.objects > 0, frame.objects, frame.classes)
            file_name = f"{_place(condition, half, stem)}{_ending('_gt', half)}_panoptic.png"
            write_png(root / "gt_panoptic" / file_name, id_colours(ids))
            segments = [segment_info(ids, value) for value in np.unique(ids).tolist() if value > 0]
            annotations.append({"image_id": stem, "file_name": file_name, "segments_info": segments})
    return {"images": images, "annotations": annotations}


def _write_panoptic_json(root: Path, half: str, entries: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """Write the JSON of all conditions and, of adverse pictures, one per condition."""
    base = half.removesuffix("_ref")
    name = f"{half}_image_info.json" if base == "test" else f"{base}{_ending('_gt', half)}_panoptic.json"
    folder = root / "gt_panoptic"
    write_json(folder / name, _content([entries[condition] for condition in CONDITIONS], base))
    if not half.endswith("_ref"):
        for condition in CONDITIONS:
            write_json(folder / condition / f"{condition}_{name}", _content([entries[condition]], base))


def _content(parts: list[dict[str, list[dict[str, Any]]]], base: str) -> dict[str, Any]:
    keys = ("images",) if base == "test" else ("images", "annotations")
    categories = [
        {"id": label.id, "name": label.name, "supercategory": label.category, "isthing": int(label.is_thing)}
        for label in LABELS
        if label.train_id != IGNORED
    ]
    return {key: [entry for part in parts for entry in part[key]] for key in keys} | {"categories": categories}
