"""Logging episodes in parallel: workers roll out, one writer keeps the store; or several machines fill it.

Each worker has its own environment, asks for one episode index after another, and stages what it finished;
the writer packs shards. What an episode holds depends on the recipe and its index alone, so that neither the
number of workers or machines nor a stop in between changes a byte of the result.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from wm_plan.envs import LookRanges, choose_backend
from wm_plan.envs.camera_env import CameraEnv
from wm_plan.envs.factors import FactorRanges, parse_factors
from wm_plan.envs.rollout import LOOK_PERIOD
from wm_plan.logging_policies import LoggingPolicies
from wm_plan.policy_language import parse_policies
from wm_plan.rollout_workers import Staged, episode_seed, open_env, roll_out, staged_by_processes
from wm_plan.worker_processes import stop_on_interrupt
from wm_plan.world_model.store_share import StoreShare
from wm_plan.world_model.store_writer import StoreWriter

__all__ = [
    "CollectConfig",
    "Collected",
    "check_store",
    "collect",
    "episode_seed",
    "library_versions",
    "make_recipe",
    "parse_shard",
    "roll_out",
]

Shard = tuple[int, int]
"""The i-th of n parts of the episodes, from (1, n) to (n, n): every n-th episode, from index i - 1 on."""


@dataclass
class CollectConfig:
    """What is to be logged; every field but `env` has a sensible default.

    Attributes:
        env: what `wm_plan.envs.make` knows: a built-in task, a gymnasium id, a dm_control task, an MJCF file.
        num_episodes: episodes wanted in the store.
        num_steps: model steps an episode; it has one row more.
        policy: the logging policy or a mix of them (`wm_plan.policy_language`); the task's own when None.
        seed: together with its index it decides each episode.
        image_size: height and width of a frame [px]; the task's own when None.
        varied: also log `pixels_varied`, the same states in random looks: "all" (see `LookRanges`: light,
            colours, floor, camera, ...) or "renderer" (what other renderer settings change); None logs none.
        factors: what differs from episode to episode, in which ranges (`wm_plan.envs.factors`), such as
            "light,camera,mass=.5:2"; each episode's are stored with it. None for nothing.
        camera: whose view is logged; the environment's own choice when None.
        frame_skip: env steps a model step; the environment's own when None.
        msaa: samples of the frames' antialiasing; 4 when None, which is what controllers see. In software 0
            costs a third, and differs at edges.
        episodes_per_shard: episodes in one HDF5 file.
    """

    env: str
    num_episodes: int = 600
    num_steps: int = 40
    policy: str | None = None
    seed: int = 0
    image_size: int | None = None
    varied: str | None = None
    factors: str | None = None
    camera: str | None = None
    frame_skip: int | None = None
    msaa: int | None = None
    episodes_per_shard: int = 250

    def __post_init__(self) -> None:
        for name in ("num_episodes", "num_steps", "episodes_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.varied not in (None, "all", "renderer"):
            raise ValueError(f"varied must be 'all' or 'renderer', got {self.varied!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if self.policy is not None:
            parse_policies(self.policy)
        if self.factors is not None:
            parse_factors(self.factors)


@dataclass
class Collected:
    """How a collection went.

    Attributes:
        finished: episodes that are there, of the store or of the shard; earlier runs' included.
        num_frames: rows logged by this run.
        seconds: from the first worker's readiness to the end [s].
        stopped: the user stopped it before all were there.
        complete: the store has all its episodes, packed; a shard may be there before the others.
    """

    finished: int
    num_frames: int
    seconds: float
    stopped: bool
    complete: bool

    @property
    def frames_per_second(self) -> float:
        """Rows logged a second, by all workers together."""
        return self.num_frames / self.seconds if self.seconds > 0 else 0.0


def make_recipe(config: CollectConfig) -> dict[str, Any]:
    """Everything that decides the values in the data, as JSON; checks names and sizes on the way.

    Raises:
        ValueError: an unknown env, policy or factor, one that does not fit the env, or an image size that
            cannot be drawn.
    """
    env = open_env(
        {name: getattr(config, name) for name in ("env", "image_size", "camera", "frame_skip", "msaa")},
        render=False,
    )
    try:
        policies = LoggingPolicies(config.policy or env.logging_policy, env)
        recipe = {
            "env": env.name,
            "camera": env.camera,
            "image_size": env.image_size,
            "frame_skip": env.frame_skip,
            "control_timestep": env.control_timestep,
            "num_steps": config.num_steps,
            "policy": config.policy or env.logging_policy,
            "seed": config.seed,
            "action_low": env.action_space.low.tolist(),
            "action_high": env.action_space.high.tolist(),
            "proprio": list(env.proprio_names),
            "look": asdict(env.look),
            "varied": config.varied,
            "varied_looks": asdict(LookRanges()) if config.varied == "all" else None,
            "look_period": LOOK_PERIOD if config.varied else None,
        }
        if config.msaa is not None:
            recipe["msaa"] = config.msaa
        if len(policies.specs) > 1:
            recipe["policies"] = [spec.text for spec in policies.specs]
        if fingerprints := policies.fingerprints():
            recipe["policy_fingerprints"] = fingerprints
        if config.factors is not None:
            recipe["factors"] = _checked_factors(config.factors, env).as_json()
    finally:
        env.close()
    return json.loads(json.dumps(recipe))


def parse_shard(text: str) -> Shard:
    """Read "3/8".

    Raises:
        ValueError: it is no such pair, or the first number is not from 1 to the second.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"a shard is I/N, from 1/N to N/N, such as 3/8; got {text!r}")
    return int(match[1]), int(match[2])


