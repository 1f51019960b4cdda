"""Reading the zarr stores of diffusion_policy (its replay buffer), folders and zip files, through zarr.

`data/*` are arrays with one row a step, `meta/episode_ends` says where each episode ends; version 2 of the
zarr format. Compressors differ from array to array. Frames may be floats from 0 to 255.

Source: diffusion_policy, `common/replay_buffer.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from .extras import require
from .protocol import Column
from .row_layouts import RowLayout, layout_of
from .row_requests import checked_request
from .zarr_files import ZarrFiles, is_zarr

_MAX_EPISODES = 2**24


class DiffusionPolicySource:
    """A `.zarr` folder or `.zarr.zip` of diffusion_policy; T steps are T rows, the last action as logged.

    Columns are called as the arrays in `data` are: "img", "state", "action". `keypoint` arrays and others of
    more than one axis keep their shape.

    Raises:
        ValueError: it is no such store, is damaged, is compressed by a codec that is not known here (such as
            pickle or JPEG XL), or zarr is not installed.
    """

    format = "diffusion-policy"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        zarr = require("zarr", "reading diffusion_policy's zarr stores")
        self._files = ZarrFiles(self.path)
        names = self._files.arrays("data")
        for name in (*(f"data/{name}" for name in names), "meta/episode_ends"):
            self._files.check(name)
        self._root: Any = None
        self._zarr = zarr.__name__
        with _reading(self.path):
            ends = np.asarray(self._array("meta/episode_ends")[:_MAX_EPISODES]).astype(np.int64)
        self._ends: Int[np.ndarray, " episode"] = ends
        self.lengths: Int[np.ndarray, " episode"] = np.diff(ends, prepend=0)
        if not len(ends) or self.lengths.min() < 1:
            raise ValueError(f"{path}: meta/episode_ends must rise from above 0, it has {ends[:5]}")
        self._layouts: dict[str, RowLayout] = {}
        for name in names:
            with _reading(self.path):
                array = self._array(f"data/{name}")
                if not array.ndim or array.shape[0] < ends[-1]:
                    raise ValueError(
                        f"{path}: data/{name} is {array.shape}, its episodes need {ends[-1]} rows"
                    )
                samples = _samples(array, ends)
            layout = layout_of(array.dtype, array.shape[1:], samples)
            if layout is not None:
                self._layouts[name] = layout
        self.columns: Mapping[str, Column] = {name: entry.column for name, entry in self._layouts.items()}
        if not self.columns:
            raise ValueError(f"{path} has no columns in data/")
        self.fps: float | None = None
        self.info: Mapping[str, Any] = {"zarr_format": 2, "attributes": self._files.attributes()}

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether this is a zarr folder or zip with meta/episode_ends."""
        return is_zarr(path) and ZarrFiles(path).has("meta/episode_ends/.zarray")

    def read(
        self, episode: int, columns: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, np.ndarray]:
        """Rows `start` to `stop` of one episode; see `Source.read`."""
        start, stop = checked_request(self, episode, columns, start, stop)
        first = int(self._ends[episode] - self.lengths[episode])
        values = {}
        for name in columns:
            with _reading(self.path):
                stored = np.asarray(self._array(f"data/{name}")[first + start : first + stop])
            try:
                native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
                values[name] = self._layouts[name].to_rows(native)
            except ValueError as error:
                raise ValueError(f"{self.path}: episode {episode}, {name}: {error}") from error
        return values

    def close(self) -> None:
        """Close the store; reading opens it again."""
        if self._root is not None:
            self._root.store.close()
            self._root = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_root": None}

    def _array(self, name: str) -> Any:  # noqa: ANN401
        """The zarr array `name`, which `ZarrFiles.check` has found sound."""
        if self._root is None:
            zarr = require("zarr", "reading diffusion_policy's zarr stores")
            store = zarr.storage.ZipStore(self.path, mode="r") if self.path.is_file() else str(self.path)
            self._root = zarr.open_group(store, mode="r", zarr_format=2)
        return self._root[name]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what zarr and its codecs raise on damaged files into one ValueError that names the store."""
    try:
        yield
    except Exception as error:  # each codec raises what it likes
        if str(error).startswith(str(path)):
            raise
        line = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged: {line}") from error


def _samples(array: Any, ends: Int[np.ndarray, " episode"]) -> np.ndarray | None:  # noqa: ANN401
    """A few rows from everywhere where they may be float frames."""
    if array.dtype.kind != "f" or array.ndim != 4:
        return None
    rows = sorted({0, int(ends[-1]) // 2, int(ends[-1]) - 1})
    return np.concatenate([np.asarray(array[row : row + 1]) for row in rows])
