"""Fingerprints, shown with the driver's real plan over finished stages: a change reruns exactly what depends on it."""

import ast
import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import med_arrays, own_set

import run_all
from kr_utils import InputError, data, profiles, runs, stages
from kr_utils.driver import plan
from kr_utils.runs import code, identity

STAGES = tuple(stage for stage in stages.STAGES if stage != "release")  # a bundle is made anew each time
ALL = set(STAGES)
# What is made from a stage's result, itself included, told by hand: not by the code under test.
FROM = {
    "start": {"start", "compare"},
    "teacher": {"teacher", "checkpoints", "tuning", "distillation", "membership", "shadow", "audit", "compare"},
    "generator": {"generator", "checkpoints", "tuning", "distillation", "membership", "shadow", "audit", "compare"},
    "checkpoints": {"checkpoints", "tuning", "distillation", "membership", "shadow", "audit", "compare"},
    "tuning": {"tuning", "distillation", "membership", "shadow", "audit", "compare"},
    "distillation": {"distillation", "membership", "shadow", "audit", "compare"},
    "membership": {"membership", "compare"},
    "shadow": {"shadow", "audit", "compare"},
    "audit": {"audit", "compare"},
    "compare": {"compare"},
}
# What a changed constant in a definition reruns, told by hand: the stages whose number cells can come to it, and what
# is made from them.
REACHED = {
    "data.INFO": ALL,
    "data._cut": ALL,
    "dataset_file.validate": ALL,
    "seeds.derive": FROM["teacher"],
    "resume.State": FROM["teacher"] | FROM["generator"],
    "precision.autocast": FROM["teacher"] | FROM["generator"],
    "precision.REPAYS_SECONDS": FROM["generator"],
    "classifier.Augmentation": FROM["teacher"],
    "classifier.epochs_within": FROM["teacher"],
    "classifier.fit": FROM["teacher"],
    "classifier.gkd_loss": FROM["teacher"],  # `fit` can come to it
    "metrics.wilson": FROM["teacher"],
    "metrics.cas_gap": FROM["distillation"],
    "metrics.bootstrap_auc": FROM["membership"],
    "metrics.aop": FROM["membership"] | FROM["audit"],
    "generator.steps_for": FROM["generator"],
    "generator._mirror": FROM["generator"],
    "generator.checkpoint_steps": FROM["generator"],
    "generator.P_MEAN": FROM["generator"],
    "generator.SIGMA_MAX": FROM["generator"],
    "consistency.loss": FROM["tuning"],
    "consistency.levels": FROM["generator"],
    "sampling._stochastic": FROM["generator"],
    "sampling.evaluations": FROM["checkpoints"],
    "captured.WARM_UP": FROM["teacher"] | FROM["generator"],
    "classifier.as_good_as": FROM["teacher"],
    "recycling.textures": FROM["distillation"],
    "recycling.Periodic": FROM["distillation"],
    "recycling._cycled": FROM["distillation"],  # through functools.partial
    "beside.Workers": FROM["teacher"],
    "selection.short_student": FROM["checkpoints"],  # in a worker process
    "recycling.class_counts": FROM["checkpoints"],
    "recycling.SyntheticStream": FROM["checkpoints"],
    "selection.Search": FROM["checkpoints"],
    "selection._as_good": FROM["checkpoints"],
    "selection.gap_to": FROM["checkpoints"],
    "selection.cheapest": FROM["tuning"],
    "attacks.scores": FROM["membership"] | FROM["audit"],
    "attacks.nearest": FROM["membership"] | FROM["shadow"],
    "attacks.shift": FROM["membership"],
    "metrics.blind_tpr": FROM["membership"] | FROM["audit"],
    "shadow.OTHERS": FROM["shadow"],
    "shadow.SIGMAS": FROM["shadow"],
    "dpsgd.CLIP": FROM["shadow"],
    "audit.halves": FROM["shadow"],
    "audit.pooled": FROM["audit"],
    "shadow_attacks.LEAST": FROM["audit"],
    "evidence.copied": FROM["audit"],
    "metrics.two_way": {"compare"},
    "metrics.two_way_auc": {"compare"},
    "intervals.right": {"compare"},
    "plots.roc": {"compare"},
    "plots.pipeline": {"compare"},
    "results.overall": {"compare"},
    "panels.sampler_panel": set(),
    "panels.threshold_panel": set(),
}


