"""Reading an episode block by block: memory stays flat whatever its length and the size of its frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wm_plan.world_model.formats import Source

_BLOCK_BYTES = 16 * 2**20
_MAX_BLOCK_ROWS = 4096
_TEXT_BYTES = 256


def block_rows(source: Source, columns: Sequence[str]) -> int:
    """How many rows of these columns make a block of about 16 MiB; at least 1."""
    row_bytes = sum(_row_bytes(source, name) for name in columns)
    return int(min(_MAX_BLOCK_ROWS, max(1, _BLOCK_BYTES // max(1, row_bytes))))


def blocks(
    source: Source, episode: int, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The first row of each block of an episode, and the columns' values in it."""
    length, size = int(source.lengths[episode]), block_rows(source, columns)
    for start in range(0, length, size):
        yield start, source.read(episode, columns, start, min(start + size, length))


def _row_bytes(source: Source, name: str) -> int:
    column = source.columns[name]
    if column.kind == "text":
        return _TEXT_BYTES
    return np.dtype(column.dtype).itemsize * prod(column.shape)
