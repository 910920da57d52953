"""What may be handed out, under which terms, and what the card says of it: rules with known answers."""

import csv
import errno
import html
import json
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import med_arrays, own_set
from hypothesis import given
from hypothesis import strategies as st

import run_all
from kr_utils import (
    InputError,
    attacks,
    bundle,
    card,
    data,
    licences,
    owned,
    profiles,
    published,
    recycling,
    releasable,
    released,
    runs,
    sampling,
    seeds,
    stages,
)

# ------------------------------------------------------------------ licences

ALLOWED = [
    ("CC BY 4.0", "cc-by-4.0", []),
    ("CC BY 4.0 (UCI)", "cc-by-4.0", []),
    ("cc-by-4.0", "cc-by-4.0", []),
    ("Creative Commons Attribution 4.0 International Public License", "cc-by-4.0", []),
    ("CC BY-NC 4.0", "cc-by-nc-4.0", ["non-commercial"]),
    ("Creative Commons Attribution-NonCommercial 4.0", "cc-by-nc-4.0", ["non-commercial"]),
    ("CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0", ["non-commercial", "share alike"]),
    ("CC BY-SA 3.0", "cc-by-sa-3.0", ["share alike"]),
    ("CC0 1.0", "cc0-1.0", []),
    ("CC BY", "cc", []),
    ("MIT", "mit", []),
    ("The MIT License", "mit", []),
    ("Apache License, Version 2.0", "apache-2.0", []),
    ("ODbL 1.0", "odbl", ["share alike"]),
    ("Public domain", "other", []),
]
FORBIDDEN = [
    "CC BY-ND 4.0", "CC BY-NC-ND 4.0", "cc-by-nc-nd", "Creative Commons Attribution-NoDerivatives 4.0",
    "No derivatives",
    "All rights reserved", "(c) 2025 the hospital. All Rights Reserved.", "proprietary", "Confidential",
    "internal use only", "CC BY 4.0 (not for redistribution)", "do not distribute", "must not be shared",
    "no publication", "may never be handed out",
]  # fmt: skip
UNKNOWN = [
    "my own",
    "not stated",
    "not stated by its authors",
    "unknown",
    "ask Anna",
    "CC BY 4.0, our hospital only",
]


@pytest.mark.parametrize(("text", "hub", "notes"), ALLOWED)
def test_a_licence_that_allows_derivatives_is_carried_over(text, hub, notes):
    found = licences.terms(text, "mine")
    assert (found.text, found.hub) == (text, hub)
    assert [note.split(":")[0] for note in found.notes] == notes
    assert all(note.endswith("the images it was made from") for note in found.notes if note.startswith("non-comm"))
    assert not found.stated
    with pytest.raises(InputError, match="leave out --terms"):
        licences.terms(text, "mine", own=True, given="MIT")


@pytest.mark.parametrize("text", FORBIDDEN)
def test_a_licence_that_forbids_is_refused_whatever_is_said(text):
    for terms in ({}, {"own": True}, {"own": True, "given": "MIT"}):
        with pytest.raises(InputError, match="forbids handing out what is made from its images"):
            licences.terms(text, "mine", **terms)
    with pytest.raises(InputError, match=r"--terms is .* forbids"):
        licences.terms("my own", "mine", own=True, given=text)


@pytest.mark.parametrize("text", UNKNOWN)
def test_where_nothing_is_known_the_holder_of_the_rights_has_to_say(text):
    with pytest.raises(InputError, match=r'say under which terms: --terms "CC BY 4\.0"'):
        licences.terms(text, "mine", own=True)
    with pytest.raises(InputError, match="ask its authors"):
        licences.terms(text, "cifar10", own=False, given="MIT")
    found = licences.terms(text, "mine", own=True, given="CC BY-NC 4.0")
    assert (found.text, found.hub) == ("CC BY-NC 4.0", "cc-by-nc-4.0")
    assert text in found.notes[0]
    assert found.notes[1] == licences.NON_COMMERCIAL, "of the images' own terms nothing is known"
    assert found.stated
    assert licences.terms(text, "mine", own=True, given="Data use agreement 7").hub == "other"


