"""Policies that make logs: random ones for every environment, and a scripted walk through waypoints."""

import difflib
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64

from .camera_env import CameraEnv, State
from .task import TaskEnv

_PINK_LENGTH = 256
_LONGEST_HOLD = 8


@runtime_checkable
class Policy(Protocol):
    """Anything that chooses actions; it may know the true state, since it only makes logs."""

    def act(self, step: int, state: State) -> Float32[np.ndarray, " action"]:
        """The action at env step `step` of an episode, inside the bounds; step 0 starts a new episode."""
        ...


@runtime_checkable
class StartsAnywhere(Protocol):
    """A policy that says where its episodes start."""

    def initial_state(self) -> State | None:
        """The state before step 0; None leaves it to the environment."""
        ...


class RandomPolicy:
    """Correlated noise, held for `frame_skip` env steps, of a strength drawn anew for each episode.

    The noise follows a <- .8 a + .6 n with n standard normal (its own std is 1), times the episode's
    amplitude in [.15, 1]. In between come stretches of rest (zero action) and of braking (against the
    velocities), so that slow motion and standing still are in the logs too: a planner that must stay at its
    goal needs both.
    """

    def __init__(self, env: CameraEnv, rng: np.random.Generator) -> None:
        self._rng, self._hold = rng, env.frame_skip
        self._low, self._high = env.action_space.low, env.action_space.high
        self._num_positions = env.num_positions
        self._amplitude, self._mode, self._left = 1.0, "noise", 0
        self._noise = np.zeros_like(self._low)
        self._action = np.zeros_like(self._low)

    def act(self, step: int, state: State) -> Float32[np.ndarray, " action"]:
        """The action at env step `step`; it changes every `frame_skip` steps."""
        if step == 0:
            self._amplitude = self._rng.uniform(0.15, 1.0)
            self._noise = self._rng.standard_normal(self._low.shape)
            self._mode, self._left = "noise", 0
        if step % self._hold == 0:
            self._action = self._next(state)
        return self._action

    def _next(self, state: State) -> Float32[np.ndarray, " action"]:
        self._noise = 0.8 * self._noise + 0.6 * self._rng.standard_normal(self._low.shape)
        if self._left == 0:
            self._mode = str(self._rng.choice(("noise", "rest", "brake"), p=(0.8, 0.1, 0.1)))
            self._left = int(self._rng.integers(3, 9))
        self._left -= 1
        unit = self._amplitude * self._noise
        if self._mode == "rest":
            unit = np.zeros_like(unit)
        elif self._mode == "brake":
            velocity = state[self._num_positions :][: unit.size]
            strength = self._rng.uniform(0.2, 1.0)
            if velocity.size == unit.size:  # where there are no velocities to be seen, the noise goes on
                unit = -strength * velocity / max(1e-6, float(np.abs(velocity).max()))
        return scale_to_bounds(unit, self._low, self._high)


