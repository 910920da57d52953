#!/usr/bin/env python3
"""Run Knowledge Recycling: notebooks 00 to 06, per dataset and seed, reusing what stands; then the figures."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kr_utils import InputError, owned, paths, profiles, resolution, runs, stages
from kr_utils.driver import home, plan, work


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="run_all.py",
        description=__doc__,
        epilog="Examples: run_all.py | run_all.py --datasets breastmnist --data-root ~/medmnist --profile laptop "
        "| run_all.py --seeds 0,1,2 --dry-run",
    )

    # What
    p.add_argument("--profile", default="quick", help=f"how much work: {', '.join(profiles.PROFILES)} (default quick)")
    p.add_argument("--datasets", default="digits", help="names, comma-separated (default digits); see --list")
    p.add_argument("--seeds", default="0", help="whole numbers, comma-separated (default 0)")

    # From and to which folders
    p.add_argument(
        "--data-root", default="", help="folder of data files (default: KR_DATA, else ~/.cache/knowledge-recycling)"
    )
    p.add_argument("--runs-dir", default="", help="where results go (default: KR_RUNS, else runs/)")
    p.add_argument("--figures-dir", default="", help="where figures go (default: KR_FIGURES, else figures/)")

    # Images of one's own
    own = p.add_argument_group("your own images (docs/own-images.md)")
    own.add_argument(
        "--import",
        dest="source",
        metavar="FOLDER",
        help="make a dataset of a folder of images (or an npz in MedMNIST's layout), then run it with --datasets NAME",
    )
    own.add_argument("--name", help="of the new dataset: small letters, digits and _")
    own.add_argument("--labels", metavar="CSV", help="columns file, label and, if known, patient and split")
    own.add_argument("--class-names", nargs="+", metavar="NAME", help="of an npz file's labels 0, 1, ...")
    own.add_argument("--title", help="for tables and figures (default: the name)")
    own.add_argument("--licence", help="of the images, handed on to what is made of them (default: not stated)")
    own.add_argument("--size", type=int, choices=SIZES, help="pixels a side (default 28; an npz file's own)")
    own.add_argument("--fit", choices=FITS, help="what is not square: padded (default), cropped or stretched")
    own.add_argument("--mirror", choices=MIRRORS, help="mirror images that keep their label (default none)")
    own.add_argument("--colour", choices=COLOURS, help="default auto: RGB where an image has any colour")
    own.add_argument("--replace", action="store_true", default=None, help="another set of this name may go")

    # How much of it
    p.add_argument("--until", metavar="STAGE", help=f"stop after this stage: {', '.join(stages.USUAL)}")
    p.add_argument(
        "--set", action="append", default=[], metavar="STAGE.FIELD=VALUE", help="change a budget (repeatable)"
    )

    # A bundle to hand out
    p.add_argument("--release", metavar="NAME", help="write a checked bundle of this dataset's finished run (09)")
    p.add_argument("--out", default="", metavar="FOLDER", help="with --release: where to, a new or empty folder")
    p.add_argument("--images", metavar="N", help="with --release: how many synthetic images (default: the profile's)")
    p.add_argument("--with-generator", action="store_true", help="with --release: the Generator's weights, too")
    p.add_argument(
        "--despite-leaks", action="store_true", help="with --release: even where leaks were found; the card says so"
    )
    p.add_argument(
        "--terms",
        default="",
        metavar="TEXT",
        help="with --release: its licence, where that of your own images is unknown",
    )

    # What leaks
    p.add_argument(
        "--audit",
        nargs="?",
        type=pipelines,
        const=-1,
        default=0,
        metavar="N",
        help="audit what leaks, by N pipelines on random halves (even; default of the profile; docs/privacy.md)",
    )

    # On what
    p.add_argument("--jobs", type=count, default=1, metavar="N", help="stages at a time, on this computer (default 1)")
    p.add_argument(
        "--scheduler",
        default="",
        metavar="tls://HOST:PORT",
        help="run the stages on the workers of this Dask scheduler",
    )
    p.add_argument(
        "--insecure",
        action="store_true",
        help="allow a --scheduler tcp:// on another computer, without encryption or certificates",
    )
    p.add_argument(
        "--threads",
        type=count,
        default=0,
        metavar="T",
        help="of each stage (default: cores divided by stages at a time)",
    )

    # Or only tell; and what to do about failures
    p.add_argument(
        "--status", action="store_true", help="say what is done, running, failed and missing in this profile"
    )
    p.add_argument("--times", action="store_true", help="with --status: a table of the minutes that each stage took")
    p.add_argument("--dry-run", action="store_true", help="say what would run or be reused, and why; run nothing")
    p.add_argument("--force", action="store_true", help="run every stage, even where its result stands")
    p.add_argument("--keep-going", action="store_true", help="after a failed stage go on with other datasets and seeds")
    p.add_argument(
        "--list",
        action="store_true",
        help="list datasets, profiles with budgets and times, and stages; measures this computer once, half a minute",
    )
    p.add_argument("--debug", action="store_true", help="show tracebacks and all notebook output")
    return p


# As in own_images.py, pictures.py and data.py, which need numpy; a test compares them
SIZES, FITS = (28, 64, 128, 224), ("pad", "crop", "stretch")
MIRRORS, COLOURS = ("none", "left-right", "both"), ("auto", "grey", "rgb")
IMPORT = ("name", "labels", "class_names", "title", "licence", "size", "fit", "mirror", "colour", "replace")
ALONE = {"source", *IMPORT, "data_root", "dry_run", "debug"}  # options that mean something with --import


def bring_in(args: argparse.Namespace) -> int:
    """Import a folder of images, or an npz file, as a dataset; returns the exit code."""
    from kr_utils import own_images

    usual = parser()
    if other := [key for key, value in vars(args).items() if key not in ALONE and value != usual.get_default(key)]:
        option = f"--{other[0].replace('_', '-')}"
        raise InputError(f"{option} does not go with --import; import first, then run with --datasets NAME")
    if not args.name:
        raise InputError("--import needs the name of the new dataset; add --name, such as --name mine")

    if empty := [key for key in ("source", "labels") if getattr(args, key) == ""]:
        raise InputError(f"--{'import' if empty[0] == 'source' else empty[0]} is empty; name the folder or file")

    # What was given, with the importer's own defaults for the rest
    given = {key: value for key in IMPORT if (value := getattr(args, key)) is not None}
    if "labels" in given:
        given["table"] = paths.absolute(given.pop("labels"), "--labels")
    given["class_names"] = tuple(given.get("class_names", ()))
    source = paths.absolute(args.source, "--import")
    own_images.bring_in(own_images.Wanted(source, **given, dry=args.dry_run), args.data_root, print, aside)
    return 0


def count(text: str) -> int:
    """A whole number from 1 to 1024."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 1024):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 1 to 1024")
    return int(text)


