"""Membership inference: was this image in the training set? Scores, audits and controls.

A score is higher for a likelier member. Released images are attacked without a model; models are scored in eval mode,
on images as they are.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from kr_utils import metrics

ATTACKS = ("loss", "confidence", "entropy")
TITLES = {"loss": "loss", "confidence": "top confidence", "entropy": "modified entropy"}
BLOCK_VALUES = 2**27  # pixel values of each side that `nearest` holds as floats at a time: half a gigabyte
MIN_PER_CLASS = 10  # below this a class borrows the common threshold


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Per-image membership scores of logits [N, K] with true labels [N].

    loss : minus the cross-entropy (Yeom et al. 2018)
    confidence : the largest class probability, which needs no label (Salem et al. 2019)
    entropy : minus the modified entropy (Song & Mittal 2021, eq. 8), small where the model is both
        certain and right
    """
    logits = np.asarray(logits, dtype=np.float64)
    log_p = log_softmax(logits, axis=1)
    p = np.exp(log_p)
    rows, labels, top = np.arange(len(labels)), np.asarray(labels), p.argmax(1)
    # 1 - p of the top class is summed from the others: the difference would round to zero.
    others = p.copy()
    others[rows, top] = 0
    rest = 1 - p
    rest[rows, top] = others.sum(1)
    terms = p * np.log(np.maximum(rest, 1e-300))
    modified = -rest[rows, labels] * log_p[rows, labels] - (terms.sum(1) - terms[rows, labels])
    return {"loss": log_p[rows, labels], "confidence": log_p.max(1), "entropy": -modified}


