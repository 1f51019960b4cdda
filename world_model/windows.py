"""Windows of consecutive model steps inside episodes, in a deterministic order."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from .shuffling import Shuffle


class Windows:
    """All windows of `history + horizon` rows, `stride` rows apart, that lie inside one episode.

    Window w is the rows `rows(w)`: the first `history` are given, the last `horizon` are to be imagined.
    The action of row t leads from row t to row t + 1, so that a window's transitions are its rows but the
    last; the last row's action is NaN where the window ends an episode. With a stride, step i takes the
    actions of the `stride` rows from its own on (`action_rows`). Windows may reach up to `pad` rows beyond
    the end of their episode: there they repeat its last row (`is_padding`). Memory grows with episodes, not
    with windows.

    Args:
        offsets: first row of each episode.
        lengths: rows of each episode.
        history: rows of context, at least 1.
        horizon: rows to imagine, 0 or more.
        stride: rows from one row of a window to the next; above 1, a step takes `stride` actions.
        pad: rows by which a window may reach beyond its episode; its first row never does.

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
        pad: int = 0,
    ) -> None:
        if history < 1 or horizon < 0 or stride < 1 or pad < 0:
            raise ValueError(
                "windows need history >= 1, horizon >= 0, stride >= 1 and pad >= 0, "
                f"got {history}, {horizon}, {stride} and {pad}"
            )
        self.length = history + horizon
        self.history = history
        self.horizon = horizon
        self.stride = stride
        self._offsets = np.asarray(offsets, np.int64)
        self._last_rows = self._offsets + np.asarray(lengths, np.int64) - 1
        span = (self.length - 1) * stride + 1
        pad = min(pad, span - 1)
        counts = np.maximum(np.asarray(lengths, np.int64) + pad - span + 1, 0)
        self._ends = np.cumsum(counts)
        self._firsts = self._ends - counts
        if len(self) == 0:
            longest = int(np.max(lengths, initial=0))
            span -= pad
            raise ValueError(f"no episode has the {span} rows that a window spans; the longest has {longest}")

    def __len__(self) -> int:
        """The number of windows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows(self, windows: Int[np.ndarray, "*batch"]) -> Int[np.ndarray, "*batch length"]:
        """The rows of the windows with these indices, 0 to `len(self) - 1`."""
        rows, last = self._unclipped(windows)
        return np.minimum(rows, last)

    def is_padding(self, windows: Int[np.ndarray, "*batch"]) -> Bool[np.ndarray, "*batch length"]:
        """Which rows of the windows lie beyond their episode's end, and repeat its last row."""
        rows, last = self._unclipped(windows)
        return rows > last

    def action_rows(self, windows: Int[np.ndarray, "*batch"]) -> Int[np.ndarray, "*batch length stride"]:
        """The rows whose actions lead from each row of the windows to the next, in order."""
        rows, last = self._unclipped(windows)
        return np.minimum(rows[..., None] + np.arange(self.stride), last[..., None])

    def no_action(
        self, windows: Int[np.ndarray, "*batch"], *, block: bool = False
    ) -> Bool[np.ndarray, "*batch length"] | Bool[np.ndarray, "*batch length stride"]:
        """Which rows of the windows (of `action_rows`, with `block`) lie beyond their episode's end."""
        rows, last = self._unclipped(windows)
        if not block:
            return rows > last
        return rows[..., None] + np.arange(self.stride) > last[..., None]

    def _unclipped(
        self, windows: Int[np.ndarray, "*batch"]
    ) -> tuple[Int[np.ndarray, "*batch length"], Int[np.ndarray, "*batch 1"]]:
        """The rows of the windows as if episodes went on, and the last row of each one's episode."""
        windows = np.asarray(windows, np.int64)
        if windows.size and (windows.min() < 0 or windows.max() >= len(self)):
            raise ValueError(
                f"window indices must be 0 to {len(self) - 1}, got {windows.min()} to {windows.max()}"
            )
        episodes = np.searchsorted(self._ends, windows, side="right")
        starts = self._offsets[episodes] + windows - self._firsts[episodes]
        rows = starts[..., None] + self.stride * np.arange(self.length)
        return rows, self._last_rows[episodes][..., None]

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
        for windows in self.shuffled(
            batch_size, seed=seed, epoch=epoch, rank=rank, num_ranks=num_ranks, keep_last=keep_last
        ):
            yield self.rows(windows)

    def shuffled(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        keep_last: bool = False,
    ) -> Iterator[Int[np.ndarray, " batch"]]:
        """Numbers of the windows of each batch; see `batches`."""
        if batch_size < 1 or not 0 <= rank < num_ranks:
            raise ValueError(
                f"batch_size must be >= 1 and 0 <= rank < num_ranks, got {batch_size}, {rank}, {num_ranks}"
            )
        shuffle, own = Shuffle(len(self), seed, epoch), len(self) // num_ranks
        if own == 0 or (own < batch_size and not keep_last):
            raise ValueError(
                f"{len(self)} windows for {num_ranks} ranks make no batch of {batch_size}: lower batch_size"
            )
        for start in range(0, own, batch_size):
            end = min(start + batch_size, own)
            if keep_last or end - start == batch_size:
                yield shuffle(rank + num_ranks * np.arange(start, end))
