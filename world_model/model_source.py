"""Where a world model is: shipped with the package, in a folder, or on the hub."""

from __future__ import annotations

from pathlib import Path


def predictor_names() -> tuple[str, ...]:
    """Tasks that the package ships a predictor for."""
    from .encoder import WEIGHTS_FOLDER

    return tuple(sorted(p.name for p in (WEIGHTS_FOLDER / "predictors").glob("*") if p.is_dir()))


def model_folder(name_or_path: str | Path) -> Path:
    """The folder of a shipped model by its task's name, of one that `wm-train` wrote, or of one of the hub.

    What the hub's cache holds is not downloaded again.

    Raises:
        ValueError: there is no such task, folder or model of the hub.
    """
    from .encoder import WEIGHTS_FOLDER
    from .hub import hub_folder, is_hub_id

    if str(name_or_path) in predictor_names():
        return WEIGHTS_FOLDER / "predictors" / str(name_or_path)
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    if isinstance(name_or_path, str) and is_hub_id(name_or_path):
        return hub_folder(name_or_path)
    names = ", ".join(predictor_names())
    raise ValueError(
        f"No predictor {str(name_or_path)!r}. Give a folder or one of: {names}; "
        "or an id of the hub (owner/name)"
    )
