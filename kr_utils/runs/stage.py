"""A stage at work: opened by `begin`, done by `finish`.

A stage works in a folder beside its final one, `<notebook>.partial`, which is renamed when its manifest has been
written, so a half-written stage never counts as done; its saved states are there too (see folders.py).
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kr_utils import InputError, owned, parameters, shown, stages
from kr_utils.paths import runs_root, stage_dir
from kr_utils.runs import cells, copies, files, folders, locks
from kr_utils.runs.code import code_hashes, edited_since_start
from kr_utils.runs.finished import FORMAT, Done, find_current, other_code, outdated, plain, read, settle
from kr_utils.runs.identity import fingerprint, ingredients, state_owner, what_changed, why_not
from kr_utils.runs.machine import git_commit, hardware, versions
from kr_utils.stages import ROOT

if TYPE_CHECKING:
    import numpy as np

    from kr_utils.resume import State

LOCK_WAIT = 30  # seconds
TRAININGS = "trainings.safetensors"  # what the stage's trainings came to: read back where a finished stage is opened


@dataclass
class Stage:
    """A stage at work: collects files in its partial folder, becomes done by `finish`.

    Where a finished result was `found`, its trainings are read back and `finish` leaves it as it is.
    """

    name: str
    final: Path
    parts: dict  # ingredients
    parameters: dict
    watch: cells.Watch
    upstream: dict[str, Done] = field(default_factory=dict)
    runs: dict[tuple[str, int], dict[str, Done]] = field(default_factory=dict)  # what the comparison may show,
    left_out: dict[tuple[str, int], str] = field(default_factory=dict)  # and why it may not show the others
    earlier: float = 0.0  # seconds of work in states of starts that were killed
    starts: int = 1
    started: float = field(default_factory=time.time)
    clock: float = field(default_factory=time.monotonic)  # nobody sets this one back
    handed: dict[str, tuple[State, str]] = field(default_factory=dict)  # states by name, and the code that asked
    found: Done | None = None
    lock: locks.Lock | None = None
    commit: str | None = field(default_factory=lambda: git_commit())  # of the code that runs, not of a later checkout

    @property
    def folder(self) -> Path:
        return folders.partial(self.final)

    def state(self, name: str) -> State:
        """Where the training `name` saves its states: it goes on from the last one if this stage was killed.

        Asked for twice by the same kernel (a cell was run again), it starts anew. Where a finished result was found,
        the training is read back from there, unless a cell that came before it was edited.
        """
        from kr_utils import resume

        owner = state_owner(self.parts, {need: done.digest() for need, done in self.upstream.items()})
        ran = self.watch.so_far()
        key = fingerprint(owner | {"cells": ran})  # one that was edited makes states of its own
        state = resume.State(self.file(folders.STATE) / name, key, folders.interval())
        if name in self.handed:
            state.clear()

        # Read back what is finished
        code = fingerprint({"cells": list(dict.fromkeys(ran))})
        if self.found and TRAININGS in self.found.manifest["files"]:
            seconds = self.found.manifest["timing"].get("trained", {}).get(name, 0.0)
            if not resume.lay_out(self.found.file(TRAININGS), name, code, state, seconds):
                print(f"{name}: is trained again here, because cells were edited, added or run in another order")
        self.handed[name] = state, code
        return state

    def once(self, name: str, make: Callable[[], dict | list]) -> dict | list:
        """What `make()` returned, of numbers, texts and arrays: computed once, and read back as trainings are."""
        from kr_utils import resume

        return resume.once(self.state(name), lambda: {"made": make()})["made"]

    def file(self, name: str) -> Path:
        """Where to write an artefact; InputError after `finish` (a notebook's last cell was run twice)."""
        if not self.folder.is_dir():
            raise InputError(
                f"{self.final.name} is stored already; to run it again, restart the kernel and run all cells"
            )
        path = self.folder / name
        if self.found and name in self.found.manifest["files"] and not path.exists():
            with owned.reading(self.found.file(name)) as old, owned.writing(path) as new:
                shutil.copyfileobj(old, new)
        return path

    def write_json(self, name: str, value: dict) -> None:
        owned.write(self.file(name), json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")

    def write_csv(self, name: str, rows: list[dict]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        owned.write(self.file(name), text.getvalue())

    def write_npz(self, name: str, **arrays: np.ndarray) -> None:
        import numpy as np

        plain = {key: np.asarray(value) for key, value in arrays.items()}
        if objects := [key for key, value in plain.items() if value.dtype.hasobject]:  # numpy would pickle them
            raise TypeError(f"{name}: {objects[0]} holds Python objects; store numbers")
        with owned.writing(self.file(name)) as file:
            np.savez_compressed(file, **plain)

    def finish(self, results: dict, timing: dict | None = None, outside: dict | None = None) -> Path:
        """Write metrics.json, then manifest.json, from which on the stage is done, then give the folder its final name.

        timing : speeds and durations; they go to the manifest, for metrics must not differ from run to run
        outside : name -> SHA-256 of what it wrote elsewhere, below the figures folder or in a bundle

        Raises
        ------
        InputError
            A cell did not run since the stage was opened, or not in order, or under other parameters: its results
            are not what the manifest would say.
        """
        # What made it: the cells that ran, and the files that they read
        self.file("metrics.json")  # refuses a stage that is stored
        if self.found:
            return self._leave(results)
        ran = self.watch.cells()
        self.check_files()
        parts = {**self.parts, "upstream": self.read_since()}
        if ran is not None:  # edited in JupyterLab: the manifest names what ran, not what the file says
            parts["code"] = code_hashes(self.name, ran)
            print("note: cells were added, edited or run twice: stored as what ran, which `run_all.py` will make again")

        # The numbers, then the manifest that explains them
        self.write_json("metrics.json", results)
        timing = dict(timing or {})
        if self.handed:
            from kr_utils import resume

            resume.keep(self.handed, self.file(TRAININGS))
            timing["trained"] = {name: round(state.seconds(), 1) for name, (state, _) in self.handed.items()}
        manifest = {
            "format": FORMAT,
            "fingerprint": fingerprint(parts),
            "ingredients": parts,
            "parameters": self.parameters,
            "git_commit": self.commit,
            "versions": versions(),
            "hardware": hardware(),
            "started": datetime.datetime.fromtimestamp(self.started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(self.earlier + time.monotonic() - self.clock, 1),
            "starts": self.starts,
            "timing": timing,
            "outside": outside or {},
            "files": files.stamps(self.folder),
        }

        # Sealed it is done, whatever its folder is called
        copies.hand_on(read(self.final), self.folder, manifest)
        self.write_json("manifest.json", {**manifest, "seal": fingerprint(manifest)})
        try:
            settle(self.final, own=True)
        except owned.NotDeletable:
            if self.folder.exists():
                raise
            # What it replaced is still there, under another name: told at the next start, not after the work.
        self._close()
        return self.final

    def _close(self) -> None:
        self.watch.close()
        if self.lock:
            self.lock.release()

    def _leave(self, results: dict) -> Path:
        """End without storing: the finished result that was found stands, with its executed notebook."""
        try:
            as_saved = self.watch.cells() is None
        except InputError:
            as_saved = False
        if not as_saved:
            print("note: cells were edited, added or run in another order: what is stored is the result without that")
        elif plain(results) != self.found.stored:
            print("note: some last digits differ from the stored ones, as they may on another computer")
        print(f"found, made on {self.found.manifest['started'][:10]}; retrain = True makes it again")
        self._close()
        owned.remove(self.folder)
        return self.final

    def check_files(self) -> None:
        """Refuse where a file whose code counts was edited under this kernel."""
        edited = [file for file in edited_since_start() if file.removesuffix(".py") in self.parts["code"]]
        if edited:
            raise InputError(f"{edited[0]} was edited since this kernel started: restart it, or the old code goes on")

    def read_since(self) -> dict[str, dict[str, str]]:
        """Of each earlier stage, what was read -> its digest; the comparison reads all of it, and the manifest.

        Raises
        ------
        InputError
            It was made again meanwhile.
        """
        read_ = {}
        for need, done in sorted(self.upstream.items()):
            used = {"manifest": ""} if self.name == "compare" else done.used
            read_[need] = {name: done.digest(name) for name in sorted(used)}
            now = read(done.path.with_name(done.path.name.removesuffix(".partial").removesuffix(".old")))
            if now is None or any(now.digest(name) != digest for name, digest in read_[need].items()):
                raise InputError(f"{need} was made again meanwhile: run {self.final.name} again, from its first cell")
        return read_


def begin(
    stage: str,
    budget,
    *,
    checksum: str = "",
    dataset: str = "",
    profile: str,
    seed: int = 0,
    runs_dir: str | Path = "",
    data_root: str | Path = "",
    number: int | None = None,
    retrain: bool = True,
) -> Stage:
    """Open a stage for writing, in an empty partial folder or in that of a killed start of the very same work.

    Parameters
    ----------
    budget : the stage's frozen dataclass from `profiles.budget`
    checksum : of the dataset
    number : which one it is, of a stage that is run several times over
    dataset, profile, seed, runs_dir, data_root, retrain : what the notebook was given (`parameters.fill`)
    retrain : False where a finished result that nothing has made stale is to be found and read back, and left as it is

    Raises
    ------
    InputError
        Stages that this one reads are not finished; the message names all of them and says how to run them.
    """
    parameters.check({"dataset": dataset, "profile": profile, "seed": seed, "runs_dir": runs_dir})
    if not __debug__:
        raise InputError("asserts are switched off (python -O or PYTHONOPTIMIZE), and with them every check; unset it")
    stage = stage if number is None else _one_of(stage, number, budget.pipelines)
    root, notebook = runs_root(runs_dir), stages.folder(stage)
    parts = ingredients(stage, dataset, seed, asdict(budget), checksum)

    # What it reads must be there, whole, and made from one another.
    found, left_out = find_current(root, profile) if stage == "compare" else ({}, {})
    upstream = {f"{name}/seed{k}/{s}": done for (name, k), run in found.items() for s, done in run.items()}
    needs = stages.needed(stage, getattr(budget, "pipelines", 0))
    options = {"--profile": profile, "--datasets": dataset, "--seeds": seed}
    folders_ = {"--runs-dir": root if root != ROOT / "runs" else "", "--data-root": data_root}
    upstream |= _upstream(stage, needs, root, dataset, profile, seed, checksum, options | folders_)
    for name, done in upstream.items():
        if stage != "compare" and (words := other_code(done)):
            print(
                f"note: {stages.folder(name)} was made by other code ({words[0]}): run it again before you believe this"
            )

    # Two kernels never share a partial folder; one whose driver or worker was killed needs a second or two to end.
    final = stage_dir(root, profile, dataset, seed, stage)
    where = f"{dataset} seed {seed}" if dataset else f"profile {profile}"
    lock = locks.hold(locks.stage_path(final), f"{notebook} of {where}", wait=LOCK_WAIT)
    settle(final, own=True)
    read(final)  # refuses to replace what another user made and this one may not even read
    owner = state_owner(parts, {need: done.digest() for need, done in upstream.items()})
    earlier, starts = folders.open_partial(final, owner, lambda found: why_not(found, owner))
    named = {"dataset": dataset, "profile": profile, "seed": seed}
    done = None if retrain else _stored(final, parts, upstream)
    watch = cells.Watch(stage, budget)
    opened = Stage(stage, final, parts, named, watch, upstream, found, left_out, earlier, starts, lock=lock, found=done)
    opened.check_files()
    return opened


def _one_of(stage: str, number: int, several: int) -> str:
    """The name of number so-and-so of a stage that is run several times over; InputError where there is none."""
    if type(number) is not int or not 0 <= number < several:
        raise InputError(f"number is {shown(number)}; of {several} pipelines give one from 0 to {several - 1}")
    return stages.numbered(stage, number)


def _stored(final: Path, parts: dict, upstream: dict[str, Done]) -> Done | None:
    """The finished result, if it is what the stage would make now; where it is not, says why."""
    done = read(final)
    if done is None:
        return None
    older = outdated(done, upstream)
    why = what_changed(done.manifest["ingredients"], parts) or (f"{older[0]} is new" if older else "")
    if not why and parts["stage"] == "compare" and set(done.manifest["ingredients"]["upstream"]) != set(upstream):
        why = "other runs are finished now"
    if why:
        print(f"{final.name}: what is stored is stale ({why}), so it is made again")
    return None if why else done


def _upstream(
    stage: str,
    needs: list[str],
    root: Path,
    dataset: str,
    profile: str,
    seed: int,
    checksum: str,
    options: dict[str, object],
) -> dict[str, Done]:
    """The finished stages `needs` that a stage reads of its own dataset and seed, and what it reads where it is there.

    options : of the command that makes them, for the message
    """
    # What is there, and what is not
    upstream, missing = {}, []
    for need in needs:
        folder = stage_dir(root, profile, dataset, seed, need)
        settle(folder)
        if done := read(folder):
            upstream[need] = done
        else:
            missing.append(need)

    # All that is missing, and the command that makes it
    if missing:
        names = [stages.folder(need) for need in missing]
        every = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        last = missing[-1]
        how = {"--audit": len(needs)} if stages.kind(last) in stages.MANY else {"--until": last}
        raise InputError(
            f"{stages.folder(stage)} needs the results of {every} ({dataset}, profile {profile}, seed {seed}): "
            f"run {'this notebook' if len(names) == 1 else 'these notebooks, in this order,'} first, or "
            f"`{stages.command(options | how)}` in {ROOT}"
        )

    # Pipelines that were made for another audit: halves of another number do not fit together
    several = [need for need in needs if stages.kind(need) in stages.MANY]
    for need in several:
        made = upstream[need].budget["pipelines"]
        if made != len(several):
            again = stages.command(options | {"--audit": len(several)})
            raise InputError(
                f"{stages.folder(need)} was made for an audit of {made} pipelines, not of {len(several)}: "
                f'set overrides to {{"pipelines": {made}}}, or run `{again}` in {ROOT}'
            )

    # What it reads where it is there
    for wish in stages.IF_THERE.get(stage, ()):
        if done := read(stage_dir(root, profile, dataset, seed, wish)):
            upstream[wish] = done

    # Of the same data, and made from one another
    for name, done in upstream.items():
        if done.manifest["ingredients"]["checksum"] != checksum:
            again = f"run notebooks/{stages.notebook(name)}.ipynb again"
            raise InputError(f"{stages.folder(name)} was made from other data: {again}")
        for need in outdated(done, upstream):
            again = f"run notebooks/{stages.notebook(name)}.ipynb again"
            raise InputError(
                f"{stages.folder(name)} was made from an older {stages.folder(need)}: {again} (or `python run_all.py`, "
                f"which reruns what is out of date)"
            )
    return upstream
