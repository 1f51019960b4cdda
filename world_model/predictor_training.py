"""Training a compact world model on logged trajectories, over a frozen encoder.

Stages, each on what the one before leaves fixed:

1. the state head, with a predictor of its own, from cached tokens: imagined latents must be nearer to the
   latent that really follows than to any other in the batch (which also keeps latents from collapsing, and
   resolves everything that tells frames apart), inverse dynamics, the tokens told from the latent, agreement
   of a frame in two looks;
   afterwards the head alone learns to give the latents of plain frames in every other look that was logged;
2. the predictor, anew, on the now fixed and scaled latents: error over longer rollouts, at a
   hundredth of the first stage's cost a step;
3. the temporal distance, on the same latents, and the reward, if it is asked for.

Fine-tuning goes through the same stages from the weights of a model that there is; its head, unless it is
given steps, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .calibration import Reached, calibrate, calibrate_surprise, fit_familiarity
from .compact import CompactWorldModel
from .compact_predictors import fit_scale, make_predictor
from .distributed import num_ranks, process_group, rank
from .encoder import Encoder
from .fine_tuning import begin_with, check_start, weights_fingerprint
from .head_training import FITTED_FRAMES, HeadStage, all_latents, look_stage
from .moments import Moments
from .reward import reward_stage
from .rollout_training import rollout_stage
from .stages import StagedRun
from .store import TrajectoryStore
from .temporal_distance import distance_stage
from .train_config import TrainConfig
from .training_logs import TrainingLogs
from .training_state import Progress, append_metrics, no_progress


def train_world_model(
    store: TrajectoryStore,
    encoder: Encoder,
    out: Path,
    config: TrainConfig,
    *,
    start: CompactWorldModel | None = None,
    resume: bool = False,
    with_encoder: bool = True,
    reached: Reached | None = None,
    record: dict[str, Any] | None = None,
    on_stage: Callable[[str], None] = lambda name: None,
    progress: Progress = no_progress,
    device: torch.device | str = "cpu",
) -> CompactWorldModel:
    """Train a world model and write it, its metrics and its training state into `out`.

    Every `pixels` frame is encoded once and cached beside the data; so is every `pixels_varied` frame, where
    the data has them. A stopped run resumes to the same weights as an uninterrupted one. Started by torchrun
    on several processes, each goes through its part of every batch, and the first one writes.

    Args:
        store: the logs; of one task, in one frame skip.
        encoder: frozen.
        out: the run's folder.
        config: sizes, steps and weights.
        start: a model whose weights and normalisers training goes on from; see `check_start`.
        resume: go on from `out`'s last checkpoint.
        with_encoder: copy the encoder into the checkpoint.
        reached: judges pairs of true states, to calibrate the model's own judgement.
        record: what else the checkpoint shall say of its making, as JSON.
        on_stage: told the name of each stage when it begins.
        progress: told how far the stage is.
        device: where all of it trains, and where the model is afterwards.

    Raises:
        ValueError: the data lacks a column or a setting, `out` holds another run, or `start` does not fit.
    """
    with process_group(torch.device(device)):
        if start is not None:
            check_start(start, store, encoder, config)
        logs = TrainingLogs(store, encoder, config, device)
        metadata = logs.metadata()
        torch.manual_seed(config.seed)
        model = CompactWorldModel(encoder, config.model, metadata)
        settings = {**asdict(config), "data": store.fingerprint, "encoder": encoder.fingerprint}
        if start is not None:
            begin_with(model, start)
            settings["from"] = weights_fingerprint(start)
        model.to(device)
        if rank() == 0:
            out.mkdir(parents=True, exist_ok=True)
        run = StagedRun(out, model, config, settings, device, progress)
        if resume:
            run.resume()
        on_stage("encoding frames")
        moments = logs.moments(progress)
        varied, varied_rows = logs.varied(moments, progress)
        if not run.begun("head") and start is None:
            _fit_normaliser(model, logs, moments)
        if config.num_steps:
            on_stage("state head and predictor")
            head = HeadStage(logs, model, moments, varied, varied_rows)
            run.train(head.stage(keep_scale=start is not None, resumed=run.begun("head")))
        if varied is not None and len(varied_rows) and config.num_look_steps:
            on_stage("other looks")
            run.train(look_stage(logs, model, moments, varied, varied_rows))
        model.head.requires_grad_(False)
        latents = all_latents(model.head, moments)
        model.latent_variance.copy_(latents.var(dim=0).sum())
        on_stage("longer rollouts")
        if not run.begun("rollouts") and start is None:
            _begin_predictor(model, logs, latents)
        run.train(rollout_stage(logs, model, latents))
        _train_judges(run, model, logs, latents, on_stage)
        on_stage("calibration")
        calibrate(model, latents, logs.actions, store, logs.held_episodes, reached)
        calibrate_surprise(model, store, logs.held_episodes, latents)
        fit_familiarity(model, moments, logs.plain_rows(), varied, varied_rows, config.seed)
        model.metadata.training = {
            "config": asdict(config),
            "data": store.recipes,
            "data_fingerprint": store.fingerprint,
            "episodes": {"train": len(logs.train_episodes), "held_out": len(logs.held_episodes)},
            "processes": num_ranks(),
            "seconds": round(run.seconds, 1),
            **({} if start is None else {"from": start.metadata.training}),
            **(record or {}),
        }
        if rank() == 0:
            model.eval().save(out, with_encoder=with_encoder)
            append_metrics(out, {"step": run.first_step, "open_loop_error": metadata.open_loop_error[-1]})
        return model.eval()


def _train_judges(
    run: StagedRun,
    model: CompactWorldModel,
    logs: TrainingLogs,
    latents: Tensor,
    on_stage: Callable[[str], None],
) -> None:
    """Train the temporal distance, and the reward if the model has one, on latents that are fixed."""
    config, shown, store, episodes = logs.config, model.shown(latents), logs.store, logs.train_episodes
    steps: Any = {"stride": config.action_block, "accumulate": config.accumulate}
    if config.distance.num_steps:
        on_stage("temporal distance")
        run.train(distance_stage(model.distance, shown, store, episodes, config.distance, **steps))
    if model.reward is not None:
        on_stage("reward")
        run.train(reward_stage(model.reward, shown, store, episodes, seed=config.seed, **steps))


def _fit_normaliser(model: CompactWorldModel, logs: TrainingLogs, moments: Moments) -> None:
    """Give the head the statistics of some rows of training episodes."""
    model.head.fit_normaliser(*moments[logs.some_rows(FITTED_FRAMES)])


def _begin_predictor(model: CompactWorldModel, logs: TrainingLogs, latents: Tensor) -> None:
    """Give the model a predictor that has learned nothing but how much latents vary."""
    torch.manual_seed(logs.config.seed)
    predictor = make_predictor(logs.config.model, logs.actions.shape[1], model.metadata.proprio_dim)
    model.predictor = predictor.to(logs.device)
    fit_scale(model.predictor, latents)
