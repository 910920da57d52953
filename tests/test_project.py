"""The house rules that a machine can check: floors, notebooks, pins, README."""

import ast
import importlib
import itertools
import json
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
import yaml

import run_all
from kr_utils import profiles, stages
from kr_utils.runs import code as code_

ROOT = stages.ROOT
PACKAGE = ROOT / "kr_utils"
FILES = {
    str(path.relative_to(PACKAGE).with_suffix("")): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")
}
NOTEBOOKS = {
    path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}

# What each file of kr_utils may import from it: the wings, and within a wing the floors, from the ground upwards.
FLOORS = {
    # the ground: names, folders, budgets, writing
    "__init__": set(),
    "stages": set(),
    "owned": set(),
    "paths": {"stages"},
    "profiles": set(),
    "belief": set(),
    "parameters": {"paths", "stages"},
    # the method
    "seeds": set(),
    "metrics": set(),
    "precision": set(),
    "resume": {"owned"},
    "dataset_file": set(),
    "published": {"dataset_file"},
    "data": {"stages", "paths", "dataset_file", "published"},
    "pictures": {"dataset_file"},
    "own_files": {"dataset_file", "pictures"},
    "own_images": {"data", "dataset_file", "own_files", "paths", "pictures"},
    "resolution": set(),
    "plots": {"metrics", "owned"},
    "results_file": set(),
    "intervals": {"metrics"},
    "audited": {"belief", "evidence", "intervals", "owned", "paths", "profiles", "results_file", "stages"},
    "results": {
        "audited",
        "belief",
        "data",
        "intervals",
        "metrics",
        "owned",
        "paths",
        "profiles",
        "results_file",
    }
    | {"stages"},
    "captured": set(),
    "classifier": {"captured", "data", "metrics", "precision", "resume"},
    "beside": {"classifier", "data", "precision", "resume"},
    "generator": {"captured", "data", "precision", "resume", "resolution"},
    "consistency": {"data", "generator", "resume"},
    "sampling": {"consistency", "generator"},
    "recycling": {"beside", "classifier", "data", "generator", "resume", "sampling"},
    "chosen": {"classifier", "data", "generator", "recycling"},
    "selection": {"beside", "classifier", "data", "generator", "recycling", "resume", "sampling", "seeds"},
    "attacks": {"classifier", "metrics"},
    "licences": set(),
    "releasable": {"belief", "paths", "profiles", "stages"},
    "released": {"data", "dataset_file", "generator", "recycling", "sampling"},
    "bundle": {"classifier", "data", "owned", "pictures", "releasable", "released", "stages"},
    "card": {"belief", "bundle", "data", "licences", "metrics", "owned", "plots", "releasable", "released"},
    "predict": set(),  # copied into each bundle, where it is alone
    "dpsgd": {"classifier", "data", "resume"},
    "shadow": {"audit", "classifier", "data", "dataset_file", "generator", "sampling", "seeds"},
    "evidence": {"attacks", "audit", "metrics", "shadow_attacks"},
    "shadow_attacks": {"metrics"},
    "audit": {"metrics"},
    "speed": {"attacks", "captured", "classifier", "data", "generator", "precision", "sampling"},
    "exercises": set(),
    "panels": {"attacks", "generator", "metrics", "plots", "sampling", "shadow_attacks"},
    # runs/, the store
    "runs/files": {"owned"},
    "runs/progress": set(),
    "runs/machine": {"stages"},
    "runs/code": {"stages"},
    "runs/cells": {"stages", "runs/code"},
    "runs/identity": {"runs/code", "runs/machine"},
    "runs/folders": {"owned"},
    "runs/locks": {"owned"},
    "runs/finished": {"stages", "owned", "paths", "runs/code", "runs/files", "runs/folders", "runs/identity"}
    | {"runs/locks"},
    "runs/copies": {"stages", "owned", "runs/finished", "runs/identity", "runs/locks"},
    "runs/stage": {
        "runs/copies",
        "stages",
        "owned",
        "paths",
        "resume",
        "runs/files",
        "runs/finished",
        "runs/folders",
        "runs/identity",
    }
    | {"parameters", "runs/cells", "runs/copies", "runs/code", "runs/locks", "runs/machine"},
    "runs/__init__": {"owned", "paths", "runs/files", "runs/finished", "runs/machine", "runs/progress", "runs/stage"},
    # driver/, the engine, above all of the store
    "driver/__init__": set(),
    "driver/home": set(),
    "driver/plan": {"stages", "profiles", "runs", "runs/*"},
    "driver/execute": {"stages", "owned", "runs", "runs/*", "driver/plan"},
    "driver/schedule": {"stages", "driver/plan", "driver/execute"},
    "driver/cluster": {"stages", "owned", "runs", "runs/*", "driver/plan", "driver/execute"},
    "driver/report": {"stages", "belief", "runs", "runs/*", "driver/plan"},
    "driver/work": set(),
    "driver/estimate": {"dataset_file", "owned", "profiles", "resolution", "stages", "driver/work"}
    | {"runs/*", "driver/plan", "driver/execute"},
    "driver/lab": {"owned", "paths", "stages", "runs/*", "driver/estimate", "driver/execute", "driver/home"},
    "driver/book": {"audited", "owned", "parameters", "paths", "profiles", "results", "results_file", "stages", "runs"}
    | {"runs/copies"},
    "driver/classroom": {"data", "owned", "paths", "published", "stages", "driver/book"},
    "driver/status": {"data", "stages", "owned", "paths", "runs", "runs/*", "driver/plan", "driver/report"},
    "driver/release": {"stages", "owned", "licences", "profiles", "releasable", "data", "runs", "runs/*", "driver/plan"}
    | {"driver/execute", "driver/report", "driver/schedule"},
    "driver/run": {"runs/*", "driver/plan", "driver/schedule", "driver/cluster", "driver/report", "driver/estimate"},
}


