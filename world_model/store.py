"""Reading trajectory stores: episodes and columns of one or several folders, as one long table of rows."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Int, Shaped

from .manifest import Manifest, Shard
from .shards import ColumnSpec, ShardReader, require_filters, sha256_of
from .store_writer import staged_episodes
from .windows import Windows

_MAX_OPEN_FILES = 64
_READ_THROUGH_ROW_BYTES = 4096
_READ_THROUGH_BYTES = 16 * 2**20

Rows = Int[np.ndarray, " row"] | Sequence[int] | slice


@dataclass(frozen=True)
class _File:
    """One HDF5 file of a store: its rows are `start` to `start + num_rows` of the table."""

    path: Path
    source: int
    start: int
    num_rows: int
    row_of: Int[np.ndarray, " row"] | None
    specs: Mapping[str, ColumnSpec]
    entry: Shard | None


class TrajectoryStore:
    """Logged trajectories of one or several stores (folders, or single HDF5 files in the same schema).

    Rows count model steps and are numbered through all sources in the order given, episode after episode;
    an episode of T steps has T + 1 rows, the last action NaN. Of a store that is still being collected the
    finished episodes are there. Files are opened when first read, again in each process: a store can be
    pickled and handed to loader workers. One store is for one thread.

    Attributes:
        recipes: how each source was made (`Manifest.recipe`); of a bare HDF5 file, `env` is its name,
            `frame_skip` 1 and `image_size` that of its frames.
        columns: spec of each column that all sources have, with one dtype and row shape.
        offsets: first row of each episode.
        lengths: rows of each episode.
        sources: which source each episode is from.

    Raises:
        ValueError: a source is missing, damaged or no store, or a file is not as long as its manifest says.
    """

    def __init__(self, paths: str | Path | Iterable[str | Path]) -> None:
        """Read the manifests and episode tables."""
        self.paths = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
        if not self.paths:
            raise ValueError("give at least one trajectory store")
        self.recipes: list[dict[str, Any]] = []
        self._files: list[_File] = []
        self._filtered: set[Path] = set()
        offsets, lengths, sources = [], [], []
        num_rows = 0
        for source, path in enumerate(self.paths):
            recipe, parts = _parts(path)
            self.recipes.append(recipe)
            for part_path, entry in parts:
                reader = ShardReader(part_path)
                file = _File(
                    part_path, source, num_rows, reader.num_rows, _stored_rows(reader), reader.specs, entry
                )
                self._files.append(file)
                if reader.needs_filters:
                    self._filtered.add(part_path)
                offsets.append(num_rows + np.cumsum(reader.lengths) - reader.lengths)
                lengths.append(reader.lengths)
                sources.append(np.full(len(reader.lengths), source))
                num_rows += reader.num_rows
        self.num_rows = num_rows
        self.offsets: Int[np.ndarray, " episode"] = np.concatenate(offsets)
        self.lengths: Int[np.ndarray, " episode"] = np.concatenate(lengths)
        self.sources: Int[np.ndarray, " episode"] = np.concatenate(sources)
        first = self._files[0].specs
        self.columns: dict[str, ColumnSpec] = {
            name: spec for name, spec in first.items() if all(f.specs.get(name) == spec for f in self._files)
        }
        self._starts = np.array([file.start for file in self._files])
        self._digests: dict[Path, str] = {}
        self._handles: OrderedDict[Path, h5py.File] = OrderedDict()
        self._open_columns: dict[Path, dict[str, h5py.Dataset]] = {}
        self._pid = os.getpid()

    @property
    def num_episodes(self) -> int:
        """The number of episodes."""
        return len(self.lengths)

    def setting(self, key: str) -> Any:  # noqa: ANN401
        """What the recipes of all sources say about `key`, such as "frame_skip".

        Raises:
            ValueError: a source says nothing about it, or two differ.
        """
        missing = [
            str(path) for path, recipe in zip(self.paths, self.recipes, strict=True) if key not in recipe
        ]
        if missing:
            raise ValueError(f"{missing[0]} does not say its {key}: its manifest's recipe lacks it")
        for path, recipe in zip(self.paths, self.recipes, strict=True):
            if recipe[key] != self.recipes[0][key]:
                raise ValueError(
                    f"{key} is {self.recipes[0][key]!r} in {self.paths[0]} and {recipe[key]!r} in {path}; "
                    "give stores that agree"
                )
        return self.recipes[0][key]

    def read(self, column: str, rows: Rows = slice(None)) -> Shaped[np.ndarray, "row ..."]:
        """The values of `column` in `rows`, in the order asked for, repetitions included.

        Consecutive rows are read as one span, so windows and sorted rows are fast.

        Raises:
            ValueError: no such column in one of the files that hold the rows, two of those files differ in
                its dtype or shape, a row is out of range, or a file is damaged.
        """
        wanted = np.arange(self.num_rows)[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        if wanted.ndim != 1 or (wanted.size and not 0 <= wanted.min() <= wanted.max() < self.num_rows):
            raise ValueError(f"rows must be a list of numbers from 0 to {self.num_rows - 1}")
        files = np.searchsorted(self._starts, wanted, side="right") - 1
        breaks = np.flatnonzero(files[1:] != files[:-1]) + 1
        spec = self.columns.get(column) or self._spec(column, np.unique(files))
        parts = []
        for start, end in _spans(breaks, len(wanted)):
            file = self._files[files[start]]
            local = wanted[start:end] - file.start
            local = local if file.row_of is None else file.row_of[local]
            try:
                parts.append(self._read_file(file, column, local))
            except (OSError, RuntimeError, KeyError) as error:
                raise ValueError(f"{file.path} is damaged: {column!r} cannot be read: {error}") from error
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, *spec.shape), spec.dtype)

    def read_windows(
        self, column: str, rows: Int[np.ndarray, "batch length"]
    ) -> Shaped[np.ndarray, "batch length ..."]:
        """The values of `column` in windows of rows, as `Windows` gives them."""
        values = self.read(column, rows.reshape(-1))
        return values.reshape(*rows.shape, *values.shape[1:])

    def episode_rows(self, episode: int | np.integer) -> slice:
        """The rows of an episode."""
        return slice(int(self.offsets[episode]), int(self.offsets[episode] + self.lengths[episode]))

    def rows_of(self, episodes: Int[np.ndarray, " chosen"]) -> Int[np.ndarray, " row"]:
        """The rows of several episodes, one episode after another."""
        spans = [np.arange(rows.start, rows.stop) for rows in map(self.episode_rows, episodes)]
        return np.concatenate([np.zeros(0, np.int64), *spans])

    def source_rows(self, source: int) -> slice:
        """The rows of a source."""
        files = [file for file in self._files if file.source == source]
        return slice(files[0].start, files[-1].start + files[-1].num_rows)

    def rows_with(self, column: str) -> Bool[np.ndarray, " row"]:
        """Which rows have a `column`: all if it is in `columns`, otherwise those of some sources.

        Raises:
            ValueError: no source has it.
        """
        has = np.zeros(self.num_rows, bool)
        for file in self._files:
            has[file.start : file.start + file.num_rows] = column in file.specs
        if not has.any():
            raise ValueError(f"no column {column!r} in {self._names()}; it has {self._known_columns()}")
        return has

    def split(
        self, held_out: float = 0.1, seed: int = 0
    ) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " held"]]:
        """Episodes to train on and episodes held out, each in order; the same for the same seed.

        At least one episode is held out if `held_out` > 0.

        Raises:
            ValueError: `held_out` is not in [0, 1), or leaves nothing to train on.
        """
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out must be a fraction in [0, 1), got {held_out}")
        num_held = max(1, round(held_out * self.num_episodes)) if held_out > 0 else 0
        if num_held >= self.num_episodes:
            raise ValueError(f"{self.num_episodes} episodes are too few to hold {num_held} out")
        order = np.random.default_rng([seed, self.num_episodes]).permutation(self.num_episodes)
        return np.sort(order[num_held:]), np.sort(order[:num_held])

    def windows(
        self,
        history: int,
        horizon: int,
        *,
        stride: int = 1,
        pad: int = 0,
        episodes: Int[np.ndarray, " chosen"] | None = None,
    ) -> Windows:
        """The windows of `history + horizon` rows inside `episodes` (all when None); see `Windows`."""
        chosen = np.arange(self.num_episodes) if episodes is None else np.asarray(episodes)
        return Windows(self.offsets[chosen], self.lengths[chosen], history, horizon, stride, pad)

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change when any file's content does.

        A file whose size and time are as its manifest says is taken for unchanged; any other is read.
        """
        return self._digest_of(self._files)

    def source_fingerprint(self, source: int) -> str:
        """The fingerprint of one source: what `fingerprint` is for a store of it alone."""
        return self._digest_of([file for file in self._files if file.source == source])

    def _digest_of(self, files: Sequence[_File]) -> str:
        digest = hashlib.sha256()
        for file in files:
            if file.path not in self._digests:
                stat, entry = file.path.stat(), file.entry
                known = entry is not None and (entry.num_bytes, entry.mtime_ns) == (
                    stat.st_size,
                    stat.st_mtime_ns,
                )
                self._digests[file.path] = (
                    entry.sha256 if entry is not None and known else sha256_of(file.path)
                )
            digest.update(bytes.fromhex(self._digests[file.path]))
        return digest.hexdigest()

    def changed_files(self) -> list[Path]:
        """Shards whose content is no longer what their manifest says; reads everything."""
        return [f.path for f in self._files if f.entry is not None and sha256_of(f.path) != f.entry.sha256]

    def close(self) -> None:
        """Close the files that are open; reading opens them again."""
        self._open_columns.clear()
        while self._handles:
            self._handles.popitem()[1].close()

    def __enter__(self) -> "TrajectoryStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open files."""
        return {**self.__dict__, "_handles": OrderedDict(), "_open_columns": {}}

    def _read_file(
        self, file: _File, column: str, rows: Int[np.ndarray, " row"]
    ) -> Shaped[np.ndarray, "row ..."]:
        """Read `rows` of one file, span by span."""
        dataset = self._dataset(file.path, column)
        spans = _spans(np.flatnonzero(rows[1:] != rows[:-1] + 1) + 1, len(rows))
        if len(spans) == 1:
            return dataset[int(rows[0]) : int(rows[-1]) + 1]
        spec = file.specs[column]
        low, high = int(rows.min()), int(rows.max()) + 1
        row_bytes = max(1, spec.dtype.itemsize * prod(spec.shape))
        if row_bytes < _READ_THROUGH_ROW_BYTES and (high - low) * row_bytes <= _READ_THROUGH_BYTES:
            return dataset[low:high][rows - low]
        values = np.empty((len(rows), *spec.shape), spec.dtype)
        for start, end in spans:
            values[start:end] = dataset[int(rows[start]) : int(rows[start]) + end - start]
        return values

    def _dataset(self, path: Path, column: str) -> h5py.Dataset:
        """An open column; opening one takes as long as reading a few frames of it."""
        file = self._open(path)
        columns = self._open_columns.setdefault(path, {})
        if column not in columns:
            columns[column] = file[column]
        return columns[column]

    def _open(self, path: Path) -> h5py.File:
        if self._pid != os.getpid():
            self._handles, self._open_columns, self._pid = OrderedDict(), {}, os.getpid()
        if path not in self._handles:
            while len(self._handles) >= _MAX_OPEN_FILES:
                oldest, file = self._handles.popitem(last=False)
                self._open_columns.pop(oldest, None)
                file.close()
            if path in self._filtered:
                require_filters(path)
            self._handles[path] = h5py.File(path, "r", rdcc_nbytes=0)
        self._handles.move_to_end(path)
        return self._handles[path]

    def _spec(self, column: str, files: Int[np.ndarray, " file"]) -> ColumnSpec:
        """The one spec of `column` in these files."""
        chosen = [self._files[i] for i in files] or self._files[:1]
        for file in chosen:
            if column not in file.specs:
                known = ", ".join(file.specs)
                raise ValueError(f"no column {column!r} in {file.path}; it has {known}")
            if file.specs[column] != chosen[0].specs[column]:
                raise ValueError(
                    f"column {column!r} is {chosen[0].specs[column]} in {chosen[0].path} "
                    f"and {file.specs[column]} in {file.path}; read them apart"
                )
        return chosen[0].specs[column]

    def _known_columns(self) -> str:
        return ", ".join(sorted({name for file in self._files for name in file.specs}))

    def _names(self) -> str:
        return ", ".join(str(path) for path in self.paths)


