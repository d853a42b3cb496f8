"""VIPSeg: videos in the wild with 16-bit panoptic masks, all splits side by side in the same folders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.datasets.miniature.scene import Cast, draw_street, hide_labels
from tests.datasets.miniature.truth import LabelledFrame, TrueFrame, Truth
from tests.datasets.miniature.writing import id_colours, write_jpeg, write_json, write_lines, write_png

VIDEOS = {
    "train": (("0_wHveSGjXyDY", 1, 3),),
    "val": (("12_1mWNahzcsAc", 2537, 4), ("2295_erx87N1WwWw", 88, 3)),
    "test": (("26_cblDl5vCZnw", 976, 2),),
}
STRIDE = 3
CROSSWALK = 20
STUFF = {12: "pole", 18: "road", 19: "path", CROSSWALK: "crosswalk", 21: "building", 28: "sky", 66: "tree"}
THINGS = {48: "car", 51: "bicycle", 60: "person", 123: "train"}
STREET = Cast(
    bands=(28, 21, 66, 19, 18),
    columns=(12,),
    patches=(-1,),
    movers=((60, 6100), (48, 4903), (48, 4900), (60, 6117), (51, 5200), (123, 12499)),
    voids=(-1,),
)


def build(
    root: Path,
    *,
    split: str = "val",
    seed: int = 0,
    size: tuple[int, int] = (48, 96),
    converted: bool = False,
) -> Truth:
    """Write the videos of all splits and the lists train.txt, val.txt, test.txt; the truth tells of ``split``.

    Pictures are JPEGs, masks 16-bit PNGs of the same stem. ``classes`` are the ids of the published category table,
    which are the class in the mask minus one, with -1 for void (0 in the mask). Objects are the mask values from 125
    on; there is no crowd. Frame numbers start anywhere. The second video of val has smaller frames, and crosswalk
    occurs in its first frame only. Test videos have no masks.

    ``converted`` adds what the official scripts make, with ``images`` in place of ``imgs``: panomasksRGB and
    panoptic_gt_VIPSeg_{train,val}.json, where even the files of images end in .png. Here nothing is resized, and the
    JSON lists only the categories that occur. Assumed: frame numbers have eight digits and a stride of 3.
    """
    pictures = "images" if converted else "imgs"
    frames: dict[str, TrueFrame] = {}
    grouped = []
    for name, entries in VIDEOS.items():
        write_lines(root / f"{name}.txt", [video for video, _, _ in entries])
        videos = {entry[0]: _draw(entry, index, seed, size) for index, entry in enumerate(entries)}
        for video, drawn in videos.items():
            for stem, frame in drawn.items():
                write_jpeg(root / pictures / video / f"{stem}.jpg", frame.image)
                if name != "test":
                    write_png(root / "panomasks" / video / f"{stem}.png", mask_values(frame))
            if name == split:
                shown = {f"{pictures}/{video}/{stem}.jpg": frame for stem, frame in drawn.items()}
                frames |= {path: hide_labels(frame) if split == "test" else frame for path, frame in shown.items()}
                grouped.append(list(shown))
        if converted and name != "test":
            _write_converted(root, name, videos)
    return Truth(root, frames, grouped, None)


def _draw(entry: tuple[str, int, int], index: int, seed: int, size: tuple[int, int]) -> dict[str, LabelledFrame]:
    """The frames of a video by the stem of their files."""
    _, first, count = entry
    frames = {}
    for time in range(count):
        cast = replace(STREET, patches=(-1, CROSSWALK)) if index == 1 and time == 0 else STREET
        frame = draw_street(cast, seed=seed + first, time=time, size=(size[0] - 4 * index, size[1]))
        frames[f"{first + STRIDE * time:08d}"] = frame
    return frames


def mask_values(frame: LabelledFrame) -> np.ndarray:
    """100 * class + k for things, the class for stuff, 0 for void, classes counted from 1: uint16 (H,W)."""
    return np.where(frame.objects > 0, frame.objects, frame.classes + 1).astype(np.uint16)


def _write_converted(root: Path, name: str, videos: dict[str, dict[str, LabelledFrame]]) -> None:
    """Write panomasksRGB and the JSON of a split."""
    entries, annotations = [], []
    for index, (video, frames) in enumerate(videos.items()):
        images, frame_annotations = [], []
        for stem, frame in frames.items():
            height, width = frame.classes.shape
            images.append({"id": stem, "width": width, "height": height, "file_name": f"{stem}.png"})
            values = mask_values(frame).astype(np.int32)
            factor = 1031 + index
            write_png(root / "panomasksRGB" / video / f"{stem}.png", id_colours(values * factor))
            segments = [_segment(values, value, factor) for value in np.unique(values[values > 0]).tolist()]
            frame_annotations.append({"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments})
        entries.append({"video_id": video, "images": images})
        annotations.append({"video_id": video, "annotations": frame_annotations})
    names = STUFF | THINGS
    categories = [{"id": key, "name": names[key], "isthing": int(key in THINGS)} for key in sorted(names)]
    content = {"videos": entries, "annotations": annotations, "categories": categories}
    write_json(root / f"panoptic_gt_VIPSeg_{name}.json", content)


def _segment(values: np.ndarray, value: int, factor: int) -> dict[str, Any]:
    """One segment; its id is the mask value times a factor of the video, as ids need not mean anything."""
    category = (value if value < 125 else value // 100) - 1
    area = int((values == value).sum())
    return {"id": value * factor, "category_id": category, "iscrowd": 0, "area": area}
