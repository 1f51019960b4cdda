"""Any task of dm_control's suite, by `dm_control/domain-task`."""

import difflib
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float64

from .built_in import suite_folder
from .camera_env import State, model_step
from .gl import GraphicsError, choose_backend
from .physics import own_copy
from .registration import DM_CONTROL
from .robot import RobotEnv


class DmControlEnv(RobotEnv):
    """A task of dm_control's suite: it is stepped by itself, and drawn by our renderer.

    Episodes start where its own `initialize_episode` puts them, and never end. The camera is the model's
    first. Colours and sizes that the task changes in its model (a target's place) are drawn as they are.

    Raises:
        ValueError: dm_control is not installed, there is no such task, or its actions have no bounds.
    """

    def __init__(self, name: str, **options: Any) -> None:  # noqa: ANN401 - passed on
        """Load `dm_control/domain-task`; the options are those of `TaskEnv`."""
        suite_folder(name)
        try:
            choose_backend()  # importing dm_control settles on one
        except GraphicsError:
            if options.get("render", True):
                raise
        from dm_control import suite

        domain, task = _split(name, suite.ALL_TASKS)
        self._random = np.random.RandomState(0)  # noqa: NPY002 - dm_control knows no Generator
        self.inner: Any = suite.load(
            domain, task, task_kwargs={"random": self._random, "time_limit": float("inf")}
        )
        physics = self.inner.physics
        model, data = physics.model.ptr, physics.data.ptr
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
        self.inner.reset()
        spec = self.inner.action_spec()
        low, high = (
            np.broadcast_to(end, spec.shape).astype(np.float32) for end in (spec.minimum, spec.maximum)
        )
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(f"the actions of {name} have no bounds, and plans need them. Use another task")
        timestep = float(self.inner.control_timestep())
        self._num_substeps = round(timestep / physics.timestep())
        super().__init__(
            name,
            model,
            data,
            control_timestep=timestep,
            action_bounds=(low, high),
            default_frame_skip=model_step(timestep),
            usual=data.qpos,
            **options,
        )
        self._nominal_model = own_copy(model)  # the task keeps its model, so that is what changes

    def _start_state(self, seed: int | None) -> State:
        if seed is not None:
            self._random.seed(np.random.SeedSequence(seed).generate_state(1))
        self.inner.reset()
        return self.get_state()

    def _simulate(self, command: Float64[np.ndarray, " action"], num_steps: int) -> None:
        task, physics = self.inner.task, self.inner.physics
        for _ in range(num_steps):
            task.before_step(command, physics)
            physics.step(self._num_substeps)
            task.after_step(physics)

    def close(self) -> None:
        """Close both."""
        super().close()
        self.inner.close()


def suite_hint(name: str) -> str:
    """` Did you mean 'dm_control/reacher-easy'?` where `name` lacks the prefix, else nothing."""
    domain, dash, _ = name.partition("-")
    try:
        found = bool(dash) and domain.isidentifier() and (suite_folder(name) / f"{domain}.xml").is_file()
    except ValueError:
        return ""
    return f" Did you mean '{DM_CONTROL}{name}'?" if found else ""


def _split(name: str, known: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    names = [f"{DM_CONTROL}{domain}-{task}" for domain, task in known]
    if name in names:
        return known[names.index(name)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(names[:3])
    raise ValueError(f"Unknown dm_control task {name!r}.{hint} It has {len(names)}: {shown}, ...")
