"""The main job: plan to a goal, one env step after another, and judge the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from wm_plan.planners import MPC
from wm_plan.planners.objectives import Distance

from .configuration import compose
from .controller import make_controller
from .goal_image import read_goal_image

if TYPE_CHECKING:
    from wm_plan.envs import CameraEnv

Image = UInt8[np.ndarray, "_ _ 3"]
State = Float64[np.ndarray, " state"]

HELD_STEPS = 10
"""Env steps at the end through which a held goal is kept."""

HELD_SCALE = 2.0
"""A goal is held inside this many tolerances."""


@dataclass
class Goal:
    """Where to go: a picture, and the state it shows where that is known."""

    image: Image
    state: State | None = None


@dataclass
class Step:
    """What one env step brought, for whoever watches; `index` 0 is the start."""

    index: int
    cost: float
    """Latent distance to the goal."""
    error: float | None
    """In tolerances of the task; None where the goal's state is not known."""
    plan_ms: float
    """0 where nothing was planned."""


@dataclass
class PlanResult:
    """One run to a goal. `actions` has `steps` rows; what is listed by state has `steps + 1` entries."""

    env: str
    reached: bool = False
    """At some env step."""
    reached_by: str = "latent"
    """"state": the task's tolerance; "latent": the model's calibrated threshold."""
    held: bool = False
    """Through the last 10 env steps (inside twice the tolerance, or judged reached in latent space)."""
    steps: int = 0
    first_reached: int | None = None
    """Env step."""
    costs: list[float] = field(default_factory=list)
    """Squared latent distance to the goal, from the start to the end."""
    errors: list[float] | None = None
    """In tolerances of the task, from the start to the end."""
    actions: list[list[float]] = field(default_factory=list)
    """In env units."""
    states: list[State] = field(default_factory=list)
    goal_state: State | None = None
    goal_image: Image | None = None
    frames: list[Image] = field(default_factory=list)
    """What the camera saw, from the start to the end."""
    surprise: list[float] | None = None
    """In [0, 1], from the start to the end; None of a model that does not know which errors are usual."""
    surprise_threshold: float = 0.0
    on_surprise: str = "ignore"
    """What was done above the threshold."""
    stopped: bool = False
    """Surprise has ended the run."""
    plan_ms: list[float] = field(default_factory=list)
    """Of every replan."""
    encode_ms: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def as_json(self, num_positions: int) -> dict[str, Any]:
        """Give what fits into a result file: no frames; states as qpos (`num_positions` numbers) and qvel."""

        def split(state: State | None) -> dict[str, list[float]] | None:
            if state is None or not state.size:
                return None
            return {"qpos": state[:num_positions].tolist(), "qvel": state[num_positions:].tolist()}

        return {
            "env": self.env,
            "reached": self.reached,
            "reached_by": self.reached_by,
            "held": self.held,
            "steps": self.steps,
            "first_reached": self.first_reached,
            "start_state": split(self.states[0]),
            "final_state": split(self.states[-1]),
            "goal_state": split(self.goal_state),
            "final_cost": self.costs[-1],
            "final_error": self.errors[-1] if self.errors else None,
            "costs": self.costs,
            "errors": self.errors,
            "actions": self.actions,
            "surprise": self.surprise,
            "surprise_threshold": self.surprise_threshold,
            "on_surprise": self.on_surprise,
            "stopped": self.stopped,
            "plan_ms": percentiles(self.plan_ms, 50, 99),
            "encode_ms": percentiles(self.encode_ms, 50),
            "wall_s": round(self.wall_s, 3),
            "warnings": self.warnings,
        }


def load(
    name: str | Path,
    *,
    planner: str = "cem",
    overrides: Sequence[str] = (),
    device: str = "cpu",
    seed: int = 0,
) -> MPC:
    """Give a controller: call `set_goal(image)`, and then `act(observation)` once an env step.

    Args:
        name: a task, for its shipped weights, the folder of a predictor made by wm-train, or an id of the
            hub ("owner/name").
        planner: one of `wm_plan.planners.planner_names()`.
        overrides: settings as on the command line, such as "planner.num_samples=512".

    Raises:
        ValueError: an unknown name or setting, or a folder that holds no predictor.
    """
    from wm_plan.world_model import load_model

    model = load_model(name, device=device)
    config = compose("plan", overrides, base=[*task_choice(model.env_name), f"planner={planner}"])
    config.env = model.env_name
    return make_controller(model, config, seed=seed)


def make_env(name: str, **options: Any) -> CameraEnv:  # noqa: ANN401
    """Make an environment, ready to be logged and planned in.

    Args:
        name: a built-in task ("reacher"), a gymnasium id ("Pusher-v5", "package:Id"), a task of dm_control's
            suite ("dm_control/reacher-easy"), or the path of an MJCF file.
        options: `image_size`, `look`, `render`, `camera`, `frame_skip`: see `wm_plan.envs.make`.

    Raises:
        ValueError: an unknown name, or an environment that cannot be planned in.
    """
    from wm_plan import envs

    return envs.make(name, **options)


