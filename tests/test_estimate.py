"""Minutes of stages that never ran: the count of work, the measured speed, and what is told when there is none."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import med_arrays, own_set
from hypothesis import given
from hypothesis import strategies as st

import run_all
from kr_utils import classifier, data, generator, profiles, recycling, sampling, speed, stages
from kr_utils.driver import estimate, execute, plan, report, work
from kr_utils.runs import machine

SIZES = work.Sizes(train=1000, val=200, test=597, classes=10, channels=1, height=8, width=8)
ONE = {
    "rates": dict.fromkeys(work.KINDS, 1e-3) | {"start": 4.0},
    "device": "cpu",
    "classifier": {"parameters": 1000, "flops": 1e6, "saved": 1e4},
    "generator": {"parameters": 2000, "flops": 1e8, "saved": 1e5},
}


def with_fields(**changes):
    """The smoke profile with other fields: stage=dict of fields."""
    base = profiles.PROFILES["smoke"]
    return replace(base, **{stage: replace(getattr(base, stage), **fields) for stage, fields in changes.items()})


# ------------------------------------------------------------------ what is counted


@given(
    epochs=st.integers(1, 300),
    images=st.integers(1, 10**6),
    batch=st.integers(1, 512),
    most=st.integers(0, 10**5),
    least=st.integers(0, 10**5),
)
def test_epochs_and_steps_are_those_of_the_method(epochs, images, batch, most, least):
    """Written twice, for the method's own functions need torch, which the driver does without."""
    limits = {"batch": batch, "most_steps": most}
    least = {"least_steps": least}
    assert work.epochs_within(epochs, images, **limits, **least) == classifier.epochs_within(
        epochs, images, **limits, **least
    )
    ours = work.steps_for(epochs, images, passes=35, **limits)
    assert ours == generator.steps_for(epochs, images, passes=35, **limits)


def test_blocks_and_evaluations_are_those_of_the_sampler():
    assert sampling.BLOCK["cpu"] == work.BLOCK
    assert 1 <= work.DRAWS <= recycling.MAX_ROUNDS
    for guidance in (1.0, 2.0):
        knobs = {"guidance": guidance, "steps": 7, "churn": 0}
        assert work._evaluations(guidance, 7) == sampling.evaluations(knobs)


def test_a_teacher_s_work_is_its_epochs_times_the_images():
    found = work.of_stage("teacher", with_fields(teacher={"epochs": 5}), SIZES)
    assert found["short_train"] == 5 * 1000 * profiles.PROFILES["smoke"].teacher.members
    once = work.of_stage("teacher", with_fields(teacher={"epochs": 1}), SIZES)
    assert found["short_predict"] - once["short_predict"] == 4 * 200 * profiles.PROFILES["smoke"].teacher.members


@pytest.mark.parametrize(("workers", "members", "students", "sets"), [(1, 4, 9, 6), (2, 2, 5, 3), (3, 2, 3, 2)])
def test_what_runs_side_by_side_is_counted_for_the_busiest_process(workers, members, students, sets):
    """Four Teachers; nine Students in 05, five of them labelled; three families of two sets of 300 images each."""
    budgets = {"teacher": {"members": 4}, "tuning": {"few_steps": 0, "guidance": (1.0,), "steps": (3,)}}
    chosen = with_fields(distillation={"epochs": 20, "period": 10, "images": 300, "controls": 1}, **budgets)
    found = work.of_stage("teacher", chosen, SIZES, workers)
    assert found["short_train"] * 4 == members * work.of_stage("teacher", chosen, SIZES)["short_train"]
    found = work.of_stage("distillation", chosen, SIZES, workers)
    assert found["short_train"] == students * 20 * 300
    assert found["short_label"] == pytest.approx(5 * students / 9 * 20 * 300 * 4)
    assert found["short_draw"] == sets * 320 * 3


def test_a_generator_s_work_follows_its_steps_and_batch():
    assert work.of_stage("generator", with_fields(generator={"steps": 10, "batch": 32}), SIZES)["paint"] == 320


@pytest.mark.parametrize(("guidance", "passes"), [((1.0,), 1), ((1.0, 2.0), 5)])
def test_consistency_tuning_has_a_forward_pass_more_per_step_and_those_of_its_guide(guidance, passes):
    fields = {"batch": 32}
    none, some = (
        work.of_stage("tuning", with_fields(tuning={"few_steps": n, "guidance": guidance}, generator=fields), SIZES)
        for n in (0, 7)
    )
    assert some["paint"] == 7 * 32
    assert some["draw"] - none.get("draw", 0) == passes * 7 * 32


