"""A task whose world can change while it runs: what a controller should notice, for `surprise.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from wm_plan.envs import PLAIN, Physics, TaskEnv, make_task
from wm_plan.envs.built_in import BuiltInTask, compile_spec
from wm_plan.envs.physics import own_copy

OBSTACLE = "obstacle"
_PARKED = (0.0, 0.0, -5.0)
_OBSTACLE_RGBA = (0.1, 0.7, 0.2, 1.0)
_LOCKING_DAMPING = 1e4
_FAR = 1e3
_PLACES = 400


class World:
    """One environment of a built-in task, with a ball below its floor that can be put in, and its changes.

    Args:
        env_name: the task; its camera must look straight down.
        obstacle_radius: of the ball, as a fraction of half the picture's height.

    Raises:
        ValueError: the task is not a built-in one.
    """

    def __init__(self, env_name: str, obstacle_radius: float = 0.1) -> None:
        plain = make_task(env_name, render=False)
        if not isinstance(plain, BuiltInTask):
            raise ValueError(f"{env_name!r} cannot be changed while it runs; give a task that ships")
        camera = plain.mj_model.camera(plain.camera)
        self.half_height = float(camera.pos[2]) * math.tan(math.radians(float(camera.fovy[0])) / 2)
        self.radius = obstacle_radius * self.half_height
        self.env: TaskEnv = _with_obstacle(type(plain), self.radius)()
        self.env.mj_model = own_copy(self.env.mj_model)
        model = self.env.mj_model
        self.obstacle = model.geom(OBSTACLE).id
        self.moving = [
            geom
            for geom in range(model.ngeom)
            if model.body_weldid[model.geom_bodyid[geom]] != 0 and geom != self.obstacle
        ]
        self._untouched = own_copy(model)
        self.frozen: dict[str, np.ndarray] | None = None

    def begin(self, seed: int) -> None:
        """Undo every change and start anew."""
        model, untouched = self.env.mj_model, self._untouched
        model.dof_damping[:] = untouched.dof_damping
        self.env.set_physics(Physics())
        model.geom_pos[self.obstacle] = untouched.geom_pos[self.obstacle]
        self.env.look, self.frozen = PLAIN, None
        self.env.reset(seed=seed)

    def observe(self) -> dict[str, np.ndarray]:
        """What the camera shows and the robot feels; the same for ever once frames are frozen."""
        return self.frozen or self.env.observe()

    @property
    def touched(self) -> bool:
        """Whether something moving touches the obstacle now."""
        data = self.env._data
        return any(self.obstacle in (contact.geom1, contact.geom2) for contact in data.contact[: data.ncon])

    def clearance(self, place: np.ndarray, states: Sequence[np.ndarray]) -> float:
        """The least distance [m] of an obstacle at `place` from what moves, over `states`."""
        model, data = self.env.mj_model, mujoco.MjData(self.env.mj_model)
        before = model.geom_pos[self.obstacle].copy()
        model.geom_pos[self.obstacle] = place
        least = _FAR
        for state in states:
            data.qpos[:], data.qvel[:] = state[: model.nq], state[model.nq :]
            mujoco.mj_kinematics(model, data)
            for geom in self.moving:
                found = mujoco.mj_geomDistance(model, data, self.obstacle, geom, _FAR, None)
                least = min(least, found)
        model.geom_pos[self.obstacle] = before
        return least

    def put_in(self, place: np.ndarray) -> None:
        """Put the obstacle there."""
        self.env.mj_model.geom_pos[self.obstacle] = place
        self.env.set_state(self.env.get_state())

    def places(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """Places anywhere in the picture, on the floor."""
        found = rng.uniform(-0.85, 0.85, (number, 2)) * self.half_height
        height = max(self.radius, float(self.env.mj_model.geom_pos[self.moving[-1], 2]))
        return np.column_stack([found, np.full(number, height)])


@dataclass(frozen=True)
class Change:
    """Something that happens to a world; `coming` are the states that an unchanged run goes through next."""

    name: str
    apply: Callable[[World, np.random.Generator, Sequence[np.ndarray]], None]
    must_touch: bool = False
    """Whether it counts only from when the robot touches the obstacle."""


def _lock_joint(world: World, rng: np.random.Generator, coming: Sequence[np.ndarray]) -> None:
    """Lock the first joint that actuators move."""
    model = world.env.mj_model
    model.dof_damping[model.jnt_dofadr[_driven_joint(model)]] = _LOCKING_DAMPING
    state = world.env.get_state()
    state[model.nq + model.jnt_dofadr[_driven_joint(model)]] = 0.0
    world.env.set_state(state)


def _double_mass(world: World, rng: np.random.Generator, coming: Sequence[np.ndarray]) -> None:
    world.env.set_physics(Physics(mass=2.0))


def _object_in_the_way(world: World, rng: np.random.Generator, coming: Sequence[np.ndarray]) -> None:
    """Put the obstacle where the robot will be soon, and is not yet."""
    now = [world.env.get_state()]
    soon = coming[3:16]
    places = world.places(rng, _PLACES)
    free = [place for place in places if world.clearance(place, now) > 0.2 * world.radius]
    hit = [place for place in free if world.clearance(place, soon) < -0.5 * world.radius]
    if hit:
        world.put_in(hit[0])


def _object_aside(world: World, rng: np.random.Generator, coming: Sequence[np.ndarray]) -> None:
    """Put the obstacle where the robot would not come."""
    places = world.places(rng, 40)
    clear = [world.clearance(place, coming[::2]) for place in places]
    world.put_in(places[int(np.argmax(clear))])


def _move_camera(world: World, rng: np.random.Generator, coming: Sequence[np.ndarray]) -> None:
    """Shift the camera by a tenth of its height and roll it by 6 degrees."""
    direction = rng.uniform(-math.pi, math.pi)
    shift = (0.1 * math.cos(direction), 0.1 * math.sin(direction), 0.0)
    world.env.look = replace(PLAIN, camera_shift=shift, camera_roll=0.1 * rng.choice((-1, 1)))


def _freeze_frames(world: World, rng: np.random.Generator, coming: Sequence[np.ndarray]) -> None:
    world.frozen = world.env.observe()


CHANGES = (
    Change("joint locked", _lock_joint),
    Change("mass doubled", _double_mass),
    Change("object in the way", _object_in_the_way, must_touch=True),
    Change("object aside", _object_aside),
    Change("camera moved", _move_camera),
    Change("frames frozen", _freeze_frames),
)


def _driven_joint(model: mujoco.MjModel) -> int:
    kinds = (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)
    driven = [model.actuator_trnid[i, 0] for i in range(model.nu) if model.actuator_trntype[i] in kinds]
    return int(driven[0]) if driven else 0


def _with_obstacle(kind: type[BuiltInTask], radius: float) -> type[BuiltInTask]:
    """The task with a ball that collides with all that moves, parked below the floor."""

    class WithObstacle(kind):  # type: ignore[misc, valid-type]  # a base chosen at run time
        def open_model(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
            spec, usual = self.make_spec(), super().open_model()[0]
            for geom in spec.geoms:
                geom.group = int(usual.geom(geom.name).group[0])
            if spec.option.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT:
                spec.option.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
                for geom in spec.geoms:
                    geom.contype = geom.conaffinity = 0
            moving = [geom for geom in spec.geoms if usual.body_weldid[_body_of(usual, geom.name)] != 0]
            spec.worldbody.add_geom(
                name=OBSTACLE, type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[radius, 0, 0], pos=_PARKED,
                rgba=_OBSTACLE_RGBA, contype=0, conaffinity=0,
            )  # fmt: skip
            for geom in moving:
                spec.add_pair(geomname1=OBSTACLE, geomname2=geom.name)
            model = compile_spec(spec)
            model.stat.extent, model.stat.center[:] = usual.stat.extent, usual.stat.center
            return model, mujoco.MjData(model)

        def _renderer_name(self) -> str:
            return f"{super()._renderer_name()}+{OBSTACLE}"

    return WithObstacle


def _body_of(model: mujoco.MjModel, geom_name: str) -> int:
    return int(model.geom(geom_name).bodyid[0])
