"""Finished stages: read, found, and whether they were made from one another.

runs/<profile>/<dataset>/seed<k>/<notebook>/ holds a finished stage; its manifest explains it.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kr_utils import InputError, owned, stages
from kr_utils.paths import listed, stage_dir
from kr_utils.runs import files, folders, locks
from kr_utils.runs.code import code_hashes
from kr_utils.runs.identity import code_changes, fingerprint

if TYPE_CHECKING:
    import numpy as np

FORMAT = 3  # of the manifest

# What the store and the driver rely on. The seal finds accidents; this finds a manifest that somebody sealed.
FORM = {
    "fingerprint": str, "ingredients": dict, "parameters": dict, "git_commit": (str, type(None)), "versions": dict,
    "hardware": dict, "started": str, "seconds": (int, float), "starts": int, "timing": dict, "outside": dict,
    "files": dict,
}  # fmt: skip
MACHINE = {"cpu": str, "gpu": (str, type(None)), "threads": int}
PARTS = {"stage": str, "dataset": str, "seed": int, "budget": dict, "checksum": str, "code": dict, "upstream": dict}


class NotReadable(InputError):
    """A result that is there but that this user may not read: neither damaged nor missing."""


@dataclass(frozen=True)
class Done:
    """A finished stage: its folder, its manifest, and its files. What is read of it is noted, for whoever reads it
    is made from that content."""

    path: Path
    manifest: dict
    stored: dict  # content of metrics.json
    used: dict[str, str] = field(default_factory=dict, compare=False)  # what was read -> its digest

    @property
    def metrics(self) -> dict:
        self._note("metrics.json")
        return self.stored

    @property
    def budget(self) -> dict:
        """The budget that it was made under."""
        self._note("budget")
        return self.manifest["ingredients"]["budget"]

    @property
    def stage(self) -> str:
        return self.manifest["ingredients"]["stage"]

    @property
    def pipelines(self) -> int:
        """How many of its kind it was made with: 0 for a stage that is run once."""
        number = (
            self.manifest["ingredients"]["budget"].get("pipelines", 0) if self.stage != stages.kind(self.stage) else 0
        )
        return number if type(number) is int and 0 <= number <= 1000 else 0

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        self._note(name)
        return name in self.manifest["files"]

    def digest(self, name: str = "*") -> str:
        """Of a file's content as it was written, of "budget" or "manifest", or of all files ("*"); "" for none."""
        files_ = self.manifest["files"]
        if name == "*":
            return fingerprint({key: stamp[1] for key, stamp in files_.items()})
        if name == "manifest":
            return fingerprint(self.manifest)
        if name == "budget":
            return fingerprint(self.manifest["ingredients"]["budget"])
        return files_[name][1] if name in files_ else ""

    def _note(self, name: str) -> None:
        self.used[name] = self.digest(name)

    def file(self, name: str) -> Path:
        """The artefact's path, for a reader; InputError unless its whole content is as the manifest says."""
        path, stamp = self.path / name, self.manifest["files"].get(name)
        if not path.is_file() and self.path.suffix == ".partial":
            path = self.path.with_suffix("") / name  # it was read in the moment before it got its name
        try:
            stands = stamp is not None and files.stands(path, stamp, whole=True)
        except PermissionError as error:
            raise not_readable(path) from error
        if not stands:
            raise InputError(
                f"{path}: damaged or not of this result; run notebooks/{stages.notebook(self.stage)}.ipynb again, "
                f"or delete {self.path} and `python run_all.py` makes it again"
            )
        self._note(name)
        return path

    def npz(self, name: str) -> dict[str, np.ndarray]:
        import numpy as np

        with owned.reading(self.file(name)) as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def csv(self, name: str) -> list[dict]:
        """Rows of a CSV file, numbers as floats."""
        rows = csv.DictReader(io.StringIO(owned.read_text(self.file(name)), newline=""))
        return [{key: _number(value) for key, value in row.items()} for row in rows]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def read(path: Path) -> Done | None:
    """The finished stage of the folder `path`, or None where there is none, or where anything is not as it was written.

    A manifest must be sealed, of this format, and lie where it was made; its files must be as it says.

    Raises
    ------
    NotReadable
        There is something that this user may not read, and nothing else.
    """
    denied = None
    for place in folders.places(path):
        try:
            if done := _read(place, path):
                return done
        except PermissionError as error:
            denied = denied or error
    if denied:
        raise not_readable(Path(denied.filename or path)) from denied
    return None


