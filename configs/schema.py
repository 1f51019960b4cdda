"""The dataclass schema of every command's config; defaults live here or beside the class they configure."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore


def register_schema(name: str) -> None:
    """Make the schema of the config `name` known to hydra, as `<name>_schema`; imports what it configures."""
    store = ConfigStore.instance()
    match name:
        case _:
            raise ValueError(f"no config is called {name!r}")
    assert store
