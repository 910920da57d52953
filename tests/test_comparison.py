"""Notebook 10 on made-up runs: its cells put together what the stages stored, and nothing of it is lost on the way."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ABLATION, finished_run

from kr_utils import results, results_file, runs, stages

CONTROLS = {"teacher_argmax": (5, 25), "hard_prior": (3, 27), "no_class": (5, 24), "real_images": (7, 27)}
KNOBS = {"guidance": 1.0, "steps": 2, "churn": 0.0, "threshold": 0.0, "few": 1, "temperature": 2.0, "hard_weight": 0.5}


def made_up(seed, ablation):
    """A finished run with the files that the figures read."""
    run = finished_run(seed, ablation)
    images = {"images": np.zeros((4, 1, 8, 8), np.uint8), "labels": np.array([0, 1, 0, 1])}
    scores = {"cas": 0.7, "cas_min": 0.6, "cas_max": 0.8, "step": 8.0, "cost": 2.0}
    scores |= {"val_loss": 0.5, "below": 0.0, "error": 0.02}
    stored = run["distillation"].npz
    run["start"].npz = lambda name: images
    run["distillation"].npz = lambda name: images if name == "synthetic.npz" else stored(name)
    run["checkpoints"].csv = lambda name: [scores]
    run["checkpoints"].metrics["checkpoint"] = 8
    run["tuning"].csv = lambda name: [scores | KNOBS | {"few": 0, "cost": 12.0, "cas": 0.6}, scores | KNOBS]
    run["tuning"].metrics["knobs"] = KNOBS
    return run


class Compare(SimpleNamespace):
    def finish(self, summary, outside):
        self.summary, self.outside = summary, outside
        return "stored"


def number_cells():
    notebook = json.loads((stages.NOTEBOOKS / "10_compare.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            yield "".join(cell["source"])


def test_the_comparison_shows_every_student_of_every_run(tmp_path, monkeypatch, capsys):
    found = {
        ("digits", 0): made_up(0, ABLATION | CONTROLS),
        ("digits", 1): made_up(1, ABLATION | CONTROLS | {"soft_regenerated": (7, 24)}),
        ("breastmnist", 0): made_up(2, ABLATION),  # its controls were switched off
    }
    for (name, _), run in found.items():
        run["start"].metrics["title"] = name
    stage = Compare(runs=found, left_out={("mnist", 0): "04_tuning is missing"}, found=None)
    monkeypatch.setattr(runs, "begin", lambda *_, **__: stage)

    place = {"profile": "smoke", "overrides": {}, "runs_dir": "", "figures_dir": str(tmp_path)}
    place |= {"interactive": False, "retrain": False}
    for code in number_cells():
        exec(code, place)
    out = capsys.readouterr().out
    assert "mnist, seed 0: left out, 04_tuning is missing" in out
    assert "Generator, profile smoke (images of the Generator instead of random textures" in out
    assert "a leak is claimed from random halves only" in out
    assert out.endswith("done: stored\n")

    # The table, and what was drawn of it
    text = results_file.load(tmp_path / "smoke/results.csv", "smoke")
    table = results.parsed(text)
    assert len(table) == 2 * (2 + len(ABLATION | CONTROLS)) + 2 + len(ABLATION)
    assert results.section(table) == (tmp_path / "smoke/results.md").read_text()
    gap = 100 * results.mean_of(table[table.dataset == "digits"], "gkd", "gap")
    assert gap == pytest.approx(-3.75)
    assert f"soft, regenerated (GKD) {gap:+.1f} [" in (tmp_path / "smoke/ablation.txt").read_text()
    assert re.search(r"softness, profile smoke [^:]+: [^:]+: [^:]+ digits\.", out), "breastmnist has no such Student"
    assert re.search(r"Generator, profile smoke [^:]+: [^:]+: [^:]+ breastmnist, digits\.", out)
    alt = (tmp_path / "smoke/brings.txt").read_text()
    sizes = "(breastmnist: 1 seed, 40 test images; digits: 2 seeds, 40 test images)"
    assert sizes in alt
    breast, digits = alt.replace(sizes, "").split("; ")
    assert "Generator +7.5 [" in breast
    assert "softness" not in breast
    assert "softness +1.2 [" in digits
    assert "real ensemble: breastmnist 82.5 [" in (tmp_path / "smoke/cas.txt").read_text()
    assert (
        (tmp_path / "smoke/tuning-digits.txt")
        .read_text()
        .endswith("; chosen: guidance 1, 2 steps of the few-step Generator.\n")
    )
    assert {"smoke/brings.png", "smoke/results.csv"} <= set(stage.summary["figures"])
