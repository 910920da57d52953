"""Membership attacks that know other pipelines (shadows), and those that stand beside them: no files, no models, numbers.

N pipelines each saw a random half of one pool of n records; every record is in exactly N/2 of them, and each pipeline is
the target in turn while the others are its shadows. A score is higher for a likelier member.

**Equal numbers of shadows.** Without the target a record would be in N/2 - 1 of its shadows if the target saw it and in
N/2 if not: the count alone would give membership away (or, through the better estimate of the larger side, shift the AUC of
an attack that sees nothing below one half). So both sides use N/2 - 1 shadows of each record; the larger leaves one out.
"""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.special import logsumexp

from kr_utils import InputError, metrics

FORMS = ("online", "one-sided", "likelihood")
LEAST = {"lira": 6, "rmia": 4}  # pipelines: two shadows on each side for a variance, one for a mean
COPY = 0.1  # grey levels: a released image that is nearer than this counts as an exact copy
A_GRID = tuple(k / 10 for k in range(11))  # of RMIA's a, when it is tuned


def scaled_logit(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """phi = z_y - logsumexp of the other logits = log(p_y / (1 - p_y)), float64 (Carlini et al. 2022, section V-B).

    From logits rather than probabilities, so that it stays finite for a classifier that is all but certain. Logarithms of an
    ensemble's probabilities will do as well.

    Parameters
    ----------
    logits : [..., K], such as [n, K], [N, n, K] or, of Q augmented queries, [N, n, Q, K]
    labels : true classes, int; broadcast to the shape of `logits` without K: [n], or [n, 1] where there are Q queries

    Returns
    -------
    phi [...]
    """
    raise NotImplementedError


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
    one-sided : (phi - mu_out) / s_out, the paper's offline form: Phi of it is one minus the p-value. Phi itself rounds to
        1 above 8, and is left out: the order is the same
    likelihood : -log N(phi; mu_out, s_out), the offline form of the authors' code: a score that is oddly low counts as well

    With Q augmented queries the score is the mean over queries of each query's own score: the paper fits a Gaussian in Q
    dimensions, whose covariance needs more than Q shadows of each side; its code, too, takes the queries one by one.

    Parameters
    ----------
    phi : of every pipeline and record [N, n], or of Q queries [N, n, Q]; normal-like, see `scaled_logit`
    inside : bool [N, n], each record in exactly N/2
    target : index of the attacked pipeline; of its row of `inside` no use is made
    form : one of `FORMS`
    variance : "own" of each record, or "fixed": one for all records and each side, pooled about the records' own means
        (below about 64 shadows)

    Returns
    -------
    scores [n]

    Raises
    ------
    InputError
        Fewer than six pipelines; a record that is not in exactly half of them; arrays that do not fit together.
    """
    raise NotImplementedError


def rmia(
    p: np.ndarray,
    inside: np.ndarray,
    target: int,
    *,
    p_z: np.ndarray | None = None,
    gamma: float = 2.0,
    a: float | None = None,
) -> np.ndarray:
    """The robust attack RMIA (Zarifzadeh et al. 2024): share of z that x beats, both against what is usual for them.

    score(x) = share of z with [p(x | target) / p(x)] / [p(z | target) / p(z)] > gamma. Online p(x) is the mean over shadows
    with and without x; offline, of the shadows without x only, p(x) = ((1 + a) p_out + (1 - a)) / 2. p(z) is the mean over
    all shadows.

    Parameters
    ----------
    p : probability of the true class [N, n], mean over augmented queries if there are any
    inside : bool [N, n], each record in exactly N/2
    target : index of the attacked pipeline; of its row of `inside` no use is made
    p_z : the same of m records that no pipeline saw [N, m]. None: all records of the pool serve as z, those in the target
        too, since the attacker does not know which these are; this moves all scores of a target alike, so that their order
        stays
    gamma : how much x must beat z
    a : None for the online attack; else in [0, 1] and the attack is offline (`tune_a` finds it)

    Returns
    -------
    scores in [0, 1], [n]

    Raises
    ------
    InputError
        Fewer than four pipelines; a record that is not in exactly half; a not in [0, 1]; arrays that do not fit.
    """
    raise NotImplementedError


def tune_a(
    p: np.ndarray,
    inside: np.ndarray,
    target: int,
    *,
    p_z: np.ndarray | None = None,
    gamma: float = 2.0,
    shadow: int | None = None,
) -> float:
    """The a of offline RMIA that attacks a shadow best, by AUC; the target takes no part (Zarifzadeh et al. 2024, app. B.2).

    The shadow plays the target: the attacker trained it and knows what it saw. Of equally good values the smallest.

    Parameters
    ----------
    p, inside, target, p_z, gamma : as for `rmia`; of row `target` no use is made at all
    shadow : the pipeline to tune on; None: the one after the target

    Returns
    -------
    a, of `A_GRID`
    """
    raise NotImplementedError


def features(logits: np.ndarray, labels: np.ndarray, top: int = 3) -> np.ndarray:
    """What the attack model sees: the `top` largest log-probabilities, falling, that of the true class and 1 where it is
    the largest (Shokri et al. 2017; the three largest by Salem et al. 2019).

    Parameters
    ----------
    logits : [..., K]; labels : broadcast to [...], as for `scaled_logit`

    Returns
    -------
    float64 [..., min(top, K) + 2]
    """
    raise NotImplementedError


def attack_model(seen: np.ndarray, inside: np.ndarray, target: int, *, seed: int = 0) -> np.ndarray:
    """A classifier of "member" against "not", trained on the shadows' outputs (Shokri et al. 2017, Salem et al. 2019).

    One gradient-boosted model (scikit-learn) for all classes. Each record is shown as often inside as outside.

    Parameters
    ----------
    seen : features of every pipeline and record [N, n, F], see `features`
    inside : bool [N, n], each record in exactly N/2
    target : index of the attacked pipeline; of its row of `inside` no use is made

    Returns
    -------
    log-odds of membership [n]
    """
    raise NotImplementedError


def label_only(agreement: np.ndarray, inside: np.ndarray, target: int, *, calibrated: bool = True) -> np.ndarray:
    """The attack that sees labels only: the share of augmented queries that are classified right (Choquette-Choo et al. 2021).

    Calibrated, it is what the share exceeds the mean over shadows without the record by (Watson et al. 2022): plain images
    are classified right by everybody.

    Parameters
    ----------
    agreement : in [0, 1], [N, n]; inside, target : as for `lira`

    Returns
    -------
    scores [n]
    """
    raise NotImplementedError


def quantile(scores: np.ndarray, known: np.ndarray, inside: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Quantile regression without shadows (Bertran et al. 2023): how odd a score is for a non-member that looks like this.

    Gradient-boosted quantiles (scikit-learn) of the score, given what is known of the record, are fitted on non-members:
    (score - median) / (0.9 quantile - median), whose order is that of the p-values where the upper tails have one shape.
    The attacker knows one half of the target's non-members and attacks the other half, then the halves swap roles: no
    record is scored by a regression that it was in.

    Parameters
    ----------
    scores : of one target [n], such as phi
    known : features of the records [n, F], see `image_features`
    inside : of this target, bool [n]

    Returns
    -------
    scores [n]
    """
    raise NotImplementedError


def image_features(images: np.ndarray, labels: np.ndarray, components: int = 10) -> np.ndarray:
    """Principal components of the pixels beside the one-hot label: what a regression knows of a record.

    Parameters
    ----------
    images : [n, C, H, W]; labels : int [n]; components : at most n - 1 of them

    Returns
    -------
    float64 [n, components + classes]
    """
    raise NotImplementedError


def calibrated_distance(
    distance: np.ndarray, inside: np.ndarray, target: int, *, form: str = "online", variance: str = "fixed"
) -> np.ndarray:
    """The attack on released images, calibrated: -log of the distance to the nearest one, as phi in LiRA.

    Parameters
    ----------
    distance : of each record to the nearest released image of each pipeline, in grey levels as `attacks.nearest` gives it,
        [N, n]; less than `COPY` counts as `COPY`
    inside, target, form, variance : as for `lira`

    Returns
    -------
    scores [n]
    """
    raise NotImplementedError


def density_ratio(
    images: np.ndarray, released: np.ndarray, reference: np.ndarray, *, components: int = 10
) -> np.ndarray:
    """DOMIAS (van Breugel et al. 2023): log density among released images minus log density among reference images.

    Gaussian kernels (Scott's bandwidth) in the principal components of released and reference images together.

    Parameters
    ----------
    images, released, reference : [n, C, H, W], [M, C, H, W], [R, C, H, W]; no attacked image may be among the reference.
        Where no image is left outside the pool, released images of shadow Generators are a reference
    components : at most 10, a kernel sees nothing in more

    Returns
    -------
    scores [n]
    """
    raise NotImplementedError


def best_sigma(losses: np.ndarray, inside: np.ndarray, target: int, **how: str) -> int:
    """The noise level at which LiRA attacks the shadows best, by mean AUC; the target takes no part.

    Parameters
    ----------
    losses, inside, target, **how : as for `denoising`

    Returns
    -------
    index of the level
    """
    raise NotImplementedError


def denoising(losses: np.ndarray, inside: np.ndarray, target: int, **how: str) -> np.ndarray:
    """The attack on a Generator's weights: minus the log of its denoising loss at the level of `best_sigma`, as phi in LiRA
    (Carlini et al. 2023, section 5.2).

    Parameters
    ----------
    losses : denoising loss of each record, above 0, mean over the same fixed noises, [N, n, levels]
    inside, target : as for `lira`
    **how : form and variance, as for `lira`

    Returns
    -------
    scores [n]
    """
    raise NotImplementedError


def one_run_epsilon(
    right: int, guesses: int, p: float = 0.05, *, delta: float = 0.0, canaries: int | None = None
) -> float:
    """Lower bound on epsilon from the canaries of one run (Steinke, Nasr and Jagielski 2023, theorem 5.2).

    Each canary went in by a fair coin of its own; of `guesses` guesses, whose number was settled beforehand, `right` were
    right. With delta = 0 it is the epsilon at which P[Bin(guesses, e^eps / (1 + e^eps)) >= right] = p. A low bound is no
    evidence of privacy: 546 canaries, all guessed right, certify 5.2.

    Parameters
    ----------
    right, guesses : 0 <= right <= guesses
    p : one minus the confidence
    delta : of (epsilon, delta)-differential privacy
    canaries : how many there were, guessed or not; matters with delta above 0 only; None: `guesses`

    Returns
    -------
    epsilon >= 0
    """
    raise NotImplementedError


def canary_guesses(scores: np.ndarray, inside: np.ndarray, share: float = 0.5) -> tuple[int, int]:
    """Right guesses, and guesses, about canaries: the highest scores are called members and the lowest not.

    Parameters
    ----------
    scores, inside : of one target's canaries [m], [m]
    share : of the canaries that are guessed about, settled beforehand, half of them "in"; the middle is left alone

    Returns
    -------
    right, guesses : for `one_run_epsilon`
    """
    raise NotImplementedError
