"""No pickle, parameters as data, nothing written elsewhere; and what a real process does when the disk is full."""

import ast
import getpass
import json
import os
import resource
import shutil
import socket
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from conftest import assert_no_pickle_inside, med_arrays, own_set
from hypothesis import example, given
from hypothesis import strategies as st
from papermill.translators import PythonTranslator

from kr_utils import profiles, runs, stages
from kr_utils.driver import execute, plan
from kr_utils.runs import copies

ROOT = stages.ROOT
PICKLING = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "pickletools"}
CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "torch.jit.load", "os.system", "os.popen"}


def sources():
    """(name, parsed code) of everything that runs: modules, driver, benchmarks, every cell of every notebook."""
    for path in [ROOT / "run_all.py", *sorted(ROOT.glob("kr_utils/**/*.py")), *sorted(ROOT.glob("benchmarks/*.py"))]:
        yield path.name, ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for number, cell in enumerate(nbformat.read(path, as_version=4)["cells"]):
            if cell["cell_type"] == "code":
                yield f"{path.name}, cell {number}", ast.parse(cell["source"])


def wrong(tree):
    """What in this code could unpickle, or run a text as code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in PICKLING)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLING:
            yield node.module
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in CALLS or called.endswith(("read_pickle", "to_pickle")) or given.get("shell") == "True":
                yield called
            if called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
                yield f"{called} without allow_pickle=False"
            if called in ("np.save", "np.savez"):
                yield f"{called}: runs.Stage.write_npz refuses objects"


def test_no_code_pickles_or_runs_a_text():
    seen = list(sources())
    assert len(seen) > 100
    found = {name: bad for name, tree in seen if (bad := list(wrong(tree)))}
    # What a process and the workers that it started send each other, as multiprocessing does it: nothing from outside
    assert found == {"beside.py": ["pickle"]}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "pd.read_pickle(path)",
        "subprocess.run(text, shell=True)",
        "np.savez(path, a=a)",
    ],
)
def test_the_walk_finds_what_it_looks_for(code):
    assert list(wrong(ast.parse(code)))


def test_only_npz_of_numbers_can_be_written():
    budget = profiles.budget("teacher", "smoke")
    opened = runs.begin("teacher", budget, dataset="digits", profile="smoke", seed=0, checksum="c")
    with pytest.raises(TypeError, match="more holds Python objects"):
        opened.write_npz("a.npz", numbers=[1.0, 2.0], more=[None, {}])
    assert not [path for path in opened.folder.iterdir() if path.is_file()]


def test_the_walk_of_artefacts_finds_a_pickle(tmp_path):
    (tmp_path / "fine.json").write_text("{}")
    assert_no_pickle_inside(tmp_path)
    np.savez(tmp_path / "bad.npz", a=np.array([None]))
    with pytest.raises(ValueError, match="pickle"):
        assert_no_pickle_inside(tmp_path)


# --------------------------------------------------------- parameters as data

HOSTILE = [
    "\"); import os; os.system('touch hacked'); (\"",
    "'''\nimport os\n'''",
    '"""\nimport os\n"""',
    "__import__('os').system('touch hacked')",
    "${HOME} $(touch hacked) `touch hacked` %HOME% {profile} {{x}}",
    "\\",
    '\\\\"',
    "a\r\nb\u2028c\x85d",
    "# comment\n!touch hacked\n%run hacked",
]


def hostile_examples(test):
    for text in HOSTILE:
        test = example(text)(test)
    return test


@hostile_examples
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_text_reaches_a_notebook_as_the_literal_it_is(text):
    """What papermill writes into the parameters cell parses to assignments of literals, with the same values."""
    parameters = {
        "data_root": text,
        "runs_dir": text,
        "figures_dir": text,
        "overrides": {"balance": text, text: [text]},
    }
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PythonTranslator.codify(parameters))])
    stored = nbformat.reads(nbformat.writes(notebook), as_version=4)  # as it lies on disk
    assert injected(stored["cells"][0]) == parameters


def injected(cell):
    """The values of a parameters cell, which must be nothing but assignments of literals."""
    body = ast.parse("".join(cell["source"])).body
    assert all(isinstance(node, ast.Assign) for node in body)
    return {node.targets[0].id: ast.literal_eval(node.value) for node in body}


@pytest.mark.slow
def test_hostile_parameters_reach_a_real_notebook_as_data(tmp_path, monkeypatch):
    """10 gets runs and figures folder; with nothing to compare it stops at its own line, the parameters long set."""
    monkeypatch.setattr(copies, "clean", lambda text, names: text)  # which would put names in the folders' place
    figures = tmp_path / HOSTILE[0]
    job = plan.plan("smoke", [], [], {}, overrides={}, root=tmp_path / HOSTILE[3], figures=figures)[0]
    with pytest.raises(execute.StageFailed) as error:
        execute.execute(job)
    assert "InputError: no finished run of profile smoke" in str(error.value)
    assert "\n" not in str(error.value)
    cells = json.loads(job.folder.with_name("10_compare.failed.ipynb").read_text())["cells"]
    values = injected(next(cell for cell in cells if "injected-parameters" in cell["metadata"].get("tags", [])))
    assert values["figures_dir"] == str(figures)
    assert values["runs_dir"] == str(tmp_path / HOSTILE[3])
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    shown = [o["traceback"] for o in outputs if o["output_type"] == "error" and o["ename"] == "InputError"]
    assert shown == [["InputError: no finished run of profile smoke: run `python run_all.py --profile smoke` first"]], (
        "JupyterLab shows the line and nothing else"
    )
    assert not list(tmp_path.rglob("hacked"))
    assert not (stages.NOTEBOOKS / "hacked").exists()


# ------------------------------------------------------------ real processes

# What others write at their first import: matplotlib its fonts, IPython and Jupyter an empty profile and the kernel's
# connection file, medmnist an empty folder. Python's own __pycache__ lies beside the code.
TOOLS = {"__pycache__", ".git", ".pytest_cache", ".ruff_cache", ".hypothesis", ".venv"}
CACHES = {".cache", ".config", ".ipython", ".local", ".medmnist"}


def listing(folder, leave=()):
    """Paths below a folder, files with size and time, without those of which a part is in `leave`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not set(path.relative_to(folder).parts) & set(leave):
            stat = path.lstat()
            found[str(path.relative_to(folder))] = (stat.st_size, stat.st_mtime_ns) if path.is_file() else None
    return found


