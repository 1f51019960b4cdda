"""What is known of any robot from its MuJoCo model alone: its joints, hence its states and a tolerance."""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float, Float64

from .cameras import FreeView, choose_camera
from .looks import Look
from .rendering import SceneParts
from .task import Batch, Positions, State, TaskEnv, wrapped_angle

HINGE_TOLERANCE, SLIDE_TOLERANCE = 0.1, 0.02
"""[rad] and [m]"""
_MOST_DRAWS = 100
_PENETRATION = 1e-3
"""Two bodies are in each other from here on [m]."""


@dataclass(frozen=True)
class Joint:
    """One joint of a model, and where its numbers are in qpos."""

    name: str
    kind: int
    """An `mujoco.mjtJoint`."""
    start: int
    limits: tuple[float, float] | None

    @property
    def size(self) -> int:
        """How many numbers of qpos it has."""
        return {_FREE: 7, _BALL: 4}.get(self.kind, 1)

    @property
    def numbers(self) -> slice:
        """Where they are."""
        return slice(self.start, self.start + self.size)

    def names(self) -> list[str]:
        """What each of its numbers is, with its unit and range."""
        if self.kind in (_FREE, _BALL):
            places = [f"{self.name} {axis} [m]" for axis in "xyz"] if self.kind == _FREE else []
            return [*places, *(f"{self.name} quaternion {axis}" for axis in "wxyz")]
        unit = "rad" if self.kind == _HINGE else "m"
        span = f", {self.limits[0]:g} to {self.limits[1]:g}" if self.limits else ""
        return [f"{self.name} [{unit}{span}]"]

    def error(self, here: Positions, there: Positions) -> list[Batch]:
        """How far its numbers are from others, each in units of its tolerance, none negative."""
        match self.kind:
            case mujoco.mjtJoint.mjJNT_HINGE:
                return [np.abs(wrapped_angle(here - there))[..., 0] / HINGE_TOLERANCE]
            case mujoco.mjtJoint.mjJNT_SLIDE:
                return [np.abs(here - there)[..., 0] / SLIDE_TOLERANCE]
            case mujoco.mjtJoint.mjJNT_BALL:
                return [_turn(here, there) / HINGE_TOLERANCE]
        distance = np.linalg.norm(here[..., :3] - there[..., :3], axis=-1)
        return [distance / SLIDE_TOLERANCE, _turn(here[..., 3:], there[..., 3:]) / HINGE_TOLERANCE]

    def draw(self, rng: np.random.Generator, usual: Float64[np.ndarray, " number"]) -> np.ndarray:
        """Inside its limits; a hinge without any turns anywhere, all else stays where it usually is."""
        if self.limits is not None and self.kind in (_HINGE, _SLIDE):
            low, high = self.limits
            edge = 0.01 * (high - low)
            return rng.uniform(low + edge, high - edge, 1)
        return rng.uniform(-np.pi, np.pi, 1) if self.kind == _HINGE else usual.copy()


_HINGE, _SLIDE = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)
_BALL, _FREE = int(mujoco.mjtJoint.mjJNT_BALL), int(mujoco.mjtJoint.mjJNT_FREE)


