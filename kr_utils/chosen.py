"""What earlier stages made and chose, loaded for a notebook: one call each. A `stage` is what `runs.begin` opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kr_utils import classifier, generator, recycling
from kr_utils.data import Dataset

if TYPE_CHECKING:
    import numpy as np


def teachers(stage, device: str = "cpu") -> classifier.Ensemble:
    """All Teachers of 01 as one, in eval mode."""
    made = stage.upstream["teacher"]
    paths = [made.file(f"teacher-{k}.safetensors") for k in range(made.budget["members"])]
    return classifier.Ensemble(classifier.load(path, device) for path in paths)


def recipe(stage) -> classifier.Recipe:
    """Network and optimiser of the real training in 01."""
    return classifier.Recipe.from_budget(stage.upstream["teacher"].budget)


def training(stage, ds: Dataset, epochs: int, teacher: classifier.Ensemble) -> classifier.Training:
    """How a Student is trained: as the real training, with the Teachers' labels."""
    augment = classifier.Augmentation.for_dataset(ds.info, ds.shape[1], recipe(stage).erase)
    return classifier.Training(recipe(stage), epochs, augment, teacher)


def checkpoints(stage) -> dict[int, Path]:
    """The weights of every checkpoint of 02: training step -> file."""
    made = stage.upstream["generator"]
    return {step: made.file(f"checkpoint-{step:07d}.safetensors") for step in made.metrics["steps"]}


def samples(stage) -> dict[int, np.ndarray]:
    """The images that 02 drew at each checkpoint from the same noise: training step -> uint8 [N, C, H, W]."""
    made = stage.upstream["generator"].npz("samples.npz")
    return {int(step): images for step, images in zip(made["steps"], made["images"])}


def logits(stage) -> dict[str, dict[str, np.ndarray]]:
    """What classifiers said about real images, by split: "real" (the Teachers, [members, N, K]), "student" ([N, K])."""
    return {
        who: stage.upstream[name].npz("logits.npz") for who, name in (("real", "teacher"), ("student", "distillation"))
    }


def steps(stage) -> int:
    """Optimiser steps of the real training in 01: a Student takes at least as many."""
    return stage.upstream["teacher"].metrics["steps"]


def real_logits(stage) -> np.ndarray:
    """What the Teachers said about the real test images: [members, N, K]."""
    return stage.upstream["teacher"].npz("logits.npz")["test"]


def balance(stage) -> str:
    """How 05 chose the number of synthetic images per class."""
    return stage.upstream["distillation"].budget["balance"]


def diffusion(stage) -> dict:
    """Batch, average and label dropout of the Generator's training in 02."""
    made = stage.upstream["generator"].budget
    return {key: made[key] for key in ("batch", "ema_decay", "label_dropout")}


def best_step(stage) -> int:
    """Training steps of the checkpoint that 03 chose."""
    return stage.upstream["checkpoints"].metrics["checkpoint"]


def checkpoint(stage) -> Path:
    """The weights of the checkpoint that 03 chose."""
    return stage.upstream["generator"].file(f"checkpoint-{best_step(stage):07d}.safetensors")


def knobs(stage) -> recycling.Knobs:
    """The settings that 04 chose."""
    return recycling.Knobs(**stage.upstream["tuning"].metrics["knobs"])


def model(stage, device: str = "cpu") -> generator.Generator:
    """The Generator that 04 chose: the checkpoint of 03, or the few-step one that was made of it."""
    few = knobs(stage).few
    path = stage.upstream["tuning"].file("few.safetensors") if few else checkpoint(stage)
    return generator.load(path, device)


# ------------------------------------------------------------------ for an audit or a release


def budget(stage, name: str) -> dict:
    """The budget under which the earlier stage `name` was made."""
    return stage.upstream[name].budget


def guidance(stage) -> float:
    """The scale that the few-step Generator of 04 has in its weights."""
    return stage.upstream["tuning"].metrics["few_guidance"]


def shadows(stage) -> list:
    """The finished pipelines of 07, by their numbers."""
    return list(stage.upstream.values())


def run(stage) -> dict:
    """All finished stages that this one reads: name -> stage."""
    return stage.upstream


def student(stage) -> Path:
    """The weights of the GKD Student of 05."""
    return stage.upstream["distillation"].file("student.safetensors")
