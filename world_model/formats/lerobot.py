"""Reading LeRobotDataset v3.0, without lerobot: Parquet through pyarrow, videos through av."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from .extras import require
from .lerobot_layout import INFO, Feature, fill_path, inside, read_info
from .lerobot_meta import Episodes, read_own, read_tasks
from .parquet_file import ParquetFile, images, numbers, texts
from .protocol import Column
from .row_requests import checked_request
from .video_file import VideoFile

_MAX_OPEN_FILES = 8
_INT = Column("int64", (), "scalar")
_FLOAT = Column("float64", (), "scalar")


class LeRobotSource:
    """A LeRobotDataset v3.0 folder as a `Source`; see there.

    T steps are T rows, the last action as logged, unless the dataset was written by `write_lerobot`: then
    the final observation and its NaN action come back as they were. Columns of shape (1,) are scalars, other
    than actions and observations. `info["tasks"]` gives the text of each `task_index`.

    Args:
        path: the folder with `meta/`, `data/` and `videos/`.

    Raises:
        ValueError: a file is missing or damaged, files contradict each other, one would lie outside of the
            folder, or it is another version of the format.
    """

    format = "lerobot"

    def __init__(self, path: str | Path) -> None:
        require("pyarrow.parquet", f"reading LeRobot's {path}")
        self.path = Path(path)
        self._info = read_info(self.path)
        self.fps: float | None = self._info.fps
        self._episodes = Episodes(self.path, [n for n, f in self._info.features.items() if f.kept == "video"])
        self.lengths: Int[np.ndarray, " episode"] = self._episodes.lengths
        announced = self._info.data.get("total_episodes")
        if type(announced) is int and announced != len(self.lengths):
            raise ValueError(
                f"{self.path} has {len(self.lengths)} episodes in meta/episodes; info.json says {announced}"
            )
        own = read_own(self.path, self._info.features)
        self._held_last: dict[str, Any] = {n: entry["held_last"] for n, entry in own["columns"].items()}
        self._features = {
            name: _reshaped(feature, own["columns"].get(name, {}).get("shape"))
            for name, feature in self._info.features.items()
        }
        self.columns: Mapping[str, Column] = {name: f.column for name, f in self._features.items()}
        self.info: Mapping[str, Any] = self._describe(own)
        self._tables: dict[str, ParquetFile] = {}
        self._videos: dict[str, VideoFile] = {}

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether `path` is a folder with LeRobot's info.json."""
        return path.is_dir() and (path / INFO).is_file()

    def read(
        self, episode: int, columns: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, np.ndarray]:
        """Rows of one episode."""
        start, stop = checked_request(self, episode, columns, start, stop)
        kept = {name: self._features[name].kept for name in columns}
        wanted = [name for name in columns if kept[name] != "video"]
        filmed = [name for name in columns if kept[name] == "video"]
        file, offset = self._data_file(episode)
        checks = [name for name in ("episode_index", "frame_index") if name in file.names]
        times = ["timestamp"] if filmed and "timestamp" in file.names else []
        table = file.table(list(dict.fromkeys([*wanted, *checks, *times])), offset + start, offset + stop)
        for name, values in (("episode_index", episode), ("frame_index", np.arange(start, stop))):
            if name in checks and (numbers(table, name, _INT, file.path) != values).any():
                raise ValueError(f"{file.path}: the rows of episode {episode} have another {name}")
        out = {}
        for name in columns:
            if kept[name] == "video":
                shown = numbers(table, "timestamp", _FLOAT, file.path) if times else None
                shown = np.arange(start, stop) / self._info.fps if shown is None else shown
                out[name] = self._filmed(episode, name, shown)
            else:
                out[name] = self._values(table, name, file.path, episode, stop)
        return out

    def close(self) -> None:
        """Close the files that are open."""
        for opened in (self._tables, self._videos):
            while opened:
                opened.popitem()[1].close()

    def _values(
        self,
        table: Any,  # noqa: ANN401
        name: str,
        where: Path,
        episode: int,
        stop: int,
    ) -> Shaped[np.ndarray, "row ..."]:
        """A column that lies in the table."""
        feature = self._features[name]
        if feature.kept == "text":
            return texts(table, name, where)
        if feature.kept == "image":
            return images(table, name, feature.column, where)
        values = numbers(table, name, feature.column, where)
        held = self._held_last.get(name, False)
        if len(values) and stop == self.lengths[episode] and (held is True or (held and episode in held)):
            values[-1] = np.nan
        return values

    def _filmed(
        self, episode: int, name: str, times: Shaped[np.ndarray, " row"]
    ) -> Shaped[np.ndarray, "row height width channels"]:
        """Frames of a video column, `times` after the episode's beginning [s]."""
        chunk, file, begins = self._episodes.video(name, episode)
        path = fill_path(
            self._info.video_path,
            video_key=name,
            chunk_index=chunk,
            file_index=file,
        )
        if path not in self._videos:
            while len(self._videos) >= _MAX_OPEN_FILES:
                self._videos.pop(next(iter(self._videos))).close()
            self._videos[path] = VideoFile(inside(self.path, path), self._features[name].column.shape)
        if not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise ValueError(f"{self.path}: the timestamps of episode {episode} do not ascend")
        try:
            return self._videos[path].read(begins + times, 0.4 / self._info.fps)
        except ValueError as error:
            raise ValueError(f"{error} (episode {episode} of {name!r})") from error

    def _data_file(self, episode: int) -> tuple[ParquetFile, int]:
        """The file of an episode and its first row there."""
        chunk, file = self._episodes.data_file(episode)
        path = fill_path(self._info.data_path, chunk_index=chunk, file_index=file)
        rows, offset = self._episodes.place(episode)
        if path not in self._tables:
            while len(self._tables) >= _MAX_OPEN_FILES:
                self._tables.pop(next(iter(self._tables))).close()
            opened = ParquetFile(inside(self.path, path))
            if opened.num_rows != rows:
                raise ValueError(
                    f"{opened.path} has {opened.num_rows} rows; its episodes need {rows}: it is cut off"
                )
            self._tables[path] = opened
        return self._tables[path], offset

    def _describe(self, own: Mapping[str, Any]) -> dict[str, Any]:
        data = self._info.data
        info = {
            key: data[key]
            for key in ("codebase_version", "robot_type", "splits")
            if data.get(key) is not None
        }
        info["tasks"] = read_tasks(self.path)
        if self._info.left_out:
            info["left_out"] = list(self._info.left_out)
        if own["recipe"] is not None:
            info["recipe"] = own["recipe"]
            info["roles"] = {entry["name"]: name for name, entry in own["columns"].items()}
        return info


def _reshaped(feature: Feature, shape: list[int] | None) -> Feature:
    """The feature with (1,) for a scalar or the other way round, where that was noted."""
    column = feature.column
    if (
        shape is None
        or feature.kept != "number"
        or tuple(shape) not in ((), (1,))
        or column.shape not in ((), (1,))
    ):
        return feature
    row = tuple(shape)
    return Feature("number", Column(column.dtype, row, "vector" if row else "scalar", names=column.names))