class Ran:
    """A smoke run of 00 and 01 on a small file, by a real process, all of whose folders have hostile names."""

    def __init__(self, folder):
        self.folder = folder
        self.data, self.runs = folder / "data '$(touch hacked)' ${HOME}", folder / HOSTILE[0]
        self.figures = folder / "figures\\'''\"\"\" # __import__('os').system('touch hacked')"
        self.home, self.cwd, self.temporary = folder / "home", folder / "cwd", folder / "temporary"
        for path in (self.data, self.home, self.cwd, self.temporary):
            path.mkdir()
        own_set(self.data, med_arrays(n=(64, 32, 32)))
        self.out, place = folder / "out", self.stage("00_start_here").parent
        for path in (self.out / "state", place):
            path.mkdir(parents=True)
        for name in ("metrics.json", "examples.npz", "x.tmp", "state/x.safetensors", "copy"):
            (self.out / name).write_text("of somebody else")
        (place / "00_start_here.partial").symlink_to(self.out)
        (place / "00_start_here.failed.ipynb").symlink_to(self.out / "copy")
        (place / "01_teacher").symlink_to(self.out)
        os.mkfifo(place / "01_teacher.failed.ipynb")
        os.mkfifo(place / ".driver.json")
        self.outside = listing(self.out)
        self.repository = listing(ROOT, TOOLS)
        self.first = self.run(self.call())

    def call(self, *more, runs_dir=None):
        options = {"--data-root": self.data, "--runs-dir": runs_dir or self.runs, "--figures-dir": self.figures}
        words = ["--profile", "smoke", "--datasets", "mine", "--until", "teacher"]
        words += [str(word) for pair in options.items() for word in pair]
        return [sys.executable, str(ROOT / "run_all.py"), *words, *more]

    def run(self, call, more=None, **options):
        env = {key: value for key, value in os.environ.items() if not key.startswith(("KR_", "XDG_", "MPL"))}
        env |= {"HOME": str(self.home), "TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT), **(more or {})}
        return subprocess.run(call, env=env, cwd=self.cwd, capture_output=True, text=True, timeout=600, **options)

    def stage(self, name):
        return self.runs / "smoke/mine/seed0" / name


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return Ran(tmp_path_factory.mktemp("ran"))


@pytest.mark.slow
def test_hostile_folder_names_are_names_and_nothing_is_written_elsewhere(ran):
    assert ran.first.returncode == 0, ran.first.stderr
    assert runs.read(ran.stage("01_teacher"))
    assert_no_pickle_inside(ran.runs)
    assert not list(ran.folder.rglob("hacked"))
    assert listing(ROOT, TOOLS) == ran.repository, "the repository is as it was"
    assert list(listing(ran.cwd)) == []
    assert list(listing(ran.data)) == ["mine.json", "mine.npz"]
    assert {path.name for path in ran.home.iterdir()} <= CACHES
    assert not [p for p in ran.temporary.rglob("*") if p.is_file()], "nothing is left among temporary files"
    assert {path.name for path in ran.runs.iterdir()} == {"smoke"}
    assert listing(ran.out) == ran.outside, "links and pipes that lay in the way led nowhere"
    assert not [path for path in ran.runs.rglob("*") if path.is_symlink() or path.is_fifo()]


@pytest.mark.slow
def test_nothing_that_a_run_leaves_tells_where_or_by_whom_it_was_made(ran):
    secrets = {
        str(ran.folder),
        str(ROOT),
        str(ran.home),
        sys.prefix,
        f"/home/{getpass.getuser()}",
        socket.gethostname(),
    }
    forms = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1]) if len(form) > 3}
    left = {path: path.read_bytes().decode(errors="ignore") for path in ran.runs.rglob("*") if path.is_file()}
    assert {"notebook.ipynb", "manifest.json", "history.csv", "teacher-0.safetensors"} <= {path.name for path in left}
    assert {(path.name, form) for path, text in left.items() for form in forms if form in text} == set()
    copy = json.loads((ran.stage("01_teacher") / "notebook.ipynb").read_text())
    assert copy["metadata"]["papermill"]["parameters"]["runs_dir"] == "<runs>"
    assert copies.told(runs.read(ran.stage("01_teacher"))) == ""


