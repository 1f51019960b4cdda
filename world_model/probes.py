"""Probes: how much of the true state can be read off a frozen encoder's tokens, and from how few labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .encoder import Encoder, Frames
from .store import TrajectoryStore

Features = Float[Tensor, "sample feature"]
Targets = Float[Tensor, "sample target"]
Groups = Int[Tensor, " sample"]


class Probe(Protocol):
    """What was fitted to labelled features."""

    def __call__(self, features: Features) -> Targets:
        """Predict."""
        ...


def pool_tokens(
    tokens: Float[Tensor, "batch token dim"], grid_size: int, pool_size: int
) -> Float[Tensor, "batch feature"]:
    """Tokens averaged onto a grid of `pool_size`, time by time, in one row a clip.

    So that encoders of different grids are read in the same layout. A grid that is coarser stays as it is.
    """
    size = min(grid_size, pool_size)
    maps = tokens.unflatten(1, (-1, grid_size, grid_size)).permute(0, 1, 4, 2, 3)
    return F.adaptive_avg_pool2d(maps.flatten(0, 1), size).reshape(len(tokens), -1)


def clip_features(
    encoder: Encoder, clips: Frames, pool_size: int = 4, batch_size: int = 32
) -> Float[Tensor, "clip feature"]:
    """Pooled tokens of clips (B, T, H, W, 3) uint8, on the CPU.

    An encoder of clips sees a clip at once; an image encoder gives each frame's tokens.
    """
    rows = []
    for start in range(0, len(clips), batch_size):
        tokens = encoder(encoder.preprocess(clips[start : start + batch_size]))
        rows.append(pool_tokens(tokens, encoder.grid_size, pool_size).cpu())
    return torch.cat(rows)


def labelled_clips(
    store: TrajectoryStore,
    label: Callable[[Float[np.ndarray, "clip state"]], Float[np.ndarray, "clip target"]],
    num_clips: int,
    *,
    frames: int = 2,
    column: str = "pixels",
    state: str = "state",
    episodes: Int[np.ndarray, " chosen"] | None = None,
    seed: int = 0,
) -> tuple[Frames, Targets, Groups]:
    """Different clips of consecutive frames, with what `label` makes of the last frame's true state.

    Returns:
        the clips, their labels, and the episode of each: neighbours in time are no independent samples, and
        a probe that is told will not be fooled by them.

    Raises:
        ValueError: the data lacks a column, no episode is long enough, or there are not as many clips.
    """
    windows = store.windows(frames, 0, episodes=episodes)
    if num_clips > len(windows):
        raise ValueError(
            f"{num_clips} clips are wanted, and there are {len(windows)}: ask for fewer, or log more"
        )
    chosen = np.random.default_rng([seed, frames]).choice(len(windows), num_clips, replace=False)
    rows = windows.rows(np.sort(chosen))
    targets = label(store.read(state, rows[:, -1]))
    groups = np.searchsorted(store.offsets, rows[:, 0], side="right") - 1
    return (
        store.read_windows(column, rows),
        torch.as_tensor(targets, dtype=torch.float32),
        torch.as_tensor(groups, dtype=torch.int64),
    )


class LinearProbe:
    """Ridge regression; each target's penalty has the least error on left-out groups, in closed form.

    What a group's residuals would be without it: (I - H)^-1 r, with its block H of the hat matrix.
    """

    def __init__(self, features: Features, targets: Targets, groups: Groups | None = None) -> None:
        """Fit; without `groups` each sample is its own."""
        axes = PrincipalAxes(features)
        self._mean, self._offset = axes.mean, targets.mean(dim=0)
        # In double precision: where a fit is close, what is left out is a ratio of two tiny numbers.
        left, values = axes.left.double(), axes.values.double()
        centred = (targets - self._offset).double()
        penalties = values.max().clamp(min=1e-12) * torch.logspace(-8, 1, 28, dtype=torch.float64)
        along = left.T @ centred
        errors = []
        for penalty in penalties:
            shrink = values / (values + penalty)
            residual = centred - left @ (shrink[:, None] * along)
            errors.append(_left_out(left, shrink, residual, groups).square().mean(dim=0))
        best = penalties[torch.stack(errors).argmin(dim=0)]
        dual = (left @ (along / (values[:, None] + best))).float()
        self._weight = (features - axes.mean).T @ dual

    def __call__(self, features: Features) -> Targets:
        """Predict."""
        return (features - self._mean) @ self._weight + self._offset


def _left_out(
    left: Float[Tensor, "sample component"],
    shrink: Float[Tensor, " component"],
    residual: Targets,
    groups: Groups | None,
) -> Targets:
    """Residuals of each group as if it had not been fitted to."""
    if groups is None:
        leverage = left.square() @ shrink + 1 / len(left)
        return residual / (1 - leverage).clamp(min=1e-12)[:, None]
    out = torch.empty_like(residual)
    for group in groups.unique():
        rows = groups == group
        block = (left[rows] * shrink) @ left[rows].T + 1 / len(left)
        keep = torch.eye(len(block), dtype=block.dtype) * (1 + 1e-12) - block
        out[rows] = torch.linalg.solve(keep, residual[rows])
    return out


@dataclass
class MLPProbeConfig:
    """Sizes and training of a small non-linear probe.

    Attributes:
        num_components: principal components of the features that it sees.
        hidden: width of its two hidden layers.
        num_steps: optimiser steps.
        batch_size: labels a step.
        learning_rate: peak of AdamW's, which falls to 0 as half a cosine.
        weight_decay: AdamW's.
        seed: of weights and batches.
    """

    num_components: int = 256
    hidden: int = 128
    num_steps: int = 1200
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0


class MLPProbe:
    """Two hidden layers on the leading principal components; a tenth of the groups says when to stop."""

    def __init__(
        self,
        features: Features,
        targets: Targets,
        groups: Groups | None = None,
        config: MLPProbeConfig | None = None,
    ) -> None:
        """Fit; without `groups` each sample is its own."""
        config = config or MLPProbeConfig()
        axes = PrincipalAxes(features)
        kept = min(config.num_components, axes.left.shape[1], max(2, len(features) // 3))
        std = (axes.values[:kept] / len(features)).sqrt()
        scale = 1 / (std + 0.01 * std[0])  # white, but for directions that hardly vary at all
        back = axes.left[:, :kept] / axes.values[:kept].sqrt().clamp(min=1e-12)
        self._mean, self._axes = axes.mean, (features - axes.mean).T @ back * scale
        self._offset, self._spread = targets.mean(dim=0), targets.std(dim=0).clamp(min=1e-6)
        generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._net = nn.Sequential(
                nn.Linear(kept, config.hidden),
                nn.GELU(),
                nn.Linear(config.hidden, config.hidden),
                nn.GELU(),
                nn.Linear(config.hidden, targets.shape[1]),
            )
        inputs = (features - axes.mean) @ self._axes
        wanted = (targets - self._offset) / self._spread
        own = torch.arange(len(inputs)) if groups is None else groups
        names, of_sample = own.unique(return_inverse=True)
        drawn = torch.randperm(len(names), generator=generator)[: max(1, len(names) // 10)]
        left_out = torch.isin(of_sample, drawn)
        held, train = left_out.nonzero()[:, 0], (~left_out).nonzero()[:, 0]
        with torch.enable_grad():
            self._train(inputs, wanted, train, held, config, generator)

    def _train(
        self,
        inputs: Float[Tensor, "sample component"],
        wanted: Targets,
        train: Int[Tensor, " train"],
        held: Int[Tensor, " held"],
        config: MLPProbeConfig,
        generator: torch.Generator,
    ) -> None:
        """Keep the weights of the least held-out error."""
        optimizer = torch.optim.AdamW(
            self._net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
        least, best = float("inf"), self._net.state_dict()
        for step in range(config.num_steps):
            batch = train[torch.randint(len(train), (config.batch_size,), generator=generator)]
            loss = F.mse_loss(self._net(inputs[batch]), wanted[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 50 == 49 or step == config.num_steps - 1:
                with torch.no_grad():
                    error = float(F.mse_loss(self._net(inputs[held]), wanted[held]))
                if error < least:
                    least = error
                    best = {name: tensor.clone() for name, tensor in self._net.state_dict().items()}
        self._net.load_state_dict(best)
        with torch.no_grad():  # what the left-out groups do not bear out is shrunk towards the mean
            said, true = self._net(inputs[held]), wanted[held]
            along = (said * true).mean(dim=0) / said.square().mean(dim=0).clamp(min=1e-12)
            self._spread = self._spread * along.clamp(0, 1)

    @torch.no_grad()
    def __call__(self, features: Features) -> Targets:
        """Predict."""
        return self._net((features - self._mean) @ self._axes) * self._spread + self._offset


class PrincipalAxes:
    """The principal axes of centred features, by their smaller Gram matrix.

    Attributes:
        mean: of the features.
        values: squared singular values, largest first; what is next to nothing is left out.
        left: left singular vectors.
    """

    def __init__(self, features: Features) -> None:
        """Decompose."""
        self.mean = features.mean(dim=0)
        centred = features - self.mean
        if len(centred) <= centred.shape[1]:
            values, left = torch.linalg.eigh((centred @ centred.T).double())
        else:
            values, right = torch.linalg.eigh((centred.T @ centred).double())
            left = centred.double() @ right / values.clamp(min=1e-30).sqrt()
        kept = values > values.max().clamp(min=1e-20) * 1e-7
        self.values: Float[Tensor, " component"] = values[kept].flip(0).float()
        self.left: Float[Tensor, "sample component"] = left[:, kept].flip(1).float()


def explained(predicted: Targets, targets: Targets) -> Float[Tensor, " target"]:
    """R^2 of each target: 1 is exact, 0 no better than the mean of `targets`, below 0 worse."""
    return 1 - (predicted - targets).square().mean(dim=0) / targets.var(dim=0, correction=0).clamp(min=1e-12)


def probe_scores(
    features: Features,
    targets: Targets,
    tests: Mapping[str, tuple[Tensor, Tensor]],
    *,
    kinds: tuple[str, ...] = ("linear", "mlp"),
    groups: Groups | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Fit probes and score them on other features and targets: {kind: {test: R^2 of each target}}.

    Args:
        features: to fit to, of `clip_features`.
        targets: their labels.
        tests: features and targets to score on, by name.
        kinds: of probes: "linear", "mlp".
        groups: which samples belong together (episodes), so that none vouches for its neighbour.

    Raises:
        ValueError: an unknown kind of probe, or shapes that do not go together.
    """
    makers: dict[str, Callable[[Features, Targets, Groups | None], Probe]] = {
        "linear": LinearProbe,
        "mlp": MLPProbe,
    }
    if unknown := [kind for kind in kinds if kind not in makers]:
        raise ValueError(f"Unknown probe {unknown[0]!r}. Known probes: {', '.join(makers)}")
    if len(features) != len(targets) or len(features) < 10:
        raise ValueError(
            f"probes need features and targets of the same samples, at least 10; "
            f"got {len(features)} and {len(targets)}"
        )
    scores: dict[str, dict[str, list[float]]] = {}
    for kind in kinds:
        probe = makers[kind](features, targets, groups)
        scores[kind] = {name: explained(probe(x), y).tolist() for name, (x, y) in tests.items()}
    return scores
