"""`wm-baseline`: train the reinforcement-learning baseline of a task."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .front import DONE, INTERRUPTED, Command, Job, UserInputError, positive_int

if TYPE_CHECKING:
    from wm_plan.planners.rl import RLPolicy


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    parser.add_argument(
        "--steps", type=positive_int, default=100_000, metavar="N", help="env steps in all (100000)"
    )
    parser.add_argument(
        "--observation",
        choices=("state", "latent"),
        default="state",
        help="what is seen: the true state (default), or a world model's latents, as a planner does",
    )
    parser.add_argument(
        "--model", metavar="DIR", help="whose latents (default: the task's shipped predictor)"
    )
    parser.add_argument(
        "--save-every", type=positive_int, metavar="N", help="env steps between checkpoints (10000)"
    )
    parser.add_argument("--dry-run", action="store_true", help="check all input, print the settings, stop")


def run(job: Job) -> int:
    """Train, or go on training."""
    flags = job.flags
    if flags.list:
        return _list(job)
    if not flags.env:
        raise UserInputError("no task was named. Add --env NAME; --list names the tasks.")
    from wm_plan.output_folder import check_output_folder, check_resume, next_numbered

    check_resume(flags.resume, flags.overwrite, flags.out, "training")
    from wm_plan.baseline import BaselineConfig, train_baseline
    from wm_plan.baseline_state import STATE_NAME, read_training
    from wm_plan.envs import make
    from wm_plan.evaluation.checkpoints import CheckpointJudge
    from wm_plan.machine import use_device
    from wm_plan.progress_bar import RateBar

    make(flags.env, render=False).close()
    device = use_device(flags.device or "cpu", flags.threads or 1)
    chosen = {} if flags.save_every is None else {"save_every": flags.save_every}
    config = BaselineConfig(
        flags.env,
        observation=flags.observation,
        model=flags.model,
        num_steps=flags.steps,
        seed=flags.seed or 0,
        **chosen,
    )
    out: Path = flags.out or next_numbered("baseline")
    if flags.dry_run:
        check_output_folder(out, overwrite=flags.overwrite or flags.resume)
        if flags.resume:
            read_training(out, config.settings)
        plan = {"out": out, **asdict(config)}
        job.print_result(plan, "\n".join(f"{key}: {value}" for key, value in plan.items()))
        return DONE
    try:
        with RateBar(job.console, config.env, config.num_steps, "env steps") as bar:

            def show(done: int, total: int, metrics: dict[str, float]) -> None:
                reached = f"{metrics['far_reached']:.0%}" if metrics else "-"
                bar.update(done, done, total=total, note=f"reached {reached}")

            judge = CheckpointJudge(config.env, config.num_eval_episodes, config.seed)
            policy = train_baseline(
                config,
                out,
                judge,
                resume=flags.resume,
                overwrite=flags.overwrite,
                device=device,
                on_progress=show,
            )
    except KeyboardInterrupt:
        if (out / STATE_NAME).is_file():
            job.warn(f"stopped; a checkpoint is kept in {out}. Go on with: the same command and --resume")
        else:
            job.warn("stopped before the first checkpoint; nothing was kept")
        return INTERRUPTED
    return _report(job, out, policy)


def _report(job: Job, out: Path, policy: RLPolicy) -> int:
    """Print what came of it; gives the exit code."""
    from wm_plan.baseline_run import RATES

    record = policy.metadata
    rates = {f"{name}_rate": record["metrics"][name] for name in RATES}
    episodes = record["training"]["num_eval_episodes"]
    result = {
        "env": policy.env_name,
        "observation": policy.config.observation,
        "out": out,
        "env_steps": record["env_steps"],
        "wall_seconds": record["wall_seconds"],
        "seed": record["seed"],
        **rates,
        "episodes": episodes,
    }
    near, far, held = rates.values()
    job.print_result(
        result,
        f"{out}: {record['env_steps']} env steps in {record['wall_seconds']:.0f} s; of {episodes} goals "
        f"each, near ones reached {near:.0%}, far ones reached {far:.0%}, held {held:.0%}",
    )
    return DONE


def _list(job: Job) -> int:
    """Name the tasks, and those whose policy is shipped."""
    from wm_plan.envs import task_names
    from wm_plan.planners.rl import shipped_policies

    result = {"envs": list(task_names()), "shipped": shipped_policies()}
    job.print_result(result, "\n".join(f"{key}: {', '.join(names)}" for key, names in result.items()))
    return DONE


COMMAND = Command(
    "wm-baseline",
    "Train a goal-conditioned policy on a task by SAC with hindsight goals, from state or from latents.",
    run=run,
    add_flags=add_flags,
    flags=("env", "seed", "out", "resume", "device", "list"),
    examples=(
        "wm-baseline --env reacher --steps 100000 --out runs/reacher-rl",
        "wm-baseline --env reacher --steps 150000 --out runs/reacher-rl --resume",
        "wm-baseline --env push_t --observation latent --out runs/push_t-rl-latent",
    ),
)
main = COMMAND.main