def test_all_published_sets_have_a_verdict():
    refused = set()
    for name, info in data.INFO.items():
        try:
            found = licences.terms(info.licence, name)
        except InputError:
            refused.add(name)
        else:
            assert ("NC" in info.licence) == any("non-commercial" in note for note in found.notes), name
    assert refused == {"cifar10", "cifar100"}, "whose authors state none"


@given(st.text(max_size=100))
def test_no_licence_text_crashes(text):
    try:
        assert licences.terms(text, "mine", own=True).hub
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either outcome is right)


# ------------------------------------------------------------------ the run

RIGHT = {"distillation": {"cas_confusion": [[5, 1], [2, 6]]}, "membership": {"doubts": {"models": [], "images": []}}}


def audit(**evidence):
    """A made-up audit of 08: artefact -> evidence, "no evidence" where nothing is given."""
    words = [
        "The Student gives nothing away that 16 pipelines could find.",
        "The images were attacked by their nearest.",
    ]
    row = {"attack": "LiRA", "auc": 0.61, "auc_low": 0.55, "auc_high": 0.66, "tpr_1": 0.05, "tpr_1_low": 0.03}
    row |= {"tpr_1_high": 0.08, "tpr_01": None, "detectable_auc": 0.53, "detectable_tpr_1": 0.04}
    kinds = {"real": "leaks", "student": "no evidence", "images": "no power", "generator": "no evidence"} | evidence
    matrix = [row | {"artefact": name, "evidence": kind} for name, kind in kinds.items()]
    return {"matrix": matrix, "pipelines": 16, "pool": 546, "words": words}


def test_a_good_run_passes_with_and_without_an_audit():
    releasable.check(RIGHT)
    releasable.check(RIGHT | {"audit": audit()}, generator=True)


