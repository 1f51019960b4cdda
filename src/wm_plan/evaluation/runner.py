"""Running a policy on trials, many episodes in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wm_plan import envs as tasks
from wm_plan.envs import TaskEnv
from wm_plan.planning import HELD_SCALE, HELD_STEPS

from .changed_env import begin_trial
from .policies import EvaluationPolicy, Mask
from .protocols import Trial


@dataclass
class Outcome:
    """What came of one trial."""

    trial: Trial
    reached_at: int | None
    """First env step with an error of at most the tolerance (0 is the start); None if there is none."""
    held: bool | None
    """Inside twice the tolerance through the last 10 env steps of the budget; None where not measured."""
    least_error: float
    """In tolerances."""
    final_error: float
    steps: int
    """Env steps taken."""
    errors: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """In tolerances, from the start to the end; in no file."""

    @property
    def reached(self) -> bool:
        """Inside the tolerance at some env step."""
        return self.reached_at is not None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """Read what `as_json` gave."""
        trial = Trial(
            data["index"],
            data["seed"],
            np.array(data["start"]),
            np.array(data["goal"]),
            data["budget"],
            data["group"],
        )
        judged = {name: data[name] for name in ("reached_at", "held", "least_error", "final_error", "steps")}
        return cls(trial, **judged)

    def as_json(self) -> dict[str, Any]:
        """Give it as plain values."""
        return {
            "index": self.trial.index,
            "seed": self.trial.seed,
            "group": self.trial.group,
            "start": self.trial.start.tolist(),
            "goal": self.trial.goal.tolist(),
            "budget": self.trial.budget,
            "reached_at": self.reached_at,
            "held": self.held,
            "least_error": self.least_error,
            "final_error": self.final_error,
            "steps": self.steps,
        }


@contextmanager
def open_envs(name: str, count: int, camera: str | None = None) -> Iterator[list[TaskEnv]]:
    """Give `count` environments of a task, which share model and renderer, and close them at the end."""
    opened = [tasks.make_task(name, camera=camera) for _ in range(count)]
    try:
        yield opened
    finally:
        for env in opened:
            env.close()


def run_trials(
    policy: EvaluationPolicy,
    trials: Sequence[Trial],
    envs: Sequence[TaskEnv],
    *,
    measures_hold: bool,
    on_progress: Callable[[float, int], None] = lambda finished, reached: None,
) -> list[Outcome]:
    """Run every trial once, as many at a time as there are environments.

    An episode ends when its goal is reached or, where holding counts, with its budget. Its outcome depends on
    its trial and on the policy, not on the trials that run beside it (up to rounding: matrix products may
    round differently in batches of another size).

    Args:
        policy: as `EvaluationPolicy`.
        trials: all of one task.
        envs: of that task; their current states are lost.
        measures_hold: run on to the end of the budget, to see whether the goal is held.
        on_progress: called after every env step with the episodes done so far, those at hand by their part,
            and the episodes that have reached their goals.
    """
    outcomes: list[Outcome] = []
    for first in range(0, len(trials), len(envs)):
        batch = trials[first : first + len(envs)]
        before = sum(outcome.reached for outcome in outcomes)

        def note(done: float, reached: int, first: int = first, before: int = before) -> None:
            on_progress(first + done, before + reached)

        outcomes += run_batch(
            policy, batch, envs[: len(batch)], measures_hold=measures_hold, on_progress=note
        )
    return outcomes


def time_alone(
    policy: EvaluationPolicy,
    trials: Sequence[Trial],
    env: TaskEnv,
    num_replans: int,
    *,
    measures_hold: bool,
) -> tuple[list[float], list[float]]:
    """Give the milliseconds of planning and of encoding for one environment at a time.

    Trials run one after another until `num_replans` plans are made, or none are left; a policy that does not
    plan gives nothing.
    """
    policy.plan_ms.clear()
    policy.encode_ms.clear()
    for trial in trials:
        if len(policy.plan_ms) < num_replans:
            run_batch(policy, [trial], [env], measures_hold=measures_hold, most_plans=num_replans)
        if not policy.plan_ms:
            break
    return list(policy.plan_ms), list(policy.encode_ms)


def run_batch(
    policy: EvaluationPolicy,
    trials: Sequence[Trial],
    envs: Sequence[TaskEnv],
    *,
    measures_hold: bool,
    on_progress: Callable[[float, int], None] = lambda done, reached: None,
    on_act: Callable[[int, Mask], None] = lambda step, active: None,
    most_plans: int | None = None,
) -> list[Outcome]:
    """Run trials of one budget together, one in each environment.

    Args:
        on_act: called at every env step when the policy has decided and nothing has moved yet, with the env
            step and the rows that are still under way.
        most_plans: stop early, for those who only take the time.
    """
    for env, trial in zip(envs, trials, strict=True):
        begin_trial(env, trial)
    policy.begin(envs, trials)
    goals = np.stack([trial.goal for trial in trials])
    budget = trials[0].budget
    errors = np.full((budget + 1, len(trials)), np.inf)
    errors[0] = envs[0].error(np.stack([trial.start for trial in trials]), goals)
    steps = np.zeros(len(trials), int)
    active = measures_hold | ~(errors[0] <= 1.0)
    for step in range(budget):
        if not active.any() or (most_plans is not None and len(policy.plan_ms) >= most_plans):
            break
        actions = policy.act(step, envs, active)
        on_act(step, active)
        for row in np.flatnonzero(active).tolist():
            envs[row].advance(actions[row])
            errors[step + 1, row] = envs[row].error(envs[row].get_state(), goals[row])
            steps[row] = step + 1
        active = active & (measures_hold | ~(errors[step + 1] <= 1.0))
        reached = (errors <= 1.0).any(axis=0)
        on_progress(float(np.where(active, steps / budget, 1.0).sum()), int(reached.sum()))
    return [_outcome(trial, errors[: steps[row] + 1, row], measures_hold) for row, trial in enumerate(trials)]


def _outcome(trial: Trial, errors: np.ndarray, measures_hold: bool) -> Outcome:
    inside = np.flatnonzero(errors <= 1.0)
    return Outcome(
        trial,
        reached_at=int(inside[0]) if len(inside) else None,
        held=bool((errors[-HELD_STEPS:] <= HELD_SCALE).all()) if measures_hold else None,
        least_error=float(errors.min()),
        final_error=float(errors[-1]),
        steps=len(errors) - 1,
        errors=errors,
    )
