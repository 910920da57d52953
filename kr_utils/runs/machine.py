"""Where a result was made: commit, versions, processor, cores."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from kr_utils.stages import ROOT


def git_commit() -> str | None:
    """The commit of this repository that the code was run from, "+changes" if the tree differs from it.

    None where the code is not in a git repository of its own: a copy inside another one says nothing of that one.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    call = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 10, "check": True}
    try:
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], **call).stdout.strip()
        if Path(top).resolve() != ROOT:
            return None
        subprocess.run(["git", "ls-files", "--error-unmatch", "kr_utils/stages.py"], **call)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **call).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "--", "kr_utils", "notebooks"], **call).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if dirty else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    names = ("torch", "torchvision", "diffusers", "medmnist", "numpy", "scikit-learn", "papermill")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def hardware() -> dict:
    """Processor, cores, threads of the computing libraries, GPU."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name(0) if torch and torch.cuda.is_available() else None
    threads = torch.get_num_threads() if torch else cores()
    return {"cpu": model, "cores": os.cpu_count(), "threads": threads, "gpu": gpu}


def this_machine() -> dict:
    """`versions` and `hardware` together, for people to read."""
    return {**versions(), **hardware()}


def cores() -> int:
    """Cores to use: OMP_NUM_THREADS where it is set, else those that this process may run on."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isascii() and said.isdigit() and int(said) else bound()


def bound() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
