"""Packages of the extra `data`, imported when a format first needs them."""

from importlib import import_module
from types import ModuleType


def require(module: str, purpose: str) -> ModuleType:
    """Import `module`, such as "pyarrow.parquet".

    Raises:
        ValueError: its package is not installed; says which extra brings it.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ValueError(f"{purpose} needs {package}. Install it: pip install 'wm-plan[data]'") from None
