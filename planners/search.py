"""The state of one search, and what it remembers of its iterations."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from .protocol import Trace


@dataclass
class Search:
    """The state of one `optimize` call. Flat sequences have H * A numbers, in env units."""

    batch_size: int
    mean: Float[Tensor, "batch flat"]
    std: Float[Tensor, "batch flat"]
    best: Float[Tensor, "batch flat"]
    best_cost: Float[Tensor, " batch"]
    previous_action: Tensor | None
    prefix: Tensor | None
    priors: Tensor | None
    iteration: int = 0
    best_violation: Tensor | None = None
    kept: Tensor | None = None
    """Candidates (B, M, flat) that the next iteration tries again."""
    elites: Tensor | None = None
    """Indices of the last refit's elites."""
    running: Tensor | None = None
    """Rows that still search; None while early stopping is off."""
    stalled: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Iterations without a lower cost, by row."""
    gradient: Tensor | None = None
    """Gradient of the costs with respect to the candidates, for planners that ask for it."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """Whatever else a planner carries from one iteration to the next."""

    def remember(self, candidates: Tensor, cost: Tensor, violation: Tensor | None, ranking: Tensor) -> None:
        """Keep the best candidate evaluated so far: of less violation, or of as much and lower cost."""
        value, index = ranking.min(dim=1)
        broken = None
        if violation is None:
            better = value < self.best_cost
        else:
            value = cost.gather(1, index.unsqueeze(1)).squeeze(1)
            better = value < self.best_cost
            broken = violation.gather(1, index.unsqueeze(1)).squeeze(1)
            known = torch.inf if self.best_violation is None else self.best_violation
            better = value.isfinite() & ((broken < known) | ((broken == known) & better))
        if self.running is not None:
            better = better & self.running
            self.stalled = torch.where(better, 0, self.stalled + 1)
        found = picked(candidates, index.unsqueeze(1)).squeeze(1)
        self.best = torch.where(better.unsqueeze(1), found, self.best)
        self.best_cost = torch.where(better, value, self.best_cost)
        if broken is not None:
            self.best_violation = torch.where(
                better, broken, torch.inf if self.best_violation is None else self.best_violation
            )

    def stop(self, half_range: Tensor, stop_std: float, patience: int) -> bool:
        """End the search of converged or stalled rows; True when no row is left."""
        if self.running is None:
            return False
        if stop_std > 0:
            self.running = self.running & ((self.std / half_range).mean(dim=1) >= stop_std)
        if patience > 0:
            self.running = self.running & (self.stalled < patience)
        return not bool(self.running.any())

    def move(self, mean: Tensor, std: Tensor | None, valid: Tensor) -> None:
        """Set mean and std in the rows where `valid` (B, 1) holds and the search still runs."""
        if self.running is not None:
            valid = valid & self.running.unsqueeze(1)
        self.mean = torch.where(valid, mean, self.mean)
        if std is not None:
            self.std = torch.where(valid, std, self.std)


@dataclass
class History:
    """What a plan reports of each iteration."""

    cost: list[Tensor] = field(default_factory=list)
    effective_sample_size: list[Tensor] = field(default_factory=list)
    std: list[Tensor] = field(default_factory=list)
    """(B, flat), in env units."""
    trace: list[Trace] = field(default_factory=list)
    warm_start_cost: Tensor | None = None
    cost_seconds: float = 0.0

    def add(self, cost: Tensor, effective_sample_size: Tensor, std: Tensor) -> None:
        """Note one iteration: costs (B, N), effective sample size (B,), std (B, flat)."""
        if not self.cost:
            self.warm_start_cost = cost.select(1, 0)
        self.cost.append(cost.amin(dim=1))
        self.effective_sample_size.append(effective_sample_size)
        self.std.append(std)


def picked(
    candidates: Float[Tensor, "batch candidate flat"], index: Shaped[Tensor, "batch chosen"]
) -> Float[Tensor, "batch chosen flat"]:
    """The candidates of each row at its indices."""
    batch_size, count, flat = candidates.shape
    if batch_size > 1:
        index = index + torch.arange(0, batch_size * count, count, device=index.device).unsqueeze(1)
    return candidates.view(-1, flat).index_select(0, index.view(-1)).view(batch_size, -1, flat)


def weighted_moments(
    sequences: Float[Tensor, "batch candidate flat"],
    weights: Float[Tensor, "batch candidate"],
    with_std: bool = True,
) -> tuple[Float[Tensor, "batch flat"], Float[Tensor, "batch flat"] | None]:
    """Mean and (biased, so never NaN) std of sequences under weights that sum to 1."""
    weights = weights.unsqueeze(1)
    mean = torch.bmm(weights, sequences)
    if not with_std:
        return mean.squeeze(1), None
    variance = torch.bmm(weights, (sequences - mean).square_())
    return mean.squeeze(1), variance.squeeze(1).sqrt_()
