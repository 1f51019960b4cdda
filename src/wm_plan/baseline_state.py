"""The state of an SAC training in one safetensors file, to go on from as if it had never stopped.

Stable-Baselines3's own formats are pickles, which run code when they are read. Here every array is a tensor
of the file, and what else there is stands as JSON in the file's header. It is written between two episodes.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from stable_baselines3 import SAC, HerReplayBuffer

from wm_plan.envs.goal_env import GoalEnv

STATE_NAME = "training.safetensors"
_VERSION = "1"
_KEY = "wm-plan-sac-training"
_PLAIN_COLUMNS = ("actions", "rewards", "dones", "timeouts", "ep_start", "ep_length")
_DICT_COLUMNS = ("observations", "next_observations")


@dataclass
class Saved:
    """A training as it was read: what the header says, and the arrays by name."""

    path: Path
    header: dict[str, Any]
    arrays: dict[str, np.ndarray]


def save_training(
    folder: Path, model: SAC, env: GoalEnv, settings: dict[str, Any], wall_seconds: float
) -> None:
    """Write all that the training consists of, atomically; `env` has just been reset."""
    buffer = _buffer(model)
    assert buffer._current_ep_start[0] == buffer.pos, "an episode has not ended"
    arrays = {f"policy.{name}": value for name, value in _arrays(model.policy.state_dict()).items()}
    for name, optimizer in _optimizers(model).items():
        for index, state in optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{name}.{index}.{key}": value for key, value in _arrays(state).items()}
    assert model.log_ent_coef is not None
    arrays["log_ent_coef"] = model.log_ent_coef.detach().cpu().numpy()
    arrays |= {f"replay.{name}": column[: buffer.size()] for name, column in _columns(buffer).items()}
    _, numpy_keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    arrays |= {"random.numpy": np.asarray(numpy_keys), "random.torch": torch.get_rng_state().numpy()}
    arrays |= {"env.state": env.task.get_state(), "env.goal_state": env.goal_state}
    assert model.ep_success_buffer is not None
    header = {
        "settings": settings,
        "wall_seconds": wall_seconds,
        "num_timesteps": model.num_timesteps,
        "num_updates": model._n_updates,
        "num_episodes": model._episode_num,
        "recent_successes": [bool(success) for success in model.ep_success_buffer],
        "replay_position": buffer.pos,
        "replay_full": buffer.full,
        "random_numpy": [int(position), int(has_gauss), float(gauss)],
        "random_env": env.np_random.bit_generator.state,
        "random_actions": model.action_space.np_random.bit_generator.state,
    }
    partial = folder / f".{STATE_NAME}.{secrets.token_hex(4)}"
    try:
        contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        save_file(contiguous, partial, {_KEY: _VERSION, "state": json.dumps(header)})
        os.replace(partial, folder / STATE_NAME)
    finally:
        partial.unlink(missing_ok=True)


def read_training(folder: Path, settings: dict[str, Any]) -> Saved:
    """Read what `save_training` wrote.

    Raises:
        ValueError: there is none, it is damaged, or it was made with other settings.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} holds no training to resume: it has no {STATE_NAME}")
    try:
        with safe_open(path, framework="numpy") as file:
            found = file.metadata() or {}
            if found.get(_KEY) != _VERSION:
                raise ValueError(f"{str(path)!r} is no training state of this release; start anew")
            header = json.loads(found["state"])
            saved = Saved(path, header, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            given = header["settings"]
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {type(error).__name__}") from error
    for name, value in settings.items():
        if given.get(name) != value:
            raise ValueError(
                f"{str(folder)!r} was trained with {name} {given.get(name)!r}, not {value!r}; "
                "resume with the same, or train into another folder"
            )
    return saved


def restore_training(saved: Saved, model: SAC, env: GoalEnv) -> float:
    """Put a saved training into a fresh `model` and its `env`; gives the wall time it took so far [s].

    Raises:
        ValueError: the file does not fit the model.
    """
    try:
        _restore(model, env, saved.header, saved.arrays)
        return float(saved.header["wall_seconds"])
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{str(saved.path)!r} is damaged: {type(error).__name__}") from error


def _restore(model: SAC, env: GoalEnv, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    model.policy.load_state_dict(_tensors(arrays, "policy."))
    for name, optimizer in _optimizers(model).items():
        state: dict[int, dict[str, torch.Tensor]] = {}
        for entry, value in _tensors(arrays, f"optimizer.{name}.").items():
            index, key = entry.split(".")
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    assert model.log_ent_coef is not None
    model.log_ent_coef.data.copy_(torch.from_numpy(arrays["log_ent_coef"]))
    buffer = _buffer(model)
    for name, column in _columns(buffer).items():
        saved = arrays[f"replay.{name}"]
        column[: len(saved)] = saved
    buffer.pos, buffer.full = int(header["replay_position"]), bool(header["replay_full"])
    buffer._current_ep_start[:] = buffer.pos
    model.num_timesteps, model._n_updates = int(header["num_timesteps"]), int(header["num_updates"])
    model._episode_num = int(header["num_episodes"])
    vectorized = model.get_env()
    assert vectorized is not None
    vectorized.set_options({"state": arrays["env.state"], "goal_state": arrays["env.goal_state"]})
    model._last_obs = vectorized.reset()  # type: ignore[assignment]
    model._last_episode_starts = np.ones(1, dtype=bool)
    model.ep_info_buffer = deque(maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(header["recent_successes"], maxlen=model._stats_window_size)
    env.np_random.bit_generator.state = header["random_env"]
    model.action_space.np_random.bit_generator.state = header["random_actions"]
    position, has_gauss, gauss = header["random_numpy"]
    np.random.set_state(("MT19937", arrays["random.numpy"], position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(arrays["random.torch"]))


def actor_tensors(model: SAC) -> dict[str, torch.Tensor]:
    """The weights of a learner's actor, as `RLPolicy` names them; the spread of its actions is left out."""
    actor = model.policy.actor
    layers = [*(layer for layer in actor.latent_pi if isinstance(layer, torch.nn.Linear)), actor.mu]
    return {
        f"{2 * index}.{name}": value.detach().cpu().clone()
        for index, layer in enumerate(layers)
        for name, value in layer.state_dict().items()
    }


def _buffer(model: SAC) -> HerReplayBuffer:
    assert isinstance(model.replay_buffer, HerReplayBuffer)
    return model.replay_buffer


def _columns(buffer: HerReplayBuffer) -> dict[str, np.ndarray]:
    """The arrays of the replay buffer, a transition a row."""
    columns = {name: getattr(buffer, name) for name in _PLAIN_COLUMNS}
    for name in _DICT_COLUMNS:
        columns |= {f"{name}.{key}": column for key, column in getattr(buffer, name).items()}
    return columns


def _optimizers(model: SAC) -> dict[str, torch.optim.Optimizer]:
    assert model.ent_coef_optimizer is not None
    return {
        "actor": model.actor.optimizer,
        "critic": model.critic.optimizer,
        "entropy": model.ent_coef_optimizer,
    }


def _arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in state.items()}


def _tensors(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
