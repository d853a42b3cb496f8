"""The least time that an operation can take: what it must compute and move, over what a GPU reaches in practice.

A unit is the 2·P·N·M·D operations of one product of queries with keys. A contrast counts 1 unit forward; backward, with
the similarities computed again, 2 where one set of gradients is wanted (detached keys, or keys that are the queries,
where symmetry gives both sides from one tile) and 3 where queries and keys each get theirs. Our kernels compute the
similarities once for each side and do 4 then; the floor does not excuse that. Each direction has P·N·M exponentials.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ceiling:
    """What a GPU reaches in practice, per second.

    `operations` are those of 16-bit matrix products, `exponentials` base-2 ones in float32, `bytes` those of a copy.
    """

    operations: float
    exponentials: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """What one pass of an operation must do at least."""

    operations: float = 0.0
    exponentials: float = 0.0
    bytes: float = 0.0


# By the name that torch.cuda.get_device_name gives. H200: 8192³ bf16 products of random data, a large copy, and
# 132 multiprocessors x 16 exponentials per clock at 1.83 GHz.
CEILINGS = {"NVIDIA H200": Ceiling(operations=790e12, exponentials=3.9e12, bytes=4.3e12)}


def floor_seconds(passes: Iterable[Work], ceiling: Ceiling) -> float:
    """Return the least time of passes that run one after the other; each is bound by its scarcest resource."""
    return sum(
        max(
            work.operations / ceiling.operations,
            work.exponentials / ceiling.exponentials,
            work.bytes / ceiling.bytes,
        )
        for work in passes
    )


def contrast_forward(pairs: int, queries: int, keys: int, features: int) -> Work:
    """Return the work of the losses: every similarity and its exponential once."""
    logits = float(pairs * queries * keys)
    return Work(operations=2 * features * logits, exponentials=logits)


def contrast_backward(pairs: int, queries: int, keys: int, features: int, both_sides: bool) -> Work:
    """Return the work of the gradients of one side, or of queries and keys from one computation of the similarities."""
    logits = float(pairs * queries * keys)
    return Work(operations=(3 if both_sides else 2) * 2 * features * logits, exponentials=logits)


def paste_inplace(pixels: int, taken: int, image_bytes: int, weight_bytes: int, by_class: bool) -> Work:
    """Return the bytes of a paste into the clip itself.

    The donor's ids, and its semantic where classes are selected, are read everywhere; the donor's values are read, and
    the clip's written, only in the `taken` pixels. `image_bytes` are those of a pixel over all channels.
    """
    looked_at = 4 + by_class
    written = image_bytes + weight_bytes + 1 + 4
    read = image_bytes + weight_bytes + (not by_class)
    return Work(bytes=float(pixels * looked_at + taken * (written + read)))


def paste_copy(pixels: int, taken: int, image_bytes: int, weight_bytes: int, by_class: bool) -> Work:
    """Return the bytes of a paste into new tensors: pixels that are not taken are read and written too."""
    pixel = image_bytes + weight_bytes + 1 + 4
    inplace = paste_inplace(pixels, taken, image_bytes, weight_bytes, by_class)
    return Work(bytes=inplace.bytes + 2.0 * pixel * (pixels - taken))


def instance_stats_bytes(pixels: int, rows: int) -> Work:
    """Return the bytes of the statistics: the ids once, and 28 bytes for each frame and id."""
    return Work(bytes=4.0 * pixels + 28.0 * rows)