def not_readable(path: Path) -> NotReadable:
    """The error, in words."""
    return NotReadable(f"{path}: you may not read it, so nothing is put in its place; get permission, or move it away")


def _read(path: Path, final: Path) -> Done | None:
    try:
        manifest = json.loads(owned.read_text(path / "manifest.json"))
        seal = manifest.pop("seal")
        if manifest["format"] != FORMAT or seal != fingerprint(manifest) or not _well_formed(manifest):
            return None
        if manifest["fingerprint"] != fingerprint(manifest["ingredients"]) or not _lies_in(final, manifest):
            return None
        if not all(files.stands(path / name, stamp) for name, stamp in manifest["files"].items()):
            return None
        results = json.loads(owned.read_text(path / "metrics.json"))
        json.dumps(results, ensure_ascii=False).encode()
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return Done(path, manifest, results) if isinstance(results, dict) else None


def _well_formed(manifest: dict) -> bool:
    """Whether everything in a manifest has the type that its readers rely on; ValueError where it cannot be shown."""
    json.dumps(manifest, ensure_ascii=False).encode()  # a lone surrogate could not even be printed
    parts = manifest["ingredients"]
    typed = [isinstance(manifest[key], kind) for key, kind in FORM.items()]
    typed += [isinstance(parts[key], kind) for key, kind in PARTS.items()]
    typed += [isinstance(manifest["hardware"][key], kind) for key, kind in MACHINE.items()]
    typed += [isinstance(manifest["versions"]["torch"], str)]
    texts = [*parts["code"].values(), *manifest["versions"].values(), *manifest["outside"].values()]
    for read_ in parts["upstream"].values():
        texts += read_.values()
    typed += [isinstance(value, str) for value in texts]
    datetime.datetime.fromisoformat(manifest["started"]).astimezone(datetime.UTC)
    return all(typed) and math.isfinite(manifest["seconds"]) and manifest["seconds"] >= 0


def _lies_in(path: Path, manifest: dict) -> bool:
    """Whether a manifest belongs to its folder: one copied or renamed to another seed or dataset explains nothing."""
    parts, where = manifest["ingredients"], manifest["parameters"]
    own = stage_dir(Path(), where["profile"], parts["dataset"], parts["seed"], parts["stage"])
    return path.parts[-len(own.parts) :] == own.parts


def plain(value):
    """A value as it comes back from JSON (tuples become lists)."""
    return json.loads(json.dumps(value))


def find(root: Path, profile: str, whole: bool = False) -> dict[tuple[str, int], dict[str, Done]]:
    """All finished stages of a profile: (dataset, seed) -> stage -> Done, in order.

    whole : refuse where the folder of a dataset is closed to this user; else its runs are passed over

    Raises
    ------
    InputError
        The folder of the profile is closed, or that of a dataset.
    """
    found: dict[tuple[str, int], dict[str, Done]] = {}
    compare = stages.folder("compare")
    datasets = [path for path in listed(root / profile) if not path.name.lstrip(".").startswith(compare)]
    seeds = []
    for dataset in datasets:
        try:
            seeds += listed(dataset)
        except InputError:
            if whole:
                raise

    for folder in sorted(seeds, key=lambda p: (p.parent.name, len(p.name), p.name)):
        if not re.fullmatch("seed(0|[1-9][0-9]{0,9})", folder.name):
            continue
        done, names = {}, []
        with contextlib.suppress(InputError):  # then nothing in it can be read either
            names = [path.name for path in listed(folder)]
        for stage in stages.among(names):
            with contextlib.suppress(NotReadable):  # told by whoever is asked for this very stage
                if stage != "compare" and (item := read(folder / stages.folder(stage))):
                    done[stage] = item
        if done:
            found[folder.parent.name, int(folder.name[4:])] = done
    return found


def outdated(done: Done, there: dict[str, Done]) -> list[str]:
    """Stages of which `done` read files that have other content now."""
    return [
        name
        for name, read_ in done.manifest["ingredients"]["upstream"].items()
        if name in there and any(there[name].digest(file) != digest for file, digest in read_.items())
    ]


def other_code(done: Done) -> list[str]:
    """What differs between the code that made `done` and the code as it is, in words."""
    parts = done.manifest["ingredients"]
    return code_changes(parts["code"], code_hashes(parts["stage"]))


