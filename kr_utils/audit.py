"""The statistics of an audit: who is in which half, what an attack found, and what it could have found.

A decision is one record attacked in one pipeline. N pipelines and n records, each record in half of the pipelines, give
N n / 2 decisions about members and as many about non-members.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import betaln

from kr_utils import InputError, metrics

ALPHA = 0.05  # chance that a matrix of attacks that see nothing calls anything a leak
POWER = 0.8
WORTH = 0.55  # an audit that could not have seen this AUC has no power: real training on small sets leaks as much
RATES = {"tpr_at_1pct_fpr": 0.01, "tpr_at_01pct_fpr": 0.001}
BLOCK = 2**16  # weights that the bootstrap holds at a time: few enough for a processor's cache
CLUSTERED_DRAWS = 300  # of each one-way bootstrap, from which standard errors are made
CERTAIN = 1e-9  # two p below it are the same: beyond doubt

Row = dict  # of the matrix: one attack on one artefact
PAIRS = "pairs"  # what an AUC is a share of, in words


def halves(
    n: int,
    pipelines: int,
    seed: int,
    *,
    strata: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    coins: np.ndarray | None = None,
) -> np.ndarray:
    """Who is in which pipeline's half: each record in exactly half of the pipelines, each pipeline half of the records.

    Pipelines 2k and 2k + 1 have halves that complete one another; the N/2 cuts are independent. A cut deals the records
    out in random order, each to the side that has fewer of its class and fewer in all.

    Parameters
    ----------
    n : records; pipelines : N, even; seed : the same seed, the same halves
    strata : class of each record [n], to be halved as evenly as whole groups allow; None: one class
    groups : of each record [n], such as its patient: a group stays together; None: each record is its own
    coins : indices of records (canaries) whose side is a fair coin of its own in each cut, as `one_run_epsilon` of
        `shadow_attacks` supposes; the halves are as even as these leave them. A coin's group must hold it alone

    Returns
    -------
    inside : bool [pipelines, n]

    Raises
    ------
    InputError
        An odd number of pipelines or fewer than two; fewer than two records or groups; arrays that do not fit.
    """
    if pipelines < 2 or pipelines % 2:
        raise InputError(f"{pipelines} pipelines; an audit takes an even number: each record is in half of them")
    strata = np.zeros(n, dtype=int) if strata is None else np.asarray(strata)
    groups = np.arange(n) if groups is None else np.asarray(groups)
    if strata.shape != (n,) or groups.shape != (n,):
        raise InputError(f"classes {strata.shape} and groups {groups.shape} of {n} records; each record needs one")
    _, group = np.unique(groups, return_inverse=True)
    size = np.bincount(group)
    if len(size) < 2:
        raise InputError(f"{len(size)} groups of records; halves take at least two")
    alone = np.zeros(len(size), dtype=bool)
    alone[group[np.asarray([] if coins is None else coins, dtype=int)]] = True
    if (size[alone] > 1).any():
        raise InputError("a canary shares its group with other records; draw canaries that are alone in theirs")

    # Of each group how many of each class and how many in all; large groups are dealt first
    _, stratum = np.unique(strata, return_inverse=True)
    counts = np.zeros((len(size), stratum.max() + 2), dtype=int)
    np.add.at(counts, (group, stratum), 1)
    counts[:, -1] = size

    rng, inside = np.random.default_rng(seed), np.zeros((pipelines, n), dtype=bool)
    for first in range(0, pipelines, 2):
        side = rng.random(len(size)) < 0.5  # a coin, and the side of one whose place makes no difference
        ahead = np.zeros(counts.shape[1], dtype=int)  # by how much the first side has more
        order = rng.permutation(len(size))
        for g in order[np.argsort(-size[order], kind="stable")]:
            pull = 0 if alone[g] else int(ahead @ counts[g])
            side[g] = side[g] if pull == 0 else pull < 0
            ahead += 0 if alone[g] else counts[g] if side[g] else -counts[g]
        inside[first], inside[first + 1] = side[group], ~side[group]
    return inside


def shuffled(inside: np.ndarray, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Memberships that mean nothing: in each cut, each record's side by a coin. Still in half of the pipelines.

    The negative control: every attack is made again with these, shadows and all, and must find nothing. Pipelines stay
    paired, because two that completed one another do not forget it: phi of the one is low where that of the other is
    high, and a control in which they may be on one side would find that.

    Parameters
    ----------
    inside : bool [N, n], of `halves`; groups : as there, each gets one coin

    Returns
    -------
    bool [N, n]

    Raises
    ------
    InputError
        Pipelines 2k and 2k + 1 do not complete one another.
    """
    inside = np.asarray(inside).astype(bool)
    if inside.ndim != 2 or len(inside) % 2 or not (inside[::2] ^ inside[1::2]).all():
        raise InputError("memberships to shuffle are not those of halves: pipelines 2k and 2k + 1 complete one another")
    of = np.unique(np.arange(inside.shape[1]) if groups is None else groups, return_inverse=True)[1]
    coin = np.random.default_rng(seed).random((len(inside) // 2, of.max() + 1)) < 0.5
    return inside ^ np.repeat(coin[:, of], 2, axis=0)


def canaries(labels: np.ndarray, classes: int, seed: int, *, share: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Records that get a wrong label, the easiest to remember: worst cases (Carlini et al. 2022; Aerni et al. 2024).

    Parameters
    ----------
    labels : int [n]; classes : at least 2; share : of the pool, rounded, at least one record

    Returns
    -------
    indices : sorted int [m]
    wrong : their labels, drawn among the other classes, int [m]

    Raises
    ------
    InputError
        Fewer than two classes, or a share not between 0 and 1.
    """
    if classes < 2 or not 0 < share <= 1:
        raise InputError(f"canaries: {share} of the records with labels of {classes} classes; both are too few or many")
    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    indices = np.sort(rng.choice(len(labels), max(1, round(share * len(labels))), replace=False))
    return indices, (labels[indices] + rng.integers(1, classes, len(indices))) % classes


def pooled(
    scores: np.ndarray,
    inside: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    counted: np.ndarray | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> Row:
    """What an attack found, over all pipelines as targets, with intervals clustered over pipelines and records.

    Scores of all pipelines are pooled as they are, under one threshold: an attacker has one model and sets the
    threshold beforehand, and one pipeline has too few non-members for a rate of 0.1 %. An attack whose scale differs
    between pipelines loses by it; `auc_within`, the mean over pipelines of each one's own AUC, shows how much.

    Standard errors are two-way clustered (Cameron, Gelbach and Miller 2011): the variance over records, plus what
    pipelines add to the variance over single decisions, each by a bootstrap. The interval has the shape of a bootstrap
    in which pipelines and records (or groups) are drawn independently (Owen 2007), scaled to that error: by itself it
    counts luck of one pipeline with one record three times. In simulations it covers 90 % or more; least where few
    pipelines leak very differently, since each is also a shadow of all others.

    Parameters
    ----------
    scores : of each pipeline as target and each record [N, n], higher for likelier members
    inside : bool [N, n]
    groups : of each record [n], such as its patient: drawn together
    counted : bool [N, n], the decisions that count; None: all. For canaries pass their columns of everything instead
    draws : of the bootstrap that gives the shape

    Returns
    -------
    dict of auc, advantage (threshold chosen on other records), tpr_at_1pct_fpr and tpr_at_01pct_fpr, each also with
    _low and _high (95 %), _error (standard), _freedom (its degrees of freedom, for Student's t) and _design (its
    square over what independent decisions would have); auc_within; blind_at_1pct_fpr and blind_at_01pct_fpr; members
    and non_members (decisions), pipelines, records.
    A rate that the non-member decisions cannot carry is None: fewer than 100 for 1 %, than 1,000 for 0.1 %

    Raises
    ------
    InputError
        Shapes that do not fit; scores that are not numbers; nobody inside or nobody outside.
    """
    table, records = _decisions(scores, inside, groups, counted)
    pipeline, member = table["pipeline"], table["member"]
    found, draws_of = _bootstrap(table, seed, draws)
    places = (pipeline.max() + 1, table["group"].max() + 1)
    row: Row = {}
    for name, value in found.items():
        row |= _interval(name, value, [each[name] for each in draws_of], places, -1 if name == "advantage" else 0)

    # What the non-members cannot carry, and what a blind attack has
    out = int((~member).sum())
    for name, rate in RATES.items():
        blind = metrics.blind_tpr(out, rate)
        row[name.replace("tpr", "blind")] = blind
        if blind is None:
            row |= {key: None for key in row if key.startswith(name)}

    within = [metrics.rank_auc(table["score"][k & member], table["score"][k & ~member])
              for k in pipeline == np.arange(places[0])[:, None]]  # fmt: skip
    row["auc_within"] = float(np.nanmean(within))
    return row | {"members": int(member.sum()), "non_members": out, "pipelines": int(places[0]), "records": records}


def differences(
    each: Mapping[str, np.ndarray],
    other: np.ndarray,
    inside: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> dict[str, Row]:
    """By how much attacks on each artefact have a larger AUC than one on another: auc, auc_low, auc_high.

    The same decisions are drawn for both (the same seed draws the same pipelines and records), so that what both have
    in common, such as records that are hard for everybody, falls out of the interval. Else as `pooled`.

    each, other : scores [N, n]; inside : bool [N, n]; groups, seed, draws : as of `pooled`
    """
    table = _decisions(other, inside, groups, None)[0]
    places = (table["pipeline"].max() + 1, table["group"].max() + 1)
    reference, theirs = _bootstrap(table, seed, draws)
    out = {}
    for name, scores in each.items():
        found, mine = _bootstrap(_decisions(scores, inside, groups, None)[0], seed, draws)
        apart = [a["auc"] - b["auc"] for a, b in zip(mine, theirs)]
        row = _interval("auc", found["auc"] - reference["auc"], apart, places, -1)
        out[name] = {key: row[key] for key in ("auc", "auc_low", "auc_high")}
    return out


def clustered_mean(
    values: np.ndarray, counted: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Mean over decisions and its 95 % interval, two-way clustered over pipelines and records (or groups).

    Variance as in `pooled`, with as many degrees of freedom as the fewer clusters have (Cameron, Gelbach, Miller 2011).

    values : [N, n]; counted : bool [N, n], the decisions that count; groups : of each record [n]
    """
    groups = np.arange(values.shape[1]) if groups is None else np.unique(groups, return_inverse=True)[1]
    total, mean = counted.sum(), float(values[counted].mean())
    rest = np.where(counted, values - mean, 0.0)
    cells = np.stack([np.bincount(groups, weights=line) for line in rest])  # [N, groups]

    def part(sums: np.ndarray) -> float:
        return float((sums**2).sum() / total**2 * len(sums) / max(1, len(sums) - 1))

    by_record, by_pipeline = part(cells.sum(0)), part(cells.sum(1))
    variance = by_record + max(0.0, by_pipeline - float((cells**2).sum() / total**2))
    half = float(stats.t.ppf(0.975, max(1, min(cells.shape) - 1)) * variance**0.5)
    return mean, mean - half, mean + half


def _bootstrap(table: dict[str, np.ndarray], seed: int, draws: int) -> tuple[dict, list[dict[str, np.ndarray]]]:
    """Each measure of the decisions, and its draws: of cells (a group in a pipeline), groups, pipelines, pipelines and
    groups at once, and single decisions.

    The same seed draws the same clusters whatever the scores are.
    """
    # One line per decision, by falling score
    pipeline, group, member = table["pipeline"], table["group"], table["member"]
    rng, groups = np.random.default_rng(seed), group.max() + 1
    half = (rng.permutation(groups) % 2)[group]
    ends = np.flatnonzero(np.r_[np.diff(table["score"]) != 0, True])
    found = _measures(np.ones((1, len(member)), dtype=np.int32), member, half, ends)

    def resampled(size: int, *clusters: np.ndarray) -> dict[str, np.ndarray]:
        """Measures of `size` draws, clusters drawn with replacement, independently of each other."""
        parts = []
        for block in np.diff(np.r_[np.arange(0, size, max(1, BLOCK // len(member))), size]):
            weights = np.ones((block, len(member)), dtype=np.int32)  # of whole numbers, running sums are fast
            for cluster in clusters:
                several = cluster.max() + 1
                drawn = rng.integers(several, size=(block, several)) + several * np.arange(block)[:, None]
                counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
                weights *= np.take(counts.astype(np.int32), cluster, axis=1)
            parts.append(_measures(weights, member, half, ends))
        return {name: np.concatenate([part[name] for part in parts]) for name in found}

    cell = np.unique(pipeline * groups + group, return_inverse=True)[1]
    of = [resampled(CLUSTERED_DRAWS, each) for each in (cell, group, pipeline)] + [resampled(draws, pipeline, group)]
    alone = cell.max() + 1 == len(member)  # each group a single record
    of.append(of[0] if alone else resampled(CLUSTERED_DRAWS, np.arange(len(member))))
    return {name: value for name, (value,) in found.items()}, of


def _interval(name: str, value: float, draws: Sequence[np.ndarray], places: tuple[int, int], least: float) -> Row:
    """A measure with its interval, error, degrees of freedom and design, from the draws that `_bootstrap` makes.

    places : pipelines and groups; least : the smallest value there is
    """
    # Standard error: over records, and what pipelines add
    cells, by_group, by_pipeline, both, single = draws
    spread, few = both - value, places[0] / max(1, places[0] - 1)
    alone, record_part = cells.var(), by_group.var()
    pipeline_part = max(0.0, few * by_pipeline.var() - alone)
    variance = record_part + pipeline_part
    freedom = _freedom((record_part, places[1]), (pipeline_part, places[0]))
    scale = (variance / spread.var()) ** 0.5 if spread.var() > 0 else 0.0
    scale *= stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975)
    low, high = np.clip(value + scale * np.quantile(spread, [0.025, 0.975]), least, 1)
    row = {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    row |= {f"{name}_error": float(variance**0.5), f"{name}_freedom": float(freedom)}
    independent = single.var()  # decisions of one group are not, so that their cells have more
    return row | {f"{name}_design": float(variance / independent) if independent > 0 else 1.0}


def _freedom(*parts: tuple[float, int]) -> float:
    """Degrees of freedom of a sum of variances, each with its number of clusters (Satterthwaite 1946); at least 1."""
    total = sum(variance for variance, _ in parts)
    against = sum(variance**2 / max(1, clusters - 1) for variance, clusters in parts)
    return max(1.0, total**2 / against) if against > 0 else 1e9


def _decisions(
    scores: np.ndarray, inside: np.ndarray, groups: np.ndarray | None, counted: np.ndarray | None
) -> tuple[dict[str, np.ndarray], int]:
    """Checked and by falling score: score, member, and which pipeline and group (0, 1, ...) each is of; records."""
    scores, inside = np.asarray(scores, dtype=np.float64), np.asarray(inside).astype(bool)
    groups = np.arange(scores.shape[-1]) if groups is None else np.asarray(groups)
    counted = np.ones(scores.shape, dtype=bool) if counted is None else np.asarray(counted).astype(bool)
    if scores.ndim != 2 or not scores.shape == inside.shape == counted.shape or groups.shape != scores.shape[1:]:
        raise InputError(f"scores {scores.shape}, memberships {inside.shape}, counted {counted.shape} and groups "
                         f"{groups.shape} do not fit: [pipelines, records] and [records]")  # fmt: skip
    if not np.isfinite(scores[counted]).all():
        raise InputError(f"{(~np.isfinite(scores[counted])).sum()} scores are not finite numbers")
    if not (counted & inside).any() or not (counted & ~inside).any():
        raise InputError("an audit needs decisions about members and about non-members; one side is empty")

    pipeline, record = np.nonzero(counted)
    order = np.argsort(-scores[pipeline, record], kind="stable")
    pipeline, record = pipeline[order], record[order]
    where = {"pipeline": np.unique(pipeline, return_inverse=True)[1]}
    where["group"] = np.unique(groups[record], return_inverse=True)[1]
    values = {"score": scores[pipeline, record], "member": inside[pipeline, record]}
    return values | where, len(np.unique(record))


def _measures(weights: np.ndarray, member: np.ndarray, half: np.ndarray, ends: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of decisions that fall in score, counted `weights` [D, cells] times; `ends` are the last of each."""
    row = np.arange(len(weights))

    def rising(chosen: np.ndarray) -> np.ndarray:
        """How many of the chosen decisions reach each score, from 0 on: [D, scores + 1]."""
        counts = np.zeros((len(weights), len(ends) + 1), dtype=weights.dtype)
        sums = np.cumsum(weights * chosen, axis=1, dtype=weights.dtype)
        np.take(sums, ends, axis=1, out=counts[:, 1:], mode="clip")
        return counts

    def gain(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        return inside / np.maximum(inside[:, -1:], 1) - outside / np.maximum(outside[:, -1:], 1)

    # Of the whole: the area under the ROC by trapezoids, so that ties count one half
    inside, outside = rising(member), rising(~member)
    all_in, all_out = (np.maximum(each[:, -1].astype(np.float64), 1) for each in (inside, outside))
    area = np.einsum("ij,ij->i", np.diff(outside), inside[:, 1:] + inside[:, :-1], dtype=np.float64)
    out = {"auc": area / (2 * all_in * all_out)}

    # The threshold of each half of the records, used on the other
    part_in, part_out = rising(member & (half == 0)), rising(~member & (half == 0))
    gains = gain(part_in, part_out), gain(inside - part_in, outside - part_out)
    out["advantage"] = sum(gains[1 - k][row, gains[k].argmax(1)] for k in (0, 1)) / 2

    # The last threshold whose false alarms are few enough
    for name, rate in RATES.items():
        few = outside <= (rate * all_out + 1e-6)[:, None]
        out[name] = inside[row, few.sum(1) - 1] / all_in
    return out


def worst_case(
    scores: np.ndarray,
    inside: np.ndarray,
    *,
    by: np.ndarray,
    share: float = 0.05,
    groups: np.ndarray | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> Row:
    """The records that leak most, chosen in one half of the pipelines and attacked in the other, then swapped.

    A record's vulnerability is the mean of `by` inside less that outside. Chosen where they are scored, the worst of
    many records would look bad by luck alone (Aerni et al. 2024 on worst cases and their honest choice). So they would
    if they were chosen by scores that were made with shadows of the other half: these carry its luck along.

    Parameters
    ----------
    scores, inside, groups, seed, draws : as for `pooled`, of at least four pipelines
    by : what each pipeline alone says of each record [N, n], higher for likelier members, such as the scaled logit
    share : of the records that are called worst

    Returns
    -------
    as `pooled`, of the chosen decisions only, and "chosen": the records that both halves chose, sorted
    """
    scores, by = (np.asarray(values, dtype=np.float64) for values in (scores, by))
    inside = np.asarray(inside).astype(bool)
    if scores.ndim != 2 or not scores.shape == inside.shape == by.shape or len(scores) < 4 or not 0 < share <= 1:
        shapes = f"scores {scores.shape}, memberships {inside.shape}, what to choose by {by.shape}"
        raise InputError(f"worst cases of {shapes} and a share of {share}; at least four pipelines, a share in (0, 1]")

    # Pairs of pipelines that complete one another stay together
    first = np.arange(len(scores)) // 2 % 2 == 0
    counted, chosen = np.zeros(scores.shape, dtype=bool), []
    for choose, attacked in ((first, ~first), (~first, first)):
        side_in, side_out = inside[choose], ~inside[choose]
        mean_in, mean_out = ((by[choose] * side).sum(0) / np.maximum(side.sum(0), 1) for side in (side_in, side_out))
        known = side_in.any(0) & side_out.any(0)
        gap = np.where(known, mean_in - mean_out, -np.inf)
        worst = np.argsort(-gap, kind="stable")[: max(1, round(share * len(gap)))]
        counted[np.ix_(attacked, worst)] = True
        chosen.append(worst)

    row = pooled(scores, inside, groups=groups, counted=counted, seed=seed, draws=draws)
    return row | {"chosen": np.intersect1d(*chosen).tolist()}


def detectable(
    pipelines: int, records: int, *, auc_error: float | None = None, design: float = 1.0, tests: int = 1
) -> dict[str, float | None]:
    """The smallest AUC and TPR at 1 % FPR that such an audit finds with 80 % power, at the level that `judge` sets.

    AUC: 1/2 + (z_alpha + z_power) error, alpha = 5 % / (2 tests): two measures of each attack, Holm's first step.
    Without dependence the error is sqrt((m + k + 1) / (12 m k)) for m and k decisions (Mann and Whitney 1947).

    TPR: the smallest t with t - c / m = z_power sqrt(design (t (1 - t) / m + s^2 f (1 - f) / k)), where c is the number
    of hits that chance reaches with probability alpha (`chance_of_hits`), f = 1 % and s the slope at f of the binormal
    ROC through (f, t); with k non-members the threshold is itself a guess, hence the second term.

    Parameters
    ----------
    pipelines, records : N and n, that is N n / 2 decisions of each kind
    auc_error, design : of a finished audit, `auc_error` and `tpr_at_1pct_fpr_design` of `pooled`; else as if all
        decisions were independent
    tests : rows of the matrix that are judged together

    Returns
    -------
    detectable_auc, detectable_tpr_at_1pct_fpr : at most 1; None where not even that suffices, or is not estimable
    """
    each = pipelines * records // 2
    return _detectable(each, each, auc_error, design, tests)


def _detectable(m: int, k: int, auc_error: float | None, design: float, tests: int) -> dict[str, float | None]:
    """As `detectable`, of m decisions about members and k about non-members."""
    alpha, z_power, rate = ALPHA / (2 * tests), stats.norm.ppf(POWER), RATES["tpr_at_1pct_fpr"]
    error = ((m + k + 1) / (12 * m * k)) ** 0.5 if auc_error is None else auc_error
    auc = 0.5 + (stats.norm.isf(alpha) + z_power) * error

    # The fewest hits that are not chance, and the rate that has more of them in 80 of 100 audits
    hits = np.arange(m + 1)
    enough = np.flatnonzero(chance_of_hits(hits, m, k, design) <= alpha)
    tpr = None
    if metrics.blind_tpr(k, rate) is not None and len(enough):
        needed = enough[0] / m

        def above(t: float) -> float:
            z = stats.norm.ppf(rate)
            slope = np.exp((z**2 - stats.norm.ppf(t) ** 2) / 2)
            return t - needed - z_power * (design * (t * (1 - t) / m + slope**2 * rate * (1 - rate) / k)) ** 0.5

        top = 1 - 1e-9
        tpr = float(brentq(above, max(needed, rate), top)) if needed < top and above(top) > 0 else None
    return {"detectable_auc": float(auc) if auc <= 1 else None, "detectable_tpr_at_1pct_fpr": tpr}


def chance_of_hits(hits: np.ndarray, m: int, k: int, design: float = 1.0) -> np.ndarray:
    """How often an attack that sees nothing has at least so many hits at 1 % FPR: P[X >= hits].

    The threshold is the (j + 1)-th highest of k non-members, j = 1 % of k rounded down, and the m members fall above it
    as in Polya's urn: X is beta-binomial with j + 1 and k - j (negative hypergeometric where decisions are
    independent). Dependent decisions count as `design` times fewer.

    Parameters
    ----------
    hits : int; m, k : decisions about members and non-members; design : at least 1, of `pooled`
    """
    design = max(1.0, design)
    j, count = int(RATES["tpr_at_1pct_fpr"] * k + 1e-9), max(1, round(m / design))
    above, below = (j + 1) / design, (k - j) / design

    # Of every number of hits, then of as many or more
    x = np.arange(count + 1)
    log_choose = -betaln(x + 1, count - x + 1) - np.log(count + 1)
    pmf = np.exp(log_choose + betaln(x + above, count - x + below) - betaln(above, below))
    at_least = np.append(np.cumsum(pmf[::-1])[::-1] / pmf.sum(), 0)
    return at_least[np.clip(np.ceil(np.asarray(hits) / design - 1e-9).astype(int), 0, count + 1)]


def judge(rows: Sequence[Row], *, believed: bool = True) -> list[Row]:
    """The rows of a matrix, judged together: a chance find in one of many cells is no leak.

    A row's p-value is twice the smaller of two one-sided ones: of its AUC above one half, by the clustered standard
    error, and of its TPR at 1 % FPR, by `chance_of_hits`. Holm's procedure (1979) over all rows keeps the chance of any
    false "leaks" in the matrix below 5 %, whatever the dependence between attacks and artefacts. An AUC below one half
    is no find: turning an attack round after the fact would be a choice made on the answer.

    Parameters
    ----------
    rows : of `pooled`, with what names them ("artefact", "attack"). A row whose "auc" is None or absent could not be
        attacked; it is passed on and does not count
    believed : False where a control failed: then nothing is claimed, either way

    Returns
    -------
    the rows, each with p, p_holm, tests, detectable_auc, detectable_tpr_at_1pct_fpr, believed, evidence
    """
    tests = sum(row.get("auc") is not None for row in rows)
    judged = []
    for row in rows:
        more: Row = {"tests": tests, "believed": believed, "p": None, "p_holm": None}
        more |= {"detectable_auc": None, "detectable_tpr_at_1pct_fpr": None}
        if row.get("auc") is not None:
            m, k, design = row["members"], row["non_members"], row.get("tpr_at_1pct_fpr_design") or 1.0
            more |= _detectable(m, k, row["auc_error"], max(1.0, design), tests) | {"p": _p_value(row, m, k, design)}
        judged.append(row | more)

    # Holm: the smallest p times the number of tests, the next times one less, never falling
    so_far = 0.0
    tested = sorted((row for row in judged if row["p"] is not None), key=lambda row: row["p"])
    for k, row in enumerate(tested):
        so_far = max(so_far, min(1.0, (tests - k) * row["p"]))
        row["p_holm"] = so_far
    return [row | {"evidence": evidence(row)} for row in judged]


def _p_value(row: Row, m: int, k: int, design: float) -> float:
    """Twice the smaller p-value of AUC and TPR; twice that of the AUC where the TPR is not estimable."""
    error, lead = row["auc_error"], row["auc"] - 0.5
    p = stats.t.sf(lead / error, row.get("auc_freedom", 1e9)) if error > 0 else float(lead <= 0)
    if row["tpr_at_1pct_fpr"] is not None:
        p = min(p, chance_of_hits(round(row["tpr_at_1pct_fpr"] * m), m, k, design))
    return float(min(1.0, 2 * p))


def evidence(row: Row) -> str:
    """What a judged row says: "leaks", "no evidence" (at this power) or "no power".

    leaks : the controls held, and p_holm is below 5 %
    no power : a control failed, the attack could not be made, or not even an AUC of `WORTH` would have been found
    no evidence : else; it does not mean that nothing leaks
    """
    if not row["believed"] or row["p_holm"] is None:
        return "no power"
    if row["p_holm"] < ALPHA:
        return "leaks"
    smallest = row["detectable_auc"]
    return "no power" if smallest is None or smallest > WORTH else "no evidence"


def words(rows: Sequence[Row], named: Callable[[str], str] = str) -> str:
    """Two sentences for a reader without statistics: what was tried and seen, and what could have been seen.

    Parameters
    ----------
    rows : of `judge`
    named : an artefact in plain words; those of the same words are told together, by the worst
    """
    made = [row for row in rows if row.get("auc") is not None]
    if not made:
        return (
            "No attack could be made, so nothing was learned about what these artefacts give away. "
            "An audit with shadows takes at least six pipelines."
        )
    each = Counter(row["artefact"] for row in made)
    attacks = max(each.values())
    tried = (
        f"We let {'up to ' * (len(set(each.values())) > 1)}{attacks} kind{'s' * (attacks != 1)} of attack guess up to "
        f"{max(row['members'] + row['non_members'] for row in made):,} times if a record had been used in training"
    )
    if not all(row["believed"] for row in made):
        return (
            f"{tried}, but a trial attack that had to succeed failed, or one that had to fail succeeded. "
            "So this audit says nothing about what may be handed out, neither for nor against it."
        )

    # What was seen, each artefact by the worst that is known of it; the largest leak first
    seen: dict[str, list[tuple[str, Row]]] = {"leaks": [], "no evidence": [], "no power": []}
    for artefact in dict.fromkeys(named(row["artefact"]) for row in made):
        own = [row for row in made if named(row["artefact"]) == artefact]
        kind = next(kind for kind in seen if kind in {row["evidence"] for row in own})
        best = min((row for row in own if row["evidence"] == kind), key=lambda r: (max(r["p"], CERTAIN), -r["auc"]))
        seen[kind].append((artefact, best))
    seen["leaks"].sort(key=lambda pair: -pair[1]["auc"])
    names = {kind: [artefact for artefact, _ in pairs] for kind, pairs in seen.items()}
    names["leaks"] = [f"{artefact} ({_success(row)})" for artefact, row in seen["leaks"]]
    says = {
        "leaks": "used records were recognised from",
        "no evidence": "no attack did better than chance explains on",
        "no power": "there was too little to judge",
    }
    told = "; ".join(f"{says[kind]} {_listed(each)}" for kind, each in names.items() if each)
    told = told.replace(f" {PAIRS})", f" {PAIRS} of a used and an unused record; guessing: 50)", 1)  # said once

    # What would have been seen, by the least sensitive attack on what no attack found anything in
    silent = [row for row in made if named(row["artefact"]) in names["no evidence"]]
    missed = [row for row in silent if row["evidence"] == "no evidence"]
    if missed:
        auc, tpr = (max(row[f"detectable_{name}"] or 1.0 for row in missed) for name in ("auc", "tpr_at_1pct_fpr"))
        could = (
            f"Where nothing was found, a leak that is right about {_share(auc)} pairs of records (guessing: 50), or "
            f"recognises {_share(tpr)} used ones while accusing 1 of 100 others, would have been noticed four times "
            "out of five; smaller leaks, stronger attacks and other records were not ruled out"
        )
    elif seen["leaks"]:
        could = "That is the least that can be recognised: a stronger attack may find more"
    else:
        could = "With so little to go on, even a leak as large as that of ordinary training would have gone unnoticed"
    return f"{tried}: {told}. {could}."


def _success(row: Row) -> str:
    """What a leak looks like: over all records, or where only few are recognised, of these."""
    if row["tpr_at_1pct_fpr"] is None or row["auc"] >= (row["detectable_auc"] or 1.0):
        return f"right about {_share(row['auc'])} {PAIRS}"
    return f"recognising {_share(row['tpr_at_1pct_fpr'])} used records while accusing 1 of 100 others"


def _share(value: float) -> str:
    """0.712 as "71 of 100"; one decimal where that tells more."""
    percent = 100 * value
    return f"{percent:.0f} of 100" if abs(percent - round(percent)) < 0.05 or percent >= 70 else f"{percent:.1f} of 100"


def _listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])
