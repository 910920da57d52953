"""Executed notebooks: nothing in them tells where they ran, and a missing or edited one is noticed."""

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kr_utils import InputError, profiles, runs, stages
from kr_utils.driver import plan, report, status
from kr_utils.runs import copies, locks

NAMES = {"/home/ann": "<home>", "/home/ann/r": "<runs>", '/data "x"': "<data>", "/tmp": "<temporary>"}


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("done: /home/ann/r/smoke/digits", "done: <runs>/smoke/digits"),
        ("/home/ann/run is not /home/ann/r", "<home>/run is not <runs>"),
        ("/home/anna and /mnt/home/ann stay", "/home/anna and /mnt/home/ann stay"),
        ("see /home/ann.", "see <home>."),
        ("file:///tmp/ipykernel_7/1.py:3: UserWarning", "file://<temporary>/ipykernel_7/1.py:3: UserWarning"),
        ('data_root = "/data \\"x\\""', 'data_root = "<data>"'),
        ("<td>/data &quot;x&quot;/a.npz</td>", "<td><data>/a.npz</td>"),
        ("done by process 7 on ann-laptop since 2026-01-01T00:00:00+00:00.", "done by another process"),
        ("nothing of the kind: 1/2, a/b", "nothing of the kind: 1/2, a/b"),
    ],
)
def test_a_path_in_a_copy_becomes_a_name(text, cleaned):
    notebook = {"cells": [{"source": [text], "outputs": [{"text": text, "n": 1.5}]}], "metadata": {"x": text}}
    want = json.loads(json.dumps(notebook).replace(json.dumps(text), json.dumps(cleaned)))
    assert json.loads(copies.clean(json.dumps(notebook), NAMES)) == want


def job_of(root, **more):
    jobs = plan.plan("smoke", ["digits"], [0], {"digits": "c"}, overrides={}, root=root, figures=root, **more)
    return next(job for job in jobs if job.stage == "teacher")


def stage(root):
    budget = profiles.budget("teacher", "smoke")
    return runs.begin("teacher", budget, dataset="digits", profile="smoke", seed=0, checksum="c", runs_dir=root)


