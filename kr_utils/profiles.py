"""The budgets: how much work each stage does under each profile. Plain literals, one dataclass per stage.

smoke   checks the plumbing in seconds; its numbers mean nothing
quick   the tutorial: digits in about five minutes on two CPU cores
laptop  small medical sets (up to about 2,000 training images) on two CPU cores, within the hour
paper   GaFi's ResNet-20 of width 64 and a large Generator, on one GPU
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, field

from kr_utils import InputError


@dataclass(frozen=True)
class Start:
    images: int = 8  # shown per class


@dataclass(frozen=True)
class Teacher:
    width: int = 16  # channels of the first stage
    depth: int = 8  # layers, 6n + 2
    epochs: int = 40
    most_steps: int = 4000  # optimiser steps: a large set gets fewer epochs (`classifier.epochs_within`); 0: none
    batch: int = 64
    lr: float = 0.1
    weight_decay: float = 5e-4
    erase: float = 0.25  # probability of random erasing


@dataclass(frozen=True)
class Generator:
    steps: int = 600  # optimiser steps
    passes: int = 0  # over the training set, at least: a large set gets more steps (`generator.steps_for`)
    most_steps: int = 0  # but not more than this; 0: no limit
    batch: int = 128
    lr: float = 2e-3
    width: int = 64
    levels: int = 1
    layers: int = 1
    fold: int = 2  # 2: each 2x2 pixels become channels, a quarter of the cost
    ema_decay: float = 0.995
    label_dropout: float = 0.1
    checkpoints: int = 4
    few_steps: int = 240  # optimiser steps of consistency tuning (few-step generation); 0: none
    few_lr: float = 5e-4


@dataclass(frozen=True)
class Checkpoints:
    epochs: int = 15  # of each short Student
    period: int = 10  # regeneration while searching ("fast")
    students: int = 3  # averaged per candidate
    guidance: float = 1.0
    steps: int = 10
    most_images: int = 1000  # per synthetic set; 0: as many as the real training set, however many
    balance: str = "uniform"  # or "prior"


@dataclass(frozen=True)
class Tuning:
    epochs: int = 15
    period: int = 10
    students: int = 2
    guidance: tuple[float, ...] = (1.0, 2.0)
    steps: tuple[int, ...] = (8, 16)
    churn: tuple[float, ...] = (2.0,)  # more needs more steps
    threshold: tuple[float, ...] = (0.5,)
    most_images: int = 1000
    balance: str = "uniform"


@dataclass(frozen=True)
class Distillation:
    epochs: int = 40
    period: int = 5  # epochs between regenerations; 1 is the paper's "accurate" run
    images: int = 0  # per synthetic set; 0: as many as the real training set, but not more than `most_images`
    most_images: int = 4000  # 0: no limit
    balance: str = "uniform"
    temperature: float = 1.0
    hard_weight: float = 0.0  # share of the hard-label loss in GKD


@dataclass(frozen=True)
class Membership:
    overfit_images: int = 200  # members of the positive control
    overfit_epochs: int = 40
    released: int = 2000  # synthetic images that are attacked; not more than there are training images
    draws: int = 1000  # bootstrap
    lam: float = 2.0  # lambda of AOP


@dataclass(frozen=True)
class Compare:
    examples: int = 6  # images per class in the grid


@dataclass(frozen=True)
class Profile:
    start: Start = field(default_factory=Start)
    teacher: Teacher = field(default_factory=Teacher)
    generator: Generator = field(default_factory=Generator)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    tuning: Tuning = field(default_factory=Tuning)
    distillation: Distillation = field(default_factory=Distillation)
    membership: Membership = field(default_factory=Membership)
    compare: Compare = field(default_factory=Compare)


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        teacher=Teacher(epochs=2, width=8),
        generator=Generator(steps=16, batch=32, width=16, checkpoints=2, few_steps=4),
        checkpoints=Checkpoints(epochs=1, students=1, steps=3, most_images=300),
        tuning=Tuning(
            epochs=1,
            students=1,
            guidance=(1.0, 2.0),
            steps=(2,),
            churn=(2.0,),
            threshold=(0.3,),
            most_images=300,
        ),
        distillation=Distillation(epochs=2, period=1, most_images=300),
        membership=Membership(overfit_images=64, overfit_epochs=60, released=300, draws=200),
    ),
    "quick": Profile(),
    "laptop": Profile(
        teacher=Teacher(width=16, depth=14, epochs=60),
        generator=Generator(
            steps=5000,
            passes=35,  # more than 5,000 steps from about 2,300 images on
            most_steps=10_000,
            batch=16,  # many small steps: a third of the time that 128 need for the same validation loss
            lr=1e-3,
            width=64,
            levels=2,
            ema_decay=0.998,
            few_steps=300,
            few_lr=3e-4,
        ),
        checkpoints=Checkpoints(epochs=15, period=15, students=2, steps=8, most_images=500),
        tuning=Tuning(
            epochs=15,
            period=15,
            students=2,
            guidance=(1.0, 2.0, 3.0),
            steps=(8,),
            churn=(4.0,),
            threshold=(0.5,),
            most_images=500,
        ),
        # Twice the Teacher's epochs, softer labels: each brought validation probabilities nearer to the Teacher's.
        distillation=Distillation(epochs=120, period=12, most_images=2000, temperature=4.0),
        membership=Membership(overfit_epochs=60),
    ),
    "paper": Profile(
        teacher=Teacher(width=64, depth=20, epochs=200, most_steps=0, batch=128, weight_decay=1e-4),
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
            few_steps=15_000,
            few_lr=1e-4,
        ),
        checkpoints=Checkpoints(epochs=40, students=3, steps=18, most_images=10_000),
        tuning=Tuning(
            epochs=40,
            students=3,
            guidance=(1.0, 1.25, 1.5, 2.0, 3.0),
            steps=(8, 12, 18, 32),
            churn=(4.0, 10.0, 20.0),
            threshold=(0.25, 0.5, 0.75, 0.9),
            most_images=10_000,
        ),
        distillation=Distillation(epochs=200, period=1, most_images=0),
        membership=Membership(overfit_images=500, overfit_epochs=100, released=10_000),
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
        raise InputError(f"unknown profile {str(profile)[:60]!r}; choose one of: {', '.join(PROFILES)}")
    if stage not in STAGES:
        raise InputError(f"unknown stage {stage[:60]!r}; choose one of: {', '.join(STAGES)}")
    base = getattr(PROFILES[profile], stage)
    kinds = typing.get_type_hints(type(base))
    values = {}
    if not isinstance(overrides or {}, dict):
        raise InputError(f'overrides of {stage} are {str(overrides)[:60]!r}; write a dict such as {{"epochs": 60}}')
    for name, value in (overrides or {}).items():
        if name not in kinds:
            raise InputError(f"{stage} has no field {str(name)[:60]!r}; it has: {', '.join(kinds)}")
        values[name] = _parse(f"{stage}.{name}", value, kinds[name])
    return dataclasses.replace(base, **values)


# Fields in which zero is a meaningful value; all other numbers must be positive.
MAY_BE_ZERO = {"erase", "label_dropout", "weight_decay", "images", "hard_weight", "churn", "threshold", "few_steps"}
MAY_BE_ZERO |= {"most_steps", "most_images", "passes"}
AT_MOST_ONE = {"erase", "label_dropout", "hard_weight", "threshold", "ema_decay"}
# What no machine can hold or no search can end with; all other numbers go up to a thousand million.
AT_MOST = {"width": 4096, "depth": 1202, "levels": 8, "layers": 16, "fold": 16, "batch": 2**16, "checkpoints": 1000}
AT_MOST |= {"students": 1000, "examples": 100, "draws": 10**6, "lr": 100, "temperature": 1000, "churn": 1000}
AT_MOST |= {
    "guidance": 1000,
    "lam": 1000,
    "weight_decay": 10,
    "overfit_images": 10**6,
    "images": 10**8,
    "released": 10**6,
}
AT_MOST |= {"most_images": 10**8}
MOST_VALUES = 1000  # of one list


def _parse(name: str, value, kind):
    if typing.get_origin(kind) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, (int, float)):
            items = [items]
        if not items or not isinstance(items, (list, tuple)) or len(items) > MOST_VALUES:
            shown = str(value)[:60]
            raise InputError(f"{name} is {shown!r}; give one or more numbers (at most {MOST_VALUES}), such as 1,2")
        return tuple(_parse(name, item, typing.get_args(kind)[0]) for item in items)

    # A word
    if kind is str:
        if value not in ("uniform", "prior"):
            raise InputError(f"{name} is {str(value)[:60]!r}; use uniform or prior")
        return value

    # A number, perhaps written as text
    word = "a whole number" if kind is int else "a number"
    try:
        number = kind(value) if isinstance(value, str) or kind is float else value
        if isinstance(number, bool) or (kind is int and number != int(number)) or not math.isfinite(number):
            raise ValueError
        number = kind(number)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {str(value)[:60]!r}; it must be {word}") from None

    # Its range
    field_name = name.split(".")[1]
    if number < 0 or (number == 0 and field_name not in MAY_BE_ZERO):
        raise InputError(f"{name} is {number}; it must be {'at least 0' if field_name in MAY_BE_ZERO else 'above 0'}")
    if field_name in AT_MOST_ONE and number > 1:
        raise InputError(f"{name} is {number}; it must be at most 1")
    if field_name == "depth" and (number < 8 or (number - 2) % 6):
        raise InputError(f"{name} is {number}; a CIFAR ResNet has 6n + 2 layers: 8, 14, 20, ...")
    if name == "generator.width" and number % 8:
        raise InputError(f"{name} is {number}; it must be a multiple of 8 (group normalisation has 8 groups)")
    if field_name in ("overfit_images", "released") and number < 20:
        raise InputError(f"{name} is {number}; an attack on fewer than 20 images says nothing")
    if number > (most := AT_MOST.get(field_name, 10**9)):
        raise InputError(f"{name} is {str(number)[:60]}; that is more than any run can do (at most {most})")
    return number
