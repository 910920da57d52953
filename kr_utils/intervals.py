"""Intervals over the seeds and the images of one dataset, from what its runs stored of every single image.

The seeds of a dataset share its images, so that a drawn image counts in each of them (`metrics.two_way`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kr_utils import metrics

Run = Mapping[str, Any]  # stage -> its finished result, of one dataset and seed
Interval = tuple[float, float, float]  # mean over seeds, low, high

SCORES = "scores.npz"  # of 06: the attacks' scores and the test labels


def right(labels: np.ndarray, real: np.ndarray, students: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Method -> share of its classifiers that are right about each image [N]: 0 or 1 where it has one.

    `real` is the mean over the real classifiers, `ensemble` what they say together; the others are the Students.

    Parameters
    ----------
    labels : [N]; real : logits of the real classifiers [M, N, K]; students : name -> logits [N, K]
    """
    logits = {"ensemble": metrics.ensemble(real), **students}
    hits = {method: (z.argmax(1) == labels).astype(float) for method, z in logits.items()}
    return {"real": (real.argmax(2) == labels).mean(0), **hits}


def of_run(run: Run) -> dict[str, np.ndarray]:
    """As `right`, of what a run stored of the test images; `gkd` is the ablation's soft_regenerated."""
    stored, ablation = run["distillation"].npz("logits.npz"), run["distillation"].metrics["ablation"]
    students = {name: stored[f"test_{name}"] for name in ablation if name != "soft_regenerated"}
    labels, real = run["membership"].npz(SCORES)["labels_test"], run["teacher"].npz("logits.npz")["test"]
    return right(labels, real, {"gkd": stored["test"], **students})


def of_accuracies(runs: Sequence[Run]) -> dict[str, dict[str, Interval]]:
    """Method -> "accuracy", "gap" (to one real classifier), "ensemble_gap", and of Students "gkd_minus" (GKD minus it)
    and "minus_hard" (it minus hard_regenerated), each with its interval over seeds and test images.

    runs : all seeds of a dataset, with the same methods
    """
    # Seeds by images
    found = [of_run(run) for run in runs]
    hits = {method: np.stack([each[method] for each in found]) for method in found[0]}
    real, together, gkd = (hits[method] for method in ("real", "ensemble", "gkd"))

    out = {}
    for method, own in hits.items():
        values = {"accuracy": own, "gap": own - real, "ensemble_gap": own - together}
        if method not in ("real", "ensemble"):
            values |= {"gkd_minus": gkd - own, "minus_hard": own - hits["hard_regenerated"]}
        out[method] = {name: metrics.two_way(v) for name, v in values.items()}
    return out


def of_attacks(runs: Sequence[Run]) -> dict[str, dict[str, Interval]]:
    """ "real" and "gkd" -> the loss attack's "mia_auc" (train-test), "mia_val_test_auc" and "mia_train_val_auc"; of
    "gkd" "mia_minus_real" and the attack on the images, "images_auc" and its differences to split control and Student.

    runs : all seeds of a dataset
    """
    stored = [run["membership"].npz(SCORES) for run in runs]

    def scores(name: str, *sides: str) -> tuple[np.ndarray, ...]:
        return tuple(np.stack([arrays[f"{name}_{side}"] for arrays in stored]) for side in sides)

    # The classifiers
    out = {}
    for method, who in (("real", "real_loss"), ("gkd", "student_loss")):
        out[method] = {
            "mia_auc": metrics.two_way_auc(scores(who, "in", "out")),
            "mia_val_test_auc": metrics.two_way_auc(scores(who, "val", "out")),
            "mia_train_val_auc": metrics.two_way_auc(scores(who, "in", "val")),
        }
    real, student = scores("real_loss", "in", "out"), scores("student_loss", "in", "out")

    # The synthetic images
    images, fewer, control = (scores(name, "in", "out") for name in ("images_nearest", "images_fewer", "split_control"))
    out["gkd"] |= {
        "mia_minus_real": metrics.two_way_auc(student, real),
        "images_auc": metrics.two_way_auc(images),
        "images_minus_control": metrics.two_way_auc(fewer, control),
        "images_minus_student": metrics.two_way_auc(images, student),
    }
    return out
