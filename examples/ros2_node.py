r"""A ROS 2 node: camera pictures in, commands out, plans made in the background.

    source /opt/ros/<distribution>/setup.bash
    python examples/ros2_node.py --model runs/my_robot --goal goal.png --rate 20 \
        --camera /camera/image_raw --command /joint_group_effort_controller/commands

A picture published on --goal-topic becomes the new goal at once. Before the first plan, and when plans stop
coming, the command is zero: use a model whose zero action is safe. rclpy is imported only when this runs.
"""

import argparse
import sys
import time

import numpy as np

CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0)}
"""Encodings of sensor_msgs/Image that are understood, and where their red, green and blue are."""


def pixels_of(message) -> np.ndarray:
    """The central square (S, S, 3) uint8 of a sensor_msgs/Image."""
    if message.encoding not in CHANNELS:
        raise ValueError(f"the camera sends {message.encoding!r}; set it to one of {', '.join(CHANNELS)}")
    depth = {"mono8": 1, "rgb8": 3, "bgr8": 3}.get(message.encoding, 4)
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    picture = rows[:, : message.width * depth].reshape(message.height, message.width, depth)
    side = min(picture.shape[:2])
    top, left = (message.height - side) // 2, (message.width - side) // 2
    return np.ascontiguousarray(picture[top : top + side, left : left + side, CHANNELS[message.encoding]])


class Bridge:
    """Between messages and a `RealTimeMPC`: knows their fields, but nothing of ROS."""

    def __init__(self, loop, clock=time.monotonic) -> None:
        self.loop, self.clock = loop, clock

    def on_image(self, message, age: float) -> None:
        """A camera picture that was taken `age` seconds ago."""
        self.loop.observe({"pixels": pixels_of(message)}, self.clock() - max(age, 0.0))

    def on_goal(self, message) -> None:
        """A picture of the new goal."""
        self.loop.set_goal(pixels_of(message))

    def command(self) -> list[float]:
        """What to publish now."""
        return self.loop.action(self.clock()).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="reacher", help="a task, or a folder made by wm-train")
    parser.add_argument("--goal", required=True, help="picture of the goal: PNG or JPEG")
    parser.add_argument("--rate", type=float, default=50.0, help="env steps (commands) a second")
    parser.add_argument("--camera", default="/camera/image_raw", help="topic, sensor_msgs/Image")
    parser.add_argument("--goal-topic", default="/wm_plan/goal", help="topic, sensor_msgs/Image")
    parser.add_argument("--command", default="/wm_plan/command", help="topic, std_msgs/Float64MultiArray")
    flags = parser.parse_args()
    try:
        import rclpy
        from rclpy.qos import qos_profile_sensor_data
        from rclpy.time import Time
        from sensor_msgs.msg import Image
        from std_msgs.msg import Float64MultiArray
    except ModuleNotFoundError as error:
        print(
            f"ros2_node.py: {error.name} is missing. It comes with ROS 2, not from PyPI:"
            " source /opt/ros/<distribution>/setup.bash, and run this with ROS 2's Python.",
            file=sys.stderr,
        )
        sys.exit(2)

    import wm_plan
    from wm_plan.goal_image import read_goal_image
    from wm_plan.planners import RealTimeMPC

    controller = wm_plan.load(flags.model)
    controller.set_goal(read_goal_image(flags.goal))
    rclpy.init()
    node = rclpy.create_node("wm_plan")
    publisher = node.create_publisher(Float64MultiArray, flags.command, 10)
    with RealTimeMPC(controller, flags.rate, on_expiry="zero") as loop:
        bridge = Bridge(loop)

        def on_image(message) -> None:
            age = node.get_clock().now() - Time.from_msg(message.header.stamp)
            bridge.on_image(message, age.nanoseconds / 1e9)

        node.create_subscription(Image, flags.camera, on_image, qos_profile_sensor_data)
        node.create_subscription(Image, flags.goal_topic, bridge.on_goal, qos_profile_sensor_data)
        node.create_timer(1 / flags.rate, lambda: publisher.publish(Float64MultiArray(data=bridge.command())))
        try:
            rclpy.spin(node)
        except KeyboardInterrupt:
            pass
        finally:
            node.destroy_node()


if __name__ == "__main__":
    main()
