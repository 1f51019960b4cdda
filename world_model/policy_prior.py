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

PRIOR_FOLDER = "prior"
_LEAST_STD = 0.05


@dataclass
class PriorConfig(ActionNetworkConfig):
    """Sizes and training of a policy prior.

    Attributes:
        max_ahead: model steps to the furthest goal in hindsight.
    """

    max_ahead: int = 20

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        self.check_at_least_one("max_ahead")


class PolicyPrior(ActionNetwork):
    """A normal distribution of the next action, given the last few latents and a goal's latent."""

    def __init__(
        self, latent_shape: tuple[int, ...], history: int, action_dim: int, config: PriorConfig
    ) -> None:
        """Build with random weights; see `ActionNetwork`."""
        super().__init__(latent_shape, history, action_dim, config)
        self.body = layers((history + 1) * self.seen_dim, config, 2 * action_dim)

    def forward(
        self, context: Float[Tensor, "batch step ..."], goal: Float[Tensor, "batch ..."]
    ) -> tuple[Float[Tensor, "batch action"], Float[Tensor, "batch action"]]:
        """Mean and std of the next action, in env units; the mean is inside the bounds.

        A context shorter than `history` is taken to have been at rest; of a longer one, the last count.
        """
        told = self.recent(context)
        # What is not known of a goal counts as reached.
        ahead = (self.seen(goal) - told[0]).nan_to_num(nan=0.0)
        mean, spread = self.body(torch.cat([*told, ahead], dim=1)).chunk(2, dim=1)
        return self.inside(mean), self.action_half * (_LEAST_STD + F.softplus(spread))


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
    logged = LoggedActions(model, store, progress)
    latents, taken = logged.latents, logged.taken
    samples, held = (
        _HindsightSamples(store, episodes, model.history, config.max_ahead, logged.block)
        for episodes in store.split(config.held_out, config.seed)
    )
    some, _ = samples.draw(np.random.default_rng([config.seed, 1]), 1024)
    prior = logged.build(PolicyPrior, config, some[:, -1])

    def loss_of(rng: np.random.Generator, count: int) -> Tensor:
        rows, goals = samples.draw(rng, count)
        return _surprisal(prior, latents[rows], latents.as_goals(goals), taken[rows[:, -1]]).mean()

    fit_beside(prior, loss_of, out, config, settings, resume=resume, progress=progress)
    rows, goals = held.draw(np.random.default_rng([config.seed, 3]), 2000)
    cloned = {"explained": _explained(prior, latents[rows], latents.as_goals(goals), taken[rows[:, -1]])}
    save_beside(prior, out, config, settings, **logged.shape, held_out=cloned)
    return prior


def has_prior(folder: str | Path | None) -> bool:
    """Whether a finished prior lies beside the model in `folder`; None is a model made in memory."""
    return has_beside(folder, PRIOR_FOLDER)


def load_prior(folder: str | Path, model: TrainedModel) -> PolicyPrior:
    """Read the policy prior that lies beside a model.

    Raises:
        ValueError: there is none, it is damaged, or it was trained on other latents than this model's.
    """
    return load_action_network(Path(folder) / PRIOR_FOLDER, model, PolicyPrior, PriorConfig)


class _HindsightSamples:
    """Rows of context, and of a frame that the same episode came to later."""

    def __init__(
        self, store: TrajectoryStore, episodes: np.ndarray, history: int, max_ahead: int, stride: int
    ) -> None:
        """Find all contexts with a model step after them; a model step is `stride` rows."""
        self._rows = contexts(store, episodes, history, stride)
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