def pipelines(text: str) -> int:
    """An even number of pipelines, 2 to 1000; 0 is no audit."""
    number = 0 if text == "0" else count(text)
    if number % 2 or number > 1000:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no even number up to 1000: each image is in half of them")
    return number


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


def show_list(data_root: str) -> None:
    """Datasets, a user's own in the data folder too, and profiles; fetches nothing."""
    from dataclasses import asdict

    from kr_utils import data

    own = data.own_sets(data_root)
    print("datasets (name: title, classes, licence)")
    for name, info in data.INFO.items():
        print(f"  {name}: {info.title}, {info.classes} classes, {info.licence}")
    print("  MedMNIST's also at 64, 128 and 224 pixels a side: breastmnist_64, ...")
    for name, why in data.REFUSED.items():
        print(f"  {name}: refused, it {why}")
    for name, info in own.items():
        about = f"cannot be used: {info}" if isinstance(info, InputError) else f"{info.title}, {info.classes} classes"
        print(f"  {name}: your own, {about}")
    print("profiles (change a field with --set stage.field=value)")
    for profile, budgets in profiles.PROFILES.items():
        print(f"  {profile}")
        for stage, budget in asdict(budgets).items():
            print(f"    {stage}: " + ", ".join(f"{key}={value}" for key, value in budget.items()))


