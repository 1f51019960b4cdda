"""Reading a folder of videos with a table of actions for each.

Layouts, by example (videos: .mp4, .m4v, .mov, .mkv, .webm, .avi; tables: .csv, .npz):

    episode_000.mp4, episode_000.csv           one camera: column "video"
    episode_000.front.mp4, episode_000.wrist.mp4, episode_000.npz       columns "video.front", "video.wrist"
    front/episode_000.mp4, wrist/episode_000.mp4, episode_000.csv       the same
    episode_000.mp4, episode_001.mp4, actions.csv         one table; its column `episode` (`episode_index`,
                                                          `video`) has the videos' names or their numbers

What the tables' columns become is in `action_tables`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from .action_tables import EPISODE_HEADERS, ActionTable, CsvTable, NpzTable, csv_episodes, csv_headers
from .protocol import Column
from .row_requests import after_last, checked_request
from .video_frames import DEMUXERS, VideoFrames

_TABLES = (".csv", ".npz")
_MAX_OPEN_VIDEOS = 8


class VideosSource:
    """A folder of videos and actions.

    A video with one frame more than its table has rows ends with the final observation: an episode of T + 1
    rows, the last action NaN. With equally many, T steps are T rows, the last action as logged.

    Raises:
        ValueError: a video has no table or a table no video, they differ in length, one is damaged, cameras
            or columns differ between episodes, or a file is a link out of the folder.
    """

    format = "videos"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        videos, tables = _files(self.path)
        if not videos or not tables:
            raise ValueError(f"{path} has {len(videos)} videos and {len(tables)} tables (.csv, .npz)")
        for file in (*videos, *tables):
            if not file.resolve().is_relative_to(self.path.resolve()):
                raise ValueError(f"{file} is a link out of the folder; copy the file there")
        self._tables, self._videos = _episodes(self.path, videos, tables)
        self._open: dict[Path, VideoFrames] = {}
        self._last_table: ActionTable | None = None
        self.columns: Mapping[str, Column] = {}
        lengths, rates = [], []
        for table, cameras in zip(self._tables, self._videos, strict=True):
            rows, fps, columns = self._describe(table, cameras)
            unnamed = {name: replace(column, names=()) for name, column in columns.items()}
            first = {name: replace(column, names=()) for name, column in self.columns.items()} or unnamed
            if unnamed != first:
                raise ValueError(_difference(next(iter(cameras.values())), unnamed, first))
            self.columns = self.columns or columns
            lengths.append(rows)
            rates.append(fps)
        self.lengths: Int[np.ndarray, " episode"] = np.array(lengths, np.int64)
        self.fps: float | None = rates[0]
        self.info: Mapping[str, Any] = {
            "episodes": [next(iter(cameras.values())).stem for cameras in self._videos],
            **({"episode_fps": rates} if len(set(rates)) > 1 else {}),
        }

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether this is a folder with videos and tables in it, or one folder below."""
        if not path.is_dir():
            return False
        try:
            return all(_files(path))
        except OSError:
            return False

    def read(
        self, episode: int, columns: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, np.ndarray]:
        """Rows `start` to `stop` of one episode; see `Source.read`."""
        start, stop = checked_request(self, episode, columns, start, stop)
        cameras = self._videos[episode]
        return {
            name: self._video(cameras[name]).read(start, stop)
            if name in cameras
            else _table_rows(self._table(episode), name, start, stop)
            for name in columns
        }

    def close(self) -> None:
        """Close the videos and free the table; reading opens them again."""
        if self._last_table is not None:
            self._last_table.forget()
            self._last_table = None
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        self.close()
        return self.__dict__

    def _table(self, episode: int) -> ActionTable:
        """The table of an episode; only the last one's content stays in memory."""
        table = self._tables[episode]
        if self._last_table is not None and self._last_table is not table:
            self._last_table.forget()
        self._last_table = table
        return table

    def _video(self, path: Path) -> VideoFrames:
        """The video at `path`; only those used last stay open."""
        video = self._open.pop(path, None) or VideoFrames(path)
        self._open[path] = video
        if len(self._open) > _MAX_OPEN_VIDEOS:
            self._open.pop(next(iter(self._open))).close()
        return video

    def _describe(
        self, table: ActionTable, cameras: Mapping[str, Path]
    ) -> tuple[int, float | None, dict[str, Column]]:
        """Rows, frame rate and columns of one episode."""
        columns: dict[str, Column] = {}
        counts, fps = set(), None
        for name, path in cameras.items():
            video = VideoFrames(path)
            video.close()
            columns[name] = Column("uint8", video.shape, "image", lossy=True)
            counts.add(video.num_frames)
            fps = video.fps if fps is None else fps
            if video.num_frames not in (table.num_rows, table.num_rows + 1):
                raise ValueError(
                    f"{path} has {video.num_frames} frames and its table {table.num_rows} rows; "
                    "a table has a row for each frame, or for each but the last"
                )
        if len(counts) > 1:
            raise ValueError(f"the cameras of {next(iter(cameras.values()))} have {sorted(counts)} frames")
        clash = columns.keys() & table.columns.keys()
        if clash:
            raise ValueError(f"the table of {next(iter(cameras.values()))} has a column {min(clash)!r} too")
        return counts.pop(), fps, {**columns, **table.columns}


