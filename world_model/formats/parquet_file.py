"""Parquet files made by others: spans of rows as numpy arrays, checked."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from .extras import require
from .protocol import Column

_MAX_ROWS_PER_BYTE = 64
_MAX_RATIO = 1032
_ALWAYS_FINE_BYTES = 2**26
_HELD_BYTES = 2**28


class ParquetFile:
    """One Parquet file; the row group that was read last is held, so that blocks of it cost nothing.

    Raises:
        ValueError: it is missing, damaged, or declares far more rows than it stores.
    """

    def __init__(self, path: Path) -> None:
        """Open `path` and read its footer."""
        self.path = path
        self._arrow = require("pyarrow", f"reading {path.name}")
        parquet = require("pyarrow.parquet", f"reading {path.name}")
        try:
            size = path.stat().st_size
            self._file: Any = parquet.ParquetFile(path)
            metadata = self._file.metadata
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist") from None
        except (self._arrow.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged or no Parquet file: {_line(error)}") from error
        self.num_rows = int(metadata.num_rows)
        self._ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64)
        self._bytes = [int(group.total_byte_size) for group in groups]
        declared = max(self.num_rows, int(self._ends[-1]) if groups else 0)
        if declared > 1000 + _MAX_ROWS_PER_BYTE * size or any(group.num_rows < 0 for group in groups):
            raise ValueError(f"{path} declares {declared} rows and has {size} bytes: it does not store them")
        if sum(self._bytes) > max(_ALWAYS_FINE_BYTES, _MAX_RATIO * size) or min(self._bytes, default=0) < 0:
            raise ValueError(f"{path} declares {sum(self._bytes)} bytes of data and has {size}")
        if self.num_rows != (int(self._ends[-1]) if groups else 0):
            raise ValueError(
                f"{path} is damaged: its row groups have not the {self.num_rows} rows it declares"
            )
        self.names: list[str] = list(self._file.schema_arrow.names)
        self._held: tuple[tuple[int, tuple[str, ...]], Any] | None = None

    def table(self, columns: Sequence[str], start: int = 0, stop: int | None = None) -> Any:  # noqa: ANN401
        """Rows `start` to `stop` as an arrow table.

        Raises:
            ValueError: a column is missing, or the file is damaged.
        """
        stop = self.num_rows if stop is None else stop
        for name in columns:
            if name not in self.names:
                raise ValueError(f"{self.path} has no column {name!r}")
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop, side="left"))
        parts = []
        for group in range(first, min(last, len(self._ends) - 1) + 1):
            offset = int(self._ends[group - 1]) if group else 0
            low, high = max(0, start - offset), min(stop, int(self._ends[group])) - offset
            parts.append(self._group(group, tuple(columns), low, high))
        if not parts:
            return self._file.schema_arrow.empty_table().select(list(columns))
        return parts[0] if len(parts) == 1 else self._arrow.concat_tables(parts)

    def close(self) -> None:
        """Close the file."""
        self._held = None
        self._file.close()

    def _group(self, group: int, columns: tuple[str, ...], low: int, high: int) -> Any:  # noqa: ANN401
        """Rows `low` to `high` of a row group."""
        try:
            if self._bytes[group] > _HELD_BYTES:
                return self._streamed(group, columns, low, high)
            if self._held is None or self._held[0] != (group, columns):
                table = self._file.read_row_group(group, columns=list(columns), use_threads=False)
                self._held = ((group, columns), table)
            table = self._held[1]
        except (self._arrow.ArrowException, OSError, ValueError, MemoryError) as error:
            raise ValueError(f"{self.path} is damaged: {_line(error)}") from error
        if len(table) < high:
            raise ValueError(f"{self.path} is damaged: row group {group} has {len(table)} rows, not {high}")
        return table.slice(low, high - low)

    def _streamed(self, group: int, columns: tuple[str, ...], low: int, high: int) -> Any:  # noqa: ANN401
        """The same, of a row group too large to hold."""
        batches, done = [], 0
        for batch in self._file.iter_batches(
            batch_size=256, row_groups=[group], columns=list(columns), use_threads=False
        ):
            begin, end = max(0, low - done), min(len(batch), high - done)
            if end > begin:
                batches.append(batch.slice(begin, end - begin))
            done += len(batch)
            if done >= high:
                break
        return self._arrow.Table.from_batches(batches)


def numbers(table: Any, name: str, column: Column, where: Path) -> Shaped[np.ndarray, "row ..."]:  # noqa: ANN401
    """A column of numbers as (row, *column.shape).

    Raises:
        ValueError: it has other entries or another dtype than `column`, or nulls.
    """
    import pyarrow
    import pyarrow.compute

    array = _plain(table[name])
    size = 1
    while hasattr(array.type, "value_type") and not pyarrow.types.is_dictionary(array.type):
        lengths = pyarrow.compute.list_value_length(array)
        span = pyarrow.compute.min_max(lengths).as_py()
        if array.null_count or span["min"] != span["max"]:
            raise ValueError(f"{where}: {name!r} has rows of different lengths")
        size *= span["max"] or (1 if len(array) == 0 else 0)
        array = _plain(array.flatten())
    if array.null_count:
        raise ValueError(f"{where}: {name!r} has empty entries")
    if len(table) and size != math.prod(column.shape):
        raise ValueError(f"{where}: {name!r} has {size} entries a row; info.json says {column.shape}")
    try:
        values = array.to_numpy(zero_copy_only=False)
    except (pyarrow.ArrowException, ValueError) as error:
        raise ValueError(f"{where}: {name!r} cannot be read: {_line(error)}") from error
    wanted = np.dtype(column.dtype)
    if values.dtype.kind not in "biuf" or not np.can_cast(values.dtype, wanted, "same_kind"):
        raise ValueError(f"{where}: {name!r} is {array.type}; info.json says {column.dtype}")
    return np.array(values, wanted).reshape(len(table), *column.shape)


def texts(table: Any, name: str, where: Path) -> Shaped[np.ndarray, " row"]:  # noqa: ANN401
    """A column of texts.

    Raises:
        ValueError: it holds something else.
    """
    values = table[name].to_pylist()
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{where}: {name!r} is {table[name].type}; texts were announced")
    return np.array(values, str)


def images(
    table: Any,  # noqa: ANN401
    name: str,
    column: Column,
    where: Path,
) -> Shaped[np.ndarray, "row height width channels"]:
    """A column of encoded images, decoded: structs with `bytes`, or the bytes alone.

    Raises:
        ValueError: an image is no PNG or JPEG, is damaged, or has another size.
    """
    out = np.empty((len(table), *column.shape), np.uint8)
    for row, value in enumerate(table[name]):
        content = value.as_py()
        content = content.get("bytes") if isinstance(content, dict) else content
        if not isinstance(content, bytes):
            raise ValueError(f"{where}: {name!r} holds no image in row {row}, only a path or nothing")
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                if (image.height, image.width) != column.shape[:2]:
                    raise ValueError(f"is {image.height}x{image.width}; info.json says {column.shape}")
                mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(column.shape[2], "RGB")
                pixels = np.asarray(image if image.mode == mode else image.convert(mode))
                out[row] = pixels.reshape(column.shape)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{where}: the image of {name!r} in row {row} {_line(error)}") from error
    return out


def _plain(array: Any) -> Any:  # noqa: ANN401
    """One array without chunks and without an extension type around it."""
    array = array.combine_chunks() if hasattr(array, "combine_chunks") else array
    return array.storage if hasattr(array, "storage") else array


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
