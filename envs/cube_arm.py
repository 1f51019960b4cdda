"""The arm of the cube tasks: three joints, a ball for a hand, no weight of its own to hold up."""

from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float, Float64

from .built_in import BuiltInTask
from .task import Positions

LINK, SHOULDER_HEIGHT = 0.24, 0.12
"""Length of upper arm and forearm, and where they begin [m]."""
CUBE = 0.025
"""Half a side [m]."""
JOINTS = ("yaw", "shoulder", "elbow")
RANGES = np.array([[-1.0, 1.0], [-0.3, 1.7], [0.2, 2.6]])
"""[rad]; yaw 0 points away from the base, shoulder 0 straight up, elbow 0 stretched."""


class CubeArmTask(BuiltInTask):
    """What both cube tasks share: joint velocities in, ten env steps a second."""

    control_timestep: float = 0.1
    frame_skip: int = 2
    proprio_names: tuple[str, ...] = (
        "yaw [rad]",
        "shoulder [rad]",
        "elbow [rad]",
        "yaw velocity [rad/s]",
        "shoulder velocity [rad/s]",
        "elbow velocity [rad/s]",
    )

    @classmethod
    def make_spec(cls) -> mujoco.MjSpec:
        """The model beside this file, without a cube."""
        text = Path(__file__).with_suffix(".xml").read_text(encoding="utf-8")
        return mujoco.MjSpec.from_string(text)

    def check_joints(self, qpos: Float64[np.ndarray, " nq"]) -> None:
        """Refuse joints beyond their limits.

        Raises:
            ValueError: naming the joint.
        """
        for name, angle, (low, high) in zip(JOINTS, qpos, RANGES, strict=False):
            if not low - 1e-3 <= angle <= high + 1e-3:
                raise ValueError(
                    f"The {name} of {self.name} must be from {low:g} to {high:g} rad, got {angle:g}"
                )


def hand_place(joints: Positions) -> Float[np.ndarray, "... 3"]:
    """Where the middle of the hand is [m] with these joints (yaw, shoulder, elbow)."""
    yaw, shoulder, elbow = joints[..., 0], joints[..., 1], joints[..., 2]
    reach = LINK * (np.sin(shoulder) + np.sin(shoulder + elbow))
    height = SHOULDER_HEIGHT + LINK * (np.cos(shoulder) + np.cos(shoulder + elbow))
    return np.stack([reach * np.cos(yaw), reach * np.sin(yaw), height], axis=-1)


def joints_for(place: Float64[np.ndarray, " 3"]) -> Float64[np.ndarray, " 3"]:
    """The joints that bring the hand to a place within its reach, elbow up."""
    reach, height = float(np.hypot(place[0], place[1])), float(place[2] - SHOULDER_HEIGHT)
    far = min(float(np.hypot(reach, height)), 2 * LINK * 0.999)
    elbow = 2 * np.arccos(far / (2 * LINK))
    return np.array([np.arctan2(place[1], place[0]), np.arctan2(reach, height) - elbow / 2, elbow])


def joint_velocities(
    joints: Float64[np.ndarray, " 3"], velocity: Float64[np.ndarray, " 3"]
) -> Float64[np.ndarray, " 3"]:
    """The joint velocities [rad/s] that move the hand so [m/s]: damped least squares."""
    yaw, shoulder, elbow = joints
    bend = shoulder + elbow
    reach, out = np.sin(shoulder) + np.sin(bend), np.array([np.cos(yaw), np.sin(yaw)])
    slope, drop = np.cos(shoulder) + np.cos(bend), -np.sin(shoulder) - np.sin(bend)
    jacobian = LINK * np.array(
        [
            [-reach * out[1], slope * out[0], np.cos(bend) * out[0]],
            [reach * out[0], slope * out[1], np.cos(bend) * out[1]],
            [0.0, drop, -np.sin(bend)],
        ]
    )
    return jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-4 * np.eye(3), velocity)
