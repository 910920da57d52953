"""`make lab` before JupyterLab answers: its environment, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kr_utils import stages
from kr_utils.driver import execute, lab

PLACES = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
ASKED = "from pathlib import Path; from jupyter_core import paths; from matplotlib import get_cachedir as cache; "
ASKED += "print(paths.jupyter_runtime_dir(), paths.jupyter_config_dir(), paths.jupyter_data_dir(), cache()); "
ASKED += "print(Path.home())"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The project in a folder of the test's own, as far as the environment looks at it."""
    (tmp_path / "project").mkdir()
    monkeypatch.setattr(stages, "ROOT", tmp_path / "project")
    monkeypatch.delenv("KR_DATA", raising=False)
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "project"


def no_home(kind, tmp_path, monkeypatch):
    """HOME is what nobody, root neither, can write into."""
    (tmp_path / "file").write_text("")
    bad = {"a file": tmp_path / "file", "below a file": tmp_path / "file/home", "not there": "/proc/nothing"}[kind]
    monkeypatch.setenv("HOME", str(bad))
    monkeypatch.setenv("XDG_CACHE_HOME", f"{bad}/.cache")
    monkeypatch.setenv("XDG_DATA_HOME", f"{bad}/.local/share")


@pytest.mark.parametrize("kind", ["a file", "below a file", "not there"])
def test_without_a_home_that_can_be_written_everything_is_kept_in_the_project_s_cache(
    kind, project, tmp_path, monkeypatch
):
    no_home(kind, tmp_path, monkeypatch)
    env = lab.environment()
    told = subprocess.run([sys.executable, "-c", ASKED], env=env, capture_output=True, text=True, check=True).stdout
    private = project / ".cache/home"
    assert len(told.split()) == 5
    for place in told.split():
        assert Path(place).is_relative_to(private)
        os.makedirs(place, exist_ok=True)
    assert private.stat().st_mode & 0o777 == 0o700, "the server's token lies there"


def test_a_project_that_cannot_be_written_either_gets_a_temporary_home(project, tmp_path, monkeypatch):
    no_home("a file", tmp_path, monkeypatch)
    (project / ".cache").write_text("")
    env = lab.environment()
    private = Path(env["HOME"])
    assert private.name.startswith("kr-home-")
    assert Path(env["JUPYTER_RUNTIME_DIR"]).is_relative_to(private)


def test_data_files_of_a_home_that_may_only_be_read_are_still_found(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = tmp_path / ".cache/knowledge-recycling"
    data.mkdir(parents=True)
    monkeypatch.setattr(lab.home, "writable", lambda folder=None: folder is not None)
    assert lab.environment()["KR_DATA"] == str(data)
    monkeypatch.setenv("KR_DATA", "elsewhere")
    assert lab.environment()["KR_DATA"] == "elsewhere"


def test_a_home_that_can_be_written_keeps_the_user_s_settings(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", "/mine")
    env = lab.environment()
    assert (env["HOME"], env["JUPYTER_CONFIG_DIR"]) == (str(tmp_path), "/mine")
    assert "JUPYTER_RUNTIME_DIR" not in env
    assert env["JUPYTER_PREFER_ENV_PATH"] == "1"


def test_what_cannot_be_done_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("JupyterLab was started"))
    monkeypatch.setenv("KR_RUNS", "/dev/null")
    assert lab.main([]) == 2
    assert capsys.readouterr().err == "error: /dev/null: not a folder; move it away\n"


def test_the_environment_is_that_of_the_driver_s_kernels_otherwise(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", "/mine")
    env, kernel = lab.environment(), execute.environment(project / ".cache", None)
    assert {key: value for key, value in kernel.items() if key not in PLACES}.items() <= env.items()
    assert "PYTHONSTARTUP" not in env
