"""Artefacts, manifests and fingerprints: what counts as done, and what makes it stale."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from kr_utils import InputError, fingerprints, profiles, runs

CHECKSUM = "c" * 64


def open_stage(stage="teacher", root="", seed=0, **overrides):
    budget = profiles.budget(stage, "smoke", overrides)
    where = {"dataset": "digits", "profile": "smoke", "seed": seed, "checksum": CHECKSUM, "runs_dir": root}
    return runs.begin(stage, budget, **where)


def finish(stage="teacher", **more):
    opened = open_stage(stage, **more)
    opened.write_npz("logits.npz", test=np.arange(6.0))
    opened.write_csv(
        "history.csv", [{"epoch": 1, "loss": 0.5, "best": True}, {"epoch": 2, "loss": 0.25, "best": False}]
    )
    return runs.read(opened.finish({"accuracy": 0.5}))


def test_a_finished_stage_reads_back_as_written(tmp_path):
    done = finish()
    assert done.path == tmp_path / "runs/smoke/digits/seed0/01_teacher"
    assert done.metrics == {"accuracy": 0.5}
    assert np.array_equal(done.npz("logits.npz")["test"], np.arange(6.0))
    assert done.csv("history.csv")[1] == {"epoch": 2.0, "loss": 0.25, "best": "False"}
    assert not list(done.path.parent.glob("*.partial"))


def test_the_manifest_explains_the_number():
    manifest = finish(epochs=7).manifest
    assert manifest["ingredients"]["budget"]["epochs"] == 7
    assert manifest["ingredients"]["checksum"] == CHECKSUM
    assert manifest["parameters"] == {"dataset": "digits", "profile": "smoke", "seed": 0}
    assert manifest["versions"]["torch"]
    assert manifest["hardware"]["cores"] >= 1
    assert manifest["seconds"] >= 0
    assert set(manifest["files"]) == {"logits.npz", "history.csv", "metrics.json"}


def test_an_unfinished_stage_is_not_done_and_is_cleared_by_the_next():
    opened = open_stage()
    opened.write_json("half.json", {})
    assert runs.read(opened.final) is None
    again = open_stage()
    assert not again.file("half.json").exists()


def test_a_failed_repeat_leaves_the_old_result(tmp_path):
    old = finish()
    open_stage(epochs=9).write_json("metrics.json", {"accuracy": 0.9})
    assert runs.read(old.path).metrics == {"accuracy": 0.5}
    assert finish(epochs=9).manifest["fingerprint"] != old.manifest["fingerprint"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: (p / "manifest.json").unlink(),
        lambda p: (p / "manifest.json").write_text("{"),
        lambda p: (p / "manifest.json").write_text("[]"),
        lambda p: (p / "metrics.json").write_text('{"accuracy": 0.99999}'),
        lambda p: (p / "logits.npz").write_bytes(b""),
        lambda p: (p / "logits.npz").unlink(),
        lambda p: _edit(p, lambda m: m.update(format=0)),
        lambda p: _edit(p, lambda m: m["ingredients"].update(seed=5)),
    ],
)
def test_a_damaged_result_does_not_count_as_done(damage):
    done = finish()
    damage(done.path)
    assert runs.read(done.path) is None


def _edit(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_missing_upstream_stage_is_named_with_the_way_to_run_it():
    finish("teacher")
    with pytest.raises(InputError) as error:
        open_stage("checkpoints")
    message = str(error.value)
    assert "03_checkpoints needs the results of 02_generator" in message
    assert "notebooks/02_generator.ipynb" in message
    assert "--until generator" in message


def test_a_stage_made_from_an_older_one_is_refused_until_it_is_made_again(tmp_path):
    for stage in ("teacher", "generator", "checkpoints"):
        finish(stage)
    finish("teacher", epochs=9)
    with pytest.raises(InputError, match="03_checkpoints was made from an older 01_teacher"):
        open_stage("tuning")
    found = runs.find(tmp_path / "runs", "smoke")["digits", 0]
    assert runs.outdated(found["checkpoints"], found) == ["teacher"]
    assert not runs.complete(found)
    finish("checkpoints")
    open_stage("tuning")


def test_a_run_is_complete_when_all_its_stages_stand(tmp_path):
    for stage in fingerprints.STAGES:
        if stage != "compare":
            assert not runs.complete(runs.find(tmp_path / "runs", "smoke").get(("digits", 0), {}))
            finish(stage)
    assert runs.complete(runs.find(tmp_path / "runs", "smoke")["digits", 0])


def test_running_the_last_cell_twice_says_what_to_do():
    opened = open_stage()
    opened.finish({})
    for again in (lambda: opened.write_json("more.json", {}), lambda: opened.finish({})):
        with pytest.raises(InputError, match="restart the kernel and run all cells"):
            again()


def test_not_a_number_never_reaches_metrics():
    with pytest.raises(ValueError, match="JSON"):
        open_stage().finish({"accuracy": float("nan")})


def test_find_lists_runs_by_dataset_and_seed(tmp_path):
    for seed in (10, 2):
        finish(seed=seed)
    (tmp_path / "runs/smoke/digits/seedx").mkdir()
    assert list(runs.find(tmp_path / "runs", "smoke")) == [("digits", 2), ("digits", 10)]


# ---------------------------------------------------------------- fingerprints


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the project whose files a test may change."""
    root = tmp_path / "project"
    for name in ("kr_utils", "notebooks"):
        shutil.copytree(fingerprints.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprints, "ROOT", root)
    monkeypatch.setattr(fingerprints, "NOTEBOOKS", root / "notebooks")
    return root


