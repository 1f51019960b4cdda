"""Rotary position codes over time, rows and columns, as the V-JEPA 2 family has them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def grid_positions(
    num_tubelets: int, rows: int, columns: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "3 token"]:
    """Time, row and column of every token, in the order of the tokens."""
    axes = (torch.arange(size, dtype=torch.float32, device=device) for size in (num_tubelets, rows, columns))
    return torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")])


def rotary_angles(
    positions: Float[Tensor, "axis token"], head_dim: int, *, interleaved: bool
) -> Float[Tensor, "token head_dim"]:
    """By how much each number of a query or key is turned [rad].

    A head's width is dealt out evenly to three axes, in whole pairs; what is left over is not turned, nor is
    what belongs to an axis that `positions` lacks (tokens that have a time and no place give one row).

    Args:
        positions: of the tokens, axis by axis: time, row, column.
        head_dim: width of an attention head.
        interleaved: each pair of neighbours turns by one angle, as in V-JEPA 2.1. False repeats the list of
            angles instead, so that the two of a pair turn by different ones: what V-JEPA 2 and 2-AC were
            trained with, a slip of the published code that their weights have come to rely on.
    """
    axis_dim = 2 * (head_dim // 3 // 2)
    angles = torch.zeros(positions.shape[1], head_dim, device=positions.device)
    if not axis_dim:
        return angles
    frequencies = 1 / 10_000 ** (torch.arange(axis_dim // 2, device=positions.device) / (axis_dim / 2))
    for axis, position in enumerate(positions):
        turn = position[:, None] * frequencies
        turn = turn.repeat_interleave(2, dim=-1) if interleaved else turn.repeat(1, 2)
        angles[:, axis * axis_dim : (axis + 1) * axis_dim] = turn
    return angles


def rotate(
    x: Float[Tensor, "*batch token head_dim"],
    cos: Float[Tensor, "token head_dim"],
    sin: Float[Tensor, "token head_dim"],
) -> Float[Tensor, "*batch token head_dim"]:
    """Turn queries or keys, two neighbouring numbers at a time."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-second, first], dim=-1).flatten(-2) * sin