def plan(
    env: str | CameraEnv,
    goal: str | Path | Image | None = None,
    *,
    goal_state: str | Sequence[float] | None = None,
    start_state: str | Sequence[float] | None = None,
    model: str | Path | None = None,
    planner: str = "cem",
    overrides: Sequence[str] = (),
    seed: int = 0,
    max_steps: int | None = None,
    device: str = "cpu",
    on_step: Callable[[Step], None] | None = None,
) -> PlanResult:
    """Plan to a goal with a world model and give what happened.

    Args:
        env: what `make_env` takes, or what it gives.
        goal: a PNG or JPEG file or an image (H, W, 3) uint8.
        goal_state: position of the goal, "0.3,-1.2" or numbers; then the task's tolerance judges, and the
            goal is drawn from it unless there is a picture.
        start_state: position at the start; where `env.reset(seed)` puts it if None.
        model: folder of a predictor; the task's shipped one if None.
        max_steps: env steps; what the task allows for far goals if None.
        on_step: called after every env step.

    Raises:
        ValueError: bad input; the message says what to do.
    """
    from wm_plan import envs

    name = env if isinstance(env, str) else env.name
    controller = load(find_model(name, model), planner=planner, overrides=overrides, device=device, seed=seed)
    task = envs.make(env, camera=camera_for(env, controller.model)) if isinstance(env, str) else env
    found = find_goal(task, goal, goal_state)
    start = None if start_state is None else task.parse_goal(start_state)
    check_fits(task, controller)
    return run_to_goal(task, controller, found, start=start, seed=seed, max_steps=max_steps, on_step=on_step)


def task_choice(name: str) -> list[str]:
    """Give the override that chooses the preset of a task; of robots of one's own where it has none."""
    from wm_plan.envs import task_names

    return [f"task={name}"] if name in task_names() else ["task=any"]


def find_model(env: str, model: str | Path | None) -> str | Path:
    """Give the predictor to use: the one that is named, or the shipped one of the task.

    Raises:
        ValueError: none is named, and none is shipped.
    """
    from wm_plan.world_model import predictor_names

    if model is not None:
        return model
    if env not in predictor_names():
        raise ValueError(
            f"no predictor is shipped for {env!r}; shipped are {', '.join(predictor_names())}. Make one: "
            "wm-collect, then wm-train --data LOGS --out DIR, and give --model DIR"
        )
    return env


def camera_for(env: str, model: Any) -> str | None:  # noqa: ANN401
    """Name the camera that the model has learned to see through, if it was trained on this environment."""
    metadata = model.metadata
    return metadata.camera or None if metadata.env_name == env else None


def find_goal(
    task: CameraEnv, image: str | Path | Image | None = None, state: str | Sequence[float] | None = None
) -> Goal:
    """Give the goal from a picture, from a position, or from both: then the position judges.

    Raises:
        ValueError: neither is given, or one cannot be used.
    """
    if image is None and state is None:
        raise ValueError(
            "no goal was given. Give a picture (--goal IMAGE) or a position (--goal-state VALUES)."
        )
    known = None if state is None else task.parse_goal(state)
    if image is None:
        assert known is not None
        return Goal(task.render_goal(known), known)
    pixels = image if isinstance(image, np.ndarray) else read_goal_image(image)
    return Goal(pixels, known)


def check_fits(task: CameraEnv, controller: MPC) -> None:
    """Refuse a model whose actions are not the task's.

    Raises:
        ValueError: another number of actions, or other bounds.
    """
    model: Any = controller.model
    low, high = np.asarray(model.action_low), np.asarray(model.action_high)
    space = task.action_space
    if low.shape != space.shape or not (np.allclose(low, space.low) and np.allclose(high, space.high)):
        raise ValueError(
            f"the model was trained on {model.env_name!r}, with actions {low.tolist()} to {high.tolist()};"
            f" {task.name!r} takes {space.low.tolist()} to {space.high.tolist()}. Use a model trained on it."
        )


