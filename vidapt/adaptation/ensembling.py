"""Pseudo-labels that neighbouring frames agree on: the teacher's probabilities averaged along the optical flow.

What the teacher says of a place changes from frame to frame by chance; the mean over the frames that show it is right
more often (ours; the ensemble over time of video adaptation without its separate propagation network).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from vidapt.flow import dis_flow, forward_backward_valid, sampling_grid


@torch.no_grad()
def mean_over_neighbours(probabilities: Tensor, frames: Tensor) -> Tensor:
    """Mean of each frame's probabilities and those of the frames before and after it in its clip.

    A neighbour counts in the cells where the flow there and back agree. Flow is computed on the host, once for each
    pair of frames and direction, so that a GPU waits once for the frames.

    Args:
        probabilities: float (B,T,C,h,w) on a grid over the frames.
        frames: uint8 (B,T,3,H,W), all frames of a clip under the same geometric augmentation.

    Returns:
        Like ``probabilities``; clips of one frame are as they were.
    """
    if probabilities.shape[1] == 1:
        return probabilities
    grids, valid = _grids(frames, (probabilities.shape[-2], probabilities.shape[-1]))
    total, count = probabilities.clone(), torch.ones_like(probabilities[:, :, :1])
    # direction 0: frames but the last look at the next one; 1: frames but the first look at the one before
    for direction, (here, there) in enumerate(((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1)))):
        given, grid = probabilities[:, there], grids[direction].to(probabilities)
        fetched = F.grid_sample(given.flatten(0, 1), grid.flatten(0, 1), padding_mode="border", align_corners=False)
        known = valid[direction].to(probabilities)[:, :, None]
        total[:, here] += known * fetched.view_as(given)
        count[:, here] += known
    return total / count


def _grids(frames: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sampling grids (2,B,T-1,h,w,2) from each frame to the next and back, and bool (2,B,T-1,h,w) where they hold."""
    host = frames.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
    parts = []
    for clip in host:
        for first, second in pairwise(clip):
            ahead, back = dis_flow(first, second), dis_flow(second, first)
            parts.append(sampling_grid(ahead, forward_backward_valid(ahead, back), size))
            parts.append(sampling_grid(back, forward_backward_valid(back, ahead), size))
    shape = (frames.shape[0], frames.shape[1] - 1, 2)
    grids, valid = (
        torch.stack([torch.from_numpy(part[index]) for part in parts]).unflatten(0, shape).movedim(2, 0)
        for index in (0, 1)
    )
    device = frames.device
    return grids.to(device, non_blocking=True), valid.to(device, non_blocking=True)
