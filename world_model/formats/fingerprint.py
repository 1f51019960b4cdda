"""Telling whether logged trajectories are the ones that were seen before, without reading gigabytes."""

import hashlib
import os
from pathlib import Path

_NOT_DATA = {"latents", "staging"}


def source_fingerprint(path: Path) -> str:
    """64 hexadecimal digits that change when a file at `path` comes, goes, or changes in size or time."""
    digest = hashlib.sha256()
    for name, file in sorted(_files(path)):
        stat = file.stat()
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(path: Path) -> list[tuple[str, Path]]:
    if not path.is_dir():
        return [("", path)]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_DATA]
        for name in names:
            file = Path(folder) / name
            if not name.startswith(".") and file.is_file():
                found.append((str(file.relative_to(path)), file))
    return found