def stale_after(root, change):
    """Stages whose own code hash a change moves, and those that it reaches through their upstream."""
    before = {stage: fingerprints.code_hashes(stage) for stage in fingerprints.STAGES}
    change(root)
    stale = {stage for stage in fingerprints.STAGES if fingerprints.code_hashes(stage) != before[stage]}
    for stage, (_, needs) in fingerprints.STAGES.items():
        if stale & set(needs):
            stale.add(stage)
    return stale


def append(name, text):
    def change(root):
        with open(root / "kr_utils" / name, "a") as file:
            file.write(text)

    return change


FROM_GENERATOR = {"generator", "checkpoints", "tuning", "distillation", "membership"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (append("plots.py", "\nNEW = 1\n"), {"compare"}),
        (append("explore.py", "\nNEW = 1\n"), set()),
        (append("profiles.py", "\nNEW = 1\n"), set()),
        (append("generator.py", "\nNEW = 1\n"), FROM_GENERATOR),
        (append("generator.py", "\n# only a comment\n"), set()),
        (append("selection.py", "\nNEW = 1\n"), FROM_GENERATOR - {"generator"}),
        (append("attacks.py", "\nNEW = 1\n"), {"membership"}),
        (append("data.py", "\nNEW = 1\n"), set(fingerprints.STAGES)),
        (append("validation.py", "\nNEW = 1\n"), set(fingerprints.STAGES)),
    ],
    ids=["plots", "explore", "profiles", "generator", "comment", "selection", "attacks", "data", "validation"],
)
def test_a_change_of_code_makes_stale_exactly_what_depends_on_it(copy, change, expected):
    assert stale_after(copy, change) - ({"compare"} if "compare" not in expected else set()) == expected


def test_a_docstring_does_not_count_and_a_statement_does():
    hashed = fingerprints._code_hash
    assert hashed('def f():\n    """one"""\n    return 1') == hashed('def f():\n    """two"""\n    return 1  # why')
    assert hashed("def f():\n    return 1") != hashed("def f():\n    return 2")


def edit_cell(name, tag, text):
    def change(root):
        path = root / "notebooks" / name
        notebook = json.loads(path.read_text())
        cell = next(
            c
            for c in notebook["cells"]
            if c["cell_type"] == "code" and (tag in c["metadata"].get("tags", []) if tag else not c["metadata"])
        )
        cell["source"] = [*cell["source"], "\n", text]
        path.write_text(json.dumps(notebook))

    return change


def test_notebook_cells_that_draw_or_exercise_do_not_retrain(copy):
    for tag in ("figure", "exercise", "parameters"):
        assert stale_after(copy, edit_cell("02_generator.ipynb", tag, "extra = 1")) == set()
    assert stale_after(copy, edit_cell("02_generator.ipynb", None, "extra = 1")) == FROM_GENERATOR


def test_a_notebook_with_a_typo_is_named(copy):
    edit_cell("01_teacher.ipynb", None, "x = = 1")(copy)
    with pytest.raises(InputError, match=r"01_teacher\.ipynb: not valid Python"):
        fingerprints.code_hashes("teacher")


@pytest.mark.parametrize("key", ["dataset", "seed", "budget", "checksum", "upstream"])
def test_every_ingredient_changes_the_fingerprint_and_is_named(key):
    base = {"dataset": "digits", "seed": 0, "budget": {"epochs": 2}, "checksum": "a", "upstream": {"teacher": "1"}}
    new = {"dataset": "other", "seed": 1, "budget": {"epochs": 3}, "checksum": "b", "upstream": {"teacher": "2"}}
    old = fingerprints.ingredients("tuning", **base)
    changed = fingerprints.ingredients("tuning", **(base | {key: new[key]}))
    assert fingerprints.fingerprint(old) != fingerprints.fingerprint(changed)
    words = {"budget": "epochs 2 -> 3", "checksum": "the data changed", "upstream": "teacher is new"}
    assert words.get(key, "parameters changed") in fingerprints.what_changed(old, changed)


def test_fingerprints_do_not_depend_on_tuple_or_list():
    budget = dataclasses.asdict(profiles.budget("tuning", "quick"))
    parts = fingerprints.ingredients("tuning", "digits", 0, budget, "a", {})
    assert json.loads(json.dumps(parts)) == parts