def make(root, datasets=("digits",), seeds=(0,), checksums=None, **more):
    """The driver's plan, with an audit of two pipelines."""
    options = {"overrides": {}, "root": root, "figures": root / "figures", "asked": ("shadow", "audit")} | more
    return plan.plan("smoke", list(datasets), list(seeds), checksums or dict.fromkeys(datasets, "c"), **options)


def pretend(job, checksum="c"):
    """Write a finished stage as its notebook would."""
    where = {"dataset": job.dataset, "profile": "smoke", "seed": job.seed}
    kind, number = stages.kind(job.stage), job.parameters.get("number")
    budget = profiles.budget(kind, "smoke", job.parameters["overrides"])
    checksum = "" if job.stage == "compare" else checksum
    opened = runs.begin(kind, budget, checksum=checksum, runs_dir=job.parameters["runs_dir"], number=number, **where)
    for done in opened.upstream.values():
        assert done.metrics  # it reads this of all of them
    opened.finish({"figures": {}} if job.stage == "compare" else {"number": job.seed})


def stale(jobs):
    return {stages.kind(job.stage) for job in jobs if not job.reuse}


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


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A copy of the project, shared by the tests that put back what they change."""
    project = tmp_path_factory.mktemp("scratch") / "project"
    for name in ("kr_utils", "notebooks"):
        shutil.copytree(stages.ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "ROOT", project)
        patch.setattr(stages, "NOTEBOOKS", project / "notebooks")
        yield project


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
    path = project / "notebooks" / f"{stages.notebook(stage)}.ipynb"
    notebook = json.loads(path.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    cell = next(c for c in cells if (tag in c["metadata"].get("tags", []) if tag else not c["metadata"].get("tags")))
    cell["source"] = [*cell["source"], "\n", text]
    path.write_text(json.dumps(notebook))


# ------------------------------------------------------------------------ code


class Nudge(ast.NodeTransformer):
    """Adds one to the number-th constant of a definition."""

    def __init__(self, number=0):
        self.left = number

    def visit_Constant(self, node):
        if type(node.value) not in (int, float):
            return node
        self.left -= 1
        return ast.Constant(node.value + 1) if self.left == -1 else node


def nudged(text, name):
    """A file's text with the first number in the definition `name` changed; None if it holds none."""
    tree = ast.parse(text)
    for node in tree.body:
        if name in code._names(node):
            before = ast.unparse(node)
            Nudge().visit(node)
            if ast.unparse(node) != before:
                return ast.unparse(tree)
    return None


def with_change(project, name, text, root):
    """Stages that are stale while a file of the copy reads `text`, and why the first one is."""
    path = project / "kr_utils" / f"{name}.py"
    usual = path.read_text()
    path.write_text(text)
    try:
        jobs = make(root)
    finally:
        path.write_text(usual)
    return stale(jobs), next((job.reason for job in jobs if not job.reuse), "")


@pytest.mark.parametrize("place", REACHED)
def test_a_changed_constant_reruns_exactly_the_stages_that_can_come_to_it(place, scratch, template):
    name, definition = place.split(".")
    changed = nudged((scratch / "kr_utils" / f"{name}.py").read_text(), definition)
    assert changed, f"{place} holds no number"
    found, why = with_change(scratch, name, changed, template)
    assert found == REACHED[place]
    assert (f"{name}.py changed" in why) == bool(found)


def reached(asked):
    """What the number cells of these stages can come to, as "file.definition"."""
    cells = ("\n".join(code.number_cells(stage)) for stage in asked)
    return {
        f"{file}.{name}"
        for text in cells
        for file, names in code.definitions(text, code._method()).items()
        for name in names
    }


def test_every_constant_of_the_method_counts_somewhere_unless_it_only_draws(scratch, template):
    """Each definition with a number in it: what no stage can come to is dead or a figure's."""
    changed = {}
    for name, text in code._method():
        apart = ("panels", "exercises", "predict", *OF_TIME, *BEFORE, code.STYLE)
        texts = {definition: nudged(text, definition) for definition in code._parse(text).texts if definition}
        changed |= {f"{name}.{key}": new for key, new in texts.items() if new and name not in apart}
    usual, asked = reached(stages.USUAL), reached(stages.ON_REQUEST)
    counted = {changed[place] for place in (usual | asked) & set(changed)}  # a statement may define several names
    loose = {place for place in changed if changed[place] not in counted and not place.startswith("plots.")}
    assert loose == DEAD_TO_NUMBERS - asked

    # What can be come to is what makes a stage stale: one in six, changed in its file
    counts = {changed[place] for place in (usual | reached(("shadow", "audit"))) & set(changed)}
    sample = sorted(changed)[::6]
    assert {changed[place] in counts for place in sample} == {True, False}
    for place in sample:
        found, _ = with_change(scratch, place.rpartition(".")[0], changed[place], template)
        assert bool(found) == (changed[place] in counts), place


