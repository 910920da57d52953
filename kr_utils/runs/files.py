"""What a file was like when it was written, and whether it still is: how damage to an artefact is found."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

LARGE = 2**20  # bytes


def stamp(path: Path) -> list:
    """[size, SHA-256, time of the last change in ns] of a file."""
    stat = path.stat()
    with open(path, "rb") as file:
        return [stat.st_size, hashlib.file_digest(file, "sha256").hexdigest(), stat.st_mtime_ns]


def stands(path: Path, written: list, whole: bool = False) -> bool:
    """Whether a file is still as its stamp says.

    As git does, a large file whose size and time are those of the stamp is not read again, so that a plan over
    many runs stays cheap; after a copy the time differs, and the content decides. `whole`: the content decides
    in any case, as it must when weights are about to be loaded.
    """
    if not path.is_file():  # nor is a pipe read, which would wait for ever
        return False
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


def text(path: Path) -> str:
    """A text file's content; OSError where there is something else, such as a pipe."""
    if not path.is_file():
        raise OSError(f"{path} is not a file")
    return path.read_text(encoding="utf-8")


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new content, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp")  # one name: what a kill leaves is written over by the next
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
