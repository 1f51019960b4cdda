"""Training a predictor over patch tokens on logged trajectories: teacher forcing and rollout, side by side.

Every frame is encoded once and cached. In each clip, every frame is predicted from the true ones before it
(teacher forcing), and a few from imagined ones, with gradients through the recurrence (rollout).

Source: V-JEPA 2-AC, arXiv:2506.09985; DINO-WM, arXiv:2411.04983, which has the first loss alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .calibration import Reached
from .dino_wm import DinoWMConfig, DinoWMPredictor
from .distributed import num_ranks, part_of, process_group, rank
from .encoder import Encoder
from .latent_cache import cached_latents
from .latent_rows import LatentRows
from .stages import OptimiserConfig, Stage, StagedRun, part_in_batch
from .store import TrajectoryStore
from .token_calibration import calibrate_tokens, open_loop
from .token_model import TokenWorldModel
from .token_predictor import TokenPredictor
from .training_logs import metadata_of
from .training_state import Progress, append_metrics, no_progress
from .vjepa2_ac import NextState, VJEPA2ACConfig, VJEPA2ACPredictor, normed

_NORMALISER_FRAMES = 1024


class Family(StrEnum):
    """Kinds of predictors over tokens."""

    vjepa2_ac = "vjepa2_ac"
    dino_wm = "dino_wm"


def _small_vjepa2_ac() -> VJEPA2ACConfig:
    return VJEPA2ACConfig(
        width=192, depth=4, num_heads=3, max_steps=16, next_state=NextState.learned, residual=True
    )


def _small_dino_wm() -> DinoWMConfig:
    return DinoWMConfig(depth=4, num_heads=4, head_dim=64, mlp_width=512)


@dataclass
class TokenTrainConfig(OptimiserConfig):
    """How a predictor over tokens is trained; also what `OptimiserConfig` says.

    Attributes:
        family: which of the two is trained.
        vjepa2_ac: its sizes; small ones. Token, action and proprio numbers are those of encoder and logs.
        dino_wm: likewise.
        use_proprio: condition on the logs' proprio; a robot must then send it.
        history: true frames before the first imagined one, in the rollout loss and in planning.
        clip_steps: frames a clip.
        rollout_steps: imagined frames of the rollout loss.
        rollout_weight: of the rollout loss; teacher forcing has 1.
        proprio_weight: of the error of imagined proprio, where it is learned.
        num_steps: optimiser steps.
        batch_size: clips a step.
        judge_every: steps from one open-loop error on held-out episodes to the next, ...
        patience: ... so many of which without a better one end the training; 0 never ends it early.
        held_out: fraction of episodes kept for validation.
    """

    family: Family = Family.vjepa2_ac
    vjepa2_ac: VJEPA2ACConfig = field(default_factory=_small_vjepa2_ac)
    dino_wm: DinoWMConfig = field(default_factory=_small_dino_wm)
    use_proprio: bool = False
    history: int = 3
    clip_steps: int = 8
    rollout_steps: int = 2
    rollout_weight: float = 1.0
    proprio_weight: float = 0.1
    num_steps: int = 5000
    batch_size: int = 16
    learning_rate: float = 4e-4
    weight_decay: float = 0.04
    judge_every: int = 500
    patience: int = 0
    held_out: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        for name in ("history", "rollout_steps", "num_steps", "batch_size", "judge_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.patience < 0:
            raise ValueError(f"patience must be at least 0, got {self.patience}")
        self.check_batch("batch_size", self.batch_size)
        if self.compile:
            raise ValueError(
                "compile=true is for the compact predictor; these keep keys and values as they go"
            )
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out}")
        if self.clip_steps < self.history + self.rollout_steps:
            raise ValueError(
                f"clip_steps {self.clip_steps} are too few for history {self.history} and "
                f"rollout_steps {self.rollout_steps}; give at least {self.history + self.rollout_steps}"
            )
        if self.clip_steps - 1 > self.sizes.max_steps:
            raise ValueError(
                f"clip_steps {self.clip_steps} are too many for max_steps {self.sizes.max_steps}; "
                f"give at most {self.sizes.max_steps + 1}"
            )

    @property
    def sizes(self) -> VJEPA2ACConfig | DinoWMConfig:
        """Those of the family that is trained."""
        return self.vjepa2_ac if self.family is Family.vjepa2_ac else self.dino_wm


def check_token_logs(store: TrajectoryStore, config: TokenTrainConfig) -> None:
    """Refuse logs that cannot be trained on.

    Raises:
        ValueError: a column or a setting is missing, or episodes are too few or too short.
    """
    for column in ("pixels", "action", *(["proprio"] if config.use_proprio else [])):
        if not store.rows_with(column).all():
            raise ValueError(f"some of the logs have no column {column!r}; all of them need it")
    for key in ("env", "frame_skip", "image_size"):
        store.setting(key)
    train, held = store.split(config.held_out, config.seed)
    store.windows(config.history, config.clip_steps - config.history, episodes=train)
    store.windows(config.history, 1, episodes=held)


def make_token_model(store: TrajectoryStore, encoder: Encoder, config: TokenTrainConfig) -> TokenWorldModel:
    """A model with random weights, for these logs and this encoder."""
    action = store.read("action")
    metadata = metadata_of(store, action)
    sizes = replace(
        config.sizes,
        token_dim=encoder.width,
        grid_size=encoder.grid_size,
        action_dim=action.shape[1],
        state_dim=store.columns["proprio"].shape[0] if config.use_proprio else 0,
    )
    torch.manual_seed(config.seed)
    predictor: TokenPredictor
    predictor = VJEPA2ACPredictor(sizes) if isinstance(sizes, VJEPA2ACConfig) else DinoWMPredictor(sizes)
    return TokenWorldModel(encoder, predictor, metadata, history=config.history)


def train_token_model(
    store: TrajectoryStore,
    encoder: Encoder,
    out: Path,
    config: TokenTrainConfig,
    *,
    resume: bool = False,
    with_encoder: bool = True,
    reached: Reached | None = None,
    record: dict[str, Any] | None = None,
    on_stage: Callable[[str], None] = lambda name: None,
    progress: Progress = no_progress,
    device: str = "cpu",
) -> TokenWorldModel:
    """Train a predictor and write the model, its metrics and its training state into `out`.

    A stopped run resumes to the same weights as an uninterrupted one. Started by torchrun on several
    processes, each goes through its part of every batch, and the first one writes.

    Args:
        store: the logs; of one task, in one frame skip.
        encoder: frozen.
        out: the run's folder.
        config: family, sizes, steps and weights.
        resume: go on from `out`'s last checkpoint.
        with_encoder: copy the encoder into the checkpoint.
        reached: judges pairs of true states, to calibrate the model's own judgement.
        record: what else the checkpoint shall say of its making, as JSON.
        on_stage: told the name of each stage when it begins.
        progress: told how far the stage is.
        device: where the predictor trains.

    Raises:
        ValueError: the data lacks a column or a setting, or `out` holds another run.
    """
    with process_group(torch.device(device)):
        model = make_token_model(store, encoder, config)
        train, held = store.split(config.held_out, config.seed)
        settings = {**asdict(config), "data": store.fingerprint, "encoder": encoder.fingerprint}
        if rank() == 0:
            out.mkdir(parents=True, exist_ok=True)
        on_stage("encoding frames")
        tokens = cached_latents(encoder, store, progress=lambda done, total: progress(done, total, {}))
        clips = Clips(store, tokens, config)
        clips.fit_normalisers(model.predictor, train)
        model.predictor.to(device)
        run = StagedRun(out, model, config, settings, device, progress)
        if resume:
            run.resume()
        on_stage("predictor")
        run.train(_predictor_stage(model, clips, store, config, device, train, held))
        on_stage("calibration")
        model = model.to(device).eval().requires_grad_(False)
        calibrate_tokens(model, tokens, clips.actions, clips.states, store, train, held, reached)
        model.metadata.training = {
            "config": asdict(config),
            "data": store.recipes,
            "data_fingerprint": store.fingerprint,
            "episodes": {"train": len(train), "held_out": len(held)},
            "processes": num_ranks(),
            "seconds": round(run.seconds, 1),
            **model.metadata.training,
            **(record or {}),
        }
        if rank() == 0:
            model.save(out, with_encoder=with_encoder)
            append_metrics(
                out, {"step": run.first_step, "open_loop_error": model.metadata.open_loop_error[-1]}
            )
        return model


def _predictor_stage(
    model: TokenWorldModel,
    clips: Clips,
    store: TrajectoryStore,
    config: TokenTrainConfig,
    device: str,
    train: Int[np.ndarray, " train"],
    held: Int[np.ndarray, " held"],
) -> Stage:
    """The one stage."""
    windows = store.windows(config.history, config.clip_steps - config.history, episodes=train)

    def losses(step: int, part: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([config.seed, 2, step])
        drawn = windows.sample(config.batch_size, rng)[
            part_in_batch(config.batch_size, config.accumulate, part)
        ]
        return token_losses(model.predictor, config, *clips.read(drawn[part_of(len(drawn))], device))

    def held_out_error() -> float:
        errors = open_loop(model, clips.tokens, clips.actions, clips.states, store, held)
        return errors["imagined"][-1]

    return Stage(
        "predictor",
        {"predictor": model.predictor},
        losses,
        config.num_steps,
        config.learning_rate,
        config.weight_decay,
        clip_norm=config.clip_norm,
        log_every=config.log_every,
        judged=held_out_error,
        judge_every=config.judge_every,
        patience=config.patience,
    )


class Clips:
    """Reads clips of tokens, actions and proprio."""

    def __init__(
        self,
        store: TrajectoryStore,
        tokens: Float[LatentRows | np.ndarray, "row token dim"],
        config: TokenTrainConfig,
    ) -> None:
        """Read the numbers; tokens stay on disk."""
        self.store, self.seed = store, config.seed
        self.tokens = tokens
        self.actions = torch.from_numpy(np.nan_to_num(store.read("action")).astype(np.float32))
        self.states: Tensor | None = None
        if config.use_proprio:
            self.states = torch.from_numpy(store.read("proprio").astype(np.float32))

    def fit_normalisers(self, predictor: TokenPredictor, episodes: Int[np.ndarray, " chosen"]) -> None:
        """Give the predictor the mean and std of these episodes; of tokens, those of some frames."""
        rows = np.concatenate(
            [np.arange(self.store.num_rows)[self.store.episode_rows(e)][:-1] for e in episodes]
        )
        some = np.sort(np.random.default_rng([self.seed, 1]).permutation(rows)[:_NORMALISER_FRAMES])
        seen = normed(torch.from_numpy(self.tokens[some]).float())
        predictor.fit_normalisers(
            seen, self.actions[rows], None if self.states is None else self.states[rows]
        )

    def read(self, rows: np.ndarray, device: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Layer-normed tokens (B, T, P, D) of rows (B, T), the T - 1 actions between them, and proprio."""
        tokens = normed(torch.from_numpy(self.tokens[rows]).to(device).float())
        index = torch.from_numpy(rows)
        states = None if self.states is None else self.states[index].to(device)
        return tokens, self.actions[index[:, :-1]].to(device), states


def token_losses(
    predictor: TokenPredictor,
    config: TokenTrainConfig,
    tokens: Float[Tensor, "batch frame token dim"],
    actions: Float[Tensor, "batch action_step action"],
    states: Float[Tensor, "batch frame state"] | None,
) -> dict[str, Tensor]:
    """Teacher forcing, rollout and, with proprio, the error of what is imagined of it."""
    codes = None if states is None else predictor.code(states)
    past = None if codes is None else codes[:, :-1]
    following, next_codes = predictor.advance(tokens[:, :-1], actions, past)
    losses = {"teacher_forcing": predictor.token_loss(following, tokens[:, 1:])}
    history, steps = config.history, config.rollout_steps
    if config.rollout_weight > 0:
        seen = None if states is None else states[:, :history]
        plan = actions[:, history - 1 : history - 1 + steps].unsqueeze(1)
        imagined, _ = predictor.imagine(tokens[:, :history], actions[:, : history - 1], seen, plan)
        error = predictor.token_loss(imagined[:, 0], tokens[:, history : history + steps])
        losses["rollout"] = config.rollout_weight * error
    if next_codes is not None and states is not None:
        losses["proprio"] = config.proprio_weight * predictor.code_loss(next_codes, states[:, 1:])
    return losses
