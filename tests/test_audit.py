"""The audit's statistics: halves that are halves, intervals that cover, matrices that do not call chance a leak."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kr_utils import InputError, audit, evidence, metrics, stages
from kr_utils import shadow_attacks as sa


def world(rng, pipelines=8, records=100, lift=0.0):
    """phi of records of unequal difficulty, and their memberships."""
    inside = audit.halves(records, pipelines, int(rng.integers(2**31)))
    return rng.normal(0, 3, records) + rng.normal(size=inside.shape) + lift * inside, inside


def every_target(attack, phi, inside, **how):
    return np.stack([attack(phi, inside, target, **how) for target in range(len(phi))])


# Halves and canaries


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_each_record_is_in_half_of_the_pipelines_and_each_pipeline_has_half_of_every_class(n, pairs, classes, seed):
    labels = np.random.default_rng(seed).integers(classes, size=n)
    inside = audit.halves(n, 2 * pairs, seed, strata=labels)
    assert (inside.sum(0) == pairs).all()
    assert (abs(2 * inside.sum(1) - n) <= classes).all()
    for k in range(classes):
        assert (abs(2 * inside[:, labels == k].sum(1) - (labels == k).sum()) <= 2).all()
    assert (inside == audit.halves(n, 2 * pairs, seed, strata=labels)).all()


def test_halves_are_random_and_their_cuts_independent():
    cuts = np.stack([audit.halves(10, 4, seed) for seed in range(800)])
    assert cuts.mean(0) == pytest.approx(np.full((4, 10), 0.5), abs=0.08), "no record has a side of its own"
    together = (cuts[:, 0, :, None] == cuts[:, 0, None, :]).mean(0)[~np.eye(10, dtype=bool)]
    assert together == pytest.approx(np.full(90, 4 / 9), abs=0.08), "nor a neighbour: 5 of 10 without replacement"
    assert (cuts[:, 0] == cuts[:, 2]).mean() == pytest.approx(0.5, abs=0.03)
    assert (cuts[:, ::2] != cuts[:, 1::2]).all()


def test_a_patient_s_images_stay_together_and_halves_stay_even():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    labels = rng.integers(0, 2, 60)[patients]
    inside = audit.halves(len(patients), 8, 3, strata=labels, groups=patients)
    for k in range(60):
        assert (inside[:, patients == k].all(1) | ~inside[:, patients == k].any(1)).all()
    assert (inside.sum(0) == 4).all()
    for k in (0, 1):
        assert inside[:, labels == k].mean(1) == pytest.approx(np.full(8, 0.5), abs=0.04)


def test_canaries_have_fair_coins_of_their_own():
    coins = np.arange(20)
    cuts = np.stack([audit.halves(200, 4, seed, coins=coins) for seed in range(600)])
    assert (cuts.sum(1) == 2).all()
    heads = cuts[:, 0, :20].sum(1)
    # Binomial: variance 5 in a pipeline. Dealt like the others they would vary much less.
    assert heads.mean() == pytest.approx(10, abs=0.5)
    assert heads.var() == pytest.approx(5, abs=1)
    assert (cuts[:, :, 20:].sum(2) == 90).all()


def test_canaries_get_another_label_by_chance():
    labels = np.random.default_rng(0).integers(0, 4, 2000)
    indices, wrong = audit.canaries(labels, 4, 7)
    assert len(set(indices)) == 100
    assert (np.diff(indices) > 0).all()
    assert ((wrong >= 0) & (wrong < 4) & (wrong != labels[indices])).all()
    assert np.bincount((wrong - labels[indices]) % 4)[1:] == pytest.approx([33, 33, 33], abs=17)
    assert len(audit.canaries(labels[:3], 2, 0)[0]) == 1


def test_halves_that_cannot_be_are_refused():
    for wrong in ((10, 3), (10, 0), (1, 4)):
        with pytest.raises(InputError, match=r"pipelines; an audit|at least two"):
            audit.halves(*wrong, 0)
    with pytest.raises(InputError, match="each record needs one"):
        audit.halves(10, 4, 0, strata=np.zeros(9))
    with pytest.raises(InputError, match="canary shares its group"):
        audit.halves(10, 4, 0, groups=np.arange(10) // 2, coins=np.array([3]))
    with pytest.raises(InputError, match="canaries"):
        audit.canaries(np.zeros(10, int), 1, 0)


def test_shuffled_memberships_keep_the_pairs():
    inside = audit.halves(500, 6, 0)
    other = audit.shuffled(inside, 1)
    assert (other.sum(0) == 3).all()
    assert (other[::2] != other[1::2]).all()
    assert (other == inside).mean() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(InputError, match="complete one another"):
        audit.shuffled(inside[[0, 2, 1, 3, 4, 5]], 1)


# What an attack found


def test_pooled_numbers_are_those_of_all_decisions():
    rng = np.random.default_rng(0)
    for scores, inside in (world(rng, 8, 300, 0.7), (rng.integers(0, 9, (8, 300)), audit.halves(300, 8, 1))):
        row = audit.pooled(scores, inside, draws=50)
        members, others = scores[inside], scores[~inside]
        assert row["auc"] == pytest.approx(metrics.attack_auc(members, others), abs=1e-9)
        for name, rate in audit.RATES.items():
            assert row[name] == pytest.approx(metrics.tpr_at_fpr(members, others, rate), abs=1e-9)
        assert row["blind_at_1pct_fpr"] == metrics.blind_tpr(1200, 0.01)
        assert (row["members"], row["non_members"], row["pipelines"], row["records"]) == (1200, 1200, 8, 300)
        each = [metrics.attack_auc(s[i], s[~i]) for s, i in zip(scores, inside)]
        assert row["auc_within"] == pytest.approx(np.mean(each))
        for name in ("auc", "advantage", *audit.RATES):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    # Order of records, and any rising function of the scores: the same numbers
    order = rng.permutation(300)
    again = audit.pooled(np.exp(scores[:, order] / 9.0), inside[:, order], draws=50)
    assert [again[k] for k in ("auc", *audit.RATES)] == pytest.approx([row[k] for k in ("auc", *audit.RATES)])


@given(seed=st.integers(0, 2**16), ties=st.booleans())
@settings(max_examples=25, deadline=None)
def test_pooled_keeps_its_auc_under_order_and_monotone_maps_and_turns_it_when_sides_are_swapped(seed, ties):
    rng = np.random.default_rng(seed)
    inside = audit.halves(30, 4, seed)
    scores = rng.normal(size=(4, 30)) + inside
    scores = scores.round(1) if ties else scores
    order, draws = rng.permutation(30), {"seed": 0, "draws": 20}
    found = audit.pooled(scores, inside, **draws)
    assert audit.pooled(scores[:, order], inside[:, order], **draws)["auc"] == pytest.approx(found["auc"], abs=1e-12)
    for changed in (scores**3, np.exp(scores), 5 * scores - 2):
        assert audit.pooled(changed, inside, **draws)["auc"] == pytest.approx(found["auc"], abs=1e-12)
        assert audit.pooled(changed, inside, **draws)["tpr_at_1pct_fpr"] == found["tpr_at_1pct_fpr"]
    assert audit.pooled(scores, ~inside, **draws)["auc"] == pytest.approx(1 - found["auc"], abs=1e-12)


def test_advantage_by_hand_and_of_nothing():
    inside = np.array([[1] * 40 + [0] * 40], bool)
    row = audit.pooled(np.where(inside, 1.0, 0.0), inside, draws=20)
    assert (row["auc"], row["advantage"], row["auc_error"]) == (1, 1, 0)
    rng = np.random.default_rng(1)
    noise = [audit.pooled(*world(rng, 4, 60), draws=20)["advantage"] for _ in range(60)]
    assert abs(np.mean(noise)) < 0.02, "a threshold scored where it was chosen would show 0.1"


@pytest.mark.parametrize(("records", "pipelines", "known"), [(24, 8, []), (26, 8, [0.01]), (260, 8, [0.01, 0.001])])
def test_rates_that_the_non_members_cannot_carry_are_none(records, pipelines, known):
    row = audit.pooled(*world(np.random.default_rng(2), pipelines, records), draws=20)
    for name, rate in audit.RATES.items():
        for key in (name, f"{name}_low", f"{name}_high", f"{name}_error", name.replace("tpr", "blind")):
            assert (row[key] is not None) == (rate in known), key


def test_only_what_counts_is_counted():
    phi, inside = world(np.random.default_rng(3), 8, 100, 1.0)
    counted = np.zeros(phi.shape, bool)
    counted[:, 10:40] = True
    some, columns = (
        audit.pooled(phi, inside, counted=counted, draws=40),
        audit.pooled(phi[:, 10:40], inside[:, 10:40], draws=40),
    )
    assert some == columns
    changed = np.where(counted, phi, np.nan)
    assert audit.pooled(changed, inside, counted=counted, draws=40) == some


def test_records_of_one_patient_know_no_more_than_one_record():
    rng = np.random.default_rng(4)
    phi, inside = world(rng, 8, 80, 0.5)
    one = audit.pooled(phi, inside, draws=300)
    five = [np.repeat(each, 5, axis=1) for each in (phi, inside)]
    together = audit.pooled(*five, groups=np.repeat(np.arange(80), 5), draws=300)
    apart = audit.pooled(*five, draws=300)
    assert together["auc"] == pytest.approx(one["auc"])
    assert together["auc_error"] == pytest.approx(one["auc_error"], rel=0.2)
    assert apart["auc_error"] > 1.3 * one["auc_error"], "taken for records of their own they would upset it"
    # Five decisions of a patient are one: hits come in fives, and as many of them are no more than chance
    for name in ("auc", "tpr_at_1pct_fpr"):
        assert together[f"{name}_design"] > 2.5 > 1.6 > one[f"{name}_design"]
    assert audit.judge([together])[0]["evidence"] == audit.judge([one])[0]["evidence"]


def covered(kind, repeats=60):
    """How often the AUC's interval holds the truth; mean of its error over the spread of the AUC, between worlds."""
    rng, rows = np.random.default_rng(5), []
    for k in range(repeats):
        lift = {"nothing": 0.0, "leak": 1.0, "pipelines": rng.normal(1, 0.25, (12, 1)), "records": None}[kind]
        lift = 2 * (rng.random(80) < 0.5) if lift is None else lift
        phi, inside = world(rng, 12, 80, lift)
        rows.append(audit.pooled(every_target(sa.lira, phi, inside), inside, seed=k, draws=150))
    aucs = np.array([row["auc"] for row in rows])
    truth = 0.5 if kind == "nothing" else aucs.mean()
    held = np.mean([row["auc_low"] <= truth <= row["auc_high"] for row in rows])
    return held, np.mean([row["auc_error"] for row in rows]) / aucs.std(ddof=1)


