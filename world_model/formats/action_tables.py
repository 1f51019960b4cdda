"""Tables of actions that lie beside videos: CSV and npz files, read a part at a time.

In a CSV, headers that end in a number ("action_0", "action[1]", "joint3") or have a dot ("state.x") make one
vector column ("action", "joint", "state"), whose entries keep their headers as names. If nothing is called
action then, the remaining columns of numbers become it, but for those that count or judge (`BOOKKEEPING`). A
file without headers is all action. Everything else is a column under its own name, numbers as float64. An npz
has an array a column.
"""

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from .protocol import Column
from .row_layouts import RowLayout, layout_of

EPISODE_HEADERS = ("episode", "episode_index", "video")
BOOKKEEPING = {"timestamp", "time", "t", "frame", "frame_index", "step", "index", "row", *EPISODE_HEADERS}
BOOKKEEPING |= {"reward", "done", "success", "terminated", "truncated", "task", "task_index"}
_ACTION = ("action", "actions")
_MAX_LINE = 2**20
_MAX_MEMBER_BYTES = 2**28
_NUMBERED = re.compile(r"(.*?[A-Za-z])[._]?[\[(]?(\d+)[\])]?")


class CsvTable:
    """Rows of a CSV file from byte `offset` on (from its first when None). What is read stays until `forget`.

    Args:
        path: the file, UTF-8 with commas.
        offset: where the first row starts.
        num_rows: how many rows; to the end of the file when None.

    Raises:
        ValueError: it is empty, no text, or has rows of other lengths.
    """

    def __init__(self, path: Path, offset: int | None = None, num_rows: int | None = None) -> None:
        self.path = path
        self.headers, first_row = csv_headers(path)
        self._offset = first_row if offset is None else offset
        self.num_rows = sum(1 for _ in csv_rows(path, self._offset)) if num_rows is None else num_rows
        sample = next(csv_rows(path, self._offset), None)
        if not self.num_rows or sample is None:
            raise ValueError(f"{path} has no rows")
        self._check(sample[1])
        self._is_text = [not _is_number(cell) for cell in sample[1]]
        self._fields = _grouped(self.headers, [not text for text in self._is_text])
        self.columns: Mapping[str, Column] = {
            name: _csv_column(self.headers, name, fields, sample[1]) for name, fields in self._fields.items()
        }
        self._values: dict[str, np.ndarray] = {}

    def read(self, column: str, start: int, stop: int) -> Shaped[np.ndarray, "row ..."]:
        """Rows `start` to `stop`; empty cells are NaN."""
        if not self._values:
            self._values = self._load()
        return self._values[column][start:stop]

    def forget(self) -> None:
        """Free what was read."""
        self._values = {}

    def _load(self) -> dict[str, np.ndarray]:
        numbers = [i for i, text in enumerate(self._is_text) if not text]
        values = np.empty((self.num_rows, len(self.headers)))
        texts: dict[int, list[str]] = {i: [] for i, text in enumerate(self._is_text) if text}
        for number, (_, row) in zip(range(self.num_rows), csv_rows(self.path, self._offset), strict=False):
            self._check(row)
            for i, column in texts.items():
                column.append(row[i])
            try:
                values[number, numbers] = [float(row[i]) if row[i].strip() else np.nan for i in numbers]
            except ValueError as error:
                raise ValueError(f"{self.path}: row {number}: {error}") from error
        return {
            name: np.array(texts[fields[0]], dtype=str)
            if fields[0] in texts
            else values[:, fields].reshape(self.num_rows, *self.columns[name].shape)
            for name, fields in self._fields.items()
        }

    def _check(self, row: Sequence[str]) -> None:
        if len(row) != len(self.headers):
            raise ValueError(f"{self.path}: a row has {len(row)} cells, the first line {len(self.headers)}")


