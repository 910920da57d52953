"""The stage graph: its order, its failures, what is shown of it, and Ctrl-C."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import types
from dataclasses import replace

import pytest
from conftest import call, children, closed, environment, kernels, wait_for

from kr_utils import InputError, runs, stages
from kr_utils.driver import plan, report, schedule, status
from kr_utils.runs import identity, locks, machine

ROOT = stages.ROOT


def make_plan(root, seeds=(0, 1), until=None, **more):
    options = {"overrides": {}, "root": root, "figures": root / "figures", "until": until} | more
    return plan.plan("smoke", ["digits"], list(seeds), {"digits": "c"}, **options)


# ------------------------------------------------------------------ the graph


class Fake:
    """Room for `size` jobs; ends the one that was started last, or fails it if its name is listed."""

    def __init__(self, size=1, failing=()):
        self.size, self.failing, self.now, self.log = size, failing, [], []

    def room(self, job):
        return len(self.now) < self.size

    def start(self, job):
        self.now.append(job)
        self.log.append(("start", job.title))

    def events(self):
        job = self.now.pop()
        yield "started", job, "somewhere"
        yield "line", job, "epoch 1"
        failed = job.title in self.failing
        self.log.append(("end", job.title))
        yield ("failed", job, "cell 3") if failed else ("done", job, 2.0)


class Silent:
    def __init__(self):
        self.words = {}

    def started(self, job, where):
        pass

    line = started

    def ended(self, job, word, why=""):
        assert job.title not in self.words, "each job ends once"
        self.words[job.title] = word


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_every_stage_runs_once_and_after_those_it_needs(tmp_path, size):
    jobs, fake, report = make_plan(tmp_path), Fake(size), Silent()
    seconds, failures = schedule.run(jobs, fake, report)
    assert not failures
    assert set(seconds.values()) == {2.0}
    assert len(seconds) == len(jobs) == 15
    assert sorted(fake.log) == sorted((kind, job.title) for job in jobs for kind in ("start", "end"))
    for job in jobs:
        for other in schedule.needs(job, jobs):
            assert fake.log.index(("end", other.title)) < fake.log.index(("start", job.title))
    assert fake.log[-1] == ("end", "all runs  10_compare")
    together = max(sum(1 if k == "start" else -1 for k, _ in fake.log[: i + 1]) for i in range(len(fake.log)))
    assert together == min(size, 6), "three stages of each seed need nothing"


def with_expected(jobs, **seconds):
    return [replace(job, expected=seconds.get(job.stage)) for job in jobs]


def test_longest_first_starts_what_most_time_depends_on(tmp_path):
    """The Generator of each seed, then the Teachers, and 00, which nothing needs, when there is nothing else to do."""
    jobs = with_expected(make_plan(tmp_path), start=9, teacher=10, generator=60, checkpoints=30, tuning=5)
    fake = Fake(2)
    seconds, failures = schedule.run(jobs, fake, Silent(), longest_first=True)
    assert not failures
    assert len(seconds) == 15
    started = [title for kind, title in fake.log if kind == "start"]
    assert started[:2] == ["digits seed 0  02_generator", "digits seed 1  02_generator"]
    assert started.index("digits seed 0  01_teacher") < started.index("digits seed 0  00_start_here")
    assert started[-1] == "all runs  10_compare"


def test_without_expected_times_the_order_is_the_plan_s(tmp_path):
    logs = []
    for longest_first in (False, True):
        fake = Fake(1)
        schedule.run(make_plan(tmp_path), fake, Silent(), longest_first=longest_first)
        logs.append(fake.log)
    assert logs[0] == logs[1]


def test_the_time_ahead_is_of_the_longest_chain(tmp_path):
    jobs = with_expected(make_plan(tmp_path, seeds=[0]), start=9, teacher=10, generator=60, checkpoints=30, compare=99)
    found = {job.stage: seconds for job, seconds in schedule.ahead(jobs).items()}
    assert (found["start"], found["teacher"], found["generator"]) == (9, 40, 90)
    assert (found["checkpoints"], found["membership"]) == (30, 0)
    reused = [replace(job, reuse=job.stage == "generator") for job in jobs]
    assert {job.stage: s for job, s in schedule.ahead(reused).items()}["generator"] == 30


def test_after_a_failure_nothing_starts_and_what_runs_is_waited_for(tmp_path):
    fake, report = Fake(3, failing=("digits seed 0  02_generator",)), Silent()
    seconds, failures = schedule.run(make_plan(tmp_path), fake, report)
    assert failures == ["digits seed 0  02_generator: cell 3"]
    assert sorted(job.stage for job in seconds) == ["start", "teacher"]
    assert len(fake.log) == 6
    assert not fake.now


def test_keep_going_leaves_out_only_what_needs_the_failed_stage(tmp_path):
    fake, report = Fake(2, failing=("digits seed 0  03_checkpoints",)), Silent()
    seconds, failures = schedule.run(make_plan(tmp_path), fake, report, keep_going=True)
    assert len(failures) == 1
    assert len(seconds) == 7 + 3
    skipped = {title for title, word in report.words.items() if word == "skipped"}
    assert skipped == {f"digits seed 0  {n}" for n in ("04_tuning", "05_distillation", "06_membership")} | {
        "all runs  10_compare"
    }
    assert len(report.words) == 15


def test_the_comparison_is_planned_anew_when_its_turn_comes(tmp_path):
    jobs, fake, report = make_plan(tmp_path, seeds=[0]), Fake(), Silent()
    seen = []

    def fresh(job):
        seen.append(len(fake.log))
        return replace(job, reuse=True, reason="up to date")  # another driver has just made it

    schedule.run(jobs, fake, report, fresh=fresh)
    assert seen == [2 * 7]
    assert report.words["all runs  10_compare"] == "reused"
    later = [replace(job, reuse=True) for job in jobs]
    seconds, _ = schedule.run(later, fake, Silent(), fresh=lambda job: replace(job, reuse=False))
    assert [job.stage for job in seconds] == ["compare"], "another driver finished a run since this one was planned"


def test_what_cannot_be_run_anywhere_is_a_failure(tmp_path):
    class Nowhere(Fake):
        def room(self, job):
            return False

    seconds, failures = schedule.run(make_plan(tmp_path), Nowhere(), Silent())
    assert not seconds
    assert failures == ["digits seed 0  00_start_here: nothing is left to run it on"]


def test_the_number_of_threads_is_known_without_torch():
    code = (
        "import sys; from kr_utils.runs.machine import hardware; print(hardware()['threads'], 'torch' in sys.modules)"
    )
    for given, words in (
        ("3", "3 False"),
        ("", f"{machine.bound()} False"),
        ("x", f"{machine.bound()} False"),
    ):
        env = {**os.environ, "OMP_NUM_THREADS": given}
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env)
        assert out.stdout.strip() == words, out.stderr


# ------------------------------------------------------------------ what is shown


def pretend(job):
    from kr_utils import profiles

    where = {"dataset": job.dataset, "profile": "smoke", "seed": job.seed, "checksum": "c"}
    budget = profiles.budget(job.stage, "smoke", job.parameters["overrides"])
    return runs.begin(job.stage, budget, runs_dir=job.parameters["runs_dir"], **where)


def failed_notebook(folder, exception):
    notebook = {"metadata": {"papermill": {"exception": exception}}, "cells": []}
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.with_name(f"{folder.name}.failed.ipynb").write_text(json.dumps(notebook))


def test_status_tells_done_running_failed_stopped_and_missing(tmp_path, capsys):
    jobs = {(job.stage, job.seed): job for job in make_plan(tmp_path)}
    pretend(jobs["start", 0]).finish({})
    open_stage = pretend(jobs["teacher", 0])
    failed_notebook(jobs["generator", 0].folder, True)
    failed_notebook(jobs["teacher", 1].folder, None)  # its driver was killed
    states = {key: status.state(job.folder, driven=False)[0] for key, job in jobs.items()}
    assert states["start", 0] == "done"
    assert states["teacher", 0] == "running"
    assert states["generator", 0] == "failed"
    assert states["teacher", 1] == "stopped"
    assert states["membership", 1] == states["start", 1] == "missing"
    assert status.state(jobs["teacher", 1].folder, driven=True)[0] == "running"
    open_stage.finish({})
    assert status.state(jobs["teacher", 0].folder, driven=False)[0] == "done"
    pretend(jobs["generator", 0]).finish({})  # by hand, in JupyterLab, after the driver's failure
    assert status.state(jobs["generator", 0].folder, driven=False)[0] == "done"
    failed_notebook(jobs["tuning", 0].folder, True)
    with locks.driving(tmp_path, "smoke", [("digits", 1)]):
        status.status(tmp_path, "smoke", [("digits", 5)])
    text = capsys.readouterr().out
    assert len(re.findall(r"^│ digits +│ [015] ", text, re.M)) == 3
    assert f"running: digits seed 1 by process {os.getpid()} on" in text
    assert "failed: digits seed 0  04_tuning; see " in text


def took(job, seconds, metrics=None):
    """The stage's result, made in so many seconds."""
    pretend(job).finish(metrics or {})
    manifest = json.loads((job.folder / "manifest.json").read_text())
    manifest = {key: value for key, value in manifest.items() if key != "seal"} | {"seconds": seconds}
    sealed = manifest | {"seal": identity.fingerprint(manifest)}
    (job.folder / "manifest.json").write_text(json.dumps(sealed))


