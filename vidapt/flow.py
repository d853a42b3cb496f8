"""Dense optical flow between two frames, warping along it, and where it can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from vidapt.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Preset = Literal["ultrafast", "fast", "medium"]

_PRESETS: dict[str, int] = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
_SMALLEST_SIDE = 32
_LONGEST_ASPECT = 32


def dis_flow(frame: NDArray[np.uint8], other: NDArray[np.uint8], preset: Preset = "fast") -> NDArray[np.float32]:
    """Optical flow from ``frame`` to ``other`` by dense inverse search (Kroeger et al., 2016; OpenCV).

    What is at ``(x, y)`` in ``frame`` is at ``(x, y) + flow[y, x]`` in ``other``.

    Args:
        frame: uint8 (H,W,3) RGB or (H,W) grey.
        other: uint8, same shape.
        preset: Quality: "ultrafast", "fast" or "medium".

    Returns:
        float32 (H,W,2) displacement in pixels, x first.

    Raises:
        UserError: If the frames differ in size or are not uint8 images, or the preset is unknown.
    """
    if preset not in _PRESETS:
        raise UserError(f"unknown DIS preset {preset!r}; allowed are {', '.join(_PRESETS)}")
    if frame.shape != other.shape:
        raise UserError(f"optical flow needs two frames of one size, got {frame.shape} and {other.shape}")
    first, second = _padded_grey(frame), _padded_grey(other)
    # OpenCV's type stubs demand an array here; but an array would be taken as an initial flow.
    no_initial_flow: Any = None
    flow = cv2.DISOpticalFlow.create(_PRESETS[preset]).calc(first, second, no_initial_flow)
    return np.ascontiguousarray(flow[: frame.shape[0], : frame.shape[1]])


def _padded_grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey frame, its border repeated where it is too small or too narrow: OpenCV's DIS crashes on such frames."""
    if frame.dtype != np.uint8 or frame.size == 0 or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)):
        raise UserError(f"optical flow needs uint8 (H,W,3) or (H,W) frames, got {frame.dtype} {frame.shape}")
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else frame
    height, width = grey.shape
    least = max(_SMALLEST_SIDE, -(-max(height, width) // _LONGEST_ASPECT))
    below, right = max(0, least - height), max(0, least - width)
    if below or right:
        grey = cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return np.asarray(grey, np.uint8)


def warp_nearest(labels: NDArray[Any], flow: NDArray[np.float32], *, fill: int = 0) -> NDArray[Any]:
    """Fetch labels along the flow: the result at ``(x, y)`` is the label nearest to ``(x, y) + flow[y, x]``.

    With the flow from frame t to frame t-1 this brings the labels of t-1 onto frame t.

    Args:
        labels: Any dtype, (H,W).
        flow: float32 (H,W,2) pixels, x first.
        fill: Value where the flow leaves the frame.

    Returns:
        Same dtype and shape as ``labels``.
    """
    inside, row, column = _nearest_pixel(flow)
    return np.where(inside, labels[row, column], labels.dtype.type(fill))


def inside_frame(flow: NDArray[np.float32]) -> NDArray[np.bool_]:
    """bool (H,W): where ``warp_nearest`` finds a pixel, that is, where the flow does not leave the frame."""
    return _nearest_pixel(flow)[0]


def _nearest_pixel(flow: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp]]:
    """Whether the flow ends inside the frame, and the row and column where it does (0 elsewhere)."""
    height, width = flow.shape[:2]
    column = np.rint(flow[..., 0] + np.arange(width, dtype=np.float32))
    row = np.rint(flow[..., 1] + np.arange(height, dtype=np.float32)[:, None])
    inside = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
    return inside, np.where(inside, row, 0).astype(np.intp), np.where(inside, column, 0).astype(np.intp)


def forward_backward_valid(flow: NDArray[np.float32], back: NDArray[np.float32]) -> NDArray[np.bool_]:
    """bool (H,W): where going along ``flow`` and returning along ``back`` ends near the start.

    ``|f(x) + b(x + f(x))|² < 0.01 (|f|² + |b|²) + 0.5`` (Sundaram, Brox and Keutzer, 2010); False where the flow
    leaves the frame.

    Args:
        flow: float32 (H,W,2) from a frame to another.
        back: float32 (H,W,2) from the other frame to the first.
    """
    height, width = flow.shape[:2]
    column = flow[..., 0] + np.arange(width, dtype=np.float32)
    row = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    returned = cv2.remap(back, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gap = np.square(flow + returned).sum(-1)
    length = np.square(flow).sum(-1) + np.square(returned).sum(-1)
    return inside_frame(flow) & (gap < 0.01 * length + 0.5)


def checked_dis_flow(
    frame: NDArray[np.uint8], other: NDArray[np.uint8], preset: Preset = "fast"
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Flow from ``frame`` to ``other``, and where the flow back agrees with it.

    Returns:
        ``dis_flow(frame, other)`` float32 (H,W,2) and bool (H,W), False where occluded, lost or outside.
    """
    flow = dis_flow(frame, other, preset)
    return flow, forward_backward_valid(flow, dis_flow(other, frame, preset))


def sampling_grid(
    flow: NDArray[np.float32], valid: NDArray[np.bool_], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where the cells of a coarser grid over a frame find themselves in the other frame.

    Args:
        flow: float32 (H,W,2) pixels, x first.
        valid: bool (H,W), where the flow can be trusted.
        size: Rows h and columns w of the grid, which covers the same frame.

    Returns:
        float32 (h,w,2), x and y of the middle of each cell in the other frame, -1..1 from border to border as
        ``torch.nn.functional.grid_sample`` takes them (``align_corners=False``); and bool (h,w), whether more than half
        of the cell's pixels are valid.
    """
    (height, width), (rows, columns) = flow.shape[:2], size
    steps = cv2.resize(flow, (columns, rows), interpolation=cv2.INTER_AREA).reshape(rows, columns, 2)
    share = cv2.resize(valid.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA).reshape(rows, columns)
    x = (np.arange(columns, dtype=np.float32) + 0.5) / columns + steps[..., 0] / width
    y = ((np.arange(rows, dtype=np.float32) + 0.5) / rows)[:, None] + steps[..., 1] / height
    return np.stack([2 * x - 1, 2 * y - 1], axis=-1), share > 0.5
