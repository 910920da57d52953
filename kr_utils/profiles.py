"""The budgets: how much work each stage does under each profile. Plain literals, one dataclass per stage.

smoke   checks the plumbing in minutes; its numbers mean nothing
quick   the tutorial: digits in about five minutes
laptop  small medical sets (up to about 2,000 training images) on a CPU, in one to two hours of a core a seed
paper   GaFi's ResNet-20 of width 64 and a large Generator, on one GPU
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field

from kr_utils import InputError, shown


def number(default, *, least: float | None = None, most: float = 10**9):
    """A field of a budget, with its range: from `least`, or from above 0 where that is None, to `most`.

    Beyond `most` no machine can hold it, or no search can end.
    """
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True)
class Start:
    images: int = number(8, most=100)  # shown per class


@dataclass(frozen=True)
class Teacher:
    members: int = number(3, most=100)  # classifiers: each is real training, together they are the Teacher
    width: int = number(16, most=4096)  # channels of the first stage
    depth: int = number(8, least=8, most=1202)  # layers, 6n + 2
    epochs: int = number(40)
    least_steps: int = number(400, least=0)  # of the optimiser: a small set gets more epochs; 0: no limit
    most_steps: int = number(4000, least=0)  # and a large one fewer
    batch: int = number(64, most=2**16)
    lr: float = number(0.1, most=100)
    weight_decay: float = number(5e-4, least=0, most=10)
    erase: float = number(0.25, least=0, most=1)  # probability of random erasing


@dataclass(frozen=True)
class Generator:
    steps: int = number(400)  # optimiser steps
    passes: int = number(0, least=0)  # over the training set, at least: a large set gets more steps
    most_steps: int = number(0, least=0)  # but not more than this; 0: no limit
    batch: int = number(128, most=2**16)
    lr: float = number(2e-3, most=100)
    width: int = number(64, most=4096)
    levels: int = number(1, most=8)
    layers: int = number(1, most=16)
    fold: int = number(2, most=16)  # 2: each 2x2 pixels become channels, a quarter of the cost
    ema_decay: float = number(0.995, most=1)
    label_dropout: float = number(0.1, least=0, most=1)
    checkpoints: int = number(4, most=1000)


@dataclass(frozen=True)
class Checkpoints:
    epochs: int = number(6)  # of each short Student
    period: int = number(6)  # regeneration while searching ("fast")
    students: int = number(2, most=1000)  # averaged per candidate
    guidance: float = number(1.0, most=1000)
    steps: int = number(10)
    images: int = number(1000, least=0, most=10**8)  # per synthetic set; 0: as many as the real training set
    balance: str = "uniform"  # or "prior"
    temperature: float = number(1.0, most=1000)  # of the soft labels
    hard_weight: float = number(0.0, least=0, most=1)  # share of the asked label in the loss


@dataclass(frozen=True)
class Tuning:
    epochs: int = number(6)
    period: int = number(6)
    students: int = number(2, most=1000)
    guidance: tuple[float, ...] = number((1.0, 2.0), most=1000)
    steps: tuple[int, ...] = number((8,))
    churn: tuple[float, ...] = number((2.0,), least=0, most=1000)  # more needs more steps
    threshold: tuple[float, ...] = number((0.5,), least=0, most=1)
    temperature: tuple[float, ...] = number((1.0,), most=1000)
    hard_weight: tuple[float, ...] = number((0.0, 0.5), least=0, most=1)
    few: tuple[int, ...] = number((1, 2))  # evaluations of the few-step Generator
    few_steps: int = number(160, least=0)  # optimiser steps of consistency tuning, which makes it; 0: none
    few_lr: float = number(5e-4, most=100)
    images: int = number(1000, least=0, most=10**8)
    balance: str = "uniform"


@dataclass(frozen=True)
class Distillation:
    epochs: int = number(20)  # or the more that take as many steps as real training did
    period: int = number(4)  # epochs between regenerations; always 1 where the few-step Generator draws
    images: int = number(1500, least=0, most=10**8)  # per synthetic set; 0: as many as the real training set
    balance: str = "uniform"
    controls: int = number(1, least=0, most=1)  # 1: Students that show what the Generator brings


@dataclass(frozen=True)
class Membership:
    overfit_images: int = number(200, least=20, most=10**6)  # members of the positive control
    overfit_epochs: int = number(40)
    released: int = number(2000, least=20, most=10**6)  # synthetic images that are attacked, up to as many as train has
    draws: int = number(1000, most=10**6)  # bootstrap
    lam: float = number(2.0, most=1000)  # lambda of AOP


@dataclass(frozen=True)
class Release:
    images: int = number(1000, least=20, most=10**5)  # that are handed out
    balance: str = "uniform"  # or "prior"
    draws: int = number(1000, most=10**6)  # bootstrap


@dataclass(frozen=True)
class Shadow:
    """Whatever it does not name (epochs, steps, knobs) is as the target's."""

    pipelines: int = number(16, least=2, most=1000)  # even; each image is in half of them (run_all.py --audit)
    canaries: float = number(0.05, least=0, most=0.5)  # share of the images that get a wrong label; 0: none
    queries: int = number(5, most=1000)  # views of each image that classifiers are asked about
    noises: int = number(8, most=1000)  # for each noise level of the attack on the Generator's weights
    ablation: int = number(1, least=0, most=1)  # 1: the other three corners of the 2x2, too
    controls: int = number(0, least=0, most=1)  # 1: and the Students that are the controls of 05
    few: int = number(0, least=0, most=1)  # 1: and one of few-step images, where 04 did not choose them
    volumes: tuple[int, ...] = number((1, 2, 5, 10, 20))  # synthetic images, in multiples of the real ones
    epsilons: tuple[float, ...] = number((8.0,), most=1000)  # of DP-SGD
    dp_epochs: int = number(40)
    overfit_epochs: int = number(40)  # of the positive control