def executed(final, began=None, exception=None, text="1"):
    """What papermill leaves beside the stage."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(began or time.time()))
    about = {"exception": exception, "start_time": stamp, "input_path": str(stages.NOTEBOOKS / "01_teacher.ipynb")}
    lines = f"{text} {final} {Path.home()}/x {locks.told(locks.read_note(locks.stage_path(final)))}"
    notebook = {"cells": [{"source": f'runs_dir = "{final}"', "outputs": [{"text": lines}]}]}
    copies.at_work(final).write_text(json.dumps(notebook | {"metadata": {"papermill": about}}))


def test_nothing_that_a_stage_leaves_tells_where_or_by_whom_it_was_made(tmp_path):
    opened = stage(tmp_path)
    executed(opened.final)
    opened.write_csv("history.csv", [{"epoch": 1}])
    final = opened.finish({"accuracy": 0.5})
    copies.keep(runs.read(final), {"runs_dir": str(tmp_path)})
    secrets = [str(tmp_path), str(stages.ROOT), str(Path.home()) + "/", socket.gethostname(), str(os.getpid())]
    left = {path: path.read_bytes().decode(errors="ignore") for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in left} == {
        "manifest.json", "metrics.json", "history.csv", "notebook.ipynb", "notebook.json", ".01_teacher.lock",
    }  # fmt: skip
    found = {(path.name, word) for path, text in left.items() for word in secrets if word in text}
    # The processor may have a short host name or a number in its name.
    assert {pair for pair in found if pair[0] != "manifest.json" or "/" in pair[1]} == set()


def test_a_missing_or_edited_copy_is_told_and_trains_nothing_again(tmp_path, capsys):
    opened = stage(tmp_path)
    executed(opened.final)
    final = opened.finish({"accuracy": 0.5})
    job = job_of(tmp_path)
    assert plan.tidy(job) == ""
    assert (job_of(tmp_path).reuse, job_of(tmp_path).reason) == (True, "up to date")

    copy = final / "notebook.ipynb"
    good = copy.read_text()
    edits = {
        "edited": lambda: copy.write_text(good.replace('"1 ', '"2 ')),
        "record gone": lambda: (final / "notebook.json").unlink(),
        "gone": copy.unlink,
    }
    record = (final / "notebook.json").read_text()
    for edit in edits.values():
        copy.write_text(good)
        (final / "notebook.json").write_text(record)
        edit()
        job = job_of(tmp_path)
        words = copies.told(runs.read(final))
        assert words.startswith("its executed notebook ")
        assert (job.reuse, job.reason) == (True, f"up to date, but {words}")
        assert plan.tidy(job) == f"but {words}"
        status.status(tmp_path, "smoke", [])
        told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("done: digits seed 0")]
        assert told == [f"done: digits seed 0  01_teacher, but {words}"]
    assert "missing" in words


@pytest.mark.parametrize("name", [copies.NAME, copies.RECORD])
def test_a_copy_that_may_not_be_read_is_not_told_as_an_edited_one(tmp_path, monkeypatch, name):
    opened = stage(tmp_path)
    executed(opened.final)
    done = runs.read(opened.finish({}))
    copies.keep(done, {})
    reading = copies.owned.reading

    def refuse(path):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return reading(path)

    assert copies.told(done) == ""
    monkeypatch.setattr(copies.owned, "reading", refuse)
    assert copies.told(done) == "its executed notebook, or the record of it, may not be read"


def test_a_copy_of_another_result_is_not_taken_for_this_one(tmp_path):
    for _ in range(2):
        opened = stage(tmp_path)
        executed(opened.final)
        final = opened.finish({"accuracy": 0.5})
        if not copies.at_work(final).with_name("kept").exists():
            copies.keep(runs.read(final), {})
            (final / "notebook.ipynb").rename(final.parent / "kept")
            (final / "notebook.json").rename(final.parent / "record")
            time.sleep(1.1)  # a manifest's time is in seconds
    (final.parent / "kept").rename(final / "notebook.ipynb")
    (final.parent / "record").rename(final / "notebook.json")
    assert copies.told(runs.read(final)) == "its executed notebook was edited, or is of another run"


@pytest.mark.parametrize(
    ("began", "written", "exception", "kept"),
    [
        (-5, 5, None, True),
        (-500, -300, None, False),  # of an earlier attempt
        (300, 500, True, False),  # of a later one that failed
        (300, 500, None, False),  # of a later one that was killed
        (-5, 5, True, False),
    ],
)
def test_the_copy_that_a_killed_driver_left_is_kept_if_it_made_the_result(tmp_path, began, written, exception, kept):
    final = stage(tmp_path).finish({})
    now = time.time()
    executed(final, now + began, exception)
    os.utime(copies.at_work(final), (now + written, now + written))
    plan.tidy(job_of(tmp_path))
    assert (final / "notebook.ipynb").exists() == kept
    assert copies.at_work(final).exists() != kept


def stored(tmp_path, seconds=20.0, **about):
    """A finished stage that took so many seconds, and its copy, of a notebook that began five seconds earlier."""
    opened = stage(tmp_path)
    executed(opened.final, time.time() - 5)
    opened.earlier = seconds
    opened.started = time.time()
    final = opened.finish({"accuracy": 0.5})
    place = copies.at_work(final)
    notebook = json.loads(place.read_text())
    notebook["metadata"]["papermill"] |= {"duration": 27.5} | about
    place.write_text(json.dumps(notebook))
    copies.keep(runs.read(final), {})
    assert copies.told(runs.read(final)) == ""
    return runs.read(final)


def test_a_dry_run_promises_what_the_driver_told_and_not_what_the_kernel_counted(tmp_path):
    stored(tmp_path)
    job = job_of(tmp_path)
    assert (job.seconds, job.expected) == (27.5, 27.5)
    lines = report.dry_run([replace(job, reuse=False, reason="--force")])
    assert lines[0].endswith("--force  (28 s last time)")
    assert lines[-1] == "total: 1 of 1 stages to run, about 28 s one after the other"
    other = plan.plan("smoke", ["digits"], [1], {"digits": "c"}, overrides={}, root=tmp_path, figures=tmp_path)
    assert [each.expected for each in other if each.stage == "teacher"] == [27.5], "nor another seed's"


def test_what_starts_that_were_killed_took_counts_as_well(tmp_path):
    assert copies.took(stored(tmp_path, seconds=100.0)) == pytest.approx(105, abs=2)


@pytest.mark.parametrize(
    "about",
    [{"duration": None}, {"duration": float("inf")}, {"duration": 3}, {"duration": "x"}, {"start_time": "2020-01-01"},
     {"start_time": 7}, {"start_time": "2020-01-01T00:00:00+00:00"}, {"start_time": "2999-01-01T00:00:00+00:00"}],
)  # fmt: skip
def test_a_copy_that_is_not_of_this_result_says_nothing_about_its_time(tmp_path, about):
    assert copies.took(stored(tmp_path, **about)) == pytest.approx(20, abs=1)


def test_a_stage_without_a_copy_took_what_its_manifest_says(tmp_path):
    done = stored(tmp_path)
    (done.path / copies.NAME).unlink()
    assert copies.took(done) == done.manifest["seconds"]


def test_a_copy_is_not_put_through_a_link(tmp_path):
    final = stage(tmp_path / "runs").finish({})
    executed(final)
    (tmp_path / "elsewhere").mkdir()
    final.rename(tmp_path / "elsewhere/moved")
    final.symlink_to(tmp_path / "elsewhere/moved")
    assert plan.tidy(job_of(tmp_path / "runs")).startswith("but its executed notebook is missing")
    with pytest.raises(InputError, match="a link; nothing is written"):
        copies.keep(runs.read(final), {})
    assert not (tmp_path / "elsewhere/moved/notebook.ipynb").exists()
