"""What a trained model can say about itself, measured on held-out episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .compact import CompactWorldModel
from .familiarity import frame_signature
from .moments import Moments
from .store import TrajectoryStore
from .surprise import fit_surprise
from .training_logs import block_actions

OPEN_LOOP_STEPS = 10
CHANGE_STEPS = 5
_NEIGHBOURS = 24
_MAX_FRAMES = 3000
_MAX_EPISODES = 200

Reached = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Tells of true states and goal states (n, state) whether each pair is inside the task's tolerance."""


@torch.no_grad()
def open_loop_error(
    model: CompactWorldModel,
    latents: Float[Tensor, "row latent"],
    actions: Float[Tensor, "row block_action"],
    store: TrajectoryStore,
    episodes: Int[np.ndarray, " chosen"],
    num_windows: int = 2000,
) -> list[float]:
    """Mean squared error of imagined latents over the latents' variance, for each step of a rollout."""
    stride = model.action_block
    longest = (int(store.lengths[episodes].max()) - 1) // stride + 1
    steps = min(OPEN_LOOP_STEPS, longest - model.history)
    windows = store.windows(model.history, steps, episodes=episodes, stride=stride)
    picked = np.linspace(0, len(windows) - 1, min(num_windows, len(windows))).astype(np.int64)
    rows = torch.from_numpy(windows.rows(picked))
    context, future = latents[rows[:, : model.history]], latents[rows[:, model.history :]]
    imagined = model.rollout(context, actions[rows[:, model.history - 1 : -1]].unsqueeze(1)).squeeze(1)
    errors = (imagined - future).square().sum(-1).mean(0)
    return [round(float(value), 6) for value in errors / model.latent_variance]


@torch.no_grad()
def reach_threshold(
    latents: Float[Tensor, "row latent"],
    states: Shaped[np.ndarray, "row state"],
    reached: Reached,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Squared latent distance that best tells reached pairs from others, and how often it is wrong.

    Pairs are neighbours in latent space, the hard cases: reached and not reached count equally. The threshold
    is chosen on one half of the frames, the error rate measured on the other.
    """
    chosen = np.sort(rng.permutation(len(latents))[:_MAX_FRAMES])
    points = latents[chosen]
    distance, neighbour = torch.cdist(points, points).topk(min(_NEIGHBOURS, len(points)), largest=False)
    squared = distance.square()[:, 1:].cpu().numpy()
    pair = neighbour[:, 1:].cpu().numpy()
    near = states[chosen]
    label = reached(np.repeat(near, pair.shape[1], axis=0), near[pair.reshape(-1)]).reshape(pair.shape)
    half = len(chosen) // 2
    fit, test = (squared[:half], label[:half]), (squared[half:], label[half:])
    candidates = np.quantile(fit[0], np.linspace(0.005, 0.995, 199))
    errors = [_balanced_error(*fit, threshold) for threshold in candidates]
    threshold = float(candidates[int(np.argmin(errors))])
    return threshold, _balanced_error(*test, threshold)


def _balanced_error(
    squared: Float[np.ndarray, "frame pair"], label: Bool[np.ndarray, "frame pair"], threshold: float
) -> float:
    """Mean of the two kinds' error rates; a kind that does not occur does not count."""
    says = squared <= threshold
    rates = [float((says[label == kind] != kind).mean()) for kind in (True, False) if (label == kind).any()]
    return float(np.mean(rates)) if rates else 0.0


@torch.no_grad()
def calibrate(
    model: CompactWorldModel,
    latents: Float[Tensor, "row latent"],
    actions: Float[Tensor, "row block_action"],
    store: TrajectoryStore,
    held: Int[np.ndarray, " chosen"],
    reached: Reached | None,
) -> None:
    """Measure open-loop error, the threshold of `reached` and changes, and put them into the metadata.

    Without a `reached` that knows the task, or without states in the log, a pair counts as reached when it is
    at most one model step apart in one episode.
    """
    metadata = model.metadata
    metadata.open_loop_error = open_loop_error(model, latents, actions, store, held)
    calibrate_changes(model, store, held, latents)
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.arange(store.num_rows)[store.episode_rows(e)] for e in held])
    if reached is not None and "state" in store.columns:
        states = store.read("state", rows)
    else:
        episode = np.searchsorted(store.offsets, rows, side="right") - 1
        states, reached = np.stack([episode, rows / model.action_block], axis=1), _next_to_each_other
    metadata.reach_threshold, metadata.reach_error_rate = reach_threshold(
        model.shown(latents[rows]), states, reached, rng
    )


