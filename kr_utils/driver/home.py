"""A home folder for the libraries that want one: matplotlib, IPython and Jupyter keep their caches there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

ELSEWHERE = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")  # usually below the home folder


@contextlib.contextmanager
def usable() -> Iterator[None]:
    """A private home folder while this lasts, here and in processes started here, if the user's cannot be written."""
    if writable():
        yield
        return
    before = {name: os.environ.pop(name, None) for name in ("HOME", *ELSEWHERE)}
    with tempfile.TemporaryDirectory(prefix="kr-home-", ignore_cleanup_errors=True) as folder:
        os.environ["HOME"] = folder
        try:
            yield
        finally:
            del os.environ["HOME"]
            os.environ.update({name: value for name, value in before.items() if value is not None})


def writable(folder: Path | None = None) -> bool:
    """Whether there is a home folder (or this folder) with some room; the trial leaves nothing."""
    try:
        with tempfile.TemporaryFile(dir=folder or Path.home()) as file:
            file.write(bytes(4096))
    except (OSError, RuntimeError):  # RuntimeError: nobody knows of one
        return False
    return True