@pytest.mark.parametrize("kind", ["nothing", "leak", "pipelines", "records"])
def test_intervals_of_lira_cover(kind):
    """Its decisions about one record hang together, for they share shadows: independent ones would cover 82 %."""
    held, errors = covered(kind)
    assert held >= 0.88
    assert 0.8 < errors < 1.35


def test_the_interval_is_not_three_times_too_wide_for_luck_of_a_pipeline_with_a_record():
    rng = np.random.default_rng(6)
    scores, inside = rng.normal(size=(12, 200)), audit.halves(200, 12, 0)
    row = audit.pooled(scores, inside, draws=600)
    independent = (2401 / (12 * 1200**2)) ** 0.5
    assert row["auc_error"] == pytest.approx(independent, rel=0.25)
    assert (row["auc_high"] - row["auc_low"]) / (2 * 1.96) == pytest.approx(row["auc_error"], rel=0.12)


def test_scores_that_no_audit_can_be_made_of_are_refused():
    phi, inside = world(np.random.default_rng(7), 4, 30)
    broken = phi.copy()
    broken[1, 2] = np.nan
    for wrong, message in (
        ((phi, inside[:, :9]), "do not fit"),
        ((broken, inside), "1 scores are not finite"),
        ((phi, np.ones_like(inside)), "one side is empty"),
    ):
        with pytest.raises(InputError, match=message):
            audit.pooled(*wrong)


