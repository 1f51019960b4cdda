"""The bounds of actions, as far as a dataset says them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from wm_plan.world_model.formats import Source

Bounds = tuple[Float[np.ndarray, " action"], Float[np.ndarray, " action"]]


def action_bounds(source: Source, action: str) -> Bounds | None:
    """Low and high of each entry of the action, from the dataset's recipe or action space; None if unsaid."""
    size = prod(source.columns[action].shape)
    for said in (source.info, source.info.get("recipe"), source.info.get("env_args")):
        if isinstance(said, Mapping):
            for low, high in (
                (said.get("action_low"), said.get("action_high")),
                _box(said.get("action_space")),
            ):
                if bounds := _checked(low, high, size):
                    return bounds
    return None


def given_bounds(text: str, size: int) -> Bounds:
    """Read `LOW,HIGH` (or `LOW:HIGH` of each entry, separated by commas) as the user gives it.

    Raises:
        ValueError: it is neither, or low is not below high.
    """
    try:
        pairs = [tuple(map(float, part.split(":"))) for part in text.split(",")]
        if ":" not in text:
            pairs = [(pairs[0][0], pairs[1][0])] if len(pairs) == 2 else []
        low, high = (np.array(side) for side in zip(*pairs, strict=True))
    except (ValueError, IndexError):
        low, high = np.zeros(0), np.zeros(0)
    if len(low) not in (1, size) or not (low < high).all():
        raise ValueError(
            f"--action-range {text!r} is not LOW,HIGH or {size} times LOW:HIGH; "
            "write it like -1,1 or -1:1,0:2"
        )
    return np.broadcast_to(low, size).astype(np.float64), np.broadcast_to(high, size).astype(np.float64)


def _box(space: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Low and high of a serialised gymnasium Box."""
    if isinstance(space, str):
        try:
            space = json.loads(space)
        except (ValueError, RecursionError):
            return None, None
    if isinstance(space, Mapping) and space.get("type") == "Box":
        return space.get("low"), space.get("high")
    return None, None


def _checked(low: Any, high: Any, size: int) -> Bounds | None:  # noqa: ANN401
    try:
        lows, highs = (np.asarray(side, np.float64).reshape(-1) for side in (low, high))
    except (ValueError, TypeError):
        return None
    if len(lows) not in (1, size) or len(highs) not in (1, size):
        return None
    lows, highs = np.broadcast_to(lows, size), np.broadcast_to(highs, size)
    return (lows, highs) if (lows <= highs).all() else None
