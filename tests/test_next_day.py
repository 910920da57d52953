"""The next day: a finished result is found, read back and left as it is, unless it is stale or retrain is True."""

import json
import subprocess

import nbformat
import numpy as np
import papermill
import pytest
import torch
from conftest import ROOT, call, environment

from kr_utils import InputError, beside, classifier, parameters, profiles, recycling, resume, runs, sampling, stages
from kr_utils.runs import copies
from kr_utils.runs.identity import fingerprint

WHERE = {"checksum": "c" * 64, "dataset": "digits", "profile": "smoke", "seed": 0}
STEPS = 3


def open_stage(stage="teacher", retrain=False, **overrides):
    return runs.begin(stage, profiles.budget(stage, "smoke", overrides), **WHERE, retrain=retrain)


def work(stage, digits):
    """A stage as a notebook makes it: one training, its weights, a number. Returns the epochs that were computed."""
    model, epochs = classifier.build(10, 1, 8, 8, seed=0), []
    recipe = classifier.Recipe(width=8, depth=8, batch=256, lr=0.1, weight_decay=5e-4)
    training, state = classifier.Training(recipe, STEPS, classifier.Augmentation(1)), stage.state("teacher")
    small = type(digits.val)(digits.val.images, digits.val.labels)
    history = classifier.fit(model, lambda e: epochs.append(e) or small, small, training, seed=0, state=state)
    classifier.save(model, stage.file("teacher-0.safetensors"))
    stage.finish({"loss": history[-1]["train_loss"], "weights": next(model.parameters()).sum().item()})
    return sorted(set(epochs))


@pytest.fixture
def finished(digits):
    assert work(open_stage(), digits) == list(range(STEPS)), "nothing was found, so it was trained"
    return runs.stage_dir(runs.runs_root(), "smoke", "digits", 0, "teacher")


