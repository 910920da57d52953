"""The comparison of budgets: folds without test images, paired differences, shared stages, verdicts."""

import csv
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from conftest import environment, med_arrays, own_set, wait_for

from kr_utils import InputError, data, dataset_file, profiles, runs, stages

sys.path.insert(0, str(stages.ROOT / "benchmarks"))
import cells
import compare
import folds
import paired

SCRIPT = stages.ROOT / "benchmarks/compare.py"


def pixels(images):
    """How often each image occurs, whatever its axes are called."""
    return Counter(image.tobytes() for image in np.ascontiguousarray(images).reshape(len(images), -1))


def of(path, part):
    return np.load(path)[f"{part}_images"]


# ------------------------------------------------------------------ folds


@pytest.fixture
def source_folder(tmp_path):
    """An own set "mine" of 120 training, 60 validation and 90 test images; every test image is marked."""
    folder = tmp_path / "source"
    folder.mkdir()
    arrays = med_arrays((120, 60, 90), classes=3, size=8)
    arrays["test_images"][:, 0, :] = np.arange(240, 248)
    own_set(folder, arrays, class_names=["a", "b", "c"], mirror="both")
    return folder


def test_no_test_image_is_in_any_fold(source_folder, tmp_path):
    made = folds.write(folds.read("mine", source_folder), folds.Cut(splits=3), tmp_path / "folds")
    assert list(made) == ["mine_cv1of3", "mine_cv2of3", "mine_cv3of3"]
    arrays = np.load(source_folder / "mine.npz")
    pool = pixels(np.concatenate([arrays["train_images"], arrays["val_images"]]))
    held = Counter()
    for name in made:
        path = tmp_path / "folds" / f"{name}.npz"
        every = np.concatenate([of(path, part) for part in ("train", "val", "test")])
        assert not (every.reshape(len(every), 8, 8)[:, 0] == np.arange(240, 248)).all(1).any()
        assert pixels(every) == pool, "120 + 60 images, each once, in every fold"
        held += pixels(of(path, "test"))
    assert held == pool, "each is held out once"


def test_the_test_images_do_not_change_the_folds(source_folder, tmp_path):
    first = folds.write(folds.read("mine", source_folder), folds.Cut(), tmp_path / "one")
    arrays = dict(np.load(source_folder / "mine.npz"))
    arrays["test_images"] = 255 - arrays["test_images"][:50]
    arrays["test_labels"] = arrays["test_labels"][:50]
    np.savez(source_folder / "mine.npz", **arrays)
    assert folds.write(folds.read("mine", source_folder), folds.Cut(), tmp_path / "two") == first
    assert "test" not in " ".join(field.name for field in dataclasses.fields(folds.Source))


def test_folds_of_a_published_set_are_its_train_and_validation_images(tmp_path):
    digits = data.load("digits")
    made = folds.write(folds.read("digits"), folds.Cut(splits=2), tmp_path)
    pool = pixels(np.concatenate([digits.train.images.numpy(), digits.val.images.numpy()]))
    held = pixels(np.concatenate([of(tmp_path / f"{name}.npz", "test") for name in made]))
    assert held == pool
    fold = data.load("digits_cv1of2", tmp_path)
    assert (fold.info.title, fold.info.hflip, fold.class_names[7]) == ("Digits, fold 1 of 2", False, "7")


def source(labels, images=None, val_share=0.2):
    labels = np.asarray(labels)
    images = np.random.default_rng(1).integers(0, 256, (len(labels), 4, 4, 1), np.uint8) if images is None else images
    names = tuple("abcdefgh"[: labels.max() + 1])
    return folds.Source("made", "Made", names, "none", "ours", images, labels, val_share)


def test_parts_are_stratified_and_of_the_wanted_sizes():
    labels = np.repeat([0, 1, 2], [800, 390, 10])
    parts = folds.split(source(labels), folds.Cut(splits=3, most_train=500))
    for part in parts:
        counts = {name: np.bincount(labels[index]).tolist() for name, index in part.items()}
        assert abs(len(part["test"]) - 400) <= 1
        assert counts["test"][2] in (3, 4)
        assert sum(counts["val"]) == 160, "a fifth of the remaining 800"
        assert counts["val"][:2] in ([107, 52], [106, 52], [107, 51]), "as 800 to 390"
        assert sum(counts["train"]) == 500
        assert min(counts["val"][2], counts["train"][2]) >= 1
        assert not set(part["train"]) & set(part["val"])
        assert not (set(part["train"]) | set(part["val"])) & set(part["test"])


