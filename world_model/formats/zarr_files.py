"""The files of a zarr store (version 2, folder or zip), and what they declare: checked before it is opened.

Zarr would unpickle objects, fill in what a hostile header merely declares, and follow links; none of that is
let through.
"""

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .row_requests import plain_json

_MAX_HEADER_BYTES = 2**22
_MAX_CHUNK_BYTES = 2**29
_ALWAYS_FINE_BYTES = 2**24
_MAX_RATIO = 100_000  # of zstd, on constant frames
_CODECS = {"blosc", "zlib", "gzip", "bz2", "lzma", "zstd", "lz4", "shuffle", "delta", "fixedscaleoffset"}


def is_zarr(path: Path) -> bool:
    """Whether this is a folder, or a zip file, with the header of a zarr group of version 2."""
    if path.is_dir():
        return (path / ".zgroup").is_file() or (path / "meta" / ".zgroup").is_file()
    return path.is_file() and path.suffix == ".zip" and zipfile.is_zipfile(path)


class ZarrFiles:
    """Names, sizes and headers of the files of a zarr store; nothing of what they hold.

    Raises:
        ValueError: the zip is damaged, or two of its files share a name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sizes: dict[str, dict[str, int]] | None = None
        if path.is_file():
            try:
                with zipfile.ZipFile(path) as archive:
                    entries = archive.infolist()
            except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                raise ValueError(f"{path} is damaged or no zip file: {error}") from error
            self._sizes = {}
            for entry in entries:
                folder, _, name = entry.filename.rpartition("/")
                self._sizes.setdefault(folder, {})[name] = min(entry.file_size, entry.compress_size * 1100)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        folder, _, file = name.rpartition("/")
        if self._sizes is not None:
            return file in self._sizes.get(folder, {})
        return (self.path / name).is_file()

    def arrays(self, group: str) -> list[str]:
        """Names of the arrays in a group, in alphabetical order."""
        if self._sizes is not None:
            folders = [name for name in self._sizes if name.startswith(f"{group}/") and name.count("/") == 1]
            names = [name.removeprefix(f"{group}/") for name in folders]
        else:
            folder = self.path / group
            names = [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []
        return sorted(name for name in names if self.has(f"{group}/{name}/.zarray"))

    def attributes(self) -> dict[str, Any]:
        """The attributes of the root group."""
        try:
            return plain_json(self._json(".zattrs")) if self.has(".zattrs") else {}
        except ValueError:
            return {}

    def check(self, name: str) -> None:
        """Refuse an array that needs code or other files to be read, or declares what it does not store.

        Raises:
            ValueError: with the array, and why.
        """
        where = f"{self.path}: {name}"
        header = self._json(f"{name}/.zarray")
        try:
            shape, chunks = _sides(header["shape"]), _sides(header["chunks"])
            dtype = np.dtype(header["dtype"])
            codecs = [header["compressor"], *(header.get("filters") or [])]
            used = {codec["id"] for codec in codecs if codec is not None}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where} has a damaged header: {error!r}") from error
        if not isinstance(header["dtype"], str) or dtype.kind not in "biufSU":
            raise ValueError(f"{where} holds {header['dtype']!r:.80}; only numbers and texts are read")
        if not used <= _CODECS:
            raise ValueError(
                f"{where} is compressed by {', '.join(sorted(used - _CODECS))}; "
                f"known are {', '.join(sorted(_CODECS))}"
            )
        if len(shape) != len(chunks) or not all(chunks):
            raise ValueError(f"{where} has chunks of {chunks} for shape {shape}")
        if (size := _product(chunks) * dtype.itemsize) > _MAX_CHUNK_BYTES:
            raise ValueError(f"{where} has chunks of {size} bytes; at most {_MAX_CHUNK_BYTES} are read")
        num_files, num_bytes = self._stored(name)
        if _product(shape) * dtype.itemsize > max(_ALWAYS_FINE_BYTES, _MAX_RATIO * num_bytes):
            raise ValueError(f"{where} declares {shape[0]} rows and does not store them")
        wanted = _product([-(-side // chunk) for side, chunk in zip(shape, chunks, strict=True)])
        if len(shape) > 1 and 0 < num_files < wanted:  # a column of flags may lack chunks: all are 0 there
            raise ValueError(f"{where} has {num_files} of its {wanted} chunks: copy it again")

    def _json(self, name: str) -> dict[str, Any]:
        """A header.

        Raises:
            ValueError: it is missing, damaged, too large, or a link out of the store.
        """
        try:
            if self._sizes is None:
                path = self.path / name
                if not path.resolve().is_relative_to(self.path.resolve()):
                    raise ValueError("it is a link out of the store")
                with path.open("rb") as file:
                    content = file.read(_MAX_HEADER_BYTES)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(name) as member:
                    content = member.read(_MAX_HEADER_BYTES)
            header = json.loads(content)
        except (OSError, KeyError, ValueError, RuntimeError, RecursionError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path}: {name} cannot be used: {error}") from error
        if not isinstance(header, dict):
            raise ValueError(f"{self.path}: {name} cannot be used: a JSON object was expected")
        return header

    def _stored(self, name: str) -> tuple[int, int]:
        """Number of chunks of an array that are there, and their bytes."""
        if self._sizes is not None:
            found = (f for n, f in self._sizes.items() if n == name or n.startswith(f"{name}/"))
            sizes = [size for files in found for file, size in files.items() if _is_chunk(file)]
            return len(sizes), sum(sizes)
        folder = self.path / name
        if folder.is_symlink() or folder.parent.is_symlink():
            raise ValueError(f"{folder} is a link: refused")
        num_files, num_bytes = 0, 0
        for parent, folders, files in os.walk(folder):
            for file in (*folders, *files):
                path = os.path.join(parent, file)
                if os.path.islink(path):
                    raise ValueError(f"{path} is a link: refused")
                if file in files and _is_chunk(file):
                    num_files, num_bytes = num_files + 1, num_bytes + os.stat(path).st_size
        return num_files, num_bytes


def _is_chunk(name: str) -> bool:
    return bool(name) and not name.startswith(".")


def _sides(value: Any) -> tuple[int, ...]:  # noqa: ANN401
    """A shape in a header."""
    if (
        not isinstance(value, Sequence)
        or len(value) > 16
        or not all(type(n) is int and n >= 0 for n in value)
    ):
        raise ValueError(f"{value!r:.80} is no shape")
    return tuple(value)


def _product(sides: Sequence[int]) -> int:
    total = 1
    for side in sides:
        total *= side
    return total
