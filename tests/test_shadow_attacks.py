"""Attacks with shadows against closed forms, hand counts and peers; they find nothing where nothing is to be found."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, softmax

from kr_utils import InputError, attacks, audit, metrics
from kr_utils import shadow_attacks as sa

N, RECORDS = 16, 300


def world(rng, pipelines=N, records=RECORDS, lift=0.0):
    """Records of unequal difficulty; being inside adds `lift` to a phi that has standard deviation 1."""
    inside = audit.halves(records, pipelines, int(rng.integers(2**31)))
    return rng.normal(0, 3, records) + rng.normal(size=(pipelines, records)) + lift * inside, inside


def every_target(attack, *arrays, **how):
    return np.stack([attack(*arrays, target, **how) for target in range(len(arrays[-1]))])


def auc(scores, inside):
    return metrics.rank_auc(scores[inside], scores[~inside])


# Every attack, as a function of phi [N, n] and inside: what the properties below are tried on.
WAYS = {
    "online": lambda phi, inside, t: sa.lira(phi, inside, t),
    "online, own": lambda phi, inside, t: sa.lira(phi, inside, t, variance="own"),
    "one-sided": lambda phi, inside, t: sa.lira(phi, inside, t, form="one-sided", variance="own"),
    "likelihood": lambda phi, inside, t: sa.lira(phi, inside, t, form="likelihood", variance="own"),
    "rmia": lambda phi, inside, t: sa.rmia(expit(phi), inside, t),
    "rmia offline": lambda phi, inside, t: sa.rmia(expit(phi), inside, t, a=0.3),
    "labels": lambda phi, inside, t: sa.label_only(np.round(expit(phi) * 18) / 18, inside, t),
    "labels, raw": lambda phi, inside, t: sa.label_only(expit(phi), inside, t, calibrated=False),
    "distance": lambda phi, inside, t: sa.calibrated_distance(30 * np.exp(-phi / 4), inside, t),
    "denoising": lambda phi, inside, t: sa.denoising(np.exp(-np.stack([phi, -phi], 2) / 4), inside, t),
    "model": lambda phi, inside, t: sa.attack_model(phi[..., None], inside, t),
}


# Scores


def test_scaled_logit_is_the_log_odds_of_the_true_class():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (5, 20, 4, 3)), rng.integers(0, 3, 20)
    p = softmax(logits, axis=-1)[:, np.arange(20), :, labels].transpose(1, 0, 2)
    assert sa.scaled_logit(logits, labels[:, None]) == pytest.approx(np.log(p / (1 - p)), abs=1e-9)
    assert sa.scaled_logit(logits[0, :, 0], labels) == pytest.approx(sa.scaled_logit(logits, labels[:, None])[0, :, 0])
    certain = np.array([[800.0, 0, 0], [0, 800.0, 0]], np.float32)
    assert sa.scaled_logit(certain, np.array([0, 0])) == pytest.approx([800 - np.log(2), -800])
    ensemble = metrics.ensemble(logits[:, :, 0])  # logarithms of mean probabilities
    mean = softmax(logits[:, :, 0], axis=-1).mean(0)[np.arange(20), labels]
    assert sa.scaled_logit(ensemble, labels) == pytest.approx(np.log(mean / (1 - mean)))


def test_features_by_hand():
    p = np.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]])
    seen = sa.features(np.log(p) + 7, np.array([0, 0]))
    assert np.exp(seen[:, :4]) == pytest.approx(np.array([[0.5, 0.3, 0.15, 0.5], [0.4, 0.3, 0.2, 0.1]]))
    assert seen[:, 4].tolist() == [1, 0]
    assert sa.features(np.zeros((6, 5, 2)), np.zeros(5, int)).shape == (6, 5, 4), "two classes have no third"


# Which shadows


def test_both_sides_have_equally_many_shadows_and_never_the_target():
    inside = audit.halves(50, 8, 0)
    for target in range(8):
        with_, without = sa._shadows(inside, [target])
        assert with_.shape == without.shape == (3, 50)
        for k in range(50):
            assert inside[with_[:, k], k].all()
            assert not inside[without[:, k], k].any()
            assert len({target, *with_[:, k], *without[:, k]}) == 7
        fewer = sa._shadows(inside, [target, (target + 3) % 8])
        assert fewer[0].shape == (2, 50)
        assert not np.isin(fewer, [target, (target + 3) % 8]).any()


@pytest.mark.parametrize("name", WAYS)
def test_what_the_target_saw_makes_no_difference_and_neither_does_the_order_of_records(name):
    rng = np.random.default_rng(1)
    phi, inside = world(rng, 8, 60, lift=1.0)
    scores = WAYS[name](phi, inside, 3)
    turned = inside.copy()
    turned[3] = ~turned[3]
    order = rng.permutation(60)
    assert (scores == WAYS[name](phi, turned, 3)).all()
    assert WAYS[name](phi[:, order], inside[:, order], 3) == pytest.approx(scores[order], abs=1e-9)


@pytest.mark.parametrize("name", ["online", "one-sided", "likelihood", "rmia", "labels", "distance"])
def test_a_shadow_is_never_the_target_itself(name):
    """The attacked outputs of all other records change: a record's own score may change through what is pooled only."""
    phi, inside = world(np.random.default_rng(2), 8, 60)
    other = phi.copy()
    other[3, 1:] = 5.0
    if name == "rmia":  # z are the pool's records, as the target sees them
        z = expit(phi[:, :20])
        scores = [sa.rmia(expit(values), inside, 3, p_z=z) for values in (phi, other)]
    else:
        scores = [WAYS[name](values, inside, 3) for values in (phi, other)]
    assert scores[0][0] == scores[1][0]