def show_times(args: argparse.Namespace, datasets: list[str]) -> None:
    """How long one seed of each profile would take here, on the datasets that are at hand."""
    from kr_utils.driver import estimate, report

    # Each profile with each dataset
    root, threads = runs.runs_root(args.runs_dir), estimate.threads_of(args)
    cases = [(profile, name, sizes) for profile in profiles.PROFILES for name, sizes in at_hand(args, datasets).items()]
    chosen = {profile: estimate.budgets(profile, {}) for profile in profiles.PROFILES}
    wanted = [estimate.networks(chosen[profile], sizes) for profile, _, sizes in cases]
    speeds = estimate.speeds(wanted, root, threads, tell=aside)

    if any(speeds):
        print(f"time of one seed here, estimated ({threads} threads a stage, one stage after the other)")
    for (profile, name, sizes), speed in zip(cases, speeds):
        if speed:
            times = estimate.of_stages(chosen[profile], sizes, speed, threads)
            usual = {stage: seconds for stage, seconds in times.items() if stage in stages.USUAL}
            each = ", ".join(f"{stage} {report.duration(seconds)}" for stage, seconds in usual.items())
            print(f"  {profile}, {name}: about {report.duration(sum(usual.values()))} ({each})")
            several = chosen[profile].shadow.pipelines
            audit = report.duration(several * times["shadow"] + times["audit"])
            print(f"    with --audit {audit} more ({several} pipelines of {report.duration(times['shadow'])})")
            if profile == "paper":
                print(f"    {estimate.on_a_gpu(chosen[profile], sizes, speed)}")


def at_hand(args: argparse.Namespace, datasets: list[str]) -> dict[str, work.Sizes]:
    """Name -> sizes of the datasets whose files are here and can be read; nothing is fetched."""
    from kr_utils import data

    found = {}
    for name in datasets:
        with contextlib.suppress(InputError):  # a run says what is wrong with it
            if not data.to_fetch(name, args.data_root):
                found[name] = work.Sizes(**data.sizes(name, args.data_root))
    return found


def aside(line: str) -> None:
    """Tell what is no part of an answer."""
    print(line, file=sys.stderr, flush=True)


def fetched(to_fetch: dict[str, list[str]]) -> list[str]:
    """A line per file that a run would fetch first."""
    return [f"fetch  {name}: {line}" for name, lines in to_fetch.items() for line in lines]


def with_unknown(jobs: list[plan.Job], to_fetch: dict[str, list[str]]) -> list[plan.Job]:
    """The plan where data files are not here yet: what they will hold cannot be compared, so their stages run."""
    reason = "its data file is not here yet"
    return [replace(job, reuse=False, reason=reason) if to_fetch.get(job.dataset) else job for job in jobs]


def with_times(
    args: argparse.Namespace, jobs: list[plan.Job], overrides: dict[str, dict], measure: bool
) -> tuple[list[plan.Job], list[str]]:
    """The plan with an estimate where no time is known, and for `paper` a line per dataset about a GPU.

    measure : this computer's speed, where it is not known; a run does without
    """
    from kr_utils.driver import estimate

    # Of another computer's speed nothing is known
    unknown = list(dict.fromkeys(job.dataset for job in jobs if not job.reuse and not job.expected and job.dataset))
    if args.scheduler or not unknown:
        return jobs, []
    root, threads = runs.runs_root(args.runs_dir), estimate.threads_of(args)
    sizes, chosen = at_hand(args, unknown), estimate.budgets(args.profile, overrides)
    wanted = [estimate.networks(chosen, each) for each in sizes.values()]
    speeds = estimate.speeds(wanted, root, threads, measure, aside)

    known = [(name, sizes[name], speed) for name, speed in zip(sizes, speeds) if speed]
    times = {name: estimate.of_stages(chosen, each, speed, threads) for name, each, speed in known}
    gpu = [f"{name}: {estimate.on_a_gpu(chosen, each, speed)}" for name, each, speed in known]
    return estimate.filled(jobs, times), gpu if args.profile == "paper" else []


def needs(args: argparse.Namespace, datasets: list[str], overrides: dict[str, dict]) -> Iterator[str]:
    """A line about each dataset: the Generator's form where the size changes it, memory and disk where they are known.

    InputError, in its turn, for one that does not fit on this computer.
    """
    from kr_utils.driver import estimate

    root, sizes, chosen = (
        runs.runs_root(args.runs_dir),
        at_hand(args, datasets),
        estimate.budgets(args.profile, overrides),
    )
    for name, each in sizes.items():
        usual = (chosen.generator.levels, chosen.generator.fold)
        taken = resolution.form(*usual, each.height, each.width)
        if max(each.height, each.width) > resolution.USUAL or taken != usual:
            yield f"{name}: {estimate.form(chosen, each)}"
    if args.scheduler:  # its workers are other computers
        return
    wanted = [estimate.networks(chosen, each) for each in sizes.values()]
    speeds = estimate.speeds(wanted, root, estimate.threads_of(args), measure=False)
    for (name, each), speed in zip(sizes.items(), speeds):
        if speed:
            yield estimate.require_room(name, estimate.room(chosen, each, speed, estimate.threads_of(args)), root)


