"""The second stage of a training: the predictor on fixed latents, over longer rollouts."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .calibration import open_loop_error
from .compact import CompactWorldModel
from .compact_predictors import scale_of
from .distributed import part_of
from .ensemble import EnsemblePredictor
from .stages import Stage, part_in_batch
from .training_logs import TrainingLogs


def rollout_stage(
    logs: TrainingLogs, model: CompactWorldModel, latents: Float[Tensor, "row latent"]
) -> Stage:
    """Error of imagined latents over rollouts, at a hundredth of the first stage's cost a step.

    Squared, or by its size where it is large: a few windows in which a push is made or missed would outweigh
    all others. Each member of an ensemble sees windows of its own, as many as a predictor alone would.
    """
    config, history = logs.config, logs.config.model.history
    windows = logs.windows(config.predictor_rollout_steps)

    def losses(step: int, part: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([config.seed, 3, step])
        size = config.predictor_batch_size * config.model.ensemble
        drawn = windows.sample(size, rng)[part_in_batch(size, config.accumulate, part)]
        rows = torch.from_numpy(drawn[part_of(len(drawn))])
        actions = model.normalise_actions(logs.actions[rows])[:, history - 1 : -1]
        predictor = model.predictor
        imagine = predictor.shared_out if isinstance(predictor, EnsemblePredictor) else predictor
        imagined = imagine(latents[rows[:, :history]], actions)
        error = (imagined - latents[rows[:, history:]]) / scale_of(predictor)
        if beta := config.huber_beta:
            counted = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=beta)
        else:
            counted = error.square()
        return {"long_rollout": counted.sum(-1).mean()}

    def held_out_error() -> float:
        return open_loop_error(model, latents, logs.actions, logs.store, logs.held_episodes)[-1]

    return Stage(
        "rollouts",
        {"predictor": model.predictor},
        losses,
        config.num_predictor_steps,
        config.learning_rate,
        config.weight_decay,
        clip_norm=config.clip_norm,
        log_every=config.log_every,
        judged=held_out_error,
        judge_every=config.judge_every,
        patience=config.patience,
    )
