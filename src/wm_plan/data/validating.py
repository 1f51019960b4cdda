"""Checking logged trajectories before hours are spent on them: what is wrong, in which episode and step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .alignment import AlignmentMeter
from .bounds import Bounds, action_bounds
from .inspecting import nothing_after_the_last
from .stillness import StillnessMeter, still_frames
from .streaming import blocks

if TYPE_CHECKING:
    from wm_plan.world_model.formats import Source
    from wm_plan.world_model.formats.protocol import Progress

KINDS = {
    "unreadable": "rows that cannot be read",
    "changed-file": "a file is no longer what its manifest says",
    "missing-column": "no frames or no actions",
    "non-finite": "NaN or infinity where a number should be",
    "out-of-range": "actions outside their bounds",
    "frozen-frames": "a camera stands still while the robot moves",
    "misaligned": "frames and actions are off by one or more rows",
    "mixed-fps": "rows are not equally far apart in time",
}
_READ_ERRORS = (
    ValueError,
    OSError,
    RuntimeError,
    LookupError,
    TypeError,
    ArithmeticError,
    EOFError,
    MemoryError,
)
_MAX_FINDINGS = 10_000
_CLOCKS = ("timestamp", "timestamps", "time")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        kind: one of `KINDS`.
        message: what, in one line.
        episode: where; None if it is the whole dataset.
        step: the first row of that episode that shows it.
        column: in which column.
    """

    kind: str
    message: str
    episode: int | None = None
    step: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        place = "" if self.episode is None else f"episode {self.episode}"
        place += "" if self.step is None else f", step {self.step}"
        return f"{self.kind}: {place}{': ' if place else ''}{self.message}"


def validate(
    source: Source,
    columns: dict[str, str] | None = None,
    *,
    bounds: Bounds | None = None,
    ignore: Iterable[str] = (),
    progress: Progress = lambda done, total: None,
) -> list[Finding]:
    """What is wrong with a dataset; every value and every frame is read once.

    Args:
        source: the dataset.
        columns: which column is taken for what, as `default_columns` gives it; that when None.
        bounds: of the action; the dataset's own when None (`action_bounds`).
        ignore: kinds that are not looked for.
        progress: told how many episodes are done.

    Raises:
        ValueError: `columns` names one that the source lacks, or `ignore` an unknown kind.
    """
    if unknown := set(ignore) - KINDS.keys():
        raise ValueError(f"unknown kind of finding {sorted(unknown)[0]!r}; known are {', '.join(KINDS)}")
    return [
        finding
        for finding in _Validation(source, columns, bounds).run(progress)
        if finding.kind not in ignore
    ]


