"""The statistics of an audit: who is in which half, what an attack found, how sure that is, and what it could have found.

A decision is one record attacked in one pipeline. N pipelines and n records, each record in half of the pipelines, give
N n / 2 decisions about members and as many about non-members.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from kr_utils import InputError, metrics

LEVEL = 0.95
POWER = 0.8
WORTH = 0.55  # an audit that could not have seen this AUC has no power: real training on small sets leaks about as much
FPRS = {"tpr_at_1pct_fpr": 0.01, "tpr_at_01pct_fpr": 0.001}


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

    Pipelines 2k and 2k + 1 have halves that complete one another; the N/2 cuts are independent. A cut deals the records out
    in random order, each to the side that has fewer of its class and fewer in all.

    Parameters
    ----------
    n : records; pipelines : N, even; seed : the same seed, the same halves
    strata : class of each record [n], to be halved as evenly as whole groups allow; None: one class
    groups : of each record [n], such as its patient: a group stays together; None: each record is its own
    coins : indices of records (canaries) whose side is a fair coin of its own, as `one_run_epsilon` supposes

    Returns
    -------
    inside : bool [pipelines, n]

    Raises
    ------
    InputError
        An odd number of pipelines, or fewer than two records or groups.
    """
    raise NotImplementedError


def canaries(labels: np.ndarray, classes: int, seed: int, share: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Records that are given a wrong label, the easiest to remember: worst cases (Carlini et al. 2022; Aerni et al. 2024).

    Parameters
    ----------
    labels : int [n]; classes : at least 2; share : of the pool, rounded, at least one record

    Returns
    -------
    indices : sorted int [m]
    wrong : their labels, drawn among the other classes [m]
    """
    raise NotImplementedError


def pooled(
    scores: np.ndarray,
    inside: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    counted: np.ndarray | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> dict:
    """What an attack found, over all pipelines as targets, with intervals clustered over pipelines and records.

    Scores of all pipelines are pooled as they are, under one threshold: an attacker has one model and sets the threshold
    beforehand, and one pipeline has too few non-members for a rate of 0.1 %. An attack whose scale differs between pipelines
    loses by it; `auc_within`, the mean over pipelines of each one's own AUC, shows how much.

    Intervals: pipelines and records (or groups) are drawn with replacement, independently (Owen 2007). That counts luck of
    one pipeline with one record three times; the spread about the estimate is shrunk to what it should be, by bootstraps
    over cells, records and pipelines alone.

    Parameters
    ----------
    scores : of each pipeline as target and each record [N, n], higher for likelier members
    inside : bool [N, n]
    groups : of each record [n], such as its patient: drawn together
    counted : bool [N, n], the decisions that count, None: all; for canaries pass their columns instead
    draws : of the bootstrap

    Returns
    -------
    dict of auc, advantage, tpr_at_1pct_fpr, tpr_at_01pct_fpr, each also with _low and _high (95 %) and _error (standard
    error); auc_within; blind_at_1pct_fpr, blind_at_01pct_fpr; members, non_members (decisions), pipelines, records.
    A rate that the number of non-member decisions cannot carry is None: below 100 for 1 %, below 1,000 for 0.1 %

    Raises
    ------
    InputError
        Shapes that do not fit; scores that are not numbers; nobody inside or nobody outside.
    """
    raise NotImplementedError


def detectable(
    pipelines: int,
    records: int,
    *,
    auc_error: float | None = None,
    tpr_error: float | None = None,
    tests: int = 1,
) -> dict:
    """The smallest AUC and TPR at 1 % FPR that such an audit finds with 80 % power at the 95 % level.

    AUC: 1/2 + (z_alpha + z_power) error, where alpha = 5 % / (2 tests) (two measures of each attack; Holm's first step).
    TPR: the smallest t with t - blind >= z_alpha error_0 + z_power error(t).
    Errors without dependence: of the AUC sqrt((m + k + 1) / (12 m k)) for m and k decisions (Mann and Whitney 1947), of a
    TPR t at FPR f: sqrt(t (1 - t) / m + s^2 f (1 - f) / k), s the slope of the binormal ROC there.

    Parameters
    ----------
    pipelines, records : N and n: N n / 2 decisions of each kind
    auc_error, tpr_error : standard errors of a finished audit, from `pooled`, where known; the TPR's counts only where it
        is larger than the formula's
    tests : rows of the matrix that are judged together

    Returns
    -------
    dict of detectable_auc and detectable_tpr_at_1pct_fpr (None where not estimable)
    """
    raise NotImplementedError


def judge(rows: Sequence[dict], *, believed: bool = True) -> list[dict]:
    """The rows of a matrix, judged together: a chance find in one of many cells is no leak.

    Each row's p-value is twice the smaller of two one-sided ones, that the AUC is above one half and that the TPR at 1 % FPR
    is above the blind one; Holm's procedure (1979) keeps the chance of any false "leaks" in the matrix below 5 %.

    Parameters
    ----------
    rows : of `pooled`, with what names them (artefact, attack); rows of "auc": None (not to be had) are passed on
    believed : False where a control failed: all is "no power"

    Returns
    -------
    the rows with p, p_holm, tests, detectable_auc, detectable_tpr_at_1pct_fpr, believed and evidence (see `evidence`)
    """
    raise NotImplementedError


def evidence(row: dict) -> str:
    """ "leaks", "no evidence" (at this power) or "no power", of a row that was judged.

    leaks : believed, and p_holm below 5 %
    no power : a control failed, the attack could not be made, or not even an AUC of `WORTH` would have been found
    no evidence : else. It does not mean that nothing leaks
    """
    raise NotImplementedError


def words(rows: Sequence[dict]) -> str:
    """Two sentences for a reader without statistics: what was tried and seen, and what could have been seen.

    Parameters
    ----------
    rows : of `judge`, with "artefact" and "attack"
    """
    raise NotImplementedError


def worst_case(
    scores: np.ndarray,
    inside: np.ndarray,
    *,
    share: float = 0.05,
    groups: np.ndarray | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> dict:
    """The records that leak most, chosen in one half of the pipelines and attacked in the other, then swapped.

    A record's vulnerability is its mean score inside minus outside. Chosen where they are scored, the worst of many records
    would look bad by luck alone.

    Parameters
    ----------
    scores, inside, groups, seed, draws : as for `pooled`; at least four pipelines
    share : of the records that are called worst

    Returns
    -------
    as `pooled`, of the chosen decisions only, and "chosen": indices that both halves chose
    """
    raise NotImplementedError
