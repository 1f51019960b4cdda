"""Several policies on the same starts and goals, from one config."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wm_plan.controller import make_controller, planner_name
from wm_plan.envs import DEFAULT_MUJOCO, PLAIN, TaskEnv
from wm_plan.envs.rendering import check_image_size
from wm_plan.planners import GradientPlanner, make_planner
from wm_plan.planning import camera_for, check_fits, find_model
from wm_plan.suggestion import did_you_mean

from .physics import PhysicsPolicy
from .policies import BaselinePolicy, EvaluationPolicy, HoldPolicy, PlannerPolicy, RandomPolicy
from .protocols import draw_trials, find_protocol
from .rows import make_row
from .runner import Outcome, open_envs, run_trials, time_alone

if TYPE_CHECKING:
    from wm_plan.configs.schema import EvalConfig, PhysicsConfig

GOAL_LOOKS = {"plain": PLAIN, "default": DEFAULT_MUJOCO}


@dataclass
class Evaluation:
    """One policy under one protocol."""

    row: dict[str, Any]
    outcomes: list[Outcome]


def evaluate(
    config: EvalConfig,
    policies: dict[str, EvaluationPolicy],
    on_progress: Callable[[str, str, float, int], None] = lambda protocol, policy, finished, reached: None,
) -> list[Evaluation]:
    """Run every policy under every protocol of the config, on the same trials.

    Args:
        policies: as `make_policies` gives them.
        on_progress: called after every env step with protocol, policy, episodes done (those at hand by their
            part) and episodes that have reached their goals.

    Raises:
        ValueError: an unknown task or protocol.
    """
    found = []
    cameras = [policy.settings["camera"] for policy in policies.values() if "camera" in policy.settings]
    camera = cameras[0] if cameras else config.camera
    with open_envs(config.env, min(config.batch_size, config.episodes), camera) as envs:
        for protocol in [find_protocol(name) for name in config.protocols]:
            trials = draw_trials(unrendered(config.env), protocol, config.episodes, config.seed)
            for name, policy in policies.items():

                def note(finished: float, reached: int, key: tuple[str, str] = (protocol.name, name)) -> None:
                    on_progress(*key, finished, reached)

                began = time.perf_counter()
                outcomes = run_trials(
                    policy, trials, envs, measures_hold=protocol.measures_hold, on_progress=note
                )
                seconds = time.perf_counter() - began
                plan_ms, encode_ms = time_alone(
                    policy, trials, envs[0], config.plans_timed, measures_hold=protocol.measures_hold
                )
                row = make_row(
                    config.env,
                    protocol.name,
                    name,
                    outcomes,
                    plan_ms=plan_ms,
                    encode_ms=encode_ms,
                    seconds=seconds,
                    threads=config.threads,
                    settings=policy.settings,
                )
                found.append(Evaluation(row, outcomes))
    return found


def make_policies(config: EvalConfig) -> dict[str, EvaluationPolicy]:
    """Make the policies that the config names, in its order.

    Raises:
        ValueError: an unknown name, a model that does not fit the task, or a setting out of range.
    """
    makers: dict[str, Callable[[EvalConfig], EvaluationPolicy]] = {
        "planner": make_planner_policy,
        "random": lambda config: RandomPolicy(),
        "hold": lambda config: HoldPolicy(),
        "physics": make_physics_policy,
        "rl": lambda config: BaselinePolicy(unrendered(config.env), config.rl or config.env),
    }
    for name in config.policies:
        if name not in makers:
            known = ", ".join(makers)
            raise ValueError(f"unknown policy {name!r}.{did_you_mean(name, makers)} Known policies: {known}.")
    return {name: makers[name](config) for name in config.policies}


def make_planner_policy(config: EvalConfig) -> PlannerPolicy:
    """Load the world model and set up the control loop, as wm-plan does."""
    from wm_plan.world_model import load_model

    if config.goal_size is not None:
        check_image_size(config.goal_size)
    model = load_model(find_model(config.env, config.model), device=config.device)
    controller = make_controller(model, config)
    check_fits(unrendered(config.env), controller)
    settings = {
        "model": config.model or config.env,
        "camera": config.camera or camera_for(config.env, model),
        "planner": planner_name(config),
        **dataclasses.asdict(config.planner),
        "objective": dataclasses.asdict(config.objective),
        "control": dataclasses.asdict(config.control),
        "goal_look": config.goal_look.value,
        "goal_size": config.goal_size,
        "device": config.device,
        "training": model.metadata.training,
    }
    return PlannerPolicy(
        controller, settings, goal_look=GOAL_LOOKS[config.goal_look.value], goal_size=config.goal_size
    )


def make_physics_policy(config: EvalConfig) -> PhysicsPolicy:
    """Set up the same search over MuJoCo itself."""
    env = unrendered(config.env)
    settings = physics_settings(config.planner, config.physics)
    planner = make_planner(planner_name(config), env.action_space, settings)
    if isinstance(planner, GradientPlanner):
        raise ValueError(
            "the policy 'physics' cannot plan with gradients, as MuJoCo gives none. Use another --planner,"
            " such as cem, or leave physics out of --policy."
        )
    described = {
        "planner": planner_name(config),
        **settings,
        "objective": "state distance in tolerances, summed over the plan",
        "replan_every": config.control.replan_every,
    }
    return PhysicsPolicy(
        env, planner, described, replan_every=config.control.replan_every, threads=config.threads
    )


def physics_settings(planner: Any, physics: PhysicsConfig) -> dict[str, Any]:  # noqa: ANN401
    """Give the planner's settings with fewer samples and iterations; elites keep their share."""
    settings = dataclasses.asdict(planner)
    if "num_elites" in settings:
        share = settings["num_elites"] / settings["num_samples"]
        settings["num_elites"] = max(1, round(share * physics.num_samples))
    return {**settings, "num_samples": physics.num_samples, "num_iterations": physics.num_iterations}


def unrendered(name: str) -> TaskEnv:
    """Give a task that draws nothing, for its physics and its bounds."""
    from wm_plan import envs

    return envs.make_task(name, render=False)
