"""What an encoder is worth: probes, unseen looks, an unseen task, planning on one budget, objectives, time.

    python benchmarks/encoders.py --out runs/encoders                     # everything; see docs/encoders.md
    python benchmarks/encoders.py --out runs/encoders --parts planning --tasks reacher
    python benchmarks/encoders.py --out runs/encoders --encoders small,runs/mine --parts probes
    python benchmarks/encoders.py --out runs/tiny --tasks reacher --episodes 40 --look-episodes 10 \
        --unseen-episodes 40 --objective-episodes 8 --labels 200,50 --tests 100 --training 0.01 --trials 4 \
        --pretrain-steps 20                                               # a quick check that it runs
    python benchmarks/encoders.py --out runs/encoders --parts none \
        --gather docs/results/benchmarks/encoders.json                    # all rows in one file

Every result is a file in OUT/rows, written as soon as it is there: a stopped run goes on where it was, and
several runs share one OUT if each has its own --tasks. `encoders_table.py` makes the tables.

Encoders are what `load_encoder` knows, with `@SIZE` for another image size (efficientnet-lite0@128 has the
8 x 8 tokens that "small" has). Every encoder gets the same logs, labels, seeds, layout, head, predictor and
budgets. The parts:

probes      R^2 of positions (sine and cosine of angles) and velocities, from the tokens of two frames pooled
            to 8 x 8, on held-out episodes, and on episodes in looks that no probe was fitted to.
unseen      the same of tasks that pretraining never saw.
planning    a predictor by `wm-train` on all episodes or a tenth of them, with a share of its usual steps;
            successes by `wm-eval`, with Wilson's intervals, 95 %.
robust      successes of the predictors on all episodes, near goals, in looks that they were not trained on.
objectives  an encoder by each objective of `wm-pretrain`, of one budget, on one task; then probes.
time        of encoding one frame on one thread; see `encode_time.py`.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_plan.collecting import CollectConfig, collect
from wm_plan.envs import make_task, short_name
from wm_plan.state_probes import StateLabels
from wm_plan.world_model import Encoder, TrainConfig, TrajectoryStore, load_encoder
from wm_plan.world_model.pretraining import OBJECTIVES
from wm_plan.world_model.probes import clip_features, labelled_clips, probe_scores
from wm_plan.world_model.training_state import STATE_NAME

LOOKS = ("light", "colour", "texture", "camera", "occluder")
ENCODERS = "small,random,efficientnet-lite0@128,pixels"
CHANGES = ("light", "colour", "background", "camera", "occluder")
POOL_SIZE = 8
WITH_PLAIN = "vjepa + plain look"
"""The default of wm-pretrain; all others are one objective alone."""

Row = dict[str, Any]


def main() -> None:
    """Measure what is missing."""
    flags = parse()
    torch.set_num_threads(flags.threads)
    rows = Rows(flags.out / "rows")
    for part in flags.parts.split(","):
        if part != "none":
            PARTS[part](flags, rows)
    if flags.gather:
        flags.gather.parent.mkdir(parents=True, exist_ok=True)
        flags.gather.write_text(json.dumps(rows.all(), indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="logs, models and rows")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; or none")
    parser.add_argument("--tasks", default="reacher,point_mass,two_room", help="of probes and planning")
    parser.add_argument("--unseen", default="dm_control/finger-turn_easy,dm_control/acrobot-swingup")
    parser.add_argument("--encoders", default=ENCODERS)
    parser.add_argument("--labels", default="4000,400", help="that probes are fitted to")
    parser.add_argument("--tests", type=int, default=500, help="clips that probes are scored on")
    parser.add_argument("--episodes", type=int, default=600, help="logged for each task")
    parser.add_argument("--look-episodes", type=int, default=40, help="logged for each look; 0 for none")
    parser.add_argument("--unseen-episodes", type=int, default=200)
    parser.add_argument("--fractions", default="1,0.1", help="of the episodes that predictors are trained on")
    parser.add_argument("--training", type=float, default=0.5, help="share of wm-train's usual steps")
    parser.add_argument("--protocols", default="near,far")
    parser.add_argument("--trials", type=int, default=50, help="planned episodes of each protocol")
    parser.add_argument("--objective-task", default="reacher")
    parser.add_argument("--objectives", default=",".join((*OBJECTIVES, WITH_PLAIN)))
    parser.add_argument("--objective-episodes", type=int, default=200, help="logged in varied looks for them")
    parser.add_argument("--pretrain-steps", type=int, default=1500, help="of 16 clips, for each objective")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gather", type=Path, metavar="FILE", help="at the end write all rows into one file")
    return parser.parse_args()


class Rows:
    """Results by key, each in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Row]:
        """Every row, in the order of their names."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]

    def has(self, *key: object) -> bool:
        """Whether it has been measured."""
        return self._path(*key).is_file()

    @contextmanager
    def adding(self, *key: object) -> Iterator[Row]:
        """A row to be filled; it is kept, with the processor time that was taken, if nothing fails."""
        row: Row = {"part": key[0]}
        began = _processor_seconds()
        yield row
        row["cpu_seconds"] = round(_processor_seconds() - began, 1)
        path = self._path(*key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(row, indent=1) + "\n")
        partial.replace(path)
        print(path.stem, f"{row['cpu_seconds']:.0f} s", file=sys.stderr)

    def _path(self, *key: object) -> Path:
        return self.folder / (re.sub(r"[^\w.@-]+", "-", " ".join(map(str, key))) + ".json")


def _processor_seconds() -> float:
    """Of this process and those that it waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def logged(flags: argparse.Namespace, name: str, config: CollectConfig) -> Path:
    """The store of these episodes, logged unless it is there."""
    root = flags.out / "data" / short_name(config.env) / name
    manifest = root / "manifest.json"
    if not (manifest.is_file() and json.loads(manifest.read_text()).get("complete")):
        collect(config, root, num_workers=1, resume=root.exists())
    return root


