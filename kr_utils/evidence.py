"""The release matrix: which attack finds what in which artefact, from what the shadows stored.

Every pipeline is the target in turn, with all others as its shadows: a score for each pipeline and record [N, n], from
attacks.py (which know one network) and shadow_attacks.py (which know the others too). audit.py judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit

from kr_utils import attacks, audit, metrics, shadow_attacks

# Name of an attack -> what it is, in a table's words
ATTACKS = {
    "loss": "loss",
    "confidence": "top confidence",
    "entropy": "modified entropy",
    "labels": "labels only",
    "quantile": "quantile regression",
    "model": "attack model",
    "lira": "LiRA",
    "lira-one-sided": "LiRA offline, one-sided",
    "lira-likelihood": "LiRA offline, likelihood",
    "rmia": "RMIA",
    "rmia-offline": "RMIA offline",
    "nearest": "nearest image",
    "density": "density ratio",
}
ARTEFACTS = {
    "real": "real training",
    "real-plain": "real training, no augmentation",
    "teacher": "another Teacher",
    "ensemble": "all Teachers",
    "dp-sgd": "DP-SGD",
    "student": "GKD Student",
    "generator": "Generator's weights",
    "images": "synthetic images",
}
FORMS = {"lira": "online", "lira-one-sided": "one-sided", "lira-likelihood": "likelihood"}  # of LiRA
MANY_SHADOWS = 64  # from here on each record has enough shadows for a variance of its own (Carlini et al. 2022)

Scores = dict[str, np.ndarray | None]  # attack -> [N, n]; None: it takes more pipelines


def title(artefact: str, spent: Mapping[str, dict] | None = None) -> str:
    """An artefact in a table's words.

    spent : DP-SGD's artefact -> what its accountant says, with "epsilon"
    """
    kind, _, which = artefact.partition("-")
    if artefact in (spent or {}):
        return f"DP-SGD, epsilon {round(spent[artefact]['epsilon'], 1):g}"
    if artefact in ARTEFACTS or kind != "student":
        return ARTEFACTS.get(artefact, artefact.upper().replace("DP-SGD-", "DP-SGD, epsilon "))
    return f"Student ({which.replace('_', ' ')})"


def plain(artefact: str) -> str:
    """What kind of thing an artefact is, for a reader without statistics."""
    kinds = {"student": "Students trained on synthetic images", "images": "the synthetic images"}
    kinds |= {"generator": "the Generator's weights", "dp": "the classifier trained under noise, DP-SGD"}
    real = "classifiers that saw the real images"
    return real if artefact == "student-real_images" else kinds.get(artefact.partition("-")[0], real)


def in_order(artefacts: Sequence[str]) -> list[str]:
    """Artefacts as a table lists them: classifiers on real images, DP-SGD, Students, then Generator and images."""
    known = list(ARTEFACTS)
    place = {"dp": known.index("dp-sgd"), "student": known.index("student")}
    return sorted(
        artefacts, key=lambda name: known.index(name) if name in known else place[name.partition("-")[0]] + 0.5
    )


def of_each(paths: Sequence[Path], name: str) -> np.ndarray:
    """The array `name` of each pipeline's file, stacked: [N, ...]."""
    found = []
    for path in paths:
        with np.load(path, allow_pickle=False) as archive:
            found.append(archive[name])
    return np.stack(found)


def main_attack(found: Scores) -> str:
    """The attack that curves and planes show: LiRA, or the plain one where there are too few shadows for it."""
    if found.get("lira") is not None:
        return "lira"
    return "loss" if "loss" in found else "nearest"


def lira(phi: np.ndarray, inside: np.ndarray, form: str = "online") -> np.ndarray | None:
    """`shadow_attacks.lira` with each pipeline as target, and the variance that its number of shadows can carry.

    phi : [N, n] or [N, n, Q]; inside : bool [N, n]
    """
    how = {"form": form, "variance": _variance(len(phi))}
    return each_target(lambda t: shadow_attacks.lira(phi, inside, t, **how), len(phi), "lira")


