"""Compose a config from the dataclass schema, the YAML presets and the user's overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .front import UserInputError, did_you_mean

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "configs"


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Give the config `name` with the overrides applied, as a checked `DictConfig`.

    Raises:
        UserInputError: an override that does not parse, names nothing that exists or has the wrong type.
    """
    register(name)
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_FOLDER)):
        try:
            return hydra_compose(name, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise UserInputError(explain(error, name, overrides)) from error


def register(name: str) -> None:
    """Make the dataclass schema of the config `name` known to hydra."""
    from wm_plan.configs import register_schema

    register_schema(name)


def resolved(config: DictConfig) -> dict[str, Any]:
    """Give the config as plain values, interpolations resolved."""
    container = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def as_yaml(config: DictConfig) -> str:
    """Give the resolved config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(resolved(config)))


def group_choices(group: str) -> list[str]:
    """Name the presets of a config group, such as `planner` or `task`."""
    return sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml"))


def explain(error: Exception, name: str, overrides: Sequence[str]) -> str:
    """Turn hydra's account of a bad override into one line: what was given, why, the nearest known key."""
    for override in overrides:
        if _composes(name, override):
            continue
        key, _, value = override.lstrip("+~").partition("=")
        if (CONFIG_FOLDER / key).is_dir():
            choices = group_choices(key)
            return f"unknown {key} {value!r}.{did_you_mean(value, choices)} Known: {', '.join(choices)}."
        keys = _leaf_keys(OmegaConf.to_container(hydra_compose(name), resolve=False))
        if key not in keys:
            top = ", ".join(sorted({known.split(".")[0] for known in keys}))
            return (
                f"unknown override {override!r}.{did_you_mean(key, keys)} --dry-run prints the config: {top}."
            )
        return f"bad override {override!r}: {_reason(error)}"
    return f"the overrides do not go together: {_reason(error)}"


def _composes(name: str, override: str) -> bool:
    try:
        hydra_compose(name, overrides=[override])
    except (HydraException, OmegaConfBaseException):
        return False
    return True


def _leaf_keys(node: Any, prefix: str = "") -> list[str]:  # noqa: ANN401
    if not isinstance(node, dict):
        return [prefix]
    keys = [prefix] if prefix else []
    for key, value in node.items():
        keys += _leaf_keys(value, f"{prefix}.{key}" if prefix else str(key))
    return keys


def _reason(error: BaseException) -> str:
    """Give the innermost message, on one line, without OmegaConf's `full_key:` tail."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = re.split(r"\n\s*(?:full_key|object_type|reference_type):|\nSee https", str(error))[0]
    return " ".join(first.split())