def check_store(
    config: CollectConfig,
    root: str | Path,
    *,
    shard: Shard | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Raise the ValueError that `collect` would before any work, and give the recipe; nothing is touched."""
    recipe = make_recipe(config)
    if shard is None:
        StoreWriter.check(root, recipe, config.num_episodes, resume=resume, overwrite=overwrite)
    elif overwrite:
        raise ValueError(
            "a shard joins a store that others fill too, and does not overwrite it; delete it first"
        )
    else:
        StoreShare.check(root, recipe, config.num_episodes)
    return recipe


def collect(
    config: CollectConfig,
    root: str | Path,
    *,
    num_workers: int | None = None,
    shard: Shard | None = None,
    ray: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda finished, num_frames: None,
) -> Collected:
    """Log the episodes that are missing in the store at `root`, and complete it.

    The first Ctrl-C ends it after the episodes at hand, a second one at once; both keep what is finished, to
    be resumed.

    Args:
        config: what to log.
        root: the store's folder.
        num_workers: processes that roll out, 2 when None; with `ray` actors, as many as there are CPUs.
        shard: log this part of the episodes only, into a store that others may be filling at the same time.
            The one that finds all episodes there completes it.
        ray: address of a Ray cluster that rolls out, or "local".
        resume: go on with the store at `root`; a shard always does.
        overwrite: delete the store at `root` first.
        on_progress: called with the episodes finished and the rows logged so far, after each episode.

    Raises:
        ValueError: see `make_recipe`, `StoreWriter` and `StoreShare`; no GL backend works; a worker process
            was killed.
    """
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    recipe = check_store(config, root, shard=shard, resume=resume, overwrite=overwrite)
    settings: dict[str, Any] = {
        "episodes_per_shard": config.episodes_per_shard,
        "versions": library_versions(),
    }

    def staged(missing: list[int], stop: threading.Event) -> Staged:
        if ray is not None:
            from wm_plan.ray_workers import staged_by_ray

            return staged_by_ray(ray, Path(root), recipe, missing, num_workers, stop)
        return staged_by_processes(Path(root), recipe, missing, num_workers or 2, stop)

    if ray is None:
        choose_backend()
    watch = _Watch(config.num_steps + 1, on_progress)
    if shard is not None:
        with StoreShare(root, recipe, config.num_episodes, **settings) as share:
            mine = range(shard[0] - 1, config.num_episodes, shard[1])
            missing = share.missing(mine)
            watch.run(staged, missing, len(mine) - len(missing), lambda index: None)
            left = share.missing(mine)
            complete = share.finish()
        return watch.collected(len(mine) - len(left), stopped=bool(left), complete=complete)
    with StoreWriter(
        root, recipe, config.num_episodes, resume=resume, overwrite=overwrite, **settings
    ) as writer:
        watch.run(staged, writer.missing(), writer.num_finished(), writer.commit)
        finished, stopped = writer.num_finished(), bool(writer.missing())
    return watch.collected(finished, stopped=stopped, complete=not stopped)


class _Watch:
    """Follows episodes as they come: tells the user, and keeps the time."""

    def __init__(self, num_rows: int, on_progress: Callable[[int, int], None]) -> None:
        self._num_rows, self._on_progress = num_rows, on_progress
        self._num_frames, self._start = 0, time.perf_counter()

    def run(
        self,
        staged: Callable[[list[int], threading.Event], Staged],
        missing: list[int],
        num_finished: int,
        commit: Callable[[int], None],
    ) -> None:
        """Have the missing episodes staged, and each committed."""
        self._on_progress(num_finished, 0)
        if not missing:
            return
        with stop_on_interrupt() as stop, closing(staged(missing, stop)) as indices:
            for index in indices:
                if index is None:
                    self._start = time.perf_counter()
                    continue
                commit(index)
                num_finished += 1
                self._num_frames += self._num_rows
                self._on_progress(num_finished, self._num_frames)

    def collected(self, finished: int, *, stopped: bool, complete: bool) -> Collected:
        """How it went."""
        return Collected(finished, self._num_frames, time.perf_counter() - self._start, stopped, complete)


def library_versions() -> dict[str, str]:
    """Versions of what decides the data: wm-plan itself, physics, and storage."""
    return {name: metadata.version(name) for name in ("wm-plan", "mujoco", "gymnasium", "numpy", "h5py")}


def _checked_factors(text: str, env: CameraEnv) -> FactorRanges:
    """The factors, tried on `env`."""
    from wm_plan.envs import TaskEnv

    ranges = parse_factors(text)
    if ranges.physics_names:
        if not isinstance(env, TaskEnv):
            raise ValueError(
                f"{env.name} does not run on MuJoCo, so {', '.join(ranges.physics_names)} cannot be varied"
            )
        env.set_physics(ranges.sample(np.random.default_rng(0)).physics)
        env.set_physics(None)
    return ranges
