"""One notebook in one kernel: papermill runs it, its lines come out as they are printed."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kr_utils import InputError, owned, runs, stages
from kr_utils.driver import plan
from kr_utils.driver.plan import Job
from kr_utils.runs import cells, copies


class StageFailed(RuntimeError):
    """A notebook raised; the message names the cell, its error, and where the partial notebook is."""


# What the kernels' libraries read when they start; torch takes the first.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
KERNELS: dict[int, str] = {}  # process -> its driver, of the stages that this process executes now
STOPPED: set[str] = set()  # drivers
SOCKET_PATH = 90  # bytes: a socket's path may have 103 or 107 with its number, by system; beyond it, TCP on loopback
START_TIMEOUT = 600  # seconds that a kernel may need to come up, on a network's disk with a cold cache, say
# Of Python's own variables these may reach a kernel; others change what it computes or checks (PYTHONOPTIMIZE,
# PYTHONSTARTUP, PYTHONWARNINGS, ...).
PASSED = {"PYTHONPATH", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"}


def stop(driver: str = "") -> None:
    """End the kernels of a driver's stages in this process, and start no more of them."""
    STOPPED.add(driver)
    _kill_kernels(driver)


def _kill_kernels(driver: str) -> None:
    for pid in [pid for pid, owner in KERNELS.copy().items() if owner == driver]:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)  # a kernel leads a session of its own


@contextlib.contextmanager
def _ctrl_c_kills(driver: str):
    """Ctrl-C ends the kernels before papermill hears of it.

    papermill would interrupt them first, and the cell and each of its worker processes would print a traceback.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield  # another thread's, or a worker's own, way to stop
        return

    def kill_first(number, frame):
        logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)  # of tasks that still wait for a dead kernel
        _kill_kernels(driver)
        before(number, frame)

    signal.signal(signal.SIGINT, kill_first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def execute(
    job: Job, on_line: Callable[[str], None] = lambda line: None, threads: int | None = None, driver: str = ""
) -> float:
    """Run one stage's notebook; returns seconds, kernel start included.

    The executed notebook ends as `notebook.ipynb` in the stage's folder. papermill only warns of an
    unknown parameter, so that is refused here.

    Parameters
    ----------
    on_line : gets each line that the notebook prints
    threads : of the computing libraries in the kernel; None leaves them as they are
    driver : a name by which `stop` finds this driver's kernels

    Raises
    ------
    StageFailed
        A cell raised, or the kernel died; the partial notebook is kept beside the stage's folder.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    # papermill only warns of a parameter that there is not
    logging.getLogger("papermill").setLevel(logging.CRITICAL + 1)  # what it logs it raises as well
    notebook = stages.NOTEBOOKS / f"{stages.notebook(job.stage)}.ipynb"
    unknown = set(job.parameters) - cells.parameters(job.stage)
    if unknown:
        raise StageFailed(f"{notebook.name} declares no parameter {sorted(unknown)[0]!r}")

    # The notebook, in a kernel of its own
    partial = copies.at_work(job.folder)
    started = time.time()
    try:
        owned.vacate(partial)  # papermill would write through a link, and wait at a pipe
        with _ctrl_c_kills(driver), tempfile.TemporaryDirectory(prefix="kr-kernel-") as private:
            papermill.execute_notebook(
                str(notebook),
                str(partial),
                parameters=job.parameters,
                kernel_name="python3",
                kernel_manager_class=_kernel_class(Path(private), threads, driver),
                start_timeout=START_TIMEOUT,
                progress_bar=False,
                stdout_file=_Lines(on_line),
                extra_arguments=["--IPKernelApp.log_level=50"],  # nothing about TCP on loopback or its own shutdown
            )

    # What failed, in one line
    except PapermillExecutionError as error:
        reason = str(error.evalue).strip().splitlines() or [""]
        raise StageFailed(
            f"{notebook.name}, cell {error.cell_index}: {error.ename}: {reason[0]}; see {partial}"
        ) from error
    except Exception as error:  # a dead or missing kernel, no space, no port: each library has its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise StageFailed(f"{notebook.name}: {reason[0]}; see {partial}") from error
    finally:
        copies.scrub(partial, job.parameters)
        gc.collect()  # a client, its sockets and its event loop hold one another; 200 stages would pile up

    # What it left must be what was planned
    done = runs.read(job.folder)
    if not plan.matches(done, job):
        raise StageFailed(f"{notebook.name} ran but left no result that matches its plan; see {partial}")
    copies.keep(done, job.parameters)
    return time.time() - started


