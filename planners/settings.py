"""Checks and overrides that every planner config shares."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TypeVar

Config = TypeVar("Config")
Choice = TypeVar("Choice", bound=Enum)


def unknown_name(kind: str, given: object, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    names = sorted(known)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {kind} {given!r}.{hint} Known {kind}s: {', '.join(names)}"


def check_at_least(config: object, minimum: float, *names: str) -> None:
    """Raise ValueError unless each named setting is a number of at least `minimum`."""
    for name in names:
        value = getattr(config, name)
        if not value >= minimum:
            raise ValueError(f"{name}={value} is not allowed; give {minimum} or more")


def check_above_zero(config: object, *names: str) -> None:
    """Raise ValueError unless each named setting is greater than 0."""
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise ValueError(f"{name}={value} is not allowed; give a number greater than 0")


def check_fraction(config: object, *names: str, one: bool = True) -> None:
    """Raise ValueError unless each named setting lies in [0, 1], or in [0, 1) when `one` is False."""
    for name in names:
        value = getattr(config, name)
        if not (0 <= value <= 1 if one else 0 <= value < 1):
            raise ValueError(f"{name}={value} is not allowed; give a number in [0, 1{']' if one else ')'}")


def as_choice(choices: type[Choice], name: str, value: object) -> Choice:
    """The member of an Enum given by itself or by its value.

    Raises:
        ValueError: no such member; the message lists those that exist.
    """
    if isinstance(value, choices):
        return value
    try:
        return choices(value)
    except ValueError:
        raise ValueError(unknown_name(name, value, [str(choice.value) for choice in choices])) from None


def configured(config_class: type[Config], config: object, overrides: Mapping[str, object]) -> Config:
    """A checked config: the one given (a config, a mapping, or None for the defaults) with overrides applied.

    The config given is never changed.

    Raises:
        ValueError: a setting does not exist, or a value is out of its range.
    """
    known = [field.name for field in dataclasses.fields(config_class) if field.init]  # type: ignore[arg-type]
    settings: dict[str, object] = {}
    if isinstance(config, config_class):
        settings = {name: getattr(config, name) for name in known}
    elif isinstance(config, Mapping):
        settings = {str(name): value for name, value in config.items()}
    elif config is not None:
        raise ValueError(
            f"Cannot read settings from {type(config).__name__}; give a {config_class.__name__} or a mapping"
        )
    settings.update(overrides)
    for name in settings:
        if name not in known:
            raise ValueError(unknown_name(f"{config_class.__name__} setting", name, known))
    return config_class(**settings)
