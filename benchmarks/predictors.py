"""What choices of a compact predictor are worth: its kind, its losses, action blocks.

    python benchmarks/predictors.py --out runs/predictors              # everything; hours on one core
    python benchmarks/predictors.py --out runs/predictors --only mlp,gru  # some of it; the rest stays
    python benchmarks/predictors.py --out runs/predictors --trials 0   # errors and times, no planning
    python benchmarks/predictors.py --out runs/predictors --table      # the table of what is there

Every choice has the same logs, encoder, seeds and planning budget. Those that differ from the second stage
on, such as the kind of predictor, share the base's head and its latents; those of the first stage train a
head of their own. Each is written as soon as it is there, and trainings resume; a second run goes on where
the first stopped.

Open-loop errors are squared errors of imagined latents over the latents' variance, on held-out episodes:
comparable between choices that share a head, and less so between heads, where success decides. Goals are
validation goals, with seeds that no evaluation of this project uses. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_plan.collecting import CollectConfig, collect
from wm_plan.world_model import CompactWorldModel, TrainConfig, TrajectoryStore, load_encoder
from wm_plan.world_model.calibration import calibrate
from wm_plan.world_model.compact_config import PredictorKind
from wm_plan.world_model.head_training import all_latents
from wm_plan.world_model.predictor_training import train_world_model
from wm_plan.world_model.rollout_training import rollout_stage
from wm_plan.world_model.stages import StagedRun
from wm_plan.world_model.training_logs import TrainingLogs

KINDS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "mlp half as wide": {"predictor_width": 128},
    "mlp twice as wide": {"predictor_width": 512},
    "mlp with history 2": {"history": 2},
    "gru": {"predictor": PredictorKind.gru, "predictor_depth": 1},
    "transformer": {"predictor": PredictorKind.transformer, "predictor_width": 128},
}
"""Sizes that share the base's head."""

SECOND_STAGE: dict[str, dict[str, Any]] = {
    "averaged weights": {"ema": 0.999},
    "bfloat16": {"precision": "bfloat16"},
    "rollouts of 4": {"predictor_rollout_steps": 4},
    "rollouts of 16": {"predictor_rollout_steps": 16},
}
"""Settings that share the base's head."""

HEADS: dict[str, dict[str, Any]] = {
    "straightened .1": {"straightening_weight": 0.1},
    "straightened 1": {"straightening_weight": 1.0},
    "time similarity": {"similarity_weight": 1.0},
    "contrast and VICReg": {"variance_weight": 1.0, "covariance_weight": 0.1},
    "contrast and SIGReg": {"sigreg_weight": 1.0},
    "rollout error and VICReg": {
        "contrast_weight": 0.0,
        "rollout_weight": 10.0,
        "variance_weight": 10.0,
        "covariance_weight": 1.0,
    },
    "rollout error and VICReg but no gradient of targets": {
        "contrast_weight": 0.0,
        "rollout_weight": 10.0,
        "stop_gradient": True,
        "variance_weight": 10.0,
        "covariance_weight": 1.0,
    },
    "rollout error and SIGReg": {"contrast_weight": 0.0, "rollout_weight": 10.0, "sigreg_weight": 10.0},
    "without inverse dynamics": {"inverse_weight": 0.0},
    "blocks of 2 actions": {"action_block": 2, "predictor_rollout_steps": 5, "rollout_steps": 4},
}
"""Settings that a head is trained anew for."""

BASE = "mlp"
HORIZON, CANDIDATES = 8, 256


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [*KINDS, *SECOND_STAGE, *HEADS]
    parser.add_argument("--out", type=Path, required=True, help="logs, models and results.json")
    parser.add_argument("--env", default="reacher")
    parser.add_argument("--data", nargs="*", default=[], help="logs (default: plain ones, made here)")
    parser.add_argument("--episodes", type=int, default=1000, help="that are logged where none are given")
    parser.add_argument("--only", default=",".join(known), help=f"of: {', '.join(known)}")
    parser.add_argument("--steps", type=int, default=1200, help="of the first stage")
    parser.add_argument("--predictor-steps", type=int, default=4000)
    parser.add_argument("--distance-steps", type=int, default=6000)
    parser.add_argument("--trials", type=int, default=40, help="planned episodes of each protocol")
    parser.add_argument("--protocols", default="near,far")
    parser.add_argument("--seed", type=int, default=1000, help="of the goals; 1000 or more")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    flags = parser.parse_args()
    names = [name for name in known if name in flags.only.split(",")]
    if not names or flags.seed < 1000:
        parser.error("--only names none of the choices, or --seed is below 1000")
    torch.set_num_threads(1)
    path = flags.out / "results.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in [] if flags.table else names:
        row = rows.setdefault(name, {})
        folder = flags.out / "models" / name.replace(" ", "_")
        if not (folder / "config.json").is_file():
            row["train_s"] = round(train(flags, name, folder), 1)
        if "open_loop_error" not in row:
            row |= measured(folder)
        if flags.trials and "near" not in row and "far" not in row:
            row |= planned(flags, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".partial").write_text(json.dumps(rows, indent=1) + "\n")
        path.with_suffix(".partial").replace(path)
        print(name, row, file=sys.stderr)
    print(table(rows))


