"""The first stages of a training: the state head, with a predictor of its own; then other looks."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .compact import CompactConfig, CompactWorldModel, StateHead
from .compact_predictors import make_predictor
from .distributed import gathered, part_of
from .losses import curvature, sigreg, vicreg
from .moments import Moments, joined, partly_hidden
from .stages import Stage, part_in_batch
from .train_config import TrainConfig
from .training_logs import TrainingLogs

FITTED_FRAMES = 2048
"""Frames that the statistics of tokens are taken from."""


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


class FrameReader(nn.Module):
    """What a frame shows, from its latent; used in training only.

    Rollout error and inverse dynamics alone leave out of the latent what is hard to see or to move, and a
    contrast what other things give away already, such as the turn of an object whose place is never the same
    twice. So the latent must also tell where the frame's tokens are along their leading principal axes over
    all frames, of which each counts alike: what is small is told as well as what is large.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, config: CompactConfig, num_tokens: int, token_width: int, num_axes: int) -> None:
        """Build for latents of `config`; `fit` takes the axes."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_tokens * token_width))
        self.register_buffer("axes", torch.zeros(num_tokens * token_width, num_axes))
        width = config.head_width
        self.net = nn.Sequential(
            nn.Linear(config.latent_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, num_axes),
        )  # fmt: skip

    @torch.no_grad()
    def fit(self, tokens: Float[Tensor, "frame token dim"]) -> None:
        """Take the axes of frames of standardised tokens; places along them have unit variance."""
        rows = tokens.flatten(1)
        self.mean.copy_(rows.mean(dim=0))
        _, values, axes = torch.linalg.svd(rows - self.mean, full_matrices=False)
        there = min(self.axes.shape[1], int((values > 1e-4 * values[0]).sum()))
        self.axes[:, :there] = axes[:there].T / values[:there] * len(rows) ** 0.5

    @torch.no_grad()
    def targets(self, tokens: Float[Tensor, "frame token dim"]) -> Float[Tensor, "frame axis"]:
        """Where frames of standardised tokens are along the axes."""
        return (tokens.flatten(1) - self.mean) @ self.axes

    def forward(self, latents: Float[Tensor, "frame latent"]) -> Float[Tensor, "frame axis"]:
        """Where frames are along the axes, as their latents tell."""
        return self.net(latents)


class HeadStage:
    """Head and predictor together: losses of windows, told apart by name.

    The head sees this process's share of the windows; what it gives is gathered, so that every process
    contrasts the whole batch.
    """

    def __init__(
        self,
        logs: TrainingLogs,
        model: CompactWorldModel,
        moments: Moments,
        varied: Moments | None,
        varied_rows: Int[np.ndarray, " chosen"],
    ) -> None:
        """Build what is trained beside the model, and thrown away after."""
        self.logs, self.model, self.moments = logs, model, moments
        self.varied, self.varied_rows = varied, varied_rows
        config, encoder = logs.config, logs.encoder
        self.predictor, sizes = model.predictor, config.model
        if sizes.keypoints:  # all coordinates are trained here; what latents keep of them is not known yet
            sizes = replace(sizes, latent_dim=sizes.coordinates)
            self.predictor = make_predictor(sizes, logs.actions.shape[1], model.metadata.proprio_dim)
        self.inverse = InverseDynamics(sizes, logs.actions.shape[1])
        self.reader = FrameReader(
            sizes, encoder.grid_size**2, len(config.views) * encoder.width, config.token_axes
        )
        for module in (self.predictor, self.inverse, self.reader):
            module.to(logs.device)
        self.windows = logs.windows(config.rollout_steps)

    def stage(self, *, keep_scale: bool = False, resumed: bool = False) -> Stage:
        """The stage; at its end latents are scaled to unit variance, unless their scale is kept.

        The reader's axes are taken first, unless the stage is resumed: then its checkpoint has them.
        """
        model, config = self.model, self.logs.config
        if not resumed:
            tokens, _ = self.moments[self.logs.some_rows(FITTED_FRAMES)]
            self.reader.fit(model.head.standardise(tokens))
        modules = {
            "head": model.head, "predictor": self.predictor, "inverse": self.inverse, "reader": self.reader
        }  # fmt: skip

        def fit_scale() -> None:
            if not keep_scale:
                model.head.fit_scale(all_raw(model.head, self.moments))

        return Stage(
            "head",
            modules,
            self.losses,
            config.num_steps,
            config.learning_rate,
            config.weight_decay,
            clip_norm=config.clip_norm,
            log_every=config.log_every,
            ended=fit_scale,
        )

    def losses(self, step: int, part: int) -> dict[str, Tensor]:
        """Losses of a part of a step's batch."""
        config, head = self.logs.config, self.model.head
        rng = np.random.default_rng([config.seed, 2, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)) + part)
        rows = self.windows.sample(config.batch_size, rng)[
            part_in_batch(config.batch_size, config.accumulate, part)
        ]
        share = part_of(len(rows))
        tokens, felt = self.moments[rows[share]]
        tokens = partly_hidden(tokens, len(config.views), config.hide_rate, generator, len(rows), share)
        latents = gathered(head.raw(tokens, felt))
        losses = window_losses(
            self.predictor,
            self.inverse,
            latents,
            self.model.normalise_actions(self.logs.actions[torch.from_numpy(rows)]),
            config,
            generator,
        )
        read = torch.randperm(rows.size, generator=generator)[: config.token_frames // config.accumulate]
        told = self.reader(latents[..., : head.coordinates].flatten(0, 1)[read])
        there = head.standardise(self.moments[rows.reshape(-1)[read.numpy()]][0])
        losses["tokens"] = config.token_weight * F.mse_loss(told, self.reader.targets(there))
        if self.varied is not None and len(self.varied_rows) and config.look_weight > 0:
            chosen = rng.choice(self.varied_rows, config.look_frames)
            chosen = chosen[part_in_batch(config.look_frames, config.accumulate, part)]
            chosen = chosen[part_of(len(chosen))]
            both = head.raw(*joined(self.moments[chosen], self.varied[chosen]))
            plain, other = both[:, : head.coordinates].chunk(2)
            plain, other = gathered(plain.detach()), gathered(other)
            losses["look"] = config.look_weight * F.mse_loss(other, plain) / plain.var(dim=0).mean()
        return losses


def window_losses(
    predictor: nn.Module,
    inverse: nn.Module,
    latents: Float[Tensor, "batch window latent"],
    actions: Float[Tensor, "batch window action"],
    config: TrainConfig,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """What windows of latents and normalised actions say, of each loss that has a weight.

    Source of the contrast: CPC, arXiv:1807.03748, here with squared distances for similarity. A squared
    rollout error with SIGReg instead resolves a reacher's wrist 20 times worse: harmonics of the shoulder
    alone fill the latent. Source of variance, covariance and similarity: VICReg, arXiv:2105.04906, as PLDM,
    arXiv:2502.14819, uses them. What is felt, which follows in `latents` what is shown, helps to predict; the
    losses are of what is shown.
    """
    history = config.model.history
    imagined = predictor(latents[:, :history], actions[:, history - 1 : -1]).float()
    latents, imagined = (each[..., : config.model.coordinates] for each in (latents, imagined))
    future = latents[:, history:].float()
    losses: dict[str, Tensor] = {}
    if config.contrast_weight > 0:
        squared = torch.cdist(imagined.flatten(0, 1), future.flatten(0, 1)).square()
        contrast = F.cross_entropy(-squared, torch.arange(len(squared), device=squared.device))
        losses["contrast"] = config.contrast_weight * contrast
    if config.rollout_weight > 0:
        there = future.detach() if config.stop_gradient else future
        losses["rollout"] = config.rollout_weight * F.mse_loss(imagined, there)
    if config.inverse_weight > 0:
        pieces = latents.unfold(1, history + 1, 1).flatten(0, 1).transpose(1, 2)
        acted = actions[:, history - 1 : -1].flatten(0, 1)
        losses["inverse"] = config.inverse_weight * F.mse_loss(inverse(pieces), acted)
    if config.sigreg_weight > 0:
        losses["sigreg"] = config.sigreg_weight * sigreg(latents.flatten(0, 1), generator)
    if config.variance_weight > 0 or config.covariance_weight > 0:
        variance, covariance = vicreg(latents.flatten(0, 1))
        losses["variance"] = config.variance_weight * variance
        losses["covariance"] = config.covariance_weight * covariance
    if config.similarity_weight > 0:
        changes = latents[:, 1:] - latents[:, :-1]
        losses["similarity"] = config.similarity_weight * changes.square().mean()
    if config.straightening_weight > 0:
        losses["straightening"] = config.straightening_weight * curvature(latents)
    return losses


def look_stage(
    logs: TrainingLogs,
    model: CompactWorldModel,
    moments: Moments,
    varied: Moments,
    varied_rows: Int[np.ndarray, " chosen"],
) -> Stage:
    """Teach the head to give a frame's latent in every look; plain frames keep the latents that they have."""
    config, head = logs.config, model.head
    teacher = copy.deepcopy(head).requires_grad_(False)
    plain_rows = logs.windows(0)
    known: list[Tensor] = []  # of the teacher, which a resumed run first reads

    def losses(step: int, part: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([config.seed, 5, step])
        plain = plain_rows.sample(config.look_batch_size, rng)[:, 0]
        other = rng.choice(varied_rows, config.look_batch_size)
        chosen = part_in_batch(config.look_batch_size, config.accumulate, part)
        plain, other = plain[chosen], other[chosen]
        share = part_of(len(plain))
        plain, other = plain[share], other[share]
        if not known:
            known.append(all_latents(teacher, moments))
        targets = known[0][torch.from_numpy(np.concatenate([plain, other]))]
        latents = head(*joined(moments[plain], varied[other]))
        return {"look_stage": 2 * F.mse_loss(model.shown(latents), model.shown(targets))}

    return Stage(
        "looks",
        {"head": head},
        losses,
        config.num_look_steps,
        config.learning_rate,
        config.weight_decay,
        clip_norm=config.clip_norm,
        log_every=config.log_every,
        kept={"teacher": teacher},
    )


@torch.no_grad()
def all_raw(head: StateHead, moments: Moments) -> Float[Tensor, "row number"]:
    """What latents of every row are made of."""
    return torch.cat([head.raw(*block) for block in moments.blocks()])


@torch.no_grad()
def all_latents(head: StateHead, moments: Moments) -> Float[Tensor, "row latent"]:
    """The latents of every row."""
    return torch.cat([head(*block) for block in moments.blocks()])
