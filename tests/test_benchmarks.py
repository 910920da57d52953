"""The benchmarks run; what they measure is for people to read."""

import subprocess
import sys

import pytest

from kr_utils import stages

SCRIPT = stages.ROOT / "benchmarks/run.py"


def bench(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=900)


def test_an_unknown_case_is_refused():
    out = bench("--only", "nosuch")
    assert out.returncode == 2
    assert "unknown case 'nosuch'; choose from sampling, generator" in out.stderr


def test_what_people_wrote_around_a_table_stays(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import run

    path = tmp_path / "results.md"
    run.keep(path, "first")
    path.write_text(path.read_text().replace("# Benchmarks", "# Ours") + "why a goal is missed\n")
    run.keep(path, "second")
    assert path.read_text() == "# Ours\n\n<!-- table -->\nsecond\n<!-- /table -->\nwhy a goal is missed\n"


@pytest.mark.parametrize(("system", "told"), [("linux", 1.5 * 2**20), ("darwin", 1.5 * 2**30)])
def test_gigabytes_of_a_process_are_the_same_on_each_system(monkeypatch, system, told):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import run

    monkeypatch.setattr(sys, "platform", system)
    assert run.gigabytes(int(told)) == 1.5


@pytest.mark.slow
def test_a_case_prints_ratio_goal_hardware_and_writes_the_table(tmp_path):
    out = bench("--quick", "--only", "size,stage", "--out", str(tmp_path / "results.md"))
    assert out.returncode == 0, out.stderr
    table = (tmp_path / "results.md").read_text()
    assert table.count("\n| ") == 2 + 2, "header, rule, two rows"
    assert "threads: " in table
    assert "torch 2." in table
    for row in [line for line in table.splitlines() if line.startswith("| ")][-2:]:
        ratio = float(row.split("|")[3].split()[0])
        assert 0.1 < ratio < 10