def train(flags: argparse.Namespace, name: str, folder: Path) -> float:
    """Train a choice; gives the seconds of processor time."""
    began = time.process_time()
    base = TrainConfig(num_steps=flags.steps, num_predictor_steps=flags.predictor_steps)
    base.distance.num_steps = flags.distance_steps
    store, encoder = TrajectoryStore(logs_of(flags)), load_encoder("small")
    if name in HEADS or name == BASE:
        config = replace(base, **HEADS.get(name, {}))
        resume = (folder / "training.safetensors").is_file()
        train_world_model(store, encoder, folder, config, resume=resume, with_encoder=False)
        return time.process_time() - began
    shared = flags.out / "models" / BASE
    if not (shared / "config.json").is_file():
        train(flags, BASE, shared)
        began = time.process_time()
    trained = CompactWorldModel.load(shared, encoder=encoder)
    settings = SECOND_STAGE.get(name, {})
    config = replace(base, model=replace(trained.config, **KINDS.get(name, {})), **settings)
    torch.manual_seed(config.seed)
    model = CompactWorldModel(encoder, config.model, trained.metadata)
    for part in ("head", "distance"):
        getattr(model, part).load_state_dict(getattr(trained, part).state_dict())
    for buffer in ("latent_variance", "familiar_signatures"):
        getattr(model, buffer).copy_(getattr(trained, buffer))
    logs = TrainingLogs(store, encoder, config)
    latents = all_latents(model.head.requires_grad_(False), logs.moments(lambda *_: None))
    StagedRun(None, model, config, {}).train(rollout_stage(logs, model, latents))
    model.metadata = replace(trained.metadata, training={"config": asdict(config)})
    calibrate(model, latents, logs.actions, store, logs.held_episodes, None)
    model.metadata.reach_threshold = trained.metadata.reach_threshold
    model.eval().save(folder, with_encoder=False)
    return time.process_time() - began


def logs_of(flags: argparse.Namespace) -> list[str]:
    """The logs that are given, or plain ones, made once."""
    if flags.data:
        return list(flags.data)
    root = flags.out / "data"
    manifest = root / "manifest.json"
    if not (manifest.is_file() and json.loads(manifest.read_text())["complete"]):
        collect(CollectConfig(flags.env, flags.episodes, seed=100), root, resume=root.exists())
    return [str(root)]


def measured(folder: Path) -> dict[str, Any]:
    """Open-loop errors, size, and how long the candidates of an iteration take to imagine."""
    model = CompactWorldModel.load(folder)
    errors = model.metadata.open_loop_error
    context = torch.zeros(1, model.history, model.config.latent_dim)
    actions = torch.rand(1, CANDIDATES, HORIZON, len(model.action_low) * model.action_block)
    times = []
    for _ in range(20):
        began = time.process_time()
        model.rollout(context, actions)
        times.append(time.process_time() - began)
    return {
        "open_loop_error": [errors[min(step, len(errors)) - 1] for step in (1, 5, 10)],
        "parameters": sum(parameter.numel() for parameter in model.predictor.parameters()),
        "rollout_ms": round(1e3 * float(np.median(times)), 2),
    }


def planned(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Successes with the planner of the task's preset, and how long a replan takes."""
    line = ["--env", flags.env, "--model", folder, "--policy", "planner", "--protocol", flags.protocols]
    line += ["--episodes", flags.trials, "--seed", flags.seed, "--overwrite", "--out", folder / "evaluation"]
    runner = "from wm_plan.commands.eval import main; import sys; sys.exit(main())"
    command = [sys.executable, "-c", runner, *map(str, line), "--json", "--quiet"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"wm-eval ended with {done.returncode}: {' '.join(map(str, line))}")
    found = {}
    for row in json.loads(done.stdout)["rows"]:
        names = ("successes", "episodes", "success_rate", "ci95", "held_rate", "plan_ms_p50")
        found[row["protocol"]] = {name: row.get(name) for name in names}
    return found


def table(rows: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| choice | error after 1 / 5 / 10 steps, % | near | far | replan, ms | "
        f"{CANDIDATES} x {HORIZON} imagined, ms | trained, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        errors = " / ".join(f"{100 * value:.2f}" for value in row["open_loop_error"])
        replans = [row[protocol]["plan_ms_p50"] for protocol in ("near", "far") if protocol in row]
        replan = f"{replans[-1]:.0f}" if replans else ""
        lines.append(
            f"| {name} | {errors} | {_rate(row.get('near'))} | {_rate(row.get('far'))} | {replan} | "
            f"{row['rollout_ms']:.1f} | {row.get('train_s', '')} |"
        )
    return "\n".join(lines)


def _rate(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["ci95"]
    return f"{found['success_rate']:.0%} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main()