def _table_rows(table: ActionTable, name: str, start: int, stop: int) -> Shaped[np.ndarray, "row ..."]:
    """Rows of a table, with a row after its last where the video has a frame more."""
    values = table.read(name, start, stop)
    if len(values) == stop - start:
        return values
    last = values[-1:] if len(values) else table.read(name, table.num_rows - 1, table.num_rows)
    return np.concatenate([values, after_last(last)])


def _files(path: Path) -> tuple[list[Path], list[Path]]:
    """Videos and tables in a folder and in its direct subfolders."""
    files: list[Path] = []
    for entry in sorted(path.iterdir()):
        if entry.name.startswith("."):
            continue
        files += sorted(entry.iterdir()) if entry.is_dir() else [entry]
    files = [file for file in files if not file.name.startswith(".") and file.is_file()]
    return (
        [file for file in files if file.suffix.lower() in DEMUXERS],
        [file for file in files if file.suffix.lower() in _TABLES],
    )


def _episodes(
    root: Path, videos: Sequence[Path], tables: Sequence[Path]
) -> tuple[list[ActionTable], list[dict[str, Path]]]:
    """Tables of the episodes in their natural order, and each one's videos by column."""
    found: dict[str, ActionTable]
    episode_header = _episode_header(tables)
    if episode_header is not None:
        found = _by_video(csv_episodes(tables[0], episode_header), videos, tables[0])
    else:
        found = {}
        for table in tables:
            if table.stem in found:
                raise ValueError(f"{table} is one of two tables of {table.stem!r}; keep one")
            found[table.stem] = CsvTable(table) if table.suffix.lower() == ".csv" else NpzTable(table)
    cameras: dict[str, dict[str, Path]] = {name: {} for name in found}
    for video in videos:
        name, camera = _episode_and_camera(root, video, found)
        if camera in cameras[name]:
            raise ValueError(f"{video} is one of two videos of {name!r} from one camera")
        cameras[name][camera] = video
    order = sorted(found, key=_natural)
    for name in order:
        if not cameras[name]:
            raise ValueError(f"{root}: there is no video of {name!r}, of which there is a table")
        if cameras[name].keys() != cameras[order[0]].keys():
            raise ValueError(_difference(root / name, cameras[name], cameras[order[0]]))
    return [found[name] for name in order], [dict(sorted(cameras[name].items())) for name in order]


def _episode_header(tables: Sequence[Path]) -> str | None:
    """The episode column of the one CSV of all episodes; None if each episode has a table."""
    if len(tables) > 1 or tables[0].suffix.lower() != ".csv":
        return None
    return next((name for name in EPISODE_HEADERS if name in csv_headers(tables[0])[0]), None)


def _by_video(
    episodes: Mapping[str, ActionTable], videos: Sequence[Path], table: Path
) -> dict[str, ActionTable]:
    """Tables by the beginnings of the names of their videos."""
    stems: set[str] = set()
    numbered: dict[int, str] = {}
    for video in videos:
        stems.update(_beginnings(video.stem))
        if match := re.match(r"(.*?(\d{1,18}))(?:[._-]\D*)?$", video.stem):
            numbered.setdefault(int(match[2]), match[1])
    found = {}
    for name, rows in episodes.items():
        stem = Path(name).stem if Path(name).suffix.lower() in DEMUXERS else name
        if stem not in stems and re.fullmatch(r"\d{1,15}(\.0+)?", name):
            stem = numbered.get(int(float(name)), stem)
        if stem not in stems or stem in found:
            raise ValueError(f"{table} has an episode {name!r}; no video, or another's, is called so")
        found[stem] = rows
    return found


def _episode_and_camera(root: Path, video: Path, episodes: Mapping[str, ActionTable]) -> tuple[str, str]:
    """Which episode a video shows, and its column: "video" or "video.<camera>"."""
    name = next((name for name in _beginnings(video.stem) if name in episodes), None)
    if name is None:
        raise ValueError(f"{video} has no table: no {video.stem}.csv, no {video.stem}.npz, no rows in one")
    camera = video.stem[len(name) + 1 :]
    if not camera and video.parent != root and video.parent.name not in ("video", "videos"):
        camera = video.parent.name
    return name, f"video.{camera}" if camera else "video"


def _beginnings(stem: str) -> list[str]:
    """The name of a video, and what is left of it before each separator; the longest first."""
    cuts = [match.start() for match in re.finditer(r"[._-]", stem)]
    return [stem, *(stem[:cut] for cut in reversed(cuts) if cut)]


def _natural(name: str) -> list[tuple[int, str]]:
    """Key for an order in which 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _difference(where: Path, found: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    differing = sorted(name for name in found.keys() | first.keys() if found.get(name) != first.get(name))
    return f"{where} differs from the first episode in {', '.join(differing)}"
