"""The stage graph, and what makes a stage's result stale: code, budget, data, upstream. Also where it was made."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from kr_utils import InputError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"

# stage -> (notebook, stages whose files it reads)
STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "start": ("00_start_here", ()),
    "teacher": ("01_teacher", ()),
    "generator": ("02_generator", ()),
    "checkpoints": ("03_checkpoints", ("teacher", "generator")),
    "tuning": ("04_tuning", ("teacher", "generator", "checkpoints")),
    "distillation": ("05_distillation", ("teacher", "generator", "checkpoints", "tuning")),
    "membership": ("06_membership", ("teacher", "generator", "checkpoints", "tuning", "distillation")),
    "compare": ("08_compare", ()),  # reads every finished run of its profile
}
# Files that draw or store but cannot change a number; only 08, which is all drawing, depends on the first two.
DRAWING = {"plots", "explore"}
PLUMBING = {"runs", "folders", "locks", "paths", "stamps", "resume", "fingerprints", "profiles", "workflow"}
PLUMBING |= {"spread", "cluster", "reporting"}


def code_hashes(stage: str) -> dict[str, str]:
    """Hashes of the code that a stage's numbers depend on: its notebook and the kr_utils files it reaches.

    Comments, docstrings and layout do not count (the parsed code is hashed), nor do cells tagged `parameters`,
    `figure` or `exercise`, nor files that only draw or store.
    """
    path = NOTEBOOKS / f"{STAGES[stage][0]}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    skip = {"parameters", "figure", "exercise"} if stage != "compare" else {"parameters", "exercise"}
    sources = [
        "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and not skip & set(cell["metadata"].get("tags", []))
    ]
    code = "\n".join(sources)
    ignored = PLUMBING if stage == "compare" else PLUMBING | DRAWING
    try:
        hashes, todo = {"notebook": _code_hash(code)}, set(_imports(code))
    except SyntaxError as error:
        raise InputError(f"{path}: not valid Python ({error.msg}: {(error.text or '').strip()[:60]!r})") from error
    while todo:
        name = todo.pop()
        file = ROOT / "kr_utils" / f"{name}.py"
        if name in hashes or name in ignored or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        hashes[name] = _code_hash(text)
        todo |= _imports(text)
    if "plots" in hashes:
        style = (ROOT / "kr_utils/kr.mplstyle").read_bytes()
        hashes["kr.mplstyle"] = hashlib.sha256(style).hexdigest()[:16]
    return hashes


@functools.lru_cache(maxsize=256)  # a plan asks for the same files for every stage, dataset and seed
def _code_hash(code: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=256)
def _imports(code: str) -> frozenset[str]:
    """Names of the kr_utils modules that this code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "kr_utils":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kr_utils."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("kr_utils.")}
    return frozenset(found)


def ingredients(stage: str, dataset: str, seed: int, budget: dict, checksum: str, upstream: dict[str, str]) -> dict:
    """Everything that a stage's result depends on, as plain JSON; `fingerprint` hashes it."""
    return json.loads(
        json.dumps(
            {
                "stage": stage,
                "dataset": dataset,
                "seed": seed,
                "budget": budget,
                "checksum": checksum,
                "code": code_hashes(stage),
                "upstream": upstream,
            }
        )
    )


def fingerprint(parts: dict) -> str:
    """SHA-256 (16 hex digits) of `ingredients`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def what_changed(old: dict, new: dict) -> str:
    """One line: which ingredient differs, for a person deciding whether to wait."""
    reasons = []
    for key, before in old.get("budget", {}).items():
        after = new["budget"].get(key)
        if before != after:
            reasons.append(f"{key} {before} -> {after}")
    for key in sorted(set(old.get("code", {})) | set(new["code"])):
        if old.get("code", {}).get(key) != new["code"].get(key):
            file = key if "." in key else f"{key}.py"
            reasons.append("the notebook's code changed" if key == "notebook" else f"{file} changed")
    if old.get("checksum") != new["checksum"]:
        reasons.append("the data changed")
    for key in sorted(set(old.get("upstream", {})) | set(new["upstream"])):
        if old.get("upstream", {}).get(key) != new["upstream"].get(key):
            reasons.append(f"{key} is new")
    return "; ".join(reasons) or "parameters changed"


def state_owner(parts: dict) -> dict:
    """What a saved state depends on: a stage's ingredients, torch, and where and with how many threads it computes."""
    machine, kind = hardware(), {}
    if "torch" in sys.modules:
        kind = {"torch": versions()["torch"], "threads": machine["threads"]}
        kind |= {"device": "cuda" if machine["gpu"] else "cpu", "cpu": machine["cpu"]}
    return {"ingredients": parts, **kind}


def why_not(old: dict, new: dict) -> str:
    """What differs between two owners of states, in words."""
    words = [f"{key} {old.get(key)} -> {new[key]}" for key in new if key != "ingredients" and old.get(key) != new[key]]
    changed = old["ingredients"] != new["ingredients"]
    return "; ".join([what_changed(old["ingredients"], new["ingredients"])] * changed + words)


def git_commit() -> str | None:
    """The commit this code was run from, "+changes" if the tree differs from it; None outside git."""
    try:
        call = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 10, "check": True}
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


def cores() -> int:
    """Cores to use: OMP_NUM_THREADS where it is set, else those that this process may run on."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isascii() and said.isdigit() and int(said) else bound()


def bound() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def code_version() -> str:
    """Hash of all code that a stage or its driver runs: two computers with the same one run the same code."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "kr_utils").glob("*.py"), *NOTEBOOKS.glob("*.ipynb")]):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
