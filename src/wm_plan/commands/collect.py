"""`wm-collect`: log trajectories of a task into a store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .front import DONE, INTERRUPTED, Command, Job, UserInputError, positive_int

if TYPE_CHECKING:
    from wm_plan.collecting import CollectConfig, Collected


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    parser.add_argument(
        "--episodes", type=positive_int, default=600, metavar="N", help="episodes in all (600)"
    )
    parser.add_argument(
        "--steps", type=positive_int, default=40, metavar="N", help="model steps an episode (40)"
    )
    parser.add_argument("--policy", metavar="NAME", help="logging policy (default: the task's own)")
    parser.add_argument("--image-size", type=positive_int, metavar="N", help="pixels a side (default 96)")
    parser.add_argument(
        "--varied",
        nargs="?",
        const="all",
        choices=("all", "renderer"),
        help="also log every frame in a random look; renderer: only what renderer settings change",
    )
    parser.add_argument("--workers", type=positive_int, default=2, metavar="N", help="processes (2)")
    parser.add_argument("--dry-run", action="store_true", help="check all input, print the recipe, stop")


def run(job: Job) -> int:
    """Collect what is missing."""
    flags = job.flags
    if flags.list:
        return _list(job)
    if not flags.env:
        raise UserInputError("no task was named. Add --env NAME; --list names the tasks.")
    if flags.resume and (flags.overwrite or not flags.out):
        raise UserInputError(
            "--resume goes on with the store in --out DIR, and does not go with --overwrite."
        )
    from wm_plan.collecting import CollectConfig, collect, make_recipe
    from wm_plan.output_folder import check_output_folder, next_numbered
    from wm_plan.world_model.store_writer import StoreWriter

    given = {"num_episodes": flags.episodes, "num_steps": flags.steps, "seed": flags.seed or 0}
    config = CollectConfig(
        flags.env, policy=flags.policy, image_size=flags.image_size, varied=flags.varied, **given
    )
    out: Path = flags.out or next_numbered("collect")
    recipe = make_recipe(config)
    StoreWriter.check(out, recipe, config.num_episodes, resume=flags.resume, overwrite=flags.overwrite)
    check_output_folder(out, overwrite=True)
    if flags.dry_run:
        plan = {"out": out, "num_episodes": config.num_episodes, **recipe}
        job.print_result(plan, "\n".join(f"{key}: {value}" for key, value in plan.items()))
        return DONE

    with _ProgressBar(job, config) as bar:
        collected = collect(
            config,
            out,
            num_workers=flags.workers,
            resume=flags.resume,
            overwrite=flags.overwrite,
            on_progress=bar.update,
        )
    return _report(job, config, out, collected)


def _report(job: Job, config: CollectConfig, out: Path, collected: Collected) -> int:
    """Print what came of it; gives the exit code."""
    result = {
        "env": config.env,
        "out": out,
        "complete": not collected.stopped,
        "episodes": collected.finished,
        "frames": collected.finished * (config.num_steps + 1),
        "new_frames": collected.num_frames,
        "seconds": round(collected.seconds, 3),
        "frames_per_second": round(collected.frames_per_second, 1),
    }
    count = f"{collected.finished} of {config.num_episodes} episodes"
    job.print_result(result, f"{out}: {count}, {collected.frames_per_second:.0f} frames/s")
    if not collected.stopped:
        return DONE
    job.warn(
        f"stopped; {collected.finished} episodes are kept in {out}. Go on with: the same command and --resume"
    )
    return INTERRUPTED


class _ProgressBar:
    """Episodes, frames/s and the time left, on stderr."""

    def __init__(self, job: Job, config: CollectConfig) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes  {task.fields[rate]:.0f} frames/s"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=job.console)
        self._task = self._progress.add_task(config.env, total=config.num_episodes, rate=0.0)
        self._start: tuple[float, int] | None = None

    def update(self, finished: int, num_frames: int) -> None:
        """Show how far it is; the rate counts from the first episode on."""
        now = self._progress.get_time()
        if num_frames and self._start is None:
            self._start = now, num_frames
        rate = 0.0
        if self._start is not None and now > self._start[0]:
            rate = (num_frames - self._start[1]) / (now - self._start[0])
        self._progress.update(self._task, completed=finished, rate=rate)

    def __enter__(self) -> _ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _list(job: Job) -> int:
    """Name the tasks and the policies."""
    from wm_plan.envs import task_names
    from wm_plan.envs.policies import POLICIES

    result = {"envs": list(task_names()), "policies": list(POLICIES)}
    job.print_result(result, "\n".join(f"{key}: {', '.join(names)}" for key, names in result.items()))
    return DONE


COMMAND = Command(
    "wm-collect",
    "Log trajectories of a task into a store: sharded HDF5 and a manifest.",
    run=run,
    add_flags=add_flags,
    flags=("env", "seed", "out", "resume", "list"),
    examples=(
        "wm-collect --env reacher --episodes 600 --out data/reacher",
        "wm-collect --env reacher --episodes 600 --out data/reacher --resume",
        "wm-collect --env two_room --varied --image-size 64 --workers 8",
    ),
)
main = COMMAND.main
