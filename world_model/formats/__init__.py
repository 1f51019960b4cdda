"""Logged trajectories in the formats that labs have: reading, writing, finding out which one it is."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cache import as_store
    from .lerobot_writer import write_lerobot
    from .minari_writer import write_minari
    from .native_writer import write_native
    from .opening import FORMATS, open_source
    from .protocol import Column, Source
    from .roles import default_columns

_HOMES = {
    "FORMATS": "opening",
    "Column": "protocol",
    "Source": "protocol",
    "as_store": "cache",
    "default_columns": "roles",
    "open_source": "opening",
    "write_lerobot": "lerobot_writer",
    "write_minari": "minari_writer",
    "write_native": "native_writer",
}

__all__ = [
    "FORMATS",
    "Column",
    "Source",
    "as_store",
    "default_columns",
    "open_source",
    "write_lerobot",
    "write_minari",
    "write_native",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for: pyarrow, av, zarr and minari are big."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