def plain_log(flags: argparse.Namespace, env: str, episodes: int, name: str = "plain") -> Path:
    """Episodes in the plain look; fewer ones are the first of more."""
    return logged(flags, name, CollectConfig(env, episodes, seed=flags.seed))


def load(spec: str) -> Encoder:
    """The encoder that NAME or NAME@SIZE names."""
    name, _, size = spec.partition("@")
    return load_encoder(name, **({"image_size": int(size)} if size else {}))


# --- probes ---------------------------------------------------------------------------------------------


def probes(flags: argparse.Namespace, rows: Rows) -> None:
    """Probes of every task and encoder, in the plain look and in others."""
    for task in flags.tasks.split(","):
        plain, looks = plain_log(flags, task, flags.episodes), {}
        for index, look in enumerate(LOOKS if flags.look_episodes else ()):
            config = CollectConfig(task, flags.look_episodes, factors=look, seed=flags.seed + 1001 + index)
            looks[look] = logged(flags, look, config)
        for spec in flags.encoders.split(","):
            probe(flags, rows, ("probes", task, spec), lambda spec=spec: load(spec), plain, looks)


def unseen(flags: argparse.Namespace, rows: Rows) -> None:
    """Probes of tasks that pretraining never saw."""
    for task in flags.unseen.split(","):
        plain = plain_log(flags, task, flags.unseen_episodes)
        for spec in flags.encoders.split(","):
            probe(flags, rows, ("unseen", task, spec), lambda spec=spec: load(spec), plain, {})


def probe(
    flags: argparse.Namespace,
    rows: Rows,
    key: tuple[str, str, str],
    encoder_of: Callable[[], Encoder],
    plain: Path,
    looks: dict[str, Path],
) -> None:
    """Fit probes to few and many labels; score them on held-out episodes and in every look."""
    numbers = sorted(map(int, flags.labels.split(",")), reverse=True)
    missing = [number for number in numbers if not rows.has(*key, number)]
    if not missing:
        return
    encoder, store = encoder_of(), TrajectoryStore(plain)
    train, held = store.split(0.15, seed=flags.seed)
    task = make_task(key[1], render=False)
    labels = StateLabels(task.mj_model, len(task.get_state()))
    is_velocity = np.array(labels.kinds) == "velocity"

    def features(log: TrajectoryStore, number: int, episodes: np.ndarray | None, seed: int) -> tuple:
        clips, targets, groups = labelled_clips(log, labels, number, episodes=episodes, seed=seed)
        return clip_features(encoder, clips, POOL_SIZE), targets, groups

    with rows.adding(*key, missing[0]) as first:
        x, y, groups = features(store, missing[0], train, flags.seed)
        tests = {"plain": features(store, flags.tests, held, flags.seed + 1)[:2]}
        for look, root in looks.items():
            tests[look] = features(TrajectoryStore(root), flags.tests, None, flags.seed + 2)[:2]
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(flags.seed))

        def score(row: Row, number: int) -> None:
            chosen = order[:number]
            found = probe_scores(x[chosen], y[chosen], tests, groups=groups[chosen])
            row.update(task=key[1], encoder=key[2], labels=number)
            for kind, by_test in found.items():
                row[kind] = {
                    name: {
                        "position": float(np.mean(np.array(scores)[~is_velocity])),
                        "velocity": float(np.mean(np.array(scores)[is_velocity])),
                    }
                    for name, scores in by_test.items()
                }

        score(first, missing[0])
    for number in missing[1:]:
        with rows.adding(*key, number) as row:
            score(row, number)


# --- planning -------------------------------------------------------------------------------------------


def planning(flags: argparse.Namespace, rows: Rows) -> None:
    """Train a predictor on each share of each task's episodes, over each encoder, and count successes."""
    for task in flags.tasks.split(","):
        for fraction in map(float, flags.fractions.split(",")):
            for spec in flags.encoders.split(","):
                if not rows.has("planning", task, spec, fraction):
                    with rows.adding("planning", task, spec, fraction) as row:
                        row.update(task=task, encoder=spec, fraction=fraction)
                        found = plan(flags, task, spec, fraction, "--protocol", flags.protocols)
                        row.update({one["protocol"]: counted(one) for one in found})


