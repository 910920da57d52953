"""The stage graph over papermill: what must run, why, and running it. Never imports torch or diffusers."""

from __future__ import annotations

import ast
import contextlib
import datetime
import gc
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from kr_utils import InputError, fingerprints, folders, profiles, runs


class StageFailed(RuntimeError):
    """A notebook raised; the message names the cell, its error, and where the partial notebook is."""


@dataclass(frozen=True, eq=False)  # a job is its own key
class Job:
    """One stage of one dataset and seed: whether it runs, and why."""

    stage: str
    dataset: str
    seed: int
    folder: Path
    parameters: dict
    fingerprint: str
    reuse: bool
    reason: str
    seconds: float | None  # it took last time
    expected: float | None = None  # seconds: last time's, else the mean of the dataset's other seeds

    @property
    def where(self) -> str:
        return "all runs" if self.stage == "compare" else f"{self.dataset} seed {self.seed}"

    @property
    def title(self) -> str:
        return f"{self.where}  {fingerprints.STAGES[self.stage][0]}"


def stages_until(until: str | None) -> list[str]:
    """The stages to run, in order; `until` is the last one (default: all)."""
    names = list(fingerprints.STAGES)
    if until is None:
        return names
    if until not in names:
        raise InputError(f"unknown stage {until[:60]!r} in --until; choose one of: {', '.join(names)}")
    return names[: names.index(until) + 1]


def parse_settings(settings: list[str], profile: str) -> dict[str, dict]:
    """`stage.field=value` texts -> {stage: {field: value}}, checked against the profile's budgets."""
    out: dict[str, dict] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        stage, dot, field = name.strip().partition(".")
        if not (equals and dot and stage and field):
            raise InputError(f"--set {text[:80]!r}: write stage.field=value, such as generator.steps=3000")
        parsed = profiles.budget(stage, profile, {field: value.strip()})
        if out.get(stage, {}).get(field, getattr(parsed, field)) != getattr(parsed, field):
            raise InputError(f"--set {stage}.{field} is given twice, with different values; keep one")
        out.setdefault(stage, {})[field] = getattr(parsed, field)
    return out


def plan(
    profile: str,
    datasets: list[str],
    seeds: list[int],
    checksums: dict[str, str],
    *,
    overrides: dict[str, dict],
    root: Path,
    figures: Path,
    data_root: str = "",
    until: str | None = None,
    force: bool = False,
) -> list[Job]:
    """Every stage in running order, each marked run or reuse with the reason.

    Parameters
    ----------
    checksums : dataset -> checksum of its content
    overrides : as `parse_settings` makes them
    root, figures : absolute folders of runs and figures
    """
    folders.interval()  # refuses a bad KR_SAVE_SECONDS before anything runs
    jobs: list[Job] = []
    wanted = stages_until(until)
    common = {"profile": profile, "runs_dir": str(root), "interactive": False}
    predicted: dict[str, str] = {}
    seconds: dict[tuple[str, str], list[float]] = {}  # dataset, stage
    for (dataset, seed), done in runs.find(root, profile).items():
        for stage, item in done.items():
            seconds.setdefault((dataset, stage), []).append(item.manifest["seconds"])
        if runs.complete(done):
            predicted |= {f"{dataset}/seed{seed}/{s}": item.manifest["fingerprint"] for s, item in done.items()}
    for dataset in datasets:
        for seed in seeds:
            prints: dict[str, str] = {}
            for stage in [s for s in wanted if s != "compare"]:
                upstream = {need: prints[need] for need in fingerprints.STAGES[stage][1]}
                parameters = {**common, "dataset": dataset, "seed": seed, "data_root": data_root}
                job = _job(stage, dataset, seed, checksums[dataset], upstream, overrides, parameters, root, force)
                if job.expected is None and (dataset, stage) in seconds:
                    job = replace(job, expected=fmean(seconds[dataset, stage]))
                prints[stage] = job.fingerprint
                jobs.append(job)
            if "membership" in wanted:
                predicted |= {f"{dataset}/seed{seed}/{s}": value for s, value in prints.items()}
    if "compare" in wanted:
        parameters = {**common, "figures_dir": str(figures)}
        jobs.append(_job("compare", "", 0, "", predicted, overrides, parameters, root, force))
    return jobs


def _job(stage, dataset, seed, checksum, upstream, overrides, parameters, root, force) -> Job:
    profile = parameters["profile"]
    budget = profiles.budget(stage, profile, overrides.get(stage))
    parts = fingerprints.ingredients(stage, dataset, seed, asdict(budget), checksum, upstream)
    folder = runs.stage_dir(root, profile, dataset, seed, stage)
    done = runs.read(folder)
    now = fingerprints.fingerprint(parts)
    if done is None:
        reason = "its files are incomplete, damaged or of another version" if folder.exists() else "not run yet"
    elif force:
        reason = "--force"
    elif done.manifest["fingerprint"] != now:
        reason = fingerprints.what_changed(done.manifest["ingredients"], parts)
    elif stage == "compare" and not _figures_stand(done, Path(parameters["figures_dir"])):
        reason = "its figures are not in the figures folder, or results.csv there is newer"
    else:
        reason = "up to date"
    return Job(
        stage,
        dataset,
        seed,
        folder,
        # papermill hands on numbers, texts, lists and dicts, but not tuples.
        {**parameters, "overrides": runs.plain(overrides.get(stage, {}))},
        now,
        reason == "up to date",
        reason,
        done.manifest["seconds"] if done else None,
        done.manifest["seconds"] if done else None,
    )


def _figures_stand(done: runs.Done, figures: Path) -> bool:
    files = [figures / name for name in done.metrics.get("figures", [])]
    made = (done.path / "manifest.json").stat().st_mtime
    # Rows of other runs may have come into the table, which 08 reads.
    return all(f.is_file() and (f.name != "results.csv" or f.stat().st_mtime <= made) for f in files)


def tidy(job: Job) -> None:
    """Put right what a kill left around a result that stands: folders half renamed, the notebook's copy not moved."""
    runs.settle(job.folder)
    done, copy = runs.read(job.folder), job.folder.with_name(f"{job.folder.name}.failed.ipynb")
    if done and copy.is_file() and not (job.folder / "notebook.ipynb").exists():
        made = datetime.datetime.fromtimestamp(copy.stat().st_mtime, datetime.UTC)
        if made >= datetime.datetime.fromisoformat(done.manifest["started"]):
            shutil.move(copy, job.folder / "notebook.ipynb")


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
    paths = [str(fingerprints.ROOT), os.environ.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}

    class Kernel(AsyncKernelManager):
        """papermill hands on no environment, and its `cwd` changes that of this whole process; so both go in here."""

        async def start_kernel(self, **options):
            folder = str(fingerprints.NOTEBOOKS)
            await super().start_kernel(env={**os.environ, **environment}, cwd=folder, **options)
            self.seen = self.provisioner.pid
            KERNELS[self.seen] = driver
            if driver in STOPPED:
                stop(driver)

        async def cleanup_resources(self, restart: bool = False):
            KERNELS.pop(getattr(self, "seen", 0), None)
            await super().cleanup_resources(restart)

    notebook = fingerprints.NOTEBOOKS / f"{fingerprints.STAGES[job.stage][0]}.ipynb"
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
