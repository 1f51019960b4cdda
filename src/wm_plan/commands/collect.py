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
    parser.add_argument(
        "--policy",
        metavar="NAME[:OPTION,...][*SHARE][+...]",
        help="logging policy, or a mix: random:held*.5+planner:noise=.2*.3+waypoints*.2; also sb3:CHECKPOINT "
        "(a folder of wm-baseline, or an SB3 .zip) and replay:DATA (default: the task's own)",
    )
    parser.add_argument("--image-size", type=positive_int, metavar="N", help="pixels a side (default 96)")
    parser.add_argument("--camera", metavar="NAME", help="whose view is logged (default: the env's own)")
    parser.add_argument(
        "--frame-skip", type=positive_int, metavar="N", help="env steps a model step (default: the env's own)"
    )
    parser.add_argument(
        "--msaa",
        type=int,
        choices=(0, 4),
        help="antialiasing of the frames: 4, as controllers see them, or 0 for frames that cost a third",
    )
    parser.add_argument(
        "--factors",
        metavar="NAME[=LOW:HIGH],...",
        help="what differs between episodes: light,colour,texture,camera,distractors,occluder,physics, "
        "or single ones with their range, such as mass=.5:2,camera_zoom=.9:1.1 (--list names them)",
    )
    parser.add_argument(
        "--varied",
        nargs="?",
        const="all",
        choices=("all", "renderer"),
        help="also log every frame in a random look; renderer: only what renderer settings change",
    )
    parser.add_argument(
        "--workers", type=positive_int, metavar="N", help="processes (2), or with --ray actors (all CPUs)"
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="log the I-th of N parts of the episodes, into a folder shared with the other parts",
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="roll out on a Ray cluster (auto, HOST:PORT), or local to start one"
    )
    parser.add_argument("--dry-run", action="store_true", help="check all input, print the recipe, stop")


def run(job: Job) -> int:
    """Collect what is missing."""
    flags = job.flags
    if flags.list:
        return _list(job)
    if not flags.env:
        raise UserInputError("no task was named. Add --env NAME; --list names the tasks.")
    from wm_plan.collecting import CollectConfig, check_store, collect, parse_shard
    from wm_plan.output_folder import check_output_folder, check_resume, next_numbered
    from wm_plan.progress_bar import RateBar

    check_resume(flags.resume, flags.overwrite, flags.out, "store")
    shard = None if flags.shard is None else parse_shard(flags.shard)
    if shard is not None and not flags.out:
        raise UserInputError("--shard needs --out DIR, the folder that all parts share.")
    given = {"num_episodes": flags.episodes, "num_steps": flags.steps, "seed": flags.seed or 0}
    for name in ("policy", "image_size", "varied", "factors", "camera", "frame_skip", "msaa"):
        given[name] = getattr(flags, name)
    config = CollectConfig(flags.env, **given)
    out: Path = flags.out or next_numbered("collect")
    recipe = check_store(config, out, shard=shard, resume=flags.resume, overwrite=flags.overwrite)
    check_output_folder(out, overwrite=True)
    if flags.dry_run:
        plan = {"out": out, "num_episodes": config.num_episodes, **recipe}
        job.print_result(plan, "\n".join(f"{key}: {value}" for key, value in plan.items()))
        return DONE

    wanted = config.num_episodes if shard is None else len(range(shard[0] - 1, flags.episodes, shard[1]))
    with RateBar(job.console, config.env, wanted, "episodes", "frames") as bar:
        collected = collect(
            config,
            out,
            num_workers=flags.workers,
            shard=shard,
            ray=flags.ray,
            resume=flags.resume,
            overwrite=flags.overwrite,
            on_progress=bar.update,
        )
    return _report(job, config, out, collected, wanted)


def _report(job: Job, config: CollectConfig, out: Path, collected: Collected, wanted: int) -> int:
    """Print what came of it; gives the exit code."""
    result = {
        "env": config.env,
        "out": out,
        "shard": job.flags.shard,
        "complete": collected.complete,
        "episodes": collected.finished,
        "frames": _frames(out) if collected.complete else collected.finished * (config.num_steps + 1),
        "new_frames": collected.num_frames,
        "seconds": round(collected.seconds, 3),
        "frames_per_second": round(collected.frames_per_second, 1),
    }
    count = f"{collected.finished} of {wanted} episodes"
    job.print_result(result, f"{out}: {count}, {collected.frames_per_second:.0f} frames/s")
    if not collected.stopped:
        return DONE
    job.warn(
        f"stopped; {collected.finished} episodes are kept in {out}. Go on with: the same command and --resume"
    )
    return INTERRUPTED


def _frames(out: Path) -> int:
    """Rows of a complete store; an episode may be shorter than was asked for, where its world stops."""
    from wm_plan.world_model.manifest import Manifest

    return sum(shard.num_rows for shard in Manifest.load(out).shards)


def _list(job: Job) -> int:
    """Name the tasks, the policies and the factors."""
    from wm_plan.envs import task_names
    from wm_plan.envs.factors import FACTOR_NAMES
    from wm_plan.policy_language import policy_names

    result = {"envs": list(task_names()), "policies": list(policy_names()), "factors": list(FACTOR_NAMES)}
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
        "wm-collect --env reacher --policy 'random:held*.7+planner:noise=.2*.3' --out data/mixed",
        "wm-collect --env reacher --factors light,camera,mass=.5:2 --shard 3/8 --out data/reacher",
    ),
)
main = COMMAND.main
