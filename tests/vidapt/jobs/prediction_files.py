"""Truth and predictions as panoptic PNG and JSON, made and changed without the package, and the official"""

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.datasets.miniature import cityscapes, cityscapes_vps
from vidapt.config import Recipe
from vidapt.recipe import load_recipe

STILLS = "benchmarks/synthia_to_cityscapes"
CVRN = "benchmarks/synthia_to_cityscapes_cvrn"
UNSCORED = ("terrain", "truck", "train")


@dataclass(frozen=True)
class Picture:
    """A panoptic picture: its name, ids (H,W) and segments; each segment is a JSON object."""

    name: str
    ids: np.ndarray
    segments: tuple[dict[str, Any], ...]

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> "Picture":
        """Drop the other segments; their pixels become void."""
        kept = tuple(segment for segment in self.segments if wanted(segment))
        return replace(self, ids=np.where(np.isin(self.ids, [s["id"] for s in kept]), self.ids, 0), segments=kept)

    def with_classes(self, category: Callable[[int], int]) -> "Picture":
        """Every category id replaced."""
        return replace(self, segments=tuple({**s, "category_id": category(s["category_id"])} for s in self.segments))

    def renumbered(self, number: Callable[[int], int]) -> "Picture":
        """Every segment id replaced by another positive one."""
        table = {0: 0} | {segment["id"]: number(segment["id"]) for segment in self.segments}
        ids = np.vectorize(table.__getitem__, otypes=[np.int64])(self.ids)
        return replace(self, ids=ids, segments=tuple({**s, "id": table[s["id"]]} for s in self.segments))

    def moved(self, down: int, right: int) -> "Picture":
        """All pixels shifted, round the edges; segments hidden now are not listed."""
        return replace(self, ids=np.roll(self.ids, (down, right), (0, 1)))


def stills_root(root: Path) -> Path:
    """A folder for $VIDAPT_DATA with a miniature of the validation split of Cityscapes."""
    cityscapes.build(root / "cityscapes", split="val", size=(64, 128))
    return root


def videos_root(root: Path) -> Path:
    """A folder for $VIDAPT_DATA with a miniature of Cityscapes-VPS."""
    cityscapes_vps.build(root / "cityscapes_vps", split="val")
    return root


def recipe_for(name: str, root: Path, *changes: str) -> Recipe:
    """A benchmark whose evaluation data lie below ``root``."""
    folder = "cityscapes_vps" if "vps" in name else "cityscapes"
    return load_recipe(name, [f"evaluation.root={root / folder}", *changes])


def official_files(root: Path, folder: Path, *, train_ids: bool = False, split: str = "val") -> Path:
    """The JSON that csCreatePanopticImgs writes below ``folder`` for Cityscapes below ``root``."""
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        convert2panoptic(str(root / "cityscapes" / "gtFine"), str(folder), train_ids, [split])
    return folder / f"cityscapes_panoptic_{split}{'_trainId' if train_ids else ''}.json"


def read_pictures(file: Path) -> list[Picture]:
    """The pictures of a panoptic JSON, which lie in the folder of its name."""
    found = []
    for record in json.loads(file.read_text())["annotations"]:
        colours = np.asarray(Image.open(file.parent / file.stem / record["file_name"]), np.int64)
        ids = colours @ [1, 256, 65536]
        found.append(Picture(record["image_id"], ids, tuple(record["segments_info"])))
    return found


def read_categories(file: Path) -> list[dict[str, Any]]:
    """The categories of a panoptic JSON."""
    return json.loads(file.read_text())["categories"]


def write_pictures(
    file: Path,
    pictures: Iterable[Picture],
    categories: list[dict[str, Any]] | None,
    *,
    place: str | None = None,
    file_name: Callable[[Picture], str] = lambda picture: f"{picture.name}.png",
    image_id: Callable[[Picture], Any] = lambda picture: picture.name,
    grey: bool = False,
    **further: Any,
) -> Path:
    """Write a JSON and its pictures, in the folder of its name unless ``place`` names another; returns the JSON."""
    folder = file.parent / (file.stem if place is None else place)
    records = []
    for picture in pictures:
        name = file_name(picture)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_ids(folder / name, picture.ids, grey=grey)
        records.append({"image_id": image_id(picture), "file_name": name, "segments_info": list(picture.segments)})
    document = {"annotations": records, **further} | ({} if categories is None else {"categories": categories})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    return file


def write_ids(path: Path, ids: np.ndarray, *, grey: bool = False) -> None:
    """Ids as colours, or as 16-bit grey values."""
    if grey:
        Image.fromarray(ids.astype(np.uint16)).save(path)
    else:
        Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(path)


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the content of a JSON file in place."""
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return file


def official_score(truth: Path, predictions: Path, *, without: Iterable[str] = ()) -> Mapping[str, Any]:
    """What evalPanopticSemanticLabeling says, with the classes ``without`` taken out of the truth's JSON.

    Returns:
        ``per_class``: pq, sq, rq, tp, fp and fn of each class; ``All``, ``Things`` and ``Stuff`` as the scorer gives.
    """
    from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import average_pq, pq_compute_single_core

    target, predicted = (json.loads(file.read_text()) for file in (truth, predictions))
    known = {item["id"]: item for item in target["categories"]}
    left_out = {item["id"] for item in target["categories"] if item["name"] in set(without)}
    records = {record["image_id"]: record for record in predicted["annotations"]}
    pairs = []
    for record in target["annotations"]:
        kept = [segment for segment in record["segments_info"] if segment["category_id"] not in left_out]
        pairs.append(({**record, "segments_info": kept}, records[record["image_id"]]))
    folders = truth.parent / truth.stem, predictions.parent / predictions.stem
    with contextlib.redirect_stdout(io.StringIO()):
        counts = pq_compute_single_core(0, pairs, *folders, known)
    results = average_pq(counts, known)
    per_class = {
        item["name"]: {**results["per_class"][label], **{k: getattr(counts[label], k) for k in ("tp", "fp", "fn")}}
        for label, item in known.items()
    }
    return {**results, "per_class": per_class}
