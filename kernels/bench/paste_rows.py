"""The rows that measure instance pasting (K1), on label maps of streets."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from vidapt.kernels.bench.floors import Work, paste_copy, paste_inplace
from vidapt.kernels.bench.gates import Answer, Gate, exact_gate
from vidapt.kernels.bench.paste_baselines import (
    Clip,
    PasteInputs,
    loop_paste,
    loop_paste_inplace,
    taken_by_map,
    where_paste,
    where_paste_inplace,
)
from vidapt.kernels.bench.rows import OURS, Provider, Row, Streets, halvings
from vidapt.kernels.bench.stats_rows import MOST_IDS, SIZES, size_name
from vidapt.kernels.paste import paste_instances

CLASSES = 19
STUFF = 11  # the first train ids of Cityscapes
CHANNELS = 3
NEW, INPLACE = "new tensors", "in place"
PARTS = ("image", "semantic", "ids", "weight")

KINDS = (("fp32", 5), ("fp32", 20), ("fp32", 60), ("bf16", 20), ("uint8", 20))  # of the image; percent taken
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "uint8": torch.uint8}


@dataclass(frozen=True)
class PasteRow(Row):
    """A clip of T frames HxW and a donor of which `percent` of the pixels are taken, with weights of pixels."""

    modes: ClassVar[tuple[str, ...]] = (NEW, INPLACE)
    baseline: ClassVar[str] = "eager where"
    group: ClassVar[str] = "Paste"

    height: int
    width: int
    frames: int
    dtype: str
    percent: int

    def shape(self) -> dict[str, int | float | str]:
        """Return frames T, height H, width W and the image's dtype."""
        return {"T": self.frames, "H": self.height, "W": self.width, "dtype": self.dtype}

    def scaled(self, limit: int) -> "PasteRow":
        """Divide H and W by one power of two until T·H·W is at most `limit`."""
        factor = halvings(self.frames * self.height * self.width, limit, by=2)
        return replace(self, height=self.height // factor, width=self.width // factor)

    def small(self, device: torch.device) -> None:
        """The row itself is judged."""

    def inputs(self, device: torch.device, seed: int, streets: Streets) -> PasteInputs:
        """Return two streets with random images; instances are taken from large to small, then stuff, to the share."""
        generator = torch.Generator(device).manual_seed(seed)
        clip, donor = (self._clip(streets, 2 * seed + side, device, generator) for side in range(2))
        selected, selected_class = choose(donor[1], donor[2], self.percent / 100)
        taken = int(taken_by_map(donor[1], donor[2], selected, selected_class).sum())
        offset = torch.full((1,), MOST_IDS, dtype=torch.int32, device=device)
        return PasteInputs(clip, donor, selected, selected_class, offset, taken)

    def providers(self, device: torch.device, compiled: str | None) -> list[Provider]:
        """Return ours, `torch.where` eager and compiled, the loop of DACS, and on a GPU our reference."""
        gpu = device.type == "cuda"
        made = [
            _paste_provider(OURS, our_paste, our_paste_inplace, "triton" if gpu else "reference"),
            _paste_provider("eager where", where_paste, where_paste_inplace),
        ]
        if compiled is not None:
            new = torch.compile(where_paste, dynamic=False, mode=compiled)
            inplace = torch.compile(where_paste_inplace, dynamic=False, mode=compiled)
            made.append(replace(_paste_provider("compiled where", new, inplace), compiles=True))
        made.append(_paste_provider("DACS loop", loop_paste, loop_paste_inplace))
        if gpu:
            made.append(_paste_provider("reference", our_paste, our_paste_inplace))
        return made

    def judge(self, problem: str, inputs: PasteInputs) -> Callable[[Provider], Gate]:
        """Compare every element with `torch.where`, in both modes."""
        truth = both_modes(where_paste, where_paste_inplace, inputs)
        return lambda provider: exact_gate(problem, provider.judged_answer(inputs), truth)

    def work(self, mode: str, inputs: PasteInputs) -> tuple[Work, ...]:
        """Return the bytes that must move for the pixels that are really taken."""
        pixels = self.frames * self.height * self.width
        image = CHANNELS * inputs.clip[0].element_size()
        count = paste_inplace if mode == INPLACE else paste_copy
        return (count(pixels, inputs.taken, image, inputs.clip[3].element_size(), inputs.selected_class is not None),)

    def measured(self, inputs: PasteInputs) -> dict[str, int | float | str]:
        """Return the percentage of the donor's pixels that are really taken."""
        return {"taken": round(100 * inputs.taken / (self.frames * self.height * self.width), 1)}

    def kept_bytes(self, mode: str, inputs: PasteInputs) -> int:
        """Return the bytes of the new clip."""
        return 0 if mode == INPLACE else sum(part.numel() * part.element_size() for part in inputs.clip)

    def _clip(self, streets: Streets, world: int, device: torch.device, generator: torch.Generator) -> Clip:
        street = streets(world, self.frames, self.height, self.width)
        shape = 1, self.frames, CHANNELS, self.height, self.width
        image = (255 * torch.rand(shape, generator=generator, device=device)).to(DTYPES[self.dtype])
        semantic, ids = (labels[None].to(device) for labels in street)
        return image, semantic, ids, torch.rand(ids.shape, generator=generator, device=device)


def choose(semantic: Tensor, ids: Tensor, share: float) -> tuple[Tensor, Tensor | None]:
    """Return which ids (1,61), and which classes (1,19) if these do not suffice, cover about `share` of the pixels.

    The largest that still fits is taken first; classes are stuff, so that no pixel is taken twice.
    """
    wanted = share * ids.numel()
    sizes = torch.bincount(ids.flatten().long(), minlength=MOST_IDS + 1)[: MOST_IDS + 1]
    sizes[0] = 0
    selected, covered = _fill(sizes.tolist(), wanted)
    chosen = torch.tensor([selected], device=ids.device)
    if covered > 0.9 * wanted:
        return chosen, None
    stuff = torch.bincount(semantic[ids == 0].flatten().long(), minlength=CLASSES)[:CLASSES]
    stuff[STUFF:] = 0
    classes, _ = _fill(stuff.tolist(), wanted - covered)
    return chosen, torch.tensor([classes], device=ids.device)


def _fill(sizes: list[int], wanted: float) -> tuple[list[bool], int]:
    """Return which sizes to take, and their sum, to stay at most a twentieth above what is wanted."""
    chosen, covered = [False] * len(sizes), 0
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        if sizes[index] and covered + sizes[index] <= 1.05 * wanted:
            chosen[index], covered = True, covered + sizes[index]
    return chosen, covered


def our_paste(inputs: PasteInputs, inplace: bool = False) -> Clip:
    """Paste as the training step does."""
    image, semantic, ids, weight = inputs.clip
    donor_image, donor_semantic, donor_ids, donor_weight = inputs.donor
    pasted = paste_instances(
        image,
        semantic,
        ids,
        donor_image,
        donor_semantic,
        donor_ids,
        inputs.selected,
        selected_class=inputs.selected_class,
        id_offset=inputs.id_offset,
        weight=weight,
        donor_weight=donor_weight,
        inplace=inplace,
    )
    return tuple(part for part in pasted if part is not None)


def our_paste_inplace(inputs: PasteInputs) -> None:
    """Paste into the clip itself."""
    our_paste(inputs, inplace=True)


def both_modes(
    new: Callable[[PasteInputs], Clip], inplace: Callable[[PasteInputs], None], inputs: PasteInputs
) -> Answer:
    """Return what both modes make of copies of the inputs, by name."""
    copy = replace(inputs, clip=tuple(part.clone() for part in inputs.clip))
    inplace(copy)
    answers = {NEW: new(inputs), INPLACE: copy.clip}
    return {f"{name}, {mode}": part for mode, parts in answers.items() for name, part in zip(PARTS, parts, strict=True)}


def _paste_provider(
    name: str,
    new: Callable[[PasteInputs], Clip],
    inplace: Callable[[PasteInputs], None],
    kernels: str = "reference",
) -> Provider:
    return Provider(name, {NEW: new, INPLACE: inplace}, partial(both_modes, new, inplace), kernels=kernels)


def paste_rows() -> Iterator[PasteRow]:
    """Yield each size with three shares of taken pixels in float32, and the other types at 20 %."""
    for height, width, frames in SIZES:
        for dtype, percent in KINDS:
            name = f"K1.{size_name(height, width, frames)}.{dtype}.{percent}"
            yield PasteRow(name, f"{percent} % of a donor clip", height, width, frames, dtype, percent)
