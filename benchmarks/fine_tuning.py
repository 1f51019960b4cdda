"""Fine-tuning on a few episodes of a changed robot: what the change costs, and how much of it comes back.

    python benchmarks/fine_tuning.py --out runs/fine_tuning --json fine_tuning.json

Three times the same far trials, planned in the task's own preset:

    as it was       the predictor on the robot that it was trained on
    changed         the same predictor on the changed robot
    fine-tuned      on the changed robot, after `wm-train --from` on --episodes logged on it

`recovered` is the part of what the change has cost that fine-tuning brings back. The commands that log and
train are printed, and can be repeated by hand.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from success import success_rates

import wm_plan
from wm_plan.commands import collect, train
from wm_plan.envs import Physics, parse_factors
from wm_plan.machine import versions

RATES = ("reached", "held")


def physics_of(text: str) -> Physics:
    """The physics that factors with fixed values say, such as "length=1.25:1.25,mass=1.5:1.5".

    Raises:
        ValueError: a factor that is no physics, or has a range.
    """
    factors = parse_factors(text)
    ends = {name: getattr(factors.physics, name) for name in factors.physics_names}
    if set(factors.names) != set(ends) or any(low != high for low, high in ends.values()):
        raise ValueError(f"{text!r} must name physics at one value each, such as length=1.25:1.25")
    return Physics(**{name: low for name, (low, _) in ends.items()})


def success(model: str | Path, flags: argparse.Namespace, physics: Physics) -> dict[str, float]:
    """Reached and held of far trials on a robot with these physics, and what it took [CPU s]."""
    began = time.process_time()
    controller = wm_plan.load(model, overrides=flags.overrides)
    rates = success_rates(controller, flags.env, "far", flags.trials, flags.seed, physics)
    return {**rates, "seconds": round(time.process_time() - began, 1)}


def command(name: str, main: Callable[[Sequence[str]], int], words: Sequence[str]) -> dict[str, Any]:
    """Run one of the commands and say which.

    Raises:
        RuntimeError: it failed.
    """
    line, began = shlex.join([name, *words]), time.process_time()
    print(line, flush=True)
    if main([*words, "--quiet"]):
        raise RuntimeError(f"this failed: {line}")
    return {"command": line, "seconds": round(time.process_time() - began, 1)}


def show(name: str, row: dict[str, Any]) -> None:
    """Print one line of the table."""
    print(
        f"{name:<12}" + "".join(f"{100 * row[rate]:>10.0f}" for rate in RATES) + f"{row['seconds']:>10.0f}",
        flush=True,
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="reacher", help="the task (reacher)")
    parser.add_argument("--model", help="the predictor to begin with (default: the task's shipped one)")
    parser.add_argument(
        "--factors",
        default="length=1.25:1.25,mass=6:6",
        help="what is changed (length=1.25:1.25,mass=6:6)",
    )
    parser.add_argument("--episodes", type=int, default=50, help="logged on the changed robot (50)")
    parser.add_argument("--policy", help="who acts in these logs (default: the task's logging policy)")
    parser.add_argument("--trials", type=int, default=50, help="far trials of each row (50)")
    parser.add_argument("--seed", type=int, default=0, help="of trials (0); develop with 1000 and up")
    parser.add_argument("--train", default="", help="further settings of wm-train, as on its command line")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder for logs and the new model")
    parser.add_argument("--json", type=Path, help="also write all numbers there")
    parser.add_argument("overrides", nargs="*", help="settings of planning, as in planner.num_samples=128")
    return parser.parse_args()


def main() -> None:
    """Run everything, print the table, and write JSON if asked."""
    flags = parse()
    torch.set_num_threads(1)
    try:
        physics = physics_of(flags.factors)
    except ValueError as error:
        sys.exit(f"fine_tuning.py: {error}")
    model, logs, tuned = flags.model or flags.env, str(flags.out / "logs"), str(flags.out / "model")
    logging = ["--env", flags.env, "--episodes", str(flags.episodes), "--seed", "5000"]
    logging += ["--factors", flags.factors, "--workers", "1", "--out", logs]
    logging += ["--policy", flags.policy] if flags.policy else []
    training = ["--from", str(model), "--data", logs, "--out", tuned, *shlex.split(flags.train)]
    commands = [command("wm-collect", collect.main, logging), command("wm-train", train.main, training)]
    print(f"{'robot':<12}{'reached %':>10}{'held %':>10}{'seconds':>10}")
    rows = {}
    for name, which, how in (
        ("as it was", model, Physics()),
        ("changed", model, physics),
        ("fine-tuned", tuned, physics),
    ):
        rows[name] = success(which, flags, how)
        show(name, rows[name])
    recovered = {}
    for rate in RATES:
        lost = rows["as it was"][rate] - rows["changed"][rate]
        back = rows["fine-tuned"][rate] - rows["changed"][rate]
        recovered[rate] = back / lost if lost > 0 else None
        print(
            f"{rate}: "
            + (f"recovered {back / lost:.0%} of what was lost" if lost > 0 else "nothing was lost")
        )
    if flags.json:
        told = {"rows": rows, "recovered": recovered, "commands": commands, "versions": versions()}
        circumstances = {name: str(value) for name, value in vars(flags).items()}
        flags.json.write_text(json.dumps({**told, **circumstances}, indent=1) + "\n")


if __name__ == "__main__":
    main()
