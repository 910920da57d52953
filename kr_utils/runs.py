"""Where artefacts live, what explains them (manifests), and how they are written.

runs/<profile>/<dataset>/seed<k>/<notebook>/ holds a finished stage. A stage works in a folder beside
it, `<notebook>.partial`, which is renamed when its manifest has been written, so a half-written stage
never counts as done.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kr_utils import InputError, locks
from kr_utils.fingerprints import ROOT, STAGES, fingerprint, git_commit, hardware, ingredients, versions

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1  # of the manifest
LOCK_WAIT = 30  # seconds


def runs_root(given: str = "") -> Path:
    """`given`, else the variable KR_RUNS, else runs/ in the repository; absolute."""
    return Path(given or os.environ.get("KR_RUNS", "") or ROOT / "runs").expanduser().resolve()


def figures_root(given: str = "") -> Path:
    """`given`, else the variable KR_FIGURES, else figures/ in the repository; absolute."""
    return Path(given or os.environ.get("KR_FIGURES", "") or ROOT / "figures").expanduser().resolve()


def stage_dir(root: Path, profile: str, dataset: str, seed: int, stage: str) -> Path:
    """The folder of a finished stage; `compare` belongs to the profile, every other stage to a dataset and seed."""
    notebook = STAGES[stage][0]
    return root / profile / notebook if stage == "compare" else root / profile / dataset / f"seed{seed}" / notebook


# ------------------------------------------------------------- reading stages


@dataclass(frozen=True)
class Done:
    """A finished stage: its folder, manifest and metrics."""

    path: Path
    manifest: dict
    metrics: dict

    def file(self, name: str) -> Path:
        return self.path / name

    def npz(self, name: str) -> dict[str, np.ndarray]:
        import numpy as np

        with np.load(self.path / name, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def csv(self, name: str) -> list[dict]:
        """Rows of a CSV file, numbers as floats."""
        with open(self.path / name, newline="", encoding="utf-8") as file:
            return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def read(path: Path) -> Done | None:
    """The finished stage in `path`, or None where there is none or its manifest cannot be used."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        results = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT or manifest["fingerprint"] != fingerprint(manifest["ingredients"]):
            return None
        if any(_stamp(path / name) != stamp for name, stamp in manifest["files"].items()):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Done(path, manifest, results)


def _stamp(path: Path) -> list:
    """[size, SHA-256] of a file; large files (weights) go by their size alone, so that reading stays cheap."""
    size = path.stat().st_size
    if size > 2**20:
        return [size, None]
    with open(path, "rb") as file:
        return [size, hashlib.file_digest(file, "sha256").hexdigest()]


def plain(value):
    """A value as it comes back from JSON (tuples become lists)."""
    return json.loads(json.dumps(value))


def find(root: Path, profile: str) -> dict[tuple[str, int], dict[str, Done]]:
    """All finished stages of a profile: (dataset, seed) -> stage -> Done, in order."""
    found: dict[tuple[str, int], dict[str, Done]] = {}
    for folder in sorted((root / profile).glob("*/seed*"), key=lambda p: (p.parent.name, len(p.name), p.name)):
        if not folder.name[4:].isdigit():
            continue
        done = {s: read(folder / STAGES[s][0]) for s in STAGES if s != "compare"}
        done = {stage: item for stage, item in done.items() if item is not None}
        if done:
            found[folder.parent.name, int(folder.name[4:])] = done
    return found


def outdated(done: Done, stages: dict[str, Done]) -> list[str]:
    """Stages that `done` was made from and that have been made anew since."""
    used = done.manifest["ingredients"]["upstream"]
    return [
        name
        for name, used_print in used.items()
        if name in stages and used_print != stages[name].manifest["fingerprint"]
    ]


def complete(stages: dict[str, Done]) -> bool:
    """Whether a run has every stage, and all of them were made from one another."""
    return set(stages) == set(STAGES) - {"compare"} and not any(outdated(done, stages) for done in stages.values())


# ------------------------------------------------------------- writing stages


