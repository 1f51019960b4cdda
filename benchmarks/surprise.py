"""Surprise when the world changes in the middle of a run: how often, how soon, how seldom without a change.

    python benchmarks/surprise.py --runs 25 --json surprise.json
    python benchmarks/surprise.py --env push_t --model runs/push_t --runs 25

Every run lasts --steps model steps, either with the planner at work (a new random goal every 20) or with the
task's logging policy. From a random one of the model steps 10 to 17 on, something is different:

    joint locked        the first joint that is driven no longer moves
    mass doubled        of all that moves
    object in the way   a ball is put where the robot is about to come; counted from when it touches
    object aside        a ball is put where it does not come
    camera moved        by a tenth of its height, and rolled by 6 degrees
    frames frozen       the same picture for ever

Each run has a twin without the change: same start, same seeds. `fires` is the fraction of model steps of the
twins with a surprise above the threshold. A change is detected if surprise goes above it at any later model
step; the delay is from the change to the first one, in env steps. AUROC compares the largest surprise after
the change with the twins' in the same steps. The columns `looks` are the same for how unfamiliar frames look
(threshold 1), which knows nothing of motion.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from changed_world import CHANGES, Change, World

import wm_plan
from wm_plan.envs import Policy, make_policy
from wm_plan.machine import versions
from wm_plan.planners import MPC
from wm_plan.world_model import SurpriseMonitor

NEW_GOAL = 20
"""Model steps from one goal of the planner to the next."""
FIRST_CHANGE, CHANGES_WITHIN = 10, 8
"""Model steps before the earliest change, and in which it comes."""


Act = Callable[[int, dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]
"""Actions (run, env step, action) and surprise (run,) from the model step and what is observed."""


@dataclass
class Runs:
    """What was told of some runs; arrays are (model step, run)."""

    surprise: np.ndarray
    looks: np.ndarray
    """Unfamiliarity of the frame."""
    states: list[list[np.ndarray]]
    onset: np.ndarray
    """(run,) model step from which the change could be noticed; that of a run that nothing touched is -1."""


class Driver:
    """Runs several worlds at once, with the planner or with the logging policy."""

    def __init__(self, name: str, worlds: list[World], controller: MPC, seed: int) -> None:
        self.name, self._worlds, self._controller, self._seed = name, worlds, controller, seed
        self._model: Any = controller.model

    def run(self, num_steps: int, change: Change | None = None, twin: Runs | None = None) -> Runs:
        """Run all worlds once, from the same starts each time."""
        rows = range(len(self._worlds))
        rngs = [np.random.default_rng([self._seed, row, 1]) for row in rows]
        onset = FIRST_CHANGE + np.array([int(rng.integers(CHANGES_WITHIN)) for rng in rngs])
        for row, world in enumerate(self._worlds):
            world.begin(self._seed + row)
        act = self._planner() if self.name == "planner" else self._logging_policy()
        surprise, looks, states = [], [], []
        touched = np.full(len(onset), -1)
        for step in range(num_steps):
            for row in np.flatnonzero(onset == step) if change is not None and twin is not None else ():
                coming = [each[row] for each in twin.states[step:]]
                change.apply(self._worlds[row], rngs[row], coming)
            states.append([world.env.get_state() for world in self._worlds])
            seen = [world.observe() for world in self._worlds]
            observation = {name: np.stack([each[name] for each in seen]) for name in seen[0]}
            actions, told = act(step, observation)
            pixels = torch.from_numpy(observation[self._controller.views[0]])[:, None]
            looks.append(self._model.unfamiliarity(pixels).numpy())
            surprise.append(told)
            for row, world in enumerate(self._worlds):
                for env_step in range(self._controller.frame_skip):
                    world.env.advance(actions[row, env_step])
                    if world.touched and touched[row] < 0:
                        touched[row] = step
        if change is not None and change.must_touch:
            onset = touched
        return Runs(np.array(surprise), np.array(looks), states, onset)

    def _planner(self) -> Act:
        controller, frame_skip = self._controller, self._controller.frame_skip
        controller.reset(seed=[self._seed + row for row in range(len(self._worlds))])

        def act(step: int, observation: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            if step % NEW_GOAL == 0:
                controller.set_goal(np.stack([self._goal(row, step) for row in range(len(self._worlds))]))
            actions = [controller.act(observation) for _ in range(frame_skip)]
            assert controller.surprise is not None
            return np.stack(actions, axis=1), controller.surprise.numpy()

        return act

    def _goal(self, row: int, step: int) -> np.ndarray:
        env = self._worlds[row].env
        return env.render_goal(env.sample_state(np.random.default_rng([self._seed, row, 2, step])))

    def _logging_policy(self) -> Act:
        model, frame_skip = self._model, self._controller.frame_skip
        rows = torch.arange(len(self._worlds))
        monitor = SurpriseMonitor(model, model.metadata.surprise)
        monitor.restart(rows, len(rows))
        policies: list[Policy] = [
            make_policy(world.env.logging_policy, world.env, np.random.default_rng([self._seed, row, 3]))
            for row, world in enumerate(self._worlds)
        ]
        executed = torch.full((len(rows), len(model.action_low) * self._controller.num_actions), torch.nan)

        def act(step: int, observation: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            nonlocal executed
            frames = {name: torch.from_numpy(observation[name])[:, None] for name in self._controller.views}
            felt = torch.from_numpy(observation["proprio"])[:, None] if model.metadata.proprio_dim else None
            monitor.observe(rows, model.encode(frames, felt)[:, 0], executed)
            held = frame_skip // self._controller.num_actions
            begins = [step * frame_skip + i for i in range(0, frame_skip, held)]
            chosen = [
                [policy.act(begin, world.env.get_state()) for begin in begins]
                for policy, world in zip(policies, self._worlds, strict=True)
            ]
            executed = torch.from_numpy(np.array(chosen).reshape(len(rows), -1)).float()
            return np.repeat(np.array(chosen), held, axis=1), monitor.surprise.numpy().copy()

        return act


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """How often a positive one is above a negative one; ties count half."""
    above = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
    return float(above)


def largest(values: np.ndarray, onset: np.ndarray) -> np.ndarray:
    """The largest value of each run after its onset; runs without one are left out."""
    return np.array([values[start:, row].max() for row, start in enumerate(onset) if start >= 0])


def judge(values: np.ndarray, runs: Runs, twin: np.ndarray, threshold: float) -> dict[str, Any]:
    """Detection rate, median delay [model steps] and AUROC of one way of telling."""
    chosen = [(values[start:, row] > threshold) for row, start in enumerate(runs.onset) if start >= 0]
    delays = [int(np.argmax(above)) for above in chosen if above.any()]
    positive, negative = largest(values, runs.onset), largest(twin, runs.onset)
    return {
        "detected": float(np.mean([above.any() for above in chosen])) if chosen else None,
        "delay": float(np.median(delays)) if delays else None,
        "auroc": auroc(positive, negative) if chosen else None,
    }


def measure(
    driver: Driver, num_steps: int, threshold: float, frame_skip: int, history: int
) -> dict[str, Any]:
    """Run the twins and every change; gives what a table reports."""
    began = time.monotonic()
    twin = driver.run(num_steps)
    told = twin.surprise[history:]
    result: dict[str, Any] = {
        "driver": driver.name,
        "fires": float((told > threshold).mean()),
        "looks_fires": float((twin.looks > 1).mean()),
        "changes": {},
    }
    positive: dict[str, list[np.ndarray]] = {"surprise": [], "looks": []}
    negative: dict[str, list[np.ndarray]] = {"surprise": [], "looks": []}
    for change in CHANGES:
        runs = driver.run(num_steps, change, twin)
        row: dict[str, Any] = {"runs": int((runs.onset >= 0).sum())}
        for name, limit in (("surprise", threshold), ("looks", 1.0)):
            found = judge(getattr(runs, name), runs, getattr(twin, name), limit)
            if found["delay"] is not None:
                found["delay"] *= frame_skip
            row[name] = found
            positive[name].append(largest(getattr(runs, name), runs.onset))
            negative[name].append(largest(getattr(twin, name), runs.onset))
        result["changes"][change.name] = row
        show_change(driver.name, change.name, row)
    for name, changed in positive.items():
        result[f"{name}_auroc"] = auroc(np.concatenate(changed), np.concatenate(negative[name]))
    result["seconds"] = round(time.monotonic() - began, 1)
    return result


def show_change(driver: str, name: str, row: dict[str, Any]) -> None:
    """Print one line of the table."""

    def cell(value: float | None, factor: float = 100, digits: int = 0) -> str:
        return "-" if value is None else f"{factor * value:.{digits}f}"

    parts = [
        f"{cell(found['detected']):>10}{cell(found['delay'], 1):>7}{cell(found['auroc'], 1, 2):>8}"
        for found in (row["surprise"], row["looks"])
    ]
    print(f"{driver:<9}{name:<20}{row['runs']:>5}" + " |".join(parts), flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="reacher", help="a task that ships (reacher)")
    parser.add_argument("--model", help="a predictor of your own (default: the task's shipped one)")
    parser.add_argument("--runs", type=int, default=25, help="of each change and each driver (25)")
    parser.add_argument("--steps", type=int, default=40, help="model steps a run (40)")
    parser.add_argument("--drivers", default="planner,logging", help="planner, logging or both")
    parser.add_argument("--threshold", type=float, help="of surprise (default: the controller's)")
    parser.add_argument("--seed", type=int, default=0, help="of runs (0); develop with 1000 and up")
    parser.add_argument("--json", type=Path, help="also write all numbers there")
    parser.add_argument("overrides", nargs="*", help="settings, as in planner.num_samples=128")
    return parser.parse_args()


def main() -> None:
    """Run everything, print the table, and write JSON if asked."""
    flags = parse()
    torch.set_num_threads(1)
    try:
        controller = wm_plan.load(flags.model or flags.env, overrides=flags.overrides)
        worlds = [World(flags.env) for _ in range(flags.runs)]
        model: Any = controller.model
        if model.metadata.surprise is None:
            raise ValueError("the model does not know which errors are usual; see calibrate_surprise")
    except ValueError as error:
        sys.exit(f"surprise.py: {error}")
    threshold = controller.caution.threshold if flags.threshold is None else flags.threshold
    skip, history = controller.frame_skip, controller.history
    print(f"{'':<34}{'surprise':>25} |{'looks':>25}")
    header = f"{'found %':>10}{'delay':>7}{'AUROC':>8}"
    print(f"{'driver':<9}{'change':<20}{'runs':>5}{header} |{header}")
    rows = []
    for name in flags.drivers.split(","):
        driver = Driver(name, worlds, controller, flags.seed)
        row = measure(driver, flags.steps, threshold, skip, history)
        rows.append(row)
        print(
            f"{name:<9}all changes: AUROC {row['surprise_auroc']:.3f} (looks {row['looks_auroc']:.3f});"
            f" without a change it fires in {row['fires']:.1%} of steps (looks {row['looks_fires']:.1%})",
            flush=True,
        )
    if flags.json:
        circumstances = {key: str(value) for key, value in vars(flags).items()}
        told = {"rows": rows, "threshold": threshold, "frame_skip": skip, **circumstances}
        flags.json.write_text(json.dumps({**told, "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
