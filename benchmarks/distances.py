"""Kinds of learned temporal distances side by side: how true they are, and how well they plan.

    python benchmarks/distances.py --data data/varied_two_room --json distances.json

Latents are those of a trained predictor; only the head of the distance is trained anew, once for each row:

    mlp              any function of two latents
    mlp x 3          three of them, which say their mean plus their disagreement
    quasimetric      interval quasimetric embedding

`rank` is the rank correlation of the distance between held-out places with the length of the true way, round
walls where there are any (`state_distance` of the task). `unseen` is the same for goals in a disc that no
episode of a second training ever entered: goals that were never logged. `reached` and `held` are of far
trials of the task, planned with that head in the task's own preset.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from success import success_rates

import wm_plan
from wm_plan.envs import TaskEnv, make_task
from wm_plan.machine import versions
from wm_plan.world_model import TrajectoryStore, cached_latents
from wm_plan.world_model.compact_config import DistanceKind
from wm_plan.world_model.distance_heads import make_distance
from wm_plan.world_model.head_training import all_latents
from wm_plan.world_model.moments import Moments
from wm_plan.world_model.temporal_distance import DistanceConfig, train_distance

ROWS = {"mlp": ("mlp", 1), "mlp x 3": ("mlp", 3), "quasimetric": ("quasimetric", 1)}
NUM_PAIRS = 4000
UNSEEN_PART = 0.25
"""Of all episodes that may enter the disc of unseen goals."""


def disc_of(states: np.ndarray, store: TrajectoryStore, num_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in a disc of positions that a quarter of all episodes enter, and those episodes."""
    places = states[:, :num_positions]
    distance = np.linalg.norm(places - places[store.num_rows // 3], axis=1)
    nearest = np.array([distance[store.episode_rows(e)].min() for e in range(store.num_episodes)])
    radius = np.quantile(nearest, UNSEEN_PART)
    return np.flatnonzero(distance <= radius), np.flatnonzero(nearest <= radius)


def rank(
    distance: torch.nn.Module,
    latents: torch.Tensor,
    states: np.ndarray,
    env: TaskEnv,
    starts: np.ndarray,
    goals: np.ndarray,
) -> float:
    """Rank correlation of the learned distance with the task's, from rows to rows."""
    rng = np.random.default_rng(0)
    start, goal = rng.choice(starts, NUM_PAIRS), rng.choice(goals, NUM_PAIRS)
    still = torch.zeros_like(latents[start])
    with torch.no_grad():
        told = distance(latents[start], still, latents[goal]).numpy()
    there = env.state_distance(states[start], states[goal])
    return float(np.corrcoef(told.argsort().argsort(), there.argsort().argsort())[0, 1])


def measure(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Train and judge every row."""
    controller: Any = wm_plan.load(flags.model or flags.env, overrides=flags.overrides)
    model, store, env = controller.model, TrajectoryStore(flags.data), make_task(flags.env, render=False)
    latents = all_latents(model.head, Moments([cached_latents(model.encoder, store)])).detach()
    states = store.read("state")
    train, held = store.split(0.05, 0)
    disc_rows, entering = disc_of(states, store, env.num_positions)
    held_rows = np.concatenate([np.arange(store.num_rows)[store.episode_rows(e)] for e in held])
    shipped, rows = model.distance, []
    for name, (kind, members) in {"as it is": ("", 0), **ROWS}.items():
        if flags.rows and name not in flags.rows.split(","):
            continue
        began, row = time.process_time(), {"distance": name}
        sizes = None if not kind else replace(
            model.config, distance_kind=DistanceKind(kind), distance_members=members
        )  # fmt: skip
        config = DistanceConfig(num_steps=flags.steps, seed=flags.seed)
        for unseen in (True, False) if sizes is not None else (False,):
            if sizes is None:
                model.distance = shipped
            else:
                torch.manual_seed(flags.seed)
                model.distance = make_distance(sizes)
                train_distance(
                    model.distance, latents, store, np.setdiff1d(train, entering) if unseen else train, config
                )
                model.distance.requires_grad_(False)
            goals = disc_rows if unseen else held_rows
            row["unseen" if unseen else "rank"] = rank(model.distance, latents, states, env, held_rows, goals)
        row["seconds"] = round(time.process_time() - began, 1)
        if flags.trials:
            row |= success_rates(controller, flags.env, "far", flags.trials, flags.seed)
        rows.append(row)
        print(
            f"{name:<14}"
            + "".join(f"{row.get(key, float('nan')):>9.3f}" for key in ("rank", "unseen", "reached", "held"))
            + f"{row['seconds']:>9.0f}",
            flush=True,
        )
    return rows


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="two_room", help="the task (two_room)")
    parser.add_argument("--data", required=True, help="logs of it, with states")
    parser.add_argument("--model", help="a predictor of your own (default: the task's shipped one)")
    parser.add_argument("--steps", type=int, default=6000, help="optimiser steps of each head (6000)")
    parser.add_argument("--trials", type=int, default=40, help="far trials; 0 for none (40)")
    parser.add_argument("--seed", type=int, default=0, help="of trials and weights; develop with 1000 and up")
    parser.add_argument("--rows", help="only these, with commas between them")
    parser.add_argument("--json", type=Path, help="also write all numbers there")
    parser.add_argument("overrides", nargs="*", help="settings, as in objective.temporal_distance=10")
    return parser.parse_args()


def main() -> None:
    """Run everything, print the table, and write JSON if asked."""
    flags = parse()
    torch.set_num_threads(1)
    print(f"{'distance':<14}{'rank':>9}{'unseen':>9}{'reached':>9}{'held':>9}{'seconds':>9}")
    try:
        rows = measure(flags)
    except ValueError as error:
        sys.exit(f"distances.py: {error}")
    if flags.json:
        circumstances = {name: str(value) for name, value in vars(flags).items()} | {"versions": versions()}
        flags.json.write_text(json.dumps({**circumstances, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