# Nothing where there is nothing


@pytest.mark.parametrize("name", WAYS)
def test_nothing_is_found_where_nothing_leaks(name):
    """A mean over worlds, so that one half is known to within about 0.003."""
    rng = np.random.default_rng(3)
    worlds = [
        world(rng, 8 if name in ("denoising", "model") else N, 120)
        for _ in range({"model": 8, "denoising": 6}.get(name, 30))
    ]
    found = [auc(every_target(WAYS[name], phi, inside), inside) for phi, inside in worlds]
    assert abs(np.mean(found) - 0.5) < 4 * np.std(found, ddof=1) / len(found) ** 0.5
    assert np.mean(found) == pytest.approx(0.5, abs=0.015)


@pytest.mark.parametrize("name", WAYS)
def test_the_same_outputs_as_member_and_as_outsider_are_the_negative_control(name):
    """The shadows remember; the target says the same of a record whether it saw it or not, and nothing is found."""
    rng, found = np.random.default_rng(23), []
    for _ in range({"model": 4, "denoising": 6}.get(name, 20)):
        phi, inside = world(rng, 8, 240, lift=3.0)
        phi[3] -= 3.0 * inside[3]
        found.append(auc(WAYS[name](phi, inside, 3), inside[3]))
    assert np.mean(found) == pytest.approx(0.5, abs=4 * np.std(found, ddof=1) / len(found) ** 0.5)


def test_with_all_shadows_an_attack_that_sees_nothing_would_not_be_at_one_half():
    """Why the larger side leaves one shadow out: 3 and 4 shadows estimate unequally well, and which is which tells."""

    def unequal(phi, inside, target):
        others = np.delete(np.arange(len(phi)), target)
        density = []
        for side in (inside, ~inside):
            values = np.where(side[others], phi[others], np.nan)
            mean, spread = np.nanmean(values, 0), np.nanstd(values, 0)
            density.append(stats.norm.logpdf(phi[target], mean, spread))
        return density[0] - density[1]

    rng = np.random.default_rng(4)
    worlds = [world(rng, 8, 200) for _ in range(20)]
    biased, ours = ([auc(every_target(way, *one), one[1]) for one in worlds] for way in (unequal, WAYS["online, own"]))
    error = np.std(biased, ddof=1) / 20**0.5
    assert np.mean(biased) < 0.5 - 5 * error
    assert abs(np.mean(ours) - 0.5) < 4 * error


