"""The driver as a user meets it: a real process, its lines and its exit codes."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import assert_no_pickle_inside

from kr_utils import audited, data, evidence, profiles, runs, stages
from kr_utils.driver import execute, plan, work
from kr_utils.runs import code

ROOT = stages.ROOT


def drive(*args, **environment):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    call = [sys.executable, str(ROOT / "run_all.py"), *map(str, args)]
    return subprocess.run(call, capture_output=True, text=True, env=env, cwd=ROOT, timeout=900)


def test_help_answers_at_once_and_loads_nothing_heavy():
    started = time.time()
    out = drive("--help")
    seconds = time.time() - started
    assert out.returncode == 0
    for option in (
        "--profile",
        "--datasets",
        "--seeds",
        "--set",
        "--until",
        "--audit",
        "--dry-run",
        "--keep-going",
        "--debug",
        "--jobs",
    ):
        assert option in out.stdout
    code = "import sys; sys.argv=['x','--help']; import run_all, kr_utils.driver.plan; print('torch' in sys.modules)"
    seen = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert seen.stdout.strip() == "False", seen.stderr
    assert seconds < 5, "measured 0.15 s on an idle machine; a heavy import takes several seconds"


def test_dry_run_names_every_stage_and_why_and_runs_nothing(tmp_path):
    out = drive("--dry-run", "--datasets", "digits", "--seeds", "0,1", "--set", "teacher.epochs=3")
    assert out.returncode == 0
    *lines, total = out.stdout.strip().splitlines()
    assert total == "total: 15 of 15 stages to run"
    assert len(lines) == 2 * 7 + 1
    assert all(line.startswith("run ") and "not run yet" in line for line in lines)
    assert not (tmp_path / "runs").exists()


def test_list_names_datasets_profiles_and_budgets():
    out = drive("--list").stdout
    assert "digits: Digits, 10 classes" in out
    assert "chestmnist: refused" in out
    assert "generator: steps=" in out


def make_plan(root, **more):
    options = {"overrides": {}, "root": root, "figures": root / "figures", "until": "tuning"} | more
    return plan.plan("smoke", ["digits"], [0], {"digits": "c"}, **options)


def test_every_setting_reaches_the_notebook_as_it_is(tmp_path):
    """papermill writes parameters into the notebook; what its cell then assigns must be the budget that was planned."""
    from papermill.translators import PythonTranslator

    settings = ["tuning.guidance=1,2.5", "tuning.steps=7", "tuning.threshold=0,0.25"]
    overrides = plan.parse_settings(settings, "smoke")
    for job in make_plan(tmp_path, overrides=overrides):
        namespace: dict = {}
        exec(PythonTranslator.codify(job.parameters), namespace)
        assert namespace["overrides"] == job.parameters["overrides"]
        if job.stage == "tuning":
            budget = profiles.budget("tuning", "smoke", namespace["overrides"])
            assert (budget.guidance, budget.steps, budget.threshold) == ((1.0, 2.5), (7,), (0.0, 0.25))


def test_unknown_notebook_parameters_are_refused(tmp_path):
    job = make_plan(tmp_path)[1]
    job.parameters["epochz"] = 3
    with pytest.raises(execute.StageFailed, match="declares no parameter 'epochz'"):
        execute.execute(job)


@pytest.mark.slow
def test_a_failing_notebook_names_its_cell_and_keeps_the_partial_copy(tmp_path):
    """A data folder that is gone when the notebook starts: the notebook's own error must come through."""
    job = make_plan(tmp_path)[1]
    job.parameters["data_root"] = str(tmp_path / "gone")
    job.parameters["dataset"] = "breastmnist"
    with pytest.raises(execute.StageFailed) as error:
        execute.execute(job)
    message = str(error.value)
    assert "01_teacher.ipynb, cell" in message
    assert "InputError" in message
    assert "\n" not in message
    partial = job.folder.with_name("01_teacher.failed.ipynb")
    assert str(partial) in message
    cells = json.loads(partial.read_text())["cells"]
    assert any(output["output_type"] == "error" for c in cells if c["cell_type"] == "code" for output in c["outputs"])
    assert runs.read(job.folder) is None


def numbers(root, profile, dataset, seed, stage):
    return json.loads((runs.stage_dir(root, profile, dataset, seed, stage) / "metrics.json").read_text())


def check_schema(root, dataset, students=9):
    teacher, student, attack = (
        numbers(root, "smoke", dataset, 0, s) for s in ("teacher", "distillation", "membership")
    )
    assert {"train_accuracy", "val_accuracy", "test_accuracy"} <= set(teacher)
    assert {"cas", "cas_gap"} <= set(student)
    assert student["cas_gap"] == pytest.approx(student["cas"] - teacher["test_accuracy"])
    assert student["ensemble_gap"] == pytest.approx(student["cas"] - teacher["ensemble_test_accuracy"])
    assert len(student["ablation"]) == students, "the four of the 2x2, and five controls"
    assert all("cas" in row for row in student["ablation"].values())
    for who in ("real", "student"):
        assert len([a for a in attack[who]]) == 3
        for row in attack[who].values():
            assert {"auc", "auc_low", "auc_high", "tpr_at_1pct_fpr", "blind_at_1pct_fpr", "advantage"} <= set(row)
            assert row["auc_low"] <= row["auc"] <= row["auc_high"]
        assert set(attack["shift"][who]) == {"val_test", "train_val"}


