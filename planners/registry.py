"""Planners by name."""

from __future__ import annotations

from .cem import CEM
from .gradient import GradientPlanner
from .icem import ICEM
from .mppi import MPPI
from .predictive_sampling import PredictiveSampling
from .settings import unknown_name
from .shooting import ShootingPlanner

PLANNERS: dict[str, type[ShootingPlanner]] = {
    "cem": CEM,
    "icem": ICEM,
    "mppi": MPPI,
    "ps": PredictiveSampling,
    "gradient": GradientPlanner,
}
"""Every planner for continuous actions, by its name on the command line."""


def planner_names() -> list[str]:
    """The names that `make_planner` knows."""
    return list(PLANNERS)


def make_planner(
    name: str, action_space: object, config: object = None, **settings: object
) -> ShootingPlanner:
    """A planner by name.

    Args:
        name: one of `planner_names()`.
        action_space: a bounded gymnasium `Box` or a pair (low, high) of (A,) arrays.
        config: the planner's config, a mapping of its settings, or None for the defaults.
        settings: single settings by name, and `device`.

    Raises:
        ValueError: an unknown name or setting, or a value out of range.
    """
    if name not in PLANNERS:
        raise ValueError(unknown_name("planner", name, PLANNERS))
    return PLANNERS[name](action_space, config, **settings)  # type: ignore[arg-type]
