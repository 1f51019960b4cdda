"""RealTimeMPC with the clock running: late plans, jitter, and what real time and latency cost in success.

    python benchmarks/realtime.py --episodes 100 --json realtime.json
    python benchmarks/realtime.py --simulated 40 --episodes 20   # the same on simulated time, on any machine

At --hz 20, every 50 ms one frame goes in, one plan is made and one new action comes out: a *model step* of
the task lasts 50 ms. reacher's model step is 4 env steps, so env steps are taken (and drawn) at 80 Hz; each
is 20 ms of the arm's time, which makes the arm 1.6 times as fast as in life: --hz 12.5 is its own time.

All rows have the same starts, goals and search seeds (those of wm-eval with this --seed):

    waits       the controller without real time: the arm waits for every plan, which takes all its iterations
    real time   plans in the background, cut short where they would be late
    + latency   every plan takes --latency ms longer, with and without compensation

near goals end with the first touch; far ones run on through their budget, to see whether they are held. An
action's jitter is the time from when its env step is due to when the action is known, the time to wake up and
to hand the frame over included. A plan is late if it comes after the steps it had taken as committed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import wm_plan
from wm_plan.envs import TaskEnv
from wm_plan.evaluation.protocols import Trial, draw_trials, find_protocol
from wm_plan.machine import versions
from wm_plan.planners import MPC, LoopStep, RealTimeMPC, Status, run_in_env
from wm_plan.planning import HELD_SCALE, HELD_STEPS


@dataclass
class Row:
    """What one way of running the controller gave, over all trials of a protocol."""

    protocol: str
    controller: str
    reached: list[bool] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    stale: int = 0
    counters: dict[str, int] = field(default_factory=dict)

    def as_json(self, rate_hz: float) -> dict[str, Any]:
        """Rates in [0, 1], times in ms unless they say seconds."""
        jitter = 1e3 * np.array(self.lateness)
        plans = self.counters.get("plans", 0)
        return {
            "protocol": self.protocol,
            "controller": self.controller,
            "episodes": len(self.reached),
            "seconds": round(len(self.lateness) / rate_hz, 1),
            "reached": float(np.mean(self.reached)),
            "held": float(np.mean(self.held)) if self.held else None,
            "late_plans": self.counters["late"] / plans if plans else None,
            "cut_plans": self.counters["cut"] / plans if plans else None,
            "stale_actions": self.stale / len(self.lateness),
            "jitter_ms": dict(
                zip(("p50", "p99", "max"), np.quantile(jitter, (0.5, 0.99, 1)).tolist(), strict=True)
            )
            if plans
            else None,
            "plan_ms_p50": float(np.median(self.plan_ms)),
            "plan_ms_p99": float(np.quantile(self.plan_ms, 0.99)),
            "iterations_mean": float(np.mean(self.iterations)),
            "counters": self.counters,
        }


def run_rows(
    env: TaskEnv, controller: MPC, flags: argparse.Namespace, protocol_name: str
) -> Iterator[dict[str, Any]]:
    """Run all ways of running the controller, one after the other."""
    protocol = find_protocol(protocol_name)
    trials = draw_trials(env, protocol, flags.episodes, flags.seed)
    rate_hz = flags.hz * controller.frame_skip
    simulated = flags.simulated is not None
    own = flags.simulated / 1e3 if simulated else 0.0
    late = flags.latency / 1e3
    ways: dict[str, dict[str, Any] | None] = {
        "waits": None,
        "real time": {"latency": own},
        f"real time, {flags.latency:g} ms latency": {"latency": own + late},
        f"real time, {flags.latency:g} ms latency, not compensated": {
            "latency": own + late,
            "compensate": False,
        },
    }
    for name, settings in ways.items():
        row = Row(protocol_name, name)
        if settings is None:
            drive(row, env, controller, trials, protocol.measures_hold)
        else:
            with RealTimeMPC(controller, rate_hz, simulated=simulated, **settings) as loop:
                drive(row, env, loop, trials, protocol.measures_hold)
            row.counters = dict(vars(loop.counters))
        yield row.as_json(rate_hz)


def drive(
    row: Row, env: TaskEnv, controller: MPC | RealTimeMPC, trials: list[Trial], measures_hold: bool
) -> None:
    """Run every trial once."""
    for trial in trials:
        errors = [float(env.error(trial.start, trial.goal))]
        steps = run_in_env(
            env,
            controller,
            env.render_goal(trial.goal),
            seed=trial.seed,
            options={"state": trial.start},
            max_steps=trial.budget,
        )
        for step in steps:
            errors.append(float(env.error(step.info["state"], trial.goal)))
            note(row, step)
            if errors[-1] <= 1 and not measures_hold:
                break
        row.reached.append(min(errors) <= 1)
        if measures_hold:
            row.held.append(max(errors[-HELD_STEPS:]) <= HELD_SCALE)


def note(row: Row, step: LoopStep) -> None:
    """Keep what a row reports of an env step."""
    row.lateness.append(step.late)
    row.stale += step.status is Status.STALE
    if step.plan is not None:
        row.plan_ms.append(step.plan.timings["total_ms"])
        row.iterations.append(step.plan.iterations)


def show(row: dict[str, Any]) -> None:
    """Print one line of the table."""
    held = "" if row["held"] is None else f"{100 * row['held']:.0f}"
    jitter = (
        "" if row["jitter_ms"] is None else "{p50:.2f} / {p99:.2f} / {max:.1f}".format(**row["jitter_ms"])
    )
    late = "" if row["late_plans"] is None else f"{100 * row['late_plans']:.2f}"
    cut = "" if row["cut_plans"] is None else f"{100 * row['cut_plans']:.0f}"
    print(
        f"{row['protocol']:<6}{row['controller']:<44}{row['episodes']:>7}{row['seconds']:>5.0f}"
        f"{100 * row['reached']:>11.0f}{held:>8}{late:>8}{cut:>7}{100 * row['stale_actions']:>9.1f}"
        f"{row['plan_ms_p50']:>5.0f} /{row['plan_ms_p99']:>4.0f}{row['iterations_mean']:>12.1f}   {jitter}",
        flush=True,
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="reacher", help="the task (reacher)")
    parser.add_argument("--model", help="a predictor of your own (default: the task's shipped one)")
    parser.add_argument("--planner", default="icem", help="the planner, with its preset for the task (icem)")
    parser.add_argument("--hz", type=float, default=20.0, help="model steps a second (20)")
    parser.add_argument("--latency", type=float, default=100.0, help="ms injected into every plan (100)")
    parser.add_argument("--protocols", default="near,far", help="near, far or both")
    parser.add_argument("--episodes", type=int, default=100, help="of each protocol (100)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of starts and goals (0); develop with 1000 and up"
    )
    parser.add_argument(
        "--simulated", type=float, metavar="MS", help="simulated time, on which a plan takes MS by itself"
    )
    parser.add_argument("--json", type=Path, help="also write all numbers there")
    parser.add_argument("overrides", nargs="*", help="settings, as in planner.num_samples=128")
    return parser.parse_args()


def main() -> None:
    """Run everything, print the table, and write JSON if asked."""
    flags = parse()
    torch.set_num_threads(1)
    try:
        env: Any = wm_plan.make_env(flags.env)
        controller = wm_plan.load(flags.model or flags.env, planner=flags.planner, overrides=flags.overrides)
        protocols = [find_protocol(name).name for name in flags.protocols.split(",")]
    except ValueError as error:
        sys.exit(f"realtime.py: {error}")
    arm_time = controller.frame_skip * env.control_timestep * flags.hz
    settings = controller.planner.config
    print(
        f"{flags.env}, {flags.planner}: {settings.num_samples} candidates x {settings.num_iterations}"
        f" iterations x {settings.horizon} steps; {flags.hz:g} plans a second,"
        f" {arm_time:g} times as fast as life"
    )
    print(
        f"{'goals':<6}{'controller':<44}{'trials':>7}{'s':>5}{'reached %':>11}{'held %':>8}{'late %':>8}"
        f"{'cut %':>7}{'stale %':>9}{'plan ms':>11}{'iterations':>12}   jitter ms p50 / p99 / max"
    )
    rows = []
    for protocol in protocols:
        for row in run_rows(env, controller, flags, protocol):
            rows.append(row)
            show(row)
    env.close()
    if flags.json:
        circumstances = {name: str(value) for name, value in vars(flags).items()} | {"versions": versions()}
        flags.json.write_text(json.dumps({"rows": rows, **circumstances}, indent=1) + "\n")


if __name__ == "__main__":
    main()
