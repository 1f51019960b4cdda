"""The true-physics planner: the same search, with MuJoCo itself in place of the learned world model.

It knows the state, imagines without error, and its cost is the distance of states, so it tells what the
search alone can do: a strong reference, not a strict bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import mujoco.rollout
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wm_plan.envs import TaskEnv
from wm_plan.planners import MPC, ShootingPlanner, Term
from wm_plan.planners.objectives import Reduce

from .policies import Actions, Mask, note_times
from .protocols import Trial


class TruePhysics:
    """MuJoCo as a world model whose latents are states; what it `encode`s is the proprio, given the state.

    Args:
        env: the task whose model it rolls out.
        threads: of the rollouts.
    """

    history = 1

    def __init__(self, env: TaskEnv, threads: int = 1) -> None:
        self.frame_skip = env.frame_skip
        self._model = env.mj_model
        self._substeps = round(env.control_timestep / env.mj_model.opt.timestep)
        self._datas = [mujoco.MjData(self._model) for _ in range(threads)]
        self._pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)

    def encode(
        self, frames: np.ndarray | Tensor, proprio: Tensor | None = None
    ) -> Float[Tensor, "batch step state"]:
        """Give the states (B, T, S) that came as proprio; frames are not looked at."""
        assert proprio is not None
        return proprio

    def rollout(
        self,
        context: Float[Tensor, "batch step state"],
        actions: Float[Tensor, "batch candidate horizon action"],
    ) -> Float[Tensor, "batch candidate horizon state"]:
        """Give the states at the ends of the model steps that follow the context's last one."""
        batch, candidates, horizon, _ = actions.shape
        state = context[:, -1].double().repeat_interleave(candidates, dim=0)
        clock = state.new_zeros(len(state), 1)  # MuJoCo's full state begins with the time
        control = actions.flatten(0, 1).double().repeat_interleave(self.frame_skip * self._substeps, dim=1)
        reached, _ = self._pool.rollout(
            self._model, self._datas, torch.cat([clock, state], dim=1).numpy(), control.numpy()
        )
        ends = reached[:, self.frame_skip * self._substeps - 1 :: self.frame_skip * self._substeps, 1:]
        return torch.from_numpy(np.ascontiguousarray(ends)).view(batch, candidates, horizon, -1)


class StateDistance(Term):
    """The task's distance of states, in units of its tolerance, over the plan."""

    def __init__(self, env: TaskEnv, reduce: Reduce = Reduce.sum) -> None:
        self._env, self._reduce = env, reduce

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Float[Tensor, "batch candidate"]:
        """The model steps' distances as one cost."""
        distance = self._env.state_distance(imagined.numpy(), goal.unsqueeze(2).numpy())
        return self._reduce.over(torch.from_numpy(np.asarray(distance)))


class PhysicsPolicy:
    """Plans with true physics towards the true goal state.

    Args:
        env: any environment of the task.
        planner: the search, its actions in the task's units.
        settings: what a reader must know.
        reduce: how the distances of a plan's steps count.
        replan_every: model steps executed of each plan.
        threads: of the rollouts.
    """

    name = "physics"

    def __init__(
        self,
        env: TaskEnv,
        planner: ShootingPlanner,
        settings: dict[str, Any],
        *,
        reduce: Reduce = Reduce.sum,
        replan_every: int = 1,
        threads: int = 1,
    ) -> None:
        self.settings = settings
        self.plan_ms: list[float] = []
        self.encode_ms: list[float] = []
        self.controller = MPC(
            TruePhysics(env, threads),
            planner,
            StateDistance(env, reduce),
            replan_every=replan_every,
            imagine=False,
        )

    def begin(self, envs: Sequence[TaskEnv], trials: Sequence[Trial]) -> None:
        """Tell the controller its goals, as states."""
        self.controller.reset(seed=[trial.seed for trial in trials])
        self.controller.set_goal_latent(torch.from_numpy(np.stack([trial.goal for trial in trials])[:, None]))
        self._unseen = np.zeros((len(envs), 1, 1, 3), np.uint8)

    def act(self, step: int, envs: Sequence[TaskEnv], active: Mask) -> Actions:
        """Plan from the true states where a model step begins, and act."""
        states = np.stack([env.get_state() for env in envs])
        actions = self.controller.act({"pixels": self._unseen, "proprio": states}, active=active)
        note_times(self, self.controller)
        self.encode_ms.clear()  # there is nothing to encode
        return actions