def test_times_say_where_the_minutes_of_each_seed_went(tmp_path):
    for job in make_plan(tmp_path, seeds=[0, 1, 2]):
        if job.stage != "compare" and (job.seed, job.stage) != (2, "membership"):
            took(job, 60.0 * (2 + job.seed if job.stage == "generator" else 1))
    header, _, *rows = status.times(tmp_path, "smoke", [])
    usual = [stage for stage in report.STAGES if stage in stages.USUAL]
    assert header == f"| minutes | seed | {' | '.join(usual)} | sum |"
    assert rows == [
        "| digits | 0 | 1.0 | 1.0 | 2.0 | 1.0 | 1.0 | 1.0 | 1.0 | 8.0 |",
        "| digits | 1 | 1.0 | 1.0 | 3.0 | 1.0 | 1.0 | 1.0 | 1.0 | 9.0 |",
        "| digits | 2 | 1.0 | 1.0 | 4.0 | 1.0 | 1.0 | 1.0 | - | 9.0 |",
        "| digits | mean of 2 | 1.0 | 1.0 | 2.5 | 1.0 | 1.0 | 1.0 | 1.0 | 8.5 |",
    ]
    assert status.times(tmp_path, "smoke", [("digits", 1)])[2:] == [rows[1]]


def test_times_of_what_is_stale_have_a_star(tmp_path, monkeypatch):
    for job in make_plan(tmp_path, seeds=[0], until="generator"):
        took(job, 60.0)
    monkeypatch.setattr(runs, "stale", lambda *_, **__: {"teacher": "the notebook's code changed"})
    row, _, words = status.times(tmp_path, "smoke", [])[2:]
    assert row == "| digits | 0 | 1.0 | 1.0* | 1.0 | - | - | - | - | 3.0 |"
    assert words.startswith("\\* stale")


