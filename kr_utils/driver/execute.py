"""One notebook in one kernel: papermill runs it, its lines come out as they are printed."""

from __future__ import annotations

import ast
import contextlib
import gc
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from kr_utils import runs, stages
from kr_utils.driver.plan import Job


class StageFailed(RuntimeError):
    """A notebook raised; the message names the cell, its error, and where the partial notebook is."""


def declared_parameters(notebook: Path) -> set[str]:
    """Names assigned in the cell tagged `parameters`."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            tree = ast.parse("".join(cell["source"]))
            return {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)}
    return set()


# What the kernels' libraries read when they start; torch takes the first.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
KERNELS: dict[int, str] = {}  # process -> its driver, of the stages that this process executes now
STOPPED: set[str] = set()  # drivers


def stop(driver: str = "") -> None:
    """End the kernels of a driver's stages in this process, and start no more of them."""
    STOPPED.add(driver)
    for pid in [pid for pid, owner in KERNELS.copy().items() if owner == driver]:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)  # a kernel leads a session of its own


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
    from jupyter_client import AsyncKernelManager
    from papermill.exceptions import PapermillExecutionError

    environment = dict.fromkeys(THREADS, str(threads)) if threads else {}
    paths = [str(stages.ROOT), os.environ.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}

    class Kernel(AsyncKernelManager):
        """papermill hands on no environment, and its `cwd` changes that of this whole process; so both go in here."""

        async def start_kernel(self, **options):
            folder = str(stages.NOTEBOOKS)
            await super().start_kernel(env={**os.environ, **environment}, cwd=folder, **options)
            self.seen = self.provisioner.pid
            KERNELS[self.seen] = driver
            if driver in STOPPED:
                stop(driver)

        async def cleanup_resources(self, restart: bool = False):
            KERNELS.pop(getattr(self, "seen", 0), None)
            await super().cleanup_resources(restart)

    notebook = stages.NOTEBOOKS / f"{stages.STAGES[job.stage][0]}.ipynb"
    unknown = set(job.parameters) - declared_parameters(notebook)
    if unknown:
        raise StageFailed(f"{notebook.name} declares no parameter {sorted(unknown)[0]!r}")
    partial = job.folder.with_name(f"{job.folder.name}.failed.ipynb")
    started = time.time()
    try:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(
            str(notebook),
            str(partial),
            parameters=job.parameters,
            kernel_name="python3",
            kernel_manager_class=Kernel,
            progress_bar=False,
            stdout_file=_Lines(on_line),
            extra_arguments=["--IPKernelApp.log_level=50"],  # nothing about TCP on loopback or its own shutdown
        )
    except PapermillExecutionError as error:
        reason = str(error.evalue).strip().splitlines() or [""]
        raise StageFailed(
            f"{notebook.name}, cell {error.cell_index}: {error.ename}: {reason[0]}; see {partial}"
        ) from error
    except Exception as error:  # a dead or missing kernel, no space, no port: each library has its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise StageFailed(f"{notebook.name}: {reason[0]}; see {partial}") from error
    finally:
        gc.collect()  # a client, its sockets and its event loop hold one another; 200 stages would pile up
    done = runs.read(job.folder)
    if done is None or done.manifest["fingerprint"] != job.fingerprint:
        raise StageFailed(f"{notebook.name} ran but left no result that matches its plan; see {partial}")
    shutil.move(partial, job.folder / "notebook.ipynb")
    return time.time() - started


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
