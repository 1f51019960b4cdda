"""The reinforcement-learning baseline: SAC with hindsight goals on a built-in task, from state or latents.

Stable-Baselines3 trains; what is kept is a policy that runs without it (`wm_plan.planners.rl`).

Sources: Haarnoja et al., Soft Actor-Critic Algorithms and Applications, arXiv:1812.05905; Andrychowicz et
    al., Hindsight Experience Replay, arXiv:1707.01495. Ours shows the networks where the goal lies from the
    present.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Float
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from wm_plan.envs import make_task
from wm_plan.envs.goal_env import GoalEnv, StateSenses
from wm_plan.planners.rl import OBSERVATIONS, GoalFeatures, RLPolicy, RLPolicyConfig, load_policy
from wm_plan.world_model.training_state import Progress, drop_metrics_after, no_progress

from .baseline_latents import LatentSenses, load_latent_model
from .baseline_run import BaselineRun, Judge
from .baseline_state import read_training, restore_training
from .output_folder import check_output_folder

_SCALE_EPISODES, _SCALE_STEPS = 20, 200


@dataclass
class BaselineConfig:
    """How a baseline is trained.

    Attributes:
        env: name of a built-in task.
        observation: "state": the task's state features. "latent": what a planner sees, the latent of the
            frame, with its change since the last action for velocity; a goal is then the latent of its
            picture. Rewards come from the true state either way.
        model: of latents: a world model's folder, or a task's name for the shipped one; that of the task when
            None.
        num_steps: env steps in all; the last episode is finished.
        seed: of networks, exploration, starts and goals.
        action_repeat: env steps for which an action is held; a model step when None.
        hidden_sizes: of actor and critics.
        learning_rate: of actor, critics and temperature.
        discount: of the reward, per action.
        batch_size: transitions an update; there is one update per action.
        num_hindsight_goals: transitions replayed with a goal that was achieved later, per one with the
            goal that was desired.
        buffer_size: transitions kept.
        learning_starts: env steps of uniformly random actions before the first update; at least an episode.
        save_every: env steps from one checkpoint, and one line of metrics, to the next.
        num_eval_episodes: trials of each protocol of wm-eval that a checkpoint is tried on.
    """

    env: str
    observation: str = "state"
    model: str | None = None
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
    save_every: int = 10_000
    num_eval_episodes: int = 50

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.type == "int" and entry.name != "seed" and value < 1:
                raise ValueError(f"{entry.name} must be at least 1, got {value}")
        if self.observation not in OBSERVATIONS:
            raise ValueError(
                f"observation must be one of {', '.join(OBSERVATIONS)}, got {self.observation!r}"
            )
        if self.model is not None and self.observation == "state":
            raise ValueError("a world model has no say where state is observed; use observation latent")
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
        self._num_goal = config.num_goal

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        return self._features(observation["observation"], observation["desired_goal"][:, : self._num_goal])


def train_baseline(
    config: BaselineConfig,
    out: Path,
    judge: Judge,
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
        judge: tries each checkpoint, as `wm_plan.evaluation.checkpoints.CheckpointJudge` does.
        on_progress: called after every episode with env steps done, env steps in all and the latest metrics.

    Raises:
        ValueError: an unknown task, a folder that cannot be written, or a training that cannot be resumed.
    """
    check_output_folder(out, overwrite=overwrite or resume)
    saved = read_training(out, config.settings) if resume else None
    model, env, policy_config = make_learner(config, device)
    settings = {**config.settings, "latents": policy_config.latents}
    run = BaselineRun(policy_config, settings, config.num_steps, env, out, judge, on_progress)
    if saved is not None:
        if saved.header["settings"].get("latents") != policy_config.latents:
            raise ValueError(
                f"{str(out)!r} was begun on other latents than {policy_config.model!r} gives by now. "
                "Use the model as it was, or train into another folder"
            )
        run.seconds_before = restore_training(saved, model, env)
        drop_metrics_after(out, model.num_timesteps * env.action_repeat)
    num_actions = run.total_steps // env.action_repeat - model.num_timesteps
    if num_actions > 0:
        model.learn(num_actions, callback=run, log_interval=10**9, reset_num_timesteps=not resume)
        run.save()
    run.close()
    return load_policy(out)


def make_learner(
    config: BaselineConfig, device: torch.device | str = "cpu"
) -> tuple[SAC, GoalEnv, RLPolicyConfig]:
    """A learner that has seen nothing yet, its environment, and what its policy is.

    Raises:
        ValueError: an unknown task, a world model whose latents are none to learn from, or an
            `action_repeat` that does not fit.
    """
    env, told = _make_env(config)
    task = env.task
    policy_config = RLPolicyConfig(
        env_name=config.env,
        action_repeat=env.action_repeat,
        action_low=task.action_space.low.tolist(),
        action_high=task.action_space.high.tolist(),
        feature_scale=feature_scale(env, np.random.default_rng([config.seed, 1])).tolist(),
        hidden_sizes=list(config.hidden_sizes),
        **told,
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


def _make_env(config: BaselineConfig) -> tuple[GoalEnv, dict[str, Any]]:
    """The environment, and what a policy's config says of its observations."""
    if config.observation == "state":
        task = make_task(config.env, render=False)
        env = GoalEnv(task, config.action_repeat or task.frame_skip)
        return env, {"angles": angle_pairs(task.feature_names)}
    make_task(config.env, render=False).close()  # an unknown task is named before a model is looked for
    model, source, fingerprint = load_latent_model(config.env, config.model)
    if config.action_repeat not in (None, model.frame_skip):
        raise ValueError(
            f"action_repeat must be a model step of the world model, {model.frame_skip} env steps, "
            f"got {config.action_repeat}"
        )
    task = make_task(config.env, camera=model.metadata.camera or None)
    senses = LatentSenses(task, model)
    told = {"observation": "latent", "num_felt": senses.num_felt, "model": source, "latents": fingerprint}
    return GoalEnv(task, model.frame_skip, senses=senses), told


def angle_pairs(names: Sequence[str]) -> list[list[int]]:
    """Where the angles stand among features: indices of "cos(NAME)" and "sin(NAME)"."""
    found = [(index, re.fullmatch(r"cos\((.+)\)", name)) for index, name in enumerate(names)]
    return [[index, list(names).index(f"sin({match[1]})")] for index, match in found if match]


def feature_scale(env: GoalEnv, rng: np.random.Generator) -> Float[np.ndarray, " feature"]:
    """How far each feature varies under random actions.

    The parts of an angle count as 1. The numbers of what a latent shows share one scale, and so do those of
    its change: what varies less among them means less. What is felt has a scale for each number.
    """
    task, senses = env.task, env.senses
    seen = []
    for _ in range(_SCALE_EPISODES):
        task.set_state(task.sample_state(rng))
        senses.look(first=True)
        for _ in range(_SCALE_STEPS // env.action_repeat):
            task.advance(rng.uniform(task.action_space.low, task.action_space.high), env.action_repeat)
            seen.append(senses.look(first=False)[0])
    variance = np.var(np.stack(seen), axis=0)
    if isinstance(senses, StateSenses):
        for pair in angle_pairs(task.feature_names):
            variance[pair] = 1.0
    else:
        for shown in np.split(variance, 2):  # views of it: the latent, its change
            shown[: senses.num_goal] = shown[: senses.num_goal].mean()
    return np.maximum(np.sqrt(variance), 1e-6)
