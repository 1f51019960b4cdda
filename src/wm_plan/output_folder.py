"""Where a command writes: a new numbered folder, or the user's own, filled all at once or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def check_output_folder(out: Path, *, overwrite: bool = False) -> None:
    """Refuse, before any work is done, a folder that could not be written.

    Raises:
        ValueError: it is a file, is not empty (without `overwrite`), or may not be written.
    """
    if os.path.isdir(out):
        if not overwrite and os.access(out, os.R_OK) and any(out.iterdir()):
            raise ValueError(f"output folder {str(out)!r} is not empty. Name another, or add --overwrite.")
    elif os.path.lexists(out):
        raise ValueError(f"--out {str(out)!r} exists and is not a folder. Name a folder.")
    parent = nearest_existing(out)
    if not parent.is_dir():
        raise ValueError(
            f"output folder {str(out)!r} cannot be made: {str(parent)!r} is a file. Name another --out."
        )
    try:  # asking os.access is not enough: root passes it on a read-only file system
        with tempfile.TemporaryFile(dir=parent):
            pass
        with suppress(FileNotFoundError):  # a name that is too long is another error
            os.stat(out)
    except OSError as error:
        raise ValueError(
            f"output folder {str(out)!r} cannot be written: {error.strerror or error}. Name another --out."
        ) from error


def check_resume(resume: bool, overwrite: bool, out: Path | None, what: str = "run") -> None:
    """Refuse a `--resume` that does not say what it goes on with.

    Raises:
        ValueError: without a folder, or together with `overwrite`.
    """
    if resume and (overwrite or not out):
        raise ValueError(f"--resume goes on with the {what} in --out DIR, and does not go with --overwrite.")


def nearest_existing(path: Path) -> Path:
    """Give the path itself, or its nearest parent that exists."""
    path = path.absolute()
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def next_numbered(name: str, root: Path = Path("runs")) -> Path:
    """Give the first free folder of `root/name-001`, `root/name-002`, ...; it is not made."""
    pattern = re.compile(re.escape(name) + r"-(\d+)$")
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    taken = [int(match[1]) for match in map(pattern.match, names) if match]
    return root / f"{name}-{max(taken, default=0) + 1:03d}"


@contextmanager
def filled_at_once(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` at the end; after an exception nothing is left behind.

    With `overwrite`, files of the same name are replaced and any other file in `out` is left alone.

    Raises:
        ValueError: as `check_output_folder`.
    """
    check_output_folder(out, overwrite=overwrite)
    existing = nearest_existing(out)
    first_made = None
    if existing != out.absolute():
        first_made = existing / out.absolute().relative_to(existing).parts[0]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=out.parent))
    partial.chmod(0o777 & ~_umask())
    try:
        yield partial
        if out.is_dir():
            for path in sorted(partial.rglob("*")):
                target = out / path.relative_to(partial)
                if path.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    os.replace(path, target)
        else:
            os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if first_made is not None and not out.exists():
            _remove_empty(out.parent, first_made)


def _remove_empty(folder: Path, last: Path) -> None:
    """Remove `folder` and its parents up to `last`, as far as they are empty."""
    folder = folder.absolute()
    with suppress(OSError):
        while folder == last or last in folder.parents:
            folder.rmdir()
            folder = folder.parent


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
