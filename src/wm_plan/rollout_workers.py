"""Rolling episodes out in parallel: an episode's columns as a function of the recipe and its index alone."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_plan.envs import PLAIN, LookRanges, make, sample_look, sample_renderer_look
from wm_plan.envs.factors import FactorRanges
from wm_plan.logging_policies import LoggingPolicies
from wm_plan.world_model.store_writer import stage_episode

if TYPE_CHECKING:
    from wm_plan.envs import Episode
    from wm_plan.envs.camera_env import CameraEnv

POLL_SECONDS = 0.2
_GOODBYE_SECONDS = 30.0

Staged = Generator[int | None, None, None]
"""None once, when the first worker is ready; then the index of each episode that is staged."""


def episode_seed(seed: int, index: int) -> int:
    """The seed of episode `index`: numpy's `SeedSequence(seed, spawn_key=(index,))`, 63 bits of it."""
    return int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)[0] >> 1)


class EpisodeMaker:
    """Makes any episode of a recipe; env, models and logs are opened once.

    Args:
        recipe: see `wm_plan.collecting.make_recipe`.
        env: made from the recipe when not given; closed by `close`.
    """

    def __init__(self, recipe: Mapping[str, Any], env: CameraEnv | None = None) -> None:
        self.recipe = recipe
        self.env = open_env(recipe) if env is None else env
        self.policies = LoggingPolicies(recipe["policy"], self.env)
        if "torch" in sys.modules:  # one thread: the same bits however many workers there are
            sys.modules["torch"].set_num_threads(1)
        factors = recipe.get("factors")
        self._factors = None if factors is None else FactorRanges.from_json(factors)
        self._looks: Callable[[np.random.Generator], Any] | None = None
        if recipe["varied"] == "renderer":
            self._looks = sample_renderer_look
        elif recipe["varied"] == "all":
            self._looks = partial(sample_look, ranges=LookRanges(**recipe["varied_looks"]))

    def episode(self, index: int) -> tuple[Episode, int]:
        """Episode `index`, and which policy of the mix made it."""
        from wm_plan.envs import collect_episode

        seed = episode_seed(self.recipe["seed"], index)
        kind, policy = self.policies.make(index, seed)
        factors = None if self._factors is None else self._factors.sample(np.random.default_rng([seed, 5]))
        steps = self.recipe["num_steps"]
        return collect_episode(self.env, policy, steps, seed, self._looks, factors=factors), kind

    def columns(self, index: int) -> dict[str, np.ndarray]:
        """Episode `index` as columns of a store: its arrays, what it drew, and which policy made it."""
        episode, kind = self.episode(index)
        columns = episode_columns(episode)
        if len(self.policies.specs) > 1:
            columns["policy_id"] = np.full(len(episode), kind, np.int8)
        return columns

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def open_env(recipe: Mapping[str, Any], *, render: bool = True) -> CameraEnv:
    """The environment of a recipe."""
    chosen = {key: recipe[key] for key in ("camera", "frame_skip") if recipe.get(key) is not None}
    if recipe.get("msaa") is not None:
        chosen["look"] = replace(PLAIN, samples=recipe["msaa"])
    return make(recipe["env"], image_size=recipe["image_size"], render=render, **chosen)


def roll_out(env: CameraEnv, recipe: Mapping[str, Any], index: int) -> Episode:
    """Episode `index` of a recipe, in an environment that is open."""
    return EpisodeMaker(recipe, env).episode(index)[0]


def episode_columns(episode: Episode) -> dict[str, np.ndarray]:
    """The columns of the store: every array of the episode that holds anything, and its factors."""
    arrays = {name: value for name, value in vars(episode).items() if isinstance(value, np.ndarray)}
    factors = {} if episode.factors is None else episode.factors.columns(len(episode))
    return {name: value for name, value in (arrays | factors).items() if value.size}


def staged_by_processes(
    root: Path, recipe: dict[str, Any], indices: list[int], num_workers: int, stop: threading.Event
) -> Staged:
    """Have worker processes of this machine stage these episodes at `root`.

    Raises:
        ValueError: an episode cannot be made, or a worker was killed.
    """
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
            for connection in wait(list(workers), timeout=POLL_SECONDS):
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
        maker = EpisodeMaker(recipe)
        try:
            connection.send(("finished", None))
            while (index := connection.recv()) is not None:
                stage_episode(root, index, maker.columns(index))
                connection.send(("finished", index))
        finally:
            maker.close()
    except (EOFError, ConnectionError):
        return
    except ValueError as error:
        connection.send(("refused", str(error)))
    except Exception:
        connection.send(("failed", traceback.format_exc()))


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
