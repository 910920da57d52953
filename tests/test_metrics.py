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
