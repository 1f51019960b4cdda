"""Reading native stores, and single HDF5 files in stable-worldmodel's schema that others made."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int

from ..manifest import FORMAT, MANIFEST_NAME, Manifest
from ..shards import EPISODE_TABLE, ColumnSpec
from ..store import TrajectoryStore
from .hdf5_tree import is_hdf5
from .protocol import Column
from .row_requests import checked_request

CONVENTIONS = ("final-observation", "missing-reset", "plain")
_LOOK_AT_EPISODES = 64


class NativeSource:
    """A trajectory store as a `Source`; see there."""

    format = "native"

    def __init__(self, path: str | Path) -> None:
        """Open the store at `path`.

        Raises:
            ValueError: as `TrajectoryStore`.
        """
        self.path = Path(path)
        self.store = TrajectoryStore(self.path)
        self.lengths: Int[np.ndarray, " episode"] = self.store.lengths
        self.columns: Mapping[str, Column] = {
            name: _column(spec) for name, spec in self.store.columns.items()
        }
        self.fps = _fps(self.store.recipes[0])
        self.info: Mapping[str, Any] = self._info()

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether `path` is a folder with a store's manifest."""
        manifest = path / MANIFEST_NAME
        if not (path.is_dir() and manifest.is_file()):
            return False
        with manifest.open("rb") as file:
            return FORMAT.encode() in file.read(256)

    def read(
        self, episode: int, columns: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, np.ndarray]:
        """Rows of one episode."""
        start, stop = checked_request(self, episode, columns, start, stop)
        rows = int(self.store.offsets[episode]) + np.arange(start, stop)
        return {name: self.store.read(name, rows) for name in columns}

    def close(self) -> None:
        """Close the files that are open."""
        self.store.close()

    def _info(self) -> dict[str, Any]:
        manifest = Manifest.load(self.path)
        info: dict[str, Any] = {
            "recipe": self.store.recipes[0],
            "versions": manifest.versions,
            "complete": manifest.complete,
        }
        if "tasks" in self.store.recipes[0]:
            info["tasks"] = self.store.recipes[0]["tasks"]
        return info


class BareFileSource(NativeSource):
    """One HDF5 file in stable-worldmodel's schema, in any of its three row conventions.

    - "final-observation" (its main branch since 2026-07, and 0.0.5): T + 1 rows, the last action NaN.
    - "missing-reset" (0.1.1 on PyPI): T rows, the frame after the reset is missing. Row t holds what was seen
      after the first t + 1 actions, with the action that follows it, which is this library's convention too;
      but the last action is the episode's first one, and is given as NaN.
    - "plain": T rows, the last action as logged.

    `info["convention"]` says which was taken and `info["convention_from"]` why. A file that does not tell is
    read as "missing-reset": its last action leads to no frame in any case.

    Args:
        path: the file.
        convention: one of the three; found out when None.
    """

    format = "stable-worldmodel"

    def __init__(self, path: str | Path, convention: str | None = None) -> None:
        if convention is not None and convention not in CONVENTIONS:
            raise ValueError(f"unknown row convention {convention!r}; known are {', '.join(CONVENTIONS)}")
        super().__init__(path)
        found, because = self._found_convention()
        self.convention = convention or found
        self.info = {
            "convention": self.convention,
            "convention_from": "the option" if convention else because,
            "recipe": self.store.recipes[0],
        }

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether `path` is an HDF5 file with an episode table."""
        if not is_hdf5(path):
            return False
        try:
            with h5py.File(path, "r") as file:
                return all(name in file for name in EPISODE_TABLE)
        except (OSError, RuntimeError):
            return True

    def read(
        self, episode: int, columns: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, np.ndarray]:
        """Rows of one episode; in "missing-reset" the last action is NaN."""
        values = super().read(episode, columns, start, stop)
        last = int(self.lengths[episode]) - 1
        ends = (last + 1 if stop is None else stop) == last + 1 and start <= last
        if self.convention == "missing-reset" and ends and "action" in values:
            action = values["action"]
            if action.dtype.kind == "f":
                action[-1] = np.nan
        return values

    def _info(self) -> dict[str, Any]:
        return {}

    def _found_convention(self) -> tuple[str, str]:
        """The row convention, and what tells it."""
        store = self.store
        episodes = np.linspace(0, len(self.lengths) - 1, min(len(self.lengths), _LOOK_AT_EPISODES)).astype(
            int
        )
        if "action" in store.columns and store.columns["action"].dtype.kind == "f":
            last = store.read("action", store.offsets[episodes] + self.lengths[episodes] - 1)
            if np.isnan(last.reshape(len(last), -1)).all():
                return "final-observation", "the last action of each episode is NaN"
        if "step_idx" in store.columns:
            first = store.read("step_idx", store.offsets[episodes])
            if (first == 1).all():
                return "missing-reset", "step_idx starts at 1"
            if (first == 0).all():
                return "plain", "step_idx starts at 0 and the last action is a number"
        return "missing-reset", "nothing in the file; say convention='plain' if its last actions are right"


def _column(spec: ColumnSpec) -> Column:
    """The column of a stored spec."""
    if spec.dtype == np.uint8 and len(spec.shape) == 3 and spec.shape[-1] in (1, 3, 4):
        return Column("uint8", spec.shape, "image")
    if len(spec.shape) > 1:
        return Column(str(spec.dtype), spec.shape, "array")
    return Column(str(spec.dtype), spec.shape, "vector" if spec.shape else "scalar")


def _fps(recipe: Mapping[str, Any]) -> float | None:
    """Rows a second, from what the recipe says of time."""
    step = recipe.get("control_timestep")
    if isinstance(step, int | float) and math.isfinite(step) and step > 0:
        skip = recipe.get("frame_skip", 1)
        return 1 / (step * skip) if isinstance(skip, int) and skip > 0 else 1 / step
    return None
