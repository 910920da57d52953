"""Known answers for every number that is reported."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from kr_utils import metrics

scores = st.lists(st.integers(-5, 5), min_size=2, max_size=30)


def test_accuracy_and_report_by_hand():
    logits = np.array([[2.0, 1, 0], [0, 3, 1], [0, 1, 5], [4, 0, 0]])
    labels = np.array([0, 1, 2, 1])
    report = metrics.classification_report(logits, labels, 3)
    assert metrics.accuracy(logits, labels) == report["accuracy"] == 0.75
    assert report["recall"] == [1.0, 0.5, 1.0]
    assert report["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_wilson_matches_the_published_formula():
    n, k, z = 156, 132, 1.959964
    p = k / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert metrics.wilson(k, n) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_macro_auc_of_two_classes_is_the_auc():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 2)), rng.integers(0, 2, 200)
    expected = roc_auc_score(labels, logits[:, 1] - logits[:, 0])
    assert metrics.macro_auc(logits, labels) == pytest.approx(expected)


def test_macro_auc_skips_a_class_that_does_not_occur():
    logits = np.eye(3)[[0, 1, 0, 1]]
    assert metrics.macro_auc(logits, np.array([0, 1, 0, 1])) == 1.0


def test_cas_gap_is_paired():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 500)
    real = np.eye(2)[np.where(rng.random(500) < 0.8, labels, 1 - labels)]
    student = real.copy()
    student[:10] = 1 - student[:10]  # ten answers change
    gap = metrics.cas_gap(student, real, labels)
    assert gap["gap"] == pytest.approx(metrics.accuracy(student, labels) - metrics.accuracy(real, labels))
    # Independent intervals would be about +-5 points wide; pairing leaves the ten changed answers.
    assert gap["gap_high"] - gap["gap_low"] < 0.03
    same = metrics.cas_gap(real, real, labels)
    assert same["gap"] == same["gap_low"] == same["gap_high"] == 0


def plain_two_way(values, draws, rng):
    """Seeds and images drawn one by one, the same images for every drawn seed."""
    s, n = values.shape
    means = []
    for _ in range(draws):
        images = rng.integers(n, size=n)
        means.append(np.mean([values[seed][images].mean() for seed in rng.integers(s, size=s)]))
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize(("seeds", "images"), [(1, 12), (3, 12), (4, 30)])
def test_two_way_agrees_with_a_plain_loop(seeds, images):
    rng = np.random.default_rng(seeds)
    easy = rng.random(images)  # images that are hard for one seed are hard for all
    values = (rng.random((seeds, images)) < easy).astype(float) - 0.5 * (rng.random((seeds, images)) < 0.3)
    mean, low, high = metrics.two_way(values, draws=8000)
    assert mean == pytest.approx(values.mean())
    # The Monte-Carlo error of these quantiles is about 0.006 at these numbers of draws and images.
    assert (low, high) == pytest.approx(tuple(plain_two_way(values, 6000, rng)), abs=0.03)
    assert metrics.two_way(values) == metrics.two_way(values), "the same numbers, the same interval"


def test_two_way_in_blocks_is_the_same_interval(monkeypatch):
    values = np.random.default_rng(0).normal(size=(3, 50))
    whole = metrics.two_way(values, draws=4000)
    monkeypatch.setattr(metrics, "_blocks", lambda draws, width: [1000, 2999, 1])
    assert metrics.two_way(values, draws=4000) == pytest.approx(whole, abs=0.03)
    monkeypatch.undo()
    assert metrics._blocks(2000, 2**22) == [1] * 2000
    assert metrics._blocks(2000, 2**15) == [128] * 15 + [80]
    assert metrics._blocks(5, 2**30) == [1] * 5


def test_two_way_by_hand():
    # One seed: the bootstrap over images. Of 400 draws of 0 or 1 the mean has a standard deviation of 0.025.
    mean, low, high = metrics.two_way(np.repeat([0.0, 1.0], 200))
    assert mean == 0.5
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.004)
    # Three seeds that agree on every image know no more than one does.
    assert metrics.two_way(np.tile(np.repeat([0.0, 1.0], 200), (3, 1))) == pytest.approx((mean, low, high), abs=0.004)
    # No spread between images: three seeds alone, of whose 27 draws one is the lowest three times
    assert metrics.two_way(np.repeat([[0.1], [0.2], [0.3]], 50, axis=1)) == pytest.approx((0.2, 0.1, 0.3))
    assert metrics.two_way(np.zeros((3, 40))) == (0, 0, 0)


def covered(seeds, of_seeds, of_images, of_both, repeats=250):
    """How often the intervals of `two_way` and of Student's t over seeds hold the true mean, zero."""
    rng, images, hits = np.random.default_rng(0), 100, np.zeros(2)
    for k in range(repeats):
        values = of_seeds * rng.normal(size=(seeds, 1)) + of_images * rng.normal(size=(1, images))
        values = values + of_both * rng.normal(size=(seeds, images))
        ends = metrics.two_way(values, seed=k, draws=300)[1:], metrics.mean_interval(values.mean(1))[1:]
        hits += [low <= 0 <= high for low, high in ends]
    return hits / repeats


