"""Pretraining by what each place of a frame shows in its plain look, told from it in whatever look.

What is to be told are histograms of gradients, and colours, in a wide, soft window around the place: they
follow smoothly what moves and how it is turned, where a pixel or a narrow patch is either on an object or
off it. From a few hundred labels a linear map reads joint angles off them that it cannot read off pixels.
They are whitened, so that what is small or of a rare colour is told as well as what fills the frame.

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

from .vit import ViTConfig

_BINS = 8
"""Directions of gradients, over the full turn."""

NUM_CHANNELS = _BINS + 3
"""Directions and colours."""

_FLOOR = 1e-3
"""Added to variances before whitening, times the largest."""

NUM_FITTED = 1536
"""Frames of a task that its statistics are taken from."""


@dataclass
class PlainConfig:
    """Sizes and weights.

    Attributes:
        weight: of telling the plain frame; 0 leaves it out.
        batch_size: clips a task and step.
        tasks_per_step: tasks a step, drawn anew; all, where there are no more.
        window: standard deviation of the window around each place, as a fraction of the frame's side.
    """

    weight: float = 1.0
    batch_size: int = 24
    tasks_per_step: int = 4
    window: float = 0.12

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("batch_size", "tasks_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"plain.{name} must be at least 1, got {getattr(self, name)}")
        if not self.weight >= 0:
            raise ValueError(f"plain.weight must be at least 0, got {self.weight}")
        if not 0 < self.window <= 1:
            raise ValueError(f"plain.window must be above 0 and up to 1, got {self.window}")


def soft_histograms(
    frames: Float[Tensor, "frame 3 height width"], grid_size: int, window: float
) -> Float[Tensor, "frame place channel"]:
    """Histograms of gradients and mean colours in Gaussian windows around the places of a grid.

    Args:
        frames: of zero mean and unit variance, or near.
        grid_size: places along a side.
        window: standard deviation of the windows, as a fraction of the frame's side.
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
    rows, columns = (_soft_windows(size, grid_size, window).to(frames) for size in frames.shape[-2:])
    return torch.einsum("nchw,ih,jw->nijc", maps, rows, columns).flatten(1, 2)


def _soft_windows(size: int, grid_size: int, window: float) -> Float[Tensor, "place pixel"]:
    """Weights of the pixels along a side in the window of each place."""
    places = (torch.arange(size) + 0.5) / size
    centres = (torch.arange(grid_size) + 0.5) / grid_size
    weights = torch.exp(-0.5 * ((centres[:, None] - places) / window).square())
    return weights / weights.sum(dim=1).max()


class PlainTargets(nn.Module):
    """Soft histograms of a task's plain frames, as deviations from what is usual at their place."""

    mean: Tensor
    whiten: Tensor

    def __init__(self, grid_size: int, config: PlainConfig) -> None:
        """Build, to be fitted."""
        super().__init__()
        self.grid_size, self.config = grid_size, config
        self.register_buffer("mean", torch.zeros(grid_size**2, NUM_CHANNELS))
        self.register_buffer("whiten", torch.eye(NUM_CHANNELS))

    @torch.no_grad()
    def fit(self, frames: Float[Tensor, "frame 3 height width"]) -> None:
        """Take the mean of each place, and the covariance of channels over all of them."""
        found = self._found(frames)
        self.mean.copy_(found.mean(dim=0))
        deviations = (found - self.mean).flatten(0, 1)
        values, axes = torch.linalg.eigh(deviations.T @ deviations / len(deviations))
        self.whiten.copy_(axes * (values + _FLOOR * values[-1]).clamp(min=1e-12).rsqrt() @ axes.T)

    @torch.no_grad()
    def forward(self, frames: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame place channel"]:
        """What frames show at each place of the grid."""
        return (self._found(frames) - self.mean) @ self.whiten

    def _found(self, frames: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame place channel"]:
        return torch.cat(
            [soft_histograms(part.float(), self.grid_size, self.config.window) for part in frames.split(64)]
        )


class PlainObjective(nn.Module):
    """Tells plain frames place by place, by one linear map of tokens."""

    def __init__(self, encoder: ViTConfig, num_tasks: int, config: PlainConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        self.targets = nn.ModuleList(PlainTargets(encoder.grid_size, config) for _ in range(num_tasks))
        self.reader = nn.Linear(encoder.width, NUM_CHANNELS)

    def forward(
        self,
        task: int,
        tokens: Float[Tensor, "clip token dim"],
        plain: Float[Tensor, "clip frame 3 height width"],
    ) -> Float[Tensor, ""]:
        """Squared error of what clips of one task tell, in whatever look, of their last plain frame."""
        with torch.autocast(tokens.device.type, enabled=False):
            told = self.reader(tokens.float())
            return self.config.weight * F.mse_loss(told, self.targets[task](plain[:, -1]))
