"""Reading Minari datasets (0.4 to 0.5, HDF5 storage) with nothing but h5py.

`<dataset>/data/main_data.hdf5` has a group `episode_i` each, with `observations` (T + 1 rows), `actions`,
`rewards`, `terminations`, `truncations` (T rows) and `infos` (either); `metadata.json` has the spaces.

Source: minari 0.5.4, `dataset/_storages/hdf5_storage.py`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int, Shaped

from .hdf5_tree import child, is_hdf5, leaves, names_of, reading, rows_of, samples_of, subgroup
from .protocol import Column
from .row_layouts import RowLayout, jpeg_layout, layout_of
from .row_requests import after_last, checked_request, plain_json

MAIN_FILE = "main_data.hdf5"
METADATA_FILE = "metadata.json"
_MAX_METADATA_BYTES = 64 * 2**20
_EPISODE = re.compile(r"episode_(\d{1,9})")
_MAX_TEXT = 10_000


class MinariSource:
    """A Minari dataset: the folder of the dataset, or the `data` folder in it.

    Spaces of Dict and Tuple are flattened: columns are called "observations" or "observations/name",
    "actions", "rewards", "terminations", "truncations", "infos/name". What an action led to (reward,
    termination, truncation) is in the action's row. Episodes of T steps have T + 1 rows; what has only T is
    NaN in the last, or repeats its last value where it cannot be NaN. Images that Minari keeps as JPEG are
    decoded.

    Raises:
        ValueError: it is no Minari dataset, is damaged, is kept in Minari's arrow storage, or is incomplete.
    """

    format = "minari"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        folder = _data_folder(self.path)
        if folder is None:
            raise ValueError(f"{path} is no Minari dataset: it has no data/{METADATA_FILE}")
        self._main = folder / MAIN_FILE
        self._file: h5py.File | None = None
        metadata = _read_metadata(folder / METADATA_FILE)
        storage = metadata.get("data_format", "hdf5")
        if storage != "hdf5":
            raise ValueError(
                f"{path} is kept in Minari's {storage!r} storage; only 'hdf5' is read: make it again with "
                "data_format='hdf5'"
            )
        for file in (self._main, folder / METADATA_FILE):
            if file.is_symlink() and not file.resolve().is_relative_to(self.path.resolve()):
                raise ValueError(
                    f"{file} is a link out of the dataset's folder: refused; copy the file there"
                )
        fps = metadata.get("fps")
        self.fps: float | None = float(fps) if isinstance(fps, int | float) and 0 < fps < 1e6 else None
        self.info: Mapping[str, Any] = _info(metadata)
        with reading(self._main, self.close):
            self._names, self.lengths = self._episodes(metadata)
            self._layouts = _layouts(subgroup(self._open(), self._names[0]), _shapes(metadata))
        self.columns: Mapping[str, Column] = {name: entry.column for name, entry in self._layouts.items()}
        if not self.columns:
            raise ValueError(f"{self._main} has no columns")

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether this is the folder of a Minari dataset, in any storage, or its data folder."""
        return _data_folder(path) is not None

    def read(
        self, episode: int, columns: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, np.ndarray]:
        """Rows `start` to `stop` of one episode; see `Source.read`."""
        start, stop = checked_request(self, episode, columns, start, stop)
        name = self._names[episode]
        with reading(self._main, self.close):
            group = subgroup(self._open(), name)
            return {column: self._rows(group, episode, column, start, stop) for column in columns}

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _open(self) -> h5py.File:
        if self._file is None:
            self._file = h5py.File(self._main, "r")
        return self._file

    def _episodes(self, metadata: Mapping[str, Any]) -> tuple[list[str], Int[np.ndarray, " episode"]]:
        """Names of the episodes' groups in the order of their numbers, and their rows."""
        file = self._open()
        numbers = sorted(int(match[1]) for name in names_of(file) if (match := _EPISODE.fullmatch(name)))
        names = [f"episode_{number}" for number in numbers]
        total = metadata.get("total_episodes", len(names))
        if not names or total != len(names):
            raise ValueError(f"{self._main} holds {len(names)} episodes, its {METADATA_FILE} says {total}")
        lengths = []
        for name in names:
            rewards = child(subgroup(file, name), "rewards")
            if not isinstance(rewards, h5py.Dataset) or rewards.ndim < 1 or len(rewards) < 1:
                raise ValueError(f"{self._main}: {name} has no rewards, or no steps")
            lengths.append(len(rewards) + 1)
        return names, np.array(lengths, np.int64)

    def _rows(
        self, group: h5py.Group, episode: int, column: str, start: int, stop: int
    ) -> Shaped[np.ndarray, "row ..."]:
        where = f"{self._main}: {self._names[episode]}/{column}"
        dataset = child(group, column)
        layout = self._layouts[column]
        rows = int(self.lengths[episode])
        if not isinstance(dataset, h5py.Dataset):
            raise ValueError(f"{where} is missing")
        if not dataset.shape or dataset.shape[0] not in (rows, rows - 1):
            raise ValueError(f"{where} has shape {dataset.shape}; {rows - 1} or {rows} rows were expected")
        if not _fits(dataset, layout):
            raise ValueError(f"{where} is {dataset.dtype} {dataset.shape[1:]}, unlike the first episode")
        try:
            values = _values(dataset, layout, start, min(stop, len(dataset)))
            if stop <= len(dataset) or start == stop:
                return values
            last = values[-1:] if len(values) else _values(dataset, layout, rows - 2, rows - 1)
            return np.concatenate([values, after_last(last)])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def _data_folder(path: Path) -> Path | None:
    """The folder with the metadata: `path` or `path/data`."""
    if not path.is_dir():
        return None
    if (path / "data" / METADATA_FILE).is_file():
        return path / "data"
    return path if (path / METADATA_FILE).is_file() and is_hdf5(path / MAIN_FILE) else None


