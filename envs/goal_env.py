"""A task as goal-conditioned reinforcement learning sees it: from state, with a goal in every observation."""

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, Float32

from .task import Batch, State, States, TaskEnv

GoalObservation = dict[str, np.ndarray]

HELD_STEPS = 10
"""Env steps at the end of an episode through which a held goal is kept."""
HELD_SCALE = 2.0
"""A goal is held inside this many tolerances."""


class GoalEnv(gymnasium.Env):
    """Reach a goal and stay there: reward 0 inside the task's tolerance and -1 outside of it.

    Observations are `{"observation": (P,), "achieved_goal": (P + nq,), "desired_goal": (P + nq,)}` float32:
    what the robot feels, and two goals, each being what the robot would feel at rest in a position, then the
    position itself, which the reward is about. `compute_reward` takes whole batches, so that goals can be
    chosen in hindsight. Nothing is drawn, and no GL is needed.

    One `step` holds its action for `action_repeat` env steps. An episode is cut off, not ended, after
    `num_steps` env steps. `info` has `state`, `error` [tolerances] and, of the episode so far, `reached` (at
    some env step) and `held` (through the last 10 env steps, inside twice the tolerance); `is_success` is
    `reached`.

    Source: Plappert et al., Multi-Goal Reinforcement Learning, arXiv:1802.09464; ours draws start and goal
        from all valid states.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, task: TaskEnv, action_repeat: int = 1, num_steps: int | None = None) -> None:
        """Wrap `task`, best made with `render=False`.

        Args:
            action_repeat: env steps for which an action is held.
            num_steps: env steps of an episode, a multiple of `action_repeat`; the task's budget for far
                goals when not given.

        Raises:
            ValueError: a number out of range.
        """
        self.task = task
        self.action_repeat = action_repeat
        self.num_steps = task.far_budget if num_steps is None else num_steps
        if action_repeat < 1:
            raise ValueError(f"action_repeat must be at least 1, got {action_repeat}")
        if self.num_steps < action_repeat or self.num_steps % action_repeat:
            raise ValueError(
                f"num_steps must be a multiple of action_repeat={action_repeat}, got {self.num_steps}"
            )
        self._num_proprio = len(task.proprio_names)
        goal = gymnasium.spaces.Box(-np.inf, np.inf, (self._num_proprio + task.mj_model.nq,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "observation": gymnasium.spaces.Box(-np.inf, np.inf, (self._num_proprio,), np.float32),
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
        self._desired_goal = self.goal_of(self.goal_state)
        state = self.task.get_state()
        self._errors = [float(self.task.error(state, self.goal_state))]
        return self._observe(state), self._info(state)

    def step(
        self, action: Float32[np.ndarray, " action"]
    ) -> tuple[GoalObservation, float, bool, bool, dict[str, Any]]:
        """Hold `action` for `action_repeat` env steps; the reward is the last one's."""
        states = []
        for _ in range(self.action_repeat):
            self.task.advance(action)
            states.append(self.task.get_state())
        self._errors += np.asarray(self.task.error(np.stack(states), self.goal_state)).tolist()
        observation = self._observe(states[-1])
        reward = self.compute_reward(observation["achieved_goal"], self._desired_goal, {})
        return observation, float(reward), False, len(self._errors) > self.num_steps, self._info(states[-1])

    def compute_reward(
        self,
        achieved_goal: Float[np.ndarray, "*batch goal"],
        desired_goal: Float[np.ndarray, "*batch goal"],
        info: object,
    ) -> Batch:
        """Reward of having achieved one goal while another was desired; `info` plays no part."""
        positions = (goal[..., self._num_proprio :] for goal in (achieved_goal, desired_goal))
        error = self.task.position_error(*positions).max(axis=-1)
        return np.where(error <= self.task.tolerance, 0.0, -1.0).astype(np.float32)

    def goal_of(self, state: States) -> Float32[np.ndarray, "... goal"]:
        """The goal that is achieved in `state`, whatever its velocities."""
        nq = self.task.mj_model.nq
        at_rest = np.concatenate([state[..., :nq], np.zeros_like(state[..., nq:])], axis=-1)
        return np.concatenate([self.task.proprio(at_rest), state[..., :nq]], axis=-1).astype(np.float32)

    def close(self) -> None:
        """Close the task."""
        self.task.close()

    def _observe(self, state: State) -> GoalObservation:
        return {
            "observation": self.task.proprio(state).astype(np.float32),
            "achieved_goal": self.goal_of(state),
            "desired_goal": self._desired_goal.copy(),
        }

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
