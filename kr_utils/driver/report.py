"""What the driver shows: a live table on a terminal, plain lines elsewhere, and the state of all runs."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from kr_utils import belief, runs, stages
from kr_utils.driver import plan

STAGES = [stage for stage in stages.USUAL if stage != "compare"]

SUMMARY = ("dataset", "seed", "real", "CAS", "gap (points)", "to ensemble", "AUC real", "AUC Student", "time")
CLASSIFIERS = {"real": "real training", "student": "Student"}
UNKNOWN_WIDTH = 160  # columns, where the output is no terminal


class Reporter:
    """Tells what happens to each job. On a terminal a table that is redrawn; else a line when something changes,
    and every 30 s a running stage's latest line.

    jobs : all of the plan, in order
    every : show all lines of the notebooks
    """

    def __init__(self, jobs: list[plan.Job], every: bool = False):
        from rich.console import Console

        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else UNKNOWN_WIDTH)
        self.jobs, self.every, self.live = jobs, every, None
        # By folder, for a comparison is planned anew before it runs.
        self.word = {job.folder: "reused" if job.reuse else "waiting" for job in jobs}
        self.since: dict[Path, float] = {}
        self.latest: dict[Path, str] = {}
        self.told: dict[Path, float] = {}
        self.took: dict[tuple[str, str], float] = {}  # dataset, kind of stage -> seconds, of the latest in this run

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
            self.took[job.dataset, stages.kind(job.stage)] = time.time() - self.since.get(job.folder, time.time())
        if word == "failed" or (self.live and word == "skipped"):
            self.say(f"{self.title(job)}  {word}: {why}")
        else:
            self.plain(f"{self.title(job)}  {word}{': ' if word == 'skipped' else ' ' if why else ''}{why}")

    def running(self) -> list[plan.Job]:
        return [job for job in self.jobs if self.word[job.folder] == "running"]

    def expected(self, job: plan.Job) -> float | None:
        return job.expected or self.took.get((job.dataset, stages.kind(job.stage)))

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def plain(self, text: str) -> None:
        """A line that a terminal has in the table."""
        if not self.live:
            self.say(text)

    def draw(self):
        """The live table of all stages, then what the running ones say."""
        from rich.console import Group
        from rich.text import Text

        cells: dict[tuple[str, int], dict[str, str]] = {}
        for job in self.jobs:
            if job.stage != "compare":
                cells.setdefault((job.dataset, job.seed), {})[job.stage] = self.cell(job)
        cells = {run: together(row, self.words(run)) for run, row in cells.items()}
        compare = [f"compare: {self.cell(job)}" for job in self.jobs if job.stage == "compare"]
        says = [f"{job.title}: {self.latest[job.folder][:100]}" for job in self.running() if job.folder in self.latest]
        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in [*compare, *says]]
        return Group(of_stages(cells, self.console), *lines)

    def words(self, run: tuple[str, int]) -> dict[str, str]:
        """Stage -> what it is doing, of one dataset and seed."""
        return {job.stage: self.word[job.folder] for job in self.jobs if (job.dataset, job.seed) == run}

    def cell(self, job: plan.Job) -> str:
        word, usual = self.word[job.folder], self.expected(job)
        if word == "running":
            return f"{clock(time.time() - self.since[job.folder])}{f' of ~{clock(usual)}' if usual else ''}"
        if word == "done":
            return f"done {clock(self.took[job.dataset, stages.kind(job.stage)])}"
        if word == "waiting":
            return f"~{clock(usual)}" if usual else ""
        return word

    def summary(self, seconds: dict[plan.Job, float]) -> None:
        """The closing table; real and CAS are test accuracies, AUC is the loss attack's on one classifier of each,
        training against test images.

        Gaps are in points, to the mean of the real classifiers and to their ensemble.
        """
        from rich.table import Table

        table, rows = Table(*SUMMARY), results(self.jobs, seconds)
        for row in rows:
            table.add_row(*row)
        if fits(table, self.console):
            self.console.print(table, markup=False)
        else:
            for row in rows:
                self.console.print(*narrow(row), sep="\n", markup=False)
        for line in (*unlearned(self.jobs), *shifts(self.jobs), *doubts(self.jobs), *audited(self.jobs)):
            self.say(line)
        kinds = {job: stages.kind(job.stage) for job in seconds}
        spent = {s: sum(v for job, v in seconds.items() if kinds[job] == s) for s in stages.STAGES}
        if seconds:
            self.say("time by stage: " + ", ".join(f"{s} {duration(v)}" for s, v in spent.items() if v))


def fits(table, console) -> bool:
    """Whether nothing of a table would be cut or wrapped on this console."""
    from rich.measure import Measurement

    wide = console.options.update(max_width=10_000)
    return Measurement.get(console, wide, table).maximum <= console.width


def together(row: dict[str, str], words: dict[str, str]) -> dict[str, str]:
    """A row with one cell for each stage that is run several times over: "12 done, 1 running, 3 waiting".

    Parameters
    ----------
    row : stage -> its cell; words : stage -> its state in one word
    """
    out: dict[str, str] = {}
    for stage, cell in row.items():
        out.setdefault(stages.kind(stage), cell)
    for many in [kind for kind in out if kind in stages.MANY]:
        counts = Counter(words[stage] for stage in row if stages.kind(stage) == many)
        out[many] = ", ".join(f"{count} {word}" for word, count in counts.items())
    return out


def of_stages(cells: dict[tuple[str, int], dict[str, str]], console, title: str = ""):
    """A table of stages, a row per dataset and seed; where that does not fit, its cells one after the other.

    cells : (dataset, seed) -> stage -> words
    """
    from rich.columns import Columns
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    wanted = [stage for stage in stages.STAGES if any(stage in row for row in cells.values())]
    table = Table("dataset", "seed", *wanted, title=title or None)
    for (dataset, seed), row in cells.items():
        table.add_row(dataset, str(seed), *(row.get(stage, "") for stage in wanted))
    if fits(table, console):
        return table
    parts = [Text(title)] if title else []
    for (dataset, seed), row in cells.items():
        items = [Text(f"{stages.notebook(stage)[:2]} {row[stage]}".rstrip()) for stage in wanted if stage in row]
        parts += [Text(f"{dataset} seed {seed}"), Columns(items, padding=(0, 3, 0, 0), equal=True)]
    return Group(*parts)


def narrow(row: list[str]) -> list[str]:
    """A row of the closing table as lines of words."""
    dataset, seed, real, cas, gap, to_ensemble, auc_real, auc_student, time_ = row
    lines = [f"{dataset} seed {seed}: real {real}, CAS {cas}, {time_}", f"  gap {gap}{' points' * (gap[-1:] == ']')}"]
    return [
        *lines,
        f"  gap to the real ensemble {to_ensemble}",
        f"  AUC of the loss attack: real {auc_real}, Student {auc_student}",
    ]


def duration(seconds: float) -> str:
    """Seconds below a minute, minutes below three hours, else hours: "8 s", "1.4 min", "3.2 h"."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.1f} h"


