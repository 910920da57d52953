"""What a file was like when it was written, and whether it still is: how damage to an artefact is found."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from kr_utils import owned

LARGE = 2**20  # bytes


def stamp(path: Path) -> list:
    """[size, SHA-256, time of the last change in ns] of a file."""
    with owned.reading(path) as file:
        stat = os.fstat(file.fileno())
        return [stat.st_size, hashlib.file_digest(file, "sha256").hexdigest(), stat.st_mtime_ns]


def stamps(folder: Path) -> dict[str, list]:
    """The stamp of every ordinary file of a folder, by name; links are none of ours."""
    return {path.name: stamp(path) for path in sorted(folder.iterdir()) if path.is_file() and not path.is_symlink()}


def stands(path: Path, written: list, whole: bool = False) -> bool:
    """Whether a file is still as its stamp says.

    As git does, a large file whose size and time are those of the stamp is not read again, so that a plan over
    many runs stays cheap; after a copy the time differs, and the content decides. `whole`: the content decides
    in any case, as it must when weights are about to be loaded. PermissionError where it may not be read.
    """
    if not path.is_file():
        return False
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    size, digest, time = written
    stat = path.stat()
    if stat.st_size != size:
        return False
    if not whole and size > LARGE and stat.st_mtime_ns == time:
        return True
    return stamp(path)[1] == digest


def digests(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of files below a folder, by name."""
    return {name: stamp(folder / name)[1] for name in names}


def is_content(path: Path, digest: str) -> bool:
    """Whether a file is there and has this SHA-256."""
    return path.is_file() and stamp(path)[1] == digest