TRACE = """
import os, sys, threading
seen, early, place = set(), [], os.environ.get("KR_TRACE", "")  # a folder; of a stage's workers, the stage's file in it
def note(frame, event, arg):
    global place
    code = frame.f_code
    function = code.co_flags & 1  # not the body of a class, which runs at import
    if event == "call" and function and "/kr_utils/" in code.co_filename and code not in seen:
        seen.add(code)
        early.append(f"{code.co_filename} {code.co_qualname}\\n")
        if code.co_qualname == "begin" and code.co_filename.endswith("/runs/stage.py"):
            place = os.environ["KR_TRACE"] = os.path.join(place, frame.f_locals["stage"])
        if not os.path.isdir(place):
            with open(place, "a") as file:
                file.writelines(early)
            early.clear()
if place and not any("run_all" in word for word in sys.orig_argv):  # kernels and their workers
    sys.setprofile(note)
    threading.setprofile(note)
"""


AUDITED = plan.stages_until(None, ("shadow", "audit"))  # the stages of a run with an audit


def drive_traced(folder, *args):
    """A run whose kernels and workers note what they call of kr_utils, a file per stage."""
    (folder / "sitecustomize.py").write_text(TRACE)
    (folder / "called").mkdir()
    paths = os.pathsep.join([str(folder), str(ROOT)])
    out = drive(*args, PYTHONPATH=paths, KR_TRACE=str(folder / "called"))
    assert out.returncode == 0, out.stdout + out.stderr


# What `finish` and `once` of a stage call to keep what was made, bit for bit (test_resume.py): no number is made there.
BY_THE_STORE = {
    ("resume", name) for name in ("keep", "once", "State", "write", "_pack", "_unpack", "_read", "_checksum")
}


def check_all_called_is_in_the_identity(folder):
    """Every function of the method that was called is one that `code` says the stage can come to."""
    method = code._method()
    for stage in AUDITED:
        every = "\n".join(source for source, tags, _ in code.notebook_cells(stage) if tags != {"parameters"})
        can, called = code.definitions(every, method), set()
        for line in (folder / "called" / stage).read_text().splitlines():
            path, name = line.rsplit(" ", 1)  # a folder may have spaces
            file = os.path.relpath(path, ROOT / "kr_utils").removesuffix(".py")
            if file in dict(method) and not name.startswith("<"):
                called.add((file, name.split(".")[0]))
        assert called, stage
        assert not {(file, name) for file, name in called if name not in can.get(file, ())} - BY_THE_STORE, stage


