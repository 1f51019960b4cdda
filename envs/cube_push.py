"""An arm that pushes a cube over a table: bring the cube to where the goal image shows it.

Our own model of primitive shapes on bare MuJoCo (`cube_arm.xml`). The cube slides and turns on the table and
never tips; the arm's links pass through it, its hand does not.
"""

import mujoco
import numpy as np
from jaxtyping import Float, Float32, Float64

from .cube_arm import CUBE, CubeArmTask, hand_place, joint_velocities, joints_for
from .pushing import PushingPolicy
from .rendering import SceneParts
from .task import Positions, State, wrapped_angle

_HAND_HEIGHT = 0.03
_FREE = 0.075
_MIDDLE, _HALF_WIDTH = (0.28, 0.0), 0.16
_CUBE_HALF_WIDTH = 0.12


class CubePushEnv(CubeArmTask):
    """A cube on a table to a place, pushed by the hand of a three-joint arm.

    State: yaw, shoulder, elbow [rad], cube x, y [m], cube angle [rad], and their velocities. Action: wanted
        velocities of the joints, -1 to 1 rad/s. Reached: the middle of the cube within 3 cm of the goal's,
        wherever the arm is. Valid states: the cube in a square of 24 cm a side in front of the arm, the hand
        low above the table, 7.5 cm from the cube's middle at least.
    """

    name: str = "cube_push"
    tolerance: float = 0.03
    tolerance_text: str = "the cube within 3 cm"
    far_budget: int = 300
    logging_policy: str = "scripted"
    parts: SceneParts = SceneParts(
        camera="slant", agent=("upper", "fore"), effector=("cube",), floor=("ground",), walls=("base",)
    )
    object_names: tuple[str, ...] = (
        "cube x [m]",
        "cube y [m]",
        "cos(cube angle)",
        "sin(cube angle)",
        "cube x velocity [m/s]",
        "cube y velocity [m/s]",
        "cube angle velocity [rad/s]",
    )
    goal_names: tuple[str, ...] = (
        "yaw [rad, -1 to 1]",
        "shoulder [rad, -0.3 to 1.7]",
        "elbow [rad, 0.2 to 2.6]",
        "cube x [m]",
        "cube y [m]",
        "cube angle [rad, -pi to pi]",
    )

    @classmethod
    def make_spec(cls) -> mujoco.MjSpec:
        """The arm with a cube on the table."""
        spec = super().make_spec()
        style = spec.find_default("cube")
        body = spec.worldbody.add_body(name="cube", pos=[0, 0, CUBE])
        hinge, slide = mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE
        body.add_joint(style, name="cube_x", type=slide, axis=[1, 0, 0])
        body.add_joint(style, name="cube_y", type=slide, axis=[0, 1, 0])
        turn = body.add_joint(style, name="cube_angle", type=hinge, axis=[0, 0, 1])
        turn.damping[0], turn.frictionloss = 0.002, 0.0002
        body.add_geom(style, name="cube")
        return spec

    def sample_state(self, rng: np.random.Generator) -> State:
        """Cube and hand anywhere in front of the arm where they do not touch, at rest."""
        while True:
            cube = np.asarray(_MIDDLE) + rng.uniform(-_CUBE_HALF_WIDTH, _CUBE_HALF_WIDTH, 2)
            hand = np.asarray(_MIDDLE) + rng.uniform(-_HALF_WIDTH, _HALF_WIDTH, 2)
            if np.linalg.norm(cube - hand) > _FREE:
                joints = joints_for(np.array([*hand, _HAND_HEIGHT]))
                return np.concatenate([joints, cube, [rng.uniform(-np.pi, np.pi)], np.zeros(6)])

    def check_position(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse joints beyond their limits, a cube out of reach, and a hand in the cube."""
        self.check_joints(qpos)
        if np.abs(qpos[3:5] - _MIDDLE).max() > _HALF_WIDTH:
            raise ValueError(
                f"The cube of cube_push must be within {_HALF_WIDTH} m of {_MIDDLE} along both axes, "
                f"got {qpos[3:5].tolist()}"
            )
        hand = hand_place(qpos)
        if np.linalg.norm(hand - [*qpos[3:5], CUBE]) < CUBE + 0.02:
            raise ValueError(f"The hand of cube_push cannot be in the cube, got {qpos.tolist()}")

    def offset_to(self, qpos: Positions, goal_qpos: Positions) -> Positions:
        """The way from one position to another; the cube turns the short way round."""
        offset = np.array(goal_qpos - qpos)
        offset[..., 5] = wrapped_angle(offset[..., 5])
        return offset

    def position_error(self, qpos: Positions, goal_qpos: Positions) -> Float[np.ndarray, "... component"]:
        """The distance of the cube from the goal's [m]."""
        return np.linalg.norm((goal_qpos - qpos)[..., 3:5], axis=-1, keepdims=True)

    def proprio(self, state: Float[np.ndarray, "... state"]) -> Float[np.ndarray, "... proprio"]:
        """Joints and their velocities: the cube must be seen."""
        return np.concatenate([state[..., :3], state[..., 6:9]], axis=-1).astype(np.float32)

    def objects(self, state: Float[np.ndarray, "... state"]) -> Float[np.ndarray, "... object"]:
        """Place of the cube, cosine and sine of its angle, and its velocities."""
        angle = state[..., 5:6]
        parts = [state[..., 3:5], np.cos(angle), np.sin(angle), state[..., 9:12]]
        return np.concatenate(parts, axis=-1).astype(np.float32)

    def scripted_policy(self, rng: np.random.Generator) -> PushingPolicy:
        """Pushes from random sides, the hand low above the table."""
        high = self.action_space.high

        def steer(velocity: np.ndarray, state: State) -> Float32[np.ndarray, " action"]:
            upward = 2.0 * (_HAND_HEIGHT - hand_place(state[:3])[2])
            turns = joint_velocities(state[:3], np.array([*velocity, upward]))
            return (turns / max(1.0, float(np.abs(turns / high).max()))).astype(np.float32)

        return PushingPolicy(
            rng,
            self.frame_skip,
            lambda state: (hand_place(state[:3])[:2], state[3:5].copy()),
            steer,
            speed=0.2,
            clearance=0.075,
            half_width=_HALF_WIDTH,
            middle=_MIDDLE,
        )