def test_shuffled_memberships_are_a_negative_control_for_a_model_that_remembers():
    rng = np.random.default_rng(5)
    phi, inside = world(rng, lift=3.0)
    for name in ("online", "one-sided", "rmia", "labels"):
        assert auc(every_target(WAYS[name], phi, inside), inside) > 0.85, name
        for drawn in (lambda seed: audit.shuffled(inside, seed), lambda seed: audit.halves(RECORDS, N, seed)):
            found = [auc(every_target(WAYS[name], phi, other), other) for other in map(drawn, range(12))]
            assert np.mean(found) == pytest.approx(0.5, abs=0.015), name


@pytest.mark.parametrize("name", ["online", "online, own", "rmia"])
def test_members_and_non_members_swapped(name):
    """LiRA's online score changes sign; RMIA's does not know which shadows are which."""
    phi, inside = world(np.random.default_rng(6), 8, 60, lift=1.0)
    scores, swapped = (WAYS[name](phi, side, 0) for side in (inside, ~inside))
    assert swapped == pytest.approx(scores if name == "rmia" else -scores)


# Closed forms


def test_lira_tends_to_the_best_test_as_shadows_grow():
    """Phi is N(1, 1) inside and N(0, 1) outside, about each record's own level: the best AUC is Phi(1 / sqrt 2)."""
    best = stats.norm.cdf(1 / 2**0.5)
    rng, found = np.random.default_rng(7), []
    for pipelines in (8, 32, 128):
        phi, inside = world(rng, pipelines, 6400 // pipelines, lift=1.0)
        found.append(auc(every_target(WAYS["online"], phi, inside), inside))
    assert found[0] < found[1] < best
    assert found[0] < found[2]
    assert found[2] == pytest.approx(best, abs=0.01)


def test_lira_is_the_likelihood_ratio_where_the_shadows_are_the_distributions():
    """Shadows at mean +- spread have exactly that mean and spread: the score is the closed form."""
    inside = np.array([[1, 1], [1, 0], [1, 1], [0, 0], [0, 1], [0, 0], [1, 1], [0, 0]], bool)
    phi = np.zeros((8, 2))
    for k, side, values in ((0, True, (1, 3, 2)), (0, False, (-1, 1, 0)), (1, True, (5, 7, 6)), (1, False, (4, 4, 7))):
        rows = sa._shadows(inside, [0])[0 if side else 1][:, k]
        phi[rows, k] = values
    phi[0] = 2.5, 5.0
    spread = (2 / 3) ** 0.5
    expected = stats.norm.logpdf(2.5, 2, spread) - stats.norm.logpdf(2.5, 0, spread)
    assert sa.lira(phi, inside, 0, variance="own")[0] == pytest.approx(expected)
    assert sa.lira(phi, inside, 0, form="one-sided", variance="own") == pytest.approx([2.5 / spread, 0])
    assert sa.lira(phi, inside, 0, form="likelihood", variance="own")[1] == pytest.approx(
        -stats.norm.logpdf(5, 5, 2**0.5)
    )
    # One spread for all: outside, the mean of 2/3 and 2; inside 2/3 in both
    both = ((2 / 3 + 2) / 2) ** 0.5
    assert sa.lira(phi, inside, 0, form="one-sided") == pytest.approx([2.5 / both, 0])
    assert sa.lira(phi, inside, 0)[0] == pytest.approx(
        stats.norm.logpdf(2.5, 2, spread) - stats.norm.logpdf(2.5, 0, both)
    )


def test_queries_are_averaged_and_a_repeated_query_changes_nothing():
    phi, inside = world(np.random.default_rng(8), 8, 60, lift=1.0)
    for form in sa.FORMS:
        one, other = sa.lira(phi, inside, 0, form=form), sa.lira(phi**3, inside, 0, form=form)
        assert sa.lira(phi[..., None], inside, 0, form=form) == pytest.approx(one)
        assert sa.lira(np.stack([phi, phi, phi], 2), inside, 0, form=form) == pytest.approx(one)
        assert sa.lira(np.stack([phi, phi**3], 2), inside, 0, form=form) == pytest.approx((one + other) / 2)


def test_more_queries_find_more():
    rng = np.random.default_rng(9)
    phi, inside = world(rng, lift=0.7)
    queries = phi[..., None] + rng.normal(0, 1.5, (*phi.shape, 8))
    assert auc(every_target(sa.lira, queries, inside), inside) > auc(
        every_target(sa.lira, queries[..., 0], inside), inside
    )


@pytest.mark.parametrize("move", [lambda phi: 3 * phi - 7, lambda phi: phi + np.linspace(-5, 5, phi.shape[1])])
def test_lira_knows_no_unit_and_no_record_s_own_level(move):
    phi, inside = world(np.random.default_rng(10), 8, 60, lift=1.0)
    for variance in sa.VARIANCES:
        scores = [sa.lira(values, inside, 2, variance=variance) for values in (phi, move(phi))]
        assert scores[0] == pytest.approx(scores[1], abs=1e-8)


def test_shadows_that_all_agree_give_numbers():
    inside = audit.halves(20, 8, 0)
    agreed = np.ones((8, 20))
    assert (sa.lira(agreed, inside, 0) == 0).all()
    agreed[0, 3] = 0.5
    for form in sa.FORMS:
        assert np.isfinite(sa.lira(agreed, inside, 0, form=form, variance="own")).all()


# RMIA by hand


def test_rmia_by_hand_on_four_records():
    inside = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]], bool)
    p = np.array([[0.8, 0.9, 0.2, 0.4], [0.5, 0.3, 0.6, 0.4], [0.9, 0.2, 0.5, 0.2], [0.3, 0.4, 0.1, 0.6]])
    p_z = np.array([[0.2, 0.5, 0.9], [0.4, 0.5, 0.3], [0.6, 0.5, 0.3], [0.2, 0.5, 0.3]])
    # Pipeline 1 completes the target and is left out: of the other two each record has one inside and one outside.
    # p(x) = (0.9 + 0.3) / 2, (0.4 + 0.2) / 2, (0.5 + 0.1) / 2, (0.6 + 0.2) / 2; ratios 1.333, 3, 0.667, 1
    # p(z) = 0.4, 0.5, 0.3; ratios 0.5, 1, 3
    assert sa.rmia(p, inside, 0, p_z=p_z) == pytest.approx([1 / 3, 2 / 3, 0, 0])
    assert sa.rmia(p, inside, 0, p_z=p_z, gamma=1.2) == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3])
    # Offline, a = 0.5: (1.5 p_out + 0.5) / 2 = 0.475, 0.4, 0.325, 0.4; ratios 1.684, 2.25, 0.615, 1
    assert sa.rmia(p, inside, 0, p_z=p_z, a=0.5) == pytest.approx([1 / 3, 2 / 3, 0, 0])
    assert sa.rmia(p, inside, 0, p_z=p_z, a=0.5, gamma=1.2) == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3])
    # Without others, the pool: p(z) = 0.567, 0.3, 0.4, 0.4; ratios 1.412, 3, 0.5, 1
    assert sa.rmia(p, inside, 0, gamma=2.1) == pytest.approx([1 / 4, 3 / 4, 0, 0])


