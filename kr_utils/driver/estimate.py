"""Minutes of stages that never ran here: work counted from budgets (work.py) times this computer's speed (speed.py).

The speed is measured in a process of its own, for torch stays out of the driver, and kept in the runs folder: the next
look costs nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from kr_utils import InputError, dataset_file, owned, profiles, resolution, stages
from kr_utils.driver import execute, work
from kr_utils.driver.plan import Job
from kr_utils.runs import code, identity, machine

FILE = ".speed.json"  # in the runs folder
KEPT = 100  # speeds in it
PATIENCE = 120  # seconds per measurement
TIMED = ["from kr_utils import speed", "speed.main()"]  # the code whose speed is measured
MARGIN = 0.5  # of a core: what a desktop does beside
MOST_FOLD = 16  # as the budget's field allows
GPU_FLOPS = 40e12  # of a data-centre GPU on such networks: an assumption


def budgets(profile: str, overrides: dict[str, dict]) -> profiles.Profile:
    """All budgets of a profile, with some fields replaced."""
    return profiles.Profile(
        **{stage: profiles.budget(stage, profile, overrides.get(stage)) for stage in profiles.STAGES}
    )


def networks(chosen: profiles.Profile, sizes: work.Sizes) -> dict:
    """What the speed depends on: the networks' sizes, the batches, the form of an image."""
    teacher, painter, about = asdict(chosen.teacher), asdict(chosen.generator), asdict(sizes)
    recipe = ("width", "depth", "batch", "lr", "weight_decay", "erase")
    return {
        "recipe": {key: teacher[key] for key in recipe},
        "generator": {key: painter[key] for key in ("width", "levels", "layers", "fold", "batch")},
        "images": {key: about[key] for key in ("classes", "channels", "height", "width")},
    }