def test_dry_run_adds_up_what_is_known(tmp_path):
    for job in make_plan(tmp_path, seeds=[0], until="teacher"):
        took(job, 90.0)
    jobs = make_plan(tmp_path, seeds=[0, 1], until="generator")
    assert [job.expected for job in jobs] == [90, 90, None, 90, 90, None], "seed 1 is expected to take what seed 0 took"
    *_, total = report.dry_run(jobs)
    assert total == (
        "total: 4 of 6 stages to run, about 3.0 min one after the other and 2 stages whose time is not known"
    )


def test_what_another_processor_took_is_not_expected_of_this_one(tmp_path, monkeypatch):
    """A stage of a GPU's machine took minutes where this one would take an hour."""
    for job in make_plan(tmp_path, seeds=[0], until="teacher"):
        took(job, 90.0)
    here = machine.hardware()
    made = {"hardware": here | {"gpu": "H100"}}
    monkeypatch.setattr(plan.shutil, "which", lambda name: None)
    assert not plan._made_here(types.SimpleNamespace(manifest=made)), "there is no GPU here"
    monkeypatch.setattr(plan.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert plan._made_here(types.SimpleNamespace(manifest=made))
    monkeypatch.setattr(machine, "hardware", lambda: {"cpu": "another"})
    jobs = make_plan(tmp_path, seeds=[0, 1], until="teacher")
    assert [job.expected for job in jobs] == [None] * 4
    assert [job.seconds for job in jobs] == [90, 90, None, None], "but it is told"


def test_the_live_table_has_a_row_per_run_and_elapsed_and_expected_times(tmp_path):
    from rich.console import Console

    jobs = [replace(job, expected=125.0) for job in make_plan(tmp_path)]
    told = report.Reporter(jobs)
    told.console = Console(width=160, record=True, force_terminal=True, file=io.StringIO())
    with told:
        told.started(jobs[0], "tcp://w")
        told.ended(jobs[0], "done", "in 61 s")
        told.started(jobs[1], "tcp://w")
        told.since[jobs[1].folder] -= 65
        told.line(jobs[1], "epoch 1")
        told.ended(jobs[2], "failed", "cell 3")
        told.ended(jobs[3], "reused")
        canvas = Console(width=160, record=True, file=io.StringIO())
        canvas.print(told.draw())
    text = canvas.export_text()
    assert re.search(r"digits +│ 0 +│ done 0:00 +│ 1:05 of ~2:05 │ failed +│ reused", text), text
    assert re.search(r"digits +│ 1 +│ ~2:05 ", text)
    assert "digits seed 0  01_teacher: epoch 1" in text
    assert "02_generator  failed: cell 3" in told.console.export_text(), "what failed stays above the table"


LEARNED = {"test_accuracy": 0.8, "test_recall": [0.5, 0.9], "test_counts": [10, 30]}
ONE_CLASS = {"test_accuracy": 0.75, "test_recall": [0.0, 1.0], "test_counts": [10, 30]}
GAP = {"gap_low": -0.1, "gap_high": 0.05, "ensemble_gap": -0.0725}
SOUND = {who: {"loss": {"auc": auc}} for who, auc in (("real", 0.598), ("student", 0.561))}
SOUND["shift"] = {
    who: {"val_test": {"auc": first}, "train_val": {"auc": second}}
    for who, first, second in (("real", 0.532, 0.504), ("student", 0.521, 0.497))
}
DOUBTED = SOUND | {"believed": False, "doubts": {"models": ["the positive control was not caught"], "images": []}}


def closing(tmp_path, teacher, student, attacked, width):
    """What the closing table says of one run with these metrics."""
    from rich.console import Console

    jobs = make_plan(tmp_path, seeds=[0])
    for job, metrics in zip(jobs, ({}, teacher, {}, {}, {}, student, attacked)):
        took(job, 0.0, metrics)  # whatever else this computer does
    jobs = make_plan(tmp_path, seeds=[0])
    told = report.Reporter(jobs)
    told.console = Console(width=width, file=io.StringIO())
    told.summary({jobs[1]: 8.2, jobs[2]: 84.0})
    return told.console.file.getvalue()


@pytest.mark.parametrize("width", [160, 100, 80, 60])
def test_the_closing_table_names_what_is_not_to_be_believed_at_any_width(tmp_path, width):
    student = {"cas": 0.75, "cas_gap": 0.0, "cas_recall": [0.0, 1.0], **GAP}
    text = closing(tmp_path, ONE_CLASS, student, DOUBTED, width)
    assert "+0.00: both know one class only" in text, "no bare 0.00"
    assert "0.598 (!)" in text
    assert "0.561 (!)" in text
    assert text.count("(!)") == 2 + 4 + 1, "the shifts are of the same attack; and the line that says why"
    assert "(!) digits seed 0, attacks not to be believed: the positive control was not caught" in text
    assert "1.5 min" in text
    assert "time by stage: teacher 8 s, generator 1.4 min" in text
    assert "…" not in text
    assert max(map(len, text.splitlines()[:3])) <= width


@pytest.mark.parametrize("width", [160, 80])
def test_the_closing_table_says_no_more_than_is_known(tmp_path, width):
    student = {"cas": 0.75, "cas_gap": -0.05, "cas_recall": [0.6, 0.8], **GAP}
    text = closing(tmp_path, LEARNED, student, SOUND, width)
    assert "-5.00 [-10.00, +5.00]" in text
    assert "-7.25" in text, "the gap to the ensemble"
    assert "0.598" in text
    assert (
        "digits seed 0: AUC of validation against test images, both outsiders: real training 0.532, Student 0.521; "
        "of training against validation images: real training 0.504, Student 0.497"
    ) in text
    assert "(!)" not in text


@pytest.mark.parametrize("width", [160, 100, 80, 50])
def test_no_word_of_a_table_of_stages_is_cut_at_any_width(width):
    from rich.console import Console

    words = ["done 0 s", "1:05 of ~2:05", "done 12.5 min", "~1:02:05", "failed", "missing", "skipped"]
    table = {("pneumoniamnist", 2147483647): dict(zip(report.STAGES, words)), ("digits", 0): {"start": "reused"}}
    canvas = Console(width=width, file=io.StringIO())
    canvas.print(report.of_stages(table, canvas, "profile quick"))
    text = canvas.file.getvalue()
    for word in [*words, "reused", "pneumoniamnist", "2147483647", "digits", "profile quick"]:
        assert re.search(rf"(^|\s){re.escape(word)}(\s|$)", text, re.M), word
    assert all(len(line) <= width for line in text.splitlines())
    if width < 100:
        assert "06 skipped" in text, "a stage goes by the number of its notebook"


@pytest.mark.parametrize(
    "name",
    [
        *("digits/seed\u0663", "digits/seed03", "digits/seed-3", "digits/seed12345678901"),
        *("a\x1b[2J/seed3", "a\nb/seed3", "Digits/seed3", "x" * 41 + "/seed3", "../seed3"),
    ],
)
def test_only_names_that_a_run_gives_are_rows_of_status(name, tmp_path, capsys):
    (tmp_path / "smoke/digits/seed12").mkdir(parents=True)
    (tmp_path / "smoke" / name).mkdir(parents=True)
    status.status(tmp_path, "smoke", [])
    out = capsys.readouterr().out
    assert re.search(r"digits\W+12\W", out)
    assert len([line for line in out.splitlines() if "missing" in line]) == 2, "one run, and the comparison"
    assert out.replace("\n", "").isprintable()


def test_folders_that_one_may_not_look_into_are_told_by_status(tmp_path, monkeypatch, capsys):
    for name in ("digits", "theirs"):
        (tmp_path / f"smoke/{name}/seed0").mkdir(parents=True)
    closed(tmp_path / "smoke/theirs", monkeypatch)
    status.status(tmp_path, "smoke", [])
    out = capsys.readouterr().out.splitlines()
    assert any(re.search(r"digits\W+0\W", line) for line in out), "the others are shown"
    assert f"{tmp_path}/smoke/theirs: you may not look into this folder; get permission or name another" in out

    closed(tmp_path / "smoke", monkeypatch)
    with pytest.raises(InputError, match="smoke: you may not look into this folder"):
        status.status(tmp_path, "smoke", [])


def test_the_live_table_and_status_fit_a_terminal_of_80_columns(tmp_path, monkeypatch, capsys):
    from rich.console import Console

    monkeypatch.setattr(report, "UNKNOWN_WIDTH", 80)
    monkeypatch.setattr(status, "UNKNOWN_WIDTH", 80)
    jobs = [replace(job, expected=125.0) for job in make_plan(tmp_path)]
    pretend(jobs[0]).finish({})
    told = report.Reporter(jobs)
    told.started(jobs[1])
    capsys.readouterr()
    canvas = Console(width=80, file=io.StringIO())
    canvas.print(told.draw())
    assert "digits seed 1\n00 ~2:05   01 ~2:05" in canvas.file.getvalue()
    assert re.search(r"00 ~2:05 +01 0:00 of ~2:05 +02 ~2:05", canvas.file.getvalue())
    status.status(tmp_path, "smoke", [])
    text = capsys.readouterr().out
    assert re.search(r"digits seed 0\n00 done 0 s +01 missing", text)
    assert "0.0" not in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0 s"), (8.2, "8 s"), (59.4, "59 s"), (59.6, "1.0 min"), (84, "1.4 min"), (3600, "60.0 min")],
)
def test_what_takes_less_than_a_minute_is_told_in_seconds(seconds, words):
    assert report.duration(seconds) == words


