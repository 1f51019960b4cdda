"""Training a compact world model on logged trajectories, over a frozen encoder.

Three stages, each on what the one before leaves fixed:

1. the state head, with a predictor of its own, from cached tokens: imagined latents must be nearer to the
   latent that really follows than to any other in the batch (which also keeps latents from collapsing, and
   resolves everything that tells frames apart), inverse dynamics, the tokens told from the latent, agreement
   of a frame in two looks;
   afterwards the head alone learns to give the latents of plain frames in every other look that was logged;
2. the predictor, anew, on the now fixed and scaled latents: squared error over longer rollouts, at a
   hundredth of the first stage's cost a step;
3. the temporal distance, on the same latents.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .calibration import Reached, calibrate, fit_familiarity
from .compact import (
    CompactConfig,
    CompactPredictor,
    CompactWorldModel,
)
from .encoder import Encoder
from .latent_cache import cached_latents
from .latent_rows import LatentRows
from .losses import sigreg
from .metadata import ModelMetadata
from .moments import Moments, joined, partly_hidden
from .store import TrajectoryStore
from .temporal_distance import DistanceConfig, train_distance
from .training_state import (
    Progress,
    append_metrics,
    check_same_settings,
    drop_metrics_after,
    load_state,
    no_progress,
    save_state,
    warmup_cosine,
)
from .windows import Windows


@dataclass
class TrainConfig:
    """How a compact world model is trained.

    Attributes:
        model: sizes.
        distance: how the temporal distance is trained.
        num_steps: optimiser steps of the first stage.
        num_predictor_steps: of the second stage.
        batch_size: windows a step in the first stage.
        predictor_batch_size: windows a step in the second stage.
        rollout_steps: imagined steps of the first stage's error.
        predictor_rollout_steps: of the second stage's.
        learning_rate: peak of AdamW's, in both stages.
        weight_decay: AdamW's.
        sigreg_weight: of the anti-collapse term.
        inverse_weight: of inverse dynamics.
        token_weight: of telling the frame's tokens from its latent.
        token_frames: frames a step for which that is asked.
        look_weight: of the squared difference between the latents of a frame in two looks.
        look_frames: frames a step that are seen in both looks.
        views: image columns that the model sees, of one camera each; the first is the one that goals show.
        proprio: whether the model takes the column `proprio`, too.
        hide_rate: fraction of windows seen without proprio, or by one camera only, so that the model can do
            without.
        num_look_steps: optimiser steps in which the head learns to give its plain latents in other looks.
        look_batch_size: frames a step of them, as many again in plain look.
        held_out: fraction of episodes kept for validation.
        seed: of weights, windows and the split.
        log_every: steps from one line of metrics to the next.
        save_every: steps of the first stage from one checkpoint to the next.
    """

    model: CompactConfig = field(default_factory=CompactConfig)
    distance: DistanceConfig = field(default_factory=DistanceConfig)
    num_steps: int = 1200
    num_predictor_steps: int = 4000
    batch_size: int = 64
    predictor_batch_size: int = 256
    rollout_steps: int = 5
    predictor_rollout_steps: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    sigreg_weight: float = 0.0
    inverse_weight: float = 10.0
    token_weight: float = 0.3
    token_frames: int = 128
    look_weight: float = 1.0
    look_frames: int = 96
    num_look_steps: int = 800
    look_batch_size: int = 192
    views: list[str] = field(default_factory=lambda: ["pixels"])
    proprio: bool = False
    hide_rate: float = 0.4
    held_out: float = 0.05
    seed: int = 0
    log_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in (
            "num_steps",
            "num_predictor_steps",
            "batch_size",
            "predictor_batch_size",
            "rollout_steps",
            "predictor_rollout_steps",
            "log_every",
            "save_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.views or len(set(self.views)) < len(self.views):
            raise ValueError(f"views must name image columns, each once; got {self.views}")
        if not 0 <= self.hide_rate <= 1:
            raise ValueError(f"hide_rate must be from 0 to 1, got {self.hide_rate}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out}")


class InverseDynamics(nn.Module):
    """Which action led from one latent and its motion to the next; used in training only.

    Source: EB-JEPA / PLDM ablations, arXiv:2502.14819: without it, small latents do not plan.
    """

    def __init__(self, config: CompactConfig, action_dim: int) -> None:
        """Build for latents of `config`."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear((config.history + 1) * config.latent_dim, 256), nn.GELU(), nn.Linear(256, action_dim)
        )

    def forward(self, latents: Float[Tensor, "batch window latent"]) -> Float[Tensor, "batch action"]:
        """Normalised action between the last two of `history + 1` latents."""
        last, changes = latents[:, -1], (latents[:, 1:] - latents[:, :-1]).flatten(1)
        return self.net(torch.cat([last, changes], dim=-1))


