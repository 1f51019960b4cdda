"""An evaluation cut into chunks of trials, each of which comes out the same wherever it is run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wm_plan.envs import TaskEnv
from wm_plan.suggestion import did_you_mean

from .changed_env import changed, why_not
from .changes import CHANGES, Change, find_changes
from .contestants import Contestant, unrendered
from .policies import EvaluationPolicy
from .protocols import EvaluationProtocol, Trial, draw_trials, find_protocol
from .recordings import Recorder, find_decoder
from .runner import open_envs, run_batch, time_alone

if TYPE_CHECKING:
    from wm_plan.configs.schema import EvalConfig

ROBUST = "robust"
PROTOCOL_NAMES = ("near", "far", ROBUST)
UNTOLD = ("random", "hold")
"""Policies of which no videos are kept: there is nothing to see."""


@dataclass(frozen=True)
class Cell:
    """What all contestants meet: where they start, what their goals are, and what is changed."""

    protocol: str
    goals: str
    """The protocol that the trials are drawn by."""
    change: str | None = None

    @property
    def name(self) -> str:
        """What it is called in progress and errors."""
        if self.protocol != ROBUST:
            return self.protocol
        return f"{ROBUST} {self.change or 'plain'}"

    @property
    def rules(self) -> EvaluationProtocol:
        """How the trials are drawn and what counts."""
        return find_protocol(self.goals)

    def find_change(self) -> Change | None:
        """What is changed."""
        return None if self.change is None else CHANGES[self.change]


@dataclass(frozen=True)
class Chunk:
    """Some trials of one contestant in one cell."""

    number: int
    """Of all chunks, in the order in which they are run."""
    cell: Cell
    contestant: str
    first: int
    """Index of its first trial."""
    count: int


@dataclass
class EvaluationJob:
    """Everything that decides what comes out."""

    config: EvalConfig
    contestants: list[Contestant]
    cells: list[Cell]

    def chunks(self) -> list[Chunk]:
        """All of the work."""
        names = [contestant.name for contestant in self.contestants]
        return plan_chunks(self.cells, names, self.config.episodes, self.config.batch_size)


def plan_chunks(cells: Sequence[Cell], contestants: Sequence[str], episodes: int, size: int) -> list[Chunk]:
    """Cut an evaluation into chunks, by cell, then by contestant, then by trial."""
    firsts = range(0, episodes, size)
    found = itertools.product(cells, contestants, firsts)
    return [
        Chunk(number, cell, name, first, min(size, episodes - first))
        for number, (cell, name, first) in enumerate(found)
    ]


def find_cells(config: EvalConfig, told: Callable[[str], None]) -> list[Cell]:
    """Name the cells of the config's protocols; says which changes a task cannot have, and leaves them out.

    Raises:
        ValueError: an unknown protocol or change, or no change that the task can have.
    """
    cells = []
    for name in config.protocols:
        if name not in PROTOCOL_NAMES:
            hint, known = did_you_mean(name, PROTOCOL_NAMES), ", ".join(PROTOCOL_NAMES)
            raise ValueError(f"unknown protocol {name!r}.{hint} Known protocols: {known}.")
        if name != ROBUST:
            cells.append(Cell(name, name))
            continue
        goals = config.robust_goals.value
        changes = possible_changes(config, find_changes(config.changes), told)
        cells += [Cell(ROBUST, goals), *(Cell(ROBUST, goals, change.name) for change in changes)]
    return cells


def possible_changes(
    config: EvalConfig, changes: Sequence[Change], told: Callable[[str], None]
) -> list[Change]:
    """Give those changes that make a difference in the task."""
    found = []
    with open_envs(config.env, 1, config.camera) as (env,):
        trials = draw_trials(env, find_protocol("far"), 4, config.seed)
        for change in changes:
            problem = why_not(env, change, trials)
            if problem is None:
                found.append(change)
            else:
                told(f"{config.env} cannot have the change {change.name!r}: {problem}; it is left out")
    if not found:
        raise ValueError(
            f"{config.env} can have none of the changes {', '.join(change.name for change in changes)};"
            " name others with --changes"
        )
    return found


class EvaluationWorker:
    """Runs chunks; policies, environments and trials stay once they are made.

    Args:
        job: what there is to be run.
        policies: those that are made already, by their contestant's name.
    """

    def __init__(self, job: EvaluationJob, policies: dict[str, EvaluationPolicy] | None = None) -> None:
        self._job = job
        self._contestants = {contestant.name: contestant for contestant in job.contestants}
        self._policies = policies or {}
        self._decoders: dict[str, Any] = {}
        self._envs: dict[str | None, list[TaskEnv]] = {}
        self._trials: dict[str, list[Trial]] = {}
        self._stack = ExitStack()

    def run(
        self, chunk: Chunk, on_progress: Callable[[float, int], None] = lambda done, reached: None
    ) -> dict[str, Any]:
        """Run one chunk, and give what came of it as plain values.

        Args:
            on_progress: see `run_trials`; of this chunk.
        """
        config, policy = self._job.config, self._policy(chunk.contestant)
        trials = self._trials_of(chunk.cell)[chunk.first : chunk.first + chunk.count]
        with changed(self._envs_for(policy)[: chunk.count], chunk.cell.find_change()) as envs:
            recorder = Recorder(policy, envs, self._decoders.get(chunk.contestant))
            began = time.perf_counter()
            outcomes = run_batch(
                policy,
                trials,
                envs,
                measures_hold=chunk.cell.rules.measures_hold,
                on_progress=on_progress,
                on_act=recorder.on_act if config.report else lambda step, active: None,
            )
            seconds = time.perf_counter() - began
            found: dict[str, Any] = {
                "outcomes": [outcome.as_json() for outcome in outcomes],
                "seconds": seconds,
            }
            if config.report:
                found["curves"] = [curve.as_json() for curve in recorder.curves(outcomes)]
                found["videos"] = recorder.videos(outcomes, self._num_videos(chunk))
        return found

    def time(self, cell: Cell, contestant: str) -> dict[str, list[float]]:
        """Take the times of a contestant's replans, one environment alone; nothing else should be running."""
        policy = self._policy(contestant)
        plan_ms, encode_ms = time_alone(
            policy,
            self._trials_of(cell),
            self._envs_for(policy)[0],
            self._job.config.plans_timed,
            measures_hold=cell.rules.measures_hold,
        )
        return {"plan_ms": plan_ms, "encode_ms": encode_ms}

    def close(self) -> None:
        """Close the environments."""
        self._stack.close()

    def _num_videos(self, chunk: Chunk) -> int:
        """Successes to be drawn of a chunk, and failures; of many changes those of one contestant will do."""
        if self._contestants[chunk.contestant].policy in UNTOLD:
            return 0
        if chunk.cell.protocol == ROBUST:
            return min(self._job.config.videos, int(chunk.contestant == self._job.contestants[0].name))
        return self._job.config.videos

    def _policy(self, name: str) -> EvaluationPolicy:
        if name not in self._policies:
            self._policies[name] = self._contestants[name].make()
        if self._job.config.report and name not in self._decoders:
            self._decoders[name] = find_decoder(self._policies[name])
        return self._policies[name]

    def _envs_for(self, policy: EvaluationPolicy) -> list[TaskEnv]:
        config = self._job.config
        camera = policy.settings.get("camera", config.camera)
        if camera not in self._envs:
            count = min(config.batch_size, config.episodes)
            self._envs[camera] = self._stack.enter_context(open_envs(config.env, count, camera))
        return self._envs[camera]

    def _trials_of(self, cell: Cell) -> list[Trial]:
        config = self._job.config
        if cell.goals not in self._trials:
            env = unrendered(config.env)
            self._trials[cell.goals] = draw_trials(env, cell.rules, config.episodes, config.seed)
        return self._trials[cell.goals]


@contextmanager
def open_worker(job: EvaluationJob) -> Iterator[Callable[[Chunk], tuple[Chunk, dict[str, Any]]]]:
    """What a worker process does with a chunk."""
    from wm_plan.machine import use_device

    use_device(job.config.device, job.config.threads)
    worker = EvaluationWorker(job)
    try:
        yield lambda chunk: (chunk, worker.run(chunk))
    finally:
        worker.close()
