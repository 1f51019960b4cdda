"""gymnasium's Pusher: a seven-joint arm pushes a cylinder over a table to where the goal image shows it.

Arm, cylinder, torques and control step are those of Pusher-v5, whose model file comes with gymnasium. Ours:

- The goal marker has no joints and is hidden: a goal is a picture.
- The 40 g of the cylinder are its mass. In Pusher-v5 they are the armature of its slides, which moves alike,
  but which MuJoCo (3.17) leaves out of a contact's stiffness, so that the hand goes through the cylinder.
- Starts and goals are drawn where the hand is low and the cylinder within its reach. Pusher-v5 starts with
  the arm stretched out above the table, and always has the same goal.
- Colours, a table drawn where the arm works, and the camera.

Source: https://gymnasium.farama.org/environments/mujoco/pusher/
"""

import importlib.util
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float, Float32, Float64

from .built_in import BuiltInTask
from .pushing import PushingPolicy
from .rendering import SceneParts
from .task import Positions, State

_JOINTS = (
    "shoulder pan",
    "shoulder lift",
    "upper arm roll",
    "elbow flex",
    "forearm roll",
    "wrist flex",
    "wrist roll",
)
_RANGES = np.array(
    [
        [-2.2854, 1.714602],
        [-0.5236, 1.3963],
        [-1.5, 1.7],
        [-2.3213, 0.0],
        [-1.5, 1.5],
        [-1.094, 0.0],
        [-1.5, 1.5],
    ]
)
"""[rad]"""
_HAND = ("bar", "prong_left", "prong_right")
_SHOULDER, _MIDDLE = np.array([0.0, -0.6]), np.array([0.52, -0.35])
"""Where the arm stands, and the middle of where it works [m]."""
_CYLINDER_AT_ZERO = np.array([0.45, -0.05])
"""Where the cylinder is when both its slides are at 0 [m]."""
_CYLINDER_MASS = 0.04
_CYLINDER_HALF_WIDTH, _HAND_HALF_WIDTH, _FARTHEST = 0.13, 0.17, 0.3
_NEAREST_REACH, _FARTHEST_REACH = 0.40, 0.77
"""Distances of the hand from the shoulder at which it can be level and low [m]."""
_HAND_HEIGHT, _LOWEST, _HIGHEST = -0.27, -0.31, -0.23
"""The table is at -0.325 m, the top of the cylinder at -0.225 m."""
_POSTURE = np.array([np.nan, 0.85, 1.1, -1.3, 0.95, -0.9, 1.3])
"""Where the joints but the pan return to as far as the hand leaves them free [rad]: prongs across."""
_PAN_AHEAD = 0.55
"""How far the pan is ahead of the hand in that posture, seen from the shoulder [rad]."""
_REACTION_TIME = 0.15
"""In which the scripted policy's torques bring about the joint velocities it wants [s]."""