class TokenReader(nn.Module):
    """The standardised tokens of a frame from its latent; used in training only.

    Rollout error and inverse dynamics alone leave out of the latent what is hard to see or to move; whoever
    can tell every token of the frozen encoder from the latent has lost nothing that a frame shows.
    """

    def __init__(self, config: CompactConfig, num_tokens: int, token_width: int) -> None:
        """Build for latents of `config`."""
        super().__init__()
        self.num_tokens = num_tokens
        self.spread = nn.Sequential(
            nn.Linear(config.latent_dim, config.head_width),
            nn.GELU(),
            nn.Linear(config.head_width, num_tokens * config.token_dim),
            nn.GELU(),
        )
        self.read = nn.Linear(config.token_dim, token_width)

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch token dim"]:
        """Tokens of frames."""
        return self.read(self.spread(latents).unflatten(1, (self.num_tokens, -1)))


def check_logs(store: TrajectoryStore, config: TrainConfig) -> None:
    """Refuse logs that cannot be trained on.

    Raises:
        ValueError: a column or a setting is missing, or episodes are too few or too short.
    """
    felt = ["proprio"] if config.proprio else []
    for column in (*config.views, *felt, "action"):
        if not store.rows_with(column).all():
            raise ValueError(f"some of the logs have no column {column!r}; all of them need it")
    for key in ("env", "frame_skip", "image_size"):
        store.setting(key)
    train, held = store.split(config.held_out, config.seed)
    history = config.model.history
    store.windows(history, max(config.rollout_steps, config.predictor_rollout_steps), episodes=train)
    store.windows(history, 1, episodes=held)


class Training:
    """One run; see `train_world_model`."""

    def __init__(self, store: TrajectoryStore, encoder: Encoder, out: Path, config: TrainConfig) -> None:
        """Load rows of actions, split episodes, build the model."""
        self.store, self.encoder, self.out, self.config = store, encoder, out, config
        self.train_episodes, self.held_episodes = store.split(config.held_out, config.seed)
        action = store.read("action")
        steps = np.nan_to_num(action)
        self.actions = torch.from_numpy(steps)
        metadata = metadata_of(store, action)
        metadata.views = list(config.views)
        self.proprio = store.read("proprio").astype(np.float32) if config.proprio else None
        metadata.proprio_dim = 0 if self.proprio is None else self.proprio.shape[1]
        torch.manual_seed(config.seed)
        self.model = CompactWorldModel(encoder, config.model, metadata)
        self.inverse = InverseDynamics(config.model, len(metadata.action_low))
        self.reader = TokenReader(config.model, encoder.grid_size**2, len(config.views) * encoder.width)
        self.settings = {**asdict(config), "data": store.fingerprint, "encoder": encoder.fingerprint}
        self.seconds = 0.0
        self.sums: dict[str, float] = {}

    def tokens(self, column: str, progress: Progress) -> LatentRows:
        """The encoder's tokens of a column, cached on disk."""
        return cached_latents(
            self.encoder, self.store, column, progress=lambda done, total: progress(done, total, {})
        )

    def moments(self, progress: Progress) -> Moments:
        """What the head sees of every row."""
        return Moments([self.tokens(view, progress) for view in self.config.views], self.proprio)

    def windows(self, steps: int, *, held: bool = False) -> Windows:
        """Windows of `history + steps` rows in training or held-out episodes."""
        episodes = self.held_episodes if held else self.train_episodes
        return self.store.windows(self.config.model.history, steps, episodes=episodes)

    def parameters(self) -> list[nn.Parameter]:
        """What the first stage trains."""
        trained = (self.model.head, self.model.predictor, self.inverse, self.reader)
        return [parameter for module in trained for parameter in module.parameters()]


