"""The house rules that a machine can check: floors, notebooks, pins, README."""

import ast
import itertools
import json
import re
import shlex
import subprocess

import pytest
import yaml

import run_all
from kr_utils import fingerprints, profiles

ROOT = fingerprints.ROOT
MODULES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "kr_utils").glob("*.py"))}
NOTEBOOKS = {
    path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}

# What each module may import from kr_utils, directly: data flows upwards only.
FLOORS = {
    "__init__": set(),
    "profiles": set(),
    "seeds": set(),
    "validation": set(),
    "metrics": set(),
    "tables": {"metrics"},
    "fingerprints": set(),
    "paths": {"fingerprints"},
    "stamps": set(),
    "folders": set(),
    "resume": set(),
    "data": {"paths", "validation"},
    "runs": {"fingerprints", "folders", "locks", "paths", "resume", "stamps"},
    "locks": set(),
    "plots": {"metrics"},
    "precision": set(),
    "classifier": {"data", "precision", "resume"},
    "together": {"classifier", "data", "precision"},
    "generator": {"data", "precision", "resume"},
    "consistency": {"generator"},
    "sampling": {"consistency", "generator"},
    "recycling": {"classifier", "data", "generator", "resume", "sampling"},
    "selection": {"classifier", "data", "generator", "recycling", "resume", "sampling", "seeds", "together"},
    "attacks": {"classifier", "metrics"},
    "explore": {"attacks", "generator", "plots", "sampling"},
    "workflow": {"fingerprints", "folders", "profiles", "runs"},
    "spread": {"fingerprints", "workflow"},
    "cluster": {"fingerprints", "workflow"},
    "reporting": {"fingerprints", "locks", "runs", "workflow"},
}


def test_nothing_imports_upwards():
    assert set(MODULES) == set(FLOORS)
    for name, code in MODULES.items():
        found = fingerprints._imports(code) - {"InputError", "__version__"}
        assert found <= FLOORS[name], f"{name}.py imports {found - FLOORS[name]}"


def imported_packages(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_diffusers_stays_in_one_file_and_torch_out_of_the_driver():
    for name, code in MODULES.items():
        assert "diffusers" not in set(imported_packages(code)) or name == "generator", name
    light = ("workflow", "profiles", "runs", "locks", "spread", "cluster", "reporting")
    for code in (*(MODULES[name] for name in light), (ROOT / "run_all.py").read_text()):
        assert not {"torch", "diffusers"} & set(imported_packages(code))


def test_dask_is_imported_by_one_file_and_only_where_it_is_used():
    for name, code in MODULES.items():
        assert not {"dask", "distributed"} & set(imported_packages(code)) or name == "cluster", name
    top = [n for n in ast.parse(MODULES["cluster"]).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert not {"dask", "distributed"} & set(imported_packages("\n".join(map(ast.unparse, top))))


def test_files_are_short():
    for name, code in MODULES.items():
        assert len(code.splitlines()) <= 300, name
    assert len((ROOT / "run_all.py").read_text().splitlines()) <= 200


def test_importing_the_package_costs_nothing():
    code = "import sys; import kr_utils; print([m for m in ('numpy', 'torch', 'matplotlib') if m in sys.modules])"
    out = subprocess.run([run_all.sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("stage", ["start", "teacher", "compare"])
def test_stages_without_a_generator_do_not_load_diffusers(stage):
    """Its import takes longer than some of these stages; 08 needs no torch either."""
    cells = code_cells(NOTEBOOKS[f"{fingerprints.STAGES[stage][0]}.ipynb"])
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


def test_every_stage_has_its_notebook():
    assert {f"{name}.ipynb" for name, _ in fingerprints.STAGES.values()} == set(NOTEBOOKS)
    assert set(fingerprints.STAGES) == set(profiles.STAGES)


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
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert ("code", "code") not in set(itertools.pairwise(kinds)), "prose before every code cell"
    lengths = sorted(len(source(cell).splitlines()) for cell in cells)
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[-1] <= 30
    prose = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    for heading in ("# ", "**Goals", "| reads |", "| writes |", "| time |", "## Exercise", "## What must be true"):
        assert heading in prose, heading
    assert len([cell for cell in cells if "exercise" in tags(cell)]) >= 2, "an exercise and its check"
    assert "assert " in source(cells[-1])
    assert "stage.finish(" in source(cells[-1]).splitlines()[-1], "only a stage whose asserts held is done"
    for cell in cells:
        assert not re.search(r"^\s*[!%]", source(cell), re.M), "no magics: nbval and papermill hide their errors"
        assert "raises-exception" not in tags(cell)


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


def test_pins_are_exact_and_without_addresses():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line), line


def test_pins_satisfy_the_ranges_of_pyproject():
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(p.lower().split("==") for p in pins((ROOT / "requirements.txt").read_text().splitlines()))
    for text in project["dependencies"] + project["optional-dependencies"]["test"]:
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
            run_all.workflow.parse_settings(args.set, args.profile)
            run_all.whole_numbers(args.seeds)
    assert checked >= 4


def test_readme_links_and_figures_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:\s]+)\)", text):
        assert (ROOT / target).exists(), target


def test_figures_have_alt_text_and_stay_small():
    folder = ROOT / "figures"
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 10e6
    for path in files:
        assert path.stat().st_size < 1e6, path
        if path.suffix == ".png":
            assert path.with_suffix(".txt").read_text().strip(), path
            assert path.with_suffix(".pdf").is_file(), path
