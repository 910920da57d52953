"""What the driver shows: a live table on a terminal, plain lines elsewhere, and the state of all runs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from kr_utils import fingerprints, locks, runs, workflow

SUMMARY = ("dataset", "seed", "real", "CAS", "gap (points)", "AUC real", "AUC Student", "minutes")
STAGES = [stage for stage in fingerprints.STAGES if stage != "compare"]


class Reporter:
    """Tells what happens to each job. On a terminal a table that is redrawn; else a line when something changes,
    and every 30 s a running stage's latest line.

    jobs : all of the plan, in order
    every : show all lines of the notebooks
    """

    def __init__(self, jobs: list[workflow.Job], every: bool = False):
        from rich.console import Console

        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
        self.jobs, self.every, self.live = jobs, every, None
        # By folder, for a comparison is planned anew before it runs.
        self.word = {job.folder: "reused" if job.reuse else "waiting" for job in jobs}
        self.since: dict[Path, float] = {}
        self.latest: dict[Path, str] = {}
        self.told: dict[Path, float] = {}
        self.took: dict[tuple[str, str], float] = {}  # dataset, stage -> seconds, of the latest in this run

    def __enter__(self) -> Reporter:
        if self.console.is_terminal:
            from rich.live import Live

            self.live = Live(get_renderable=self.draw, console=self.console, refresh_per_second=2)
            self.live.start()
        return self

    def __exit__(self, *error) -> None:
        if self.live:
            self.live.stop()
            self.live = None

    def title(self, job: workflow.Job) -> str:
        place = [other.folder for other in self.jobs].index(job.folder) + 1
        return f"[{place}/{len(self.jobs)}] {job.title}"

    def started(self, job: workflow.Job, where: str = "") -> None:
        again = job.folder in self.since
        self.word[job.folder], self.since[job.folder], self.told[job.folder] = "running", time.time(), time.time()
        usual = f", about {self.expected(job):.0f} s" if self.expected(job) else ""
        if again:
            self.say(f"{self.title(job)}  its worker was lost; taken up again on {where}")
        else:
            self.plain(f"{self.title(job)}  ({job.reason}{usual}{f', on {where}' if where else ''})")

    def line(self, job: workflow.Job, text: str) -> None:
        self.latest[job.folder] = text
        if self.every or (not self.live and time.time() - self.told.get(job.folder, 0) > 30):
            self.told[job.folder] = time.time()
            self.say(f"      {job.where}: {text[:160]}" if len(self.running()) > 1 else f"      {text[:160]}")

    def ended(self, job: workflow.Job, word: str, why: str = "") -> None:
        """word : done, failed, skipped or reused."""
        self.word[job.folder] = word
        if word == "done":
            self.took[job.dataset, job.stage] = time.time() - self.since.get(job.folder, time.time())
        if word == "failed" or (self.live and word == "skipped"):
            self.say(f"{self.title(job)}  {word}: {why}")
        else:
            self.plain(f"{self.title(job)}  {word}{': ' if word == 'skipped' else ' ' if why else ''}{why}")

    def running(self) -> list[workflow.Job]:
        return [job for job in self.jobs if self.word[job.folder] == "running"]

    def expected(self, job: workflow.Job) -> float | None:
        return job.expected or self.took.get((job.dataset, job.stage))

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def plain(self, text: str) -> None:
        """A line that a terminal has in the table."""
        if not self.live:
            self.say(text)

    def draw(self):
        """The live table: a row per dataset and seed, a column per stage, then what the running stages say."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        wanted = [stage for stage in STAGES if any(job.stage == stage for job in self.jobs)]
        table = Table("dataset", "seed", *wanted)
        for where in dict.fromkeys((job.dataset, job.seed) for job in self.jobs if job.stage != "compare"):
            mine = {job.stage: job for job in self.jobs if (job.dataset, job.seed) == where}
            table.add_row(where[0], str(where[1]), *(self.cell(mine[stage]) for stage in wanted))
        compare = [f"compare: {self.cell(job)}" for job in self.jobs if job.stage == "compare"]
        says = [f"{job.title}: {self.latest[job.folder][:100]}" for job in self.running() if job.folder in self.latest]
        return Group(table, *(Text(line, no_wrap=True, overflow="ellipsis") for line in [*compare, *says]))

    def cell(self, job: workflow.Job) -> str:
        word, usual = self.word[job.folder], self.expected(job)
        if word == "running":
            return f"{clock(time.time() - self.since[job.folder])}{f' of ~{clock(usual)}' if usual else ''}"
        if word == "done":
            return f"done {clock(self.took[job.dataset, job.stage])}"
        if word == "waiting":
            return f"~{clock(usual)}" if usual else ""
        return word

    def summary(self, seconds: dict[workflow.Job, float]) -> None:
        """The closing table; real and CAS are test accuracies, AUC is the loss attack's."""
        from rich.table import Table

        table = Table(*SUMMARY)
        for row in summary(self.jobs, seconds):
            table.add_row(*row)
        self.console.print(table)
        spent = {s: sum(v for job, v in seconds.items() if job.stage == s) for s in fingerprints.STAGES}
        if seconds:
            self.say("minutes by stage: " + ", ".join(f"{s} {v / 60:.1f}" for s, v in spent.items() if v))


