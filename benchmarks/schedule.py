#!/usr/bin/env python3
"""Many tiny stages through one local Dask cluster: is a stage lost, does a kernel stay, does memory grow?

    python benchmarks/schedule.py [STAGES [JOBS]]      (default 200 stages, 2 at a time)

Each stage is a notebook of two cells that runs through the driver's own path: plan, locks, Dask, papermill, kernel,
manifest. It imports no torch, so what is measured is the machinery. Exit code 1 if something was lost, left or grew.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil

PARAMETERS = """dataset: str = ""
profile: str = ""
seed: int = 0
overrides: dict = {}
data_root: str = ""
runs_dir: str = ""
interactive: bool = False"""
WORK = """from kr_utils import profiles, runs
where = {"dataset": dataset, "profile": profile, "seed": seed, "checksum": "c", "runs_dir": runs_dir}
runs.begin("start", profiles.budget("start", profile), **where).finish({"seed": seed})"""


def tiny_tree(folder: Path) -> None:
    """A copy of kr_utils whose only notebook does next to nothing."""
    shutil.copytree(Path(__file__).resolve().parent.parent / "kr_utils", folder / "kr_utils")
    (folder / "notebooks").mkdir()
    first = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(WORK)], metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "notebooks/00_start_here.ipynb")


def processes() -> dict[str, list[psutil.Process]]:
    found = {"driver": [psutil.Process()], "workers": [], "kernels": []}
    for child in psutil.Process().children(recursive=True):
        words = ""
        with contextlib.suppress(psutil.Error):  # a kernel that has just ended
            words = " ".join(child.cmdline())
        kind = "kernels" if "ipykernel" in words else "workers" if "spawn_main" in words else ""
        if kind:
            found[kind].append(child)
    return found


def main(stages: int = 200, jobs: int = 2) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_tree(folder)
        sys.path.insert(0, name)
        os.environ["PYTHONPATH"] = name  # for the workers
        from kr_utils import runs
        from kr_utils.driver import cluster, plan, report, schedule

        plan = plan.plan(
            "smoke", ["digits"], list(range(stages)), {"digits": "c"}, overrides={}, root=folder / "runs",
            figures=folder, until="start",
        )  # fmt: skip
        samples = []

        class Report(report.Reporter):
            def plain(self, text):  # a line per stage is too much
                pass

            def ended(self, job, word, why=""):
                now = processes()
                memory = [sum(p.memory_info().rss for p in now[kind]) / 2**20 for kind in ("driver", "workers")]
                samples.append((*memory, sum(p.num_fds() for kind in ("driver", "workers") for p in now[kind])))
                if len(samples) % 20 == 0:
                    print(len(samples), "stages: driver {:.0f} MiB, workers {:.0f} MiB, {} files".format(*samples[-1]))

        (folder / "runs").mkdir()
        started = time.time()
        with cluster.Cluster(jobs, "", 1, folder / "runs") as executor:
            seconds, failures = schedule.run(plan, executor, Report(plan), keep_going=True)
            took = time.time() - started
            kernels = processes()["kernels"]
        left = processes()
        done = runs.find(folder / "runs", "smoke")
        early, late = samples[stages // 5], samples[-1]  # after a fifth all imports and pools are there
        growth = [b - a for a, b in zip(early, late)]
        print(
            f"{len(done)} of {stages} stages done, {len(failures)} failed, {took / stages:.2f} s each, {jobs} at a time"
        )
        print(*(f"failed: {line}\n" for line in failures[:3]), end="", sep="")
        print(f"kernels left: {len(kernels)} before and {len(left['kernels'])} after the cluster closed")
        print(f"since stage {stages // 5}:", "driver {:+.1f} MiB, workers {:+.1f} MiB, {:+d} files".format(*growth))
        whole = len(done) == len(seconds) == stages and not failures
        return 0 if whole and not left["kernels"] and max(growth[:2]) < 50 and growth[2] < 20 else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