@pytest.mark.parametrize(("workers", "rounds"), [(1, 6), (2, 3), (4, 2), (6, 1), (50, 1)])
def test_short_students_are_counted_for_the_busiest_process(workers, rounds):
    """Two checkpoints, three Students each, of 4 epochs on 300 images; 65 steps without guidance."""
    search = {"epochs": 4, "period": 3, "students": 3, "steps": 65, "guidance": 1.0, "images": 300}
    chosen = with_fields(checkpoints=search, generator={"checkpoints": 2})
    found = work.of_stage("checkpoints", chosen, SIZES, workers)
    assert found["short_train"] == rounds * 4 * 300
    assert found["short_label"] == found["short_train"] * chosen.teacher.members
    assert found["short_draw"] == rounds * 2 * 320 * 65, "two sets, of whole blocks"


def test_tuning_counts_every_candidate():
    chosen = with_fields(
        tuning={"guidance": (1.0, 2.0), "steps": (4, 6), "churn": (0.0, 3.0), "threshold": (0.0, 0.5)}
        | {"few": (1, 2), "few_steps": 5, "temperature": (1.0, 4.0), "hard_weight": (0.0, 0.5, 0.9)}
    )
    grid, churn, threshold, few, mixtures = work._candidates(chosen)
    assert len(mixtures) == 5, "one of the six was scored before"
    assert grid == [4, 6, 8, 12]
    assert few == [1, 2]
    usual = np.median(grid)
    assert churn[0] == threshold[0] == usual
    assert churn[1] > 1.5 * usual
    assert threshold[1] == work.DRAWS * usual
    without = work._candidates(replace(chosen, tuning=replace(chosen.tuning, few_steps=0)))
    assert [1, 2] not in without


def test_what_tuning_may_choose_lies_between_an_ordinary_and_a_few_step_generator():
    """12 epochs, period 4: 3 sets of 8 evaluations, or 12 sets of 1."""
    fields = {"guidance": (1.0,), "steps": (8,), "few": (1,)}
    ordinary, either = (
        work._chosen(with_fields(tuning=fields | {"few_steps": n}, distillation={"period": 4}), 12) for n in (0, 5)
    )
    assert ordinary == (8, 3)
    assert either[0] == 4.5
    assert either[0] * either[1] == (8 * 3 + 1 * 12) / 2


def test_the_count_grows_with_each_budget():
    """No field that costs time is forgotten: twice of it is more work in some stage."""
    base = with_fields(distillation={"epochs": 20})  # more than as many steps as real training asks for
    costly = {
        "teacher": ("epochs",),
        "generator": ("steps", "batch", "checkpoints"),
        "checkpoints": ("epochs", "students", "steps", "images"),
        "tuning": ("epochs", "students", "images", "few_steps"),
        "distillation": ("epochs", "images"),
        "membership": ("overfit_images", "overfit_epochs", "released", "draws"),
        "shadow": ("queries", "noises", "overfit_epochs", "dp_epochs"),
        "audit": ("pipelines", "draws"),
    }

    def total(chosen):
        counts = [work.of_stage(stage, chosen, SIZES) for stage in stages.STAGES]
        return sum(amount for found in counts for amount in found.values())

    for stage, names in costly.items():
        for name in names:
            budget = getattr(base, stage)
            more = replace(base, **{stage: replace(budget, **{name: 2 * getattr(budget, name)})})
            assert total(more) > total(base), f"{stage}.{name}"


def test_only_known_kinds_are_counted():
    for profile in profiles.PROFILES.values():
        for stage in stages.STAGES:
            found = work.of_stage(stage, profile, SIZES, 2)
            assert set(found) <= set(work.KINDS)
            assert all(amount > 0 for amount in found.values())


def test_sizes_are_read_from_the_headers_of_a_file(tmp_path):
    own_set(tmp_path, med_arrays((30, 24, 22), channels=3, size=12))
    found = work.Sizes(**data.sizes("mine", tmp_path))
    assert found == work.Sizes(30, 24, 22, classes=2, channels=3, height=12, width=12)
    own_set(tmp_path, med_arrays((30, 24, 22), size=14))
    assert data.sizes("mine", tmp_path)["channels"] == 1
    ds = data.load("digits")
    digits = work.Sizes(**data.sizes("digits"))
    assert (digits.train, digits.val, digits.test) == (len(ds.train), len(ds.val), len(ds.test))
    assert (digits.channels, digits.height, digits.width) == ds.shape


