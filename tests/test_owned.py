"""What the project writes and deletes: never through a link, never into a pipe, and for those whom the umask allows."""

import ast
import contextlib
import functools
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import rich.console
import rich.table  # noqa: F401 (a forked process without permissions could not import it any more)
import torch
from matplotlib.figure import Figure

import run_all
from kr_utils import InputError, classifier, owned, plots, profiles, resume, runs, stages
from kr_utils.driver import execute, home, plan, status
from kr_utils.runs import copies, identity, locks
from kr_utils.runs import stage as opening


@pytest.fixture(autouse=True)
def no_hanging():
    """A read of a pipe would wait for ever; here it ends the test."""
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.fixture
def quick(monkeypatch):
    """What does not change from stage to stage is found out once."""
    for module, name in ((opening, "git_commit"), (opening, "versions"), (identity, "versions")):
        monkeypatch.setattr(module, name, functools.cache(getattr(module, name)))
    monkeypatch.setattr(identity, "code_hashes", functools.cache(identity.code_hashes))
    monkeypatch.setattr(execute.gc, "collect", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda number: None)


def let_go():
    """All locks of this process, as when it ends."""
    for lock in [*locks.HELD.values()]:
        lock.release()


def open_stage(root, **overrides):
    budget = profiles.budget("teacher", "smoke", overrides)
    return runs.begin("teacher", budget, dataset="digits", profile="smoke", seed=0, checksum="c", runs_dir=root)


def finish(root, **overrides):
    opened = open_stage(root, **overrides)
    opened.write_csv("history.csv", [{"epoch": 1}])
    return runs.read(opened.finish({"accuracy": 0.5}))


# ------------------------------------------------------------- one file writes

# Calls that write, delete or rename, however they are spelled; and the few that do not concern what the project owns.
WRITERS = {"write_text", "write_bytes", "unlink", "rmdir", "rmtree", "mkdir", "makedirs", "touch", "rename", "replace"}
WRITERS |= {"remove", "removedirs", "move", "copy", "copyfile", "copytree", "symlink_to", "hardlink_to", "save_file"}
OTHERS = {
    "paths": {"folder.mkdir"},  # the folder that a user named, tried before anything runs
    "published": {"folder.mkdir", "(folder / file).parent.mkdir", "os.replace"},  # the data folder
    # the data folder too: two files, both or none
    "own_images": {"target.unlink", "np.savez_compressed", "os.replace", "path.open", "made[1].write_text"},
    "pictures": {"Image.open"},  # reads
    "bundle": {"path.parent.mkdir", "shutil.copyfile"},  # a folder that a user named, while it has another name
    "driver/classroom": {"shutil.copyfile", "shutil.copytree"},  # likewise
}


def writers(code):
    """What in this code writes to a path without asking `owned`."""
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        last, given = called.split(".")[-1], [ast.unparse(a) for a in [*node.args, *(k.value for k in node.keywords)]]
        path_like = not (last in ("replace", "copy", "remove") and not called.startswith(("os.", "shutil.")))
        if last in WRITERS and path_like and not called.startswith(("owned.", "dataclasses.")):
            yield called
        if last == "open" and any(mode[:2] in ("'w", "'a", "'x") or "+" in mode for mode in given):
            yield called
        if last in ("savefig", "savez_compressed") and given[:1] != ["file"]:
            yield called


def test_everything_is_written_and_deleted_through_one_file():
    package = stages.ROOT / "kr_utils"
    found = {
        str(path.relative_to(package).with_suffix("")): set(writers(path.read_text(encoding="utf-8")))
        for path in package.rglob("*.py")
    }
    assert len(found) > 30
    assert found.pop("owned"), "the walk finds what it looks for"
    assert {name: calls for name, calls in found.items() if calls - OTHERS.get(name, set())} == {}


# ---------------------------------------------------------------------- links


class Blank:
    """A figure that is drawn in no time."""

    def savefig(self, file, **options):
        file.write(b"drawn")


