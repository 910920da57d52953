#!/usr/bin/env python3
"""Two or more budgets, compared on cross-validation inside the training and validation images of several datasets.

    python benchmarks/compare.py --datasets breastmnist,retinamnist --budget base --budget long=distillation.epochs=240

Each set gives folds (folds.py); a budget on a fold with a seed is a cell: an ordinary run, by run_all.py, in a runs
folder of the budget's own, with a manifest for each stage. A stage that two budgets have in common (the very same
ingredients and inputs) is run once and linked into the other's folder. Differences are paired by set, fold, seed and
image (paired.py). No test split can be reached: what is called test here is the held-out part of a fold.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import cells
import folds
import numpy as np
import paired

import run_all
from kr_utils import InputError, owned, paths, profiles, runs, shown, stages
from kr_utils.driver import plan, report
from kr_utils.runs import identity, locks

LOSSES = 2  # a budget that loses on so many sets is dropped
COLUMNS = {
    "real": "real",
    "ensemble": "ensemble",
    "cas": "Student (CAS)",
    "cas-real": "gap",
    "cas-ensemble": "gap to ensemble",
    "minutes": "minutes",
}
STOPPED = 130


@dataclass(frozen=True)
class Budget:
    """overrides : stage -> field -> value, as `plan.parse_settings` makes them"""

    name: str
    overrides: dict[str, dict]

    @property
    def settings(self) -> list[str]:
        """As --set options of run_all.py take them."""
        return [
            f"{stage}.{field}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for stage, fields in self.overrides.items()
            for field, value in fields.items()
        ]


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where: everything that the steps below need.

    budgets : the first one is what the others are compared with
    datasets : set -> name of each fold -> checksum
    """

    work: Path
    profile: str
    until: str
    seeds: list[int]
    budgets: list[Budget]
    datasets: dict[str, dict[str, str]]
    metric: str
    margin: float  # as a share of images

    @property
    def data(self) -> Path:
        return self.work / "data"

    def runs_of(self, budget: Budget) -> Path:
        return self.work / "runs" / budget.name

    def jobs(self, budget: Budget, names: list[str], seeds: list[int]) -> list[plan.Job]:
        """The plan of a budget on all folds of some sets, as things stand."""
        checksums = {fold: checksum for name in names for fold, checksum in self.datasets[name].items()}
        where = {"root": self.runs_of(budget), "figures": self.work / "figures", "data_root": str(self.data)}
        return plan.plan(
            self.profile, list(checksums), seeds, checksums, overrides=budget.overrides, until=self.until, **where
        )


# ------------------------------------------------------------------ what is asked for


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="compare.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument(
        "--datasets",
        default="digits",
        help="names as run_all.py takes them, comma-separated (default digits);\n"
        "an npz without description as NAME:none, NAME:left-right or NAME:both (mirror images that keep their label)",
    )
    p.add_argument("--data-root", default="", help="folder of the source files (default: KR_DATA, else the usual one)")
    p.add_argument("--describe", default="", metavar="FOLDER", help="where NAME.json of undescribed files are")
    p.add_argument("--splits", type=run_all.count, default=3, metavar="K", help="folds of each set (default 3)")
    p.add_argument(
        "--most-train", type=run_all.count, default=0, metavar="N", help="training images of a fold (default 1500)"
    )
    p.add_argument("--seeds", default="0", help="whole numbers, comma-separated (default 0)")
    p.add_argument("--profile", default="laptop", help=f"{', '.join(profiles.PROFILES)} (default laptop)")
    p.add_argument("--until", default="distillation", metavar="STAGE", help="last stage (default distillation)")

    # Budgets
    p.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="NAME[=SETTINGS]",
        help='such as base, or big="teacher.epochs=90 distillation.period=1" (repeatable; the first is compared with)',
    )
    p.add_argument(
        "--budgets", default="", metavar="FILE", help="a TOML or JSON file: budget -> stage -> field -> value"
    )
    p.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE", help="for every budget")

    # What is told, and when a budget has lost
    p.add_argument("--metric", default="", help="cas, real, cas-real, minutes, stage.key, ... (default cas)")
    p.add_argument("--margin", type=float, default=2.0, metavar="POINTS", help="a mean so far below loses (default 2)")
    p.add_argument("--keep-all", action="store_true", help="go on with budgets that have lost on two sets")
    p.add_argument("--plan", action="store_true", help="say what it would cost; run nothing")
    p.add_argument("--table", action="store_true", help="write the tables of what is finished; run nothing")

    # Where and on what
    p.add_argument(
        "--work", default="", metavar="DIR", help="where all of it goes (default: compare/ in the runs folder)"
    )
    p.add_argument("--jobs", type=run_all.count, default=1, metavar="N", help="stages at a time (default 1)")
    p.add_argument("--threads", type=run_all.count, default=0, metavar="T", help="of each stage")
    return p