def train_world_model(
    store: TrajectoryStore,
    encoder: Encoder,
    out: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    with_encoder: bool = True,
    reached: Reached | None = None,
    record: dict[str, Any] | None = None,
    on_stage: Callable[[str], None] = lambda name: None,
    progress: Progress = no_progress,
) -> CompactWorldModel:
    """Train a world model and write it, its metrics and its training state into `out`.

    Every `pixels` frame is encoded once and cached beside the data; so is every `pixels_varied` frame, where
    the data has them. A stopped run resumes to the same weights as an uninterrupted one.

    Args:
        store: the logs; of one task, in one frame skip.
        encoder: frozen.
        out: the run's folder.
        config: sizes, steps and weights.
        resume: go on from `out`'s last checkpoint.
        with_encoder: copy the encoder into the checkpoint.
        reached: judges pairs of true states, to calibrate the model's own judgement.
        record: what else the checkpoint shall say of its making, as JSON.
        on_stage: told the name of each stage when it begins.
        progress: told how far the stage is.

    Raises:
        ValueError: the data lacks a column or a setting, or `out` holds another run.
    """
    began = time.monotonic()
    run = Training(store, encoder, out, config)
    out.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(run.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    start = 0
    if resume:
        state = load_state(out)
        check_same_settings(out, run.settings, state["settings"])
        run.model.load_state_dict(state["model"])
        run.inverse.load_state_dict(state["inverse"])
        run.reader.load_state_dict(state["reader"])
        optimizer.load_state_dict(state["optimizer"])
        start, run.seconds, run.sums = state["step"], state["seconds"], state["sums"]
        drop_metrics_after(out, start)
    on_stage("encoding frames")
    moments = run.moments(progress)
    varied, varied_rows = _varied(run, moments, progress)
    if start == 0:
        rng = np.random.default_rng([config.seed, 1])
        rows = np.sort(run.windows(0).sample(min(2048, len(run.windows(0))), rng)[:, 0])
        run.model.head.fit_normaliser(*moments[rows])
    on_stage("state head and predictor")
    _first_stage(run, moments, optimizer, start, began, progress)
    run.model.head.fit_scale(all_latents(run.model, moments))
    if varied is not None and len(varied_rows):
        on_stage("other looks")
        look_stage(run, moments, varied, varied_rows, progress)
    run.model.head.requires_grad_(False)
    latents = all_latents(run.model, moments)
    run.model.latent_variance.copy_(latents.var(dim=0).sum())
    on_stage("longer rollouts")
    _second_stage(run, latents, progress)
    on_stage("temporal distance")
    train_distance(run.model.distance, latents, store, run.train_episodes, config.distance, progress)
    on_stage("calibration")
    calibrate(run.model, latents, run.actions, store, run.held_episodes, reached)
    plain_rows = run.windows(0).rows(np.arange(len(run.windows(0))))[:, 0]
    fit_familiarity(run.model, moments, plain_rows, varied, varied_rows, config.seed)
    run.model.metadata.training = {
        "config": asdict(config),
        "data": store.recipes,
        "data_fingerprint": store.fingerprint,
        "episodes": {"train": len(run.train_episodes), "held_out": len(run.held_episodes)},
        "seconds": round(run.seconds + time.monotonic() - began, 1),
        **(record or {}),
    }
    run.model.eval().save(out, with_encoder=with_encoder)
    steps = config.num_steps + config.num_predictor_steps
    append_metrics(out, {"step": steps, "open_loop_error": run.model.metadata.open_loop_error[-1]})
    return run.model


def _first_stage(
    run: Training,
    moments: Moments,
    optimizer: torch.optim.Optimizer,
    start: int,
    began: float,
    progress: Progress,
) -> None:
    """Train head and predictor together."""
    config, model = run.config, run.model
    windows = run.windows(config.rollout_steps)
    varied, varied_rows = _varied(run, moments, progress)
    num_views = len(config.views)
    sums = run.sums
    for step in range(start, config.num_steps):
        rng = np.random.default_rng([config.seed, 2, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup_cosine(step, config.num_steps)
        rows = windows.sample(config.batch_size, rng)
        whole = moments[rows]
        latents = model.head(*partly_hidden(whole, num_views, config.hide_rate, generator))
        losses = _window_losses(run, latents, run.actions[torch.from_numpy(rows)], generator)
        read = torch.randperm(rows.size, generator=generator)[: config.token_frames]
        there = model.head.standardise(whole[0].flatten(0, 1)[read])
        told = run.reader(latents.flatten(0, 1)[read])
        losses["tokens"] = config.token_weight * F.mse_loss(told, there)
        if varied is not None and len(varied_rows) and config.look_weight > 0:
            chosen = rng.choice(varied_rows, config.look_frames)
            plain, other = model.head(*joined(moments[chosen], varied[chosen])).chunk(2)
            plain = plain.detach()
            losses["look"] = config.look_weight * F.mse_loss(other, plain) / plain.var(dim=0).mean()
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(run.parameters(), 1.0)
        optimizer.step()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        done = step + 1
        if done % config.log_every == 0 or done == config.num_steps:
            count = step % config.log_every + 1
            metrics = {name: value / count for name, value in sums.items()}
            sums.clear()
            append_metrics(run.out, {"step": done, **metrics})
            progress(done, config.num_steps, metrics)
        if done % config.save_every == 0 or done == config.num_steps:
            save_state(
                run.out,
                {
                    "model": model.state_dict(),
                    "inverse": run.inverse.state_dict(),
                    "reader": run.reader.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                    "seconds": run.seconds + time.monotonic() - began,
                    "sums": sums,
                    "settings": run.settings,
                },
            )


def look_stage(
    run: Training,
    moments: Moments,
    varied: Moments,
    varied_rows: Int[np.ndarray, " chosen"],
    progress: Progress,
) -> None:
    """Teach the head to give a frame's latent in every look; plain frames keep the latents that they have."""
    config, head = run.config, run.model.head
    targets = all_latents(run.model, moments)
    plain_rows = run.windows(0)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    total, running = config.num_look_steps, 0.0
    for step in range(total):
        rng = np.random.default_rng([config.seed, 5, step])
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup_cosine(step, total)
        plain = plain_rows.sample(config.look_batch_size, rng)[:, 0]
        other = rng.choice(varied_rows, config.look_batch_size)
        latents = head(*joined(moments[plain], varied[other]))
        loss = 2 * F.mse_loss(latents, targets[torch.from_numpy(np.concatenate([plain, other]))])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        running += loss.item()
        if (step + 1) % config.log_every == 0 or step + 1 == total:
            metrics = {"look_stage": running / (step % config.log_every + 1)}
            running = 0.0
            progress(step + 1, total, metrics)


def _window_losses(
    run: Training,
    latents: Float[Tensor, "batch window latent"],
    actions: Float[Tensor, "batch window action"],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Contrast of imagined latents with all that follow, inverse dynamics and anti-collapse of windows.

    Source of the contrast: CPC, arXiv:1807.03748, here with squared distances for similarity. A squared
    rollout error with SIGReg instead resolves a reacher's wrist 20 times worse: harmonics of the shoulder
    alone fill the latent.
    """
    config, model = run.config, run.model
    history = config.model.history
    normalised = model.normalise_actions(actions)
    imagined = model.predictor(latents[:, :history], normalised[:, history - 1 : -1])
    pieces = latents.unfold(1, history + 1, 1).flatten(0, 1).transpose(1, 2)
    acted = normalised[:, history - 1 : -1].flatten(0, 1)
    future = latents[:, history:].flatten(0, 1)
    squared = torch.cdist(imagined.flatten(0, 1), future).square()
    losses = {
        "contrast": F.cross_entropy(-squared, torch.arange(len(future))),
        "inverse": config.inverse_weight * F.mse_loss(run.inverse(pieces), acted),
    }
    if config.sigreg_weight > 0:
        losses["sigreg"] = config.sigreg_weight * sigreg(latents.flatten(0, 1), generator)
    return losses


def _varied(
    run: Training, moments: Moments, progress: Progress
) -> tuple[Moments | None, Int[np.ndarray, " chosen"]]:
    """The rows with the first view in varied looks, and which training rows have them."""
    column = f"{run.config.views[0]}_varied"
    try:
        there: Bool[np.ndarray, " row"] = run.store.rows_with(column)
    except ValueError:
        return None, np.zeros(0, np.int64)
    training = np.zeros(run.store.num_rows, bool)
    for episode in run.train_episodes:
        training[run.store.episode_rows(episode)] = True
    return moments.seen_otherwise(run.tokens(column, progress)), np.flatnonzero(there & training)


def _second_stage(run: Training, latents: Float[Tensor, "row latent"], progress: Progress) -> None:
    """Train the predictor further, on fixed latents and over longer rollouts."""
    config, model = run.config, run.model
    history = config.model.history
    windows = run.windows(config.predictor_rollout_steps)
    torch.manual_seed(config.seed)
    model.predictor = CompactPredictor(config.model, len(model.metadata.action_low))
    parameters = list(model.predictor.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    total, sums = config.num_predictor_steps, 0.0
    for step in range(total):
        rng = np.random.default_rng([config.seed, 3, step])
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup_cosine(step, total)
        rows = torch.from_numpy(windows.sample(config.predictor_batch_size, rng))
        actions = model.normalise_actions(run.actions[rows])[:, history - 1 : -1]
        imagined = model.predictor(latents[rows[:, :history]], actions)
        loss = (imagined - latents[rows[:, history:]]).square().sum(-1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        sums += loss.item()
        if (step + 1) % config.log_every == 0:
            metrics = {"long_rollout": sums / config.log_every}
            sums = 0.0
            append_metrics(run.out, {"step": config.num_steps + step + 1, **metrics})
            progress(step + 1, total, metrics)


@torch.no_grad()
def all_latents(model: CompactWorldModel, moments: Moments) -> Float[Tensor, "row latent"]:
    """The head's latents of every row."""
    return torch.cat([model.head(*block) for block in moments.blocks()])


def metadata_of(store: TrajectoryStore, action: Float[np.ndarray, "row action"]) -> ModelMetadata:
    """What the logs say of their task."""
    known = store.recipes[0]
    for key in ("env", "frame_skip", "image_size"):
        store.setting(key)
    low, high = known.get("action_low"), known.get("action_high")
    if low is None or high is None:
        low, high = np.nanmin(action, axis=0).tolist(), np.nanmax(action, axis=0).tolist()
    return ModelMetadata(
        env_name=str(known["env"]),
        frame_skip=int(known["frame_skip"]),
        control_timestep=float(known.get("control_timestep", 0.0)),
        image_size=int(known["image_size"]),
        camera=str(known.get("camera", "")),
        action_low=[float(v) for v in low],
        action_high=[float(v) for v in high],
    )
