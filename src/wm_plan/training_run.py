"""What the training commands share: the logs they read, and the folder that a run fills and resumes from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from .machine import device_name, versions
from .output_folder import check_output_folder, nearest_existing
from .tensorboard_scalars import delete_scalars
from .training_beside import BESIDE
from .world_model.training_state import METRICS_NAME, STATE_NAME
from .world_model.weights_io import CONFIG_NAME, WEIGHTS_NAME

if TYPE_CHECKING:
    import torch

    from .envs import TaskEnv
    from .world_model import TrajectoryStore

RUN_CONFIG_NAME = "config.yaml"
_Settings = TypeVar("_Settings")


def settings_of(config: DictConfig, settings_class: type[_Settings]) -> _Settings:
    """Give the part of a composed config that is `settings_class`.

    Raises:
        ValueError: a setting out of its range.
    """
    whole = OmegaConf.to_object(config)
    return settings_class(**{entry.name: getattr(whole, entry.name) for entry in fields(settings_class)})  # type: ignore[arg-type]


def open_logs(paths: Sequence[str], columns: str, told: Callable[[str], None]) -> TrajectoryStore:
    """Open the logs that a training reads, of any format; see `as_store`.

    Raises:
        ValueError: none is given, one is missing or damaged, or a column is not there.
    """
    from .data.converting import parse_columns
    from .world_model.formats import as_store

    if not paths:
        raise ValueError("no data was given. Add --data DIR: what wm-collect wrote, or your own logs.")
    return as_store(paths, columns=parse_columns(columns or None), told=told)


def logged_task(name: str) -> TaskEnv | None:
    """Give the task that logs are of, without pictures; None where there is none whose states are known."""
    from .envs import make_task

    if ":" in name:  # `package:Id` imports: no file may ask for that
        return None
    try:
        return make_task(name, render=False)
    except ValueError:  # a log from elsewhere, or a robot that is no longer there
        return None


def provenance(command_line: str, device: torch.device) -> dict[str, Any]:
    """Give what a checkpoint says of its making besides settings and data."""
    return {
        "command": command_line,
        "device": device_name(device),
        "versions": versions(),
    }


def check_training_folder(out: Path, inputs: Sequence[str | Path], *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that could not be written, or that holds what is read.

    Raises:
        ValueError: see `check_output_folder`; or `out` is one of `inputs`; or there is nothing to resume.
    """
    for path in inputs:
        if Path(path).exists() and out.resolve() == Path(path).resolve():
            raise ValueError(f"--out {str(out)!r} is also what is read. Name another folder.")
    check_output_folder(out, overwrite=overwrite or resume)
    if resume and not (out / STATE_NAME).is_file():
        raise ValueError(f"{str(out)!r} holds no training to resume: it has no {STATE_NAME}")


@contextmanager
def training_folder(out: Path, config_file: str, *, resume: bool) -> Iterator[Path]:
    """Make the folder of a run, with its `config.yaml` of this text.

    What an earlier run left in it is deleted, unless this one resumes it. A run that ends before its first
    checkpoint leaves nothing behind.
    """
    existing = nearest_existing(out)
    if not resume:
        _delete_run(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        (out / RUN_CONFIG_NAME).write_text(config_file, encoding="utf-8")
        yield out
    except BaseException:
        if not (out / STATE_NAME).is_file():
            _delete_run(out)
            _delete_empty(out, existing)
        raise


def _delete_run(out: Path) -> None:
    """Delete the files that a training writes, and no others."""
    for name in (RUN_CONFIG_NAME, METRICS_NAME, STATE_NAME, CONFIG_NAME, WEIGHTS_NAME):
        (out / name).unlink(missing_ok=True)
    delete_scalars(out)
    for name in ("encoder", *BESIDE):
        if any((out / name / file).is_file() for file in (WEIGHTS_NAME, STATE_NAME)):
            shutil.rmtree(out / name)


def _delete_empty(folder: Path, existing: Path) -> None:
    """Delete `folder` and its parents below `existing`, as far as they are empty."""
    folder = folder.absolute()
    with suppress(OSError):
        while folder != existing:
            folder.rmdir()
            folder = folder.parent
