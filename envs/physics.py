"""Varied physics: masses, friction, damping, motors, gravity and sizes of a model, each times a factor."""

import copy
from dataclasses import astuple, dataclass, fields

import mujoco
import numpy as np

_SHAPES_WITHOUT_SIZE = (
    mujoco.mjtGeom.mjGEOM_MESH,
    mujoco.mjtGeom.mjGEOM_HFIELD,
    mujoco.mjtGeom.mjGEOM_SDF,
)


@dataclass(frozen=True)
class Physics:
    """Factors on what a model's own file says; 1 everywhere is the model itself."""

    mass: float = 1.0
    """Of every body that moves, and of its inertia."""
    friction: float = 1.0
    """Of contacts, and the dry friction of joints."""
    damping: float = 1.0
    """Of joints."""
    strength: float = 1.0
    """Of the force of every actuator, feedback and limits included."""
    gravity: float = 1.0
    length: float = 1.0
    """Of every body that moves: links, and the shapes on them. Masses stay, inertias grow with the square."""

    def __post_init__(self) -> None:
        """Refuse what no model could have."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            lowest = 0.0 if entry.name in ("friction", "damping", "gravity") else 1e-3
            if not lowest <= value < 1e3:
                raise ValueError(f"the factor on {entry.name} must be from {lowest:g} to 1000, got {value:g}")


@dataclass(frozen=True)
class PhysicsRanges:
    """The ranges that `sample_physics` draws factors from: log-uniformly, so halves are as likely as doubles.

    A range that begins at 0 is drawn from uniformly.
    """

    mass: tuple[float, float] = (0.5, 2.0)
    friction: tuple[float, float] = (0.5, 2.0)
    damping: tuple[float, float] = (0.5, 2.0)
    strength: tuple[float, float] = (0.7, 1.4)
    gravity: tuple[float, float] = (0.8, 1.25)
    length: tuple[float, float] = (0.85, 1.15)

    def __post_init__(self) -> None:
        """Refuse ranges that no model could have."""
        for entry in fields(self):
            for factor in getattr(self, entry.name):
                Physics(**{entry.name: factor})


def sample_physics(
    rng: np.random.Generator, names: tuple[str, ...], ranges: PhysicsRanges | None = None
) -> Physics:
    """Draw the factors `names`; the others are 1. What one is does not depend on which others are drawn."""
    ranges = ranges or PhysicsRanges()
    parts = rng.random(len(fields(Physics)))
    drawn = {}
    for entry, part in zip(fields(Physics), parts, strict=True):
        low, high = getattr(ranges, entry.name)
        if entry.name in names:
            drawn[entry.name] = float(low * (high / low) ** part if low > 0 else low + part * (high - low))
    return Physics(**drawn)


def own_copy(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy of a model that others share, to be given other physics."""
    return copy.copy(model)


def scale_physics(model: mujoco.MjModel, nominal: mujoco.MjModel, physics: Physics) -> None:
    """Make `model`, a copy of `nominal`, into `nominal` times the factors of `physics`, in place.

    Raises:
        ValueError: `length` is not 1 and a moving body's shape is a mesh, or tendons are routed along it.
    """
    moving = nominal.body_weldid != 0
    if physics.length != 1.0:
        _check_scalable(nominal, moving)
    model.body_mass[moving] = nominal.body_mass[moving] * physics.mass
    model.body_inertia[moving] = nominal.body_inertia[moving] * physics.mass * physics.length**2
    model.geom_friction[:] = nominal.geom_friction * physics.friction
    model.pair_friction[:] = nominal.pair_friction * physics.friction
    model.dof_frictionloss[:] = nominal.dof_frictionloss * physics.friction
    model.dof_damping[:] = nominal.dof_damping * physics.damping
    for name in ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange"):
        getattr(model, name)[:] = getattr(nominal, name) * physics.strength
    model.opt.gravity[:] = nominal.opt.gravity * physics.gravity
    _scale_lengths(model, nominal, moving, physics.length)
    mujoco.mj_setConst(model, mujoco.MjData(model))


def is_nominal(physics: Physics) -> bool:
    """Whether all factors are 1."""
    return all(factor == 1.0 for factor in astuple(physics))


def _check_scalable(model: mujoco.MjModel, moving: np.ndarray) -> None:
    shapes = model.geom_type[moving[model.geom_bodyid]]
    routed = (model.wrap_type != mujoco.mjtWrap.mjWRAP_JOINT).any()
    if routed or model.nflex or any(shape in shapes for shape in _SHAPES_WITHOUT_SIZE):
        raise ValueError(
            "the factor length needs a robot of plain shapes (no meshes, routed tendons or soft bodies); "
            "leave it out, or vary mass, friction, damping, strength, gravity"
        )


def _scale_lengths(model: mujoco.MjModel, nominal: mujoco.MjModel, moving: np.ndarray, length: float) -> None:
    """Scale what is measured inside moving bodies; where a body hangs on the world stays."""
    on_moving = moving[nominal.body_parentid]
    model.body_pos[on_moving] = nominal.body_pos[on_moving] * length
    model.body_ipos[moving] = nominal.body_ipos[moving] * length
    for kind in ("geom", "site", "jnt", "cam", "light"):
        chosen = moving[getattr(nominal, f"{kind}_bodyid")]
        names = {"geom": ("pos", "size", "rbound", "aabb"), "site": ("pos", "size")}.get(kind, ("pos",))
        for name in names:
            before = getattr(nominal, f"{kind}_{name}")
            getattr(model, f"{kind}_{name}")[chosen] = before[chosen] * length
    for body in np.flatnonzero(moving):
        boxes = slice(nominal.body_bvhadr[body], nominal.body_bvhadr[body] + nominal.body_bvhnum[body])
        model.bvh_aabb[boxes] = nominal.bvh_aabb[boxes] * length