def check_counts(root):
    """What `work` counts for the smoke profile on digits, against the curves that a run stored."""
    chosen, folder = profiles.PROFILES["smoke"], root / "smoke/digits/seed0"
    sizes, batch = work.Sizes(**data.sizes("digits")), chosen.teacher.batch

    def rows(stage, name):
        header, *lines = (folder / stages.STAGES[stage][0] / name).read_text().splitlines()
        return [dict(zip(header.split(","), line.split(","))) for line in lines]

    # Teachers: an epoch's batches make up the whole set
    history = rows("teacher", "history.csv")
    assert len(history) * sizes.train == work.of_stage("teacher", chosen, sizes)["short_train"]
    steps = len(history) * max(1, sizes.train // batch)
    members = chosen.teacher.members
    assert members * int(history[-1]["steps"]) == steps

    # Generator: steps of a batch
    last = int(rows("generator", "loss.csv")[-1]["step"])
    found = work.of_stage("generator", chosen, sizes)["paint"]
    assert last * chosen.generator.batch == found

    # Candidates
    assert len(rows("checkpoints", "scores.csv")) == chosen.generator.checkpoints
    counted = sum(len(each) for each in work._candidates(chosen))
    assert len(rows("tuning", "scores.csv")) == counted

    # Students: each epoch sees a set
    history = rows("distillation", "history.csv")
    seen = len(history) * chosen.distillation.images
    assert seen == work.of_stage("distillation", chosen, sizes)["short_train"]


def check_audit(root):
    """What the audit of two pipelines says, with all that may be said of two."""
    found = numbers(root, "smoke", "digits", 0, "audit")
    assert (found["pipelines"], found["pool"]) == (2, 600)
    rows = {(row["artefact"], row["attack"]): row for row in found["matrix"]}
    artefacts = {artefact for artefact, _ in rows}
    students = {f"student-{name}" for name in ("hard_fixed", "soft_fixed", "hard_regenerated", "no_class", "textures")}
    usual = {"real", "real-plain", "teacher", "ensemble", "student", "images", "generator", "dp-sgd"}
    assert artefacts > usual | students
    few = numbers(root, "smoke", "digits", 0, "tuning")["knobs"]["few"]
    assert ("student-few_step" in artefacts) == (not few), "else the Student itself is of few-step images"
    assert rows["real", "lira"]["auc"] is None, "two pipelines are too few for LiRA"
    assert rows["real", "lira"]["evidence"] == "no power"
    for row in found["matrix"]:
        assert set(row) == set(evidence.KEPT)
        if row["auc"] is not None:
            assert 0 <= row["auc_low"] <= row["auc"] <= row["auc_high"] <= 1
            assert row["aop"] == pytest.approx(row["accuracy"] / (2 * max(row["auc"], 0.5)) ** found["lambda"])
    assert found["controls"]["positive"]["loss"]["auc_low"] > 0.5, "a network that has memorised its members is caught"
    assert found["believed"], found["doubts"]
    for word in ("private", "immune", "safe"):
        assert word not in found["words"]


@pytest.mark.slow
def test_the_whole_graph_in_smoke_then_reuse_then_redraw(tmp_path):
    root, figures = tmp_path / "runs", tmp_path / "figures"
    drive_traced(tmp_path, "--profile", "smoke", "--audit")
    check_all_called_is_in_the_identity(tmp_path)
    check_schema(root, "digits")
    check_counts(root)
    check_audit(root)
    made = {p.name for p in (figures / "smoke").iterdir()}
    for name in (
        "pipeline",
        "images-digits",
        "checkpoints-digits",
        "tuning-digits",
        "ablation",
        "brings",
        "cas",
        "roc-digits",
        "utility-privacy",
        "audit-digits-0",
        "volume-digits-0",
        "plane-digits-0",
    ):
        assert {f"{name}.png", f"{name}.pdf", f"{name}.txt"} <= made
    assert {"results.csv", "results.md", "audit-digits-0.json"} <= made
    kept = audited.read(figures / "smoke")[0]
    assert kept["matrix"] == numbers(root, "smoke", "digits", 0, "audit")["matrix"]
    assert audited.command(kept).startswith(
        ".venv/bin/python run_all.py --profile smoke --datasets digits --seeds 0 --audit 2 "
    )
    folder = root / "smoke/digits/seed0/01_teacher"
    assert (folder / "notebook.ipynb").is_file()
    assert not list((root / "smoke").rglob("*.partial"))
    assert not list((root / "smoke").rglob("*.failed.ipynb"))
    assert_no_pickle_inside(root)
    assert_no_pickle_inside(figures)

    images = {p.name: p.read_bytes() for p in (figures / "smoke").iterdir()}
    second = drive("--profile", "smoke")
    assert second.returncode == 0
    assert second.stdout.count("reused") == 8
    (figures / "smoke" / "cas.png").unlink()
    third = drive("--profile", "smoke")
    assert third.stdout.count("reused") == 7
    assert "its figures are not in the figures folder" in third.stdout
    (figures / "smoke" / "results.csv").touch()
    assert "0 of 8 stages to run" in drive("--profile", "smoke", "--dry-run").stdout
    with open(figures / "smoke" / "results.md", "a") as file:
        file.write("another hand's")
    assert "its figures are not in the figures folder as it made them" in drive("--profile", "smoke").stdout
    again = {p.name: p.read_bytes() for p in (figures / "smoke").iterdir()}
    assert {n for n in images if images[n] != again[n]} == set(), "the same runs give the same bytes"


@pytest.mark.slow
def test_real_medical_images_in_smoke(tmp_path, medical):
    """RetinaMNIST (colour, five grades) to the last figure; BreastMNIST (grey, two classes) to a Teacher."""
    short = ("distillation.controls=0", "distillation.images=60", "checkpoints.images=60", "tuning.images=60")
    options = ("--profile", "smoke", "--threads", "1", *(f"--set={each}" for each in short), "--datasets")
    out = drive(*options, "retinamnist", KR_DATA=medical)
    assert out.returncode == 0, out.stdout + out.stderr
    root = tmp_path / "runs"
    check_schema(root, "retinamnist", students=4)
    assert (tmp_path / "figures/smoke/images-retinamnist.png").stat().st_size > 5000
    with np.load(root / "smoke/retinamnist/seed0/05_distillation/synthetic.npz") as synthetic:
        assert synthetic["images"].shape[1:] == (3, 28, 28)
        assert set(synthetic["labels"]) == {0, 1, 2, 3, 4}

    out = drive(*options, "breastmnist", "--until", "teacher", KR_DATA=medical)
    assert out.returncode == 0, out.stdout + out.stderr
    assert numbers(root, "smoke", "breastmnist", 0, "teacher")["test_counts"] == [42, 114]


@pytest.mark.slow
def test_keep_going_finishes_the_other_seed(tmp_path):
    """Seed 0's Teacher cannot run (a folder stands where its notebook belongs); seed 1 must still be done."""
    block = tmp_path / "runs/smoke/digits/seed0"
    (block / "01_teacher.failed.ipynb").mkdir(parents=True)
    out = drive("--profile", "smoke", "--seeds", "0,1", "--until", "teacher", "--keep-going")
    assert out.returncode == 1
    assert "failed: digits seed 0  01_teacher" in out.stderr
    assert "Traceback" not in out.stderr
    assert numbers(tmp_path / "runs", "smoke", "digits", 1, "teacher")["test_accuracy"] > 0
