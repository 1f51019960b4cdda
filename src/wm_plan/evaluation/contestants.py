"""Who takes part: a name on the command line, what its rows differ by, and how it is made.

A new policy is a class in `policies.py` and a line in `POLICIES`. Where a config names several values of
what a policy `varies_by` (planners, models, baselines), each of them is a contestant with rows of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_plan.controller import make_controller, make_gcbc, planner_name
from wm_plan.envs import DEFAULT_MUJOCO, TaskEnv
from wm_plan.envs.rendering import check_image_size
from wm_plan.planners import GradientPlanner, make_planner
from wm_plan.planning import camera_for, check_fits, find_model
from wm_plan.suggestion import did_you_mean

from .physics import PhysicsPolicy
from .policies import BaselinePolicy, EvaluationPolicy, HoldPolicy, PlannerPolicy, RandomPolicy

if TYPE_CHECKING:
    from wm_plan.configs.schema import EvalConfig, PhysicsConfig

GOAL_LOOKS = {"plain": None, "default": DEFAULT_MUJOCO}
"""None: as observations are drawn."""
NO_GRADIENTS = ("gradient",)
"""Planners that MuJoCo cannot serve."""


@dataclass(frozen=True)
class PolicyKind:
    """A policy that can be evaluated."""

    make: Callable[[EvalConfig], EvaluationPolicy]
    """Raises ValueError for what does not fit the task."""
    varies_by: tuple[str, ...] = ()
    """What the config may name several of: "planner", or an entry of several values parted by commas."""


@dataclass(frozen=True)
class Contestant:
    """One row of every cell."""

    name: str
    """Unique: the policy, and what tells it from others of its kind ("planner: icem")."""
    policy: str
    """One of `POLICIES`."""
    config: EvalConfig
    """With one value of everything."""

    def make(self) -> EvaluationPolicy:
        """Load what is to be loaded and set the policy up.

        Raises:
            ValueError: a model or a baseline that does not fit the task, or a setting out of range.
        """
        return POLICIES[self.policy].make(self.config)


def find_contestants(configs: Mapping[str, EvalConfig]) -> list[Contestant]:
    """Name everyone who takes part, in the order of the config's policies.

    Args:
        configs: the same config with each planner, by the planner's name.

    Raises:
        ValueError: an unknown policy, or one that no planner serves.
    """
    first = next(iter(configs.values()))
    found = []
    for policy in first.policies:
        if policy not in POLICIES:
            known = ", ".join(POLICIES)
            hint = did_you_mean(policy, POLICIES)
            raise ValueError(f"unknown policy {policy!r}.{hint} Known policies: {known}.")
        choices: dict[str, list[Any]] = {
            entry: _planners(policy, configs) if entry == "planner" else several(getattr(first, entry))
            for entry in POLICIES[policy].varies_by
        }
        labels = {entry: _short(values) for entry, values in choices.items()}
        for chosen in itertools.product(*(range(len(values)) for values in choices.values())):
            picked: dict[str, Any] = {
                entry: choices[entry][at] for entry, at in zip(choices, chosen, strict=True)
            }
            told = [
                labels[entry][at] for entry, at in zip(choices, chosen, strict=True) if len(labels[entry]) > 1
            ]
            config = configs[picked.pop("planner")] if "planner" in picked else first
            name = policy + (f": {', '.join(told)}" if told else "")
            found.append(Contestant(name, policy, dataclasses.replace(config, **picked)))
    return found


def several(text: str | None) -> list[str | None]:
    """Read values parted by commas; nothing is one value, None."""
    if text is None:
        return [None]
    return [*dict.fromkeys(part.strip() for part in text.split(",") if part.strip())] or [None]


def _planners(policy: str, configs: Mapping[str, EvalConfig]) -> list[str]:
    if policy != "physics":
        return list(configs)
    served = [name for name in configs if name not in NO_GRADIENTS]
    if not served:
        raise ValueError(
            "the policy 'physics' cannot plan with gradients, as MuJoCo gives none. Use another --planner,"
            " such as cem, or leave physics out of --policy."
        )
    return served


def _short(values: list[str | None]) -> list[str]:
    """Call folders by their last name, unless two share it."""
    paths = [value or "shipped" for value in values]
    names = [Path(path).name or path for path in paths]
    return names if len(set(names)) == len(names) else paths


# How each is made


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


def make_gcbc_policy(config: EvalConfig) -> PlannerPolicy:
    """Load the policy prior beside the world model; it sees what the planner sees, and searches nothing."""
    from wm_plan.world_model import load_model

    model = load_model(find_model(config.env, config.model), device=config.device)
    policy = make_gcbc(model)
    check_fits(unrendered(config.env), policy)
    settings = {
        "model": config.model or config.env,
        "camera": config.camera or camera_for(config.env, model),
        "goal_look": config.goal_look.value,
        "goal_size": config.goal_size,
    }
    look = GOAL_LOOKS[config.goal_look.value]
    return PlannerPolicy(policy, settings, name="gcbc", goal_look=look, goal_size=config.goal_size)


def make_physics_policy(config: EvalConfig) -> PhysicsPolicy:
    """Set up the same search over MuJoCo itself."""
    env = unrendered(config.env)
    settings = physics_settings(config.planner, config.physics)
    planner = make_planner(planner_name(config), env.action_space, settings)
    assert not isinstance(planner, GradientPlanner)
    described = {
        "planner": planner_name(config),
        **settings,
        "objective": f"state distance in tolerances, reduce={config.objective.reduce}",
        "replan_every": config.control.replan_every,
    }
    return PhysicsPolicy(
        env,
        planner,
        described,
        reduce=config.objective.reduce,
        replan_every=config.control.replan_every,
        threads=config.threads,
    )


def make_rl_policy(config: EvalConfig, checkpoint: str) -> BaselinePolicy | PlannerPolicy:
    """Load an RL baseline, shipped or of one's own; one on latents acts in the planner's loop.

    Raises:
        ValueError: no such policy, one of another task, or one whose world model is not there any more.
    """
    from wm_plan.baseline_latents import latent_controller
    from wm_plan.planners.rl import load_policy

    policy = load_policy(checkpoint)
    if policy.env_name != config.env:
        raise ValueError(
            f"the RL policy {checkpoint!r} was trained on {policy.env_name!r}, not on {config.env!r}."
            " Use one trained on it."
        )
    settings = {"checkpoint": checkpoint, "training": policy.metadata}
    if policy.config.observation == "state":
        return BaselinePolicy(policy, settings)
    controller = latent_controller(policy)
    camera = camera_for(config.env, controller.model)
    return PlannerPolicy(
        controller,
        {**settings, "camera": config.camera or camera, "goal_look": config.goal_look.value},
        name="rl_latent",
        goal_look=GOAL_LOOKS[config.goal_look.value],
        goal_size=config.goal_size,
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


POLICIES: dict[str, PolicyKind] = {
    "planner": PolicyKind(make_planner_policy, ("model", "planner")),
    "random": PolicyKind(lambda config: RandomPolicy()),
    "hold": PolicyKind(lambda config: HoldPolicy()),
    "physics": PolicyKind(make_physics_policy, ("planner",)),
    "gcbc": PolicyKind(make_gcbc_policy, ("model",)),
    "rl": PolicyKind(lambda config: make_rl_policy(config, config.rl or config.env), ("rl",)),
    "rl_latent": PolicyKind(lambda config: make_rl_policy(config, f"{config.env}_latent")),
}
"""Everyone who can take part, by the name on the command line."""
