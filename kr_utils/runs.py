"""Where artefacts live, what explains them (manifests), and how they are written.

runs/<profile>/<dataset>/seed<k>/<notebook>/ holds a finished stage. A stage works in a folder beside
it, `<notebook>.partial`, which is renamed when its manifest has been written, so a half-written stage
never counts as done.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kr_utils import InputError, paths, stamps
from kr_utils.fingerprints import ROOT, STAGES, fingerprint, git_commit, hardware, ingredients, versions

if TYPE_CHECKING:
    import numpy as np

FORMAT = 2  # of the manifest


def runs_root(given: str = "") -> Path:
    """`given`, else the variable KR_RUNS, else runs/ in the repository; absolute."""
    return paths.absolute(given or os.environ.get("KR_RUNS", "") or ROOT / "runs", "--runs-dir" if given else "KR_RUNS")


def figures_root(given: str = "") -> Path:
    """`given`, else the variable KR_FIGURES, else figures/ in the repository; absolute."""
    chosen = given or os.environ.get("KR_FIGURES", "") or ROOT / "figures"
    return paths.absolute(chosen, "--figures-dir" if given else "KR_FIGURES")


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
        """The artefact's path, for a reader; InputError unless its whole content is as the manifest says."""
        path, stamp = self.path / name, self.manifest["files"].get(name)
        if stamp is None or not stamps.stands(path, stamp, whole=True):
            raise InputError(
                f"{path}: damaged or not of this result; run notebooks/{self.path.name}.ipynb again, or delete "
                f"{self.path} and `python run_all.py` makes it anew"
            )
        return path

    def npz(self, name: str) -> dict[str, np.ndarray]:
        import numpy as np

        with np.load(self.file(name), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def csv(self, name: str) -> list[dict]:
        """Rows of a CSV file, numbers as floats."""
        with open(self.file(name), newline="", encoding="utf-8") as file:
            return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def read(path: Path) -> Done | None:
    """The finished stage in `path`, or None where there is none, or where anything in it is not as it was written.

    A manifest must be sealed, of this format, and lie where it was made; its files must be as it says.
    """
    try:
        manifest = json.loads(stamps.text(path / "manifest.json"))
        seal = manifest.pop("seal")
        if manifest["format"] != FORMAT or seal != fingerprint(manifest):
            return None
        if manifest["fingerprint"] != fingerprint(manifest["ingredients"]) or not _lies_in(path, manifest):
            return None
        if not all(stamps.stands(path / name, stamp) for name, stamp in manifest["files"].items()):
            return None
        results = json.loads(stamps.text(path / "metrics.json"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Done(path, manifest, results)


def _lies_in(path: Path, manifest: dict) -> bool:
    """Whether a manifest belongs to its folder: one copied or renamed to another seed or dataset explains nothing."""
    parts, where = manifest["ingredients"], manifest["parameters"]
    own = stage_dir(Path(), where["profile"], parts["dataset"], parts["seed"], parts["stage"])
    return path.parts[-len(own.parts) :] == own.parts


def plain(value):
    """A value as it comes back from JSON (tuples become lists)."""
    return json.loads(json.dumps(value))


def find(root: Path, profile: str) -> dict[tuple[str, int], dict[str, Done]]:
    """All finished stages of a profile: (dataset, seed) -> stage -> Done, in order."""
    found: dict[tuple[str, int], dict[str, Done]] = {}
    for folder in sorted((root / profile).glob("*/seed*"), key=lambda p: (p.parent.name, len(p.name), p.name)):
        if not re.fullmatch("seed(0|[1-9][0-9]{0,9})", folder.name):
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

        plain = {key: np.asarray(value) for key, value in arrays.items()}
        if objects := [key for key, value in plain.items() if value.dtype.hasobject]:  # numpy would pickle them
            raise TypeError(f"{name}: {objects[0]} holds Python objects; store numbers")
        np.savez_compressed(self.file(name), **plain)

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
            "files": {p.name: stamps.stamp(p) for p in sorted(self.folder.iterdir()) if p.is_file()},
        }
        self.write_json("manifest.json", {**manifest, "seal": fingerprint(manifest)})
        old = self.final.with_name(self.final.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.final.exists():
            self.final.rename(old)
        self.folder.rename(self.final)
        shutil.rmtree(old, ignore_errors=True)
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
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise InputError(f"seed is {str(seed)[:40]!r}; give a whole number from 0 to {2**31 - 1}")
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
    shutil.rmtree(opened.folder, ignore_errors=True)
    opened.folder.mkdir(parents=True)
    return opened


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new content, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
