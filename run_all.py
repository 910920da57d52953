#!/usr/bin/env python3
"""Run Knowledge Recycling: every notebook, per dataset and seed, reusing what stands; then the figures."""

from __future__ import annotations

import argparse
import sys
import time

from kr_utils import InputError, fingerprints, paths, profiles, runs, workflow


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="run_all.py",
        description=__doc__,
        epilog="Examples: run_all.py | run_all.py --datasets breastmnist --data-root ~/medmnist --profile laptop "
        "| run_all.py --seeds 0,1,2 --dry-run",
    )
    p.add_argument("--profile", default="quick", help=f"how much work: {', '.join(profiles.PROFILES)} (default quick)")
    p.add_argument("--datasets", default="digits", help="names, comma-separated (default digits); see --list")
    p.add_argument("--seeds", default="0", help="whole numbers, comma-separated (default 0)")
    p.add_argument(
        "--data-root", default="", help="folder of data files (default: KR_DATA, else ~/.cache/knowledge-recycling)"
    )
    p.add_argument("--runs-dir", default="", help="where results go (default: KR_RUNS, else runs/)")
    p.add_argument("--figures-dir", default="", help="where figures go (default: KR_FIGURES, else figures/)")
    p.add_argument("--until", metavar="STAGE", help=f"stop after this stage: {', '.join(fingerprints.STAGES)}")
    p.add_argument(
        "--set", action="append", default=[], metavar="STAGE.FIELD=VALUE", help="change a budget (repeatable)"
    )
    p.add_argument("--dry-run", action="store_true", help="say what would run or be reused, and why; run nothing")
    p.add_argument("--force", action="store_true", help="run every stage, even where its result stands")
    p.add_argument("--keep-going", action="store_true", help="after a failed stage go on with other datasets and seeds")
    p.add_argument("--list", action="store_true", help="list datasets, profiles with their budgets, and stages")
    p.add_argument("--debug", action="store_true", help="show tracebacks and all notebook output")
    return p


