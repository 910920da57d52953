"""Membership attacks that know other pipelines (shadows), and those that stand beside them, on plain arrays.

N pipelines each saw a random half of one pool of n records; every record is in exactly N/2 of them, and each pipeline
is the target in turn while the others are its shadows. A score is higher for a likelier member.

**Equal numbers of shadows.** Without the target, a record is in N/2 - 1 of the shadows if the target saw it and in N/2
if not: the count alone would give membership away, and the better estimate of the larger side moves the AUC of an
attack that sees nothing away from one half. So both sides use N/2 - 1 shadows of each record; the larger leaves one
out, the target's complement where `audit.halves` made the halves.
"""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, logsumexp

from kr_utils import InputError, metrics, shown

FORMS = ("online", "one-sided", "likelihood")
VARIANCES = ("fixed", "own")
LEAST = {"lira": 6, "rmia": 4, "tune_a": 6, "best_sigma": 8}  # pipelines that an attack needs
TINY = 1e-30  # added to a standard deviation, so that shadows that all agree give a number
COPY = 0.1  # grey levels: a released image that is nearer than this counts as an exact copy
A_GRID = tuple(k / 10 for k in range(11))  # of RMIA's a, when it is tuned


def scaled_logit(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """phi = z_y - logsumexp of the other logits = log(p_y / (1 - p_y)), float64 (Carlini et al. 2022, section V-B).

    From logits rather than probabilities, so that it stays finite for a classifier that is all but certain. Logarithms
    of an ensemble's probabilities will do as well.

    Parameters
    ----------
    logits : [..., K], such as [n, K], [N, n, K] or, of Q augmented queries, [N, n, Q, K]
    labels : true classes, int; broadcast to the shape of `logits` without K: [n], or [n, 1] where there are Q queries

    Returns
    -------
    phi [...]
    """
    logits = np.asarray(logits, dtype=np.float64)
    true = np.arange(logits.shape[-1]) == np.broadcast_to(labels, logits.shape[:-1])[..., None]
    others = logsumexp(np.where(true, -np.inf, logits), axis=-1)
    return np.where(true, logits, 0).sum(-1) - others


def lira(
    phi: np.ndarray,
    inside: np.ndarray,
    target: int,
    *,
    form: str = "online",
    variance: str = "fixed",
) -> np.ndarray:
    """The likelihood-ratio attack LiRA (Carlini et al. 2022, algorithm 1 and section VI).

    online : log N(phi; mu_in, s_in) - log N(phi; mu_out, s_out)
    one-sided : (phi - mu_out) / s_out, the paper's offline form. It is Phi of this, one minus a p-value, that the paper
        gives; the order is the same, and Phi rounds to 1 above 8
    likelihood : -log N(phi; mu_out, s_out), the offline form of the authors' code: oddly low counts as odd, too

    Variances are divided by the number of shadows (maximum likelihood, as in the authors' code). With Q augmented
    queries the score is the mean of the queries' own: the paper fits a Gaussian in Q dimensions, whose covariance needs
    more than Q shadows on each side; its code, too, takes the queries one by one.

    Parameters
    ----------
    phi : of every pipeline and record [N, n], or of Q queries [N, n, Q]; near to normal, see `scaled_logit`
    inside : bool [N, n], each record in exactly N/2
    target : index of the attacked pipeline; of its row of `inside` no use is made, of its phi only as the one attacked
    form : one of `FORMS`
    variance : "own" of each record, or "fixed": one for all records on each side (and query), pooled about the records'
        own means; below about 64 shadows

    Returns
    -------
    scores [n]

    Raises
    ------
    InputError
        Fewer than six pipelines; a record that is not in exactly half of them; arrays that do not fit together, or with
        values that are not finite; an unknown form or variance.
    """
    phi, inside = _checked(phi, inside, target, "lira")
    return _lira(phi, inside, [target], form, variance)


def _lira(phi: np.ndarray, inside: np.ndarray, apart: list[int], form: str, variance: str) -> np.ndarray:
    """As `lira`; `apart` is the target and whatever else is no shadow."""
    for name, value, known in (("form", form, FORMS), ("variance", variance, VARIANCES)):
        if value not in known:
            raise InputError(f"{name} of LiRA is {shown(value)}; choose one of: {', '.join(known)}")

    # One Gaussian for the shadows with and one for those without each record
    attacked, log_density = phi[apart[0]], {}
    for side, rows in zip(("in", "out"), _shadows(inside, apart)):
        values = _of_shadows(phi, rows)
        mean = values.mean(0)
        own = ((values - mean) ** 2).mean(0)
        spread = np.sqrt(own if variance == "own" else own.mean(0)) + TINY
        log_density[side] = stats.norm.logpdf(attacked, mean, spread)

    # The last mean and spread are those without
    if form == "online":
        scores = log_density["in"] - log_density["out"]
    elif form == "one-sided":
        scores = (attacked - mean) / spread
    else:
        scores = -log_density["out"]
    return scores.reshape(len(scores), -1).mean(1)


def rmia(
    p: np.ndarray,
    inside: np.ndarray,
    target: int,
    *,
    p_z: np.ndarray | None = None,
    gamma: float = 2.0,
    a: float | None = None,
) -> np.ndarray:
    """The robust attack RMIA (Zarifzadeh et al. 2024, algorithm 1): share of z that x beats, each against its usual p.

    score(x) = share of z with [p(x | target) / p(x)] / [p(z | target) / p(z)] > gamma. Online, p(x) is the mean over
    shadows with and without x; offline, over those without x only, p(x) = ((1 + a) p_out + (1 - a)) / 2. p(z) is the
    mean over all shadows.

    Parameters
    ----------
    p : probability of the true class [N, n], mean over augmented queries if there are any
    inside : bool [N, n], each record in exactly N/2
    target : index of the attacked pipeline; of its row of `inside` no use is made
    p_z : the same of m records that no pipeline saw [N, m]. None: all records of the pool serve as z, those in the
        target too, since the attacker does not know which they are. For one target z is a yardstick only: any choice
        leaves the records in the same order, but for ties
    gamma : how much x must beat z, above 0
    a : None for the online attack; in [0, 1] for the offline one (`tune_a` finds it)

    Returns
    -------
    scores in [0, 1], [n]

    Raises
    ------
    InputError
        Fewer than four pipelines; a record that is not in exactly half; p or a not in [0, 1]; arrays that do not fit.
    """
    p, inside = _checked(p, inside, target, "rmia")
    if a is not None and not 0 <= a <= 1:
        raise InputError(f"a of RMIA is {a}; it must be in [0, 1]")
    return _rmia(p, inside, [target], p_z, gamma, a)


def tune_a(
    p: np.ndarray,
    inside: np.ndarray,
    target: int,
    *,
    p_z: np.ndarray | None = None,
    gamma: float = 2.0,
    shadow: int | None = None,
) -> float:
    """The a of offline RMIA that attacks a shadow best, by AUC (Zarifzadeh et al. 2024, appendix B.2).

    The shadow plays the target: the attacker trained it and knows what it saw. The true target takes no part, nor does
    its twin (`audit.halves` makes 2k and 2k + 1 complements), whose memberships are the target's turned round. Of
    equally good values the smallest is taken.

    Parameters
    ----------
    p, inside, target, p_z, gamma : as for `rmia`, of at least six pipelines; of row `target` no use is made at all
    shadow : the pipeline to tune on; None: the second after the target, which is not its twin

    Returns
    -------
    a, of `A_GRID`
    """
    p, inside = _checked(p, inside, target, "tune_a")
    shadow = (target + 2) % len(p) if shadow is None else shadow
    if shadow in (target, target ^ 1):
        raise InputError(
            f"RMIA's a would be tuned on its target, pipeline {target}, or the twin; choose another shadow"
        )
    aucs = []
    for a in A_GRID:
        scores = _rmia(p, inside, [shadow, target], p_z, gamma, a)
        aucs.append(metrics.attack_auc(scores[inside[shadow]], scores[~inside[shadow]]))
    return A_GRID[int(np.argmax(aucs))]


def _rmia(
    p: np.ndarray, inside: np.ndarray, apart: list[int], p_z: np.ndarray | None, gamma: float, a: float | None
) -> np.ndarray:
    """As `rmia`; `apart` is the target and whatever else is no shadow."""
    z = p if p_z is None else np.asarray(p_z, dtype=np.float64)
    if z.ndim != 2 or len(z) != len(p):
        raise InputError(f"p_z has the shape {z.shape}; it must be [{len(p)}, records], one row per pipeline")
    if not ((p >= 0) & (p <= 1)).all() or not ((z >= 0) & (z <= 1)).all():
        raise InputError("RMIA takes probabilities of the true class; a value is not in [0, 1]")
    target, others = apart[0], np.delete(np.arange(len(p)), apart)

    # What is usual for x (equation 9, lines 10 and 12 of algorithm 1) and for z (line 17)
    within, without = (_of_shadows(p, rows).mean(0) for rows in _shadows(inside, apart))
    usual = (within + without) / 2 if a is None else ((1 + a) * without + (1 - a)) / 2
    ratio_x = p[target] / np.maximum(usual, TINY)
    ratio_z = np.sort(z[target] / np.maximum(z[others].mean(0), TINY))
    return np.searchsorted(ratio_z, ratio_x / gamma, side="left") / len(ratio_z)


def features(logits: np.ndarray, labels: np.ndarray, top: int = 3) -> np.ndarray:
    """What the attack model sees: the `top` largest log-probabilities, falling, that of the true class, and 1 where the
    true class is the largest (Shokri et al. 2017; the three largest by Salem et al. 2019).

    Parameters
    ----------
    logits : [..., K]; labels : broadcast to [...], as for `scaled_logit`

    Returns
    -------
    float64 [..., min(top, K) + 2]
    """
    log_p = log_softmax(np.asarray(logits, dtype=np.float64), axis=-1)
    labels = np.broadcast_to(labels, log_p.shape[:-1])[..., None]
    true = np.take_along_axis(log_p, labels, axis=-1)
    largest = -np.sort(-log_p, axis=-1)[..., :top]
    return np.concatenate([largest, true, log_p.argmax(-1)[..., None] == labels], axis=-1)


def attack_model(seen: np.ndarray, inside: np.ndarray, target: int, *, seed: int = 0) -> np.ndarray:
    """A classifier of "member" against "not", trained on the shadows' outputs (Shokri et al. 2017, Salem et al. 2019).

    One small gradient-boosted model (scikit-learn) for all classes. Each record is shown as often inside as outside.

    Parameters
    ----------
    seen : features of every pipeline and record [N, n, F], see `features`; at least four pipelines
    inside : bool [N, n], each record in exactly N/2
    target : index of the attacked pipeline; of its row of `inside` no use is made

    Returns
    -------
    log-odds of membership [n]
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    seen, inside = _checked(seen, inside, target, "rmia")

    # The shadows' outputs about records that they saw, then about records that they did not
    chosen = [_of_shadows(seen, rows).reshape(-1, seen.shape[2]) for rows in _shadows(inside, [target])]
    member = np.repeat([1, 0], [len(rows) for rows in chosen])
    model = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=8, min_samples_leaf=40, random_state=seed)
    return model.fit(np.concatenate(chosen), member).decision_function(seen[target])


def label_only(agreement: np.ndarray, inside: np.ndarray, target: int, *, calibrated: bool = True) -> np.ndarray:
    """The attack that sees labels only: the share of augmented queries classified right (Choquette-Choo et al. 2021).

    Calibrated, the mean over the shadows without the record is taken off (Watson et al. 2022): plain images are
    classified right by everybody.

    Parameters
    ----------
    agreement : in [0, 1], [N, n]; inside, target : as for `lira`, of at least four pipelines where calibrated

    Returns
    -------
    scores [n]
    """
    if not calibrated:
        return np.asarray(agreement, dtype=np.float64)[target].copy()
    agreement, inside = _checked(agreement, inside, target, "rmia")
    _, without = _shadows(inside, [target])
    return agreement[target] - _of_shadows(agreement, without).mean(0)


def quantile(scores: np.ndarray, known: np.ndarray, inside: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Quantile regression without shadows (Bertran et al. 2023): how odd a score is for a non-member that looks so.

    Gradient-boosted quantiles (scikit-learn) of the score, given what is known of the record, are fitted on
    non-members: (score - median) / (0.9 quantile - median), which has the order of the p-values where the upper tails
    have one shape. The attacker knows one half of the target's non-members and attacks the other half, then the halves
    swap roles: no record is scored by a regression that it was in.

    Parameters
    ----------
    scores : of one target [n], such as phi
    known : features of the records [n, F], see `image_features`
    inside : of this target, bool [n]; at least 20 non-members

    Returns
    -------
    scores [n]
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    scores, known = np.asarray(scores, dtype=np.float64), np.asarray(known, dtype=np.float64)
    inside = np.asarray(inside, dtype=bool)
    if not scores.shape == inside.shape == known.shape[:1]:
        raise InputError(f"scores {scores.shape}, features {known.shape} and memberships {inside.shape} do not fit")
    if (~inside).sum() < 20:
        raise InputError(f"quantile regression has {(~inside).sum()} non-members to learn from; it needs at least 20")

    # Two halves of the members and of the non-members, at random
    rng, fold = np.random.default_rng(seed), np.zeros(len(scores), dtype=int)
    for side in (inside, ~inside):
        fold[side] = rng.permutation(side.sum()) % 2

    # Each is scored by the quantiles of the other's non-members; a tail is no thinner than a tenth of the whole spread
    out = np.empty(len(scores))
    how = {"loss": "quantile", "max_iter": 50, "max_leaf_nodes": 4, "min_samples_leaf": 10, "random_state": seed}
    for half in (0, 1):
        learn, attacked = ~inside & (fold != half), fold == half
        middle, high = (
            HistGradientBoostingRegressor(quantile=q, **how).fit(known[learn], scores[learn]).predict(known[attacked])
            for q in (0.5, 0.9)
        )
        least = 0.1 * scores[learn].std() + TINY
        out[attacked] = (scores[attacked] - middle) / np.maximum(high - middle, least)
    return out


def image_features(images: np.ndarray, labels: np.ndarray, components: int = 10) -> np.ndarray:
    """Principal components of the pixels beside the one-hot label: what a regression is told of a record.

    Parameters
    ----------
    images : [n, C, H, W]; labels : int [n]; components : fewer where there are fewer images or pixels

    Returns
    -------
    float64 [n, components + classes]
    """
    labels = np.asarray(labels)
    return np.hstack([_components(components, images)(images), labels[:, None] == np.unique(labels)])


def calibrated_distance(
    distance: np.ndarray, inside: np.ndarray, target: int, *, form: str = "online", variance: str = "fixed"
) -> np.ndarray:
    """The attack on released images, calibrated: -log of the distance to the nearest one, as phi in LiRA.

    Parameters
    ----------
    distance : of each record to the nearest released image of each pipeline, in grey levels as `attacks.nearest` gives
        it, [N, n]; less than `COPY` counts as `COPY`
    inside, target, form, variance : as for `lira`

    Returns
    -------
    scores [n]
    """
    phi = -np.log(np.maximum(np.asarray(distance, dtype=np.float64), COPY))
    return lira(phi, inside, target, form=form, variance=variance)


def density_ratio(images: np.ndarray, released: np.ndarray, reference: np.ndarray, components: int = 10) -> np.ndarray:
    """DOMIAS (van Breugel et al. 2023, equation 2): log density among released images less that among the reference.

    Gaussian kernels (Scott's bandwidth) in principal components of released and reference images together.

    Parameters
    ----------
    images, released, reference : [n, C, H, W], [M, C, H, W], [R, C, H, W]; no attacked image may be in the reference.
        Where the pool leaves no image outside, released images of shadow Generators serve as one
    components : at most 10: kernels see nothing in more

    Returns
    -------
    scores [n]

    Raises
    ------
    InputError
        More than ten components, or no more images than components.
    """
    if not 1 <= components <= 10 or min(len(released), len(reference)) <= components:
        raise InputError(f"density in {components} components of {len(released)} released and {len(reference)} "
                         "reference images; it takes 1 to 10, and more images than components")  # fmt: skip
    project = _components(components, released, reference)
    among, usual = (stats.gaussian_kde(project(side).T).logpdf(project(images).T) for side in (released, reference))
    return among - usual


def _components(count: int, *sets: np.ndarray):
    """Projection of images on the first principal components of all these sets together, each scaled to variance 1."""
    from sklearn.decomposition import PCA

    def flat(images: np.ndarray) -> np.ndarray:
        return np.asarray(images, dtype=np.float64).reshape(len(images), -1) / 255

    everything = np.concatenate([flat(images) for images in sets])
    pca = PCA(min(count, *everything.shape), whiten=True, svd_solver="full").fit(everything)
    return lambda images: pca.transform(flat(images))


def denoising(
    losses: np.ndarray, inside: np.ndarray, target: int, *, form: str = "online", variance: str = "fixed"
) -> np.ndarray:
    """The attack on a Generator's weights: -log of its denoising loss as phi in LiRA (Carlini et al. 2023, sec. 5.2).

    Parameters
    ----------
    losses : denoising loss of each record, above 0, mean over the same fixed noises, [N, n, levels]; the level is that
        of `best_sigma`
    inside, target, form, variance : as for `lira`, of at least eight pipelines

    Returns
    -------
    scores [n]
    """
    losses, inside = _checked(losses, inside, target, "best_sigma")
    level = best_sigma(losses, inside, target, form=form, variance=variance)
    return _lira(-np.log(losses[..., level]), inside, [target], form, variance)


def best_sigma(
    losses: np.ndarray, inside: np.ndarray, target: int, *, form: str = "online", variance: str = "fixed"
) -> int:
    """The noise level at which LiRA attacks the shadows best, by mean AUC; neither the target nor its twin is one.

    Parameters
    ----------
    losses, inside, target, form, variance : as for `denoising`; of row `target` no use is made at all

    Returns
    -------
    index of the level
    """
    losses, inside = _checked(losses, inside, target, "best_sigma")
    shadows = [k for k in range(len(losses)) if k not in (target, target ^ 1)]
    if not (losses[shadows] > 0).all():
        raise InputError("a denoising loss is not above 0; its logarithm is attacked")

    aucs = np.zeros(losses.shape[2])
    for level in range(len(aucs)):
        phi = -np.log(np.maximum(losses[..., level], TINY))
        for shadow in shadows:
            scores = _lira(phi, inside, [shadow, target], form, variance)
            aucs[level] += metrics.attack_auc(scores[inside[shadow]], scores[~inside[shadow]])
    return int(aucs.argmax())


def one_run_epsilon(
    right: int, guesses: int, p: float = 0.05, *, delta: float = 0.0, canaries: int | None = None
) -> float:
    """Lower bound on epsilon from the canaries of one run (Steinke, Nasr and Jagielski 2023, theorem 5.2).

    Each canary went in by a fair coin of its own; of `guesses` guesses, whose number was settled beforehand, `right`
    were right. With delta = 0 it is the epsilon at which P[Bin(guesses, e^eps / (1 + e^eps)) >= right] = p. A low bound
    is no evidence of privacy: 546 canaries, all guessed right, certify 5.2.

    Parameters
    ----------
    right, guesses : 0 <= right <= guesses
    p : one minus the confidence, between 0 and 1
    delta : of (epsilon, delta)-differential privacy, in [0, 1]
    canaries : how many there were, guessed or not; matters with delta above 0 only. None: `guesses`

    Returns
    -------
    epsilon >= 0; 0 certifies nothing

    Raises
    ------
    InputError
        A number out of its range.
    """
    canaries = guesses if canaries is None else canaries
    if not 0 <= right <= guesses <= canaries or not 0 < p < 1 or not 0 <= delta <= 1:
        raise InputError(f"one-run bound of {right} right in {guesses} guesses about {canaries} canaries, p = {p}, "
                         f"delta = {delta}: out of range")  # fmt: skip

    def excess(epsilon: float) -> float:
        """p-value of these guesses under (epsilon, delta), less p; rises with epsilon."""
        hit = expit(epsilon)
        chance = stats.binom.sf(right - 1, guesses, hit)
        if delta and right:
            # Equation 5: delta lets an adversary move i guesses at a price of 2 m / i
            reach = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, hit))
            chance += 2 * canaries * delta * max((reach / np.arange(1, right + 1)).max(), 0)
        return chance - p

    if excess(0.0) >= 0:
        return 0.0
    most = 1.0
    while excess(most) < 0:
        most *= 2
    return float(brentq(excess, 0, most))


def canary_guesses(scores: np.ndarray, inside: np.ndarray, share: float = 0.5) -> tuple[int, int]:
    """Right guesses, and guesses, about canaries: the highest scores are called members and the lowest are not.

    Parameters
    ----------
    scores, inside : of one target's canaries [m], [m]
    share : of the canaries that are guessed about, settled beforehand, half of them "in"; the middle is left alone

    Returns
    -------
    right, guesses : for `one_run_epsilon`
    """
    scores, inside = np.asarray(scores, dtype=np.float64), np.asarray(inside, dtype=bool)
    if scores.ndim != 1 or scores.shape != inside.shape or not 0 < share <= 1:
        raise InputError(f"scores {scores.shape}, memberships {inside.shape} and a share of {share} do not fit")
    each = int(round(share * len(scores) / 2, 6))
    order = np.argsort(scores, kind="stable")
    right = inside[order[len(order) - each :]].sum() + (~inside[order[:each]]).sum()
    return int(right), 2 * each


def _checked(values: np.ndarray, inside: np.ndarray, target: int, attack: str) -> tuple[np.ndarray, np.ndarray]:
    """Values as float64 and memberships as bool; InputError unless the attack can be made of them.

    Of the target's own memberships no use is made, here neither.
    """
    values, inside = np.asarray(values, dtype=np.float64), np.asarray(inside)
    if inside.ndim != 2 or values.ndim not in (2, 3) or values.shape[:2] != inside.shape:
        raise InputError(f"values {values.shape} and memberships {inside.shape} do not fit: [pipelines, records, ...]")
    pipelines, least = len(inside), LEAST[attack]
    if pipelines % 2 or pipelines < least:
        raise InputError(f"{pipelines} pipelines; this attack needs an even number of them, at least {least}")
    if not 0 <= target < pipelines:
        raise InputError(f"target is {target}; there are the pipelines 0 to {pipelines - 1}")
    if not np.isfinite(values).all():
        raise InputError(f"values of {(~np.isfinite(values)).sum()} outputs are not finite")

    inside = inside.astype(bool)
    among = inside.sum(0) - inside[target]
    if not np.isin(among, (pipelines // 2 - 1, pipelines // 2)).all():
        raise InputError(
            f"a record is in {among.min()} to {among.max()} shadows; each must be in half of the pipelines"
        )
    return values, inside


def _shadows(inside: np.ndarray, apart: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Which pipelines serve as shadows with, and which without, each record: N/2 - len(apart) of each, two int [h, n].

    The first that there are, counted round from the target, but its partner last (`audit.halves` makes 2k and 2k + 1
    complements), so that the partner is left out: what it saw of a record is bound to what the target saw.
    `apart` is the target and whatever else is no shadow.
    """
    pipelines, each, partner = len(inside), len(inside) // 2 - len(apart), apart[0] ^ 1
    order = [k % pipelines for k in range(apart[0] + 1, apart[0] + pipelines)]
    order = [k for k in [*(k for k in order if k != partner), partner] if k not in apart]
    with_, without = (
        np.array(order)[np.argsort(side, axis=0, kind="stable")[:each]] for side in (~inside[order], inside[order])
    )
    return with_, without


def _of_shadows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values [N, n, ...] of the pipelines `rows` [h, n] of each record: [h, n, ...]."""
    return np.take_along_axis(values, rows.reshape(*rows.shape, *[1] * (values.ndim - 2)), axis=0)
