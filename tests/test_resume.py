"""Resume: whatever is killed at any moment ends in the bytes of an undisturbed run."""

import contextlib
import functools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from conftest import RECIPE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kr_utils import InputError, classifier, data, generator, profiles, recycling, resume, runs, stages
from kr_utils import selection as selecting
from kr_utils.runs import folders, identity
from kr_utils.runs import stage as opening

ROOT = stages.ROOT


class Killed(BaseException):
    """Stands for SIGKILL inside a process: nothing may catch it."""


class Sometimes(resume.State):
    """Saves at every n-th chance, so that a kill loses some work."""

    def due(self):
        self.chances = getattr(self, "chances", 0) + 1
        return self.chances % int(self.every) == 0

    def part(self, name):
        return Sometimes(self.folder / name, self.key, self.every)


def killed_at(function, call):
    """`function`, until its call number `call`, which dies."""
    count = 0

    def wrapped(*args, **kwargs):
        nonlocal count
        count += 1
        if count == call:
            raise Killed
        return function(*args, **kwargs)

    return wrapped


def same(first, second):
    """Bitwise equality of two networks, buffers included."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


AUGMENT = classifier.Augmentation(1, erase=0.2)


def train(digits, state=None, augment=AUGMENT, stream=None, teacher=None, epochs=3):
    """A few batches an epoch; a fresh network each time, as in a restarted process."""
    some = data.Split(digits.train.images[:300], digits.train.labels[:300])
    model = classifier.build(10, 1, 8, 8, seed=1)
    history = classifier.fit(
        model,
        stream or (lambda epoch: some),
        digits.val,
        classifier.Training(RECIPE, epochs, augment, teacher),
        seed=1,
        state=state,
    )
    return model, history


@pytest.fixture(scope="module")
def undisturbed(digits):
    return train(digits)


@given(kills=st.lists(st.integers(1, 12), min_size=1, max_size=3), every=st.integers(1, 5))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_classifier_killed_at_any_batch_ends_in_the_same_bits(digits, undisturbed, tmp_path, kills, every):
    folder = tmp_path / "state"
    shutil.rmtree(folder, ignore_errors=True)
    for call in kills:
        try:
            train(digits, Sometimes(folder, every=every), killed_at(AUGMENT, call))
        except Killed:
            torch.manual_seed(call)  # another process has another global random state
    model, history = train(digits, Sometimes(folder, every=every))
    assert history == undisturbed[1]
    assert same(model, undisturbed[0])
    assert len(list(folder.glob("*"))) <= 2 + 1, "the last two, and the size"


def test_without_a_state_nothing_is_written_and_nothing_changes(digits, undisturbed, tmp_path):
    before = set(tmp_path.rglob("*"))
    again = train(digits)
    assert same(again[0], undisturbed[0])
    assert set(tmp_path.rglob("*")) == before


def test_a_finished_training_is_read_back_without_training(digits, undisturbed, tmp_path):
    train(digits, resume.State(tmp_path, every=3600))
    model, history = train(digits, resume.State(tmp_path), killed_at(AUGMENT, 1))
    assert history == undisturbed[1]
    assert same(model, undisturbed[0])


def test_the_interval_is_kept(digits, tmp_path):
    """With an hour between states there is one at the end; with none there is one a batch and one an epoch."""
    for every, saves in ((3600, 1), (0, 3 * 4 + 3)):
        state = resume.State(tmp_path / str(every), every=every)
        train(digits, state)
        assert state.files()[0].name == f"{saves:08d}.safetensors"


@pytest.fixture(scope="module")
def synthetic(digits, teacher, tiny_generator):
    """Makes a regenerating, filtered stream as a restarted process would, and tells which sets it drew."""

    def make(drawn=None, state=None):
        knobs = recycling.Knobs(steps=2, threshold=0.3)
        counts = np.full(10, 13)
        on_set = None if drawn is None else lambda number, rate: drawn.append(number)
        return recycling.SyntheticStream(
            tiny_generator, knobs, counts, seed=5, period=2, teacher=teacher, on_set=on_set, state=state
        )

    return make


@pytest.mark.parametrize("call", [1, 2, 5, 8, 10, 12])
def test_a_student_sees_the_same_regenerated_sets_after_a_kill(digits, teacher, synthetic, tmp_path, call):
    """6 epochs of 2 batches on 3 sets. A set that is over is not drawn again, yet its filter's figures are kept."""
    whole = synthetic()
    expected = train(digits, stream=whole, teacher=teacher, epochs=6)
    with pytest.raises(Killed):
        train(digits, Sometimes(tmp_path, every=1), killed_at(AUGMENT, call), synthetic(), teacher=teacher, epochs=6)
    drawn = []
    stream = synthetic(drawn)
    model, history = train(digits, Sometimes(tmp_path, every=1), stream=stream, teacher=teacher, epochs=6)
    assert history == expected[1]
    assert same(model, expected[0])
    epoch = (call - 1) // 2  # in which it was killed
    assert drawn == list(range(epoch // 2, 3))
    assert (stream.accepted, stream.draws) == (whole.accepted, whole.draws)
    for number in drawn:
        assert torch.equal(stream.sets[number].images, whole.sets[number].images)


@pytest.mark.parametrize("call", [1, 2, 3, 5, 6])
def test_a_set_that_is_being_drawn_is_not_lost(synthetic, tmp_path, monkeypatch, call):
    """Sets of 130 images in chunks of 64, so three a set; killed in the first or in the second set."""
    whole = synthetic()
    expected = [whole(0), whole(2)]
    monkeypatch.setattr(recycling, "CHUNK", 1)
    draw = recycling.synthesise
    with monkeypatch.context() as patch:
        patch.setattr(recycling, "synthesise", killed_at(draw, call))
        stream = synthetic(state=Sometimes(tmp_path, every=1))
        with pytest.raises(Killed):
            stream(0), stream(2)
    lengths = []
    monkeypatch.setattr(recycling, "synthesise", lambda *a, **k: (lengths.append(len(a[2])), draw(*a, **k))[1])
    stream = synthetic(state=Sometimes(tmp_path, every=1))
    for ours, theirs in zip((stream(0), stream(2)), expected, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
    assert lengths == [64, 64, 2, 64, 64, 2][call - 1 :], "what was drawn is not drawn again"
    assert (stream.accepted, stream.draws) == (whole.accepted, whole.draws)
    stream(4)
    assert {path.name for path in tmp_path.iterdir()} == {
        "kept0",
        "kept1",
        "set2",
        "figures0",
        "figures1",
        "figures2",
    }, "the first two sets and the newest are kept"


def paint(digits, state=None, on_step=None, found=None):
    model = generator.build(10, digits.train.images, width=16, levels=1, layers=1, fold=2, seed=0)
    found = {} if found is None else found
    history = generator.fit(
        model,
        digits.train,
        generator.Training(20, 16, lr=2e-3, ema_decay=0.9, label_dropout=0.1, hflip=True, checkpoints=3),
        seed=3,
        on_step=on_step,
        on_checkpoint=lambda step, m: found.update({step: {k: v.clone() for k, v in m.state_dict().items()}}),
        state=state,
    )
    return model, history, found


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("call", [1, 2, 7, 8, 13, 20])
def test_a_generator_killed_at_any_step_ends_in_the_same_bits(digits, tmp_path, call, every):
    model, history, checkpoints = paint(digits)
    kept = {}  # as the files in the stage's folder, which outlive the process
    with pytest.raises(Killed):
        paint(digits, Sometimes(tmp_path, every=every), killed_at(lambda row: None, call), kept)
    seen = []
    again = paint(digits, Sometimes(tmp_path, every=every), seen.append, kept)
    assert len(seen) == 20 - (call - 1) // every * every, "what was saved is not done again"
    assert same(again[0], model)
    assert again[1] == history
    assert kept.keys() == checkpoints.keys()
    for step, weights in checkpoints.items():
        assert all(torch.equal(value, kept[step][key]) for key, value in weights.items())


# ------------------------------------------------------------- the state files


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))


DAMAGE = {
    "truncated": cut,
    "empty": lambda path: path.write_bytes(b""),
    "edited": flip,
    "text": lambda path: path.write_text("hello"),
    "weights": lambda path: classifier.save(classifier.build(2, 1, 8, 8, 0), path),
}


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_falls_back_to_the_one_before(digits, undisturbed, tmp_path, capsys, damage, both):
    with pytest.raises(Killed):
        train(digits, resume.State(tmp_path, every=0), killed_at(AUGMENT, 7))
    newest, before = resume.State(tmp_path).files()
    for path in (newest, before) if both else (newest,):
        DAMAGE[damage](path)
    capsys.readouterr()
    calls = []

    def counted(*args):
        calls.append(1)
        return AUGMENT(*args)

    model, _ = train(digits, resume.State(tmp_path, every=3600), counted)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if f"saved state {newest.name} is not used" in line]
    assert len(lines) == 2, "one for each that is not used, one for that which is"
    assert len(calls) == (12 if both else 12 - 5), "all of it, or without the batches before the older state"
    assert same(model, undisturbed[0])


