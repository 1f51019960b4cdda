"""Latents on disk, read row by row: an array of (row, token, dim) that is never in memory as a whole."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float16, Int

_MAX_HEADER_BYTES = 1024


def latent_file_header(num_rows: int, row_shape: tuple[int, ...]) -> bytes:
    """The header of an fp16 `.npy` file of these rows; the rows follow."""
    header = io.BytesIO()
    shape = (num_rows, *row_shape)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return header.getvalue()


def read_latent_header(file: IO[bytes]) -> tuple[int, tuple[int, int], int]:
    """Rows, shape of a row, and where the first row begins.

    Raises:
        ValueError: it is no `.npy` file of fp16 latents.
    """
    file.seek(0)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("its .npy version is not 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_MAX_HEADER_BYTES)
    if dtype != np.float16 or len(shape) != 3 or fortran:
        raise ValueError(f"it holds {dtype} {shape}, not rows of fp16 latents")
    return shape[0], (shape[1], shape[2]), file.tell()


class LatentRows:
    """Rows of one or several latent files, one after another: `latents[rows]` reads what is asked for.

    Rows are given as a number, a slice, or an array of numbers of any shape; what comes back is a new array
    that may be changed. Nothing is mapped into memory, so that memory does not grow with what was read. It
    can be pickled and read from several threads and processes.

    Args:
        parts: the number of rows and the file of each part; a part without a file is NaN.

    Raises:
        ValueError: a file is damaged, or they hold latents of different shapes; or all parts lack a file.
    """

    def __init__(self, parts: Sequence[tuple[int, Path | None]]) -> None:
        """Read the headers."""
        self._starts = np.cumsum([0, *(num_rows for num_rows, _ in parts)])
        self._paths = [path for _, path in parts]
        self._offsets: list[int] = []
        row_shapes = {}
        for num_rows, path in parts:
            offset = 0
            if path is not None:
                row_shapes[path], offset = _checked(path, num_rows)
            self._offsets.append(offset)
        if not row_shapes:
            raise ValueError("none of the data has latents")
        if len(set(row_shapes.values())) > 1:
            raise ValueError(f"latents of several shapes cannot be one table: {row_shapes}")
        self.dtype = np.dtype(np.float16)
        self.shape: tuple[int, int, int] = (int(self._starts[-1]), *next(iter(row_shapes.values())))
        self._files: dict[int, IO[bytes]] = {}

    @property
    def ndim(self) -> int:
        """3: row, token, dim."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Float16[np.ndarray, "*chosen token dim"]:  # noqa: ANN401
        """New array of the latents of `rows`."""
        numbers = self._numbers(rows)
        values = np.empty((numbers.size, *self.shape[1:]), np.float16)
        self._read(numbers.reshape(-1), values)
        return values.reshape(*numbers.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: ANN401
        """All rows, in memory."""
        if copy is False:
            raise ValueError("latents on disk become an array only by a copy")
        values = self[:]
        return values if dtype is None else values.astype(dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open files."""
        return {**self.__dict__, "_files": {}}

    def _numbers(self, rows: Any) -> Int[np.ndarray, "*chosen"]:  # noqa: ANN401
        """Row numbers from 0 to the last."""
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        numbers = np.asarray(rows)
        if numbers.dtype == bool and numbers.shape == (len(self),):
            return np.flatnonzero(numbers)
        if numbers.size and numbers.dtype.kind not in "iu":
            raise IndexError(f"rows are chosen by whole numbers, got {numbers.dtype}")
        numbers = numbers.astype(np.int64)
        if numbers.size and not -len(self) <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"rows must be 0 to {len(self) - 1}, got {numbers.min()} to {numbers.max()}")
        return np.where(numbers < 0, numbers + len(self), numbers)

    def _read(self, numbers: Int[np.ndarray, " row"], out: Float16[np.ndarray, "row token dim"]) -> None:
        """Read rows into `out`, consecutive ones of a file at once."""
        parts = np.searchsorted(self._starts, numbers, side="right") - 1
        breaks = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(parts) != 0)) + 1
        row_bytes = 2 * prod(self.shape[1:])
        for start, end in zip([0, *breaks], [*breaks, len(numbers)], strict=True):
            if start == end:
                continue
            part = int(parts[start])
            path = self._paths[part]
            if path is None:
                out[start:end] = np.nan
                continue
            if part not in self._files:
                self._files[part] = path.open("rb", buffering=0)
            position = self._offsets[part] + int(numbers[start] - self._starts[part]) * row_bytes
            wanted = out[start:end].data.cast("B")
            while wanted:
                count = os.preadv(self._files[part].fileno(), [wanted], position)
                if not count:
                    raise ValueError(
                        f"{path} was cut short while it was read: delete it, and it is made again"
                    )
                wanted, position = wanted[count:], position + count


def _checked(path: Path, num_rows: int) -> tuple[tuple[int, int], int]:
    """The shape of a row in a sound latent file of so many rows, and where the rows begin."""
    try:
        with path.open("rb") as file:
            found, row_shape, offset = read_latent_header(file)
            size = file.seek(0, os.SEEK_END)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and it is made again") from error
    wanted = offset + 2 * num_rows * prod(row_shape)
    if found != num_rows or size != wanted:
        raise ValueError(
            f"{path} is damaged ({found} rows in {size} bytes, not {num_rows} in {wanted}): "
            "delete it, and it is made again"
        )
    return row_shape, offset
