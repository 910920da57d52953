"""A whole run: the stages of a plan, here or on a cluster, told as they go."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path

from kr_utils import InputError
from kr_utils.driver import cluster, estimate, plan, report, schedule
from kr_utils.runs import locks, machine

COMPARISON = 3600  # seconds to wait for another driver's comparison, which takes a minute or so


def run(
    options: argparse.Namespace,
    wanted: list[tuple[str, int]],
    make_plan: Callable[[], list[plan.Job]],
    root: Path,
    data_root: str = "",
) -> tuple[list[plan.Job], list[str]]:
    """Run what the plan says, and report; returns the jobs and the failures.

    Parameters
    ----------
    options : of the command line: profile, jobs, scheduler, insecure, threads, keep_going, debug
    wanted : datasets with their seeds, of which no other driver may be at work
    make_plan : the plan as things stand when it is called
    root : the runs folder, absolute
    data_root : folder of the data files that the workers of a cluster must see, or ""

    Raises
    ------
    InputError
        Another driver is at work on the same; kernels or workers cannot be started or reached.
    """
    with contextlib.ExitStack() as stack:
        # One driver per dataset and seed
        for line in stack.enter_context(locks.driving(root, options.profile, wanted)):
            print(line)
        jobs = make_plan()
        computes_here = not options.scheduler and not all(job.reuse for job in jobs)
        if computes_here and (told := estimate.crowded(estimate.threads_of(options), options.jobs)):
            print(told)

        # Where stages run
        if not options.scheduler and (problem := machine.no_loopback()):
            raise InputError(f"no kernel can be started here: {problem}")
        executor = None
        if options.jobs > 1 or options.scheduler:
            workers = 0 if options.scheduler else options.jobs
            executor = cluster.Cluster(
                workers, options.scheduler, options.threads, root, data_root, insecure=options.insecure
            )
            stack.enter_context(executor)
            print(f"on {executor.place()}, {executor.threads} threads each")

        # What is told; after the lines above, for its table stays below them
        shown = stack.enter_context(report.Reporter(jobs, options.debug))
        several = executor is not None
        executor = executor or schedule.Here(estimate.threads_of(options), shown.line, options.debug)

        def compare_again(job: plan.Job) -> plan.Job:
            """The comparison as it stands now: drivers of other seeds may have finished since, or be comparing."""
            path, what = locks.driver_path(root, options.profile), f"the comparison of profile {options.profile}"
            try:
                lock = locks.hold(path, what, this_host_only=True)
            except InputError as error:
                shown.say(f"{error}; waiting")
                lock = locks.hold(path, what, wait=COMPARISON, this_host_only=True)
            stack.callback(lock.release)
            return make_plan()[-1]

        how = {"keep_going": options.keep_going, "longest_first": several, "fresh": compare_again}
        seconds, failures = schedule.run(jobs, executor, shown, **how)
    shown.summary(seconds)
    return jobs, failures
