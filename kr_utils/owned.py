"""Everything that the project writes, deletes or renames goes through here, and so never through a link.

A link that lies below the runs or figures folder, forgotten or planted, may lead anywhere. So each folder on the way
to a file is opened as what it is, a folder, from the one above it; and a file is made new under another name and then
renamed, which replaces whatever had its name (a link, a pipe) without touching what that leads to. The folders that
people name themselves may be links: `paths.absolute` has resolved them before.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kr_utils import InputError

# O_PATH, where there is one, needs no permission to list a folder, as a plain path needs none.
LARGEST, NOTE = 2**28, 2**20  # bytes of a text that is read whole; of a note that a process leaves about itself
PATIENCE = 3600  # seconds that a writer on another computer may need
FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", os.O_RDONLY)

_COUNT = itertools.count()  # files that this process began to write
_OWN: set[str] = set()  # temporary names of those that it has not finished


class NotDeletable(InputError, PermissionError):
    """A leftover, usually another user's, that stands in the way."""


@contextlib.contextmanager
def inside(folder: Path, make: bool = False) -> Iterator[int]:
    """A descriptor of a folder that was reached without following a link.

    make : create the folders that are missing

    Raises
    ------
    InputError
        A part of the path is a link, or anything else but a folder.
    OSError
        It is not there, or may not be entered.
    """
    here = os.open(folder.anchor or ".", FOLDER)
    names = folder.parts[bool(folder.anchor) :]
    try:
        for number, name in enumerate(names):
            try:
                below = _step(name, here, make)
            except OSError as error:
                path = Path(folder.anchor, *names[: number + 1])
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise InputError(_in_the_way(path)) from error
                error.filename = str(path)
                raise
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def _in_the_way(path: Path) -> str:
    if path.is_symlink():
        return (
            f"{path}: a link; nothing is written or deleted through links: delete it, or put the folder that it leads "
            f"to in its place"
        )
    return f"{path}: not a folder; move it away"


def _step(name: str, here: int, make: bool) -> int:
    try:
        return os.open(name, FOLDER, dir_fd=here)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):  # somebody else made it meanwhile
        os.mkdir(name, dir_fd=here)
    return os.open(name, FOLDER, dir_fd=here)


def make(folder: Path) -> None:
    """Create a folder, and those above it, where they are missing."""
    with inside(folder, make=True):
        pass


def make_private(folder: Path) -> None:
    """Create a folder that nobody else may look into, or make it one; those above it are as the umask says.

    Raises
    ------
    InputError
        It is a link, no folder, or another user's.
    """
    with inside(folder.parent, make=True) as above:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder.name, 0o700, dir_fd=above)
        found = os.lstat(folder.name, dir_fd=above)
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
            raise InputError(f"{folder}: not a folder of yours; move it away")
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.chmod(folder.name, 0o700, dir_fd=above)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A new binary file, which takes the place of `path` when all of it is on the disk, or leaves no trace.

    A reader sees the old or the new content, never half of it, whoever else writes the same file now: each writer has a
    temporary name of its own, and the last one stays. What a killed one left is removed by the next. The file may be
    read by whom the umask allows.
    """
    with inside(path.parent) as folder:
        _sweep(path, folder)
        temporary, number = _temporary(path.name, folder)
        _OWN.add(temporary)
        try:
            with open(number, "w+b") as file:
                yield file
                file.flush()
                os.fsync(number)
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException as error:
            _delete(path.with_name(temporary), folder)
            if isinstance(error, IsADirectoryError):
                raise InputError(f"{path}: a folder, where a file belongs; move it away") from error
            raise
        finally:
            _OWN.discard(temporary)


def _here() -> str:
    """This computer, or this container on it, in eight letters: elsewhere a process's number is another process."""
    numbered = 0
    with contextlib.suppress(OSError):
        numbered = os.stat("/proc/self/ns/pid").st_ino
    return f"{zlib.crc32(f'{socket.gethostname()} {numbered}'.encode()):08x}"


