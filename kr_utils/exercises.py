"""Exercises: one function per question, which says in a line whether an answer is right, and if not, what to think of.

A check takes any answer without an error, knows the likely mistakes, and prints no truth. Teachers find the answers
in docs/teaching.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

UNANSWERED = "Not answered yet: put your answer in place of None, and run both cells."
RIGHT = "Right!"
CLOSE = 1e-9  # two values that differ by rounding only


# ------------------------------------------------------------------ any answer


def number(answer: object) -> float | str:
    """An answer as a finite number, or in words why it is none."""
    if answer is None or answer is Ellipsis or (isinstance(answer, str) and not answer.strip()):
        return UNANSWERED
    if isinstance(answer, str):
        return "Not yet: that is a text; write the number without quotes."
    if isinstance(answer, (bool, np.bool_)):
        return "Not yet: that is True or False; the question asks for a number."

    # One number may come in an array or a tensor; several may not
    try:
        values = np.asarray(answer.detach().cpu() if hasattr(answer, "detach") else answer)
        if values.size != 1:
            return f"Not yet: those are {values.size} values; the question asks for one number."
        value = float(values.reshape(()) if values.dtype.kind in "biuf" else float(answer))
    except Exception:  # whatever somebody can put into a variable
        return f"Not yet: a value of type {type(answer).__name__} is no number."
    return value if math.isfinite(value) else "Not yet: that is no finite number; look for a division by zero."


def judge(answer: object, truth: float, mistakes: Mapping[str, float], tolerance: float, unit: str = "") -> str:
    """The verdict on a number.

    Parameters
    ----------
    mistakes : hint -> what somebody gets who makes this mistake; one that gives the truth too is none
    tolerance : how far from the truth still counts, unless a mistake is as near; from a mistake in proportion
    unit : "fraction" or "points" (of a hundred), which are mixed up easily; "" is a number of anything else
    """
    value = number(answer)
    if isinstance(value, str):
        return value
    off = abs(value - truth)
    wrong = {hint: abs(value - other) for hint, other in mistakes.items() if abs(other - truth) > CLOSE}
    nearest = min(wrong, key=wrong.get, default=None)
    if off <= tolerance + CLOSE and (nearest is None or off < wrong[nearest]):
        return RIGHT
    share = abs(mistakes[nearest] / truth) if nearest is not None and truth else 1
    if nearest is not None and wrong[nearest] <= share * tolerance + CLOSE:
        return f"Not yet: {nearest}."
    units = {"fraction": (100, "that is in percent; the question asks for a fraction")}
    units |= {"points": (0.01, "that is a fraction; the question asks for points")}
    factor, hint = units.get(unit, (1, ""))
    if hint and abs(truth) > CLOSE and abs(value - factor * truth) <= factor * tolerance + CLOSE:
        return f"Not yet: {hint}."
    return "Not yet: too large." if value > truth else "Not yet: too small."


def choose(answer: object, right: Iterable[str], known: Iterable[str], hints: Mapping[str, str] | None = None) -> str:
    """The verdict on one of several names.

    Parameters
    ----------
    right : names that are right; known : all that may be answered; hints : wrong name -> what to think of
    """
    if answer is None or answer is Ellipsis or (isinstance(answer, str) and not answer.strip()):
        return UNANSWERED
    known = list(known)
    if not isinstance(answer, str):
        return f"Not yet: give one name, in quotes, such as {known[0]!r}."
    given = answer.strip()
    match = next((name for name in known if name.casefold() == given.casefold()), None)
    if match is None:
        return f"Not yet: {given[:40]!r} is none of: {', '.join(known)}."
    return RIGHT if match in set(right) else f"Not yet: {(hints or {}).get(match, 'look again at the numbers above')}."


def pair(answer: object, truth: tuple[float, float], mistakes: Mapping[str, tuple[float, float]]) -> str:
    """The verdict on two whole numbers."""
    if answer is None or answer is Ellipsis or (isinstance(answer, str) and not answer.strip()):
        return UNANSWERED
    try:
        first, second = list(answer.tolist() if hasattr(answer, "tolist") else answer)
    except Exception:  # not two of anything
        return "Not yet: the question asks for two numbers, in brackets with a comma between them."
    for value in (first, second):
        if isinstance(number(value), str):
            return number(value)
    given = (number(first), number(second))
    if given == tuple(map(float, truth)):
        return RIGHT
    hint = next((hint for hint, other in mistakes.items() if given == tuple(map(float, other))), "")
    return f"Not yet: {hint or 'count the evaluations of one step first'}."


# ------------------------------------------------------------------ 00: the dataset


def rarest_share(answer: object, counts: Sequence[int]) -> None:
    """00: the share of the rarest class; counts : images of each class."""
    counts = np.asarray(counts)
    total, shares = counts.sum(), np.sort(counts) / counts.sum()
    mistakes = {
        "that is the share of the most frequent class": shares[-1],
        "that is what each class would have if all were equally frequent": 1 / len(counts),
        "that is a number of images; divide it by the number of all images": counts.min(),
        "the smallest count is divided by the largest one; divide it by all images": counts.min() / counts.max(),
        "that is the share of another class": shares[shares > shares[0]].min(initial=1.0),
    }
    print(judge(answer, float(counts.min() / total), mistakes, 0.0006, "fraction"))


def mean_recall(answer: object, counts: Sequence[int]) -> None:
    """00: the mean over classes of the recall of always saying the most frequent class; counts : of test images."""
    counts = np.asarray(counts)
    mistakes = {
        "that is the accuracy; the recall is counted class by class, and then averaged over classes": (
            counts.max() / counts.sum()
        ),
        "it is never right about all classes but one, yet always about that one": 0.0,
        "one class has the recall 1; what have the others": 1.0,
    }
    print(judge(answer, 1 / len(counts), mistakes, 0.0006, "fraction"))


# ------------------------------------------------------------------ 01: the Teachers


def hardest_class(answer: object, recalls: Sequence[float]) -> None:
    """01: the index of a class with the lowest recall."""
    value = number(answer)
    if isinstance(value, str):
        print(value)
    elif value != int(value) or not 0 <= value < len(recalls):
        print(f"Not yet: give the index of a class, a whole number from 0 to {len(recalls) - 1}.")
    elif recalls[int(value)] == min(recalls):
        print(RIGHT)
    elif recalls[int(value)] == max(recalls):
        print("Not yet: that is the easiest class; argmax finds the largest, argmin the smallest.")
    else:
        print("Not yet: another class has a lower recall.")


def standard_error(answer: object, accuracy: float, images: int) -> None:
    """01: of how many points of an accuracy on so many images are luck: one standard error, sqrt(p (1 - p) / n)."""
    truth = 100 * math.sqrt(accuracy * (1 - accuracy) / images)
    mistakes = {
        "take the square root": 100 * accuracy * (1 - accuracy) / images,
        "that is the error of one image; divide by the number of images before you take the root": (
            100 * math.sqrt(accuracy * (1 - accuracy))
        ),
        "that is the half of a 95 % interval, two standard errors": 1.96 * truth,
    }
    print(judge(answer, truth, mistakes, 0.03 * truth, "points"))


# ------------------------------------------------------------------ 02: the Generator


def evaluations(answer: object) -> None:
    """02: network evaluations of an image with 10 steps, at guidance 2 and at 1."""
    mistakes = {
        "with guidance a step needs both terms of the formula": (10, 10),
        "the other way round": (10, 20),
        "at scale 1 the two terms without a class cancel": (20, 20),
        "the scale is a factor in the formula, not a number of evaluations more": (30, 10),
        "that is per step; there are 10 of them": (2, 1),
        "that is with 12 steps, as in the pictures above; the question is about 10": (24, 12),
    }
    print(pair(answer, (20, 10), mistakes))


def skip_share(answer: object) -> None:
    """02: c_skip where the noise is as large as the data's spread."""
    mistakes = {
        "that is c_skip without noise, where nothing is left to do": 1.0,
        "that is where the noise drowns everything": 0.0,
        "do not take the square root; only c_out has one": 1 / math.sqrt(2),
    }
    print(judge(answer, 0.5, mistakes, 0.005, "fraction"))


