"""CEM with coloured noise, elites that live on, and a shrinking population."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .cem import CEM, CEMConfig
from .settings import check_at_least
from .shooting import ShootingConfig


@dataclass
class ICEMConfig(CEMConfig):
    """Settings of iCEM. Stds are relative to the action half-range."""

    noise_beta: float = 2.0
    keep_elites: float = 0.3
    momentum: float = 0.1
    population_decay: float = 1.25
    """An iteration has this factor fewer candidates than the one before, but twice the elites at least."""

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            ValueError: naming what was given and what is allowed.
        """
        super().__post_init__()
        check_at_least(self, 1, "population_decay")


class ICEM(CEM):
    """Improved CEM.

    Source: C. Pinneri et al., "Sample-efficient cross-entropy method for real-time planning"
    (arXiv:2008.06389). There the mean joins the candidates in the last iteration only; here it is always
    among them. Elites of the last plan come back, shifted, as priors: the control loop sees to that.
    """

    config_class: ClassVar[type[ShootingConfig]] = ICEMConfig

    def _num_candidates(self, iteration: int) -> int:
        shrunk = int(self.config.num_samples * self.config.population_decay**-iteration)
        return min(max(shrunk, 2 * self.config.num_elites), self.config.num_samples)
