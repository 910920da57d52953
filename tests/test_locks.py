"""Locks between real processes: one holder, named to the other; a dead one is recognised."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest

from kr_utils import InputError, profiles, runs, stages
from kr_utils.runs import locks
from kr_utils.runs import stage as opening

HOLD = "import sys, time; from kr_utils.runs import locks; from pathlib import Path; "
HOLD += "locks.hold(Path(sys.argv[1]), 'it'); print('held', flush=True); time.sleep(600)"


@pytest.fixture
def other():
    """A function that lets another process hold a lock, and returns that process."""
    started = []

    def hold(path, code=HOLD):
        call = [sys.executable, "-c", code, str(path)]
        process = subprocess.Popen(call, stdout=subprocess.PIPE, text=True, cwd=stages.ROOT)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_holder_is_refused_in_one_line_that_names_the_first(tmp_path, other):
    path = locks.driver_path(tmp_path, "quick", "digits", 0)
    process = other(path)
    with pytest.raises(InputError) as error:
        locks.hold(path, "digits seed 0 of profile quick")
    message = str(error.value)
    assert message.startswith("digits seed 0 of profile quick is being worked on by process")
    assert f"process {process.pid} on " in message
    assert "\n" not in message
    assert locks.holder(path)["pid"] == process.pid
    locks.hold(locks.driver_path(tmp_path, "quick", "digits", 1), "another seed").release()


def test_a_lock_of_a_killed_process_is_taken_over_and_told(tmp_path, other):
    path = tmp_path / ".driver.lock"
    process = other(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert locks.holder(path) is None
    lock = locks.hold(path, "it", this_host_only=True)
    assert lock.took_over["pid"] == process.pid
    lock.release()
    assert locks.hold(path, "it").took_over is None, "a lock that was given back was not left by the dead"
    locks.HELD[str(path)].release()


def test_the_number_of_a_dead_process_may_have_been_given_to_a_living_one(tmp_path):
    path = tmp_path / ".driver.lock"
    lock = locks.hold(path, "it")
    note = path.with_suffix(".json").read_text()
    lock.release()
    path.with_suffix(".json").write_text(note.replace(str(os.getpid()), str(os.getppid())))
    taken = locks.hold(path, "it", this_host_only=True)
    assert taken.took_over["pid"] == os.getppid()
    taken.release()


def test_a_lock_left_by_another_computer_is_refused_with_what_to_delete(tmp_path):
    path = locks.driver_path(tmp_path, "quick", "digits", 0)
    path.parent.mkdir(parents=True)
    note = path.with_suffix(".json")
    note.write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": "2020-01-01"}))
    with pytest.raises(InputError, match="process 7 on elsewhere since 2020-01-01, which cannot be seen") as error:
        locks.hold(path, "it", this_host_only=True)
    assert f"delete {note}" in str(error.value)
    note.unlink()
    locks.hold(path, "it", this_host_only=True).release()


def on_nfs(number, operation, flock=fcntl.flock):
    """There a file that is open for reading can only be locked together with others."""
    descriptor = number if isinstance(number, int) else number.fileno()
    if operation & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return flock(number, operation)


def test_on_nfs_a_holder_is_seen_and_a_free_lock_is_free(tmp_path, other, monkeypatch):
    path = tmp_path / ".driver.lock"
    process = other(path)
    monkeypatch.setattr(fcntl, "flock", on_nfs)
    assert locks.holder(path)["pid"] == process.pid
    process.kill()
    process.wait()
    assert locks.holder(path) is None
    locks.hold(path, "it").release()
    assert locks.holder(path) is None


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.EIO, errno.ENOSYS])
def test_where_nobody_can_know_whether_a_lock_is_free_it_counts_as_held(tmp_path, number, monkeypatch):
    path = tmp_path / ".driver.lock"
    path.touch()

    def unknown(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unknown)
    assert locks.holder(path) == {}
    path.with_suffix(".json").write_text('{"pid": 7}')
    assert locks.holder(path) == {"pid": 7}
    path.unlink()
    assert locks.holder(path) is None, "a lock that is not there is free"


def test_who_looks_does_not_hide_the_lock_from_others_who_look(tmp_path):
    path = tmp_path / ".driver.lock"
    path.touch()
    with open(path) as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert locks.holder(path) is None


def test_the_note_of_a_dead_holder_is_forgotten_and_that_of_a_living_one_is_not(tmp_path, other):
    path = tmp_path / ".x.lock"
    locks.forget(path)
    process = other(path)
    locks.forget(path)
    assert locks.read_note(path)["pid"] == process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert locks.read_note(path)["pid"] == process.pid
    locks.forget(path)
    assert locks.read_note(path) is None
    mine = locks.hold(path, "it")
    locks.forget(path)
    assert locks.read_note(path)["pid"] == os.getpid()
    mine.release()


def test_a_finished_stage_keeps_no_note_of_a_kernel_that_died_before_it_let_go(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            locks.Lock, "release", lambda lock: locks._let_go(lock.descriptor)
        )  # as the system does for the dead
        stage = begin(tmp_path)
        stage.finish({})
    locks.HELD.clear()
    assert locks.read_note(locks.stage_path(stage.final))
    runs.settle(stage.final)
    assert not list(tmp_path.rglob(".*.json"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": null}', "\0"])
def test_a_damaged_note_harms_nothing(tmp_path, other, text):
    path = tmp_path / ".x.lock"
    other(path)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(InputError, match="is being worked on by process"):
        locks.hold(path, "it")


@pytest.mark.parametrize(
    ("note", "words"),
    [
        ({"pid": 7, "host": "a", "since": "2026"}, "process 7 on a since 2026"),
        ({"pid": "7\nerror: x", "host": "\x1b[2J"}, "process 7?error:?x on ?[2J since ?"),
        ({"pid": "", "host": "a b\u202ec", "since": ["\x07"]}, "process ? on a?b?c since ['\\x07']"),
    ],
)
def test_what_a_neighbour_wrote_cannot_speak_to_the_terminal(note, words):
    assert locks.told(note) == words
    assert locks.TOLD.fullmatch(words), "or it would stay in a notebook's copy"


def test_a_place_that_cannot_be_locked_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: not a folder; move it away"):
        locks.hold(tmp_path / "file" / ".x.lock", "it")
    os.mkfifo(tmp_path / ".x.lock")
    with pytest.raises(InputError, match=r"\.x\.lock: cannot be locked \(not an ordinary file\)"):
        locks.hold(tmp_path / ".x.lock", "it")
    assert locks.holder(tmp_path / ".x.lock") is None


BEGIN = "import sys; from kr_utils import profiles, runs; runs.begin('teacher', profiles.budget('teacher', 'smoke'), "
BEGIN += "dataset='digits', profile='smoke', seed=0, checksum='c', runs_dir=sys.argv[1]); print('held', flush=True); "
BEGIN += "import time; time.sleep(600)"


def begin(root):
    budget = profiles.budget("teacher", "smoke")
    return runs.begin("teacher", budget, dataset="digits", profile="smoke", seed=0, checksum="c", runs_dir=root)


def test_two_kernels_never_make_one_stage_together(tmp_path, other, monkeypatch):
    process = other(tmp_path, BEGIN)
    partial = tmp_path / "smoke/digits/seed0/01_teacher.partial"
    (partial / "work").write_text("of the first")
    monkeypatch.setattr(opening, "LOCK_WAIT", 0.3)
    with pytest.raises(InputError, match=f"01_teacher of digits seed 0 is being worked on by process {process.pid}"):
        begin(tmp_path)
    assert (partial / "work").read_text() == "of the first"
    monkeypatch.setattr(opening, "LOCK_WAIT", 60)
    os.kill(process.pid, signal.SIGKILL)  # an orphan ends: the next one waits for that, and starts clean
    stage = begin(tmp_path)
    stage.finish({})
    assert locks.holder(locks.stage_path(stage.final)) is None


def test_a_cell_that_opens_its_stage_may_be_run_twice(tmp_path):
    begin(tmp_path)
    begin(tmp_path).finish({})
    assert not list(tmp_path.rglob("*.json.tmp"))
    assert not list(tmp_path.rglob(".*.json"))
