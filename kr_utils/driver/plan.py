"""The stage graph over papermill: what must run, why, and running it. Never imports torch or diffusers."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from kr_utils import InputError, profiles, runs, stages
from kr_utils.runs import cells, copies, files, finished, folders, identity, machine

UP_TO_DATE, DAMAGED = "up to date", "its files are incomplete, damaged or of another version"


@dataclass(frozen=True, eq=False)  # a job is its own key
class Job:
    """One stage of one dataset and seed: whether it runs, and why."""

    stage: str
    dataset: str
    seed: int
    folder: Path
    parameters: dict
    parts: dict  # `identity.ingredients`: what its result must be made of
    reuse: bool
    reason: str
    seconds: float | None  # it took last time, its kernel's start included
    expected: float | None = None  # seconds: last time's, else the dataset's mean; of such a processor as here

    @property
    def where(self) -> str:
        return "all runs" if self.stage == "compare" else f"{self.dataset} seed {self.seed}"

    @property
    def title(self) -> str:
        return f"{self.where}  {stages.folder(self.stage)}"


def stages_until(until: str | None, asked: tuple[str, ...] = ()) -> list[str]:
    """The stages to run, in order; `until` is the last one (default: all).

    asked : those of `stages.ON_REQUEST` that are wanted
    """
    names = [name for name in stages.STAGES if name in stages.USUAL or name in asked]
    if until is None:
        return names
    if until not in stages.STAGES:
        raise InputError(f"unknown stage {until[:60]!r} in --until; choose one of: {', '.join(stages.STAGES)}")
    if until not in names:
        raise InputError(f"--until {until}: {stages.notebook(until)} runs only when it is asked for, see --help")
    kept = names[: names.index(until) + 1]
    if asked and not set(asked) & set(kept):
        books = " and ".join(stages.notebook(name) for name in asked)
        raise InputError(f"--until {until} ends before {books}, which --audit asks for; leave one of the two out")
    return kept


def require_in_use(overrides: dict[str, dict], asked: tuple[str, ...]) -> None:
    """InputError for a setting of a stage that runs only when it is asked for, and is not."""
    for stage in [name for name in stages.ON_REQUEST if name in overrides and name not in asked]:
        setting = f"{stage}.{next(iter(overrides[stage]))}"
        option = "--release NAME" if stage == "release" else "--audit"
        words = f"{stages.notebook(stage)} does not run without {option}; add it, or leave this out"
        raise InputError(f"--set {setting}: {words}")


def audit_of(pipelines: int, overrides: dict[str, dict]) -> tuple[tuple[str, ...], dict[str, dict]]:
    """The stages that an audit of so many pipelines asks for, and the overrides with that number; () for 0.

    Raises
    ------
    InputError
        The overrides name another number.
    """
    if not pipelines:
        return (), overrides
    asked = ("shadow", "audit")
    for stage in asked:
        if (other := overrides.get(stage, {}).get("pipelines", pipelines)) != pipelines:
            raise InputError(f"--set {stage}.pipelines={other} and --audit {pipelines} differ; give --audit alone")
    return asked, overrides | {stage: overrides.get(stage, {}) | {"pipelines": pipelines} for stage in asked}


def parse_settings(settings: list[str], profile: str) -> dict[str, dict]:
    """`stage.field=value` texts -> {stage: {field: value}}, checked against the profile's budgets."""
    out: dict[str, dict] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        stage, dot, field = name.strip().partition(".")
        if not (equals and dot and stage and field):
            raise InputError(f"--set {text[:80]!r}: write stage.field=value, such as generator.steps=3000")
        parsed = profiles.budget(stage, profile, {field: value.strip()})
        if out.get(stage, {}).get(field, getattr(parsed, field)) != getattr(parsed, field):
            raise InputError(f"--set {stage}.{field} is given twice, with different values; keep one")
        out.setdefault(stage, {})[field] = getattr(parsed, field)
    return out