def test_a_state_of_other_code_settings_or_data_is_ignored_with_one_line(digits, undisturbed, tmp_path, capsys):
    train(digits, resume.State(tmp_path, key="a"), epochs=2)
    capsys.readouterr()
    model, _ = train(digits, resume.State(tmp_path, key="b"))
    lines = capsys.readouterr().out.splitlines()
    assert same(model, undisturbed[0])
    assert len([line for line in lines if "made by other code, settings or data" in line]) == 1


def test_a_tree_comes_back_as_it_went(tmp_path):
    channels_last = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    tree = {
        "tensors": [torch.arange(3), torch.tensor(2.5), torch.tensor(True), torch.randn(2, 2, dtype=torch.bfloat16)],
        "tuple": (1, 2.5, None, "text", float("inf"), 0.1 + 0.2),
        "numbers": {0: 1, 1: {"step": torch.zeros(0)}},
        "strides": channels_last,
    }
    state = resume.State(tmp_path)
    state.save(tree)
    back = resume.State(tmp_path).load()
    for ours, theirs in zip(tree["tensors"], back["tensors"], strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert back["tuple"] == tree["tuple"]
    assert back["numbers"].keys() == {0, 1}
    assert torch.equal(back["strides"], channels_last)
    assert back["strides"].stride() == channels_last.stride(), "memory layout decides how sums are rounded"
    with pytest.raises(TypeError, match="cannot hold a function"):
        state.save({"code": flip})


def test_a_full_disk_costs_the_state_and_not_the_run(digits, undisturbed, tmp_path, capsys):
    (tmp_path / "in-the-way").write_text("")
    model, _ = train(digits, resume.State(tmp_path / "in-the-way" / "state", every=3600))
    assert same(model, undisturbed[0])
    assert "could not be saved" in capsys.readouterr().out


def test_a_handle_travels_to_a_worker_process(tmp_path):
    state = resume.State(tmp_path, "key", 5.0).part("student0")
    there = pickle.loads(pickle.dumps(state))
    there.save({"score": 1})
    assert state.load() == {"score": 1}


def test_scored_students_are_stored_and_not_trained_again(digits, teacher, tiny_generator, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # in this process, where the test can interfere
    generator.save(tiny_generator, tmp_path / "g.safetensors")

    def score(augment, state=None):
        training = classifier.Training(RECIPE, 2, augment, teacher)
        shared = {"training": training, "counts": np.full(10, 13), "period": 1, "seed": 0}
        search = selecting.Search(digits.val, students=3, state=state, **shared)
        return search([(tmp_path / "g.safetensors", recycling.Knobs(steps=2))])[0]

    whole = score(AUGMENT)
    state = resume.State(tmp_path / "state", every=0)
    with pytest.raises(Killed):
        score(killed_at(AUGMENT, 4 + 3), state)  # in the second Student's second epoch
    (first,) = (tmp_path / "state").glob("*student0")
    assert not (first / "training").exists()
    calls = []
    again = score(lambda *args: (calls.append(1), AUGMENT(*args))[1], state)
    assert len(calls) == 2 + 4
    for name in selecting.PER_IMAGE:
        assert np.array_equal(whole.pop(name), again.pop(name))
    assert whole == again


# ---------------------------------------------------------- a stage's folders


def open_stage(**overrides):
    budget = profiles.budget("teacher", "smoke", overrides)
    return runs.begin("teacher", budget, dataset="digits", profile="smoke", seed=0, checksum="c")


def leave_unfinished(**overrides):
    stage = open_stage(**overrides)
    stage.state("teacher").save({"epoch": 1})
    stage.write_json("half.json", {})
    (stage.folder / ".metrics.json.tmp").write_text("{")
    return stage


def test_unfinished_work_is_kept_for_the_same_stage_and_leftovers_are_cleaned():
    leave_unfinished()
    again = open_stage()
    assert again.state("teacher").load() == {"epoch": 1}
    assert (again.folder / "half.json").exists()
    assert not list(again.folder.rglob("*.tmp"))
    assert again.state("teacher").load() is None, "the cell was run again in the same kernel: it trains anew"
    done = runs.read(again.finish({}))
    assert done.manifest["starts"] == 2
    assert set(done.manifest["files"]) == {"half.json", "metrics.json"}
    assert not (done.path / "state").exists()


def test_unfinished_work_of_another_budget_is_cleaned_with_one_line(capsys):
    leave_unfinished()
    again = open_stage(epochs=7)
    assert capsys.readouterr().out == ("01_teacher: its unfinished work is not used (epochs 2 -> 7); it starts anew\n")
    assert again.state("teacher").load() is None
    assert not (again.folder / "half.json").exists()
    assert again.starts == 1


def test_unfinished_work_of_other_threads_is_not_used(capsys):
    leave_unfinished()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert open_stage().state("teacher").load() is None
    finally:
        torch.set_num_threads(threads)
    assert f"(threads {threads} -> {threads + 1})" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"owner": 1}'])
def test_a_damaged_marker_means_starting_anew(content):
    stage = leave_unfinished()
    (stage.folder / "state" / "stage.json").write_text(content)
    assert open_stage().state("teacher").load() is None


def test_the_time_of_killed_starts_is_counted():
    stage = leave_unfinished()
    marker = stage.folder / "state" / "stage.json"
    found = json.loads(marker.read_text())
    marker.write_text(json.dumps(found | {"started": found["started"] - 100}))
    assert 100 <= runs.read(open_stage().finish({})).manifest["seconds"] < 160


IMPOSSIBLE = {
    "seconds without end": '"seconds": Infinity',
    "seconds no number": '"seconds": NaN',
    "more seconds than a float holds": f'"seconds": {10**400}',
    "seconds below nothing": '"seconds": -1e9',
    "started before all time": '"started": -Infinity',
    "a time between that no float holds": '"seconds": 1.7e308, "started": -1.7e308',
    "half a start": '"starts": 1.5',
    "no start": '"starts": 0',
    "a true start": '"starts": true',
    "a start with too many digits to count on": f'"starts": {10**4299}',
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_marker_of_impossible_numbers_means_starting_anew(case):
    stage = leave_unfinished()
    marker = stage.folder / "state" / "stage.json"
    marker.write_text(f"{marker.read_text().strip()[:-1]}, {IMPOSSIBLE[case]}}}")  # of a key twice the second counts
    again = open_stage()
    assert again.state("teacher").load() is None
    manifest = runs.read(again.finish({})).manifest
    assert manifest["starts"] == 1
    assert 0 <= manifest["seconds"] < 60


def test_a_clock_that_is_set_back_costs_no_result(monkeypatch):
    stage = open_stage()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    assert 0 <= runs.read(stage.finish({})).manifest["seconds"] < 60


@pytest.fixture
def quick_manifests(monkeypatch):
    """Stages that open and finish hundreds of times: what does not change is found out once."""
    for module, name in ((opening, "git_commit"), (opening, "versions"), (identity, "versions")):
        monkeypatch.setattr(module, name, functools.cache(getattr(module, name)))
    monkeypatch.setattr(identity, "code_hashes", functools.cache(identity.code_hashes))


def test_sigkill_at_every_line_of_finish_loses_no_result(quick_manifests, tmp_path):
    """A real process each time; after it, the old or the new result stands, and the next start tidies up."""
    first = open_stage()
    first.write_json("which.json", {"result": "old"})
    final = first.finish({"accuracy": 0.25})
    backup = tmp_path / "backup"
    shutil.copytree(final.parent, backup)
    outcomes = []
    while True:
        pid = os.fork()
        if pid == 0:
            stage = open_stage(epochs=7)
            stage.state("teacher").save({"epoch": 1})
            stage.write_json("which.json", {"result": "new"})
            kill_at_line(len(outcomes) + 1)
            stage.finish({"accuracy": 0.5})
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        done = runs.read(final)
        assert done is not None, f"no result after a kill at line {len(outcomes) + 1}"
        accuracy = done.metrics["accuracy"]
        result = json.loads(done.file("which.json").read_text())["result"]
        assert (accuracy, result) in ((0.25, "old"), (0.5, "new"))
        epochs = 2 if result == "old" else 7
        assert done.manifest["ingredients"]["budget"]["epochs"] == epochs
        unfinished = result == "old" and (folders.partial(final) / "state").exists()
        runs.settle(final, own=True)  # this process has held the stage's lock since the first `open_stage` below
        assert runs.read(final).path == final
        again = open_stage(epochs=7)
        assert (again.state("teacher").load() is not None) == unfinished, "the state is there until the result is"
        shutil.rmtree(again.folder)
        assert [path.name for path in final.parent.iterdir() if "lock" not in path.name and path.suffix != ".json"] == [
            "01_teacher"
        ]
        assert not list(final.rglob("*.tmp"))
        assert not (final / "state").exists()
        outcomes.append(result)
        if not killed:
            break
        shutil.rmtree(final.parent)
        shutil.copytree(backup, final.parent)
    assert outcomes[-1] == "new"
    assert outcomes == sorted(outcomes, reverse=True), "once the new result stands it stays"
    assert outcomes.count("old") > 10
    assert outcomes.count("new") > 10


@pytest.mark.parametrize("epochs", [2, 7])
def test_sigkill_at_every_line_of_begin_keeps_a_state_whole_or_not_at_all(quick_manifests, tmp_path, epochs):
    """epochs 2 is the budget of the unfinished work, 7 another one, whose start throws it away."""
    leave_unfinished().write_json("weights.json", {})
    home, outcomes = tmp_path / "runs", []
    backup = tmp_path / "backup"
    shutil.copytree(home, backup)
    while True:
        pid = os.fork()
        if pid == 0:
            kill_at_line(len(outcomes) + 1)
            open_stage(epochs=epochs)
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        again = open_stage()
        outcomes.append(again.state("teacher").load() is not None)
        assert (again.folder / "weights.json").exists() == outcomes[-1], "a state and the files it relies on"
        if not killed:
            break
        shutil.rmtree(home)
        shutil.copytree(backup, home)
    assert outcomes == [True] * len(outcomes) if epochs == 2 else outcomes == sorted(outcomes, reverse=True)
    assert outcomes.count(True) > 10
    assert outcomes.count(False) > 10 or epochs == 2


# They write nothing, or only walk: a kill in them is one at the line that calls them.
LIGHT = ("inside", "_step", "reading", "read_text", "make", "write", "remove", "_well_formed")


def kill_at_line(number):
    """SIGKILL this process at the number-th line of the store, or the fifth of what only walks, from here on."""
    left = 5 * number

    def trace(frame, event, _):
        nonlocal left
        name = os.path.basename(frame.f_code.co_filename)
        if name not in ("stage.py", "finished.py", "folders.py", "files.py", "owned.py", "shutil.py"):
            return None
        if event == "line":
            left -= 1 if name == "shutil.py" or frame.f_code.co_name in LIGHT else 5
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_bad_interval_is_refused(monkeypatch, text):
    monkeypatch.setenv("KR_SAVE_SECONDS", text)
    with pytest.raises(InputError, match="KR_SAVE_SECONDS is"):
        folders.interval()
    out = subprocess.run(
        [sys.executable, str(ROOT / "run_all.py"), "--dry-run"], capture_output=True, text=True, cwd=ROOT
    )
    assert out.returncode == 2
    assert len(out.stderr.splitlines()) == 1


def test_speeds_go_to_the_manifest_and_not_to_the_metrics():
    done = runs.read(open_stage().finish({"accuracy": 0.5}, timing={"images_per_second": 7.5}))
    assert done.metrics == {"accuracy": 0.5}
    assert done.manifest["timing"] == {"images_per_second": 7.5}


# ------------------------------------------- SIGKILL at random moments of a run


KILLS = int(os.environ.get("KR_KILLS", "4"))
STAGES = [name for name in stages.USUAL if name != "start"]  # which trains nothing
if KILLS <= 4:
    STAGES = ["teacher", "generator", "tuning", "distillation"]


def drive(home, log=subprocess.DEVNULL):
    """Start a smoke run up to the last of `STAGES`, whose states are saved every tenth of a second; its process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KR_SAVE_SECONDS": "0.1"}
    call = [sys.executable, str(ROOT / "run_all.py"), "--profile", "smoke", "--threads", "1"]
    call += ["--runs-dir", str(home / "runs"), "--figures-dir", str(home / "figures")]
    call += [] if STAGES[-1] == "compare" else ["--until", STAGES[-1]]
    return subprocess.Popen(call, env=env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def kill_all(process):
    """SIGKILL for the driver and everything below it: the kernel has a process group of its own."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    process.kill()
    for child in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    psutil.wait_procs(below, timeout=30)


def kill_in_stage(home, final, delay, after):
    """Run until `delay` seconds after `final` was begun or has "saved" a state, or is finished; then kill."""
    with open(home / "log.txt", "a") as log:
        process = drive(home, log)
    marker = folders.partial(final) / "state" / "stage.json"
    clock, before = None, age(marker)
    give_up = time.time() + 300
    while process.poll() is None and time.time() < give_up:
        begun = age(marker)
        if clock is None and begun not in (0, before):
            states = files_in(marker.parent, "*.safetensors")
            if after == "begun" or any(age(path) > begun for path in states):
                clock = time.time()
        if (clock and time.time() - clock > delay) or (final / "manifest.json").exists():
            break
        time.sleep(0.002)
    kill_all(process)
    if (final / "manifest.json").exists():
        return "just finished"
    saved = files_in(folders.partial(final), "*.safetensors")
    return f"{delay:.2f} s after it {after}, {len(saved)} files of states and weights"


def files_in(folder, pattern):
    """The files below a folder that a running stage may move away at any moment."""
    try:
        return list(folder.rglob(pattern))
    except OSError:
        return []


def age(path):
    """When a file was written; 0 if it has gone meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def contents(home):
    """What must be equal, by path: bytes, and the arrays of npz files."""
    found = {}
    for path in sorted((home / "runs").rglob("*")):
        name = str(path.relative_to(home))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                found[name] = {key: (archive[key].dtype, archive[key].tobytes()) for key in archive.files}
        elif path.is_file() and path.name not in ("manifest.json", "notebook.ipynb", "notebook.json"):
            found[name] = path.read_bytes()
        elif path.is_file():
            found[name] = None  # it must be there; times and outputs differ
    for path in sorted((home / "figures").rglob("*")):
        if path.is_file() and path.name not in ("results.csv", "results.md"):  # these hold minutes
            found[str(path.relative_to(home))] = path.read_bytes()
    return found


def kill_and_compare(calm, harsh, kills, rng):
    """Kill a smoke run `kills` times, spread over `STAGES`; what differs from the one in `calm`, and the starts."""
    harsh.mkdir()
    targets = sorted((STAGES * (kills // len(STAGES) + 1))[:kills], key=STAGES.index)
    for number, planned in enumerate(targets, 1):
        later = STAGES[STAGES.index(planned) :]  # a kill may have come too late: then the next stage gets its fellow
        folder = {stage: runs.stage_dir(harsh / "runs", "smoke", "digits", 0, stage) for stage in later}
        stage = next((stage for stage in later if not (folder[stage] / "manifest.json").exists()), planned)
        final = folder[stage]
        usual = runs.read(runs.stage_dir(calm / "runs", "smoke", "digits", 0, stage)).manifest["seconds"]
        after = "begun" if stage == "compare" else rng.choice(["begun", "saved", "saved"])
        delay = rng.uniform(0, 0.6 * usual)
        if stage == "generator":  # the longest single training: right after a save it is sure to be under way
            delay, after = min(delay, 0.05), "saved"
        where = kill_in_stage(harsh, final, delay, after)
        print(f"kill {number}/{kills}  {final.name}: {where}", flush=True)
    with open(harsh / "log.txt", "a") as log:
        assert drive(harsh, log).wait(900) == 0, (harsh / "log.txt").read_text()[-3000:]
    ours, theirs = contents(calm), contents(harsh)
    different = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name, 0) != theirs.get(name, 0)]
    manifests = {path.parent.name: json.loads(path.read_text()) for path in harsh.rglob("manifest.json")}
    resumed = sum(path.read_text().count("goes on from its state") for path in harsh.rglob("notebook.ipynb"))
    return different, {name: found["starts"] for name, found in manifests.items()}, resumed


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_in_the_bytes_of_an_undisturbed_one(tmp_path):
    """4 kills of 01 to 05; more, of all stages, by hand: KR_KILLS=100 python -m pytest -s -k random_moments

    At most 20 kills for one run: with more, its short stages would end between two kills.
    """
    rng = random.Random(int(os.environ.get("KR_KILL_SEED", "0")))
    calm = tmp_path / "calm"
    calm.mkdir()
    with open(calm / "log.txt", "w") as log:
        assert drive(calm, log).wait(900) == 0, (calm / "log.txt").read_text()
    for done in range(0, KILLS, 20):
        now = min(20, KILLS - done)
        different, starts, resumed = kill_and_compare(calm, tmp_path / f"harsh{done}", now, rng)
        print("starts of each stage:", starts, "trainings resumed in the last start:", resumed, flush=True)
        assert different == []
        assert sum(starts.values()) > len(starts), "some stage was resumed"
        assert resumed > 0, "some training went on from its state"
