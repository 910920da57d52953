"""The state of every stage of a profile: done, stale, running, failed, stopped or missing; and where minutes went."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from statistics import fmean

from kr_utils import InputError, owned, paths, plain, runs, stages
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


def status(root: Path, profile: str, asked: list[tuple[str, int]], console=None) -> None:
    """Print the state of every stage of every dataset and seed that is in the runs folder or asked for."""
    from rich.console import Console

    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else UNKNOWN_WIDTH)
    there, notes = rows_of(root / profile)
    rows = sorted({*there, *asked})
    if not rows and not notes:
        console.print(f"no run of profile {profile} in {root}", markup=False, soft_wrap=True)
        return

    # A word for each stage, a line for what needs more
    cells: dict[tuple[str, int], dict[str, str]] = {}
    found = runs.find(root, profile)
    for dataset, seed in rows:
        driver = locks.holder(locks.driver_path(root, profile, dataset, seed))
        row, words = {}, {}
        mine = found.get((dataset, seed), {})
        why = runs.stale(mine)

        for stage in _worth_telling(root / profile / dataset / f"seed{seed}", mine):
            folder = runs.stage_dir(root, profile, dataset, seed, stage)
            word, more = state(folder, driver is not None)
            if word == "missing" and stage in stages.ON_REQUEST:
                continue
            word = "stale" if word == "done" and stage in why else word
            words[stage], row[stage] = word, f"done {more}" if word == "done" else word
            if word == "stale":
                notes.append(f"stale: {dataset} seed {seed}  {stages.folder(stage)}, {plain(why[stage])}")
            if word == "done" and (wrong := copies.told(runs.read(folder))):
                notes.append(f"done: {dataset} seed {seed}  {stages.folder(stage)}, but {wrong}")
            if word == "failed":
                notes.append(f"failed: {dataset} seed {seed}  {stages.folder(stage)}; see {more}")
        cells[dataset, seed] = together(row, words)

        if driver is not None:
            notes.append(f"running: {dataset} seed {seed} by {locks.told(driver)}")

    # The comparison, then all of it
    driver = locks.holder(locks.driver_path(root, profile))
    word, more = state(runs.stage_dir(root, profile, "", 0, "compare"), driver is not None)
    console.print(of_stages(cells, console, f"profile {profile}"), markup=False)
    for line in [f"compare: {word}", *notes]:
        console.print(line, markup=False, soft_wrap=True)


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


def times(root: Path, profile: str, asked: list[tuple[str, int]]) -> list[str]:
    """Where the minutes of each dataset and seed went, from their manifests, as lines of a Markdown table.

    A row per run, then the mean of the whole ones of a dataset; a star marks what other code or settings made.

    asked : datasets with their seeds; none: all that are there
    """
    rows, usual = [], set(stages.USUAL) - {"compare"}
    for (dataset, seed), found in sorted(runs.find(root, profile).items()):
        if not asked or (dataset, seed) in asked:
            seconds: dict[str, float] = {}
            for stage, done in found.items():
                kind = stages.kind(stage)
                seconds[kind] = seconds.get(kind, 0) + done.manifest["seconds"]
            rows.append((dataset, str(seed), seconds, {stages.kind(stage) for stage in runs.stale(found)}))

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
    star = ["", "\\* stale: made with other code, settings or earlier stages"] * any(row[3] for row in rows)
    return [f"| {' | '.join(row)} |" for row in cells] + star
