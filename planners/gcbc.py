"""A cloned policy in a planner's search, and alone in the planner's place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wm_plan.world_model.protocol import WorldModel

from .bounds import ActionBounds
from .mpc import MPC
from .objectives import GoalDistance
from .protocol import CostFn, Plan, Status

Policy = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Mean and std (B, A) of the next action, in env units, of latents (B, T, ...) and the goal's (B, ...)."""


class PriorProposals:
    """Action sequences that a policy takes in the world that a model imagines: what `MPC` takes as `prior`.

    The first sequence follows the policy's means. Others take its noise, too: always the same noise, in
    mirrored pairs, so that a row's proposals follow from its own context and goal alone.

    Args:
        policy: proposes one action after another.
        model: imagines what follows each.
        action_space: as planners take it; every action is inside.
        horizon: model steps of a sequence.
        num_sequences: sequences of each row.

    Raises:
        ValueError: a number is below 1; or the model must be told at each imagined step what the robot feels.

    Source: TD-MPC2, arXiv:2310.16828, section 3.2.
    """

    def __init__(
        self, policy: Policy, model: WorldModel, action_space: object, *, horizon: int, num_sequences: int
    ) -> None:
        if horizon < 1 or num_sequences < 1:
            raise ValueError(
                f"horizon={horizon}, num_sequences={num_sequences} are not allowed; give 1 or more each"
            )
        predictor: Any = getattr(model, "predictor", None)
        if horizon > 1 and getattr(predictor, "state_dim", False):
            raise ValueError(
                "the policy prior cannot propose sequences for this model: it takes proprio, which is not "
                "known of imagined steps. Give control.num_prior=0"
            )
        self.policy, self.model, self.bounds = policy, model, ActionBounds(action_space)
        self.horizon, self.num_sequences = horizon, num_sequences

    @torch.no_grad()
    def __call__(
        self, context: Float[Tensor, "row step ..."], goal: Float[Tensor, "row 1 ..."]
    ) -> Float[Tensor, "row sequence horizon action"]:
        """Sequences in env units."""
        rows, count = len(context), self.num_sequences
        latents = context.repeat_interleave(count, dim=0)
        wanted = goal[:, 0].repeat_interleave(count, dim=0)
        taken: list[Tensor] = []
        for step in range(self.horizon):
            mean, std = self.policy(latents, wanted)
            noise = self._noise(step, mean.shape[1]).to(mean).repeat(rows, 1)
            taken.append(self.bounds.clamp(mean + std * noise))
            if step + 1 < self.horizon:
                following = self.model.rollout(latents, taken[-1][:, None, None])[:, 0]
                latents = torch.cat([latents[:, 1:], following], dim=1)
        return torch.stack(taken, dim=1).unflatten(0, (rows, count))

    def _noise(self, step: int, action_dim: int) -> Float[Tensor, "sequence action"]:
        """None for the first sequence, mirrored pairs for the others."""
        half = self.num_sequences // 2
        drawn = np.random.default_rng([7, step]).standard_normal((half, action_dim))
        both = np.stack([drawn, -drawn], axis=1).reshape(-1, action_dim)
        return torch.from_numpy(
            np.concatenate([np.zeros((1, action_dim)), both])[: self.num_sequences]
        ).float()


class GCBCPolicy(MPC):
    """A cloned policy alone, without any search: goal-conditioned behaviour cloning behind the same `act`.

    One action each model step, the policy's mean, from the same latents and histories as `MPC` has;
    `set_goal`, `reset` and batches are `MPC`'s.

    Args:
        model: `encode` is all that is used of it.
        policy: such as what `load_prior` gives.
        action_space: as planners take it.
        action_block: as in `MPC`.

    Raises:
        ValueError: bad bounds.
    """

    def __init__(
        self, model: WorldModel, policy: Policy, action_space: object, *, action_block: bool | int = False
    ) -> None:
        super().__init__(
            model,
            _FirstProposal(action_space),
            GoalDistance(),
            action_block=action_block,
            prior=PriorProposals(policy, model, action_space, horizon=1, num_sequences=1),
            imagine=False,
        )


class _FirstProposal:
    """A planner that searches nothing: the plan is the first sequence that is proposed to it."""

    horizon = 1

    def __init__(self, action_space: object) -> None:
        self.action_dim = ActionBounds(action_space).action_dim

    def optimize(
        self,
        cost_fn: CostFn,
        *,
        batch_size: int = 1,
        warm_start: Tensor | None = None,
        budget: float | None = None,
        seed: int | Sequence[int] | None = None,
        previous_action: Tensor | None = None,
        prefix: Tensor | None = None,
        priors: Tensor | None = None,
    ) -> Plan:
        """Take the first proposal; nothing else has a say."""
        assert priors is not None
        actions = priors[:, 0]
        unknown = torch.full((batch_size,), torch.inf)
        return Plan(
            actions=actions,
            cost=unknown,
            mean=actions,
            std=torch.zeros_like(actions),
            iterations=0,
            status=Status.OK,
            warm_start_cost=unknown,
            cost_per_iteration=torch.empty(0, batch_size),
            effective_sample_size=torch.empty(0, batch_size),
            std_per_iteration=torch.empty(0, batch_size),
        )
