"""The progress bar of what counts one thing and is quick or slow at another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class RateBar:
    """How many are done of how many, how quickly, and how long it will take, on stderr.

    Args:
        console: where it is drawn.
        name: what it is about, at its left.
        total: how many there are to be done.
        unit: what is counted, such as "episodes".
        rate_unit: what the rate counts, such as "frames".
    """

    def __init__(self, console: Console, name: str, total: int, unit: str, rate_unit: str = "") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}  {{task.fields[rate]:.0f}}{' ' if rate_unit else ''}{rate_unit}/s"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task(name, total=total, rate=0.0, note="")
        self._start: tuple[float, int] | None = None

    def update(self, done: int, counted: int, *, total: int | None = None, note: str = "") -> None:
        """Show how far it is.

        Args:
            done: things done, of `total`.
            counted: what the rate counts; it begins with the first call in which this is not 0.
            total: how many there are, if that has changed.
            note: what else there is to be said.
        """
        now = self._progress.get_time()
        if counted and self._start is None:
            self._start = now, counted
        rate = 0.0
        if self._start is not None and now > self._start[0]:
            rate = (counted - self._start[1]) / (now - self._start[0])
        self._progress.update(self._task, completed=done, total=total, rate=rate, note=note)

    def __enter__(self) -> RateBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
