"""Checkpoint Optimisation and Tuning: every candidate is scored by a short Student's CAS on real validation images.

Nothing in this file ever sees a test split. FID is not used: it does not predict CAS (Ravuri & Vinyals 2019).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from kr_utils import beside, classifier, generator, resume, sampling, seeds
from kr_utils.data import Split
from kr_utils.recycling import Knobs, SyntheticStream

PER_IMAGE = ("correct", "loss")  # what a candidate's row has per validation image


def short_student(
    job: tuple[generator.Generator, Knobs, int],
    val: Split,
    training: classifier.Training,
    *,
    counts: np.ndarray,
    period: int,
    seed: int,
    device: str = "cpu",
    state: resume.State | None = None,
) -> dict:
    """Train one short GKD Student (Generator, knobs, number k).

    Validation images score it once, at its end: the best of its epochs on few of them would be a lucky one.

    Parameters
    ----------
    val : real validation images
    training : of the Student; its Teacher labels the images, and filters them where the knobs ask for it; the mixture
        of labels is that of the knobs
    counts : images per class and synthetic set, int [K]; period : epochs between regenerations
    state : where the training is saved

    Returns
    -------
    dict with correct (bool) and loss (cross-entropy), tensors with a value per validation image; accepted and
    draws, lists with a value per set
    """
    # Its own stream of images and its own initial weights
    model, knobs, k = job
    stream_seed, own = seeds.derive(seed, "selection", k), seeds.derive(seed, "short student", k)
    how = {"seed": stream_seed, "period": period, "teacher": training.teacher, "state": state}
    stream = SyntheticStream(model, knobs, counts, **how)
    sizes = (len(counts), val.images.shape[1], training.recipe.width, training.recipe.depth)
    student = classifier.build(*sizes, own).to(device)
    classifier.fit(student, stream, None, replace(training, **knobs.labels()), seed=own, state=state)

    # Score on validation
    labels = val.labels.cpu()
    logits = classifier.predict(student, val.images).cpu()
    found = {"correct": logits.argmax(1) == labels, "loss": F.cross_entropy(logits, labels, reduction="none")}
    return found | {"accepted": list(stream.accepted.values()), "draws": list(stream.draws.values())}


def summarise(knobs: Knobs, students: list[dict]) -> dict:
    """One row per candidate.

    Returns
    -------
    dict with the knobs, and cas (mean over Students), cas_min, cas_max, val_loss, accepted (share
    of drawn images that pass the filter), cost (network evaluations per kept image), and what
    `PER_IMAGE` names: correct (the share of Students that are right) and loss (their mean)
    """
    # Per validation image, over Students
    correct = torch.stack([student["correct"] for student in students]).numpy()
    loss = torch.stack([student["loss"] for student in students]).double().mean(0).numpy()
    each = correct.mean(axis=1)

    # What the filter let through, and what an image cost
    accepted = float(np.mean([value for student in students for value in student["accepted"]]))
    draws = float(np.mean([value for student in students for value in student["draws"]]))
    return {
        **knobs.__dict__,
        "cas": float(each.mean()),
        "cas_min": float(each.min()),
        "cas_max": float(each.max()),
        "val_loss": float(loss.mean()),
        "accepted": accepted,
        "cost": sampling.evaluations(knobs.sampler()) * draws,
        "correct": correct.mean(axis=0),
        "loss": loss,
    }


class Search:
    """Scores candidates (Generator file, knobs) by `students` short Students each; a context manager.

    The same seeds serve every candidate, so that candidates differ in the images' quality only. On the CPU each Student
    has one thread, as many at a time as torch may use threads, so that the scores do not depend on how many that is;
    on a GPU one trains after the other.

    Parameters
    ----------
    val : real validation images
    state : where Students, in training or scored, are saved; None saves nothing
    shared : the other arguments of `short_student`
    """

    def __init__(self, val: Split, *, students: int, state: resume.State | None = None, **shared):
        self.students = students
        self.workers = beside.Workers((val, shared, state), shared.get("device", "cpu"))

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *error) -> None:
        self.workers.__exit__(*error)

    def close(self) -> None:
        """End the worker processes, if there are any; the next call starts new ones."""
        self.workers.close()

    def __call__(
        self, candidates: Sequence[tuple[Path, Knobs]], on_row: Callable[[dict], None] | None = None
    ) -> list[dict]:
        """One row per candidate, as `summarise` makes it, in order; `on_row` gets each when it is known."""
        jobs = [(str(path), knobs, k) for path, knobs in candidates for k in range(self.students)]
        found, rows = [], []
        for result in self.workers(_train, jobs, ended=self._scored):
            found.append(result)
            if len(found) == self.students * (len(rows) + 1):
                rows.append(summarise(candidates[len(rows)][1], found[-self.students :]))
                if on_row:
                    on_row(rows[-1])
        return rows

    def _scored(self, job: tuple) -> bool:
        """Whether a Student is saved with its scores."""
        state = self.workers.shared[2]
        return bool(state) and bool(_part(state, job).files())


def _part(state: resume.State, job: tuple[str, Knobs, int]) -> resume.State:
    """Where a Student is saved."""
    path, knobs, k = job
    return state.part(f"{Path(path).stem} {knobs} student{k}")


def _train(given: tuple, job: tuple, tell: Callable) -> dict:
    """The scores of a Student, read back where they are saved; `given` is what all of a search share."""
    val, shared, state = given
    path, knobs, k = job
    saved = state and _part(state, job)

    def student() -> dict:
        model = generator.load(path, shared.get("device", "cpu"))
        return short_student((model, knobs, k), val, state=saved and saved.part("training"), **shared)

    def scored(student: dict) -> bool:
        """Whether what is saved are the scores of a Student on these validation images."""
        known = {"correct", "loss", "accepted", "draws"} == student.keys() and student["correct"].dtype == torch.bool
        rates = [*student["accepted"], *student["draws"]]
        fits = student["correct"].shape == student["loss"].shape == (len(val),)
        return known and fits and all(isinstance(rate, float) for rate in rates)

    return resume.once(saved, student, scored)


def best(rows: list[dict]) -> dict:
    """Of the rows within two (paired) standard errors of the highest CAS, the one with the lowest validation loss.

    78 images cannot tell accuracies two points apart, and chance would choose. The loss says more of each image than
    right or wrong.
    """
    return min(_as_good(rows), key=lambda row: (row["val_loss"], -row["cas"]))


def cheapest(rows: list[dict]) -> dict:
    """The cheapest of the rows whose CAS is as good as `best` asks, and whose loss is within one error of its."""
    top = best(rows)
    good = [row for row in _as_good(rows) if row is top or _within(1, row["loss"] - top["loss"])]
    return min(good, key=lambda row: (row["cost"], row["val_loss"], -row["cas"]))


def gap_to(top: dict, row: dict) -> tuple[float, float]:
    """How far `row` is below `top` in CAS, and that difference's standard error over validation images."""
    difference = top["correct"] - row["correct"]
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)


