"""Probes of the true state while an encoder is trained: what could be read off it, task by task.

Nothing of this is ever trained on: labels are what a simulator knew, and an encoder is to find out by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .envs import short_name
from .training_run import logged_task
from .world_model import Encoder, TrajectoryStore
from .world_model.probes import clip_features, labelled_clips, probe_scores

if TYPE_CHECKING:
    import mujoco

    from .world_model import PretrainConfig

KINDS = ("position", "angle", "velocity", "state")
"""What a label may be of; "state" is a number of which nobody knows more."""
PROBES = ("linear", "mlp")
_FREE, _BALL, _SLIDE, _HINGE = range(4)
"""MuJoCo's kinds of joints, as in `mujoco.mjtJoint`."""
_FEWEST_LABELS = 20
_STILL = 1e-6
"""A label that varies less than this says nothing of an encoder."""

States = Float[np.ndarray, "clip state"]
Labels = Float[np.ndarray, "clip label"]
_Part = tuple[str, Callable[[States], Labels]]
"""A kind, and what gives labels of it."""


class StateLabels:
    """What probes are asked for of a state: places, sine and cosine of angles, velocities.

    Attributes:
        kinds: what each label is of; one of `KINDS`.
    """

    def __init__(self, model: mujoco.MjModel | None, size: int, *, with_velocity: bool = True) -> None:
        """Look up a model's joints.

        Args:
            model: whose states these are, qpos then qvel; None where nobody knows, and numbers are taken as
                they are.
            size: numbers a state.
            with_velocity: whether velocities are asked for.
        """
        self._parts: list[_Part] = []
        if model is None:
            self._parts = [("state", lambda states: states)]
            self.kinds = ("state",) * size
            return
        for kind, start in zip(model.jnt_type.tolist(), model.jnt_qposadr.tolist(), strict=True):
            self._parts += _of_joint(kind, start)
        if with_velocity:
            self._parts.append(("velocity", lambda states: states[:, model.nq :]))
        zero = np.zeros((1, size))
        self.kinds = tuple(name for name, label in self._parts for _ in range(label(zero).shape[1]))

    def __call__(self, states: States) -> Labels:
        """The labels of states."""
        return np.concatenate([label(states) for _, label in self._parts], axis=1)


def _of_joint(kind: int, start: int) -> list[_Part]:
    """What is asked for of a joint whose numbers begin at `start`."""
    if kind == _HINGE:
        return [("angle", lambda states: _sine_and_cosine(states[:, start]))]
    if kind == _SLIDE:
        return [("position", lambda states: states[:, start : start + 1])]
    if kind == _BALL:
        return [("angle", lambda states: _two_axes(states[:, start : start + 4]))]
    assert kind == _FREE
    return [("position", lambda states: states[:, start : start + 3]), *_of_joint(_BALL, start + 3)]