def plan(
    profile: str,
    datasets: list[str],
    seeds: list[int],
    checksums: dict[str, str],
    *,
    overrides: dict[str, dict],
    root: Path,
    figures: Path,
    data_root: str = "",
    until: str | None = None,
    only: tuple[str, ...] = (),
    force: bool = False,
    asked: tuple[str, ...] = (),
) -> list[Job]:
    """Every stage in running order, each marked run or reuse with the reason.

    Parameters
    ----------
    checksums : dataset -> checksum of its content
    overrides : as `parse_settings` makes them
    root, figures : absolute folders of runs and figures
    until, only : the last stage, or which stages instead of the usual ones
    asked : stages that run only when they are asked for, for each dataset's first seed
    """
    folders.interval()  # refuses a bad KR_SAVE_SECONDS before anything runs
    jobs: list[Job] = []
    wanted = only or stages_until(until, asked)
    several = profiles.budget("shadow", profile, overrides.get("shadow")).pipelines
    common = {"profile": profile, "runs_dir": str(root), "interactive": False}

    # What stages took before on such a processor, of any seed: the time that is expected.
    before: dict[tuple[str, str], list[runs.Done]] = {}  # dataset, stage
    for (dataset, _), done in runs.find(root, profile).items():
        for stage, item in done.items():
            if _made_here(item):
                before.setdefault((dataset, stages.kind(stage)), []).append(item)

    for dataset in datasets:
        for seed in seeds:
            mine: dict[str, Job] = {}
            own = [s for s in wanted if s != "compare" and (s not in asked or seed == seeds[0])]
            for stage in [name for s in own for name in stages.expanded(s, several)]:
                parameters = {**common, "dataset": dataset, "seed": seed, "data_root": data_root}
                job = _job(stage, dataset, seed, checksums[dataset], mine, overrides, parameters, root, force)
                if job.expected is None and (done := before.get((dataset, stages.kind(stage)))):
                    job = replace(job, expected=fmean(map(copies.took, done)))
                mine[stage] = job
                jobs.append(job)
    if "compare" in wanted:
        parameters = {**common, "figures_dir": str(figures)}
        above = {f"{job.dataset}/seed{job.seed}/{job.stage}": job for job in jobs}
        jobs.append(_job("compare", "", 0, "", above, overrides, parameters, root, force))
    return jobs


def _job(stage, dataset, seed, checksum, above, overrides, parameters, root, force) -> Job:
    """above : name of each stage that this one reads -> its job"""
    profile, kind = parameters["profile"], stages.kind(stage)
    budget = profiles.budget(kind, profile, overrides.get(kind))
    if stage != kind:
        parameters = {**parameters, "number": int(stage.removeprefix(f"{kind}-"))}
    parts = identity.ingredients(stage, dataset, seed, asdict(budget), checksum)
    folder = runs.stage_dir(root, profile, dataset, seed, stage)

    # What is run is made: nothing that was found is read back
    if "retrain" in cells.parameters(stage):
        parameters = {**parameters, "retrain": True}

    # Does its result stand, and if not, why?
    done = runs.read(folder)
    if done is None:
        reason = DAMAGED if folder.exists() else "not run yet"
    elif force:
        reason = "--force"
    else:
        reason = _what_is_stale(done, parts, above, Path(parameters.get("figures_dir", "")), root)
    reuse = not reason
    if reuse:
        words = copies.told(done)
        reason = f"{UP_TO_DATE}, but {words}" if words else UP_TO_DATE

    took = copies.took(done) if done else None
    return Job(
        stage,
        dataset,
        seed,
        folder,
        # papermill hands on numbers, texts, lists and dicts, but not tuples.
        {**parameters, "overrides": runs.plain(overrides.get(kind, {}))},
        parts,
        reuse,
        reason,
        took,
        took if done and _made_here(done) else None,
    )


def _made_here(done: runs.Done) -> bool:
    """Whether a result was made on such a processor as this one, and on a GPU only if there seems to be one here.

    What another computer took says nothing here.
    """
    made = done.manifest["hardware"]
    return made["cpu"] == machine.hardware()["cpu"] and (not made["gpu"] or bool(shutil.which("nvidia-smi")))


