"""The policies that make logs, ready to act: see `policy_language` for their names and options."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from wm_plan.policy_language import PolicySpec, parse_policies
from wm_plan.world_model.manifest import MANIFEST_NAME, Manifest

if TYPE_CHECKING:
    from wm_plan.envs import Policy
    from wm_plan.envs.camera_env import CameraEnv, State

_RATE_TOLERANCE = 0.02

Action = Float32[np.ndarray, " action"]


class LoggingPolicies:
    """The policies that `text` names, ready to act in `env`; models and logs are read once.

    Attributes:
        specs: the policies of the mix.

    Raises:
        ValueError: see `parse_policies`; or a checkpoint, a predictor or logs that do not fit the env.
    """

    def __init__(self, text: str, env: CameraEnv) -> None:
        self.env = env
        self.specs = parse_policies(text)
        self._makers = [_MAKERS.get(spec.name, _Plain)(spec, env) for spec in self.specs]
        weights = np.array([spec.weight for spec in self.specs])
        self._shares = weights / weights.sum()

    def fingerprints(self) -> dict[str, str]:
        """What the data depend on beside names and options: SHA-256 of each checkpoint, predictor and log."""
        return {
            spec.text: digest
            for spec, maker in zip(self.specs, self._makers, strict=True)
            if (digest := getattr(maker, "fingerprint", None)) is not None
        }

    def make(self, index: int, seed: int) -> tuple[int, Policy]:
        """The policy of episode `index`: its place in `specs`, and itself; `seed` decides what is random."""
        kind = 0
        if len(self.specs) > 1:
            kind = int(np.random.default_rng([seed, 3]).choice(len(self.specs), p=self._shares))
        rng = np.random.default_rng([seed, 2])
        policy, spec = self._makers[kind](rng, index), self.specs[kind]
        if spec.bursts:
            policy = _Bursts(policy, spec.bursts, self.env, np.random.default_rng([seed, 5]))
        if spec.noise:
            policy = _Noisy(policy, spec.noise, self.env, np.random.default_rng([seed, 4]))
        return kind, policy


class _Around:
    """Another policy, some of whose actions are changed; episodes start where it says."""

    def __init__(self, policy: Policy, env: CameraEnv, rng: np.random.Generator) -> None:
        self._policy, self._rng, self._skip = policy, rng, env.frame_skip
        self._low, self._high = env.action_space.low, env.action_space.high

    def initial_state(self) -> State | None:
        start = getattr(self._policy, "initial_state", None)
        return None if start is None else start()


class _Bursts(_Around):
    """Another policy's actions, and now and then, for 6 to 15 model steps, random ones in their place.

    What a planner's search tries is mostly what no script would do: it must be in the logs, from wherever the
    script leads. A burst's noise has a std of .3 to 1 of half the range, and a correlation from one model
    step to the next of 0, .5 or .9, drawn for each.
    """

    def __init__(self, policy: Policy, rate: float, env: CameraEnv, rng: np.random.Generator) -> None:
        super().__init__(policy, env, rng)
        self._rate, self._left = rate, 0
        self._random: Action | None = None

    def act(self, step: int, state: State) -> Action:
        if step == 0:
            self._left = 0
        action = self._policy.act(step, state)  # it goes on, so that it knows its episode
        if step % self._skip == 0:
            self._random = self._next()
        return action if self._random is None else self._random

    def _next(self) -> Action | None:
        from wm_plan.envs.policies import scale_to_bounds

        rng = self._rng
        if self._left == 0:
            if rng.random() >= self._rate:
                return None
            self._left = int(rng.integers(6, 16))
            self._correlation, self._std = rng.choice((0.0, 0.5, 0.9)), rng.uniform(0.3, 1.0)
            self._noise = rng.standard_normal(self._low.shape)
        self._left -= 1
        fresh = rng.standard_normal(self._low.shape)
        self._noise = self._correlation * self._noise + (1 - self._correlation**2) ** 0.5 * fresh
        return scale_to_bounds(self._std * self._noise, self._low, self._high)


class _Noisy(_Around):
    """Another policy's actions with Gaussian noise on each model step's, clipped to the bounds."""

    def __init__(self, policy: Policy, std: float, env: CameraEnv, rng: np.random.Generator) -> None:
        super().__init__(policy, env, rng)
        self._std = std * (self._high - self._low) / 2
        self._noise = np.zeros_like(self._low)

    def act(self, step: int, state: State) -> Action:
        if step % self._skip == 0:
            self._noise = self._std * self._rng.standard_normal(self._low.shape)
        action = self._policy.act(step, state) + self._noise
        return np.clip(action, self._low, self._high).astype(np.float32)


class _Plain:
    """What `envs.make_policy` makes: the random ones and the scripted ones."""

    def __init__(self, spec: PolicySpec, env: CameraEnv) -> None:
        kind = spec.options.get("kind")
        self._name, self._env = spec.name if kind is None else f"{spec.name}:{kind}", env
        self(np.random.default_rng(0), 0)

    def __call__(self, rng: np.random.Generator, index: int) -> Policy:
        from wm_plan.envs import make_policy

        return make_policy(self._name, self._env, rng)


class _Goals:
    """One random goal after another: the next one when a rest at this one is over, or after a while."""

    def __init__(self, env: CameraEnv, rng: np.random.Generator) -> None:
        self._env, self._rng = env, rng
        self.state: State = np.zeros(0)
        self._patience = self._rest = 0

    def update(self, step: int, state: State) -> bool:
        """Whether `self.state` is another goal than before."""
        from wm_plan.envs import TaskEnv

        judged = step > 0 and isinstance(self._env, TaskEnv) and self._env.reached(state, self.state)
        self._patience -= 1
        self._rest -= judged
        if step > 0 and self._patience >= 0 and self._rest >= 0:
            return False
        self.state = self._env.sample_state(self._rng)
        self._patience, self._rest = int(self._rng.integers(20, 60)), int(self._rng.integers(0, 10))
        return True


class _SB3:
    """Policies trained by reinforcement, with goals or without."""

    def __init__(self, spec: PolicySpec, env: CameraEnv) -> None:
        from wm_plan.planners.rl import load_policy, shipped_policies
        from wm_plan.planners.sb3_checkpoint import SB3Policy

        given = spec.options.get("checkpoint", env.name)
        self._env = env
        self._act: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
        if given.endswith(".zip"):
            actor = SB3Policy(given, env.action_space.low, env.action_space.high)
            self._actor = actor
            actor.act(env.observe()["proprio"])
            self.fingerprint = _digest(Path(given))
            return
        policy = load_policy(given)
        env.sample_state(np.random.default_rng(0))
        if policy.env_name != env.name:
            raise ValueError(f"{spec.text!r} was trained in {policy.env_name!r}, not in {env.name!r}")
        if policy.config.observation != "state":
            raise ValueError(f"{spec.text!r} acts on latents; logs are made by a policy on state")
        self._act = policy.act
        if given not in shipped_policies():
            self.fingerprint = _digest(Path(given))

    def __call__(self, rng: np.random.Generator, index: int) -> Policy:
        return _SB3Run(self, self._env, rng)

    def act(self, seen: np.ndarray, goal: np.ndarray | None) -> np.ndarray:
        """The mean action: towards a goal from state features, or from proprio."""
        if self._act is None or goal is None:
            return self._actor.act(seen)
        return self._act(seen, goal)

    @property
    def has_goals(self) -> bool:
        """Whether it goes to goals."""
        return self._act is not None


class _SB3Run:
    """One episode of an SB3 policy."""

    def __init__(self, maker: _SB3, env: CameraEnv, rng: np.random.Generator) -> None:
        self._maker, self._env = maker, env
        self._goals = _Goals(env, rng) if maker.has_goals else None
        self._goal: np.ndarray | None = None

    def act(self, step: int, state: State) -> Action:
        from wm_plan.envs import TaskEnv

        env = self._env
        if self._goals is not None:
            assert isinstance(env, TaskEnv)
            if self._goals.update(step, state):
                self._goal = env.features(self._goals.state)
            return self._maker.act(env.features(state), self._goal)
        felt = env.proprio(state) if isinstance(env, TaskEnv) else env.observe()["proprio"]
        return self._maker.act(felt.astype(np.float32), None)


class _Planner:
    """Our own controller, on the task's shipped predictor or another."""

    def __init__(self, spec: PolicySpec, env: CameraEnv) -> None:
        self._spec, self._env = spec, env
        env.sample_state(np.random.default_rng(0))
        model = spec.options.get("model")
        self.fingerprint = None if model is None else _digest(Path(model))
        _ = self.controller

    @cached_property
    def controller(self) -> Any:  # noqa: ANN401
        """The control loop that all episodes share."""
        from wm_plan.envs import TaskEnv
        from wm_plan.planning import check_fits, load

        options = self._spec.options
        samples = options.get("samples")
        overrides = [] if samples is None else [f"planner.num_samples={samples}"]
        controller = load(
            options.get("model", self._env.name), planner=options.get("planner", "cem"), overrides=overrides
        )
        assert isinstance(self._env, TaskEnv)
        check_fits(self._env, controller)
        if controller.frame_skip != self._env.frame_skip:
            raise ValueError(
                f"the predictor of {self._spec.text!r} has frame_skip {controller.frame_skip}, "
                f"{self._env.name} {self._env.frame_skip}; use one trained with the same"
            )
        return controller

    def __call__(self, rng: np.random.Generator, index: int) -> Policy:
        return _PlannerRun(self.controller, self._env, rng)


