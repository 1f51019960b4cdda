"""Compose a config from the dataclass schema, the YAML presets and overrides, by hydra."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .suggestion import did_you_mean

CONFIG_FOLDER = Path(__file__).resolve().parent / "configs"
_ERRORS = (HydraException, OmegaConfBaseException)


def compose(name: str, overrides: Sequence[str] = (), *, base: Sequence[str] = ()) -> DictConfig:
    """Give the config `name` with the overrides applied.

    A hydra application that calls this keeps its own state.

    Args:
        base: choices that are known to be good, applied before the user's overrides.

    Raises:
        ValueError: an override that does not parse, names nothing that exists or has the wrong type.
    """
    for override in overrides:
        if override[:1] in ("+", "~"):
            raise ValueError(
                f"bad override {override!r}: nothing can be added to the config or deleted from it."
                f" Write {override.lstrip('+~').partition('=')[0]}=VALUE."
            )
    register(name)
    with _own_hydra():
        try:
            return hydra_compose(name, overrides=[*base, *overrides])
        except _ERRORS as error:
            raise ValueError(_explained(error, name, base, overrides)) from error


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Start hydra on our presets, and put back the one that was running."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_FOLDER)):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def register(name: str) -> None:
    """Make the dataclass schema of the config `name` known to hydra."""
    from wm_plan.configs import register_schema

    register_schema(name)


def as_values(config: DictConfig) -> dict[str, Any]:
    """Give the config as plain values, interpolations resolved."""
    container = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def as_yaml(config: DictConfig) -> str:
    """Give the resolved config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(as_values(config)))


def _explained(error: Exception, name: str, base: Sequence[str], overrides: Sequence[str]) -> str:
    """Turn hydra's account into one line: the override that is wrong, why, and the nearest that is right."""
    for override in overrides:
        if _composes(name, [*base, override]):
            continue
        key, _, value = override.partition("=")
        choices = GlobalHydra.instance().config_loader().get_group_options(key)
        choices = [choice for choice in choices if not choice.endswith("_schema")]
        if choices:
            known = ", ".join(choices)
            return f"unknown {key} {value!r}.{did_you_mean(value, choices)} Known {key}s: {known}."
        keys = _keys(OmegaConf.to_container(hydra_compose(name, overrides=list(base)), resolve=False))
        if key not in keys:
            known = ", ".join(sorted({dotted.split(".")[0] for dotted in keys}))
            return (
                f"unknown override {override!r}.{did_you_mean(key, keys)} --dry-run prints them all: {known}."
            )
        return f"bad override {override!r}: {_reason(error)}"
    return f"the overrides do not go together: {_reason(error)}"


def _composes(name: str, overrides: Sequence[str]) -> bool:
    try:
        hydra_compose(name, overrides=list(overrides))
    except _ERRORS:
        return False
    return True


def _keys(node: Any, prefix: str = "") -> list[str]:  # noqa: ANN401
    """Give the dotted names of all entries, sections included."""
    if not isinstance(node, dict):
        return [prefix]
    names = [prefix] if prefix else []
    for key, value in node.items():
        names += _keys(value, f"{prefix}.{key}" if prefix else str(key))
    return names


def _reason(error: BaseException) -> str:
    """Give the innermost message, on one line, without OmegaConf's `full_key:` tail."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = re.split(r"\n\s*(?:full_key|object_type|reference_type):|\nSee https", str(error))[0]
    return " ".join(first.split())
