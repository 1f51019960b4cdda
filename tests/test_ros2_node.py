"""The example node without ROS: what it reads off messages, what it commands, what it says without rclpy."""

import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.worlds import UNIT_BOX, PointEnv, PointWorld, picture
from wm_plan.planners import MPC, GoalDistance, RealTimeMPC, make_planner

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "ros2_node.py"
node = runpy.run_path(str(SCRIPT), run_name="ros2_node")
ORDERS = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2, 0], "bgra8": [2, 1, 0, 0]}


@dataclass
class Image:
    """The fields of sensor_msgs/Image that matter."""

    height: int
    width: int
    encoding: str
    step: int
    data: bytes


def message_of(pixels: np.ndarray, encoding: str = "rgb8", padding: int = 0) -> Image:
    height, width, _ = pixels.shape
    rows = pixels[..., ORDERS[encoding]].reshape(height, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=7)
    return Image(height, width, encoding, padded.shape[1], padded.tobytes())


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", ORDERS)
def test_pictures_are_read_off_messages_of_every_encoding(encoding: str, padding: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 10, 3), dtype=np.uint8)
    np.testing.assert_array_equal(node["pixels_of"](message_of(pixels, encoding, padding)), pixels[:, 2:8])


def test_grey_pictures_become_grey_rgb_and_others_are_refused() -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    read = node["pixels_of"](Image(4, 4, "mono8", 4, grey.tobytes()))
    np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, axis=2))
    with pytest.raises(ValueError, match="the camera sends '16UC1'; set it to one of rgb8, bgr8"):
        node["pixels_of"](Image(4, 4, "16UC1", 8, bytes(32)))


def test_commands_lead_to_the_goal_and_to_a_new_one_sent_in_flight() -> None:
    planner = make_planner("cem", UNIT_BOX, horizon=6, num_samples=128, num_iterations=6)
    controller = MPC(PointWorld(frame_skip=2, speed=0.3), planner, GoalDistance(reduce="sum"))
    controller.set_goal(picture([0.7, -0.4]))
    now = [100.0]
    loop = RealTimeMPC(controller, 20.0, latency=0.1, simulated=True, on_expiry="zero")
    bridge = node["Bridge"](loop, clock=lambda: now[0])
    env = PointEnv(np.zeros(2), frame_skip=2, speed=0.3)
    for goal in ([0.7, -0.4], [-0.5, 0.5]):
        bridge.on_goal(message_of(picture(goal)))
        for _ in range(40):
            bridge.on_image(message_of(env.observe()["pixels"]), age=0.004)
            env.step(np.array(bridge.command()))
            now[0] += 1 / 20
        np.testing.assert_allclose(env.position, goal, atol=0.05)
    assert env.actions[0].tolist() == [0.0, 0.0]


def test_without_rclpy_one_line_says_where_it_comes_from(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--goal", "goal.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("ros2_node.py: rclpy is missing. It comes with ROS 2, not from PyPI")
    assert done.stderr.count("\n") == 1
