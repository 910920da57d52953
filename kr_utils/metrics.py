"""Every number that is reported, from plain arrays: accuracies, gaps, AUCs, intervals.

Shares and rates are fractions in [0, 1]; only tables print percent. Intervals are 95 % unless told.
"""

from __future__ import annotations

import numpy as np
from scipy import stats
from sklearn.metrics import confusion_matrix, recall_score, roc_auc_score, roc_curve


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows of `logits` [N, K] whose largest entry is at `labels` [N]."""
    return float((np.asarray(logits).argmax(1) == np.asarray(labels)).mean())


def accuracy_of_members(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean accuracy of several classifiers, each on its own: logits [M, N, K]."""
    return float(np.mean([accuracy(member, labels) for member in np.asarray(logits)]))


def wilson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share `correct / n` (Wilson 1927)."""
    interval = stats.binomtest(int(correct), int(n)).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities [N, K] in float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(shifted - shifted.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def ensemble(logits: np.ndarray) -> np.ndarray:
    """The logarithm of the mean class probabilities [N, K] of several classifiers' logits [M, N, K], float64."""
    return np.log(np.mean([softmax(member) for member in np.asarray(logits)], axis=0).clip(1e-300))


def macro_auc(logits: np.ndarray, labels: np.ndarray) -> float:
    """One-against-rest ROC AUC, averaged over the classes that occur in `labels` (MedMNIST's AUC)."""
    probabilities, labels = softmax(logits), np.asarray(labels)
    present = [k for k in range(probabilities.shape[1]) if 0 < (labels == k).sum() < len(labels)]
    return float(np.mean([roc_auc_score(labels == k, probabilities[:, k]) for k in present]))


def classification_report(logits: np.ndarray, labels: np.ndarray, classes: int) -> dict:
    """Accuracy with its Wilson interval, AUC, per-class recall and confusion matrix (rows: true class)."""
    predicted, labels = np.asarray(logits).argmax(1), np.asarray(labels)
    correct = int((predicted == labels).sum())
    low, high = wilson(correct, len(labels))
    every = list(range(classes))
    return {
        "accuracy": correct / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "auc": macro_auc(logits, labels),
        "recall": recall_score(labels, predicted, labels=every, average=None, zero_division=0).tolist(),
        "confusion": confusion_matrix(labels, predicted, labels=every).tolist(),
    }


def cas_gap(student: np.ndarray, real: np.ndarray, labels: np.ndarray, seed: int = 0, draws: int = 2000) -> dict:
    """CAS gap (Student minus real training) on the same test images, with a paired bootstrap interval.

    Parameters
    ----------
    student : logits [N, K]; real : logits [N, K], or [M, N, K] of several classifiers whose mean accuracy counts
    labels : [N]

    Returns
    -------
    dict with gap, gap_low, gap_high as fractions (multiply by 100 for points)
    """
    labels = np.asarray(labels)
    members = np.asarray(real) if np.ndim(real) == 3 else np.asarray(real)[None]
    right = (members.argmax(2) == labels).mean(0)
    difference = (np.asarray(student).argmax(1) == labels) - right
    # A resample is a count of the few values a difference can take: exact, and small for any test set.
    values, counts = np.unique(difference, return_counts=True)
    resampled = np.random.default_rng(seed).multinomial(len(labels), counts / len(labels), draws)
    low, high = np.quantile(resampled @ values / len(labels), [0.025, 0.975])
    return {"gap": float(difference.mean()), "gap_low": float(low), "gap_high": float(high)}


