"""Attack scores against plain re-computation; attacks must find leakage where it is, and none where it is not."""

import math

import numpy as np
import pytest

from kr_utils import attacks, metrics


def plain_scores(logits, label):
    p = [math.exp(v - max(logits)) for v in logits]
    p = [v / sum(p) for v in p]
    modified = -(1 - p[label]) * math.log(p[label])
    modified -= sum(q * math.log(1 - q) for k, q in enumerate(p) if k != label)
    return {"loss": math.log(p[label]), "confidence": math.log(max(p)), "entropy": -modified}


def test_scores_against_the_formulas_written_out():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (50, 4)), rng.integers(0, 4, 50)
    fast = attacks.scores(logits, labels)
    for k in range(50):
        for name, value in plain_scores(logits[k].tolist(), labels[k]).items():
            assert fast[name][k] == pytest.approx(value, abs=1e-9), name


def test_scores_of_a_near_certain_network_stay_finite_and_ordered():
    logits = np.array([[40.0, 0, 0], [60.0, 0, 0], [80.0, 0, 0]], np.float32)
    for name, values in attacks.scores(logits, np.zeros(3, int)).items():
        assert np.isfinite(values).all(), name
        assert (np.diff(values) >= 0).all(), f"{name}: more certain must not score lower"
    right, wrong = (attacks.scores(logits, np.full(3, k))["entropy"] for k in (0, 1))
    assert (right > wrong).all()
    assert np.isfinite(wrong).all()


def leaky(rng, n, shift, labels):
    """Logits whose true class is `shift` more certain."""
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), labels] += 2 + shift
    return logits


def test_a_leak_is_found_and_its_absence_too():
    rng = np.random.default_rng(0)
    y_in, y_out = rng.integers(0, 3, 1500), rng.integers(0, 3, 1500)
    for shift, found in ((1.5, True), (0.0, False)):
        scored = attacks.attack(leaky(rng, 1500, shift, y_in), y_in, leaky(rng, 1500, 0, y_out), y_out)
        for name, row in attacks.audit(scored, draws=200).items():
            assert (row["auc_low"] > 0.55) == found, (name, shift)
            assert (row["advantage"] > 0.1) == found, (name, shift)
            assert row["auc_low"] <= row["auc"] <= row["auc_high"]
            assert row["tpr_at_01pct_fpr"] is not None


def test_per_class_thresholds_see_what_a_common_one_cannot():
    """Class 1 scores ten higher, member or not: within each class members lead by one."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 1000)
    inside, outside = rng.normal(1.5, 0.5, 2000) + 10 * y, rng.normal(0, 0.5, 2000) + 10 * y
    per_class = attacks.per_class_offsets(inside, outside, y, y)
    assert metrics.attack_auc(inside, outside) < 0.8
    assert metrics.attack_auc(*per_class) > 0.95
    assert (per_class[0] >= 0).mean() > 0.9, "members lie above their class's threshold"


def test_per_class_thresholds_find_nothing_in_noise():
    rng = np.random.default_rng(0)
    aucs = []
    for seed in range(40):
        y = rng.integers(0, 5, 400)
        aucs.append(
            metrics.attack_auc(*attacks.per_class_offsets(rng.normal(size=400), rng.normal(size=400), y, y, seed))
        )
    assert np.mean(aucs) < 0.51, "a threshold that saw its own image would lift this above one half"


def test_best_threshold_by_hand():
    assert attacks.best_threshold(np.array([3.0, 4, 5]), np.array([1.0, 2, 2.5])) == 3.0


def test_negative_control_brackets_one_half():
    rng = np.random.default_rng(0)
    y_in, y_out = rng.integers(0, 3, 300), rng.integers(0, 3, 200)
    control = attacks.negative_control(leaky(rng, 300, 2, y_in), y_in, leaky(rng, 200, 0, y_out), y_out)
    for name, row in control.items():
        assert row["auc_low"] < 0.5 < row["auc_high"], name
        assert abs(row["auc"] - 0.5) < 4 * row["auc_error"]


def test_negative_control_catches_an_attack_that_sees_the_answer(monkeypatch):
    """An attack whose thresholds were fitted on the images it scores finds members in noise, and is caught."""

    def cheat(inside, y_in, outside, y_out, seed):
        scored = {name: attacks.scores(inside, y_in)[name] for name in attacks.ATTACKS}
        return {name: (s + 0.5, attacks.scores(outside, y_out)[name]) for name, s in scored.items()}

    monkeypatch.setattr(attacks, "attack", cheat)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    control = attacks.negative_control(leaky(rng, 300, 0, y), y, leaky(rng, 300, 0, y), y)
    assert all(abs(row["auc"] - 0.5) > 4 * row["auc_error"] for row in control.values())


def test_the_blind_rate_stands_beside_the_rate_of_an_attack():
    rng = np.random.default_rng(0)
    rows = attacks.audit({"loss": (rng.normal(size=50), rng.normal(size=156))}, draws=20)
    assert rows["loss"]["blind_at_1pct_fpr"] == pytest.approx(2 / 157)
    assert attacks.audit({"loss": (np.arange(5.0), np.arange(50.0))}, draws=20)["loss"]["blind_at_1pct_fpr"] is None


def test_a_difference_between_splits_is_seen_without_members():
    """Test images of another source, and a model that has memorised nothing: only the outsiders' AUC tells."""
    rng = np.random.default_rng(0)
    train, validation, test = rng.normal(1, 1, 400), rng.normal(1, 1, 150), rng.normal(0, 1, 300)
    assert metrics.attack_auc(train, test) > 0.7, "it looks like membership"
    found = attacks.shift(train, validation, test, draws=200)
    assert found["val_test"]["auc_low"] > 0.6
    assert found["train_val"]["auc_low"] < 0.5 < found["train_val"]["auc_high"]
    assert (found["val_test"]["first"], found["val_test"]["second"]) == (150, 300)
    assert (found["train_val"]["first"], found["train_val"]["second"]) == (400, 150)
    assert found["val_test"]["auc"] == metrics.attack_auc(validation, test)
    assert found["train_val"]["auc"] == metrics.attack_auc(train, validation)