OF_TIME = ("speed",)  # how long a stage takes, for the driver's estimates
BEFORE = ("own_files", "own_images", "pictures")  # make a dataset, whose checksum every stage has

# Numbers that no number cell can come to: the names are here so that a new one is noticed.
DEAD_TO_NUMBERS = {"results.into", "results.main", "results.aims"}  # of `python -m kr_utils.results`
DEAD_TO_NUMBERS |= {"audited.volumes", "audited.against_real"}
DEAD_TO_NUMBERS |= {"sampling.trajectory", "sampling.preview", "sampling._unfilled"}  # of panels
DEAD_TO_NUMBERS |= {"data.sizes", "dataset_file.read_shapes"}  # what the estimates know of a file


@pytest.mark.parametrize("name", ["panels", "classifier", "runs/stage", "driver/plan", "profiles", "paths"])
def test_a_comment_a_docstring_and_the_machinery_change_nothing(name, scratch, template):
    text = (scratch / "kr_utils" / f"{name}.py").read_text()
    assert with_change(scratch, name, f"{text}\n# only a comment\n", template) == (set(), "")
    if name != "classifier":
        assert with_change(scratch, name, f"{text}\nNEW = 1\n", template) == (set(), "")


def test_the_style_of_the_figures_counts_for_the_figures(copy, root):
    style = copy / "kr_utils/kr.mplstyle"
    style.write_text(style.read_text() + "\nlines.linewidth: 3\n")
    assert stale(make(root)) == {"compare"}


def test_what_runs_when_a_file_is_imported_counts_where_anything_of_it_does(scratch, template):
    text = (scratch / "kr_utils/sampling.py").read_text()
    changed = f"{text}\ntorch.set_flush_denormal(True)\n"
    assert with_change(scratch, "sampling", changed, template)[0] == FROM["generator"]


def test_a_name_is_followed_by_the_rules_of_scopes():
    """A local name hides a definition; a default, a decorator, an annotation and a nested function do not."""
    source = """
from kr_utils import metrics
from kr_utils.data import Split as Part
import numpy as np

K = 3

def helper(x=K):
    return x

def local(helper):
    return [metrics for metrics in helper]

def nested():
    def inner():
        return metrics.wilson(1, 2)
    return inner

def told(part: Part) -> None:
    np.zeros(1)

def whole():
    return metrics
"""
    file = code._parse(source)
    reads = {name: {read for read, _ in found} - {"x"} for name, found in file.loads.items()}
    assert reads["helper"] == {"K"}
    assert reads["local"] == set()
    assert reads["nested"] == {"metrics"}
    assert ("metrics", "wilson") in file.loads["nested"]
    assert reads["told"] == {"Part", "np"}
    assert code._reached("from kr_utils import metrics\nuse(metrics)", code._method()).keys() >= {"metrics"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_changed_notebook_reruns_itself_and_what_is_made_from_it(stage, copy, root):
    for tag in ("parameters", "exercise"):
        edit_cell(copy, stage, tag, "extra: int = 1")
    assert stale(make(root)) == set()
    edit_cell(copy, stage, None, "extra = 1")
    jobs = make(root)
    assert stale(jobs) == FROM[stage]
    assert all("the notebook's code changed" in job.reason for job in jobs if stages.kind(job.stage) == stage)


def test_a_cell_that_draws_does_not_retrain(copy, root):
    for stage in STAGES[:-1]:
        edit_cell(copy, stage, "figure", "extra = 1")
    assert stale(make(root)) == set()


def test_a_notebook_with_a_typo_is_named(copy):
    edit_cell(copy, "teacher", None, "x = = 1")
    with pytest.raises(InputError, match=r"01_teacher\.ipynb: not valid Python"):
        code.code_hashes("teacher")


def cells(stage):
    """(tags, parsed code) of a notebook's code cells."""
    path = stages.NOTEBOOKS / f"{stages.notebook(stage)}.ipynb"
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


def test_every_import_is_one_that_is_followed():
    """`from kr_utils import x` and `from kr_utils.x import y`, each name for one thing; nothing else brings code in."""
    trees = {name: ast.parse(text) for name, text in code._method() if name != code.STYLE}
    trees |= {f"{stage} {k}": tree for stage in STAGES for k, (_, tree) in enumerate(cells(stage))}
    for name, tree in trees.items():
        meaning = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert not any(name.split(".")[0] in ("kr_utils", "importlib", "run_all") for name in names), names
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, "no relative imports"
                assert node.module.split(".")[0] not in ("importlib", "run_all"), name
                for alias in node.names:
                    assert alias.name != "*", name
                    one = (node.module, alias.name)
                    assert meaning.setdefault(alias.asname or alias.name, one) == one, f"{name}: two {alias.name}"


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
        ("shadow.queries=3", "queries 2 -> 3"),
        ("audit.draws=50", "draws 100 -> 50"),
        ("compare.examples=2", "examples 6 -> 2"),
    ],
)
def test_a_parameter_reruns_exactly_what_depends_on_it(setting, reason, root):
    overrides = plan.parse_settings([setting], "smoke")
    jobs = make(root, overrides=overrides)
    stage = setting.split(".")[0]
    assert stale(jobs) == FROM[stage]
    assert {job.reason for job in jobs if stages.kind(job.stage) == stage} == {reason}
    for job in jobs:
        if stages.kind(job.stage) in FROM[stage] - {stage, "compare"}:
            assert " new" in job.reason, "and it says through which stage"