class WhitePolicy:
    """An action drawn uniformly from the bounds, anew every model step."""

    def __init__(self, env: CameraEnv, rng: np.random.Generator) -> None:
        self._rng, self._skip = rng, env.frame_skip
        self._low, self._high = env.action_space.low, env.action_space.high
        self._action = np.zeros_like(self._low)

    def act(self, step: int, state: State) -> Float32[np.ndarray, " action"]:
        """The action at env step `step`; it changes every `frame_skip` steps."""
        if step % self._skip == 0:
            self._action = self._draw(step // self._skip)
        return self._action

    def _draw(self, model_step: int) -> Float32[np.ndarray, " action"]:
        unit = self._rng.uniform(-1.0, 1.0, self._low.shape)
        return scale_to_bounds(unit, self._low, self._high)


class HeldPolicy(WhitePolicy):
    """An action drawn uniformly from the bounds, and held for 1 to 8 model steps."""

    def __init__(self, env: CameraEnv, rng: np.random.Generator) -> None:
        super().__init__(env, rng)
        self._left = 0

    def _draw(self, model_step: int) -> Float32[np.ndarray, " action"]:
        if model_step == 0 or self._left == 0:
            self._left = int(self._rng.integers(1, _LONGEST_HOLD + 1))
            self._action = super()._draw(model_step)
        self._left -= 1
        return self._action


class ColouredPolicy(WhitePolicy):
    """Pink noise: each action's power falls with its frequency as 1/f; its std is drawn for each episode.

    Slow enough to get somewhere and quick enough to stay near, whatever the task.

    Source: Eberhard et al., Pink Noise Is All You Need, ICLR 2023; drawn as by Timmer and Koenig,
        Astronomy and Astrophysics 300 (1995).
    """

    def _draw(self, model_step: int) -> Float32[np.ndarray, " action"]:
        if model_step == 0:
            self._std = self._rng.uniform(0.15, 1.0)
        index = model_step % _PINK_LENGTH
        if index == 0:
            self._noise = _pink_noise(self._rng, self._low.size)
        return scale_to_bounds(self._std * self._noise[index], self._low, self._high)


class WaypointPolicy:
    """A walk through random places of the task, with a speed drawn for each leg, noise, and rests on arrival.

    It knows the true state: a servo turns the way to the next waypoint into an action. A quarter of the
    episodes are `RandomPolicy` throughout, so that the logs also hold what nobody would do on purpose.
    """

    def __init__(self, env: CameraEnv, rng: np.random.Generator) -> None:
        if not isinstance(env, TaskEnv) or env.servo_gains is None:
            raise ValueError(f"{env.name} has no scripted policy; use one of {', '.join(_RANDOM)}")
        if env.mj_model.nu != env.mj_model.nq:
            raise ValueError(f"the policy 'waypoints' needs one actuator a joint; {env.name} has none such")
        self._env, self._rng, self._random = env, rng, RandomPolicy(env, rng)
        self._low, self._high = env.action_space.low, env.action_space.high
        self._action = np.zeros_like(self._low)
        self._noise = np.zeros_like(self._low)
        self._wanders, self._rest, self._patience = False, 0, 0

    def act(self, step: int, state: State) -> Float32[np.ndarray, " action"]:
        """The action at env step `step`; it changes every `frame_skip` steps."""
        if step == 0:
            self._wanders = bool(self._rng.random() < 0.25)
            self._start_leg(state)
        if self._wanders:
            return self._random.act(step, state)
        if step % self._env.frame_skip == 0:
            self._action = self._next(state)
        return self._action

    def _start_leg(self, state: State) -> None:
        self._goal = self._draw_goal(state[: self._env.mj_model.nq])
        self._speed = self._rng.uniform(0.3, 1.0) if self._rng.random() < 0.5 else 1.0
        self._noise_level = self._rng.choice((0.0, 0.1, 0.3))
        self._rest = int(self._rng.choice((0, 2, 5, 10)))
        self._patience = int(self._rng.integers(10, 60))

    def _draw_goal(self, position: Float64[np.ndarray, " nq"]) -> Float64[np.ndarray, " nq"]:
        """Any place of the task; in many legs one nearby, or this one, for many arrivals and rests."""
        place = self._env.sample_state(self._rng)[: position.size]
        kind = self._rng.choice(("far", "near", "stay"), p=(0.45, 0.4, 0.15))
        if kind != "far":
            part = self._rng.uniform(0.05, 0.4) if kind == "near" else 0.0
            nearer = position + part * self._env.offset_to(position, place)
            try:
                self._env.check_position(self._env.offset_to(np.zeros_like(nearer), nearer))
            except ValueError:
                return place
            return nearer
        return place

    def _next(self, state: State) -> Float32[np.ndarray, " action"]:
        env = self._env
        position, velocity = state[: env.mj_model.nq], state[env.mj_model.nq :]
        self._patience -= 1
        if env.position_error(position, self._goal).max() < env.tolerance:
            self._rest -= 1
            self._noise_level = 0.0
            if self._rest < 0:
                self._start_leg(state)
        elif self._patience < 0:
            self._start_leg(state)
        assert env.servo_gains is not None
        gain, look_ahead = env.servo_gains
        offset = env.offset_to(position, env.next_waypoint(position, self._goal))
        wanted = np.clip(gain * (offset - look_ahead * velocity), -self._speed, self._speed)
        self._noise = 0.8 * self._noise + 0.6 * self._rng.standard_normal(self._low.shape)
        return scale_to_bounds(wanted + self._noise_level * self._noise, self._low, self._high)


def scale_to_bounds(
    unit: Float[np.ndarray, " action"],
    low: Float32[np.ndarray, " action"],
    high: Float32[np.ndarray, " action"],
) -> Float32[np.ndarray, " action"]:
    """An action from numbers of which [-1, 1] spans the bounds; what lies beyond is clipped."""
    middle, half = (low + high) / 2, (high - low) / 2
    return np.clip(middle + half * unit, low, high).astype(np.float32)


def _pink_noise(rng: np.random.Generator, num_actions: int) -> Float[np.ndarray, "step action"]:
    """Noise of std 1 whose power falls as 1/f."""
    frequencies = np.fft.rfftfreq(_PINK_LENGTH)[1:]
    waves = rng.standard_normal((2, num_actions, frequencies.size)) / np.sqrt(frequencies)
    spectrum = np.concatenate([np.zeros((num_actions, 1)), waves[0] + 1j * waves[1]], axis=1)
    noise = np.fft.irfft(spectrum, n=_PINK_LENGTH)
    return (noise / noise.std(axis=1, keepdims=True)).T


_RANDOM: dict[str, Callable[[CameraEnv, np.random.Generator], Policy]] = {
    "random": RandomPolicy,
    "random:white": WhitePolicy,
    "random:coloured": ColouredPolicy,
    "random:held": HeldPolicy,
}


def _scripted_policy(env: CameraEnv, rng: np.random.Generator) -> Policy:
    """The task's own script, or else its walk through waypoints."""
    if not isinstance(env, TaskEnv):
        raise ValueError(f"{env.name} has no scripted policy; use one of {', '.join(_RANDOM)}")
    return WaypointPolicy(env, rng) if env.servo_gains is not None else env.scripted_policy(rng)


POLICIES: dict[str, Callable[[CameraEnv, np.random.Generator], Policy]] = {
    **_RANDOM,
    "waypoints": WaypointPolicy,
    "scripted": _scripted_policy,
}


def make_policy(name: str, env: CameraEnv, rng: np.random.Generator) -> Policy:
    """Make the policy `name` for `env`; the same `rng` state gives the same actions.

    Raises:
        ValueError: when there is no such policy, or it does not know the task.
    """
    if name not in POLICIES:
        near = difflib.get_close_matches(str(name), POLICIES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Unknown policy {name!r}.{hint} Known policies: {', '.join(POLICIES)}")
    return POLICIES[name](env, rng)
