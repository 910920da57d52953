"""The kernel and the manifest are the project's own: the same command gives the same bytes for every user."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from kr_utils import runs, stages
from kr_utils.driver import execute, lab
from kr_utils.runs import machine

ROOT = stages.ROOT


def drive(folder, **environment):
    """Run notebooks 00 and 01 in smoke; their folder."""
    env = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    call = [sys.executable, str(ROOT / "run_all.py"), "--profile", "smoke", "--until", "teacher", "--threads", "1"]
    call += ["--runs-dir", str(folder), "--figures-dir", str(folder / "figures")]
    out = subprocess.run(call, env=env | environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert out.returncode == 0, out.stdout + out.stderr
    return folder / "smoke/digits/seed0"


@pytest.fixture
def user(tmp_path):
    """The environment of somebody who has set up Python for work of another kind; what would run leaves a mark."""
    home, mark = tmp_path / "home", tmp_path / "mark"
    startup = home / ".ipython/profile_default/startup"
    startup.mkdir(parents=True)
    meddle = f"open({str(mark)!r}, 'a').write('ran')\n"
    meddle += "import torch\ntorch.manual_seed = lambda seed: torch.default_generator\n"
    (startup / "00-mine.py").write_text(meddle)
    (home / "start.py").write_text(meddle)
    kernel = home / "jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/bin/sh", "-c", f"echo ran >> {mark}; exit 1"], "display_name": "Mine", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    (home / "matplotlibrc").write_text("figure.figsize: not a size\nsavefig.dpi: 10\n")
    other = home / "other"
    subprocess.run(["git", "init", "-q", str(other)], check=True)
    environment = {
        "HOME": str(home),
        "IPYTHONDIR": str(home / ".ipython"),
        "JUPYTER_PATH": str(home / "jupyter"),
        "JUPYTER_CONFIG_DIR": str(home / "jupyter"),
        "PYTHONSTARTUP": str(home / "start.py"),
        "MPLBACKEND": "svg",
        "MATPLOTLIBRC": str(home / "matplotlibrc"),
        "PYTHONOPTIMIZE": "1",
        "PYTHONHASHSEED": "7",
        "PYTHONWARNINGS": "error",
        "GIT_DIR": str(other / ".git"),
    }
    return environment, mark


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.slow
def test_a_users_own_set_up_changes_nothing(tmp_path, user):
    """Start-up files, kernels, figures' settings, -O and git variables of the user: the bytes are those without."""
    environment, mark = user
    calm, meddled = drive(tmp_path / "calm"), drive(tmp_path / "meddled", **environment)
    assert not mark.exists(), "a start-up file or a foreign kernel ran"
    for name in ("teacher-0.safetensors", "logits.npz", "metrics.json", "history.csv"):
        assert (calm / "01_teacher" / name).read_bytes() == (meddled / "01_teacher" / name).read_bytes(), name
    for stage in ("00_start_here", "01_teacher"):
        ours, theirs = ((folder / stage / "notebook.ipynb").read_text() for folder in (calm, meddled))
        assert ours.count("image/png") == theirs.count("image/png") > 0
        one, other = (runs.read(folder / stage).manifest for folder in (calm, meddled))
        assert one["git_commit"] == other["git_commit"]
        assert one["fingerprint"] == other["fingerprint"]


def test_the_environment_of_a_kernel_is_the_projects(tmp_path, monkeypatch, user):
    for name, value in user[0].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    env = execute.environment(tmp_path, 3)
    assert env["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/somewhere"]
    assert env["OMP_NUM_THREADS"] == "3"
    for name in ("PYTHONOPTIMIZE", "PYTHONSTARTUP", "PYTHONWARNINGS", "JUPYTER_PATH"):
        assert name not in env
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        assert env[name].startswith(str(tmp_path)), name
    assert env["MPLBACKEND"].endswith("backend_inline")
    assert os.path.isfile(env["MATPLOTLIBRC"])


COMPILED = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def _loose(home):
    _made(home / ".cache/knowledge-recycling/inductor").chmod(0o777)


def _linked(home):
    (_made(home / ".cache/knowledge-recycling") / "inductor").symlink_to(_made(home.parent / "elsewhere"))


HOMES = {
    "empty": (lambda home: None, True),
    "a folder that all may write": (_loose, True),
    "a link": (_linked, False),
    "a file in the way": (lambda home: (home / ".cache").write_text(""), False),
    "no home": (lambda home: home.rmdir() or home.write_text(""), False),
}


