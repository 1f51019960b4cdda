"""How the pose of an arm follows from an action that is a change of pose."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Angles = Float[Tensor, "*batch 3"]


def rotation_matrix(angles: Angles) -> Float[Tensor, "*batch 3 3"]:
    """Matrix of rotations about the fixed x, then y, then z axis [rad]."""
    (cx, cy, cz), (sx, sy, sz) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = (
        (cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz),
        (cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz),
        (-sy, sx * cy, cx * cy),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rotation_angles(matrix: Float[Tensor, "*batch 3 3"]) -> Angles:
    """The inverse of `rotation_matrix`, with the y angle in [-pi/2, pi/2]."""
    x = torch.atan2(matrix[..., 2, 1], matrix[..., 2, 2])
    y = torch.asin(-matrix[..., 2, 0].clamp(-1, 1))
    z = torch.atan2(matrix[..., 1, 0], matrix[..., 0, 0])
    return torch.stack([x, y, z], dim=-1)


def next_gripper_pose(pose: Float[Tensor, "*batch 7"], action: Float[Tensor, "*batch 7"]) -> Tensor:
    """Pose of a gripper after an action.

    Args:
        pose: position [m], rotation about fixed x, y and z [rad], how far the gripper is closed, 0 to 1.
        action: the change of each; the rotation is applied after the pose's own.

    Source: V-JEPA 2-AC, arXiv:2506.09985, section on planning.
    """
    turned = rotation_matrix(action[..., 3:6]) @ rotation_matrix(pose[..., 3:6])
    closed = (pose[..., 6:] + action[..., 6:]).clamp(0, 1)
    return torch.cat([pose[..., :3] + action[..., :3], rotation_angles(turned), closed], dim=-1)


def gripper_action(
    before: Float[Tensor, "*batch 7"], after: Float[Tensor, "*batch 7"]
) -> Float[Tensor, "*batch 7"]:
    """The action that leads from one pose to another."""
    turned = rotation_matrix(after[..., 3:6]) @ rotation_matrix(before[..., 3:6]).transpose(-1, -2)
    shift = after - before
    return torch.cat([shift[..., :3], rotation_angles(turned), shift[..., 6:]], dim=-1)
