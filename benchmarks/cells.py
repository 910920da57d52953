"""A finished cell (a budget on one fold with one seed): its manifests, and what it scored image by image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kr_utils import InputError, dataset_file, intervals, runs
from kr_utils.driver import plan, report

EXACT = 1e-9


@dataclass(frozen=True)
class Cell:
    """Where it belongs, its finished stages, and per classifier which held-out images it gets right.

    right : classifier -> [N] in 0..1; a mean where several classifiers stand for one (`real`)
    """

    dataset: str
    fold: int
    seed: int
    done: dict[str, runs.Done]
    right: dict[str, np.ndarray]

    @property
    def minutes(self) -> float:
        """Of all its stages, those that it shares with another budget too: what it costs by itself."""
        return sum(done.manifest["seconds"] for done in self.done.values()) / 60


def finished(jobs: list[plan.Job]) -> dict[tuple[str, int], dict[str, runs.Done]]:
    """(fold's name, seed) -> its stages, where every stage of the plan has a result that stands."""
    found = report.finished(jobs)
    return {key: {job.stage: done for job, done in mine.items()} for key, mine in found.items() if all(mine.values())}


def load(dataset: str, fold: int, seed: int, done: dict[str, runs.Done], images: Path) -> Cell:
    """A cell from its stages.

    Parameters
    ----------
    images : the fold's npz file, for the labels of its held-out images

    Raises
    ------
    InputError
        A stored accuracy is not that of the logits beside it.
    """
    labels = dataset_file.read_npz(images)["test_labels"]
    right, students = {}, {}
    if "distillation" in done:
        stored = done["distillation"].npz("logits.npz")
        others = {key.removeprefix("test_"): value for key, value in stored.items() if key.startswith("test_")}
        students = {"cas": stored["test"], **others}
    if "teacher" in done:
        right = intervals.right(labels, done["teacher"].npz("logits.npz")["test"], students)
    _check(done, right)
    return Cell(dataset, fold, seed, done, right)


def _check(done: dict[str, runs.Done], right: dict[str, np.ndarray]) -> None:
    """Refuse logits that do not give the accuracies that their notebook stored."""
    told = []
    if "teacher" in done:
        found = done["teacher"].metrics
        told += [("teacher", "real", found["test_accuracy"])]
        told += [("teacher", "ensemble", found["ensemble_test_accuracy"])]
    if "distillation" in done:
        found = done["distillation"].metrics
        told += [("distillation", "cas", found["cas"])]
        told += [("distillation", name, row["cas"]) for name, row in found["ablation"].items() if name in right]

    for stage, name, accuracy in told:
        if abs(right[name].mean() - accuracy) > EXACT:
            here = f"{name} {accuracy:.4f}, but its logits give {right[name].mean():.4f}"
            raise InputError(f"{done[stage].path}: metrics.json says {here}; delete this folder and run again")


def measure(cell: Cell, metric: str) -> np.ndarray | None:
    """A metric of a cell: numbers per held-out image [N], or one number [1]; None where the cell has no such.

    metric : a classifier ("cas"), the difference of two ("cas-real"), "minutes", or a number of a stage's
        metrics.json ("distillation.teacher_agreement")
    """
    if metric == "minutes":
        return np.array([cell.minutes])
    if is_per_image(metric):
        name, _, other = metric.partition("-")
        if name not in cell.right or (other and other not in cell.right):
            return None
        return cell.right[name] - cell.right[other] if other else cell.right[name]

    # A path into metrics.json
    stage, *keys = metric.split(".")
    value = cell.done[stage].metrics if stage in cell.done else None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return np.array([float(value)]) if isinstance(value, (int, float)) else None


def is_per_image(metric: str) -> bool:
    """Whether it is a share of images, so that more is better and 100 times it are percent."""
    return metric != "minutes" and "." not in metric


def averaged(
    cells: Iterable[Cell], metric: str, minus: Iterable[Cell] | None = None
) -> dict[str, dict[int, np.ndarray]]:
    """A metric per set and fold, its seeds averaged; with `minus`, less that of the cells of the same fold and seed."""
    other = {(cell.dataset, cell.fold, cell.seed): measure(cell, metric) for cell in minus or ()}
    found: dict[str, dict[int, list[np.ndarray]]] = {}
    for cell in cells:
        key, value = (cell.dataset, cell.fold, cell.seed), measure(cell, metric)
        if value is None or (minus is not None and other.get(key) is None):
            continue
        value = value if minus is None else value - other[key]
        found.setdefault(cell.dataset, {}).setdefault(cell.fold, []).append(value)
    return {name: {k: np.mean(values, axis=0) for k, values in folds.items()} for name, folds in found.items()}
