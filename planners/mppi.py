"""Model predictive path integral control: refit to all candidates, weighted by their costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .search import Search, weighted_moments
from .settings import check_above_zero, check_at_least, check_fraction
from .shooting import ShootingConfig, ShootingPlanner


@dataclass
class MPPIConfig(ShootingConfig):
    """Settings of MPPI. Stds are relative to the action half-range."""

    temperature: float = 0.1
    """Larger is softer: weights are exp(-cost / temperature). (TD-MPC2 and jepa-wms multiply instead.)"""
    normalize_costs: bool = True
    """Divide costs by their std among the candidates first: latent cost scales are arbitrary."""
    target_sample_size: float = 0.0
    """Choose the temperature in each iteration so that the effective sample size is this share of the
    candidates; 0 uses `temperature`."""
    importance_correction: bool = False
    """Weigh candidates as samples of the uncontrolled distribution; needs `normalize_costs` off."""
    update_std: bool = True
    """Refit the std too, as TD-MPC2 does; off is classical MPPI, whose std stays at `init_std`."""
    min_std: float = 0.05
    constraint_penalty: float = 100.0
    """Cost of one unit of constraint violation."""

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        super().__post_init__()
        check_above_zero(self, "temperature")
        check_at_least(self, 0, "min_std", "constraint_penalty")
        check_fraction(self, "target_sample_size", one=False)
        if self.importance_correction and self.normalize_costs:
            raise ValueError(
                "importance_correction=True is not allowed with normalize_costs=True: the correction is in"
                " units of the true cost; switch one of them off"
            )


class MPPI(ShootingPlanner):
    """Path integral control.

    Source: G. Williams et al., "Information theoretic MPC" (2017), with TD-MPC2's refit of the std
    (arXiv:2310.16828) unless `update_std` is off.
    """

    config_class: ClassVar[type[ShootingConfig]] = MPPIConfig

    def refit(self, search: Search, candidates: Tensor, ranking: Tensor) -> Float[Tensor, " batch"]:
        """Fit mean and std to the weighted candidates; rows without any finite cost stay as they are."""
        least = ranking.amin(dim=1, keepdim=True)
        valid = least < torch.inf
        # A row without any finite cost comes out as NaN, which goes nowhere.
        cost = ranking - least
        if self.config.importance_correction:
            cost = cost + self._correction(search, candidates)
        if self.config.normalize_costs:
            cost = cost / _finite_std(cost).clamp(min=1e-12)
        if self.config.target_sample_size:
            wanted = self.config.target_sample_size * cost.isfinite().sum(dim=1, keepdim=True)
            temperature: Tensor | float = _temperature_for(cost, wanted)
        else:
            temperature = self.config.temperature
        weights = torch.softmax(cost / -temperature, dim=1)
        mean, std = weighted_moments(candidates, weights, with_std=self.config.update_std)
        if std is not None:
            std = torch.maximum(std, self.config.min_std * self._half_range)
        search.move(mean, std, valid)
        return weights.square().sum(dim=1).reciprocal_().nan_to_num_(nan=0.0)

    def _fitness(self, cost: Tensor, violation: Tensor | None, ranking: Tensor) -> Tensor:
        """Costs with a penalty for broken constraints: ranks alone would say nothing to the weights."""
        return cost if violation is None else cost + self.config.constraint_penalty * violation

    def _correction(self, search: Search, candidates: Tensor) -> Tensor:
        """Temperature * (mean - centre)' S^-1 (candidate - mean): what sampling around the mean changed."""
        variance = self._std(search).square().clamp(min=1e-12)
        pull = (search.mean - self._centre) / variance
        return self.config.temperature * (
            (candidates - search.mean.unsqueeze(1)) @ pull.unsqueeze(2)
        ).squeeze(2)


def _finite_std(cost: Float[Tensor, "batch candidate"]) -> Float[Tensor, "batch 1"]:
    """Biased std of each row's finite costs."""
    finite = cost < torch.inf
    count = finite.sum(dim=1, keepdim=True).clamp(min=1)
    known = cost.masked_fill(~finite, 0)
    mean = known.sum(dim=1, keepdim=True) / count
    return (((known - mean).square_() * finite).sum(dim=1, keepdim=True) / count).sqrt_()


def _temperature_for(
    cost: Float[Tensor, "batch candidate"], wanted: Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch 1"]:
    """Each row's temperature for a `wanted` effective sample size, by bisection of its logarithm."""
    scale = torch.where(cost.isfinite(), cost, 0).amax(dim=1, keepdim=True).clamp(min=1e-12)
    low, high = torch.full_like(scale, -14.0), torch.full_like(scale, 7.0)
    for _ in range(18):
        middle = (low + high) / 2
        size = 1 / torch.softmax(-cost / (scale * middle.exp()), dim=1).square().sum(dim=1, keepdim=True)
        too_soft = size > wanted
        high = torch.where(too_soft, middle, high)
        low = torch.where(too_soft, low, middle)
    return scale * ((low + high) / 2).exp()
