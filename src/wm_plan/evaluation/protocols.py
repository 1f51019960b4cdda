"""From where to where: the trials of a protocol, the same for every policy that is judged on them.

**near** is comparable with published tables: a fresh episode of the task's own logging policy, one of its
states (velocity included) as the start, and what it shows 25 env steps later as the goal; 50 env steps to get
there. A pair within three tolerances is redrawn, episode and all.

**far** is harder than any published table: start and goal independent, from the whole valid state space, at
rest; the task's own `far_budget` of env steps.

A trial has a seed of 64 bits whose top bit is set. Seeds of logged episodes (`episode_seed`) have 63 bits, so
no trial can ever start from the random numbers of a training episode, whatever the two commands were given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wm_plan.envs import TaskEnv, make_policy
from wm_plan.suggestion import did_you_mean

State = np.ndarray

NEAR_STEPS = 25
"""Env steps from start to goal in the logged episode."""
NEAR_BUDGET = 50
NEAR_LEAST_ERROR = 3.0
"""Tolerances; a pair that is nearer is redrawn."""
NEAR_EPISODE = 40
"""Model steps of a logged episode, as wm-collect makes them."""
_MOST_DRAWS = 20_000
_EVALUATION_BIT = 1 << 63


@dataclass(frozen=True)
class Trial:
    """One start and one goal."""

    index: int
    seed: int
    start: State
    """qpos, then qvel."""
    goal: State
    budget: int
    """Env steps."""
    group: str | None
    """What kind of goal it is, where the task tells them apart ("same room", "other room")."""


@dataclass(frozen=True)
class EvaluationProtocol:
    """How starts and goals are drawn, and what is counted."""

    name: str
    draw: Callable[[TaskEnv, int], tuple[State, State] | None]
    """Start and goal from a seed; None where they must be drawn again."""
    budget: Callable[[TaskEnv], int]
    measures_hold: bool
    """Whether staying at the goal counts too; then an episode lasts its whole budget."""


def _draw_near(env: TaskEnv, seed: int) -> tuple[State, State] | None:
    env.reset(seed=seed)
    policy = make_policy(env.logging_policy, env, np.random.default_rng([seed, 2]))
    last = NEAR_EPISODE * env.frame_skip
    first = int(np.random.default_rng([seed, 3]).integers(last - NEAR_STEPS + 1))
    start = goal = env.get_state()
    for step in range(first + NEAR_STEPS + 1):
        goal = env.get_state()
        if step == first:
            start = goal
        env.advance(policy.act(step, goal))
    return None if env.reached(start, goal, NEAR_LEAST_ERROR) else (start, goal)


def _draw_far(env: TaskEnv, seed: int) -> tuple[State, State] | None:
    rng = np.random.default_rng(seed)
    return env.sample_state(rng), env.sample_state(rng)


PROTOCOLS: dict[str, EvaluationProtocol] = {
    "near": EvaluationProtocol("near", _draw_near, lambda env: NEAR_BUDGET, measures_hold=False),
    "far": EvaluationProtocol("far", _draw_far, lambda env: env.far_budget, measures_hold=True),
}


def find_protocol(name: str) -> EvaluationProtocol:
    """Give the protocol of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise ValueError(
            f"unknown protocol {name!r}.{did_you_mean(name, PROTOCOLS)} Known protocols: {known}."
        )
    return PROTOCOLS[name]


def evaluation_seed(seed: int, index: int, draw: int = 0) -> int:
    """Give the seed of trial `index` in its attempt `draw`: 63 bits of its own below a top bit that is set.

    No seed of a logged episode has that bit; see `wm_plan.collecting.episode_seed`.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(index, draw))
    return int(sequence.generate_state(1, np.uint64)[0]) | _EVALUATION_BIT


def draw_trials(env: TaskEnv, protocol: EvaluationProtocol, num_trials: int, seed: int) -> list[Trial]:
    """Draw the trials of a protocol; trial `index` depends on `seed` and `index` alone.

    Args:
        env: its current state is lost; it need not render.
        num_trials: at least 1.
        seed: of the evaluation.

    Raises:
        ValueError: fewer than one trial, or a task on which nearly no pair is far enough apart.
    """
    if num_trials < 1:
        raise ValueError(f"{num_trials} episodes are not allowed; give 1 or more")
    return [_draw_trial(env, protocol, index, seed) for index in range(num_trials)]


def _draw_trial(env: TaskEnv, protocol: EvaluationProtocol, index: int, seed: int) -> Trial:
    for draw in range(_MOST_DRAWS):
        trial_seed = evaluation_seed(seed, index, draw)
        pair = protocol.draw(env, trial_seed)
        if pair is not None:
            start, goal = pair
            budget = protocol.budget(env)
            return Trial(index, trial_seed, start, goal, budget, env.goal_group(start, goal))
    raise ValueError(
        f"{_MOST_DRAWS} draws gave no pair for the protocol {protocol.name!r} on {env.name!r}: in"
        f" {NEAR_STEPS} env steps {env.logging_policy!r} gets no further than {NEAR_LEAST_ERROR:g} tolerances"
    )
