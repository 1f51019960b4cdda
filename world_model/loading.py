"""Batches of windows for PyTorch: shuffled by a seed, dealt to ranks and to loader workers.

batches = WindowBatches(store, store.windows(history=2, horizon=6), batch_size=32)
for epoch in range(10):
    batches.set_epoch(epoch)
    for batch in DataLoader(batches, batch_size=None, num_workers=4):
        batch["pixels"], batch["action"]        # (32, 8, H, W, 3) uint8, (32, 8, A) float
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .store import TrajectoryStore
from .windows import Windows


class WindowBatches(IterableDataset[dict[str, Tensor]]):
    """Whole batches of windows of a store, each window once an epoch.

    A batch holds each column as (batch, step, ...), and `is_padding` (batch, step): rows that repeat the last
    one of an episode, where `windows` reach beyond its end. Actions that nobody took (after the final
    observation, and in padding) are 0, and `action_is_padding` (batch, step) is True there.

    With a window stride of more than 1 a step takes as many actions: `action_block` gives all of them,
    flattened to (batch, step, stride * A), in the order in which they act; without it the first of them.

    Every rank of `torch.distributed` (or of torchrun's RANK and WORLD_SIZE, or as given) sees its own
    windows, and equally many. Workers take turns, so that a `DataLoader(batches, batch_size=None)` gives the
    same batches in the same order with any number of workers.

    Args:
        store: the data.
        windows: which rows belong together.
        batch_size: windows a batch; what does not fill the last one is left out.
        columns: what is read.
        action_block: whether `action` holds each step's `stride` actions.
        seed: together with the epoch it decides the order.
        rank: this process's number; found out when None.
        num_ranks: how many processes there are; found out when None.

    Raises:
        ValueError: a column is missing, or there are fewer windows than make one batch.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        windows: Windows,
        batch_size: int,
        columns: Sequence[str] = ("pixels", "action"),
        *,
        action_block: bool = False,
        seed: int = 0,
        rank: int | None = None,
        num_ranks: int | None = None,
    ) -> None:
        for column in columns:
            if not store.rows_with(column).all():
                raise ValueError(f"some of the data have no column {column!r}")
        self._store, self._windows, self._columns = store, windows, tuple(columns)
        self._batch_size, self._action_block, self._seed = batch_size, action_block, seed
        found_rank, found_ranks = _ranks()
        self._rank = found_rank if rank is None else rank
        self._num_ranks = found_ranks if num_ranks is None else num_ranks
        # Shared memory: workers that live on from epoch to epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        next(self._rows(), None)

    def __len__(self) -> int:
        """Batches an epoch, on this rank."""
        return len(self._windows) // self._num_ranks // self._batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass over the data."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The batches of this worker."""
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        for index, windows in enumerate(self._rows()):
            if index % count == number:
                yield self.read(windows)

    def read(self, windows: np.ndarray) -> dict[str, Tensor]:
        """The batch of windows with these numbers."""
        rows = self._windows.rows(windows)
        padding = self._windows.is_padding(windows)
        batch = {"is_padding": torch.from_numpy(padding)}
        for column in self._columns:
            if column == "action":
                actions, nobody = self._actions(windows)
                batch["action"], batch["action_is_padding"] = (
                    torch.from_numpy(actions),
                    torch.from_numpy(nobody),
                )
            else:
                batch[column] = torch.from_numpy(self._store.read_windows(column, rows))
        return batch

    def _actions(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions (batch, step, ...), and the steps in which an action is missing."""
        rows = self._windows.action_rows(windows) if self._action_block else self._windows.rows(windows)
        nobody: np.ndarray = self._windows.no_action(windows, block=self._action_block)
        read = self._store.read("action", rows.reshape(-1))
        actions = read.reshape(*rows.shape, *read.shape[1:])
        if actions.dtype.kind == "f":
            missing = np.isnan(actions.reshape(*rows.shape, -1)).all(axis=-1)
            nobody = nobody | missing
        actions[nobody] = 0
        if self._action_block:
            batch, steps, stride = rows.shape
            flat = actions.reshape(batch, steps, stride * int(np.prod(actions.shape[3:])))
            return flat, np.asarray(nobody.any(axis=-1))
        return actions, nobody

    def _rows(self) -> Iterator[np.ndarray]:
        """Numbers of the windows of each batch of this rank."""
        return self._windows.shuffled(
            self._batch_size,
            seed=self._seed,
            epoch=int(self._epoch),
            rank=self._rank,
            num_ranks=self._num_ranks,
        )


def _ranks() -> tuple[int, int]:
    """This process's number, and how many there are, as torch or torchrun say it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
