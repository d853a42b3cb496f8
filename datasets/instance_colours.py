"""Pictures whose colours hold a class and the number of an instance, as games and simulators write them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidapt.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
