"""Surprise: from 0 to 1, how unlike what the model imagined it is that which happened.

At each model step the latent that is seen is compared with those that were imagined for it 1, 2, 4 and 8
model steps before, under the actions that were executed since. One step alone tells little: a doubled mass
changes a frame's latent by less than the encoder's own noise, and what it changes adds up.

Errors grow with motion, so each is judged by what is usual at the motion that was seen: by how many spreads
the log of the error lies above the one fitted on held-out episodes. The largest of these, averaged over the
last few model steps, is the score; its rank among the scores of held-out episodes is the surprise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .protocol import WorldModel

HORIZONS = (1, 2, 4, 8)
"""Model steps before which the latents were imagined that a seen one is compared with."""
RANKS = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995)
"""At which the scores of held-out episodes are kept; beyond the last one they are extrapolated."""
_TAIL_FROM = 0.9
_LEAST_ERROR = 1e-12
_RAREST = 1e-6
_LEAST_VARIANCE = 1e-9
_FLOOR = 0.1
"""Of the usual motion: slower ones are all taken for rest."""


@dataclass
class SurpriseCalibration:
    """What is usual on held-out episodes.

    Attributes:
        horizons: model steps before which a latent was imagined.
        scale: usual error of each latent dimension, one model step ahead.
        motion_floor: motion [latent units a model step] that is added to what was seen.
        expected: for each horizon the constant and the slope of the log of the squared error over the log of
            the motion.
        spread: for each horizon the standard deviation of the log of the squared error about that.
        scores: the running score at `RANKS`.
        memory: how much of the running score a model step leaves of the one before.
    """

    horizons: list[int]
    scale: list[float]
    motion_floor: float
    expected: list[list[float]]
    spread: list[float]
    scores: list[float]
    memory: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a damaged one."""
        if not len(self.horizons) == len(self.expected) == len(self.spread) > 0:
            raise ValueError("the calibration of surprise has not one entry a horizon")
        if not self.scale or len(self.scores) != len(RANKS):
            raise ValueError("the calibration of surprise has no scale or not one score a rank")

    def rank(self, score: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        """The part of held-out moments with a lower score; the tail is that of an exponential."""
        known, ranks = np.asarray(self.scores, np.float64), np.asarray(RANKS)
        values = score.double().cpu().numpy()
        inside = np.interp(values, known, ranks)
        first, last = RANKS.index(_TAIL_FROM), len(RANKS) - 1
        decay = np.log((1 - ranks[first]) / (1 - ranks[last])) / max(known[last] - known[first], 1e-9)
        beyond = 1 - np.maximum(
            (1 - ranks[last]) * np.exp(-decay * np.maximum(values - known[last], 0.0)), _RAREST
        )
        below = ranks[0] * np.exp(np.minimum(values - known[0], 0.0))
        found = np.where(values > known[last], beyond, np.where(values < known[0], below, inside))
        return torch.from_numpy(found).float()


class SurpriseMonitor:
    """Watches batch rows, each an episode of its own, model step by model step.

    Args:
        model: whose imagination is judged.
        calibration: what is usual for it.

    Attributes:
        surprise: (B,) of the newest model step of each row; 0 as long as an episode is too young to tell.
        score: (B,) what it is the rank of; NaN as long as an episode is too young to tell.
    """

    def __init__(self, model: WorldModel, calibration: SurpriseCalibration) -> None:
        self._calibration = calibration
        self._errors = ImaginationErrors(model, tuple(calibration.horizons))
        self._scale = torch.tensor(calibration.scale)
        self.surprise = torch.zeros(0)
        self.score = torch.zeros(0)

    def restart(self, rows: Int[Tensor, " row"], batch_size: int) -> None:
        """Begin new episodes in some rows of a batch of `batch_size`."""
        self._errors.restart(rows, batch_size)
        if len(self.surprise) != batch_size:
            self.surprise, self.score = torch.zeros(batch_size), torch.full((batch_size,), torch.nan)
        self.surprise[rows], self.score[rows] = 0.0, torch.nan

    def observe(
        self,
        rows: Int[Tensor, " row"],
        latents: Float[Tensor, "row latent"],
        executed: Float[Tensor, "row action"],
    ) -> None:
        """Judge the latents seen now in some rows.

        Args:
            rows: of the batch.
            latents: what is seen, one model step after the call before.
            executed: the actions in env units that led there; NaN where nobody knows, as at the beginning.
        """
        errors, motion = self._errors.observe(rows, latents, executed)
        deviation = deviations(errors, motion, self._calibration, self._scale.to(errors))
        found = deviation.nan_to_num(nan=-torch.inf).amax(dim=1).cpu()
        known, found = found.isfinite(), found.clamp(min=0.0)  # no credit for a quiet moment
        before = self.score[rows]
        memory = self._calibration.memory
        running = torch.where(before.isnan(), found, memory * before + (1 - memory) * found)
        self.score[rows] = torch.where(known, running, before)
        self.surprise[rows] = torch.where(known, self._calibration.rank(running), self.surprise[rows])


class ImaginationErrors:
    """Differences of seen latents from those imagined some model steps before, for rows of a batch.

    A horizon counts once the whole context of its imagination was seen.
    """

    def __init__(self, model: WorldModel, horizons: tuple[int, ...] = HORIZONS) -> None:
        """Remember nothing yet."""
        self._model, self._horizons = model, horizons
        self._length = max(horizons) + int(model.history)
        self._latents, self._actions = torch.zeros(0), torch.zeros(0)
        self._seen = torch.zeros(0, dtype=torch.long)

    def restart(self, rows: Int[Tensor, " row"], batch_size: int) -> None:
        """Forget some rows of a batch of `batch_size`."""
        if len(self._seen) != batch_size:
            self._latents, self._actions = torch.zeros(0), torch.zeros(0)
            self._seen = torch.zeros(batch_size, dtype=torch.long)
        self._seen[rows] = 0

    @torch.no_grad()
    def observe(
        self,
        rows: Int[Tensor, " row"],
        latents: Float[Tensor, "row latent"],
        executed: Float[Tensor, "row action"],
    ) -> tuple[Float[Tensor, "row horizon latent"], Float[Tensor, "row horizon"]]:
        """Errors, and mean motion [latent units a model step] since each context began; NaN where unknown."""
        batch, length = len(self._seen), self._length
        if self._latents.numel() == 0:
            self._latents = latents.new_zeros(batch, length, latents.shape[1])
            self._actions = latents.new_full((batch, length, executed.shape[1]), torch.nan)
        for memory, entry in ((self._latents, latents), (self._actions, executed.to(latents))):
            memory[rows] = torch.cat([memory[rows, 1:], entry.unsqueeze(1)], dim=1)
        self._seen[rows] += 1
        past, acted, history = self._latents[rows], self._actions[rows], int(self._model.history)
        longest = max(self._horizons)
        contexts = torch.stack([past[:, length - k - history : length - k] for k in self._horizons], dim=1)
        plans = torch.stack(
            [F.pad(acted[:, length - k :], (0, 0, 0, longest - k)) for k in self._horizons],
            dim=1,
        )
        known = ~plans.isnan().any(dim=-1).any(dim=-1)
        known &= self._seen[rows, None].to(known.device) >= torch.tensor(
            [k + history for k in self._horizons], device=known.device
        )
        imagined = self._model.rollout(contexts.flatten(0, 1), plans.nan_to_num().flatten(0, 1).unsqueeze(1))
        imagined = imagined[:, 0].unflatten(0, (len(rows), -1)).float()
        ends = torch.stack([imagined[:, i, k - 1] for i, k in enumerate(self._horizons)], dim=1)
        errors = (latents.unsqueeze(1) - ends).masked_fill(~known.unsqueeze(-1), torch.nan)
        steps = past.diff(dim=1).norm(dim=-1)
        motion = torch.stack([steps[:, -(k + history - 1) :].mean(dim=1) for k in self._horizons], dim=1)
        return errors, motion.masked_fill(~known, torch.nan)


def deviations(
    errors: Float[Tensor, "row horizon latent"],
    motion: Float[Tensor, "row horizon"],
    calibration: SurpriseCalibration,
    scale: Float[Tensor, " latent"],
) -> Float[Tensor, "row horizon"]:
    """By how many spreads the logs of squared errors lie above what is usual at that motion."""
    found = log_error(errors, scale)
    moved = (calibration.motion_floor + motion).log()
    expected = torch.tensor(calibration.expected).to(found)
    usual = expected[:, 0] + expected[:, 1] * moved
    return (found - usual) / torch.tensor(calibration.spread).to(found)


def log_error(
    errors: Float[Tensor, "row horizon latent"], scale: Float[Tensor, " latent"]
) -> Float[Tensor, "row horizon"]:
    """Log of the mean squared error in units of the usual ones."""
    return ((errors / scale).square().mean(dim=-1) + _LEAST_ERROR).log()


Episode = tuple[Float[Tensor, "_ latent"], Float[Tensor, "_ action"]]
"""Latents of all frames, and the action that is executed at each; that of the last frame does not count."""


def fit_surprise(
    model: WorldModel, episodes: Sequence[Episode], horizons: tuple[int, ...] = HORIZONS
) -> SurpriseCalibration:
    """Fit what is usual on held-out episodes; horizons too long for all of them are left out.

    Raises:
        ValueError: all episodes are too short to judge a single imagined step.
    """
    history = int(model.history)
    longest = max(len(latents) for latents, _ in episodes) - history
    horizons = tuple(k for k in horizons if k <= longest)
    if not horizons:
        raise ValueError(
            f"surprise is calibrated on episodes of at least {history} model steps; the longest held-out one "
            f"has {longest + history - 1}"
        )
    watched = ImaginationErrors(model, horizons)
    watched.restart(torch.arange(len(episodes)), len(episodes))
    found = [watched.observe(*moment) for moment in _moments(episodes)]
    errors, motion = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    scale = errors[:, 0].square().nanmean(dim=0).sqrt().clamp(min=1e-5)
    floor = max(round(_FLOOR * float(motion.square().nanmean().sqrt()), 6), 1e-6)
    logs, moved = log_error(errors, scale).numpy(), (floor + motion).log().numpy()
    usual = [_usual(motion_log, error_log) for motion_log, error_log in zip(moved.T, logs.T, strict=True)]
    calibration = SurpriseCalibration(
        list(horizons),
        _rounded(scale),
        floor,
        expected=[entry[:2] for entry in usual],
        spread=[entry[2] for entry in usual],
        scores=[0.0] * len(RANKS),
    )
    calibration.scores = _rounded(np.quantile(running_scores(model, calibration, episodes).numpy(), RANKS))
    return calibration


def running_scores(
    model: WorldModel, calibration: SurpriseCalibration, episodes: Sequence[Episode]
) -> Float[Tensor, " moment"]:
    """Scores of all model steps of episodes that can be judged; `calibration.rank` makes surprise of them."""
    monitor = SurpriseMonitor(model, calibration)
    monitor.restart(torch.arange(len(episodes)), len(episodes))
    scores = []
    for rows, latents, executed in _moments(episodes):
        monitor.observe(rows, latents, executed)
        scores.append(monitor.score[rows])
    known = torch.cat(scores)
    return known[known.isfinite()]


def _usual(x: Float[np.ndarray, " moment"], y: Float[np.ndarray, " moment"]) -> list[float]:
    """Constant, slope (not falling) and spread of y over x, where y is known."""
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    variance = float(np.var(x))
    slope = max(float(np.mean((x - x.mean()) * y)) / variance, 0.0) if variance > _LEAST_VARIANCE else 0.0
    constant = float(y.mean()) - slope * float(x.mean())
    return _rounded(np.array([constant, slope, max(float(np.std(y - constant - slope * x)), 1e-3)]))


def _rounded(values: Tensor | np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]


def _moments(episodes: Sequence[Episode]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Model step by model step: the episodes that have it, their latents, and the actions that led there."""
    nobody = torch.full_like(episodes[0][1][0], torch.nan)
    for step in range(max(len(latents) for latents, _ in episodes)):
        rows = [row for row, (latents, _) in enumerate(episodes) if len(latents) > step]
        seen = torch.stack([episodes[row][0][step] for row in rows])
        executed = [episodes[row][1][step - 1] if step else nobody for row in rows]
        yield torch.tensor(rows), seen, torch.stack(executed)
