"""Networks beside a model that give actions: what they read of latents, and what they share in training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .beside import BesideConfig, load_beside, spread
from .logged_latents import LoggedLatents, TrainedModel
from .store import TrajectoryStore
from .training_logs import block_actions
from .training_state import Progress
from .weights_io import load_weights


@dataclass
class ActionNetworkConfig(BesideConfig):
    """Sizes and training of a network that gives actions.

    Attributes:
        width: hidden width.
        depth: hidden layers.
        token_dim: channels kept of a token, where latents are tokens.
    """

    num_steps: int = 6000
    batch_size: int = 512
    width: int = 256
    depth: int = 3
    token_dim: int = 16
    log_every: int = 200
    save_every: int = 2000

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        for name in ("width", "depth", "token_dim"):
            self.check_at_least_one(name)


class ActionNetwork(nn.Module):
    """Reads the last few latents, each number in units of how far it varies, and knows the bounds of actions.

    Args:
        latent_shape: (D,) for vectors, (P, D) for P tokens.
        history: latents of context.
        action_dim: numbers of an action.
        config: sizes.
    """

    latent_mean: Tensor
    latent_scale: Tensor
    action_middle: Tensor
    action_half: Tensor

    def __init__(
        self, latent_shape: tuple[int, ...], history: int, action_dim: int, config: ActionNetworkConfig
    ) -> None:
        super().__init__()
        self.latent_shape, self.history, self.action_dim = latent_shape, history, action_dim
        self.config = config
        self.register_buffer("latent_mean", torch.zeros(latent_shape))
        self.register_buffer("latent_scale", torch.ones(latent_shape))
        self.register_buffer("action_middle", torch.zeros(action_dim))
        self.register_buffer("action_half", torch.ones(action_dim))
        self.seen_dim = latent_shape[-1]
        self.reduce: nn.Module = nn.Identity()
        if len(latent_shape) == 2:
            self.reduce = nn.Linear(latent_shape[1], config.token_dim)
            self.seen_dim = latent_shape[0] * config.token_dim

    @torch.no_grad()
    def fit_normalisers(
        self,
        latents: Float[Tensor, "sample ..."],
        low: Float[Tensor, " action"],
        high: Float[Tensor, " action"],
    ) -> None:
        """Take the usual latents, and how far they vary, from a sample; and the bounds of actions."""
        self.latent_mean.copy_(latents.mean(dim=0))
        self.latent_scale.copy_(1 / spread(latents))
        self.action_middle.copy_((low + high) / 2)
        self.action_half.copy_((high - low) / 2)

    def seen(self, latents: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch feature"]:
        """One frame's latents, as the layers get them."""
        return self.reduce((latents - self.latent_mean) * self.latent_scale).flatten(1)

    def recent(self, context: Float[Tensor, "batch step ..."]) -> list[Float[Tensor, "batch feature"]]:
        """The newest latents of a context, and each change that led to them.

        A context shorter than `history` is taken to have been at rest; of a longer one, the last count.
        """
        context = context[:, -self.history :]
        missing = self.history - context.shape[1]
        if missing:
            context = torch.cat([*[context[:, :1]] * missing, context], dim=1)
        latest = self.seen(context[:, -1])
        changes = (self.seen(context[:, i + 1]) - self.seen(context[:, i]) for i in range(self.history - 1))
        return [latest, *(4 * change for change in changes)]

    def inside(self, raw: Float[Tensor, "batch action"]) -> Float[Tensor, "batch action"]:
        """Any numbers as actions in env units, inside the bounds but for rounding."""
        return self.action_middle + self.action_half * torch.tanh(raw)


Network = TypeVar("Network", bound=ActionNetwork)


def layers(in_dim: int, config: ActionNetworkConfig, out_dim: int) -> nn.Sequential:
    """Fully connected layers, as wide and as many as `config` says."""
    sizes = [in_dim, *[config.width] * config.depth]
    hidden: list[nn.Module] = []
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
        hidden += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], out_dim))


def contexts(
    store: TrajectoryStore, episodes: Int[np.ndarray, " episode"], history: int, stride: int
) -> Int[np.ndarray, "context history"]:
    """Rows of each context that has a model step, `stride` rows, after it."""
    windows = store.windows(history, 1, episodes=episodes, stride=stride)
    return windows.rows(np.arange(len(windows)))[:, :-1]


class LoggedActions:
    """What such a network learns from: a model's latents of logged rows, and what was done at each.

    Args:
        model: as it was trained.
        store: logs with actions of the model's task.
        progress: told how many frames are encoded.

    Raises:
        ValueError: the logs lack what the model sees, or hold other actions.
    """

    def __init__(self, model: TrainedModel, store: TrajectoryStore, progress: Progress) -> None:
        numbers = store.columns["action"].shape
        if numbers != model.action_low.shape:
            raise ValueError(
                f"the logs have actions of shape {numbers}, the model takes {model.action_low.shape}"
            )
        self.block = model.metadata.action_block
        self.latents = LoggedLatents(model, store, progress)
        self.taken = block_actions(store, self.block).to(self.latents.device)
        self._bounds = (model.action_low, model.action_high)
        self.shape: dict[str, Any] = {
            "latent_shape": list(self.latents.latent_shape),
            "history": model.history,
            "action_dim": self.taken.shape[1],
        }

    def build(
        self, kind: type[Network], config: ActionNetworkConfig, rows: Int[np.ndarray, " sample"]
    ) -> Network:
        """Make a network of the config's seed, its normalisers fitted to the latents of some rows."""
        torch.manual_seed(config.seed)
        network = kind(self.latents.latent_shape, self.shape["history"], self.shape["action_dim"], config)
        network.to(self.latents.device)
        low, high = (torch.from_numpy(bound).repeat(self.block) for bound in self._bounds)
        network.fit_normalisers(self.latents[rows], low, high)
        return network


def load_action_network(
    out: Path, model: TrainedModel, kind: type[Network], config_class: type[ActionNetworkConfig]
) -> Network:
    """Read a network that lies beside a model.

    Args:
        out: the network's folder; its name is that of its settings.
        model: whose latents it reads.
        kind: of the network.
        config_class: of its settings.

    Raises:
        ValueError: there is none, it is damaged, or it was trained on other latents than this model's.
    """
    config, tensors = load_beside(out, model)
    try:
        shape = tuple(map(int, config["latent_shape"]))
        settings = config_class(**config[out.name])
        network = kind(shape, int(config["history"]), int(config["action_dim"]), settings)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(out)!r} has a damaged config: {error!r}") from error
    load_weights(network, tensors, out)
    return network.to(next(model.parameters()).device).eval().requires_grad_(False)