@dataclass(frozen=True)
class Audit:
    pipelines: int = number(16, least=2, most=1000)  # as many as there are shadows (run_all.py --audit)
    draws: int = number(300, most=10**6)  # bootstrap of each cell of the matrix
    lam: float = number(2.0, most=1000)  # lambda of AOP


@dataclass(frozen=True)
class Compare:
    examples: int = number(6, most=100)  # images per class in the grid


@dataclass(frozen=True)
class Profile:
    start: Start = field(default_factory=Start)
    teacher: Teacher = field(default_factory=Teacher)
    generator: Generator = field(default_factory=Generator)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    tuning: Tuning = field(default_factory=Tuning)
    distillation: Distillation = field(default_factory=Distillation)
    membership: Membership = field(default_factory=Membership)
    shadow: Shadow = field(default_factory=Shadow)
    audit: Audit = field(default_factory=Audit)
    release: Release = field(default_factory=Release)
    compare: Compare = field(default_factory=Compare)


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        teacher=Teacher(members=2, epochs=2, least_steps=0, width=8),
        generator=Generator(steps=16, batch=32, width=16, checkpoints=2),
        checkpoints=Checkpoints(epochs=1, students=1, steps=3, images=300),
        tuning=Tuning(
            epochs=1,
            students=1,
            guidance=(1.0, 2.0),
            steps=(2,),
            churn=(2.0,),
            threshold=(0.3,),
            few=(1,),
            few_steps=4,
            images=300,
        ),
        distillation=Distillation(epochs=2, period=1, images=300),
        membership=Membership(overfit_images=64, overfit_epochs=60, released=300, draws=200),
        shadow=Shadow(
            pipelines=2, queries=2, noises=2, controls=1, few=1, volumes=(1, 2), dp_epochs=2, overfit_epochs=30
        ),
        audit=Audit(pipelines=2, draws=100),
    ),
    "quick": Profile(
        checkpoints=Checkpoints(images=600),
        tuning=Tuning(images=600),
        distillation=Distillation(images=1000),
    ),
    "laptop": Profile(
        teacher=Teacher(members=4, width=16, depth=14, epochs=60, least_steps=500, most_steps=6000),
        generator=Generator(
            steps=4000,
            passes=35,  # more than 4,000 steps from about 1,800 images on
            most_steps=10_000,
            batch=16,  # many small steps: a third of the time that 128 need for the same validation loss
            lr=1e-3,
            width=64,
            levels=2,
            ema_decay=0.998,
        ),
        checkpoints=Checkpoints(epochs=8, period=8, students=2, steps=8, temperature=4.0),
        tuning=Tuning(
            epochs=8,
            period=8,
            students=2,
            guidance=(1.0, 2.0),
            steps=(8,),
            churn=(0.0,),  # none: it doubles the cost of an image
            threshold=(0.5,),
            temperature=(4.0,),
            hard_weight=(0.0,),  # eight epochs favour half a weight, sixty lose by it: benchmarks/budget.md
            few_steps=0,  # what so short a tuning can make teaches worse than eight steps do
        ),
        # Softer labels brought validation probabilities nearer to the Teacher's, and so did twice the epochs.
        distillation=Distillation(epochs=60, period=10),
        membership=Membership(overfit_epochs=60),
        shadow=Shadow(volumes=(1, 5, 20)),  # five take an eighth more time, on digits the curve is flat between them
    ),
    "paper": Profile(
        teacher=Teacher(
            members=4, width=64, depth=20, epochs=200, least_steps=0, most_steps=0, batch=128, weight_decay=1e-4
        ),
        generator=Generator(
            steps=60_000,
            batch=256,
            lr=3e-4,
            width=128,
            levels=3,
            layers=2,
            fold=1,
            ema_decay=0.9995,
            checkpoints=10,
        ),
        checkpoints=Checkpoints(epochs=40, students=3, steps=18, images=10_000),
        tuning=Tuning(
            epochs=40,
            students=3,
            guidance=(1.0, 1.25, 1.5, 2.0, 3.0),
            steps=(8, 12, 18, 32),
            churn=(1.0, 3.0),  # no two draw the same: more than 0.41 of the steps (3.3 of 8) changes nothing
            threshold=(0.25, 0.5, 0.75, 0.9),
            temperature=(1.0, 4.0),
            few_steps=15_000,
            few_lr=1e-4,
            images=10_000,
        ),
        distillation=Distillation(epochs=200, period=1, images=0),
        membership=Membership(overfit_images=500, overfit_epochs=100, released=10_000),
        shadow=Shadow(
            pipelines=64,
            queries=10,
            controls=1,
            few=1,
            epsilons=(1.0, 8.0),
            dp_epochs=100,
        ),
        audit=Audit(pipelines=64, draws=1000),
    ),
}

