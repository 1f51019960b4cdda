"""The LeRobot-style policy, on the plane."""

import numpy as np
import pytest
import torch

from tests.worlds import UNIT_BOX, PointEnv, PointWorld, picture
from wm_plan.planners import CEM, MPC, GoalDistance
from wm_plan.planners.lerobot_policy import LeRobotPolicy


def make_policy(**overrides):
    controller = MPC(PointWorld(), CEM(UNIT_BOX, horizon=4), GoalDistance(reduce="sum"))
    controller.set_goal(picture([0.7, -0.4]))
    return LeRobotPolicy(controller, **overrides)


def batch_of(pixels, camera="top"):
    image = torch.from_numpy(np.atleast_2d(pixels)).permute(0, 3, 1, 2).float() / 255
    return {f"observation.images.{camera}": image, "observation.state": torch.zeros(len(image), 2)}


def test_the_policy_drives_a_batch_to_the_goal_and_begins_again_after_reset():
    policy = make_policy()
    episodes = []
    for _ in range(2):
        policy.reset()
        env = PointEnv(np.zeros((2, 2)))
        for _ in range(12):
            action = policy.select_action(batch_of(env.observe()["pixels"]))
            assert action.shape == (2, 2) and action.dtype == torch.float32
            env.step(action.numpy())
        np.testing.assert_allclose(env.position, [[0.7, -0.4]] * 2, atol=0.02)
        episodes.append(np.array(env.actions))
    np.testing.assert_array_equal(*episodes)


def test_the_camera_is_found_by_name_or_by_being_the_only_one():
    pixels = picture(np.zeros((1, 2)))
    two = batch_of(pixels, "top") | batch_of(pixels, "wrist")
    assert make_policy(camera="wrist").select_action(two).shape == (1, 2)
    with pytest.raises(ValueError, match=r"2 cameras .*name one with camera="):
        make_policy().select_action(two)
    with pytest.raises(ValueError, match="No 'observation.images.front' in the batch"):
        make_policy(camera="front").select_action(two)
    with pytest.raises(ValueError, match=r"give \(B, 3, H, W\) floats"):
        make_policy().select_action({"observation.image": torch.zeros(1, 4, 4, 3)})