def test_paired_difference_is_narrower_than_unpaired():
    rng = np.random.default_rng(0)
    base_in, base_out = rng.normal(0.6, 1, 400), rng.normal(0, 1, 400)
    strong = (base_in, base_out)
    weak = (base_in - 0.3, base_out)
    out = attacks.auc_difference(strong, weak)
    low, high = metrics.bootstrap_auc(*strong)
    assert out["difference"] > 0
    assert out["low"] > 0
    assert out["high"] - out["low"] < high - low
    assert attacks.auc_difference(strong, strong)["high"] == 0


@pytest.mark.parametrize(("shape", "values"), [((1, 8, 8), attacks.BLOCK_VALUES), ((3, 5, 7), 700), ((1, 8, 8), 640)])
def test_nearest_released_image_against_every_difference_written_out(shape, values, monkeypatch):
    monkeypatch.setattr(attacks, "BLOCK_VALUES", values)  # all at once, in blocks of 6, in blocks of 10
    rng = np.random.default_rng(0)
    images, released = (rng.integers(0, 256, (n, *shape), dtype=np.uint8) for n in (40, 90))
    released[17] = images[3]
    distance, index = attacks.nearest(images, released)
    apart = (images[:, None].astype(float) - released[None]) ** 2
    everything = np.sqrt(apart.mean((2, 3, 4)))
    assert distance == pytest.approx(everything.min(1), rel=1e-6)
    assert (everything[np.arange(40), index] == everything.min(1)).all()
    assert (distance[3], index[3]) == (0, 17), "an exact copy is at distance 0"


def test_copies_among_the_released_images_are_found_and_strangers_are_not():
    rng = np.random.default_rng(0)
    members, others, strangers = rng.integers(0, 256, (3, 200, 1, 8, 8), dtype=np.uint8)
    half = np.concatenate([members[:100], strangers[:100]])
    caught = attacks.audit({"nearest": (-attacks.nearest(members, half)[0], -attacks.nearest(others, half)[0])})
    assert caught["nearest"]["auc"] == pytest.approx(0.75, abs=0.04), "half of the members are copied, half are guesses"
    assert caught["nearest"]["tpr_at_1pct_fpr"] >= 0.5
    free = attacks.audit({"nearest": (-attacks.nearest(members, strangers)[0], -attacks.nearest(others, strangers)[0])})
    assert free["nearest"]["auc_low"] < 0.5 < free["nearest"]["auc_high"]