def names(text: str, option: str) -> list[str]:
    """Split a comma-separated list; refuse an empty one, drop repeats."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise InputError(f"{option} is empty; name at least one")
    return list(dict.fromkeys(items))


def whole_numbers(text: str) -> list[int]:
    """Seeds 0 .. 2^31 - 1."""
    for item in names(text, "--seeds"):
        if not (item.isascii() and item.isdigit() and len(item) <= 10 and int(item) < 2**31):
            raise InputError(f"--seeds has {item[:40]!r}; give whole numbers from 0 to {2**31 - 1}, such as 0,1,2")
    return list(dict.fromkeys(int(item) for item in names(text, "--seeds")))


def show_list() -> None:
    from dataclasses import asdict

    from kr_utils import data

    print("datasets (name: title, classes, licence)")
    for name, info in data.INFO.items():
        print(f"  {name}: {info.title}, {info.classes} classes, {info.licence}")
    for name, why in data.REFUSED.items():
        print(f"  {name}: refused, it {why}")
    print("profiles (change a field with --set stage.field=value)")
    for profile, budgets in profiles.PROFILES.items():
        print(f"  {profile}")
        for stage, budget in asdict(budgets).items():
            print(f"    {stage}: " + ", ".join(f"{key}={value}" for key, value in budget.items()))


class Reporter:
    """One line per stage; while it runs, the notebook's latest line (without a terminal: one every 30 s)."""

    def __init__(self, every: bool):
        from rich.console import Console

        width = None if sys.stdout.isatty() else 110
        self.console, self.every = Console(highlight=False, width=width), every
        self.last, self.status = time.time(), None

    def start(self, job: workflow.Job, number: int, total: int) -> None:
        self.title, self.last = f"[{number}/{total}] {job.title}", time.time()
        usual = f", {job.seconds:.0f} s last time" if job.seconds else ""
        self.say(f"{self.title}  ({job.reason}{usual})")
        if self.console.is_terminal:
            self.status = self.console.status(self.title)
            self.status.start()

    def line(self, text: str) -> None:
        if self.status:
            self.status.update(f"{self.title}: {text[:100]}".replace("[", "\\["))
        if self.every or (not self.status and time.time() - self.last > 30):
            self.last = time.time()
            self.say(f"      {text[:160]}")

    def stop(self) -> None:
        if self.status:
            self.status.stop()
            self.status = None

    def table(self, columns: tuple[str, ...], rows: list[list[str]]) -> None:
        """The closing table; real and CAS are test accuracies, AUC is the loss attack's."""
        from rich.table import Table

        table = Table(*columns)
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def run(jobs: list[workflow.Job], reporter: Reporter, keep_going: bool, debug: bool) -> tuple[dict, list[str]]:
    """Execute the jobs that must run; returns seconds per job and the failures."""
    seconds, failures, broken = {}, [], set()
    for number, job in enumerate(jobs, 1):
        where = (job.dataset, job.seed)
        if job.reuse:
            workflow.tidy(job)
            reporter.say(f"[{number}/{len(jobs)}] {job.title}  reused")
            continue
        if where in broken:
            reporter.say(f"[{number}/{len(jobs)}] {job.title}  skipped: an earlier stage failed")
            continue
        if job.stage == "compare" and failures:
            reporter.say(f"[{number}/{len(jobs)}] {job.title}  skipped: the figures would lack failed runs")
            continue
        reporter.start(job, number, len(jobs))
        try:
            seconds[job] = workflow.execute(job, reporter.line)
        except workflow.StageFailed as error:
            if debug:
                raise
            failures.append(f"{job.title}: {error}")
            broken.add(where)
            if not keep_going:
                break
        finally:
            reporter.stop()
    return seconds, failures


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        if args.list:
            show_list()
            return 0
        seeds, datasets = whole_numbers(args.seeds), names(args.datasets, "--datasets")
        overrides = workflow.parse_settings(args.set, args.profile)
        profiles.budget("start", args.profile)
        workflow.stages_until(args.until)
        root, figures = runs.runs_root(args.runs_dir), runs.figures_root(args.figures_dir)
        from kr_utils import data

        for name in datasets:
            data.require_name(name)
        data_root = str(data.data_root(args.data_root))
        checksums = {name: data.check(name, args.data_root) for name in datasets}
        jobs = workflow.plan(
            args.profile, datasets, seeds, checksums, overrides=overrides, root=root, figures=figures,
            data_root=data_root, until=args.until, force=args.force,
        )  # fmt: skip
        if args.dry_run:
            for job in jobs:
                last = f"  ({job.seconds / 60:.1f} min last time)" if job.seconds else ""
                print(f"{'reuse' if job.reuse else 'run':5}  {job.title}: {job.reason}{last}")
            return 0
        for option, folder in (("--runs-dir", root), ("--figures-dir", figures)):
            paths.writable(folder, option)
        reporter = Reporter(args.debug)
        seconds, failures = run(jobs, reporter, args.keep_going, args.debug)
        reporter.table(workflow.SUMMARY, workflow.summary(jobs, seconds))
        if seconds:
            stages = {s: sum(v for job, v in seconds.items() if job.stage == s) for s in fingerprints.STAGES}
            reporter.say("minutes by stage: " + ", ".join(f"{s} {v / 60:.1f}" for s, v in stages.items() if v))
        for failure in failures:
            print(f"failed: {failure}", file=sys.stderr)
        if not failures and jobs[-1].stage == "compare":
            reporter.say(f"figures and tables: {figures / args.profile}")
        return 1 if failures else 0
    except Exception as error:
        if args.debug:
            raise
        if isinstance(error, InputError):
            print(f"error: {error}", file=sys.stderr)
            return 2
        reason = " ".join(str(error).split())[:300]  # a full disk below the driver itself, say; or its own mistake
        print(f"error: {type(error).__name__}: {reason}; what was finished is kept; see --debug", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; finished stages are kept: the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
