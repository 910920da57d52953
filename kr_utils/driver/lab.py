"""`make lab`: JupyterLab on the notebooks, whose kernels are set up as those of the driver are.

The user's JupyterLab settings stay; start-up files, other kernels named python3 and Python's own variables do not
reach the kernels. The server listens on this computer only, and asks for its token.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from kr_utils import InputError, owned, paths, stages
from kr_utils.driver import estimate, execute, home
from kr_utils.runs import machine

FIRST = f"{stages.NOTEBOOKS.name}/{stages.STAGES['start'][0]}.ipynb"


def environment() -> dict[str, str]:
    """Of the server, which hands it on to its kernels.

    Where the home folder cannot be written, JupyterLab keeps its files, and the libraries their caches, in a private
    one in the project's cache; data files are still read where they are.
    """
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    kept = {key: os.environ[key] for key in own if key in os.environ}
    # The kernel of this environment comes before any other of that name.
    kept["JUPYTER_PREFER_ENV_PATH"] = "1"
    if home.writable():
        env = execute.environment(stages.ROOT / ".cache", None)
        return {key: value for key, value in env.items() if key not in own} | kept

    private = _instead_of_home()
    env = execute.environment(private, None)
    with contextlib.suppress(RuntimeError):  # nobody knows of a home folder
        data = Path.home() / ".cache/knowledge-recycling"
        kept |= {} if env.get("KR_DATA") or not data.is_dir() else {"KR_DATA": str(data)}
    env = {key: value for key, value in env.items() if key not in home.ELSEWHERE}
    return env | {"HOME": str(private)} | kept


def _instead_of_home() -> Path:
    """A folder of this user alone: in the project's cache, or where that cannot be written either, a temporary one."""
    private = stages.ROOT / ".cache/home"
    with contextlib.suppress(OSError, InputError):
        owned.make_private(private)
        if home.writable(private):
            return private
    return Path(tempfile.mkdtemp(prefix="kr-home-"))


def command(arguments: list[str]) -> list[str]:
    """JupyterLab on the whole repository, so that runs/ is in sight, with notebook 00 open."""
    call = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={stages.ROOT}", "--ServerApp.ip=127.0.0.1"]
    return [*call, f"--LabApp.default_url=/lab/tree/{FIRST}?file-browser-path=/", *arguments]


def main(arguments: list[str]) -> int:
    """Become JupyterLab; what cannot be done is one line. Returns the exit code then."""
    try:
        runs = paths.runs_root()
        owned.make(runs)
        told, env = estimate.crowded(machine.cores(), remedy="start again with OMP_NUM_THREADS="), environment()
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"results: {runs}", flush=True)
    if env.get("HOME") != os.environ.get("HOME"):
        print(f"your home folder cannot be written: JupyterLab keeps its files in {env['HOME']}", flush=True)
    if told:
        print(told, flush=True)
    # JupyterLab opens the right address itself, but prints it with a second "?" before its token
    print('if no browser opens: copy the link below, with "&token=" in place of "?token="', flush=True)
    os.execve(sys.executable, command(arguments), env)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
