"""Fingerprints, shown with the driver's real plan over finished stages: a change reruns exactly what depends on it."""

import ast
import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import med_arrays

import run_all
from kr_utils import InputError, data, profiles, runs, stages
from kr_utils.driver import plan
from kr_utils.runs import code, identity

STAGES = tuple(stages.STAGES)
ALL = set(STAGES)
# What is made from a stage's result, itself included, told by hand: not by the code under test.
FROM = {
    "start": {"start", "compare"},
    "teacher": {"teacher", "checkpoints", "tuning", "distillation", "membership", "compare"},
    "generator": {"generator", "checkpoints", "tuning", "distillation", "membership", "compare"},
    "checkpoints": {"checkpoints", "tuning", "distillation", "membership", "compare"},
    "tuning": {"tuning", "distillation", "membership", "compare"},
    "distillation": {"distillation", "membership", "compare"},
    "membership": {"membership", "compare"},
    "compare": {"compare"},
}
# Every file of kr_utils, and what a changed statement in it reruns.
MODULES = {
    "plots": {"compare"},
    "tables": {"compare"},
    "kr.mplstyle": {"compare"},
    "explore": set(),
    "profiles": set(),  # a budget's numbers count, not the file they stand in
    "runs": set(),
    "stamps": set(),
    "paths": set(),
    "folders": set(),
    "locks": set(),
    "spread": set(),
    "cluster": set(),
    "reporting": set(),
    "resume": set(),
    "fingerprints": set(),
    "workflow": set(),
    "validation": ALL,
    "data": ALL,
    "metrics": FROM["teacher"],
    "classifier": FROM["teacher"],
    "precision": FROM["teacher"] | FROM["generator"],
    "seeds": FROM["teacher"] | FROM["generator"],
    "generator": FROM["generator"],
    "sampling": FROM["generator"],
    "consistency": FROM["generator"],
    "recycling": FROM["checkpoints"],
    "selection": FROM["checkpoints"],
    "together": FROM["checkpoints"],
    "attacks": FROM["membership"],
}


def make(root, datasets=("digits",), seeds=(0,), checksums=None, **more):
    """The driver's plan."""
    options = {"overrides": {}, "root": root, "figures": root / "figures"} | more
    return plan.plan("smoke", list(datasets), list(seeds), checksums or dict.fromkeys(datasets, "c"), **options)


def pretend(job, checksum="c"):
    """Write a finished stage as its notebook would."""
    where = {"dataset": job.dataset, "profile": "smoke", "seed": job.seed}
    budget = profiles.budget(job.stage, "smoke", job.parameters["overrides"])
    checksum = "" if job.stage == "compare" else checksum
    opened = runs.begin(job.stage, budget, checksum=checksum, runs_dir=job.parameters["runs_dir"], **where)
    opened.finish({"figures": []} if job.stage == "compare" else {})