NAME = re.compile("[a-z0-9][a-z0-9_-]{0,39}")


def budgets_of(args: argparse.Namespace) -> list[Budget]:
    """The budgets of a file, then those of the command; each with the settings that all have.

    Raises
    ------
    InputError
        Fewer than two, a name twice, a setting that the profile has not, a file that cannot be read.
    """
    common = plan.parse_settings(args.set, args.profile)
    found: dict[str, dict[str, dict]] = {}
    named = [*_budget_file(Path(args.budgets), args.profile)] if args.budgets else []
    for text in args.budget:
        name, _, settings = text.partition("=")
        items = [item.removeprefix("--set=") for item in settings.split() if item != "--set"]
        named.append((name.strip(), plan.parse_settings(items, args.profile)))

    # A budget's own setting comes before that of all
    for name, own in named:
        if not NAME.fullmatch(name):
            raise InputError(f"budget {shown(name)}: give it a name of small letters, digits, _ and -, such as base")
        if name in found:
            raise InputError(f"budget {name!r} is given twice; give each its own name")
        found[name] = {stage: common.get(stage, {}) | own.get(stage, {}) for stage in stages.STAGES}
    budgets = [Budget(name, {stage: fields for stage, fields in own.items() if fields}) for name, own in found.items()]
    if len(budgets) < 2:
        raise InputError(f"{len(budgets)} budget(s); name at least two, such as --budget base --budget big=SETTINGS")
    return budgets


def _budget_file(path: Path, profile: str) -> Iterator[tuple[str, dict[str, dict]]]:
    """(name, overrides) of each budget in a TOML or JSON file."""
    wanted = "write budget -> stage -> field -> value, as TOML or JSON"
    try:
        text = owned.read_text(path, owned.NOTE)
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InputError(f"--budgets {path}: {error.strerror}; name a TOML or JSON file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--budgets {path}: not readable ({' '.join(str(error).split())[:120]}); {wanted}") from error

    if not isinstance(content, dict) or not all(isinstance(own, dict) for own in content.values()):
        raise InputError(f"--budgets {path}: {wanted}")
    for name, own in content.items():
        made = {stage: vars(profiles.budget(stage, profile, fields)) for stage, fields in own.items()}
        yield name, {stage: {field: made[stage][field] for field in fields} for stage, fields in own.items()}


def comparison_of(args: argparse.Namespace) -> Comparison:
    """Check the arguments, cheapest first; then read the sets and store their folds.

    Raises
    ------
    InputError
        A bad argument, folder or data file; a work folder in which a name stands for something else.
    """
    seeds, budgets = run_all.whole_numbers(args.seeds), budgets_of(args)
    until = plan.stages_until(args.until)
    if not {"teacher"} <= set(until) or "compare" in until:
        raise InputError(f"--until {args.until}: name a stage from teacher to membership")
    metric = args.metric or ("cas" if "distillation" in until else "real")
    if not re.fullmatch(r"minutes|[a-z_]+(-[a-z_]+)?|[a-z]+(\.\w+)+", metric):
        raise InputError(f"--metric {shown(metric)}: write cas, real, cas-real, minutes, or stage.key of its metrics")
    if args.splits < 2 or not 0 <= args.margin <= 100:
        raise InputError("--splits must be at least 2, --margin from 0 to 100 points")
    named = [name.partition(":")[::2] for name in run_all.names(args.datasets, "--datasets")]
    if len({name for name, _ in named}) < len(named):
        raise InputError("--datasets names a set twice; name each once")
    for name, _ in named:
        folds.fold_names(name, args.splits)

    # The work folder
    work = paths.absolute(args.work, "--work") if args.work else paths.runs_root() / "compare"
    paths.writable(work, "--work")

    # The folds
    cut = folds.Cut(args.splits, args.most_train or folds.Cut.most_train)
    made = {}
    for name, mirror in named:
        made[name] = folds.write(folds.read(name, args.data_root, args.describe, mirror), cut, work / "data")
    remember(work, args.profile, budgets, keep=not args.plan)
    return Comparison(work, args.profile, args.until, seeds, budgets, made, metric, args.margin / 100)