# What chance does, and what could have been found


@pytest.mark.parametrize(("m", "k"), [(300, 120), (1000, 1000)])
def test_chance_of_hits_is_that_of_scores_without_members(m, k):
    rng = np.random.default_rng(8)
    hits = np.array([round(m * metrics.tpr_at_fpr(rng.random(m), rng.random(k), 0.01)) for _ in range(1500)])
    for least in np.quantile(hits, [0.2, 0.5, 0.9, 0.97]).astype(int):
        assert audit.chance_of_hits(least, m, k) == pytest.approx((hits >= least).mean(), abs=0.04)
    every = audit.chance_of_hits(np.arange(1, m + 1), m, k)
    assert every.sum() / m == pytest.approx(metrics.blind_tpr(k, 0.01)), "its mean is the blind rate"
    assert audit.chance_of_hits(0, m, k) == pytest.approx(1)
    assert audit.chance_of_hits(2 * m // 50, m, k, design=4) > audit.chance_of_hits(2 * m // 50, m, k)


def test_detectable_effects_by_hand():
    found = audit.detectable(16, 780)
    error = (12481 / (12 * 6240**2)) ** 0.5
    assert found["detectable_auc"] == pytest.approx(0.5 + (1.959964 + 0.841621) * error)
    t, f = found["detectable_tpr_at_1pct_fpr"], 0.01
    needed = next(h for h in range(6241) if audit.chance_of_hits(h, 6240, 6240) <= 0.025) / 6240
    slope = stats.norm.pdf(stats.norm.ppf(t)) / stats.norm.pdf(stats.norm.ppf(f))
    assert t - needed == pytest.approx(0.841621 * (t * (1 - t) / 6240 + slope**2 * f * (1 - f) / 6240) ** 0.5)
    # More tests, fewer records, dependence: only larger effects are found
    assert audit.detectable(16, 780, tests=50)["detectable_auc"] > found["detectable_auc"]
    for less in (audit.detectable(16, 100), audit.detectable(16, 780, tests=50), audit.detectable(16, 780, design=3)):
        assert less["detectable_tpr_at_1pct_fpr"] > t
    assert audit.detectable(16, 780, auc_error=0.02)["detectable_auc"] == pytest.approx(0.5 + 2.801585 * 0.02)
    assert audit.detectable(2, 40)["detectable_tpr_at_1pct_fpr"] is None
    assert audit.detectable(2, 2)["detectable_auc"] is None


def test_an_effect_of_the_detectable_size_is_found_four_times_out_of_five():
    rng, tests, m = np.random.default_rng(9), 10, 8 * 150 // 2
    size = audit.detectable(8, 150, tests=tests)
    for name, draw in (
        ("detectable_auc", lambda auc: rng.normal(2**0.5 * stats.norm.ppf(auc), 1, m)),
        ("detectable_tpr_at_1pct_fpr", lambda t: rng.normal(stats.norm.ppf(t) - stats.norm.ppf(0.01), 1, m)),
    ):
        found = []
        for _ in range(400):
            members, others = draw(size[name]), rng.normal(size=m)
            row = {"auc_error": ((2 * m + 1) / (12 * m * m)) ** 0.5, "auc": metrics.rank_auc(members, others)}
            row["tpr_at_1pct_fpr"] = metrics.tpr_at_fpr(members, others, 0.01)
            if name == "detectable_auc":
                row["tpr_at_1pct_fpr"] = None
            else:
                row["auc"] = 0.5
            found.append(tests * audit._p_value(row, m, m, 1.0) < audit.ALPHA)
        assert 0.7 < np.mean(found) < 0.92, name


# The matrix


def cell(auc=0.5, error=0.01, tpr=None, **more):
    """One row of a matrix with these numbers."""
    row = {"artefact": "the Student", "attack": "LiRA", "auc": auc, "auc_error": error, "tpr_at_1pct_fpr": tpr}
    return row | {"members": 6240, "non_members": 6240, "records": 780, "pipelines": 16} | more


def test_holm_by_hand():
    wanted = [0.01, 0.04, 0.03, 0.5]
    rows = audit.judge([cell(0.5 + 0.01 * stats.norm.isf(p / 2)) for p in wanted] + [{"auc": None}])
    assert [row["p"] for row in rows] == [pytest.approx(p) for p in wanted] + [None]
    assert [row["p_holm"] for row in rows[:4]] == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert [row["evidence"] for row in rows] == ["leaks", "no evidence", "no evidence", "no evidence", "no power"]
    assert {row["tests"] for row in rows} == {4}


def test_what_a_row_says():
    leak, nothing, small, inverse, few = audit.judge(
        [cell(0.6), cell(0.505), cell(0.52, error=0.05), cell(0.3), cell(0.5, tpr=0.03)]
    )
    assert leak["evidence"] == few["evidence"] == "leaks", "by AUC, or by few that are recognised for sure"
    assert nothing["evidence"] == "no evidence"
    assert nothing["detectable_auc"] == pytest.approx(0.5 + 0.01 * (stats.norm.isf(0.005) + stats.norm.isf(0.2)))
    assert small["evidence"] == "no power", "an AUC of 0.55 would not have been found"
    assert inverse["evidence"] == "no evidence"
    for row in audit.judge([cell(0.9), cell(0.5)], believed=False):
        assert row["evidence"] == "no power"


def matrix(rng, artefacts=4, pipelines=8, records=60, lift=0.0):
    """Rows of six attacks on each artefact; in each artefact all of them look at the same phi."""
    ways = [
        (sa.lira, {}),
        (sa.lira, {"variance": "own"}),
        (sa.lira, {"form": "one-sided"}),
        (sa.lira, {"form": "likelihood", "variance": "own"}),
    ]
    rows = []
    for artefact in range(artefacts):
        phi, inside = world(rng, pipelines, records, lift)
        scored = [every_target(attack, phi, inside, **how) for attack, how in ways]
        for k, scores in enumerate([*scored, phi, every_target(sa.rmia, 1 / (1 + np.exp(-phi)), inside)]):
            rows.append({"artefact": artefact, "attack": k} | audit.pooled(scores, inside, draws=20))
    return rows


def test_a_whole_matrix_without_a_leak_is_rarely_called_one(monkeypatch):
    """18 cells: at 5 % each, about every second matrix would hold a false leak."""
    monkeypatch.setattr(audit, "CLUSTERED_DRAWS", 60)
    rng, called, alone = np.random.default_rng(10), 0, 0
    for _ in range(30):
        rows = audit.judge(matrix(rng, 3))
        called += any(row["evidence"] == "leaks" for row in rows)
        alone += any(row["p"] < audit.ALPHA for row in rows)
    assert called <= 4, "5 % of 30 is 1.5"
    assert alone >= 7


def test_a_leak_in_one_artefact_is_named_in_a_matrix_of_others(monkeypatch):
    monkeypatch.setattr(audit, "CLUSTERED_DRAWS", 60)
    rng = np.random.default_rng(12)
    rows = audit.judge(matrix(rng, 2) + [row | {"artefact": "leaky"} for row in matrix(rng, 1, lift=2.0)])
    found = {(row["artefact"], row["attack"]) for row in rows if row["evidence"] == "leaks"}
    assert found >= {("leaky", 0), ("leaky", 2), ("leaky", 5)}
    assert {artefact for artefact, _ in found} == {"leaky"}


# Two artefacts on the same decisions


def test_a_difference_is_of_the_same_decisions():
    rng = np.random.default_rng(14)
    phi, inside = world(rng, 12, 200, lift=1.5)
    stronger, weaker = phi, phi + rng.normal(0, 1.0, phi.shape)
    how = {"seed": 3, "draws": 200}
    found = audit.differences({"same": weaker, "stronger": stronger}, weaker, inside, **how)
    assert set(found["same"].values()) == {0}

    row = found["stronger"]
    first, second = (audit.pooled(scores, inside, **how) for scores in (stronger, weaker))
    assert row["auc"] == pytest.approx(first["auc"] - second["auc"], abs=1e-12)
    assert row["auc_low"] < row["auc"] < row["auc_high"]
    apart = (first["auc_error"] ** 2 + second["auc_error"] ** 2) ** 0.5
    assert row["auc_high"] - row["auc_low"] < 0.7 * 2 * 1.96 * apart, "records are as hard for both"
    back = audit.differences({"weaker": weaker}, stronger, inside, **how)
    assert back["weaker"]["auc"] == -row["auc"]


def test_the_interval_of_a_difference_covers(monkeypatch):
    """Two artefacts that leak alike, of the same records; in one world in ten at most is the difference called real."""
    monkeypatch.setattr(audit, "CLUSTERED_DRAWS", 60)
    rng, hits = np.random.default_rng(15), 0
    for _ in range(60):
        phi, inside = world(rng, 8, 80, lift=1.0)
        one, other = (phi + rng.normal(0, 1, phi.shape) for _ in range(2))
        row = audit.differences({"one": one}, other, inside, draws=60)["one"]
        hits += not row["auc_low"] <= 0 <= row["auc_high"]
    assert hits <= 9


def test_a_mean_s_interval_is_clustered_both_ways():
    rng = np.random.default_rng(16)
    counted = np.ones((16, 400), dtype=bool)
    n = counted.size

    # Independent decisions: the textbook's interval
    values = rng.normal(2, 1, counted.shape)
    mean, low, high = audit.clustered_mean(values, counted)
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 / n**0.5, rel=0.3)

    # The same in every pipeline: there are 400 decisions, not 6,400; and the same for every record: there are 16
    whole = np.broadcast_to(rng.normal(size=400), counted.shape)
    mean, low, high = audit.clustered_mean(whole, counted)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 15) * whole[0].std(ddof=1) / 20, rel=0.01)
    whole = np.broadcast_to(rng.normal(size=(16, 1)), counted.shape)
    mean, low, high = audit.clustered_mean(whole, counted)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 15) * whole[:, 0].std(ddof=1) / 4, rel=0.01)

    # What does not count has no say; images of a patient are one
    counted[:, ::2] = False
    whole = np.where(counted, 1.0, np.nan)
    assert audit.clustered_mean(whole, counted) == (1.0, 1.0, 1.0)
    values = np.broadcast_to(np.repeat(rng.normal(size=100), 4), counted.shape)
    alone, grouped = (
        audit.clustered_mean(values, np.ones_like(counted), g) for g in (None, np.repeat(np.arange(100), 4))
    )
    assert (grouped[2] - grouped[1]) == pytest.approx(2 * (alone[2] - alone[1]), rel=0.02)


