"""A baseline's training under way: progress, checkpoints, and what each of them can do."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from wm_plan.envs.goal_env import GoalEnv
from wm_plan.planners.rl import RLPolicy, RLPolicyConfig
from wm_plan.world_model import CompactWorldModel
from wm_plan.world_model.training_state import METRICS_NAME, Progress, append_metrics

from .baseline_latents import LatentSenses
from .baseline_state import actor_tensors, save_training

RATES = ("near_reached", "far_reached", "far_held")
"""What a checkpoint is tried for: shares of trials of wm-eval's protocols."""
Judge = Callable[[RLPolicy, CompactWorldModel | None], dict[str, float]]
"""Gives the `RATES` of a policy and, where it is on latents, of the world model that it came with."""


class BaselineRun(BaseCallback):
    """Keeps a training: progress after each episode, a checkpoint when one is due.

    Args:
        policy_config: what the policy is.
        settings: of the training, as its state keeps them.
        num_steps: env steps in all; the last episode is finished.
        env: what is learned in.
        out: the folder.
        judge: tries a checkpoint.
        on_progress: called after every episode with env steps done, env steps in all and the latest metrics.
    """

    def __init__(
        self,
        policy_config: RLPolicyConfig,
        settings: dict[str, Any],
        num_steps: int,
        env: GoalEnv,
        out: Path,
        judge: Judge,
        on_progress: Progress,
    ) -> None:
        super().__init__()
        self.policy_config, self.settings, self.env, self.out = policy_config, settings, env, out
        self.total_steps = math.ceil(num_steps / env.num_steps) * env.num_steps
        self.seconds_before = 0.0
        self._start = time.perf_counter()
        self._judge = judge
        self._on_progress, self._metrics = on_progress, dict[str, float]()
        self._saved_at = 0
        self._curve: list[dict[str, float]] = []

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
        senses = self.env.senses
        rates = self._judge(self.policy(model), senses.model if isinstance(senses, LatentSenses) else None)
        recent = model.ep_success_buffer or [math.nan]
        losses = {name.removeprefix("train/"): value for name, value in model.logger.name_to_value.items()}
        self._metrics = {
            **rates,
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


def _point(metrics: dict[str, float]) -> dict[str, float]:
    """What a checkpoint could do after how many env steps."""
    return {name: metrics[name] for name in ("step", *RATES)}
