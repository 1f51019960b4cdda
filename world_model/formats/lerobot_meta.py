"""A LeRobotDataset's tables of episodes and tasks, and what our own writer noted beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from .lerobot_layout import OWN, Feature, inside, read_json
from .parquet_file import ParquetFile, numbers, texts
from .protocol import Column

_INT = Column("int64", (), "scalar")
_FLOAT = Column("float64", (), "scalar")


class Episodes:
    """The episode table, `meta/episodes`: where each episode's rows and frames are."""

    def __init__(self, root: Path, videos: Sequence[str]) -> None:
        names = ["episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
        whole = [f"videos/{key}/{name}" for key in videos for name in ("chunk_index", "file_index")]
        begins = [f"videos/{key}/from_timestamp" for key in videos]
        files = sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
        if not files:
            raise ValueError(f"{root} has no meta/episodes/chunk-*/file-*.parquet")
        parts: dict[str, list[np.ndarray]] = {name: [] for name in [*names, *whole, *begins]}
        for path in files:
            file = ParquetFile(inside(root, str(path.relative_to(root))))
            table = file.table(list(parts))
            for name, values in parts.items():
                values.append(numbers(table, name, _FLOAT if name in begins else _INT, path))
            file.close()
        self.root = root
        table_rows = {name: np.concatenate(values) for name, values in parts.items()}
        order = np.argsort(table_rows["episode_index"], kind="stable")
        self._rows = {name: values[order] for name, values in table_rows.items()}
        self.lengths: Int[np.ndarray, " episode"] = self._rows["length"]
        starts = self._rows["dataset_from_index"]
        if not np.array_equal(self._rows["episode_index"], np.arange(len(order))) or len(order) == 0:
            raise ValueError(f"{root}/meta/episodes: episodes are not numbered 0, 1, 2, ...")
        if (
            self.lengths.min() < 1
            or self.lengths.max() > 2**40
            or np.any(np.diff(starts) != self.lengths[:-1])
        ):
            raise ValueError(f"{root}/meta/episodes: episodes are empty, or do not follow each other")
        if min(int(self._rows[name].min()) for name in [*names[2:4], *whole]) < 0:
            raise ValueError(f"{root}/meta/episodes: a file's number is below 0")
        if any(not np.isfinite(self._rows[name]).all() for name in begins):
            raise ValueError(f"{root}/meta/episodes: a video's time is no number")
        self._place()

    def data_file(self, episode: int) -> tuple[int, int]:
        """Chunk and number of the file with an episode's rows."""
        return int(self._rows["data/chunk_index"][episode]), int(self._rows["data/file_index"][episode])

    def place(self, episode: int) -> tuple[int, int]:
        """Rows of the file with an episode's rows, and the first of the episode's there."""
        return self._totals[self.data_file(episode)], int(self._offsets[episode])

    def video(self, key: str, episode: int) -> tuple[int, int, float]:
        """Chunk and number of the video with an episode's frames, and when they begin there [s]."""
        row = (self._rows[f"videos/{key}/{name}"][episode] for name in ("chunk_index", "file_index"))
        chunk, file = row
        return int(chunk), int(file), float(self._rows[f"videos/{key}/from_timestamp"][episode])

    def _place(self) -> None:
        self._totals: dict[tuple[int, int], int] = {}
        self._offsets = np.zeros(len(self.lengths), np.int64)
        for episode, length in enumerate(self.lengths.tolist()):
            key = self.data_file(episode)
            self._offsets[episode] = self._totals.get(key, 0)
            self._totals[key] = self._totals.get(key, 0) + length


def read_tasks(root: Path) -> list[str]:
    """The text of each task index, "" where there is none; the texts are the table's index, by any name."""
    path = inside(root, "meta/tasks.parquet")
    if not path.is_file():
        return []
    file = ParquetFile(path)
    names = [name for name in file.names if name != "task_index"]
    if "task_index" not in file.names or not names:
        raise ValueError(f"{path} needs a column task_index and one of texts; it has {', '.join(file.names)}")
    named = next((name for name in ("task", "__index_level_0__") if name in names), names[0])
    table = file.table(["task_index", named])
    index = numbers(table, "task_index", _INT, path)
    told = texts(table, named, path)
    file.close()
    if len(index) and not 0 <= index.min() <= index.max() < 10 * len(index) + 1000:
        raise ValueError(f"{path}: task_index is from {index.min()} to {index.max()}")
    tasks = [""] * (int(index.max()) + 1 if len(index) else 0)
    for number, text in zip(index.tolist(), told.tolist(), strict=True):
        tasks[number] = text
    return tasks


def read_own(root: Path, features: Mapping[str, Feature]) -> dict[str, Any]:
    """What `write_lerobot` noted beside the format: names, shapes, recipe; empty for others' datasets."""
    nothing: dict[str, Any] = {"columns": {}, "recipe": None}
    if not (root / OWN).exists():
        return nothing
    data = read_json(root, OWN)
    columns, recipe = data.get("columns"), data.get("recipe")
    if not isinstance(columns, dict) or not isinstance(recipe, dict):
        raise ValueError(f"{root / OWN} cannot be used: it needs columns and a recipe")
    for name, entry in columns.items():
        sound = (
            name in features
            and isinstance(entry, dict)
            and isinstance(entry.get("name"), str)
            and isinstance(entry.get("shape"), list)
            and isinstance(entry.get("held_last"), bool | list)
        )
        if not sound:
            raise ValueError(
                f"{root / OWN} cannot be used: its entry of {name!r:.80} is not as it was written"
            )
    return {"columns": columns, "recipe": recipe}
