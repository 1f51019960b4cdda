"""What the checkpoints of a baseline in training can do, measured as `wm-eval` measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wm_plan.baseline_latents import latent_controller
from wm_plan.envs import make_task
from wm_plan.planners.rl import RLPolicy
from wm_plan.world_model import CompactWorldModel

from .policies import BaselinePolicy, EvaluationPolicy, PlannerPolicy
from .protocols import PROTOCOLS, Trial, draw_trials
from .runner import open_envs, run_trials

_TRIED = ("near", "far")
_BATCH = 50


class CheckpointJudge:
    """Tries every checkpoint on the same trials, near and far, which are those of no evaluation.

    Args:
        env_name: the task.
        num_episodes: of each protocol.
        seed: of the training; the trials have a seed of their own that follows from it.
    """

    def __init__(self, env_name: str, num_episodes: int, seed: int) -> None:
        self._env_name = env_name
        own_seed = int(np.random.SeedSequence(seed, spawn_key=(2,)).generate_state(1, np.uint32)[0])
        task = make_task(env_name, render=False)
        self.trials = {name: draw_trials(task, PROTOCOLS[name], num_episodes, own_seed) for name in _TRIED}

    def __call__(self, policy: RLPolicy, model: CompactWorldModel | None = None) -> dict[str, float]:
        """Shares of goals that are reached and held: `near_reached`, `far_reached`, `far_held`."""
        judged: EvaluationPolicy = BaselinePolicy(policy)
        if policy.config.observation == "latent":
            judged = PlannerPolicy(latent_controller(policy, model), {})
        camera = model.metadata.camera or None if model is not None else None
        rates = {}
        for name, trials in self.trials.items():
            for what, rate in self._rates(judged, name, trials, camera).items():
                rates[f"{name}_{what}"] = rate
        return rates

    def _rates(
        self, judged: EvaluationPolicy, protocol: str, trials: Sequence[Trial], camera: str | None
    ) -> dict[str, float]:
        holds = PROTOCOLS[protocol].measures_hold
        with open_envs(self._env_name, min(_BATCH, len(trials)), camera) as envs:
            outcomes = run_trials(judged, trials, envs, measures_hold=holds)
        rates = {"reached": float(np.mean([outcome.reached for outcome in outcomes]))}
        if holds:
            rates["held"] = float(np.mean([bool(outcome.held) for outcome in outcomes]))
        return rates
