"""The mean of paired differences over sets and folds, with an interval that knows images, folds and training luck."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import stats

Values = Mapping[str, Mapping[int, np.ndarray]]  # set -> fold -> numbers [N], one per held-out image, or [1]


def interval(values: Values, level: float = 0.95) -> tuple[float, float, float]:
    """Mean over sets (each counts alike) of the mean over folds, and its interval.

    The mean of a fold is off for two reasons. The N held-out images are a sample: their own spread says by how much,
    with hundreds of images well enough for the normal distribution. And training was luck (order, initial weights,
    which images were held out): what the F folds of a set differ by *more* than their images explain, which only
    sum(F - 1) degrees of freedom know, so Student's t. The half width is the root of both squares,

        half^2 = z^2 V + t^2 max(0, B - V),   V = sum_s sum_f v_sf / F_s^2 / S^2,   B = sum_s b_s / F_s / S^2,

    where v_sf is the variance of a fold's mean over its images, b_s the variance of the means of a set's F_s folds, and
    S the number of sets. In simulated comparisons with three folds (tests/test_compare.py) this covers the truth in 91
    to 96 % of cases; a bootstrap of folds covers it in 74 to 86 %, of folds and the images in them in 87 to 98 %.

    It speaks of these sets' images. Folds share half of their training images, so that another sample of patients may
    differ by more; no interval from one cross-validation can tell (Bengio & Grandvalet 2004). Seeds are averaged
    before. With one fold per set only the images are known, with one number per fold only the folds.

    Returns
    -------
    mean, low, high; (mean, nan, nan) where one number is all that is known of a set
    """
    means = {name: np.array([fold.mean() for fold in folds.values()]) for name, folds in values.items() if folds}
    mean = float(np.mean([each.mean() for each in means.values()])) if means else float("nan")

    # Variance of the mean: that of the images, that between folds, and how well the latter is known
    images = between = 0.0
    for name, each in means.items():
        weight = 1 / len(each) ** 2 / len(means) ** 2
        spread = sum(fold.var(ddof=1) / len(fold) for fold in values[name].values() if len(fold) > 1)
        images += weight * spread
        between += weight * (len(each) * each.var(ddof=1) if len(each) > 1 else spread)
    freedom = sum(len(each) - 1 for each in means.values())
    if any(len(folds) == 1 and len(fold) == 1 for folds in values.values() for fold in folds.values()):
        return mean, float("nan"), float("nan")

    # Both together
    z, t = stats.norm.ppf(0.5 + level / 2), stats.t.ppf(0.5 + level / 2, max(freedom, 1))
    half = float(np.sqrt(z**2 * images + t**2 * max(0.0, between - images)))
    return mean, mean - half, mean + half


def losses(values: Values, margin: float) -> list[str]:
    """Sets on which the mean is below -`margin`, or its interval all below zero."""
    lost = []
    for name, folds in values.items():
        mean, _, high = interval({name: folds})
        if folds and (mean < -margin or high < 0):
            lost.append(name)
    return lost