def _read_metadata(path: Path) -> dict[str, Any]:
    """Read metadata.json, which may hold Infinity (json takes it)."""
    try:
        if path.stat().st_size > _MAX_METADATA_BYTES:
            raise ValueError(f"it is larger than {_MAX_METADATA_BYTES >> 20} MiB")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} cannot be used: a JSON object was expected")
    return data


def _info(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata without long texts: the space of an image lists the bounds of every pixel."""
    info = {
        str(key): plain_json(value)
        for key, value in metadata.items()
        if not isinstance(value, str) or len(value) <= _MAX_TEXT
    }
    roles = info.pop("roles", None)
    if isinstance(roles, dict) and all(isinstance(name, str) for name in roles.values()):
        info["roles"] = roles
    return info


def _shapes(metadata: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Row shapes of the Box spaces, by column name; what cannot be understood is left out."""
    shapes: dict[str, tuple[int, ...]] = {}

    def walk(space: Any, name: str, depth: int = 0) -> None:  # noqa: ANN401
        if not isinstance(space, dict) or depth > 8:
            return
        parts = space.get("subspaces")
        if space.get("type") == "Dict" and isinstance(parts, dict):
            for key, part in parts.items():
                walk(part, f"{name}/{key}", depth + 1)
        elif space.get("type") == "Tuple" and isinstance(parts, list):
            for i, part in enumerate(parts):
                walk(part, f"{name}/_index_{i}", depth + 1)
        elif isinstance(space.get("shape"), list) and all(isinstance(n, int) for n in space["shape"]):
            shapes[name] = tuple(space["shape"])

    for key, name in (("observation_space", "observations"), ("action_space", "actions")):
        try:
            walk(json.loads(metadata.get(key, "null")), name)
        except (ValueError, TypeError, RecursionError):
            continue
    return shapes


def _layouts(episode: h5py.Group, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, RowLayout]:
    """Layouts of the columns, from the first episode."""
    layouts = {}
    for name, dataset in leaves(episode).items():
        if dataset.ndim < 1 or len(dataset) < 1:
            continue
        row = dataset.shape[1:]
        if _is_bytes(dataset) and (not row or shapes.get(name, ()) != row):
            first = bytes(rows_of(dataset, 0, 1)[0])
            if first.startswith(b"\xff\xd8\xff"):
                layouts[name] = jpeg_layout(first)
                continue
        if h5py.check_string_dtype(dataset.dtype) is not None and not row:
            layouts[name] = RowLayout(Column("str", (), "text"), "str", ())
        elif (layout := layout_of(dataset.dtype, row, samples_of(dataset))) is not None:
            layouts[name] = layout
    return layouts


def _is_bytes(dataset: h5py.Dataset) -> bool:
    """Whether each row is a string of bytes: of its own length, or all of one (a dense (n, L) array)."""
    return h5py.check_vlen_dtype(dataset.dtype) == np.uint8 or (
        dataset.dtype == np.uint8 and dataset.ndim == 2
    )


def _fits(dataset: h5py.Dataset, layout: RowLayout) -> bool:
    """Whether a dataset has the layout that the first episode's had."""
    if layout.order == "jpeg":
        return _is_bytes(dataset)
    if layout.column.kind == "text":
        return h5py.check_string_dtype(dataset.dtype) is not None and dataset.ndim == 1
    return layout.fits(dataset.dtype, dataset.shape[1:])


def _values(dataset: h5py.Dataset, layout: RowLayout, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` that are there, as rows of the column."""
    stored = rows_of(dataset, start, stop)
    if layout.column.kind == "text":
        return np.array([plain_json(text) for text in stored], dtype=str)
    return layout.to_rows(stored)