def test_the_dry_run_tells_seconds_of_short_stages(tmp_path):
    jobs = [replace(job, seconds=8.2, expected=8.2) for job in make_plan(tmp_path, seeds=[0], until="teacher")]
    first, _, total = report.dry_run(jobs)
    assert first.endswith("(8 s last time)")
    assert total == "total: 2 of 2 stages to run, about 16 s one after the other"


# ------------------------------------------------------------------ real processes


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_everything_and_the_same_command_goes_on(tmp_path, start, jobs):
    command = call("--until", "teacher", "--jobs", jobs, "--set", "teacher.epochs=400")
    driver = start(command, "log")
    run = tmp_path / "runs/smoke/digits/seed0"
    wait_for(lambda: (run / "00_start_here").exists() and (run / "01_teacher.partial").exists(), "the Teacher trains")
    assert kernels(tmp_path)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to the driver, its workers, not its kernels
    assert driver.wait(60) == 130
    assert not kernels(tmp_path)
    assert not children(driver.pid)
    text = (tmp_path / "log").read_text()
    assert "the same command goes on from here" in text
    assert "Traceback" not in text
    assert not list(tmp_path.rglob(".driver-*"))
    assert not list(tmp_path.rglob(".driver.json"))
    # A killed kernel cannot take its note away, but the lock itself ended with it.
    assert [path for path in tmp_path.rglob(".*.lock") if locks.holder(path)] == []
    again = subprocess.run(
        call("--until", "teacher", "--dry-run"), capture_output=True, text=True, env=environment(tmp_path)
    )
    assert again.stdout.startswith("reuse  digits seed 0  00_start_here"), "what was finished is kept"


