"""A policy learned by reinforcement, run without the library that trained it: the planners' baseline.

It acts on the state (what the robot feels) instead of pixels. `wm-baseline` makes one.
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


@dataclass
class RLPolicyConfig:
    """What a policy is, its weights aside.

    Attributes:
        env_name: the task it was trained for.
        action_repeat: env steps for which each of its actions was held in training.
        action_low: (A,) in env units.
        action_high: (A,) in env units.
        proprio_scale: (P,) typical size of each number of the proprioception; features are divided by it.
        angles: for each angle in the proprioception, the indices of its cosine and of its sine.
        hidden_sizes: of the network's layers.
    """

    env_name: str
    action_repeat: int
    action_low: Sequence[float]
    action_high: Sequence[float]
    proprio_scale: Sequence[float]
    angles: Sequence[Sequence[int]] = ()
    hidden_sizes: Sequence[int] = (256, 256)

    def __post_init__(self) -> None:
        """Refuse what cannot be a policy."""
        if self.action_repeat < 1:
            raise ValueError(f"action_repeat must be at least 1, got {self.action_repeat}")
        if not 0 < len(self.action_low) == len(self.action_high):
            raise ValueError(
                f"action_low and action_high must be of one length, got {self.action_low}, {self.action_high}"
            )
        if not self.proprio_scale or min(self.proprio_scale) <= 0:
            raise ValueError(f"proprio_scale must be positive numbers, got {self.proprio_scale}")
        used = [index for angle in self.angles for index in angle]
        if any(len(angle) != 2 for angle in self.angles) or not set(used) <= set(
            range(len(self.proprio_scale))
        ):
            raise ValueError(
                f"angles must be pairs of indices below {len(self.proprio_scale)}, got {self.angles}"
            )


class GoalFeatures(nn.Module):
    """What a goal-conditioned policy sees: how it is now, and how the goal lies from there.

    Relative to the present, an angle of the goal is turned and anything else is subtracted.
    """

    scale: Tensor

    def __init__(self, config: RLPolicyConfig) -> None:
        super().__init__()
        scale = torch.tensor(list(config.proprio_scale), dtype=torch.float32)
        self.register_buffer("scale", scale, persistent=False)
        self._cosines = [cosine for cosine, _ in config.angles]
        self._sines = [sine for _, sine in config.angles]
        self.num_features = 2 * len(scale)

    def forward(
        self, proprio: Float[Tensor, "batch proprio"], goal: Float[Tensor, "batch proprio"]
    ) -> Float[Tensor, "batch feature"]:
        """Features of the present and of the goal seen from there, each divided by its scale."""
        relative = goal - proprio
        cosine, sine = proprio[:, self._cosines], proprio[:, self._sines]
        goal_cosine, goal_sine = goal[:, self._cosines], goal[:, self._sines]
        relative[:, self._cosines] = cosine * goal_cosine + sine * goal_sine
        relative[:, self._sines] = cosine * goal_sine - sine * goal_cosine
        return torch.cat([proprio / self.scale, relative / self.scale], dim=1)


class RLPolicy:
    """A deterministic goal-conditioned policy: the mean action of a trained actor, inside the bounds.

    Its actions were held for `action_repeat` env steps in training; hold them as long, or ask for a new one
    every env step.
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

    @torch.no_grad()
    def act(
        self,
        proprio: Float[np.ndarray, "... proprio"],
        goal_proprio: Float[np.ndarray, "... goal"],
    ) -> Float32[np.ndarray, "... action"]:
        """Actions to take now.

        Args:
            proprio: (B, P), or (P,) for a lone robot, as environments give it.
            goal_proprio: (B, P) or (P,); what the robot would feel at rest in the goal.

        Returns:
            (B, A) or (A,), in env units and inside the action space.

        Raises:
            ValueError: a shape that does not fit, or a number that is not finite.
        """
        present, goal = np.asarray(proprio, np.float32), np.asarray(goal_proprio, np.float32)
        num_proprio = len(self.config.proprio_scale)
        for name, given in (("proprio", present), ("goal_proprio", goal)):
            if given.ndim not in (1, 2) or given.shape[-1] != num_proprio or not np.isfinite(given).all():
                raise ValueError(
                    f"{name} must be finite, ({num_proprio},) or (B, {num_proprio}), got shape {given.shape}"
                )
        if goal.ndim > present.ndim or (goal.ndim == 2 and len(goal) != len(present)):
            raise ValueError(f"goal_proprio {goal.shape} does not fit proprio {present.shape}")
        batch = torch.from_numpy(np.atleast_2d(present))
        features = self.features(batch, torch.from_numpy(np.atleast_2d(goal)).expand_as(batch))
        squashed = torch.tanh(self.network(features))
        actions = self._low + 0.5 * (squashed + 1) * (self._high - self._low)
        bounded = torch.minimum(torch.maximum(actions, self._low), self._high).numpy()
        return bounded[0] if present.ndim == 1 else bounded

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`, atomically."""
        config = {"policy": asdict(self.config), "metadata": self.metadata}
        save_folder(folder, _KIND, config, dict(self.network.state_dict()))


def shipped_policies() -> list[str]:
    """The tasks for which a policy comes with the package."""
    found = SHIPPED_POLICIES.glob(f"{_PREFIX}*/{CONFIG_NAME}")
    return sorted(path.parent.name.removeprefix(_PREFIX) for path in found)


def load_policy(name_or_folder: str | Path) -> RLPolicy:
    """The shipped policy of a task, or one of your own by its folder; nothing is unpickled.

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
