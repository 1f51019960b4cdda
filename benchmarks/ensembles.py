"""Whether an ensemble of predictors, and its disagreement in the cost, help where logs are few.

    python benchmarks/ensembles.py --data data/varied_reacher --part .1 --json ensembles.json

The latents are those of a trained predictor; predictors are trained anew on a part of the logged episodes:

    alone           one predictor
    mean of 3       three of them; the plan is made with their mean
    + N x ...       and N times their disagreement is added to the cost

`error` is that of 10 imagined steps on held-out episodes over the latents' variance. `near` and `far` are the
trials reached, `held` the far ones that stayed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from success import success_rates

import wm_plan
from wm_plan.configuration import compose
from wm_plan.controller import make_controller
from wm_plan.machine import versions
from wm_plan.planning import task_choice
from wm_plan.world_model import CompactWorldModel, TrainConfig, TrajectoryStore
from wm_plan.world_model.calibration import open_loop_error
from wm_plan.world_model.compact_predictors import make_predictor
from wm_plan.world_model.head_training import all_latents
from wm_plan.world_model.rollout_training import rollout_stage
from wm_plan.world_model.stages import OptimiserConfig, StagedRun
from wm_plan.world_model.training_logs import TrainingLogs
from wm_plan.world_model.training_state import no_progress


def train(
    model: CompactWorldModel,
    store: TrajectoryStore,
    latents: torch.Tensor,
    flags: argparse.Namespace,
    members: int,
) -> float:
    """Train the model's predictor anew on a part of the logs; gives the error on held-out episodes."""
    model.config = replace(model.config, ensemble=members)
    config = TrainConfig(model=model.config, num_predictor_steps=flags.steps, seed=flags.seed)
    logs = TrainingLogs(store, model.encoder, config)
    logs.train_episodes = logs.train_episodes[: max(1, round(flags.part * len(logs.train_episodes)))]
    torch.manual_seed(flags.seed)
    model.predictor = make_predictor(model.config, logs.actions.shape[1])
    StagedRun(None, model, OptimiserConfig(), {}).train(rollout_stage(logs, model, latents))
    model.requires_grad_(False)
    return open_loop_error(model, latents, logs.actions, store, logs.held_episodes)[-1]


def success(model: CompactWorldModel, flags: argparse.Namespace, weight: float) -> dict[str, float]:
    """Near and far trials, planned with this weight of disagreement."""
    overrides = [*flags.overrides, f"objective.disagreement={weight}"]
    config = compose("plan", overrides, base=[*task_choice(flags.env), "planner=cem"])
    config.env = flags.env
    controller = make_controller(model, config)
    near, far = (
        success_rates(controller, flags.env, name, flags.trials, flags.seed) for name in ("near", "far")
    )
    return {"near": near["reached"], "far": far["reached"], "held": far["held"]}


def measure(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Train and judge every row."""
    model: Any = wm_plan.load(flags.model or flags.env).model
    store = TrajectoryStore(flags.data)
    moments = TrainingLogs(store, model.encoder, TrainConfig(model=model.config)).moments(no_progress)
    latents, rows = all_latents(model.head, moments).detach(), []
    for members in (1, 3):
        began = time.process_time()
        error = train(model, store, latents, flags, members)
        seconds = round(time.process_time() - began, 1)
        for weight in (0.0, *flags.weights) if members > 1 else (0.0,):
            name = "alone" if members == 1 else "mean of 3" + (f" + {weight:g} x" if weight else "")
            row = {"predictor": name, "error": error, "training_s": seconds, **success(model, flags, weight)}
            rows.append(row)
            rates = "".join(f"{100 * row[key]:>8.0f}" for key in ("near", "far", "held"))
            print(f"{name:<16}{100 * error:>8.2f}{rates}{seconds:>9.0f}", flush=True)
    return rows


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="reacher", help="the task (reacher)")
    parser.add_argument("--data", required=True, help="logs of it")
    parser.add_argument("--model", help="a predictor of your own (default: the task's shipped one)")
    parser.add_argument("--part", type=float, default=0.1, help="of the logged episodes (.1)")
    parser.add_argument("--steps", type=int, default=4000, help="optimiser steps (4000)")
    parser.add_argument("--trials", type=int, default=50, help="of each protocol (50)")
    parser.add_argument(
        "--weights", type=float, nargs="*", default=[1.0, 10.0], help="of disagreement (1 10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of trials and weights; develop with 1000 and up")
    parser.add_argument("--json", type=Path, help="also write all numbers there")
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="*",
        default=[],
        help="settings of planning (planner.num_samples=128)",
    )
    return parser.parse_args()


def main() -> None:
    """Run everything, print the table, and write JSON if asked."""
    flags = parse()
    torch.set_num_threads(1)
    print(f"{'predictor':<16}{'error %':>8}{'near %':>8}{'far %':>8}{'held %':>8}{'seconds':>9}")
    try:
        rows = measure(flags)
    except ValueError as error:
        sys.exit(f"ensembles.py: {error}")
    if flags.json:
        circumstances = {name: str(value) for name, value in vars(flags).items()} | {"versions": versions()}
        flags.json.write_text(json.dumps({"rows": rows, **circumstances}, indent=1) + "\n")


if __name__ == "__main__":
    main()