class PusherEnv(BuiltInTask):
    """A cylinder to a place on a table, pushed by the two prongs of a seven-joint arm, by torques.

    State: seven joints [rad], the cylinder's way along y and along x from (0.45, -0.05) [m], in this order
        as in Pusher-v5, and their velocities. Action: torques of the joints, -2 to 2 N m. Reached: the middle
        of the cylinder within 3 cm of the goal's, wherever the arm is. Valid states: the cylinder in a square
        of 26 cm a side, the hand in one of 34 cm, level and lower than the cylinder's top, and no part of the
        arm in the cylinder (only the hand would be stopped by it).
    """

    name: str = "pusher"
    control_timestep: float = 0.05
    frame_skip: int = 2
    tolerance: float = 0.03
    tolerance_text: str = "the cylinder within 3 cm"
    far_budget: int = 300
    logging_policy: str = "scripted"
    parts: SceneParts = SceneParts(
        camera="top",
        agent=("upper_arm", "elbow", "forearm"),
        effector=("cylinder",),
        floor=("table",),
        target="target",
        target_position=(0.45, -0.05),
        middle=(0.52, -0.35),
    )
    proprio_names: tuple[str, ...] = (
        *(f"{name} [rad]" for name in _JOINTS),
        *(f"{name} velocity [rad/s]" for name in _JOINTS),
    )
    object_names: tuple[str, ...] = (
        "cylinder x [m]",
        "cylinder y [m]",
        "cylinder x velocity [m/s]",
        "cylinder y velocity [m/s]",
    )
    goal_names: tuple[str, ...] = (
        *(
            f"{name} [rad, {low:.2f} to {high:.2f}]"
            for name, (low, high) in zip(_JOINTS, _RANGES, strict=True)
        ),
        "cylinder along y [m]",
        "cylinder along x [m]",
    )

    @classmethod
    def make_spec(cls) -> mujoco.MjSpec:
        """The model in the installed gymnasium, with what is ours (see the module)."""
        spec = mujoco.MjSpec.from_file(str(_model_file()))
        goal, cylinder = spec.body("goal"), spec.body("object")
        for joint in list(goal.joints):
            spec.delete(joint)
        goal.geoms[0].name = "target"
        for joint in cylinder.joints:
            joint.armature = 0.0
        cylinder.geoms[0].mass = _CYLINDER_MASS
        _name_and_colour(spec)
        spec.body("r_wrist_roll_link").add_site(name="hand", pos=[0.05, 0, 0], size=[0.001] * 3, rgba=[0] * 4)
        spec.worldbody.add_camera(name="top", pos=[0.5, -0.35, 1.2], fovy=31.0)
        return spec

    def sample_state(self, rng: np.random.Generator) -> State:
        """Cylinder and hand anywhere in front of the arm where they do not touch, at rest."""
        while True:
            cylinder = _MIDDLE + rng.uniform(-_CYLINDER_HALF_WIDTH, _CYLINDER_HALF_WIDTH, 2)
            hand = _MIDDLE + rng.uniform(-_HAND_HALF_WIDTH, _HAND_HALF_WIDTH, 2)
            posture = _posture(hand) + rng.uniform(-0.25, 0.25, len(_JOINTS))
            joints = self._joints_for(hand, posture)
            if joints is None:
                continue
            qpos = np.concatenate([joints, (cylinder - _CYLINDER_AT_ZERO)[::-1]])
            if self._gap(qpos) > 0.003:
                return np.concatenate([qpos, np.zeros(9)])

    def check_position(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse joints beyond their limits, a cylinder out of reach, and a hand that is high or touches."""
        for name, angle, (low, high) in zip(_JOINTS, qpos, _RANGES, strict=False):
            if not low - 1e-3 <= angle <= high + 1e-3:
                raise ValueError(f"The {name} of pusher must be from {low:g} to {high:g} rad, got {angle:g}")
        if np.abs(cylinder_place(qpos) - _MIDDLE).max() > _FARTHEST:
            raise ValueError(
                f"The cylinder of pusher must be within {_FARTHEST} m of {tuple(_MIDDLE.tolist())} along "
                f"both axes, got {cylinder_place(qpos).tolist()}"
            )
        height = self._hand(qpos[:7])[0][2]
        if not _LOWEST <= height <= _HIGHEST:
            raise ValueError(
                f"The hand of pusher must be from {_LOWEST} to {_HIGHEST} m high, where it can push, got "
                f"{height:.3f} m from the joints {qpos[:7].tolist()}"
            )
        if self._gap(qpos) < -1e-3:
            raise ValueError(f"The arm of pusher cannot be in the cylinder, got {qpos.tolist()}")

    def position_error(self, qpos: Positions, goal_qpos: Positions) -> Float[np.ndarray, "... component"]:
        """The distance of the cylinder from the goal's [m]."""
        return np.linalg.norm((goal_qpos - qpos)[..., 7:9], axis=-1, keepdims=True)

    def proprio(self, state: Float[np.ndarray, "... state"]) -> Float[np.ndarray, "... proprio"]:
        """Joints and their velocities: the cylinder must be seen."""
        return np.concatenate([state[..., :7], state[..., 9:16]], axis=-1).astype(np.float32)

    def objects(self, state: Float[np.ndarray, "... state"]) -> Float[np.ndarray, "... object"]:
        """Place and velocity of the cylinder."""
        return np.concatenate([cylinder_place(state), state[..., [17, 16]]], axis=-1).astype(np.float32)

    def scripted_policy(self, rng: np.random.Generator) -> PushingPolicy:
        """Pushes towards random places, the hand level and low above the table."""
        return PushingPolicy(
            rng,
            self.frame_skip,
            lambda state: (self._hand(state[:7])[0][:2], cylinder_place(state)),
            self._torques_for,
            speed=0.35,
            clearance=0.19,
            half_width=0.3,
            middle=(float(_MIDDLE[0]), float(_MIDDLE[1])),
            aim_half_width=0.1,
        )

    # The scripted policy's control, and inverse kinematics.

    def _torques_for(
        self, velocity: Float64[np.ndarray, " 2"], state: State
    ) -> Float32[np.ndarray, " action"]:
        """The torques that let the hand move so [m/s], level and at its height: computed torque control."""
        joints = state[:7]
        place, _, _ = self._hand(joints)
        out = place[:2] - _SHOULDER
        reach = float(np.linalg.norm(out))
        outward = float(velocity @ out) / reach
        if (reach < _NEAREST_REACH and outward < 0) or (reach > _FARTHEST_REACH and outward > 0):
            velocity = velocity - outward * out / reach
        wanted = np.array([*velocity, 3.0 * (_HAND_HEIGHT - place[2])])
        turns = self._joint_velocities(joints, wanted, 3.0, 0.5 * (_posture(place[:2]) - joints))
        acceleration = np.zeros(self.mj_model.nv)
        acceleration[:7] = (turns - state[9:16]) / _REACTION_TIME
        force = np.zeros(self.mj_model.nv)
        mujoco.mj_makeM(self.mj_model, self._scratch)
        mujoco.mj_mulM(self.mj_model, self._scratch, force, acceleration)
        torques = force[:7] + self.mj_model.dof_damping[:7] * turns
        return (torques / max(1.0, float(np.abs(torques).max()) / 2.0)).astype(np.float32)

    def _joints_for(
        self, hand: Float64[np.ndarray, " 2"], posture: Float64[np.ndarray, " 7"]
    ) -> Float64[np.ndarray, " 7"] | None:
        """The joints that bring the hand to a place, level, near a posture; None where they cannot."""
        low, high = _RANGES[:, 0] + 0.02, _RANGES[:, 1] - 0.02
        joints = np.clip(posture, low, high)
        goal = np.array([*hand, _HAND_HEIGHT])
        for _ in range(40):
            place, tilt, _ = self._hand(joints)
            if np.linalg.norm(goal - place) < 0.002 and np.abs(tilt).max() < 0.1:
                return joints
            change = self._joint_velocities(joints, 0.5 * (goal - place), 0.5, 0.05 * (posture - joints))
            joints = np.clip(joints + np.clip(change, -0.2, 0.2), low, high)
        return None

    def _joint_velocities(
        self,
        joints: Float64[np.ndarray, " 7"],
        velocity: Float64[np.ndarray, " 3"],
        levelling: float,
        free_velocity: Float64[np.ndarray, " 7"],
    ) -> Float64[np.ndarray, " 7"]:
        """The joint velocities [rad/s] that move the hand so [m/s] and level it at a rate [1/s].

        What the hand leaves free follows `free_velocity`; joints at a limit stay there. Damped least squares.
        """
        _, tilt, jacobian = self._hand(joints)
        wanted = np.array([*velocity, *(-levelling * tilt)])
        free = np.ones(len(_JOINTS), bool)
        for _ in range(3):
            part, drift = jacobian * free, free_velocity * free
            damped = part @ part.T + np.diag([3e-4, 3e-4, 3e-4, 1e-4, 1e-4])
            turns = drift + part.T @ np.linalg.solve(damped, wanted - part @ drift)
            leaves = (joints < _RANGES[:, 0] + 0.03) & (turns < 0) | (joints > _RANGES[:, 1] - 0.03) & (
                turns > 0
            )
            if not (free & leaves).any():
                break
            free &= ~leaves
        return turns * free

    def _hand(
        self, joints: Float64[np.ndarray, " 7"]
    ) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 2"], Float64[np.ndarray, "5 7"]]:
        """Place between the prongs [m], how far the hand's two axes are from level, and their Jacobian."""
        model, data = self.mj_model, self._scratch
        data.qpos[:7] = joints
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        site = model.site("hand").id
        moves, turns = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, moves, turns, site)
        along, across = data.site_xmat[site].reshape(3, 3).T[:2]
        tilts = [turns[0] * axis[1] - turns[1] * axis[0] for axis in (along, across)]
        tilt = np.array([along[2], across[2]])
        return data.site_xpos[site].copy(), tilt, np.vstack([moves, *tilts])[:, :7]

    def _gap(self, qpos: Float64[np.ndarray, " nq"]) -> float:
        """The smallest distance of the arm from the cylinder [m]."""
        model, data = self.mj_model, self._scratch
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        cylinder = model.geom("cylinder").id
        arm = (model.geom(name).id for name in (*self.parts.agent, *_HAND))
        return min(mujoco.mj_geomDistance(model, data, geom, cylinder, 1.0, None) for geom in arm)


