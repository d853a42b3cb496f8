"""Label pictures that hold a class and the number of an instance, as several data sets encode them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidapt.errors import InputError
from vidapt.labels import LabelSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray


def split_instance_ids(picture: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Label ids and instances of an ``instanceIds`` picture.

    >>> semantic, instance = split_instance_ids(np.array([[7, 26, 26003]], np.int32))
    >>> semantic.tolist(), instance.tolist()
    ([[7, 26, 26]], [[0, 0, 26003]])

    Args:
        picture: int32 (H,W); values from 1000 up are ``label id · 1000 + number``.
    """
    single = picture >= 1000
    return np.where(single, picture // 1000, picture), np.where(single, picture, 0)


def thing_instances(semantic: NDArray[np.int32], number: NDArray[np.int32], space: LabelSpace) -> NDArray[np.int32]:
    """Instances of things, ``class id · 65536 + number``: unique over classes, below 2**24 and never 0.

    >>> from vidapt.labels import find_space
    >>> space = find_space("synthia")
    >>> thing_instances(np.array([[8, 8, 3]], np.int32), np.array([[0, 5, 5]], np.int32), space).tolist()
    [[524288, 524293, 0]]

    Args:
        semantic: int32 (H,W) class ids of ``space``; ids that it does not define are no things.
        number: int32 (H,W) 0..65535, the stored number.
        space: Says which classes are things.

    Returns:
        int32 (H,W), 0 where the class is not a thing.
    """
    is_thing = space.is_thing[np.minimum(semantic, 255)]
    return np.where(is_thing, semantic * 65536 + number, 0)


def tagged_instances(picture: NDArray[np.int32], semantic: NDArray[np.int32], path: Path) -> NDArray[np.int32]:
    """Instances of a colour picture whose red is the class id and whose 256 · green + blue is a number.

    Args:
        picture: int32 (H,W,3) RGB.
        semantic: int32 (H,W) class ids of the semantic label; where they differ from the red channel, edges as a
            rule, the number belongs to another class and the pixel to no instance.
        path: Named in errors.

    Returns:
        int32 (H,W), below 2**24: ``class id · 65536 + number``, which is unique over classes; 0 where the number is 0.

    Raises:
        InputError: If the picture has no colours or another size.
    """
    if picture.ndim != 3 or picture.shape[:2] != semantic.shape:
        raise InputError(
            f"{path} has shape {list(picture.shape)}; an instance picture of {list(semantic.shape)} labels must have "
            f"shape {[*semantic.shape[:2], 3]}"
        )
    red, green, blue = np.moveaxis(picture, -1, 0)
    number = 256 * green + blue
    return np.where((number > 0) & (red == semantic), red * 65536 + number, 0)
