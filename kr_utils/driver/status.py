"""The state of every stage of a profile: done, stale, running, failed, stopped or missing; and where minutes went."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from kr_utils import InputError, owned, paths, plain, runs, stages
from kr_utils.driver import plan
from kr_utils.driver.report import STAGES, UNKNOWN_WIDTH, duration, of_stages, together
from kr_utils.runs import copies, locks


def state(folder: Path, driven: bool) -> tuple[str, str]:
    """(done, running, failed, stopped, not readable or missing; how long it took, or where to look) of a stage.

    driven : a driver is at work on this dataset and seed
    """
    # Its result, and whether a kernel is at work
    partial = folder.with_name(f"{folder.name}.failed.ipynb")
    try:
        done = runs.read(folder)
    except runs.NotReadable:
        return "not readable", ""
    if locks.holder(locks.stage_path(folder)) is not None:
        return "running", ""

    # A copy that is newer than the result is of a later attempt
    try:
        newer = not done or partial.stat().st_mtime > (done.path / "manifest.json").stat().st_mtime
        failed = bool(json.loads(owned.read_text(partial))["metadata"]["papermill"]["exception"])
    except OSError:
        newer = failed = False
    except (ValueError, KeyError, TypeError, RecursionError):  # papermill writes it just now
        failed = False

    if newer and failed:
        return "failed", str(partial)
    if newer and driven:
        return "running", ""  # its kernel starts, or reads its data
    if done:
        return "done", duration(done.manifest["seconds"])
    return ("stopped", "") if newer or folder.with_name(f"{folder.name}.partial").exists() else ("missing", "")


def rows_of(folder: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """Dataset and seed of every run in a profile's folder, and a line per dataset that may not be looked into.

    Only names that a run gives are rows: anything else in a shared folder is somebody else's, and is not printed.
    """
    rows, closed = [], []
    for dataset in [path for path in paths.listed(folder) if re.fullmatch("[a-z0-9_]{1,40}", path.name)]:
        try:
            seeds = [re.fullmatch("seed(0|[1-9][0-9]{0,9})", path.name) for path in paths.listed(dataset)]
        except InputError as error:
            closed.append(str(error))
        else:
            rows += [(dataset.name, int(match[1])) for match in seeds if match]
    return rows, closed


def at_hand(data_root: str = "") -> Callable[[str], str]:
    """A function dataset -> checksum of its content, which reads a file once; "" where it is not here, or not whole."""
    from kr_utils import data

    @functools.cache
    def checksum(name: str) -> str:
        try:
            return "" if data.to_fetch(name, data_root) else data.check(name, data_root)
        except InputError:  # who runs it is told what is wrong
            return ""

    return checksum


def unknown(name: str) -> str:
    """The checksum of a dataset where nobody looks for its file."""
    return ""


def _why_stale(folder: Path, mine: dict[str, runs.Done], checksum: Callable[[str], str]) -> dict[str, str]:
    """`runs.stale` of a dataset's and seed's folder, with its data and what is missing or damaged.

    An audit's pipelines may be missing: they are large, and nothing but the audit reads them.
    """
    read = [done.manifest["ingredients"]["upstream"] for done in mine.values()]
    needed, gone = {need for each in read for need, files in each.items() if files} - set(mine), set()
    for need in (need for need in needed if stages.kind(need) not in stages.MANY):
        with contextlib.suppress(runs.NotReadable):  # then nobody knows
            gone |= set() if runs.read(folder / stages.folder(need)) else {need}
    return runs.stale(mine, checksum=checksum(folder.parent.name) if mine else "", gone=gone)


def status(
    root: Path,
    profile: str,
    asked: list[tuple[str, int]],
    console=None,
    figures: Path | None = None,
    checksum: Callable[[str], str] = unknown,
) -> None:
    """Print the state of every stage of every dataset and seed that is in the runs folder or asked for.

    Parameters
    ----------
    figures : the figures folder, which the comparison is compared with; None: nobody looks there
    checksum : dataset -> that of its content now, "" where it is not known; see `at_hand`
    """
    from rich.console import Console

    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else UNKNOWN_WIDTH)
    there, notes = rows_of(root / profile)
    rows = sorted({*there, *asked})
    if not rows and not notes:
        console.print(f"no run of profile {profile} in {root}", markup=False, soft_wrap=True)
        return

    # A word for each stage, a line for what needs more
    cells: dict[tuple[str, int], dict[str, str]] = {}
    found, fallen = runs.find(root, profile), []
    for dataset, seed in rows:
        driver = locks.holder(locks.driver_path(root, profile, dataset, seed))
        row, words = {}, {}
        mine, place = found.get((dataset, seed), {}), root / profile / dataset / f"seed{seed}"
        why = _why_stale(place, mine, checksum)
        fallen += [(dataset, seed)] if set(why) & set(stages.USUAL) else []

        for stage in _worth_telling(place, mine):
            folder = runs.stage_dir(root, profile, dataset, seed, stage)
            word, more = state(folder, driver is not None)
            if word == "missing" and stage in stages.ON_REQUEST:
                continue
            word = "stale" if word == "done" and stage in why else word
            words[stage], row[stage] = word, f"done {more}" if word == "done" else word
            notes += _notes(f"{dataset} seed {seed}  {stages.folder(stage)}", word, more, why.get(stage, ""), folder)
        cells[dataset, seed] = together(row, words)

        if driver is not None:
            notes.append(f"running: {dataset} seed {seed} by {locks.told(driver)}")

    # The comparison, then all of it
    driver, folder = locks.holder(locks.driver_path(root, profile)), runs.stage_dir(root, profile, "", 0, "compare")
    word, more = state(folder, driver is not None)
    why = _why_compare_again(folder, root, figures, fallen) if word == "done" else ""
    word = "stale" if why else word
    console.print(of_stages(cells, console, f"profile {profile}"), markup=False)
    for line in [f"compare: {word}{f', {plain(why)}' if why else ''}", *notes]:
        console.print(line, markup=False, soft_wrap=True)


def _notes(title: str, word: str, more: str, why: str, folder: Path) -> list[str]:
    """A line about a stage of which a word does not say all."""
    if word == "stale":
        return [f"stale: {title}, {plain(why)}"]
    if word == "done" and (wrong := copies.told(runs.read(folder))):
        return [f"done: {title}, but {wrong}"]
    if word == "failed":
        return [f"failed: {title}; see {more}"]
    if word == "missing" and folder.exists():
        return [f"missing: {title}; {plan.DAMAGED}"]
    return []


def _why_compare_again(folder: Path, root: Path, figures: Path | None, fallen: list[tuple[str, int]]) -> str:
    """Why a finished comparison does not stand, in words; empty where it does, or where that cannot be known."""
    with contextlib.suppress(InputError):  # a run that may not be looked into
        done = runs.read(folder)
        return plan.why_compare_again(done, root, figures, fallen) if done else ""
    return ""


def _worth_telling(folder: Path, found: dict[str, runs.Done]) -> list[str]:
    """Stages of a run that have a state: the usual ones, and of those that run only if asked for the ones begun.

    found : its finished stages
    """
    try:
        names = [path.name for path in paths.listed(folder)]
    except InputError:
        names = []

    def begun(stage: str) -> bool:
        """Whether it left anything; a name with a dot in front is a lock."""
        return any(name.partition(".")[0] == stages.folder(stage) for name in names)

    # Where there is a shadow, all of its audit are wanted
    several = max((done.pipelines for done in found.values()), default=0)
    there = [stage for stage in stages.among(names) if stage in STAGES or (stage not in stages.USUAL and begun(stage))]
    return sorted(
        {*there, *stages.expanded("shadow", several)}, key=lambda stage: (stages.order(stage), len(stage), stage)
    )


def times(
    root: Path, profile: str, asked: list[tuple[str, int]], checksum: Callable[[str], str] = unknown
) -> list[str]:
    """Where the minutes of each dataset and seed went, from their manifests, as lines of a Markdown table.

    A row per run, then the mean of the whole ones of a dataset; a star marks what is stale.

    Parameters
    ----------
    asked : datasets with their seeds; none: all that are there
    checksum : as in `status`
    """
    rows, usual = [], set(stages.USUAL) - {"compare"}
    for (dataset, seed), found in sorted(runs.find(root, profile).items()):
        if not asked or (dataset, seed) in asked:
            seconds: dict[str, float] = {}
            for stage, done in found.items():
                kind = stages.kind(stage)
                seconds[kind] = seconds.get(kind, 0) + done.manifest["seconds"]
            old = _why_stale(root / profile / dataset / f"seed{seed}", found, checksum)
            rows.append((dataset, str(seed), seconds, {stages.kind(stage) for stage in old}))

    # Runs of which each stage is there can be averaged
    for dataset in sorted({row[0] for row in rows}):
        whole = [row for row in rows if row[0] == dataset and usual <= set(row[2])]
        if len(whole) > 1:
            mean = {stage: fmean(row[2][stage] for row in whole) for stage in STAGES if stage in usual}
            rows.append((dataset, f"mean of {len(whole)}", mean, set().union(*(row[3] for row in whole))))

    shown = [stage for stage in stages.STAGES if stage in usual or any(stage in row[2] for row in rows)]
    cells = [["minutes", "seed", *shown, "sum"], ["---"] * (len(shown) + 3)]
    for dataset, seed, seconds, old in rows:
        each = [f"{seconds[s] / 60:.1f}{'*' * (s in old)}" if s in seconds else "-" for s in shown]
        cells.append([dataset, seed, *each, f"{sum(seconds.values()) / 60:.1f}"])
    star = ["", "\\* stale: made with other code, data or earlier stages"] * any(row[3] for row in rows)
    return [f"| {' | '.join(row)} |" for row in cells] + star
