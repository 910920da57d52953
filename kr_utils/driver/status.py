"""The state of every stage of a profile: done, running, failed, stopped or missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kr_utils import runs, stages
from kr_utils.driver.report import STAGES
from kr_utils.runs import locks


def state(folder: Path, driven: bool) -> tuple[str, str]:
    """(done, running, failed, stopped or missing; minutes, or where to look) of the stage in `folder`.

    driven : a driver is at work on this dataset and seed
    """
    done, partial = runs.read(folder), folder.with_name(f"{folder.name}.failed.ipynb")
    if locks.holder(locks.stage_path(folder)) is not None:
        return "running", ""
    try:
        newer = not done or partial.stat().st_mtime > (done.path / "manifest.json").stat().st_mtime
        failed = bool(json.loads(partial.read_text(encoding="utf-8"))["metadata"]["papermill"]["exception"])
    except OSError:
        newer = failed = False
    except (ValueError, KeyError, TypeError):  # papermill writes it just now
        failed = False
    if newer and failed:
        return "failed", str(partial)
    if newer and driven:
        return "running", ""  # its kernel starts, or reads its data
    if done:
        return "done", f"{done.manifest['seconds'] / 60:.1f}"
    return ("stopped", "") if newer or folder.with_name(f"{folder.name}.partial").exists() else ("missing", "")


def status(root: Path, profile: str, asked: list[tuple[str, int]], console=None) -> None:
    """Print the state of every stage of every dataset and seed that is in the runs folder or asked for."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    there = [(p.parent.name, int(p.name[4:])) for p in (root / profile).glob("*/seed*") if p.name[4:].isdecimal()]
    rows = sorted({*there, *asked})
    if not rows:
        console.print(f"no run of profile {profile} in {root}", markup=False, soft_wrap=True)
        return
    table, notes = Table("dataset", "seed", *STAGES, title=f"profile {profile}: minutes where done"), []
    for dataset, seed in rows:
        driver = locks.holder(locks.driver_path(root, profile, dataset, seed))
        cells = []
        for stage in STAGES:
            word, more = state(runs.stage_dir(root, profile, dataset, seed, stage), driver is not None)
            cells.append(f"done {more}" if word == "done" else word)
            if word == "failed":
                notes.append(f"failed: {dataset} seed {seed}  {stages.STAGES[stage][0]}; see {more}")
        table.add_row(dataset, str(seed), *cells)
        if driver is not None:
            notes.append(f"running: {dataset} seed {seed} by {locks.told(driver)}")
    driver = locks.holder(locks.driver_path(root, profile))
    word, more = state(runs.stage_dir(root, profile, "", 0, "compare"), driver is not None)
    console.print(table)
    for line in [f"compare: {word}", *notes]:
        console.print(line, markup=False, soft_wrap=True)
