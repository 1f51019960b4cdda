"""Statistics of a column, entry by entry, gathered block by block."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num, Shaped

NUM_BINS = 20
_MAX_ENTRIES = 64


@dataclass
class ColumnStatistics:
    """Least, greatest, mean and standard deviation of each entry of a column, non-finite values left out.

    Attributes:
        count: finite values of each entry.
        non_finite: values that are NaN or infinite, in rows that hold a finite one too or are not an
            episode's last.
    """

    low: Float[np.ndarray, " entry"] = field(default_factory=lambda: np.zeros(0))
    high: Float[np.ndarray, " entry"] = field(default_factory=lambda: np.zeros(0))
    mean: Float[np.ndarray, " entry"] = field(default_factory=lambda: np.zeros(0))
    squares: Float[np.ndarray, " entry"] = field(default_factory=lambda: np.zeros(0))
    count: Int[np.ndarray, " entry"] = field(default_factory=lambda: np.zeros(0, np.int64))
    non_finite: int = 0

    def add(self, values: Num[np.ndarray, "row ..."] | Shaped[np.ndarray, "row ..."]) -> None:
        """Take in the rows of a block (Chan et al.'s update, which stays exact for long data)."""
        rows = values.reshape(len(values), -1).astype(np.float64)
        if not len(self.count):
            entries = rows.shape[1]
            self.low, self.high = np.full(entries, np.inf), np.full(entries, -np.inf)
            self.mean, self.squares = np.zeros(entries), np.zeros(entries)
            self.count = np.zeros(entries, np.int64)
        finite = np.isfinite(rows)
        self.non_finite += int((~finite).sum())
        self.low = np.minimum(self.low, np.where(finite, rows, np.inf).min(axis=0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(finite, rows, -np.inf).max(axis=0, initial=-np.inf))
        new = finite.sum(axis=0)
        total = self.count + new
        mean = np.where(finite, rows, 0).sum(axis=0) / np.maximum(new, 1)
        spread = np.where(finite, rows - mean, 0)
        shift = mean - self.mean
        weight = new / np.maximum(total, 1)
        self.squares += (spread**2).sum(axis=0) + shift**2 * self.count * weight
        self.mean += shift * weight
        self.count = total

    @property
    def std(self) -> Float[np.ndarray, " entry"]:
        """Standard deviation of each entry."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))

    def as_dict(self) -> dict[str, Any]:
        """As JSON; an entry without any finite value is None. A column of many entries is one summary."""
        there = self.count > 0
        if len(self.count) > _MAX_ENTRIES:
            low, high = self.low.min(initial=np.inf), self.high.max(initial=-np.inf)
            return {"min": float(low), "max": float(high), "non_finite": self.non_finite}
        columns = {"min": self.low, "max": self.high, "mean": self.mean, "std": self.std}
        listed = {
            name: [float(value) if known else None for value, known in zip(values, there, strict=True)]
            for name, values in columns.items()
        }
        return {**listed, "non_finite": self.non_finite}


class Histograms:
    """How often each entry of a column lies in each of 20 equal bins from `low` to `high`."""

    def __init__(self, low: Float[np.ndarray, " entry"], high: Float[np.ndarray, " entry"]) -> None:
        """Start empty; an entry that never changes has one bin of width 1 around it."""
        flat = ~(high > low)
        self._low, self._high = np.where(flat, low - 0.5, low), np.where(flat, low + 0.5, high)
        self.counts: Int[np.ndarray, "entry bin"] = np.zeros((len(low), NUM_BINS), np.int64)

    def add(self, values: Num[np.ndarray, "row ..."]) -> None:
        """Count the rows of a block."""
        rows = values.reshape(len(values), -1).astype(np.float64)
        for entry, (low, high) in enumerate(zip(self._low, self._high, strict=True)):
            there = rows[:, entry][np.isfinite(rows[:, entry])]
            if np.isfinite(low) and np.isfinite(high):
                self.counts[entry] += np.histogram(there, NUM_BINS, (low, high))[0]

    def as_list(self) -> list[dict[str, list[float]]]:
        """Edges and counts of each entry."""
        return [
            {"edges": np.linspace(low, high, NUM_BINS + 1).tolist(), "counts": counts.tolist()}
            for low, high, counts in zip(self._low, self._high, self.counts, strict=True)
        ]