def work(root, figures, monkeypatch):
    """Everything that a run writes, in a second: a stage that is resumed, replaces an older one, and has its copy."""
    opened = open_stage(root, epochs=3)
    opened.state("teacher").part("set0").save({"epoch": 1})
    opened.state("other").save({"epoch": 1})
    let_go()
    opened = open_stage(root, epochs=3)  # goes on
    resume.once(opened.state("once"), lambda: {"score": 1})
    opened.write_json("table.json", {})
    opened.write_csv("history.csv", [{"epoch": 1}])
    opened.write_npz("logits.npz", test=np.arange(3))
    resume.write({"weight": torch.zeros(1)}, opened.file("teacher.safetensors"), {})
    final = opened.finish({"accuracy": 0.5})

    def executed(source, target, **options):
        Path(target).write_text(json.dumps({"cells": [], "metadata": {"papermill": {"exception": None}}}))

    import papermill

    monkeypatch.setattr(papermill, "execute_notebook", executed)
    parts = {key: value for key, value in opened.parts.items() if key != "upstream"}
    job = plan.Job("teacher", "digits", 0, final, {"runs_dir": str(root)}, parts, False, "", None)
    with locks.driving(root, "smoke", [("digits", 0)]):
        execute.execute(job)
    assert copies.told(runs.read(final)) == ""

    plots.save(Blank(), figures / "smoke", "cas", "alt text")
    runs.write_atomic(figures / "smoke" / "results.csv", "a,b\n")


