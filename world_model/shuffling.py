"""A shuffle without a table: what stands in a place is computed when it is asked for."""

import numpy as np
from jaxtyping import Int, UInt64

_ROUNDS = 6
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_Numbers = UInt64[np.ndarray, " number"]


class Shuffle:
    """A permutation of 0 to `count - 1` that (seed, epoch) decides; memory does not grow with `count`.

    A Feistel network over the next power of four permutes the numbers; those that land beyond the end go
    through it again until they do not. Source: Black and Rogaway, "Ciphers with arbitrary finite domains",
    CT-RSA 2002 (cycle walking); the round function is SplitMix64's, which is no cipher.
    """

    def __init__(self, count: int, seed: int, epoch: int = 0) -> None:
        """Draw the round keys."""
        self.count = count
        self._half = np.uint64(max(1, (max(1, count - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64)

    def __call__(self, numbers: Int[np.ndarray, " number"]) -> Int[np.ndarray, " number"]:
        """What stands in these places.

        Raises:
            ValueError: a number is not in 0 to `count - 1`.
        """
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self.count:
            raise ValueError(f"places must be 0 to {self.count - 1}")
        places = self._permute(numbers.astype(np.uint64))
        while (beyond := np.flatnonzero(places >= self.count)).size:
            places[beyond] = self._permute(places[beyond])
        return places.astype(np.int64)

    def _permute(self, numbers: _Numbers) -> _Numbers:
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return (left << self._half) | right


def _mixed(values: _Numbers) -> _Numbers:
    """SplitMix64's finaliser: each bit of the result depends on all bits."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