def test_the_same_value_given_again_reruns_nothing(root):
    overrides = plan.parse_settings(["teacher.epochs=2", "tuning.guidance=1,2.0"], "smoke")
    assert stale(make(root, overrides=overrides)) == set()


def test_another_seed_or_dataset_leaves_the_first_alone(root):
    more = make(root, seeds=(0, 1))
    usual = {(stage, 1) for stage in stages.USUAL if stage != "compare"}
    assert {(job.stage, job.seed) for job in more if not job.reuse} == usual | {("compare", 0)}, "one seed is audited"
    more = make(root, datasets=("digits", "breastmnist"))
    assert {job.dataset for job in more if not job.reuse} == {"breastmnist", ""}


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_a_stage_made_again_with_other_bytes_makes_all_below_it_stale(stage, root):
    """The very same recipe on another number of threads, say: what was made from the old bytes does not stand."""
    job = next(job for job in make(root) if stages.kind(job.stage) == stage)
    pretend_again(job, {"number": 0.5})
    assert stale(make(root)) == FROM[stage] - {stage}
    below = [other for other in make(root) if stages.reads(other.stage, job.stage)]
    assert all(f"{job.stage} is new" in other.reason for other in below)
    pretend_again(job, {"number": 0})
    shown = {"compare"} - ({"compare"} if stage == "shadow" else set())  # which reads no shadow, only its audit
    assert stale(make(root)) == shown, "the old bytes again: what was made from them stands, but for manifests"


def pretend_again(job, results):
    kind, number = stages.kind(job.stage), job.parameters.get("number")
    budget = profiles.budget(kind, "smoke", job.parameters["overrides"])
    where = {"dataset": job.dataset, "profile": "smoke", "seed": job.seed, "checksum": "c", "number": number}
    opened = runs.begin(kind, budget, runs_dir=job.parameters["runs_dir"], **where)
    for done in opened.upstream.values():
        assert done.metrics
    opened.finish(results)


def test_a_file_that_was_not_read_may_change(root):
    """Identity is over the content that was read: here metrics.json of each stage above, and nothing else."""
    job = next(job for job in make(root) if job.stage == "generator")
    budget = profiles.budget("generator", "smoke")
    opened = runs.begin("generator", budget, dataset="digits", profile="smoke", seed=0, checksum="c", runs_dir=root)
    opened.write_json("another.json", {})
    opened.finish({"number": 0})
    assert stale(make(root)) == {"compare"}, "which reads everything"
    assert job.reuse