def test_few_images_still_give_sixty_for_validation():
    (part, _) = folds.split(source([0, 1] * 150, val_share=0.05), folds.Cut(splits=2))
    assert [len(part[name]) for name in ("train", "val", "test")] == [90, 60, 150]


def test_images_with_the_same_pixels_are_never_parted():
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 1), np.uint8)
    images[200:] = images[:100]  # each of the first hundred twice
    images[150:160] = images[0]  # and one of them twelve times
    held = Counter()
    for part in folds.split(source([0, 1] * 150, images), folds.Cut(splits=3)):
        where = {name: set(pixels(images[index])) for name, index in part.items()}
        assert not where["train"] & where["val"]
        assert not (where["train"] | where["val"]) & where["test"]
        held.update(part["test"].tolist())
    assert sorted(held.elements()) == list(range(300))
    (part, *_) = folds.split(source([0, 1] * 150, images), folds.Cut(splits=3, most_train=40))
    assert len(part["train"]) == 40
    assert max(pixels(images[part["train"]]).values()) == 1


def test_patients_are_never_parted_and_stay_known(tmp_path):
    """Not even by pixels that two of them share, or where there is more to train on than is wanted."""
    rng = np.random.default_rng(0)
    arrays = med_arrays((240, 60, 90), size=8)
    for split, low, high in (("train", 0, 70), ("val", 50, 80), ("test", 100, 130)):  # some are in train and val
        arrays[f"{split}_groups"] = 1000 + rng.integers(low, high, len(arrays[f"{split}_labels"]))
    arrays["train_images"][7] = arrays["val_images"][9]
    own_set(tmp_path, arrays)
    for most, work in ((1500, "all"), (40, "few")):
        held = []
        for name in folds.write(folds.read("mine", tmp_path), folds.Cut(most_train=most), tmp_path / work):
            stored = np.load(tmp_path / work / f"{name}.npz")
            whose = {part: set(stored[f"{part}_groups"].tolist()) for part in ("train", "val", "test")}
            assert not whose["train"] & whose["val"]
            assert not (whose["train"] | whose["val"]) & whose["test"]
            assert all(len(stored[f"{part}_groups"]) == len(stored[f"{part}_labels"]) for part in whose)
            assert data.load(name, tmp_path / work).shared["train", "test"].size == 0
            assert (len(stored["train_labels"]) == 40) == (most == 40)
            assert 45 <= len(stored["val_labels"]) <= 80, "sixty, as nearly as whole patients allow"
            held.append(whose["test"])
        assert sum(map(len, held)) == len(set.union(*held)), "each is held out once"
    assert set.union(*held) == set(arrays["train_groups"].tolist()) | set(arrays["val_groups"].tolist())


def test_patients_of_several_classes_are_no_hindrance_and_too_few_are_refused():
    labels = np.tile([0, 1], 150)
    made = dataclasses.replace(source(labels), patients=np.arange(300) // 4)
    for part in folds.split(made, folds.Cut()):
        assert len(part["test"]) == 100
    with pytest.raises(InputError, match=r"made: class 0 has 2 patients in train and validation together; too few"):
        folds.split(dataclasses.replace(made, patients=np.arange(300) // 150), folds.Cut())


def test_folds_without_patients_are_those_of_before():
    """A budget's cells count only for the very folds that they were made from."""
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 1), np.uint8)
    images[200:] = images[:100]
    digest = hashlib.sha256()
    for most in (1500, 40):
        for part in folds.split(source([0, 1, 1] * 100, images), folds.Cut(most_train=most)):
            for index in part.values():
                digest.update(np.ascontiguousarray(index, np.int64).data)
    assert digest.hexdigest() == "4a791319cfd4fe261b8fda6afd5f02e2d99be71afeb827440db35ec6660d57c0"


def test_too_rare_a_class_is_refused_in_words():
    with pytest.raises(InputError, match=r"made: class 1 has 3 different images .* too few for 2 splits"):
        folds.split(source([0] * 100 + [1] * 3), folds.Cut(splits=2))
    assert folds.split(source([0] * 100 + [1] * 4), folds.Cut(splits=2))


def test_folds_are_kept_and_other_ones_refused(source_folder, tmp_path):
    first = folds.write(folds.read("mine", source_folder), folds.Cut(), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("mine*")}
    assert len(before) == 6
    assert folds.write(folds.read("mine", source_folder), folds.Cut(), tmp_path) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("mine*")} == before
    with pytest.raises(InputError, match="another fold of this name"):
        folds.write(folds.read("mine", source_folder), folds.Cut(most_train=30), tmp_path)
    assert folds.write(folds.read("mine", source_folder), folds.Cut(splits=2, most_train=30), tmp_path)