def _variance(pipelines: int) -> str:
    """Which variance of LiRA so many pipelines can carry."""
    return "own" if pipelines >= MANY_SHADOWS else "fixed"


def each_target(attack: Callable[[int], np.ndarray], pipelines: int, kind: str = "") -> np.ndarray | None:
    """An attack with every pipeline as the target: [N, n]; None where there are fewer pipelines than it takes.

    kind : key of `shadow_attacks.LEAST`; "": it needs no shadows
    """
    if pipelines < shadow_attacks.LEAST.get(kind, 0):
        return None
    return np.stack([attack(target) for target in range(pipelines)])


def on_classifiers(
    z: np.ndarray, labels: np.ndarray, inside: np.ndarray, outside: tuple[np.ndarray, np.ndarray]
) -> Scores:
    """The quick attacks on one classifier of each pipeline: all of `ATTACKS` but those that fit a model of their own.

    Parameters
    ----------
    z : logits [N, n, Q, K] of every pipeline and record under Q views, the first being the image itself
    labels : as the pipelines were given them [n]; inside : bool [N, n]
    outside : the same logits of m images that no pipeline saw [N, m, Q, K], and their labels [m]
    """
    n, alone = len(z), z[:, :, 0]
    one = [attacks.scores(each, labels) for each in alone]
    phi = shadow_attacks.scaled_logit(z, labels[:, None])
    p, p_z = expit(phi).mean(2), expit(shadow_attacks.scaled_logit(outside[0], outside[1][:, None])).mean(2)
    agreement = (z.argmax(3) == labels[:, None]).mean(2)

    # Without shadows, then with them
    found: Scores = {name: np.stack([scores[name] for scores in one]) for name in attacks.ATTACKS}
    found["labels"] = each_target(lambda t: shadow_attacks.label_only(agreement, inside, t), n, "rmia")
    found |= {name: lira(phi, inside, form) for name, form in FORMS.items()}
    found["rmia"] = each_target(lambda t: shadow_attacks.rmia(p, inside, t, p_z=p_z), n, "rmia")

    def offline(target: int) -> np.ndarray:
        a = shadow_attacks.tune_a(p, inside, target, p_z=p_z)
        return shadow_attacks.rmia(p, inside, target, p_z=p_z, a=a)

    found["rmia-offline"] = each_target(offline, n, "tune_a")
    return found


def fitted_attacks(z: np.ndarray, labels: np.ndarray, inside: np.ndarray, known: np.ndarray, seed: int) -> Scores:
    """The attacks that fit a model: one on the shadows' outputs, one on the target's scores of non-members.

    Parameters
    ----------
    z : logits of the images themselves [N, n, K]; labels [n]; inside : bool [N, n]
    known : features of the records [n, F], see `shadow_attacks.image_features`
    """
    import sklearn.ensemble  # noqa: F401 (a limit is for what has been loaded)
    from threadpoolctl import threadpool_limits

    # Threads slow trees as small as these down
    seen, phi = shadow_attacks.features(z, labels), shadow_attacks.scaled_logit(z, labels)
    with threadpool_limits(1):
        model = each_target(lambda t: shadow_attacks.attack_model(seen, inside, t, seed=seed), len(z), "rmia")
        quantile = each_target(lambda t: shadow_attacks.quantile(phi[t], known, inside[t], seed=seed), len(z))
    return {"model": model, "quantile": quantile}