def clock(seconds: float) -> str:
    """1:02 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def dry_run(jobs: list[plan.Job]) -> list[str]:
    """A line per stage: run or reuse, why, how long it took last time or may take; then the total."""
    lines = []
    for job in jobs:
        last = f"  ({duration(job.seconds)} last time)" if job.seconds else ""
        if not last and job.expected:
            last = f"  (about {duration(job.expected)})"
        lines.append(f"{'reuse' if job.reuse else 'run':5}  {job.title}: {job.reason}{last}")
    todo = [job for job in jobs if not job.reuse]
    known = [job.expected for job in todo if job.expected]
    total = f"total: {len(todo)} of {len(jobs)} stages to run"
    if known:
        total += f", about {duration(sum(known))} one after the other"
        total += f" and {len(todo) - len(known)} stages whose time is not known" if len(known) < len(todo) else ""
    return [*lines, total]


def results(jobs: list[plan.Job], seconds: dict[plan.Job, float]) -> list[list[str]]:
    """Rows of the closing table, one per dataset and seed: the columns of `SUMMARY`, "-" where nothing is known yet.

    seconds : of the jobs that ran now; a reused stage counts with the seconds its result once took
    """
    rows = []
    for (dataset, seed), mine in finished(jobs).items():
        found = {job.stage: done.metrics for job, done in mine.items() if done}
        row = [dataset, str(seed)] + ["-"] * 6
        if "teacher" in found:
            row[2] = f"{found['teacher']['test_accuracy']:.4f}"
        if "distillation" in found:
            row[3] = f"{found['distillation']['cas']:.4f}"
            row[4] = gap(found.get("teacher"), found["distillation"])
            row[5] = f"{100 * found['distillation']['ensemble_gap']:+.2f}"
        if "membership" in found:
            why = belief.doubt(found["membership"], "models")
            aucs = [found["membership"][who]["loss"]["auc"] for who in ("real", "student")]
            row[6:8] = [belief.marked(f"{auc:.3f}", why) for auc in aucs]
        usual = {job: done for job, done in mine.items() if job.stage in stages.USUAL}  # an audit is another matter
        total = sum(seconds.get(job, done.manifest["seconds"] if done else 0) for job, done in usual.items())
        rows.append([*row, duration(total)])
    return rows


def finished(jobs: list[plan.Job]) -> dict[tuple[str, int], dict[plan.Job, runs.Done | None]]:
    """(dataset, seed) -> its jobs with their results, as far as they have one that is not stale."""
    found: dict[tuple[str, int], dict[plan.Job, runs.Done | None]] = {}
    for job in jobs:
        if job.stage != "compare":
            found.setdefault((job.dataset, job.seed), {})[job] = runs.read(job.folder)
    for mine in found.values():
        lost = set(runs.stale({job.stage: done for job, done in mine.items() if done}))
        for job, done in mine.items():  # nor one of other settings, nor what is made from it
            if not plan.matches(done, job) or any(stages.reads(job.stage, name) for name in lost):
                lost.add(job.stage)
        mine.update({job: None for job in mine if job.stage in lost})
    return found


def gap(teacher: dict | None, student: dict) -> str:
    """The CAS gap in points with its interval, or words where neither classifier has learned anything.

    teacher, student : metrics of 01 and 05
    """
    if teacher:
        recalls = teacher["test_recall"], student["cas_recall"]
        if words := belief.empty_gap(teacher["test_counts"], (teacher["test_accuracy"], student["cas"]), recalls):
            return f"{100 * student['cas_gap']:+.2f}: {words}"
    low, high = 100 * student["gap_low"], 100 * student["gap_high"]
    return f"{100 * student['cas_gap']:+.2f} [{low:+.2f}, {high:+.2f}]"


def shifts(jobs: list[plan.Job]) -> list[str]:
    """A line for each attacked run: the loss attack's AUCs that tell a leak from a difference of the splits."""
    lines = []
    for (dataset, seed), mine in finished(jobs).items():
        for found in (done.metrics for job, done in mine.items() if done and job.stage == "membership"):
            why = belief.doubt(found, "models")
            outsiders, members = (
                ", ".join(
                    f"{who} {belief.marked('{:.3f}'.format(found['shift'][key][pair]['auc']), why)}"
                    for key, who in CLASSIFIERS.items()
                )
                for pair in ("val_test", "train_val")
            )
            lines.append(
                f"{dataset} seed {seed}: AUC of validation against test images, both outsiders: {outsiders}; "
                f"of training against validation images: {members}"
            )
    return lines