def test_an_undescribed_file_needs_its_mirror_images_told(source_folder, tmp_path):
    (source_folder / "mine.json").rename(tmp_path / "mine.json")
    with pytest.raises(InputError, match=r"no description; write mine:MIRROR.*none, left-right, both"):
        folds.read("mine", source_folder)
    read = folds.read("mine", source_folder, mirror="left-right")
    assert (read.title, read.class_names, read.mirror) == ("mine", ("class 0", "class 1", "class 2"), "left-right")
    told = folds.read("mine", source_folder, described=tmp_path)
    assert (told.title, told.class_names, told.mirror) == ("Mine", ("a", "b", "c"), "both")
    assert np.array_equal(told.images, read.images)
    with pytest.raises(InputError, match="described already"):
        folds.read("digits", source_folder, mirror="none")
    with pytest.raises(InputError, match=r"nosuch.npz: no such file; name the folder"):
        folds.read("nosuch", source_folder, mirror="none")
    with pytest.raises(InputError, match="unknown dataset"):
        folds.read("nosuch", source_folder)


# ------------------------------------------------------------------ intervals


def test_equal_budgets_differ_by_exactly_nothing():
    nothing = {name: {k: np.zeros(100) for k in (1, 2, 3)} for name in "ab"}
    assert paired.interval(nothing) == (0, 0, 0)
    assert paired.losses(nothing, 0.0) == []


def test_a_set_counts_as_much_as_another_and_a_fold_as_another():
    values = {"a": {1: np.full(10, 0.1), 2: np.full(90, 0.3)}, "b": {1: np.full(5, -0.1)}}
    mean, low, high = paired.interval(values)
    assert mean == pytest.approx((0.2 - 0.1) / 2)
    # No spread of images; the two folds of "a" are 0.1 from their mean: one degree of freedom, half the weight.
    assert (low, high) == pytest.approx((mean - 12.706 * 0.1 / 2, mean + 12.706 * 0.1 / 2), abs=1e-3)


def test_folds_that_agree_leave_the_error_of_their_images():
    fold = np.r_[np.ones(60), np.zeros(40)]
    mean, low, high = paired.interval({"a": {1: fold, 2: fold, 3: fold}})
    assert mean == 0.6
    assert high - mean == pytest.approx(1.96 * (0.6 * 0.4 / 299) ** 0.5, rel=0.01)
    assert mean - low == pytest.approx(high - mean)