def drive(args: argparse.Namespace) -> int:
    """Check the arguments, then list, tell, plan or run; returns the exit code.

    Raises
    ------
    InputError
        A bad argument, variable, folder or data file.
    """
    if args.source is not None:
        return bring_in(args)
    if unused := [key for key in IMPORT if getattr(args, key) is not None]:
        raise InputError(f"--{unused[0].replace('_', '-')} is for --import FOLDER; add it, or leave this out")
    refuse_mixed(args)
    from kr_utils.driver import estimate

    estimate.measures()  # refuses a bad KR_MEASURE before anything is said
    if args.list:
        show_list(args.data_root)
        sys.stdout.flush()
        show_times(args, names(args.datasets, "--datasets"))
        return 0

    # Names, numbers and folders, before anything heavy is loaded
    seeds, datasets = whole_numbers(args.seeds), names(args.datasets, "--datasets")
    images = [] if args.images is None else [f"release.images={args.images}"]
    overrides = plan.parse_settings([*args.set, *images], args.profile)
    profiles.budget("start", args.profile)
    if args.audit < 0:  # as the profile says
        args.audit = profiles.budget("shadow", args.profile, overrides.get("shadow")).pipelines
    asked, overrides = plan.audit_of(args.audit, overrides)
    wanted_stages = plan.stages_until(args.until, asked)
    root, figures = runs.runs_root(args.runs_dir), runs.figures_root(args.figures_dir)
    if args.times and not args.status:
        raise InputError("--times is for --status; write --status --times")
    if args.release is not None:
        return hand_out(args, seeds, overrides)
    if args.scheduler and args.jobs > 1:
        raise InputError("--jobs is for workers made here; with --scheduler the number of its workers decides")
    wanted = [*itertools.product(datasets, seeds)]
    from kr_utils import data

    for name in datasets:
        data.require_name(name, args.data_root)
    if args.status:
        from kr_utils.driver import status

        require_place(root, "--runs-dir", written=False)
        if args.data_root:
            data.data_root(args.data_root)  # that of KR_DATA may be away: then nothing is compared with it
        usual = all(getattr(args, key) == parser().get_default(key) for key in ("datasets", "seeds"))
        what, checksum = (root, args.profile, [] if usual else wanted), status.at_hand(args.data_root)
        if args.times:
            print("\n".join(status.times(*what, checksum)))
        else:
            status.status(*what, figures=figures, checksum=checksum)
        return 0
    plan.require_in_use(overrides, asked)

    # Folders, data files, then the plan
    folders = [("--runs-dir", root), ("--figures-dir", figures)]
    folders += [("--figures-dir", figures / args.profile)] if "compare" in wanted_stages else []
    for option, folder in folders[:2]:  # the third one is looked into below
        require_place(folder, option)
    data_root = str(data.data_root(args.data_root))
    to_fetch = {name: data.to_fetch(name, args.data_root) if args.dry_run else [] for name in datasets}
    checksums = {name: "" if to_fetch[name] else data.check(name, args.data_root, tell=print) for name in datasets}
    if "fold" in overrides.get("generator", {}):
        for name, sizes in at_hand(args, datasets).items():
            estimate.require_fold(name, estimate.budgets(args.profile, overrides), sizes)
    make_plan = functools.partial(
        plan.plan, args.profile, datasets, seeds, checksums, overrides=overrides, root=root, figures=figures,
        data_root=data_root, until=args.until, force=args.force, asked=asked,
    )  # fmt: skip
    if "compare" in wanted_stages:
        from kr_utils import results_file

        # Or 10 would find out at the end
        shown = figures / args.profile
        if os.path.lexists(shown):
            with owned.inside(shown):
                results_file.load(shown / "results.csv", args.profile)
    if args.dry_run:
        from kr_utils.driver import report

        jobs = with_unknown(make_plan(), to_fetch)
        jobs, about = with_times(args, jobs, overrides, measure=True)
        print("\n".join([*fetched(to_fetch), *report.dry_run(jobs), *about]))
        for line in needs(args, datasets, overrides):
            print(line)
        return 0
    list(needs(args, datasets, overrides))

    # The run
    for option, folder in folders:
        paths.writable(folder, option)
    from kr_utils.driver import run

    def timed_plan() -> list[plan.Job]:
        return with_times(args, make_plan(), overrides, measure=False)[0]

    with home.usable():
        jobs, failures = run.run(args, wanted, timed_plan, root, data_root if set(datasets) - {"digits"} else "")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if not failures and jobs[-1].stage == "compare":
        print(f"figures and tables: {figures / args.profile}")
    return 1 if failures else 0


