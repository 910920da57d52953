"""The stage graph over papermill: what must run, why, and running it. Never imports torch or diffusers."""

from __future__ import annotations

import datetime
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from kr_utils import InputError, profiles, runs, stages
from kr_utils.runs import folders, identity


@dataclass(frozen=True, eq=False)  # a job is its own key
class Job:
    """One stage of one dataset and seed: whether it runs, and why."""

    stage: str
    dataset: str
    seed: int
    folder: Path
    parameters: dict
    fingerprint: str
    reuse: bool
    reason: str
    seconds: float | None  # it took last time
    expected: float | None = None  # seconds: last time's, else the mean of the dataset's other seeds

    @property
    def where(self) -> str:
        return "all runs" if self.stage == "compare" else f"{self.dataset} seed {self.seed}"

    @property
    def title(self) -> str:
        return f"{self.where}  {stages.STAGES[self.stage][0]}"


def stages_until(until: str | None) -> list[str]:
    """The stages to run, in order; `until` is the last one (default: all)."""
    names = list(stages.STAGES)
    if until is None:
        return names
    if until not in names:
        raise InputError(f"unknown stage {until[:60]!r} in --until; choose one of: {', '.join(names)}")
    return names[: names.index(until) + 1]


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
    force: bool = False,
) -> list[Job]:
    """Every stage in running order, each marked run or reuse with the reason.

    Parameters
    ----------
    checksums : dataset -> checksum of its content
    overrides : as `parse_settings` makes them
    root, figures : absolute folders of runs and figures
    """
    folders.interval()  # refuses a bad KR_SAVE_SECONDS before anything runs
    jobs: list[Job] = []
    wanted = stages_until(until)
    common = {"profile": profile, "runs_dir": str(root), "interactive": False}
    predicted: dict[str, str] = {}
    seconds: dict[tuple[str, str], list[float]] = {}  # dataset, stage
    for (dataset, seed), done in runs.find(root, profile).items():
        for stage, item in done.items():
            seconds.setdefault((dataset, stage), []).append(item.manifest["seconds"])
        if runs.complete(done):
            predicted |= {f"{dataset}/seed{seed}/{s}": item.manifest["fingerprint"] for s, item in done.items()}
    for dataset in datasets:
        for seed in seeds:
            prints: dict[str, str] = {}
            for stage in [s for s in wanted if s != "compare"]:
                upstream = {need: prints[need] for need in stages.STAGES[stage][1]}
                parameters = {**common, "dataset": dataset, "seed": seed, "data_root": data_root}
                job = _job(stage, dataset, seed, checksums[dataset], upstream, overrides, parameters, root, force)
                if job.expected is None and (dataset, stage) in seconds:
                    job = replace(job, expected=fmean(seconds[dataset, stage]))
                prints[stage] = job.fingerprint
                jobs.append(job)
            if "membership" in wanted:
                predicted |= {f"{dataset}/seed{seed}/{s}": value for s, value in prints.items()}
    if "compare" in wanted:
        parameters = {**common, "figures_dir": str(figures)}
        jobs.append(_job("compare", "", 0, "", predicted, overrides, parameters, root, force))
    return jobs


def _job(stage, dataset, seed, checksum, upstream, overrides, parameters, root, force) -> Job:
    profile = parameters["profile"]
    budget = profiles.budget(stage, profile, overrides.get(stage))
    parts = identity.ingredients(stage, dataset, seed, asdict(budget), checksum, upstream)
    folder = runs.stage_dir(root, profile, dataset, seed, stage)
    done = runs.read(folder)
    now = identity.fingerprint(parts)
    if done is None:
        reason = "its files are incomplete, damaged or of another version" if folder.exists() else "not run yet"
    elif force:
        reason = "--force"
    elif done.manifest["fingerprint"] != now:
        reason = identity.what_changed(done.manifest["ingredients"], parts)
    elif stage == "compare" and not _figures_stand(done, Path(parameters["figures_dir"])):
        reason = "its figures are not in the figures folder, or results.csv there is newer"
    else:
        reason = "up to date"
    return Job(
        stage,
        dataset,
        seed,
        folder,
        # papermill hands on numbers, texts, lists and dicts, but not tuples.
        {**parameters, "overrides": runs.plain(overrides.get(stage, {}))},
        now,
        reason == "up to date",
        reason,
        done.manifest["seconds"] if done else None,
        done.manifest["seconds"] if done else None,
    )


def _figures_stand(done: runs.Done, figures: Path) -> bool:
    files = [figures / name for name in done.metrics.get("figures", [])]
    made = (done.path / "manifest.json").stat().st_mtime
    # Rows of other runs may have come into the table, which 08 reads.
    return all(f.is_file() and (f.name != "results.csv" or f.stat().st_mtime <= made) for f in files)


def tidy(job: Job) -> None:
    """Put right what a kill left around a result that stands: folders half renamed, the notebook's copy not moved."""
    runs.settle(job.folder)
    done, copy = runs.read(job.folder), job.folder.with_name(f"{job.folder.name}.failed.ipynb")
    if done and copy.is_file() and not (job.folder / "notebook.ipynb").exists():
        made = datetime.datetime.fromtimestamp(copy.stat().st_mtime, datetime.UTC)
        if made >= datetime.datetime.fromisoformat(done.manifest["started"]):
            shutil.move(copy, job.folder / "notebook.ipynb")
