"""Predictive sampling: noise around the best sequence so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .search import Search
from .shooting import ShootingConfig, ShootingPlanner


@dataclass
class PredictiveSamplingConfig(ShootingConfig):
    """Settings of predictive sampling. Stds are relative to the action half-range."""

    init_std: float = 0.3
    std_decay: float = 0.7
    """A smaller neighbourhood in each iteration; the published method has one iteration only."""


class PredictiveSampling(ShootingPlanner):
    """The simplest planner there is: try candidates around the best sequence known, keep the best.

    Source: T. Howell et al., "Predictive sampling" (arXiv:2212.00541), section 3.
    """

    config_class: ClassVar[type[ShootingConfig]] = PredictiveSamplingConfig

    def refit(self, search: Search, candidates: Tensor, ranking: Tensor) -> Float[Tensor, " batch"]:
        """Go on from the best sequence so far."""
        found = search.best_cost.isfinite()
        search.move(search.best, None, found.unsqueeze(1))
        return torch.where(found, 1.0, 0.0)