def stale(jobs):
    return {job.stage for job in jobs if not job.reuse}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Finished stages of digits, seed 0, made with the code as it is."""
    root = tmp_path_factory.mktemp("template")
    for job in make(root):
        assert job.reason == "not run yet"
        pretend(job)
    assert stale(make(root)) == set()
    return root


@pytest.fixture
def root(tmp_path, template):
    shutil.copytree(template, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the project whose files a test may change."""
    project = tmp_path / "project"
    for name in ("kr_utils", "notebooks"):
        shutil.copytree(stages.ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(stages, "ROOT", project)
    monkeypatch.setattr(stages, "NOTEBOOKS", project / "notebooks")
    return project


def append(project, name, text):
    path = project / "kr_utils" / (name if "." in name else f"{name}.py")
    path.write_text(path.read_text() + text)


def edit_cell(project, stage, tag, text):
    """Add a line to the first code cell with this tag (None: with no tag)."""
    path = project / "notebooks" / f"{stages.STAGES[stage][0]}.ipynb"
    notebook = json.loads(path.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    cell = next(c for c in cells if (tag in c["metadata"].get("tags", []) if tag else not c["metadata"].get("tags")))
    cell["source"] = [*cell["source"], "\n", text]
    path.write_text(json.dumps(notebook))


# ------------------------------------------------------------------------ code


def test_the_table_names_every_file():
    files = {path.stem for path in (stages.ROOT / "kr_utils").glob("*.py")} - {"__init__"}
    assert set(MODULES) == files | {"kr.mplstyle"}


@pytest.mark.parametrize("name", MODULES)
def test_a_changed_file_reruns_exactly_the_stages_that_reach_it(name, copy, root):
    append(copy, name, "\n# only a comment\n" if "." not in name else "")
    assert stale(make(root)) == set()
    append(copy, name, "\nNEW = 1\n" if "." not in name else "\nlines.linewidth: 3\n")
    jobs = {job.stage: job for job in make(root)}
    assert stale(jobs.values()) == MODULES[name]
    if MODULES[name]:
        first = jobs[min(MODULES[name], key=STAGES.index)]
        assert (name if "." in name else f"{name}.py") + " changed" in first.reason


@pytest.mark.parametrize("stage", STAGES)
def test_a_changed_notebook_reruns_itself_and_what_is_made_from_it(stage, copy, root):
    for tag in ("parameters", "exercise"):
        edit_cell(copy, stage, tag, "extra: int = 1")
    assert stale(make(root)) == set()
    edit_cell(copy, stage, None, "extra = 1")
    jobs = {job.stage: job for job in make(root)}
    assert stale(jobs.values()) == FROM[stage]
    assert "the notebook's code changed" in jobs[stage].reason


def test_a_cell_that_draws_does_not_retrain(copy, root):
    for stage in STAGES[:-1]:
        edit_cell(copy, stage, "figure", "extra = 1")
    assert stale(make(root)) == set()


def test_a_docstring_does_not_count_and_a_statement_does():
    hashed = code._code_hash
    assert hashed('def f():\n    """one"""\n    return 1') == hashed('def f():\n    """two"""\n    return 1  # why')
    assert hashed("def f():\n    return 1") != hashed("def f():\n    return 2")


def test_a_notebook_with_a_typo_is_named(copy):
    edit_cell(copy, "teacher", None, "x = = 1")
    with pytest.raises(InputError, match=r"01_teacher\.ipynb: not valid Python"):
        code.code_hashes("teacher")


def cells(stage):
    """(tags, parsed code) of a notebook's code cells."""
    path = stages.NOTEBOOKS / f"{stages.STAGES[stage][0]}.ipynb"
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            yield set(cell["metadata"].get("tags", [])), ast.parse("".join(cell["source"]))


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_no_number_comes_out_of_a_cell_that_is_not_hashed(stage):
    """What figure and exercise cells assign is read by no other cell, so leaving them out is right."""
    loose, assigned, read = {"figure", "exercise"}, set(), set()
    for tags, tree in cells(stage):
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        if tags & loose:
            assigned |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        elif not tags:
            local = {node.id for node in names if isinstance(node.ctx, ast.Store)}
            local |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
            read |= {node.id for node in names if isinstance(node.ctx, ast.Load)} - local
    assert not assigned & read


def test_every_import_is_one_that_fingerprints_see():
    """`from kr_utils import x` and `from kr_utils.x import y` are followed; nothing else may bring code in."""
    trees = [ast.parse(path.read_text()) for path in (stages.ROOT / "kr_utils").glob("*.py")]
    trees += [tree for stage in STAGES for _, tree in cells(stage)]
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert not any(name.split(".")[0] in ("kr_utils", "importlib", "run_all") for name in names), names
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, "no relative imports"
                assert node.module.split(".")[0] not in ("importlib", "run_all") or node.module == "importlib"
                if node.module == "importlib":
                    assert {alias.name for alias in node.names} == {"metadata"}, "versions only"


# ------------------------------------------------- parameters, data, upstream


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("start.images=3", "images 8 -> 3"),
        ("teacher.epochs=7", "epochs 2 -> 7"),
        ("generator.steps=17", "steps 16 -> 17"),
        ("checkpoints.students=2", "students 1 -> 2"),
        ("tuning.guidance=1,3", "guidance [1.0, 2.0] -> [1.0, 3.0]"),
        ("distillation.period=2", "period 1 -> 2"),
        ("membership.draws=100", "draws 200 -> 100"),
        ("compare.examples=2", "examples 6 -> 2"),
    ],
)
def test_a_parameter_reruns_exactly_what_depends_on_it(setting, reason, root):
    overrides = plan.parse_settings([setting], "smoke")
    jobs = {job.stage: job for job in make(root, overrides=overrides)}
    stage = setting.split(".")[0]
    assert stale(jobs.values()) == FROM[stage]
    assert jobs[stage].reason == reason
    for other in FROM[stage] - {stage, "compare"}:
        assert "is new" in jobs[other].reason, "and it says through which stage"