def unlearned(jobs: list[plan.Job]) -> list[str]:
    """A line for each classifier that says one class only, or is no better than the most frequent one."""
    lines = []
    for (dataset, seed), mine in finished(jobs).items():
        found = {job.stage: done.metrics for job, done in mine.items() if done}
        real, student = found.get("teacher"), found.get("distillation")
        shares = {"real training": real and (real["test_accuracy"], real["test_recall"])}
        shares["the Student"] = student and (student["cas"], student["cas_recall"])
        for who, share in shares.items():
            if real and share and (words := belief.unlearned(real["test_counts"], *share)):
                lines.append(f"{dataset} seed {seed}: {who} {words}")
    return lines


def doubts(jobs: list[plan.Job]) -> list[str]:
    """A line for each run whose attacks on the classifiers are not to be believed, with the reasons."""
    lines = []
    for (dataset, seed), mine in finished(jobs).items():
        attacked = next((done.metrics for job, done in mine.items() if done and job.stage == "membership"), {})
        if why := belief.doubt(attacked, "models"):
            lines.append(f"{belief.MARK} {dataset} seed {seed}, attacks not to be believed: {why}")
    return lines


def audited(jobs: list[plan.Job]) -> list[str]:
    """The two sentences of each audit of the plan, after the dataset and seed that they are about."""
    lines = []
    for (dataset, seed), mine in finished(jobs).items():
        found = next((done.metrics for job, done in mine.items() if done and job.stage == "audit"), {})
        lines += [f"{dataset} seed {seed}, audit: {found['words']}"] if "words" in found else []
    return lines