class NpzTable:
    """Arrays of an npz file, with as many rows as its action, or as most of them have; others are left out.

    Of states and the like there may be a row more. What is read stays until `forget`.

    Raises:
        ValueError: it is damaged, holds objects, or declares arrays that it does not store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        headers = _npz_headers(path)
        lengths = [shape[0] for shape, _ in headers.values() if shape]
        named = [headers[name][0] for name in _ACTION if name in headers]
        if not lengths or any(not shape for shape in named):
            raise ValueError(f"{path} has no arrays with one row a step")
        self.num_rows = named[0][0] if named else max(set(lengths), key=lengths.count)
        self._layouts: dict[str, RowLayout] = {}
        for name, (shape, dtype) in headers.items():
            if not shape or shape[0] not in (self.num_rows, self.num_rows + 1):
                continue
            if (layout := layout_of(dtype, shape[1:])) is not None:
                self._layouts[name] = layout
        self.columns: Mapping[str, Column] = {name: entry.column for name, entry in self._layouts.items()}
        self._values: dict[str, np.ndarray] = {}
        if not self.num_rows or not self.columns:
            raise ValueError(f"{path} has no rows")

    def read(self, column: str, start: int, stop: int) -> Shaped[np.ndarray, "row ..."]:
        """Rows `start` to `stop`."""
        if column not in self._values:
            try:
                with np.load(self.path, allow_pickle=False) as file:
                    stored = file[column]
            except Exception as error:  # zlib and others raise what they like
                raise ValueError(f"{self.path}: {column} is damaged: {error}") from error
            self._values[column] = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        return self._layouts[column].to_rows(self._values[column][start:stop])

    def forget(self) -> None:
        """Free what was read."""
        self._values = {}


ActionTable = CsvTable | NpzTable


def csv_headers(path: Path) -> tuple[list[str], int]:
    """The names in the first line of a CSV, and the byte where rows start; without names, action_0, ..."""
    with path.open("rb") as file:
        line = file.readline(_MAX_LINE)
        cells = _cells(path, line)
        if not any(cell.strip() for cell in cells):
            raise ValueError(f"{path} is empty")
        if all(_is_number(cell) for cell in cells):
            return [f"action_{i}" for i in range(len(cells))], 0
        names = [cell.strip().removeprefix("\ufeff") for cell in cells]
        if "" in names or len(set(names)) < len(names):
            raise ValueError(f"{path}: the names in its first line are empty, or there twice: {names}"[:300])
        return names, file.tell()


def csv_rows(path: Path, offset: int) -> Iterator[tuple[int, list[str]]]:
    """Rows from a byte on: where each starts, and its cells; empty lines are passed over."""
    with path.open("rb") as file:
        file.seek(offset)
        while line := file.readline(_MAX_LINE):
            start = file.tell() - len(line)
            if line.strip():
                yield start, _cells(path, line)


def csv_episodes(path: Path, column: str) -> dict[str, CsvTable]:
    """The tables of one CSV with an episode column, by what that column says; rows of one lie together.

    Raises:
        ValueError: an episode's rows are torn apart, or as `CsvTable`.
    """
    headers, first = csv_headers(path)
    place = headers.index(column)
    found: dict[str, list[int]] = {}
    last = None
    for start, row in csv_rows(path, first):
        if len(row) != len(headers):
            raise ValueError(f"{path}: a row has {len(row)} cells, the first line {len(headers)}")
        name = row[place].strip()
        if name != last and name in found:
            raise ValueError(f"{path}: the rows of {column} {name!r} do not lie together; sort the file")
        found.setdefault(name, [start, 0])[1] += 1
        last = name
    return {name: CsvTable(path, start, count) for name, (start, count) in found.items()}


def _cells(path: Path, line: bytes) -> list[str]:
    if len(line) >= _MAX_LINE:
        raise ValueError(f"{path} has a line of more than {_MAX_LINE >> 20} MiB: it is no table")
    try:
        return next(csv.reader([line.decode("utf-8-sig")], strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV in UTF-8: {error}") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell.strip()
    return True


def _grouped(headers: Sequence[str], numbers: Sequence[bool]) -> dict[str, list[int]]:
    """Column names and the cells that make them."""
    groups: dict[str, list[int]] = {}
    for i, header in enumerate(headers):
        key = header
        if numbers[i] and (match := _NUMBERED.fullmatch(header)):
            key = match[1]
        elif numbers[i] and "." in header.strip("."):
            key = header.rpartition(".")[0]
        groups.setdefault(key if key not in headers else header, []).append(i)
    fields = {
        key if len(cells) > 1 or "." in headers[cells[0]] or key in _ACTION else headers[cells[0]]: cells
        for key, cells in groups.items()
    }
    if not any(name in _ACTION for name in fields):
        plain = [
            cells[0]
            for name, cells in fields.items()
            if len(cells) == 1 and name == headers[cells[0]] and numbers[cells[0]] and name not in BOOKKEEPING
        ]
        if plain:
            fields = {name: cells for name, cells in fields.items() if cells[0] not in plain}
            fields["action"] = plain
    return fields


def _csv_column(headers: Sequence[str], name: str, fields: Sequence[int], row: Sequence[str]) -> Column:
    if len(fields) == 1 and name == headers[fields[0]]:
        return Column("float64", (), "scalar") if _is_number(row[fields[0]]) else Column("str", (), "text")
    return Column("float64", (len(fields),), "vector", names=tuple(headers[i] for i in fields))


def _npz_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shapes and dtypes of the arrays, checked against the bytes that are there."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.filename.endswith(".npy"):
                    continue
                with archive.open(entry) as member:
                    start = io.BytesIO(member.read(2**16))
                version = np.lib.format.read_magic(start)
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }
                shape, _, dtype = read[version](start)
                size = dtype.itemsize
                for side in shape:
                    size *= side
                if dtype.hasobject or size != entry.file_size - start.tell() or size > _MAX_MEMBER_BYTES:
                    raise ValueError(
                        f"{entry.filename} declares {dtype} {shape}, which is not what it stores"
                    )
                headers[entry.filename.removesuffix(".npy")] = (shape, dtype)
    except Exception as error:  # zlib and others raise what they like
        raise ValueError(f"{path} is damaged or no npz file: {error}") from error
    return headers
