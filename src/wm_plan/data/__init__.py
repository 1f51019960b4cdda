"""Looking at logged trajectories of any format, checking them, and making new ones of them (`wm-data`)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .alignment import Alignment, AlignmentMeter
    from .converting import convert
    from .inspecting import inspect
    from .joining import JoinedSources
    from .preview import contact_sheet, write_clip
    from .validating import Finding, validate

_HOMES = {
    "Alignment": "alignment",
    "AlignmentMeter": "alignment",
    "Finding": "validating",
    "JoinedSources": "joining",
    "contact_sheet": "preview",
    "convert": "converting",
    "inspect": "inspecting",
    "validate": "validating",
    "write_clip": "preview",
}

__all__ = [
    "Alignment",
    "AlignmentMeter",
    "Finding",
    "JoinedSources",
    "contact_sheet",
    "convert",
    "inspect",
    "validate",
    "write_clip",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