def test_a_stage_that_comes_out_as_it_was_spares_those_below_it(root):
    """Planned to run since the Teacher is made again; when their turn comes, the Teacher's bytes are what they were."""
    overrides = plan.parse_settings(["teacher.most_steps=3999"], "smoke")
    jobs = make(root, overrides=overrides)
    assert stale(jobs) == FROM["teacher"]
    pretend(next(job for job in jobs if job.stage == "teacher"))
    again = {job.stage: plan.again(job, jobs) for job in jobs if job.stage != "compare"}
    assert all(job.reuse for job in again.values())
    assert again["tuning"].reason == "what it reads came out as it was"
    forced = make(root, overrides=overrides, force=True)
    assert not any(plan.again(job, forced).reuse for job in forced)


def test_a_run_of_older_code_is_not_compared(copy, root):
    edit_cell(copy, "tuning", None, "extra = 1")
    found, told = runs.find_current(root, "smoke")
    assert found == {}
    assert told == {("digits", 0): "04_tuning: it was made by other code (the notebook's code changed)"}


def test_the_bytes_of_a_data_file_rerun_its_dataset_alone(tmp_path, root, capsys):
    """Through the driver itself: the same pixels compressed otherwise change nothing, one pixel changes everything."""
    shutil.rmtree(root)
    folder, arrays = tmp_path / "data", med_arrays()
    folder.mkdir()
    path, names = own_set(folder, arrays), ("digits", "mine")
    sums = {name: data.check(name, str(folder)) for name in names}
    for job in make(root, names, checksums=sums, figures=tmp_path / "figures"):
        pretend(job, sums.get(job.dataset))

    def plan():
        argv = ["--profile", "smoke", "--datasets", ",".join(names), "--data-root", str(folder), "--dry-run"]
        assert run_all.main(argv) == 0
        return [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:-1]]  # the last is the total

    assert {verb for verb, _ in plan()} == {"reuse"}
    np.savez_compressed(path, **arrays)
    assert {verb for verb, _ in plan()} == {"reuse"}
    arrays["test_images"][0, 0, 0] ^= 1
    np.savez_compressed(path, **arrays)
    for verb, line in plan():
        assert verb == ("reuse" if line.startswith("digits") else "run"), line
        assert line.startswith(("digits", "all runs")) or "the data changed" in line


# ----------------------------------------------------------- the hash itself


@pytest.mark.parametrize("key", ["dataset", "seed", "budget", "checksum"])
def test_every_ingredient_is_noticed_and_named(key):
    base = {"dataset": "digits", "seed": 0, "budget": {"epochs": 2}, "checksum": "a"}
    new = {"dataset": "other", "seed": 1, "budget": {"epochs": 3}, "checksum": "b"}
    old = identity.ingredients("tuning", **base)
    changed = identity.ingredients("tuning", **(base | {key: new[key]}))
    assert identity.fingerprint(old) != identity.fingerprint(changed)
    assert identity.what_changed(old, old) == ""
    words = {"budget": "epochs 2 -> 3", "checksum": "the data changed"}
    assert identity.what_changed(old, changed) == words.get(key, "parameters changed")


def test_fingerprints_do_not_depend_on_tuple_or_list():
    budget = dataclasses.asdict(profiles.budget("tuning", "quick"))
    parts = identity.ingredients("tuning", "digits", 0, budget, "a")
    assert json.loads(json.dumps(parts)) == parts


def test_the_same_code_is_the_same_in_every_version_of_python():
    """3.12 gives definitions a field more, 3.15 imports, and some versions end an f-string with an empty text."""
    here, there = (ast.parse("def f(x: int) -> str:\n    return f'{x!r:>{3}} of ' 'all'\nimport a") for _ in range(2))
    there.body[1].is_lazy = 0
    there.body[1]._fields = (*ast.Import._fields, "is_lazy")
    there.body[0].type_params = []
    there.body[0]._fields = (*ast.FunctionDef._fields, "type_params")
    there.body[0].body[0].value.values.append(ast.Constant(""))
    assert code._form(here) == code._form(there)
    assert code._form(here) == code._form(
        ast.parse('def f( x:int )->str:  # of x\n  return f"{x!r:>{3}} of all"\nimport a')
    )


@pytest.mark.parametrize(
    "line", ["f(x)[0] = 1", "f(x)[1] = None", "f(y)[1] = 1", "f(x, *y)[1] = 1", "f(x)[1] += 1", "f(x)[1] = '1'"]
)
def test_other_code_has_another_form(line):
    assert code._form(ast.parse(line)) != code._form(ast.parse("f(x)[1] = 1"))