def _sine_and_cosine(angle: Float[np.ndarray, " clip"]) -> Labels:
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def _two_axes(quaternion: Float[np.ndarray, "clip 4"]) -> Labels:
    """Where the first two axes of a turned body point; 6 numbers without a jump."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True).clip(1e-12)).T
    first = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    second = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    return np.stack([*first, *second], axis=1)


def mean_by_kind(scores: list[float], kinds: tuple[str, ...]) -> dict[str, float]:
    """The mean R^2 of each kind of label that there is."""
    by_kind: dict[str, list[float]] = defaultdict(list)
    for kind, score in zip(kinds, scores, strict=True):
        by_kind[kind].append(score)
    return {kind: float(np.mean(by_kind[kind])) for kind in KINDS if kind in by_kind}


@dataclass
class _Task:
    """The logs of one task, and what is asked of them."""

    name: str
    labels: StateLabels
    train: Int[np.ndarray, " train"]
    held: Int[np.ndarray, " held"]


class StateProbes:
    """Fits small probes to an encoder's tokens of each task that a run's logs know the states of.

        probes = StateProbes(store, config, num_labels=400)
        probes(encoder)  # {"probe/reacher/angle/linear": 0.93, "probe/reacher/angle/mlp": ..., ...}

    The R^2 is that of clips of episodes that no probe was fitted to, in the plain look. Clips are two frames,
    or one, and then no velocities are asked for, where the objective sees single frames.
    """

    def __init__(
        self, store: TrajectoryStore, config: PretrainConfig, num_labels: int = 400, num_tests: int = 200
    ) -> None:
        """Find the tasks; logs without a column `state`, or too few of them, are left out."""
        self._store, self._seed = store, config.seed
        self._num_labels, self._num_tests = num_labels, num_tests
        single = config.objective == "ijepa" or config.clip_frames == 1
        self._frames = 1 if single else max(2, config.encoder.tubelet_size)
        self._tasks = [] if num_labels == 0 else self._find_tasks()

    @property
    def tasks(self) -> list[str]:
        """The tasks that are probed."""
        return [task.name for task in self._tasks]

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """R^2 by task, kind of label and kind of probe."""
        return {
            f"probe/{task.name}/{kind}/{probe}": score
            for task in self._tasks
            for probe, by_kind in self._scores(encoder, task).items()
            for kind, score in by_kind.items()
        }

    def _find_tasks(self) -> list[_Task]:
        """The episodes of each environment whose logs have states, a quarter of them held out."""
        store, sources = self._store, defaultdict(list)
        try:
            has_state = store.rows_with("state")
        except ValueError:
            return []
        for source, recipe in enumerate(store.recipes):
            if has_state[store.source_rows(source)].all():
                sources[str(recipe.get("env", store.paths[source].stem))].append(source)
        tasks = []
        for env, own in sources.items():
            episodes = np.flatnonzero(np.isin(store.sources, own) & (store.lengths >= self._frames))
            order = np.random.default_rng([self._seed, len(episodes)]).permutation(episodes)
            num_held = max(1, len(order) // 4)
            held, train = np.sort(order[:num_held]), np.sort(order[num_held:])
            if len(train) < 2 or self._num_clips(train) < _FEWEST_LABELS:
                continue
            first = store.read("state", np.array([store.offsets[episodes[0]]]))
            tasks.append(_Task(_name_of(env), self._labels(env, first), train, held))
        return tasks

    def _labels(self, env: str, states: States) -> StateLabels:
        task = logged_task(env)
        size = states.shape[1]
        known = task is not None and size == len(task.get_state())
        return StateLabels(task.mj_model if task and known else None, size, with_velocity=self._frames > 1)

    def _num_clips(self, episodes: Int[np.ndarray, " episode"]) -> int:
        return int((self._store.lengths[episodes] - self._frames + 1).sum())

    def _scores(self, encoder: Encoder, task: _Task) -> dict[str, dict[str, float]]:
        """Mean R^2 by kind of probe and kind of label."""
        x, y, groups = self._features(encoder, task, task.train, self._num_labels, self._seed)
        held_x, held_y, _ = self._features(encoder, task, task.held, self._num_tests, self._seed + 1)
        moving = (y.std(dim=0) > _STILL) & (held_y.std(dim=0) > _STILL)
        kinds = tuple(kind for kind, moves in zip(task.labels.kinds, moving.tolist(), strict=True) if moves)
        if not kinds:
            return {}
        tests = {"held": (held_x, held_y[:, moving])}
        found = probe_scores(x, y[:, moving], tests, kinds=PROBES, groups=groups)
        return {probe: mean_by_kind(scores["held"], kinds) for probe, scores in found.items()}

    def _features(
        self, encoder: Encoder, task: _Task, episodes: Int[np.ndarray, " episode"], num: int, seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        num = min(num, self._num_clips(episodes))
        clips, targets, groups = labelled_clips(
            self._store, task.labels, num, frames=self._frames, episodes=episodes, seed=seed
        )
        with torch.no_grad():
            return clip_features(encoder, clips), targets, groups


def _name_of(env: str) -> str:
    """What an environment is called in metrics."""
    try:
        return short_name(env)
    except ValueError:  # logs from elsewhere
        return env.replace("/", "-")
