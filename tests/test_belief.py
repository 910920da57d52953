"""Which controls make an attack not to be believed, and that notebook 06 then stores it with the reasons."""

import json
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest

from kr_utils import attacks, belief, stages
from kr_utils.driver import report


def row(low, high, members=100, non_members=100):
    return {
        "auc": (low + high) / 2, "auc_low": low, "auc_high": high, "members": members, "non_members": non_members,
    }  # fmt: skip


CAUGHT, MISSED, CHANCE = row(0.8, 0.9), row(0.45, 0.55), {"loss": {"auc": 0.5, "auc_error": 0.01}}


@pytest.mark.parametrize(
    ("positive", "negative", "words"),
    [
        (CAUGHT, CHANCE, []),
        (MISSED, CHANCE, ["the positive control was not caught (AUC 0.500 [0.450, 0.550])"]),
        (row(0.5, 0.7), CHANCE, ["the positive control was not caught (AUC 0.600 [0.500, 0.700])"]),
        (CAUGHT, {"loss": {"auc": 0.541, "auc_error": 0.01}}, []),  # 4 * 0.01 + 0.002 are allowed
        (
            CAUGHT,
            CHANCE | {"entropy": {"auc": 0.543, "auc_error": 0.01}},
            ["the entropy attack found members in noise (negative control: AUC 0.543)"],
        ),
        (
            CAUGHT,
            {"loss": {"auc": 0.457, "auc_error": 0.01}},
            ["the loss attack found members in noise (negative control: AUC 0.457)"],
        ),
        (row(0.8, 1.0, members=20, non_members=20), CHANCE, []),
        (row(0.8, 1.0, non_members=19), CHANCE, ["only 19 non-members, and a control needs 20"]),
        (row(0.8, 1.0, 6, 4), CHANCE, ["only 6 members and 4 non-members, and a control needs 20"]),
    ],
)
def test_the_attacks_on_classifiers_stand_and_fall_with_both_their_controls(positive, negative, words):
    assert belief.of_classifiers(positive, negative) == words


def test_the_attack_on_images_falls_with_copies_that_it_did_not_find():
    assert belief.of_images(CAUGHT) == []
    assert belief.of_images(MISSED) == ["planted copies were not found (AUC 0.500 [0.450, 0.550])"]


def test_every_attack_falls_where_the_splits_differ_by_themselves():
    assert belief.of_splits(MISSED, 100) == []
    assert belief.of_splits(row(0.52, 0.58), 100) == [], "once in twenty an interval misses 0.5 by luck"
    differ = "training and test images differ by themselves (split control: AUC"
    assert belief.of_splits(row(0.6, 0.66), 100) == [f"{differ} 0.630 [0.600, 0.660])"]
    assert belief.of_splits(row(0.3, 0.36), 100) == [f"{differ} 0.330 [0.300, 0.360])"], "nearer is as odd as farther"
    assert belief.of_splits(MISSED, 7) == ["only 7 validation images, and the split control needs 20"]


def leaky(rng, n, shift, labels):
    logits = rng.normal(size=(n, 2))
    logits[np.arange(n), labels] += 2 + shift
    return logits


@pytest.mark.parametrize(("members", "others"), [(2, 2), (6, 4), (300, 2), (300, 19)])
def test_a_handful_of_images_is_a_reason_and_no_error(members, others):
    """The attacks and their controls as notebook 06 computes them, whatever these few images give."""
    rng = np.random.default_rng(0)
    y_in, y_out = np.arange(members) % 2, np.arange(others) % 2
    both = leaky(rng, members, 3, y_in), y_in, leaky(rng, others, 0, y_out), y_out
    positive = attacks.audit(attacks.attack(*both), draws=50)["loss"]
    told = belief.of_classifiers(positive, attacks.negative_control(*both, draws=10))
    assert f"{others} non-members, and a control needs 20" in told[0]
    json.dumps(positive, allow_nan=False)


def test_what_is_known_of_stored_attacks_is_told_and_no_more():
    sound, doubtful = {"doubts": {"models": [], "images": []}}, {"doubts": {"models": ["a", "b"], "images": []}}
    assert [belief.controls(metrics, "models") for metrics in ({}, sound, doubtful)] == ["", "held", "a; b"]
    assert belief.controls(doubtful, "images") == "held"
    assert [belief.doubt(metrics, "models") for metrics in ({}, sound, doubtful)] == ["", "", "a; b"]
    assert belief.marked("0.513", "a; b") == "0.513 (!)"
    assert belief.marked("0.513", "") == "0.513"