def _parts(path: Path) -> tuple[dict[str, Any], list[tuple[Path, Shard | None]]]:
    """The recipe and the files of one source, in the order of their episodes."""
    if path.is_file():
        return _bare_recipe(path), [(path, None)]
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; give the folder of a trajectory store")
    manifest = Manifest.load(path)
    parts: list[tuple[int, Path, Shard | None]] = []
    for shard in manifest.shards:
        file = path / shard.file
        if file.is_symlink() or not file.is_file():
            raise ValueError(f"{file} is listed in the manifest and is not there as a plain file")
        if file.stat().st_size != shard.num_bytes:
            raise ValueError(
                f"{file} has {file.stat().st_size} bytes, its manifest says {shard.num_bytes}: "
                "copy or collect it again"
            )
        parts.append((shard.first_episode, file, shard))
    packed = [range(s.first_episode, s.first_episode + s.num_episodes) for s in manifest.shards]
    for index, file in staged_episodes(path).items():
        if not any(index in shard for shard in packed):
            parts.append((index, file, None))
    if not parts:
        raise ValueError(f"{path} holds no finished episode yet")
    return manifest.recipe, [(file, shard) for _, file, shard in sorted(parts, key=lambda part: part[0])]


def _bare_recipe(path: Path) -> dict[str, Any]:
    """What training asks of a recipe, for a file that has none: one row an env step, frames as they are."""
    pixels = ShardReader(path).specs.get("pixels")
    recipe = {"env": path.stem, "frame_skip": 1}
    return recipe if pixels is None or not pixels.shape else {**recipe, "image_size": pixels.shape[0]}


def _stored_rows(reader: ShardReader) -> Int[np.ndarray, " row"] | None:
    """Where each row lies in the file; None where episodes follow each other without gaps."""
    starts = np.cumsum(reader.lengths) - reader.lengths
    if np.array_equal(starts, reader.offsets):
        return None
    return np.repeat(reader.offsets - starts, reader.lengths) + np.arange(reader.num_rows)


def _spans(breaks: Int[np.ndarray, " break"], length: int) -> list[tuple[int, int]]:
    """Start and end of the spans between `breaks`; none for no rows."""
    edges = [0, *breaks.tolist(), length] if length else []
    return list(zip(edges[:-1], edges[1:], strict=True))
