"""The learned temporal distance: how many model steps the logs' best behaviour needs from here to a goal."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .distance_heads import said_apart
from .distributed import part_of
from .stages import OptimiserConfig, Stage, StagedRun, part_in_batch
from .store import TrajectoryStore
from .training_state import Progress, no_progress


@dataclass
class DistanceConfig:
    """How the temporal distance is trained.

    Attributes:
        num_steps: optimiser steps; 0 leaves the distance as it is.
        batch_size: transitions a step.
        learning_rate: peak of AdamW's.
        expectile: below .5, shorter ways count more than longer ones: the best of the logged behaviour.
        hindsight_rate: fraction of goals that the same episode reached later; others are any frame.
        target_rate: how fast the target network follows.
        max_steps: no distance is taught above this.
        seed: of weights and samples.
        log_every: steps from one line of metrics to the next.
    """

    num_steps: int = 6000
    batch_size: int = 512
    learning_rate: float = 1e-3
    expectile: float = 0.15
    hindsight_rate: float = 0.5
    target_rate: float = 0.01
    max_steps: float = 100.0
    seed: int = 0
    log_every: int = 200

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must be between 0 and 1, got {self.expectile}")


def train_distance(
    head: nn.Module,
    latents: Float[Tensor, "row latent"],
    store: TrajectoryStore,
    episodes: Int[np.ndarray, " chosen"],
    config: DistanceConfig,
    progress: Progress = no_progress,
) -> None:
    """Fit `head` at once, without checkpoints; see `distance_stage`."""
    stage = distance_stage(head, latents, store, episodes, config)
    StagedRun(None, head, OptimiserConfig(), {}, progress=progress).train(stage)


def distance_stage(
    head: nn.Module,
    latents: Float[Tensor, "row latent"],
    store: TrajectoryStore,
    episodes: Int[np.ndarray, " chosen"],
    config: DistanceConfig,
    *,
    stride: int = 1,
    accumulate: int = 1,
) -> Stage:
    """Fit `head` by one-step backups d(s, g) <= 1 + d(s', g) along the logged transitions.

    A transition that arrives at its goal costs one step; a hindsight goal k steps ahead costs at most k.
    A step is `stride` rows. Members of an ensemble are all taught what their target networks say together:
    the pessimistic distance.
    """
    windows = store.windows(3, 0, episodes=episodes, stride=stride)
    triples = windows.rows(np.arange(len(windows)))
    episode_of = np.searchsorted(store.offsets, triples[:, 0], side="right") - 1
    last_row = store.offsets[episode_of] + store.lengths[episode_of] - 1
    rows_in_training = np.concatenate([np.arange(store.num_rows)[store.episode_rows(e)] for e in episodes])
    target_head = copy.deepcopy(head).requires_grad_(False)
    parameters: list[Tensor] = list(head.parameters())
    target_parameters: list[Tensor] = list(target_head.parameters())

    def losses(step: int, part: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([config.seed, step])
        chosen = rng.integers(len(triples), size=config.batch_size)
        ahead = (last_row[chosen] - triples[chosen, 1]) // stride
        steps_ahead = 1 + np.floor(rng.random(config.batch_size) ** 2 * ahead).astype(np.int64)
        steps_ahead = np.minimum(steps_ahead, ahead)
        hindsight = rng.random(config.batch_size) < config.hindsight_rate
        later = triples[chosen, 1] + stride * steps_ahead
        goal_rows = np.where(hindsight, later, rng.choice(rows_in_training, config.batch_size))
        bounds = np.where(hindsight, steps_ahead, config.max_steps)
        share = np.arange(config.batch_size)[part_in_batch(config.batch_size, accumulate, part)]
        share = share[part_of(len(share))]
        chosen, goal_rows, bounds = chosen[share], goal_rows[share], bounds[share]
        before, now, after = (latents[triples[chosen, i]] for i in range(3))
        goal = latents[goal_rows]
        with torch.no_grad():
            backup = 1 + target_head(after, after - now, goal)
            target = torch.minimum(backup, torch.from_numpy(bounds).to(backup)).clamp(max=config.max_steps)
            target[torch.from_numpy(goal_rows == triples[chosen, 2])] = 1.0
        error = target - said_apart(head, now, now - before, goal)
        weight = torch.where(error < 0, 1 - config.expectile, config.expectile)
        relative = error / (1 + target).sqrt()
        return {"distance": (weight * relative.square()).mean()}

    def follow() -> None:
        torch._foreach_lerp_(target_parameters, parameters, config.target_rate)

    return Stage(
        "distance",
        {"distance": head},
        losses,
        config.num_steps,
        config.learning_rate,
        floor=0.05,
        log_every=config.log_every,
        kept={"target": target_head},
        moved=follow,
    )
