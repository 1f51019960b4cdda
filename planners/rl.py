"""A policy learned by reinforcement, run without the library that trained it: the planners' baseline.

It acts on the true state, or on the latents of a world model, as a planner would. `wm-baseline` makes one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from wm_plan.world_model.weights_io import CONFIG_NAME, load_folder, load_weights, save_folder

SHIPPED_POLICIES = Path(__file__).resolve().parent / "weights"
_KIND, _PREFIX = "rl-policy", "rl_"


OBSERVATIONS = ("state", "latent")


@dataclass
class RLPolicyConfig:
    """What a policy is, its weights aside.

    Attributes:
        env_name: the task it was trained for.
        action_repeat: env steps for which each of its actions was held in training.
        action_low: (A,) in env units.
        action_high: (A,) in env units.
        feature_scale: (F,) typical size of each feature of the present; features are divided by it.
        angles: for each angle among the features, the indices of its cosine and of its sine.
        hidden_sizes: of the network's layers.
        observation: "state": features are the task's state features, and so is a goal. "latent": features
            are a latent and its change in the last model step, a goal is the latent of its picture.
        num_felt: of latents: how many of their last numbers are proprio, of which a goal says nothing.
        model: of latents: the world model that they are of, a shipped one by its task's name, or a folder.
        latents: their fingerprint, as `latent_fingerprint` gives it.
    """

    env_name: str
    action_repeat: int
    action_low: Sequence[float]
    action_high: Sequence[float]
    feature_scale: Sequence[float]
    angles: Sequence[Sequence[int]] = ()
    hidden_sizes: Sequence[int] = (256, 256)
    observation: str = "state"
    num_felt: int = 0
    model: str = ""
    latents: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be a policy."""
        if self.action_repeat < 1:
            raise ValueError(f"action_repeat must be at least 1, got {self.action_repeat}")
        if not 0 < len(self.action_low) == len(self.action_high):
            raise ValueError(
                f"action_low and action_high must be of one length, got {self.action_low}, {self.action_high}"
            )
        if self.observation not in OBSERVATIONS:
            raise ValueError(
                f"observation must be one of {', '.join(OBSERVATIONS)}, got {self.observation!r}"
            )
        if not self.feature_scale or min(self.feature_scale) <= 0:
            raise ValueError(f"feature_scale must be positive numbers, got {self.feature_scale}")
        if self.observation == "latent" and len(self.feature_scale) % 2:
            raise ValueError(f"a latent and its change have an even length, got {len(self.feature_scale)}")
        if not 0 <= self.num_felt < max(len(self.feature_scale) // 2, 1):
            raise ValueError(f"num_felt must leave a latent some numbers of its own, got {self.num_felt}")
        used = [index for angle in self.angles for index in angle]
        if any(len(angle) != 2 for angle in self.angles) or not set(used) <= set(range(self.num_goal)):
            raise ValueError(f"angles must be pairs of indices below {self.num_goal}, got {self.angles}")

    @property
    def num_features(self) -> int:
        """Numbers that tell the present."""
        return len(self.feature_scale)

    @property
    def num_goal(self) -> int:
        """Numbers that tell a goal: they are about what the first features of the present are about."""
        if self.observation == "latent":
            return self.num_features // 2 - self.num_felt
        return self.num_features


class GoalFeatures(nn.Module):
    """What a goal-conditioned policy sees: how it is now, and how the goal lies from there.

    Relative to the present, an angle of the goal is turned and anything else is subtracted.
    """

    scale: Tensor

    def __init__(self, config: RLPolicyConfig) -> None:
        super().__init__()
        scale = torch.tensor(list(config.feature_scale), dtype=torch.float32)
        self.register_buffer("scale", scale, persistent=False)
        self._cosines = [cosine for cosine, _ in config.angles]
        self._sines = [sine for _, sine in config.angles]
        self._num_goal = config.num_goal
        self.num_features = config.num_features + config.num_goal

    def forward(
        self, present: Float[Tensor, "batch feature"], goal: Float[Tensor, "batch goal"]
    ) -> Float[Tensor, "batch input"]:
        """Features of the present and of the goal seen from there, each divided by its scale."""
        relative = goal - present[:, : self._num_goal]
        cosine, sine = present[:, self._cosines], present[:, self._sines]
        goal_cosine, goal_sine = goal[:, self._cosines], goal[:, self._sines]
        relative[:, self._cosines] = cosine * goal_cosine + sine * goal_sine
        relative[:, self._sines] = cosine * goal_sine - sine * goal_cosine
        return torch.cat([present / self.scale, relative / self.scale[: self._num_goal]], dim=1)


class RLPolicy:
    """A deterministic goal-conditioned policy: the mean action of a trained actor, inside the bounds.

    Its actions were held for `action_repeat` env steps in training; hold them as long, or ask for a new one
    every env step. One on latents also answers as `Policy` of `wm_plan.planners.gcbc` (`from_latents`).
    """

    def __init__(
        self,
        config: RLPolicyConfig,
        tensors: dict[str, Tensor] | None = None,
        metadata: dict[str, Any] | None = None,
        source: Path = Path("tensors"),
    ) -> None:
        """Build the network and put `tensors` into it; random weights without them.

        Args:
            metadata: how it was trained: `env_steps`, `wall_seconds`, `seed`, `versions` and more.
            source: where the tensors come from, for errors.

        Raises:
            ValueError: the tensors do not fit the config.
        """
        self.config = config
        self.metadata = dict(metadata or {})
        self.features = GoalFeatures(config)
        self.network = _perceptron(
            self.features.num_features, config.hidden_sizes, len(config.action_low)
        ).requires_grad_(False)
        if tensors is not None:
            load_weights(self.network, tensors, source)
        low = torch.tensor(list(config.action_low), dtype=torch.float32)
        high = torch.tensor(list(config.action_high), dtype=torch.float32)
        self._low, self._high = low, high

    @property
    def env_name(self) -> str:
        """The task it was trained for."""
        return self.config.env_name

    @property
    def action_repeat(self) -> int:
        """Env steps for which each action was held in training."""
        return self.config.action_repeat

    def act(
        self,
        features: Float[np.ndarray, "... feature"],
        goal: Float[np.ndarray, "... goal"],
    ) -> Float32[np.ndarray, "... action"]:
        """Actions to take now.

        Args:
            features: (B, F), or (F,) for a lone robot: the task's state features, or a latent and its change.
            goal: (B, G) or (G,): state features at rest in the goal, or the latent of its picture.

        Returns:
            (B, A) or (A,), in env units and inside the action space.

        Raises:
            ValueError: a shape that does not fit, or a number that is not finite.
        """
        present, wanted = np.asarray(features, np.float32), np.asarray(goal, np.float32)
        sizes = {"features": (present, self.config.num_features), "goal": (wanted, self.config.num_goal)}
        for name, (given, size) in sizes.items():
            if given.ndim not in (1, 2) or given.shape[-1] != size or not np.isfinite(given).all():
                raise ValueError(f"{name} must be finite, ({size},) or (B, {size}), got shape {given.shape}")
        if wanted.ndim > present.ndim or (wanted.ndim == 2 and len(wanted) != len(present)):
            raise ValueError(f"goal {wanted.shape} does not fit features {present.shape}")
        batch = torch.from_numpy(np.atleast_2d(present))
        goals = torch.from_numpy(np.atleast_2d(wanted)).expand(len(batch), -1)
        actions = self._actions(batch, goals).numpy()
        return actions[0] if present.ndim == 1 else actions

    def from_latents(
        self, context: Float[Tensor, "batch step latent"], goal: Float[Tensor, "batch latent"]
    ) -> tuple[Float[Tensor, "batch action"], Float[Tensor, "batch action"]]:
        """Actions from the last few latents and the goal's, and their std, which is 0."""
        shown = goal[:, : self.config.num_goal]
        change = context[:, -1] - context[:, -2] if context.shape[1] > 1 else torch.zeros_like(context[:, -1])
        actions = self._actions(torch.cat([context[:, -1], change], dim=1).cpu(), shown.cpu()).to(context)
        return actions, torch.zeros_like(actions)

    @torch.no_grad()
    def _actions(
        self, present: Float[Tensor, "batch feature"], goal: Float[Tensor, "batch goal"]
    ) -> Float[Tensor, "batch action"]:
        squashed = torch.tanh(self.network(self.features(present, goal)))
        actions = self._low + 0.5 * (squashed + 1) * (self._high - self._low)
        return torch.minimum(torch.maximum(actions, self._low), self._high)

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`, atomically."""
        config = {"policy": asdict(self.config), "metadata": self.metadata}
        save_folder(folder, _KIND, config, dict(self.network.state_dict()))


def shipped_policies() -> list[str]:
    """The policies that come with the package: a task's name, with "_latent" for those on latents."""
    found = SHIPPED_POLICIES.glob(f"{_PREFIX}*/{CONFIG_NAME}")
    return sorted(path.parent.name.removeprefix(_PREFIX) for path in found)


def load_policy(name_or_folder: str | Path) -> RLPolicy:
    """A shipped policy by its name (`shipped_policies`), or one of your own by its folder.

    Nothing is unpickled.

    Raises:
        ValueError: no such task or folder, or what it holds is damaged or no policy.
    """
    name = str(name_or_folder)
    folder = SHIPPED_POLICIES / f"{_PREFIX}{name}"
    if name not in shipped_policies():
        folder = Path(name_or_folder)
        if not folder.is_dir():
            known = shipped_policies()
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.55)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"no RL policy {name!r}.{hint} Give a folder made by wm-baseline, "
                f"or one of: {', '.join(known)}."
            )
    saved, tensors = load_folder(folder, _KIND)
    try:
        config = RLPolicyConfig(**saved["policy"])
        metadata = dict(saved["metadata"])
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{str(folder / CONFIG_NAME)!r} is damaged: {error}") from error
    return RLPolicy(config, tensors, metadata, folder)


def _perceptron(num_inputs: int, hidden_sizes: Sequence[int], num_outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden_sizes:
        layers += [nn.Linear(num_inputs, size), nn.ReLU()]
        num_inputs = size
    return nn.Sequential(*layers, nn.Linear(num_inputs, num_outputs))
