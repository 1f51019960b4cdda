"""Frozen frames: a camera that stops while the robot goes on, told from a robot that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

_MIN_RUN = 4
_LONG_RUN = 10
_RARELY = 0.02
_SOMETIMES = 0.2
_MOVED = 0.3
_LOSSY_STILL = 0.05
_LOSSY_NOISE = 0.02

_Rows = Float[np.ndarray, " transition"]


@dataclass
class Run:
    """Equal frames in a row.

    Attributes:
        episode: where they are.
        start: the first of them.
        transitions: from each to the next.
        moved: how far the robot moved meanwhile, by its own sensors; None if it has none.
        acted: mean size of the actions meanwhile; None without actions.
    """

    episode: int
    start: int
    transitions: int
    moved: Float[np.ndarray, " entry"] | None
    acted: float | None


class StillnessMeter:
    """Gathers runs of equal frames of one camera, and tells which of them no standing robot explains.

    Where the robot's own state is logged, it must have moved while the frames did not. Where it is not, the
    actions must have gone on, and frames must hardly ever repeat elsewhere in the data.
    """

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._still = self._count = self._in_runs = 0
        self._moving = 0
        self._motion: Float[np.ndarray, " entry"] | None = None
        self._action_sum, self._action_count = 0.0, 0

    def add(
        self,
        episode: int,
        still: Bool[np.ndarray, " transition"],
        motion: Float[np.ndarray, "transition entry"] | None,
        action_sizes: _Rows | None,
    ) -> None:
        """Take in an episode: which frames repeat, how the robot moved, how large the actions were."""
        self._count += len(still)
        self._still += int(still.sum())
        if motion is not None:
            moving = np.nan_to_num(np.abs(motion[~still]).sum(axis=0))
            self._motion = moving if self._motion is None else self._motion + moving
            self._moving += int((~still).sum())
        if action_sizes is not None:
            self._action_sum += float(np.nansum(action_sizes))
            self._action_count += int(np.isfinite(action_sizes).sum())
        edges = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(np.int8), [0]])))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            if end - start < _MIN_RUN:
                continue
            self._in_runs += end - start
            moved = None if motion is None else np.nan_to_num(np.abs(motion[start:end])).sum(axis=0)
            acted = None
            if action_sizes is not None and np.isfinite(action_sizes[start:end]).any():
                acted = float(np.nanmean(action_sizes[start:end]))
            self._runs.append(Run(episode, start, end - start, moved, acted))

    def frozen(self) -> Iterator[Run]:
        """The runs in which the camera was frozen."""
        elsewhere = (self._still - self._in_runs) / max(1, self._count - self._in_runs)
        for run in self._runs:
            if run.moved is not None and self._motion is not None and self._moving:
                usual = self._motion / self._moving
                steps = float((run.moved[usual > 0] / usual[usual > 0]).mean()) if (usual > 0).any() else 0.0
                if steps > max(2.0, _MOVED * run.transitions):
                    yield run
                continue
            acting = run.acted is not None and run.acted > 0.5 * self._action_sum / max(1, self._action_count)
            rare = _RARELY if run.transitions < _LONG_RUN else _SOMETIMES
            if (acting or (run.acted is None and run.transitions >= _LONG_RUN)) and elsewhere < rare:
                yield run


def still_frames(
    equal: Bool[np.ndarray, " transition"], changes: _Rows, *, lossy: bool
) -> Bool[np.ndarray, " transition"]:
    """Which frames are the one before again; a lossy codec lets them differ by a little.

    Args:
        equal: bit for bit.
        changes: mean absolute difference of each frame to the one before [of 255].
        lossy: whether the format keeps the frames lossily.
    """
    if not lossy or not len(changes):
        return equal
    return equal | (changes < max(_LOSSY_NOISE, _LOSSY_STILL * float(np.median(changes))))