def _what_is_stale(done: runs.Done, parts: dict, above: dict[str, Job], figures: Path, root: Path) -> str:
    """Why a finished stage must be made again, in words; empty where it stands.

    A stage that is planned to run may come out with the same bytes: `again` looks when it has.
    """
    if changed := identity.what_changed(done.manifest["ingredients"], parts):
        return changed
    read = done.manifest["ingredients"]["upstream"]
    new = [name for name, job in above.items() if not job.reuse and (read.get(name) or parts["stage"] == "compare")]
    if parts["stage"] != "compare":
        there = {name: item for name, job in above.items() if (item := runs.read(job.folder))}
        new += [name for name in runs.outdated(done, there) if name not in new]
        return _are_new(new)

    # The comparison reads every run that may be shown, of this plan or not.
    there = _shown_now(done, root)
    new += [name for name in there if name not in read] + runs.outdated(done, there)
    new += [name for name in read if name not in there and name not in above]
    return _are_new(list(dict.fromkeys(new))) if new else _figures_stand(done, figures)


def _shown_now(done: runs.Done, root: Path) -> dict[str, runs.Done]:
    """What a comparison would read now: the stages of every run that may be shown, by the names it has for them."""
    shown, _ = runs.find_current(root, done.manifest["parameters"]["profile"])
    return {f"{name}/seed{k}/{s}": item for (name, k), run in shown.items() for s, item in run.items()}


def why_compare_again(
    done: runs.Done, root: Path, figures: Path | None, fallen: Collection[tuple[str, int]] = ()
) -> str:
    """Why a finished comparison would be made again now, whatever a plan holds; empty where it stands.

    Parameters
    ----------
    figures : the figures folder; None: nobody looks there
    fallen : datasets and seeds of which the caller knows that they do not stand
    """
    read, there = done.manifest["ingredients"]["upstream"], _shown_now(done, root)
    known = tuple(f"{dataset}/seed{seed}/" for dataset, seed in fallen)
    there = {name: item for name, item in there.items() if not name.startswith(known)}
    lost = dict.fromkeys(name.rpartition("/")[0].replace("/seed", " seed ") for name in read if name not in there)
    new = [name for name in there if name not in read] + runs.outdated(done, there)
    if code := finished.other_code(done):
        return f"it was made by other code ({code[0]})"
    if lost:
        return f"it shows {', '.join(lost)} as it no longer stands"
    if new or figures is None:
        return _are_new(list(dict.fromkeys(new)))
    return _figures_stand(done, figures)


def _are_new(names: list[str]) -> str:
    """Which stages are new, in words; of a stage that is run several times over how many."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        place, _, stage = name.rpartition("/")
        kinds.setdefault(f"{place}/{stages.kind(stage)}".lstrip("/"), []).append(name)
    words = [f"{own[0]} is new" if len(own) == 1 else f"{len(own)} {kind}s are new" for kind, own in kinds.items()]
    return "; ".join(words)


def again(job: Job, jobs: list[Job]) -> Job:
    """A stage when its turn comes: reused after all if all that it reads came out as it was."""
    done = runs.read(job.folder)
    if job.reuse or done is None or job.reason == "--force":
        return job
    above = {other.stage: other for other in jobs if (other.dataset, other.seed) == (job.dataset, job.seed)}
    above = {name: replace(other, reuse=True) for name, other in above.items() if stages.reads(job.stage, name)}
    if _what_is_stale(done, job.parts, above, Path(), Path()):
        return job
    return replace(job, reuse=True, reason="what it reads came out as it was")


def matches(done: runs.Done | None, job: Job) -> bool:
    """Whether a result is what the plan asked for."""
    return done is not None and not identity.what_changed(done.manifest["ingredients"], job.parts)


def _figures_stand(done: runs.Done, figures: Path) -> str:
    """Which figures are not as the comparison gave them, in words; empty where every one, and every table, is."""
    made = done.manifest["outside"]
    stand = all(files.is_content(figures / name, digest) for name, digest in made.items())
    return "" if stand else "its figures are not in the figures folder as it made them"


def tidy(job: Job) -> str:
    """Put right what a kill left around a result that stands: folders half renamed, the notebook's copy not moved.

    Returns what is still wrong with that copy, in words; "" where nothing is.
    """
    runs.settle(job.folder)
    if (done := runs.read(job.folder)) and not done.path.is_symlink() and copies.told(done):
        copies.recover(done, job.parameters)
    words = copies.told(done) if done else ""
    return f"but {words}" if words else ""
