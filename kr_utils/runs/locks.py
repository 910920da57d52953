"""One worker at a time: a driver holds the lock of a dataset and seed, a notebook's kernel that of its stage.

The lock is the operating system's (through filelock), so it ends with the process that holds it, however that
process dies. A small JSON file beside it says who holds it; it is there to be read by people.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from kr_utils import InputError, owned, plain

HELD: dict[str, Lock] = {}  # by this process; a cell that opens its stage may be run twice in one kernel


class Lock:
    """A lock that this process holds, until `release` or the end of the process."""

    def __init__(self, path: Path, descriptor: int, took_over: dict | None):
        self.path, self.descriptor, self.took_over = path, descriptor, took_over

    def release(self) -> None:
        """Give it back; harmless where that has been done. The empty lock file stays, as locks on a name must."""
        if HELD.pop(str(self.path), None) is not None:
            with contextlib.suppress(OSError, InputError):  # the folder may have gone
                owned.remove(_note(self.path))
            _let_go(self.descriptor)


def driver_path(root: Path, profile: str, dataset: str = "", seed: int = 0) -> Path:
    """The lock of the driver of a dataset and seed; without a dataset, that of the profile's comparison."""
    folder = root / profile / dataset / f"seed{seed}" if dataset else root / profile
    return folder / ".driver.lock"


def stage_path(folder: Path) -> Path:
    """The lock of the kernel that makes the stage in `folder`."""
    return folder.with_name(f".{folder.name}.lock")


def hold(path: Path, what: str, *, wait: float = 0, this_host_only: bool = False) -> Lock:
    """Take a lock, or refuse in one line that names the holder.

    Parameters
    ----------
    what : in words, e.g. "digits seed 0 of profile quick"
    wait : seconds to wait for another holder; -1: for ever
    this_host_only : trust the operating system only about processes of this computer, and refuse a lock whose note
        was left by another one: some network file systems lock for one computer at a time

    Raises
    ------
    InputError
        Somebody else holds it, or nothing can be locked there.
    """
    if str(path) in HELD:
        return HELD[str(path)]

    # The lock itself.
    try:
        owned.make(path.parent)
        descriptor = _acquire(path, wait if wait else 0.5)  # `holder` looks for less than that
    except TimeoutError:
        raise InputError(
            f"{what} is being worked on by {told(read_note(path))}; wait until that has finished, or end it first"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be locked ({error.strerror}); use a folder you may write to, where files can be locked"
        ) from error

    # Whoever had it before, and died.
    left = read_note(path)
    if this_host_only and left and left.get("host") != socket.gethostname():
        _let_go(descriptor)
        raise InputError(
            f"{what} is locked by {told(left)}, which cannot be seen from here; if it is dead, delete {_note(path)}"
        )

    # Who has it now.
    lock = HELD[str(path)] = Lock(path, descriptor, left)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        owned.write(_note(path), json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
    except (OSError, InputError) as error:
        lock.release()
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{_note(path)}: cannot be written ({reason}); use a folder you may write to") from error
    return lock


def _acquire(path: Path, wait: float) -> int:
    """A descriptor that holds the lock until it is closed; TimeoutError after `wait` seconds (-1: never)."""
    import filelock

    end = math.inf if wait < 0 else time.monotonic() + wait
    while True:
        descriptor = owned.lock_file(path)
        try:
            if filelock.lock_descriptor(descriptor, blocking=False) and _named(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.1)


def _let_go(descriptor: int) -> None:
    import filelock

    filelock.unlock_descriptor(descriptor)  # closing is not enough: a forked process has the same lock
    os.close(descriptor)


def _named(path: Path, descriptor: int) -> bool:
    """Whether the file still has its name: a lock on one that was deleted meanwhile keeps nobody out."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def driving(root: Path, profile: str, wanted: list[tuple[str, int]]) -> Iterator[list[str]]:
    """Hold the driver's lock of each dataset and seed, or refuse; gives a line per lock that a dead driver left."""
    with contextlib.ExitStack() as stack:
        lines = []
        for dataset, seed in wanted:
            what = f"{dataset} seed {seed} of profile {profile}"
            lock = hold(driver_path(root, profile, dataset, seed), what, this_host_only=True)
            stack.callback(lock.release)
            if lock.took_over:
                lines.append(f"{what}: {told(lock.took_over)} died at work; going on from what it left")
        yield lines


def holder(path: Path) -> dict | None:
    """Who holds a lock now, or None. Never takes it for longer than a look, and then shared with others who look.

    Reading the file is enough for that, on NFS too, where an exclusive lock needs a file that is open for writing.
    Where the file system does not say whether it is free, somebody may hold it: the holder is {}, unless his note says.
    """
    import fcntl

    if str(path) in HELD:
        return read_note(path) or {}
    try:
        file = owned.reading(path)
    except OSError:  # no such file, or one that cannot be looked at
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # held (EWOULDBLOCK), or not to be known
            return read_note(path) or {}
        fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough, see `_let_go`
    return None


def forget(path: Path) -> None:
    """Remove the note of a holder that died; that of a living one stays."""
    if str(path) in HELD or not _note(path).is_file():
        return
    with contextlib.suppress(OSError, InputError):  # TimeoutError is one
        descriptor = _acquire(path, 0)
        try:
            owned.remove(_note(path))
        finally:
            _let_go(descriptor)


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


def read_note(path: Path) -> dict | None:
    """What the holder, or the last one that died, wrote about itself; None if nothing can be read."""
    try:
        note = json.loads(owned.read_text(_note(path), owned.NOTE))
    except (OSError, ValueError, RecursionError):
        return None
    return note if isinstance(note, dict) else None


TOLD = re.compile(r"process \S+ on \S+ since \S+")  # what `told` says


def told(note: dict | None) -> str:
    """A holder in words. Any neighbour may have written the note: each part is one printable word, for `TOLD`."""
    note = note or {}
    given = {key: str(note.get(key, ""))[:60] for key in ("pid", "host", "since")}
    words = {key: plain(text).replace(" ", "?") or "?" for key, text in given.items()}
    return f"process {words['pid']} on {words['host']} since {words['since']}"
