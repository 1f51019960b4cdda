"""The reinforcement-learning baseline: SAC with hindsight goals on a built-in task, from state.

Stable-Baselines3 trains; what is kept is a policy that runs without it (`wm_plan.planners.rl`).

Sources: Haarnoja et al., Soft Actor-Critic Algorithms and Applications, arXiv:1812.05905; Andrychowicz et
    al., Hindsight Experience Replay, arXiv:1707.01495. Ours shows the networks where the goal lies from the
    present.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Float
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from wm_plan.envs import TaskEnv, make_task
from wm_plan.envs.goal_env import GoalEnv
from wm_plan.planners.rl import GoalFeatures, RLPolicy, RLPolicyConfig
from wm_plan.world_model.training_state import (
    METRICS_NAME,
    Progress,
    append_metrics,
    drop_metrics_after,
    no_progress,
)

from .baseline_state import read_training, restore_training, save_training
from .output_folder import check_output_folder

_SCALE_EPISODES, _SCALE_STEPS = 20, 200


@dataclass
class BaselineConfig:
    """How a baseline is trained.

    Attributes:
        env: name of a built-in task.
        num_steps: env steps in all; the last episode is finished.
        seed: of networks, exploration, starts and goals.
        action_repeat: env steps for which an action is held; the task's `frame_skip` when None.
        hidden_sizes: of actor and critics.
        learning_rate: of actor, critics and temperature.
        discount: of the reward, per action.
        batch_size: transitions an update; there is one update per action.
        num_hindsight_goals: transitions replayed with a goal that was achieved later, per one with the
            goal that was desired.
        buffer_size: transitions kept.
        learning_starts: env steps of uniformly random actions before the first update; at least an episode.
        save_every: env steps from one checkpoint, and one line of metrics, to the next.
        num_eval_episodes: episodes from anywhere to anywhere that a checkpoint is tried on.
    """

    env: str
    num_steps: int = 100_000
    seed: int = 0
    action_repeat: int | None = None
    hidden_sizes: Sequence[int] = (256, 256)
    learning_rate: float = 1e-3
    discount: float = 0.95
    batch_size: int = 256
    num_hindsight_goals: int = 4
    buffer_size: int = 100_000
    learning_starts: int = 2000
    save_every: int = 4000
    num_eval_episodes: int = 50

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.type == "int" and entry.name != "seed" and value < 1:
                raise ValueError(f"{entry.name} must be at least 1, got {value}")
        if not 0 < self.discount < 1:
            raise ValueError(f"discount must be between 0 and 1, got {self.discount}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")

    @property
    def settings(self) -> dict[str, Any]:
        """All but `num_steps`, as JSON: what a resumed training must share with the one it goes on from."""
        settings = {name: value for name, value in asdict(self).items() if name != "num_steps"}
        return {**settings, "hidden_sizes": list(self.hidden_sizes)}


class _GoalExtractor(BaseFeaturesExtractor):
    """`GoalFeatures` of a `GoalEnv`'s observations."""

    def __init__(self, space: gymnasium.spaces.Dict, config: RLPolicyConfig) -> None:
        features = GoalFeatures(config)
        super().__init__(space, features.num_features)
        self._features = features
        self._num_proprio = len(config.proprio_scale)

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        return self._features(observation["observation"], observation["desired_goal"][:, : self._num_proprio])


def train_baseline(
    config: BaselineConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    on_progress: Progress = no_progress,
) -> RLPolicy:
    """Train a policy and keep it, its metrics and the state of the training in `out`.

    A stopped run resumes to the same weights as an uninterrupted one (on one CPU thread); `num_steps` may
    then be another.

    Args:
        on_progress: called after every episode with env steps done, env steps in all and the latest metrics.

    Raises:
        ValueError: an unknown task, a folder that cannot be written, or a training that cannot be resumed.
    """
    check_output_folder(out, overwrite=overwrite or resume)
    saved = read_training(out, config.settings) if resume else None
    model, env, policy_config = make_learner(config, device)
    repeat = env.action_repeat
    run = _Run(config, policy_config, env, out, on_progress)
    if saved is not None:
        run.seconds_before = restore_training(saved, model, env)
        drop_metrics_after(out, model.num_timesteps * repeat)
    num_actions = run.total_steps // repeat - model.num_timesteps
    if num_actions > 0:
        model.learn(num_actions, callback=run, log_interval=10**9, reset_num_timesteps=not resume)
        run.save()
    env.close()
    return run.policy(model)