def two_way(values: np.ndarray, seed: int = 0, draws: int = 2000, level: float = 0.95) -> tuple[float, float, float]:
    """Mean over seeds and test images, and its percentile bootstrap interval over both.

    Seeds and images are drawn with replacement, independently; all drawn seeds see the drawn images, for they share the
    test set (the "pigeonhole" bootstrap of Owen 2007). Where seeds and images act on their own it is the sum of both
    spreads; what is luck of one seed on one image counts up to three times, so that such an interval is too wide rather
    than too narrow. With one seed it is the bootstrap over images; a spread between seeds that is larger than the one
    between images is underestimated by a few seeds.

    Parameters
    ----------
    values : per seed and image [S, N]: a hit (0 or 1), a share of hits, or a difference of two

    Returns
    -------
    mean, low, high
    """
    values = np.atleast_2d(np.asarray(values, dtype=float))
    seeds, images = values.shape
    rng = np.random.default_rng(seed)

    # Images that are alike in every seed are drawn together: exact, and small for any test set.
    patterns, counts = np.unique(values, axis=1, return_counts=True)
    means = []
    for size in _blocks(draws, patterns.shape[1]):
        drawn_seeds = _counts(rng, seeds, size) / seeds
        drawn_images = rng.multinomial(images, counts / images, size) / images
        means.append(((drawn_seeds @ patterns) * drawn_images).sum(1))
    low, high = np.quantile(np.concatenate(means), [0.5 - level / 2, 0.5 + level / 2])
    return float(values.mean()), float(low), float(high)


