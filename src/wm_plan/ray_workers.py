"""Rolling episodes out on a Ray cluster: the same episodes, sent back to the one writer.

Nodes need wm-plan and nothing shared: what an episode depends on is the recipe and its index. A policy that
reads files (`sb3:`, `planner:model=`, `replay:`) needs them under the same path on every node.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from pathlib import Path
from typing import Any

from wm_plan.rollout_workers import EpisodeMaker, Staged
from wm_plan.worker_processes import POLL_SECONDS
from wm_plan.world_model.manifest import write_atomically
from wm_plan.world_model.store_writer import STAGING, stage_episode, staged_episodes

LOCAL = "local"


class _Worker:
    """What runs on a node: one episode after another, as the bytes of a staged file."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        self._recipe = recipe
        self._maker: EpisodeMaker | None = None

    def start(self) -> None:
        self._maker = EpisodeMaker(self._recipe)

    def episode(self, index: int) -> bytes:
        assert self._maker is not None
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / STAGING).mkdir()
            stage_episode(folder, index, self._maker.columns(index))
            return staged_episodes(folder)[index].read_bytes()


def staged_by_ray(
    address: str,
    root: Path,
    recipe: dict[str, Any],
    indices: list[int],
    num_workers: int | None,
    stop: threading.Event,
) -> Staged:
    """Have actors of a Ray cluster make these episodes, and stage them at `root`.

    Args:
        address: of the cluster ("auto", "ray://host:10001", "host:6379"), or "local" to start one here.
        num_workers: actors, of one CPU each; as many as the cluster has CPUs when None.

    Raises:
        ValueError: Ray is not installed or not to be reached, an episode cannot be made, or a node died.
    """
    library, ours = _connected(address, num_workers)
    try:
        cpus = int(library.cluster_resources().get("CPU", 1))
        actor: Any = library.remote(num_cpus=1)(_Worker)
        workers = [actor.remote(recipe) for _ in range(min(num_workers or cpus, len(indices)))]
        todo = iter(indices)
        jobs: dict[Any, tuple[Any, int | None]] = {
            worker.start.remote(): (worker, None) for worker in workers
        }
        started = False
        while jobs:
            done, _ = library.wait(list(jobs), num_returns=1, timeout=POLL_SECONDS)
            for job in done:
                worker, index = jobs.pop(job)
                content = _result(library, job)
                if not started:
                    yield None
                    started = True
                if index is not None:
                    write_atomically(root / STAGING / f"episode-{index:08d}.h5", content)
                    yield index
                following = None if stop.is_set() else next(todo, None)
                if following is not None:
                    jobs[worker.episode.remote(following)] = (worker, following)
    finally:
        if ours:
            library.shutdown()


def _connected(address: str, num_workers: int | None) -> tuple[Any, bool]:
    """Ray, and whether it was this call that connected it."""
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs the package ray. Run: pip install 'wm-plan[ray]'") from None
    if ray.is_initialized():
        return ray, False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            ray.init("local", include_dashboard=False, num_cpus=num_workers, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster at {address!r}: {error}. Give its address, or --ray local to start one here"
        ) from error
    return ray, True


def _result(ray: Any, job: Any) -> bytes:  # noqa: ANN401
    """What an actor gives back."""
    try:
        return ray.get(job)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from None
        raise RuntimeError(f"a Ray worker failed:\n{error}") from None
    except ray.exceptions.RayActorError as error:
        raise ValueError(f"a Ray worker died ({error}); resume to go on") from None
