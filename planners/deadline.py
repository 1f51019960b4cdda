"""When a search must stop: by measured iteration times against a budget."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable

Clock = Callable[[], float]


class DurationRecord:
    """The last durations of one kind of work, for saying how long the next one may take [s]."""

    def __init__(self, size: int = 64) -> None:
        self._durations: deque[float] = deque(maxlen=size)

    def add(self, duration: float) -> None:
        """Remember one measured duration."""
        self._durations.append(duration)

    def p95(self) -> float:
        """95th percentile; 0 when nothing was measured yet."""
        if not self._durations:
            return 0.0
        ordered = sorted(self._durations)
        return ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)]

    def forget_longest(self) -> None:
        """Drop the longest duration, so that one hiccup cannot keep work from being tried ever again."""
        if self._durations:
            self._durations.remove(max(self._durations))


class Deadline:
    """Lets an iteration run only if it is likely to end in time.

    Args:
        budget: seconds from now on; None for no limit.
        clock: gives seconds that never go back; `time.perf_counter` unless simulated.
    """

    def __init__(self, budget: float | None, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._end = None if budget is None else clock() + budget

    def allows(self, record: DurationRecord) -> bool:
        """Whether work that lasts as long as its 95th percentile ends in time."""
        if self._end is None:
            return True
        fits = self._clock() + record.p95() <= self._end
        if not fits:
            record.forget_longest()
        return fits


class DurationRecords:
    """One record for each kind of work, made when first asked for."""

    def __init__(self) -> None:
        self._records: dict[Hashable, DurationRecord] = {}

    def __getitem__(self, kind: Hashable) -> DurationRecord:
        """The record of one kind of work."""
        return self._records.setdefault(kind, DurationRecord())
