"""An arm that holds a cube: bring the cube to the place in space that the goal image shows.

Our own model of primitive shapes on bare MuJoCo (`cube_arm.xml`), seen from the front and slightly above, so
that depth must be read from size and height.
"""

import mujoco
import numpy as np
from jaxtyping import Float, Float64

from .cube_arm import CUBE, LINK, RANGES, CubeArmTask, hand_place
from .rendering import SceneParts
from .task import Positions, State

_LOWEST, _HIGHEST, _NEAREST = 0.06, 0.45, 0.14


class CubeReachEnv(CubeArmTask):
    """A cube in the hand of a three-joint arm to a place in space, by joint velocities.

    State: yaw, shoulder, elbow [rad], and their velocities. Action: wanted velocities of the joints, -1 to
        1 rad/s. Reached: the hand within 3 cm of the goal's. Valid states: joints inside their limits, the
        hand from 6 to 45 cm above the table and at least 14 cm in front of the base.
    """

    name: str = "cube_reach"
    tolerance: float = 0.03
    tolerance_text: str = "the cube within 3 cm"
    logging_policy: str = "waypoints"
    servo_gains: tuple[float, float] | None = (3.0, 0.05)
    parts: SceneParts = SceneParts(
        camera="level", agent=("upper", "fore"), effector=("cube",), floor=("ground",), walls=("base",)
    )
    goal_names: tuple[str, ...] = (
        "yaw [rad, -1 to 1]",
        "shoulder [rad, -0.3 to 1.7]",
        "elbow [rad, 0.2 to 2.6]",
    )

    @classmethod
    def make_spec(cls) -> mujoco.MjSpec:
        """The arm with the cube in its hand."""
        spec = super().make_spec()
        box = mujoco.mjtGeom.mjGEOM_BOX
        spec.body("fore").add_geom(
            name="cube",
            type=box,
            size=[CUBE] * 3,
            pos=spec.geom("hand").pos,
            mass=0.05,
            contype=0,
            conaffinity=0,
            rgba=[0.9, 0.55, 0.05, 1],
        )
        return spec

    def sample_state(self, rng: np.random.Generator) -> State:
        """Joints uniform in their ranges, redrawn until the cube is in front of the base, at rest."""
        while True:
            joints = rng.uniform(RANGES[:, 0] + 0.02, RANGES[:, 1] - 0.02)
            if self._is_free(joints):
                return np.concatenate([joints, np.zeros(3)])

    def check_position(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse joints beyond their limits, and a hand in the table or in the base."""
        self.check_joints(qpos)
        if not self._is_free(qpos):
            raise ValueError(
                f"The hand of cube_reach must be from {_LOWEST} to {_HIGHEST} m above the table and "
                f"{_NEAREST} m in front of the base, got the joints {qpos.tolist()}"
            )

    def position_error(self, qpos: Positions, goal_qpos: Positions) -> Float[np.ndarray, "... component"]:
        """The distance of the cube from the goal's [m]."""
        return np.linalg.norm(hand_place(qpos) - hand_place(goal_qpos), axis=-1, keepdims=True)

    def _is_free(self, joints: Float64[np.ndarray, " nq"]) -> bool:
        reach = np.sin(joints[1]) + np.sin(joints[1] + joints[2])
        return bool(_LOWEST <= hand_place(joints)[2] <= _HIGHEST and LINK * reach >= _NEAREST)