class RobotEnv(TaskEnv):
    """Any robot: what nobody has written down for it is taken from its MuJoCo model.

    State: qpos, then qvel. Valid states: every hinge and slide inside its limits, hinges without limits
        anywhere, slides without limits and free bodies where they usually are, and no bodies in each other
        that are not so usually. Reached: every hinge within 0.1 rad (angles wrapped),
        every slide within 2 cm, every free body within both.
    """

    tolerance: float = 1.0
    tolerance_text: str = "0.1 rad on every hinge, 2 cm on every slide"

    def __init__(
        self,
        name: str,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        *,
        control_timestep: float,
        action_bounds: tuple[np.ndarray, np.ndarray],
        default_frame_skip: int,
        usual: Float64[np.ndarray, " nq"],
        free_view: FreeView | None = None,
        image_size: int | None = None,
        look: Look | None = None,
        render: bool = True,
        render_mode: str | None = "rgb_array",
        camera: str | None = None,
        frame_skip: int | None = None,
    ) -> None:
        """Take a model and its data; the other arguments are as `TaskEnv`'s.

        Args:
            name: what `make` knows it by.
            data: the simulation's own.
            control_timestep: of an env step [s].
            action_bounds: lowest and highest action.
            default_frame_skip: env steps per model step where `frame_skip` does not say.
            usual: the position of what has no limits.
            free_view: what the camera "free" shows.
        """
        self.name, self.control_timestep, self.frame_skip = name, control_timestep, default_frame_skip
        self._opened, self._bounds, self._usual = (model, data), action_bounds, usual.copy()
        self.joints = _joints(model)
        planes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE).tolist()
        self.parts = SceneParts(
            choose_camera(model, None, name),
            agent=_driven_geoms(model),
            floor=tuple(planes),
            free_view=free_view,
        )
        self.goal_names = tuple(text for joint in self.joints for text in joint.names())
        velocities = tuple(f"velocity {index}" for index in range(model.nv))
        self.proprio_names = (
            *(text.split(",")[0].rstrip("]") + "]" if "[" in text else text for text in self.goal_names),
            *velocities,
        )
        super().__init__(image_size, look, render, render_mode, camera, frame_skip)
        self._usual_overlaps = self._overlaps(usual)

    def open_model(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """The model and the data that it was made with."""
        return self._opened

    def sample_state(self, rng: np.random.Generator) -> State:
        """Joints uniform in their limits, redrawn while bodies are in each other, at rest."""
        least, best = np.inf, self._usual
        for _ in range(_MOST_DRAWS):
            qpos = np.empty_like(self._usual)
            for joint in self.joints:
                qpos[joint.numbers] = joint.draw(rng, self._usual[joint.numbers])
            overlaps = self._overlaps(qpos)
            if overlaps < least:
                least, best = overlaps, qpos
            if overlaps <= self._usual_overlaps:
                break
        return np.concatenate([best, np.zeros(self.mj_model.nv)])

    def check_position(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse a joint beyond its limits, and a quaternion that is none."""
        for joint in self.joints:
            numbers = qpos[joint.numbers]
            if joint.limits is not None and joint.kind in (_HINGE, _SLIDE):
                low, high = joint.limits
                if not low - 1e-3 <= numbers[0] <= high + 1e-3:
                    raise ValueError(
                        f"The joint {joint.name} of {self.name} must be from {low:g} to {high:g}, "
                        f"got {numbers[0]:g}"
                    )
            if joint.kind in (_FREE, _BALL) and abs(np.linalg.norm(numbers[-4:]) - 1) > 1e-3:
                raise ValueError(
                    f"The joint {joint.name} of {self.name} takes a quaternion of length 1 (w, x, y, z), "
                    f"got {numbers[-4:].tolist()}"
                )

    def position_error(self, qpos: Positions, goal_qpos: Positions) -> Float[np.ndarray, "... component"]:
        """Distances in units of the tolerance: one a hinge or slide, two a free body (place and turn)."""
        parts: list[Batch] = []
        for joint in self.joints:
            parts += joint.error(qpos[..., joint.numbers], goal_qpos[..., joint.numbers])
        return np.stack(parts, axis=-1)

    def offset_to(self, qpos: Positions, goal_qpos: Positions) -> Positions:
        """The way from one position to another; hinges without limits turn the short way round."""
        offset = np.asarray(goal_qpos - qpos)
        for joint in self.joints:
            if joint.kind == _HINGE and joint.limits is None:
                offset[..., joint.start] = wrapped_angle(offset[..., joint.start])
        return offset

    def _action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self._bounds

    def _overlaps(self, qpos: Float64[np.ndarray, " nq"]) -> int:
        """How many contacts are deeper than a millimetre."""
        self._scratch.qpos[:] = qpos
        mujoco.mj_fwdPosition(self.mj_model, self._scratch)
        return int((self._scratch.contact.dist < -_PENETRATION).sum())


def _joints(model: mujoco.MjModel) -> tuple[Joint, ...]:
    found = []
    for index in range(model.njnt):
        low, high = model.jnt_range[index].tolist()
        limits = (low, high) if model.jnt_limited[index] else None
        name = model.joint(index).name or f"joint {index}"
        found.append(Joint(name, int(model.jnt_type[index]), int(model.jnt_qposadr[index]), limits))
    return tuple(found)


def _driven_geoms(model: mujoco.MjModel) -> tuple[int, ...]:
    """The geoms that move and belong to something with actuators: the robot, not what it handles."""
    on_joints = np.isin(
        model.actuator_trntype, (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)
    )
    roots = model.body_rootid[model.jnt_bodyid[model.actuator_trnid[on_joints, 0]]]
    bodies = (model.body_weldid != 0) & np.isin(model.body_rootid, roots)
    return tuple(np.flatnonzero(bodies[model.geom_bodyid]).tolist())


def _turn(here: Positions, there: Positions) -> Batch:
    """The angle between two orientations, given as quaternions [rad]."""
    cosine = np.abs((here * there).sum(axis=-1))
    return 2 * np.arccos(np.clip(cosine, 0.0, 1.0))