def require_place(folder: Path, option: str, written: bool = True) -> None:
    """InputError where a folder is not one, or cannot be made, as far as that can be known without making it.

    written : whether it is to be written into, too
    """
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    which, reason = "" if there == folder else f"{there} is ", ""
    if not there.is_dir():
        reason = f"{which}not a folder"
    elif written and not os.access(there, os.W_OK | os.X_OK):
        reason = f"{which or 'it is '}not to be written by you"
    if reason:
        raise InputError(f"{option} {folder}: {reason}; name a folder you may write to, with space left")


def refuse_mixed(args: argparse.Namespace) -> None:
    """InputError for options of a release without one, and for a release with options that mean nothing to it."""
    usual = vars(parser().parse_args([]))
    given = {name for name, value in vars(args).items() if value != usual[name]}
    own = [name for name in ("out", "images", "with_generator", "despite_leaks", "terms") if name in given]
    if args.release is None and own:
        raise InputError(f"--{own[0].replace('_', '-')} is for a bundle; add --release NAME")
    others = ("datasets", "until", "audit", "jobs", "scheduler", "status", "times", "force", "keep_going", "list")
    if args.release is not None and (found := [name for name in others if name in given]):
        raise InputError(f"--{found[0].replace('_', '-')} is not for --release, which runs 09 of one finished run")


def hand_out(args: argparse.Namespace, seeds: list[int], overrides: dict[str, dict]) -> int:
    """Write the bundle of a finished run, or tell that it could be written; returns the exit code."""
    from kr_utils import data
    from kr_utils.driver import execute, release, report

    # Everything that can be refused is refused here, and before anything is fetched what can be known without it
    name = args.release
    to_fetch = {name: data.to_fetch(name, args.data_root)}
    if to_fetch[name]:
        job = release.job(args, seeds, overrides)
        if args.dry_run:
            print("\n".join([*fetched(to_fetch), *report.dry_run(with_unknown([job], to_fetch))]))
            return 0
    checksum = data.check(name, args.data_root, tell=print)
    job = release.job(args, seeds, overrides, checksum, data.sizes(name, args.data_root))
    if args.dry_run:
        print("\n".join(report.dry_run([job])))
        return 0

    # The bundle
    with home.usable():
        try:
            release.run(args, job, runs.runs_root(args.runs_dir))
        except execute.StageFailed as failed:
            if args.debug:
                raise
            print(f"failed: {job.title}: {failed}", file=sys.stderr)
            return 1
    for line in runs.read(job.folder).metrics["first"]:
        print(f"* {line}")
    print(f"bundle: {job.parameters['out']}; read README.md in it before you hand it out")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; what went wrong is told in one line, with --debug as a traceback."""
    # Output that the shell has closed (`>&-`) is thrown away
    for name in [name for name in ("stdout", "stderr") if getattr(sys, name) is None]:
        setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (until the process ends)

    # A terminal that lacks a sign shows its number
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    try:
        try:
            return drive(args)
        finally:
            sys.stdout.flush()  # a reader that has gone is met here, not when the interpreter ends

    # Nobody reads on (`| head`); rich has its own exception for it
    except (BrokenPipeError, SystemExit):
        end_children()
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # what a shell says of such a writer

    # What people can mend, and what nobody thought of
    except Exception as error:
        if args.debug:
            raise
        if isinstance(error, InputError):
            print(f"error: {error}", file=sys.stderr)
            return 2
        reason = " ".join(str(error).split())[:300]  # a full disk below the driver itself, say; or its own mistake
        print(f"error: {type(error).__name__}: {reason}; what was finished is kept; see --debug", file=sys.stderr)
        return 1

    # Ctrl-C
    except KeyboardInterrupt:
        end_children()
        print("stopped; what is finished is kept: the same command goes on from here", file=sys.stderr)
        return 130


def end_children() -> None:
    """End the kernels and workers that this process started; no Ctrl-C comes between."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from kr_utils.driver import schedule

    schedule.end_children()


if __name__ == "__main__":
    sys.exit(main())