def summary(jobs: list[workflow.Job], seconds: dict[workflow.Job, float]) -> list[list[str]]:
    """Rows of the closing table, one per dataset and seed: the columns of `SUMMARY`, "-" where nothing is known yet.

    seconds : of the jobs that ran now; a reused stage counts with the seconds its result once took
    """
    rows = []
    jobs = [job for job in jobs if job.stage != "compare"]
    for where in dict.fromkeys((job.dataset, job.seed) for job in jobs):
        mine = {job: runs.read(job.folder) for job in jobs if (job.dataset, job.seed) == where}
        found = {job.stage: done.metrics for job, done in mine.items() if done}
        row = [where[0], str(where[1])] + ["-"] * 5
        if "teacher" in found:
            row[2] = f"{found['teacher']['test_accuracy']:.4f}"
        if "distillation" in found:
            m = found["distillation"]
            row[3] = f"{m['cas']:.4f}"
            row[4] = f"{100 * m['cas_gap']:+.2f} [{100 * m['gap_low']:+.2f}, {100 * m['gap_high']:+.2f}]"
        if "membership" in found:
            row[5:7] = [f"{found['membership'][who]['loss']['auc']:.3f}" for who in ("real", "student")]
        total = sum(seconds.get(job, done.manifest["seconds"] if done else 0) for job, done in mine.items())
        rows.append([*row, f"{total / 60:.1f}"])
    return rows


def clock(seconds: float) -> str:
    """1:02 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def dry_run(jobs: list[workflow.Job]) -> list[str]:
    """A line per stage: run or reuse, why, minutes last time; then the total."""
    lines = []
    for job in jobs:
        last = f"  ({job.seconds / 60:.1f} min last time)" if job.seconds else ""
        lines.append(f"{'reuse' if job.reuse else 'run':5}  {job.title}: {job.reason}{last}")
    todo = [job for job in jobs if not job.reuse]
    known = [job.expected for job in todo if job.expected]
    total = f"total: {len(todo)} of {len(jobs)} stages to run"
    if known:
        total += f", about {sum(known) / 60:.1f} min one after the other"
        total += f" and {len(todo) - len(known)} stages whose time is not known" if len(known) < len(todo) else ""
    return [*lines, total]


# ------------------------------------------------------------ the state of all runs


def state(folder: Path, driven: bool) -> tuple[str, str]:
    """(done, running, failed, stopped or missing; minutes, or where to look) of the stage in `folder`.

    driven : a driver is at work on this dataset and seed
    """
    done, partial = runs.read(folder), folder.with_name(f"{folder.name}.failed.ipynb")
    if locks.holder(locks.stage_path(folder)) is not None:
        return "running", ""
    try:
        newer = not done or partial.stat().st_mtime > done.file("manifest.json").stat().st_mtime
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
                notes.append(f"failed: {dataset} seed {seed}  {fingerprints.STAGES[stage][0]}; see {more}")
        table.add_row(dataset, str(seed), *cells)
        if driver is not None:
            notes.append(f"running: {dataset} seed {seed} by {locks.told(driver)}")
    driver = locks.holder(locks.driver_path(root, profile))
    word, more = state(runs.stage_dir(root, profile, "", 0, "compare"), driver is not None)
    console.print(table)
    for line in [f"compare: {word}", *notes]:
        console.print(line, markup=False, soft_wrap=True)
