"""Multi-block masks over a clip's tokens: what the context encoder sees, and what is to be predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass
class MaskConfig:
    """A kind of multi-block mask: the union of `num_blocks` blocks is hidden, through the whole clip.

    Attributes:
        num_blocks: blocks a mask.
        block_scale: area of a block, as a fraction of the frame.
        min_aspect: a block's height over its width is drawn from [min_aspect, 1 / min_aspect], log-uniformly.
        min_visible: least fraction of tokens that stays visible.
    """

    num_blocks: int = 8
    block_scale: float = 0.15
    min_aspect: float = 0.75
    min_visible: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what makes no mask."""
        if self.num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {self.num_blocks}")
        for name in ("block_scale", "min_aspect"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        if not 0 < self.min_visible < 1:
            raise ValueError(f"min_visible must be between 0 and 1, got {self.min_visible}")


SHORT_RANGE = MaskConfig(num_blocks=8, block_scale=0.15)
LONG_RANGE = MaskConfig(num_blocks=2, block_scale=0.7)


def block_mask(
    config: MaskConfig,
    grid_size: int,
    centres: Float[Tensor, "batch cell"],
    generator: torch.Generator,
) -> Bool[Tensor, "batch row column"]:
    """Draw masks over a frame's grid of patches; True is hidden.

    Args:
        config: number and size of the blocks.
        grid_size: patches along a side of the frame.
        centres: how likely each patch of the flattened grid is a block's centre; need not sum to one.
        generator: source of all randomness.

    Source: V-JEPA, arXiv:2404.08471, section 3.2. There centres are uniform; here the caller weighs them,
    since in frames of a robot most patches never change and predicting them teaches nothing.
    """
    batch = len(centres)
    shape = (batch, config.num_blocks)
    centre = torch.multinomial(centres, config.num_blocks, replacement=True, generator=generator)
    log_aspect = (2 * torch.rand(shape, generator=generator) - 1) * math.log(1 / config.min_aspect)
    area = config.block_scale * grid_size**2
    height = (area * log_aspect.exp()).sqrt().round().clamp(1, grid_size)
    width = (area / log_aspect.exp()).sqrt().round().clamp(1, grid_size)
    jitter = torch.rand((2, *shape), generator=generator)
    top = (centre // grid_size - jitter[0] * (height - 1)).round().clamp(min=0).minimum(grid_size - height)
    left = (centre % grid_size - jitter[1] * (width - 1)).round().clamp(min=0).minimum(grid_size - width)
    cells = torch.arange(grid_size)
    rows = (cells >= top[..., None]) & (cells < (top + height)[..., None])
    columns = (cells >= left[..., None]) & (cells < (left + width)[..., None])
    return (rows[..., :, None] & columns[..., None, :]).any(dim=1)


def split_tokens(
    hidden: Bool[Tensor, "batch cell"], num_tubelets: int, config: MaskConfig, generator: torch.Generator
) -> tuple[Int[Tensor, "batch visible"], Int[Tensor, "batch target"]]:
    """Token indices of a clip that stay visible, and those to be predicted, equally many in each row.

    Rows with more visible or hidden cells than the row with the fewest lose some at random, so that the batch
    is rectangular; a row with less than `min_visible` cells visible gets some of its hidden ones back.
    """
    batch, num_cells = hidden.shape
    order = torch.rand((batch, num_cells), generator=generator)
    num_visible = max(int((~hidden).sum(1).min()), math.ceil(config.min_visible * num_cells))
    num_target = max(1, min(int(hidden.sum(1).min()), num_cells - num_visible))
    visible = (order - 2.0 * ~hidden).argsort(dim=1)[:, :num_visible]
    order = order.scatter(1, visible, torch.inf)
    target = (order - 2.0 * hidden).argsort(dim=1)[:, :num_target]
    offsets = num_cells * torch.arange(num_tubelets)[:, None]
    seen, told = ((index.sort(dim=1).values[:, None] + offsets).flatten(1) for index in (visible, target))
    return seen, told
