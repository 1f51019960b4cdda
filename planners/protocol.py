"""The planning contracts: what a planner is given, what it gives back, what an objective is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Shaped
from torch import Tensor


class Status(StrEnum):
    """How a plan came about."""

    OK = "ok"
    """Every iteration ran."""
    DEADLINE = "deadline"
    """The budget ended the search early; the plan is the best so far."""
    STALE = "stale"
    """No new plan arrived in time; the actions are those of an older one (real-time loop only)."""
    INVALID = "invalid"
    """No candidate of at least one batch row had a finite cost; that row keeps its warm start."""


class Evaluation(NamedTuple):
    """What a cost function may return when candidates can also break constraints."""

    cost: Float[Tensor, "batch candidate"]
    violation: Float[Tensor, "batch candidate"] | None = None
    """Total constraint violation, 0 where feasible."""


CostFn = Callable[[Tensor], Tensor | Evaluation]
"""Maps actions (B, N, H, A), in env units, to costs (B, N); lower is better."""


class Trace(NamedTuple):
    """What one iteration tried; kept only by planners with `record = True`."""

    candidates: Shaped[Tensor, "batch candidate step action"]
    cost: Float[Tensor, "batch candidate"]
    elites: Shaped[Tensor, "batch elite"] | None
    """Indices of the elites among the candidates, where the planner has elites."""


@dataclass
class Plan:
    """The result of one search over action sequences, for every batch row.

    `horizon` steps are model steps. Times are in milliseconds.
    """

    actions: Shaped[Tensor, "batch step action"]
    """The chosen sequence, in env units, inside bounds and rate limits."""
    cost: Float[Tensor, " batch"]
    """Its cost; +inf where nothing finite was found."""
    mean: Shaped[Tensor, "batch step action"]
    """Where the search distribution ended."""
    std: Float[Tensor, "batch step action"]
    """How wide it ended, in env units."""
    iterations: int
    status: Status
    warm_start_cost: Float[Tensor, " batch"]
    """Cost of candidate 0 of the first iteration, the (projected) warm start."""
    cost_per_iteration: Float[Tensor, "iteration batch"]
    """Lowest cost among the candidates of each iteration."""
    effective_sample_size: Float[Tensor, "iteration batch"]
    """How many candidates shaped each refit: 1 / sum of squared weights."""
    std_per_iteration: Float[Tensor, "iteration batch"]
    """Mean std after each refit, relative to the action half-range."""
    timings: dict[str, float] = field(default_factory=dict)
    """`total_ms`, `cost_ms` (inside the cost function) and `search_ms` (the rest)."""
    violation: Float[Tensor, " batch"] | None = None
    """Constraint violation of the chosen sequence; None where the cost function reports none."""
    elites: Shaped[Tensor, "batch elite step action"] | None = None
    """Sequences worth trying again in the next plan (planners with `keep_elites`)."""
    latent_actions: Shaped[Tensor, "batch step number"] | None = None
    """What `actions` were decoded from, where latent actions were searched; set by `MPC`."""
    imagined: Tensor | None = None
    """Latents (B, H, ...) imagined along `actions`; set by `MPC`."""
    trace: list[Trace] = field(default_factory=list)
    """What every iteration tried; empty unless the planner's `record` is set."""

    @property
    def searched(self) -> Shaped[Tensor, "batch step number"]:
        """The chosen sequence in the numbers that the planner searched: actions, or latent ones."""
        return self.actions if self.latent_actions is None else self.latent_actions


@runtime_checkable
class Objective(Protocol):
    """Scores imagined futures; lower is better."""

    def __call__(self, imagined: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
        """Cost (B, N) of latents (B, N, H, ...) under actions (B, N, H, A), for a goal (B, 1, ...)."""
        ...


@runtime_checkable
class Planner(Protocol):
    """Searches action sequences of low cost."""

    @property
    def horizon(self) -> int:
        """Model steps in a plan."""
        ...

    @property
    def action_dim(self) -> int:
        """Numbers in one action."""
        ...

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
        """Search `batch_size` independent plans at once; see `ShootingPlanner.optimize`."""
        ...