def logits_of(paths: Sequence[Path], name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a classifier's n records [N, n, Q, K], and of the images outside [N, m, Q, K], as the pipelines stored.

    paths : of each pipeline's records.npz
    """
    z = of_each(paths, f"logits_{name}")
    return z[:, :n], z[:, n:]


def attacked(audited: Mapping, job: tuple[str, np.ndarray], tell: Callable | None = None) -> Scores:
    """All attacks on one classifier of each pipeline; a job of `beside.Workers`.

    Parameters
    ----------
    audited : paths, labels, outside_labels, known and seed, as `logits_of`, `on_classifiers` and `fitted_attacks` have
        them; spared: the beginning of the names of classifiers that no model is fitted on
    job : the classifier's name, and inside
    """
    (name, inside), labels = job, audited["labels"]
    z, outside = logits_of(audited["paths"], name, len(labels))
    found = on_classifiers(z, labels, inside, (outside, audited["outside_labels"]))
    if not name.startswith(audited["spared"]):
        found |= fitted_attacks(z[:, :, 0], labels, inside, audited["known"], audited["seed"])
    return found


def on_images(distance: np.ndarray, inside: np.ndarray) -> Scores:
    """Attacks on the released images of each pipeline, by the distance of each record to the nearest one.

    distance : grey levels [N, n]; inside : bool [N, n]
    """
    found: Scores = {"nearest": -np.log(np.maximum(distance, shadow_attacks.COPY))}
    for name, form in FORMS.items():

        def calibrated(target: int, form: str = form) -> np.ndarray:
            how = {"form": form, "variance": _variance(len(distance))}
            return shadow_attacks.calibrated_distance(distance, inside, target, **how)

        found[name] = each_target(calibrated, len(distance), "lira")
    return found


def by_density(
    records: np.ndarray, released: Sequence[np.ndarray], others: np.ndarray, components: int = 10
) -> np.ndarray:
    """`shadow_attacks.density_ratio` of each pipeline's released images: [N, n].

    records, others : uint8 [n, C, H, W], [m, C, H, W]; others were seen by no pipeline; released : a set per pipeline
    """
    sets = [shadow_attacks.density_ratio(records, own, others, components=components) for own in released]
    return np.stack(sets)


def on_weights(losses: np.ndarray, inside: np.ndarray) -> Scores:
    """Attacks on each pipeline's Generator, by its denoising losses [N, n, levels]."""
    n = len(losses)
    found: Scores = {"loss": -np.log(losses).mean(2)}
    for name, form in FORMS.items():

        def scored(target: int, form: str = form) -> np.ndarray:
            return shadow_attacks.denoising(losses, inside, target, form=form, variance=_variance(n))

        found[name] = each_target(scored, n, "best_sigma")
    return found


def exposed(
    z: np.ndarray,
    labels: np.ndarray,
    inside: np.ndarray,
    canary: np.ndarray,
    *,
    groups: np.ndarray,
    **how: int,
) -> dict:
    """The ordinary records of a classifier that leak most, under the attack that curves show: `audit.worst_case`.

    Parameters
    ----------
    z, labels, inside : as for `on_classifiers`; canary : bool [n]
    groups : whose each record is [n]
    **how : seed and draws of the bootstrap
    """
    phi = shadow_attacks.scaled_logit(z, labels[:, None])
    scores, said = lira(phi, inside), phi.mean(2)
    if scores is None:  # too few shadows
        scores = np.stack([attacks.scores(each, labels)["loss"] for each in z[:, :, 0]])
    kept = [values[:, ~canary] for values in (scores, inside, said)]
    return audit.worst_case(*kept[:2], by=kept[2], groups=groups[~canary], **how)


# ------------------------------------------------------------------ rows


def row(
    artefact: str,
    attack: str,
    scores: np.ndarray | None,
    inside: np.ndarray,
    canary: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    **how: int,
) -> dict:
    """One cell of the matrix: `audit.pooled` of the ordinary records, and beside it what is found of the canaries.

    Parameters
    ----------
    scores : [N, n]; None: it takes more pipelines
    inside : bool [N, n]; canary : bool [n]
    groups : whose each record is [n], see `audit.pooled`; None: each is its own
    **how : seed and draws of the bootstrap
    """
    names = {"artefact": artefact, "attack": attack}
    if scores is None:
        return names | {"auc": None}
    groups = np.arange(len(canary)) if groups is None else groups
    found = names | audit.pooled(scores[:, ~canary], inside[:, ~canary], groups=groups[~canary], **how)
    if canary.any():
        worst = audit.pooled(scores[:, canary], inside[:, canary], groups=groups[canary], **how)
        found |= {f"canary_{key}": worst[key] for key in ("auc", "auc_low", "auc_high", "tpr_at_1pct_fpr")}
        found["canary_epsilon"] = one_run(scores[:, canary], inside[:, canary])
    return found


def one_run(scores: np.ndarray, inside: np.ndarray) -> float:
    """The lower bound on epsilon that canaries certify in one run, half of them guessed: the median over pipelines.

    scores, inside : of the canaries [N, m]
    """
    guesses = [shadow_attacks.canary_guesses(s, i) for s, i in zip(scores, inside)]
    return float(np.median([shadow_attacks.one_run_epsilon(right, of) for right, of in guesses]))


def overfit(z: np.ndarray, labels: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    """Accuracy on non-members, and by how much that on members is higher: means over pipelines.

    z : logits of the images themselves [N, n, K], without canaries
    """
    right = z.argmax(2) == labels
    inner, outer = ((right * side).sum() / side.sum() for side in (inside, ~inside))
    return {"accuracy": float(outer), "gap": float(inner - outer)}


def against(
    each: Mapping[str, tuple[np.ndarray, np.ndarray]],
    other: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    inside: np.ndarray,
    **how,
) -> dict[str, dict[str, float]]:
    """Each classifier minus another on the same records: accuracy on non-members, AUC, each with _low and _high.

    Parameters
    ----------
    each, other : logits [N, n, K] and scores [N, n], without canaries
    how : groups, seed and draws of `audit.differences`
    """
    found = audit.differences({name: scores for name, (_, scores) in each.items()}, other[1], inside, **how)
    theirs = other[0].argmax(2) == labels
    for name, (z, _) in each.items():
        right = (z.argmax(2) == labels) - theirs.astype(np.float64)
        gain = audit.clustered_mean(right, ~inside, how["groups"])
        found[name] |= dict(zip(("accuracy", "accuracy_low", "accuracy_high"), gain))
    return found


KEYS = {
    "tpr_at_1pct_fpr": "tpr_1",
    "tpr_at_1pct_fpr_low": "tpr_1_low",
    "tpr_at_1pct_fpr_high": "tpr_1_high",
    "tpr_at_01pct_fpr": "tpr_01",
    "tpr_at_01pct_fpr_low": "tpr_01_low",
    "tpr_at_01pct_fpr_high": "tpr_01_high",
    "blind_at_1pct_fpr": "blind_1",
    "detectable_tpr_at_1pct_fpr": "detectable_tpr_1",
    "canary_tpr_at_1pct_fpr": "canary_tpr_1",
}  # short names of a stored row
KEPT = (
    *("artefact", "attack", "auc", "auc_low", "auc_high", "auc_within", "advantage", "evidence", "detectable_auc"),
    *("p_holm", "members", "non_members", "gap", "accuracy", "aop"),
    *("canary_auc", "canary_auc_low", "canary_auc_high", "canary_epsilon"),
    *("tpr_1", "tpr_1_low", "tpr_1_high", "tpr_01", "tpr_01_low", "tpr_01_high"),
    *("blind_1", "detectable_tpr_1", "canary_tpr_1"),
)  # what is stored of a row


def stored(judged: dict, about: dict, lam: float) -> dict:
    """A judged row as metrics.json keeps it: every key of `KEPT`, None where there is nothing.

    about : accuracy and gap of its artefact; lam : lambda of AOP
    """
    short = {KEYS.get(key, key): value for key, value in {**judged, **about}.items()}
    if short.get("auc") is not None and short.get("accuracy") is not None:
        short["aop"] = metrics.aop(short["accuracy"], short["auc"], lam)
    return {key: short.get(key) for key in KEPT}


# ------------------------------------------------------------------ controls


def copied(
    records: np.ndarray, distance: np.ndarray, inside: np.ndarray, *, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """As if each pipeline had released noisy copies of some of its members: a control of the attacks on images.

    The noise is a quarter of the median distance, so that a copy is no longer the same picture.

    Parameters
    ----------
    records : uint8 [n, C, H, W]; distance : to what was released [N, n]; share : of the members that are copied

    Returns
    -------
    distance : with the copies [N, n]
    counted : bool [N, n], the copied members and all non-members
    """
    rng, out, counted = np.random.default_rng(seed), distance.copy(), ~inside
    for k, own in enumerate(inside):
        members = np.flatnonzero(own)
        some = rng.choice(members, max(1, round(share * len(members))), replace=False)
        noise = np.median(distance[k]) / 4 * rng.standard_normal(records[some].shape)
        made = np.clip(records[some] + noise, 0, 255).round().astype(np.uint8)
        out[k] = np.minimum(distance[k], attacks.nearest(records, made)[0])
        counted[k, some] = True
    return out, counted


# ------------------------------------------------------------------ shown


def picture(matrix: Sequence[dict], spent: Mapping[str, dict]) -> dict:
    """What `plots.release_matrix` draws of a stored matrix: cells by (artefact, attack) in words, rows and columns.

    spent : as of `title`
    """
    rows = [title(name, spent) for name in in_order(list(dict.fromkeys(row["artefact"] for row in matrix)))]
    columns = [words for name, words in ATTACKS.items() if any(row["attack"] == name for row in matrix)]
    cells = {(title(row["artefact"], spent), ATTACKS[row["attack"]]): row for row in matrix}
    return {"cells": cells, "rows": rows, "columns": columns}


def plane(matrix: Sequence[dict], spent: Mapping[str, dict]) -> list[dict]:
    """What `plots.privacy_plane` draws of a stored matrix: each artefact's main attack beside its accuracy.

    spent : as of `title`
    """
    colour = {"real": "real", "real-plain": "real", "teacher": "ensemble", "ensemble": "ensemble"}
    colour |= {"images": "chance", "generator": "chance"}
    found = []
    for artefact in in_order(list(dict.fromkeys(row["artefact"] for row in matrix))):
        row = main_row([row for row in matrix if row["artefact"] == artefact])
        key = colour.get(artefact, "control" if artefact.startswith("dp-sgd") else "student")
        if row["auc"] is not None:
            found.append(row | {"name": title(artefact, spent), "key": key})
    return found


def references(matrix: Sequence[dict], spent: Mapping[str, dict]) -> dict[str, tuple[float, float]]:
    """Real training and the most accurate DP-SGD, which saw no synthetic image: title -> (AUC, accuracy)."""
    main = {name: main_row([row for row in matrix if row["artefact"] == name]) for name in ("real", *spent)}
    private = max(spent, key=lambda name: main[name]["accuracy"])
    return {title(name, spent): (main[name]["auc"], main[name]["accuracy"]) for name in ("real", private)}


def by_volume(points: Sequence[dict]) -> list[dict]:
    """The stored curve of 08 by volume: Students of one set of each size and GKD, without the ablation's."""
    kept = [point for point in points if point["name"] == "student" or point["name"].startswith("volume-")]
    return sorted(kept, key=lambda point: point["volume"])


def strongest(rows: Sequence[dict]) -> tuple[str, dict | None]:
    """Of an artefact's stored rows: what may be said of it, and the row that found most or None."""
    known = [row for row in rows if row["auc"] is not None]
    kinds = {row["evidence"] for row in known}
    kind = next((kind for kind in ("leaks", "no evidence") if kind in kinds), "no power")
    return kind, max((row for row in known if row["evidence"] == kind), key=lambda row: row["auc"], default=None)


def main_row(rows: Sequence[dict]) -> dict:
    """Of an artefact's stored rows, the one of `main_attack`."""
    by_attack = {row["attack"]: row for row in rows}
    return by_attack[main_attack({name: row["auc"] for name, row in by_attack.items()})]