def files(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def executed(folder):
    """An executed copy beside the result, as the driver leaves it."""
    done = runs.read(folder)
    copies.at_work(folder).write_text(json.dumps(nbformat.v4.new_notebook()))
    copies.keep(done, {})
    assert copies.told(runs.read(folder)) == ""


def test_a_finished_result_is_read_back_and_left_as_it_is(finished, digits, capsys):
    executed(finished)
    before = files(finished)
    stage = open_stage()
    assert stage.found
    assert work(stage, digits) == [0], "only the size of the first set was asked for: nothing was trained"
    assert files(finished) == before
    assert not list(finished.parent.glob("*.partial"))
    out = capsys.readouterr().out
    assert "teacher: is trained already" in out
    assert "found, made on" in out
    assert "differ" not in out, "what is read back gives the very same numbers"


def test_retrain_trains_and_keeps_the_executed_copy_where_all_comes_out_as_it_was(finished, digits):
    executed(finished)
    stage = open_stage(retrain=True)
    assert stage.found is None
    assert work(stage, digits) == list(range(STEPS))
    assert copies.told(runs.read(finished)) == "", "the same files: the copy still shows how they were made"


def test_another_result_does_not_keep_the_copy_of_the_old_one(finished):
    executed(finished)
    stage = open_stage(retrain=True)
    stage.finish({"loss": 1.0})
    assert "is missing" in copies.told(runs.read(finished))


def test_a_stale_result_is_made_again_and_the_reason_told(finished, digits, capsys):
    stage = open_stage(epochs=7)
    assert stage.found is None
    assert "what is stored is stale (epochs 2 -> 7)" in capsys.readouterr().out


def test_a_result_of_other_code_or_data_is_not_found(finished, monkeypatch, capsys):
    monkeypatch.setitem(WHERE, "checksum", "d" * 64)
    assert open_stage().found is None
    assert "the data changed" in capsys.readouterr().out


def test_what_is_trained_on_a_gpu_is_read_back_on_a_laptop():
    packed = resume._pack({"weights": torch.ones(2)}, tensors := {})
    packed["dict"][0][1]["device"] = "cuda"
    if not torch.cuda.is_available():
        assert resume._unpack(packed, tensors)["weights"].device.type == "cpu"


def test_a_training_that_other_cells_asked_for_is_not_read_back(finished, tmp_path):
    path = finished / "trainings.safetensors"
    code, state = fingerprint({"cells": []}), resume.State(tmp_path / "state", "key")
    assert not resume.lay_out(path, "teacher", "other code", state, 1.0)
    assert not resume.lay_out(path, "no such training", code, state, 1.0)
    assert not (tmp_path / "state").exists()
    assert resume.lay_out(path, "teacher", code, state, 1.0)


def test_no_optimiser_and_no_random_number_is_kept(finished):
    from safetensors import safe_open

    with safe_open(finished / "trainings.safetensors", "pt") as file:
        kept = json.loads(file.metadata()["trainings"])["teacher"]["ended"]["."]
    parts = dict(dict(kept["dict"])["parts"]["dict"])
    assert set(parts) == {"model"}


def test_an_artefact_is_handed_out_where_the_training_did_not_write_it(finished):
    stage = open_stage()
    assert stage.file("teacher-0.safetensors").read_bytes() == (finished / "teacher-0.safetensors").read_bytes()
    assert not stage.file("new.json").exists()


# ------------------------------------------------------------------ drawn sets, side by side, scores


EPOCHS = 6  # of two each, so that there are three sets


def draw(stage, tiny_generator, keep):
    """A stage that draws what Students will see, trains none, and looks at the first two sets again."""
    own = {"seed": 0, "period": 2, "state": stage.state("stream"), "keep": keep}
    stream = recycling.SyntheticStream(tiny_generator, recycling.Knobs(steps=2), [4] * 10, **own)
    with beside.Workers({"streams": {"gkd": stream}}) as team:
        recycling.draw_beside(team, EPOCHS)
    drawn = [stream(epoch).images for epoch in (0, 2)]
    stage.finish({"sets": len(stream.accepted), "mean": drawn[0].float().mean().item()})
    return stream, drawn


@pytest.mark.parametrize("keep", [True, False])
def test_drawn_sets_are_read_back_and_only_the_first_are_stored(keep, tiny_generator, monkeypatch, capsys):
    stream, drawn = draw(open_stage(), tiny_generator, keep)
    folder = runs.stage_dir(runs.runs_root(), "smoke", "digits", 0, "teacher")
    stored = (folder / "trainings.safetensors").stat().st_size
    assert 2 * drawn[0].numel() < stored < 3 * drawn[0].numel() + 4000, "two of three sets, and the sets' figures"

    # The next day, with two threads and nothing to draw with
    monkeypatch.setattr(sampling, "sample", lambda *_, **__: pytest.fail("an image was drawn again"))
    monkeypatch.setattr(beside.Workers, "_side_by_side", lambda *_: pytest.fail("a process was started"))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again, same = draw(open_stage(), tiny_generator, keep)
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, drawn, same))
    assert (again.accepted, again.draws) == (stream.accepted, stream.draws)
    assert "differ" not in capsys.readouterr().out


