"""Rolling a policy out into a plain episode of numpy columns."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from .camera_env import CameraEnv, State
from .factors import Factors
from .looks import Look
from .physics import Physics
from .policies import Policy, StartsAnywhere
from .task import TaskEnv

LOOK_PERIOD = 5
"""Frames for which a varied look stays the same, so that short clips of one look can be cut from a log."""


@dataclass
class Episode:
    """One row a model step: the frame before it and the action held during it; the last row has no action.

    Attributes:
        pixels: what the environment's own look shows.
        proprio: what the robot feels.
        state: qpos then qvel.
        action: held for `frame_skip` env steps, in env units; NaN in the last row.
        pixels_varied: where looks were asked for, the same states in a look that changes every `LOOK_PERIOD`
            frames; sensor noise is new in each.
        seed: the one that gives this episode again.
        frame_skip: env steps a row.
        factors: what this episode has of its own: its look and its physics.
    """

    pixels: UInt8[np.ndarray, "frame height width 3"]
    proprio: Float32[np.ndarray, "frame proprio"]
    state: Float64[np.ndarray, "frame state"]
    action: Float32[np.ndarray, "frame action"]
    seed: int
    frame_skip: int
    pixels_varied: UInt8[np.ndarray, "frame height width 3"] | None = None
    factors: Factors | None = None

    def __len__(self) -> int:
        """Number of frames: one more than there are model steps."""
        return len(self.state)


def collect_episode(
    env: CameraEnv,
    policy: Policy,
    num_steps: int,
    seed: int,
    looks: Callable[[np.random.Generator], Look] | None = None,
    *,
    frame_skip: int | None = None,
    factors: Factors | None = None,
) -> Episode:
    """Log `num_steps` model steps of `policy` from where `env.reset(seed)` starts.

    Frames between model steps are not drawn. A policy that has an `initial_state()` says where the episode
    starts, unless that is None. The episode is shorter where the world stops (`env.ended`), and a function
    of `seed` and of the state of the policy's own random generator.

    Args:
        env: its current state is lost.
        policy: asked once a model step, at the step's first env step.
        num_steps: model steps; the episode has one frame more.
        seed: of the start and of the varied looks.
        looks: draws a look, such as `sample_look`; without it there is no `pixels_varied`.
        frame_skip: env steps a model step; the task's own when not given.
        factors: this episode's own look and physics; the environment's own when not given. Its sensor noise
            is new in each frame.

    Raises:
        ValueError: the environment's physics cannot be varied so, or a policy starts where the environment
            cannot.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    skip = env.frame_skip if frame_skip is None else frame_skip
    look_rng = np.random.default_rng([seed, 1])
    physics = factors.physics if factors is not None and factors.physics_names else None
    if physics is not None:
        _set_physics(env, physics)
    start = policy.initial_state() if isinstance(policy, StartsAnywhere) else None
    env.reset(seed=seed, options=None if start is None else {"state": start})
    rows = _Rows(env, factors)
    varied, actions = [], []
    for index in range(num_steps + 1):
        state = rows.add(index)
        if looks is not None:
            if index % LOOK_PERIOD == 0:
                look = looks(look_rng)
            varied.append(env.render(look=replace(look, noise_seed=look.noise_seed + index)))
        if index == num_steps or env.ended:
            break
        actions.append(policy.act(index * skip, state))
        env.advance(actions[-1], skip)
    if physics is not None:
        _set_physics(env, None)
    no_action = np.full((1, *env.action_space.shape), np.nan, np.float32)
    return Episode(
        pixels=np.stack(rows.pixels),
        proprio=rows.proprio(),
        state=np.stack(rows.states),
        action=np.concatenate([np.array(actions, np.float32).reshape(-1, no_action.size), no_action]),
        seed=seed,
        frame_skip=skip,
        pixels_varied=np.stack(varied) if varied else None,
        factors=factors,
    )


class _Rows:
    """What an environment shows and feels, row by row, in its own look or in the episode's."""

    def __init__(self, env: CameraEnv, factors: Factors | None) -> None:
        self._env = env
        self._look = factors.look_of(env.look) if factors is not None and factors.look else None
        self.pixels: list[np.ndarray] = []
        self.states: list[np.ndarray] = []
        self._felt: list[np.ndarray] = []

    def add(self, index: int) -> State:
        """Keep what is seen now; gives the state."""
        if self._look is None:
            self.pixels.append(self._env.render())
        else:
            seed = self._look.noise_seed + index
            self.pixels.append(self._env.render(look=replace(self._look, noise_seed=seed)))
        self.states.append(self._env.get_state())
        if not isinstance(self._env, TaskEnv):
            self._felt.append(self._env.observe()["proprio"])
        return self.states[-1]

    def proprio(self) -> Float32[np.ndarray, "frame proprio"]:
        """What was felt in each row."""
        if isinstance(self._env, TaskEnv):
            return self._env.proprio(np.stack(self.states)).astype(np.float32)
        return np.stack(self._felt).astype(np.float32)


def _set_physics(env: CameraEnv, physics: Physics | None) -> None:
    if not isinstance(env, TaskEnv):
        raise ValueError(
            f"{env.name} does not run on MuJoCo, so its physics cannot be varied; vary its pictures only"
        )
    env.set_physics(physics)
