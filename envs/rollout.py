"""Rolling a policy out into a plain episode of numpy columns."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from .looks import Look
from .policies import Policy
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
    """

    pixels: UInt8[np.ndarray, "frame height width 3"]
    proprio: Float32[np.ndarray, "frame proprio"]
    state: Float64[np.ndarray, "frame state"]
    action: Float32[np.ndarray, "frame action"]
    seed: int
    frame_skip: int
    pixels_varied: UInt8[np.ndarray, "frame height width 3"] | None = None

    def __len__(self) -> int:
        """Number of frames: one more than there are model steps."""
        return len(self.state)


def collect_episode(
    env: TaskEnv,
    policy: Policy,
    num_steps: int,
    seed: int,
    looks: Callable[[np.random.Generator], Look] | None = None,
    *,
    frame_skip: int | None = None,
) -> Episode:
    """Log `num_steps` model steps of `policy` from where `env.reset(seed)` starts.

    Frames between model steps are not drawn. The episode is a function of `seed` and of the state of the
    policy's own random generator.

    Args:
        env: its current state is lost.
        policy: asked once a model step, at the step's first env step.
        num_steps: model steps; the episode has one frame more.
        seed: of the start and of the varied looks.
        looks: draws a look, such as `sample_look`; without it there is no `pixels_varied`.
        frame_skip: env steps a model step; the task's own when not given.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    skip = env.frame_skip if frame_skip is None else frame_skip
    look_rng = np.random.default_rng([seed, 1])
    env.reset(seed=seed)
    pixels, varied, states = [], [], []
    actions = np.full((num_steps + 1, env.mj_model.nu), np.nan, np.float32)
    for index in range(num_steps + 1):
        pixels.append(env.render())
        states.append(env.get_state())
        if looks is not None:
            if index % LOOK_PERIOD == 0:
                look = looks(look_rng)
            varied.append(env.render(look=replace(look, noise_seed=look.noise_seed + index)))
        if index < num_steps:
            actions[index] = policy.act(index * skip, states[-1])
            env.advance(actions[index], skip)
    state = np.stack(states)
    return Episode(
        pixels=np.stack(pixels),
        proprio=env.proprio(state),
        state=state,
        action=actions,
        seed=seed,
        frame_skip=skip,
        pixels_varied=np.stack(varied) if varied else None,
    )
