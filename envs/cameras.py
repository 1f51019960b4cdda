"""Which camera of a model looks: a named one, a numbered one, or the free view of the whole scene."""

import difflib
from dataclasses import dataclass

import mujoco

FREE = "free"
"""Name of the view that every model has."""


@dataclass(frozen=True)
class FreeView:
    """Where the free camera is: around `lookat` [m], at `distance` [m], its angles in degrees."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float


def camera_names(model: mujoco.MjModel) -> tuple[str, ...]:
    """The cameras of a model, by name or, where one has none, by number; the free view last."""
    named = (model.camera(index).name or str(index) for index in range(model.ncam))
    return (*named, FREE)


def choose_camera(model: mujoco.MjModel, wanted: str | None, owner: str, default: str | None = None) -> str:
    """The name of the camera to draw with.

    Args:
        wanted: what the user asked for, a name or a number.
        owner: whose cameras these are, for the message.
        default: what is taken when nothing was asked for; the first camera that has a name when None, or
            else the first one, or else the free view.

    Raises:
        ValueError: there is no such camera; the message lists those that are.
    """
    known = camera_names(model)
    if wanted is None:
        named = [name for name in known if not name.isdigit() and name != FREE]
        return default or (named or list(known))[0]
    if wanted in known:
        return wanted
    if wanted.isdigit() and int(wanted) < model.ncam:
        return known[int(wanted)]
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{owner} has no camera {wanted!r}.{hint} Its cameras: {', '.join(known)}")


def view_through(model: mujoco.MjModel, name: str, free: FreeView | None = None) -> mujoco.MjvCamera:
    """The camera `name`, as `choose_camera` gives it, ready to draw with."""
    camera = mujoco.MjvCamera()
    if name == FREE:
        mujoco.mjv_defaultFreeCamera(model, camera)
        if free is not None:
            camera.lookat[:], camera.distance = free.lookat, free.distance
            camera.azimuth, camera.elevation = free.azimuth, free.elevation
        return camera
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = camera_names(model).index(name)
    return camera
