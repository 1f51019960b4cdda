"""Gradient descent on action sequences, through the world model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .protocol import CostFn, Evaluation, Plan, Planner
from .search import Search
from .settings import check_above_zero, check_at_least, check_fraction
from .shooting import ShootingConfig, ShootingPlanner


@dataclass
class GradientConfig(ShootingConfig):
    """Settings of the gradient planner. Stds and steps are relative to the action half-range."""

    num_samples: int = 16
    """Sequences that descend side by side: the warm start, priors, and random ones."""
    num_iterations: int = 30
    learning_rate: float = 0.1
    momentum: float = 0.9
    """Adam's decay of the mean gradient."""
    second_momentum: float = 0.99
    """Adam's decay of the mean squared gradient."""
    constraint_penalty: float = 100.0
    """Cost of one unit of constraint violation, for the descent."""

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        super().__post_init__()
        check_above_zero(self, "learning_rate")
        check_at_least(self, 0, "constraint_penalty")
        check_fraction(self, "momentum", "second_momentum", one=False)


class GradientPlanner(ShootingPlanner):
    """Adam on several action sequences at once, projected into the limits after every step.

    The cost function, and so the world model, must be differentiable. The best sequence evaluated is
    returned, so a step too far does no harm.

    Source: D. Kingma, J. Ba, "Adam" (arXiv:1412.6980), algorithm 1.
    """

    config_class: ClassVar[type[ShootingConfig]] = GradientConfig

    def propose(self, search: Search, count: int) -> Float[Tensor, "batch count flat"]:
        """Random sequences first, then those that the last step led to."""
        if search.iteration == 0:
            return super().propose(search, count)
        return search.memory["next"]

    def refit(self, search: Search, candidates: Tensor, ranking: Tensor) -> Float[Tensor, " batch"]:
        """Take one step of Adam with every candidate."""
        assert search.gradient is not None
        config, memory, step = self.config, search.memory, search.iteration + 1
        gradient = search.gradient * self._half_range
        first = memory.get("first", torch.zeros_like(gradient))
        second = memory.get("second", torch.zeros_like(gradient))
        memory["first"] = torch.lerp(gradient, first, config.momentum)
        memory["second"] = torch.lerp(gradient.square(), second, config.second_momentum)
        mean = memory["first"] / (1 - config.momentum**step)
        spread = (memory["second"] / (1 - config.second_momentum**step)).sqrt()
        memory["next"] = candidates - config.learning_rate * self._half_range * mean / (spread + 1e-8)
        search.move(memory["next"][:, 0], None, ranking[:, :1].isfinite())
        return ranking.isfinite().sum(dim=1).to(self.dtype)

    def _grad_mode(self) -> AbstractContextManager[None]:
        return torch.no_grad()

    def _call(self, search: Search, cost_fn: CostFn, candidates: Tensor) -> Tensor | Evaluation:
        with torch.enable_grad():
            sequences = candidates.detach().clone().requires_grad_()
            outcome = cost_fn(self._as_actions(sequences))
            cost, violation = outcome if isinstance(outcome, tuple) else (outcome, None)
            total = cost if violation is None else cost + self.config.constraint_penalty * violation
            if not total.requires_grad:
                raise ValueError(
                    "The cost function gives costs without gradients, which the gradient planner needs;"
                    " take another planner, or remove no_grad and inference_mode from the model"
                )
            (gradient,) = torch.autograd.grad(total.sum(), sequences)
        search.gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return Evaluation(cost.detach(), None if violation is None else violation.detach())


class Polished:
    """A planner whose result a gradient planner then improves.

    Args:
        first: finds a good sequence.
        polish: descends from it, with a share of any budget that `first` leaves over.
    """

    def __init__(self, first: Planner, polish: GradientPlanner) -> None:
        if (first.horizon, first.action_dim) != (polish.horizon, polish.action_dim):
            raise ValueError(
                f"The planners differ: horizons {first.horizon} and {polish.horizon}, actions of"
                f" {first.action_dim} and {polish.action_dim} numbers; give both the same"
            )
        self.first = first
        self.polish = polish

    @property
    def horizon(self) -> int:
        """Model steps in a plan."""
        return self.first.horizon

    @property
    def action_dim(self) -> int:
        """Numbers in one action."""
        return self.first.action_dim

    def optimize(
        self,
        cost_fn: CostFn,
        *,
        batch_size: int = 1,
        warm_start: Tensor | None = None,
        budget: float | None = None,
        seed: int | Sequence[int] | None = None,
        priors: Tensor | None = None,
        **limits: Tensor | None,
    ) -> Plan:
        """Search, then polish; half of the budget is for the search.

        Arguments are those of `ShootingPlanner.optimize`; `limits` are its `previous_action` and `prefix`.
        """
        found = self.first.optimize(
            cost_fn,
            batch_size=batch_size,
            warm_start=warm_start,
            budget=None if budget is None else budget / 2,
            seed=seed,
            priors=priors,
            **limits,
        )
        left = None if budget is None else budget - found.timings["total_ms"] / 1e3
        plan = self.polish.optimize(
            cost_fn, batch_size=batch_size, warm_start=found.actions, budget=left, seed=seed, **limits
        )
        if plan.iterations == 0:
            return found
        timings = {name: plan.timings[name] + found.timings[name] for name in plan.timings}
        return replace(
            plan,
            warm_start_cost=found.warm_start_cost,
            std=found.std,
            iterations=found.iterations + plan.iterations,
            elites=found.elites,
            timings=timings,
            cost_per_iteration=torch.cat([found.cost_per_iteration, plan.cost_per_iteration]),
            effective_sample_size=torch.cat([found.effective_sample_size, plan.effective_sample_size]),
            std_per_iteration=torch.cat([found.std_per_iteration, plan.std_per_iteration]),
        )