def test_the_same_value_given_again_reruns_nothing(root):
    overrides = plan.parse_settings(["teacher.epochs=2", "tuning.guidance=1,2.0"], "smoke")
    assert stale(make(root, overrides=overrides)) == set()


def test_another_seed_or_dataset_leaves_the_first_alone(root):
    more = make(root, seeds=(0, 1))
    assert {(job.stage, job.seed) for job in more if not job.reuse} == {(s, 1) for s in STAGES[:-1]} | {("compare", 0)}
    more = make(root, datasets=("digits", "breastmnist"))
    assert {job.dataset for job in more if not job.reuse} == {"breastmnist", ""}


def test_an_upstream_stage_made_otherwise_is_made_as_planned_and_its_dependents_with_it(root):
    """Somebody trained another Teacher in JupyterLab over the one that 03 to 06 were made from."""
    other = profiles.budget("teacher", "smoke", {"epochs": 9})
    where = {"dataset": "digits", "profile": "smoke", "seed": 0, "checksum": "c", "runs_dir": root}
    runs.begin("teacher", other, **where).finish({})
    assert stale(make(root)) == {"teacher"}, "the planned Teacher has the fingerprint that 03 to 06 were made from"
    with_it = make(root, overrides={"teacher": {"epochs": 9}})
    assert stale(with_it) == FROM["teacher"] - {"teacher"}


def test_the_bytes_of_a_data_file_rerun_its_dataset_alone(tmp_path, root, capsys):
    """Through the driver itself: the same pixels compressed otherwise change nothing, one pixel changes everything."""
    shutil.rmtree(root)
    folder, arrays = tmp_path / "data", med_arrays()
    folder.mkdir()
    np.savez(folder / "breastmnist.npz", **arrays)
    names = ("digits", "breastmnist")
    sums = {name: data.check(name, str(folder)) for name in names}
    for job in make(root, names, checksums=sums, figures=tmp_path / "figures"):
        pretend(job, sums.get(job.dataset))

    def plan():
        argv = ["--profile", "smoke", "--datasets", ",".join(names), "--data-root", str(folder), "--dry-run"]
        assert run_all.main(argv) == 0
        return [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:-1]]  # the last is the total

    assert {verb for verb, _ in plan()} == {"reuse"}
    np.savez_compressed(folder / "breastmnist.npz", **arrays)
    assert {verb for verb, _ in plan()} == {"reuse"}
    arrays["test_images"][0, 0, 0] ^= 1
    np.savez_compressed(folder / "breastmnist.npz", **arrays)
    for verb, line in plan():
        assert verb == ("reuse" if line.startswith("digits") else "run"), line
        assert line.startswith(("digits", "all runs")) or "the data changed" in line


# ----------------------------------------------------------- the hash itself


@pytest.mark.parametrize("key", ["dataset", "seed", "budget", "checksum", "upstream"])
def test_every_ingredient_changes_the_fingerprint_and_is_named(key):
    base = {"dataset": "digits", "seed": 0, "budget": {"epochs": 2}, "checksum": "a", "upstream": {"teacher": "1"}}
    new = {"dataset": "other", "seed": 1, "budget": {"epochs": 3}, "checksum": "b", "upstream": {"teacher": "2"}}
    old = identity.ingredients("tuning", **base)
    changed = identity.ingredients("tuning", **(base | {key: new[key]}))
    assert identity.fingerprint(old) != identity.fingerprint(changed)
    words = {"budget": "epochs 2 -> 3", "checksum": "the data changed", "upstream": "teacher is new"}
    assert words.get(key, "parameters changed") in identity.what_changed(old, changed)


def test_fingerprints_do_not_depend_on_tuple_or_list():
    budget = dataclasses.asdict(profiles.budget("tuning", "quick"))
    parts = identity.ingredients("tuning", "digits", 0, budget, "a", {})
    assert json.loads(json.dumps(parts)) == parts
