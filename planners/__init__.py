"""Search over action sequences, and the control loop around it."""

from .caution import Caution, OnSurprise
from .cem import CEM, CEMConfig
from .discrete_cem import DiscreteCEM, DiscreteCEMConfig
from .gcbc import GCBCPolicy, PriorProposals
from .gradient import GradientConfig, GradientPlanner, Polished
from .gymnasium_loop import LoopStep, run_in_env
from .icem import ICEM, ICEMConfig
from .latent_actions import LatentActions
from .mpc import MPC
from .mppi import MPPI, MPPIConfig
from .objectives import (
    Constraint,
    ControlCost,
    Disagreement,
    GoalDistance,
    PredictedReward,
    RateCost,
    Stillness,
    TemporalDistance,
    Term,
    TerminalValue,
    ViaPoints,
)
from .predictive_sampling import PredictiveSampling, PredictiveSamplingConfig
from .protocol import Evaluation, Objective, Plan, Planner, Status
from .realtime import LoopCounters, RealTimeMPC
from .registry import make_planner, planner_names
from .shooting import ShootingConfig, ShootingPlanner
from .smoothness import Smoothness

__all__ = [
    "CEM",
    "CEMConfig",
    "Caution",
    "Constraint",
    "ControlCost",
    "Disagreement",
    "DiscreteCEM",
    "DiscreteCEMConfig",
    "Evaluation",
    "GCBCPolicy",
    "GoalDistance",
    "GradientConfig",
    "GradientPlanner",
    "ICEM",
    "ICEMConfig",
    "LatentActions",
    "LoopCounters",
    "LoopStep",
    "MPC",
    "MPPI",
    "MPPIConfig",
    "Objective",
    "OnSurprise",
    "Plan",
    "Planner",
    "Polished",
    "PredictedReward",
    "PredictiveSampling",
    "PredictiveSamplingConfig",
    "PriorProposals",
    "RateCost",
    "RealTimeMPC",
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
    "run_in_env",
]