@pytest.mark.parametrize("case", HOMES)
def test_compiled_code_is_kept_where_nobody_else_may_look(case, tmp_path, monkeypatch):
    prepare, at_home = HOMES[case]
    home, private = _made(tmp_path / "home"), _made(tmp_path / "private")
    prepare(home)
    monkeypatch.setenv("HOME", str(home))
    for name in COMPILED:
        monkeypatch.delenv(name, raising=False)
    env = execute.environment(private, None)
    folder = (home / ".cache/knowledge-recycling" if at_home else private) / "inductor"
    assert [env[name] for name in COMPILED] == [str(folder), str(folder / "triton")]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("own", [COMPILED, COMPILED[:1], COMPILED[1:]])
def test_a_place_for_compiled_code_that_the_user_named_stays(own, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in COMPILED:
        monkeypatch.setenv(name, "/of/mine" if name in own else "")
    env = execute.environment(tmp_path, None)
    assert [name for name in COMPILED if env[name] == "/of/mine"] == list(own)


def test_jupyterlab_hands_the_same_on_and_keeps_the_users_settings(monkeypatch, user):
    for name, value in user[0].items():
        monkeypatch.setenv(name, value)
    env = lab.environment()
    for name in ("PYTHONOPTIMIZE", "PYTHONSTARTUP", "PYTHONWARNINGS", "JUPYTER_PATH"):
        assert name not in env
    assert env["JUPYTER_CONFIG_DIR"] == user[0]["JUPYTER_CONFIG_DIR"]
    assert env["IPYTHONDIR"].startswith(str(ROOT))
    assert env["JUPYTER_PREFER_ENV_PATH"] == "1"


def test_a_kernel_without_asserts_opens_no_stage():
    """JupyterLab under PYTHONOPTIMIZE: every check would be gone."""
    code = "from kr_utils import profiles, runs\nruns.begin('teacher', profiles.budget('teacher', 'smoke'), "
    code += "dataset='digits', profile='smoke', seed=0, checksum='c')"
    out = subprocess.run([sys.executable, "-O", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "asserts are switched off" in out.stderr.splitlines()[-1]


def test_the_commit_is_that_of_this_repository_or_none(tmp_path, monkeypatch):
    def git(*words, cwd):
        call = ["git", "-c", "user.name=x", "-c", "user.email=x@y", *words]
        return subprocess.run(call, cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()

    home = _made(tmp_path / "outer/inner/kr_utils").parent
    (home / "kr_utils/stages.py").write_text("")
    _made(home / "notebooks")
    monkeypatch.setattr(machine, "ROOT", home)
    assert machine.git_commit() is None, "no repository at all"

    git("init", "-q", cwd=home.parent)
    git("add", "inner/kr_utils", cwd=home.parent)
    git("commit", "-q", "-m", "x", cwd=home.parent)
    assert machine.git_commit() is None, "a copy inside another repository"
    monkeypatch.setenv("GIT_DIR", str(home.parent / ".git"))
    assert machine.git_commit() is None, "a variable that names another repository"

    monkeypatch.delenv("GIT_DIR")
    git("init", "-q", cwd=home)
    git("commit", "-q", "--allow-empty", "-m", "x", cwd=home)
    assert machine.git_commit() is None, "a repository that does not hold this code"
    git("add", "kr_utils", cwd=home)
    git("commit", "-q", "-m", "y", cwd=home)
    assert machine.git_commit() == git("rev-parse", "HEAD", cwd=home)
    (home / "kr_utils/stages.py").write_text("changed")
    assert machine.git_commit().endswith("+changes")


@pytest.mark.parametrize(("folder", "transport"), [("k", "ipc"), ("k" * 90, "tcp")])
def test_a_kernel_talks_through_a_folder_of_its_own_where_the_path_is_short_enough(folder, transport):
    """Of twenty that start at once two would take one port."""
    with tempfile.TemporaryDirectory() as place:
        private = _made(Path(place) / folder)
        manager = execute._kernel_class(private, 1, "test")()

        async def listening() -> list:
            await manager.start_kernel()
            client = manager.client()
            client.start_channels()
            try:
                await client.wait_for_ready(timeout=60)
                process = psutil.Process(manager.provisioner.pid)
                return [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            finally:
                client.stop_channels()
                await manager.shutdown_kernel(now=True)

        ports = asyncio.run(listening())
    assert manager.transport == transport
    assert (len(ports) >= 5) == (transport == "tcp")
    assert len(ports) <= 1 or transport == "tcp", "none but the debugger's, which looks for another where one is taken"
