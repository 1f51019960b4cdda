"""The built-in tasks by name, and their gymnasium ids."""

import difflib
import importlib
from typing import TYPE_CHECKING

import gymnasium

from .gl import import_mujoco
from .looks import Look

if TYPE_CHECKING:
    from .task import TaskEnv

_TASKS = {
    "reacher": ("wm_plan/Reacher-v0", "ReacherEnv"),
    "point_mass": ("wm_plan/PointMass-v0", "PointMassEnv"),
    "two_room": ("wm_plan/TwoRoom-v0", "TwoRoomEnv"),
}


def task_names() -> tuple[str, ...]:
    """Names that `make` knows, in the order in which they are listed to users."""
    return tuple(_TASKS)


def gymnasium_id(name: str) -> str:
    """The id under which gymnasium knows the task `name`."""
    return _TASKS[_known(name)][0]


def make(
    name: str,
    image_size: int | None = None,
    look: Look | None = None,
    render: bool = True,
    render_mode: str | None = "rgb_array",
) -> "TaskEnv":
    """Make a built-in task; many of one task are cheap, since they share model and renderer.

    Args:
        name: one of `task_names()`.
        image_size: height and width of an observation [px]; the default is `DEFAULT_IMAGE_SIZE`.
        look: how observations are drawn; `PLAIN` when not given.
        render: False leaves pixels out of observations, and then no GL is needed.
        render_mode: what gymnasium passes on: "rgb_array" or None, which make no difference.

    Raises:
        ValueError: for an unknown name (with the nearest known one), and for an image size that cannot be
            drawn.
        GraphicsError: when the user's `MUJOCO_GL` cannot be loaded.
    """
    attribute = _TASKS[_known(name)][1]
    import_mujoco()
    task = getattr(importlib.import_module(f".{name}", __package__), attribute)
    return task(image_size=image_size, look=look, render=render, render_mode=render_mode)


def register_envs() -> None:
    """Tell gymnasium about every task; doing so again changes nothing."""
    for name, (env_id, _) in _TASKS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(id=env_id, entry_point=f"{__name__}:make", kwargs={"name": name})


def _known(name: str) -> str:
    if name in _TASKS:
        return name
    near = difflib.get_close_matches(str(name), _TASKS, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Unknown env {name!r}.{hint} Known envs: {', '.join(_TASKS)}")