def cylinder_place(position: Float[np.ndarray, "... number"]) -> Float[np.ndarray, "... 2"]:
    """Where the middle of the cylinder is, x then y [m], from a position or a state."""
    return position[..., [8, 7]] + _CYLINDER_AT_ZERO


def _posture(hand: Float64[np.ndarray, " 2"]) -> Float64[np.ndarray, " 7"]:
    """The posture, its pan turned towards a place of the hand."""
    out = hand - _SHOULDER
    return np.array([np.arctan2(out[1], out[0]) + _PAN_AHEAD, *_POSTURE[1:]])


def _model_file() -> Path:
    found = importlib.util.find_spec("gymnasium")
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "envs" / "mujoco" / "assets" / "pusher_v5.xml"


def _name_and_colour(spec: mujoco.MjSpec) -> None:
    """Name the parts that looks may recolour, and tell them apart."""
    table = spec.geom("table")
    table.pos[:2], table.size[:2] = _MIDDLE, [1, 1]  # of what is drawn; as an obstacle a plane has no end
    spec.add_material(name="table", rgba=[0.66, 0.64, 0.58, 1])  # without one it could not show textures
    table.material = "table"
    light = spec.visual.headlight
    light.ambient, light.diffuse, light.specular = [0.4] * 3, [0.3] * 3, [0.0] * 3
    blue, light, dark = [0.15, 0.35, 0.75, 1], [0.3, 0.6, 0.95, 1], [0.25, 0.28, 0.33, 1]
    colours = {"ua": blue, "ef": light, "fa": light, "sp": dark, "sl": dark}
    for name, colour in colours.items():
        spec.geom(name).rgba = colour
    for old, new in (("ua", "upper_arm"), ("ef", "elbow"), ("fa", "forearm")):
        spec.geom(old).name = new
    hand = [geom for geom in spec.body("r_wrist_roll_link").geoms if geom.contype]
    for geom, name in zip(hand, _HAND, strict=True):
        geom.name, geom.rgba = name, [0.8, 0.1, 0.15, 1]
    cylinder = spec.body("object").geoms[0]
    cylinder.name, cylinder.rgba = "cylinder", [0.9, 0.55, 0.05, 1]
