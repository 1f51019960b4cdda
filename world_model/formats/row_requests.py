"""Checking which rows a caller asks of a source, and filling the row after the last action."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from .protocol import Source


def checked_request(
    source: Source, episode: int | np.integer, columns: Sequence[str], start: int, stop: int | None
) -> tuple[int, int]:
    """The rows asked for, `stop` filled in.

    Raises:
        ValueError: the source has no such episode, column or row.
    """
    if not 0 <= episode < len(source.lengths):
        raise ValueError(f"no episode {episode} in {source.path}; it has 0 to {len(source.lengths) - 1}")
    for name in columns:
        if name not in source.columns:
            raise ValueError(f"no column {name!r} in {source.path}; it has {', '.join(source.columns)}")
    rows = int(source.lengths[episode])
    stop = rows if stop is None else stop
    if not 0 <= start <= stop <= rows:
        raise ValueError(f"episode {episode} of {source.path} has rows 0 to {rows}, not {start} to {stop}")
    return start, stop


def after_last(values: Shaped[np.ndarray, "row ..."]) -> Shaped[np.ndarray, "1 ..."]:
    """The row after the last of `values`, which nobody logged: NaN for floats, else the last value again."""
    if values.dtype.kind == "f":
        return np.full((1, *values.shape[1:]), np.nan, values.dtype)
    return values[-1:]


def plain_json(value: Any, depth: int = 0) -> Any:  # noqa: ANN401
    """`value` fit for JSON: numbers that are not finite become None, arrays lists, bytes texts."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict | list | tuple) and depth > 16:
        return None
    if isinstance(value, dict):
        return {str(key): plain_json(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(entry, depth + 1) for entry in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, str | int) or value is None:
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
