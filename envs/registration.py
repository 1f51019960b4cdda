"""Environments by name: the built-in tasks, any gymnasium id, dm_control's suite, or an MJCF file."""

import difflib
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from .gl import import_mujoco
from .looks import Look

if TYPE_CHECKING:
    from .camera_env import CameraEnv
    from .task import TaskEnv

FOREIGN = "any gymnasium id (Pusher-v5, package:Id), dm_control/DOMAIN-TASK, or the path of an MJCF file"
"""What else an environment may be, in words."""
DM_CONTROL = "dm_control/"
_FILE_ENDINGS = (".xml", ".mjcf", ".urdf")

_TASKS = {
    "reacher": ("wm_plan/Reacher-v0", "ReacherEnv"),
    "point_mass": ("wm_plan/PointMass-v0", "PointMassEnv"),
    "two_room": ("wm_plan/TwoRoom-v0", "TwoRoomEnv"),
    "push_t": ("wm_plan/PushT-v0", "PushTEnv"),
    "pusher": ("wm_plan/Pusher-v0", "PusherEnv"),
    "cartpole": ("wm_plan/Cartpole-v0", "CartpoleEnv"),
    "cube_reach": ("wm_plan/CubeReach-v0", "CubeReachEnv"),
    "cube_push": ("wm_plan/CubePush-v0", "CubePushEnv"),
}


def task_names() -> tuple[str, ...]:
    """Names of the built-in tasks, in the order in which they are listed to users."""
    return tuple(_TASKS)


def gymnasium_id(name: str) -> str:
    """The id under which gymnasium knows the task `name`."""
    if name not in _TASKS:
        raise _unknown(name)
    return _TASKS[name][0]


def env_kind(name: str) -> str:
    """What `name` names: "task" (built-in), "dm_control", "mjcf" or "gymnasium"; nothing is loaded.

    Raises:
        ValueError: nothing that could be found, with the nearest that can.
    """
    if name in _TASKS:
        return "task"
    if name.startswith(DM_CONTROL):
        return "dm_control"
    if name.lower().endswith(_FILE_ENDINGS) or Path(name).is_file():
        return "mjcf"
    if name in gymnasium.registry or re.fullmatch(r"[\w.]+:[\w./-]+", name):
        return "gymnasium"
    raise _unknown(name)


def make(
    name: str,
    image_size: int | None = None,
    look: Look | None = None,
    render: bool = True,
    render_mode: str | None = "rgb_array",
    camera: str | None = None,
    frame_skip: int | None = None,
) -> "CameraEnv":
    """Make any environment; many of one built-in task are cheap, since they share model and renderer.

    Args:
        name: one of `task_names()`, a gymnasium id ("Pusher-v5", "package:Id"), "dm_control/reacher-easy",
            or the path of an MJCF file.
        image_size: height and width of an observation [px]; the default is `DEFAULT_IMAGE_SIZE`.
        look: how observations are drawn; `PLAIN` when not given.
        render: False leaves pixels out of observations, and then no GL is needed.
        render_mode: what gymnasium passes on: "rgb_array" or None, which make no difference.
        camera: the name or number of one of its cameras, or "free"; when not given a built-in task's own,
            else the first that has a name.
        frame_skip: env steps per model step; when not given a built-in task's own, else as many as come
            nearest to 0.1 s.

    Raises:
        ValueError: for an unknown name (with the nearest known one), an environment that cannot be made or
            planned in, an unknown camera, and for an image size that cannot be drawn.
        GraphicsError: when the user's `MUJOCO_GL` cannot be loaded.
    """
    kind = env_kind(name)
    import_mujoco()
    options: dict[str, Any] = {
        "image_size": image_size,
        "look": look,
        "render": render,
        "render_mode": render_mode,
        "camera": camera,
        "frame_skip": frame_skip,
    }
    if kind == "task":
        task = getattr(importlib.import_module(f".{name}", __package__), _TASKS[name][1])
        return task(**options)
    if kind == "dm_control":
        from .dm_control_env import DmControlEnv

        return DmControlEnv(name, **options)
    if kind == "mjcf":
        from .mjcf import MjcfEnv

        return MjcfEnv(name, **options)
    from .gymnasium_env import make_gymnasium

    return make_gymnasium(name, **options)


def short_name(name: str) -> str:
    """What an environment is called in the names of files and folders."""
    short = Path(name).stem if env_kind(name) == "mjcf" else name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", short).strip("-.")


def make_task(name: str, **options: Any) -> "TaskEnv":  # noqa: ANN401
    """Make an environment whose states can be read, set and compared; the options are those of `make`.

    Raises:
        ValueError: as `make`, and for environments that do not run on MuJoCo.
    """
    from .task import TaskEnv

    env = make(name, **options)
    if not isinstance(env, TaskEnv):
        env.close()
        raise ValueError(
            f"{name} does not run on MuJoCo, so its states can be neither read nor compared, as this needs. "
            "Use a built-in task, an MJCF file, or a gymnasium id on MuJoCo"
        )
    return env


def register_envs() -> None:
    """Tell gymnasium about every task; doing so again changes nothing."""
    for name, (env_id, _) in _TASKS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(id=env_id, entry_point=f"{__name__}:make", kwargs={"name": name})


def _unknown(name: str) -> ValueError:
    """The error for a name that is none, with the nearest that is one."""
    from .dm_control_env import suite_hint

    hint = "" if name in _TASKS else suite_hint(name)
    near = difflib.get_close_matches(str(name), [*_TASKS, *gymnasium.registry], n=1, cutoff=0.5)
    hint = hint or (f" Did you mean {near[0]!r}?" if near else "")
    return ValueError(f"Unknown env {name!r}.{hint} Known envs: {', '.join(_TASKS)}; or {FOREIGN}")