def test_two_way_covers_where_students_t_over_seeds_does_not():
    # Three seeds, images that are easy or hard for all of them: t over seeds takes the test images for all there are.
    two, t = covered(3, of_seeds=0.02, of_images=1, of_both=0.3)
    assert 0.91 < two < 0.98
    assert t < 0.7
    # More seeds do not cure it: they make its interval narrower.
    two, t = covered(10, of_seeds=0.05, of_images=1, of_both=0.3)
    assert 0.91 < two < 0.98
    assert t < 0.5


def test_two_way_is_too_wide_for_luck_of_a_seed_on_an_image_and_too_narrow_where_few_seeds_differ_most():
    """Its limits, which its docstring names."""
    assert covered(3, of_seeds=0, of_images=0, of_both=1)[0] > 0.98
    assert covered(3, of_seeds=1, of_images=0.5, of_both=0.3)[0] < 0.85


@pytest.mark.parametrize("levels", [3, 1000])
def test_two_way_auc_agrees_with_a_plain_loop(levels):
    rng = np.random.default_rng(levels)
    first = rng.integers(0, levels, (3, 25)) + levels // 4, rng.integers(0, levels, (3, 15))
    second = rng.integers(0, levels, (3, 25)), rng.integers(0, levels, (3, 15))

    def auc(pair, seed, i, j):
        a, b = pair[0][seed][i][:, None], pair[1][seed][j]
        return (a > b).mean() + 0.5 * (a == b).mean()

    one, minus = [], []
    for _ in range(4000):
        i, j, k = rng.integers(25, size=25), rng.integers(15, size=15), rng.integers(3, size=3)
        one.append(np.mean([auc(first, seed, i, j) for seed in k]))
        minus.append(one[-1] - np.mean([auc(second, seed, i, j) for seed in k]))
    for found, plain in ((metrics.two_way_auc(first, draws=6000), one),
                         (metrics.two_way_auc(first, second, draws=6000), minus)):  # fmt: skip
        assert found[1:] == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.025)
    aucs = [np.mean([metrics.attack_auc(a, b) for a, b in zip(*pair)]) for pair in (first, second)]
    assert metrics.two_way_auc(first)[0] == pytest.approx(aucs[0])
    assert metrics.two_way_auc(first, second)[0] == pytest.approx(aucs[0] - aucs[1])


def test_two_way_auc_of_one_seed_is_the_bootstrap_and_of_a_pair_with_itself_zero():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0.5, 1, 200), rng.normal(0, 1, 150)
    _, low, high = metrics.two_way_auc((inside[None], outside[None]), draws=4000)
    assert (low, high) == pytest.approx(metrics.bootstrap_auc(inside, outside, draws=4000), abs=0.006)
    assert metrics.two_way_auc(*[(inside[None], outside[None])] * 2) == pytest.approx((0, 0, 0), abs=1e-12)
    # Three seeds with the very same scores know no more than one: an interval over seeds alone would be a point.
    three = tuple(np.tile(scores, (3, 1)) for scores in (inside, outside))
    assert metrics.two_way_auc(three, draws=4000)[1:] == pytest.approx((low, high), abs=0.006)


BLIND = [(156, 0.01, 2 / 157), (100, 0.01, 2 / 101), (199, 0.01, 2 / 200), (1000, 0.001, 2 / 1001)]