def test_a_mean_s_interval_covers():
    rng, held = np.random.default_rng(17), 0
    for _ in range(300):
        values = rng.normal(0, 0.3, (12, 1)) + rng.normal(0, 1, 60) + rng.normal(size=(12, 60))
        _, low, high = audit.clustered_mean(values, rng.random(values.shape) < 0.5)
        held += low <= 0 <= high
    assert 0.91 * 300 <= held <= 0.99 * 300


# A model that remembers, from images to words


def pipelines_of(rng, remembers):
    """Kernel classifiers of noisy labels: their own training records weigh in, or a set that nobody attacks."""
    x, y = rng.normal(size=(120, 8)), rng.integers(0, 2, 120)
    inside = audit.halves(120, 8, 0, strata=y)
    logits = np.empty((8, 120, 2))
    for k in range(8):
        seen, labels = (x[inside[k]], y[inside[k]]) if remembers else (rng.normal(size=(60, 8)), rng.integers(0, 2, 60))
        weight = np.exp(-((x[:, None] - seen) ** 2).sum(2) / 4)
        logits[k] = np.log(0.05 + np.stack([(weight * (labels == c)).sum(1) for c in (0, 1)], 1))
    return sa.scaled_logit(logits, y), inside


def test_a_model_that_remembers_is_caught_and_one_that_saw_nobody_is_not():
    for remembers in (True, False):
        phi, inside = pipelines_of(np.random.default_rng(12), remembers)
        p = 1 / (1 + np.exp(-phi))
        rows = [audit.pooled(every_target(sa.lira, phi, inside), inside, draws=200)]
        rows += [audit.pooled(every_target(sa.rmia, p, inside), inside, draws=200)]
        for row in audit.judge(rows):
            assert (row["evidence"] == "leaks") == remembers
            assert (row["auc_low"] > 0.52) if remembers else (abs(row["auc"] - 0.5) < 3 * row["auc_error"])
        control = audit.shuffled(inside, 1)
        row = audit.pooled(every_target(sa.lira, phi, control), control, draws=200)
        assert abs(row["auc"] - 0.5) < 3 * row["auc_error"]