def imports(code):
    """Files of kr_utils, or packages ("runs"), that this code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("kr_utils") for alias in node.names), "from kr_utils import ..."
        if not (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kr_utils"):
            continue
        place = node.module.split(".")[1:]
        for alias in node.names:
            inside = "/".join([*place, alias.name])
            if inside in FILES or f"{inside}/__init__" in FILES:
                found.add(inside)
            elif place:
                found.add("/".join(place))
    return found


def test_nothing_imports_upwards():
    assert set(FILES) == set(FLOORS)
    for name, code in FILES.items():
        allowed = FLOORS[name]
        wings = {pattern[:-1] for pattern in allowed if pattern.endswith("/*")}
        found = {file for file in imports(code) if not any(file.startswith(wing) for wing in wings)}
        assert found <= allowed, f"{name}.py imports {found - allowed}"


def test_no_import_goes_in_a_circle():
    below = {name: {other for other in imports(code) if other in FILES} for name, code in FILES.items()}
    while below:
        ground = {name for name, others in below.items() if not others & set(below)}
        assert ground, f"a circle among {sorted(below)}"
        below = {name: others for name, others in below.items() if name not in ground}


def test_the_method_knows_neither_store_nor_engine():
    method = {name: code for name, code in FILES.items() if "/" not in name}
    for name, code in method.items():
        assert not {file for file in imports(code) if file.split("/")[0] in ("runs", "driver")}, name


def absent(code):
    """What this code names of files of kr_utils that is not there: `from ... import x`, and `file.x`."""
    tree, files = ast.parse(code), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kr_utils":
            for alias in node.names:
                try:
                    files[alias.asname or alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError:
                    if not hasattr(importlib.import_module(node.module), alias.name):
                        yield f"{node.module}.{alias.name}"
    # A name that is used for something else as well cannot be told apart here
    files = {name: file for name, file in files.items() if name not in stored(tree)}
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    for file, name in ((node.value.id, node.attr) for node in reads):
        if file in files and not hasattr(files[file], name):
            yield f"{file}.{name}"


def stored(tree):
    """Names that code gives a meaning other than by import."""
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return assigned | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def test_what_is_named_of_another_file_is_there():
    """In notebooks too, which no linter follows across files."""
    assert [*absent("from kr_utils import seeds, data\nseeds.derived(0)\ndata.load")] == ["seeds.derived"]
    assert [*absent("from kr_utils.runs import code, none")] == ["kr_utils.runs.none"]
    codes = FILES | {name: "\n".join(map(source, code_cells(notebook))) for name, notebook in NOTEBOOKS.items()}
    assert {name: wrong for name, code in codes.items() if (wrong := [*absent(code)])} == {}


METHOD = {name: code for name, code in FILES.items() if "/" not in name and name not in code_.GROUND}


def functions(code):
    """(name, node) of every function and method in it, nested ones too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node


