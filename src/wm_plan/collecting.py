"""Logging episodes in parallel: worker processes roll out, one writer keeps the store.

Each worker has its own environment, asks for one episode index after another, and stages what it finished;
the writer packs shards. What an episode holds depends on the recipe and its index alone, so that neither the
number of workers nor a stop in between changes a byte of the result.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box

from wm_plan.envs import LookRanges, choose_backend, make, sample_look, sample_renderer_look
from wm_plan.envs.rollout import LOOK_PERIOD
from wm_plan.world_model.store_writer import StoreWriter, stage_episode

if TYPE_CHECKING:
    from wm_plan.envs import Episode, Policy, TaskEnv

_POLL_SECONDS = 0.2
_GOODBYE_SECONDS = 30.0


@dataclass
class CollectConfig:
    """What is to be logged; every field but `env` has a sensible default.

    Attributes:
        env: name of a built-in task.
        num_episodes: episodes wanted in the store.
        num_steps: model steps an episode; it has one row more.
        policy: name of the logging policy; the task's own when None.
        seed: together with its index it decides each episode.
        image_size: height and width of a frame [px]; the task's own when None.
        varied: also log `pixels_varied`, the same states in random looks: "all" (see `LookRanges`: light,
            colours, floor, camera, ...) or "renderer" (what other renderer settings change); None logs none.
        episodes_per_shard: episodes in one HDF5 file.
    """

    env: str
    num_episodes: int = 600
    num_steps: int = 40
    policy: str | None = None
    seed: int = 0
    image_size: int | None = None
    varied: str | None = None
    episodes_per_shard: int = 250

    def __post_init__(self) -> None:
        for name in ("num_episodes", "num_steps", "episodes_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.varied not in (None, "all", "renderer"):
            raise ValueError(f"varied must be 'all' or 'renderer', got {self.varied!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")


@dataclass
class Collected:
    """How a collection went.

    Attributes:
        finished: episodes in the store, earlier runs' included.
        num_frames: rows logged by this run.
        seconds: from the first worker's readiness to the end [s].
        stopped: the user stopped it before all were there.
    """

    finished: int
    num_frames: int
    seconds: float
    stopped: bool

    @property
    def frames_per_second(self) -> float:
        """Rows logged a second, by all workers together."""
        return self.num_frames / self.seconds if self.seconds > 0 else 0.0


def make_recipe(config: CollectConfig) -> dict[str, Any]:
    """Everything that decides the values in the data, as JSON; checks names and sizes on the way.

    Raises:
        ValueError: an unknown env or policy, or an image size that cannot be drawn.
    """
    env = make(config.env, image_size=config.image_size, render=False)
    assert isinstance(env.action_space, Box)
    try:
        policy = config.policy or env.logging_policy
        _make_policy(policy, env, episode_seed(config.seed, 0))
        recipe = {
            "env": env.name,
            "camera": env.parts.camera,
            "image_size": env.image_size,
            "frame_skip": env.frame_skip,
            "control_timestep": env.control_timestep,
            "num_steps": config.num_steps,
            "policy": policy,
            "seed": config.seed,
            "action_low": env.action_space.low.tolist(),
            "action_high": env.action_space.high.tolist(),
            "proprio": list(env.proprio_names),
            "look": asdict(env.look),
            "varied": config.varied,
            "varied_looks": asdict(LookRanges()) if config.varied == "all" else None,
            "look_period": LOOK_PERIOD if config.varied else None,
        }
    finally:
        env.close()
    return json.loads(json.dumps(recipe))


def episode_seed(seed: int, index: int) -> int:
    """The seed of episode `index`: numpy's `SeedSequence(seed, spawn_key=(index,))`, 63 bits of it."""
    return int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)[0] >> 1)


