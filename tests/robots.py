"""Robots as users bring them: the example's, and files that are written for one test."""

from pathlib import Path

ARM = str(Path(__file__).resolve().parents[1] / "examples" / "robots" / "arm.xml")


def write_robot(
    folder: Path,
    *,
    cameras: str = "",
    bodies: str = "",
    motor: str = 'ctrlrange="-1 1"',
    actuators: str | None = None,
    more: str = "",
) -> str:
    """Write a pole on a hinge to `folder/robot.xml`, with more of what is asked for; gives the path."""
    drive = f'<actuator><motor name="drive" joint="hinge" {motor}/></actuator>'
    path = folder / "robot.xml"
    path.write_text(
        f"""<mujoco><worldbody>{cameras}
        <body name="pole"><joint name="hinge" axis="0 1 0" damping=".1"/>
        <geom type="capsule" fromto="0 0 0 0 0 .5" size=".05"/></body>{bodies}</worldbody>
        {drive if actuators is None else actuators}{more}</mujoco>"""
    )
    return str(path)