def _temporary(name: str, folder: int) -> tuple[str, int]:
    """The name and the descriptor of a new file beside `name`, of this writer alone."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW  # new: neither a link nor somebody's other file
    while True:
        temporary = f".{name}.{_here()}-{os.getpid()}-{next(_COUNT)}.tmp"
        with contextlib.suppress(FileExistsError):  # left by a dead process of this number
            return temporary, os.open(temporary, flags, 0o666, dir_fd=folder)


def _sweep(path: Path, folder: int) -> None:
    """Delete what writers of `path` left that were killed.

    One of this computer is dead if there is no such process; one of another computer counts as dead after an hour.
    What cannot be deleted stands in nobody's way.
    """
    writer = re.compile(rf"\.{re.escape(path.name)}(?:\.([0-9a-f]{{8}})-([0-9]{{1,9}})-[0-9]+)?\.tmp")
    try:
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)  # `folder` may be one that cannot be listed
    except OSError:  # nor may this user
        return
    try:
        found = [match for name in os.listdir(here) if (match := writer.fullmatch(name))]
    finally:
        os.close(here)
    for match in found:
        if not _at_work(match[0], match[1], int(match[2] or 0), folder):
            with contextlib.suppress(NotDeletable):
                _delete(path.with_name(match[0]), folder)


def _at_work(name: str, place: str | None, process: int, folder: int) -> bool:
    """Whether the writer of a temporary file may still be at it."""
    if not process:  # of a name without one: no such writer is left
        return False
    try:
        found = os.lstat(name, dir_fd=folder)
        if not stat.S_ISREG(found.st_mode):
            return False
        if place != _here():
            return time.time() - found.st_mtime < PATIENCE
        if process == os.getpid():
            return name in _OWN
        os.kill(process, 0)
    except (ProcessLookupError, FileNotFoundError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file, a text as UTF-8, as `writing` does."""
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def reading(path: Path) -> BinaryIO:
    """An ordinary file, open for reading; OSError where there is anything else: a pipe would let us wait for ever.

    A link may lead to it: a finished stage may have been moved to another disk.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return open(number, "rb")


def read_text(path: Path, most: int = LARGEST) -> str:
    """The text, in UTF-8, of an ordinary file; OSError where it has more than `most` bytes: it is none of ours.

    A file with a hole in it takes no room on a disk, and all of it in memory.
    """
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read(size).decode()  # one that grows meanwhile is read as far as it was


def lock_file(path: Path) -> int:
    """A descriptor of an empty file to lock: made where it is missing, only read where it is another user's."""
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    with inside(path.parent) as folder:
        try:
            number = os.open(path.name, os.O_RDWR | flags, 0o666, dir_fd=folder)
        except PermissionError:
            number = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return number


def remove(path: Path) -> None:
    """Delete a file, a link (not what it leads to), or a folder with all that is in it; nothing there is fine.

    Raises
    ------
    NotDeletable
        It is still there.
    """
    with contextlib.suppress(FileNotFoundError), inside(path.parent) as folder:
        _delete(path, folder)


def _delete(path: Path, folder: int) -> None:
    """folder : that of the path, open"""
    try:
        os.unlink(path.name, dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError as error:  # unlink refuses a folder, with EISDIR or EPERM
        if _is_folder(path.name, folder):
            shutil.rmtree(path.name, ignore_errors=True, dir_fd=folder)  # it follows no link either
            if not _is_folder(path.name, folder):
                return
        elif not isinstance(error, PermissionError):
            raise
        raise NotDeletable(f"{path}: a leftover that cannot be deleted by you; have it removed") from error


def _is_folder(name: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode)
    except (FileNotFoundError, PermissionError):
        return False


def rename(path: Path, target: Path) -> None:
    """Give a file, link or folder another name; a file replaces what has that name, a folder only an empty one."""
    with inside(path.parent) as source, inside(target.parent) as folder:
        os.replace(path.name, target.name, src_dir_fd=source, dst_dir_fd=folder)


def vacate(path: Path) -> None:
    """Make the path free for somebody else's plain `open`: what is no ordinary file of one name is deleted.

    Raises
    ------
    InputError
        A folder is there, or a part of the path is a link.
    """
    with inside(path.parent, make=True) as folder:
        try:
            found = os.lstat(path.name, dir_fd=folder)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise InputError(f"{path}: a folder, where a file belongs; move it away")
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.unlink(path.name, dir_fd=folder)
