"""The cross-entropy method: refit a normal distribution to the best candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .search import Search, picked, weighted_moments
from .settings import check_at_least, check_fraction
from .shooting import ShootingConfig, ShootingPlanner


@dataclass
class CEMConfig(ShootingConfig):
    """Settings of CEM. Stds are relative to the action half-range."""

    num_elites: int = 32
    """How many of the best candidates the distribution is refitted to."""
    min_std: float = 0.05
    """Floor that keeps the search from freezing."""
    momentum: float = 0.0
    """Share of the old mean and std that a refit keeps."""
    keep_elites: float = 0.0
    """Share of the elites that the next iteration (and, shifted, the next plan) tries again."""

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        super().__post_init__()
        check_at_least(self, 1, "num_elites")
        check_at_least(self, 0, "min_std")
        check_fraction(self, "keep_elites")
        check_fraction(self, "momentum", one=False)
        if self.num_elites > self.num_samples:
            raise ValueError(
                f"num_elites={self.num_elites} is more than num_samples={self.num_samples};"
                f" give at most as many elites as samples"
            )


class CEM(ShootingPlanner):
    """Cross-entropy method with a diagonal normal distribution.

    Source: R. Rubinstein, D. Kroese, "The cross-entropy method" (2004). Elites that break constraints come
    after all that break none; elites of infinite cost have no say.
    """

    config_class: ClassVar[type[ShootingConfig]] = CEMConfig

    def refit(self, search: Search, candidates: Tensor, ranking: Tensor) -> Float[Tensor, " batch"]:
        """Fit mean and std to the elites; rows without any finite cost stay as they are."""
        ranks, search.elites = ranking.topk(self.config.num_elites, dim=1, largest=False)
        elites = picked(candidates, search.elites)
        finite = ranks < torch.inf
        count = finite.sum(dim=1, keepdim=True)
        mean, std = weighted_moments(elites, finite / count.clamp(min=1))
        assert std is not None
        if self.config.momentum:
            mean = torch.lerp(mean, search.mean, self.config.momentum)
            std = torch.lerp(std, search.std, self.config.momentum)
        search.move(mean, torch.maximum(std, self.config.min_std * self._half_range), finite[:, :1])
        num_kept = int(self.config.keep_elites * self.config.num_elites)
        if num_kept:
            self._keep(search, elites[:, :num_kept], finite[:, :num_kept])
        return count.squeeze(1).to(self.dtype)

    def _keep(self, search: Search, elites: Tensor, finite: Tensor) -> None:
        """Remember elites for the next iteration; the best sequence replaces those of infinite cost."""
        elites = torch.where(finite.unsqueeze(2), elites, search.best.unsqueeze(1))
        if search.kept is not None and search.running is not None:
            elites = torch.where(search.running.view(-1, 1, 1), elites, search.kept)
        search.kept = elites