def robust(flags: argparse.Namespace, rows: Rows) -> None:
    """Count successes of the same predictors, near goals, where frames and goals look otherwise."""
    changed = ("--protocol", "robust", "--changes", ",".join(CHANGES), "robust_goals=near")
    for task in flags.tasks.split(","):
        for spec in flags.encoders.split(","):
            if not rows.has("robust", task, spec):
                with rows.adding("robust", task, spec) as row:
                    found = plan(flags, task, spec, 1.0, *changed)
                    row.update(task=task, encoder=spec)
                    row.update({one["change"] or "plain": counted(one) for one in found})


def plan(flags: argparse.Namespace, task: str, spec: str, fraction: float, *arguments: object) -> list[Row]:
    """What wm-eval counts with a predictor on this share of the episodes; it is trained if it is missing."""
    log = plain_log(
        flags,
        task,
        max(4, round(fraction * flags.episodes)),
        "plain" if fraction == 1 else f"plain-{fraction:g}",
    )
    model = flags.out / "models" / re.sub(r"[^\w.]+", "-", f"{task} {spec} {fraction:g}")
    if not (model / "config.json").is_file():
        usual = TrainConfig()
        steps = {
            "num_steps": usual.num_steps,
            "num_predictor_steps": usual.num_predictor_steps,
            "distance.num_steps": usual.distance.num_steps,
        }
        command(
            *("train", "--data", log, "--encoder", encoder_folder(flags, spec), "--out", model),
            *("--resume" if (model / STATE_NAME).is_file() else "--overwrite", "--threads", flags.threads),
            *(f"{name}={max(2, round(flags.training * number))}" for name, number in steps.items()),
        )
    return command(
        *("eval", "--env", task, "--model", model, "--policy", "planner", *arguments, "--no-report"),
        *("--episodes", flags.trials, "--seed", flags.seed + 5000, "--overwrite"),
        *("--threads", flags.threads, "--out", model / "evaluation"),
    )["rows"]


def counted(found: Row) -> Row:
    """What is kept of a row of wm-eval."""
    names = ("successes", "episodes", "success_rate", "ci95", "held_rate", "loss", "loss_ci95")
    return {name: found.get(name) for name in names}


def encoder_folder(flags: argparse.Namespace, spec: str) -> str:
    """What `wm-train --encoder` takes: the name itself, or a folder with the encoder at its size."""
    if "@" not in spec:
        return spec
    folder = flags.out / "encoders" / spec
    if not (folder / "config.json").is_file():
        load(spec).save(folder)
    return str(folder)


# --- objectives, and time -------------------------------------------------------------------------------


def objectives(flags: argparse.Namespace, rows: Rows) -> None:
    """Pretrain on one task by each objective alone, on one budget; then probe."""
    task = flags.objective_task
    plain = plain_log(flags, task, flags.episodes)
    config = CollectConfig(task, flags.objective_episodes, varied="all", seed=flags.seed + 2000)
    varied = logged(flags, "varied", config)
    for objective in flags.objectives.split(","):
        out = flags.out / "pretrained" / re.sub(r"\W+", "-", objective)
        if not rows.has("pretraining", task, objective):
            with rows.adding("pretraining", task, objective) as row:
                own = [f"objective={objective}", "plain.weight=0"] if objective != WITH_PLAIN else []
                said = command(
                    *("pretrain", "--data", varied, "--out", out, "--overwrite", "--threads", flags.threads),
                    *("--steps", flags.pretrain_steps, "--batch-size", 16, "probe_labels=0", *own),
                )
                names = ("loss", "std", "effective_rank", "uniformity", "seconds", "warnings")
                row.update(task=task, objective=objective, steps=flags.pretrain_steps)
                row.update({name: said[name] for name in names})
        probe(flags, rows, ("objectives", task, objective), lambda out=out: load(str(out)), plain, {})


def time(flags: argparse.Namespace, rows: Rows) -> None:
    """Encode one frame on one thread."""
    from encode_time import measure

    for spec in flags.encoders.split(","):
        if not rows.has("time", spec):
            with rows.adding("time", spec) as row, torch.inference_mode():
                row.update(encoder=spec, **measure(load(spec), 96, 100))


def command(name: str, *arguments: object) -> dict[str, Any]:
    """What one of the package's commands prints as JSON; its progress goes to stderr."""
    runner = f"import sys; from wm_plan.commands.{name} import main; sys.exit(main())"
    line = [sys.executable, "-c", runner, *map(str, arguments), "--json"]
    done = subprocess.run(line, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"wm-{name} ended with {done.returncode}: {' '.join(line[3:])}")
    return json.loads(done.stdout)


PARTS: dict[str, Callable[[argparse.Namespace, Rows], None]] = {
    "probes": probes,
    "unseen": unseen,
    "planning": planning,
    "robust": robust,
    "objectives": objectives,
    "time": time,
}

if __name__ == "__main__":
    main()
