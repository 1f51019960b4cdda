"""Texts and byte strings of any length in HDF5 files of others, read so that a damaged file is no trap.

HDF5 keeps them in collections of its global heap. From a damaged collection HDF5 2.0 may never return, or
read beyond its memory; neither can be caught. So the rows of a dataset are taken from the file here, and an
attribute, whose place HDF5 does not tell, is read by another process.

Source: HDF5 File Format Specification 3.0, III.E "Disk Format: Level 1E - Global Heap".
"""

import os
import struct
import subprocess
import sys

import h5py
import numpy as np

_SECONDS = 20
_POINTER_BYTES = 16  # length (4), address of the collection (8), number of the object in it (4)
_READ_ATTRIBUTE = """
import sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    text = file[sys.argv[2]].attrs[sys.argv[3]]
sys.stdout.buffer.write(text.encode() if isinstance(text, str) else bytes(text))
"""


def heap_rows(dataset: h5py.Dataset, start: int, stop: int) -> list[bytes]:
    """Rows `start` to `stop` of texts or byte strings of any length.

    Raises:
        ValueError: the file is damaged, or stores them in a way that is not known here.
    """
    where = f"{dataset.file.filename}: {dataset.name!r}"
    sizes = dataset.file.id.get_create_plist().get_sizes()
    if (dataset.ndim, sizes[0], dataset.file.userblock_size) != (1, 8, 0):
        raise ValueError(f"{where} keeps rows of different lengths in an uncommon way, which is not read")
    file = os.open(dataset.file.filename, os.O_RDONLY)
    try:
        collections: dict[int, dict[int, tuple[int, int]]] = {}
        return [
            _object(file, pointer, collections, where)
            for pointer in _pointers(file, dataset, start, stop, where)
        ]
    finally:
        os.close(file)


def text_attribute(group: h5py.Group, name: str, max_bytes: int) -> str | None:
    """A text in an attribute; None if there is none, it is longer, no text, or damaged."""
    if name not in group.attrs:
        return None
    attribute = group.attrs.get_id(name)
    kind = h5py.check_string_dtype(attribute.dtype)
    if kind is None or attribute.shape != () or attribute.get_storage_size() > max_bytes:
        return None
    if kind.length is not None:
        content = np.asarray(group.attrs[name]).item()
        return content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
    command = [sys.executable, "-P", "-c", _READ_ATTRIBUTE, group.file.filename, group.name, name]
    try:
        result = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.decode("utf-8", "replace") if len(result.stdout) <= max_bytes else None


def _pointers(
    file: int, dataset: h5py.Dataset, start: int, stop: int, where: str
) -> list[tuple[int, int, int]]:
    """What rows point to: (length, address of the collection, number of the object); 0s where nothing is."""
    pointers = [(0, 0, 0)] * (stop - start)
    for offset, first, last in _stored_parts(dataset, start, stop, where):
        content = os.pread(file, (last - first) * _POINTER_BYTES, offset)
        if len(content) < (last - first) * _POINTER_BYTES:
            raise ValueError(f"{where} is damaged: the file ends before it")
        pointers[first - start : last - start] = list(struct.iter_unpack("<IQI", content))
    return pointers


def _stored_parts(dataset: h5py.Dataset, start: int, stop: int, where: str) -> list[tuple[int, int, int]]:
    """Where in the file the pointers lie: (byte, first row, row after the last)."""
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        return [] if offset is None else [(offset + _POINTER_BYTES * start, start, stop)]
    if dataset.id.get_create_plist().get_nfilters():
        raise ValueError(f"{where} compresses rows of different lengths, which is not read")
    size = dataset.chunks[0]
    parts = []
    for chunk in range(start - start % size, stop, size):
        offset = dataset.id.get_chunk_info_by_coord((chunk,)).byte_offset
        if offset is not None:
            first, last = max(start, chunk), min(stop, chunk + size)
            parts.append((offset + _POINTER_BYTES * (first - chunk), first, last))
    return parts


def _object(
    file: int,
    pointer: tuple[int, int, int],
    collections: dict[int, dict[int, tuple[int, int]]],
    where: str,
) -> bytes:
    """The bytes that a pointer points to."""
    length, address, number = pointer
    if length == 0:
        return b""
    if address not in collections:
        collections[address] = _collection(file, address)
    place, stored = collections[address].get(number, (0, -1))
    content = os.pread(file, length, place) if length <= stored else b""
    if len(content) < length:
        raise ValueError(f"{where} is damaged: its texts or images cannot be found")
    return content


def _collection(file: int, address: int) -> dict[int, tuple[int, int]]:
    """Where the objects of the collection at `address` are, by number: (byte, length); none if damaged."""
    end = os.fstat(file).st_size
    header = os.pread(file, 16, address) if address < end else b""
    if len(header) < 16 or header[:4] != b"GCOL":
        return {}
    size = struct.unpack_from("<Q", header, 8)[0]
    objects = {}
    at = 16
    while at + 16 <= size and address + at + 16 <= end:
        number, length = struct.unpack("<H6xQ", os.pread(file, 16, address + at))
        if number:
            objects[number] = (address + at + 16, length)
        step = 16 + (length + 7) // 8 * 8 if number else length
        if step < 16:
            break
        at += step
    return objects