# ------------------------------------------------------------------ 03: the checkpoints


def cost_of_first(answer: object, rows: Sequence[Mapping], best: Mapping) -> None:
    """03: points of validation CAS between the chosen and the first checkpoint."""
    truth = 100 * (best["cas"] - rows[0]["cas"])
    mistakes = {
        "the other way round: what would the first one have cost": -truth,
        "that is the distance to the highest CAS; compare with the chosen checkpoint": (
            100 * (max(row["cas"] for row in rows) - rows[0]["cas"])
        ),
        "that is the distance to the last checkpoint": 100 * (rows[-1]["cas"] - rows[0]["cas"]),
    }
    print(judge(answer, truth, mistakes, 0.05, "points"))


def images_needed(answer: object, accuracy: float) -> None:
    """03: images on which two standard errors of an accuracy are one point."""
    # n = p (1 - p) (2 / 0.01)^2
    truth = accuracy * (1 - accuracy) * (2 / 0.01) ** 2
    mistakes = {
        "that is for one standard error; the question asks for two": truth / 4,
        "the error falls with the square root of the number of images": math.sqrt(truth),
        "a point is 0.01, not 1": truth / 1e4,
        "twice the error needs four times the images, not twice": truth / 2,
    }
    print(judge(answer, truth, mistakes, 0.02 * truth + 1))


