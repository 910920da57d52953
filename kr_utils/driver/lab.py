"""`make lab`: JupyterLab on the notebooks, whose kernels are set up as those of the driver are.

The user's JupyterLab settings stay; start-up files, other kernels named python3 and Python's own variables do not
reach the kernels.
"""

from __future__ import annotations

import os
import sys

from kr_utils import stages
from kr_utils.driver import execute


def environment() -> dict[str, str]:
    """Of the server, which hands it on to its kernels."""
    private = stages.ROOT / ".cache"
    env = execute.environment(private, None)
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    kept = {key: os.environ[key] for key in own if key in os.environ}
    # The kernel of this environment comes before any other of that name.
    return {key: value for key, value in env.items() if key not in own} | kept | {"JUPYTER_PREFER_ENV_PATH": "1"}


def main(arguments: list[str]) -> None:
    """Become JupyterLab."""
    call = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={stages.NOTEBOOKS}", *arguments]
    os.execve(sys.executable, call, environment())


if __name__ == "__main__":
    main(sys.argv[1:])
