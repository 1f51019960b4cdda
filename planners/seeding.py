"""Noise that depends on the seed, the batch row and the plan's number, and on nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """One well-mixed 64-bit number from several whole numbers (SplitMix64's finalizer, chained)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 30)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def row_seeds(seed: int | Sequence[int] | None, batch_size: int) -> list[int]:
    """One seed a batch row: from one number for the whole batch, or from one number a row.

    A row that is given its own number draws the same noise alone and in any batch. None draws a fresh seed.

    Raises:
        ValueError: there are not `batch_size` numbers.
    """
    if seed is None:
        seed = torch.Generator().seed()
    if isinstance(seed, int):
        return [mix(seed, row) for row in range(batch_size)]
    if len(seed) != batch_size:
        raise ValueError(
            f"{len(seed)} seeds do not fit batch_size={batch_size}; give one number, or one a row"
        )
    return [mix(int(number)) for number in seed]


class RowNoise:
    """Standard normal numbers for every batch row from that row's own generator.

    The buffer is used again by the next draw of the same shape.
    """

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self._device = torch.device(device)
        self._dtype = dtype
        self._generators: list[torch.Generator] = []
        self._buffers: dict[tuple[int, ...], tuple[Tensor, list[Tensor]]] = {}

    def seed(self, seeds: Sequence[int]) -> None:
        """Start every row's sequence of numbers afresh."""
        while len(self._generators) < len(seeds):
            self._generators.append(torch.Generator(self._device))
        for generator, seed in zip(self._generators, seeds, strict=False):
            generator.manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Independent numbers of mean 0 and std 1, of a shape (batch, ...)."""
        buffer, rows = self._buffer(shape)
        for row, generator in zip(rows, self._generators, strict=False):
            row.normal_(generator=generator)
        return buffer

    def uniform(self, *shape: int) -> Tensor:
        """Independent numbers in [0, 1), of a shape (batch, ...)."""
        buffer, rows = self._buffer(shape)
        for row, generator in zip(rows, self._generators, strict=False):
            row.uniform_(generator=generator)
        return buffer

    def _buffer(self, shape: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
        if shape not in self._buffers:
            if len(self._buffers) >= 32:
                self._buffers.clear()
            buffer = torch.empty(shape, dtype=self._dtype, device=self._device)
            self._buffers[shape] = buffer, list(buffer)
        return self._buffers[shape]