def make_learner(
    config: BaselineConfig, device: torch.device | str = "cpu"
) -> tuple[SAC, GoalEnv, RLPolicyConfig]:
    """A learner that has seen nothing yet, its environment, and what its policy is.

    Raises:
        ValueError: an unknown task, or an `action_repeat` that does not fit it.
    """
    task = make_task(config.env, render=False)
    env = GoalEnv(task, config.action_repeat or task.frame_skip)
    policy_config = RLPolicyConfig(
        env_name=config.env,
        action_repeat=env.action_repeat,
        action_low=task.action_space.low.tolist(),
        action_high=task.action_space.high.tolist(),
        proprio_scale=proprio_scale(task, np.random.default_rng([config.seed, 1])).tolist(),
        angles=angle_pairs(task.proprio_names),
        hidden_sizes=list(config.hidden_sizes),
    )
    model = SAC(
        "MultiInputPolicy",
        env,
        learning_rate=config.learning_rate,
        buffer_size=config.buffer_size,
        learning_starts=max(config.learning_starts, env.num_steps) // env.action_repeat,
        batch_size=config.batch_size,
        gamma=config.discount,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": config.num_hindsight_goals},
        policy_kwargs={
            "net_arch": list(config.hidden_sizes),
            "features_extractor_class": _GoalExtractor,
            "features_extractor_kwargs": {"config": policy_config},
        },
        seed=config.seed,
        device=device,
    )
    return model, env, policy_config


def actor_tensors(model: SAC) -> dict[str, Tensor]:
    """The weights of a learner's actor, as `RLPolicy` names them; the spread of its actions is left out."""
    actor = model.policy.actor
    layers = [*(layer for layer in actor.latent_pi if isinstance(layer, torch.nn.Linear)), actor.mu]
    return {
        f"{2 * index}.{name}": value.detach().cpu().clone()
        for index, layer in enumerate(layers)
        for name, value in layer.state_dict().items()
    }