def environment(private: Path, threads: int | None) -> dict[str, str]:
    """The kernel's environment: the project's, whatever the user has set up for his own notebooks.

    private : an empty folder for Jupyter's and IPython's files, in place of the user's (start-up files, kernels)
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "JUPYTER", "IPYTHON"))}
    env |= {key: os.environ[key] for key in PASSED & set(os.environ)}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(stages.ROOT), os.environ.get("PYTHONPATH", "")]))
    env |= {"PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "IPYTHONDIR": str(private / "ipython")}
    env |= {f"JUPYTER_{kind}_DIR": str(private / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}

    # Figures: drawn into the notebook, from matplotlib's own defaults and the project's style.
    env["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    package = importlib.util.find_spec("matplotlib")
    env["MATPLOTLIBRC"] = str(Path(package.origin).parent / "mpl-data/matplotlibrc") if package else ""

    # Compiled code
    if not (env.get("TORCHINDUCTOR_CACHE_DIR") and env.get("TRITON_CACHE_DIR")):
        folder = _compiled(private)
        for name, place in (("TORCHINDUCTOR_CACHE_DIR", folder), ("TRITON_CACHE_DIR", folder / "triton")):
            env[name] = env.get(name) or str(place)
    return env | (dict.fromkeys(THREADS, str(threads)) if threads else {})


def _compiled(private: Path) -> Path:
    """Where torch keeps what it compiles, pickles among it: a folder of the user's own.

    Its usual place is in the shared temporary folder, where anybody could make it first, and fill it.
    """
    try:
        folder = (Path.home() / ".cache/knowledge-recycling").resolve() / "inductor"
        owned.make_private(folder)
    except (OSError, RuntimeError, InputError):  # no home, or none that can be written
        folder = private.resolve() / "inductor"
        owned.make_private(folder)
    return folder


def _kernel_class(private: Path, threads: int | None, driver: str) -> type:
    """The kernel manager for papermill: this interpreter, the environment above, known to `stop`."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class Kernel(AsyncKernelManager):
        """papermill hands on no environment, and its `cwd` changes that of this whole process; so both go in here.

        It talks through sockets in a folder of its own. Of many kernels that start at once two would take one TCP port,
        and the second would be waited for in vain.
        """

        # Not looked up: a "python3" on the user's JUPYTER_PATH may be any Python.
        kernel_spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3 (ipykernel)",
            language="python",
        )

        async def start_kernel(self, **options):
            self.connection_file, sockets = str(private / "kernel.json"), str(private / "kernel")
            if os.name == "posix" and len(os.fsencode(sockets)) <= SOCKET_PATH:
                self.transport, self.ip = "ipc", sockets
            await super().start_kernel(env=environment(private, threads), cwd=str(stages.NOTEBOOKS), **options)
            self.seen = self.provisioner.pid
            KERNELS[self.seen] = driver
            if driver in STOPPED:
                stop(driver)

        async def cleanup_resources(self, restart: bool = False):
            KERNELS.pop(getattr(self, "seen", 0), None)
            await super().cleanup_resources(restart)

    return Kernel


class _Lines:
    """A file that hands each complete line of a notebook's standard output to a function."""

    def __init__(self, on_line: Callable[[str], None]):
        self.on_line, self.rest = on_line, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if line.strip():
                self.on_line(line.strip())
        return len(text)

    def flush(self) -> None:
        pass
