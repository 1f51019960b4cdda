"""Search over action sequences, and the control loop around it."""

from .cem import CEM, CEMConfig
from .mpc import MPC
from .mppi import MPPI, MPPIConfig
from .objectives import (
    Constraint,
    ControlCost,
    GoalDistance,
    RateCost,
    Stillness,
    TemporalDistance,
    Term,
    TerminalValue,
    ViaPoints,
)
from .protocol import Evaluation, ImaginationModel, Objective, Plan, Planner, Status
from .registry import make_planner, planner_names
from .shooting import ShootingConfig, ShootingPlanner
from .smoothness import Smoothness

__all__ = [
    "CEM",
    "MPC",
    "MPPI",
    "CEMConfig",
    "Constraint",
    "ControlCost",
    "Evaluation",
    "GoalDistance",
    "ImaginationModel",
    "MPPIConfig",
    "Objective",
    "Plan",
    "Planner",
    "RateCost",
    "ShootingConfig",
    "ShootingPlanner",
    "Smoothness",
    "Status",
    "Stillness",
    "TemporalDistance",
    "Term",
    "TerminalValue",
    "ViaPoints",
    "make_planner",
    "planner_names",
]