def test_the_worst_records_are_those_that_leak_and_chance_makes_none():
    rng = np.random.default_rng(13)
    lift = np.where(np.arange(200) < 10, 5.0, 0.0)
    phi, inside = world(rng, 12, 200, lift)
    scores = every_target(sa.lira, phi, inside)
    worst = audit.worst_case(scores, inside, by=phi, draws=50)
    assert len(set(worst["chosen"]) & set(range(10))) >= 8
    assert worst["auc"] > 0.9 > audit.pooled(scores, inside, draws=50)["auc"]
    assert worst["members"] + worst["non_members"] == 10 * 12


@pytest.mark.parametrize("form", sa.FORMS)
def test_of_nothing_no_record_is_called_exposed(form):
    """Chosen in the pipelines where they are attacked they would be, and by scores with shadows from there, too."""
    rng = np.random.default_rng(17)
    found = {"honest": [], "by scores": [], "naive": []}
    for _ in range(40):
        phi, inside = world(rng, 12, 200)
        scores = every_target(sa.lira, phi, inside, form=form)
        found["honest"].append(audit.worst_case(scores, inside, by=phi, draws=2)["auc"])
        found["by scores"].append(audit.worst_case(scores, inside, by=scores, draws=2)["auc"])
        bad = np.argsort(-(phi * np.where(inside, 1, -1)).sum(0))[:10]
        found["naive"].append(metrics.rank_auc(scores[:, bad][inside[:, bad]], scores[:, bad][~inside[:, bad]]))
    means = {name: np.mean(aucs) for name, aucs in found.items()}
    assert means["honest"] == pytest.approx(0.5, abs=4 * np.std(found["honest"]) / 40**0.5)
    assert means["naive"] > 0.6
    assert form != "online" or means["by scores"] > 0.65, "then this test could not fail"