def collect(
    config: CollectConfig,
    root: str | Path,
    *,
    num_workers: int = 2,
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
        num_workers: processes that roll out.
        resume: go on with the store at `root`.
        overwrite: delete the store at `root` first.
        on_progress: called with the episodes finished and the rows logged so far, after each episode.

    Raises:
        ValueError: see `make_recipe` and `StoreWriter`; no GL backend works; a worker process was killed.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    recipe = make_recipe(config)
    StoreWriter.check(root, recipe, config.num_episodes, resume=resume, overwrite=overwrite)
    choose_backend()
    num_frames, start = 0, time.perf_counter()
    with StoreWriter(
        root,
        recipe,
        config.num_episodes,
        episodes_per_shard=config.episodes_per_shard,
        resume=resume,
        overwrite=overwrite,
        versions=library_versions(),
    ) as writer:
        missing = writer.missing()
        on_progress(writer.num_finished(), 0)
        with (
            _stop_on_interrupt() as stop,
            closing(_rolled_out(Path(root), recipe, missing, num_workers, stop)) as staged,
        ):
            for index in staged:
                if index is None:
                    start = time.perf_counter()
                    continue
                writer.commit(index)
                num_frames += config.num_steps + 1
                on_progress(writer.num_finished(), num_frames)
        finished, stopped = writer.num_finished(), bool(writer.missing())
    return Collected(finished, num_frames, time.perf_counter() - start, stopped)


def library_versions() -> dict[str, str]:
    """Versions of what decides the data: wm-plan itself, physics, and storage."""
    return {name: metadata.version(name) for name in ("wm-plan", "mujoco", "gymnasium", "numpy", "h5py")}


def roll_out(env: TaskEnv, recipe: dict[str, Any], index: int) -> Episode:
    """Episode `index` of a recipe."""
    from wm_plan.envs import collect_episode

    seed = episode_seed(recipe["seed"], index)
    looks: Callable[[np.random.Generator], Any] | None = None
    if recipe["varied"] == "renderer":
        looks = sample_renderer_look
    elif recipe["varied"] == "all":
        ranges = LookRanges(**recipe["varied_looks"])

        looks = partial(sample_look, ranges=ranges)

    return collect_episode(env, _make_policy(recipe["policy"], env, seed), recipe["num_steps"], seed, looks)


def episode_columns(episode: Episode) -> dict[str, np.ndarray]:
    """The columns of the store: every array of the episode."""
    return {name: value for name, value in vars(episode).items() if isinstance(value, np.ndarray)}


def _make_policy(name: str, env: TaskEnv, seed: int) -> Policy:
    from wm_plan.envs import make_policy

    return make_policy(name, env, np.random.default_rng([seed, 2]))


def _rolled_out(
    root: Path, recipe: dict[str, Any], indices: list[int], num_workers: int, stop: threading.Event
) -> Generator[int | None, None, None]:
    """Have workers stage these episodes; yields None once, at the start, then each index that is there."""
    todo = iter(indices)
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, Any] = {}
    for _ in range(min(num_workers, len(indices))):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, root, recipe), daemon=True)
        with _interrupts_ignored():
            process.start()
        theirs.close()
        workers[ours] = process
    started = False
    try:
        while workers:
            for connection in wait(list(workers), timeout=_POLL_SECONDS):
                assert isinstance(connection, Connection)
                answer = _receive(connection, workers[connection])
                if not started:
                    yield None
                    started = True
                if answer is not None:
                    yield answer
                task = None if stop.is_set() else next(todo, None)
                connection.send(task)
                if task is None:
                    workers.pop(connection).join(_GOODBYE_SECONDS)
                    connection.close()
    finally:
        for connection, process in workers.items():
            process.terminate()
            process.join()
            connection.close()


def _receive(connection: Connection, process: Any) -> int | None:  # noqa: ANN401
    """What a worker says: None when it is ready, else the index of a finished episode."""
    try:
        kind, value = connection.recv()
    except (EOFError, ConnectionError):
        process.join(_GOODBYE_SECONDS)
        raise ValueError(
            f"a worker process died (exit code {process.exitcode}; -9 is often a lack of memory); "
            "use fewer workers and resume"
        ) from None
    if kind == "refused":
        raise ValueError(value)
    if kind == "failed":
        raise RuntimeError(f"a worker failed:\n{value}")
    return value


def _work(connection: Connection, root: Path, recipe: dict[str, Any]) -> None:
    """The body of a worker process; it ends when told so, and when the parent is gone."""
    try:
        env = make(recipe["env"], image_size=recipe["image_size"])
        try:
            connection.send(("finished", None))
            while (index := connection.recv()) is not None:
                stage_episode(root, index, episode_columns(roll_out(env, recipe, index)))
                connection.send(("finished", index))
        finally:
            env.close()
    except (EOFError, ConnectionError):
        return
    except ValueError as error:
        connection.send(("refused", str(error)))
    except Exception:
        connection.send(("failed", traceback.format_exc()))


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second raises KeyboardInterrupt as ever."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let a process that starts now ignore Ctrl-C, which the terminal sends to it as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
