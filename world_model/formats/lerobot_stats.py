"""Statistics of a LeRobotDataset's features: of each episode, and of all of them.

Means, standard deviations and extremes are exact; so are an image's quantiles, from a histogram of its 256
levels. (LeRobot 0.4.4 writes wrong standard deviations for images.) Values that are not finite do not count.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_QUANTILE_ROWS = 200_000

Stats = dict[str, list[Any]]


def number_stats(values: Shaped[np.ndarray, "row ..."]) -> Stats:
    """Statistics of a feature's rows; each has the shape of a row, (1,) for scalars."""
    seen = _finite(values)
    low, high = np.nanmin(seen, axis=0), np.nanmax(seen, axis=0)
    stats: Stats = {
        "min": _like(low, values.dtype),
        "max": _like(high, values.dtype),
        "mean": np.nanmean(seen, axis=0).tolist(),
        "std": np.nanstd(seen, axis=0).tolist(),
        "count": [len(values)],
    }
    return stats | _quantiles(seen)


class Totals:
    """Statistics of all episodes, gathered from those of each, one after another."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, list[np.ndarray]]] = {}
        self._levels: dict[str, np.ndarray] = {}
        self._lengths: list[int] = []

    def add(self, length: int, stats: Mapping[str, Stats], levels: Mapping[str, list[list[int]]]) -> None:
        """Take in an episode of `length` rows: its statistics, and the histograms of its images."""
        self._lengths.append(length)
        for name, counts in levels.items():
            self._levels[name] = self._levels.get(name, 0) + np.array(counts, np.int64)
        for name, values in stats.items():
            if name not in levels:
                known = self._numbers.setdefault(name, {key: [] for key in ("min", "max", "mean", "std")})
                for key, kept in known.items():
                    kept.append(np.array(values[key]))

    def stats(self, samples: Mapping[str, Shaped[np.ndarray, "row ..."]]) -> dict[str, Stats]:
        """Statistics of all episodes; the quantiles of numbers are those of `samples` of the rows."""
        total = sum(self._lengths)
        weights = np.array(self._lengths, np.float64) / total
        stats: dict[str, Stats] = {n: image_stats(counts, total) for n, counts in self._levels.items()}
        for name, known in self._numbers.items():
            means, stds = np.stack(known["mean"]), np.stack(known["std"])
            mean = np.tensordot(weights, means, axes=1)
            variance = np.tensordot(weights, stds**2 + (means - mean) ** 2, axes=1)
            stats[name] = {
                "min": np.stack(known["min"]).min(axis=0).tolist(),
                "max": np.stack(known["max"]).max(axis=0).tolist(),
                "mean": mean.tolist(),
                "std": np.sqrt(variance).tolist(),
                "count": [total],
                **_quantiles(_finite(samples[name])),
            }
        return stats


def every_nth(num_rows: int) -> int:
    """Of how many rows one is kept for the quantiles of all episodes."""
    return -(-num_rows // _QUANTILE_ROWS)


def histogram(frames: Shaped[np.ndarray, "row height width channels"]) -> Int[np.ndarray, "channels 256"]:
    """How many pixels of each channel have each level."""
    return np.stack([np.bincount(frames[..., c].reshape(-1), minlength=256) for c in range(frames.shape[-1])])


def image_stats(counts: Int[np.ndarray, "channels 256"], num_frames: int) -> Stats:
    """Statistics of an image feature, scaled to [0, 1], each of shape (channels, 1, 1)."""
    levels = np.arange(256) / 255
    total = counts.sum(axis=1, keepdims=True)
    mean = (counts * levels).sum(axis=1) / total[:, 0]
    std = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total[:, 0])
    there = counts > 0
    values: Mapping[str, Float[np.ndarray, " channels"]] = {
        "min": levels[there.argmax(axis=1)],
        "max": levels[255 - there[:, ::-1].argmax(axis=1)],
        "mean": mean,
        "std": std,
        **{
            name: levels[(np.cumsum(counts, axis=1) < share * total).sum(axis=1).clip(0, 255)]
            for name, share in QUANTILES.items()
        },
    }
    stats: Stats = {name: value.reshape(-1, 1, 1).tolist() for name, value in values.items()}
    return {**stats, "count": [num_frames]}


def _finite(values: Shaped[np.ndarray, "row ..."]) -> Float[np.ndarray, "row ..."]:
    """Values as (row, entries), NaN where they are not finite; entries that never are, are 0."""
    seen = (values[:, None] if values.ndim == 1 else values).astype(np.float64)
    seen[~np.isfinite(seen)] = np.nan
    seen[:, np.isnan(seen).all(axis=0)] = 0.0
    return seen


def _quantiles(seen: Float[np.ndarray, "row ..."]) -> Stats:
    found = np.nanquantile(seen, list(QUANTILES.values()), axis=0)
    return {name: found[i].tolist() for i, name in enumerate(QUANTILES)}


def _like(values: Float[np.ndarray, "..."], dtype: np.dtype) -> list[Any]:
    """Extremes in the feature's own kind of number: true or false, whole, or real."""
    if dtype.kind == "b":
        return values.astype(bool).tolist()
    return values.astype(np.int64).tolist() if dtype.kind in "iu" else values.tolist()