def paths_of(root, figures, monkeypatch):
    """Every path that `work` makes, also those that do not stay, relative to the folder of both."""
    seen = set()

    def watch(name, also=lambda path: ()):
        real = getattr(owned, name)

        def wrapped(path, *args, **kwargs):
            seen.update([path, *also(path), *(a for a in args if isinstance(a, Path))])
            return real(path, *args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(owned, "writing", watch("writing", lambda path: [path.with_name(f".{path.name}.tmp")]))
        for name in ("make", "lock_file", "rename", "vacate", "remove"):
            patch.setattr(owned, name, watch(name))
        finish(root)
        work(root, figures, patch)
    above = {folder for path in seen for folder in path.parents}
    everything = seen | above | {*root.rglob("*"), *figures.rglob("*")}
    return sorted(str(p.relative_to(root.parent)) for p in everything if root in p.parents or figures in p.parents)


def snapshot(folder):
    return {str(p): (p.lstat().st_mode, p.read_bytes() if p.is_file() else None) for p in folder.rglob("*")}


PLANTS = {
    "a link to a file": lambda path, out: path.symlink_to(out / "file"),
    "a link to a folder": lambda path, out: path.symlink_to(out / "folder"),
    "a link to nothing": lambda path, out: path.symlink_to(out / "nothing"),
    "a second name of a file": lambda path, out: os.link(out / "file", path),
    "a pipe": lambda path, out: os.mkfifo(path),
}


@pytest.mark.parametrize("kind", PLANTS)
def test_nothing_outside_is_written_whatever_lies_at_any_path_that_a_run_makes(kind, quick, tmp_path, monkeypatch):
    """Either the run replaces it, or it refuses in one line."""
    places = paths_of(tmp_path / "first/runs", tmp_path / "first/figures", monkeypatch)
    names = {Path(place).name for place in places}
    assert {"01_teacher.partial", "01_teacher.old", "state", "stage.json", "00000001.safetensors", "cas.png"} <= names
    assert {".driver.lock", ".driver.json", "01_teacher.failed.ipynb", "notebook.ipynb", ".manifest.json.tmp"} <= names
    assert {"teacher.safetensors", ".logits.npz.tmp", "results.csv", "digits", "smoke"} <= names
    assert len(places) > 55

    out, outcomes = tmp_path / "out", {}
    for place in places:
        here = tmp_path / "here"
        for name in (
            "file",
            "folder/manifest.json",
            "folder/state/x.tmp",
            "folder/x.tmp",
            "folder/00000009.safetensors",
        ):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text("of somebody else")
        before = snapshot(out)
        (here / place).parent.mkdir(parents=True)
        PLANTS[kind](here / place, out)
        try:
            work(here / "runs", here / "figures", monkeypatch)
            outcomes[place] = "done"
            assert not any(path.is_symlink() for path in runs.read(finals(here)).path.iterdir())
        except (InputError, execute.StageFailed) as error:
            outcomes[place] = str(error)
        assert snapshot(out) == before, f"{kind} at {place}: {outcomes[place]}"
        let_go()
        shutil.rmtree(here)
    refused = {place: words for place, words in outcomes.items() if words != "done"}
    assert all("delete it" in w or "move it away" in w or "cannot be locked" in w for w in refused.values()), refused
    assert not [words for words in refused.values() if "\n" in words]
    assert len(refused) < 12, refused


def finals(here):
    return runs.stage_dir(here / "runs", "smoke", "digits", 0, "teacher")


@pytest.mark.parametrize("kind", PLANTS)
def test_what_lies_at_a_writer_s_own_temporary_name_is_left_alone(kind, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (out / "folder").mkdir(parents=True)
    (out / "file").write_text("of somebody else")
    before = snapshot(out)
    monkeypatch.setattr(owned, "_COUNT", iter(range(7, 100)))
    monkeypatch.setattr(owned, "_sweep", lambda path, folder: None)
    plant = tmp_path / f".table.csv.{owned._here()}-{os.getpid()}-7.tmp"
    PLANTS[kind](plant, out)
    owned.write(tmp_path / "table.csv", "ours")
    assert (tmp_path / "table.csv").read_text() == "ours"
    assert snapshot(out) == before


# -------------------------------------------------------------- several writers


def test_two_writers_of_one_file_do_not_take_each_other_s_half(tmp_path):
    path = tmp_path / "results.csv"
    with owned.writing(path) as first:
        first.write(b"half of ")
        with owned.writing(path) as second:
            second.write(b"the second")
        assert path.read_bytes() == b"the second"
        first.write(b"the first")
    assert path.read_bytes() == b"half of the first"
    assert [each.name for each in tmp_path.iterdir()] == ["results.csv"]


def in_a_child(work):
    """Run it in a forked process, and return that process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def test_processes_that_write_the_same_file_all_the_time_leave_one_whole_file(tmp_path):
    path, contents = tmp_path / ".speed.json", [bytes([65 + k]) * 200_000 for k in range(4)]
    children = [in_a_child(lambda c=c: [owned.write(path, c) for _ in range(25)]) for c in contents]
    while any(children):
        for place, child in enumerate(children):
            if child and (done := os.waitpid(child, os.WNOHANG))[0]:
                assert done[1] == 0, "a writer failed"
                children[place] = 0
        if path.exists():
            assert path.read_bytes() in contents, "a reader sees one whole file"
    assert [each.name for each in tmp_path.iterdir()] == [".speed.json"]


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path):
    path = tmp_path / "table.csv"

    def killed():
        with owned.writing(path) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(in_a_child(killed), 0)
    assert len(list(tmp_path.glob(".table.csv.*.tmp"))) == 1
    own, elsewhere = f".table.csv.{owned._here()}-{os.getpid()}-0.tmp", ".table.csv.01234567-1-0.tmp"
    old = [".table.csv.tmp", own, elsewhere.replace("-0", "-1")]
    kept = [elsewhere, ".other.csv.tmp", f".table.csv.{owned._here()}-{os.getppid()}-3.tmp", ".table.csv.x.tmp"]
    for name in (*old, *kept):
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / old[-1], (0, 0))
    owned.write(path, "whole")
    assert {each.name for each in tmp_path.iterdir()} == {"table.csv", *kept}


def test_a_result_that_was_moved_to_another_disk_is_read_and_replaced_each_time(tmp_path):
    root, disk = tmp_path / "runs", tmp_path / "disk"
    final = finish(root).path
    disk.mkdir()
    for epochs in (3, 4):
        shutil.rmtree(disk / "moved", ignore_errors=True)
        shutil.move(final, disk / "moved")
        final.symlink_to(disk / "moved")
        before = snapshot(disk)
        assert runs.read(final), "it may be read through the link"
        done = finish(root, epochs=epochs)
        assert not final.is_symlink()
        assert done.manifest["ingredients"]["budget"]["epochs"] == epochs
        assert snapshot(disk) == before
        assert {path.name for path in final.parent.iterdir()} == {"01_teacher", ".01_teacher.lock"}


# ---------------------------------------------------------------------- pipes

PIPES = {
    "runs/smoke/digits/seed0": ["01_teacher.failed.ipynb", ".driver.json", ".01_teacher.json", "01_teacher"],
    "runs/smoke/digits/seed0/01_teacher": ["manifest.json", "metrics.json", "history.csv", "notebook.ipynb"],
    "runs/smoke/digits/seed0/01_teacher.partial": ["manifest.json", "state"],
    "runs/smoke/digits/seed0/01_teacher.partial/state": ["stage.json", "teacher"],
    "runs/smoke/digits/seed0/01_teacher.partial/state/teacher": ["00000001.safetensors"],
}


@pytest.mark.parametrize("folder", PIPES)
def test_a_pipe_where_a_file_is_read_hangs_nothing(folder, quick, tmp_path, capsys):
    finish(tmp_path / "runs")
    for name in PIPES[folder]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        place = tmp_path / folder / name
        owned.remove(place)
        os.mkfifo(place)
        options = ["--profile", "smoke", "--runs-dir", str(tmp_path / "runs"), "--figures-dir", str(tmp_path / "f")]
        assert run_all.main([*options, "--status"]) == 0
        assert run_all.main([*options, "--dry-run"]) == 0
        opened = open_stage(tmp_path / "runs")
        assert opened.state("teacher").load() is None
        final = opened.final
        let_go()
        with contextlib.suppress(FileNotFoundError), locks.driving(tmp_path / "runs", "smoke", [("digits", 0)]):
            status.status(tmp_path / "runs", "smoke", [])
        assert finish(tmp_path / "runs").path == final
        owned.remove(place)


# ----------------------------------------------------------------- huge files

# With a hole in it a file takes no room on the disk.
HUGE = ["01_teacher.failed.ipynb", ".driver.json", ".01_teacher.json", "01_teacher/manifest.json"]
HUGE += ["01_teacher/metrics.json", "01_teacher/notebook.json", "01_teacher.partial/state/stage.json"]


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_file_where_a_small_one_is_read_is_none_of_ours(name, quick, tmp_path, monkeypatch):
    real = owned.reading

    class Bounded:
        """A file of which nobody reads more than there is room for."""

        def __init__(self, path):
            self.file = real(path)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def read(self, size=-1):
            assert 0 <= size <= 2**28, "all of it is read"
            return self.file.read(size)

    monkeypatch.setattr(owned, "reading", Bounded)
    final = finish(tmp_path / "runs").path
    let_go()
    path = final.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, 6 * 2**30)
    status.status(tmp_path / "runs", "smoke", [])
    plan.plan("smoke", ["digits"], [0], {"digits": "c"}, overrides={}, root=tmp_path / "runs", figures=tmp_path)
    locks.read_note(locks.driver_path(tmp_path / "runs", "smoke", "digits", 0))
    assert finish(tmp_path / "runs").metrics == {"accuracy": 0.5}


def test_a_text_is_read_up_to_a_limit(tmp_path):
    path = tmp_path / "note"
    path.write_text("four")
    assert owned.read_text(path, 4) == "four"
    with pytest.raises(OSError, match="too large"):
        owned.read_text(path, 3)


# ---------------------------------------------------------------- other users


def as_another_user(function):
    """What `function()` returns (plain JSON) in a process that is not the owner of the files here."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            answer = function()
        except InputError as error:
            answer = {"refused": str(error)}
        except BaseException as error:
            answer = {"raised": repr(error)}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as file:
        return json.loads(file.read())


@pytest.fixture
def shared(tmp_path_factory):
    """A folder that other users reach, of which they may write what is made with the mode they have."""
    folder = tmp_path_factory.mktemp("shared")
    above = folder
    while above.stat().st_uid == os.geteuid() and above != above.parent:
        above.chmod(above.stat().st_mode | 0o755)
        above = above.parent
    return folder


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_whatever_is_stored_may_be_read_by_whom_the_umask_allows(tmp_path, umask, mask, mode):
    umask(mask)
    opened = open_stage(tmp_path)
    classifier.save(classifier.build(2, 1, 8, 8, 0), opened.file("teacher.safetensors"))
    opened.state("teacher").save({"epoch": 1})
    opened.write_npz("logits.npz", test=np.arange(3))
    plots.save(Figure(), tmp_path / "figures", "cas", "alt")
    files = {path: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.name == "00000001.safetensors" for path in files)
    assert set(files.values()) == {mode}, files


def test_what_may_not_be_read_is_told_as_such_and_not_made_again(shared, umask, capsys, tmp_path):
    final = finish(shared).path
    for folder in (shared, *shared.rglob("*")):
        folder.chmod(0o777 if folder.is_dir() else 0o644)
    (final / "history.csv").chmod(0)
    options = ["--profile", "smoke", "--runs-dir", str(shared), "--figures-dir", str(shared / "figures")]

    def asked():
        code = run_all.main([*options, "--dry-run", "--force"])
        word = status.state(final, driven=False)[0]
        found = len(runs.find(shared, "smoke"))
        words = ""
        try:
            open_stage(shared)
        except InputError as error:
            words = str(error)
        return [code, word, found, words]

    before = snapshot(final) if os.geteuid() == 0 else None
    code, word, found, words = as_another_user(asked)
    assert (code, word, found) == (2, "not readable", 0)
    assert words == f"{final}/history.csv: you may not read it, so nothing is put in its place; get permission, or " + (
        "move it away"
    )
    assert before is None or snapshot(final) == before


def test_a_lock_file_that_another_user_left_locks_nobody_out(shared, umask):
    path = shared / ".driver.lock"
    path.write_text("")
    path.with_suffix(".json").write_text('{"pid": 7, "host": "here", "since": "2020-01-01"}')
    shared.chmod(0o777)
    for file in (path, path.with_suffix(".json")):
        file.chmod(0o444)

    def look():
        before = locks.holder(path)
        lock = locks.hold(path, "it")
        taken = lock.took_over
        lock.release()
        return [before, taken["pid"], path.with_suffix(".json").exists()]

    assert as_another_user(look) == [None, 7, False]


def test_a_reader_sees_who_works_and_not_who_once_did(shared, umask):
    path = locks.driver_path(shared, "smoke", "digits", 0)
    lock = locks.hold(path, "it")
    shared.chmod(0o755)
    assert as_another_user(lambda: locks.holder(path))["pid"] == os.getpid()
    note = path.with_suffix(".json").read_text()
    lock.release()
    path.with_suffix(".json").write_text(note)  # as a killed one leaves it
    for folder in (path.parent, path.parent.parent):
        folder.chmod(0o555)
    assert as_another_user(lambda: locks.holder(path)) is None
    for folder in (path.parent.parent, path.parent):
        folder.chmod(0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave files of two users")
@pytest.mark.parametrize("mode", [0o755, 0o777])
@pytest.mark.parametrize("leftover", ["old/state/x", "partial/state/x", "partial/state/stage.json"])
def test_leftovers_that_cannot_be_deleted_are_told_before_the_work(leftover, mode, shared, umask):
    seed = shared / "smoke/digits/seed0"
    path = seed / f"01_teacher.{leftover}"
    path.parent.mkdir(parents=True)
    path.write_text("of somebody else")
    for folder in path.parents[:5]:
        folder.chmod({"state": 0o700, path.parts[-3]: mode}.get(folder.name, 0o777))

    def work():
        opened = open_stage(shared)
        opened.write_json("the_work_is_done.json", {})
        opened.finish({})

    said = as_another_user(work)
    assert said, "it went on"
    named, _, words = said.get("refused", str(said)).partition(": ")
    assert words == "a leftover that cannot be deleted by you; have it removed"
    assert named in (str(path.parents[1]), str(path.with_name("stage.json")))
    assert not list(shared.rglob("the_work_is_done.json"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave files of two users")
def test_a_damaged_result_of_another_user_costs_no_work_and_is_told_at_the_next_start(shared, umask):
    seed = shared / "smoke/digits/seed0"
    (seed / "01_teacher").mkdir(parents=True)
    (seed / "01_teacher/logits.npz").write_text("half of it")
    for folder in (shared, *shared.rglob("*")):
        folder.chmod(0o755 if folder.name == "01_teacher" else 0o777)

    def work():
        final = open_stage(shared).finish({"accuracy": 0.5})
        return runs.read(final).metrics

    assert as_another_user(work) == {"accuracy": 0.5}
    words = f"{seed}/01_teacher.old: a leftover that cannot be deleted by you; have it removed"
    assert as_another_user(work) == {"refused": words}


@pytest.mark.parametrize("closed", ["smoke", "smoke/digits"])
def test_a_closed_folder_of_results_is_told_and_not_taken_for_an_empty_one(closed, shared, umask):
    finish(shared)
    let_go()
    for folder in shared.rglob("*"):
        folder.chmod(0o755 if folder.is_dir() else 0o644)
    (shared / closed).chmod(0o700 if os.geteuid() == 0 else 0)
    words = f"{shared / closed}: you may not look into this folder; get permission or name another"
    assert as_another_user(lambda: len(runs.find_current(shared, "smoke"))) == {"refused": words}
    (shared / closed).chmod(0o755)
    (shared / "smoke/10_compare").mkdir(mode=0o700)
    assert as_another_user(lambda: len(runs.find(shared, "smoke"))) == 1, "the comparison's is no dataset's"
    assert runs.find(shared, "nothing") == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave files of two users")
def test_who_only_reads_is_not_stopped_by_leftovers(shared, umask):
    final = finish(shared).path
    let_go()
    (final.with_name("01_teacher.old") / "state").mkdir(parents=True)
    for folder in (shared, *shared.rglob("*")):
        folder.chmod(0o755 if folder.is_dir() else 0o644)

    def look():
        runs.settle(final)
        return runs.read(final).metrics

    assert as_another_user(look) == {"accuracy": 0.5}


# ----------------------------------------------------------------------- home


def test_without_a_home_folder_the_libraries_get_a_private_one_for_a_while(monkeypatch):
    for bad in ("/proc", "/nonexistent", "/dev/null"):
        monkeypatch.setenv("HOME", bad)
        monkeypatch.setenv("XDG_CACHE_HOME", f"{bad}/.cache")
        with home.usable():
            private = Path.home()
            assert private.is_dir()
            assert str(private) != bad
            assert "XDG_CACHE_HOME" not in os.environ
        assert (os.environ["HOME"], os.environ["XDG_CACHE_HOME"]) == (bad, f"{bad}/.cache")
        assert not private.exists()


def test_a_home_folder_that_can_be_written_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with home.usable():
        assert Path.home() == tmp_path
    assert not list(tmp_path.iterdir())


def test_digits_need_no_home_that_anybody_knows_of(monkeypatch):
    from kr_utils import data

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("KR_DATA", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where the user has no entry
    assert data.data_root() == stages.ROOT / "data"
    assert len(data.check("digits")) == 64
