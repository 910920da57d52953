"""The map: each stage, its notebook, and the stages whose files it reads. The ground that store and driver stand on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"

# stage -> (notebook, stages whose files it reads)
STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "start": ("00_start_here", ()),
    "teacher": ("01_teacher", ()),
    "generator": ("02_generator", ()),
    "checkpoints": ("03_checkpoints", ("teacher", "generator")),
    "tuning": ("04_tuning", ("teacher", "generator", "checkpoints")),
    "distillation": ("05_distillation", ("teacher", "generator", "checkpoints", "tuning")),
    "membership": ("06_membership", ("teacher", "generator", "checkpoints", "tuning", "distillation")),
    "shadow": ("07_shadow", ("teacher", "generator", "checkpoints", "tuning", "distillation")),
    "audit": ("08_audit", ("shadow",)),
    "release": ("09_release", ("teacher", "generator", "checkpoints", "tuning", "distillation", "membership")),
    "compare": ("10_compare", ()),  # reads every finished run of its profile
}
IF_THERE: dict[str, tuple[str, ...]] = {"release": ("audit",)}  # what a stage reads as well, where it is there
ON_REQUEST = ("shadow", "audit", "release")  # run only when they are asked for
USUAL = tuple(stage for stage in STAGES if stage not in ON_REQUEST)  # a run without one of these is not finished
MANY = ("shadow",)  # run several times over: shadow-00, shadow-01, ..., each of which is a stage by itself


def numbered(stage: str, number: int) -> str:
    """The name of one of `MANY`: "shadow-03"."""
    return f"{stage}-{number:02d}"


def kind(stage: str) -> str:
    """What is run: "shadow" for "shadow-03", any other stage for itself."""
    name, dash, number = stage.partition("-")
    return name if name in MANY and dash and number.isdecimal() else stage


def notebook(stage: str) -> str:
    """Its notebook's name: "07_shadow" for "shadow-03"."""
    return STAGES[kind(stage)][0]


def folder(stage: str) -> str:
    """The name of its folder: "07_shadow-03", the notebook's name for a stage that is run once."""
    return notebook(stage) + stage.removeprefix(kind(stage))


def order(stage: str) -> int:
    """Its place in running order."""
    return list(STAGES).index(kind(stage))


def reads(stage: str, other: str) -> bool:
    """Whether a stage reads files of another one."""
    return kind(other) in STAGES[kind(stage)][1]


def needed(stage: str, several: int = 0) -> list[str]:
    """The stages whose files a stage reads; of those in `MANY` so many."""
    every = [expanded(name, several) for name in STAGES[kind(stage)][1]]
    return [name for names in every for name in names]


def expanded(stage: str, several: int) -> list[str]:
    """A stage as it is run: by itself, or so many times over."""
    return [numbered(stage, k) for k in range(several)] if stage in MANY else [stage]


def among(folders: Iterable[str]) -> list[str]:
    """The stages that may have left a trace among these names of files and folders, in running order."""
    names, found = set(folders), []
    for stage, (book, _) in STAGES.items():
        if stage not in MANY:
            found.append(stage)
            continue
        numbers = {int(match[1]) for name in names if (match := re.match(rf"\.?{book}-(\d{{2,9}})(?!\d)", name))}
        found += [numbered(stage, k) for k in sorted(numbers)]
    return found


def command(options: Mapping[str, object]) -> str:
    """The command of the driver with these options, ready for a shell; an option without a value is left out."""
    words = [word for option, value in options.items() if str(value) for word in (option, str(value))]
    return f"python run_all.py {shlex.join(words)}"