REFUSED = [
    ({"distillation": {"cas_confusion": [[6, 0], [8, 0]]}}, "the Student says class 0 of every test image"),
    ({"distillation": {"cas_confusion": [[0, 0, 6], [0, 0, 8], [0, 0, 1]]}}, "says class 2 of every"),
    ({"membership": {"doubts": {"models": ["a", "b"], "images": []}}}, "attacks on the models .* (a; b)"),
    ({"membership": {"doubts": {"models": [], "images": ["c"]}}}, "attacks on the images .* (c)"),
    ({"audit": audit() | {"doubts": {"audit": ["d", "e"]}}}, "the audit (08) is not to be believed (d; e)"),
    ({"audit": audit(student="leaks")}, "08_audit found leaks: student to LiRA (AUC 0.610 [0.550, 0.660])"),
    ({"audit": audit(images="leaks")}, "08_audit found leaks: images to LiRA"),
    ({"audit": {"matrix": [{"artefact": "student"}]}}, "08_audit has no matrix with"),
    ({"audit": {}}, "08_audit has no matrix"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_what_is_not_to_be_handed_out_is_refused(change, words):
    with pytest.raises(InputError) as error:
        releasable.check(RIGHT | change)
    pattern = re.escape(words).replace(r"\ \.\*\ ", " .* ")
    assert re.search(pattern, str(error.value)), str(error.value)


def test_an_audit_whose_controls_failed_is_no_word_for_a_bundle():
    """Every cell says no power then, and none says that anything leaks."""
    failed = audit(**dict.fromkeys(("real", "student", "images", "generator"), "no power"))
    failed |= {"believed": False, "doubts": {"audit": ["loss missed the overfitted classifier (AUC 0.500)"]}}
    for despite in (False, True):
        with pytest.raises(InputError, match=r"the audit .08. is not to be believed .loss missed the overfitted"):
            releasable.check(RIGHT | {"audit": failed}, despite_leaks=despite)
    assert not any("no leak" in line for line in facts(failed)["first"])


def test_leaks_are_handed_out_only_on_demand_and_the_generator_counts_where_it_goes_along():
    for leaky in ("student", "images"):
        releasable.check(RIGHT | {"audit": audit(**{leaky: "leaks"})}, despite_leaks=True)
    run = RIGHT | {"audit": audit(generator="leaks")}
    releasable.check(run)
    with pytest.raises(InputError, match="08_audit found leaks: generator"):
        releasable.check(run, generator=True)


def test_a_smoke_run_is_refused():
    releasable.worth_it("quick")
    with pytest.raises(InputError, match="a smoke run checks the plumbing"):
        releasable.worth_it("smoke")


def test_images_that_are_training_images_are_a_leak():
    releasable.no_copies(0)
    releasable.no_copies(2, despite_leaks=True)
    with pytest.raises(InputError, match="2 of the drawn images are training images, pixel by pixel"):
        releasable.no_copies(2)


def test_each_class_needs_three_images():
    releasable.images_of_classes([3, 3, 50])
    with pytest.raises(InputError, match="52 images are too few: class 1 would have 2, and needs 3"):
        releasable.images_of_classes([20, 2, 30])


def test_the_command_names_what_differs_from_the_profile():
    budgets = {stage: runs.plain(profiles.budget(stage, "quick").__dict__) for stage in ("teacher", "tuning")}
    where = {"dataset": "mine", "profile": "quick", "seed": 3}
    plain = "python run_all.py --datasets mine --profile quick --seeds 3 --until membership"
    assert releasable.command(budgets, where) == plain
    budgets["tuning"]["guidance"], budgets["teacher"]["epochs"] = [1.0, 3.0], 7
    settings = " --set teacher.epochs=7 --set tuning.guidance=1.0,3.0"
    older = budgets | {"teacher": budgets["teacher"] | {"gone": 1}, "gone": {"x": 1}}
    assert releasable.command(older, where) == plain.replace(" --until", f"{settings} --until")
    audited = budgets | {"audit": {"pipelines": 4}, "shadow": {"pipelines": 4, "volumes": [1.0, 2.0]}}
    told = plain.replace(" --until membership", f"{settings} --set shadow.volumes=1.0,2.0 --audit 4 --until audit")
    assert releasable.command(audited, where) == told
    told = releasable.command({}, where, {"--data-root": "my data", "--runs-dir": ""})
    assert told == plain.replace(" --until", " --data-root 'my data' --until")


def test_an_audit_is_read_where_there_is_one_and_never_missed(tmp_path, monkeypatch):
    """08 as the store knows it, in the map of this test only."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    for path in stages.NOTEBOOKS.glob("*.ipynb"):
        (notebooks / path.name).write_text(path.read_text())
    (notebooks / "08_audit.ipynb").write_text((stages.NOTEBOOKS / "06_membership.ipynb").read_text())
    monkeypatch.setattr(stages, "NOTEBOOKS", notebooks)
    monkeypatch.setitem(stages.STAGES, "audit", ("08_audit", ("teacher",)))
    where = {"dataset": "digits", "profile": "quick", "seed": 0, "checksum": "c", "runs_dir": tmp_path / "runs"}
    for stage in stages.STAGES["release"][1]:
        runs.begin(stage, profiles.budget(stage, "quick"), **where).finish({"number": 1})

    budget = profiles.budget("release", "quick")
    assert "audit" not in runs.begin("release", budget, **where).upstream
    runs.begin("audit", profiles.budget("membership", "quick"), **where).finish(audit(student="leaks"))
    opened = runs.begin("release", budget, **where)
    assert releasable.leaks(opened.upstream["audit"].metrics) == ["student to LiRA (AUC 0.610 [0.550, 0.660])"]
    opened.finish({})
    assert "audit" in runs.read(opened.final).manifest["ingredients"]["upstream"]


def pipelines_and_audit(where, number=0):
    """Two made-up pipelines, each with this number in it, and an audit of them."""
    budget = profiles.budget("shadow", "quick", {"pipelines": 2})
    for k in range(2):
        opened = runs.begin("shadow", budget, number=k, **where)
        _ = [done.metrics for done in opened.upstream.values()]
        opened.finish({"number": number})
    opened = runs.begin("audit", profiles.budget("audit", "quick", {"pipelines": 2}), **where)
    _ = [done.metrics for done in opened.upstream.values()]
    opened.finish(audit() | {"shadow": runs.plain(budget.__dict__)})


def test_an_audit_of_other_pipelines_than_are_there_is_refused_though_only_08_reads_them(tmp_path, capsys):
    where = {"dataset": "digits", "profile": "quick", "seed": 0, "runs_dir": tmp_path / "runs"}
    where["checksum"] = data.check("digits")
    for stage in stages.STAGES["release"][1]:
        runs.begin(stage, profiles.budget(stage, "quick"), **where).finish(RIGHT.get(stage, {}))
    pipelines_and_audit(where)
    argv = ["--release", "digits", "--out", str(tmp_path / "new"), "--runs-dir", str(tmp_path / "runs"), "--dry-run"]
    assert run_all.main(argv) == 0

    def handed_in():
        return runs.begin("release", profiles.budget("release", "quick"), **where).upstream

    def there():
        return runs.find(tmp_path / "runs", "quick")["digits", 0]

    opened = runs.begin("shadow", profiles.budget("shadow", "quick", {"pipelines": 2}), number=1, **where)
    opened.finish({"number": 7})
    why = "it was made from another 07_shadow-01"
    capsys.readouterr()
    assert run_all.main(argv) == 2
    line = capsys.readouterr().err
    assert f"and 08_audit is not one: {why}; run `python run_all.py --datasets digits" in line
    assert "--audit 2 --until audit` first\n" in line
    assert runs.stale(handed_in(), there()) == {"audit": why}

    # And one of pipelines that are stale themselves
    pipelines_and_audit(where)
    assert runs.stale(handed_in(), there()) == {}
    runs.begin("teacher", profiles.budget("teacher", "quick"), **where).finish({"number": 7})
    assert runs.stale(handed_in(), there()) == {"audit": "it was made from 07_shadow-00, which is stale"}


# ------------------------------------------------------------------ images


def test_a_later_attempt_is_found_by_its_own_random_numbers(tiny_generator, teacher):
    """Under a filter: what is written beside an image is the index it really came from."""
    knobs = recycling.Knobs(steps=3, threshold=0.6)
    labels = torch.arange(10).repeat_interleave(4)
    made, _, draws = recycling.synthesise(tiny_generator, knobs, labels, seed=5, teacher=teacher)
    assert draws > 1
    index = released.drawn_from(tiny_generator, knobs, made, 5)
    late = np.flatnonzero(index >= recycling.ATTEMPT)
    assert 0 < len(late) < 40
    assert (index % recycling.ATTEMPT).tolist() == list(range(40))
    for i in (0, late[0], late[-1]):
        one = sampling.sample(tiny_generator, labels[[i]], seed=5, indices=[index[i]], **knobs.sampler())
        assert torch.equal(one[0], made.images[i])
    with pytest.raises(RuntimeError, match="image 0 could not be drawn again from its seed"):
        released.drawn_from(tiny_generator, knobs, made, 6)


@given(st.lists(st.integers(3, 60), min_size=2, max_size=6))
def test_each_class_is_in_each_split_in_its_own_order(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    split = released.splits(labels)
    for k, n in enumerate(counts):
        own = split[labels == k]
        assert (np.diff(own) >= 0).all()
        assert np.bincount(own, minlength=3)[1:].tolist() == [max(1, n // 10)] * 2
        assert (own == 0).any()


def test_doubles_are_counted_by_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
    given_ = np.concatenate([images[:4], images[1:2], images[1:2], images[2:3, ..., ::-1]])
    real = {"train": attacks.mirrored(images[2:3], True, False), "test": images[5:]}
    assert released.doubles(given_, real) == {"each other": 2, "train": 2, "test": 0}
    assert len(attacks.mirrored(images, True, True)) == 24
    assert len({image.tobytes() for image in attacks.mirrored(images[:1], True, True)}) == 4


# ------------------------------------------------------------------ files

HOSTILE = (
    "a/b",
    "../up",
    ".hidden",
    "CON",
    "a",
    "A",
    "ä ö",
    "test",
    "x" * 90,
    "<b>|*",
    "[k](http://x)",
    '"q",r',
    "=1+1",
)


def hostile(n=39):
    labels = np.sort(np.arange(n) % len(HOSTILE))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 3, 6, 5), dtype=np.uint8)
    soft = np.full((n, len(HOSTILE)), 1 / len(HOSTILE), np.float32)
    return released.Images(images, labels, soft, 7, np.arange(n) + recycling.ATTEMPT)


def test_folders_of_classes_are_names_on_every_system():
    names = bundle.class_folders(HOSTILE)
    assert len({name.lower() for name in names}) == len(HOSTILE)
    assert all(re.fullmatch(r"\d\d(_[A-Za-z0-9]+(-[A-Za-z0-9]+)*)?", name) and len(name) < 50 for name in names), names
    assert names[7] == "07", "a folder called test would be taken for a split"


def test_oblong_images_in_colour_under_hostile_names_come_back(tmp_path):
    made, info = hostile(), data.Info("T", "own", len(HOSTILE), 3, "MIT", hflip=True, vflip=True)
    bundle.write_images(tmp_path, made, HOSTILE)
    bundle.write_npz(tmp_path, made, info, HOSTILE, "MIT")
    assert np.array_equal(bundle.read_images(tmp_path), made.images)
    with open(tmp_path / "metadata.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["class_name"] for row in table] == [HOSTILE[k] for k in made.labels]
    assert [int(row["index"]) for row in table] == made.index.tolist()
    assert all((tmp_path / row["file_name"]).resolve().is_relative_to(tmp_path / "images") for row in table)
    described = data.describe(tmp_path / "synthetic.json")
    assert (described.class_names, described.hflip, described.vflip) == (HOSTILE, True, True)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    place, whole = tmp_path / "new", owned.writing

    def full(path):
        if path.name == bundle.NPZ:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(path)

    monkeypatch.setattr(owned, "writing", full)
    info = data.Info("T", "own", len(HOSTILE), 3, "MIT")

    def fill():
        with bundle.writing(place) as folder:
            bundle.write_images(folder, hostile(), HOSTILE)
            assert len(list(folder.rglob("*.png"))) == 39
            bundle.write_npz(folder, hostile(), info, HOSTILE, "MIT")

    with pytest.raises(OSError, match="No space left"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_appears_at_once_and_never_over_something(tmp_path):
    place = tmp_path / "new"
    with bundle.writing(place) as folder:
        assert not place.exists()
        (folder / "a").write_text("")
    assert [path.name for path in place.iterdir()] == ["a"]
    with pytest.raises(InputError, match="cannot be put there"), bundle.writing(place) as folder:
        (folder / "b").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "a"]
    (tmp_path / "empty").mkdir()
    with bundle.writing(tmp_path / "empty") as folder:
        (folder / "c").write_text("")
    assert (tmp_path / "empty/c").is_file()
    with bundle.writing(None) as folder:
        (folder / "d").write_text("")
    assert not folder.exists(), "looked at, and deleted"


def test_folders_of_this_computer_are_found_in_a_bundle(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"\0\1" + str(stages.ROOT).encode() + b"/kr_utils")
    (tmp_path / "b.txt").write_text(str(Path.home() / "x"))
    (tmp_path / "c.txt").write_text("nothing")
    assert bundle.traces(tmp_path, []) == ["a.onnx", "b.txt"]


# ------------------------------------------------------------------ words


def facts(audit_=None, names=HOSTILE, notes=(), **changes):
    """All that a card says, of a made-up bundle."""
    ends = {"members": 30, "non_members": 40, "tpr_at_1pct_fpr": None, "blind_at_1pct_fpr": None}
    row = {"auc": 0.52, "auc_low": 0.45, "auc_high": 0.6, "tpr_at_01pct_fpr": None} | ends
    k = len(names)
    confusion = [[2 * (i == j) + (j == 0) for j in range(k)] for i in range(k)]
    student = {
        "accuracy": [0.7, 0.6, 0.8], "majority": 0.3, "majority_class": 1, "real": [0.75, 0.65, 0.85],
        "ensemble": [0.8, 0.7, 0.9], "gap": [-0.05, -0.1, 0.01], "ensemble_gap": [-0.1, -0.2, 0.0], "empty_gap": "",
        "recall": [[0.5, 0.3, 0.7]] * k, "confusion": confusion, "test_counts": [3] * k, "members": 2,
    } | changes.pop("student", {})  # fmt: skip
    images = {
        "count": 39, "per_class": [3] * k, "balance": "uniform", "seed": 7, "knobs": {"guidance": 1.0, "steps": 4},
        "agreement": 0.8, "doubles": {"each other": 0, "train": 0, "test": 0}, "generator": False,
    } | changes.pop("images", {})  # fmt: skip
    closest = [{"file": "images/0/1.png", "distance": 1.5, "training": 3}]
    attacks = {
        "student": dict.fromkeys(card.ATTACKS, row), "nearest": row | changes.pop("nearest", {}), "copies_control": row,
        "split_control": row, "shift": "words", "closest": closest, "smallest": [1.5, 2.0], "closer": 1,
        "closer_by_chance": 0.7,
    }  # fmt: skip
    run = {"commands": ["python run_all.py"], "manifests": {"teacher": "f"}, "checksum": "c", "commit": None}
    run |= {"versions": {"torch": "2"}, "day": "2026-01-01", "dataset": "mine", "profile": "quick", "seed": 0}
    part = [0] * 30
    shape = types.SimpleNamespace(title="My <i>set</i> | $x$")
    ds = types.SimpleNamespace(
        name="mine", info=shape, class_names=names, train=part, val=part, test=part, shape=(3, 6, 5)
    )
    terms = changes.pop("terms", licences.Terms("CC BY-NC 4.0", "cc-by-nc-4.0", notes))
    return card.facts(ds, terms, run, student, images, attacks, audit_)


def test_what_stands_on_top():
    (line,) = facts()["first"]
    assert line == card.SIMPLE
    first = facts(audit(images="no evidence"))["first"]
    assert first[0].startswith("An audit found no leak in what is handed out; that is not to say that there is none.")
    assert all(word in first[0] for word in audit()["words"]), "the audit's own words"
    assert facts(audit())["first"][0].startswith(
        "An audit found no leak in the Student; that is not to say that there is none. "
        "Of the images it says nothing: it had no power to see a leak there. The Student"
    )
    assert facts(audit(student="no power"))["first"][0].startswith(
        "An audit was run, but it says nothing of what is handed out: it had no power to see a leak there. The Student"
    )
    (weights, *_) = facts(audit(student="no power"), images={"generator": True})["first"]
    assert "in the Generator's weights; that" in weights
    assert "Of the Student and the images it says nothing" in weights
    assert facts(audit(student="leaks"))["first"][0] == (
        "Handed out although an audit found leaks: student to LiRA (AUC 0.610 [0.550, 0.660])."
    )
    assert facts(images={"generator": True})["first"][-1].endswith("Audit of the weights: no attack on them was run.")
    with_word = facts(audit(generator="no power"), images={"generator": True})["first"][-1]
    assert with_word.endswith("Audit of the weights: LiRA: no power.")
    double = {"each other": 0, "train": 4, "test": 0}
    assert "4 of the images are training images, pixel by pixel." in facts(images={"doubles": double})["first"]
    near = facts(nearest={"auc": 0.69, "auc_low": 0.66})["first"][1]
    assert near.startswith("Training images lie nearer to these images than test images do (AUC 0.690 [0.660, 0.600])")
    assert facts(notes=(licences.NON_COMMERCIAL,))["first"][-1].startswith("Non-commercial: this bundle may not")
    assert "in only 13 % of the images" in facts(images={"agreement": 0.13})["first"][1]


def test_a_student_that_has_learned_nothing_is_named_and_its_gap_is_never_bare():
    words = "neither beats always saying the most frequent class"
    found = facts(student={"empty_gap": words, "gap": [0.0, 0.0, 0.0]})
    assert f"The gap to real training says nothing: {words}." in found["first"]
    assert f"+0.0 (+0.0 to +0.0) ({words})" in card.markdown(found)
    assert f"+0.0 (+0.0 to +0.0) ({words})" in card.page(found, {"sheet": b"", "closest": b""})
    low = facts(student={"accuracy": [0.35, 0.3, 0.4]})
    assert "The Student is not shown to be better than always saying the most frequent class." in low["first"]


def test_names_that_somebody_gave_are_shown_as_they_are():
    found = facts(audit())
    page = card.page(found, {"sheet": b"x", "closest": b"y"})
    assert "<i>" not in page.split("</style>")[1]
    text = html.unescape(re.sub(r"<[^>]+>", "\n", page.split("</style>")[1]))
    for name in HOSTILE:
        assert f"\n{name}\n" in text
    body = card.markdown(found).split("\n---\n", 1)[1]
    table = [line for line in body.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in table if line.endswith("| 3 |")}) == 1
    assert not re.search(r"(?<!\\)\]\(http", body)
    assert "\\<b\\>\\|\\*" in body


def test_the_header_is_read_by_the_hub_s_own_classes():
    from huggingface_hub import DatasetCard, ModelCard

    text = card.markdown(facts())
    assert DatasetCard(text).data.pretty_name == "My <i>set</i> | $x$, synthetic"
    assert ModelCard(text).data.license == "cc-by-nc-4.0"
    found = facts()
    found["dataset"]["licence"] |= {"hub": "other", "text": "Agreement: 7 #x"}
    assert DatasetCard(card.markdown(found)).data.to_dict()["license_name"] == "Agreement: 7 #x"


def test_croissant_is_valid_whatever_classes_are_called(tmp_path):
    import mlcroissant

    made = hostile()
    bundle.write_images(tmp_path, made, HOSTILE)
    (tmp_path / bundle.NPZ).write_bytes(b"")
    digests = {name: bundle.digest(tmp_path / name) for name in ("metadata.csv", bundle.NPZ)}
    bundle.write_json(tmp_path / "croissant.json", card.croissant(facts(), digests))
    read = mlcroissant.Dataset(str(tmp_path / "croissant.json"))
    assert read.metadata.ctx.issues.errors == set()
    assert read.metadata.ctx.issues.warnings == set()
    names = [row["images/class_name"].decode() for row in read.records("images")]
    assert names == [HOSTILE[k] for k in made.labels]


def test_the_audit_is_told_row_by_row():
    text = card.markdown(facts(audit()))
    assert "Audit with 16 random-half pipelines on 546 records." in text
    assert "| images | LiRA | 0.610 [0.550, 0.660] | no power |" in text
    assert card.SIMPLE not in text


def test_an_attack_that_takes_more_pipelines_was_not_made():
    few = audit()
    ends = dict.fromkeys(("auc", "auc_low", "auc_high"))
    few["matrix"] += [{**few["matrix"][1], **ends, "attack": "RMIA", "evidence": "no power"}]
    found = facts(few)
    row = "student | RMIA | not made: too few pipelines | no power"
    assert f"| {row} |" in card.markdown(found)
    cells = "".join(f"<td>{cell}</td>" for cell in row.split(" | "))
    assert cells in card.page(found, {"sheet": b"", "closest": b""})


def test_the_licence_on_the_card_is_that_of_the_images_or_is_said_to_be_another():
    def told(licence, **given):
        terms = licences.terms(licence, "mine", own=True, **given)
        shown = [block.content for block in card.blocks(facts(terms=terms))]
        return shown[shown.index("Licence") + 1]

    assert told("CC0 1.0") == "CC0 1.0, as the images that it was made from."
    theirs = "Non-commercial: this bundle may not be used commercially, and neither may the images it was made from."
    assert told("CC BY-NC 4.0") == f"CC BY-NC 4.0, as the images that it was made from. {theirs}"
    said = "Stated when the bundle was made; the description of the images says 'not stated'."
    assert told("not stated", given="MIT") == f"MIT. {said}"
    own = "Non-commercial: this bundle may not be used commercially."
    assert told("not stated", given="CC BY-NC 4.0") == f"CC BY-NC 4.0. {said} {own}"


def test_a_commit_that_nobody_knows_is_called_unknown():
    assert "Commit unknown; notebook 06" in card.markdown(facts())


def test_an_own_set_s_licence_decides_before_anything_else(tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    own_set(folder, med_arrays((60, 30, 30)), licence="All rights reserved")
    argv = ["--release", "mine", "--data-root", str(folder), "--out", str(tmp_path / "new")]
    for licence, words in (("All rights reserved", "forbids"), ("my own", "--terms"), ("MIT", "01_teacher is not one")):
        own_set(folder, med_arrays((60, 30, 30)), licence=licence)
        assert run_all.main(argv) == 2
        line = capsys.readouterr().err
        assert words in line
        assert line.count("\n") == 1
    assert not (tmp_path / "new").exists()
    assert json.loads((folder / "mine.json").read_text())["licence"] == "MIT"


def test_nothing_is_fetched_by_a_dry_run_or_before_what_can_be_refused_without_it(tmp_path, capsys, monkeypatch):
    def fetch(name, folder):
        raise InputError(f"{name} is fetched")

    monkeypatch.setattr(published, "fetch", fetch)
    (tmp_path / "data").mkdir()
    common = [
        "--data-root",
        str(tmp_path / "data"),
        "--runs-dir",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "new"),
    ]

    def told(name, *more, code=2):
        assert run_all.main(["--release", name, *common, *more]) == code
        out, err = capsys.readouterr()
        return err if code else out

    # Nothing was run, the licence allows nothing, or the folder is bad
    for more in ((), ("--dry-run",)):
        assert "01_teacher is not one: not run yet" in told("breastmnist", *more)
        assert "does not allow handing out" in told("cifar10", *more)
    where = {"dataset": "breastmnist", "profile": "quick", "seed": 0, "runs_dir": tmp_path / "runs", "checksum": "c"}
    for stage in stages.STAGES["release"][1]:
        runs.begin(stage, profiles.budget(stage, "quick"), **where).finish(RIGHT.get(stage, {}))
    assert "not written into or around the folder of runs" in told("breastmnist", "--out", str(tmp_path / "runs/new"))

    # All is well, as far as it can be known
    first, second, total = told("breastmnist", "--dry-run", code=0).splitlines()
    assert first.startswith("fetch  breastmnist: breastmnist.npz from ")
    assert second == "run    breastmnist seed 0  09_release: its data file is not here yet"
    assert total.startswith("total: 1 of 1 stages to run")
    assert told("breastmnist") == "error: breastmnist is fetched\n"
    assert [path.name for path in (tmp_path / "data").iterdir()] == []


def test_the_seed_of_a_release_is_none_of_the_student_s():
    roles = ("distillation", "release", "student", "checkpoints", "tuning")
    assert len({seeds.derive(0, role) for role in roles}) == len(roles)
