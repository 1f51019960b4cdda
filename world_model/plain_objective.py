"""Pretraining by what a frame shows in its plain look, told from it in whatever look.

What is to be told are histograms of gradients and colours over wide, soft windows: they follow smoothly what
moves and how it is turned, where a pixel or a narrow patch is either on an object or off it. From a few
hundred labels a linear map reads joint angles off them that it cannot read off pixels. The mean token has to
say it: a head over all places lets tokens stay as they were.

Sources: histograms of gradients as targets, MaskFeat, arXiv:2112.09133; a target that is fixed, BEST-RQ,
arXiv:2202.01855.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_BINS = 8
"""Directions of gradients, over the full turn."""

_WINDOWS = 12
"""Windows along a side of the frame."""

NUM_FITTED = 1536
"""Frames of a task that its axes are taken from."""


@dataclass
class PlainConfig:
    """Sizes and weights.

    Attributes:
        weight: of telling the plain frame; 0 leaves it out.
        batch_size: clips a task and step.
        tasks_per_step: tasks a step, drawn anew; all, where there are no more.
        num_axes: principal axes of a task's frames that are told.
        window: standard deviation of the windows, as a fraction of the frame's side.
        whitening: 0 tells each axis as large as it is, 1 all of them alike.
    """

    weight: float = 1.0
    batch_size: int = 24
    tasks_per_step: int = 4
    num_axes: int = 96
    window: float = 0.1
    whitening: float = 0.75

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("batch_size", "tasks_per_step", "num_axes"):
            if getattr(self, name) < 1:
                raise ValueError(f"plain.{name} must be at least 1, got {getattr(self, name)}")
        if not self.weight >= 0:
            raise ValueError(f"plain.weight must be at least 0, got {self.weight}")
        if not 0 < self.window <= 1 or not 0 <= self.whitening <= 1:
            raise ValueError(
                "plain.window must be above 0 and up to 1, and plain.whitening from 0 to 1, "
                f"got {self.window} and {self.whitening}"
            )


def soft_histograms(
    frames: Float[Tensor, "frame 3 height width"], window: float
) -> Float[Tensor, "frame feature"]:
    """Histograms of gradients and mean colours in Gaussian windows all over each frame.

    Args:
        frames: of zero mean and unit variance, or near.
        window: standard deviation of a window, as a fraction of the frame's side.
    """
    across = F.pad(frames[..., :, 2:] - frames[..., :, :-2], (1, 1))
    down = F.pad(frames[..., 2:, :] - frames[..., :-2, :], (0, 0, 1, 1))
    strongest = (across.square() + down.square()).argmax(dim=1, keepdim=True)
    across, down = across.gather(1, strongest)[:, 0], down.gather(1, strongest)[:, 0]
    strength = (across.square() + down.square() + 1e-8).sqrt()
    direction = torch.atan2(down, across) * (_BINS / (2 * math.pi))
    bins = torch.arange(_BINS, device=frames.device).view(1, -1, 1, 1)
    apart = (direction[:, None] - bins + _BINS / 2) % _BINS - _BINS / 2
    maps = torch.cat([F.relu(1 - apart.abs()) * strength[:, None], frames], dim=1)
    rows, columns = (_soft_windows(size, window).to(frames) for size in frames.shape[-2:])
    return torch.einsum("nchw,ih,jw->ncij", maps, rows, columns).flatten(1)


def _soft_windows(size: int, window: float) -> Float[Tensor, "window place"]:
    """Weights of the places along a side in each of the windows."""
    places = (torch.arange(size) + 0.5) / size
    centres = (torch.arange(_WINDOWS) + 0.5) / _WINDOWS
    weights = torch.exp(-0.5 * ((centres[:, None] - places) / window).square())
    return weights / weights.sum(dim=1).max()


class PlainTargets(nn.Module):
    """Where frames of a task are along the principal axes of its plain frames."""

    mean: Tensor
    axes: Tensor

    def __init__(self, config: PlainConfig) -> None:
        """Build, to be fitted."""
        super().__init__()
        self.config = config
        size = (_BINS + 3) * _WINDOWS**2
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("axes", torch.zeros(size, config.num_axes))

    @torch.no_grad()
    def fit(self, frames: Float[Tensor, "frame 3 height width"]) -> None:
        """Take mean and axes; places along them have a mean variance of 1, the more alike the whiter."""
        found = self._found(frames)
        self.mean.copy_(found.mean(dim=0))
        _, values, axes = torch.linalg.svd(found - self.mean, full_matrices=False)
        values = values[: self.axes.shape[1]]
        sizes = (values / values[0]).clamp(min=1e-4) ** (1 - self.config.whitening)
        scale = sizes / sizes.square().mean().sqrt() / values.clamp(min=1e-6) * len(found) ** 0.5
        self.axes[:, : len(values)] = axes[: len(values)].T * scale

    @torch.no_grad()
    def forward(self, frames: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame axis"]:
        """Where frames are along the axes."""
        return (self._found(frames) - self.mean) @ self.axes

    def _found(self, frames: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame feature"]:
        return torch.cat([soft_histograms(part.float(), self.config.window) for part in frames.split(64)])


class PlainObjective(nn.Module):
    """Tells plain frames from the mean token, by a linear map a task."""

    def __init__(self, token_width: int, num_tasks: int, config: PlainConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        self.targets = nn.ModuleList(PlainTargets(config) for _ in range(num_tasks))
        self.readers = nn.ModuleList(nn.Linear(token_width, config.num_axes) for _ in range(num_tasks))

    def forward(
        self,
        task: int,
        tokens: Float[Tensor, "clip token dim"],
        plain: Float[Tensor, "clip frame 3 height width"],
    ) -> Float[Tensor, ""]:
        """Squared error of what clips of one task tell, in whatever look, of their last plain frame."""
        with torch.autocast(tokens.device.type, enabled=False):
            told = self.readers[task](tokens.float().mean(dim=1))
            return self.config.weight * F.mse_loss(told, self.targets[task](plain[:, -1]))