# Words

FORBIDDEN = re.compile(r"privat|privacy|immun|\bsafe|secure|guarantee|proof|proves", re.IGNORECASE)


def told(*rows, believed=True):
    text = audit.words(audit.judge(rows, believed=believed))
    assert not FORBIDDEN.search(text)
    assert text.count(". ") == 1, "two sentences"
    assert text.endswith(".")
    assert text[0].isupper()
    assert len(text) < 700
    return text


def test_words_say_what_was_tried_what_was_seen_and_what_could_have_been():
    text = told(
        cell(0.712, artefact="the Teachers"),
        cell(0.69, artefact="the Teachers", attack="RMIA"),
        cell(0.501, artefact="the Student"),
        cell(0.503, artefact="the synthetic images"),
        cell(0.51, error=0.1, artefact="the weights"),
    )
    assert text.startswith(
        "We let up to 2 kinds of attack guess up to 12,480 times if a record had been used in training: "
    )
    words = "used records were recognised from the Teachers (right about 71 of 100 pairs of a used and an unused record"
    assert f"{words}; guessing: 50);" in text
    assert "no attack did better than chance explains on the Student and the synthetic images" in text
    assert "too little to judge the weights" in text
    auc = audit.judge([cell()] * 5)[0]["detectable_auc"]
    assert f"right about {100 * auc:.1f} of 100 pairs" in text
    assert "not ruled out" in text


