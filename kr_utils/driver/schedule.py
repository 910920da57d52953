"""The stage graph at work: each stage after those it needs, in this process or wherever an executor runs it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

from kr_utils import stages
from kr_utils.driver import execute, plan
from kr_utils.driver.plan import Job


def needs(job: Job, jobs: list[Job]) -> list[Job]:
    """The jobs whose files a job reads: earlier stages of its dataset and seed; for the comparison, everything."""
    if job.stage == "compare":
        return [other for other in jobs if other is not job]
    mine = [other for other in jobs if (other.dataset, other.seed) == (job.dataset, job.seed)]
    return [other for other in mine if stages.reads(job.stage, other.stage)]


def ahead(jobs: list[Job]) -> dict[Job, float]:
    """Each job -> expected seconds from its start to the end of the longest chain of stages that need it.

    The comparison, which needs everything, is in no chain; nor does a stage that is reused take time.
    """
    found: dict[Job, float] = {}
    for job in reversed(jobs):  # those that need it come after it
        after = [found[other] for other in found if stages.reads(other.stage, job.stage)
                 and (other.dataset, other.seed) == (job.dataset, job.seed)]  # fmt: skip
        found[job] = (0 if job.reuse else job.expected or 0) + max(after, default=0)
    return found


def run(
    jobs: list[Job],
    executor,
    report,
    *,
    keep_going: bool = False,
    longest_first: bool = False,
    fresh: Callable[[Job], Job] = lambda job: job,
) -> tuple[dict[Job, float], list[str]]:
    """Execute what must run, each stage after those it needs; returns seconds per job and the failures.

    After a failure no further stage is started, and those that run are waited for: their results are kept. With
    `keep_going` only the stages that need a failed one are left out.

    Parameters
    ----------
    executor : `Here`, or `cluster.Cluster`: room(job), start(job), and events(), which waits and yields
        ("started", job, where), ("line", job, text), ("done", job, seconds) or ("failed", job, reason)
    report : started(job, where), line(job, text), ended(job, word, why)
    longest_first : of the stages that can start, those with most expected time ahead of them; else in the plan's order
    fresh : plans the comparison anew when its turn comes, for other drivers may have finished other runs meanwhile
    """
    seconds: dict[Job, float] = {}
    failures: list[str] = []

    # What stands is told first
    waiting, running, lost = [], set(), set()
    for job in jobs:
        if job.reuse and job.stage != "compare":
            report.ended(job, "reused", plan.tidy(job))
        else:
            waiting.append(job)
    if longest_first:
        time_ahead = ahead(jobs)
        waiting.sort(key=lambda job: -time_ahead[job])  # where nothing is expected the order stays

    while waiting or running:
        # Start what can be started
        for job in waiting.copy():
            before = needs(job, jobs)
            if any(other in lost for other in before):
                why = "the figures would lack failed runs" if job.stage == "compare" else "an earlier stage failed"
                waiting.remove(job)
                lost.add(job)
                report.ended(job, "skipped", why)
                continue
            held_up = any(other in waiting or other in running for other in before)
            if (failures and not keep_going) or held_up or not executor.room(job):
                continue

            # Its turn: what it reads is known now, and may be what it was
            waiting.remove(job)
            again = fresh(job) if job.stage == "compare" else plan.again(job, jobs)
            if again.reuse:
                why = again.reason if job.reason != again.reason else ""
                report.ended(job, "reused", plan.tidy(again) or why)
                continue
            jobs[jobs.index(job)] = again
            running.add(again)
            executor.start(again)

        if not running:
            if waiting and not failures:
                failures.append(f"{waiting[0].title}: nothing is left to run it on")
            break

        # Hear what runs
        for kind, job, value in executor.events():
            if kind in ("started", "line"):
                getattr(report, kind)(job, value)
                continue
            running.remove(job)
            if kind == "done":
                seconds[job] = value
                report.ended(job, "done", f"in {value:.0f} s")
            else:
                report.ended(job, "failed", value)
                failures.append(f"{job.title}: {value}")
                lost.add(job)
    return seconds, failures


def end_children() -> None:
    """End what this process started and still runs; hear no Ctrl-C meanwhile, and die of one at once thereafter.

    A kernel that the first one met while it came up is in no list yet, neither here nor in papermill.
    """
    import psutil

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(children, timeout=10)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Here:
    """Executes in this process, one stage at a time."""

    def __init__(self, threads: int, line: Callable[[Job, str], None], debug: bool = False):
        self.threads, self.line, self.debug, self.job = threads, line, debug, None

    def room(self, job: Job) -> bool:
        return self.job is None

    def start(self, job: Job) -> None:
        self.job = job

    def events(self) -> Iterator[tuple]:
        job, self.job = self.job, None
        yield "started", job, ""
        try:
            yield "done", job, execute.execute(job, lambda text: self.line(job, text), self.threads)
        except execute.StageFailed as error:
            if self.debug:
                raise
            yield "failed", job, str(error)