def nearest(images: np.ndarray, released: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each image, the released image that is nearest to it, by pixels: the attack on the images themselves.

    An image of which the Generator kept a copy lies nearer to the released set than one it never saw: minus the
    distance is a membership score that needs no model (Chen et al. 2020, GAN-Leaks, full black-box). Uncalibrated:
    plain images are near everything, so at few false accusations it finds copies only.

    Parameters
    ----------
    images, released : uint8 [N, C, H, W] and [M, C, H, W]

    Returns
    -------
    distance : root mean square difference in grey levels, 0 to 255, [N]
    index : into `released`, int [N]
    """
    from sklearn.neighbors import NearestNeighbors

    def flat(x: np.ndarray) -> np.ndarray:
        return np.asarray(x).reshape(len(x), -1).astype(np.float32)

    distance, index = np.full(len(images), np.inf), np.zeros(len(images), dtype=int)
    block = max(1, BLOCK_VALUES // max(1, images[0].size))
    for k in range(0, len(released), block):
        finder = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(flat(released[k : k + block]))
        for i in range(0, len(images), block):
            d, j = (found[:, 0] for found in finder.kneighbors(flat(images[i : i + block])))
            closer = d < distance[i : i + block]
            distance[i : i + block][closer], index[i : i + block][closer] = d[closer], j[closer] + k
    return distance / images[0].size ** 0.5, index


def mirrored(images: np.ndarray, hflip: bool, vflip: bool) -> np.ndarray:
    """Images uint8 [N, C, H, W] and, after them, the mirror images that keep their label: [N, 2 N or 4 N, C, H, W].

    The Generator was trained on those too, so that a copy of either lies near.
    """
    if hflip:
        images = np.concatenate([images, images[..., ::-1]])
    return np.concatenate([images, images[..., ::-1, :]]) if vflip else images


def per_class_offsets(
    members: np.ndarray,
    non_members: np.ndarray,
    member_labels: np.ndarray,
    other_labels: np.ndarray,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores minus their class's threshold, which was fitted on the other half of the images.

    Song & Mittal's per-class thresholds. The attacker knows one half of the memberships and attacks the
    other, then the halves swap roles; no image takes part in choosing its own threshold.

    Returns
    -------
    members, non_members : shifted scores, positive where the attack says "member"
    """
    # Two halves at random
    rng = np.random.default_rng(seed)
    fold_m, fold_n = rng.permutation(len(members)) % 2, rng.permutation(len(non_members)) % 2
    out_m, out_n = np.array(members, dtype=float), np.array(non_members, dtype=float)

    # Each is attacked with thresholds from the other
    for fold in (0, 1):
        known_m, known_n = fold_m != fold, fold_n != fold
        common = best_threshold(members[known_m], non_members[known_n])
        for k in np.union1d(member_labels, other_labels):
            in_m, in_n = member_labels == k, other_labels == k
            a, b = members[known_m & in_m], non_members[known_n & in_n]
            threshold = best_threshold(a, b) if min(len(a), len(b)) >= MIN_PER_CLASS else common
            out_m[~known_m & in_m] -= threshold
            out_n[~known_n & in_n] -= threshold
    return out_m, out_n


def best_threshold(members: np.ndarray, non_members: np.ndarray) -> float:
    """The score threshold with the largest TPR - FPR on these images."""
    levels = np.unique(np.concatenate([members, non_members]))
    gain = metrics.share_at_least(members, levels) - metrics.share_at_least(non_members, levels)
    return float(levels[gain.argmax()])


def attack(
    member_logits: np.ndarray,
    member_labels: np.ndarray,
    other_logits: np.ndarray,
    other_labels: np.ndarray,
    seed: int = 0,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each attack, the scores of members and of non-members, ready for `audit` and ROC curves."""
    inside, outside = scores(member_logits, member_labels), scores(other_logits, other_labels)
    out = {name: (inside[name], outside[name]) for name in ("loss", "confidence")}
    out["entropy"] = per_class_offsets(inside["entropy"], outside["entropy"], member_labels, other_labels, seed)
    return out


def audit(scored: dict[str, tuple[np.ndarray, np.ndarray]], seed: int = 0, draws: int = 1000) -> dict[str, dict]:
    """Metrics of each attack: auc, auc_low, auc_high, advantage, tpr_at_1pct_fpr, tpr_at_01pct_fpr.

    blind_at_1pct_fpr is what an attack that sees nothing expects in the place of tpr_at_1pct_fpr.

    scored : attack -> scores of the members [M] and of the non-members [N], higher for likelier members

    A rate that the number of non-members cannot carry is None ("not estimable").
    """
    rows = {}
    for name, (members, non_members) in scored.items():
        # Clipped: sums of 1/n can pass 1 by 1e-15
        low, high = np.clip(metrics.bootstrap_auc(members, non_members, seed, draws), 0, 1).tolist()

        rows[name] = {
            "auc": metrics.attack_auc(members, non_members),
            "auc_low": low,
            "auc_high": high,
            "advantage": metrics.advantage(members, non_members, seed),
            "tpr_at_1pct_fpr": metrics.tpr_at_fpr(members, non_members, 0.01),
            "blind_at_1pct_fpr": metrics.blind_tpr(len(non_members), 0.01),
            "tpr_at_01pct_fpr": metrics.tpr_at_fpr(members, non_members, 0.001),
            "members": len(members),
            "non_members": len(non_members),
        }
    return rows


def shift(
    train: np.ndarray, validation: np.ndarray, test: np.ndarray, seed: int = 0, draws: int = 1000
) -> dict[str, dict]:
    """AUCs that say how much of a train-test AUC is a difference between the splits and no membership.

    Validation and test images are both outsiders: an attack that tells them apart sees the splits. Validation images
    chose the model's epoch, so that they are outsiders of its weights only.

    Parameters
    ----------
    train, validation, test : scores of one attack [M], [V], [N]; no image of the last two may be in training

    Returns
    -------
    "val_test" and "train_val" -> auc, auc_low, auc_high, first, second (the numbers of images); the first are taken
    for the members
    """
    rows = {}
    for name, first, second in (("val_test", validation, test), ("train_val", train, validation)):
        low, high = np.clip(metrics.bootstrap_auc(first, second, seed, draws), 0, 1).tolist()
        auc = metrics.attack_auc(first, second)
        rows[name] = {"auc": auc, "auc_low": low, "auc_high": high, "first": len(first), "second": len(second)}
    return rows


def auc_difference(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], seed: int = 0, draws: int = 500
) -> dict:
    """AUC of `first` minus AUC of `second` with a paired bootstrap over the same images."""
    rng = np.random.default_rng(seed)
    m, n = len(first[0]), len(first[1])
    differences = []
    for _ in range(draws):
        i, j = rng.integers(m, size=m), rng.integers(n, size=n)
        differences.append(metrics.rank_auc(first[0][i], first[1][j]) - metrics.rank_auc(second[0][i], second[1][j]))
    low, high = np.quantile(differences, [0.025, 0.975])
    value = metrics.attack_auc(*first) - metrics.attack_auc(*second)
    return {"difference": float(value), "low": float(low), "high": float(high)}


def negative_control(
    member_logits: np.ndarray,
    member_labels: np.ndarray,
    other_logits: np.ndarray,
    other_labels: np.ndarray,
    seed: int = 0,
    draws: int = 40,
) -> dict[str, dict]:
    """Every attack, fitted and scored anew on memberships that were drawn at random: it must find nothing.

    Returns
    -------
    attack -> auc (mean over draws), auc_error (its standard error), auc_low, auc_high (95 % of draws)
    """
    # All images in one pot
    rng = np.random.default_rng(seed)
    logits, labels = np.concatenate([member_logits, other_logits]), np.concatenate([member_labels, other_labels])
    m, aucs = len(member_labels), {name: [] for name in ATTACKS}

    # Memberships drawn anew, every attack fitted anew
    for k in range(draws):
        order = rng.permutation(len(labels))
        inside, outside = order[:m], order[m:]
        scored = attack(logits[inside], labels[inside], logits[outside], labels[outside], seed + k)
        for name, pair in scored.items():
            aucs[name].append(metrics.rank_auc(*pair))

    # Mean and range over draws
    out = {}
    for name, values in aucs.items():
        low, high = np.quantile(values, [0.025, 0.975])
        error = float(np.std(values, ddof=1) / draws**0.5)
        out[name] = {"auc": float(np.mean(values)), "auc_error": error, "auc_low": float(low), "auc_high": float(high)}
    return out
