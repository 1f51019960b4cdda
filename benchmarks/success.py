"""How often a controller succeeds: what several benchmarks ask."""

from __future__ import annotations

import numpy as np

from wm_plan.envs import Physics
from wm_plan.evaluation.policies import PlannerPolicy
from wm_plan.evaluation.protocols import draw_trials, find_protocol
from wm_plan.evaluation.runner import open_envs, run_trials
from wm_plan.planners import MPC


def success_rates(
    controller: MPC,
    env_name: str,
    protocol_name: str,
    num_trials: int,
    seed: int,
    physics: Physics | None = None,
) -> dict[str, float]:
    """Trials of a protocol that were reached and, where the protocol measures that, held."""
    protocol = find_protocol(protocol_name)
    with open_envs(env_name, num_trials) as envs:
        trials = draw_trials(envs[0], protocol, num_trials, seed)
        for env in envs if physics is not None else ():
            env.set_physics(physics)
        outcomes = run_trials(
            PlannerPolicy(controller, {}), trials, envs, measures_hold=protocol.measures_hold
        )
    rates = {"reached": float(np.mean([outcome.reached for outcome in outcomes]))}
    if protocol.measures_hold:
        rates["held"] = float(np.mean([bool(outcome.held) for outcome in outcomes]))
    return rates