@torch.no_grad()
def calibrate_changes(
    model: CompactWorldModel,
    store: TrajectoryStore,
    episodes: Int[np.ndarray, " chosen"] | None = None,
    latents: Float[Tensor, "row latent"] | None = None,
) -> None:
    """Measure how what latents show changes within five model steps, and put it into the model's metadata.

    In episodes that are shorter, within as many steps as they have. Arguments and errors are those of
    `calibrate_surprise`, and so is the way to give a folder what it lacks.
    """
    outer, count = torch.zeros(()), 0
    for rows, known in _latents_of_some(model, store, episodes, latents):
        shown = model.shown(known).double()
        steps = max(1, min(CHANGE_STEPS, len(rows) - 1))
        changes = shown[steps:] - shown[:-steps]
        outer, count = outer + changes.T @ changes, count + len(changes)
    mean = (outer / max(count, 1)).float()
    model.metadata.latent_changes = [[float(f"{value:.6g}") for value in row] for row in mean.tolist()]


@torch.no_grad()
def calibrate_surprise(
    model: CompactWorldModel,
    store: TrajectoryStore,
    episodes: Int[np.ndarray, " chosen"] | None = None,
    latents: Float[Tensor, "row latent"] | None = None,
) -> None:
    """Measure what errors of imagination are usual, and put it into the model's metadata.

    To give a folder made before there was surprise what it lacks, weights untouched::

        model = load_model("runs/mine")
        calibrate_surprise(model, TrajectoryStore("data/mine"))
        save_metadata(model.metadata, "runs/mine")

    Args:
        model: a compact one.
        store: logs of its task, in the frame skip of those that it was trained on.
        episodes: that it was not trained on; None takes those that its own training held out of this store.
        latents: of all rows, where they are known already; else the frames of `episodes` are encoded.

    Raises:
        ValueError: the episodes are too short, or the store lacks a column that the model sees.
    """
    actions = block_actions(store, model.action_block)
    found = [(known, actions[rows]) for rows, known in _latents_of_some(model, store, episodes, latents)]
    model.metadata.surprise = fit_surprise(model, found)


def _latents_of_some(
    model: CompactWorldModel,
    store: TrajectoryStore,
    episodes: Int[np.ndarray, " chosen"] | None,
    latents: Float[Tensor, "row latent"] | None,
) -> Iterator[tuple[Int[np.ndarray, " row"], Float[Tensor, "row latent"]]]:
    """Rows, a model step apart, and latents of each episode, of at most `_MAX_EPISODES` held-out ones."""
    if episodes is None:
        recorded = model.metadata.training.get("config", {})
        episodes = store.split(recorded.get("held_out", 0.05), recorded.get("seed", 0))[1]
    if len(episodes) > _MAX_EPISODES:
        episodes = episodes[np.linspace(0, len(episodes) - 1, _MAX_EPISODES).astype(np.int64)]
    for episode in episodes:
        rows = np.arange(store.num_rows)[store.episode_rows(episode)][:: model.action_block]
        yield rows, _encoded(model, store, rows) if latents is None else latents[rows]


def _encoded(
    model: CompactWorldModel, store: TrajectoryStore, rows: Int[np.ndarray, " row"]
) -> Float[Tensor, "row latent"]:
    """Latents of logged rows, as the control loop would see them."""
    frames = {name: torch.from_numpy(store.read(name, rows))[None] for name in model.views}
    felt = torch.from_numpy(store.read("proprio", rows))[None] if model.metadata.proprio_dim else None
    return model.encode(frames, felt)[0]


def _next_to_each_other(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
    return (states[:, 0] == goals[:, 0]) & (np.abs(states[:, 1] - goals[:, 1]) <= 1)


@torch.no_grad()
def fit_familiarity(
    model: CompactWorldModel,
    moments: Moments,
    plain_rows: Int[np.ndarray, " plain"],
    varied: Moments | None,
    varied_rows: Int[np.ndarray, " chosen"],
    seed: int,
) -> None:
    """Keep signatures of training frames that the model reads rightly, and how far others of them may be.

    Plain frames count, and those in other looks whose latent is the plain frame's, to within what counts
    as reached: a look that was logged and never learned is no familiar one.
    """
    rng = np.random.default_rng([seed, 4])
    size = len(model.familiar_signatures)
    chosen = np.sort(rng.permutation(plain_rows)[:size])
    width = model.encoder.width
    kinds = [moments[chosen][0][..., :width]]
    if varied is not None and len(varied_rows):
        chosen = np.sort(rng.permutation(varied_rows)[: 4 * size])
        plain, other = moments[chosen], varied[chosen]
        error = (model.head(*plain) - model.head(*other)).square().sum(-1)
        read_rightly = other[0][error <= model.metadata.reach_threshold][:size, :, :width]
        kinds += [read_rightly] if len(read_rightly) else []
    mixed = torch.cat([frame_signature(kind) for kind in kinds])
    mixed = mixed[torch.from_numpy(rng.permutation(len(mixed)))]
    model.keep_familiar(mixed)
