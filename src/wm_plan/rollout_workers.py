"""Rolling episodes out in parallel: an episode's columns as a function of the recipe and its index alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_plan.envs import PLAIN, LookRanges, make, sample_look, sample_renderer_look
from wm_plan.envs.factors import FactorRanges
from wm_plan.logging_policies import LoggingPolicies
from wm_plan.worker_processes import run_in_processes
from wm_plan.world_model.store_writer import stage_episode

if TYPE_CHECKING:
    from wm_plan.envs import Episode
    from wm_plan.envs.camera_env import CameraEnv

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
    return run_in_processes(partial(_stager, root, recipe), indices, num_workers, stop)


@contextmanager
def _stager(root: Path, recipe: dict[str, Any]) -> Iterator[Callable[[int], int]]:
    """What a worker process does with an index: roll the episode out, and stage it."""
    with closing(EpisodeMaker(recipe)) as maker:

        def stage(index: int) -> int:
            stage_episode(root, index, maker.columns(index))
            return index

        yield stage
