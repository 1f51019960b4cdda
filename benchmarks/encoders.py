"""What an encoder is worth: probes of the true state, seen and unseen looks, planning on the same budget.

    python benchmarks/encoders.py --out runs/encoders                       # everything; hours on two cores
    python benchmarks/encoders.py --out runs/encoders --encoders small,runs/mine --parts probes
    python benchmarks/encoders.py --out runs/tiny --tasks reacher --episodes 40 --look-episodes 10 \
        --labels 200,50 --tests 100 --steps 20 --trials 4                   # a quick check that it runs
    python benchmarks/encoders.py --out runs/encoders --table               # the tables of what is there

Encoders are what `load_encoder` knows, with `@SIZE` for another image size (efficientnet-lite0@128 has the
8 x 8 tokens that "small" has). Every encoder gets the same logs, labels, seeds, head, predictor and planning
budget. Each result is written as soon as it is there; a second run goes on where the first stopped.

Probes read tokens of two consecutive frames, pooled to 8 x 8: R^2 of positions (sine and cosine of angles)
and of velocities, on held-out episodes in the plain look and on episodes in looks that no probe was fitted
to. Planning trains a predictor by `wm-train` on all episodes or a tenth of them, and counts successes by
`wm-eval`; intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_plan.collecting import CollectConfig, collect
from wm_plan.world_model import Encoder, TrajectoryStore, load_encoder
from wm_plan.world_model.probes import clip_features, labelled_clips, probe_scores

ANGLES = {"reacher": (0, 1)}
LOOKS = ("light", "colour", "texture", "camera", "occluder")
POOL_SIZE = 8

Label = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="data, predictors and results.json")
    parser.add_argument("--tasks", default="reacher,point_mass,two_room")
    parser.add_argument("--encoders", default="small,random,efficientnet-lite0@128,pixels")
    parser.add_argument("--parts", default="probes,looks,planning")
    parser.add_argument("--labels", default="4000,400", help="labels that probes are fitted to")
    parser.add_argument("--tests", type=int, default=1000, help="clips that probes are scored on")
    parser.add_argument("--episodes", type=int, default=600, help="logged for each task")
    parser.add_argument("--look-episodes", type=int, default=40, help="logged for each unseen look")
    parser.add_argument("--fractions", default="1,0.1", help="of the episodes that predictors are trained on")
    parser.add_argument("--steps", type=int, help="of wm-train's first stage (its default)")
    parser.add_argument("--protocols", default="near,far")
    parser.add_argument("--trials", type=int, default=50, help="planned episodes of each protocol")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    results = Results(flags.out / "results.json")
    if not flags.table:
        for task in flags.tasks.split(","):
            data = log_task(flags, task)
            for spec in flags.encoders.split(","):
                if {"probes", "looks"} & set(flags.parts.split(",")):
                    probe(flags, task, data, spec, results)
                if "planning" in flags.parts.split(","):
                    plan(flags, task, data, spec, results)
    print(tables(results.rows))


class Results:
    """Rows of results by key, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Keep a row, at once."""
        self.rows[key] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.rows, indent=1) + "\n")
        partial.replace(self.path)
        print(key, {name: value for name, value in row.items() if name != "outcomes"}, file=sys.stderr)


def log_task(flags: argparse.Namespace, task: str) -> Path:
    """Log the plain episodes, a tenth of them, and episodes in each look, unless they are there."""
    folder = flags.out / "data" / task
    wanted = {"plain": (None, flags.episodes)}
    for fraction in map(float, flags.fractions.split(",")):
        if fraction < 1:
            wanted[f"plain-{fraction:g}"] = (None, max(4, round(fraction * flags.episodes)))
    if "looks" in flags.parts:
        wanted |= {look: (look, flags.look_episodes) for look in LOOKS}
    for index, (name, (factors, episodes)) in enumerate(wanted.items()):
        # The tenth has the seed of the whole, so that it is its first episodes.
        seed = flags.seed if factors is None else flags.seed + 1000 + index
        root = folder / name
        if not complete(root):
            collect(CollectConfig(task, episodes, factors=factors, seed=seed), root, resume=root.exists())
    return folder


def complete(root: Path) -> bool:
    """Whether all episodes of a store are there."""
    manifest = root / "manifest.json"
    return manifest.is_file() and bool(json.loads(manifest.read_text()).get("complete"))


def load(spec: str) -> Encoder:
    """The encoder that NAME or NAME@SIZE names."""
    name, _, size = spec.partition("@")
    return load_encoder(name, **({"image_size": int(size)} if size else {}))


def label_of(task: str, num_positions: int) -> Label:
    """Positions, angles as sine and cosine, then velocities."""
    angles = ANGLES.get(task, ())

    def label(state: np.ndarray) -> np.ndarray:
        columns = []
        for joint in range(num_positions):
            value = state[:, joint]
            columns += [np.sin(value), np.cos(value)] if joint in angles else [value]
        return np.stack([*columns, *state[:, num_positions:].T], axis=1)

    return label


def probe(flags: argparse.Namespace, task: str, data: Path, spec: str, results: Results) -> None:
    """Fit probes to few and many labels; score them on held-out episodes and in every look."""
    labels = sorted(map(int, flags.labels.split(",")), reverse=True)
    missing = [n for n in labels if f"probe {task} {spec} {n}" not in results.rows]
    if not missing:
        return
    encoder = load(spec)
    plain = TrajectoryStore(data / "plain")
    train, held = plain.split(0.15, seed=flags.seed)
    num_positions = plain.columns["state"].shape[0] // 2
    label = label_of(task, num_positions)
    num_velocities = plain.columns["state"].shape[0] - num_positions

    def features(store: TrajectoryStore, num: int, episodes: np.ndarray | None, seed: int) -> tuple:
        clips, targets, groups = labelled_clips(store, label, num, episodes=episodes, seed=seed)
        return clip_features(encoder, clips, POOL_SIZE), targets, groups

    x, y, groups = features(plain, labels[0], train, flags.seed)
    tests = {"plain": features(plain, flags.tests, held, flags.seed + 1)[:2]}
    if "looks" in flags.parts:
        for look in LOOKS:
            tests[look] = features(TrajectoryStore(data / look), flags.tests, None, flags.seed + 2)[:2]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(flags.seed))
    for num in missing:
        chosen = order[:num]
        found = probe_scores(x[chosen], y[chosen], tests, groups=groups[chosen])
        row: dict[str, Any] = {"task": task, "encoder": spec, "labels": num}
        for kind, by_test in found.items():
            row[kind] = {
                name: {
                    "position": float(np.mean(scores[:-num_velocities])),
                    "velocity": float(np.mean(scores[-num_velocities:])),
                }
                for name, scores in by_test.items()
            }
        results.add(f"probe {task} {spec} {num}", row)


def plan(flags: argparse.Namespace, task: str, data: Path, spec: str, results: Results) -> None:
    """Train a predictor on each share of the episodes, and count successes."""
    for fraction in map(float, flags.fractions.split(",")):
        key = f"plan {task} {spec} {fraction:g}"
        if key in results.rows:
            continue
        store = data / ("plain" if fraction == 1 else f"plain-{fraction:g}")
        model = flags.out / "models" / f"{task}-{spec.replace('/', '_')}-{fraction:g}"
        steps = (
            [
                "--steps",
                str(flags.steps),
                f"num_predictor_steps={flags.steps}",
                f"distance.num_steps={flags.steps}",
            ]
            if flags.steps
            else []
        )
        if not (model / "config.json").is_file():
            encoder = encoder_folder(flags, spec)
            where = ("--data", store, "--encoder", encoder, "--out", model, "--overwrite")
            command("train", *where, "--threads", flags.threads, *steps)
        evaluated = command(
            *("eval", "--env", task, "--model", model, "--policy", "planner", "--protocol", flags.protocols),
            *("--episodes", flags.trials, "--seed", flags.seed + 5000, "--overwrite"),
            *("--threads", flags.threads, "--out", model / "evaluation"),
        )
        row = {"task": task, "encoder": spec, "fraction": fraction}
        for found in evaluated["rows"]:
            names = ("successes", "episodes", "success_rate", "ci95", "encode_ms_p50", "plan_ms_p50")
            row[found["protocol"]] = {name: found.get(name) for name in names}
        results.add(key, row)


def encoder_folder(flags: argparse.Namespace, spec: str) -> str:
    """What `wm-train --encoder` takes: the name itself, or a folder with the encoder at its size."""
    if "@" not in spec:
        return spec
    folder = flags.out / "encoders" / spec
    if not (folder / "config.json").is_file():
        load(spec).save(folder)
    return str(folder)


def command(name: str, *arguments: object) -> dict[str, Any]:
    """What one of the package's commands prints as JSON; its progress goes to stderr."""
    line = [sys.executable, "-m", f"wm_plan.commands.{name}", *map(str, arguments), "--json"]
    runner = f"from wm_plan.commands.{name} import main; main()"
    done = subprocess.run([sys.executable, "-c", runner, *line[3:]], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"wm-{name} ended with {done.returncode}: {' '.join(line)}")
    return json.loads(done.stdout)


