"""Pictures as the control loop takes them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def as_frames(image: npt.ArrayLike, name: str) -> Tensor:
    """Frames (B, H, W, 3) uint8 of one image or of a batch.

    Raises:
        ValueError: another shape or type; `name` says of what.
    """
    frames = torch.as_tensor(np.asarray(image))
    if frames.ndim == 3:
        frames = frames.unsqueeze(0)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(
            f"{name} has shape {tuple(np.shape(image))} and type {frames.dtype};"
            " give (H, W, 3) or (B, H, W, 3) uint8"
        )
    return frames
