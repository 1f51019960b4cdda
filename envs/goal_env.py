"""A task as goal-conditioned reinforcement learning sees it, with a goal in every observation."""

from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from jaxtyping import Float, Float32

from .task import Batch, State, TaskEnv

GoalObservation = dict[str, np.ndarray]

HELD_STEPS = 10
"""Env steps at the end of an episode through which a held goal is kept."""
HELD_SCALE = 2.0
"""A goal is held inside this many tolerances."""


@runtime_checkable
class Senses(Protocol):
    """What a learner is told of a task: numbers of the present, and numbers that a goal is given by."""

    num_features: int
    num_goal: int

    def goal(self, state: State) -> Float32[np.ndarray, " goal"]:
        """What is told of `state` as a goal."""
        ...

    def look(self, first: bool) -> tuple[Float32[np.ndarray, " feature"], Float32[np.ndarray, " goal"]]:
        """What is told of the task's present state, and the goal that it achieves; `first` of an episode."""
        ...


class StateSenses:
    """The task's state features; a goal is what they would be at rest in the goal's position."""

    def __init__(self, task: TaskEnv) -> None:
        self._task = task
        self.num_features = self.num_goal = len(task.feature_names)

    def goal(self, state: State) -> Float32[np.ndarray, " goal"]:
        """State features at rest in the position of `state`."""
        num_positions = self._task.num_positions
        at_rest = np.concatenate([state[:num_positions], np.zeros_like(state[num_positions:])])
        return self._task.features(at_rest)

    def look(self, first: bool) -> tuple[Float32[np.ndarray, " feature"], Float32[np.ndarray, " goal"]]:
        """State features of the present."""
        state = self._task.get_state()
        return self._task.features(state), self.goal(state)


class GoalEnv(gymnasium.Env):
    """Reach a goal and stay there: reward 0 inside the task's tolerance and -1 outside of it.

    Observations are `{"observation": (F,), "achieved_goal": (G + nq,), "desired_goal": (G + nq,)}` float32:
    what `senses` tell of the present, and two goals, each being what they tell of it and then its position,
    which the reward is about and which no policy is shown. `compute_reward` takes whole batches, so that
    goals can be chosen in hindsight.

    One `step` holds its action for `action_repeat` env steps. An episode is cut off, not ended, after
    `num_steps` env steps. `info` has `state`, `error` [tolerances] and, of the episode so far, `reached` (at
    some env step) and `held` (through the last 10 env steps, inside twice the tolerance); `is_success` is
    `reached`.

    Source: Plappert et al., Multi-Goal Reinforcement Learning, arXiv:1802.09464; ours draws start and goal
        from all valid states.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        task: TaskEnv,
        action_repeat: int = 1,
        num_steps: int | None = None,
        senses: Senses | None = None,
    ) -> None:
        """Wrap `task`, best made with `render=False` where the senses need no pictures.

        Args:
            action_repeat: env steps for which an action is held.
            num_steps: env steps of an episode, a multiple of `action_repeat`; the task's budget for far
                goals when not given.
            senses: of this very task; its state features when not given.

        Raises:
            ValueError: a number out of range.
        """
        self.task = task
        self.senses = StateSenses(task) if senses is None else senses
        self.action_repeat = action_repeat
        self.num_steps = task.far_budget if num_steps is None else num_steps
        if action_repeat < 1:
            raise ValueError(f"action_repeat must be at least 1, got {action_repeat}")
        if self.num_steps < action_repeat or self.num_steps % action_repeat:
            raise ValueError(
                f"num_steps must be a multiple of action_repeat={action_repeat}, got {self.num_steps}"
            )
        goal = gymnasium.spaces.Box(-np.inf, np.inf, (self.senses.num_goal + task.mj_model.nq,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "observation": gymnasium.spaces.Box(-np.inf, np.inf, (self.senses.num_features,), np.float32),
                "achieved_goal": goal,
                "desired_goal": goal,
            }
        )
        self.action_space = task.action_space
        self.goal_state = task.get_state()
        self._errors: list[float] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[GoalObservation, dict[str, Any]]:
        """Start anew, start and goal at rest and drawn from all valid states.

        Args:
            seed: of this episode and those that follow.
            options: `state` and `goal_state` instead of the drawn ones.

        Raises:
            ValueError: an unknown option, or a state that is none.
        """
        super().reset(seed=seed)
        options = options or {}
        unknown = sorted(set(options) - {"state", "goal_state"})
        if unknown:
            raise ValueError(f"Unknown reset option {unknown[0]!r}. Known options: goal_state, state")
        drawn = {name: self.task.sample_state(self.np_random) for name in ("state", "goal_state")}
        self.task.set_state(options.get("goal_state", drawn["goal_state"]))
        self.goal_state = self.task.get_state()
        self.task.set_state(options.get("state", drawn["state"]))
        self._desired_goal = self._with_position(self.senses.goal(self.goal_state), self.goal_state)
        state = self.task.get_state()
        self._errors = [float(self.task.error(state, self.goal_state))]
        return self._observe(first=True), self._info(state)

    def step(
        self, action: Float32[np.ndarray, " action"]
    ) -> tuple[GoalObservation, float, bool, bool, dict[str, Any]]:
        """Hold `action` for `action_repeat` env steps; the reward is the last one's."""
        states = []
        for _ in range(self.action_repeat):
            self.task.advance(action)
            states.append(self.task.get_state())
        self._errors += np.asarray(self.task.error(np.stack(states), self.goal_state)).tolist()
        observation = self._observe()
        reward = self.compute_reward(observation["achieved_goal"], self._desired_goal, {})
        return observation, float(reward), False, len(self._errors) > self.num_steps, self._info(states[-1])

    def compute_reward(
        self,
        achieved_goal: Float[np.ndarray, "*batch goal"],
        desired_goal: Float[np.ndarray, "*batch goal"],
        info: object,
    ) -> Batch:
        """Reward of having achieved one goal while another was desired; `info` plays no part."""
        positions = (goal[..., self.senses.num_goal :] for goal in (achieved_goal, desired_goal))
        error = self.task.position_error(*positions).max(axis=-1)
        return np.where(error <= self.task.tolerance, 0.0, -1.0).astype(np.float32)

    def close(self) -> None:
        """Close the task."""
        self.task.close()

    def _observe(self, first: bool = False) -> GoalObservation:
        features, achieved = self.senses.look(first)
        return {
            "observation": features,
            "achieved_goal": self._with_position(achieved, self.task.get_state()),
            "desired_goal": self._desired_goal.copy(),
        }

    def _with_position(
        self, goal: Float32[np.ndarray, " goal"], state: State
    ) -> Float32[np.ndarray, " goal_position"]:
        return np.concatenate([goal, state[: self.task.num_positions]]).astype(np.float32)

    def _info(self, state: State) -> dict[str, Any]:
        reached = min(self._errors) <= 1
        held = len(self._errors) > HELD_STEPS and max(self._errors[-HELD_STEPS:]) <= HELD_SCALE
        return {
            "state": state,
            "error": self._errors[-1],
            "reached": reached,
            "held": held,
            "is_success": reached,
        }