# ------------------------------------------------------------------ 04: the knobs


def cost_with_filter(answer: object) -> None:
    """04: evaluations of a kept image, with 12 steps, guidance 2, and one image in four drawn a second time."""
    mistakes = {
        "that is without the filter": 24,
        "guidance needs two evaluations a step": 15,
        "only one image in four is drawn a second time, not each": 48,
        "one in four is a quarter more, not a third": 32,
        "the filter makes an image dearer, not cheaper": 18,
    }
    print(judge(answer, 30, mistakes, 1e-6))


def which_setting(answer: object) -> None:
    """04: of A (8 evaluations, CAS 93.0) and B (16, CAS 93.5), with an error of 0.4 points, what the rule chooses."""
    hints = {"B": "half a point is less than two standard errors, so both count as good, and then the cost decides"}
    print(choose(answer, ["A"], ["A", "B"], hints))


# ------------------------------------------------------------------ 05: the Student


def brought_more(answer: object, ablation: Mapping[str, Mapping]) -> None:
    """05: which of "soft" and "regenerated" raised the CAS more over hard labels on fixed images; both if neither."""
    base = ablation["hard_fixed"]["cas"]
    gain = {
        "soft": ablation["soft_fixed"]["cas"] - base,
        "regenerated": ablation["hard_regenerated"]["cas"] - base,
    }
    right = [name for name in gain if gain[name] >= max(gain.values()) - CLOSE]
    hints = dict.fromkeys(gain, "compare soft_fixed and hard_regenerated, each with hard_fixed")
    print(choose(answer, right, gain, hints))


def flat_entropy(answer: object, classes: int) -> None:
    """05: the entropy of soft labels at a very high temperature."""
    mistakes = {
        "that is the entropy of a label that is certain, at a temperature near 0": 0.0,
        "that is the probability of each class; the entropy is -sum p log p": 1 / classes,
        "take the natural logarithm": math.log2(classes),
        "minus the sum: an entropy is not negative": -math.log(classes),
        "that is the number of classes; take its logarithm": classes,
    }
    print(judge(answer, math.log(classes), mistakes, 0.01))


# ------------------------------------------------------------------ 06: the attacks


def found_members(answer: object, rate: float | None) -> None:
    """06: of 1,000 members, how many an attack finds; rate : its TPR at 1 % FPR, None if it cannot be estimated."""
    if rate is None:
        print("Trick question: with fewer than 100 non-members a rate of 1 % cannot be estimated.")
        return
    mistakes = {
        "that is the number of false accusations among 1,000 outsiders": 10,
        "that is a rate; multiply it by the number of members": rate,
        "that is a percentage; there are 1,000 members, not 100": 100 * rate,
    }
    print(judge(answer, 1000 * rate, mistakes, 0.5))