def test_trainings_side_by_side_are_read_back_without_a_process(digits, monkeypatch):
    small = type(digits.val)(digits.val.images[:64], digits.val.labels[:64])
    recipe = classifier.Recipe(width=8, depth=8, batch=32, lr=0.1, weight_decay=5e-4)
    how = classifier.Training(recipe, 2, classifier.Augmentation(1))
    fits = {f"teacher {k}": beside.Fit((10, 1, 8, 8), k, small, how) for k in range(2)}

    def both(stage):
        with beside.Workers({"fits": fits, "val": small}) as team:
            done = beside.train(team, state=stage.state("teachers"))
        stage.finish({"loss": [history[-1]["train_loss"] for _, history in done.values()]})
        return {name: model.state_dict() for name, (model, _) in done.items()}

    first = both(open_stage())
    monkeypatch.setattr(beside.Workers, "_side_by_side", lambda *_: pytest.fail("a process was started"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    again = both(open_stage())
    assert all(resume.alike(again[name], first[name]) for name in fits)
    assert all(torch.equal(again[name][key], value) for name in fits for key, value in first[name].items())


def test_scores_are_computed_once(finished):
    made = {"real": {"loss": np.linspace(0, 1, 6).reshape(2, 3), "lira": None}, "rows": [{"auc": np.float64(0.5)}]}
    calls = []
    for _ in range(2):
        stage = open_stage("generator")
        found = stage.once("scores", lambda: calls.append(1) or made)
        assert found["real"]["lira"] is None
        np.testing.assert_array_equal(found["real"]["loss"], made["real"]["loss"])
        assert found["rows"] == [{"auc": 0.5}]
        stage.finish({})
    assert len(calls) == 1


@pytest.mark.slow
def test_notebooks_that_train_side_by_side_open_in_seconds(tmp_path, monkeypatch):
    """01, 04 and 05 of a finished run: nothing is trained, searched or drawn, and what is stored stays as it is."""
    command = call("--until", "distillation", "--threads", "1")
    subprocess.run(command, check=True, env=environment(tmp_path, OMP_NUM_THREADS="1"), cwd=tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for stage in ("teacher", "tuning", "distillation"):
        folder = runs.stage_dir(runs.runs_root(), "smoke", "digits", 0, stage)
        name, before = stages.notebook(stage), files(folder)
        given = {"dataset": "digits", "profile": "smoke", "seed": 0, "interactive": False}
        shown = papermill.execute_notebook(
            stages.NOTEBOOKS / f"{name}.ipynb", tmp_path / "out.ipynb", given, kernel_name="python3", progress_bar=False
        )
        every = [cell for cell in shown.cells if cell.cell_type == "code"]
        text = "".join(output.get("text", "") for cell in every for output in cell.outputs)
        assert "found, made on" in text, name
        assert "last digits differ" not in text, name
        for line in (" epoch ", "few-step step", "again here"):
            assert line not in text, (name, line)
        slow = {cell.source[:40]: cell.metadata.papermill.duration for cell in every if "import " not in cell.source}
        assert max(slow.values()) < 20, slow
        assert files(folder) == before


# ------------------------------------------------------------------ settings.toml


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A settings.toml of its own: a function that writes it."""
    monkeypatch.setattr(stages, "NOTEBOOKS", tmp_path)
    return lambda text: (tmp_path / "settings.toml").write_text(text)


def cell(**more):
    """The variables of a notebook's first cell as it is committed."""
    open_ = {"dataset": "", "profile": "", "seed": -1, "overrides": {}, "data_root": "", "runs_dir": ""}
    return {**open_, "interactive": True, "retrain": False, **more}


def test_what_a_cell_leaves_open_comes_from_the_file_of_the_session(session):
    session('dataset = "breastmnist"\nseed = 3\nruns_dir = "here"')
    values = cell(profile="laptop")
    told = parameters.fill(values)
    expected = {"dataset": "breastmnist", "profile": "laptop", "seed": 3, "data_root": "", "runs_dir": "here"}
    assert told == expected | {"retrain": False}
    assert values == cell(**expected)


def test_a_value_in_the_cell_comes_before_the_file_and_the_driver_does_not_read_it(session):
    session('dataset = "breastmnist"\nseed = 3')
    assert parameters.fill(cell(dataset="digits", seed=0))["dataset"] == "digits"
    assert parameters.fill(cell(seed=0))["seed"] == 0
    given = parameters.fill(cell(interactive=False))
    assert (given["dataset"], given["seed"]) == ("digits", 0)


def test_without_a_file_or_with_an_empty_one_the_usual_values_hold(session):
    for text in (None, "", 'dataset = ""'):
        if text is not None:
            session(text)
        given = parameters.fill(cell())
        assert (given["dataset"], given["profile"], given["seed"]) == ("digits", "quick", 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dataset = digits", "cannot be read"),
        ("dataset = 3", "dataset is '3'; give a text in quotes"),
        ('seed = "one"', "seed is 'one'; give a whole number"),
        ("seed = true", "seed is 'True'; give a whole number"),
        ("seed = -5", "seed is '-5'; give a whole number from 0"),
        ('epochs = "5"', "'epochs' is no setting; there are: dataset, profile, seed"),
        ("runs_dir = 1", "runs_dir is '1'; give a text in quotes"),
        ("\x00", "cannot be read"),
    ],
)
def test_a_wrong_settings_file_is_refused_in_one_line(session, text, words):
    session(text)
    with pytest.raises(InputError) as error:
        parameters.fill(cell())
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_file_in_the_repository_says_the_usual_values():
    assert parameters.settings() == {"dataset": "digits", "profile": "quick", "seed": 0}
    for name in parameters.USUAL:
        assert f"\n{name} = " in (stages.NOTEBOOKS / parameters.SETTINGS).read_text()