def arguments(function):
    """Names of all its arguments but the object that it is a method of."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [each.arg for each in named if each is not None and each.arg not in ("self", "cls")]


def longest_paragraph(function, code):
    """Lines of its longest paragraph: what stands in its body between blank lines and comments, docstring apart."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    lines = code.splitlines()[body[0].lineno - 1 : function.end_lineno] if body else []
    longest = now = 0
    for line in lines:
        now = now + 1 if line.strip() and not line.strip().startswith("#") else 0
        longest = max(longest, now)
    return longest


def test_no_function_of_the_method_has_more_than_eight_arguments():
    many = {(name, f): len(arguments(node)) for name, code in METHOD.items() for f, node in functions(code)}
    assert {place: count for place, count in many.items() if count > 8} == {}


def test_bodies_have_paragraphs():
    for name, code in {**FILES, "../run_all": (ROOT / "run_all.py").read_text(encoding="utf-8")}.items():
        for f, node in functions(code):
            lines = longest_paragraph(node, code)
            assert lines < 20, f"{name}.py: {lines} lines of {f} without a blank line or a comment"


def test_both_rules_see_what_they_should():
    body = ["'''Says what it does.", "", "In four lines.'''", "1", "", "2", "# why", "3", "4"]
    code = "\n        ".join(["class A:\n    def f(self, a, /, b, *c, d, **e):", *body])
    ((name, node),) = functions(code)
    assert (name, arguments(node), longest_paragraph(node, code)) == ("f", ["a", "b", "d", "c", "e"], 2)


# What a file may call where its constants are made: nothing that changes anything elsewhere.
CONSTANT = {"Path", "dict", "dict.fromkeys", "tuple", "frozenset", "set", "range", "dataclasses.fields", "re.compile"}
STYLE = "style.use(['default', str(Path(__file__).with_name('kr.mplstyle'))])"  # of the figures, in plots.py


