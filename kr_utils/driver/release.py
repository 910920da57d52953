"""A bundle from a finished run: everything that can be refused is refused first, then notebook 09 runs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from kr_utils import InputError, licences, owned, profiles, releasable, runs, stages
from kr_utils.driver import execute, plan, report, schedule
from kr_utils.runs import locks, machine


def job(
    options: argparse.Namespace, seeds: list[int], overrides: dict, checksum: str = "", sizes: Mapping | None = None
) -> plan.Job:
    """The one job that makes the bundle, once everything that can be known beforehand allows it.

    Parameters
    ----------
    options : of the command line
    overrides : as `plan.parse_settings` makes them
    checksum, sizes : of the dataset, as `data.check` and `data.sizes` give them; without them, where its file is
        still to be fetched, it is taken for the one that the run was made of

    Raises
    ------
    InputError
        More than one seed; a bad folder; a run that is missing, stale or not to be handed out.
    """
    from kr_utils import data

    # What is asked for
    releasable.packages()
    releasable.worth_it(options.profile)
    name, profile = options.release, options.profile
    if len(seeds) > 1:
        raise InputError("--release hands out one run; give one seed with --seeds")
    if not options.out:
        raise InputError("--release needs --out FOLDER, a new or empty folder for the bundle")
    budget = profiles.budget("release", profile, overrides.get("release"))
    info = data.require_name(name, options.data_root)
    if budget.images < releasable.FEWEST * info.classes:
        raise InputError(f"--images {budget.images} are too few: each class needs {releasable.FEWEST}; ask for more")
    licences.terms(info.licence, name, info.source == "own", options.terms)

    # Whose run, and whether it stands
    root, figures = runs.runs_root(options.runs_dir), runs.figures_root(options.figures_dir)
    where = {"dataset": name, "profile": profile, "seed": seeds[0]}
    made = _made(root, where)
    checksum = checksum or next((done.manifest["ingredients"]["checksum"] for done in made.values()), "")
    common = {"root": root, "figures": figures, "data_root": str(data.data_root(options.data_root))}
    folders = {"--data-root": options.data_root, "--runs-dir": options.runs_dir}
    needed, budgets = _needed(made, where, overrides, checksum, common)
    command = releasable.command(releasable.budgets(made) | budgets, where, folders)
    there = runs.find(root, profile).get((name, seeds[0]), {})
    stale = {job.stage: job.reason for job in needed if not job.reuse} | runs.stale(made, there)
    releasable.fresh(stale, command)
    run = {stage: done.stored for stage, done in made.items()}
    releasable.check(run, options.with_generator, options.despite_leaks)

    # Where to
    values = math.prod(sizes[key] for key in ("channels", "height", "width")) if sizes else 0
    kept = {"runs": root, "figures": figures, "the repository": stages.ROOT / "runs"}
    place = releasable.folder(options.out, kept, budget.images, values)
    (last,) = plan.plan(profile, [name], seeds, {name: checksum}, overrides=overrides, only=("release",), **common)
    given = {key: getattr(options, key) for key in ("with_generator", "despite_leaks", "terms")}
    reason = "a bundle is asked for"
    return replace(last, parameters=last.parameters | given | {"out": str(place)}, reuse=False, reason=reason)


def _made(root: Path, where: Mapping) -> dict[str, runs.Done]:
    """The finished stages that 09 reads, as far as there are any."""
    wanted = (*stages.STAGES["release"][1], *stages.IF_THERE["release"])
    places = {
        stage: runs.stage_dir(root, where["profile"], where["dataset"], where["seed"], stage)
        for stage in wanted
        if stage in stages.STAGES
    }
    return {stage: done for stage, place in places.items() if (done := runs.read(place))}


def _needed(made, where, overrides, checksum, common) -> tuple[list[plan.Job], dict[str, dict]]:
    """The stages that 09 must have, planned under the budgets that they were made with; and these budgets.

    A run with other budgets than its profile's is as good as any: what its manifests say is handed out with it.
    Settings that are given now must be those it was made with.
    """
    stages_, chosen, budgets = stages.STAGES["release"][1], {}, {}
    for stage in stages_:
        usual = asdict(profiles.budget(stage, where["profile"]))
        own = made[stage].manifest["ingredients"]["budget"] if stage in made else {}
        chosen[stage] = {name: own[name] for name in usual if name in own} | overrides.get(stage, {})
        budgets[stage] = runs.plain(asdict(profiles.budget(stage, where["profile"], chosen[stage])))
    names = (where["profile"], [where["dataset"]], [where["seed"]], {where["dataset"]: checksum})
    return plan.plan(*names, overrides=chosen, only=stages_, **common), budgets


def run(options: argparse.Namespace, job: plan.Job, root: Path) -> float:
    """Run notebook 09 and tell of it; returns the seconds it took.

    Raises
    ------
    InputError
        The notebook refused, another driver is at work on the same run, or no kernel can be started here.
    execute.StageFailed
        It failed; nothing is left where the bundle was to be.
    """
    if problem := machine.no_loopback():
        raise InputError(f"no kernel can be started here: {problem}")
    place = Path(job.parameters["out"])
    try:
        with locks.driving(root, options.profile, [(job.dataset, job.seed)]) as told:
            for line in told:
                print(line)
            with report.Reporter([job], options.debug) as shown:
                shown.started(job)
                seconds = execute.execute(job, lambda text: shown.line(job, text), options.threads or machine.cores())
                shown.ended(job, "done", f"in {seconds:.0f} s")
        return seconds

    # A refusal is no failure; and a kernel that was ended could not clean up
    except execute.StageFailed as failed:
        cause = failed.__cause__
        if getattr(cause, "ename", "") == "InputError" and not options.debug:
            raise InputError(str(cause.evalue).splitlines()[0]) from failed
        raise
    except BaseException:
        schedule.end_children()
        raise
    finally:
        owned.remove(releasable.unfinished(place))