def key(wanted: dict, threads: int) -> str:
    """The name of a speed: another one for other networks, threads, computer, packages or code."""
    here = {
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    parts = {"networks": wanted, "threads": threads, **here, "code": code.code_hashes("teacher", TIMED)}
    return identity.fingerprint(parts)


def known(root: Path) -> dict[str, dict]:
    """Speeds that were measured before; none where the file is missing, or is not as it was written."""
    try:
        found = json.loads(owned.read_text(root / FILE, owned.NOTE))
        return {name: speed for name, speed in found.items() if _well_formed(speed)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _well_formed(speed) -> bool:
    """Whether a speed has a time above zero for each kind of work, and what is counted beside it."""
    try:
        numbers = [speed["rates"][kind] for kind in work.KINDS]
        numbers += [speed[network][what] for network in ("classifier", "generator") for what in _COUNTED]
        return speed["device"] in ("cpu", "cuda") and all(type(n) in (int, float) and 0 < n < math.inf for n in numbers)
    except (TypeError, KeyError):
        return False


_COUNTED = ("parameters", "flops", "saved")


def threads_of(options: argparse.Namespace) -> int:
    """Threads of a stage that runs on this computer."""
    return options.threads or max(1, machine.cores() // options.jobs)


def measures() -> bool:
    """Whether this computer may be looked at: the variable KR_MEASURE, 0 or 1, which is the usual.

    Raises
    ------
    InputError
        It has another value.
    """
    given = os.environ.get("KR_MEASURE", "").strip()
    if given not in ("", "0", "1"):
        raise InputError(f"KR_MEASURE is {given[:40]!r}; give 0 to measure nothing here, or 1, the usual, or unset it")
    return given != "0"


def speeds(
    wanted: list[dict], root: Path, threads: int, measure: bool = True, tell: Callable[[str], None] = lambda line: None
) -> list[dict | None]:
    """The speed for each of several `networks`; None where it is not known.

    Parameters
    ----------
    threads : of a stage
    measure : what is not known, unless `measures` says no; on a computer that is busy with something else the
        speed is told and not kept
    tell : is given a line before it takes time, and one if it cannot be measured
    """
    measure = measures() and measure
    there, names = known(root), [key(each, threads) for each in wanted]
    missing = {name: each for name, each in zip(names, wanted) if name not in there}
    if missing and measure:
        tell(f"measuring this computer's speed, once for these networks: about {10 + 5 * len(missing)} s")
        disturbed = crowded(threads)
        found, problem = _measure(list(missing.values()), threads)
        if problem:
            tell(f"times are not known, for the speed cannot be measured here: {problem}")
        there |= dict(zip(missing, found))
        if disturbed:
            tell(f"{disturbed}; the speed is of such a moment, and is not kept")
        elif found:
            newest = dict([*there.items()][-KEPT:])
            with contextlib.suppress(OSError, InputError):  # measured again next time
                owned.make(root)
                owned.write(root / FILE, json.dumps(newest, indent=1))
    return [there.get(name) for name in names]


def crowded(threads: int, jobs: int = 1, remedy: str = "give --threads ") -> str:
    """A line where programs use cores that the threads of `jobs` stages need, else "".

    The threads of a stage wait for one another several hundred times a training step, each time until the one that has
    lost its core gets it back. With KR_MEASURE=0 nobody looks.

    remedy : what to do with the number of threads that follows it
    """
    if not measures() or threads == 1:
        return ""
    used, cores = machine.busy()
    if used < MARGIN or threads * jobs + used < cores + MARGIN:
        return ""
    fewer = max(1, min(threads - 1, int(cores - used + MARGIN) // jobs))
    return (
        f"other programs use {used:.1f} of {cores} cores now, so that a stage's {threads} threads wait for one another "
        f"and it may take many times as long: end them, or {remedy}{fewer}"
    )


def _measure(wanted: list[dict], threads: int) -> tuple[list[dict], str]:
    """The speeds, as many as could be measured, and why there are not more."""
    with tempfile.TemporaryDirectory(prefix="kr-speed-") as private:
        asked = json.dumps({"began": time.time(), "networks": wanted})
        call = [sys.executable, "-m", "kr_utils.speed"]
        options = {"env": execute.environment(Path(private), threads), "cwd": stages.ROOT, "text": True}
        try:
            done = subprocess.run(
                call, input=asked, capture_output=True, timeout=PATIENCE * len(wanted), **options, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return [], str(error).splitlines()[0][:160]

    # The last line of a traceback says what is wrong
    found = []
    with contextlib.suppress(ValueError, IndexError):
        found = json.loads(done.stdout.splitlines()[-1])
    if len(found) == len(wanted) and all(map(_well_formed, found)):
        return found, ""
    words = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
    return [], words[-1][:160]


def of_stages(chosen: profiles.Profile, sizes: work.Sizes, speed: dict, threads: int) -> dict[str, float]:
    """Stage -> seconds, its kernel's start included."""
    workers = 1 if speed["device"] == "cuda" else threads
    found = {stage: work.of_stage(stage, chosen, sizes, workers) for stage in stages.STAGES}
    return {stage: sum(amount * speed["rates"][kind] for kind, amount in each.items()) for stage, each in found.items()}


def filled(jobs: list[Job], times: dict[str, dict[str, float]]) -> list[Job]:
    """The jobs, those of which no time is known with the estimated one.

    times : dataset -> stage -> seconds; of the comparison any dataset's will do
    """
    any_ = next(iter(times.values()), {})

    def expected(job: Job) -> float | None:
        mine = times.get(job.dataset, any_ if job.stage == "compare" else {})
        return job.expected or mine.get(stages.kind(job.stage))

    return [replace(job, expected=expected(job)) for job in jobs]


BASE = 0.8e9  # bytes that Python takes with torch and diffusers


def room(chosen: profiles.Profile, sizes: work.Sizes, speed: dict, threads: int) -> tuple[float, float]:
    """Bytes of memory that the largest stage of a seed takes on this computer, and of disk that a seed takes; counted.

    Memory is that of the Generator's training, or of Tuning's short Students, a process for each thread; on a GPU the
    networks' part is in its own memory, and left out.
    """
    classify, paint, here = speed["classifier"], speed["generator"], speed["device"] == "cpu"
    pixels = sizes.channels * sizes.height * sizes.width
    raw, train = (sizes.train + sizes.val + sizes.test) * pixels, sizes.train * pixels
    drawn = max(chosen.checkpoints.images, chosen.tuning.images, chosen.distillation.images) or sizes.train

    # Weights, gradients, two moments, moving average; what a batch keeps for the backward pass; images as floats
    painting = 20 * paint["parameters"] + chosen.generator.batch * paint["saved"]
    generator = BASE + 2 * raw + 3 * 4 * train + here * painting

    # A short Student, and a block of images that is drawn under guidance, which keeps nothing for a backward pass
    student = 12 * classify["parameters"] + chosen.teacher.batch * classify["saved"]
    drawing = 4 * paint["parameters"] + work.BLOCK * paint["saved"] / 2
    workers = threads if here else 1
    students = BASE + 2 * raw + workers * (BASE * (workers > 1) + raw + drawn * pixels + here * (student + drawing))

    # Checkpoints, the few-step Generator, a saved state; classifiers; images that are kept
    files = (chosen.generator.checkpoints + bool(chosen.tuning.few_steps) + 4) * paint["parameters"]
    files += (chosen.teacher.members + 9) * classify["parameters"]
    return max(generator, students), 4 * files + 2 * drawn * pixels


def require_room(name: str, needed: tuple[float, float], root: Path) -> str:
    """What a seed needs in words; InputError if this computer does not have it.

    needed : as `room` returns it; root : the runs folder, which may not be there yet
    """
    memory, disk = needed
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    limit, free = dataset_file.memory_limit(most=2**62), shutil.disk_usage(there).free
    words = f"{name}: about {memory / 1e9:.1f} GB of memory, and {max(disk / 1e9, 0.01):.2g} GB on disk a seed"
    for what, wanted, has in (("of memory", memory, limit), ("on disk", disk, free)):
        if wanted > has:
            smaller = "take smaller images (--import ... --size), a smaller profile or batch (--set generator.batch=)"
            raise InputError(f"{words}; here are {has / 1e9:.1f} GB {what}; {smaller}")
    return words


def form(chosen: profiles.Profile, sizes: work.Sizes) -> str:
    """The Generator's form for a dataset's images, in words."""
    budget = chosen.generator
    levels, fold = resolution.form(budget.levels, budget.fold, sizes.height, sizes.width)
    usual = "" if (levels, fold) == (budget.levels, budget.fold) else f" ({budget.levels} and {budget.fold} at 28)"
    return (
        f"{sizes.height} x {sizes.width} pixels: Generator of {levels} level{'s' * (levels > 1)}, folding {fold}{usual}"
    )


def require_fold(name: str, chosen: profiles.Profile, sizes: work.Sizes) -> None:
    """InputError where a dataset's images cannot be folded as the budget says, and less would be done without a word.

    For a folding that somebody asked for; that of a profile gives way where the images' sides are odd, say.
    """
    budget, sides = chosen.generator, (sizes.height, sizes.width)

    def taken(fold: int) -> int:
        return resolution.form(budget.levels, fold, *sides)[1]

    if taken(budget.fold) < budget.fold:
        good = [str(fold) for fold in range(1, max(sides) + 1) if fold <= taken(fold) and fold <= MOST_FOLD]
        raise InputError(
            f"--set generator.fold={budget.fold}: {name}'s {sides[0]} x {sides[1]} pixels cannot be folded so, and "
            f"{taken(budget.fold)} would be taken; give one of {', '.join(good)}"
        )


def on_a_gpu(chosen: profiles.Profile, sizes: work.Sizes, speed: dict) -> str:
    """Hours, memory and disk that one seed would take on a GPU, in words; counted, with an assumed rate."""
    total: dict[str, float] = {}
    for stage in stages.USUAL:
        for kind, amount in work.of_stage(stage, chosen, sizes).items():
            total[kind.removeprefix("short_")] = total.get(kind.removeprefix("short_"), 0) + amount

    # A training step is three forward passes
    classify, paint = speed["classifier"], speed["generator"]
    forward = 3 * total["train"] + total["label"] + total["predict"]
    flops = forward * classify["flops"] + (3 * total["paint"] + total["draw"]) * paint["flops"]
    hours = flops / GPU_FLOPS / 3600

    # Weights, gradients, two moments, moving average; and what a batch keeps for the backward pass
    painting = 20 * paint["parameters"] + chosen.generator.batch * paint["saved"]
    student = 12 * classify["parameters"] + 2 * chosen.teacher.batch * classify["saved"]  # batches have two sizes
    files = (chosen.generator.checkpoints + bool(chosen.tuning.few_steps)) * paint["parameters"]
    files += (chosen.teacher.members + 1) * classify["parameters"]
    return (
        f"on a GPU about {hours:.2g} h a seed at {GPU_FLOPS / 1e12:.0f} TFLOP/s (an assumption; the operations are "
        f"counted), up to {max(painting, student) / 1e9:.2g} GB of its memory (all in float32; bfloat16 takes less), "
        f"{4 * files / 1e9:.2g} GB of weights on disk"
    )