@pytest.mark.parametrize(("n", "fpr", "blind"), [*BLIND, (99, 0.01, None), (999, 0.001, None)])
def test_what_a_blind_attack_expects(n, fpr, blind):
    assert metrics.blind_tpr(n, fpr) == (None if blind is None else pytest.approx(blind))


def test_noise_has_the_blind_rate_and_not_one_percent():
    rng = np.random.default_rng(0)
    rates = [metrics.tpr_at_fpr(rng.random(50), rng.random(156), 0.01) for _ in range(1500)]
    # Its standard error is 0.0006: 0.0127, not 0.01
    assert np.mean(rates) == pytest.approx(metrics.blind_tpr(156, 0.01), abs=0.0018)


def test_mean_interval_by_hand():
    mean, low, high = metrics.mean_interval([1.0, 2.0, 3.0])
    half = 4.302653 * 1.0 / np.sqrt(3)  # t quantile for 2 degrees of freedom
    assert (mean, low, high) == pytest.approx((2.0, 2 - half, 2 + half), abs=1e-5)
    assert np.isnan(metrics.mean_interval([0.9])[1])


@given(scores, scores)
def test_attack_auc_is_the_share_of_ordered_pairs(inside, outside):
    inside, outside = np.array(inside, float), np.array(outside, float)
    pairs = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    assert metrics.attack_auc(inside, outside) == pytest.approx(pairs)


@pytest.mark.parametrize(("m", "n", "levels"), [(40, 60, 1000), (25, 25, 4), (200, 30, 12)])
def test_bootstrap_agrees_with_a_plain_loop(m, n, levels):
    """The vectorised bootstrap has the distribution of resampling images one by one, ties included."""
    rng = np.random.default_rng(m)
    inside, outside = rng.integers(0, levels, m) + levels // 4, rng.integers(0, levels, n)
    plain = []
    for _ in range(10_000):
        a, b = rng.choice(inside, m), rng.choice(outside, n)
        plain.append((a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean())
    interval = metrics.bootstrap_auc(inside, outside, draws=10_000)
    # The Monte-Carlo error of these quantiles is about 0.003 at these numbers of draws.
    assert interval == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.012)


def test_tpr_at_fpr_by_hand_and_not_estimable():
    outside = np.arange(100.0)  # one false accusation in a hundred: threshold above 98
    inside = np.array([98.5, 99.5, 50.0, 10.0])
    assert metrics.tpr_at_fpr(inside, outside, 0.01) == 0.5
    assert metrics.tpr_at_fpr(inside, outside, 0.001) is None
    assert metrics.tpr_at_fpr(inside, outside[:99], 0.01) is None
    assert metrics.tpr_at_fpr(np.full(5, 3.0), np.full(200, 3.0), 0.01) == 0.0  # ties: all or nothing


def test_advantage_of_separable_and_of_equal_scores():
    rng = np.random.default_rng(0)
    assert metrics.advantage(rng.normal(10, 1, 500), rng.normal(0, 1, 500)) == pytest.approx(1.0, abs=0.01)
    noise = [metrics.advantage(rng.normal(size=100), rng.normal(size=100), seed) for seed in range(200)]
    assert abs(np.mean(noise)) < 0.02, "choosing the threshold on the scored half would show an advantage in noise"


def test_aop_by_hand():
    assert metrics.aop(0.9, 0.75, 2) == pytest.approx(0.9 / 1.5**2)
    assert metrics.aop(0.9, 0.4, 2) == 0.9, "an AUC below one half is no extra privacy"
    assert metrics.aop(0.8, 0.6, 0) == 0.8


def test_pareto_front_by_hand():
    rows = [{"cas": cas, "cost": cost} for cas, cost in ((0.9, 10), (0.8, 5), (0.7, 7), (0.95, 30), (0.9, 12))]
    assert [(r["cost"], r["cas"]) for r in metrics.pareto(rows)] == [(5, 0.8), (10, 0.9), (30, 0.95)]


def test_an_ensemble_averages_probabilities_and_not_logits():
    one, other = np.log([[0.9, 0.1]]), np.log([[0.3, 0.7]]) + 5  # a constant in the logits changes nothing
    assert np.allclose(np.exp(metrics.ensemble(np.stack([one, other]))), [[0.6, 0.4]])
    assert np.isfinite(metrics.ensemble(np.array([[[2000.0, -2000.0]], [[2000.0, -2000.0]]]))).all()
