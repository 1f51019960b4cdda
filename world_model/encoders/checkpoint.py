"""Reading published PyTorch checkpoints: tensors only, key prefixes taken off, never unpickling an object."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ENTRIES = ("ema_encoder", "target_encoder", "encoder")
"""Where a checkpoint keeps its encoder; of several, the first: the averaged one, as published code does."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a `.pt`, `.pth` or `.pth.tar` file holds: tensors, numbers and containers of them.

    Tensors stay on disk until they are used, where the file's format allows that.

    Raises:
        ValueError: no such file, it is damaged, or it holds objects that only running its code would make.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file; give a checkpoint (.pt, .pth or .pth.tar)")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()
        what = next((line for line in reason if "GLOBAL" in line or "class" in line), reason[0])
        raise ValueError(
            f"{str(path)!r} is no plain checkpoint and is not run: {what.strip()} "
            "Save its tensors alone (a state dict) and give that"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} holds a {type(found).__name__}; a checkpoint is a dict of tensors")
    return found


def encoder_tensors(
    checkpoint: Mapping[str, Any], source: str | Path, entry: str | None = None
) -> dict[str, Tensor]:
    """The tensors of the encoder in a checkpoint, named without `module.` and `backbone.`.

    Args:
        checkpoint: from `read_checkpoint`: a dict with entries, or the tensors themselves.
        source: the file, for messages.
        entry: where to look; by default the first of `ENTRIES`, except that V-JEPA 2-AC (known by its
            predictor's `action_encoder`) was trained over the one called "encoder".

    Raises:
        ValueError: there is no such entry.
    """
    entries = {name: value for name, value in checkpoint.items() if isinstance(value, Mapping)}
    if not entries and entry is None:
        return plain_tensors(checkpoint)
    actions = any("action_encoder" in name for name in entries.get("predictor", {}))
    order = ("encoder", *ENTRIES) if actions else ENTRIES
    chosen = entry or next((name for name in order if name in entries), None)
    if chosen not in entries:
        known = ", ".join(entries) or "none"
        wanted = repr(entry) if entry else "encoder: none of " + ", ".join(ENTRIES)
        raise ValueError(f"{str(source)!r} has no {wanted}; its entries are: {known}")
    return plain_tensors(entries[chosen])


def plain_tensors(entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """An entry's tensors, named without what training wrappers put before: `module.`, `backbone.`."""
    return {
        str(name).replace("module.", "").replace("backbone.", ""): value
        for name, value in entry.items()
        if isinstance(value, Tensor)
    }