@pytest.mark.slow
def test_damaged_weights_are_made_again_with_the_same_bytes(ran):
    weights = ran.stage("01_teacher") / "teacher-0.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    again = ran.run(ran.call())
    assert again.returncode == 0, again.stderr
    assert "00_start_here  reused" in again.stdout
    assert "01_teacher  (its files are incomplete, damaged or of another version" in again.stdout
    assert weights.read_bytes() == good


@pytest.mark.slow
def test_a_disk_that_fills_up_in_a_stage_is_one_line_and_harms_no_result(ran, tmp_path):
    """A real tiny file system where mounting is permitted, else a limit on the size of files."""
    mount, after, room = tmp_path / "mount", tmp_path / "after", 40_000
    mount.mkdir()
    old, more = listing(ran.runs), ("--set", "teacher.epochs=3")
    script = """
        mount -t tmpfs -o size=$SIZE tmpfs "$MOUNT" && cp -a "$RUNS/." "$MOUNT" || exit 99
        "$@"; code=$?
        cp -a "$MOUNT" "$AFTER"; exit $code
    """
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in ran.runs.rglob("*") if path.is_file()) + room
    env = {"MOUNT": str(mount), "RUNS": str(ran.runs), "AFTER": str(after), "SIZE": str(size)}
    mountable = (
        shutil.which("unshare") and not subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode
    )
    if mountable:
        out = ran.run(["unshare", "-rm", "sh", "-c", script, "sh", *ran.call(*more, runs_dir=mount)], env)
    if not mountable or out.returncode == 99:
        shutil.copytree(ran.runs, after)
        out = ran.run(
            ran.call(*more, runs_dir=after),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        )
    assert out.returncode == 1, out.stderr
    lines = out.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("failed: mine seed 0  01_teacher: ")
    assert "No space left" in lines[0] or "File too large" in lines[0]
    left = listing(after)
    assert {name: left.get(name) for name in old} == old, "every old file is there, unchanged"
    assert runs.read(after / "smoke/mine/seed0/01_teacher").manifest["ingredients"]["budget"]["epochs"] == 2
