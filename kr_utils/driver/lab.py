"""`make lab`: JupyterLab on the notebooks, whose kernels are set up as those of the driver are.

The user's JupyterLab settings stay; start-up files, other kernels named python3 and Python's own variables do not
reach the kernels. The server listens on this computer only, and asks for its token.
"""

from __future__ import annotations

import os
import sys

from kr_utils import owned, paths, stages
from kr_utils.driver import estimate, execute
from kr_utils.runs import machine

FIRST = f"{stages.NOTEBOOKS.name}/{stages.STAGES['start'][0]}.ipynb"


def environment() -> dict[str, str]:
    """Of the server, which hands it on to its kernels."""
    private = stages.ROOT / ".cache"
    env = execute.environment(private, None)
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    kept = {key: os.environ[key] for key in own if key in os.environ}
    # The kernel of this environment comes before any other of that name.
    return {key: value for key, value in env.items() if key not in own} | kept | {"JUPYTER_PREFER_ENV_PATH": "1"}


def command(arguments: list[str]) -> list[str]:
    """JupyterLab on the whole repository, so that runs/ is in sight, with notebook 00 open."""
    call = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={stages.ROOT}", "--ServerApp.ip=127.0.0.1"]
    return [*call, f"--LabApp.default_url=/lab/tree/{FIRST}?file-browser-path=/", *arguments]


def main(arguments: list[str]) -> None:
    """Become JupyterLab."""
    runs = paths.runs_root()
    owned.make(runs)
    print(f"results: {runs}", flush=True)
    if told := estimate.crowded(machine.cores(), remedy="start again with OMP_NUM_THREADS="):
        print(told, flush=True)
    # JupyterLab opens the right address itself, but prints it with a second "?" before its token
    print('if no browser opens: copy the link below, with "&token=" in place of "?token="', flush=True)
    os.execve(sys.executable, command(arguments), environment())


if __name__ == "__main__":
    main(sys.argv[1:])