class _Validation:
    """One pass over a dataset."""

    def __init__(self, source: Source, columns: dict[str, str] | None, bounds: Bounds | None) -> None:
        from wm_plan.world_model.formats import default_columns
        from wm_plan.world_model.formats.roles import stored_names

        self.source, self.findings = source, list[Finding]()
        self.roles = default_columns(source) if columns is None else columns
        stored_names(source, self.roles)
        self.action = self.roles.get("action")
        self.numbers = [name for name, c in source.columns.items() if c.kind in ("vector", "scalar")]
        self.cameras = [name for name, column in source.columns.items() if column.kind == "image"]
        self.bounds = bounds
        if bounds is None and self.action:
            self.bounds = action_bounds(source, self.action)
        self.clock = next((n for n in self.numbers if n.split("/")[-1] in _CLOCKS), None)
        self.alignment = AlignmentMeter()
        self.stillness = {camera: StillnessMeter() for camera in self.cameras}
        self.seconds_a_row: list[tuple[int, float]] = []

    def run(self, progress: Progress) -> list[Finding]:
        self._check_columns()
        self._check_files()
        for episode in range(len(self.source.lengths)):
            if len(self.findings) < _MAX_FINDINGS:
                self._check_episode(episode)
            progress(episode + 1, len(self.source.lengths))
        self._check_motion()
        self._check_rates()
        return self.findings

    def _found(self, kind: str, message: str, *place: Any) -> None:  # noqa: ANN401
        self.findings.append(Finding(kind, message, *place))

    def _check_columns(self) -> None:
        columns = self.source.columns
        for role, wanted, kinds in (
            ("pixels", "frames, (H, W, 3) uint8", ("image",)),
            ("action", "actions, a vector of numbers", ("vector", "scalar")),
        ):
            if role not in self.roles:
                there = ", ".join(f"{name} {column.dtype} {column.shape}" for name, column in columns.items())
                self._found("missing-column", f"no column holds {wanted}; there are {there}")
            elif columns[name := self.roles[role]].kind not in kinds:
                said = f"{name} holds {columns[name].dtype} {columns[name].shape}, not {wanted}"
                self._found("missing-column", said, None, None, name)

    def _check_files(self) -> None:
        """Compare a native store's files with their checksums."""
        changed: Callable[[], Sequence[Path]] | None = getattr(
            getattr(self.source, "store", None), "changed_files", None
        )
        try:
            for path in changed() if changed else ():
                self._found("changed-file", f"{path.name} is no longer what the manifest says it is")
        except _READ_ERRORS as error:
            self._found("unreadable", _line(error))

    def _check_episode(self, episode: int) -> None:
        numbers = self._read_numbers(episode)
        if numbers is None:
            return
        self._check_numbers(episode, numbers)
        motion = None
        if (proprio := self.roles.get("proprio")) in numbers:
            rows = numbers[proprio].reshape(len(numbers[proprio]), -1).astype(np.float64)
            motion = np.diff(rows, axis=0)
        actions = None
        if self.action in numbers:
            actions = numbers[self.action].reshape(len(numbers[self.action]), -1).astype(np.float64)
        for camera in self.cameras:
            if (seen := self._read_changes(episode, camera)) is None:
                continue
            changes, equal = seen
            still = still_frames(equal, changes, lossy=self.source.columns[camera].lossy)
            sizes = None if actions is None else np.linalg.norm(actions[: len(still)], axis=1)
            self.stillness[camera].add(episode, still, motion, sizes)
            if actions is not None and camera == self.roles.get("pixels"):
                self.alignment.add(episode, changes, actions[: len(changes)])

    def _read_numbers(self, episode: int) -> dict[str, np.ndarray] | None:
        """All numbers of an episode; None, and a finding, if some cannot be read."""
        if not self.numbers:
            return {}
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.numbers}
        done = 0
        try:
            for start, values in blocks(self.source, episode, self.numbers):
                done = start
                for name, part in values.items():
                    parts[name].append(part)
        except _READ_ERRORS as error:
            step = self._first_unreadable(episode, self.numbers, done)
            self._found("unreadable", _line(error), episode, step)
            return None
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _read_changes(self, episode: int, camera: str) -> tuple[np.ndarray, np.ndarray] | None:
        """How much each frame differs from the one before, and which do not at all; None if unreadable."""
        changes, equal = [], []
        last: np.ndarray | None = None
        done = 0
        try:
            for start, values in blocks(self.source, episode, [camera]):
                done = start
                for frame in values[camera]:
                    if last is not None:
                        difference = np.maximum(frame, last) - np.minimum(frame, last)
                        changes.append(float(difference.mean()))
                        equal.append(not difference.any())
                    last = frame
        except _READ_ERRORS as error:
            step = self._first_unreadable(episode, [camera], done)
            self._found("unreadable", _line(error), episode, step, camera)
            return None
        return np.array(changes), np.array(equal, bool)

    def _first_unreadable(self, episode: int, columns: Sequence[str], start: int) -> int:
        """The first row from `start` on that cannot be read."""
        for row in range(start, int(self.source.lengths[episode])):
            try:
                self.source.read(episode, columns, row, row + 1)
            except _READ_ERRORS:
                return row
        return start

    def _check_numbers(self, episode: int, numbers: dict[str, np.ndarray]) -> None:
        for name, values in numbers.items():
            rows = values.reshape(len(values), -1)
            if rows.dtype.kind == "f":
                bad = ~np.isfinite(rows).all(axis=1)
                if nothing_after_the_last(values):
                    bad[-1] = False
                if np.isnan(rows[:1]).all() and "reward" in name:
                    bad[:1] = False
                if bad.any():
                    step = int(np.argmax(bad))
                    said = f"{name} holds {rows[step][~np.isfinite(rows[step])][0]} in {bad.sum()} rows"
                    self._found("non-finite", said, episode, step, name)
            if name == self.action and self.bounds is not None:
                self._check_bounds(episode, name, rows)
            if name == self.clock:
                self._check_clock(episode, name, values.astype(np.float64).reshape(-1))

    def _check_bounds(self, episode: int, name: str, rows: np.ndarray) -> None:
        assert self.bounds is not None
        low, high = self.bounds
        slack = 1e-4 * np.where(np.isfinite(high - low), high - low, 0) + 1e-6
        with np.errstate(invalid="ignore"):
            out = np.isfinite(rows) & ((rows < low - slack) | (rows > high + slack))
        if out.any():
            step = int(np.argmax(out.any(axis=1)))
            entry = int(np.argmax(out[step]))
            said = (
                f"{name}[{entry}] is {rows[step, entry]:.6g}, its bounds are {low[entry]:.6g} to "
                f"{high[entry]:.6g}; {out.any(axis=1).sum()} rows are outside"
            )
            self._found("out-of-range", said, episode, step, name)

    def _check_clock(self, episode: int, name: str, seconds: np.ndarray) -> None:
        if len(seconds) < 2 or not np.isfinite(seconds).all():
            return
        steps = np.diff(seconds)
        usual = 1 / self.source.fps if self.source.fps else float(np.median(steps))
        self.seconds_a_row.append((episode, float(np.median(steps))))
        rounding = 4 * float(np.spacing(np.float32(np.abs(seconds).max())))
        odd = np.abs(steps - usual) > 0.1 * abs(usual) + rounding
        if odd.any():
            step = int(np.argmax(odd))
            said = (
                f"{name} goes on by {steps[step]:.6g} s, {usual:.6g} s is usual; so it is in {odd.sum()} rows"
            )
            self._found("mixed-fps", said, episode, step, name)

    def _check_motion(self) -> None:
        for camera, meter in self.stillness.items():
            for run in meter.frozen():
                moves = "moves" if run.moved is not None else "is told to move"
                said = (
                    f"{camera} shows one and the same frame in rows {run.start} to "
                    f"{run.start + run.transitions} while the robot {moves}"
                )
                self._found("frozen-frames", said, run.episode, run.start, camera)
        found = self.alignment.estimate()
        if found.lag:
            best, here = found.correlations[found.lag], found.correlations[0]
            self._found(
                "misaligned",
                f"{_shift(found.lag)} in all episodes (frame changes correlate with actions by {best:.2f} "
                f"there, by {here:.2f} +- {found.standard_error:.2f} in the same row)",
                None,
                None,
                self.action,
            )
        for episode, lag in sorted(found.episodes.items()):
            self._found("misaligned", f"{_shift(lag)}, unlike in other episodes", episode, 0, self.action)

    def _check_rates(self) -> None:
        """Compare the episodes' median time from row to row, where nobody says what it should be."""
        if self.source.fps or len(self.seconds_a_row) < 2:
            return
        usual = float(np.median([seconds for _, seconds in self.seconds_a_row]))
        for episode, seconds in self.seconds_a_row:
            if abs(seconds - usual) > 0.02 * usual:
                said = f"rows are {seconds:.6g} s apart, in most episodes {usual:.6g} s"
                self._found("mixed-fps", said, episode, 0, self.clock)


def _shift(lag: int) -> str:
    rows = f"{abs(lag)} row{'s' if abs(lag) > 1 else ''}"
    if lag > 0:
        return f"actions are {rows} late: a frame changes by the action of a later row"
    return f"actions are {rows} early, or the robot answers {rows} late"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
