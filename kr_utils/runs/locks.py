"""One worker at a time: a driver holds the lock of a dataset and seed, a notebook's kernel that of its stage.

The lock is the operating system's (through filelock), so it ends with the process that holds it, however that
process dies. A small JSON file beside it says who holds it; it is there to be read by people.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from kr_utils import InputError

HELD: dict[str, Lock] = {}  # by this process; a cell that opens its stage may be run twice in one kernel


class Lock:
    """A lock that this process holds, until `release` or the end of the process."""

    def __init__(self, path: Path, native, took_over: dict | None):
        self.path, self.native, self.took_over = path, native, took_over

    def release(self) -> None:
        """Give it back; harmless where that has been done. The empty lock file stays, as locks on a name must."""
        if HELD.pop(str(self.path), None) is not None:
            _note(self.path).unlink(missing_ok=True)
            self.native.release()


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
    import filelock

    if str(path) in HELD:
        return HELD[str(path)]
    # Not thread-local: papermill and Dask may release in another thread than took it.
    native = filelock.FileLock(str(path), thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        native.acquire(timeout=wait if wait else 0.5, poll_interval=0.1)  # `holder` looks for less than that
    except filelock.Timeout:
        raise InputError(
            f"{what} is being worked on by {told(read_note(path))}; wait until that has finished, or end it first"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be locked ({error.strerror}); use a folder you may write to, where files can be locked"
        ) from error
    left = read_note(path)
    if this_host_only and left and left.get("host") != socket.gethostname():
        native.release()
        raise InputError(
            f"{what} is locked by {told(left)}, which cannot be seen from here; if it is dead, delete {_note(path)}"
        )
    lock = HELD[str(path)] = Lock(path, native, left)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    note = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "command": " ".join(sys.argv)[:200]}
    try:
        temporary = _note(path).with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(note), encoding="utf-8")
        os.replace(temporary, _note(path))
    except OSError as error:
        lock.release()
        raise InputError(f"{path.parent}: cannot be written ({error.strerror})") from error
    return lock


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
    """Who holds a lock now, or None. Never takes it for longer than a look."""
    import filelock

    if not path.is_file():
        return None
    if str(path) in HELD:
        return read_note(path) or {}
    native = filelock.FileLock(str(path), thread_local=False)
    try:
        native.acquire(timeout=0)
    except (filelock.Timeout, OSError):  # a folder that may only be read: the note is all there is
        return read_note(path) or {}
    native.release()
    return None


def forget(path: Path) -> None:
    """Remove the note of a holder that died; that of a living one stays."""
    import filelock

    if str(path) in HELD or not _note(path).is_file():
        return
    native = filelock.FileLock(str(path), thread_local=False)
    with contextlib.suppress(filelock.Timeout, OSError):
        native.acquire(timeout=0)
        _note(path).unlink(missing_ok=True)
        native.release()


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


def read_note(path: Path) -> dict | None:
    """What the holder, or the last one that died, wrote about itself; None if nothing can be read."""
    try:
        note = json.loads(_note(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def told(note: dict | None) -> str:
    """A holder in words."""
    note = note or {}
    words = {key: str(note.get(key, "?"))[:60] for key in ("pid", "host", "since")}
    return f"process {words['pid']} on {words['host']} since {words['since']}"
