"""Latent actions: a few numbers of which each says one thing that the logs do next, whatever the robot is at.

A conditional variational autoencoder of logged actions. Its decoder turns such numbers, drawn from a standard
normal distribution, into actions like those of the logs. A search over them in place of actions leads where
the logs have been, and a predictor is right there. It is offline reinforcement learning's way to keep a
policy from what a learned model has never seen, here for a search.

Source: W. Zhou et al., "PLAS: Latent action space for offline reinforcement learning", arXiv:2011.07213.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .action_network import (
    ActionNetwork,
    ActionNetworkConfig,
    LoggedActions,
    contexts,
    layers,
    load_action_network,
)
from .beside import fit_beside, has_beside, save_beside, settings_beside
from .logged_latents import TrainedModel
from .store import TrajectoryStore
from .training_state import Progress, no_progress

ACTION_DECODER_FOLDER = "action_decoder"
_LEAST_STD = 1e-3


@dataclass
class ActionDecoderConfig(ActionNetworkConfig):
    """Sizes and training of an action decoder.

    Attributes:
        latent_actions: numbers of a latent action, about as many as the logs have ways to go on.
        kl_weight: nats, in squared half ranges of an action: the more, the fewer ways are told apart.
        limit: largest latent action that may be asked for, in standard deviations of those of the logs.
    """

    num_steps: int = 4000
    latent_actions: int = 3
    kl_weight: float = 0.02
    limit: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        self.check_at_least_one("latent_actions")
        for name in ("kl_weight", "limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}")


class ActionDecoder(ActionNetwork):
    """Actions of latent actions from -1 to 1, given the last few latents: see `LatentActions`."""

    def __init__(
        self, latent_shape: tuple[int, ...], history: int, action_dim: int, config: ActionDecoderConfig
    ) -> None:
        """Build with random weights; see `ActionNetwork`."""
        super().__init__(latent_shape, history, action_dim, config)
        self.latent_dim, self.limit = config.latent_actions, config.limit
        told = history * self.seen_dim
        self.encode_layers = layers(told + action_dim, config, 2 * self.latent_dim)
        self.decode_layers = layers(told + self.latent_dim, config, action_dim)

    def forward(
        self, context: Float[Tensor, "batch step ..."], latent_action: Float[Tensor, "batch number"]
    ) -> Float[Tensor, "batch action"]:
        """Actions in env units, inside the bounds but for rounding, of latent actions from -1 to 1."""
        return self._decode(self.recent(context), self.limit * latent_action)

    def reconstruct(
        self, context: Float[Tensor, "batch step ..."], action: Float[Tensor, "batch action"], noise: Tensor
    ) -> tuple[Float[Tensor, "batch action"], Float[Tensor, " batch"]]:
        """What is decoded of an action's encoding with such noise (B, Z), and the encoding's KL [nats]."""
        told = self.recent(context)
        given = (action - self.action_middle) / self.action_half
        mean, spread = self.encode_layers(torch.cat([*told, given], dim=1)).chunk(2, dim=1)
        std = _LEAST_STD + F.softplus(spread)
        kl = (0.5 * (mean.square() + std.square() - 1) - std.log()).sum(dim=1)
        return self._decode(told, mean + std * noise), kl

    def _decode(self, told: list[Tensor], latent_action: Tensor) -> Tensor:
        return self.inside(self.decode_layers(torch.cat([*told, latent_action], dim=1)))


def train_action_decoder(
    model: TrainedModel,
    store: TrajectoryStore,
    folder: str | Path,
    config: ActionDecoderConfig,
    *,
    resume: bool = False,
    progress: Progress = no_progress,
) -> ActionDecoder:
    """Learn the logs' ways to go on from a trained model's latents, and write them into `folder`.

    The model's weights are not touched. A stopped run resumes to the same weights as an uninterrupted one.

    Args:
        model: as it was trained.
        store: logs with actions of the model's task, done on purpose: of random ones nothing can be learned.
        folder: the model's; the decoder's is `action_decoder` in it.
        config: sizes and steps.
        resume: go on from the last checkpoint.
        progress: told how far it is.

    Raises:
        ValueError: the logs lack what is needed, hold other actions, or another training lies in the folder.
    """
    out, settings = Path(folder) / ACTION_DECODER_FOLDER, settings_beside(config, model, store)
    logged = LoggedActions(model, store, progress)
    train, held = (
        contexts(store, episodes, model.history, logged.block)
        for episodes in store.split(config.held_out, config.seed)
    )
    some = np.random.default_rng([config.seed, 1]).permutation(train)[:1024]
    decoder = logged.build(ActionDecoder, config, some[:, -1])

    def missed(rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.from_numpy(rng.standard_normal((len(rows), config.latent_actions), np.float32))
        taken = logged.taken[rows[:, -1]]
        again, kl = decoder.reconstruct(logged.latents[rows], taken, noise.to(taken.device))
        return ((again - taken) / decoder.action_half).square().sum(dim=1), kl

    def loss_of(rng: np.random.Generator, count: int) -> Tensor:
        error, kl = missed(train[rng.integers(len(train), size=count)], rng)
        return (error + config.kl_weight * kl).mean()

    fit_beside(decoder, loss_of, out, config, settings, resume=resume, progress=progress)
    rng = np.random.default_rng([config.seed, 3])
    rows = held[rng.integers(len(held), size=2000)]
    with torch.no_grad():
        error, kl = missed(rows, rng)
        taken = logged.taken[rows[:, -1]] / decoder.action_half
        varying = (taken - taken.mean(dim=0)).square().sum(dim=1).mean().clamp(min=1e-9)
    told = {"explained": round(float(1 - error.mean() / varying), 4), "nats": round(float(kl.mean()), 2)}
    save_beside(decoder, out, config, settings, **logged.shape, held_out=told)
    return decoder


def has_action_decoder(folder: str | Path | None) -> bool:
    """Whether a finished action decoder lies beside the model in `folder`; None is a model made in memory."""
    return has_beside(folder, ACTION_DECODER_FOLDER)


def load_action_decoder(folder: str | Path, model: TrainedModel) -> ActionDecoder:
    """Read the action decoder that lies beside a model.

    Raises:
        ValueError: there is none, it is damaged, or it was trained on other latents than this model's.
    """
    out = Path(folder) / ACTION_DECODER_FOLDER
    return load_action_network(out, model, ActionDecoder, ActionDecoderConfig)
