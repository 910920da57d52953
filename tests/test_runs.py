"""Artefacts, manifests and fingerprints: what counts as done, and what makes it stale."""

import numpy as np
import pytest

from kr_utils import InputError, profiles, runs, stages
from kr_utils.runs import locks
from kr_utils.runs import stage as opening

CHECKSUM = "c" * 64


def open_stage(stage="teacher", root="", seed=0, **overrides):
    budget = profiles.budget(stage, "smoke", overrides)
    where = {"dataset": "digits", "profile": "smoke", "seed": seed, "checksum": CHECKSUM, "runs_dir": root}
    return runs.begin(stage, budget, **where)


def finish(stage="teacher", accuracy=0.5, **more):
    opened = open_stage(stage, **more)
    for above in opened.upstream.values():
        assert above.metrics  # read, so that it is made from it
    opened.write_npz("logits.npz", test=np.arange(6.0))
    opened.write_csv(
        "history.csv", [{"epoch": 1, "loss": 0.5, "best": True}, {"epoch": 2, "loss": 0.25, "best": False}]
    )
    return runs.read(opened.finish({"accuracy": accuracy}))


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
    open_stage("tuning")  # another budget, the same bytes: nothing that was read has changed
    finish("teacher", accuracy=0.75)
    with pytest.raises(InputError, match="03_checkpoints was made from an older 01_teacher"):
        open_stage("tuning")
    found = runs.find(tmp_path / "runs", "smoke")["digits", 0]
    assert runs.outdated(found["checkpoints"], found) == ["teacher"]
    assert runs.stale(found) == {"checkpoints": "it was made from another 01_teacher"}
    finish("checkpoints")
    open_stage("tuning")


def test_a_run_is_shown_when_all_its_stages_stand(tmp_path):
    for stage in stages.USUAL:
        if stage != "compare":
            notebook = stages.STAGES[stage][0]
            found, left_out = runs.find_current(tmp_path / "runs", "smoke")
            assert found == {}
            assert set(left_out.values()) <= {f"{notebook} is missing"}
            finish(stage)
    found, left_out = runs.find_current(tmp_path / "runs", "smoke")
    assert (list(found), left_out) == ([("digits", 0)], {})


def test_stages_of_one_run_come_from_the_same_data(tmp_path):
    for stage in stages.USUAL:
        if stage != "compare":
            finish(stage)
    budget = profiles.budget("teacher", "smoke")
    other = runs.begin("teacher", budget, dataset="digits", profile="smoke", seed=0, checksum="d" * 64)
    other.write_json("more.json", {})
    other.finish({"accuracy": 0.5})
    _, left_out = runs.find_current(tmp_path / "runs", "smoke")
    assert left_out == {("digits", 0): "01_teacher: it was made from other data than 00_start_here"}
    with pytest.raises(InputError, match="01_teacher was made from other data"):
        open_stage("checkpoints")


def test_what_was_read_and_made_again_meanwhile_is_refused():
    for stage in ("teacher", "generator"):
        finish(stage)
    opened = open_stage("checkpoints")
    assert opened.upstream["teacher"].metrics == {"accuracy": 0.5}
    finish("teacher", accuracy=0.75)
    with pytest.raises(InputError, match="teacher was made again meanwhile: run 03_checkpoints again"):
        opened.finish({})


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


def test_folders_of_a_stage_at_work_are_left_to_it(monkeypatch):
    """It has written its manifest and is about to rename its folder: who reads it must not do that in its place."""
    with monkeypatch.context() as patch:
        patch.setattr(opening, "settle", lambda final, own: None)
        for stage in ("teacher", "generator"):
            opened = open_stage(stage)
            partial = opened.folder
            opened.finish({"steps": [1]})
    assert (partial / "manifest.json").is_file()
    lock = locks.hold(locks.stage_path(partial.with_suffix("")), "02_generator")
    early = open_stage("checkpoints").upstream["generator"]
    assert early.path == partial
    lock.release()
    assert open_stage("checkpoints").upstream["generator"].path == partial.with_suffix("")
    assert not partial.exists()
    assert early.file("metrics.json") == partial.with_suffix("") / "metrics.json", "found under its name, too"
