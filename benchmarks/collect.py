"""How many frames a second one core logs, beside the same env drawn by gymnasium's own renderer.

    python benchmarks/collect.py [--env reacher] [--image-size 64] [--msaa 4] [--rounds 15] [--json]

`collected` is an episode as wm-collect rolls it out: policy, physics, frames in the plain look. `stored` adds
what a worker does next: compress the episode and write it. `gymnasium` is the same model under the same
actions, as many frames of the same size and camera, drawn by gymnasium's `MujocoRenderer` at its default
flags, which is what `gymnasium.make(..., render_mode="rgb_array")` draws with. They take turns, episode by
episode, in one process; a rate counts the CPU seconds of all threads, since software GL may use several.
Ratios are taken within a round, and their median is shown.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from wm_plan.collecting import CollectConfig, make_recipe
from wm_plan.envs import TaskEnv, choose_backend
from wm_plan.machine import versions
from wm_plan.rollout_workers import EpisodeMaker
from wm_plan.world_model.store_writer import STAGING, stage_episode


class GymnasiumRenderer:
    """An env's model stepped and drawn the way that gymnasium does."""

    def __init__(self, env: TaskEnv) -> None:
        """Make gymnasium's renderer for the model of `env`."""
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        self._env, self._model = env, env.mj_model
        self._data = mujoco.MjData(self._model)
        self._substeps = round(env.control_timestep / self._model.opt.timestep) * env.frame_skip
        size = env.image_size
        named = {} if env.camera == "free" else {"camera_name": env.camera}
        self._renderer = MujocoRenderer(self._model, self._data, width=size, height=size, **named)
        self._renderer.render("rgb_array")

    def episode(self, state: np.ndarray, actions: np.ndarray) -> list[np.ndarray]:
        """The frames of an episode: one before each action, and one at the end."""
        self._renderer.viewer.make_context_current()
        self._data.qpos[:], self._data.qvel[:] = np.split(state, [self._model.nq])
        mujoco.mj_forward(self._model, self._data)
        frames = [self._renderer.render("rgb_array")]
        for action in actions:
            self._data.ctrl[:] = action
            mujoco.mj_step(self._model, self._data, self._substeps)
            frames.append(self._renderer.render("rgb_array"))
        return frames

    def close(self) -> None:
        """Free it."""
        self._renderer.viewer.make_context_current()
        self._renderer.close()


def timed(call: Callable[..., object], *arguments: object) -> tuple[Any, float, float]:
    """What `call` gives, the CPU seconds of all threads, and the seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call(*arguments)
    return result, time.process_time() - cpu, time.perf_counter() - wall


def measure(env_name: str, image_size: int, msaa: int, num_steps: int, rounds: int) -> dict[str, Any]:
    """Frames a CPU second of each, and the ratios."""
    os.environ.setdefault("MUJOCO_GL", choose_backend())
    config = CollectConfig(env_name, num_steps=num_steps, image_size=image_size, msaa=msaa)
    maker = EpisodeMaker(make_recipe(config))
    if not isinstance(maker.env, TaskEnv):
        raise ValueError(f"{env_name} does not run on MuJoCo; gymnasium's MuJoCo renderer cannot draw it")
    theirs = GymnasiumRenderer(maker.env)
    rates: dict[str, list[float]] = {name: [] for name in ("collected", "stored", "gymnasium")}
    walls: dict[str, list[float]] = {name: [] for name in rates}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / STAGING).mkdir()
        for number in range(-2, rounds):  # two rounds to warm up
            index = number % 1000
            columns, rolling, rolling_wall = timed(maker.columns, index)
            _, storing, storing_wall = timed(stage_episode, folder, index, columns)
            start, actions = columns["state"][0], columns["action"][:-1]
            frames, drawing, drawing_wall = timed(theirs.episode, start, actions)
            assert np.shape(frames) == columns["pixels"].shape
            if number < 0:
                continue
            count = len(frames)
            for name, seconds in (
                ("collected", (rolling, rolling_wall)),
                ("stored", (rolling + storing, rolling_wall + storing_wall)),
                ("gymnasium", (drawing, drawing_wall)),
            ):
                rates[name].append(count / max(seconds[0], 1e-9))
                walls[name].append(count / max(seconds[1], 1e-9))
    theirs.close()
    maker.close()
    ratios = {
        name: float(np.median(np.divide(rates[name], rates["gymnasium"]))) for name in ("collected", "stored")
    }
    return {
        "frames_per_cpu_second": {name: float(np.median(seen)) for name, seen in rates.items()},
        "frames_per_second": {name: float(np.median(seen)) for name, seen in walls.items()},
        "times_gymnasium": ratios,
    }


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    print(
        f"{result['env']}, {result['image_size']} px, MSAA {result['msaa']}, {result['rounds']} episodes of "
        f"{result['num_steps']} model steps each, GL {result['gl']}"
    )
    print(f"{'':<12}{'frames/CPU s':>14}{'frames/s':>12}{'times gymnasium':>18}")
    for name, rate in result["frames_per_cpu_second"].items():
        ratio = result["times_gymnasium"].get(name, 1.0)
        print(f"{name:<12}{rate:>14.0f}{result['frames_per_second'][name]:>12.0f}{ratio:>18.1f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="reacher", help="a task, or any MuJoCo env (reacher)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels a side (64)")
    parser.add_argument("--msaa", type=int, default=4, help="antialiasing of collected frames, 4 or 0 (4)")
    parser.add_argument("--steps", type=int, default=40, help="model steps an episode (40)")
    parser.add_argument("--rounds", type=int, default=15, help="episodes of each (15)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args()
    try:
        measured = measure(flags.env, flags.image_size, flags.msaa, flags.steps, flags.rounds)
    except ValueError as error:
        sys.exit(f"collect.py: {error}")
    result = {
        "env": flags.env,
        "image_size": flags.image_size,
        "msaa": flags.msaa,
        "num_steps": flags.steps,
        "rounds": flags.rounds,
        "gl": choose_backend(),
        "processor": platform.machine(),
        "versions": versions(),
        **measured,
    }
    if flags.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
