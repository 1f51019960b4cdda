"""Joining staged episodes into a LeRobotDataset: shared Parquet files and videos, and `meta/`."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..manifest import write_atomically
from .extras import require
from .lerobot_features import Written
from .lerobot_layout import BOOKKEEPING, DATA_PATH, INFO, OWN, VIDEO_PATH, fill_path
from .lerobot_stats import Stats, Totals, every_nth
from .parquet_file import numbers
from .protocol import Column
from .video_encoding import join_videos

CHUNKS_SIZE = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
_EPISODES_PER_FILE = 1000
_EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


@dataclass(frozen=True)
class Staged:
    """One finished episode: its folder, and what its `episode.json` says of its rows."""

    folder: Path
    length: int
    tasks: list[int]
    held: list[str]

    @classmethod
    def load(cls, folder: Path) -> "Staged":
        """Read `episode.json`."""
        about = json.loads((folder / "episode.json").read_text())
        return cls(folder, about["length"], about["tasks"], about["held"])

    def statistics(self) -> tuple[dict[str, Stats], dict[str, list[list[int]]]]:
        """Statistics of each feature, and the histograms of the cameras."""
        about = json.loads((self.folder / "episode.json").read_text())
        return about["stats"], about["histograms"]


def join_episodes(
    root: Path,
    staged: Sequence[Staged],
    features: Mapping[str, Written],
    *,
    fps: float,
    encoder: str | None,
    tasks: Sequence[str],
    robot_type: str | None,
    splits: Mapping[str, str],
    recipe: Mapping[str, Any],
) -> None:
    """Write `data/`, `videos/` and `meta/` at `root`; what an earlier, killed attempt left is replaced."""
    for name in ("data", "videos", "meta"):
        shutil.rmtree(root / name, ignore_errors=True)
    starts = np.cumsum([0, *(episode.length for episode in staged)]).tolist()
    places: list[dict[str, Any]] = [
        {
            "episode_index": index,
            "tasks": [tasks[task] for task in episode.tasks],
            "length": episode.length,
            "dataset_from_index": starts[index],
            "dataset_to_index": starts[index + 1],
        }
        for index, episode in enumerate(staged)
    ]
    samples = _join_rows(root, staged, features, places)
    for name, feature in features.items():
        if feature.kept == "video":
            _join_camera(root, staged, name, fps, places)
    totals = _write_episodes(root, staged, places)
    _write_tasks(root, tasks)
    write_atomically(root / "meta" / "stats.json", json.dumps(totals.stats(samples), indent=4))
    held = {
        name: [index for index, episode in enumerate(staged) if name in episode.held] for name in features
    }
    own = {
        "columns": {
            name: {
                "name": feature.stored,
                "shape": list(feature.column.shape),
                "held_last": held[name] if 0 < len(held[name]) < len(staged) else bool(held[name]),
            }
            for name, feature in features.items()
        },
        "recipe": recipe,
    }
    write_atomically(root / OWN, json.dumps(own, indent=4))
    bookkeeping = {name: {"dtype": d, "shape": [1], "names": None} for name, d in BOOKKEEPING.items()}
    info = {
        "codebase_version": "v3.0",
        "robot_type": robot_type,
        "total_episodes": len(staged),
        "total_frames": starts[-1],
        "total_tasks": len(tasks),
        "chunks_size": CHUNKS_SIZE,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": fps,
        "splits": dict(splits),
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if any(f.kept == "video" for f in features.values()) else None,
        "features": {**{n: f.entry(fps, encoder) for n, f in features.items()}, **bookkeeping},
    }
    write_atomically(root / INFO, json.dumps(info, indent=4))


def _join_rows(
    root: Path, staged: Sequence[Staged], features: Mapping[str, Written], places: list[dict[str, Any]]
) -> dict[str, np.ndarray]:
    """Write the data files, a row group an episode; gives every n-th row of each feature of numbers."""
    parquet = require("pyarrow.parquet", "writing")
    columns = {name: feature.column for name, feature in features.items() if feature.kept == "number"}
    columns |= {name: Column(dtype, (), "scalar") for name, dtype in BOOKKEEPING.items()}
    samples: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    step = every_nth(sum(episode.length for episode in staged))
    sizes = [(episode.folder / "rows.parquet").stat().st_size for episode in staged]
    for (chunk, file), members in _files(sizes, int(DATA_FILE_MB * 2**20)):
        path = root / fill_path(DATA_PATH, chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = None
        for index in members:
            rows = staged[index].folder / "rows.parquet"
            table = parquet.read_table(rows)
            writer = writer or parquet.ParquetWriter(path, table.schema, compression="snappy")
            writer.write_table(table, row_group_size=len(table))
            places[index] |= {"data/chunk_index": chunk, "data/file_index": file}
            first = -places[index]["dataset_from_index"] % step
            for name, column in columns.items():
                samples[name].append(numbers(table, name, column, rows)[first::step])
        if writer is not None:
            writer.close()
    return {name: np.concatenate(values) for name, values in samples.items()}


def _join_camera(
    root: Path, staged: Sequence[Staged], name: str, fps: float, places: list[dict[str, Any]]
) -> None:
    """Write one camera's videos."""
    parts = [episode.folder / f"{name}.mp4" for episode in staged]
    for (chunk, file), members in _files([part.stat().st_size for part in parts], int(VIDEO_FILE_MB * 2**20)):
        path = root / fill_path(VIDEO_PATH, video_key=name, chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        lengths = [staged[index].length for index in members]
        join_videos(path, [parts[index] for index in members], lengths, fps)
        done = 0
        for index, length in zip(members, lengths, strict=True):
            places[index] |= {
                f"videos/{name}/chunk_index": chunk,
                f"videos/{name}/file_index": file,
                f"videos/{name}/from_timestamp": done / fps,
                f"videos/{name}/to_timestamp": (done + length) / fps,
            }
            done += length


def _files(sizes: Sequence[int], limit: int) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Which episodes share a file: (chunk, file) and their numbers, files of at most `limit` bytes."""
    members: list[int] = []
    number = total = 0
    for index, size in enumerate(sizes):
        if members and total + size > limit:
            yield divmod(number, CHUNKS_SIZE), members
            number, members, total = number + 1, [], 0
        members.append(index)
        total += size
    if members:
        yield divmod(number, CHUNKS_SIZE), members


def _write_episodes(root: Path, staged: Sequence[Staged], places: Sequence[dict[str, Any]]) -> Totals:
    """Write `meta/episodes`: where each episode is, and its statistics; gives those of all together."""
    pyarrow, parquet = require("pyarrow", "writing"), require("pyarrow.parquet", "writing")
    totals = Totals()
    for number, start in enumerate(range(0, len(staged), _EPISODES_PER_FILE)):
        chunk, file = divmod(number, CHUNKS_SIZE)
        rows = []
        for index in range(start, min(start + _EPISODES_PER_FILE, len(staged))):
            row = dict(places[index])
            stats, histograms = staged[index].statistics()
            totals.add(staged[index].length, stats, histograms)
            for feature, values in stats.items():
                row |= {f"stats/{feature}/{name}": value for name, value in values.items()}
            rows.append({**row, "meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file})
        path = root / fill_path(_EPISODES_PATH, chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: [row[name] for row in rows] for name in rows[0]}
        parquet.write_table(pyarrow.table(arrays), path, compression="snappy")
    return totals


def _write_tasks(root: Path, tasks: Sequence[str]) -> None:
    """Write `meta/tasks.parquet`; the texts are the index of a pandas table."""
    pyarrow, parquet = require("pyarrow", "writing"), require("pyarrow.parquet", "writing")
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {"name": "task", "field_name": "task", **text},
        ],
        "creator": {"library": "pyarrow", "version": pyarrow.__version__},
        "pandas_version": "2.3.3",
    }
    table = pyarrow.table({"task_index": list(range(len(tasks))), "task": list(tasks)})
    parquet.write_table(
        table.replace_schema_metadata({"pandas": json.dumps(pandas)}), root / "meta/tasks.parquet"
    )
