"""What surrounds the driver: a container's share of the processor, a pipe, a terminal, the folder's name."""

import os
import shlex
import shutil
import subprocess

import pytest
from conftest import ROOT, call, environment, kernels, wait_for

from kr_utils.runs import machine

# ------------------------------------------------------------------ cores


def tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V1 = "sys/fs/cgroup/cpu,cpuacct"
GROUPS = {
    "no control groups": ({}, None),
    "version 2, a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "half a core more is a core": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "less than a core": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
    "no limit": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None),
    "the group above is narrower": (
        {
            "proc/self/cgroup": "0::/slice/job\n",
            "sys/fs/cgroup/slice/job/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/slice/cpu.max": "300000 100000\n",
        },
        3,
    ),
    "the host's path, seen from inside": (
        {"proc/self/cgroup": "0::/docker/0123\n", "sys/fs/cgroup/cpu.max": "100000 50000\n"},
        2,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/job\n0::/\n",
            f"{V1}/job/cpu.cfs_quota_us": "50000\n",
            f"{V1}/job/cpu.cfs_period_us": "25000\n",
        },
        2,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/\n",
            f"{V1}/cpu.cfs_quota_us": "-1\n",
            f"{V1}/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "nonsense": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_quota_of_a_container_counts(name, tmp_path):
    files, cores = GROUPS[name]
    tree(tmp_path, files)
    assert machine.quota(tmp_path) == cores


def test_the_fewest_of_quota_and_allowed_cores_are_used_but_what_is_said_comes_first(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5})
    for quota, cores in ((None, 6), (2, 2), (64, 6)):
        monkeypatch.setattr(machine, "quota", lambda quota=quota: quota)
        assert machine.bound() == machine.cores() == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setattr(machine, "quota", lambda: 2)
    assert machine.cores() == 5


# ------------------------------------------------------------------ pipes and terminals


@pytest.mark.parametrize("option", ["--list", "--dry-run", "--status"])
def test_a_reader_that_has_gone_is_no_error(option, tmp_path):
    (tmp_path / "runs/smoke/digits/seed0").mkdir(parents=True)
    reader, writer = os.pipe()
    os.close(reader)
    out = subprocess.run(call(option), stdout=writer, stderr=subprocess.PIPE, env=environment(tmp_path), timeout=120)
    os.close(writer)
    assert (out.returncode, out.stderr) == (141, b"")


@pytest.mark.parametrize("options", [["--list"], ["--dry-run"], ["--status"], ["--status", "--profile", "x"]])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_output_that_the_shell_has_closed_is_no_error(closed, options, tmp_path):
    command = f"{shlex.join(map(str, call(*options)))} {closed}"
    out = subprocess.run(["sh", "-c", command], capture_output=True, env=environment(tmp_path), timeout=120)
    assert out.returncode == (2 if "x" in options else 0), out.stderr
    assert out.stderr.count(b"\n") == ("x" in options and "2" not in closed)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_whose_reader_goes_ends_with_all_that_it_started(jobs, tmp_path):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(tmp_path)}
    driver = subprocess.Popen(call("--until", "teacher", "--jobs", jobs), **options)
    driver.stdout.readline()
    driver.stdout.close()
    assert driver.wait(300) == 141
    assert driver.stderr.read() == b""
    driver.stderr.close()
    wait_for(lambda: not kernels(tmp_path), "no kernel is left", 10)
    assert not list(tmp_path.rglob(".driver-*"))


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "ascii", "LANG=C"],
)
def test_a_terminal_that_lacks_signs_shows_plain_ones(variables, tmp_path):
    (tmp_path / "runs/smoke/digits/seed0").mkdir(parents=True)
    out = subprocess.run(call("--status"), capture_output=True, env=environment(tmp_path, **variables), timeout=120)
    assert (out.returncode, out.stderr) == (0, b"")
    assert b"| digits  | 0    | missing |" in out.stdout
    assert out.stdout.isascii()

    if "LC_ALL" not in variables:  # in that locale such a name is no text at all, and refused
        options = call("--status", "--runs-dir", tmp_path / "κλ")
        out = subprocess.run(options, capture_output=True, env=environment(tmp_path, **variables), timeout=120)
        assert (out.returncode, out.stderr) == (0, b"")
        assert b"no run of profile smoke in " in out.stdout
        assert b"\\u03ba\\u03bb" in out.stdout


# ------------------------------------------------------------------ the folder's name


@pytest.mark.parametrize("name", ["my repo (new)", 'it\'s "mine"', "$HOME #1; true"])
def test_make_works_in_a_folder_of_any_name(name, tmp_path):
    """With stand-ins for Python and the environment, which write down how they are called."""
    folder = tmp_path / name
    folder.mkdir()
    for file in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, folder)
    shim = tmp_path / "python"  # `-m venv` makes another one
    shim.write_text(
        '#!/bin/sh\necho "$PWD|$0|$*" >> "$CALLS"\n'
        'if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi\n'
    )
    shim.chmod(0o755)
    calls = tmp_path / "calls"
    env = {**os.environ, "CALLS": str(calls)}
    for target in ("figures", "test", "lab", "lint", "bench", "clear", "clean"):
        command = ["make", f"PYTHON={shim}", target, "ARGS=--any 'two words'"]
        out = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert out.returncode == 0, out.stdout + out.stderr
    seen = [line.split("|") for line in calls.read_text().splitlines()]
    assert {place for place, _, _ in seen} == {str(folder)}
    mine = [args for _, program, args in seen if program == ".venv/bin/python"]
    assert "run_all.py --any two words" in mine
    assert any(args == "-m pytest -n 2 --dist loadfile --no-loadscope-reorder --any two words" for args in mine)
    assert not (folder / ".venv").exists(), "clean removes the environment, and nothing else"
    assert (folder / "Makefile").exists()


def test_no_command_of_the_makefile_needs_a_script_with_a_path_in_its_first_line():
    text = (ROOT / "Makefile").read_text()
    assert "CURDIR" not in text
    assert {word for word in text.split() if word.startswith("$(BIN)/")} == {"$(BIN)/python"}