# ------------------------------------------------------------------ speed, and what follows


@pytest.fixture
def measured(monkeypatch):
    """Counts measurements; each gives the speed `ONE`."""
    calls = []

    def fake(wanted, threads):
        calls.append((wanted, threads))
        return [ONE] * len(wanted), ""

    monkeypatch.setattr(estimate, "_measure", fake)
    monkeypatch.setattr(machine, "busy", lambda: (0.1, 2))
    monkeypatch.delenv("KR_MEASURE", raising=False)
    return calls


def test_a_speed_is_measured_once_and_again_for_other_networks_or_threads(tmp_path, measured):
    smoke, quick = (estimate.networks(profiles.PROFILES[name], SIZES) for name in ("smoke", "quick"))
    assert estimate.speeds([smoke, smoke], tmp_path, 2) == [ONE, ONE]
    assert [len(wanted) for wanted, _ in measured] == [1], "the same networks are measured once"
    assert estimate.speeds([smoke], tmp_path, 2) == [ONE]
    assert len(measured) == 1
    estimate.speeds([smoke, quick], tmp_path, 2)
    assert [len(wanted) for wanted, _ in measured] == [1, 1]
    estimate.speeds([smoke], tmp_path, 1)
    assert len(measured) == 3
    assert [path.name for path in tmp_path.iterdir()] == [estimate.FILE]


def test_more_images_need_no_new_measurement_but_other_pixels_do(tmp_path, measured):
    base = profiles.PROFILES["smoke"]
    estimate.speeds([estimate.networks(base, SIZES)], tmp_path, 1)
    estimate.speeds([estimate.networks(base, replace(SIZES, train=5, val=9))], tmp_path, 1)
    estimate.speeds([estimate.networks(with_fields(teacher={"epochs": 9}), SIZES)], tmp_path, 1)
    assert len(measured) == 1
    estimate.speeds([estimate.networks(base, replace(SIZES, width=28))], tmp_path, 1)
    assert len(measured) == 2


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"a": 3}', "[" * 10_000])
def test_a_damaged_file_of_speeds_is_measured_again(tmp_path, measured, text):
    smoke = estimate.networks(profiles.PROFILES["smoke"], SIZES)
    (tmp_path / estimate.FILE).write_text(text)
    assert estimate.speeds([smoke], tmp_path, 1) == [ONE]
    wrong = {estimate.key(smoke, 1): ONE | {"rates": ONE["rates"] | {"paint": 0}}}
    (tmp_path / estimate.FILE).write_text(json.dumps(wrong))
    assert estimate.speeds([smoke], tmp_path, 1) == [ONE]
    assert len(measured) == 2


def test_a_runs_folder_that_cannot_be_written_costs_the_file_only(tmp_path, measured):
    (tmp_path / "runs").write_text("a file, where the folder belongs")
    smoke = estimate.networks(profiles.PROFILES["smoke"], SIZES)
    assert estimate.speeds([smoke], tmp_path / "runs", 1) == [ONE]


def test_the_speed_of_a_busy_computer_is_told_and_not_kept(tmp_path, measured, monkeypatch):
    smoke, told = estimate.networks(profiles.PROFILES["smoke"], SIZES), []
    monkeypatch.setattr(machine, "busy", lambda: (1.0, 2))
    assert estimate.speeds([smoke], tmp_path, 2, tell=told.append) == [ONE]
    assert "1.0 of 2 cores" in told[-1]
    assert "is not kept" in told[-1]
    assert [*tmp_path.iterdir()] == []
    estimate.speeds([smoke], tmp_path, 1, tell=told.append)
    assert (tmp_path / estimate.FILE).exists(), "a single thread waits for nobody"


