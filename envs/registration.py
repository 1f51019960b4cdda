"""The built-in tasks by name, and their gymnasium ids."""

import difflib
import importlib
from typing import TYPE_CHECKING

import gymnasium

from .looks import Look

if TYPE_CHECKING:
    from .task import TaskEnv

_TASKS = {
    "reacher": ("wm_plan/Reacher-v0", "wm_plan.envs.reacher:ReacherEnv"),
    "point_mass": ("wm_plan/PointMass-v0", "wm_plan.envs.point_mass:PointMassEnv"),
    "two_room": ("wm_plan/TwoRoom-v0", "wm_plan.envs.two_room:TwoRoomEnv"),
}


def task_names() -> tuple[str, ...]:
    """Names that `make` knows, in the order in which they are listed to users."""
    return tuple(_TASKS)


def gymnasium_id(name: str) -> str:
    """The id under which gymnasium knows the task `name`."""
    return _TASKS[_known(name)][0]


def make(name: str, image_size: int | None = None, look: Look | None = None, render: bool = True) -> "TaskEnv":
    """Make a built-in task; many of one task are cheap, since they share model and renderer.

    Args:
        name: one of `task_names()`.
        image_size: height and width of an observation [px]; the default is 96.
        look: how observations are drawn; `PLAIN` when not given.
        render: False leaves pixels out of observations, and then no GL is needed.

    Raises:
        ValueError: for an unknown name (with the nearest known one), and for an image size that cannot be drawn.
    """
    module, _, attribute = _TASKS[_known(name)][1].partition(":")
    task = getattr(importlib.import_module(module), attribute)
    return task(image_size=image_size, look=look, render=render)


def register_envs() -> None:
    """Tell gymnasium about every task; doing so again changes nothing."""
    for env_id, entry_point in _TASKS.values():
        if env_id not in gymnasium.registry:
            gymnasium.register(id=env_id, entry_point=entry_point)


def _known(name: str) -> str:
    if name in _TASKS:
        return name
    near = difflib.get_close_matches(str(name), _TASKS, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Unknown env {name!r}.{hint} Known envs: {', '.join(_TASKS)}")