class _PlannerRun:
    """One episode of the controller; it sees the env's own look, whatever is logged."""

    def __init__(self, controller: Any, env: CameraEnv, rng: np.random.Generator) -> None:  # noqa: ANN401
        self._controller, self._env = controller, env
        self._goals = _Goals(env, rng)
        self._seed = int(rng.integers(2**31))

    def act(self, step: int, state: State) -> Action:
        controller = self._controller
        if step == 0:
            controller.reset(seed=self._seed)
        if self._goals.update(step, state):
            controller.set_goal(self._env.render_goal(self._goals.state))
        observation = self._env.observe()
        action = controller.act(observation)
        for _ in range(controller.frame_skip - 1):  # it counts env steps, and is asked once a model step
            controller.act(observation)
        return action


class _Replay:
    """Logged actions, episode after episode, from the states where they began if these are known."""

    def __init__(self, spec: PolicySpec, env: CameraEnv) -> None:
        from wm_plan.world_model.formats import default_columns, open_source

        path = Path(spec.options["source"])
        self._env, self._source = env, open_source(path)
        columns = default_columns(self._source)
        if "action" not in columns:
            raise ValueError(f"{path} has no actions to replay; it has {', '.join(self._source.columns)}")
        self._action = columns["action"]
        shape, rate = self._source.columns[self._action].shape, 1 / (env.frame_skip * env.control_timestep)
        if shape != env.action_space.shape:
            raise ValueError(
                f"the actions of {path} have shape {shape}; {env.name} takes {env.action_space.shape}"
            )
        if self._source.fps is not None and abs(self._source.fps / rate - 1) > _RATE_TOLERANCE:
            raise ValueError(
                f"{path} was logged at {self._source.fps:g} rows a second; {env.name} takes {rate:g} with "
                f"frame skip {env.frame_skip}. Give the frame skip that fits"
            )
        state = self._source.columns.get("state")
        self._starts = bool(env.has_state and state is not None and state.shape == env.get_state().shape)
        self.fingerprint = _digest(path)

    def __call__(self, rng: np.random.Generator, index: int) -> Policy:
        episode = index % len(self._source.lengths)
        columns = self._source.read(episode, [self._action, *(["state"] if self._starts else [])])
        actions = columns[self._action]
        actions = actions[np.isfinite(actions).all(axis=1)]
        low, high = self._env.action_space.low, self._env.action_space.high
        start = columns["state"][0].astype(np.float64) if self._starts else None
        return _ReplayRun(np.clip(actions, low, high).astype(np.float32), start, self._env)


class _ReplayRun:
    """One logged episode's actions; after the last one, the middle of the bounds."""

    def __init__(self, actions: np.ndarray, start: State | None, env: CameraEnv) -> None:
        self._actions, self._start, self._skip = actions, start, env.frame_skip
        self._rest = ((env.action_space.low + env.action_space.high) / 2).astype(np.float32)

    def initial_state(self) -> State | None:
        return self._start

    def act(self, step: int, state: State) -> Action:
        row = step // self._skip
        return self._actions[row] if row < len(self._actions) else self._rest


_MAKERS: dict[str, Callable[[PolicySpec, Any], Callable[[np.random.Generator, int], Any]]] = {
    "random": _Plain,
    "waypoints": _Plain,
    "scripted": _Plain,
    "sb3": _SB3,
    "planner": _Planner,
    "replay": _Replay,
}


def _digest(path: Path) -> str:
    """SHA-256 over names and contents of what lies at `path`; for a trajectory store over its shards."""
    if (path / MANIFEST_NAME).is_file():
        shards = "".join(shard.sha256 for shard in Manifest.load(path).shards)
        return hashlib.sha256(shards.encode()).hexdigest()
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    for file in files:
        digest.update(f"{file.relative_to(path)}\n".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
