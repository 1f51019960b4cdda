"""A baseline's training under way: progress, checkpoints, and what each of them can do."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from wm_plan.envs import TaskEnv, make_task
from wm_plan.envs.goal_env import GoalEnv
from wm_plan.evaluation.policies import BaselinePolicy, EvaluationPolicy, PlannerPolicy
from wm_plan.evaluation.protocols import PROTOCOLS, Trial, draw_trials
from wm_plan.evaluation.runner import open_envs, run_trials
from wm_plan.planners.rl import RLPolicy, RLPolicyConfig
from wm_plan.world_model.training_state import METRICS_NAME, Progress, append_metrics

from .baseline_latents import LatentSenses, latent_controller
from .baseline_state import actor_tensors, save_training

RATES = ("near_reached", "far_reached", "far_held")
"""What a checkpoint is tried for: shares of trials of wm-eval's protocols."""
_CHECKED = ("near", "far")
_BATCH = 50


class BaselineRun(BaseCallback):
    """Keeps a training: progress after each episode, a checkpoint when one is due.

    Args:
        policy_config: what the policy is.
        settings: of the training, as its state keeps them.
        num_steps: env steps in all; the last episode is finished.
        env: what is learned in.
        out: the folder.
        on_progress: called after every episode with env steps done, env steps in all and the latest metrics.
    """

    def __init__(
        self,
        policy_config: RLPolicyConfig,
        settings: dict[str, Any],
        num_steps: int,
        env: GoalEnv,
        out: Path,
        on_progress: Progress,
    ) -> None:
        super().__init__()
        self.policy_config, self.settings, self.env, self.out = policy_config, settings, env, out
        self.total_steps = math.ceil(num_steps / env.num_steps) * env.num_steps
        self.seconds_before = 0.0
        self._start = time.perf_counter()
        self._on_progress, self._metrics = on_progress, dict[str, float]()
        self._saved_at = 0
        self._curve: list[dict[str, float]] = []
        self._trials: dict[str, list[Trial]] = {}

    @property
    def steps(self) -> int:
        """Env steps done."""
        return self.model.num_timesteps * self.env.action_repeat

    @property
    def seconds(self) -> float:
        """Wall time of the training, that of its checks and of earlier runs included [s]."""
        return self.seconds_before + time.perf_counter() - self._start

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _on_training_start(self) -> None:
        self._saved_at = self.steps
        if self.steps:
            lines = (self.out / METRICS_NAME).read_text(encoding="utf-8").splitlines()
            self._curve = [_point(json.loads(line)) for line in lines]

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        """Between two episodes all that has been learned and seen is in the model and its buffer."""
        if self.steps % self.env.num_steps or self.steps == self._saved_at:
            return
        if self.steps - self._saved_at >= self.settings["save_every"]:
            self.save()
        self._on_progress(self.steps, self.total_steps, self._metrics)

    def policy(self, model: SAC) -> RLPolicy:
        """The policy as it is now."""
        packages = ("wm-plan", "stable-baselines3", "torch", "mujoco", "gymnasium", "numpy")
        steps = model.num_timesteps * self.env.action_repeat
        told = self.policy_config
        chosen = f" --observation latent --model {told.model}" if told.observation == "latent" else ""
        command = f"wm-baseline --env {told.env_name}{chosen} --steps {steps} --seed {self.settings['seed']}"
        record = {
            "command": command,
            "algorithm": "SAC + HER",
            "env_steps": steps,
            "wall_seconds": round(self.seconds, 1),
            "seed": self.settings["seed"],
            "metrics": self._metrics,
            "curve": self._curve,
            "training": self.settings,
            "versions": {name: metadata.version(name) for name in packages},
        }
        return RLPolicy(told, actor_tensors(model), record)

    def save(self) -> None:
        """Try the policy, and write policy, metrics and the state of the training."""
        model = self.model
        assert isinstance(model, SAC)
        tried = self._try(self.policy(model))
        recent = model.ep_success_buffer or [math.nan]
        losses = {name.removeprefix("train/"): value for name, value in model.logger.name_to_value.items()}
        self._metrics = {
            **tried,
            "reached_exploring": float(np.mean(recent)),
            "wall_seconds": round(self.seconds, 1),
            **{name: float(value) for name, value in losses.items() if math.isfinite(value)},
        }
        self._curve.append(_point({"step": self.steps, **self._metrics}))
        self.policy(model).save(self.out)
        if self._saved_at == 0:
            (self.out / METRICS_NAME).unlink(missing_ok=True)
        append_metrics(self.out, {"step": self.steps, **self._metrics})
        save_training(self.out, model, self.env, self.settings, self.seconds)
        self._saved_at = self.steps

    def _try(self, policy: RLPolicy) -> dict[str, float]:
        """What share of wm-eval's trials the policy manages, on trials that are of no evaluation."""
        if not self._trials:
            count, seed = self.settings["num_eval_episodes"], self.settings["seed"]
            self._trials = {name: check_trials(policy.env_name, name, count, seed) for name in _CHECKED}
        senses = self.env.senses
        judged: EvaluationPolicy = BaselinePolicy(policy)
        if isinstance(senses, LatentSenses):
            judged = PlannerPolicy(latent_controller(policy, senses.model), {})
        return {
            f"{name}_{what}": rate
            for name, trials in self._trials.items()
            for what, rate in success(judged, self.env.task, name, trials).items()
        }


def _point(metrics: dict[str, float]) -> dict[str, float]:
    """What a checkpoint could do after how many env steps."""
    return {name: metrics[name] for name in ("step", *RATES)}


def check_trials(env_name: str, protocol: str, count: int, seed: int) -> list[Trial]:
    """Trials of a protocol of wm-eval, from a seed that no evaluation is likely to be given."""
    own_seed = int(np.random.SeedSequence(seed, spawn_key=(2,)).generate_state(1, np.uint32)[0])
    return draw_trials(make_task(env_name, render=False), PROTOCOLS[protocol], count, own_seed)


def success(
    policy: EvaluationPolicy, task: TaskEnv, protocol: str, trials: Sequence[Trial]
) -> dict[str, float]:
    """Shares of trials whose goal is reached and, where the protocol counts it, held."""
    holds = PROTOCOLS[protocol].measures_hold
    with open_envs(task.name, min(_BATCH, len(trials)), task.camera) as envs:
        outcomes = run_trials(policy, trials, envs, measures_hold=holds)
    rates = {"reached": float(np.mean([outcome.reached for outcome in outcomes]))}
    if holds:
        rates["held"] = float(np.mean([bool(outcome.held) for outcome in outcomes]))
    return rates
