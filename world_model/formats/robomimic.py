"""Reading robomimic's HDF5 files (also robosuite's and MimicGen's) with nothing but h5py.

`data/demo_i/{actions, states, rewards, dones, obs/*, next_obs/*}`, T rows each; `mask/*` name demonstrations;
the attribute `env_args` of `data` is a JSON text.

Source: robomimic's documentation, "Dataset Structure".
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int, Shaped

from .hdf5_heaps import text_attribute
from .hdf5_tree import child, is_hdf5, leaves, names_of, reading, rows_of, samples_of, subgroup
from .protocol import Column
from .row_layouts import RowLayout, layout_of
from .row_requests import after_last, checked_request, plain_json

_DEMO = re.compile(r"demo_(\d{1,9})")
_MAX_ENV_ARGS_BYTES = 2**24
_MAX_MASK_ENTRIES = 2**20


class RobomimicSource:
    """A robomimic HDF5 file, its demonstrations in the order of their numbers (gaps are fine).

    Columns are called "actions", "obs/agentview_image", and so on. Where `next_obs` is kept, it gives the
    final observation and an episode of T steps has T + 1 rows, the last action NaN; what is known of T rows
    only (states, rewards, dones) is NaN there, or repeats its last value where it cannot be NaN. `next_obs`
    is no column of its own. Without it T steps are T rows. `info["splits"]` has the episodes of each mask.

    Raises:
        ValueError: it is no such file, or is damaged.
    """

    format = "robomimic"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        with reading(self.path, self.close):
            file = self._open()
            data = subgroup(file, "data")
            numbers = sorted(int(match[1]) for name in names_of(data) if (match := _DEMO.fullmatch(name)))
            self._names = [f"demo_{number}" for number in numbers]
            if not self._names:
                raise ValueError(f"{path} has no group data/demo_0, data/demo_1, ...")
            first = subgroup(data, self._names[0])
            self._layouts = _layouts(first)
            self.lengths: Int[np.ndarray, " episode"] = np.array(
                [self._num_rows(subgroup(data, name)) for name in self._names], np.int64
            )
            env_args = _env_args(data)
            demos = {name: episode for episode, name in enumerate(self._names)}
            splits = _splits(file, demos)
        self.columns: Mapping[str, Column] = {name: entry.column for name, entry in self._layouts.items()}
        frequency = env_args.get("env_kwargs", {})
        frequency = frequency.get("control_freq") if isinstance(frequency, dict) else None
        self.fps: float | None = (
            float(frequency) if isinstance(frequency, int | float) and 0 < frequency < 1e6 else None
        )
        self.info: Mapping[str, Any] = {
            "env": str(env_args.get("env_name", "")),
            "env_args": env_args,
            "demos": self._names,
            "splits": splits,
        }

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether this is an HDF5 file with a group data/demo_*."""
        if not is_hdf5(path):
            return False
        try:
            with h5py.File(path, "r") as file:
                data = child(file, "data")
                return isinstance(data, h5py.Group) and any(map(_DEMO.fullmatch, names_of(data)))
        except (OSError, RuntimeError, KeyError, ValueError):
            return False

    def read(
        self, episode: int, columns: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, np.ndarray]:
        """Rows `start` to `stop` of one episode; see `Source.read`."""
        start, stop = checked_request(self, episode, columns, start, stop)
        with reading(self.path, self.close):
            demo = subgroup(subgroup(self._open(), "data"), self._names[episode])
            return {column: self._rows(demo, episode, column, start, stop) for column in columns}

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _open(self) -> h5py.File:
        if self._file is None:
            self._file = h5py.File(self.path, "r")
        return self._file

    def _num_rows(self, demo: h5py.Group) -> int:
        """T + 1 where all that is observed is in `next_obs` too, else T."""
        actions = child(demo, "actions")
        if not isinstance(actions, h5py.Dataset) or actions.ndim < 1 or len(actions) < 1:
            raise ValueError(f"{self.path}: {demo.name} has no actions")
        observed = [name for name in self._layouts if name.startswith("obs/")]
        final = child(demo, "next_obs")
        has_final = isinstance(final, h5py.Group) and all(name[4:] in final for name in observed)
        return len(actions) + (1 if has_final and observed else 0)

    def _rows(
        self, demo: h5py.Group, episode: int, column: str, start: int, stop: int
    ) -> Shaped[np.ndarray, "row ..."]:
        num_steps = len(demo["actions"])
        layout = self._layouts[column]
        dataset = self._checked(demo, column, num_steps)
        try:
            values = layout.to_rows(rows_of(dataset, start, min(stop, num_steps)))
            if stop <= num_steps or start == stop:
                return values
            if column.startswith("obs/"):
                following = self._checked(demo, f"next_{column}", num_steps)
                return np.concatenate([values, layout.to_rows(rows_of(following, num_steps - 1, num_steps))])
            last = values[-1:] if len(values) else layout.to_rows(rows_of(dataset, num_steps - 1, num_steps))
            return np.concatenate([values, after_last(last)])
        except ValueError as error:
            raise ValueError(f"{self.path}: {self._names[episode]}/{column}: {error}") from error

    def _checked(self, demo: h5py.Group, name: str, num_steps: int) -> h5py.Dataset:
        """The dataset `name` of a demonstration, with one row a step and the first demonstration's layout."""
        dataset = child(demo, name)
        where = f"{self.path}: {demo.name}/{name}"
        if not isinstance(dataset, h5py.Dataset):
            raise ValueError(f"{where} is missing")
        if not dataset.shape or dataset.shape[0] != num_steps:
            raise ValueError(f"{where} has shape {dataset.shape}, the actions have {num_steps} rows")
        if not self._layouts[name.removeprefix("next_")].fits(dataset.dtype, dataset.shape[1:]):
            raise ValueError(
                f"{where} is {dataset.dtype} {dataset.shape[1:]}, unlike the first demonstration"
            )
        return dataset


def _layouts(demo: h5py.Group) -> dict[str, RowLayout]:
    """Layouts of what has one row a step in the first demonstration."""
    datasets = leaves(demo)
    actions = datasets.get("actions")
    if actions is None or actions.ndim < 1 or len(actions) < 1:
        raise ValueError(f"{demo.file.filename}: {demo.name} has no actions")
    layouts = {}
    for name, dataset in datasets.items():
        if name.startswith("next_obs/") or dataset.ndim < 1 or len(dataset) != len(actions):
            continue
        layout = layout_of(dataset.dtype, dataset.shape[1:], samples_of(dataset))
        if layout is not None:
            layouts[name] = layout
    return layouts


def _env_args(data: h5py.Group) -> dict[str, Any]:
    """The JSON text in the attribute `env_args`; nothing if it is missing or no JSON object."""
    try:
        env_args = json.loads(text_attribute(data, "env_args", _MAX_ENV_ARGS_BYTES) or "{}")
    except (ValueError, RecursionError):
        return {}
    return plain_json(env_args) if isinstance(env_args, dict) else {}


def _splits(file: h5py.File, demos: Mapping[str, int]) -> dict[str, list[int]]:
    """Episodes of each mask, in the order that the mask has them; names that are not there are left out."""
    masks = child(file, "mask")
    splits = {}
    for name in names_of(masks) if isinstance(masks, h5py.Group) else ():
        mask = child(masks, name)
        if not isinstance(mask, h5py.Dataset) or mask.ndim != 1 or len(mask) > _MAX_MASK_ENTRIES:
            continue
        if mask.dtype.kind == "S":
            entries = [plain_json(entry) for entry in mask[:]]
            splits[name] = [demos[entry] for entry in entries if entry in demos]
    return splits