def remember(work: Path, profile: str, budgets: list[Budget], keep: bool) -> None:
    """Note what each budget's name stands for in this work folder; InputError where it stood for something else.

    keep : write the note; else only look
    """
    note = work / "budgets.json"
    try:
        known = json.loads(owned.read_text(note)) if note.is_file() else {}
        known = {str(key): list(value) for key, value in known.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{note}: not as it was written; delete it, and name the budgets as before") from error

    for budget in budgets:
        there = known.setdefault(f"{profile}/{budget.name}", budget.settings)
        if there != budget.settings:
            was = " ".join(there) or f"the plain {profile} profile"
            raise InputError(f"budget {budget.name!r} was {was} in {work}; give the new one another name")
    if keep:
        owned.write(note, json.dumps(known, indent=1) + "\n")


# ------------------------------------------------------------------ cells


def share(jobs: list[plan.Job], root: Path, others: list[Path]) -> int:
    """Link finished stages of other budgets that are just what these jobs would make; how many.

    jobs : of a budget with the runs folder `root`, in running order
    """
    linked = 0
    for job in jobs:
        if job.reuse:
            continue
        for other in others:
            done = runs.read(other / job.folder.relative_to(root))
            if plan.matches(done, job) and _reads_the_same(done, job, jobs):
                link(done, job.folder)
                linked += 1
                break
    return linked


def _reads_the_same(done: runs.Done, job: plan.Job, jobs: list[plan.Job]) -> bool:
    """Whether what a result was made from is what stands in the folder of the job's own budget."""
    mine = {other.stage: other.folder for other in jobs if (other.dataset, other.seed) == (job.dataset, job.seed)}
    there = {stage: item for stage, folder in mine.items() if (item := runs.read(folder))}
    needed = {stage for stage, files in done.manifest["ingredients"]["upstream"].items() if files}
    return needed <= set(there) and not runs.outdated(done, there)


def link(done: runs.Done, folder: Path) -> None:
    """Put a finished stage into another budget's folder too: hard links, copies where there are none.

    Nothing is ever written into a finished stage's files (they are replaced whole), so that links are safe.
    """
    beside = folder.with_name(f".{folder.name}.linked")
    owned.remove(beside)
    owned.make(beside)
    for path in paths.listed(done.path):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            os.link(path, beside / path.name)
        except OSError:
            with owned.reading(path) as source, owned.writing(beside / path.name) as target:
                shutil.copyfileobj(source, target)
    owned.remove(folder)
    owned.rename(beside, folder)


def drive(comparison: Comparison, budget: Budget, name: str, seed: int, args: argparse.Namespace) -> bool:
    """Run a budget on all folds of a set with a seed; whether every stage was made.

    Raises
    ------
    InputError
        run_all.py refuses; it has said why.
    """
    root, reused = comparison.runs_of(budget), comparison.jobs(budget, [name], [seed])
    others = [comparison.work / "runs" / path.name for path in paths.listed(comparison.work / "runs")]
    linked = share(reused, root, [other for other in others if other != root])
    missing = sum(not job.reuse for job in reused) - linked
    words = f"{missing} stages to run, {len(reused) - linked - missing} stand, {linked} shared with other budgets"
    print(f"== {name}, seed {seed}, budget {budget.name}: {words}", flush=True)
    if not missing:
        return True

    # An ordinary run
    options = {
        "profile": comparison.profile,
        "until": comparison.until,
        "datasets": ",".join(comparison.datasets[name]),
    }
    options |= {
        "seeds": seed,
        "data-root": comparison.data,
        "runs-dir": root,
        "figures-dir": comparison.work / "figures",
    }
    options |= {"jobs": args.jobs} | ({"threads": args.threads} if args.threads else {})
    command = [sys.executable, str(ROOT / "run_all.py"), "--keep-going"]
    command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    code = call(command + [word for setting in budget.settings for word in ("--set", setting)])
    if code == STOPPED:
        raise KeyboardInterrupt
    if code not in (0, 1):
        raise InputError(f"run_all.py refused budget {budget.name!r} on {name} (exit {code}); see the line above")
    return code == 0


def call(command: list[str]) -> int:
    """Run a command in a session of its own, so that it hears of a Ctrl-C once, from here; its exit code."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()  # its kernels end with it, and what is saved is gone on from
        process.wait()
        raise


def cells_of(
    comparison: Comparison, budget: Budget, known: dict[tuple, cells.Cell], only: tuple[int, str] | None = None
) -> list[cells.Cell]:
    """The finished cells of a budget, by seed, set and fold.

    Parameters
    ----------
    known : cells that were read before, which are not read again; new ones are added
    only : look for new ones of this seed and set; a plan of all cells takes seconds
    """
    order = [*itertools.product(comparison.seeds, comparison.datasets)]
    keys = {(seed, name, k): fold for seed, name in order for k, fold in enumerate(comparison.datasets[name], 1)}
    new = [key for key in keys if (budget.name, *key) not in known and only in (None, key[:2])]
    if new:
        seeds, names = ([*dict.fromkeys(key[place] for key in new)] for place in (0, 1))
        done = cells.finished(comparison.jobs(budget, names, seeds))
        for seed, name, k in new:
            fold = keys[seed, name, k]
            if (fold, seed) in done:
                images = comparison.data / f"{fold}.npz"
                known[budget.name, seed, name, k] = cells.load(name, k, seed, done[fold, seed], images)
    return [known[budget.name, *key] for key in keys if (budget.name, *key) in known]


# ------------------------------------------------------------------ cost


def cost(comparison: Comparison) -> list[str]:
    """What is left to run, a line per budget, with minutes as far as the manifests of other cells know them."""
    sources = {fold: name for name, made in comparison.datasets.items() for fold in made}
    took = times(comparison, sources)
    plans = {b.name: comparison.jobs(b, [*comparison.datasets], comparison.seeds) for b in comparison.budgets}
    keys = {name: chained(jobs) for name, jobs in plans.items()}

    # What one budget has or will have by then, the next one shares
    there = {keys[name][job] for name, jobs in plans.items() for job in jobs if job.reuse}
    lines, total = [], [0.0, 0]
    for name, jobs in plans.items():
        stand = sum(job.reuse for job in jobs)
        todo = [job for job in jobs if keys[name][job] not in there]
        there |= {keys[name][job] for job in todo}
        found = [expected(job, sources[job.dataset], took) for job in todo]
        part = [sum(filter(None, found)), found.count(None)]
        total = [a + b for a, b in zip(total, part)]
        words = f"{len(todo)} stages to run, {stand} stand, {len(jobs) - stand - len(todo)} shared"
        lines.append(f"{name}: {words}; {in_words(*part)}")

    # All of it
    sizes = {"sets": len(comparison.datasets), "folds": len(sources), "seeds": len(comparison.seeds)}
    sizes["budgets"] = len(plans)
    count = sizes["folds"] * sizes["seeds"] * sizes["budgets"]
    words = ", ".join(f"{n} {what}" for what, n in sizes.items())
    return [*lines, f"{count} cells ({words}): {in_words(*total)}, one stage after the other"]


def chained(jobs: list[plan.Job]) -> dict[plan.Job, str]:
    """A fingerprint of each job with all that it may read: jobs that have the same one are run once."""
    keys: dict[tuple, str] = {}
    for job in jobs:
        above = [keys[job.dataset, job.seed, need] for need in stages.STAGES[job.stage][1]]
        keys[job.dataset, job.seed, job.stage] = identity.fingerprint({"parts": job.parts, "above": above})
    return {job: keys[job.dataset, job.seed, job.stage] for job in jobs}


def times(comparison: Comparison, sources: dict[str, str]) -> dict[tuple, list[float]]:
    """Seconds of finished stages of any budget in the work folder: of a stage, also by set, and by set and budget."""
    took: dict[tuple, list[float]] = {}
    for root in paths.listed(comparison.work / "runs"):
        for (fold, _), run in runs.find(root, comparison.profile).items():
            for stage, done in run.items():
                budget = identity.fingerprint(done.manifest["ingredients"]["budget"])
                key = (stage, sources.get(fold), budget)
                for length in (1, 2, 3):
                    took.setdefault(key[:length], []).append(done.manifest["seconds"])
    return took


def expected(job: plan.Job, name: str, took: dict[tuple, list[float]]) -> float | None:
    """Mean seconds of the most similar stages that are known: same set and budget, else same set, else any set."""
    key = (job.stage, name, identity.fingerprint(job.parts["budget"]))
    return next((fmean(took[key[:length]]) for length in (3, 2, 1) if key[:length] in took), None)


def in_words(seconds: float, unknown: int) -> str:
    known = f"about {report.duration(seconds)}"
    return f"{known} and {unknown} stages whose time no cell tells" if unknown else known


# ------------------------------------------------------------------ tables


def number(values: tuple[float, float, float], per_image: bool, sign: str = "") -> str:
    """Mean and interval; a share of images in percent."""
    mean, low, high = (100 * v if per_image else v for v in values)
    if mean != mean:
        return ""
    return f"{mean:{sign}.2f}" if low != low else f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def verdict(values: paired.Values, comparison: Comparison) -> str:
    """What paired differences say of a budget, in words; "" where more need not be better."""
    if not cells.is_per_image(comparison.metric) or not values:
        return ""
    lost = paired.losses(values, comparison.margin)
    _, low, high = paired.interval(values)
    if len(lost) >= LOSSES:
        return f"dropped: loses on {', '.join(lost)}"
    word = "better" if low > 0 else "worse" if high < 0 else "no difference seen"
    return f"{word}; loses on {lost[0]}" if lost else word


def markdown(rows: list[list[str]]) -> str:
    """A table; the first row is its head, and a column without content is left out."""
    kept = [k for k in range(len(rows[0])) if any(row[k] for row in rows[1:])]
    lines = [[row[k] for k in kept] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], ["---"] * len(kept), *lines[1:]))


def rows_of(comparison: Comparison, found: dict[str, list[cells.Cell]], name: str = "") -> list[list[str]]:
    """A row per budget, over all sets or of one: cells, means, and the paired difference to the first budget."""
    metric, per_image = comparison.metric, cells.is_per_image(comparison.metric)
    first = comparison.budgets[0].name
    columns = COLUMNS if metric in COLUMNS else COLUMNS | {metric: metric}
    rows = [["budget", "cells", *columns.values(), f"{columns[metric]} less {first}'s", "pairs", "verdict"]]
    planned = len(comparison.seeds) * sum(len(m) for n, m in comparison.datasets.items() if name in ("", n))
    mine = {key: [cell for cell in cells_ if name in ("", cell.dataset)] for key, cells_ in found.items()}

    for budget, own in mine.items():
        row = [budget, f"{len(own)} of {planned}"]
        for key in columns:  # a contrast of two classifiers with its interval
            mean, low, high = paired.interval(cells.averaged(own, key))
            level = (mean, low, high) if "-" in key or key == metric else (mean, np.nan, np.nan)
            row.append(number(level, cells.is_per_image(key), "+" if "-" in key else ""))
        if budget == first:
            rows.append([*row, "", "", ""])
            continue

        # Against the first
        pairs = cells.averaged(own, metric, minus=mine[first])
        places = [{(c.dataset, c.fold, c.seed) for c in cells_} for cells_ in (own, mine[first])]
        lost = "loses" if per_image and paired.losses(pairs, comparison.margin) else ""
        told = lost if name else verdict(pairs, comparison)
        rows.append([*row, number(paired.interval(pairs), per_image, "+"), str(len(places[0] & places[1])), told])
    return rows


def document(comparison: Comparison, found: dict[str, list[cells.Cell]]) -> str:
    """compare.md: the budgets, over all sets, and set by set."""
    made = [done.manifest for mine in found.values() for cell in mine for done in cell.done.values()]
    machines = {(m["hardware"]["cpu"], m["hardware"]["threads"], m["versions"]["torch"]) for m in made}
    where = [f"{cpu}, {threads} threads, torch {torch}" for cpu, threads, torch in sorted(machines)]
    commits = sorted({(m["git_commit"] or "unknown")[:10] for m in made})
    seeds = ", ".join(map(str, comparison.seeds))
    lines = [
        "# Budgets compared",
        f"Profile {comparison.profile}, until {comparison.until}, seeds {seeds}; commit {', '.join(commits)}; "
        f"{'; '.join(where)}. Cross-validation inside train + validation; no test split.",
        "\n".join(f"* {b.name}: {' '.join(b.settings) or 'the profile as it is'}" for b in comparison.budgets),
        "Percent and points; each set counts alike. Means are of a budget's own cells. The difference is paired by "
        "set, fold, seed and image, with its 95 % interval (benchmarks/paired.py). A set is lost where that is "
        f"all below zero or the mean below -{100 * comparison.margin:g}. Minutes count all stages, shared ones too.",
        "## Over all sets",
        markdown(rows_of(comparison, found)),
    ]
    for name, made_ in comparison.datasets.items():
        lines += [f"## {name}, {len(made_)} folds", markdown(rows_of(comparison, found, name))]
    return "\n\n".join(lines) + "\n"


def table_of_cells(comparison: Comparison, found: dict[str, list[cells.Cell]]) -> str:
    """compare.csv: a row per finished cell, with the fingerprints of its manifests."""
    rows = []
    for budget in comparison.budgets:
        for cell in found[budget.name]:
            row = {"budget": budget.name, "dataset": cell.dataset, "fold": cell.fold, "seed": cell.seed}
            for key in dict.fromkeys([*COLUMNS, comparison.metric]):
                value = cells.measure(cell, key)
                row[key] = "" if value is None else f"{value.mean():.10g}"
            teacher = cell.done["teacher"].manifest
            row |= {"profile": comparison.profile, "settings": " ".join(budget.settings)}
            row |= {"checksum": teacher["ingredients"]["checksum"], "commit": teacher["git_commit"] or ""}
            row |= {f"fingerprint_{s}": done.manifest["fingerprint"] for s, done in cell.done.items()}
            rows.append(row)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else ["budget"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def tables(comparison: Comparison, found: dict[str, list[cells.Cell]]) -> str:
    """Write compare.csv and compare.md; the latter's text.

    Raises
    ------
    InputError
        No finished cell has the metric.
    """
    every = [cell for mine in found.values() for cell in mine]
    if every and all(cells.measure(cell, comparison.metric) is None for cell in every):
        has = ", ".join(every[0].right)
        raise InputError(
            f"--metric {comparison.metric}: no cell has it; there are {has}, minutes, and stage.key numbers"
        )
    text = document(comparison, found)
    owned.write(comparison.work / "compare.csv", table_of_cells(comparison, found))
    owned.write(comparison.work / "compare.md", text)
    return text


# ------------------------------------------------------------------ the rounds


def rounds(
    comparison: Comparison, run: Callable[[Budget, str, int], bool], known: dict[tuple, cells.Cell], keep_all: bool
) -> list[str]:
    """Seed after seed, set after set, every budget that is still in; the failures, a line each.

    After each set a budget that has lost on two of them is dropped: no further cell of it is run.

    Parameters
    ----------
    run : runs a budget on the folds of a set with a seed; whether all of it was made
    known : see `cells_of`
    """
    failures, out = [], set()
    first, *others = comparison.budgets
    for seed, name in itertools.product(comparison.seeds, comparison.datasets):
        for budget in [each for each in comparison.budgets if each.name not in out]:
            if not run(budget, name, seed):
                failures.append(f"{name}, seed {seed}, budget {budget.name}: the same command tries it again")

        # Who is out?
        found = {each.name: cells_of(comparison, each, known, (seed, name)) for each in comparison.budgets}
        tables(comparison, found)
        for budget in [each for each in others if each.name not in out and not keep_all]:
            pairs = cells.averaged(found[budget.name], comparison.metric, minus=found[first.name])
            if (told := verdict(pairs, comparison)).startswith("dropped"):
                out.add(budget.name)
                print(f"== budget {budget.name} is {told}; --keep-all goes on with it", flush=True)
    return failures


def compare(args: argparse.Namespace) -> int:
    """The whole command; returns the exit code."""
    comparison = comparison_of(args)
    if not args.table:
        print("\n".join(cost(comparison)), flush=True)
    if args.plan:
        return 0

    # One at a time in a work folder
    known, failures = {}, []
    with contextlib.ExitStack() as stack:
        if not args.table:
            lock = locks.hold(comparison.work / ".compare.lock", f"the comparison in {comparison.work}")
            stack.callback(lock.release)
            failures = rounds(comparison, functools.partial(drive, comparison, args=args), known, args.keep_all)

        print(tables(comparison, {budget.name: cells_of(comparison, budget, known) for budget in comparison.budgets}))
    print(f"tables: {comparison.work / 'compare.md'} and compare.csv")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; bad input is told in one line."""
    args = parser().parse_args(argv)
    try:
        code = compare(args)
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # nobody reads on (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"error: {error}; finished cells are kept", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; finished cells are kept: the same command goes on from here", file=sys.stderr)
        return STOPPED


if __name__ == "__main__":
    for each_ in (signal.SIGINT, signal.SIGTERM):  # a shell lets what it puts into the background ignore Ctrl-C
        signal.signal(each_, signal.default_int_handler)
    sys.exit(main())
