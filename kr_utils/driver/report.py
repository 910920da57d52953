"""What the driver shows: a live table on a terminal, plain lines elsewhere, and the state of all runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from kr_utils import runs, stages
from kr_utils.driver import plan

STAGES = [stage for stage in stages.STAGES if stage != "compare"]

SUMMARY = ("dataset", "seed", "real", "CAS", "gap (points)", "AUC real", "AUC Student", "minutes")


class Reporter:
    """Tells what happens to each job. On a terminal a table that is redrawn; else a line when something changes,
    and every 30 s a running stage's latest line.

    jobs : all of the plan, in order
    every : show all lines of the notebooks
    """

    def __init__(self, jobs: list[plan.Job], every: bool = False):
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

    def title(self, job: plan.Job) -> str:
        place = [other.folder for other in self.jobs].index(job.folder) + 1
        return f"[{place}/{len(self.jobs)}] {job.title}"

    def started(self, job: plan.Job, where: str = "") -> None:
        again = job.folder in self.since
        self.word[job.folder], self.since[job.folder], self.told[job.folder] = "running", time.time(), time.time()
        usual = f", about {self.expected(job):.0f} s" if self.expected(job) else ""
        if again:
            self.say(f"{self.title(job)}  its worker was lost; taken up again on {where}")
        else:
            self.plain(f"{self.title(job)}  ({job.reason}{usual}{f', on {where}' if where else ''})")

    def line(self, job: plan.Job, text: str) -> None:
        self.latest[job.folder] = text
        if self.every or (not self.live and time.time() - self.told.get(job.folder, 0) > 30):
            self.told[job.folder] = time.time()
            self.say(f"      {job.where}: {text[:160]}" if len(self.running()) > 1 else f"      {text[:160]}")

    def ended(self, job: plan.Job, word: str, why: str = "") -> None:
        """word : done, failed, skipped or reused."""
        self.word[job.folder] = word
        if word == "done":
            self.took[job.dataset, job.stage] = time.time() - self.since.get(job.folder, time.time())
        if word == "failed" or (self.live and word == "skipped"):
            self.say(f"{self.title(job)}  {word}: {why}")
        else:
            self.plain(f"{self.title(job)}  {word}{': ' if word == 'skipped' else ' ' if why else ''}{why}")

    def running(self) -> list[plan.Job]:
        return [job for job in self.jobs if self.word[job.folder] == "running"]

    def expected(self, job: plan.Job) -> float | None:
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

    def cell(self, job: plan.Job) -> str:
        word, usual = self.word[job.folder], self.expected(job)
        if word == "running":
            return f"{clock(time.time() - self.since[job.folder])}{f' of ~{clock(usual)}' if usual else ''}"
        if word == "done":
            return f"done {clock(self.took[job.dataset, job.stage])}"
        if word == "waiting":
            return f"~{clock(usual)}" if usual else ""
        return word

    def summary(self, seconds: dict[plan.Job, float]) -> None:
        """The closing table; real and CAS are test accuracies, AUC is the loss attack's."""
        from rich.table import Table

        table = Table(*SUMMARY)
        for row in results(self.jobs, seconds):
            table.add_row(*row)
        self.console.print(table)
        spent = {s: sum(v for job, v in seconds.items() if job.stage == s) for s in stages.STAGES}
        if seconds:
            self.say("minutes by stage: " + ", ".join(f"{s} {v / 60:.1f}" for s, v in spent.items() if v))


def clock(seconds: float) -> str:
    """1:02 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def dry_run(jobs: list[plan.Job]) -> list[str]:
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


def results(jobs: list[plan.Job], seconds: dict[plan.Job, float]) -> list[list[str]]:
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
