"""HDF5 shards in stable-worldmodel's schema: one dataset a column, and where each episode lies in it.

`pixels (N, H, W, 3) uint8`, `action (N, A) float32`, further columns by name, `ep_len (E,) int32` and
`ep_offset (E,) int64`. An episode of T steps has T + 1 rows: row t holds what was observed before action t,
and the last row's action is NaN. Rows of 4 KiB and more (images) are gzip-1 compressed, a chunk a row, so
that random windows decompress nothing else; smaller columns are stored plain.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Int, Shaped

from .formats.extras import require

EPISODE_TABLE = ("ep_len", "ep_offset")
_COMPRESS_FROM_BYTES = 4096
_GZIP_MAX_RATIO = 1032
_PLUGIN_MAX_RATIO = 100_000  # of zstd in Blosc, on constant frames
_LAST_BUILT_IN_FILTER = 6
_MAX_ROWS = 2**40
_ALWAYS_FINE_BYTES = 2**26
_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")

Columns = Mapping[str, Shaped[np.ndarray, "row ..."]]


@dataclass(frozen=True)
class ColumnSpec:
    """The dtype of a column and the shape of one row of it."""

    dtype: np.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def column_specs(columns: Columns) -> dict[str, ColumnSpec]:
    """Check the columns of one episode and give their specs, sorted by name.

    Raises:
        ValueError: no columns or no rows, unequal numbers of rows, a name that is no plain word, or a dtype
            other than booleans, integers and floats.
    """
    lengths = {name: len(values) if np.ndim(values) else 0 for name, values in columns.items()}
    if not lengths or min(lengths.values()) < 1 or len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of an episode need one and the same number of rows, got {lengths}")
    for name, values in columns.items():
        if not _COLUMN_NAME.fullmatch(name) or name in EPISODE_TABLE:
            raise ValueError(
                f"column name {name!r} must be a plain word and none of {', '.join(EPISODE_TABLE)}"
            )
        if values.dtype.kind not in "biuf":
            raise ValueError(
                f"column {name!r} has dtype {values.dtype}; booleans, integers and floats can be stored"
            )
    return {name: ColumnSpec(columns[name].dtype, columns[name].shape[1:]) for name in sorted(columns)}


def write_shard(path: Path, columns: Columns, lengths: Sequence[int] | None = None) -> None:
    """Write whole episodes, one after another in `columns`, as one shard. Atomic.

    Args:
        path: the file to make; one that is there is replaced.
        columns: values by name, all with the same number of rows.
        lengths: rows of each episode; one episode when None.
    """
    specs = column_specs(columns)
    num_rows = len(next(iter(columns.values())))
    with _AtomicShard(path, specs, num_rows) as shard:
        for name, dataset in shard.datasets.items():
            dataset[:] = columns[name]
        shard.write_episode_table([num_rows] if lengths is None else lengths)


def write_shard_blocks(
    path: Path, specs: Mapping[str, ColumnSpec], num_rows: int, blocks: Iterable[Columns]
) -> None:
    """Write one episode of `num_rows` rows that comes in blocks of consecutive rows. Atomic.

    Raises:
        ValueError: a block has other columns than `specs`, or the blocks have not `num_rows` rows together.
    """
    specs = {name: specs[name] for name in sorted(specs)}
    done = 0
    with _AtomicShard(path, specs, num_rows) as shard:
        for block in blocks:
            if (given := column_specs(block)) != specs:
                raise ValueError(f"an episode has columns {_names(given)}; {_names(specs)} were announced")
            rows = len(next(iter(block.values())))
            if done + rows > num_rows:
                raise ValueError(f"an episode has more than the {num_rows} rows that were announced")
            for name, dataset in shard.datasets.items():
                dataset[done : done + rows] = block[name]
            done += rows
        if done != num_rows or done < 1:
            raise ValueError(f"an episode has {done} rows; {num_rows} were announced, 1 or more are needed")
        shard.write_episode_table([num_rows])


def pack_shards(path: Path, parts: Sequence[Path]) -> dict[str, ColumnSpec]:
    """Join the shards `parts`, in that order, into one at `path`. Atomic; images are copied as compressed.

    Returns:
        The columns' specs.

    Raises:
        ValueError: a part is damaged, or has other columns than the first.
    """
    readers = [ShardReader(part) for part in parts]
    specs = readers[0].specs
    for reader in readers:
        if reader.specs != specs:
            raise ValueError(
                f"{reader.path.name} has columns {_names(reader.specs)}; "
                f"{readers[0].path.name} has {_names(specs)}"
            )
    with _AtomicShard(path, specs, sum(reader.num_rows for reader in readers)) as shard:
        start = 0
        for reader in readers:
            with reader.open() as source:
                for name, dataset in shard.datasets.items():
                    _copy_rows(source[name], dataset, start)
            start += reader.num_rows
        shard.write_episode_table(np.concatenate([reader.lengths for reader in readers]))
    return specs


def require_filters(path: Path) -> None:
    """Make HDF5 able to read Blosc and other compression; needed once in each process.

    Raises:
        ValueError: the package for it is not installed.
    """
    require("hdf5plugin", f"the compression of {path}")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ShardReader:
    """One shard, checked and ready to be read: `num_rows`, `lengths` and `offsets` of its episodes, `specs`.

    Only plain datasets with one entry a row are columns; links to other files, external or virtual data are
    refused, objects and text are left out. Nothing is unpickled.

    Raises:
        ValueError: the file is missing, damaged, or not in the schema.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`, read its episode table, close it again."""
        self.path = path
        try:
            with self.open() as file:
                self.lengths, self.offsets = _episode_table(file)
                self.specs = _column_datasets(file)
                self.needs_filters = any(
                    code > _LAST_BUILT_IN_FILTER for name in self.specs for code in _filters(file[name])
                )
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist") from None
        except (OSError, RuntimeError, KeyError, TypeError, MemoryError, OverflowError) as error:
            raise ValueError(f"{path} is damaged or no HDF5 file: {error}") from error

    @property
    def num_rows(self) -> int:
        """Rows of all episodes together."""
        return int(self.lengths.sum())

    def open(self) -> h5py.File:
        """The file, opened for reading."""
        return h5py.File(self.path, "r", rdcc_nbytes=0)


class _AtomicShard:
    """A shard that appears at `path` only when the `with` block ends well."""

    def __init__(self, path: Path, specs: Mapping[str, ColumnSpec], num_rows: int) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        self._specs = specs
        self._num_rows = num_rows

    def __enter__(self) -> "_AtomicShard":
        self._file = h5py.File(self._partial, "w", libver=("v110", "v110"))
        try:
            self.datasets = {name: self._create(name, spec) for name, spec in self._specs.items()}
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def _create(self, name: str, spec: ColumnSpec) -> h5py.Dataset:
        shape = (self._num_rows, *spec.shape)
        if spec.dtype.itemsize * int(np.prod(spec.shape)) < _COMPRESS_FROM_BYTES:
            return self._file.create_dataset(name, shape, spec.dtype)
        options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        return self._file.create_dataset(name, shape, spec.dtype, chunks=(1, *spec.shape), **options)

    def write_episode_table(self, lengths: Sequence[int] | Int[np.ndarray, " episode"]) -> None:
        lengths = np.asarray(lengths, np.int32)
        self._file["ep_len"] = lengths
        self._file["ep_offset"] = np.cumsum(lengths, dtype=np.int64) - lengths

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            self._file.close()
            if error_type is None:
                with self._partial.open("rb") as file:
                    os.fsync(file.fileno())
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)


def _copy_rows(source: h5py.Dataset, target: h5py.Dataset, start: int) -> None:
    """Copy all rows of `source` to `target[start:]`; compressed chunks go over as they are."""
    if target.chunks is None or source.chunks != target.chunks:
        target[start : start + len(source)] = source[:]
        return
    rest = (0,) * (target.ndim - 1)
    for row in range(len(source)):
        mask, chunk = source.id.read_direct_chunk((row, *rest))
        target.id.write_direct_chunk((start + row, *rest), chunk, mask)


def _episode_table(file: h5py.File) -> tuple[Int[np.ndarray, " episode"], Int[np.ndarray, " episode"]]:
    """Read and check `ep_len` and `ep_offset`."""
    tables = []
    for name in EPISODE_TABLE:
        dataset = _plain_dataset(file, name)
        if dataset is None or dataset.ndim != 1 or dataset.dtype.kind not in "iu":
            raise ValueError(f"{file.filename} has no episode table: {name} must be a list of whole numbers")
        if dataset.nbytes > _GZIP_MAX_RATIO * max(1, dataset.id.get_storage_size()):
            raise ValueError(
                f"{file.filename}: {name} declares {len(dataset)} episodes and does not store them"
            )
        tables.append(dataset[:].astype(np.int64))
    lengths, offsets = tables
    if len(lengths) != len(offsets) or len(lengths) == 0:
        raise ValueError(
            f"{file.filename}: {len(lengths)} episode lengths and {len(offsets)} episode offsets"
        )
    if max(abs(lengths).max(), abs(offsets).max()) > _MAX_ROWS:
        raise ValueError(f"{file.filename}: its episode table names rows beyond {_MAX_ROWS}")
    order = np.argsort(offsets, kind="stable")
    ends = offsets[order] + lengths[order]
    if lengths.min() < 1 or offsets.min() < 0 or (ends[:-1] > offsets[order][1:]).any():
        raise ValueError(f"{file.filename}: its episodes overlap, are empty, or start before row 0")
    return lengths, offsets


def _column_datasets(file: h5py.File) -> dict[str, ColumnSpec]:
    """Specs of the datasets that hold one entry a row of the episode table."""
    lengths, offsets = _episode_table(file)
    end = int((lengths + offsets).max())
    specs = {}
    for name in sorted(file):
        dataset = None if name in EPISODE_TABLE else _plain_dataset(file, name)
        if dataset is None or dataset.ndim < 1 or dataset.dtype.kind not in "biuf":
            continue
        if dataset.shape[0] < end:
            raise ValueError(
                f"{file.filename}: column {name!r} has {dataset.shape[0]} rows, its episodes need {end}"
            )
        _check_stored(dataset, end)
        specs[name] = ColumnSpec(dataset.dtype, dataset.shape[1:])
    if not specs:
        raise ValueError(f"{file.filename} has no columns")
    return specs


def _check_stored(dataset: h5py.Dataset, num_rows: int) -> None:
    """Refuse a column that declares far more than it stores, or is compressed by what is not installed."""
    codes = _filters(dataset)
    if any(not h5py.h5z.filter_avail(code) for code in codes):
        require_filters(Path(dataset.file.filename))
        if any(not h5py.h5z.filter_avail(code) for code in codes):
            raise ValueError(f"{dataset.file.filename}: {dataset.name[1:]!r} is compressed in an unknown way")
    others = any(code > _LAST_BUILT_IN_FILTER for code in codes)
    ratio = _PLUGIN_MAX_RATIO if others else _GZIP_MAX_RATIO
    declared = dataset.nbytes // max(1, dataset.shape[0]) * num_rows
    if declared > max(_ALWAYS_FINE_BYTES, ratio * dataset.id.get_storage_size()):
        raise ValueError(
            f"{dataset.file.filename}: {dataset.name[1:]!r} declares {num_rows} rows and does not store them"
        )


def _filters(dataset: h5py.Dataset) -> list[int]:
    """HDF5's numbers of what a dataset is compressed with."""
    filters = dataset.id.get_create_plist()
    return [filters.get_filter(index)[0] for index in range(filters.get_nfilters())]


def _plain_dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The dataset `name` if its data lie in this very file; None for groups and for what is not there."""
    link = file.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{file.filename}: {name!r} is a link to elsewhere, which is refused")
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        return None
    if item.is_virtual or item.external:
        raise ValueError(f"{file.filename}: {name!r} keeps its data outside the file, which is refused")
    return item


def _names(specs: Mapping[str, ColumnSpec]) -> str:
    return ", ".join(f"{name} {spec}" for name, spec in specs.items())
