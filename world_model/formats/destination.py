"""Where a converted dataset appears: whole or not at all; an unfinished one waits beside it."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..manifest import remove_half_written

_SETTINGS = "conversion.json"
_DATA = "data"


def partial_path(dst: Path) -> Path:
    """The hidden folder beside `dst` in which it is made."""
    return dst.with_name(f".{dst.name}.partial")


def check_destination(dst: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Raise the ValueError that `destination` would, as far as it is known without the settings."""
    if dst.name in ("", ".", ".."):
        raise ValueError(f"{dst} is no name for a new dataset; give the path of a folder to make")
    if dst.exists() or dst.is_symlink():
        if not overwrite:
            raise ValueError(f"{dst} exists; overwrite it or give another folder")
        if not dst.is_dir() or dst.is_symlink() or (any(dst.iterdir()) and not _is_dataset(dst)):
            raise ValueError(f"{dst} is no dataset, and is not overwritten; give another folder")
    partial = partial_path(dst)
    if partial.exists() and not (partial / _SETTINGS).is_file():
        raise ValueError(f"{partial} is in the way and is no unfinished conversion; move it away")
    if partial.exists() and not (resume or overwrite):
        raise ValueError(f"an unfinished conversion lies in {partial}; resume it or overwrite it")


@contextmanager
def destination(
    dst: Path, settings: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Iterator[Path]:
    """Yield a hidden folder beside `dst` that becomes `dst` when the block ends well.

    After an exception or a kill it stays, for a later call with `resume` and equal `settings`; without
    `resume`, `overwrite` starts it over. What is at `dst` is there until the new dataset takes its place.

    Args:
        dst: the folder to make.
        settings: everything that decides what is written, as JSON.
        resume: go on with an unfinished one, if there is one.
        overwrite: replace the dataset that is at `dst`.

    Raises:
        ValueError: `dst` exists (without `overwrite`) or is no dataset, another process writes it, or the
            unfinished one was begun with other settings.
    """
    check_destination(dst, resume=resume, overwrite=overwrite)
    partial = partial_path(dst)
    data = partial / _DATA
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / _SETTINGS).open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{dst} is being written by another process") from None
        if not (resume and _begun_with(partial, json.loads(json.dumps(settings)))):
            if data.exists():
                shutil.rmtree(data)
            held.truncate(0)
            held.write(json.dumps(settings, sort_keys=True))
            held.flush()
        data.mkdir(exist_ok=True)
        remove_half_written(data)
        yield data
        if dst.is_dir():
            dst.rename(partial / "replaced")
        data.rename(dst)
    shutil.rmtree(partial)


def _begun_with(partial: Path, settings: dict[str, Any]) -> bool:
    """Whether there is something to resume; its settings must be these."""
    text = (partial / _SETTINGS).read_text()
    if not text:
        return False
    try:
        before = json.loads(text)
    except ValueError:
        return False
    for key in sorted(before.keys() | settings.keys()):
        if before.get(key) != settings.get(key):
            raise ValueError(
                f"the conversion in {partial} was begun with {key} {before.get(key)!r:.200}, not "
                f"{settings.get(key)!r:.200}; resume with the same settings, or overwrite it"
            )
    return True


def _is_dataset(path: Path) -> bool:
    from .opening import recognise

    return recognise(path) is not None