@pytest.mark.parametrize(
    ("used", "cores", "threads", "jobs", "fewer"),
    [
        (1.0, 2, 2, 1, 1),
        (0.3, 2, 2, 1, None),  # a desktop at rest
        (1.0, 8, 8, 1, 7),
        (3.0, 8, 4, 1, None),
        (3.0, 8, 4, 2, 2),
        (8.0, 8, 8, 1, 1),
        (60.0, 64, 2, 1, None),  # of a large computer a container may use two
        (2.0, 2, 1, 2, None),  # threads of their own, which wait for nobody
    ],
)  # fmt: skip
def test_a_run_says_where_other_programs_hold_its_threads_up(monkeypatch, used, cores, threads, jobs, fewer):
    monkeypatch.delenv("KR_MEASURE", raising=False)
    monkeypatch.setattr(machine, "busy", lambda: (used, cores))
    line = estimate.crowded(threads, jobs)
    assert line.endswith(f"give --threads {fewer}") if fewer else line == ""


def test_a_busy_program_is_seen():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            used, cores = machine.busy()
        finally:
            other.kill()
    assert 0.3 < used <= cores <= os.cpu_count()


def test_a_run_on_a_busy_computer_says_so_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "crowded", lambda threads, jobs: f"busy: {threads} threads, {jobs} stages")
    monkeypatch.setattr(execute, "execute", lambda *_, **__: 1.0)
    argv = ["--profile", "smoke", "--until", "start", "--runs-dir", str(tmp_path / "runs"), "--threads", "2"]
    assert run_all.main([*argv, "--dry-run"]) == 0
    assert "busy" not in capsys.readouterr().out
    assert run_all.main([*argv, "--figures-dir", str(tmp_path / "figures")]) == 0
    assert capsys.readouterr().out.startswith("busy: 2 threads, 1 stages\n[1/1]")


def test_seconds_are_work_times_rates():
    chosen = profiles.PROFILES["smoke"]
    found = estimate.of_stages(chosen, SIZES, ONE, 1)
    counts = work.of_stage("teacher", chosen, SIZES)
    passes = counts["short_train"] + counts["short_predict"] + counts["predict"]
    assert found["teacher"] == pytest.approx(1e-3 * passes + 4.0 * counts["start"])
    assert list(found) == list(stages.STAGES)
    on_gpu = estimate.of_stages(chosen, SIZES, ONE | {"device": "cuda"}, 16)
    assert on_gpu["checkpoints"] == found["checkpoints"], "no worker processes on a GPU"


def test_a_gpu_s_hours_and_memory_are_told_with_what_is_assumed():
    words = estimate.on_a_gpu(profiles.PROFILES["paper"], SIZES, ONE)
    assert "at 40 TFLOP/s (an assumption" in words
    twice = ONE | {"generator": ONE["generator"] | {"flops": 2e8}}
    hours = [float(estimate.on_a_gpu(profiles.PROFILES["paper"], SIZES, s).split()[4]) for s in (ONE, twice)]
    assert hours[1] / hours[0] == pytest.approx(2, rel=0.1), "nearly all is the Generator's"


def test_a_first_dry_run_says_minutes_and_a_second_measures_nothing(tmp_path, measured, capsys):
    argv = ["--dry-run", "--profile", "smoke", "--runs-dir", str(tmp_path / "runs"), "--threads", "1"]
    assert run_all.main(argv) == 0
    told = capsys.readouterr()
    *lines, total, room = told.out.strip().splitlines()
    assert "measuring this computer's speed" in told.err
    assert all("(about " in line for line in lines)
    assert "total: 8 of 8 stages to run, about " in total
    assert "not known" not in total
    assert room.startswith("digits: about ")
    assert run_all.main(argv) == 0
    again = capsys.readouterr()
    assert again.out == told.out
    assert again.err == ""
    assert len(measured) == 1