def tables(rows: dict[str, Any]) -> str:
    """Markdown: probes, looks, planning."""
    probes = [row for key, row in rows.items() if key.startswith("probe ")]
    plans = [row for key, row in rows.items() if key.startswith("plan ")]
    parts = []
    if probes:
        parts.append("| task | encoder | labels | position: linear | MLP | velocity: linear | MLP |")
        parts.append("|---|---|---|---|---|---|---|")
        parts += [
            f"| {row['task']} | {row['encoder']} | {row['labels']} | "
            + " | ".join(
                _explained(row[kind]["plain"][what])
                for what in ("position", "velocity")
                for kind in ("linear", "mlp")
            )
            + " |"
            for row in probes
        ]
    if looked := [row for row in probes if len(row["linear"]) > 1]:
        parts.append("\nPosition in looks that the probe was not fitted to (MLP):\n")
        parts.append(f"| task | encoder | labels | plain | {' | '.join(LOOKS)} |")
        parts.append("|---|---|---|---|" + "---|" * len(LOOKS))
        parts += [
            f"| {row['task']} | {row['encoder']} | {row['labels']} | "
            + " | ".join(_explained(row["mlp"][look]["position"]) for look in ("plain", *LOOKS))
            + " |"
            for row in looked
        ]
    if plans:
        names = list(dict.fromkeys(name for row in plans for name in row if isinstance(row[name], dict)))
        parts.append(f"\n| task | encoder | data | {' | '.join(names)} |")
        parts.append("|---|---|---|" + "---|" * len(names))
        parts += [
            f"| {row['task']} | {row['encoder']} | {row['fraction']:.0%} | "
            + " | ".join(_rate(row[name]) for name in names)
            + " |"
            for row in plans
        ]
    return "\n".join(parts)


def _explained(value: float) -> str:
    """R^2; what is worse than guessing the mean is just that."""
    return f"{value:.3f}" if value >= 0 else "< 0"


def _rate(found: dict[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{found['success_rate']:.0%} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main()
