"""A run's `metrics.jsonl` once more as tensorboard's scalars, for those who look at curves there."""

from __future__ import annotations

import importlib.util
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .world_model.training_state import METRICS_NAME, Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

FOLDER_NAME = "tensorboard"


def check_tensorboard() -> None:
    """Refuse to go on without the package.

    Raises:
        ValueError: it is not installed; says which extra brings it.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError("tensorboard=true needs tensorboard. Install it: pip install 'wm-plan[train]'")


def delete_scalars(folder: Path) -> None:
    """Delete what a run left for tensorboard in `folder`, and nothing else."""
    for events in (folder / FOLDER_NAME).glob("events.out.tfevents.*"):
        events.unlink()
    with suppress(OSError):
        (folder / FOLDER_NAME).rmdir()


class TensorboardScalars:
    """Writes `folder`/tensorboard from `folder`/metrics.jsonl, line by line as they come.

        with TensorboardScalars(out, wanted=True) as scalars:
            train(..., progress=scalars.following(bar.update))

    The JSON lines are the truth: what an earlier run left in `folder`/tensorboard is written anew, so that a
    resumed run's curves are those of one that was never stopped.
    """

    def __init__(self, folder: Path, *, wanted: bool) -> None:
        """Nothing is written before the first `update`, nor ever where it is not wanted.

        Raises:
            ValueError: it is wanted, and the package is not installed; says which extra brings it.
        """
        if wanted:
            check_tensorboard()
        self._wanted = wanted
        self._metrics, self._folder = folder / METRICS_NAME, folder / FOLDER_NAME
        self._writer: SummaryWriter | None = None
        self._read = 0

    def update(self) -> None:
        """Write what has been logged since; costs next to nothing where nothing has."""
        size = self._metrics.stat().st_size if self._wanted and self._metrics.is_file() else 0
        if size == self._read:
            return
        if self._writer is None or size < self._read:  # a resumed run drops what it will log again
            self._begin()
        assert self._writer is not None
        with self._metrics.open("rb") as file:
            file.seek(self._read)
            lines = file.readlines()
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._read += len(line)
            metrics = json.loads(line)
            step = int(metrics.pop("step"))
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def following(self, progress: Progress) -> Progress:
        """Give what tells `progress`, and then writes what has been logged."""

        def both(done: int, total: int, metrics: dict[str, float]) -> None:
            progress(done, total, metrics)
            self.update()

        return both

    def _begin(self) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._close()
        delete_scalars(self._folder.parent)
        self._writer, self._read = SummaryWriter(str(self._folder)), 0

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> TensorboardScalars:
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        self._close()