@pytest.mark.slow
def test_ctrl_c_while_a_kernel_comes_up(tmp_path, start):
    driver = start(call("--until", "teacher"), "log")
    wait_for(lambda: kernels(tmp_path), "a kernel")
    os.killpg(driver.pid, signal.SIGINT)  # papermill does not know this kernel yet
    assert driver.wait(60) == 130
    assert not kernels(tmp_path)
    assert (tmp_path / "log").read_text().endswith("the same command goes on from here\n")


@pytest.mark.slow
def test_two_drivers_at_once_run_nothing_twice(tmp_path, start):
    first = start(call("--until", "teacher"), "first")
    lock = locks.driver_path(tmp_path / "runs", "smoke", "digits", 0)
    wait_for(lambda: locks.holder(lock), "the first driver holds its lock")
    second = subprocess.run(
        call("--until", "teacher", "--seeds", "1,0"), capture_output=True, text=True, env=environment(tmp_path)
    )
    assert second.returncode == 2
    assert f"digits seed 0 of profile smoke is being worked on by process {first.pid} on" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs/smoke/digits/seed1/00_start_here").exists()
    assert first.wait(600) == 0, (tmp_path / "first").read_text()
    assert sorted(stage for run in runs.find(tmp_path / "runs", "smoke").values() for stage in run) == [
        "start",
        "teacher",
    ]
    again = subprocess.run(call("--until", "teacher"), capture_output=True, text=True, env=environment(tmp_path))
    assert again.stdout.count("reused") == 2
