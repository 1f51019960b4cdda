"""The one loop that all shooting planners share: propose -> project -> cost -> refit."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from .bounds import ActionBounds, SequenceLimits
from .deadline import Clock, Deadline, DurationRecords
from .protocol import CostFn, Evaluation, Plan, Status, Trace
from .search import History, Search
from .seeding import RowNoise, row_seeds
from .settings import as_choice, check_above_zero, check_at_least, check_fraction, configured
from .smoothness import Smoothness, smoothing_matrix


class Result(StrEnum):
    """Which sequence a search returns."""

    best = "best"
    """The best sequence that was evaluated."""
    mean = "mean"
    """Where the search distribution ended."""


@dataclass
class ShootingConfig:
    """Settings that all shooting planners have. Stds are relative to the action half-range."""

    horizon: int = 8
    """Model steps in a plan."""
    num_samples: int = 256
    """Candidates an iteration, the mean and any priors among them."""
    num_iterations: int = 5
    init_std: float = 0.5
    std_decay: float = 1.0
    """Factor on the largest allowed std from one iteration to the next; 1 leaves it alone."""
    smoothness: Smoothness = Smoothness.free
    num_knots: int | None = None
    """Knots of the hold, linear and cubic kinds: few make a long horizon cheap to search."""
    noise_beta: float = 0.0
    """Colour of the noise: 0 white, 2 red."""
    rate_limit: Any = None
    """Largest change of an action from one model step to the next, in env units: a number or a list of A."""
    result: Result = Result.best
    evaluate_mean: bool = True
    """Evaluate the last mean as well (one more candidate)."""
    stop_std: float = 0.0
    """A batch row stops searching when its mean relative std is below this; 0 never stops it."""
    patience: int = 0
    """A batch row stops after so many iterations without a lower cost; 0 never stops it."""

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        check_at_least(self, 1, "horizon", "num_samples", "num_iterations")
        check_at_least(self, 0, "init_std", "stop_std", "patience")
        check_above_zero(self, "std_decay")
        check_fraction(self, "std_decay")
        self.smoothness = as_choice(Smoothness, "smoothness", self.smoothness)
        self.result = as_choice(Result, "result", self.result)
        smoothing_matrix(self.horizon, self.smoothness, self.num_knots, self.noise_beta)


class ShootingPlanner(ABC):
    """Samples action sequences, scores them, and moves the search towards the good ones.

    A new planner is a config, a `propose` and a `refit`. Everything that must hold for all of them is here:
    bounds and rate limits before any evaluation, the warm start as candidate 0, costs that are not finite
    counted as +inf, the best evaluated sequence kept, deadlines, and noise that depends on nothing but the
    seed and the batch row.

    Args:
        action_space: a bounded gymnasium `Box` or a pair (low, high) of (A,) arrays.
        config: an instance of the planner's config class, a mapping, or None for the defaults.
        device: where the sequences live.
        overrides: single settings, by name.

    Raises:
        ValueError: bad bounds, unknown settings, or values out of range.
    """

    config_class: ClassVar[type[ShootingConfig]] = ShootingConfig

    def __init__(
        self,
        action_space: object,
        config: object = None,
        *,
        device: torch.device | str = "cpu",
        **overrides: object,
    ) -> None:
        self.config: Any = configured(self.config_class, config, overrides)
        self.device = torch.device(device)
        self.dtype = torch.float32
        self.record = False
        """Whether plans carry a `trace` of all candidates."""
        self.clock: Clock = time.perf_counter
        self._set_space(action_space)
        self._noise = RowNoise(self.device, self.dtype)
        self._durations = DurationRecords()

    def _set_space(self, action_space: object) -> None:
        config = self.config
        self.bounds = ActionBounds(action_space, self.device, self.dtype)
        self._limits = SequenceLimits(self.bounds, config.horizon, config.rate_limit)
        self._half_range = self.bounds.half_range.repeat(config.horizon)
        self._centre = self.bounds.centre.repeat(config.horizon)
        phi = smoothing_matrix(config.horizon, config.smoothness, config.num_knots, config.noise_beta)
        self._phi_transposed = None if phi is None else phi.to(self._centre).T.contiguous()

    @property
    def horizon(self) -> int:
        """Model steps in a plan."""
        return self.config.horizon

    @property
    def action_dim(self) -> int:
        """Numbers in one action."""
        return self.bounds.action_dim

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
        """Search one action sequence of low cost for each batch row.

        Args:
            cost_fn: maps actions (B, N, H, A) in env units to costs (B, N), or to an `Evaluation` with
                constraint violations. N changes from call to call. Costs that are not finite count as +inf.
            batch_size: B, the number of independent searches.
            warm_start: (B, H, A) where the search starts; the middle of the action range when None. The
                result never costs more than it does.
            budget: seconds; an iteration that would probably overrun them is not begun. With a budget too
                small for any, the warm start comes back with `iterations` 0 and a cost of +inf.
            seed: one number for all rows, or one a row; a row's plan never depends on its neighbours.
                None draws a fresh seed.
            previous_action: (B, A) last executed action, for the rate limit; NaN rows have none.
            prefix: (B, P, A) actions already committed: every candidate starts with them.
            priors: (B, M, H, A) sequences to try in the first iteration, besides the warm start: a policy's
                proposal, recorded motions, elites of the last plan. They may be outside the limits.

        Raises:
            ValueError: a shape does not fit; the message names what was given and what is wanted.
        """
        start = self.clock()
        deadline = Deadline(budget, self.clock)
        history = History()
        with self._grad_mode():
            self._noise.seed(row_seeds(seed, batch_size))
            search = self._begin(batch_size, warm_start, previous_action, prefix, priors)
            status = self._iterate(search, cost_fn, deadline, history)
            mean = self._limits(search.mean.unsqueeze(1).clone(), search.previous_action, search.prefix)
            self._finish(search, cost_fn, deadline, history, mean)
            if search.iteration and float(search.best_cost.max()) == torch.inf:
                status = Status.INVALID
        return self._plan(search, history, mean[:, 0], status, self.clock() - start)

    def _iterate(self, search: Search, cost_fn: CostFn, deadline: Deadline, history: History) -> Status:
        durations = self._durations[search.batch_size]
        for _ in range(self.config.num_iterations):
            if not deadline.allows(durations):
                return Status.DEADLINE
            began = self.clock()
            candidates = self._candidates(search)
            cost, violation = self._evaluate(search, cost_fn, candidates, history)
            ranking = self._rank(cost, violation)
            search.remember(candidates, cost, violation, ranking)
            sample_size = self.refit(search, candidates, self._fitness(cost, violation, ranking))
            history.add(cost, sample_size, search.std)
            if self.record:
                history.trace.append(Trace(self._as_actions(candidates), cost, search.elites))
            search.iteration += 1
            durations.add(self.clock() - began)
            if search.stop(self._half_range, self.config.stop_std, self.config.patience):
                break
        return Status.OK

    def _finish(
        self, search: Search, cost_fn: CostFn, deadline: Deadline, history: History, mean: Tensor
    ) -> None:
        """Evaluate the last mean (B, 1, flat), if wanted and if there is time; it may be the best of all."""
        wanted = self.config.evaluate_mean or self.config.result == Result.mean
        durations = self._durations[search.batch_size, "mean"]
        if search.iteration == 0 or not wanted or not deadline.allows(durations):
            return
        began = self.clock()
        search.running = None
        cost, violation = self._evaluate(search, cost_fn, mean, history)
        search.remember(mean, cost, violation, cost)
        if self.config.result == Result.mean:
            search.best, search.best_cost = mean[:, 0], cost[:, 0]
            search.best_violation = None if violation is None else violation[:, 0]
        durations.add(self.clock() - began)

    def _plan(self, search: Search, history: History, mean: Tensor, status: Status, seconds: float) -> Plan:
        ran = search.iteration > 0
        nothing = search.best_cost.new_empty(0, search.batch_size) if not ran else search.best_cost
        return Plan(
            actions=self._as_actions(search.best).clone(),
            cost=search.best_cost.clone(),
            mean=self._as_actions(mean).clone(),
            std=search.std.view(-1, self.horizon, self.action_dim).clone(),
            iterations=search.iteration,
            status=status,
            warm_start_cost=history.warm_start_cost.clone()
            if history.warm_start_cost is not None
            else torch.full_like(search.best_cost, torch.inf),
            cost_per_iteration=torch.stack(history.cost) if ran else nothing,
            effective_sample_size=torch.stack(history.effective_sample_size) if ran else nothing,
            std_per_iteration=torch.stack(history.std).div_(self._half_range).mean(dim=2) if ran else nothing,
            timings={
                "total_ms": seconds * 1e3,
                "cost_ms": history.cost_seconds * 1e3,
                "search_ms": (seconds - history.cost_seconds) * 1e3,
            },
            violation=None if search.best_violation is None else search.best_violation.clone(),
            elites=None if search.kept is None else self._as_actions(search.kept).clone(),
            trace=history.trace,
        )

    # What a planner adds

    def propose(self, search: Search, count: int) -> Float[Tensor, "batch count flat"]:
        """Fresh candidates; by default normal around the mean, smooth as configured."""
        return self._gaussian(search.mean, self._std(search), count)

    @abstractmethod
    def refit(self, search: Search, candidates: Tensor, ranking: Tensor) -> Float[Tensor, " batch"]:
        """Move the search by what was learned; returns the effective sample size of each row.

        Args:
            search: the state to change.
            candidates: (B, N, flat), inside all limits.
            ranking: (B, N), lower is better, +inf where the cost is; equals the cost unless some candidates
                break constraints.
        """

    def _num_candidates(self, iteration: int) -> int:
        """How many candidates an iteration has."""
        return self.config.num_samples

    def _fitness(self, cost: Tensor, violation: Tensor | None, ranking: Tensor) -> Tensor:
        """What `refit` is given: feasible first, unless a planner weighs violations in another way."""
        return ranking

    def _rank(self, cost: Tensor, violation: Tensor | None) -> Tensor:
        """Feasible first: by cost among the feasible, then by violation among the others.

        Source: K. Deb, "An efficient constraint handling method for genetic algorithms" (2000), section 3.
        """
        if violation is None:
            return cost
        feasible = violation <= 0
        finite = cost.isfinite()
        worst = torch.where(feasible & finite, cost, -torch.inf).amax(dim=1, keepdim=True)
        worst = torch.where(worst.isfinite(), worst, torch.zeros_like(worst))
        # Scaled, so that a large worst cost does not swallow small violations in rounding.
        broken = worst + (1 + worst.abs()) * violation
        return torch.where(feasible, cost, broken).masked_fill(~finite, torch.inf)

    # The loop's parts

    def _grad_mode(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    def _std(self, search: Search) -> Tensor:
        """The std to sample with, under the ceiling that `std_decay` lowers."""
        if self.config.std_decay == 1:
            return search.std
        ceiling = self.config.init_std * self.config.std_decay**search.iteration
        return torch.minimum(search.std, ceiling * self._half_range)

    def _gaussian(self, mean: Tensor, std: Tensor, count: int) -> Tensor:
        """Candidates in mirrored pairs, mean + noise and mean - noise: half the random numbers.

        Source: D. Brockhoff et al., "Mirrored sampling and sequential selection for evolution strategies"
        (2010).
        """
        batch_size, half = len(mean), (count + 1) // 2
        noise, shape = self._unit_noise(batch_size, half)
        candidates = noise.new_empty(batch_size, count, *shape)
        mean, std = mean.view(batch_size, 1, *shape), std.view(-1, 1, *shape)
        torch.addcmul(mean, std, noise, out=candidates[:, :half])
        torch.addcmul(mean, std, noise[:, : count - half], value=-1, out=candidates[:, half:])
        return candidates.view(batch_size, count, -1)

    def _unit_noise(self, batch_size: int, count: int) -> tuple[Tensor, tuple[int, ...]]:
        """Noise of std 1, (B, count, flat) or (B, count, H, A), and its shape from the third axis on."""
        if self._phi_transposed is None:
            flat = self.horizon * self.action_dim
            return self._noise.normal(batch_size, count, flat), (flat,)
        knots = self._phi_transposed.shape[0]
        theta = self._noise.normal(batch_size, count, self.action_dim, knots)
        return (theta @ self._phi_transposed).transpose(-1, -2), (self.horizon, self.action_dim)

    def _begin(
        self,
        batch_size: int,
        warm_start: Tensor | None,
        previous_action: Tensor | None,
        prefix: Tensor | None,
        priors: Tensor | None,
    ) -> Search:
        horizon, action_dim = self.horizon, self.action_dim
        if warm_start is None:
            mean = self._centre.expand(batch_size, -1).clone()
        else:
            mean = self._checked(warm_start, "warm_start", (batch_size, horizon, action_dim)).flatten(1)
            # One sum tells whether any number is not finite, which is rare.
            finite = math.isfinite(float(mean.sum()))
            mean = mean.clone() if finite else torch.where(mean.isfinite(), mean, self._centre)
        if previous_action is not None:
            previous_action = self._checked(previous_action, "previous_action", (batch_size, action_dim))
        if prefix is not None:
            prefix = self._checked(prefix, "prefix", (batch_size, None, action_dim))
            if prefix.shape[1] > horizon:
                raise ValueError(f"prefix has {prefix.shape[1]} steps; give at most horizon={horizon}")
            prefix = prefix.flatten(1)
        if priors is not None:
            priors = self._checked(priors, "priors", (batch_size, None, horizon, action_dim)).flatten(2)
            room = self._num_candidates(0) - 1
            if priors.shape[1] > room:
                raise ValueError(
                    f"{priors.shape[1]} priors do not fit num_samples={self.config.num_samples};"
                    f" give at most {room}, one place is the warm start's"
                )
            priors = torch.where(priors.isfinite(), priors, mean.unsqueeze(1))
        mean = self._limits(mean.unsqueeze(1), previous_action, prefix)[:, 0]
        search = Search(
            batch_size=batch_size,
            mean=mean,
            std=(self.config.init_std * self._half_range).expand(batch_size, -1),
            best=mean,
            best_cost=torch.full((batch_size,), torch.inf, dtype=self.dtype, device=self.device),
            previous_action=previous_action,
            prefix=prefix,
            priors=priors,
        )
        if self.config.stop_std > 0 or self.config.patience > 0:
            search.running = torch.ones(batch_size, dtype=torch.bool, device=self.device)
            search.stalled = torch.zeros(batch_size, dtype=torch.long, device=self.device)
        return search

    def _candidates(self, search: Search) -> Tensor:
        candidates = self.propose(search, self._num_candidates(search.iteration))
        candidates.select(1, 0).copy_(search.mean)
        used = 1
        for again in (search.priors if search.iteration == 0 else None, search.kept):
            if again is not None:
                end = min(used + again.shape[1], candidates.shape[1])
                candidates[:, used:end] = again[:, : end - used]
                used = end
        return self._limits(candidates, search.previous_action, search.prefix)

    def _evaluate(
        self, search: Search, cost_fn: CostFn, candidates: Tensor, history: History
    ) -> tuple[Tensor, Tensor | None]:
        """Costs (B, N) with +inf for everything that is not finite, and violations if there are any."""
        began = self.clock()
        outcome = self._call(search, cost_fn, candidates)
        history.cost_seconds += self.clock() - began
        cost, violation = outcome if isinstance(outcome, tuple) else (outcome, None)
        if cost.shape != candidates.shape[:2]:
            raise ValueError(
                f"The cost function returned shape {tuple(cost.shape)} for actions of shape"
                f" {tuple(self._as_actions(candidates).shape)}; return (B, N) = {tuple(candidates.shape[:2])}"
            )
        cost = cost.to(self.dtype).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
        if violation is not None:
            violation = violation.to(self.dtype).nan_to_num(nan=torch.inf).clamp_(min=0)
            cost = cost.masked_fill(violation == torch.inf, torch.inf)
        return cost, violation

    def _call(self, search: Search, cost_fn: CostFn, candidates: Tensor) -> Tensor | Evaluation:
        return cost_fn(self._as_actions(candidates))

    def _as_actions(self, flat: Tensor) -> Tensor:
        return flat.view(*flat.shape[:-1], self.horizon, self.action_dim)

    def _checked(self, given: npt.ArrayLike | Tensor, name: str, shape: tuple[int | None, ...]) -> Tensor:
        tensor = torch.as_tensor(given, dtype=self.dtype, device=self.device)
        if tensor.shape == shape:
            return tensor
        fits = tensor.ndim == len(shape) and all(
            want is None or have == want for have, want in zip(tensor.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if number is None else str(number) for number in shape)
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; give ({wanted})")
        return tensor