def run_to_goal(
    task: CameraEnv,
    controller: MPC,
    goal: Goal,
    *,
    start: State | None = None,
    seed: int = 0,
    max_steps: int | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> PlanResult:
    """Act until the goal is reached and held, or for `max_steps` env steps.

    The controller is reset with `seed`, and so is the task.

    Raises:
        ValueError: `max_steps` is less than 1.
    """
    budget = task.far_budget if max_steps is None else max_steps
    if budget < 1:
        raise ValueError(f"max_steps={budget} is not allowed; give 1 or more")
    began = time.perf_counter()
    observation, info = task.reset(seed=seed, options=None if start is None else {"state": start})
    controller.reset(seed=seed)
    controller.set_goal(goal.image)
    judge = _Judge(task, controller, goal)
    result = PlanResult(task.name, reached_by=judge.kind, goal_state=goal.state, goal_image=goal.image)
    result.errors = None if goal.state is None else []
    result.warnings = unfamiliar_views(controller.model, {"goal": goal.image, "start": observation["pixels"]})
    near: list[bool] = []
    told: list[Tensor | None] = []
    while True:
        plan_ms, encoded = 0.0, False
        if len(near) < budget:
            action = controller.act(observation)  # plans when a model step begins
            encoded = controller.timings["encode_ms"] > 0
            plan_ms = _note_times(result, controller)
        told.append(controller.surprise)
        seen = controller.latent if encoded else None
        verdict = judge(info["state"], judge.latent(observation["pixels"]) if seen is None else seen)
        near.append(verdict.near)
        result.costs.append(verdict.cost)
        if result.errors is not None:
            result.errors.append(verdict.error)
        result.states.append(info["state"])
        result.frames.append(observation["pixels"])
        result.steps = len(near) - 1
        if verdict.reached and not result.reached:
            result.reached, result.first_reached = True, result.steps
        if on_step is not None:
            on_step(Step(result.steps, verdict.cost, verdict.error, plan_ms))
        if task.ended and result.steps < budget:
            result.warnings.append(
                f"{task.name} ended its episode after env step {result.steps}; nothing moves after that"
            )
            budget = result.steps
        if bool(controller.stopped.any()):
            budget = result.steps
        result.held = result.reached and len(near) > HELD_STEPS and all(near[-HELD_STEPS:])
        if result.held or result.steps == budget:
            break
        result.actions.append([float(number) for number in action])
        observation, _, _, _, info = task.step(action)
    _note_surprise(result, controller, told)
    result.wall_s = time.perf_counter() - began
    return result


def _note_times(result: PlanResult, controller: MPC) -> float:
    """Keep how long the controller's last `act` took; gives the milliseconds of planning."""
    if controller.timings["encode_ms"] > 0:
        result.encode_ms.append(controller.timings["encode_ms"])
    if not controller.replanned:
        return 0.0
    result.plan_ms.append(controller.timings["plan_ms"])
    return controller.timings["plan_ms"]


def _note_surprise(result: PlanResult, controller: MPC, told: Sequence[Tensor | None]) -> None:
    """Keep the surprise of each env step, and say so if it has ended the run."""
    caution = controller.caution
    result.surprise_threshold, result.on_surprise = caution.threshold, caution.on_surprise.value
    result.surprise = [round(float(each[0]), 6) for each in told if each is not None] or None
    result.stopped = bool(caution.stopped.any())
    if result.stopped and result.surprise:
        result.warnings.append(
            f"stopped at env step {result.steps}: what happened is unlike what the model imagined (surprise"
            f" {result.surprise[-1]:.4f}, above control.surprise_threshold={caution.threshold:g})"
        )


@dataclass
class _Verdict:
    reached: bool
    near: bool
    """Close enough to count for holding."""
    cost: float
    error: float


class _Judge:
    """Tells at every env step how far the goal is: by the task's tolerance where its state is known."""

    def __init__(self, task: CameraEnv, controller: MPC, goal: Goal) -> None:
        self.kind = "latent" if goal.state is None else "state"
        self._task: Any = task  # who gives a goal as a state has one that knows distances of states
        self._goal_state = goal.state
        self._model: Any = controller.model
        assert controller.goal_latent is not None
        self._goal_latent = controller.goal_latent[:, -1]

    def __call__(self, state: State, latent: Float[Tensor, "1 dim"]) -> _Verdict:
        cost = float(Distance.l2.between(latent, self._goal_latent))
        if self._goal_state is None:
            reached = bool(self._model.reached(latent, self._goal_latent)[0])
            return _Verdict(reached, reached, cost, float("nan"))
        error = float(self._task.error(state, self._goal_state))
        return _Verdict(error <= 1.0, error <= HELD_SCALE, cost, error)

    def latent(self, pixels: Image) -> Float[Tensor, "1 dim"]:
        """Give the latent of a frame that the controller has not looked at."""
        with torch.no_grad():
            return self._model.encode(torch.from_numpy(pixels)[None, None])[:, -1]


def unfamiliar_views(model: Any, views: dict[str, Image]) -> list[str]:  # noqa: ANN401
    """Say which pictures look unlike all that the model was trained on, one line each."""
    lines = []
    for name, image in views.items():
        times = float(model.unfamiliarity(torch.from_numpy(np.ascontiguousarray(image))[None, None])[0])
        if not times <= 1:
            lines.append(
                f"the {name} looks unlike anything that the model was trained on ({times:.1f} times as far"
                " from it as held-out frames); the plan may be poor"
            )
    return lines


def percentiles(values: Sequence[float], *ranks: int) -> dict[str, float | None]:
    """Give percentiles by name, as in {"p50": 1.5}; None where there are no values."""
    return {
        f"p{rank}": round(float(np.percentile(values, rank)), 3) if len(values) else None for rank in ranks
    }
