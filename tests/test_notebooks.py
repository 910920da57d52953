"""Every notebook runs top to bottom with its defaults (digits, quick, live widgets), as a student would run it."""

import json
import os
import subprocess
import sys

import pytest

from kr_utils import runs, stages


@pytest.mark.slow
def test_all_notebooks_run_in_order_with_their_defaults(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(stages.ROOT), "JUPYTER_PREFER_ENV_PATH": "1"}
    # Those that run only when they are asked for need many runs of one notebook: tests/test_shadow.py
    asked = {stages.notebook(stage) for stage in stages.ON_REQUEST}
    notebooks = [path for path in sorted(stages.NOTEBOOKS.glob("*.ipynb")) if path.stem not in asked]
    call = [sys.executable, "-m", "pytest", "--nbval-lax", "-p", "no:cacheprovider", "-q", "--nbval-cell-timeout=600"]
    # Its own root and no configuration: this inner pytest checks notebooks only.
    call += ["-c", os.devnull, f"--rootdir={stages.ROOT}", *map(str, notebooks)]
    out = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=1800)
    assert out.returncode == 0, out.stdout[-6000:]
    cells = sum(cell["cell_type"] == "code" for path in notebooks for cell in json.loads(path.read_text())["cells"])
    assert f"{cells} passed" in out.stdout, "every code cell was run"

    found = runs.find(tmp_path / "runs", "quick")["digits", 0]
    assert set(found) == set(stages.USUAL) - {"compare"}
    real, student = found["teacher"].metrics, found["distillation"].metrics
    # One seed: real training had 97.7 and 98.2 %, the gap was +0.5 to -0.8 points; two below are other sums' luck.
    assert real["test_accuracy"] >= 0.957
    assert real["ensemble_test_accuracy"] >= real["test_accuracy"] - 0.005
    assert student["cas_gap"] >= -0.02
    assert student["ablation"]["textures"]["gap"] < student["cas_gap"] + 0.01, "1.9 points below it, over three seeds"
    assert student["teacher_agreement"] > 0.5, "synthetic digits look like their class (chance: 0.1)"
    control = found["membership"].metrics["positive_control"]
    assert control["auc_low"] > 0.5
    attacked = found["membership"].metrics
    assert attacked["copies_control"]["auc_low"] > 0.95
    assert attacked["with_copies"]["tpr_at_1pct_fpr"] > attacked["images"]["tpr_at_1pct_fpr"]
    assert attacked["nearer_than_any_test"] < 10, "50 copies would be 50; by chance 1.7"
    assert attacked["believed"], attacked["doubts"]
    assert attacked["images"]["auc_low"] > 0.55, "a Generator of 300 images knows them: 0.66 over three seeds"
    assert found["tuning"].metrics["val_cas"] > 0.9


@pytest.mark.slow
def test_a_notebook_out_of_order_says_which_one_to_run_first(tmp_path):
    call = [
        sys.executable,
        "-m",
        "papermill",
        "05_distillation.ipynb",
        str(tmp_path / "out.ipynb"),
        "--no-progress-bar",
    ]
    environment = {**os.environ, "PYTHONPATH": str(stages.ROOT)}
    out = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=stages.NOTEBOOKS, timeout=300)
    assert out.returncode != 0
    assert "needs the results of 01_teacher, 02_generator, 03_checkpoints and 04_tuning (digits, profile" in out.stderr
    assert f"--runs-dir {os.environ['KR_RUNS']} --until tuning" in out.stderr
