"""The logged reward of a model step, told from the latents around it."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .compact_config import CompactConfig
from .distributed import part_of
from .stages import Stage, part_in_batch
from .store import TrajectoryStore


class RewardHead(nn.Module):
    """The reward of the step that led to a latent, from it and from how it changed."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: CompactConfig) -> None:
        """Build for latents of `config`."""
        super().__init__()
        width = config.reward_width
        self.net = nn.Sequential(
            nn.Linear(2 * config.latent_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 1),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(
        self, latest: Float[Tensor, "*batch latent"], change: Float[Tensor, "*batch latent"]
    ) -> Float[Tensor, "*batch"]:
        """Rewards, in the log's units."""
        told = self.net(torch.cat([latest, 4 * change], dim=-1)).squeeze(-1)
        return told * self.scale + self.mean


def step_rewards(store: TrajectoryStore, block: int = 1) -> Float[Tensor, " row"]:
    """The sum of the rewards of the `block` rows from each row on: those of the model step that begins there.

    A row's reward is that of the action taken in it. What nobody logged counts as 0, and so does what lies
    beyond an episode's end.
    """
    reward = np.nan_to_num(store.read("reward").astype(np.float32).reshape(store.num_rows))
    last = np.repeat(store.offsets + store.lengths - 1, store.lengths)
    rows = np.arange(store.num_rows)
    parts = [np.where(rows + i < last, reward[np.minimum(rows + i, last)], 0) for i in range(block)]
    return torch.from_numpy(np.sum(parts, axis=0))


def reward_stage(
    head: RewardHead,
    latents: Float[Tensor, "row latent"],
    store: TrajectoryStore,
    episodes: Int[np.ndarray, " chosen"],
    *,
    stride: int = 1,
    accumulate: int = 1,
    num_steps: int = 1500,
    batch_size: int = 512,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Stage:
    """Fit `head` to the logged rewards of training episodes, by squared error; a step is `stride` rows."""
    windows = store.windows(2, 0, episodes=episodes, stride=stride)
    pairs = windows.rows(np.arange(len(windows)))
    rewards = step_rewards(store, stride).to(latents.device)
    known = rewards[torch.from_numpy(pairs[:, 0])]
    head.mean.copy_(known.mean())
    head.scale.copy_(known.std().clamp(min=1e-6))

    def losses(step: int, part: int) -> dict[str, Tensor]:
        chosen = np.random.default_rng([seed, 6, step]).integers(len(pairs), size=batch_size)
        chosen = chosen[part_in_batch(batch_size, accumulate, part)]
        before, after = torch.from_numpy(pairs[chosen[part_of(len(chosen))]]).unbind(1)
        error = head(latents[after], latents[after] - latents[before]) - rewards[before]
        return {"reward": (error / head.scale).square().mean()}

    return Stage("reward", {"reward": head}, losses, num_steps, learning_rate, floor=0.05)
