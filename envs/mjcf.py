"""A robot of one's own, from its MJCF file: its actuators become the action space."""

import hashlib
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from .built_in import compile_spec
from .camera_env import model_step
from .robot import RobotEnv

CONTROL_STEP = 0.02
"""What an env step lasts, as near to it as the model's own timestep allows [s]."""
_SHARED: dict[str, mujoco.MjModel] = {}


class MjcfEnv(RobotEnv):
    """The robot of an MJCF file, driven by its actuators within their `ctrlrange`.

    An env step is as many of the model's own timesteps as come nearest to 0.02 s, a model step as many env
    steps as come nearest to 0.1 s. It starts in a state drawn by `sample_state`; the first keyframe of the
    file, where there is one, says where free bodies and slides without limits are.

    Raises:
        ValueError: the file is missing or broken, names a mesh that is missing, or has no joints, no
            actuators, or an actuator without a `ctrlrange`.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:  # noqa: ANN401 - passed on
        """Read `path`; the options are those of `TaskEnv`."""
        model = read_model(path)
        bounds = actuator_bounds(model, str(path))
        if not model.njnt:
            raise ValueError(f"{path} has no joints: nothing in it can move. Give the MJCF file of a robot")
        substeps = max(1, round(CONTROL_STEP / model.opt.timestep))
        super().__init__(
            str(path),
            model,
            mujoco.MjData(model),
            control_timestep=substeps * model.opt.timestep,
            action_bounds=bounds,
            default_frame_skip=model_step(substeps * model.opt.timestep),
            usual=model.key_qpos[0] if model.nkey else model.qpos0,
            **options,
        )

    def _renderer_name(self) -> str:
        return f"{self.name}@{self.camera}#{id(self._nominal_model)}"


def read_model(path: str | Path) -> mujoco.MjModel:
    """The model of an MJCF file; files that compile to the same model share it.

    Raises:
        ValueError: the file is missing or broken, or includes one that is.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"the MJCF file {str(path)!r} {what}. Give the path of the robot's XML file")
    try:
        model = compile_spec(mujoco.MjSpec.from_file(str(path)))
    except Exception as error:  # MuJoCo raises ValueError for most, and FatalError or others for the rest
        raise ValueError(
            f"MuJoCo cannot load {str(path)!r}: {' '.join(str(error).split())}. "
            "`python -m mujoco.viewer --mjcf=FILE` shows when it is mended"
        ) from error
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return _SHARED.setdefault(hashlib.sha256(buffer.tobytes()).hexdigest(), model)


def actuator_bounds(model: mujoco.MjModel, owner: str) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest command of every actuator.

    Raises:
        ValueError: there are no actuators, or one is not limited.
    """
    if not model.nu:
        raise ValueError(
            f"{owner} has no actuators: nothing in it can be driven. Add an <actuator> section, such as "
            '<motor joint="NAME" ctrlrange="-1 1"/>'
        )
    for index in range(model.nu):
        low, high = model.actuator_ctrlrange[index]
        if not model.actuator_ctrllimited[index] or not low < high:
            name = model.actuator(index).name or f"number {index}"
            raise ValueError(
                f"the actuator {name} of {owner} has no ctrlrange, and plans need bounds. "
                'Add ctrlrange="LOW HIGH" to it (for a <position> actuator, inheritrange="1" takes its '
                "joint's limits)"
            )
    low, high = model.actuator_ctrlrange.T.astype(np.float32)
    return low, high