def side_effects(code):
    """Statements of a module that are neither definition, import nor constant."""
    tree = ast.parse(code)
    own = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [each for target in targets if target for each in getattr(target, "elts", [target])]
        calls = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
        known = {call for call in calls if call in CONSTANT | own or call.startswith("Path(__file__).")}
        if isinstance(node, (ast.Import, ast.FunctionDef, ast.ClassDef)):
            fine = True
        elif isinstance(node, ast.ImportFrom):
            fine = all(alias.name != "*" for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            fine = calls == known and all(isinstance(each, ast.Name) for each in names)
        elif isinstance(node, ast.If):
            fine = ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'") and not node.orelse
        else:  # an expression: only a docstring
            fine = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not fine:
            yield ast.unparse(node)


def hidden_uses(code):
    """Uses of kr_utils' modules that are not plainly `module.name`: aliases, getattr, assignments, star imports."""
    tree = ast.parse(code)
    modules, bound = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kr_utils":
            inside = node.module.replace("kr_utils", "").strip(".").replace(".", "/")
            for alias in node.names:
                if alias.name == "*" or alias.asname:
                    yield ast.unparse(node)
                if f"{inside}/{alias.name}".strip("/") in FILES or f"{alias.name}/__init__" in FILES:
                    modules.add(alias.name)
        elif isinstance(node, ast.arg):
            bound.append(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.append(node.name)
    plain = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
    yield from (f"{name} is another thing too" for name in bound if name in modules)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in modules and id(node) not in plain:
            yield f"line {node.lineno}: {node.id}"
        if isinstance(node, ast.Attribute) and node.attr == "__dict__" and ast.unparse(node.value) in modules:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Name) and node.id in ("globals", "exec", "eval", "__import__", "importlib"):
            yield f"line {node.lineno}: {node.id}"


def number_cells(notebook):
    """The code of a notebook that can change a number, as one text, without the check of its first cell's values."""
    drawn = {"parameters", "figure", "exercise"}
    every = "\n".join(source(cell) for cell in code_cells(notebook) if not drawn & tags(cell))
    return re.sub(r"(given = )?parameters\.(check|fill)\(globals\(\)\)(\n|$)", "", every)


def test_importing_a_file_of_the_method_does_nothing_but_define():
    for name, code in METHOD.items():
        assert [line for line in side_effects(code) if (name, line) != ("plots", STYLE)] == [], f"{name}.py"


def test_which_code_a_number_comes_from_can_be_read_from_the_text():
    """A stage's identity follows `module.name` from its number cells through the method."""
    for name, code in METHOD.items():
        assert list(hidden_uses(code)) == [], f"{name}.py"
    for name, notebook in NOTEBOOKS.items():
        assert list(hidden_uses(number_cells(notebook))) == [], name


@pytest.mark.parametrize(
    "line",
    [
        "torch.set_num_threads(1)",
        "torch.backends.fast = True",
        "LIMITS['batch'] = 3",
        "SPEED = measure()",
        "A, B = 1, torch.rand(3)",
        "for k in range(3): A = k",
        "if fast(): A = 1",
        "if TYPE_CHECKING:\n    pass\nelse:\n    A = 1",
        "from numpy import *",
        "try:\n    import fast\nexcept ImportError: pass",
    ],
)
def test_side_effects_are_seen(line):
    assert list(side_effects(f"import torch\nA = tuple(range(3))\n{line}")) == [ast.unparse(ast.parse(line))]


@pytest.mark.parametrize(
    "line",
    [
        "getattr(classifier, 'fit')(1)",
        "c = classifier",
        "vars(classifier)['fit']",
        "classifier.__dict__['fit']",
        "classifier.fit = print",
        "classifier = 3",
        "def f(classifier): pass",
        "from kr_utils.classifier import *",
        "from kr_utils import generator as g",
        "globals()['x']",
        "eval('classifier.fit')",
    ],
)
def test_hidden_uses_are_seen(line):
    assert list(hidden_uses("from kr_utils import classifier\nclassifier.fit(1)")) == []
    assert list(hidden_uses(f"from kr_utils import classifier\n{line}"))


def imported_packages(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_diffusers_stays_in_one_file_and_torch_out_of_the_driver():
    for name, code in FILES.items():
        assert "diffusers" not in set(imported_packages(code)) or name == "generator", name
    light = ("stages", "owned", "paths", "profiles", *(name for name in FILES if "/" in name))
    for code in (*(FILES[name] for name in light), (ROOT / "run_all.py").read_text()):
        assert not {"torch", "diffusers"} & set(imported_packages(code))


def test_dask_is_imported_by_one_file_and_only_where_it_is_used():
    for name, code in FILES.items():
        assert not {"dask", "distributed"} & set(imported_packages(code)) or name == "driver/cluster", name
    top = [n for n in ast.parse(FILES["driver/cluster"]).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert not {"dask", "distributed"} & set(imported_packages("\n".join(map(ast.unparse, top))))


def test_importing_the_package_costs_nothing():
    code = "import sys; import kr_utils; print([m for m in ('numpy', 'torch', 'matplotlib') if m in sys.modules])"
    out = subprocess.run([run_all.sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("stage", ["start", "teacher", "compare"])
def test_stages_without_a_generator_do_not_load_diffusers(stage):
    """Its import takes longer than some of these stages; 10 needs no torch either."""
    cells = code_cells(NOTEBOOKS[f"{stages.STAGES[stage][0]}.ipynb"])
    body = [node for cell in cells for node in ast.parse(source(cell)).body]
    lines = [ast.unparse(node) for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    heavy = ("diffusers", "torch") if stage == "compare" else ("diffusers",)
    code = "\n".join([*lines, "import sys", f"print([m for m in {heavy} if m in sys.modules])"])
    out = subprocess.run([run_all.sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "[]", out.stderr


# ------------------------------------------------------------------ notebooks


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return set(cell["metadata"].get("tags", []))


ASIDE = {"few_steps.ipynb"}  # a story beside the pipeline: no stage, stores nothing


def test_every_stage_has_its_notebook():
    assert {f"{name}.ipynb" for name, _ in stages.STAGES.values()} | ASIDE == set(NOTEBOOKS)
    assert set(stages.STAGES) == set(profiles.STAGES)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_rules(name):
    notebook = NOTEBOOKS[name]
    cells = code_cells(notebook)
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells), (
        "clear all outputs before saving (make clear)"
    )
    assert tags(cells[0]) == {"parameters"}
    for line in source(cells[0]).splitlines():
        assert re.fullmatch(r"\w+: (str|int|dict|bool) = [^=#]+  # .+", line), line
    shows = {"figure", "exercise"}
    pairs = [
        b for a, b in itertools.pairwise(notebook["cells"]) if (a["cell_type"], b["cell_type"]) == ("code", "code")
    ]
    assert all(tags(cell) & shows for cell in pairs), "prose before every code cell that is no figure or exercise"
    lengths = sorted(len(source(cell).splitlines()) for cell in cells)
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[-1] <= 30
    prose = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    for heading in ("# ", "**Goals", "| reads |", "| writes |", "| time |"):
        assert heading in prose, heading
    for cell in cells:
        assert not re.search(r"^\s*[!%]", source(cell), re.M), "no magics: nbval and papermill hide their errors"
        assert "raises-exception" not in tags(cell)
    if name in ASIDE:
        return
    assert {"## Exercise", "## What must be true"} <= set(re.findall("(?m)^## .*", prose))
    assert len([cell for cell in cells if "exercise" in tags(cell)]) >= 2, "an exercise and its check"
    assert "assert " in source(cells[-1])
    assert "stage.finish(" in source(cells[-1]).splitlines()[-1], "only a stage whose asserts held is done"


def test_nothing_draws_with_pyplot_whose_open_figures_a_panel_would_leave_in_the_cell_that_runs_beside_it():
    places = [*ROOT.glob("kr_utils/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    drawn = re.compile(r"matplotlib\.pyplot|import pyplot|pylab")
    assert [path.name for path in places if drawn.search(path.read_text())] == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_have_one_preamble_and_no_filler(name):
    notebook = NOTEBOOKS[name]
    cells = code_cells(notebook)
    every = "\n".join(map(source, cells))
    assert every.count("parameters.fill(globals())") == 1
    assert "plt.show()" not in every, "plots.show(figure, alt) gives those who cannot see it a text"
    assert "stage.upstream" not in every, "what earlier stages made comes through `chosen`"
    for cell in notebook["cells"]:
        text = source(cell)
        assert cell["cell_type"] == "code" or text.startswith("#") or len(text.split()) >= 10, f"filler: {text}"
    for cell in cells:
        if "exercise" in tags(cell):
            told = {node.id for node in ast.walk(ast.parse(source(cell))) if isinstance(node, ast.Name)}
            assert not {"truth", "print"} & told, "an exercise is checked by kr_utils.exercises"
    if name not in ASIDE:
        assert ", **given)" in every, "runs.begin gets what parameters.fill returned, retrain among it"
        assert "exercises." in every


def test_linked_notebooks_exist():
    for name, notebook in NOTEBOOKS.items():
        text = "\n".join(source(cell) for cell in notebook["cells"])
        for target in re.findall(r"\]\((\w+\.ipynb)\)", text):
            assert target in NOTEBOOKS, f"{name} links to {target}"


# ---------------------------------------------------------- set-up and README


def pins(lines):
    return {line.split("#")[0].strip() for line in lines if "==" in line}


def test_environment_and_requirements_are_in_step():
    required = (ROOT / "requirements.txt").read_text().splitlines()
    text = (ROOT / "environment.yml").read_text()
    environment = yaml.safe_load(text)
    assert environment["channels"] == ["conda-forge"]
    assert set(environment["dependencies"][-1]["pip"]) == pins(required)
    for line in text.splitlines():
        if line.strip().startswith("- ") and not line.strip().endswith(":"):
            assert "# " in line, f"says why it is there: {line}"


def test_each_package_is_pinned_once():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    for lines in ((ROOT / "requirements.txt").read_text().splitlines(), listed):
        names = [line.split("==")[0].lower() for line in lines if "==" in line]
        assert sorted(names) == sorted(set(names))


def test_pins_are_exact_and_without_addresses():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line), line


def test_pins_satisfy_the_ranges_of_pyproject():
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(p.lower().split("==") for p in pins((ROOT / "requirements.txt").read_text().splitlines()))
    optional = [text for group in project["optional-dependencies"].values() for text in group]
    for text in project["dependencies"] + optional:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), text


def readme_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.S):
        yield from (line.split("  #")[0].strip() for line in block.splitlines() if line.strip() and line[0] != "#")


def test_readme_commands_parse():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    seen = list(readme_commands())
    assert {"make figures", "make test"} <= set(seen)
    checked = 0
    for command in seen:
        words = [w for w in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", w)]
        if words[0] == "make":
            assert words[1] in targets, command
        elif words[0].endswith("python") and words[1] == "run_all.py":
            checked += 1
            args = run_all.parser().parse_args(words[2:])
            run_all.plan.parse_settings(args.set, args.profile)
            run_all.whole_numbers(args.seeds)
    assert checked >= 4


PAGES = [ROOT / "README.md", ROOT / "figures/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_figures_exist(page):
    for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1500


def test_intervals_that_are_told_are_those_of_the_tables_and_the_audits():
    """In README, docs/privacy.md and the reading, up to what it says of the first version."""
    number = r"[-+]?\d+\.\d+"
    interval = re.compile(rf"({number})\s(?:points\s)?\[({number}), ({number})\]")
    readme, figures, privacy = (ROOT / f"{name}.md" for name in ("README", "figures/README", "docs/privacy"))
    _, tables, reading = re.split("<!-- /?results -->", figures.read_text(encoding="utf-8"))
    reading = reading.partition("### The first version")[0]

    def known(*ends: float, digits: int) -> set[tuple[str, ...]]:
        """A value with its interval as it is, and the other way round: "0.05 less"."""
        value, low, high = (0.0 if round(end, digits) == 0 else end for end in ends)
        ways = ((value, low, high), (-value, -high, -low))
        return {tuple(f"{each + 0.0:.{digits}f}" for each in way) for way in ways}

    def of(audit: dict | list) -> Iterator[tuple[float, float, float]]:
        for key, value in audit.items() if isinstance(audit, dict) else enumerate(audit):
            if isinstance(value, dict | list):
                yield from of(value)
            elif f"{key}_low" in audit and value is not None:
                yield value, audit[f"{key}_low"], audit[f"{key}_high"]

    right = set()
    for found in interval.finditer(tables):
        right |= known(*map(float, found.groups()), digits=len(found[1].partition(".")[2]))
    for path in ROOT.glob("figures/published/*/audit-*.json"):
        for found in of(json.loads(path.read_text())):
            right |= known(*found, digits=3) | known(*(100 * each for each in found), digits=1)

    for name, text in (("README", readme.read_text()), ("the reading", reading), ("privacy", privacy.read_text())):
        told = [tuple(each.lstrip("+") for each in found.groups()) for found in interval.finditer(text)]
        assert len(told) >= 3, name
        assert [each for each in told if each not in right] == [], name


def test_figures_have_alt_text_and_stay_small():
    folder = ROOT / "figures"
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 10e6
    for path in files:
        assert path.stat().st_size < 1e6, path
        if path.suffix == ".png":
            assert path.with_suffix(".txt").read_text().strip(), path
            assert path.with_suffix(".pdf").is_file(), path
