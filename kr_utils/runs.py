"""Where artefacts live, what explains them (manifests), and how they are written.

runs/<profile>/<dataset>/seed<k>/<notebook>/ holds a finished stage. A stage works in a folder beside
it, `<notebook>.partial`, which is renamed when its manifest has been written, so a half-written stage
never counts as done; its saved states are there too (see folders.py).
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kr_utils import InputError, folders, locks, stamps
from kr_utils.fingerprints import (
    STAGES,
    fingerprint,
    git_commit,
    hardware,
    ingredients,
    state_owner,
    versions,
    why_not,
)
from kr_utils.folders import write_atomic
from kr_utils.paths import figures_root, runs_root, stage_dir

if TYPE_CHECKING:
    import numpy as np

    from kr_utils.resume import State

FORMAT = 2  # of the manifest
LOCK_WAIT = 30  # seconds
__all__ = ["Done", "Stage", "begin", "figures_root", "read", "runs_root", "stage_dir", "write_atomic"]


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
        if not path.is_file() and self.path.suffix == ".partial":
            path = self.path.with_suffix("") / name  # it was read in the moment before it got its name
        if stamp is None or not stamps.stands(path, stamp, whole=True):
            raise InputError(
                f"{path}: damaged or not of this result; run notebooks/{self.path.stem}.ipynb again, or delete "
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
    """The finished stage of the folder `path`, or None where there is none, or where anything is not as it was written.

    A manifest must be sealed, of this format, and lie where it was made; its files must be as it says.
    """
    return next(filter(None, (_read(place, path) for place in folders.places(path))), None)


def _read(path: Path, final: Path) -> Done | None:
    try:
        manifest = json.loads(stamps.text(path / "manifest.json"))
        seal = manifest.pop("seal")
        if manifest["format"] != FORMAT or seal != fingerprint(manifest):
            return None
        if manifest["fingerprint"] != fingerprint(manifest["ingredients"]) or not _lies_in(final, manifest):
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
    earlier: float = 0.0  # seconds of work in states of starts that were killed
    starts: int = 1
    started: float = field(default_factory=time.time)
    handed: set[str] = field(default_factory=set)  # names of states
    lock: locks.Lock | None = None

    @property
    def folder(self) -> Path:
        return folders.partial(self.final)

    def state(self, name: str) -> State:
        """Where the training `name` saves its states: it goes on from the last one if this stage was killed.

        Asked for twice by the same kernel (a cell was run again), it starts anew.
        """
        from kr_utils import resume

        key = fingerprint(state_owner(self.parts))
        state = resume.State(self.file(folders.STATE) / name, key, folders.interval())
        if name in self.handed:
            state.clear()
        self.handed.add(name)
        return state

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

    def finish(self, results: dict, timing: dict | None = None) -> Path:
        """Write metrics.json, then manifest.json, from which on the stage is done, then give the folder its final name.

        timing : speeds and durations; they go to the manifest, for metrics must not differ from run to run
        """
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
            "seconds": round(self.earlier + time.time() - self.started, 1),
            "starts": self.starts,
            "timing": timing or {},
            "files": {p.name: stamps.stamp(p) for p in sorted(self.folder.iterdir()) if p.is_file()},
        }
        self.write_json("manifest.json", {**manifest, "seal": fingerprint(manifest)})
        settle(self.final, own=True)
        if self.lock:
            self.lock.release()
        return self.final


def settle(final: Path, own: bool = False) -> None:
    """Finish what a kill interrupted while a stage's folders were renamed; a stage at work (not our `own`) does it."""
    if own or locks.holder(locks.stage_path(final)) is None:
        folders.settle(final, lambda path: _read(path, final) is not None)
        locks.forget(locks.stage_path(final))


def begin(
    stage: str, budget, *, dataset: str, profile: str, seed: int, checksum: str, runs_dir: str | Path = ""
) -> Stage:
    """Open a stage for writing, in an empty partial folder or in that of a killed start of the very same work.

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
        folder = stage_dir(root, profile, dataset, seed, need)
        settle(folder)
        done = read(folder)
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
    final = stage_dir(root, profile, dataset, seed, stage)
    # Two kernels never share a partial folder; one whose driver or worker was killed needs a second or two to end.
    where = f"{dataset} seed {seed}" if dataset else f"profile {profile}"
    lock = locks.hold(locks.stage_path(final), f"{final.name} of {where}", wait=LOCK_WAIT)
    settle(final, own=True)
    owner = state_owner(parts)
    earlier, starts = folders.open_partial(final, owner, lambda found: why_not(found, owner))
    parameters = {"dataset": dataset, "profile": profile, "seed": seed}
    return Stage(stage, final, parts, parameters, upstream, earlier, starts, lock=lock)