def stale(
    wanted: dict[str, Done],
    there: dict[str, Done] | None = None,
    *,
    checksum: str = "",
    gone: Collection[str] = (),
) -> dict[str, str]:
    """Which stages of one dataset and seed are not what would be made now, and why: a line each, in running order.

    Parameters
    ----------
    there : all stages of that run: those that a wanted one reads count too, such as an audit's pipelines
    checksum : of the dataset's content as it is now; "" where that is not known
    gone : stages that are missing or damaged; of others that are not in `wanted` nothing is said
    """
    read_by = [name for name in there or {} if any(stages.reads(own, name) for own in wanted)]
    found, why = wanted | {name: there[name] for name in read_by if name not in wanted}, {}
    for name in sorted(found, key=stages.order):
        read_ = found[name].manifest["ingredients"]["upstream"]
        older, code = outdated(found[name], found), other_code(found[name])
        above = [need for need in why if read_.get(need)]
        lost = [need for need in read_ if need in gone and read_[need]]
        first = next(iter(found.values())).manifest["ingredients"]
        made_of = found[name].manifest["ingredients"]["checksum"]

        # Only the first reason is told
        if older:
            why[name] = f"it was made from another {stages.folder(older[0])}"
        elif code:
            why[name] = f"it was made by other code ({code[0]})"
        elif checksum and made_of != checksum:
            why[name] = "the data changed"
        elif made_of != first["checksum"]:
            why[name] = f"it was made from other data than {stages.folder(first['stage'])}"
        elif lost:
            why[name] = f"it was made from {stages.folder(lost[0])}, which is missing or damaged"
        elif above:
            why[name] = f"it was made from {stages.folder(above[0])}, which is stale"
    return {name: words for name, words in why.items() if name in wanted}


def _replaced(every: dict[tuple[str, int], dict[str, Done]]) -> dict[tuple[str, int], str]:
    """Runs that were made of other data than the dataset's newest one, and why they are left out, in words.

    What the data file holds now is not known here. But seeds that are of different data never count together.
    """
    newest: dict[str, tuple[datetime.datetime, int, str]] = {}
    for (dataset, seed), found in every.items():
        for done in found.values():
            began = datetime.datetime.fromisoformat(done.manifest["started"]).astimezone(datetime.UTC)
            own = (began, seed, done.manifest["ingredients"]["checksum"])
            newest[dataset] = max(own, newest.get(dataset, own))
    why = {}
    for (dataset, seed), found in every.items():
        first = next(iter(found.values()))
        if first.manifest["ingredients"]["checksum"] != newest[dataset][2]:
            book = stages.folder(first.stage)
            why[dataset, seed] = f"{book}: it was made from other data than seed {newest[dataset][1]}, which is newer"
    return why


def find_current(root: Path, profile: str) -> tuple[dict[tuple[str, int], dict[str, Done]], dict[tuple[str, int], str]]:
    """Runs that may be shown: every stage there, made from one another, by the code as it is, and of the same data as
    the dataset's newest run. And why not the others.

    Of the stages that run only when they are asked for, an audit that is current belongs to a run; its shadows, which
    nothing else reads, and a bundle that was handed out do not.

    Returns
    -------
    as `find`; (dataset, seed) -> why it is left out, in words, "... is missing" for a run that is not finished
    """
    current, left_out = {}, {}
    every = find(root, profile, whole=True)
    replaced = _replaced(every)
    for (dataset, seed), found in every.items():
        missing = [stages.notebook(name) for name in stages.USUAL if name not in (*found, "compare")]
        why = stale(found)
        words = [f"{stages.notebook(name)}: {why[name]}" for name in why if name in stages.USUAL]
        words += [replaced[dataset, seed]] if (dataset, seed) in replaced else []
        if missing or words:
            left_out[dataset, seed] = f"{missing[0]} is missing" if missing else words[0]
        else:
            shown = [name for name in found if name not in why and stages.kind(name) not in ("shadow", "release")]
            current[dataset, seed] = {name: found[name] for name in shown}
    return current, left_out


def settle(final: Path, own: bool = False) -> None:
    """Finish what a kill interrupted while a stage's folders were renamed; a stage at work (not our `own`) does it.

    Raises
    ------
    owned.NotDeletable
        Something stands in the way of our `own` stage; who only reads is not stopped by leftovers.
    """
    if own or locks.holder(locks.stage_path(final)) is None:
        try:
            folders.settle(final, lambda path: _read(path, final) is not None)
        except owned.NotDeletable:
            if own:
                raise
        except PermissionError as error:
            raise not_readable(Path(error.filename or final)) from error
        locks.forget(locks.stage_path(final))
