"""Where a result was made: commit, versions, processor, cores."""

from __future__ import annotations

import math
import os
import platform
import socket
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
    """Cores that this process may run on, and that its container's quota of processor time allows."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, quota() or allowed)


def busy(seconds: float = 0.5) -> tuple[float, int]:
    """(cores' worth in use at the moment by any program, cores), of those that this process may run on.

    seconds : how long to look
    """
    import psutil

    used = psutil.cpu_percent(interval=seconds, percpu=True)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(used))
    return sum(used[core] for core in allowed if core < len(used)) / 100, len(allowed)


def quota(root: Path = Path("/")) -> int | None:
    """Cores' worth of processor time that control groups grant (a container, a batch job), rounded up; None: no limit.

    Read from cpu.max (version 2) and cpu.cfs_quota_us (version 1) of this process's group and of those above it, for
    each of them limits it (Linux's Documentation/admin-guide/cgroup-v2.rst, scheduler/sched-bwc.rst).

    root : where proc and sys are
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    granted = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers

        # Inside a container the path may be the host's, of which only the last folder, the mount itself, is seen
        folder = mount / group.strip("/")
        for place in [folder, *folder.parents]:
            granted += _granted(place)
            if place == mount:
                break
    return math.ceil(min(granted)) if granted else None


def _granted(folder: Path) -> list[float]:
    """Cores that one control group grants, in a list of one; none where it sets no limit."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            time, period = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
            return [int(time) / int(period)] if int(time) > 0 else []
        except (OSError, ValueError, ZeroDivisionError):  # not there; "max"
            continue
    return []


def no_loopback() -> str:
    """Why a connection from this computer to itself fails, or "": kernels and workers talk through it."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            return ""
    except OSError as error:
        return f"127.0.0.1 cannot be reached ({error.strerror or error}): is the loopback interface up, a port free?"