def share_of_members(answer: object, rate: float) -> None:
    """06: of those accused at 1 % FPR, the share of members, where 300 of 100,000 people are members."""
    hits, alarms = 300 * rate, 0.01 * 99_700
    mistakes = {
        "that is the share of members that are found; the question is how many of the accused are members": rate,
        "that takes as many outsiders as members; count the people on each side": rate / (rate + 0.01),
        "that is the share of the accused that are not members": alarms / (hits + alarms),
        "that is the share of members among all people, before any attack": 0.003,
    }
    truth = hits / (hits + alarms)
    print(judge(answer, truth, mistakes, 0.02 * truth + 1e-6, "fraction"))


# ------------------------------------------------------------------ 07: a shadow


def other_pipelines(answer: object, pipelines: int) -> None:
    """07: of the other pipelines, how many saw an image that the attacked one saw."""
    half = pipelines // 2
    mistakes = {
        "that counts the attacked pipeline, too": half,
        "that is half of the others; but the halves are cut so that each image is in exactly half of all": (
            (pipelines - 1) / 2
        ),
        "those are all the others; each image is in half of the pipelines": pipelines - 1,
        "those are all pipelines; each image is in half of them": pipelines,
        "the attacked pipeline is one, not two": half - 2,
    }
    print(judge(answer, half - 1, mistakes, 0))


# ------------------------------------------------------------------ 08: the audit


def twice_the_pipelines(answer: object, detectable: float) -> None:
    """08: the AUC that could be seen with twice the pipelines."""
    # 0.5 + (detectable - 0.5) / sqrt(2)
    off = detectable - 0.5
    truth = 0.5 + off / math.sqrt(2)
    mistakes = {
        "twice the decisions shrink an error by a square root, not by two": 0.5 + off / 2,
        "more decisions do help": detectable,
        "that is the distance from guessing; what does guessing have": off / math.sqrt(2),
        "what shrinks is the distance from guessing, not the AUC itself": detectable / math.sqrt(2),
        "it becomes smaller, not larger": 0.5 + off * math.sqrt(2),
    }
    print(judge(answer, truth, mistakes, 0.002))


# ------------------------------------------------------------------ 09: the release


def thrown_out(answer: object, released: Sequence[float], training: Sequence[float], test: Sequence[float]) -> None:
    """09: how many released images lie nearer to a training image than any of them lies to a test image.

    released : distance of each released image to its nearest training image; training, test : of each training and
    test image to its nearest released one
    """
    released, training, nearest = np.asarray(released), np.asarray(training), np.min(test)
    truth = int((released < nearest).sum())
    mistakes = {
        "those are training images; one released image may be the nearest of several, or of none": (
            int((training < nearest).sum())
        ),
        "those are the ones that would stay": len(released) - truth,
        "that is a share; the question asks for a number of images": truth / len(released),
        "compare with the smallest distance of a test image, not with their median": (
            int((released < np.median(test)).sum())
        ),
    }
    print(judge(answer, truth, mistakes, 0))


# ------------------------------------------------------------------ 10: the comparison


def closest_to_gkd(answer: object, means: Mapping[str, float]) -> None:
    """10: the Student whose mean accuracy is nearest to GKD's; means : method -> accuracy over all datasets."""
    others = {name: abs(value - means["gkd"]) for name, value in means.items() if name != "gkd"}
    right = [name for name, off in others.items() if off <= min(others.values()) + CLOSE]
    hints = {"gkd": "that is GKD itself; which other one is nearest"}
    hints |= dict.fromkeys(
        (name for name, off in others.items() if off == max(others.values())), "that is the farthest"
    )
    print(choose(answer, right, means, hints))


def shown_effect(answer: object, intervals: Mapping[str, tuple[float, float, float]]) -> None:
    """10: an idea whose interval does not cross zero, or "none"; intervals : idea -> (difference, low, high)."""
    shown = [name for name, (_, low, high) in intervals.items() if low > 0 or high < 0]
    hints = {"none": "the whiskers of at least one idea stay on one side of zero"}
    hints |= {name: "its whisker crosses zero, so nothing is shown" for name in intervals if name not in shown}
    print(choose(answer, shown or ["none"], [*intervals, "none"], hints))
