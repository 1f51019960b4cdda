"""MuJoCo tasks, their looks and goals, and rolling out a policy into plain episodes."""

from typing import TYPE_CHECKING, Any

from .gl import GraphicsError, choose_backend
from .looks import (
    DEFAULT_MUJOCO,
    PLAIN,
    ClutterRanges,
    Look,
    LookRanges,
    sample_clutter,
    sample_look,
    sample_renderer_look,
)
from .registration import (
    FOREIGN,
    env_kind,
    gymnasium_id,
    make,
    make_task,
    register_envs,
    short_name,
    task_names,
)

if TYPE_CHECKING:
    from .camera_env import CameraEnv
    from .factors import FactorRanges, Factors, parse_factors
    from .physics import Physics, PhysicsRanges, sample_physics
    from .policies import Policy, make_policy
    from .rollout import Episode, collect_episode
    from .task import TaskEnv

__all__ = [
    "DEFAULT_MUJOCO",
    "FOREIGN",
    "PLAIN",
    "CameraEnv",
    "ClutterRanges",
    "Episode",
    "FactorRanges",
    "Factors",
    "GraphicsError",
    "Look",
    "LookRanges",
    "Physics",
    "PhysicsRanges",
    "Policy",
    "TaskEnv",
    "choose_backend",
    "collect_episode",
    "env_kind",
    "gymnasium_id",
    "make",
    "make_policy",
    "make_task",
    "parse_factors",
    "register_envs",
    "sample_clutter",
    "sample_look",
    "sample_physics",
    "sample_renderer_look",
    "short_name",
    "task_names",
]

_NEED_MUJOCO = {
    "CameraEnv": "camera_env",
    "Episode": "rollout",
    "FactorRanges": "factors",
    "Factors": "factors",
    "Physics": "physics",
    "PhysicsRanges": "physics",
    "Policy": "policies",
    "TaskEnv": "task",
    "collect_episode": "rollout",
    "make_policy": "policies",
    "parse_factors": "factors",
    "sample_physics": "physics",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Load the names that need MuJoCo when they are first used."""
    if name not in _NEED_MUJOCO:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_NEED_MUJOCO[name]}", __name__), name)


register_envs()
