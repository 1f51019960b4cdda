"""Environments under a change of the robust protocol, as those who act see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8

from wm_plan.envs import Look, TaskEnv

from .changes import Change
from .protocols import Trial

Pixels = UInt8[np.ndarray, "_ _ 3"]
OCCLUDER_GREY = 13
_CHECKED = 4


class ChangedEnv:
    """A proxy of a task: everything is the task's own, save what is seen of it and what moves it.

    It passes for the task that it stands for (`isinstance` included). `get_state` tells the truth.
    """

    def __init__(self, env: TaskEnv, change: Change) -> None:
        """Stand for `env`; `start` begins a trial, `restore` leaves the task as it was."""
        self._env, self._change, self._look = env, change, env.look

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._env)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._env, name)

    def start(self, trial: Trial) -> None:
        """Put the task into the trial's start, changed as this trial draws it."""
        rng, self._frame_rng, self._noise_rng = np.random.default_rng([trial.seed, 6]).spawn(3)
        drawn = {} if self._change.look is None else self._change.look(rng)
        self._env.look = replace(self._look, **drawn)
        self._place = rng.uniform(0.25, 0.75, 2)
        self._env.set_physics(self._change.physics)
        self._env.set_state(trial.start)
        self._past = [self._env.get_state()]
        self._arrived: dict[str, np.ndarray] = {}

    def restore(self) -> None:
        """Give the task its own look and physics again."""
        self._env.look = self._look
        self._env.set_physics(None)

    def advance(self, action: np.ndarray, num_steps: int = 1) -> None:
        """Apply `action` and what noise adds to it, new at every env step."""
        low, high = self._env.action_space.low, self._env.action_space.high
        for _ in range(num_steps):
            noise = self._change.action_noise * self._noise_rng.standard_normal(low.shape)
            self._env.advance(np.clip(action + noise * (high - low) / 2, low, high))
            self._past.append(self._env.get_state())

    def observe(self) -> dict[str, np.ndarray]:
        """What arrives: it may be old, or what arrived before."""
        lost = self._frame_rng.random() < self._change.dropped
        if not (lost and self._arrived):
            age = round(self._change.delay / self._env.control_timestep)
            state = self._past[max(0, len(self._past) - 1 - age)]
            proprio = self._env.proprio(state).astype(np.float32)
            self._arrived = {"pixels": self.view(state), "proprio": proprio}
        return dict(self._arrived)

    def view(self, state: np.ndarray, image_size: int | None = None) -> Pixels:
        """Draw any state as the camera sees it."""
        return self._through_lens(self._env.render_goal(state, None, image_size))

    def render_goal(
        self, state: np.ndarray, look: Look | None = None, image_size: int | None = None
    ) -> Pixels:
        """Draw a goal as it is shown."""
        size = self._change.goal_size or image_size
        return self._through_lens(self._env.render_goal(state, self._change.goal_look or look, size))

    def _through_lens(self, pixels: Pixels) -> Pixels:
        if not self._change.occluder:
            return pixels
        size = len(pixels)
        row, column = (np.mgrid[:size, :size] + 0.5) / size
        hidden = np.hypot(row - self._place[0], column - self._place[1]) <= self._change.occluder / 2
        return np.where(hidden[..., None], np.uint8(OCCLUDER_GREY), pixels)


@contextmanager
def changed(envs: Sequence[TaskEnv], change: Change | None) -> Iterator[list[TaskEnv]]:
    """Give the environments under a change; afterwards they are as they were."""
    if change is None:
        yield list(envs)
        return
    proxies = [ChangedEnv(env, change) for env in envs]
    try:
        yield [cast(TaskEnv, proxy) for proxy in proxies]
    finally:
        for proxy in proxies:
            proxy.restore()


def begin_trial(env: TaskEnv, trial: Trial) -> None:
    """Put an environment, changed or not, into a trial's start."""
    start = getattr(env, "start", None)
    if start is None:
        env.set_state(trial.start)
    else:
        start(trial)


def view_of(env: TaskEnv, state: np.ndarray, image_size: int) -> Pixels:
    """Draw any state as the camera of an environment, changed or not, sees it."""
    view = getattr(env, "view", None)
    return env.render_goal(state, None, image_size) if view is None else view(state, image_size)


def why_not(env: TaskEnv, change: Change, trials: Sequence[Trial]) -> str | None:
    """Say why a task cannot have a change, if it cannot: nothing that is seen or done would differ."""
    compare: Callable[[TaskEnv, Trial], np.ndarray]
    some = trials[:_CHECKED]
    if change.changes_pictures:
        compare, verdict = partial(_pictures, size=change.goal_size), "its pictures stay the same"
    elif change.physics is not None:
        compare, verdict = _motion, "it moves as before"
    else:
        return None
    plain = [compare(env, trial) for trial in some]
    with changed([env], change) as (other,):
        for trial, before in zip(some, plain, strict=True):
            begin_trial(other, trial)
            if not np.array_equal(compare(other, trial), before):
                return None
    return verdict


def _pictures(env: TaskEnv, trial: Trial, size: int | None) -> np.ndarray:
    size = size or env.image_size
    return np.stack([view_of(env, trial.start, size), env.render_goal(trial.goal, None, size)])


def _motion(env: TaskEnv, trial: Trial) -> np.ndarray:
    """The states that random actions, each held for 10 env steps, lead to from the trial's start."""
    rng = np.random.default_rng([trial.seed, 7])
    env.set_state(trial.start)
    states = []
    for _ in range(10):
        env.advance(rng.uniform(env.action_space.low, env.action_space.high), 10)
        states.append(env.get_state())
    return np.stack(states)