class _Run(BaseCallback):
    """Keeps the run: progress after each episode, a checkpoint when one is due."""

    def __init__(
        self,
        config: BaselineConfig,
        policy_config: RLPolicyConfig,
        env: GoalEnv,
        out: Path,
        on_progress: Progress,
    ) -> None:
        super().__init__()
        self.config, self.policy_config, self.env, self.out = config, policy_config, env, out
        self.total_steps = math.ceil(config.num_steps / env.num_steps) * env.num_steps
        self.seconds_before = 0.0
        self._start = time.perf_counter()
        self._on_progress, self._metrics = on_progress, dict[str, float]()
        self._saved_at = 0

    @property
    def steps(self) -> int:
        """Env steps done."""
        return self.model.num_timesteps * self.env.action_repeat

    @property
    def seconds(self) -> float:
        """Wall time of the training, earlier runs' included [s]."""
        return self.seconds_before + time.perf_counter() - self._start

    def _on_training_start(self) -> None:
        self._saved_at = self.steps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        """Between two episodes all that has been learned and seen is in the model and its buffer."""
        if self.steps % self.env.num_steps or self.steps == self._saved_at:
            return
        if self.steps - self._saved_at >= self.config.save_every:
            self.save()
        self._on_progress(self.steps, self.total_steps, self._metrics)

    def policy(self, model: SAC) -> RLPolicy:
        """The policy as it is now."""
        packages = ("wm-plan", "stable-baselines3", "torch", "mujoco", "gymnasium", "numpy")
        steps = model.num_timesteps * self.env.action_repeat
        command = f"wm-baseline --env {self.config.env} --steps {steps} --seed {self.config.seed}"
        record = {
            "command": command,
            "algorithm": "SAC + HER",
            "env_steps": steps,
            "wall_seconds": round(self.seconds, 1),
            "seed": self.config.seed,
            "metrics": self._metrics,
            "training": self.config.settings,
            "versions": {name: metadata.version(name) for name in packages},
        }
        return RLPolicy(self.policy_config, actor_tensors(model), record)

    def save(self) -> None:
        """Try the policy, and write policy, metrics and the state of the training."""
        model = self.model
        assert isinstance(model, SAC)
        reached, held = far_success(
            self.policy(model), self.config.num_eval_episodes, seed=self.config.seed, env_name=self.config.env
        )
        recent = model.ep_success_buffer or [math.nan]
        losses = {name.removeprefix("train/"): value for name, value in model.logger.name_to_value.items()}
        self._metrics = {
            "reached": reached,
            "held": held,
            "reached_exploring": float(np.mean(recent)),
            "wall_seconds": round(self.seconds, 1),
            **{name: float(value) for name, value in losses.items() if math.isfinite(value)},
        }
        self.policy(model).save(self.out)
        if self._saved_at == 0:
            (self.out / METRICS_NAME).unlink(missing_ok=True)
        append_metrics(self.out, {"step": self.steps, **self._metrics})
        save_training(self.out, model, self.env, self.config.settings, self.seconds)
        self._saved_at = self.steps


def far_success(
    policy: RLPolicy, num_episodes: int, *, seed: int, env_name: str | None = None
) -> tuple[float, float]:
    """Fractions of episodes, from anywhere to anywhere, in which the goal was reached and was held.

    The episodes are none that `wm-eval` or the training draws.
    """
    name = policy.env_name if env_name is None else env_name
    envs = [GoalEnv(make_task(name, render=False), policy.action_repeat) for _ in range(num_episodes)]
    seeds = np.random.SeedSequence(seed, spawn_key=(2,)).generate_state(num_episodes)
    seen = [env.reset(seed=int(one))[0] for env, one in zip(envs, seeds, strict=True)]
    num_proprio = seen[0]["observation"].shape[0]
    goals = np.stack([observation["desired_goal"][:num_proprio] for observation in seen])
    infos = []
    for _ in range(envs[0].num_steps // policy.action_repeat):
        actions = policy.act(np.stack([observation["observation"] for observation in seen]), goals)
        results = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        seen, infos = [result[0] for result in results], [result[4] for result in results]
    for env in envs:
        env.close()
    return float(np.mean([info["reached"] for info in infos])), float(np.mean([i["held"] for i in infos]))


def angle_pairs(names: Sequence[str]) -> list[list[int]]:
    """Where the angles stand in a proprioception: indices of "cos(NAME)" and "sin(NAME)"."""
    found = [(index, re.fullmatch(r"cos\((.+)\)", name)) for index, name in enumerate(names)]
    return [[index, list(names).index(f"sin({match[1]})")] for index, match in found if match]


def proprio_scale(task: TaskEnv, rng: np.random.Generator) -> Float[np.ndarray, " proprio"]:
    """Standard deviation of each number of the proprioception under random actions; 1 for parts of angles."""
    seen = []
    for _ in range(_SCALE_EPISODES):
        task.set_state(task.sample_state(rng))
        for _ in range(_SCALE_STEPS // task.frame_skip):
            task.advance(rng.uniform(task.action_space.low, task.action_space.high), task.frame_skip)
            seen.append(task.proprio(task.get_state()))
    scale = np.std(np.stack(seen), axis=0)
    for pair in angle_pairs(task.proprio_names):
        scale[pair] = 1.0
    return np.maximum(scale, 1e-6)
