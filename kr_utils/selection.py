"""Checkpoint Optimisation and Tuning: every candidate is scored by a short Student's CAS on real validation images.

Nothing in this file ever sees a test split. FID is not used: it does not predict CAS (Ravuri & Vinyals 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch.nn.functional as F

from kr_utils import classifier, generator, resume, sampling, seeds
from kr_utils.data import Split
from kr_utils.recycling import Knobs, SyntheticStream, train_student


def score(
    model: generator.Generator,
    knobs: Knobs,
    val: Split,
    *,
    teacher: classifier.ResNet,
    recipe: dict,
    counts: np.ndarray,
    epochs: int,
    period: int,
    students: int,
    augment: classifier.Augmentation,
    seed: int,
    device: str = "cpu",
    state: resume.State | None = None,
) -> dict:
    """Validation CAS of short GKD Students trained on this Generator's images.

    Parameters
    ----------
    val : real validation images
    students : independent Students (own initialisation and own synthetic images) to average over;
        the same seeds serve every candidate, so that candidates differ in the images' quality only
    period : regeneration period in epochs ("fast" searching in GaFi: 10)
    state : where each Student, in training or scored, is saved; None saves nothing

    Returns
    -------
    dict with the knobs, and cas (mean over Students), cas_min, cas_max, val_loss, accepted (share
    of drawn images that pass the filter), cost (network evaluations per kept image), correct
    (per validation image, the share of Students that classify it correctly)
    """

    def one(k: int, training: resume.State | None) -> dict:
        stream = SyntheticStream(
            model,
            knobs,
            counts,
            seed=seeds.derive(seed, "selection", k),
            period=period,
            teacher=teacher,
            device=device,
            state=training,
        )
        student, _ = train_student(
            recipe,
            stream,
            val,
            classes=len(counts),
            epochs=epochs,
            augment=augment,
            seed=seeds.derive(seed, "short student", k),
            teacher=teacher,
            device=device,
            state=training,
        )
        logits, labels = classifier.predict(student, val.images).cpu(), val.labels.cpu()
        drawn = {"accepted": list(stream.accepted.values()), "draws": list(stream.draws.values())}
        return {"correct": logits.argmax(1) == labels, "loss": F.cross_entropy(logits, labels).item(), **drawn}

    scored = []
    for k in range(students):
        mine = state and state.part(f"student{k}")
        scored.append(resume.once(mine, lambda k=k, mine=mine: one(k, mine and mine.part("training"))))
    correct = [student["correct"].numpy() for student in scored]
    losses = [student["loss"] for student in scored]
    accepted, draws = ([x for student in scored for x in student[key]] for key in ("accepted", "draws"))
    each = np.mean(correct, axis=1)
    return {
        **knobs.__dict__,
        "cas": float(each.mean()),
        "cas_min": float(each.min()),
        "cas_max": float(each.max()),
        "val_loss": float(np.mean(losses)),
        "accepted": float(np.mean(accepted)),
        "cost": sampling.evaluations(knobs.sampler()) * float(np.mean(draws)),
        "correct": np.mean(correct, axis=0),
    }


def best(rows: list[dict]) -> dict:
    """The row with the highest CAS; ties go to the lower validation loss."""
    return max(rows, key=lambda row: (round(row["cas"], 9), -row["val_loss"]))


def gap_to(top: dict, row: dict) -> tuple[float, float]:
    """How far `row` is below `top` in CAS, and that difference's standard error over validation images."""
    difference = top["correct"] - row["correct"]
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)


def cheapest(rows: list[dict]) -> dict:
    """The cheapest row within one (paired) standard error of the best: the one-standard-error rule."""
    top = best(rows)
    good = [row for row in rows if gap_to(top, row)[0] <= gap_to(top, row)[1] or row is top]
    return min(good, key=lambda row: (row["cost"], -row["cas"], row["val_loss"]))


def tune(
    evaluate: Callable[[Knobs], dict],
    *,
    guidance: Iterable[float],
    steps: Iterable[int],
    churn: Iterable[float],
    threshold: Iterable[float],
    on_row: Callable[[dict], None] | None = None,
) -> tuple[Knobs, list[dict]]:
    """Search the generation knobs: all of guidance x steps, then churn, then the filter threshold.

    The last two are searched around the setting chosen so far (`cheapest`), which keeps the number of
    Students linear in the number of values.

    Parameters
    ----------
    evaluate : knobs -> a row as `score` makes it, on validation images

    Returns
    -------
    chosen knobs, and every row that was scored
    """
    rows: list[dict] = []

    def add(knobs: Knobs) -> None:
        if not any(_knobs(row) == knobs for row in rows):
            rows.append(evaluate(knobs))
            if on_row:
                on_row(rows[-1])

    for scale in guidance:
        for count in steps:
            add(Knobs(guidance=float(scale), steps=int(count)))
    for name, values in (("churn", churn), ("threshold", threshold)):
        here = _knobs(cheapest(rows))
        for value in values:
            add(Knobs(**{**here.__dict__, name: float(value)}))
    return _knobs(cheapest(rows)), rows


def _knobs(row: dict) -> Knobs:
    return Knobs(row["guidance"], row["steps"], row["churn"], row["threshold"])