def test_among_leaks_beyond_doubt_the_words_tell_the_one_that_finds_most_and_the_largest_first():
    surer = cell(0.70, error=0.002, attack="the density ratio")
    text = told(surer, cell(0.75, error=0.008), cell(0.9, artefact="the weights"))
    assert "recognised from the weights (right about 90 of 100 pairs of a used" in text
    assert "and the Student (right about 75 of 100 pairs)." in text, "what is counted is said once"
    rare = cell(0.53, error=0.02, tpr=0.05, artefact="the weights")
    text = told(rare, cell(0.52, error=0.003))
    assert "the weights (recognising 5 of 100 used records while accusing 1 of 100 others) and the Student" in text
    assert "the Student (right about 52 of 100 pairs of a used and an unused record; guessing: 50)." in text


def test_what_an_attack_missed_in_something_that_leaks_is_no_limit_of_what_was_seen():
    text = told(cell(0.8), cell(0.501, attack="RMIA"))
    assert "Where nothing was found" not in text
    assert "a stronger attack may find more" in text


def test_the_words_of_a_whole_matrix_are_short_and_name_no_attack():
    shown = stages.ROOT / "figures/published/quick/audit-digits-0.json"
    rows = json.loads(shown.read_text(encoding="utf-8"))["matrix"]
    longer = {"tpr_at_1pct_fpr": "tpr_1", "detectable_tpr_at_1pct_fpr": "detectable_tpr_1", "p": "p_holm"}
    whole = [row | {key: row[short] for key, short in longer.items()} | {"believed": True} for row in rows]
    text = audit.words(whole, evidence.plain)
    assert len(re.split(r"\. ", text)) == 2
    assert len(text.split()) < 120
    assert not any(name in text for name in ("LiRA", "RMIA", "quantile", "GKD"))
    assert text.index("the Generator's weights (right about 100 of 100") < text.index("Students trained on synthetic")


def test_a_student_of_real_images_is_a_classifier_that_saw_them():
    students = {"student", "student-hard_fixed", "student-no_class"}
    assert {evidence.plain(name) for name in students} == {"Students trained on synthetic images"}
    assert evidence.plain("student-real_images") == evidence.plain("ensemble") == evidence.plain("real-plain")
    assert evidence.plain("dp-sgd-8") == evidence.plain("dp-sgd")


def test_words_of_other_endings():
    assert "a stronger attack may find more" in told(cell(0.8))
    few = told(cell(0.501, tpr=0.03), cell(0.502, attack="RMIA", tpr=0.02))
    assert "from the Student (recognising 3 of 100 used records while accusing 1 of 100 others)" in few
    assert "would have gone unnoticed" in told(cell(0.5, error=0.1))
    assert "says nothing" in told(cell(0.8), believed=False)
    assert "No attack could be made" in told({"artefact": "x", "attack": "y", "auc": None})
    assert "no attack did better than chance" in told(cell(0.5))
