"""HDF5 files made by others: their datasets by path, checked so that a hostile file is an error and no harm.

Only data that lie in the file itself are read, and only as much as the file really stores: links to other
files, virtual and external data are refused, and so are headers that declare far more than could have been
compressed into the bytes that are there. Nothing is unpickled.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Shaped

from .hdf5_heaps import heap_rows

_MAX_DEPTH = 8
_MAX_ITEMS = 4096
_MAX_CHUNK_BYTES = 2**28
_ALWAYS_FINE_BYTES = 2**24
_MAX_RATIO = 1032  # of gzip; lzf and szip stay far below
_MAX_RATIO_OF_PLUGINS = 100_000  # of zstd inside Blosc, on constant frames
_BUILT_IN_FILTERS = {1, 2, 3, 4, 5, 6, 32000}


@contextmanager
def reading(path: Path, close: Callable[[], None] | None = None) -> Iterator[None]:
    """Turn what h5py raises on damaged files into one ValueError that names the file, after `close`.

    HDF5 would go on with what it knows of a file that stays open, even if a sound one has taken its place.
    """
    finished = False
    try:
        yield
        finished = True
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (OSError, RuntimeError, KeyError, TypeError, MemoryError, OverflowError) as error:
        line = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged or no HDF5 file: {line}") from error
    finally:
        if close is not None and not finished:
            close()


def is_hdf5(path: Path) -> bool:
    """Whether a file starts like HDF5."""
    try:
        return path.is_file() and h5py.is_hdf5(path)
    except OSError:
        return False


def child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """The entry `name` of a group if it lies in this very file; None if there is none.

    Raises:
        ValueError: it is a link to elsewhere, or a dataset that `check` refuses.
    """
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{group.file.filename}: {_path(group, name)!r} is a link to elsewhere: refused")
    item = group[name]
    if isinstance(item, h5py.Dataset):
        check(item)
    return item if isinstance(item, h5py.Group | h5py.Dataset) else None


def subgroup(group: h5py.Group, name: str) -> h5py.Group:
    """The group `name` inside `group`.

    Raises:
        ValueError: there is none.
    """
    item = child(group, name)
    if not isinstance(item, h5py.Group):
        raise ValueError(f"{group.file.filename} lacks the group {_path(group, name)!r}")
    return item


def leaves(group: h5py.Group, prefix: str = "") -> dict[str, h5py.Dataset]:
    """All datasets below `group`, by path from there, in alphabetical order.

    Raises:
        ValueError: as `child`; or the groups are nested too deep, or hold too many datasets.
    """
    found: dict[str, h5py.Dataset] = {}
    _collect(group, prefix, found, 0)
    return found


def _collect(group: h5py.Group, prefix: str, found: dict[str, h5py.Dataset], depth: int) -> None:
    if depth > _MAX_DEPTH or len(group) > _MAX_ITEMS:
        raise ValueError(f"{group.file.filename}: {group.name!r} is nested too deep, or holds too much")
    for name in names_of(group):
        item = child(group, name)
        if isinstance(item, h5py.Dataset):
            found[f"{prefix}{name}"] = item
        elif isinstance(item, h5py.Group):
            _collect(item, f"{prefix}{name}/", found, depth + 1)
        if len(found) > _MAX_ITEMS:
            raise ValueError(f"{group.file.filename}: {group.name!r} holds more than {_MAX_ITEMS} datasets")


def check(dataset: h5py.Dataset) -> None:
    """Refuse a dataset whose data lie elsewhere, or that declares what it cannot store.

    Raises:
        ValueError: with the file and the dataset.
    """
    where = f"{dataset.file.filename}: {dataset.name!r}"
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{where} keeps its data outside the file: refused")
    if dataset.shape is None:
        raise ValueError(f"{where} is empty")
    pipeline = dataset.id.get_create_plist()
    filters = {pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())}
    plugins = filters - _BUILT_IN_FILTERS
    if plugins:
        _load_plugins(where)
    size = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
    ratio = _MAX_RATIO_OF_PLUGINS if plugins else _MAX_RATIO
    if size > max(_ALWAYS_FINE_BYTES, ratio * dataset.id.get_storage_size()):
        raise ValueError(f"{where} declares {dataset.shape[0]} rows and does not store them")
    if dataset.chunks is not None:
        chunk = int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize
        if chunk > _MAX_CHUNK_BYTES:
            raise ValueError(f"{where} has chunks of {chunk} bytes; at most {_MAX_CHUNK_BYTES} are read")


def rows_of(dataset: h5py.Dataset, start: int, stop: int) -> Shaped[np.ndarray, "row ..."]:
    """Rows `start` to `stop`, in this machine's byte order; bytes where each has its own length.

    Raises:
        ValueError: they are damaged.
    """
    with reading(Path(dataset.file.filename)):
        if h5py.check_vlen_dtype(dataset.dtype) == np.uint8 or _is_text_of_any_length(dataset):
            rows = np.empty(stop - start, object)
            rows[:] = heap_rows(dataset, start, stop)
            return rows
        values = dataset[start:stop]
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def names_of(group: h5py.Group) -> list[str]:
    """Names of what a group holds, but for those that are no text."""
    return sorted(name for name in group if isinstance(name, str))


def _is_text_of_any_length(dataset: h5py.Dataset) -> bool:
    kind = h5py.check_string_dtype(dataset.dtype)
    return kind is not None and kind.length is None


def samples_of(dataset: h5py.Dataset) -> Shaped[np.ndarray, "row ..."] | None:
    """A few rows from everywhere where they may be float frames, None elsewhere."""
    if dataset.dtype.kind != "f" or dataset.ndim != 4 or len(dataset) < 1:
        return None
    rows = sorted({0, len(dataset) // 2, len(dataset) - 1})
    return np.concatenate([rows_of(dataset, row, row + 1) for row in rows])


def _load_plugins(where: str) -> None:
    """Make Blosc, zstd and others known to HDF5."""
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        raise ValueError(f"{where} is compressed by a plugin of HDF5: pip install 'wm-plan[data]'") from None


def _path(group: h5py.Group, name: str) -> str:
    return f"{group.name.rstrip('/')}/{name}"