def _as_good(rows: list[dict]) -> list[dict]:
    top = max(rows, key=lambda row: (round(row["cas"], 9), -row["val_loss"]))
    return [row for row in rows if row is top or _within(2, top["correct"] - row["correct"])]


def _within(errors: int, worse: np.ndarray) -> bool:
    """Whether values per image are on average not above zero by more than so many standard errors."""
    return bool(worse.mean() <= errors * worse.std(ddof=1) / len(worse) ** 0.5)


def tune(
    evaluate: Callable[[list[Knobs]], list[dict]],
    rounds: Iterable[dict[str, Sequence]],
    start: Knobs,
    rows: Sequence[dict] = (),
) -> tuple[Knobs, list[dict]]:
    """Search the knobs, round by round: all combinations of a round's values around the setting chosen so far.

    Chosen is what `cheapest` says. Rounds keep the number of Students linear in the number of values.

    Parameters
    ----------
    evaluate : several knobs -> a row for each as `summarise` makes it, on validation images
    rounds : field of `Knobs` -> values, one dict a round
    start : the setting around which the first round is searched, where there are no rows yet
    rows : of a search before this one

    Returns
    -------
    chosen knobs, and every row that was scored, the earlier ones first
    """
    rows = list(rows)
    for values in rounds:
        here = knobs_of(cheapest(rows)) if rows else start
        around = [replace(here, **dict(zip(values, some))) for some in itertools.product(*values.values())]
        seen = [knobs_of(row) for row in rows]
        rows += evaluate([knobs for knobs in dict.fromkeys(around) if knobs not in seen])
    return knobs_of(cheapest(rows)), rows


def knobs_of(row: dict) -> Knobs:
    """The settings that a row scored."""
    return Knobs(**{field.name: row[field.name] for field in fields(Knobs)})
