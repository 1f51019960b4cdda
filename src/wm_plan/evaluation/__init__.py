"""How often a policy reaches its goals: protocols, policies side by side, and intervals."""

from .changes import CHANGES, Change
from .policies import BaselinePolicy, EvaluationPolicy, HoldPolicy, PlannerPolicy, RandomPolicy
from .protocols import (
    PROTOCOLS,
    EvaluationProtocol,
    Trial,
    draw_trials,
    evaluation_seed,
    find_protocol,
)
from .rows import make_row, make_table
from .runner import Outcome, open_envs, run_batch, run_trials, time_alone
from .statistics import loss_interval, wilson_interval

__all__ = [
    "CHANGES",
    "PROTOCOLS",
    "BaselinePolicy",
    "Change",
    "EvaluationPolicy",
    "EvaluationProtocol",
    "HoldPolicy",
    "Outcome",
    "PlannerPolicy",
    "RandomPolicy",
    "Trial",
    "draw_trials",
    "evaluation_seed",
    "find_protocol",
    "loss_interval",
    "make_row",
    "make_table",
    "open_envs",
    "run_batch",
    "run_trials",
    "time_alone",
    "wilson_interval",
]