@dataclass
class Stage:
    """A stage at work: collects files in its partial folder, becomes done by `finish`."""

    name: str
    final: Path
    parts: dict  # ingredients
    parameters: dict
    upstream: dict[str, Done] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    lock: locks.Lock | None = None

    @property
    def folder(self) -> Path:
        return self.final.with_name(self.final.name + ".partial")

    def file(self, name: str) -> Path:
        """Where to write an artefact; InputError after `finish` (a notebook's last cell was run twice)."""
        if not self.folder.is_dir():
            raise InputError(
                f"{self.final.name} is stored already; to run it again, restart the kernel and run all cells"
            )
        return self.folder / name

    def write_json(self, name: str, value: dict) -> None:
        write_atomic(self.file(name), json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")

    def write_csv(self, name: str, rows: list[dict]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.file(name), text.getvalue())

    def write_npz(self, name: str, **arrays: np.ndarray) -> None:
        import numpy as np

        np.savez_compressed(self.file(name), **{key: np.asarray(value) for key, value in arrays.items()})

    def finish(self, results: dict) -> Path:
        """Write metrics.json, then manifest.json, then give the folder its final name."""
        self.write_json("metrics.json", results)
        manifest = {
            "format": FORMAT,
            "fingerprint": fingerprint(self.parts),
            "ingredients": self.parts,
            "parameters": self.parameters,
            "git_commit": git_commit(),
            "versions": versions(),
            "hardware": hardware(),
            "started": datetime.datetime.fromtimestamp(self.started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 1),
            "files": {p.name: _stamp(p) for p in sorted(self.folder.iterdir()) if p.is_file()},
        }
        self.write_json("manifest.json", manifest)
        old = self.final.with_name(self.final.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.final.exists():
            self.final.rename(old)
        self.folder.rename(self.final)
        shutil.rmtree(old, ignore_errors=True)
        if self.lock:
            self.lock.release()
        return self.final


def begin(
    stage: str, budget, *, dataset: str, profile: str, seed: int, checksum: str, runs_dir: str | Path = ""
) -> Stage:
    """Open a stage for writing, in an empty partial folder.

    Parameters
    ----------
    budget : the stage's frozen dataclass from `profiles.budget`
    checksum : of the dataset

    Raises
    ------
    InputError
        A stage that this one reads is not finished; the message says how to run it.
    """
    root = runs_root(str(runs_dir))
    upstream = {}
    for need in STAGES[stage][1]:
        done = read(stage_dir(root, profile, dataset, seed, need))
        if done is None:
            notebook = STAGES[need][0]
            raise InputError(
                f"{STAGES[stage][0]} needs the results of {notebook} ({dataset}, profile {profile}, seed {seed}): "
                f"run notebooks/{notebook}.ipynb first, or `python run_all.py --profile {profile} "
                f"--datasets {dataset} --seeds {seed} --until {need}`"
            )
        upstream[need] = done
    for name, done in upstream.items():
        for need in outdated(done, upstream):
            raise InputError(
                f"{STAGES[name][0]} was made from an older {STAGES[need][0]}: run notebooks/{STAGES[name][0]}.ipynb "
                f"again (or `python run_all.py`, which reruns what is out of date)"
            )
    if stage == "compare":
        upstream = {
            f"{name}/seed{k}/{s}": done
            for (name, k), stages in find(root, profile).items()
            if complete(stages)
            for s, done in stages.items()
        }
    prints = {name: done.manifest["fingerprint"] for name, done in upstream.items()}
    parts = ingredients(stage, dataset, seed, asdict(budget), checksum, prints)
    opened = Stage(
        stage,
        stage_dir(root, profile, dataset, seed, stage),
        parts,
        {"dataset": dataset, "profile": profile, "seed": seed},
        upstream,
    )
    # Two kernels never share a partial folder; one whose driver or worker was killed needs a second or two to end.
    where = f"{dataset} seed {seed}" if dataset else f"profile {profile}"
    opened.lock = locks.hold(locks.stage_path(opened.final), f"{opened.final.name} of {where}", wait=LOCK_WAIT)
    shutil.rmtree(opened.folder, ignore_errors=True)
    opened.folder.mkdir(parents=True)
    return opened


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new content, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
