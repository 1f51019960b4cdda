"""What the tasks that ship have in common: each has a model of its own, compiled once and shared."""

import importlib.util
from abc import abstractmethod
from pathlib import Path

import mujoco

from .rendering import TARGET_GROUP, add_floor_textures
from .task import TaskEnv

_MODELS: dict[str, mujoco.MjModel] = {}


class BuiltInTask(TaskEnv):
    """A task that ships: many of one task are cheap, since they share their model and their renderer.

    A new one is a subclass in one file: the constants of `TaskEnv`, `make_spec`, `sample_state`,
    `check_position`, `position_error` and, where the state is not what a robot would feel, `proprio`.
    """

    control_timestep: float = 0.02
    rests_anywhere: bool = True
    """Whether a state at rest stays as it is while nothing is done; False under gravity."""

    @classmethod
    @abstractmethod
    def make_spec(cls) -> mujoco.MjSpec:
        """The task's model, before it is compiled."""

    def open_model(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """The task's model, compiled when the first environment is made."""
        if self.name not in _MODELS:
            spec = self.make_spec()
            for geom in spec.geoms:
                if geom.name == "target":
                    geom.group = TARGET_GROUP
            _MODELS[self.name] = compile_spec(spec)
        model = _MODELS[self.name]
        return model, mujoco.MjData(model)


def compile_spec(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """The model, with the textures that looks may ask for, and no state hidden in the solver."""
    add_floor_textures(spec)
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
    return spec.compile()


def suite_folder(task: str) -> Path:
    """Where the installed dm_control has its suite, for `task`: one XML file a domain.

    Raises:
        ValueError: when dm_control is not installed.
    """
    found = importlib.util.find_spec("dm_control")
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            f"The task {task!r} needs dm_control, which is not installed (no wheels for Python >= 3.13). "
            "Run: pip install 'dm-control>=1.0.50,<2' on Python 3.11 or 3.12, or use the task two_room"
        )
    return Path(found.submodule_search_locations[0]) / "suite"


def suite_spec(domain: str) -> mujoco.MjSpec:
    """The model of a dm_control suite domain, read from the installed package.

    The files are read where they lie: importing the suite would import all its domains and a GL backend.

    Raises:
        ValueError: when dm_control is not installed.
    """
    suite = suite_folder(domain)
    include = {f"common/{path.name}": path.read_bytes() for path in (suite / "common").glob("*.xml")}
    return mujoco.MjSpec.from_string((suite / f"{domain}.xml").read_text(), include=include)
