"""Hard limits on actions: box bounds and rate limits, as a projection of whole sequences."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor


class ActionBounds:
    """The box that every action lies in, exactly, in the planner's float type.

    Bounds that the float type cannot hold are rounded inwards.

    Args:
        action_space: a gymnasium `Box` (anything with `low` and `high`) or a pair (low, high) of (A,) arrays.

    Raises:
        ValueError: the bounds are missing, not finite, not one-dimensional, or empty.
    """

    def __init__(
        self, action_space: object, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        low, high = _low_high(action_space)
        if low.ndim != 1 or low.shape != high.shape or low.size == 0:
            raise ValueError(
                f"Action bounds have shapes {low.shape} and {high.shape}; give both one shape (A,)"
            )
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(f"Action bounds low={low}, high={high} are not finite; give a bounded Box")
        if not (low < high).all():
            raise ValueError(f"Action bounds low={low}, high={high} are empty; give low < high")
        self.low = _inwards(low, dtype, np.inf).to(device)
        self.high = _inwards(high, dtype, -np.inf).to(device)
        self.centre = (self.low + self.high) / 2
        self.half_range = (self.high - self.low) / 2

    @property
    def action_dim(self) -> int:
        """Numbers in one action."""
        return self.low.numel()

    def clamp(self, actions: Float[Tensor, "... action"]) -> Float[Tensor, "... action"]:
        """Move actions inside, wherever they are computed."""
        low, high = self.low.to(actions.device), self.high.to(actions.device)
        return torch.minimum(torch.maximum(actions, low), high)


class SequenceLimits:
    """Projects flat action sequences (B, N, H * A) into bounds and rate limits, in place.

    Both sets are convex, so means of projected sequences stay inside (up to rounding, which projecting them
    again removes). The rate projection goes forward in time: each action is moved as near to its wish as its
    predecessor allows.

    Args:
        rate_limit: largest change of each action number from one model step to the next, in env units: a
            number, or one per action number; None for no limit.
    """

    def __init__(self, bounds: ActionBounds, horizon: int, rate_limit: npt.ArrayLike | None = None) -> None:
        self.horizon = horizon
        self.low = bounds.low.repeat(horizon)
        self.high = bounds.high.repeat(horizon)
        self.action_dim = bounds.action_dim
        same = bool((bounds.low == bounds.low[0]).all() and (bounds.high == bounds.high[0]).all())
        # One pair of numbers clamps several times faster than tensors do.
        self._scalar = (bounds.low[0].item(), bounds.high[0].item()) if same else None
        self.rate = None if rate_limit is None else _rate(rate_limit, bounds)

    def __call__(
        self,
        sequences: Float[Tensor, "batch candidate flat"],
        previous_action: Float[Tensor, "batch action"] | None = None,
        prefix: Float[Tensor, "batch flat_prefix"] | None = None,
    ) -> Float[Tensor, "batch candidate flat"]:
        """Move `sequences` inside the limits, in place.

        Args:
            sequences: changed in place.
            previous_action: the last executed action, that the first step may not jump away from; a row of
                NaN has none.
            prefix: actions already committed; every candidate starts with them.
        """
        committed = 0 if prefix is None else prefix.shape[1]
        if prefix is not None:
            sequences[:, :, :committed] = prefix.unsqueeze(1)
        if self._scalar is not None:
            sequences.clamp_(*self._scalar)
        else:
            torch.clamp(sequences, self.low, self.high, out=sequences)
        if self.rate is not None:
            self._limit_rate(sequences, self.rate, previous_action, committed // self.action_dim)
        return sequences

    def _limit_rate(
        self, sequences: Tensor, rate: Tensor, previous_action: Tensor | None, first: int
    ) -> None:
        steps = sequences.view(*sequences.shape[:2], self.horizon, self.action_dim)
        if first == 0 and previous_action is not None:
            before = previous_action.unsqueeze(1)
            unknown = before.isnan()
            lowest = (before - rate).masked_fill(unknown, -torch.inf)
            highest = (before + rate).masked_fill(unknown, torch.inf)
            steps[:, :, 0] = steps[:, :, 0].clamp(lowest, highest)
        for step in range(max(first, 1), self.horizon):
            before = steps[:, :, step - 1]
            steps[:, :, step] = steps[:, :, step].clamp(before - rate, before + rate)


def _low_high(action_space: object) -> tuple[np.ndarray, np.ndarray]:
    if hasattr(action_space, "low") and hasattr(action_space, "high"):
        low, high = action_space.low, action_space.high
    elif isinstance(action_space, (tuple, list)) and len(action_space) == 2:
        low, high = action_space
    else:
        raise ValueError(
            f"Cannot read action bounds from {action_space!r}; give a gymnasium Box or a pair (low, high)"
        )
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


def _inwards(bound: np.ndarray, dtype: torch.dtype, towards: float) -> Tensor:
    """`bound` in `dtype`, moved one step `towards` the inside wherever rounding took it outside."""
    rounded = torch.as_tensor(bound).to(dtype)
    exact = torch.as_tensor(bound)
    outside = rounded.double() < exact if towards > 0 else rounded.double() > exact
    return torch.where(outside, torch.nextafter(rounded, torch.full_like(rounded, towards)), rounded)


def _rate(rate_limit: npt.ArrayLike, bounds: ActionBounds) -> Tensor:
    rate = torch.as_tensor(np.asarray(rate_limit, dtype=np.float64)).to(bounds.low)
    if rate.ndim > 1 or rate.numel() not in {1, bounds.action_dim} or not bool((rate > 0).all()):
        raise ValueError(
            f"rate_limit={rate_limit!r} is not allowed; give 1 or {bounds.action_dim} numbers greater than 0"
        )
    # Rounding a + rate may overstep by one unit in the last place: stay that much inside.
    slack = 4 * torch.finfo(rate.dtype).eps * torch.maximum(bounds.low.abs(), bounds.high.abs())
    return (rate - slack).clamp(min=0)
