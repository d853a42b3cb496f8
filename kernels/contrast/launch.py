"""Launch the Triton kernels that prepare operands and compute the losses of the contrastive operations.

Everything has a leading axis of P pairs; the supervised loss is one pair. No host synchronisation, static shapes.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from vidapt.kernels.contrast import kernel, kernel_operand, kernel_sort
from vidapt.kernels.contrast.operands import logit_bound
from vidapt.kernels.tiles import LAUNCH, Tile, interpreted, multiprocessors, targets, tile

LOG2_E = 1.4426950408889634
OPERAND_DTYPES = {"exact": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# The dots need at least 16 features.
MIN_DEPTH = 16
# Classes of operand rows by their bits; the last of each holds everything longer, whose tiles walk in chunks of WIDTH.
DEPTH_CLASSES = {16: (64, 128, 256, 512), 32: (64, 128)}
# Elements of a tile of whole feature rows.
ROW_TILE = 4096
MAX_CHUNKS = 128
SORT_BLOCK = 512
LEAST_CHUNK = 2048
ROW_BLOCK = 128
MOST_SPLITS = 16
# A split of fewer column tiles is not worth its prologue.
TILES_PER_SPLIT = 4
PARTIAL_BYTES = 8 * 2**20


class Settings(NamedTuple):
    """What both directions of one contrast share besides its tensors."""

    temperature: float
    form: str  # "per_positive", "supcon" or "paired"
    skip: str  # the column that is no negative of a row: "none", "self" or "index"
    ignore_label: int
    normalize: bool
    precision: str  # "exact", "fp16" or "bf16"
    sort: bool

    @property
    def scale(self) -> float:
        """What turns inner products into logits in units of log2."""
        return LOG2_E / self.temperature

    @property
    def bound(self) -> float | None:
        """The fixed maximum of those logits, or None where it is not known."""
        natural = logit_bound(self.temperature, self.normalize)
        return None if natural is None else natural * LOG2_E


class Side(NamedTuple):
    """Queries or keys as the kernels read them; sorted or as given.

    features (P,N,DEPTH) in operand dtype; labels (P,N) or None; order (P,N) int32, the caller's row of each operand
    row; start (P,129) int32, the first row of each bucket; both empty unless sorted.
    """

    features: Tensor
    labels: Tensor | None
    order: Tensor
    start: Tensor

    @property
    def rows(self) -> int:
        """How many rows each pair has."""
        return self.features.shape[1]


class Forward(NamedTuple):
    """Losses (P,N) float32 and counted (P,N) bool in the caller's order, and what the backward reads."""

    losses: Tensor
    counted: Tensor
    scalars: Tensor  # (3,P,N) float32
    skip: Tensor  # (P,N) int32


def depth_of(features: int) -> int:
    """Return the padded length of operand rows: a power of two, at least 16."""
    return max(MIN_DEPTH, triton.next_power_of_2(features))


def dot_tile(name: str, features: Tensor) -> Tile:
    """Return the tile of a kernel with dots for operand rows like `features`, WIDTH no wider than the rows."""
    depth, bits = features.shape[-1], 8 * features.element_size()
    group = next((limit for limit in DEPTH_CLASSES[bits] if depth <= limit), DEPTH_CLASSES[bits][-1])
    settings = tile("contrast", name, f"{bits}bit_d{group}")
    return settings | {"WIDTH": min(depth, settings["WIDTH"])}


def dot_precision(features: Tensor) -> str:
    """Return the `input_precision` of the dots; it only matters for float32 operands."""
    three_products = features.dtype == torch.float32 and not interpreted() and "hip" not in targets()
    return "tf32x3" if three_products else "ieee"


