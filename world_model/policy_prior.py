"""A policy prior: which action the logs would take from a latent towards a goal's latent.

Behaviour cloning with hindsight: any frame that an episode came to later was the goal of what it did before.
Its proposals may join a planner's search, and alone it is the usual goal-conditioned baseline (GCBC).

Source: Y. Ding et al., "Goal-conditioned imitation learning", arXiv:1906.05838; as part of a search, TD-MPC2,
arXiv:2310.16828, whose prior learns from values instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .beside import BesideConfig, fit_beside, has_beside, load_beside, save_beside, settings_beside, spread
from .logged_latents import LoggedLatents, TrainedModel
from .store import TrajectoryStore
from .training_logs import block_actions
from .training_state import Progress, no_progress
from .weights_io import load_weights

PRIOR_FOLDER = "prior"
_LEAST_STD = 0.05


@dataclass
class PriorConfig(BesideConfig):
    """Sizes and training of a policy prior.

    Attributes:
        width: hidden width.
        depth: hidden layers.
        token_dim: channels kept of a token, where latents are tokens.
        max_ahead: model steps to the furthest goal in hindsight.
    """

    num_steps: int = 6000
    batch_size: int = 512
    width: int = 256
    depth: int = 3
    token_dim: int = 16
    max_ahead: int = 20
    log_every: int = 200
    save_every: int = 2000

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        for name in ("width", "depth", "token_dim", "max_ahead"):
            self.check_at_least_one(name)


class PolicyPrior(nn.Module):
    """A normal distribution of the next action, given the last few latents and a goal's latent."""

    latent_mean: Tensor
    latent_scale: Tensor
    action_middle: Tensor
    action_half: Tensor

    def __init__(
        self, latent_shape: tuple[int, ...], history: int, action_dim: int, config: PriorConfig
    ) -> None:
        """Build with random weights.

        Args:
            latent_shape: (D,) for vectors, (P, D) for P tokens.
            history: latents of context.
            action_dim: numbers of an action.
            config: sizes.
        """
        super().__init__()
        self.latent_shape, self.history, self.config = latent_shape, history, config
        self.register_buffer("latent_mean", torch.zeros(latent_shape))
        self.register_buffer("latent_scale", torch.ones(latent_shape))
        self.register_buffer("action_middle", torch.zeros(action_dim))
        self.register_buffer("action_half", torch.ones(action_dim))
        in_dim = latent_shape[-1]
        self.reduce: nn.Module = nn.Identity()
        if len(latent_shape) == 2:
            self.reduce = nn.Linear(latent_shape[1], config.token_dim)
            in_dim = latent_shape[0] * config.token_dim
        sizes = [(history + 1) * in_dim, *[config.width] * config.depth]
        layers: list[nn.Module] = []
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Linear(sizes[-1], 2 * action_dim))

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

    def forward(
        self, context: Float[Tensor, "batch history ..."], goal: Float[Tensor, "batch ..."]
    ) -> tuple[Float[Tensor, "batch action"], Float[Tensor, "batch action"]]:
        """Mean and std of the next action, in env units; the mean is inside the bounds.

        A context shorter than `history` is taken to have been at rest; of a longer one, the last count.
        """
        context = context[:, -self.history :]
        missing = self.history - context.shape[1]
        if missing:
            context = torch.cat([*[context[:, :1]] * missing, context], dim=1)
        latest = self._seen(context[:, -1])
        changes = [self._seen(context[:, i + 1]) - self._seen(context[:, i]) for i in range(self.history - 1)]
        # What is not known of a goal counts as reached.
        ahead = (self._seen(goal) - latest).nan_to_num(nan=0.0)
        told = [latest, *(4 * change for change in changes), ahead]
        mean, spread = self.body(torch.cat(told, dim=1)).chunk(2, dim=1)
        std = _LEAST_STD + F.softplus(spread)
        return self.action_middle + self.action_half * torch.tanh(mean), self.action_half * std

    def _seen(self, latents: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch feature"]:
        return self.reduce((latents - self.latent_mean) * self.latent_scale).flatten(1)


def train_prior(
    model: TrainedModel,
    store: TrajectoryStore,
    folder: str | Path,
    config: PriorConfig,
    *,
    resume: bool = False,
    progress: Progress = no_progress,
) -> PolicyPrior:
    """Clone the logged behaviour on a trained model's latents, and write it into `folder/prior`.

    The model's weights are not touched. A stopped run resumes to the same weights as an uninterrupted one.

    Args:
        model: as it was trained.
        store: logs with actions of the model's task.
        folder: the model's.
        config: sizes and steps.
        resume: go on from the last checkpoint.
        progress: told how far it is.

    Raises:
        ValueError: the logs lack what is needed, hold other actions, or another training lies in the folder.
    """
    out, settings = Path(folder) / PRIOR_FOLDER, settings_beside(config, model, store)
    block, numbers = model.metadata.action_block, store.columns["action"].shape
    if numbers != model.action_low.shape:
        raise ValueError(
            f"the logs have actions of shape {numbers}, the model takes {model.action_low.shape}"
        )
    latents = LoggedLatents(model, store, progress)
    taken = block_actions(store, block).to(latents.device)
    samples, held = (
        _HindsightSamples(store, episodes, model.history, config.max_ahead, block)
        for episodes in store.split(config.held_out, config.seed)
    )
    some, _ = samples.draw(np.random.default_rng([config.seed, 1]), 1024)
    torch.manual_seed(config.seed)
    prior = PolicyPrior(latents.latent_shape, model.history, taken.shape[1], config).to(latents.device)
    low, high = (torch.from_numpy(bound).repeat(block) for bound in (model.action_low, model.action_high))
    prior.fit_normalisers(latents[some[:, -1]], low, high)

    def loss_of(rng: np.random.Generator, count: int) -> Tensor:
        rows, goals = samples.draw(rng, count)
        return _surprisal(prior, latents[rows], latents.as_goals(goals), taken[rows[:, -1]]).mean()

    fit_beside(prior, loss_of, out, config, settings, resume=resume, progress=progress)
    rows, goals = held.draw(np.random.default_rng([config.seed, 3]), 2000)
    shape = {
        "latent_shape": list(latents.latent_shape),
        "history": model.history,
        "action_dim": taken.shape[1],
    }
    cloned = {"explained": _explained(prior, latents[rows], latents.as_goals(goals), taken[rows[:, -1]])}
    save_beside(prior, out, config, settings, **shape, held_out=cloned)
    return prior


def has_prior(folder: str | Path | None) -> bool:
    """Whether a finished prior lies beside the model in `folder`; None is a model made in memory."""
    return has_beside(folder, PRIOR_FOLDER)


def load_prior(folder: str | Path, model: TrainedModel) -> PolicyPrior:
    """Read the policy prior that lies beside a model.

    Raises:
        ValueError: there is none, it is damaged, or it was trained on other latents than this model's.
    """
    out = Path(folder) / PRIOR_FOLDER
    config, tensors = load_beside(out, model)
    try:
        shape = tuple(map(int, config["latent_shape"]))
        numbers = int(config["history"]), int(config["action_dim"])
        prior = PolicyPrior(shape, *numbers, PriorConfig(**config["prior"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(out)!r} has a damaged config: {error!r}") from error
    load_weights(prior, tensors, out)
    device = next(model.parameters()).device
    return prior.to(device).eval().requires_grad_(False)


class _HindsightSamples:
    """Rows of context, and of a frame that the same episode came to later."""

    def __init__(
        self, store: TrajectoryStore, episodes: np.ndarray, history: int, max_ahead: int, stride: int
    ) -> None:
        """Find all contexts with a model step after them; a model step is `stride` rows."""
        windows = store.windows(history, 1, episodes=episodes, stride=stride)
        self._rows = windows.rows(np.arange(len(windows)))[:, :-1]
        episode = np.searchsorted(store.offsets, self._rows[:, -1], side="right") - 1
        last = store.offsets[episode] + store.lengths[episode] - 1
        self._stride, self._ahead = stride, np.minimum((last - self._rows[:, -1]) // stride, max_ahead)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (count, history), and the goals' rows (count,)."""
        chosen = rng.integers(len(self._rows), size=count)
        steps = 1 + np.floor(rng.random(count) * self._ahead[chosen]).astype(np.int64)
        rows = self._rows[chosen]
        return rows, rows[:, -1] + self._stride * steps


def _surprisal(prior: PolicyPrior, context: Tensor, goal: Tensor, action: Tensor) -> Tensor:
    """Negative log likelihood of actions, in units of the half range, summed over their numbers."""
    mean, std = (part / prior.action_half for part in prior(context, goal))
    return (0.5 * ((action / prior.action_half - mean) / std).square() + std.log()).sum(dim=1)


@torch.no_grad()
def _explained(prior: PolicyPrior, context: Tensor, goal: Tensor, action: Tensor) -> float:
    """Share of the actions' variance that the means tell."""
    missed = (prior(context, goal)[0] - action).square().sum()
    spread = (action - action.mean(dim=0)).square().sum().clamp(min=1e-9)
    return round(float(1 - missed / spread), 4)