@pytest.mark.parametrize(
    ("accuracies", "recalls", "words"),
    [
        ((0.75, 0.75), ((0, 1), (0, 1)), "both know one class only"),
        ((0.75, 0.25), ((0, 1), (1, 0)), "both know one class only"),
        ((0.75, 0.70), ((0, 1), (0.1, 0.9)), "neither beats always saying the most frequent class"),
        ((0.74, 0.70), ((0.2, 0.92), (0.1, 0.9)), "neither beats always saying the most frequent class"),
        ((0.75, 0.80), ((0, 1), (0.2, 1)), ""),
        ((0.80, 0.75), ((0.2, 1), (0, 1)), ""),
        ((0.80, 0.80), ((0.5, 0.9), (0.5, 0.9)), ""),
    ],
)
def test_a_gap_between_classifiers_that_learned_nothing_is_named(accuracies, recalls, words):
    assert belief.empty_gap((10, 30), accuracies, recalls) == words


def test_the_closing_table_names_each_classifier_that_learned_nothing(monkeypatch):
    """A gap of 9 points over real training says little where real training says one class only."""
    Job = namedtuple("Job", "stage")
    real = {"test_counts": [10, 30], "test_accuracy": 0.75, "test_recall": [0.0, 1.0]}
    students = ({"cas": 0.84, "cas_recall": [0.6, 0.92]}, {"cas": 0.74, "cas_recall": [0.2, 0.92]})
    runs_ = {
        ("mine", seed): {
            Job(stage): SimpleNamespace(metrics=metrics)
            for stage, metrics in (("teacher", real), ("distillation", student))
        }
        for seed, student in enumerate(students)
    }
    monkeypatch.setattr(report, "finished", lambda jobs: runs_)
    assert report.unlearned([]) == [
        "mine seed 0: real training says one class only",
        "mine seed 1: real training says one class only",
        "mine seed 1: the Student is no better than always saying the most frequent class",
    ]
    runs_["mine", 0].popitem()
    assert len(report.unlearned([])) == 3, "a Student that is not there yet"


WHOLE, SAME = (0.576, 0.55, 0.60), (0.51, 0.48, 0.54)


@pytest.mark.parametrize(
    ("val_test", "train_val", "words"),
    [
        (
            (0.552, 0.52, 0.58),
            SAME,
            "validation images look like members beside test images (AUC 0.552 [0.520, 0.580])",
        ),
        ((0.45, 0.42, 0.48), SAME, "test images look like members beside validation images (AUC 0.450 [0.420, 0.480])"),
        (SAME, (0.57, 0.54, 0.60), "validation and test images, neither in training, are not told apart (AUC 0.510"),
    ],
)
def test_what_the_three_aucs_say_of_membership_and_of_the_splits(val_test, train_val, words):
    told = belief.of_shift(WHOLE, val_test, train_val)
    assert told.startswith(words)
    assert "the train-test AUC, 0.576 [0.550, 0.600]" in told
    seen = "not told" if train_val == SAME else "told"
    assert f"training images are {seen} from validation images (AUC {belief.numbers(*train_val)})" in told
    assert told.endswith("; a leak is claimed from random halves only")


class Stage:
    def finish(self, results):
        self.results = json.loads(json.dumps(results, allow_nan=False))
        return "stored"


@pytest.mark.parametrize(
    ("models", "copies", "split", "believed", "words"),
    [
        ([], CAUGHT, MISSED, True, {"models": 0, "images": 0}),
        (["the positive control was not caught"], CAUGHT, MISSED, False, {"models": 1, "images": 0}),
        ([], MISSED, MISSED, False, {"models": 0, "images": 1}),
        ([], CAUGHT, CAUGHT, False, {"models": 1, "images": 1}),
        (["only 6 members, and a control needs 20"], MISSED, row(0.1, 0.9, 6), False, {"models": 1, "images": 2}),
    ],
)
def test_notebook_06_stores_its_attacks_with_the_reasons_not_to_believe_them(
    models, copies, split, believed, words, capsys
):
    notebook = json.loads((stages.NOTEBOOKS / "06_membership.ipynb").read_text(encoding="utf-8"))
    *_, last = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    audits = {who: {"loss": row(0.5, 0.6)} for who in ("real", "student")}
    stage = Stage()
    exec(
        "".join(last["source"]),
        {
            "belief": belief, "stage": stage, "on_models": models, "few": 100, "audits": audits, "by_hand": 0.55,
            "results": {"split_control": split, "copies_control": copies, "real": audits["real"]},
        },
    )  # fmt: skip
    assert stage.results["believed"] == believed
    assert {which: len(reasons) for which, reasons in stage.results["doubts"].items()} == words
    assert stage.results["real"] == audits["real"], "the numbers stay"
    assert ("not to be believed" in capsys.readouterr().out) != believed