def row_block(depth: int) -> int:
    """Return how many whole feature rows one program takes."""
    return max(1, ROW_TILE // depth // (8 if interpreted() else 1))


def split_count(programs: int, columns: int, block: int, bytes_per_split: int) -> int:
    """Return into how many parts the columns are split, so that the programs fill the multiprocessors evenly."""
    most = min(MOST_SPLITS, triton.cdiv(columns, block * TILES_PER_SPLIT), PARTIAL_BYTES // max(1, bytes_per_split))
    units = multiprocessors()
    # Waves of programs, each as long as its share of the columns; a split costs a little of its own.
    return min(
        range(1, max(1, most) + 1), key=lambda splits: triton.cdiv(programs * splits, units) / splits + splits / 64
    )


def sort_rows(labels: Tensor, ignore_label: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return order, place, start and the sorted labels of labels (P,N); see kernel_sort.py."""
    pairs, rows = labels.shape
    chunks = min(MAX_CHUNKS, triton.cdiv(rows, LEAST_CHUNK // (16 if interpreted() else 1)))
    block = SORT_BLOCK // (16 if interpreted() else 1)
    chunk = triton.cdiv(triton.cdiv(rows, chunks), block) * block
    chunks = triton.cdiv(rows, chunk)
    counts = labels.new_empty((pairs, chunks, 128), dtype=torch.int32)
    start = labels.new_empty((pairs, 129), dtype=torch.int32)
    order, place = (labels.new_empty((pairs, rows), dtype=torch.int32) for _ in range(2))
    ordered = torch.empty((pairs, rows), dtype=labels.dtype, device=labels.device)
    strides = labels.stride()
    kernel_sort.count_buckets[(chunks, pairs)](
        labels, *strides, counts, rows, chunk, ignore_label, BLOCK=block, **LAUNCH
    )
    kernel_sort.place_rows[(chunks, pairs)](
        labels, *strides, counts, start, order, place, ordered, rows, chunk, ignore_label,
        CHUNKS=triton.next_power_of_2(chunks), BLOCK=block, **LAUNCH,
    )  # fmt: skip
    return order, place, start, ordered


def prepare_operand(features: Tensor, order: Tensor, settings: Settings) -> Tensor:
    """Return the features (P,N,DEPTH) in operand order and dtype; the tensor itself where it already is that."""
    pairs, rows, length = features.shape
    depth, dtype = depth_of(length), OPERAND_DTYPES[settings.precision]
    as_is = features.dtype == dtype and length == depth and features.is_contiguous()
    if as_is and not (settings.sort or settings.normalize):
        return features
    operand = torch.empty((pairs, rows, depth), dtype=dtype, device=features.device)
    block = row_block(depth)
    kernel_operand.prepare_operand[(triton.cdiv(rows, block), pairs)](
        features, *features.stride(), order, operand, rows, length,
        NORMALIZE=settings.normalize, SORTED=settings.sort, DEPTH=depth, BLOCK=block, **LAUNCH,
    )  # fmt: skip
    return operand


def prepare_side(features: Tensor, labels: Tensor | None, settings: Settings) -> tuple[Side, Tensor]:
    """Return one side as the kernels read it and the sorted place of each of the caller's rows, empty if unsorted."""
    order, place, start = (torch.empty(0, dtype=torch.int32, device=features.device) for _ in range(3))
    if settings.sort and labels is not None:
        order, place, start, labels = sort_rows(labels, settings.ignore_label)
    return Side(prepare_operand(features, order, settings), labels, order, start), place


def prepare_skip(
    query: Side, keys: int, key_place: Tensor, positive: Tensor | None, gate: Tensor | None, settings: Settings
) -> Tensor:
    """Return (P,N) int32: which key column each query skips, -1 for none, -2 for queries that take no part."""
    pairs, rows = query.features.shape[:2]
    skip = torch.empty((pairs, rows), dtype=torch.int32, device=query.features.device)
    block = ROW_BLOCK // (8 if interpreted() else 1)
    kernel_operand.prepare_skip[(triton.cdiv(rows, block), pairs)](
        query.labels, positive, gate, query.order, key_place, skip, rows, keys, settings.ignore_label,
        LABELS=query.labels is not None, GATE=gate is not None, SKIP=settings.skip, SORTED=settings.sort,
        BLOCK=block, **LAUNCH,
    )  # fmt: skip
    return skip


def contrast_losses(
    query: Side, key: Side, skip: Tensor, raw_positive: Tensor | None, length: int, settings: Settings
) -> Forward:
    """Return the losses of prepared queries and keys.

    `raw_positive` (P,N,D) are the caller's positives where they are features; `length` is D before padding.
    """
    device = query.features.device
    (pairs, rows, depth), bound = query.features.shape, settings.bound
    supcon, fixed = settings.form == "supcon", bound is not None
    chosen = dot_tile("sum_rows", query.features)
    programs = pairs * triton.cdiv(rows, chosen["BLOCK_M"])
    splits = split_count(programs, key.rows, chosen["BLOCK_N"], 0)
    partial = torch.empty((4 if supcon else 2, splits, pairs, rows), dtype=torch.float32, device=device)
    shape = dict(SORTED=settings.sort, FIXED=fixed, DEPTH=depth)
    kernel.sum_rows[(triton.cdiv(rows, chosen["BLOCK_M"]), splits, pairs)](
        query.features, key.features, query.labels, key.labels, key.start, skip, partial, rows, key.rows,
        settings.scale, float("-inf") if bound is None else bound, settings.ignore_label, FORM=settings.form,
        LABELS=query.labels is not None, SKIP=settings.skip, PRECISION=dot_precision(query.features),
        **shape, **chosen,
    )  # fmt: skip
    positives, positive_splits = partial, 1
    if settings.form == "per_positive":
        positives = positive_sums(query, key, skip, partial, settings)
        positive_splits = positives.shape[1]
    losses = torch.empty((pairs, rows), dtype=torch.float32, device=device)
    counted = torch.empty((pairs, rows), dtype=torch.bool, device=device)
    scalars = torch.empty((3, pairs, rows), dtype=torch.float32, device=device)
    block = row_block(depth) if settings.form == "paired" else ROW_BLOCK
    strides = (0, 0, 0) if raw_positive is None else raw_positive.stride()
    kernel.finish_rows[(triton.cdiv(rows, block), pairs)](
        query.features, key.features, raw_positive, *strides, query.order, skip, partial, positives, losses, counted,
        scalars, rows, key.rows, length, splits, positive_splits, settings.scale, FORM=settings.form,
        FEATURES=raw_positive is not None, NORMALIZE=settings.normalize, BLOCK=block, **shape, **LAUNCH,
    )  # fmt: skip
    return Forward(losses, counted, scalars, skip)


def positive_sums(query: Side, key: Side, skip: Tensor, partial: Tensor, settings: Settings) -> Tensor:
    """Return the sums over the positives of each row, (3,splits,P,N) float32."""
    pairs, rows, depth = query.features.shape
    chosen = dot_tile("sum_positives", query.features)
    programs = pairs * triton.cdiv(rows, chosen["BLOCK_M"])
    # Sorted, a row tile visits the keys of its own labels only, in most classes less than a quarter of them.
    visited = triton.cdiv(key.rows, 4) if settings.sort else key.rows
    splits = split_count(programs, visited, chosen["BLOCK_N"], 0)
    sums = torch.empty((3, splits, pairs, rows), dtype=torch.float32, device=partial.device)
    kernel.sum_positives[(triton.cdiv(rows, chosen["BLOCK_M"]), splits, pairs)](
        query.features, key.features, query.labels, key.labels, key.start, skip, partial, sums, rows, key.rows,
        partial.shape[1], settings.scale, settings.ignore_label, SKIP=settings.skip, SORTED=settings.sort,
        FIXED=settings.bound is not None, DEPTH=depth, PRECISION=dot_precision(query.features), **chosen,
    )  # fmt: skip
    return sums
