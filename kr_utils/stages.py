"""The map: each stage, its notebook, and the stages whose files it reads. The ground that store and driver stand on."""

from __future__ import annotations

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
    "release": ("09_release", ("teacher", "generator", "checkpoints", "tuning", "distillation", "membership")),
    "compare": ("10_compare", ()),  # reads every finished run of its profile
}

# Only when asked for by name: in no ordinary run, and no run is incomplete or stale for want of them.
ON_REQUEST = ("release",)
USUAL = tuple(stage for stage in STAGES if stage not in ON_REQUEST)

# What a stage reads as well, where it is there
IF_THERE: dict[str, tuple[str, ...]] = {"release": ("audit",)}