STAGES = tuple(f.name for f in dataclasses.fields(Profile))


def budget(stage: str, profile: str, overrides: dict | None = None):
    """The frozen budget of a stage, with some fields replaced.

    Parameters
    ----------
    stage : a name in `STAGES`; profile : a key of `PROFILES`
    overrides : field -> value; strings are parsed, so "3000", "1,2,3" and 3000 are all understood

    Raises
    ------
    InputError
        Unknown profile, stage or field; a value of the wrong kind or out of range.
    """
    if profile not in tuple(PROFILES):
        raise InputError(f"unknown profile {shown(profile)}; choose one of: {', '.join(PROFILES)}")
    if stage not in STAGES:
        raise InputError(f"unknown stage {shown(stage)}; choose one of: {', '.join(STAGES)}")
    base = getattr(PROFILES[profile], stage)
    kinds = typing.get_type_hints(type(base))
    limits = {f.name: f.metadata for f in dataclasses.fields(base)}
    values = {}
    if not isinstance(overrides or {}, dict):
        raise InputError(f'overrides of {stage} are {shown(overrides)}; write a dict such as {{"epochs": 60}}')
    for name, value in (overrides or {}).items():
        if name not in kinds:
            raise InputError(f"{stage} has no field {shown(name)}; it has: {', '.join(kinds)}")
        values[name] = _parse(f"{stage}.{name}", value, kinds[name], limits[name])
    return dataclasses.replace(base, **values)


MOST_VALUES = 1000  # of one list


def _parse(name: str, value, kind, limits):
    """One value of the declared kind within its limits; InputError otherwise.

    limits : "least" and "most", as `number` stores them
    """
    if typing.get_origin(kind) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, (int, float)):
            items = [items]
        if not items or not isinstance(items, (list, tuple)) or len(items) > MOST_VALUES:
            raise InputError(f"{name} is {shown(value)}; give one or more numbers (at most {MOST_VALUES}), such as 1,2")
        values = tuple(_parse(name, item, typing.get_args(kind)[0], limits) for item in items)
        if len(set(values)) < len(values):
            raise InputError(f"{name} is {shown(value)}, with a number twice; give each once")
        return values
    if kind is str:
        if value not in ("uniform", "prior"):
            raise InputError(f"{name} is {shown(value)}; use uniform or prior")
        return value

    # A number of the right kind.
    word = "a whole number" if kind is int else "a number"
    try:
        if isinstance(value, str) and ("_" in value or not value.isascii()):  # Python would take 1_0 for 10
            raise ValueError
        given = kind(value) if isinstance(value, str) or kind is float else value
        if isinstance(value, bool) or (kind is int and given != int(given)) or not math.isfinite(given):
            raise ValueError
        given = kind(given)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {shown(value)}; it must be {word}") from None

    # Within its limits.
    least, most = limits["least"], limits["most"]
    if given < (least or 0) or (given == 0 and least is None):
        raise InputError(f"{name} is {given}; it must be {'above 0' if least is None else f'at least {least}'}")
    if given > most:
        why = "" if most == 1 else "that is more than any run can do; "
        raise InputError(f"{name} is {str(given)[:60]}; {why}it must be at most {most}")
    if name.endswith(".pipelines") and given % 2:
        raise InputError(f"{name} is {given}; it must be even, for each image is in half of the pipelines")
    if name == "teacher.depth" and (given - 2) % 6:
        raise InputError(f"{name} is {given}; a CIFAR ResNet has 6n + 2 layers: 8, 14, 20, ...")
    if name == "generator.width" and given % 8:
        raise InputError(f"{name} is {given}; it must be a multiple of 8 (group normalisation has 8 groups)")
    return given


def changes(budgets: Mapping[str, dict], profile: str) -> str:
    """What the stored budgets of stages change in their profile, as --set options of the command.

    A field that the profile does not know, of an older version, cannot be set and is passed over.
    """
    words = []
    for stage, own in budgets.items():
        usual = vars(budget(stage, profile))
        for key, value in own.items():
            listed = list(usual[key]) if isinstance(usual.get(key), tuple) else usual.get(key)  # JSON has no tuples
            if key in usual and value != listed:
                text = ",".join(map(str, value)) if isinstance(value, list) else value
                words.append(f" --set {stage}.{key}={text}")
    return "".join(words)