def test_single_numbers_have_students_interval_and_one_alone_has_none():
    numbers = {"a": {1: np.array([1.0]), 2: np.array([2.0]), 3: np.array([3.0])}}
    assert paired.interval(numbers) == pytest.approx((2, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    mean, low, high = paired.interval({"a": {1: np.array([1.0])}})
    assert (mean, np.isnan(low), np.isnan(high)) == (1.0, True, True)
    assert np.isnan(paired.interval({})).all()


@pytest.mark.parametrize(("sets", "luck"), [(1, 0.0), (1, 0.02), (5, 0.0), (5, 0.02)])
def test_the_interval_covers_the_truth_and_a_bootstrap_of_folds_does_not(sets, luck):
    """Differences of -1, 0 and 1 per image, 8 % of 200 not 0, in three folds whose training luck differs."""
    rng, covered, booted, cases = np.random.default_rng(0), 0, 0, 400
    for _ in range(cases):
        shift = np.clip(rng.normal(0, luck, (sets, 3, 1)), -0.08, 0.08)
        u = rng.random((sets, 3, 200))
        images = np.where(u < (0.08 + shift) / 2, 1.0, np.where(u < 0.08, -1.0, 0.0))
        _, low, high = paired.interval({s: dict(enumerate(images[s])) for s in range(sets)})
        covered += low <= 0 <= high
        picked = np.take_along_axis(images.mean(2)[None], rng.integers(0, 3, (200, sets, 3)), axis=2)
        low, high = np.quantile(picked.mean((1, 2)), [0.025, 0.975])
        booted += low <= 0 <= high
    assert 0.90 <= covered / cases <= 0.98
    assert booted / cases < 0.89


def test_what_counts_as_a_loss():
    rng = np.random.default_rng(0)
    values = {
        "clear": {k: rng.permutation(np.r_[-np.ones(12), np.zeros(488)]) for k in (1, 2, 3)},  # -2.4, surely
        "noisy": {k: rng.permutation(np.r_[-np.ones(26), np.ones(20), np.zeros(54)]) for k in (1, 2, 3)},  # -6
        "small": {k: rng.permutation(np.r_[-np.ones(21), np.ones(20), np.zeros(59)]) for k in (1, 2, 3)},  # -1
        "better": {k: np.full(100, 0.1) for k in (1, 2, 3)},
    }
    assert paired.interval({"noisy": values["noisy"]})[2] > 0
    assert paired.losses(values, margin=0.02) == ["clear", "noisy"]
    assert paired.losses(values, margin=0.1) == ["clear"]


# ------------------------------------------------------------------ made-up cells


@pytest.fixture
def comparison(source_folder, tmp_path):
    """A function that makes a comparison of budgets on "mine" and "yours", two folds, smoke."""
    other = med_arrays((90, 60, 40), classes=2, size=8, seed=5)
    own_set(source_folder, other, name="yours")

    def make(*budgets, until="distillation", **more):
        arguments = ["--datasets", "mine,yours", "--splits", "2", "--profile", "smoke", "--until", until]
        arguments += ["--data-root", str(source_folder), "--work", str(tmp_path / "work")]
        arguments += [word for budget in budgets for word in ("--budget", budget)]
        arguments += [word for key, value in more.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        return compare.comparison_of(compare.parser().parse_args(arguments))

    return make


def pretend(job, folder, right, made=None):
    """Write a finished stage as its notebook would; its classifier gets the share `right` of the held-out images."""
    where = {"dataset": job.dataset, "profile": "smoke", "seed": job.seed}
    budget = profiles.budget(job.stage, "smoke", job.parameters["overrides"])
    opened = runs.begin(job.stage, budget, checksum=job.parts["checksum"], runs_dir=job.parameters["runs_dir"], **where)
    for done in opened.upstream.values():
        assert done.metrics
    labels = dataset_file.read_npz(folder / f"{job.dataset}.npz")["test_labels"]
    wrong = np.arange(len(labels)) >= right * len(labels)
    logits = np.eye(4, dtype=np.float32)[np.where(wrong, 3, labels)]
    results = {"number": job.seed}
    if job.stage == "teacher":
        opened.write_npz("logits.npz", test=np.stack([logits, logits]))
        results |= dict.fromkeys(("test_accuracy", "ensemble_test_accuracy"), float((~wrong).mean()))
    if job.stage == "distillation":
        opened.write_npz("logits.npz", test=logits, test_textures=np.roll(logits, 1, axis=0))
        results |= {"cas": float((~wrong).mean()), "teacher_agreement": right, "ablation": {}}
    opened.finish(results)
    if made is not None:
        made.append((job.dataset, job.seed, job.stage))


def pretend_run(comparison, rights, made=None):
    """Stands in for run_all.py: budget -> share of images that its last stage gets right (else a Teacher: 0.9)."""

    def run(budget, name, seed):
        jobs, root = comparison.jobs(budget, [name], [seed]), comparison.runs_of(budget)
        compare.share(jobs, root, [comparison.runs_of(other) for other in comparison.budgets if other != budget])
        for job in comparison.jobs(budget, [name], [seed]):
            if not job.reuse:
                right = rights[budget.name]
                right = right.get(name, 0.5) if isinstance(right, dict) else right
                known = job.stage == "teacher" and comparison.until != "teacher"
                pretend(job, comparison.data, 0.9 if known else right, made)
        return True

    return run


def test_stages_that_budgets_have_in_common_are_run_once(comparison):
    given = comparison("base", "longer=distillation.epochs=3", "wider=teacher.width=16")
    base, longer, wider = given.budgets
    made = []
    run = pretend_run(given, {"base": 0.5, "longer": 0.6, "wider": 0.7}, made)
    run(base, "mine", 0)
    assert len(made) == 2 * 6
    made.clear()
    run(longer, "mine", 0)
    assert made == [("mine_cv1of2", 0, "distillation"), ("mine_cv2of2", 0, "distillation")]
    made.clear()
    run(wider, "mine", 0)
    assert {stage for _, _, stage in made} == {"teacher", "checkpoints", "tuning", "distillation"}

    # One file, two names; and the manifest says what made it
    stage = "smoke/mine_cv1of2/seed0/02_generator"
    places = [given.runs_of(budget) / stage for budget in given.budgets]
    assert len({(place / "manifest.json").stat().st_ino for place in places}) == 1
    assert len({runs.read(place).manifest["fingerprint"] for place in places}) == 1
    assert all(job.reuse for budget in given.budgets for job in given.jobs(budget, ["mine"], [0]))


def test_a_stage_made_from_another_teacher_is_not_shared(comparison):
    """Same budgets, but the Teacher was trained twice and has other bytes: what was made from it is not handed on."""
    given = comparison("base", "longer=distillation.epochs=3")
    base, longer = given.budgets
    pretend_run(given, {"base": 0.5, "longer": 0.6})(base, "mine", 0)
    jobs = {job.stage: job for job in given.jobs(longer, ["mine"], [0]) if job.dataset == "mine_cv1of2"}
    pretend(jobs["teacher"], given.data, 0.8)
    jobs = given.jobs(longer, ["mine"], [0])
    compare.share(jobs, given.runs_of(longer), [given.runs_of(base)])
    here = {
        stage
        for stage in stages.STAGES
        if runs.read(given.runs_of(longer) / "smoke/mine_cv1of2/seed0" / stages.STAGES[stage][0])
    }
    assert here == {"start", "teacher", "generator"}


def test_a_linked_stage_that_is_made_again_leaves_the_other_as_it_was(comparison):
    given = comparison("base", "longer=distillation.epochs=3")
    base, longer = given.budgets
    pretend_run(given, {"base": 0.5, "longer": 0.6})(base, "mine", 0)
    pretend_run(given, {"base": 0.5, "longer": 0.6})(longer, "mine", 0)
    teacher = next(job for job in given.jobs(longer, ["mine"], [0]) if job.stage == "teacher")
    before = runs.read(given.runs_of(base) / "smoke/mine_cv1of2/seed0/01_teacher").manifest
    pretend(teacher, given.data, 0.3)
    after = runs.read(given.runs_of(base) / "smoke/mine_cv1of2/seed0/01_teacher")
    assert after.manifest == before
    assert after.metrics["test_accuracy"] == pytest.approx(0.9, abs=0.01)


def test_a_table_has_known_means_differences_and_fingerprints(comparison, tmp_path):
    given = comparison("base", "better=distillation.epochs=3", seeds="0,1", metric="cas")
    failures = compare.rounds(given, pretend_run(given, {"base": 0.5, "better": 0.6}), known := {}, keep_all=False)
    assert failures == []
    found = {budget.name: compare.cells_of(given, budget, known) for budget in given.budgets}
    head, base, better = compare.rows_of(given, found)
    row = dict(zip(head, better))
    assert row["cells"] == "8 of 8"
    assert row["pairs"] == "8"
    # 90 held-out images of "mine", 75 of "yours": 0.6 of each are whole numbers; 37.5 of 75 is not.
    assert row["Student (CAS)"].startswith("60.00 [")
    assert float(dict(zip(head, base))["Student (CAS)"].split()[0]) == pytest.approx(50.33, abs=0.01)
    difference, low, high = (
        float(part) for part in row["Student (CAS) less base's"].translate({91: "", 93: "", 44: ""}).split()
    )
    assert difference == pytest.approx(9.67, abs=0.01)
    assert 0 < low < difference < high
    assert row["verdict"] == "better"
    assert row["real"] == "90.00" or float(row["real"]) == pytest.approx(90.3, abs=0.4)

    # A row per cell, each with its manifests
    rows = list(csv.DictReader((tmp_path / "work/compare.csv").open()))
    assert len(rows) == 16
    for line in rows:
        folder = given.runs_of(compare.Budget(line["budget"], {})) / "smoke" / f"{line['dataset']}_cv{line['fold']}of2"
        manifest = json.loads((folder / f"seed{line['seed']}/05_distillation/manifest.json").read_text())
        assert line["fingerprint_distillation"] == manifest["fingerprint"]
        assert line["checksum"] == manifest["ingredients"]["checksum"]
    assert all(line["ensemble"] == line["real"] for line in rows), "both of these Teachers say the same"
    assert "| better |" in (tmp_path / "work/compare.md").read_text()


def test_the_difference_is_paired_and_not_of_other_cells(comparison):
    """The better budget has the first set only: the difference is of that set, whatever the other set says of base."""
    given = comparison("base", "better=distillation.epochs=3")
    base, better = given.budgets
    run = pretend_run(given, {"base": {"mine": 0.5, "yours": 0.1}, "better": 0.6})
    for budget, name in ((base, "mine"), (base, "yours"), (better, "mine")):
        run(budget, name, 0)
    found = {budget.name: compare.cells_of(given, budget, {}) for budget in given.budgets}
    head, _, row = compare.rows_of(given, found)
    row = dict(zip(head, row))
    assert (row["cells"], row["pairs"]) == ("2 of 4", "2")
    assert row["Student (CAS) less base's"].startswith("+10.00")
    assert cells.averaged(found["better"], "cas", minus=[]) == {}, "nothing to compare with is no difference of zero"
    assert set(cells.averaged(found["base"], "cas", minus=found["better"])) == {"mine"}


def test_a_budget_that_loses_on_two_sets_is_dropped(comparison, capsys):
    rights = {"base": 0.8, "bad": {"mine": 0.5, "yours": 0.5}, "half": {"mine": 0.5, "yours": 0.8}}
    given = comparison("base", "bad=teacher.epochs=3", "half=teacher.epochs=4", until="teacher", seeds="0,1")
    assert given.metric == "real"
    made = []
    compare.rounds(given, pretend_run(given, rights, made), {}, keep_all=False)
    assert "budget bad is dropped: loses on mine, yours" in capsys.readouterr().out
    known: dict = {}
    found = {budget.name: compare.cells_of(given, budget, known) for budget in given.budgets}
    assert {name: len(mine) for name, mine in found.items()} == {"base": 8, "bad": 4, "half": 8}
    head, *rows = compare.rows_of(given, found)
    verdicts = {row[0]: row[head.index("verdict")] for row in rows}
    assert verdicts["bad"] == "dropped: loses on mine, yours"
    assert verdicts["half"].endswith("loses on mine")
    assert "dropped" not in verdicts["half"]

    # The same command again: no cell of it either, unless all are wanted
    compare.rounds(given, pretend_run(given, rights, made), {}, keep_all=True)
    assert len(compare.cells_of(given, given.budgets[1], {})) == 8


def test_a_failed_cell_is_told_and_the_others_go_on(comparison):
    given = comparison("base", "longer=distillation.epochs=3")
    run = pretend_run(given, {"base": 0.5, "longer": 0.5})
    failures = compare.rounds(given, lambda b, name, seed: name != "mine" and run(b, name, seed), {}, keep_all=False)
    assert [line.split(":")[0] for line in failures] == ["mine, seed 0, budget base", "mine, seed 0, budget longer"]
    assert len(compare.cells_of(given, given.budgets[0], {})) == 2


def test_metrics_of_a_cell(comparison):
    given = comparison("base", "longer=distillation.epochs=3")
    pretend_run(given, {"base": 0.5})(given.budgets[0], "mine", 0)
    cell, _ = compare.cells_of(given, given.budgets[0], {})
    assert cells.measure(cell, "cas").mean() == 0.5
    assert cells.measure(cell, "cas-real").mean() == pytest.approx(-0.4)
    assert set(cells.measure(cell, "cas-textures")) <= {-1.0, 0.0, 1.0}
    assert cells.measure(cell, "distillation.teacher_agreement") == [0.5]
    assert cells.measure(cell, "minutes") == [sum(d.manifest["seconds"] for d in cell.done.values()) / 60]
    for absent in ("nobody", "cas-nobody", "membership.student_aop", "distillation.nosuch"):
        assert cells.measure(cell, absent) is None
    with pytest.raises(InputError, match="no cell has it; there are real, ensemble, cas, textures"):
        compare.tables(dataclasses.replace(given, metric="nosuch"), {"base": [cell], "longer": []})


def test_several_teachers_are_their_mean_and_their_ensemble(tmp_path):
    labels = np.array([0, 1, 0, 1])
    np.savez(tmp_path / "fold.npz", **{f"{part}_labels": labels for part in data.SPLITS})
    sure, unsure = 5.0, 1.0  # the ensemble follows the member that is sure
    first = np.array([[sure, 0], [0, sure], [0, sure], [0, sure]])  # 3 right
    second = np.array([[0, unsure], [0, unsure], [unsure, 0], [unsure, 0]])  # 2 right

    class Done:
        path = tmp_path
        metrics = {"test_accuracy": 5 / 8, "ensemble_test_accuracy": 3 / 4}  # noqa: RUF012

        def npz(self, name):
            return {"test": np.stack([first, second]).astype(np.float32)}

    cell = cells.load("mine", 1, 0, {"teacher": Done()}, tmp_path / "fold.npz")
    assert cell.right["real"].tolist() == [0.5, 1, 0.5, 0.5]
    assert cell.right["ensemble"].tolist() == [1, 1, 0, 1]
    Done.metrics = {"test_accuracy": 0.5, "ensemble_test_accuracy": 3 / 4}
    with pytest.raises(InputError, match=r"real 0.5000, but its logits give 0.6250"):
        cells.load("mine", 1, 0, {"teacher": Done()}, tmp_path / "fold.npz")


def test_the_plan_counts_cells_and_what_is_shared(comparison):
    given = comparison("base", "longer=distillation.epochs=3", "wider=teacher.width=16", seeds="0,1")
    base, longer, wider, total = compare.cost(given)
    assert base.startswith("base: 48 stages to run, 0 stand, 0 shared; about 0 s and 48 stages whose time")
    assert longer.startswith("longer: 8 stages to run, 0 stand, 40 shared")
    assert wider.startswith("wider: 32 stages to run, 0 stand, 16 shared"), "start and generator of each cell"
    assert total.startswith("24 cells (2 sets, 4 folds, 2 seeds, 3 budgets)")

    # With one set of one budget finished, times are known of every stage; and nothing is counted twice
    pretend_run(given, {"longer": 0.5})(given.budgets[1], "mine", 0)
    base, longer, *_, total = compare.cost(given)
    assert base.startswith("base: 38 stages to run, 0 stand, 10 shared")
    assert longer.startswith("longer: 6 stages to run, 12 stand, 30 shared")
    assert "no cell tells" not in total


def test_expected_times_come_from_the_most_similar_cells(comparison):
    given = comparison("base", "longer=distillation.epochs=3")
    job = given.jobs(given.budgets[0], ["mine"], [0])[1]
    budget = compare.identity.fingerprint(job.parts["budget"])
    took = {("teacher",): [10.0, 20.0, 60.0]}
    assert compare.expected(job, "mine", {}) is None
    assert compare.expected(job, "mine", took) == 30
    assert compare.expected(job, "mine", took | {("teacher", "mine"): [10.0, 20.0]}) == 15
    took |= {("teacher", "mine"): [10.0, 20.0], ("teacher", "mine", budget): [10.0]}
    assert compare.expected(job, "mine", took) == 10


# ------------------------------------------------------------------ the command


def test_budgets_are_read_from_the_command_and_from_files(tmp_path):
    (tmp_path / "budgets.toml").write_text("[base]\n[wide]\nteacher.width = 32\ntuning.guidance = [1, 2.5]\n")
    (tmp_path / "budgets.json").write_text(json.dumps({"base": {}, "wide": {"teacher": {"width": 32}}}))

    def settings(*arguments):
        args = compare.parser().parse_args(["--profile", "smoke", *map(str, arguments)])
        return {budget.name: budget.settings for budget in compare.budgets_of(args)}

    assert settings("--budgets", tmp_path / "budgets.toml") == {
        "base": [],
        "wide": ["teacher.width=32", "tuning.guidance=1.0,2.5"],
    }
    more = ("--budget", "both=--set teacher.width=16 --set tuning.students=2", "--set", "teacher.width=24")
    assert settings("--budgets", tmp_path / "budgets.json", *more) == {
        "base": ["teacher.width=24"],
        "wide": ["teacher.width=32"],
        "both": ["teacher.width=16", "tuning.students=2"],
    }


BAD = {
    "one budget": (["--budget", "base"], "1 budget(s); name at least two"),
    "twice": (["--budget", "base", "--budget", "base"], "given twice"),
    "name": (["--budget", "base", "--budget", "../up"], "small letters"),
    "field": (["--budget", "base", "--budget", "x=teacher.nosuch=1"], "teacher has no field"),
    "setting": (["--budget", "base", "--budget", "x=teacher"], "write stage.field=value"),
    "file": (["--budgets", "/nosuch.toml"], "--budgets /nosuch.toml: No such file"),
    "profile": (["--profile", "huge", "--budget", "base", "--budget", "x=teacher.width=8"], "unknown profile"),
    "stage": (["--until", "compare"], "name a stage from teacher to membership"),
    "metric": (["--metric", "a b"], "write cas, real"),
    "splits": (["--splits", "1"], "--splits must be at least 2"),
    "seeds": (["--seeds", "x"], "--seeds has 'x'"),
    "margin": (["--margin", "nan"], "--margin from 0 to 100"),
    "dataset": (["--datasets", "nosuch"], "unknown dataset 'nosuch'"),
    "two": (["--datasets", "digits,digits:none"], "names a set twice"),
    "long": (["--datasets", "a" * 38], "no name for a set"),
}


@pytest.mark.parametrize("why", BAD)
def test_bad_input_is_told_in_one_line(why, tmp_path, capsys):
    arguments, words = BAD[why]
    usual = (
        [] if why in ("one budget", "twice", "name", "field", "setting", "file", "profile") else ["--budget", "base"]
    )
    usual += ["--budget", "other=teacher.epochs=3"] if usual else []
    assert compare.main([*usual, *arguments, "--plan", "--work", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_a_name_keeps_its_meaning_in_a_work_folder(comparison):
    comparison("base", "longer=distillation.epochs=3")
    comparison("base", "longer=distillation.epochs=3", "more=teacher.width=16")
    with pytest.raises(InputError, match=r"budget 'longer' was distillation.epochs=3 .* another name"):
        comparison("base", "longer=distillation.epochs=4")


def test_a_plan_gives_a_name_no_meaning_yet(tmp_path):
    for epochs in (3, 4):
        command = ["--datasets", "digits", "--splits", "2", "--profile", "smoke", "--work", str(tmp_path), "--plan"]
        assert compare.main([*command, "--budget", "base", "--budget", f"other=teacher.epochs={epochs}"]) == 0


def test_two_comparisons_do_not_work_in_one_folder(comparison, tmp_path, capsys):
    given = comparison("base", "longer=distillation.epochs=3")
    code = "import sys; from kr_utils.runs import locks; from pathlib import Path; "
    code += "locks.hold(Path(sys.argv[1]), 'x'); print('held', flush=True); sys.stdin.read()"
    path = str(given.work / ".compare.lock")
    holder = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(tmp_path)
    )
    assert holder.stdout.readline() == b"held\n"
    arguments = ["--datasets", "digits", "--splits", "2", "--profile", "smoke", "--work", str(given.work)]
    assert compare.main([*arguments, "--budget", "base", "--budget", "longer=distillation.epochs=3"]) == 2
    assert "is being worked on by process" in capsys.readouterr().err
    holder.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_runs_hears_once_that_it_should_stop(number, tmp_path):
    """Even where a shell started the comparison in the background, with Ctrl-C ignored."""
    child = "import sys, time\nopen(sys.argv[1], 'w').close()\ntry:\n    time.sleep(60)\n"
    child += "except KeyboardInterrupt:\n    open(sys.argv[1] + '.heard', 'a').write('x')\n    sys.exit(130)"
    code = "import signal, sys; sys.path.insert(0, sys.argv[1]); import compare\n"
    code += "for n in (signal.SIGINT, signal.SIGTERM): signal.signal(n, signal.default_int_handler)\n"
    code += f"try:\n    compare.call([sys.executable, '-c', {child!r}, sys.argv[2]])\n"
    code += "except KeyboardInterrupt:\n    sys.exit(7)"
    command = [sys.executable, "-c", code, str(SCRIPT.parent), str(tmp_path / "file")]
    process = subprocess.Popen(
        command,
        env=environment(tmp_path),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    wait_for((tmp_path / "file").exists, "the child works", 60)
    os.killpg(process.pid, number)  # as a terminal does
    assert process.wait(timeout=30) == 7
    assert (tmp_path / "file.heard").read_text() == "x"


@pytest.mark.slow
def test_a_real_comparison_runs_shares_and_is_reused(tmp_path):
    command = [
        sys.executable,
        str(SCRIPT),
        "--profile",
        "smoke",
        "--splits",
        "2",
        "--until",
        "teacher",
        "--threads",
        "1",
    ]
    command += ["--budget", "base", "--budget", "brief=teacher.epochs=1", "--work", str(tmp_path / "work")]

    def run():
        return subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), timeout=600)

    first = run()
    assert first.returncode == 0, first.stderr
    assert "seed 0, budget brief: 2 stages to run, 0 stand, 2 shared with other budgets" in first.stdout
    rows = list(csv.DictReader((tmp_path / "work/compare.csv").open()))
    assert [(row["budget"], row["fold"]) for row in rows] == [
        ("base", "1"),
        ("base", "2"),
        ("brief", "1"),
        ("brief", "2"),
    ]
    for row in rows:
        folder = tmp_path / f"work/runs/{row['budget']}/smoke/digits_cv{row['fold']}of2/seed0/01_teacher"
        stored = json.loads((folder / "metrics.json").read_text())
        assert float(row["real"]) == pytest.approx(stored["test_accuracy"])
        assert json.loads((folder / "manifest.json").read_text())["fingerprint"] == row["fingerprint_teacher"]
    again = run()
    assert "budget base: 0 stages to run, 4 stand" in again.stdout
    assert "budget brief: 0 stages to run, 4 stand" in again.stdout
    assert again.stdout.split("## Over all sets")[1] == first.stdout.split("## Over all sets")[1]
