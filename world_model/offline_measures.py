"""What logged trajectories alone say about a world model: no simulator, no robot.

Every measure is of windows of logged rows: the model sees `history` frames, is told the actions that
followed, and what it imagines is compared with the frames that really came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .compact import CompactWorldModel
from .logged_latents import TrainedModel
from .store import TrajectoryStore
from .surprise import running_scores
from .training_logs import block_actions

_FRAMES_AT_ONCE = 64
_SEQUENCES_AT_ONCE = 4096
_SURPRISE_EPISODES = 40


@dataclass
class OfflineConfig:
    """How much is measured.

    Attributes:
        horizon: model steps imagined; fewer where episodes, or what the model can take, are shorter.
        num_windows: windows measured, evenly spread; None is 400, and 40 for a model over tokens.
        num_candidates: random action sequences that the logged one is ranked among; None is 100, and 30 for
            a model over tokens.
        num_distractors: frames besides the true one that a retrieval chooses from.
        seed: of random actions and distractors.
    """

    horizon: int = 10
    num_windows: int | None = None
    num_candidates: int | None = None
    num_distractors: int = 255
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers below 1."""
        for name in ("horizon", "num_windows", "num_candidates", "num_distractors"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass
class LoggedWindows:
    """Windows of a log as a model sees them; latents of any shape."""

    context: Float[Tensor, "window history ..."]
    future: Float[Tensor, "window step ..."]
    actions: Float[Tensor, "window step action"]
    """Those that lead to each frame of `future`, in env units."""
    told: dict[str, Tensor]
    """What `rollout` takes besides: past actions and proprio, of a model that uses them."""
    future_rows: Int[np.ndarray, "window step"]
    pool: Float[Tensor, "frame ..."]
    """Latents of all frames that occur in the windows."""
    pool_rows: Int[np.ndarray, " frame"]
    episodes: Int[np.ndarray, " window"]
    """In which each window lies."""

    def squared(self, guess: Tensor, true: Tensor) -> Tensor:
        """Squared distances of latents, over all axes of a latent."""
        return (guess - true).square().sum(dim=tuple(range(1 - self.pool.ndim, 0)))

    @property
    def variance(self) -> float:
        """Of the latents of all frames, summed over their numbers: what all errors are relative to."""
        return float(self.pool.flatten(1).var(dim=0).sum().clamp(min=1e-12))


def read_windows(
    model: TrainedModel,
    store: TrajectoryStore,
    episodes: Int[np.ndarray, " chosen"],
    config: OfflineConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LoggedWindows:
    """Read windows of these episodes, and encode their frames as the control loop would.

    Raises:
        ValueError: the logs hold other actions than the model's, lack what it sees, or are too short.
    """
    block, numbers = model.metadata.action_block, store.columns["action"].shape
    if numbers != model.action_low.shape:
        raise ValueError(
            f"the logs have actions of shape {numbers}, the model takes {model.action_low.shape}"
        )
    compact, history = isinstance(model, CompactWorldModel), model.history
    longest = (int(store.lengths[episodes].max()) - 1) // block + 1 - history
    most = config.horizon if isinstance(model, CompactWorldModel) else model.predictor.max_steps - history + 1
    steps = max(1, min(config.horizon, longest, most))
    windows = store.windows(history, steps, episodes=episodes, stride=block)
    count = min(config.num_windows or (400 if compact else 40), len(windows))
    rows = windows.rows(np.linspace(0, len(windows) - 1, count).astype(np.int64))
    pool_rows, inverse = np.unique(rows, return_inverse=True)
    pool = torch.cat(list(_encoded(model, store, pool_rows, progress)))
    latents = pool[torch.from_numpy(inverse.reshape(rows.shape))]
    actions = block_actions(store, block)[torch.from_numpy(rows)].to(latents.device)
    told = {}
    if getattr(model, "uses_past", False):
        told["past_actions"] = actions[:, : history - 1]
        if "proprio" in store.columns:
            felt = store.read_windows("proprio", rows[:, :history]).astype(np.float32)
            told["proprio"] = torch.from_numpy(felt).to(latents.device)
    return LoggedWindows(
        latents[:, :history],
        latents[:, history:],
        actions[:, history - 1 : -1],
        told,
        rows[:, history:],
        pool,
        pool_rows,
        np.searchsorted(store.offsets, rows[:, 0], side="right") - 1,
    )


def _encoded(
    model: TrainedModel,
    store: TrajectoryStore,
    rows: Int[np.ndarray, " row"],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Float[Tensor, "row ..."]]:
    """Latents of rows, some frames at a time; of what the logs lack, only the first view must be there."""
    views = [name for name in model.metadata.views if name in store.columns]
    if model.metadata.views[0] not in views:
        raise ValueError(f"the logs have no column {model.metadata.views[0]!r}, which the model sees")
    feels = model.metadata.proprio_dim > 0 and "proprio" in store.columns
    for start in range(0, len(rows), _FRAMES_AT_ONCE):
        part = rows[start : start + _FRAMES_AT_ONCE]
        seen = {name: torch.from_numpy(store.read(name, part)).unsqueeze(1) for name in views}
        felt = torch.from_numpy(store.read("proprio", part).astype(np.float32)) if feels else None
        frames: Any = seen if len(model.metadata.views) > 1 else seen[views[0]]
        yield model.encode(frames, None if felt is None else felt.unsqueeze(1))[:, 0]
        progress(start + len(part), len(rows))


@torch.no_grad()
def imagine(
    model: TrainedModel, windows: LoggedWindows, actions: Float[Tensor, "window candidate step action"]
) -> Float[Tensor, "window candidate step ..."]:
    """What the model imagines from each window's context under several action sequences."""
    at_once = max(1, _SEQUENCES_AT_ONCE // actions.shape[1])
    parts = []
    for start in range(0, len(actions), at_once):
        some = slice(start, start + at_once)
        told = {name: values[some] for name, values in windows.told.items()}
        parts.append(model.rollout(windows.context[some], actions[some], **told))
    return torch.cat(parts)


@dataclass
class OfflineMeasures:
    """What was measured; errors are fractions of the latents' variance, rates are fractions."""

    num_windows: int
    horizon: int
    num_candidates: int
    num_distractors: int
    error: dict[str, list[float]]
    """Squared error at each model step: `imagined`; `copied`, the last frame seen in place of what follows;
    `other_actions`, imagined under the actions of another window."""
    rank: dict[str, dict[str, float]]
    """For candidates `uniform` within the bounds, and `logged` in other windows: `beaten`, the mean fraction
    of candidates that are imagined to end further from the logged future frame than the logged actions are
    (by chance .5), and `first`, how often that is so of all of them, by chance `first_by_chance`."""
    retrieval: dict[str, list[float]]
    """At each model step, how often the true frame is the nearest to what is imagined (`top_1`), or among
    the nearest 5 (`top_5`); and both for the last frame seen in place of what is imagined (`copied_`)."""
    surprise: dict[str, float]
    """How far `ranks` are from uniform, as `uniformity` says."""
    surprise_kind: str
    """What is ranked, and among what."""
    places: dict[str, list[int]]
    """Of the logged actions of each window among the candidates, from 1 to `num_candidates` + 1."""
    ranks: list[float]
    """Of surprise, sorted: from 0 to 1."""


def measure_offline(
    model: TrainedModel,
    store: TrajectoryStore,
    episodes: Int[np.ndarray, " chosen"],
    config: OfflineConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> OfflineMeasures:
    """Measure a model on these episodes of a log.

    Args:
        model: trained.
        store: logs of its task, in its frame skip.
        episodes: best some that the model was not trained on.
        config: how much is measured.
        progress: told how many frames are encoded.

    Raises:
        ValueError: as `read_windows`.
    """
    windows = read_windows(model, store, episodes, config, progress)
    rng = np.random.default_rng(config.seed)
    imagined = imagine(model, windows, windows.actions.unsqueeze(1))[:, 0]
    many = config.num_candidates or (100 if isinstance(model, CompactWorldModel) else 30)
    further = action_ranks(model, windows, imagined, many, rng)
    calibrated = calibrated_surprise(model, store, episodes)
    ranks = error_ranks(windows, imagined) if calibrated is None else calibrated
    kind = "one-step errors among those of other episodes" if calibrated is None else "calibrated surprise"
    return OfflineMeasures(
        num_windows=len(imagined),
        horizon=imagined.shape[1],
        num_candidates=many,
        num_distractors=min(config.num_distractors, len(windows.pool)),
        error=open_loop_errors(model, windows, imagined),
        rank={
            name: {
                "beaten": round(float(found.mean()), 4),
                "first": round(float((found.mean(axis=1) == 1).mean()), 4),
                "first_by_chance": round(1 / (many + 1), 4),
            }
            for name, found in further.items()
        },
        retrieval=retrieval_rates(windows, imagined, config.num_distractors, rng),
        surprise=uniformity(ranks),
        surprise_kind=kind,
        places={name: (many + 1 - found.sum(axis=1)).astype(int).tolist() for name, found in further.items()},
        ranks=ranks.tolist(),
    )


def open_loop_errors(
    model: TrainedModel, windows: LoggedWindows, imagined: Float[Tensor, "window step ..."]
) -> dict[str, list[float]]:
    """Errors against the model step, beside what a model that heeds no frame or no action would have."""
    elsewhere = windows.actions.roll(max(1, len(windows.actions) // 2), dims=0)
    guesses = {
        "imagined": imagined,
        "copied": windows.context[:, -1:].expand_as(windows.future),
        "other_actions": imagine(model, windows, elsewhere.unsqueeze(1))[:, 0],
    }
    return {
        name: _rounded(windows.squared(guess, windows.future).mean(dim=0) / windows.variance)
        for name, guess in guesses.items()
    }


def action_ranks(
    model: TrainedModel,
    windows: LoggedWindows,
    imagined: Float[Tensor, "window step ..."],
    num_candidates: int,
    rng: np.random.Generator,
) -> dict[str, Float[np.ndarray, "window candidate"]]:
    """Whether each random sequence is imagined to end further from the logged future than the logged one.

    Returns:
        uniform: candidates within the model's bounds.
        logged: candidates that were taken in other windows; none if there is but one window.
    """
    block = model.metadata.action_block
    low, high = (torch.from_numpy(bound).repeat(block) for bound in (model.action_low, model.action_high))
    count, steps, numbers = windows.actions.shape
    drawn = torch.from_numpy(rng.random((count, num_candidates, steps, numbers))).float()
    candidates = {"uniform": (low + drawn * (high - low)).to(windows.actions)}
    if count > 1:
        others = rng.integers(count - 1, size=(count, num_candidates))
        others += others >= np.arange(count)[:, None]
        candidates["logged"] = windows.actions[torch.from_numpy(others)]
    goal = windows.future[:, -1]
    reached = windows.squared(imagined[:, -1], goal)
    found = {}
    for name, actions in candidates.items():
        ends = imagine(model, windows, actions)[:, :, -1]
        further = windows.squared(ends, goal.unsqueeze(1)) > reached.unsqueeze(1)
        found[name] = further.cpu().numpy().astype(float)
    return found


def retrieval_rates(
    windows: LoggedWindows,
    imagined: Float[Tensor, "window step ..."],
    num_distractors: int,
    rng: np.random.Generator,
) -> dict[str, list[float]]:
    """How often the true future frame is the nearest, or among the nearest 5, of so many logged frames."""
    chosen = np.sort(rng.permutation(len(windows.pool))[:num_distractors])
    pool, numbers = windows.pool[torch.from_numpy(chosen)].flatten(1), windows.pool_rows[chosen]
    rates: dict[str, list[float]] = {name: [] for name in ("top_1", "top_5", "copied_top_1", "copied_top_5")}
    last = windows.context[:, -1].flatten(1)
    for step in range(imagined.shape[1]):
        true = windows.future[:, step].flatten(1)
        itself = torch.from_numpy(windows.future_rows[:, step, None] == numbers).to(true.device)
        for prefix, guess in (("", imagined[:, step].flatten(1)), ("copied_", last)):
            nearer = torch.cdist(guess, pool) < (guess - true).norm(dim=1, keepdim=True)
            before = (nearer & ~itself).sum(dim=1).float()
            rates[f"{prefix}top_1"].append(round(float((before < 1).float().mean()), 4))
            rates[f"{prefix}top_5"].append(round(float((before < 5).float().mean()), 4))
    return rates


def error_ranks(
    windows: LoggedWindows, imagined: Float[Tensor, "window step ..."]
) -> Float[np.ndarray, " rank"]:
    """Ranks of one-step errors in one half of the episodes among those in the other half; sorted."""
    errors = windows.squared(imagined[:, 0], windows.future[:, 0]).cpu().numpy()
    usual = windows.episodes < np.unique(windows.episodes).mean()
    if usual.all() or not usual.any():
        usual = np.arange(len(errors)) < len(errors) / 2
    known = np.sort(errors[usual])
    return np.sort(np.searchsorted(known, errors[~usual], side="right") / (len(known) + 1))


def calibrated_surprise(
    model: TrainedModel, store: TrajectoryStore, episodes: Int[np.ndarray, " chosen"]
) -> Float[np.ndarray, " rank"] | None:
    """Surprise of the model steps of some episodes, sorted; None of a model that knows no usual errors."""
    calibration = model.metadata.surprise
    if calibration is None or not isinstance(model, CompactWorldModel):
        return None
    actions, watched = block_actions(store, model.action_block), []
    for place in np.unique(np.linspace(0, len(episodes) - 1, _SURPRISE_EPISODES).astype(np.int64)):
        rows = store.rows_of(episodes[place : place + 1])[:: model.action_block]
        latents = torch.cat(list(_encoded(model, store, rows)))
        watched.append((latents, actions[torch.from_numpy(rows)].to(latents.device)))
    scores = running_scores(model, calibration, watched)
    return np.sort(calibration.rank(scores).numpy()) if len(scores) else None


def uniformity(ranks: Float[np.ndarray, " rank"]) -> dict[str, float]:
    """How far sorted ranks are from uniform.

    Returns:
        distance: the largest between the share of ranks up to a level and that level (Kolmogorov, Smirnov).
        above_95: share of ranks above .95; .05 if they are uniform.
        above_99: likewise.
    """
    count = len(ranks)
    places = np.arange(count + 1) / count
    distance = max(np.abs(places[1:] - ranks).max(), np.abs(places[:-1] - ranks).max())
    above = {f"above_{level}": round(float((ranks > level / 100).mean()), 4) for level in (95, 99)}
    return {"distance": round(float(distance), 4), **above}


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 6) for value in values]
