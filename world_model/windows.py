"""Windows of consecutive model steps inside episodes, in a deterministic order."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int


class Windows:
    """All windows of `history + horizon` rows, `stride` rows apart, that lie inside one episode.

    Window w is the rows `rows(w)`: the first `history` are given, the last `horizon` are to be imagined.
    The action of row t leads from row t to row t + 1, so that a window's transitions are its rows but the
    last; the last row's action is NaN where the window ends an episode. Memory grows with episodes, not with
    windows.

    Args:
        offsets: first row of each episode.
        lengths: rows of each episode.
        history: rows of context, at least 1.
        horizon: rows to imagine, 0 or more.
        stride: rows from one row of a window to the next; above 1, a step takes `stride` actions.

    Raises:
        ValueError: no episode is long enough, or a number is out of its range.
    """

    def __init__(
        self,
        offsets: Int[np.ndarray, " episode"],
        lengths: Int[np.ndarray, " episode"],
        history: int,
        horizon: int,
        stride: int = 1,
    ) -> None:
        if history < 1 or horizon < 0 or stride < 1:
            raise ValueError(
                "windows need history >= 1, horizon >= 0 and stride >= 1, "
                f"got {history}, {horizon} and {stride}"
            )
        self.length = history + horizon
        self.history = history
        self.horizon = horizon
        self.stride = stride
        self._offsets = np.asarray(offsets, np.int64)
        span = (self.length - 1) * stride + 1
        counts = np.maximum(np.asarray(lengths, np.int64) - span + 1, 0)
        self._ends = np.cumsum(counts)
        self._firsts = self._ends - counts
        if len(self) == 0:
            longest = int(np.max(lengths, initial=0))
            raise ValueError(f"no episode has the {span} rows that a window spans; the longest has {longest}")

    def __len__(self) -> int:
        """The number of windows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows(self, windows: Int[np.ndarray, "*batch"]) -> Int[np.ndarray, "*batch length"]:
        """The rows of the windows with these indices, 0 to `len(self) - 1`."""
        windows = np.asarray(windows, np.int64)
        if windows.size and (windows.min() < 0 or windows.max() >= len(self)):
            raise ValueError(
                f"window indices must be 0 to {len(self) - 1}, got {windows.min()} to {windows.max()}"
            )
        episodes = np.searchsorted(self._ends, windows, side="right")
        starts = self._offsets[episodes] + windows - self._firsts[episodes]
        return starts[..., None] + self.stride * np.arange(self.length)

    def sample(self, num_windows: int, rng: np.random.Generator) -> Int[np.ndarray, "window length"]:
        """Rows of `num_windows` windows drawn independently and uniformly."""
        return self.rows(rng.integers(len(self), size=num_windows))

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        keep_last: bool = False,
    ) -> Iterator[Int[np.ndarray, "batch length"]]:
        """Rows of every window once, in an order that (seed, epoch) decides.

        Each of `num_ranks` processes sees its own windows and equally many. What does not fill a last batch
        is left out, unless `keep_last`.

        Raises:
            ValueError: a number is out of its range, or there are fewer windows than make one batch.
        """
        if batch_size < 1 or not 0 <= rank < num_ranks:
            raise ValueError(
                f"batch_size must be >= 1 and 0 <= rank < num_ranks, got {batch_size}, {rank}, {num_ranks}"
            )
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        order = order[: len(order) - len(order) % num_ranks][rank::num_ranks]
        if len(order) == 0 or (len(order) < batch_size and not keep_last):
            raise ValueError(
                f"{len(self)} windows for {num_ranks} ranks make no batch of {batch_size}: lower batch_size"
            )
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            if keep_last or len(batch) == batch_size:
                yield self.rows(batch)
