"""What a model over tokens can say about itself, measured on held-out episodes; as `calibration`, in parts.

Tokens of all frames do not fit into memory; statistics are of as many frames as do.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .calibration import OPEN_LOOP_STEPS, Reached, reach_threshold
from .familiarity import NUM_SIGNATURES, frame_signature
from .latent_rows import LatentRows
from .store import TrajectoryStore
from .token_model import TokenWorldModel
from .vjepa2_ac import normed

TokenRows = Float[LatentRows | np.ndarray, "row token dim"]
_MAX_BYTES = 256 * 2**20
_NUM_WINDOWS = 200


@torch.no_grad()
def open_loop(
    model: TokenWorldModel,
    tokens: TokenRows,
    actions: Float[Tensor, "row action"],
    states: Float[Tensor, "row state"] | None,
    store: TrajectoryStore,
    episodes: Int[np.ndarray, " chosen"],
    num_windows: int = _NUM_WINDOWS,
) -> dict[str, list[float]]:
    """Squared errors over the tokens' variance at their places, for each step of a rollout.

    Returns:
        imagined: of what the model imagines under the logged actions.
        copied: of taking the last frame seen for all that follow.
    """
    history = model.history
    longest = int(store.lengths[episodes].max()) - history
    steps = min(OPEN_LOOP_STEPS, longest, model.predictor.max_steps - history + 1)
    windows = store.windows(history, steps, episodes=episodes)
    picked = np.linspace(0, len(windows) - 1, min(num_windows, len(windows))).astype(np.int64)
    device = model.predictor.action_offset.device
    sums = {"imagined": torch.zeros(steps), "copied": torch.zeros(steps)}
    for block in np.array_split(picked, -(-len(picked) // 20)):
        rows = windows.rows(block)
        seen = normed(torch.from_numpy(tokens[rows]).float().to(device))
        index = torch.from_numpy(rows)
        acted = actions[index].to(device)
        context, future = seen[:, :history], seen[:, history:]
        felt = None if states is None else states[index[:, :history]].to(device)
        plan = acted[:, history - 1 : -1].unsqueeze(1)
        imagined = model.rollout(context, plan, acted[:, : history - 1], felt)[:, 0]
        for name, guess in (("imagined", imagined), ("copied", context[:, -1:])):
            sums[name] += (guess - future).square().mean(dim=(2, 3)).sum(dim=0).cpu()
    sample = _some_tokens(tokens, np.concatenate([_rows(store, e) for e in episodes]))
    scale = len(picked) * sample.var(dim=0).mean()
    return {name: [round(float(v), 6) for v in total / scale] for name, total in sums.items()}


def calibrate_tokens(
    model: TokenWorldModel,
    tokens: TokenRows,
    actions: Float[Tensor, "row action"],
    states: Float[Tensor, "row state"] | None,
    store: TrajectoryStore,
    train: Int[np.ndarray, " train"],
    held: Int[np.ndarray, " held"],
    reached: Reached | None,
) -> None:
    """Measure open-loop error, the threshold of `reached` and familiar frames, and put them into the model.

    Without a `reached` that knows the task, or without states in the log, a pair counts as reached when it is
    at most one model step apart in one episode.
    """
    errors = open_loop(model, tokens, actions, states, store, held)
    model.metadata.open_loop_error = errors["imagined"]
    model.metadata.training["copying_error"] = errors["copied"]
    rng = np.random.default_rng(0)
    rows = _thinned(np.concatenate([_rows(store, e) for e in held]), tokens, rng)
    episode = np.searchsorted(store.offsets, rows, side="right") - 1
    truth: np.ndarray = np.stack([episode, rows], axis=1)
    judge: Reached = _neighbours
    if reached is not None and "state" in store.columns:
        truth, judge = store.read("state", rows), reached
    latents = normed(torch.from_numpy(tokens[rows]).float()).flatten(1)
    model.metadata.reach_threshold, model.metadata.reach_error_rate = reach_threshold(
        latents, truth, judge, rng
    )
    everything = np.concatenate([_rows(store, e) for e in train])
    chosen = np.sort(rng.permutation(everything)[: 2 * NUM_SIGNATURES])
    signatures = frame_signature(torch.from_numpy(tokens[chosen]))
    signatures = signatures[torch.from_numpy(rng.permutation(len(signatures)))]
    model.keep_familiar(signatures)


def _rows(store: TrajectoryStore, episode: int | np.integer) -> Int[np.ndarray, " row"]:
    return np.arange(store.num_rows)[store.episode_rows(episode)]


def _thinned(
    rows: Int[np.ndarray, " given"], tokens: TokenRows, rng: np.random.Generator
) -> Int[np.ndarray, " chosen"]:
    """As many of the rows as fit into memory, in order."""
    most = max(2, _MAX_BYTES // (4 * tokens.shape[1] * tokens.shape[2]))
    return np.sort(rng.permutation(rows)[:most])


def _some_tokens(tokens: TokenRows, rows: Int[np.ndarray, " given"]) -> Float[Tensor, "chosen token dim"]:
    rows = _thinned(rows, tokens, np.random.default_rng(1))
    return normed(torch.from_numpy(tokens[rows]).float())


def _neighbours(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
    return (states[:, 0] == goals[:, 0]) & (np.abs(states[:, 1] - goals[:, 1]) <= 1)