def test_paper_says_what_a_gpu_needs(tmp_path, measured, capsys):
    assert run_all.main(["--dry-run", "--profile", "paper", "--runs-dir", str(tmp_path)]) == 0
    assert "digits: on a GPU about " in capsys.readouterr().out
    assert run_all.main(["--list", "--runs-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for profile in profiles.PROFILES:
        assert f"  {profile}, digits: about " in out
    assert out.count("on a GPU about") == 1


def test_without_torch_a_line_says_so_and_no_minutes_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("KR_MEASURE", raising=False)
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert run_all.main(["--dry-run", "--profile", "smoke", "--runs-dir", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr()
    assert "the speed cannot be measured here: ImportError: libtorch.so is broken" in told.err
    assert "about" not in told.out
    assert not (tmp_path / "runs").exists()


def test_nothing_is_measured_where_that_is_not_wanted(tmp_path, measured, monkeypatch, capsys):
    monkeypatch.setenv("KR_MEASURE", "0")
    assert run_all.main(["--dry-run", "--profile", "smoke", "--runs-dir", str(tmp_path / "runs")]) == 0
    assert "about" not in capsys.readouterr().out
    assert measured == []


@pytest.mark.parametrize("argv", [["--dry-run"], ["--list"], ["--status"], ["--until", "start"]])
@pytest.mark.parametrize("value", ["foo", "2", "no", "00"])
def test_another_value_than_0_or_1_is_refused(tmp_path, measured, monkeypatch, capsys, value, argv):
    monkeypatch.setenv("KR_MEASURE", value)
    monkeypatch.setattr(execute, "execute", lambda *_, **__: pytest.fail("a stage was started"))
    assert run_all.main([*argv, "--profile", "smoke", "--runs-dir", str(tmp_path / "runs"), "--threads", "1"]) == 2
    words = f"error: KR_MEASURE is {value!r}; give 0 to measure nothing here, or 1, the usual, or unset it\n"
    assert capsys.readouterr() == ("", words)
    assert measured == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("value", "said"), [("", True), ("1", True), (" 1", True), ("0", False), (None, True)])
def test_what_the_variable_may_be(monkeypatch, value, said):
    monkeypatch.delenv("KR_MEASURE") if value is None else monkeypatch.setenv("KR_MEASURE", value)
    assert estimate.measures() is said


def test_a_known_time_is_not_replaced_by_an_estimate(tmp_path):
    options = {"overrides": {}, "root": tmp_path, "figures": tmp_path / "figures"}
    jobs = plan.plan("smoke", ["digits"], [0], {"digits": "c"}, **options)
    jobs = [replace(job, expected=7.0) if job.stage == "teacher" else job for job in jobs]
    times = {"digits": dict.fromkeys(stages.STAGES, 60.0)}
    assert [job.expected for job in estimate.filled(jobs, times)] == [60, 7, *[60] * 6]
    assert [job.expected for job in estimate.filled(jobs, {})] == [None, 7, *[None] * 6]
    jobs = plan.plan("smoke", ["digits"], [0], {"digits": "c"}, asked=("shadow", "audit"), **options)
    assert [(job.stage, job.expected) for job in estimate.filled(jobs, times)][7:10] == [
        ("shadow-00", 60), ("shadow-01", 60), ("audit", 60),
    ]  # fmt: skip
    assert report.dry_run(estimate.filled(jobs, times))[0].endswith("(about 1.0 min)")


# ------------------------------------------------------------------ the measurement itself


def test_operations_and_kept_bytes_of_a_network_known_by_heart():
    net = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.ReLU(), torch.nn.Linear(20, 5))
    found = speed.counted(net, (torch.ones(3, 10),))
    assert found["parameters"] == 10 * 20 + 20 + 20 * 5 + 5
    assert found["flops"] == 2 * (10 * 20 + 20 * 5)
    assert found["saved"] == 4 * (10 + 20), "the input, and the hidden layer once for two operations"


def test_only_steps_that_would_take_long_are_measured_in_part():
    assert speed._batch(256, 1e6) == 256
    assert speed._batch(256, speed.STEP / 10) == 10
    assert speed._batch(256, 1e15) == 2


def test_a_watched_training_ends_when_it_has_been_seen_for_long_enough(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(now) / 10)
    calls = []

    def train(told):
        for step in range(500):
            calls.append(step)
            told({"step": step})

    assert speed._watched(train, "cpu") == pytest.approx(0.1)
    assert len(calls) == pytest.approx(10 * speed.SECONDS, abs=3)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_the_speed_is_measured_in_a_process_of_its_own(threads):
    wanted = estimate.networks(profiles.PROFILES["smoke"], SIZES)
    found, problem = estimate._measure([wanted], threads)
    assert problem == ""
    (rates,) = [each["rates"] for each in found]
    assert set(rates) == set(work.KINDS)
    assert 0.1 < rates["start"] < 120
    for _ in range(3):  # what else the computer does may fall on one of two
        if rates["predict"] < rates["train"] and rates["draw"] < rates["paint"]:
            break
        (rates,) = [each["rates"] for each in estimate._measure([wanted], threads)[0]]
    assert rates["predict"] < rates["train"], "a training step has more to do than a prediction"
    assert rates["draw"] < rates["paint"]
