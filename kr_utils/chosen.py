"""What earlier stages made and chose, loaded for a notebook: one call each. A `stage` is what `runs.begin` opened."""

from __future__ import annotations

from pathlib import Path

from kr_utils import classifier, generator, recycling
from kr_utils.data import Dataset


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


def checkpoint(stage) -> Path:
    """The weights of the checkpoint that 03 chose."""
    step = stage.upstream["checkpoints"].metrics["checkpoint"]
    return stage.upstream["generator"].file(f"checkpoint-{step:07d}.safetensors")


def knobs(stage) -> recycling.Knobs:
    """The settings that 04 chose."""
    return recycling.Knobs(**stage.upstream["tuning"].metrics["knobs"])


def model(stage, device: str = "cpu") -> generator.Generator:
    """The Generator that 04 chose: the checkpoint of 03, or the few-step one that was made of it."""
    few = knobs(stage).few
    path = stage.upstream["tuning"].file("few.safetensors") if few else checkpoint(stage)
    return generator.load(path, device)