def _blocks(draws: int, width: int) -> list[int]:
    """Sizes of blocks of draws, each of at most 32 MB where a draw is `width` floats."""
    size = max(1, 2**22 // width)
    return [min(size, draws - start) for start in range(0, draws, size)]


def _counts(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """How often each of `n` things is drawn, in `size` draws of n with replacement: [size, n]."""
    drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)


def mean_interval(values: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values, say of datasets, and its Student-t interval; (nan, nan) for a single value."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return mean, float(mean - half), float(mean + half)


def attack_auc(members: np.ndarray, non_members: np.ndarray) -> float:
    """Probability that a random member scores above a random non-member; ties count one half."""
    scores = np.concatenate([members, non_members])
    truth = np.r_[np.ones(len(members)), np.zeros(len(non_members))]
    return float(roc_auc_score(truth, scores))


def rank_auc(members: np.ndarray, non_members: np.ndarray) -> float:
    """`attack_auc` by ranks (Mann and Whitney), without scikit-learn's checks: for the inside of a loop.

    nan where one side is empty
    """
    m, n = len(members), len(non_members)
    if m == 0 or n == 0:
        return float("nan")
    return float((stats.rankdata(np.concatenate([members, non_members]))[:m].sum() - m * (m + 1) / 2) / (m * n))


def bootstrap_auc(
    members: np.ndarray, non_members: np.ndarray, seed: int = 0, draws: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of `attack_auc`, members and non-members resampled separately.

    All draws at once: a draw is a vector of counts over the sorted distinct scores, so that the AUC
    of every draw is one weighted cumulative sum.
    """
    rng = np.random.default_rng(seed)
    values, place = np.unique(np.concatenate([members, non_members]), return_inverse=True)
    m, n = len(members), len(non_members)
    share_m = np.bincount(place[:m], minlength=len(values)) / m
    share_n = np.bincount(place[m:], minlength=len(values)) / n
    aucs = []
    for size in np.diff(np.r_[np.arange(0, draws, 100), draws]):  # 100 draws at a time bound the memory
        w_m, w_n = rng.multinomial(m, share_m, size) / m, rng.multinomial(n, share_n, size) / n
        below = np.cumsum(w_n, axis=1) - w_n / 2
        aucs.append((w_m * below).sum(1))
    low, high = np.quantile(np.concatenate(aucs), [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def two_way_auc(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
    draws: int = 1000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean over seeds of `attack_auc`, or of a difference of two, and its bootstrap interval as that of `two_way`.

    Seeds, members and non-members are drawn with replacement; seeds share the members and the non-members.

    Parameters
    ----------
    first, second : scores of members [S, M] and of non-members [S, N], the same images in both; `second` is subtracted

    Returns
    -------
    mean, low, high
    """
    attacks = [(1, *first)] + ([(-1, *second)] if second else [])
    (seeds, m), n = first[0].shape, first[1].shape[1]
    rng = np.random.default_rng(seed)

    # Where each member stands among the sorted non-members, from below and from above: apart where they tie
    placed = []
    for sign, members, non_members in attacks:
        order = np.argsort(non_members, axis=1)
        rows = [(a, b[o], o) for a, b, o in zip(members, non_members, order, strict=True)]
        placed.append((sign, [(np.searchsorted(b, a), np.searchsorted(b, a, side="right"), o) for a, b, o in rows]))

    def weighted(drawn_seeds: np.ndarray, drawn: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Weights of seeds [D, S], members [D, M] and non-members [D, N] -> [D]."""
        total = np.zeros(len(drawn))
        for sign, rows in placed:
            for k, (low, high, order) in enumerate(rows):
                below = np.cumsum(np.pad(others[:, order], ((0, 0), (1, 0))), axis=1)
                total += sign * drawn_seeds[:, k] * (drawn * (below[:, low] + below[:, high])).sum(1) / 2
        return total

    # All weights alike give the value itself
    values = []
    for size in _blocks(draws, m + n):
        drawn_seeds, drawn, others = (_counts(rng, k, size) / k for k in (seeds, m, n))
        values.append(weighted(drawn_seeds, drawn, others))
    ((value,), (low, high)) = (
        weighted(*(np.full((1, k), 1 / k) for k in (seeds, m, n))),
        np.quantile(np.concatenate(values), [0.5 - level / 2, 0.5 + level / 2]),
    )
    return float(value), float(low), float(high)


def roc(members: np.ndarray, non_members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False- and true-positive rates of every threshold, from (0, 0) to (1, 1)."""
    scores = np.concatenate([members, non_members])
    truth = np.r_[np.ones(len(members)), np.zeros(len(non_members))]
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    return fpr, tpr


def tpr_at_fpr(members: np.ndarray, non_members: np.ndarray, fpr: float) -> float | None:
    """Largest true-positive rate at a false-positive rate of at most `fpr`.

    None ("not estimable") where fewer than 1 / fpr non-members make the rate a matter of one image.
    """
    if len(non_members) < round(1 / fpr):
        return None
    rates, hits = roc(members, non_members)
    return float(hits[rates <= fpr + 1e-12].max())


def blind_tpr(non_members: int, fpr: float) -> float | None:
    """The true-positive rate at `fpr` that an attack expects which sees nothing: (k + 1) / (n + 1).

    `tpr_at_fpr` puts the threshold just above the (k + 1)-th of n non-members, k = fpr n rounded down, and a member of
    the same distribution scores above it with that probability: 1.27 % for 156 non-members, not 1 %.
    None ("not estimable") where `tpr_at_fpr` is.

    Parameters
    ----------
    non_members : their number n
    """
    if non_members < round(1 / fpr):
        return None
    return (int(fpr * non_members + 1e-9) + 1) / (non_members + 1)


def advantage(members: np.ndarray, non_members: np.ndarray, seed: int = 0) -> float:
    """Membership advantage TPR - FPR (Yeom et al. 2018), the threshold chosen on the other half of the data.

    Choosing the threshold where it is scored would show an advantage on pure noise.
    """
    rng = np.random.default_rng(seed)
    halves = [np.array_split(rng.permutation(scores), 2) for scores in (members, non_members)]
    gains = []
    for fit, test in ((0, 1), (1, 0)):
        fit_m, fit_n = halves[0][fit], halves[1][fit]
        levels = np.unique(np.concatenate([fit_m, fit_n]))
        gain = share_at_least(fit_m, levels) - share_at_least(fit_n, levels)
        threshold = levels[gain.argmax()]
        gains.append((halves[0][test] >= threshold).mean() - (halves[1][test] >= threshold).mean())
    return float(np.mean(gains))


def share_at_least(scores: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Share of `scores` that reach each of `levels`."""
    return 1 - np.searchsorted(np.sort(scores), levels, side="left") / len(scores)


def aop(acc: float, auc: float, lam: float = 2.0) -> float:
    """Accuracy Over Privacy: ACC / (2 max(AUC, 0.5))^lambda, all as fractions. Print lambda beside it."""
    return acc / (2 * max(auc, 0.5)) ** lam


def pareto(rows: list[dict]) -> list[dict]:
    """The accuracy-cost front: rows that no other row beats in both cost and CAS, by rising cost."""
    front: list[dict] = []
    for row in sorted(rows, key=lambda row: (row["cost"], -row["cas"])):
        if not front or row["cas"] > front[-1]["cas"]:
            front.append(row)
    return front
