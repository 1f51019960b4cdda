"""Who is judged: the planner, and those beside it on the same starts and goals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32

from wm_plan.envs import Look, TaskEnv
from wm_plan.planners import MPC
from wm_plan.planners.rl import RLPolicy

from .protocols import Trial

Actions = Float32[np.ndarray, "batch action"]
Mask = Bool[np.ndarray, " batch"]


@runtime_checkable
class EvaluationPolicy(Protocol):
    """Acts in many environments at once, each towards its own goal; a row never depends on the others."""

    name: str
    settings: dict[str, Any]
    """What a reader of its row must know."""
    plan_ms: list[float]
    """Of every replan of all rows together, since the caller cleared it; empty for who does not plan."""
    encode_ms: list[float]
    """Of every look at the frames of all rows together."""

    def begin(self, envs: Sequence[TaskEnv], trials: Sequence[Trial]) -> None:
        """Start new episodes; `envs` are at the starts of `trials`."""
        ...

    def act(self, step: int, envs: Sequence[TaskEnv], active: Mask) -> Actions:
        """Give the actions (B, A) of env step `step`; those of rows that are not active do not count."""
        ...


class HoldPolicy:
    """Does nothing: the zero action."""

    name = "hold"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"action": "zero"}
        self.plan_ms: list[float] = []
        self.encode_ms: list[float] = []

    def begin(self, envs: Sequence[TaskEnv], trials: Sequence[Trial]) -> None:
        """Start new episodes."""
        space = envs[0].action_space
        self._action = np.clip(np.zeros(space.shape, np.float32), space.low, space.high)

    def act(self, step: int, envs: Sequence[TaskEnv], active: Mask) -> Actions:
        """Give zeros."""
        return np.repeat(self._action[None], len(envs), axis=0)


class RandomPolicy:
    """Actions uniform within the bounds, each held for the task's `frame_skip` env steps."""

    name = "random"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"action": "uniform within the bounds, held for frame_skip env steps"}
        self.plan_ms: list[float] = []
        self.encode_ms: list[float] = []

    def begin(self, envs: Sequence[TaskEnv], trials: Sequence[Trial]) -> None:
        """Start new episodes, each with a generator of its own."""
        self._generators = [np.random.default_rng([trial.seed, 4]) for trial in trials]

    def act(self, step: int, envs: Sequence[TaskEnv], active: Mask) -> Actions:
        """Give the actions that are held, or new ones where a model step begins."""
        space = envs[0].action_space
        if step % envs[0].frame_skip == 0:
            drawn = [rng.uniform(space.low, space.high) for rng in self._generators]
            self._actions = np.stack(drawn).astype(np.float32)
        return self._actions


class PlannerPolicy:
    """A world model and a search: sees frames and proprio, and a picture of the goal; never a state.

    Args:
        controller: the control loop; its budget of time should be off, or outcomes depend on the machine.
        settings: what a reader must know.
        name: what its rows say.
        goal_look: how goals are drawn; as frames are if None.
        goal_size: of the goal pictures [px]; as frames have it if None.
    """

    def __init__(
        self,
        controller: MPC,
        settings: dict[str, Any],
        *,
        name: str = "planner",
        goal_look: Look | None = None,
        goal_size: int | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.plan_ms: list[float] = []
        self.encode_ms: list[float] = []
        self.controller = controller
        self._goal_look, self._goal_size = goal_look, goal_size

    def begin(self, envs: Sequence[TaskEnv], trials: Sequence[Trial]) -> None:
        """Show the controller its goals."""
        self.controller.reset(seed=[trial.seed for trial in trials])
        goals = [
            env.render_goal(trial.goal, self._goal_look, self._goal_size)
            for env, trial in zip(envs, trials, strict=True)
        ]
        self.controller.set_goal(np.stack(goals))
        self._seen: dict[str, np.ndarray] = {}

    def act(self, step: int, envs: Sequence[TaskEnv], active: Mask) -> Actions:
        """Look where a model step begins, and act."""
        if step % self.controller.frame_skip == 0:
            self._look(envs, active)
        actions = self.controller.act(self._seen, active=active)
        note_times(self, self.controller)
        return actions

    def _look(self, envs: Sequence[TaskEnv], active: Mask) -> None:
        if not self._seen:
            found = [env.observe() for env in envs]
            self._seen = {name: np.stack([seen[name] for seen in found]) for name in found[0]}
            return
        for row in np.flatnonzero(active).tolist():
            for name, value in envs[row].observe().items():
                self._seen[name][row] = value


class BaselinePolicy:
    """An RL baseline on state: it knows the true state features, and what they would be at rest in the goal.

    Args:
        policy: as `load_policy` gives it.
        settings: what a reader must know.
    """

    name = "rl"

    def __init__(self, policy: RLPolicy, settings: dict[str, Any] | None = None) -> None:
        self._policy = policy
        self.settings: dict[str, Any] = settings or {}
        self.plan_ms: list[float] = []
        self.encode_ms: list[float] = []

    def begin(self, envs: Sequence[TaskEnv], trials: Sequence[Trial]) -> None:
        """Note the goals."""
        goals = np.stack([trial.goal for trial in trials])
        goals[:, envs[0].mj_model.nq :] = 0.0
        self._goals = envs[0].features(goals)

    def act(self, step: int, envs: Sequence[TaskEnv], active: Mask) -> Actions:
        """Give the policy's actions, each held for as long as in its training."""
        if step % self._policy.action_repeat == 0:
            states = np.stack([env.get_state() for env in envs])
            began = time.perf_counter()
            self._actions = self._policy.act(envs[0].features(states), self._goals)
            self.plan_ms.append((time.perf_counter() - began) * 1e3)
        return self._actions


def note_times(policy: EvaluationPolicy, controller: MPC) -> None:
    """Add the times of the controller's last `act` to the policy's."""
    if controller.replanned:
        policy.plan_ms.append(controller.timings["plan_ms"])
    if controller.timings["encode_ms"]:
        policy.encode_ms.append(controller.timings["encode_ms"])