def test_z_are_a_yardstick_that_leaves_the_order():
    phi, inside = world(np.random.default_rng(11), lift=1.0)
    p, z = expit(phi), expit(world(np.random.default_rng(12), N, 4000)[0])
    outside, pool = (stats.rankdata(sa.rmia(p, inside, 0, p_z=each)) for each in (z, p))
    assert stats.spearmanr(outside, pool)[0] > 0.98


def test_a_is_tuned_on_a_shadow_and_never_on_the_target():
    rng = np.random.default_rng(13)
    phi, inside = world(rng, lift=2.0)
    p, z = expit(phi), expit(rng.normal(0, 3, (N, 500)))
    best = sa.tune_a(p, inside, 4, p_z=z)
    assert best in sa.A_GRID
    # The value with the largest AUC on pipeline 6, found by hand; 5 is the target's twin
    aucs = []
    for a in sa.A_GRID:
        others = [k for k in range(N) if k not in (4, 6)]
        order = [k for k in np.roll([k for k in others if k != 7], -5)] + [7]
        out = np.stack([p[[k for k in order if not inside[k, i]][: N // 2 - 2], i].mean() for i in range(RECORDS)])
        ratio = p[6] / (((1 + a) * out + 1 - a) / 2)
        ratio_z = z[6] / z[others].mean(0)
        aucs.append(auc((ratio[:, None] / ratio_z > 2).mean(1), inside[6]))
    assert best == sa.A_GRID[int(np.argmax(aucs))]
    # The target takes no part, in any way
    changed, turned = p.copy(), inside.copy()
    changed[4], turned[4] = rng.random(RECORDS), ~inside[4]
    assert sa.tune_a(changed, turned, 4, p_z=z) == best
    assert sa.tune_a(p, inside, 4, p_z=z, shadow=6) == best
    for shadow in (4, 5):  # what the twin saw is what the target did not see
        with pytest.raises(InputError, match="tuned on its target"):
            sa.tune_a(p, inside, 4, shadow=shadow)


# Peers, in an environment of their own: the table holds what they gave, to six decimals

PHI = np.array([[2.9, 2.0, 2.0, -0.1, 3.1, -0.3], [0.1, 2.2, 1.3, 2.3, -1.8, 0.0], [2.3, 2.4, 0.3, -1.3, -0.7, 0.7],
                [0.6, 0.5, 1.0, 1.7, -0.3, -2.3], [0.5, 3.0, 0.9, 1.5, -0.1, -2.5], [0.3, 2.1, 2.2, 0.1, 1.0, 0.7],
                [1.9, 1.6, 1.1, 1.1, 0.8, -0.6], [-0.8, 2.8, 1.6, 0.4, 0.4, -0.6]])  # fmt: skip
PHI_Z = np.array([[0.4, -4.5, -1.9, -2.1, -2.3, -1.1], [2.2, -1.0, -1.6, 0.5, -0.4, -0.3],
                  [-1.5, -0.5, 0.2, -3.4, -2.9, 1.1], [0.8, -1.3, -2.0, -0.8, -2.3, -1.0],
                  [2.0, -0.3, 1.2, -0.8, 0.1, 1.6], [-2.5, -1.0, -0.7, -0.1, 1.8, 0.5],
                  [-2.7, -0.9, -1.8, -1.9, 2.5, -2.1], [-0.1, -1.6, 0.8, 0.0, -0.3, -0.6]])  # fmt: skip
HALVES = ["110010", "001101", "110001", "001110", "110100", "001011", "100011", "011100"]
INSIDE = np.array([[sign == "1" for sign in row] for row in HALVES])


@pytest.mark.parametrize(
    ("form", "variance", "theirs"),
    [
        # mialibrary 0.1.5, run_simple_lira(use_median=False) on the shadows that both sides keep
        ("online", "fixed", [6.158134, -0.263826, 1.558661, -2.435897, 0.777907, 2.082599]),
        ("online", "own", [9.602403, -2.932893, 5.882954, -2.040836, 15.262176, 1.450681]),
        # sacroml 2.0.1, modes "offline" (Phi of ours) and "offline-carlini"; "online-carlini" gave the line above
        ("one-sided", "own", [0.999999, 0.815343, 0.999857, 0.473001, 1.0, 0.960766]),
        ("likelihood", "own", [11.754748, 0.918952, 6.421667, 0.905429, 25.968646, 2.30746]),
    ],
)
def test_lira_agrees_with_mialibrary_and_sacroml(form, variance, theirs):
    ours = sa.lira(PHI, INSIDE, 0, form=form, variance=variance)
    assert (stats.norm.cdf(ours) if form == "one-sided" else ours) == pytest.approx(theirs, abs=2e-6)


def test_rmia_agrees_with_mialibrary():
    """0.1.5, gamma 1; its offline form has a = 1. It divides by the number of records: here as many as z."""
    p, p_z = expit(PHI), expit(PHI_Z)
    online = sa.rmia(p, INSIDE, 0, p_z=p_z, gamma=1)
    assert online == pytest.approx(np.array([6, 5, 5, 5, 6, 5]) / 6)
    assert sa.rmia(p, INSIDE, 0, p_z=p_z, gamma=1, a=1.0) == pytest.approx(np.array([6, 5, 6, 5, 6, 6]) / 6)


# Jax-privacy 2.0.0, _epsilon_one_run at 95 %; METHOD.md's 0.26, 0.69 and 5.2 are the first three
ONE_RUN = [(328, 546, 546, 0, 0.26146), (382, 546, 546, 0, 0.68877), (546, 546, 546, 0, 5.20269)]
ONE_RUN += [(382, 400, 546, 1e-5, 2.64838), (60, 80, 200, 1e-3, 0.57389), (30, 60, 60, 0, 0.0)]


@pytest.mark.parametrize(("right", "guesses", "canaries", "delta", "theirs"), ONE_RUN)
def test_one_run_bound_agrees_with_jax_privacy(right, guesses, canaries, delta, theirs):
    ours = sa.one_run_epsilon(right, guesses, delta=delta, canaries=canaries)
    assert ours == pytest.approx(theirs, abs=1e-4)


# One-run bound


def test_one_run_bound_inverts_the_binomial_and_holds_for_randomised_response():
    epsilon = sa.one_run_epsilon(70, 100)
    assert stats.binom.sf(69, 100, expit(epsilon)) == pytest.approx(0.05)
    assert sa.one_run_epsilon(70, 100, p=0.01) < epsilon
    assert sa.one_run_epsilon(0, 0) == 0
    # A mechanism of epsilon 1 is guessed right with probability e / (1 + e): the bound passes 1 in 5 % of runs
    right = np.random.default_rng(0).binomial(200, expit(1.0), 2000)
    bounds = {int(k): sa.one_run_epsilon(int(k), 200) for k in np.unique(right)}
    assert np.mean([bounds[int(k)] > 1 for k in right]) < 0.05 + 0.015


@pytest.mark.parametrize("wrong", [(5, 4), (-1, 4), (1, 4, 0.0), (1, 4, 1.0)])
def test_impossible_guesses_are_refused(wrong):
    with pytest.raises(InputError, match="out of range"):
        sa.one_run_epsilon(*wrong)


def test_canary_guesses_by_hand():
    scores, inside = np.array([0.9, 0.1, 0.8, 0.2, 0.5, 0.4]), np.array([1, 0, 0, 0, 1, 1], bool)
    assert sa.canary_guesses(scores, inside, share=1.0) == (5 - 1, 6)
    assert sa.canary_guesses(scores, inside, share=2 / 3) == (3, 4)
    assert sa.canary_guesses(scores, inside, share=1 / 3) == (2, 2)


# The others


def test_the_attack_model_finds_what_no_single_threshold_does():
    """Members are either more or less certain than others: only a trained attack can know."""
    rng = np.random.default_rng(14)
    inside = audit.halves(150, 8, 0)
    seen = rng.normal(size=(8, 150, 2))
    seen[..., 0] += np.where(inside, rng.choice([-3, 3], (8, 150)), 0)
    assert auc(seen[..., 0], inside) == pytest.approx(0.5, abs=0.05)
    assert auc(every_target(sa.attack_model, seen, inside), inside) > 0.85


def test_labels_are_calibrated_by_shadows():
    """Some images everybody gets right: their agreement is high, member or not."""
    rng = np.random.default_rng(15)
    inside = audit.halves(RECORDS, N, 0)
    agreement = rng.binomial(18, np.clip(rng.random(RECORDS) + 0.2 * inside, 0, 1)) / 18
    raw = every_target(sa.label_only, agreement, inside, calibrated=False)
    calibrated = every_target(sa.label_only, agreement, inside)
    assert (raw == agreement).all()
    assert auc(calibrated, inside) > auc(raw, inside) + 0.1


def test_quantiles_take_off_what_an_image_s_looks_explain():
    rng = np.random.default_rng(16)
    looks, inside = rng.normal(size=(1200, 3)), rng.random(1200) < 0.5
    scores = 4 * np.sin(2 * looks[:, 0]) + rng.normal(size=1200) * np.exp(looks[:, 1] / 2) + 1.5 * inside
    ours = sa.quantile(scores, looks, inside)
    assert auc(ours, inside) > auc(scores, inside) + 0.05
    # Nobody's own score took part in its quantiles: of an outsider that is odd, the score stays odd
    assert ours.shape == (1200,)
    nothing = [
        auc(sa.quantile(rng.normal(size=400), looks[:400], inside[:400], seed=k), inside[:400]) for k in range(8)
    ]
    assert np.mean(nothing) == pytest.approx(0.5, abs=0.04)
    with pytest.raises(InputError, match="at least 20"):
        sa.quantile(scores[:30], looks[:30], np.arange(30) < 20)


def test_quantile_regression_tends_to_the_best_test_there_is_as_non_members_grow():
    """Gaussian scores of known mean and spread: the best of all attacks without shadows is then (s - mean) / spread."""

    def against_the_best(n: int) -> tuple[float, float]:
        rng = np.random.default_rng(17)
        looks, inside = rng.normal(size=(n, 3)), rng.random(n) < 0.5
        mean, spread = 4 * np.sin(2 * looks[:, 0]), np.exp(looks[:, 1] / 2)
        scores = mean + spread * (rng.normal(size=n) + inside)
        ours, best = sa.quantile(scores, looks, inside), (scores - mean) / spread
        assert auc(best, inside) == pytest.approx(stats.norm.cdf(1 / 2**0.5), abs=0.05)
        return auc(best, inside) - auc(ours, inside), stats.spearmanr(ours, best).statistic

    lost, alike = zip(*map(against_the_best, (500, 4_000, 32_000)))
    assert lost[0] > lost[1] > lost[2]
    assert lost[2] < 0.02
    assert alike[0] < alike[1] < alike[2]
    assert alike[2] > 0.93


def blobs(rng, count, levels):
    """Smooth 8 x 8 images of as many kinds as `levels` tells."""
    base = np.array([np.add.outer(np.arange(8) * k, np.arange(8) * (3 - k)) for k in range(levels)]) * 6.0
    return np.clip(base[rng.integers(levels, size=count)] + rng.normal(0, 12, (count, 8, 8)), 0, 255)[:, None].astype(
        np.uint8
    )


def test_a_generator_that_copies_is_caught_by_its_images_and_one_that_does_not_is_not():
    rng = np.random.default_rng(17)
    pool, inside = blobs(rng, 120, 3), audit.halves(120, 8, 0)
    near, density = {}, {}
    for name in ("copies", "strangers"):
        released = [
            np.clip(pool[inside[k]] + rng.normal(0, 4, (60, 1, 8, 8)), 0, 255).astype(np.uint8)
            if name == "copies"
            else blobs(rng, 60, 3)
            for k in range(8)
        ]
        distance = np.stack([attacks.nearest(pool, each)[0] for each in released])
        near[name] = auc(every_target(sa.calibrated_distance, distance, inside), inside)
        scores = np.stack([sa.density_ratio(pool, each, blobs(rng, 200, 3), 3) for each in released])
        density[name] = auc(scores, inside)
    assert near["copies"] > 0.95
    assert near["strangers"] == pytest.approx(0.5, abs=0.06)
    assert density["copies"] > 0.6
    assert density["strangers"] == pytest.approx(0.5, abs=0.06)


def test_density_ratio_is_the_closed_form_of_two_gaussians():
    """Along one direction, released at mean 150 and reference at 100: the log ratio is linear between them."""
    rng = np.random.default_rng(18)
    direction = np.ones((1, 2, 2)) / 2
    released, reference = ((mean + rng.normal(0, 12, 3000))[:, None, None, None] * direction for mean in (140.0, 100.0))
    levels = np.array([100.0, 110, 120, 130, 140])
    scores = sa.density_ratio(levels[:, None, None, None] * direction, released, reference, 1)
    assert np.diff(scores) == pytest.approx(10 * 40 / 144, rel=0.3)
    assert scores[2] == pytest.approx(0, abs=0.4)
    with pytest.raises(InputError, match="1 to 10"):
        sa.density_ratio(released, released, reference, 11)


def test_density_ratio_is_the_sum_of_kernels_written_out():
    rng = np.random.default_rng(24)
    released, reference = (rng.integers(0, 256, (n, 1, 1, 1), dtype=np.uint8) for n in (6, 9))
    images = np.array([20, 120, 240], np.uint8)[:, None, None, None]
    pooled = np.concatenate([released, reference]).ravel() / 255
    mean, spread = pooled.mean(), pooled.std(ddof=1)

    def log_density(side):
        x, at = (side.ravel() / 255 - mean) / spread, (images.ravel() / 255 - mean) / spread
        width = len(x) ** (-1 / 5) * x.std(ddof=1)  # Scott's rule in one dimension
        return np.log(stats.norm.pdf(at[:, None], x, width).mean(1))

    expected = log_density(released) - log_density(reference)
    assert sa.density_ratio(images, released, reference, 1) == pytest.approx(expected, abs=1e-6)


def test_labels_only_by_hand():
    """Of eight pipelines the target and, for each record, the three without it."""
    inside = np.zeros((8, 2), bool)
    inside[[0, 1, 2, 3], 0] = inside[[4, 5, 6, 0], 1] = True
    agreement = np.full((8, 2), 0.5)
    agreement[0] = 0.9, 0.4
    without = sa._shadows(inside, [0])[1]
    agreement[without[:, 0], 0], agreement[without[:, 1], 1] = (0.2, 0.3, 0.4), (0.1, 0.1, 0.4)
    assert sa.label_only(agreement, inside, 0) == pytest.approx([0.9 - 0.3, 0.4 - 0.2])
    assert sa.label_only(agreement, inside, 0, calibrated=False).tolist() == [0.9, 0.4]


def test_an_exact_copy_counts_as_a_copy_and_not_as_infinity():
    inside = audit.halves(20, 8, 0)
    distance = np.where(inside, 0.0, 25.0)
    scores = every_target(sa.calibrated_distance, distance, inside, variance="own")
    assert np.isfinite(scores).all()
    assert auc(scores, inside) == 1


def test_the_noise_level_is_chosen_on_shadows():
    rng = np.random.default_rng(19)
    inside = audit.halves(80, 8, 0)
    losses = np.exp(rng.normal(size=80)[:, None] + 0.3 * rng.normal(size=(8, 80, 4)))
    losses[..., 2] *= np.where(inside, 0.6, 1)
    assert [sa.best_sigma(losses, inside, t) for t in range(8)] == [2] * 8
    assert sa.denoising(losses, inside, 1) == pytest.approx(sa.lira(-np.log(losses[..., 2]), inside, 1))
    misleading, turned = losses.copy(), inside.copy()
    misleading[1, :, 0] = np.where(inside[1], 1e-6, 1e6)  # the target alone would have chosen the first
    turned[1] = ~turned[1]
    assert sa.best_sigma(misleading, turned, 1) == 2
    twin = losses.copy()
    twin[0, :, 0] = np.where(inside[0], 1e-6, 1e6)  # and so would its twin, whose memberships are the target's turned
    assert sa.best_sigma(twin, inside, 1) == 2


def test_image_features_are_components_beside_the_label():
    rng = np.random.default_rng(20)
    known = sa.image_features(blobs(rng, 50, 3), np.repeat([0, 1], 25), components=4)
    assert known.shape == (50, 6)
    assert known[:, 4:].tolist() == [[1, 0]] * 25 + [[0, 1]] * 25
    assert np.cov(known[:, :4].T) == pytest.approx(np.eye(4), abs=1e-6)


# Bad input


def test_arrays_that_no_attack_can_be_made_of_are_refused_in_one_line():
    phi, inside = world(np.random.default_rng(21), 8, 20)
    odd, few = inside.copy(), (phi[:4], audit.halves(20, 4, 0))
    odd[:, 0] = [1, 1, 1, 1, 1, 1, 0, 0]
    infinite = phi.copy()
    infinite[2, 3] = np.nan
    for wrong, message in (
        ((phi, odd, 0), "must be in half"),
        ((phi[:7], inside[:7], 0), r"7 pipelines; this attack needs an even number"),
        ((*few, 0), "at least 6"),
        ((phi, inside[:, :9], 0), "do not fit"),
        ((phi, inside, 8), "target is 8"),
        ((infinite, inside, 0), "not finite"),
    ):
        with pytest.raises(InputError, match=message):
            sa.lira(*wrong)
    with pytest.raises(InputError, match="form of LiRA is 'both'"):
        sa.lira(phi, inside, 0, form="both")
    with pytest.raises(InputError, match=r"not in \[0, 1\]"):
        sa.rmia(phi, inside, 0)
    with pytest.raises(InputError, match=r"a of RMIA is 1\.5"):
        sa.rmia(expit(phi), inside, 0, a=1.5)
    with pytest.raises(InputError, match="one row per pipeline"):
        sa.rmia(expit(phi), inside, 0, p_z=expit(phi[:3]))
